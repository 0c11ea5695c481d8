package ticks_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/continuity"
	"github.com/keyledger/keyledger/relay/ticks"
)

// world is a ledger and the servers on it.
type world struct {
	t      *testing.T
	id     events.LedgerID
	ledger *memory.Ledger
	signer note.Signer
	facts  int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, id: events.LedgerID(newID(t))}
	w.ledger = memory.New(w.id)
	secret, key, err := note.GenerateKey(rand.Reader, "keyledger")
	if err != nil {
		t.Fatal(err)
	}
	if w.signer, err = note.NewSigner(secret); err != nil {
		t.Fatal(err)
	}
	w.append(events.InstallationSubject(), events.InstallationCreated{Ledger: w.id, Epoch: 1}, 1)
	w.append(events.InstallationSubject(), events.InstallationSignerAdded{Name: "keyledger", VerifierKey: key}, 2)
	return w
}

func newID(t *testing.T) uuid.UUID {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (w *world) append(subject events.Subject, e events.Event, revision events.Revision) {
	w.t.Helper()
	_, err := w.ledger.Append(w.t.Context(), []events.Entry{{Subject: subject, Event: e, Meta: events.Meta{
		ID: events.EventID(newID(w.t)), Ledger: w.id, Time: events.TimeOf(time.Now()), Revision: revision,
		Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(newID(w.t)),
	}}})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) add(org events.OrgID) {
	w.t.Helper()
	w.facts++
	id := events.WorkspaceID(fmt.Sprintf("w%d", w.facts))
	w.append(events.WorkspaceSubject(org, id), events.WorkspaceCreated{ID: id, Name: events.ClearText("w")}, 1)
}

func (w *world) issue(name events.CredentialName, label events.ScopeLabel, staleness int, orgs ...events.OrgID) {
	w.t.Helper()
	w.append(events.CredentialSubject(name), events.CredentialIssued{
		Name: name, For: events.CredentialVerifier, Organizations: orgs, Account: "A", Scope: label, MaxStaleness: staleness,
	}, 1)
}

// ticks returns every tick so far.
func (w *world) ticks() []events.Recorded {
	w.t.Helper()
	facts, err := w.ledger.Load(w.t.Context(), events.TickSubject(), 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return facts
}

// source is what a server reads: the ledger, or what of it gets through.
type source struct {
	*memory.Ledger
	only []events.OrgID // none is all
	cut  atomic.Bool
	hole atomic.Bool   // swallows the next fact of an organization
	off  time.Duration // how far the broker's clock is ahead
}

func (s *source) Follow(ctx context.Context, after events.Position, apply func([]events.Recorded) error) error {
	return s.Ledger.Follow(ctx, after, func(facts []events.Recorded) error {
		if s.cut.Load() {
			<-ctx.Done()
			return ctx.Err()
		}
		var through []events.Recorded
		for _, f := range facts {
			f.Stored = f.Stored.Add(s.off)
			open := len(s.only) == 0 || slices.Contains(s.only, f.Subject.Org) || f.Subject == events.TickSubject() || f.Subject == events.InstallationSubject()
			if f.Subject.Org != events.System && open && s.hole.CompareAndSwap(true, false) {
				continue
			}
			if open {
				through = append(through, f)
			}
		}
		if len(through) == 0 {
			return nil
		}
		return apply(through)
	})
}

// server is a reader of the ledger, that makes ticks if it sees all of it.
type server struct {
	*projections.Runner
	source     *source
	continuity *continuity.View
	ticker     *ticks.Ticker
	appender   ticks.Appender
	stop       func()
}

func (w *world) run(s *server, c continuity.Config) *server {
	w.t.Helper()
	if s.source == nil {
		s.source = &source{}
	}
	s.source.Ledger, s.source.only = w.ledger, c.Organizations
	c.Ledger = w.id
	var err error
	if s.continuity, err = continuity.New(c); err != nil {
		w.t.Fatal(err)
	}
	if s.Runner, err = projections.NewRunner(projections.Config{
		Source: s.source, View: s.continuity, Filtered: len(c.Organizations) > 0, Proven: s.continuity.Proven,
	}); err != nil {
		w.t.Fatal(err)
	}
	if s.appender == nil {
		s.appender = ticks.AppenderFunc(w.tick)
	}
	if s.ticker, err = ticks.New(ticks.Config{
		Continuity: s.continuity, Ready: s.Ready(), Fresh: s.Fresh, WaitFor: s.WaitFor,
		Signer: w.signer, Appender: s.appender, MaxStaleness: 30 * time.Second,
	}); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	if len(c.Organizations) == 0 {
		running.Go(func() { s.ticker.Run(ctx) })
	}
	s.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	w.t.Cleanup(s.stop)
	return s
}

func (w *world) tick(ctx context.Context, t events.Tick, before events.Position, revision events.Revision) (events.Recorded, error) {
	// A broker takes some time, in which others try the same.
	time.Sleep(5 * time.Millisecond)
	return commands.Tick(ctx, w.ledger, w.id, t, before, revision)
}

func (w *world) server() *server {
	w.t.Helper()
	return w.run(&server{}, continuity.Config{})
}

func (w *world) narrowed(label events.ScopeLabel, orgs ...events.OrgID) *server {
	w.t.Helper()
	return w.run(&server{}, continuity.Config{Scope: label, Organizations: orgs})
}

// age is how old a server's knowledge is.
func (s *server) age() time.Duration {
	if f := s.Fresh(); !f.IsZero() {
		return time.Since(f)
	}
	return -1
}

// watch looks at something for a while, once a second.
func watch(d time.Duration, f func()) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		f()
		time.Sleep(time.Second)
	}
}

