package commands_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/domain/providerkey"
	"github.com/keyledger/keyledger/events"
)

func resolvedFrom(source string) commands.ProviderSeen {
	return commands.ProviderSeen{At: 1_795_240_000_000_000, By: events.KeyID{7}, Source: source}
}

// Any number of servers see the same source, and it is told once; the ledger does not
// tell which it was, nor that it is one of another provider's.
func TestNoteProviderSource(t *testing.T) {
	w := newProviderWorld(t)
	servers := []*server{w.opener(), w.opener(), w.opener()}
	w.acme(servers[0], events.Limits{})
	if out, err := servers[0].NoteProviderSource(w.ctx, acme, events.ProviderOpenAI, resolvedFrom("203.0.113.1")); err != nil || len(out.Facts) != 0 {
		t.Errorf("of none: %+v, %v", out, err)
	}
	w.add(servers[0], 1)
	var all sync.WaitGroup
	var told atomic.Int32
	for range 3 {
		for _, s := range servers {
			for n := range events.MaxProviderSources + 4 {
				all.Go(func() {
					out, err := s.NoteProviderSource(w.ctx, acme, events.ProviderOpenAI, resolvedFrom(fmt.Sprint("203.0.113.", n)))
					if err != nil {
						t.Error(err)
					}
					if !out.Replayed {
						told.Add(int32(len(out.Facts)))
					}
				})
			}
		}
	}
	all.Wait()
	labels, firsts := map[events.SourceLabel]bool{}, 0
	for _, f := range w.of(events.ProviderOpenAI) {
		e, ok := f.Event.(events.ProviderKeyNewSource)
		if !ok {
			continue
		}
		if labels[e.Source] || len(e.Source) != 32 || strings.Contains(string(f.Raw), "203.0.113.") || e.By != (events.KeyID{7}) {
			t.Errorf("%+v", e)
		}
		if labels[e.Source] = true; e.First {
			firsts++
		}
		if f.Meta.Actor != (events.Actor{Type: events.ActorSystem, Name: "signals"}) || f.Meta.ConfigPosition == 0 {
			t.Errorf("told by %s under %d", f.Meta.Actor, f.Meta.ConfigPosition)
		}
	}
	if len(labels) != events.MaxProviderSources || firsts != 1 || int(told.Load()) != len(labels) {
		t.Errorf("%d sources, %d of them first, %d told", len(labels), firsts, told.Load())
	}
	// Those that are known cost the ledger nothing.
	end := w.last()
	w.resolves(servers[0], 1, "")
	if out, err := servers[0].NoteProviderSource(w.ctx, acme, events.ProviderOpenAI, resolvedFrom("198.51.100.1")); err != nil || len(out.Facts) != 0 || w.last() != end {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestNoteProviderSourceIsSwitchedOff(t *testing.T) {
	w := newProviderWorld(t)
	s := w.opener()
	w.acme(s, events.Limits{})
	w.add(s, 1)
	if _, err := s.UpdateOrganization(w.ctx, w.by(w.owner), acme, organization.Update{NewSource: domain.Some(events.SwitchOff)}); err != nil {
		t.Fatal(err)
	}
	if out, err := s.NoteProviderSource(w.ctx, acme, events.ProviderOpenAI, resolvedFrom("a")); err != nil || len(out.Facts) != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	if _, err := w.server().NoteProviderSource(w.ctx, acme, events.ProviderOpenAI, resolvedFrom("a")); !errors.Is(err, commands.ErrNoLabel) {
		t.Errorf("%v", err)
	}
}

func TestNoteProviderSpikeAndFailing(t *testing.T) {
	w := newProviderWorld(t)
	servers := []*server{w.opener(), w.opener()}
	w.acme(servers[0], events.Limits{})
	w.add(servers[0], 1)
	minute := events.TimeOf(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC))
	spike := func(s *server, from events.Time, resolves int) (int, events.Time) {
		t.Helper()
		out, next, err := s.NoteProviderSpike(w.ctx, acme, events.ProviderOpenAI, from, resolves)
		if err != nil {
			t.Fatal(err)
		}
		if out.Replayed {
			return 0, next
		}
		return len(out.Facts), next
	}
	if n, next := spike(servers[0], minute, events.DefaultResolvesPerMinute-1); n != 0 || next != 0 {
		t.Errorf("%d, next %d", n, next)
	}
	later := minute.Add(events.SpikeEvery)
	for i, want := range []int{1, 0} {
		if n, next := spike(servers[i], minute, events.DefaultResolvesPerMinute+i); n != want || next != later {
			t.Errorf("%d, next %d, want %d, %d", n, next, want, later)
		}
	}
	if n, _ := spike(servers[1], later.Add(-time.Minute), 100_000); n != 0 {
		t.Error("told within the hour")
	}
	if n, _ := spike(servers[1], later, 100_000); n != 1 {
		t.Error("not told after the hour")
	}
	failing := events.ProviderKeyFailing{Of: events.FailingResolves, Since: minute, Failures: events.FailingResolvesPerHour, Code: "kek_missing"}
	for i, want := range []int{1, 0} {
		out, next, err := servers[i].NoteProviderFailing(w.ctx, acme, events.ProviderOpenAI, failing)
		if err != nil || next != later || !out.Replayed && len(out.Facts) != want {
			t.Errorf("%+v, %d, %v", out, next, err)
		}
	}
	var spikes, failings int
	for _, f := range w.of(events.ProviderOpenAI) {
		switch e := f.Event.(type) {
		case events.ProviderKeyResolvesSpike:
			spikes++
		case events.ProviderKeyFailing:
			if failings++; e != failing {
				t.Errorf("%+v", e)
			}
		default:
		}
	}
	if spikes != 2 || failings != 1 {
		t.Errorf("%d spikes, %d failings", spikes, failings)
	}
	if _, err := servers[0].DeleteOrganization(w.ctx, w.by(w.owner), acme); err != nil {
		t.Fatal(err)
	}
	if n, _ := spike(servers[0], later.Add(events.SpikeEvery), 100_000); n != 0 {
		t.Error("told of an organization that has ended")
	}
}

// The test that makes a row of failures is recorded with the fact that it is one, by
// whichever server it was asked.
func TestFailingProviderTests(t *testing.T) {
	w := newProviderWorld(t)
	servers := []*server{w.opener(), w.opener()}
	w.acme(servers[0], events.Limits{})
	w.add(servers[0], 1)
	for i := range events.FailingTestsInRow + 1 {
		out, err := servers[i%2].RecordProviderTest(w.ctx, w.by(admin), acme, events.ProviderOpenAI,
			providerkey.Test{Version: 1, At: events.Time(i + 1), Result: events.ProviderInvalid, Status: 401})
		want := 1
		if i == events.FailingTestsInRow-1 {
			want = 2
		}
		if err != nil || len(out.Facts) != want {
			t.Fatalf("test %d: %d facts, %v", i, len(out.Facts), err)
		}
		if want == 2 && out.Facts[1].Event != events.Event(events.ProviderKeyFailing{Of: events.FailingTests, Since: 1, Failures: 3, Code: "invalid"}) {
			t.Errorf("%+v", out.Facts[1].Event)
		}
	}
	w.replace(servers[0], 2)
	// Of the secret before nothing is told any more.
	out, err := servers[1].RecordProviderTest(w.ctx, w.by(admin), acme, events.ProviderOpenAI, providerkey.Test{Version: 1, At: 9, Result: events.ProviderWorks})
	if err != nil || len(out.Facts) != 0 || out.ProviderKey.Tested.Result != "" {
		t.Errorf("%+v, %v", out, err)
	}
}
