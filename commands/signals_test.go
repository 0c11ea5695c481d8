package commands_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/events"
)

// labels is what an installation labels with.
func labels(secret string) func(*commands.Config) {
	return func(c *commands.Config) {
		c.Label = func(parts ...string) ([32]byte, error) {
			mac := hmac.New(sha256.New, []byte(secret))
			for _, p := range parts {
				fmt.Fprintf(mac, "%d %s", len(p), p)
			}
			return [32]byte(mac.Sum(nil)), nil
		}
	}
}

// signals are the signals of a key that the ledger holds.
func (w *world) signals(id events.KeyID) (sources []events.KeyNewSource, spikes []events.KeyDenialsSpike) {
	w.Helper()
	for _, f := range w.all() {
		if found, _ := f.Subject.Key(); found != id {
			continue
		}
		switch e := f.Event.(type) {
		case events.KeyNewSource:
			sources = append(sources, e)
		case events.KeyDenialsSpike:
			spikes = append(spikes, e)
		default:
			continue
		}
		if f.Meta.Actor != (events.Actor{Type: events.ActorSystem, Name: "signals"}) || f.Meta.ConfigPosition == 0 || f.Meta.Command[6]>>4 != 8 {
			w.Errorf("told by %s under %d as %s", f.Meta.Actor, f.Meta.ConfigPosition, f.Meta.Command)
		}
	}
	return sources, spikes
}

func seen(source string) commands.Seen {
	return commands.Seen{At: 1_795_240_000_000_000, Code: events.CodeValid, Verifier: "edge-1", By: events.SourceClientIP, Source: source}
}