func inBubble(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) })
}

func TestOneOfThreeServersTicks(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		servers := []*server{w.server(), w.server(), w.server()}
		time.Sleep(time.Second)
		const hours = 2
		watch(hours*time.Hour, func() {
			for i, s := range servers {
				if age := s.age(); age < 0 || age > 11*time.Second+50*time.Millisecond {
					t.Fatalf("server %d is as old as %s", i, age)
				}
			}
		})
		found := w.ticks()
		if n := len(found); n > hours*360+1 || n < hours*360*9/10 {
			t.Errorf("%d ticks in %d hours, want one every 10 s", n, hours)
		}
		var sum ticks.Stats
		for i, s := range servers {
			stats := s.ticker.Stats()
			t.Logf("server %d: %+v", i, stats)
			if stats.Appended == 0 {
				t.Errorf("server %d never came first", i)
			}
			sum.Appended += stats.Appended
			sum.Lost += stats.Lost
			if s.continuity.Faults() != 0 || stats.Failed != 0 {
				t.Errorf("server %d: %d faults, %d failed", i, s.continuity.Faults(), stats.Failed)
			}
		}
		if sum.Appended != uint64(len(found)) {
			t.Errorf("%d ticks and %d of them somebody's", len(found), sum.Appended)
		}
		for i := 1; i < len(found); i++ {
			if since := found[i].Stored - found[i-1].Stored; since < events.Time(9_990_000) {
				t.Fatalf("ticks %d and %d are %d µs apart", i, i+1, since)
			}
		}
		// One stops, and nobody has to be told.
		servers[0].stop()
		servers[1].stop()
		watch(time.Minute, func() {
			if age := servers[2].age(); age > 12*time.Second {
				t.Fatalf("the last one is as old as %s", age)
			}
		})
	})
}

func TestIdleLedgerIsFreshAtOnceAfterAStart(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		for range 3 {
			time.Sleep(24 * time.Hour)
			s := w.server()
			<-s.Ready()
			time.Sleep(100 * time.Millisecond)
			if age := s.age(); age < 0 || age > 100*time.Millisecond {
				t.Errorf("as old as %s", age)
			}
			s.stop()
		}
		if n := len(w.ticks()); n != 3 {
			t.Errorf("%d ticks", n)
		}
		// What is fresh already needs none.
		s := w.server()
		time.Sleep(time.Second)
		if n := len(w.ticks()); n != 3 || s.age() < 0 {
			t.Errorf("%d ticks", n)
		}
	})
}

