package datakeys_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/wrapping"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/relay/datakeys"
)

const (
	acme   = events.OrgID("acme")
	globex = events.OrgID("globex")
	openai = events.ProviderOpenAI
)

var _ projections.View = (*datakeys.Keeper)(nil)

// world is a ledger's facts with its data keys, and any number of servers on them.
type world struct {
	testing.TB
	store *memory.Ledger
	ring  wrapping.Ring

	mu    sync.Mutex
	facts []events.Recorded
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{TB: t, store: memory.New(events.LedgerID{1})}
	w.ring = wrapping.Ring{Primary: w.kek()}
	return w
}

// kek draws a key-encryption key.
func (w *world) kek() wrapping.Key {
	w.Helper()
	key, err := wrapping.NewKeyset()
	if err != nil {
		w.Fatal(err)
	}
	return key
}

func (w *world) envelopes() *seals.Envelopes {
	return seals.NewEnvelopes(w.ring, w.store, events.LedgerID{1})
}

// sealed draws a data key, which lies in the store.
func (w *world) sealed(org events.OrgID, version uint64) events.SealedSecret {
	w.Helper()
	s, err := w.envelopes().Seal(w.Context(), seals.Binding{Org: org, Provider: openai, Version: version}, "sk-secret", "cret")
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// fact records a fact.
func (w *world) fact(subject events.Subject, e events.Event) events.Recorded {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := events.Recorded{Position: events.Position(len(w.facts) + 1), Subject: subject, Event: e}
	w.facts = append(w.facts, f)
	return f
}

func (w *world) added(org events.OrgID, version uint64) (events.DataKeyID, events.Recorded) {
	w.Helper()
	s := w.sealed(org, version)
	return s.DataKey, w.fact(events.ProviderKeySubject(org, openai), events.ProviderKeyAdded{Provider: openai, Version: version, Sealed: s})
}

func (w *world) replaced(org events.OrgID, version uint64, before events.DataKeyID) (events.DataKeyID, events.Recorded) {
	w.Helper()
	s := w.sealed(org, version)
	return s.DataKey, w.fact(events.ProviderKeySubject(org, openai), events.ProviderKeyReplaced{Version: version, Sealed: s, Replaces: before})
}

func (w *world) removed(org events.OrgID, id events.DataKeyID) events.Recorded {
	return w.fact(events.ProviderKeySubject(org, openai), events.ProviderKeyRemoved{DataKey: id})
}

func (w *world) last(context.Context) (events.Position, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return events.Position(len(w.facts)), nil
}

// server follows what it is told.
type server struct {
	*datakeys.Keeper
	w         *world
	envelopes *seals.Envelopes
	ready     chan struct{}
	heard     int
	stop      func()
}

// server starts one that has heard nothing. change changes its configuration.
func (w *world) server(t *testing.T, change func(*datakeys.Config)) *server {
	t.Helper()
	s := &server{w: w, envelopes: w.envelopes(), ready: make(chan struct{})}
	cfg := datakeys.Config{
		Envelopes: s.envelopes, Ready: s.ready, Last: w.last, Logger: slog.New(slog.DiscardHandler),
		Destroy: func(ctx context.Context, _ events.OrgID, _ events.ProviderID, ids []events.DataKeyID) (bool, error) {
			return s.envelopes.Destroy(ctx, ids[0])
		},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if s.Keeper, err = datakeys.New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { s.Run(ctx) })
	s.stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	t.Cleanup(s.stop)
	return s
}

// hears has a server hear what it has not heard.
func (s *server) hears() {
	s.w.Helper()
	s.w.mu.Lock()
	news := slices.Clone(s.w.facts[s.heard:])
	s.w.mu.Unlock()
	if len(news) == 0 {
		return
	}
	if err := s.Apply(s.w.Context(), news); err != nil {
		s.w.Fatal(err)
	}
	s.heard += len(news)
}

// starts has it hear all there is, and be ready.
func (s *server) starts() {
	s.w.Helper()
	s.hears()
	close(s.ready)
}

// held are the data keys that are there.
func (w *world) held() map[events.DataKeyID]bool {
	w.Helper()
	list, err := w.envelopes().All(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	out := map[events.DataKeyID]bool{}
	for _, d := range list {
		out[d.ID] = true
	}
	return out
}

// holds fails unless exactly these are there.
func (w *world) holds(want ...events.DataKeyID) {
	w.Helper()
	got := w.held()
	for _, id := range want {
		if !got[id] {
			w.Errorf("%s is gone", id)
		}
		delete(got, id)
	}
	for id := range got {
		w.Errorf("%s is still there", id)
	}
}

// Whoever recorded that secrets are replaced or removed, or that an organization has
// ended, is gone: a server that starts finishes it, and touches none that is in use.
func TestTheDeadAreDestroyedAtAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first, _ := w.added(acme, 1)
		second, _ := w.replaced(acme, 2, first)
		w.removed(acme, second)
		third, _ := w.added(acme, 3)
		other, _ := w.added(globex, 1)
		ended, _ := w.added("initech", 1)
		w.fact(events.EndSubject("initech"), events.OrganizationDeleted{})
		late, _ := w.replaced("initech", 2, ended) // it was on its way
		w.holds(first, second, third, other, ended, late)
		s := w.server(t, nil)
		time.Sleep(time.Minute)
		w.holds(first, second, third, other, ended, late) // it has not heard of anything
		s.starts()
		time.Sleep(time.Minute)
		w.holds(third, other)
		if got := s.Stats(); got != (datakeys.Stats{Current: 2, Destroyed: 4}) {
			t.Errorf("%+v", got)
		}
	})
}