// Any number of servers see the same source, at once and later, and it is told once;
// the ledger does not tell which it was.
func TestNoteSource(t *testing.T) {
	w := newWorld(t)
	s, other := w.server(labels("secret")), w.server(labels("secret"))
	w.acme(s, events.Limits{})
	id, second := w.create(s, acme, plain()).Key.ID, w.create(s, acme, plain()).Key.ID
	if err := other.await(w.ctx, w.last()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, server := range []*server{s, other} {
		for i := range 12 {
			wg.Go(func() {
				if _, err := server.NoteSource(w.ctx, acme, id, seen(fmt.Sprint("10.0.0.", i%3))); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	third := w.server(labels("secret"))
	out, err := third.NoteSource(w.ctx, acme, id, seen("10.0.0.1"))
	if err != nil || !out.Replayed || len(out.Facts) != 1 {
		t.Errorf("again: %+v, %v", out, err)
	}
	if _, err := third.NoteSource(w.ctx, acme, second, seen("10.0.0.1")); err != nil {
		t.Error(err)
	}
	sources, _ := w.signals(id)
	of, _ := w.signals(second)
	all := map[events.SourceLabel]bool{}
	for _, e := range append(sources, of...) {
		all[e.Source] = true
		if len(e.Source) != 32 || strings.Trim(string(e.Source), "0123456789abcdef") != "" {
			t.Errorf("the label %q", e.Source)
		}
	}
	if len(sources) != 3 || len(of) != 1 || len(all) != 4 {
		t.Errorf("%v and %v", sources, of)
	}
	if sources[0].By != events.SourceClientIP || sources[0].Verifier != "edge-1" || sources[0].Code != events.CodeValid || sources[0].At != seen("").At {
		t.Errorf("%+v", sources[0])
	}
	// The id of a command is no way to try sources out either.
	for _, f := range w.all() {
		if _, ok := f.Event.(events.KeyNewSource); ok && strings.HasPrefix(strings.ReplaceAll(f.Meta.Command.String(), "-", ""), string(f.Event.(events.KeyNewSource).Source)[:8]) {
			t.Error("the command's id begins as the label does")
		}
	}
}

func TestNoteSpike(t *testing.T) {
	w := newWorld(t)
	s, other := w.server(labels("secret")), w.server(labels("secret"))
	w.acme(s, events.Limits{})
	id := w.create(s, acme, plain()).Key.ID
	if err := other.await(w.ctx, w.last()); err != nil {
		t.Fatal(err)
	}
	from := events.TimeOf(w.now()) / 60_000_000 * 60_000_000
	at := func(d time.Duration) events.Time { return from.Add(d) }
	if out, next, err := s.NoteSpike(w.ctx, acme, id, from, 19); err != nil || len(out.Facts) != 0 || next != 0 {
		t.Fatalf("%+v, %d, %v", out, next, err)
	}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			_, next, err := []*server{s, other}[i%2].NoteSpike(w.ctx, acme, id, from, 20+i)
			if err != nil || next != at(events.SpikeEvery) {
				t.Errorf("%d, %v", next, err)
			}
		})
	}
	wg.Wait()
	if _, spikes := w.signals(id); len(spikes) != 1 || spikes[0].From != from || spikes[0].Denials < 20 || spikes[0].Threshold != 20 {
		t.Fatalf("%v", spikes)
	}
	for after, want := range map[time.Duration]int{-time.Hour: 1, time.Minute: 1, 59 * time.Minute: 1} {
		if _, next, err := other.NoteSpike(w.ctx, acme, id, at(after), 99); err != nil || next != at(events.SpikeEvery) {
			t.Errorf("%d, %v", next, err)
		}
		if _, spikes := w.signals(id); len(spikes) != want {
			t.Errorf("after %s: %v", after, spikes)
		}
	}
	if _, err := s.RevokeKey(w.ctx, w.by(w.owner), acme, id, false); err != nil {
		t.Fatal(err)
	}
	if _, next, err := s.NoteSpike(w.ctx, acme, id, at(2*time.Hour), 99); err != nil || next != at(day) {
		t.Errorf("%d, %v", next, err)
	}
	if _, next, err := s.NoteSpike(w.ctx, acme, id, at(day), 99); err != nil || next != at(2*day) {
		t.Errorf("%d, %v", next, err)
	}
	if _, spikes := w.signals(id); len(spikes) != 2 {
		t.Errorf("%v", spikes)
	}
	if k, err := s.Key(w.ctx, acme, id); err != nil || k.Status(events.TimeOf(w.now())) != events.StatusRevoked {
		t.Errorf("%+v, %v", k, err)
	}
}

// What nobody wants to be told is not told, and what cannot be labeled neither.
func TestUnwantedSignals(t *testing.T) {
	w := newWorld(t)
	s, unlabeled := w.server(labels("secret")), w.server()
	w.acme(s, events.Limits{})
	id := w.create(s, acme, plain()).Key.ID
	off := events.Signals{NewSource: events.SwitchOff, DenialsSpike: events.SwitchOff}
	out, err := s.UpdateOrganization(w.ctx, w.by(w.owner), acme, organization.Update{Signals: domain.Some(off)})
	if err != nil || len(out.Facts) == 0 {
		t.Fatal(err)
	}
	if err := unlabeled.await(w.ctx, w.last()); err != nil {
		t.Fatal(err)
	}
	before := w.last()
	if out, err := s.NoteSource(w.ctx, acme, id, seen("10.0.0.1")); err != nil || len(out.Facts) != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	if out, _, err := s.NoteSpike(w.ctx, acme, id, events.TimeOf(w.now()), 99); err != nil || len(out.Facts) != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	if _, err := s.NoteSource(w.ctx, acme, events.KeyID{9}, seen("10.0.0.1")); err != nil {
		t.Errorf("no such key: %v", err)
	}
	if _, err := unlabeled.NoteSource(w.ctx, acme, id, seen("10.0.0.1")); !errors.Is(err, commands.ErrNoLabel) {
		t.Error(err)
	}
	if _, _, err := unlabeled.NoteSpike(w.ctx, acme, id, 1, 99); !errors.Is(err, commands.ErrNoLabel) {
		t.Error(err)
	}
	if w.last() != before {
		t.Error("something was appended")
	}
}