func TestBusyLedgerNeedsNoTicks(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.server()
		watch(10*time.Minute, func() { w.add("acme") })
		if n := len(w.ticks()); n != 0 {
			t.Errorf("%d ticks", n)
		}
		// Unless somebody sees a part of it.
		w.issue("edge-1", "s1", 0, "globex")
		r := w.narrowed("s1", "globex")
		time.Sleep(2 * time.Second)
		before := len(w.ticks())
		if before != 1 {
			t.Errorf("%d ticks for a new reader", before)
		}
		watch(10*time.Minute, func() {
			w.add("acme")
			if age := r.age(); age < 0 || age > 23*time.Second {
				t.Fatalf("a narrowed reader is as old as %s", age)
			}
		})
		if n := len(w.ticks()) - before; n < 54 || n > 60 {
			t.Errorf("%d ticks in ten minutes", n)
		}
		if scopes := told(w.ticks()); scopes != 1 {
			t.Errorf("a scope that never changed was told of %d times", scopes)
		}
	})
}

func told(ticks []events.Recorded) int {
	n := 0
	for _, f := range ticks {
		n += len(f.Event.(events.Tick).Scopes)
	}
	return n
}

func TestSmallestBoundShortensTheInterval(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s := w.server()
		count := func(d time.Duration) int {
			before := len(w.ticks())
			time.Sleep(d)
			return len(w.ticks()) - before
		}
		if n := count(10 * time.Minute); n < 54 || n > 60 {
			t.Errorf("%d ticks in ten minutes", n)
		}
		w.issue("edge-1", "", 6)
		if n := count(10 * time.Minute); n < 540/2 || n > 300 || s.ticker.Interval() != 2*time.Second {
			t.Errorf("%d ticks in ten minutes with a bound of 6 s, every %s", n, s.ticker.Interval())
		}
		// A long one does not make it longer, a tiny one no shorter than the least.
		w.issue("edge-2", "", 3600)
		w.append(events.CredentialSubject("edge-1"), events.CredentialRevoked{}, 2)
		if n := count(10 * time.Minute); n < 54 || n > 61 {
			t.Errorf("%d ticks in ten minutes with a bound of an hour", n)
		}
		w.issue("edge-3", "", 1)
		if n := count(10 * time.Minute); n > 600 || s.ticker.Interval() != ticks.MinInterval {
			t.Errorf("%d ticks in ten minutes with a bound of 1 s", n)
		}
	})
}

// TestLedgerThatTakesNoTicks: they are tried at a bounded rate, everybody grows
// stale, and the first one that gets through makes up for all.
func TestLedgerThatTakesNoTicks(t *testing.T) {
	for name, refusal := range map[string]error{
		"unavailable": events.ErrUnavailable, "unknown": events.ErrOutcomeUnknown, "conflict": events.ErrConflict,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				var tried atomic.Int64
				var works atomic.Bool
				s := w.run(&server{appender: ticks.AppenderFunc(func(ctx context.Context, tick events.Tick, before events.Position, revision events.Revision) (events.Recorded, error) {
					tried.Add(1)
					if !works.Load() {
						return events.Recorded{}, fmt.Errorf("%w: no", refusal)
					}
					return w.tick(ctx, tick, before, revision)
				})}, continuity.Config{})
				time.Sleep(10 * time.Minute)
				if age := s.age(); age < 10*time.Minute {
					t.Errorf("as old as %s", age)
				}
				if n := tried.Load(); n < 50 || n > 600 {
					t.Errorf("tried %d times in ten minutes", n)
				}
				works.Store(true)
				time.Sleep(12 * time.Second)
				if age := s.age(); age > 12*time.Second {
					t.Errorf("as old as %s", age)
				}
			})
		})
	}
}

// TestLostAnswer: whether a tick was stored is seen by reading.
func TestLostAnswer(t *testing.T) {
	for _, stored := range []bool{true, false} {
		t.Run(fmt.Sprint(stored), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				s := w.server()
				time.Sleep(15 * time.Second)
				for range 20 {
					w.ledger.FailNext(events.ErrOutcomeUnknown, stored)
					time.Sleep(20 * time.Second)
					if age := s.age(); age < 0 || age > 14*time.Second {
						t.Fatalf("as old as %s", age)
					}
				}
				if s.continuity.Faults() != 0 || s.ticker.Stats().Failed < 20 {
					t.Errorf("%d faults, %+v", s.continuity.Faults(), s.ticker.Stats())
				}
			})
		})
	}
}

