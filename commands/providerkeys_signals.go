package commands

import (
	"context"
	"encoding/hex"
	"slices"
	"strconv"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/providerkey"
	"github.com/keyledger/keyledger/events"
)

// ProviderSeen is a resolve of a provider key, and where it came from, in clear.
type ProviderSeen struct {
	At events.Time
	// By is the management key that resolved it.
	By     events.KeyID
	Source string
}

// NoteProviderSource records that a provider key was resolved from where it never was
// before, if its organization wants to know. Any number of servers may see the same
// source, at any time; one of them records it, once.
func (s *Service) NoteProviderSource(ctx context.Context, org events.OrgID, id events.ProviderID, seen ProviderSeen) (Outcome, error) {
	label, err := s.label("provider source", string(org), string(id), seen.Source)
	if err != nil {
		return Outcome{}, err
	}
	source := events.SourceLabel(hex.EncodeToString(label[:16]))
	// Sources are never taken back, so that what was read at any time tells enough.
	if known := s.folded.get(events.ProviderKeySubject(org, id)); slices.Contains(known.Sources, source) || len(known.Sources) >= events.MaxProviderSources {
		return Outcome{Position: known.Position}, nil
	}
	o, err := s.signal("note provider source", string(org), string(id), seen.Source)
	if err != nil {
		return Outcome{}, err
	}
	out, _, err := s.noteProvider(ctx, o, org, id, func(signals events.Signals) providerkey.Command {
		return providerkey.NoteSource{Signals: signals, At: seen.At, By: seen.By, Source: source}
	})
	return out, err
}

// NoteProviderSpike records that there were that many resolves of a provider key within
// the minute that begins then, if its organization takes that for a spike and none was
// told of lately. It returns from which minute on one can be told of next, 0 for any.
// Any number of servers may try.
func (s *Service) NoteProviderSpike(ctx context.Context, org events.OrgID, id events.ProviderID, from events.Time, resolves int) (out Outcome, next events.Time, err error) {
	o, err := s.signal("note provider spike", string(org), string(id), strconv.FormatInt(int64(from), 10))
	if err != nil {
		return Outcome{}, 0, err
	}
	out, after, err := s.noteProvider(ctx, o, org, id, func(signals events.Signals) providerkey.Command {
		return providerkey.NoteSpike{Signals: signals, From: from, Resolves: resolves}
	})
	return out, after.NextSpike(), err
}

// NoteProviderFailing records that attempts to resolve a provider key failed
// repeatedly within an hour, unless it was told lately. It returns from when on that
// can be told of next, 0 for any time. Any number of servers may try.
func (s *Service) NoteProviderFailing(ctx context.Context, org events.OrgID, id events.ProviderID, f events.ProviderKeyFailing) (out Outcome, next events.Time, err error) {
	o, err := s.signal("note provider failing", string(org), string(id), string(f.Of), strconv.FormatInt(int64(f.Since), 10))
	if err != nil {
		return Outcome{}, 0, err
	}
	out, after, err := s.noteProvider(ctx, o, org, id, func(events.Signals) providerkey.Command {
		return providerkey.NoteFailing{Failing: f}
	})
	return out, after.NextFailing(), err
}

// noteProvider carries out what was seen of a provider key, and returns the key after
// it. Whoever ended an organization, or runs it with what this version does not
// understand, is told nothing.
func (s *Service) noteProvider(ctx context.Context, o order, org events.OrgID, id events.ProviderID, command func(events.Signals) providerkey.Command) (Outcome, ProviderKey, error) {
	if _, err := events.ParseProviderID(string(id)); err != nil {
		return Outcome{}, ProviderKey{}, domain.RefuseID("provider")
	}
	o.under = org
	subject := events.ProviderKeySubject(org, id)
	var k ProviderKey
	out, err := s.settle(ctx, o, func(ctx context.Context) (a attempt, err error) {
		k, a, err = s.attemptProviderKey(ctx, o, subject, func(k ProviderKey) ([]events.Event, error) {
			own, doubtful := s.cfg.Configuration.standing(org)
			if !own.Live() || doubtful {
				return nil, nil
			}
			return providerkey.Decide(k.State, command(own.Policy.Signals))
		})
		return a, err
	})
	if err != nil {
		return Outcome{}, ProviderKey{}, err
	}
	return out, k.after(out), nil
}
