package projections_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/projections"
)

var _ projections.Source = (*memory.Ledger)(nil)

// ledger is a source in memory whose slices and words the test chooses.
type ledger struct {
	mu      sync.Mutex
	slices  [][]events.Recorded
	head    events.Position
	claimed events.Position // what Last says instead, if not 0
	err     error           // what Last fails with
	ended   error           // what Follow ends with after all slices
	more    chan struct{}
	off     time.Duration // how far its clock is ahead
}

func newLedger() *ledger { return &ledger{more: make(chan struct{})} }

func (l *ledger) append(sizes ...int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range sizes {
		slice := make([]events.Recorded, n)
		for i := range slice {
			l.head++
			slice[i] = events.Recorded{
				Position: l.head, Subject: events.OrganizationSubject("acme"), Stored: events.TimeOf(time.Now().Add(l.off)),
			}
			if n > 1 {
				slice[i].Meta.BatchIndex, slice[i].Meta.BatchSize = i+1, n
			}
		}
		l.slices = append(l.slices, slice)
	}
	close(l.more)
	l.more = make(chan struct{})
}

func (l *ledger) claim(head events.Position, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.claimed, l.err = head, err
}

func (l *ledger) Last(context.Context) (events.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.claimed != 0 {
		return l.claimed, l.err
	}
	return l.head, l.err
}

func (l *ledger) Follow(ctx context.Context, after events.Position, apply func([]events.Recorded) error) error {
	for i := 0; ; {
		l.mu.Lock()
		slices, more, ended := l.slices, l.more, l.ended
		l.mu.Unlock()
		for ; i < len(slices); i++ {
			if slices[i][0].Position <= after {
				continue
			}
			if err := apply(slices[i]); err != nil {
				return err
			}
		}
		if ended != nil {
			return ended
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		}
	}
}

// view counts, and fails where it is told to.
type view struct {
	name  string
	at    events.Position
	took  []events.Position
	fail  map[events.Position]error
	panic events.Position
	slow  time.Duration
}

func (v *view) Name() string { return v.name }

func (v *view) Position(context.Context) (events.Position, error) { return v.at, nil }

func (v *view) Apply(ctx context.Context, facts []events.Recorded) error {
	if v.slow > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(v.slow):
		}
	}
	for _, f := range facts {
		if f.Position == v.panic {
			panic("no")
		}
		if err := v.fail[f.Position]; err != nil {
			return projections.At(f, err)
		}
		v.took = append(v.took, f.Position)
		v.at = f.Position
	}
	return nil
}

// start runs a runner until the returned function, which returns Run's error.
func start(t *testing.T, l *ledger, v projections.View) (*projections.Runner, func() error) {
	t.Helper()
	r, err := projections.NewRunner(projections.Config{Source: l, View: v})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return r, func() error { cancel(); return <-done }
}

func TestReplayEndsAtTheHeadKnownAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.append(1, 3, 1)
		l.claim(7, nil) // two more facts than have arrived yet
		r, stop := start(t, l, &view{name: "v"})
		synctest.Wait()
		select {
		case <-r.Ready():
			t.Fatal("ready although two facts are missing")
		default:
		}
		// What was replayed is young, and yet the rest of it was known before.
		if got := r.Fresh(); !got.IsZero() {
			t.Fatalf("fresh as of %v while replaying", got)
		}
		if s := r.Status(); s.State != projections.StateReplaying || s.Applied != 5 || s.Goal != 7 {
			t.Fatalf("status while replaying: %+v", s)
		}
		l.append(2)
		<-r.Ready()
		l.append(1)
		if err := r.WaitFor(t.Context(), 8); err != nil {
			t.Fatal(err)
		}
		if s := r.Status(); s.State != projections.StateLive || s.Goal != 7 {
			t.Fatalf("status when live: %+v", s)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if err := r.Run(t.Context()); !errors.Is(err, projections.ErrUsed) {
			t.Fatalf("second run: %v", err)
		}
	})
}

func TestEmptyLedgerIsReadyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, stop := start(t, newLedger(), &view{name: "v"})
		<-r.Ready()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestFactThatIsNotNextStopsTheView(t *testing.T) {
	fact := func(pos events.Position, index, size int) events.Recorded {
		return events.Recorded{Position: pos, Meta: events.Meta{BatchIndex: index, BatchSize: size}}
	}
	for name, slices := range map[string][][]events.Recorded{
		"gap":        {{fact(1, 0, 0)}, {fact(3, 0, 0)}},
		"gap inside": {{fact(1, 0, 0), fact(3, 0, 0)}},
		"again":      {{fact(1, 0, 0)}, {fact(1, 0, 0)}},
		"torn":       {{fact(1, 1, 2)}, {fact(2, 2, 2)}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger()
			l.slices, l.head = slices, 9
			v := &view{name: "v"}
			r, err := projections.NewRunner(projections.Config{Source: l, View: v})
			if err != nil {
				t.Fatal(err)
			}
			err = r.Run(t.Context())
			if !errors.Is(err, projections.ErrOutOfOrder) || !errors.Is(err, events.ErrCorrupt) {
				t.Fatalf("got %v", err)
			}
			if s := r.Status(); s.State != projections.StateStopped || s.FailedAt == 0 || s.Err == nil {
				t.Fatalf("status: %+v", s)
			}
			if len(v.took) > 1 {
				t.Fatalf("applied %v", v.took)
			}
		})
	}
}

func TestStoppedViewLeavesOthersRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		l := newLedger()
		l.append(1, 1, 1)
		var runners []*projections.Runner
		views := []*view{{name: "fails", fail: map[events.Position]error{2: broken}}, {name: "panics", panic: 3}, {name: "good"}}
		for _, v := range views {
			r, err := projections.NewRunner(projections.Config{Source: l, View: v})
			if err != nil {
				t.Fatal(err)
			}
			runners = append(runners, r)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- projections.RunAll(ctx, runners...) }()
		if err := runners[0].WaitFor(t.Context(), 9); !errors.Is(err, projections.ErrStopped) || !errors.Is(err, broken) {
			t.Fatalf("waiting for a stopped view: %v", err)
		}
		if err := runners[1].WaitFor(t.Context(), 3); !errors.Is(err, projections.ErrPanicked) {
			t.Fatalf("waiting for a view that panicked: %v", err)
		}
		l.append(1)
		if err := runners[2].WaitFor(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		if s := runners[0].Status(); s.FailedAt != 2 || s.Applied != 1 {
			t.Fatalf("status: %+v", s)
		}
		if s := runners[1].Status(); s.FailedAt != 3 || s.Applied != 2 {
			t.Fatalf("status: %+v", s)
		}
		cancel()
		if err := <-done; !errors.Is(err, broken) || !errors.Is(err, projections.ErrPanicked) {
			t.Fatalf("what stopped them: %v", err)
		}
		if fmt.Sprint(views[0].took, views[2].took) != "[1] [1 2 3 4]" {
			t.Fatal(views[0].took, views[2].took)
		}
	})
}

// stubborn fails over the first fact once its context has ended.
type stubborn struct {
	view
	err error
}

func (s *stubborn) Apply(ctx context.Context, facts []events.Recorded) error {
	<-ctx.Done()
	if s.err == nil {
		return ctx.Err()
	}
	return projections.At(facts[0], s.err)
}

func TestFaultAtTheVeryEndStaysAFault(t *testing.T) {
	broken := errors.New("broken")
	for _, want := range []error{nil, broken} {
		l := newLedger()
		l.append(1)
		r, stop := start(t, l, &stubborn{view: view{name: "v"}, err: want})
		if err := stop(); !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
		if s := r.Status(); s.State != projections.StateStopped || (s.Err == nil) != (want == nil) {
			t.Fatalf("status: %+v", s)
		}
	}
}