// What dies while servers run is destroyed soon, by one of them, and forgotten by all
// before the fact counts as applied.
func TestTheDeadAreDestroyedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		sealed := w.sealed(acme, 1)
		first := sealed.DataKey
		w.fact(events.ProviderKeySubject(acme, openai), events.ProviderKeyAdded{Provider: openai, Version: 1, Sealed: sealed})
		other, _ := w.added(globex, 1)
		one, two := w.server(t, nil), w.server(t, nil)
		one.starts()
		two.starts()
		time.Sleep(time.Minute)
		of := seals.Binding{Org: acme, Provider: openai, Version: 1}
		if text, err := two.envelopes.OpenLastFour(t.Context(), of, sealed); err != nil || text != "cret" {
			t.Fatal(text, err)
		}
		second, _ := w.replaced(acme, 2, first)
		one.hears()
		time.Sleep(2 * time.Second)
		w.holds(second, other)
		if text, err := two.envelopes.OpenLastFour(t.Context(), of, sealed); err != nil || text != "cret" {
			t.Fatalf("it is not remembered: %q, %v", text, err)
		}
		two.hears()
		if _, err := two.envelopes.OpenLastFour(t.Context(), of, sealed); !errors.Is(err, seals.ErrErased) {
			t.Error(err)
		}
		w.fact(events.EndSubject(globex), events.OrganizationDeleted{})
		w.removed(acme, second)
		late, _ := w.replaced(globex, 2, other) // it was on its way
		w.holds(second, other, late)
		one.hears()
		two.hears()
		time.Sleep(2 * time.Second)
		w.holds()
		if a, b := one.Stats(), two.Stats(); a.Destroyed+b.Destroyed != 4 || a.Pending+b.Pending+a.Failed+b.Failed != 0 {
			t.Errorf("%+v, %+v", a, b)
		}
	})
}

// Data keys that no fact names are destroyed once a server has seen that for an hour,
// and not by one that has not heard of all there is, or does not understand it.
func TestTheLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		mine, _ := w.added(acme, 1)
		lost := w.sealed(acme, 2).DataKey
		time.Sleep(48 * time.Hour) // how old it is says nothing: a clock may be wrong
		s := w.server(t, nil)
		s.starts()
		time.Sleep(59 * time.Minute)
		w.holds(mine, lost)
		// A command that took its time names another before the hour is over.
		slow := w.sealed(globex, 1)
		time.Sleep(59 * time.Minute)
		w.fact(events.ProviderKeySubject(globex, openai), events.ProviderKeyAdded{Provider: openai, Version: 1, Sealed: slow})
		s.hears()
		time.Sleep(3 * time.Hour)
		w.holds(mine, slow.DataKey)
		if got := s.Stats(); got.Orphans != 1 || got.Destroyed != 1 || got.Failed != 0 {
			t.Errorf("%+v", got)
		}
		// Nobody told it of this one.
		next := w.sealed(acme, 2)
		w.fact(events.ProviderKeySubject(acme, openai), events.ProviderKeyReplaced{Version: 2, Sealed: next, Replaces: mine})
		time.Sleep(24 * time.Hour)
		w.holds(mine, slow.DataKey, next.DataKey)
		if got := s.Stats(); got.Failed == 0 {
			t.Errorf("%+v", got)
		}
		s.hears()
		time.Sleep(time.Hour)
		w.holds(slow.DataKey, next.DataKey)

		later := w.sealed(acme, 3).DataKey // as a later version of this program names it
		w.fact(events.ProviderKeySubject(acme, "openai"), events.Unknown{Name: "provider_key.replaced.v2"})
		s.hears()
		time.Sleep(24 * time.Hour)
		w.holds(slow.DataKey, next.DataKey, later)
	})
}

