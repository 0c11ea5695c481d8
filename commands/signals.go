package commands

import (
	"context"
	"encoding/hex"
	"errors"
	"strconv"

	"github.com/keyledger/keyledger/domain/configuration"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/events"
)

// ErrNoLabel says that this service labels nothing, so that it can note nothing of
// what has to be labeled.
var ErrNoLabel = errors.New("commands: config: Label is needed for signals")

// Seen is a use of a key, and where it came from, in clear.
type Seen struct {
	At       events.Time
	Code     events.Code
	Verifier events.VerifierID
	By       events.SourceKind
	Source   string
}

// NoteSource records that a key was used from a source that it never was used from
// before, if its organization wants to know. It is this program's own wish: any
// number of servers may see the same source, at any time; one of them records it,
// once. Nobody waits for it.
func (s *Service) NoteSource(ctx context.Context, org events.OrgID, id events.KeyID, seen Seen) (Outcome, error) {
	label, err := s.label("source", string(org), id.String(), string(seen.By), seen.Source)
	if err != nil {
		return Outcome{}, err
	}
	o, err := s.signal("note source", string(org), id.String(), string(seen.By), seen.Source)
	if err != nil {
		return Outcome{}, err
	}
	out, _, err := s.note(ctx, o, org, id, func(_ Key, config configuration.State) key.Command {
		return key.NoteSource{Now: o.now, Config: config, Use: events.KeyNewSource{
			At: seen.At, Code: seen.Code, Verifier: seen.Verifier, By: seen.By, Source: events.SourceLabel(hex.EncodeToString(label[:16])),
		}}
	})
	return out, err
}

// NoteSpike records that there were that many denials of a key within the minute
// that begins then, if its organization takes that for a spike and none was told of
// lately. It returns from which minute on one can be told of next, 0 for any. Any
// number of servers may try.
func (s *Service) NoteSpike(ctx context.Context, org events.OrgID, id events.KeyID, from events.Time, denials int) (out Outcome, next events.Time, err error) {
	o, err := s.signal("note spike", string(org), id.String(), strconv.FormatInt(int64(from), 10))
	if err != nil {
		return Outcome{}, 0, err
	}
	out, after, err := s.note(ctx, o, org, id, func(_ Key, config configuration.State) key.Command {
		return key.NoteSpike{Now: o.now, Config: config, From: from, Denials: denials}
	})
	return out, after.NextSpike(o.now), err
}

// signal makes a wish ready whose command follows from what it is about, so that
// whoever repeats it, here or elsewhere, meets its first outcome. What it is about
// is labeled: a command's id is for everybody who reads the ledger, and what it was
// made of could be guessed.
func (s *Service) signal(about ...string) (order, error) {
	o, err := s.order(Wish{Principal: Principal{Actor: events.Actor{Type: events.ActorSystem, Name: "signals"}}}, "")
	if err != nil {
		return o, err
	}
	label, err := s.label(about...)
	o.command = events.CommandID(label[:16])
	o.command[6] = o.command[6]&0x0f | 0x80
	o.command[8] = o.command[8]&0x3f | 0x80
	return o, err
}

func (s *Service) label(parts ...string) ([32]byte, error) {
	if s.cfg.Label == nil {
		return [32]byte{}, ErrNoLabel
	}
	return s.cfg.Label(parts...)
}

// note carries out what was seen of a key, or its passing time asks for, and returns the key after it.
func (s *Service) note(ctx context.Context, o order, org events.OrgID, id events.KeyID, command func(Key, configuration.State) key.Command) (Outcome, Key, error) {
	o.under = org
	var k loadedKey
	out, err := s.settle(ctx, o, func(ctx context.Context) (attempt, error) {
		var err error
		if k, err = s.loadKey(ctx, org, id); err != nil {
			return attempt{}, err
		}
		a, err := k.attempt(org, o)
		if err != nil || len(a.done) > 0 {
			return a, err
		}
		var config configuration.State
		config, a.config = s.cfg.Configuration.Of(org)
		facts, err := key.Decide(k.State, command(k.Key, config))
		for _, e := range facts {
			a.facts = append(a.facts, placed{subject: events.KeySubject(org, id), event: e})
		}
		return a, err
	})
	if err != nil {
		return Outcome{}, Key{}, err
	}
	return out, k.after(out), nil
}