// TestServerThatIsCutOffGrowsStale while others tick, and says so of itself.
func TestServerThatIsCutOffGrowsStale(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		good, cut := w.server(), w.server()
		time.Sleep(time.Minute)
		cut.source.cut.Store(true)
		time.Sleep(time.Minute)
		if age := good.age(); age < 0 || age > 12*time.Second {
			t.Errorf("who is not cut off is as old as %s", age)
		}
		if age := cut.age(); age < 50*time.Second {
			t.Errorf("who is cut off is as old as %s", age)
		}
		// It goes on trying, once an interval at most, and is met by conflicts.
		if n := cut.ticker.Stats(); n.Lost > 61 || n.Lost == 0 {
			t.Errorf("%+v", n)
		}
	})
}

func TestHoleOfANarrowedReader(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.server()
		w.issue("edge-1", "s1", 0, "globex")
		r := w.narrowed("s1", "globex")
		w.add("globex")
		time.Sleep(time.Minute)
		if age := r.age(); age < 0 || age > 12*time.Second {
			t.Fatalf("as old as %s", age)
		}
		r.source.hole.Store(true)
		w.add("globex")
		time.Sleep(12 * time.Second)
		if age := r.age(); age != -1 || !errors.Is(r.continuity.Err(), continuity.ErrDisagrees) {
			t.Fatalf("as old as %s with a hole: %v", age, r.continuity.Err())
		}
		watch(time.Minute, func() {
			w.add("globex")
			if age := r.age(); age != -1 {
				t.Fatalf("as old as %s with a hole", age)
			}
		})
	})
}

func TestManyScopesAreToldInOneTurn(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const n = 2*events.MaxTickScopes + 50
		for i := range n {
			w.issue(events.CredentialName(fmt.Sprintf("v%d", i)), events.ScopeLabel(fmt.Sprintf("%032x", i)), 0, events.OrgID(fmt.Sprintf("org%d", i)))
		}
		w.server()
		first := w.narrowed(events.ScopeLabel(fmt.Sprintf("%032x", 0)), "org0")
		last := w.narrowed(events.ScopeLabel(fmt.Sprintf("%032x", n-1)), events.OrgID(fmt.Sprintf("org%d", n-1)))
		time.Sleep(time.Second)
		if got := len(w.ticks()); got != 3 {
			t.Errorf("%d ticks", got)
		}
		for _, r := range []*server{first, last} {
			if age := r.age(); age < 0 || age > time.Second {
				t.Errorf("as old as %s", age)
			}
		}
	})
}

func TestClockOfTheBrokerIsCompared(t *testing.T) {
	for _, off := range []time.Duration{0, 3 * time.Second, -4 * time.Second, -time.Hour, time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				s := w.run(&server{source: &source{off: off}}, continuity.Config{})
				time.Sleep(10 * time.Minute)
				if got := s.ticker.Stats().Clock; got.Round(100*time.Millisecond) != off {
					t.Errorf("compared as %s", got)
				}
				// However wrong it is, ticks come no faster than one an interval.
				if n := len(w.ticks()); n > 62 {
					t.Errorf("%d ticks in ten minutes", n)
				}
			})
		})
	}
}

func TestConfigTellsEveryFault(t *testing.T) {
	_, err := ticks.New(ticks.Config{})
	if joined, ok := err.(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) != 5 {
		t.Fatalf("got %v", err)
	}
}

// TestLostAnswerIsNotWaitedForTooLong: the broker's leader goes with a tick, and its answer never comes.
func TestLostAnswerIsNotWaitedForTooLong(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const bound = 15 * time.Second
		w.issue("edge", "", int(bound/time.Second))
		var lose atomic.Bool
		s := w.run(&server{appender: ticks.AppenderFunc(func(ctx context.Context, tick events.Tick, before events.Position, revision events.Revision) (events.Recorded, error) {
			if !lose.CompareAndSwap(true, false) {
				return w.tick(ctx, tick, before, revision)
			}
			// As long as an append waits for its answer at most.
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			<-ctx.Done()
			return events.Recorded{}, events.ErrOutcomeUnknown
		})}, continuity.Config{})
		time.Sleep(time.Second)
		for range 100 {
			lose.Store(true)
			watch(20*time.Second, func() {
				if age := s.age(); age < 0 || age > bound {
					t.Fatalf("its knowledge is %s old", age)
				}
			})
		}
		if s.ticker.Stats().Failed == 0 {
			t.Error("no answer was lost")
		}
	})
}
