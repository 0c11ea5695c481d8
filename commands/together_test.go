package commands

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
)

// gate is a ledger whose appends wait at a gate, and are counted.
type gate struct {
	*memory.Ledger
	open chan struct{} // one append passes for each value; closed, all do

	mu     sync.Mutex
	sizes  []int
	failed error // of the next AppendEach
	stored bool  // and whether it stores
}

func (g *gate) enter(n int) {
	g.mu.Lock()
	g.sizes = append(g.sizes, n)
	g.mu.Unlock()
	<-g.open
}

func (g *gate) Append(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	g.enter(len(entries))
	return g.Ledger.Append(ctx, entries)
}

func (g *gate) AppendEach(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	g.enter(len(entries))
	g.mu.Lock()
	failed, stored := g.failed, g.stored
	g.failed = nil
	g.mu.Unlock()
	if failed != nil && !stored {
		return nil, failed
	}
	facts, err := g.Ledger.AppendEach(ctx, entries)
	if failed != nil {
		return nil, failed
	}
	return facts, err
}

func newGate() (*gate, *together) {
	g := &gate{Ledger: memory.New(events.LedgerID{1}), open: make(chan struct{})}
	return g, newTogether(g)
}

func workspaceEntry(org events.OrgID, id string) events.Entry {
	s := events.WorkspaceSubject(org, events.WorkspaceID(id))
	return events.Entry{
		Subject: s, Event: events.WorkspaceCreated{ID: events.WorkspaceID(id), Name: events.ClearText("W")}, Expect: events.Expect(s, 0),
		Meta: events.Meta{
			ID: events.EventID(uuid.New()), Ledger: events.LedgerID{1}, Time: events.TimeOf(time.Now()), Revision: 1,
			Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(uuid.New()),
		},
	}
}

// outcomes are what callers got, by the order they came in.
type outcomes struct {
	wg    sync.WaitGroup
	facts [][]events.Recorded
	errs  []error
	ended []chan struct{}
}

func (o *outcomes) done(i int) bool {
	select {
	case <-o.ended[i]:
		return true
	default:
		return false
	}
}

// queue has a first caller publish alone, blocked at the gate, and the others
// wait behind it in this order.
func queue(t *testing.T, g *gate, tg *together, ctxs []context.Context, entries ...events.Entry) *outcomes {
	t.Helper()
	o := &outcomes{facts: make([][]events.Recorded, len(entries)), errs: make([]error, len(entries))}
	for i, e := range entries {
		ctx := t.Context()
		if i < len(ctxs) && ctxs[i] != nil {
			ctx = ctxs[i]
		}
		o.ended = append(o.ended, make(chan struct{}))
		ended := o.ended[i]
		o.wg.Go(func() {
			defer close(ended)
			o.facts[i], o.errs[i] = tg.append(ctx, e, always)
		})
		until(t, func() bool {
			tg.mu.Lock()
			defer tg.mu.Unlock()
			g.mu.Lock()
			defer g.mu.Unlock()
			l := tg.lines[e.Subject.Org]
			return l != nil && len(g.sizes) > 0 && len(l.waiting) == i
		})
	}
	return o
}

func until(t *testing.T, done func() bool) {
	t.Helper()
	for !done() {
		if t.Context().Err() != nil {
			t.Fatal("the test has ended")
		}
		time.Sleep(50 * time.Microsecond)
	}
}

func ids(n int) []events.Entry {
	out := make([]events.Entry, n)
	for i := range out {
		out[i] = workspaceEntry("acme", "w"+string(rune('a'+i)))
	}
	return out
}

func (g *gate) seen() []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sizes
}

func TestWhatWaitsGoesOutTogether(t *testing.T) {
	g, tg := newGate()
	o := queue(t, g, tg, nil, ids(20)...)
	close(g.open)
	o.wg.Wait()
	for i, facts := range o.facts {
		if o.errs[i] != nil || len(facts) != 1 || facts[0].Subject.ID != ids(20)[i].Subject.ID {
			t.Fatalf("caller %d got %v, %v", i, facts, o.errs[i])
		}
		if f := facts[0]; f.Meta.BatchSize != 0 || f.Meta.BatchIndex != 0 || f.Position != events.Position(i+1) {
			t.Errorf("fact %d stands at %d as %d of %d", i, f.Position, f.Meta.BatchIndex, f.Meta.BatchSize)
		}
	}
	if sizes := g.seen(); len(sizes) != 2 || sizes[0] != 1 || sizes[1] != 19 {
		t.Errorf("published as %v", sizes)
	}
	if len(tg.lines) != 0 {
		t.Error("an empty line is kept")
	}
}

func TestAConflictIsItsOwnersAlone(t *testing.T) {
	g, tg := newGate()
	entries := ids(8)
	entries[3].Expect.Last = 7
	o := queue(t, g, tg, nil, entries...)
	close(g.open)
	o.wg.Wait()
	for i, err := range o.errs {
		if (i == 3) != errors.Is(err, events.ErrConflict) || (i != 3) != (err == nil) {
			t.Errorf("caller %d: %v", i, err)
		}
	}
	if last, err := g.Last(t.Context()); err != nil || last != 7 {
		t.Errorf("%d facts, %v", last, err)
	}
}