// Data keys are wrapped with what wraps today when a server starts, however many do at
// once, and what wrapped them before is needed no more.
func TestRewrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		before := w.ring.Primary
		var want []events.DataKeyID
		for i := range 20 {
			id, _ := w.added(events.OrgID("org-"+string(rune('a'+i))), 1)
			want = append(want, id)
		}
		gone, _ := w.added(acme, 1)
		w.removed(acme, gone)
		w.ring = wrapping.Ring{Primary: w.kek(), Others: []wrapping.Key{before}}
		one, two := w.server(t, nil), w.server(t, nil)
		one.starts()
		two.starts()
		time.Sleep(time.Minute)
		w.holds(want...)
		if a, b := one.Stats(), two.Stats(); a.Rewrapped+b.Rewrapped < 20 || a.Current != 20 || a.Old+b.Old != 0 || a.Failed+b.Failed != 0 {
			t.Errorf("%+v, %+v", a, b)
		}
		one.stop()
		two.stop()
		w.ring.Others = nil // what opened before is not needed any more
		s := w.server(t, nil)
		s.starts()
		time.Sleep(2 * time.Hour)
		if got := s.Stats(); got != (datakeys.Stats{Current: 20}) {
			t.Errorf("%+v", got)
		}
	})
}

// stubborn are envelopes that fail.
type stubborn struct {
	datakeys.Envelopes
	mu  sync.Mutex
	err map[events.DataKeyID]error
	all error
}

func (s *stubborn) set(id events.DataKeyID, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err[id] = err
}

func (s *stubborn) away(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = err
}

func (s *stubborn) fails(id events.DataKeyID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.all, s.err[id])
}

func (s *stubborn) All(ctx context.Context) ([]seals.DataKey, error) {
	if err := s.fails(events.DataKeyID{}); err != nil {
		return nil, err
	}
	return s.Envelopes.All(ctx)
}

func (s *stubborn) Rewrap(ctx context.Context, id events.DataKeyID) (bool, error) {
	if err := s.fails(id); err != nil {
		return false, err
	}
	return s.Envelopes.Rewrap(ctx, id)
}

// A data key that cannot be wrapped anew keeps none of the others, and is tried again;
// while data keys cannot be looked through, what dies is destroyed all the same.
func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		before := w.ring.Primary
		bad, _ := w.added(acme, 1)
		good, _ := w.added(globex, 1)
		w.ring = wrapping.Ring{Primary: w.kek(), Others: []wrapping.Key{before}}
		e := &stubborn{Envelopes: w.envelopes(), err: map[events.DataKeyID]error{bad: wrapping.ErrWrongKey}}
		away := false
		s := w.server(t, func(c *datakeys.Config) {
			c.Envelopes = e
			destroy := c.Destroy
			c.Destroy = func(ctx context.Context, org events.OrgID, provider events.ProviderID, ids []events.DataKeyID) (bool, error) {
				if away = !away; away {
					return false, events.ErrUnavailable
				}
				return destroy(ctx, org, provider, ids)
			}
		})
		s.starts()
		time.Sleep(time.Minute)
		if got := s.Stats(); got.Rewrapped != 1 || got.Current != 1 || got.Old != 1 || got.Failed == 0 {
			t.Errorf("%+v", got)
		}
		e.set(bad, nil)
		time.Sleep(10 * time.Minute)
		if got := s.Stats(); got.Rewrapped != 2 || got.Current != 2 || got.Old != 0 {
			t.Errorf("%+v", got)
		}
		e.away(events.ErrUnavailable)
		time.Sleep(2 * time.Hour)
		failed := s.Stats().Failed
		w.removed(acme, bad)
		s.hears()
		time.Sleep(10 * time.Second)
		if got := s.Stats(); got.Destroyed != 1 || got.Pending != 0 || got.Failed <= failed {
			t.Errorf("%+v", got)
		}
		w.holds(good)
	})
}

func TestConfig(t *testing.T) {
	_, err := datakeys.New(datakeys.Config{Every: -1})
	if err == nil || len(err.(interface{ Unwrap() []error }).Unwrap()) != 6 {
		t.Error(err)
	}
}