func TestWhatCameBeforeTheFactCounts(t *testing.T) {
	l := newLedger()
	l.append(1)
	l.slices[0] = append(l.slices[0], events.Recorded{Position: 2}, events.Recorded{Position: 3}, events.Recorded{Position: 4})
	broken := errors.New("broken")
	r, err := projections.NewRunner(projections.Config{Source: l, View: &view{name: "v", fail: map[events.Position]error{3: broken}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if err := r.WaitFor(t.Context(), 2); err != nil {
		t.Fatalf("waiting for what is applied: %v", err)
	}
	if s := r.Status(); s.Applied != 2 || s.FailedAt != 3 {
		t.Fatalf("status: %+v", s)
	}
}

func TestSourceThatEndsStopsTheView(t *testing.T) {
	l := newLedger()
	l.ended = fmt.Errorf("block 3: %w", events.ErrCorrupt)
	r, err := projections.NewRunner(projections.Config{Source: l, View: &view{name: "v"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); !errors.Is(err, events.ErrCorrupt) {
		t.Fatalf("got %v", err)
	}
}

func TestViewAheadOfTheLedgerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.append(1)
		r, err := projections.NewRunner(projections.Config{Source: l, View: &view{name: "v", at: 5}})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Run(t.Context()); !errors.Is(err, projections.ErrAhead) {
			t.Fatalf("got %v", err)
		}
	})
}

func TestDeposedLeaderIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.append(1, 1, 1)
		l.claim(2, nil)
		r, stop := start(t, l, &view{name: "v", at: 3})
		time.Sleep(3 * time.Second)
		if s := r.Status(); s.State != projections.StateReplaying {
			t.Fatalf("status: %+v", s)
		}
		l.claim(0, nil)
		<-r.Ready()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestFreshnessIsTheTimeOfTheLastFact: the leader's word proves nothing.
func TestFreshnessIsTheTimeOfTheLastFact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		l.append(1)
		begin := time.Now()
		time.Sleep(time.Hour)
		r, stop := start(t, l, &view{name: "v", slow: 300 * time.Millisecond})
		synctest.Wait()
		if !r.Fresh().IsZero() {
			t.Fatal("fresh before anything was applied")
		}
		<-r.Ready()
		if got := r.Fresh(); !got.Equal(begin) {
			t.Fatalf("fresh as of %v after the first fact, want the fact's time", got.Sub(begin))
		}
		// The source answers, and says that there is nothing more.
		time.Sleep(time.Hour)
		if got := r.Fresh(); !got.Equal(begin) {
			t.Fatalf("fresh by the leader's word: as of %v later", got.Sub(begin))
		}
		stored := time.Now()
		l.append(1, 2)
		if err := r.WaitFor(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		if got := r.Fresh(); !got.Equal(stored) {
			t.Fatalf("fresh as of %v after the last fact", got.Sub(stored))
		}
		l.claim(1, events.ErrUnavailable)
		if _, err := r.Lag(t.Context()); !errors.Is(err, events.ErrUnavailable) {
			t.Fatalf("lag without a ledger: %v", err)
		}
		l.claim(14, nil)
		if lag, err := r.Lag(t.Context()); err != nil || lag != 10 {
			t.Fatalf("lag %d, %v", lag, err)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if got := r.Fresh(); !got.IsZero() {
			t.Fatalf("a view that has stopped is fresh as of %v", got)
		}
	})
}

func TestClockOfTheBroker(t *testing.T) {
	for name, c := range map[string]struct {
		off, fresh time.Duration // of now
		never      bool
	}{
		"agrees":            {},
		"a little behind":   {off: -time.Second, fresh: -time.Second},
		"far behind":        {off: -time.Hour, fresh: -time.Hour},
		"ahead":             {off: projections.ClockMargin},
		"ahead of any good": {off: projections.ClockMargin + time.Microsecond, never: true},
		"a year ahead":      {off: 365 * 24 * time.Hour, never: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger()
				l.off = c.off
				r, stop := start(t, l, &view{name: "v"})
				l.append(1)
				if err := r.WaitFor(t.Context(), 1); err != nil {
					t.Fatal(err)
				}
				fresh, now := r.Fresh(), time.Now()
				if fresh.IsZero() != c.never || !c.never && fresh.Sub(now) != c.fresh {
					t.Errorf("fresh as of %s", fresh.Sub(now))
				}
				if got := r.Status().ClockAhead; got != max(c.off, 0) {
					t.Errorf("told as %s ahead", got)
				}
				if got := r.Status().Late; got != max(-c.off, 0) {
					t.Errorf("told as %s late", got)
				}
				// A later fact of a better clock, or of a leader with a worse one.
				l.off = -time.Second
				l.append(1)
				if err := r.WaitFor(t.Context(), 2); err != nil {
					t.Fatal(err)
				}
				want := -time.Second
				if !c.never {
					want = max(want, c.fresh)
				}
				if got := r.Fresh().Sub(now); got != want {
					t.Errorf("then as of %s, want %s", got, want)
				}
				if err := stop(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// TestProofOfTheView: where not every fact is seen, no fact proves anything.
func TestProofOfTheView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		var at events.Time
		holds := true
		r, err := projections.NewRunner(projections.Config{Source: l, View: &view{name: "v"}, Filtered: true, Proven: func() (events.Time, bool) { return at, holds }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		next := func() {
			t.Helper()
			l.append(1)
			synctest.Wait()
		}
		if next(); !r.Fresh().IsZero() {
			t.Fatal("fresh without a proof")
		}
		begin := time.Now()
		at = events.TimeOf(begin)
		time.Sleep(time.Minute)
		if next(); !r.Fresh().Equal(begin) {
			t.Fatalf("fresh as of %s", r.Fresh())
		}
		holds = false
		if next(); !r.Fresh().IsZero() {
			t.Fatal("fresh although it does not hold any more")
		}
		holds = true
		if next(); !r.Fresh().Equal(begin) {
			t.Fatalf("fresh as of %s", r.Fresh())
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func TestFilteredSourceLeavesOut(t *testing.T) {
	fact := func(pos events.Position, org events.OrgID, index, size int) events.Recorded {
		return events.Recorded{Position: pos, Subject: events.OrganizationSubject(org), Meta: events.Meta{BatchIndex: index, BatchSize: size}}
	}
	for name, c := range map[string]struct {
		slices [][]events.Recorded
		want   error
	}{
		"gaps":                                   {[][]events.Recorded{{fact(2, "acme", 0, 0), fact(7, "acme", 0, 0)}, {fact(9, "acme", 0, 0)}}, errEnded},
		"a part of the installation's beginning": {[][]events.Recorded{{fact(1, events.System, 1, 5), fact(2, events.System, 2, 5)}}, errEnded},
		"again":                                  {[][]events.Recorded{{fact(2, "acme", 0, 0)}, {fact(2, "acme", 0, 0)}}, projections.ErrOutOfOrder},
		"back":                                   {[][]events.Recorded{{fact(7, "acme", 0, 0), fact(3, "acme", 0, 0)}}, projections.ErrOutOfOrder},
		"a part of a command's":                  {[][]events.Recorded{{fact(2, "acme", 1, 2)}}, projections.ErrOutOfOrder},
		"the rest of it in another":              {[][]events.Recorded{{fact(2, "acme", 1, 2)}, {fact(3, "acme", 2, 2)}}, projections.ErrOutOfOrder},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger()
			l.slices, l.head, l.ended = c.slices, 9, errEnded
			r, err := projections.NewRunner(projections.Config{
				Source: l, View: &view{name: "v"}, Filtered: true, Proven: func() (events.Time, bool) { return 0, true },
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Run(t.Context()); !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
		})
	}
}

var errEnded = errors.New("ended")

func TestWaitersWakeWhenTheirPositionComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const facts = 200
		l := newLedger()
		r, stop := start(t, l, &view{name: "v"})
		var waiting sync.WaitGroup
		for pos := events.Position(1); pos <= facts; pos++ {
			for range 5 {
				waiting.Go(func() {
					if err := r.WaitFor(t.Context(), pos); err != nil || r.Applied() < pos {
						t.Errorf("waited for %d, at %d: %v", pos, r.Applied(), err)
					}
				})
			}
			// Some give up: they must leave nothing behind.
			waiting.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				if err := r.WaitFor(ctx, facts+pos); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("waited for what does not come: %v", err)
				}
			})
		}
		time.Sleep(time.Second)
		for range facts {
			l.append(1)
		}
		waiting.Wait()
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if err := r.WaitFor(t.Context(), facts+1); !errors.Is(err, projections.ErrStopped) {
			t.Fatalf("waiting after the end: %v", err)
		}
	})
}

func TestWaitForRaces(t *testing.T) {
	l := newLedger()
	r, stop := start(t, l, &view{name: "v"})
	var waiting sync.WaitGroup
	for range 4 {
		waiting.Go(func() {
			for pos := events.Position(1); pos <= 2000; pos++ {
				if err := r.WaitFor(t.Context(), pos); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 2000 {
		l.append(1)
	}
	waiting.Wait()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestTogetherGivesEachViewWhatItHasNotSeen(t *testing.T) {
	a, b := &view{name: "a"}, &view{name: "b", at: 3}
	l := newLedger()
	l.append(1, 4, 2)
	r, stop := start(t, l, projections.Together("both", a, b))
	if err := r.WaitFor(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(a.took, b.took); got != "[1 2 3 4 5 6 7] [4 5 6 7]" {
		t.Fatal(got)
	}
}

func TestConfigTellsEveryFault(t *testing.T) {
	_, err := projections.NewRunner(projections.Config{AskEvery: -1, Filtered: true})
	if joined, ok := err.(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) != 4 {
		t.Fatalf("got %v", err)
	}
}

// TestTogetherOfAFilteredSource: positions are missing between those that are shown.
func TestTogetherOfAFilteredSource(t *testing.T) {
	a, b, c := &view{name: "a", at: 2}, &view{name: "b", at: 5}, &view{name: "c", at: 9}
	both := projections.Together("all", a, b, c)
	if at, err := both.Position(t.Context()); at != 2 || err != nil {
		t.Fatal(at, err)
	}
	var facts []events.Recorded
	for _, at := range []events.Position{4, 5, 8, 9, 12} {
		facts = append(facts, events.Recorded{Position: at})
	}
	if err := errors.Join(both.Apply(t.Context(), facts[:3]), both.Apply(t.Context(), facts[3:])); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(a.took, b.took, c.took); got != "[4 5 8 9 12] [8 9 12] [12]" {
		t.Fatal(got)
	}
}