// The same wish told twice at once meets itself on its own subject.
func TestTheSameWishGoesOutOnce(t *testing.T) {
	g, tg := newGate()
	entries := ids(8)
	entries[5] = entries[2]
	o := queue(t, g, tg, nil, entries...)
	close(g.open)
	o.wg.Wait()
	for i, err := range o.errs {
		if (i == 5) != errors.Is(err, events.ErrConflict) || (i != 5) != (err == nil) {
			t.Errorf("caller %d: %v", i, err)
		}
	}
}

func TestAnOutcomeIsEverybodys(t *testing.T) {
	for _, failed := range []error{events.ErrUnavailable, events.ErrOutcomeUnknown} {
		for _, stored := range []bool{false, true} {
			g, tg := newGate()
			g.failed, g.stored = failed, stored
			o := queue(t, g, tg, nil, ids(8)...)
			close(g.open)
			o.wg.Wait()
			if o.errs[0] != nil {
				t.Errorf("the first: %v", o.errs[0])
			}
			for i, err := range o.errs[1:] {
				if !errors.Is(err, failed) || o.facts[i+1] != nil {
					t.Errorf("caller %d: %v, %v", i+1, o.facts[i+1], err)
				}
			}
		}
	}
}

func TestWhoGivesUpWhileWaitingHasStoredNothing(t *testing.T) {
	g, tg := newGate()
	ctx, cancel := context.WithCancel(t.Context())
	o := queue(t, g, tg, []context.Context{2: ctx}, ids(8)...)
	cancel()
	until(t, func() bool {
		tg.mu.Lock()
		defer tg.mu.Unlock()
		return len(tg.lines["acme"].waiting) == 6
	})
	close(g.open)
	o.wg.Wait()
	for i, err := range o.errs {
		if (i == 2) != errors.Is(err, events.ErrUnavailable) || (i != 2) != (err == nil) {
			t.Errorf("caller %d: %v", i, err)
		}
	}
	if last, err := g.Last(t.Context()); err != nil || last != 7 {
		t.Errorf("%d facts, %v", last, err)
	}
}

func TestWhoGivesUpWhilePublishedDoesNotKnow(t *testing.T) {
	g, tg := newGate()
	lead, cancelLead := context.WithCancel(t.Context())
	follow, cancelFollow := context.WithCancel(t.Context())
	o := queue(t, g, tg, []context.Context{1: lead, 3: follow}, ids(8)...)
	g.open <- struct{}{}
	until(t, func() bool { return len(g.seen()) == 2 })
	// The second caller publishes for all by now: its end is not theirs.
	cancelLead()
	cancelFollow()
	until(t, func() bool { return o.done(3) })
	close(g.open)
	o.wg.Wait()
	for i, err := range o.errs {
		if (i == 3) != errors.Is(err, events.ErrOutcomeUnknown) || (i != 3) != (err == nil) {
			t.Errorf("caller %d: %v", i, err)
		}
	}
	if last, err := g.Last(t.Context()); err != nil || last != 8 {
		t.Errorf("%d facts, %v", last, err)
	}
}

// always is a principal that nothing happens to.
func always() error { return nil }

func TestOrganizationsDoNotWaitForEachOther(t *testing.T) {
	g, tg := newGate()
	var wg sync.WaitGroup
	for _, org := range []events.OrgID{"a", "b", "c"} {
		wg.Go(func() {
			if _, err := tg.append(t.Context(), workspaceEntry(org, "w"), always); err != nil {
				t.Error(err)
			}
		})
	}
	until(t, func() bool { return len(g.seen()) == 3 })
	close(g.open)
	wg.Wait()
}

// Many callers with little patience, and a ledger that fails now and then: all
// get an answer, and it is a true one.
func TestAnswersAreTrue(t *testing.T) {
	g, tg := newGate()
	close(g.open)
	var (
		wg sync.WaitGroup
		mu sync.Mutex
	)
	answers := map[events.Subject]error{}
	for i := range 600 {
		if i%50 == 0 {
			g.mu.Lock()
			g.failed, g.stored = events.ErrOutcomeUnknown, i%100 == 0
			g.mu.Unlock()
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%7+1)*200*time.Microsecond)
			defer cancel()
			e := workspaceEntry("acme", uuid.NewString())
			facts, err := tg.append(ctx, e, always)
			mu.Lock()
			defer mu.Unlock()
			answers[e.Subject] = err
			if err == nil && (len(facts) != 1 || facts[0].Subject != e.Subject) {
				t.Errorf("asked for %s, got %v", e.Subject, facts)
			}
		})
	}
	wg.Wait()
	for subject, err := range answers {
		_, found, readErr := g.Latest(context.Background(), subject)
		switch {
		case readErr != nil:
			t.Fatal(readErr)
		case err == nil && !found:
			t.Errorf("%s was answered and is not there", subject)
		case errors.Is(err, events.ErrUnavailable) && found:
			t.Errorf("%s was refused and is there", subject)
		case err != nil && !errors.Is(err, events.ErrUnavailable) && !errors.Is(err, events.ErrOutcomeUnknown):
			t.Error(err)
		}
	}
	if len(tg.lines) != 0 {
		t.Error("a line is kept")
	}
}
