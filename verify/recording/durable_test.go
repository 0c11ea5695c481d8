package recording

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
)

// has reports whether a use with a request id is stored.
func (s *stream) has(t testing.TB, requestID string) bool {
	_, list, _ := s.audit(t)
	for _, u := range list {
		if u.RequestID == requestID {
			return true
		}
	}
	return false
}

// TestDurable has many callers record durably on a slow disk, and looks after every
// answer whether the use is stored.
func TestDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers, each = 64, 20
		s := &stream{}
		var publishes atomic.Int32
		s.before = func(context.Context) error {
			publishes.Add(1)
			time.Sleep(3 * time.Millisecond)
			return nil
		}
		c := config(s)
		c.Durable = true
		r := start(t, c)
		var wg sync.WaitGroup
		for g := range callers {
			wg.Go(func() {
				for i := range each {
					u := use(uint64(g*each + i))
					u.Context.RequestID = fmt.Sprintf("%d/%d", g, i)
					if !r.Record(t.Context(), &u) {
						t.Error("refused")
						return
					}
					if !s.has(t, u.Context.RequestID) {
						t.Error("answered before it was stored")
						return
					}
				}
			})
		}
		wg.Wait()
		if n := publishes.Load(); n > 2*each {
			t.Errorf("%d publishes for %d rounds: those that wait are not stored together", n, each)
		}
		stop(t, r)
		blocks, list, findings := s.audit(t)
		if len(list) != callers*each || len(findings) != 0 {
			t.Errorf("%d uses of %d, findings %+v", len(list), callers*each, findings)
		}
		if b := blocks[0]; b.Kind != uses.KindBoot || b.Bound != 0 {
			t.Errorf("begins with %+v: a crash loses no use of a verdict that was given", b.Header)
		}
	})
}

// TestDurableWaitsBounded has the sink hang: who waits is refused, in time.
func TestDurableWaitsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stream{}
		c := config(s)
		c.Durable = true
		r := start(t, c)
		gate := make(chan struct{})
		s.ask(func(ctx context.Context) error {
			select {
			case <-gate:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		began, u := time.Now(), use(1)
		if r.Record(t.Context(), &u) {
			t.Error("answered, and nothing is stored")
		}
		if waited := time.Since(began); waited != DefaultDurableMaxWait {
			t.Errorf("waited %v", waited)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		began, u = time.Now(), use(2)
		if r.Record(ctx, &u) {
			t.Error("answered, and nothing is stored")
		}
		if waited := time.Since(began); waited != time.Millisecond {
			t.Errorf("waited %v for who went away", waited)
		}
		close(gate)
		u = use(3)
		if !r.Record(t.Context(), &u) {
			t.Error("refused although the sink is back")
		}
		stop(t, r)
		if got := r.Stats(); got.Refused != 2 || got.Recorded != 3 {
			t.Errorf("%+v", got)
		}
	})
}

// TestDurableEnds has a recorder that ends without having stored refuse who waits.
func TestDurableEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stream{}
		c := config(s)
		c.Durable, c.MaxWait = true, time.Hour
		r := start(t, c)
		s.ask(func(context.Context) error { return errSink })
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				u := use(uint64(i))
				if r.Record(t.Context(), &u) {
					t.Error("answered, and nothing is stored")
				}
			})
			time.Sleep(10 * time.Millisecond) // some under way, some behind
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := r.Close(ctx); !errors.Is(err, ErrUnstored) {
			t.Error(err)
		}
		wg.Wait()
		if waited := time.Since(began); waited > time.Minute {
			t.Errorf("waited %v for what would never be stored", waited)
		}
		if through := r.StoredThrough(); through != 0 && through > events.TimeOf(began) {
			t.Errorf("stored through %v with uses that are not", through)
		}
	})
}

// TestStoredThrough looks at what is told while uses come, wait and are stored.
func TestStoredThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stream{}
		r := start(t, config(s))
		ago := func(d time.Duration) events.Time { return events.TimeOf(time.Now().Add(-d)) }
		record := func(at events.Time) bool {
			u := use(1)
			u.At = at
			return r.Record(t.Context(), &u)
		}
		time.Sleep(time.Minute)
		if got := r.StoredThrough(); got != ago(maxLate) {
			t.Errorf("idle: %v", got)
		}
		gate := make(chan struct{})
		s.ask(func(context.Context) error { <-gate; return nil })
		asked := ago(0)
		if !record(asked) {
			t.Fatal("refused")
		}
		time.Sleep(time.Minute)
		if got := r.StoredThrough(); got > asked {
			t.Errorf("stored through %v, and the use of %v is not", got, asked)
		}
		// One more behind the one that is being stored.
		behind := ago(0)
		if !record(behind) {
			t.Fatal("refused")
		}
		if got := r.StoredThrough(); got > asked {
			t.Errorf("stored through %v, and the use of %v is not", got, asked)
		}
		close(gate)
		time.Sleep(time.Second)
		told := r.StoredThrough()
		if told != ago(maxLate) {
			t.Errorf("all is stored: %v", told)
		}
		// What was told holds: a verdict of before must not come after.
		if record(told-1) || !r.Late(told-1) {
			t.Error("a use of a time is taken before which all were said to be stored")
		}
		if !record(told) || r.Late(told) {
			t.Error("refused")
		}
		stop(t, r)
		if got := r.Stats().Recorded; got != 3 {
			t.Errorf("%d recorded", got)
		}
	})
}

// TestStoredThroughWaits has uses wait for room: they lie before the floor later, and
// must not be refused for that.
func TestStoredThroughWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stream{}
		c := config(s)
		c.MaxBuffered, c.MaxWait = 1, time.Minute
		r := start(t, c)
		s.ask(func(context.Context) error { time.Sleep(2 * maxLate); return nil })
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				u := use(1)
				u.At = events.TimeOf(time.Now())
				if !r.Record(t.Context(), &u) {
					t.Error("refused")
				}
			})
		}
		for range 20 {
			time.Sleep(maxLate / 2)
			r.StoredThrough()
		}
		wg.Wait()
		stop(t, r)
	})
}

// TestClockSetBack has what is told follow a clock that is set back, and refuses
// nothing for it.
func TestClockSetBack(t *testing.T) {
	s := &stream{}
	r := start(t, config(s))
	gate := make(chan struct{})
	s.ask(func(context.Context) error { <-gate; return nil })
	// As if the clock had been an hour ahead until now.
	ahead := events.TimeOf(time.Now().Add(time.Hour))
	r.through.floor.Store(int64(ahead))
	r.through.tell(ahead)
	if got := r.StoredThrough(); got >= ahead {
		t.Errorf("stored through %v, which is yet to come", got)
	}
	r.through.floor.Store(int64(ahead))
	r.through.told.Store(int64(ahead))
	u := use(1)
	u.At = events.TimeOf(time.Now())
	if !r.Record(t.Context(), &u) {
		t.Error("refused because of the clock")
	}
	// A flush that the earlier clock began tells nothing by this one.
	r.through.tell(ahead)
	if got := r.StoredThrough(); got > u.At {
		t.Errorf("stored through %v, and the use of %v is not", got, u.At)
	}
	close(gate)
	stop(t, r)
	if got := r.StoredThrough(); got >= ahead || got == 0 {
		t.Errorf("stored through %v", got)
	}
}

// TestStoredThroughHolds has uses come, be stored and be asked about at the same time:
// nothing may lie before what was told and be stored later.
func TestStoredThroughHolds(t *testing.T) {
	s := &stream{}
	c := config(s)
	c.FlushEvery = 100 * time.Microsecond
	r := start(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var late atomic.Uint64
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				// Some as late as they may be, some too late.
				u := use(1)
				u.At = events.TimeOf(time.Now().Add(-maxLate - time.Millisecond + time.Duration(time.Now().UnixNano()%2e6)))
				if !r.Record(t.Context(), &u) {
					late.Add(1)
				}
			}
		})
	}
	for range 200 {
		s.mu.Lock()
		before := len(s.stored)
		s.mu.Unlock()
		told := r.StoredThrough()
		s.mu.Lock()
		after := len(s.stored)
		s.mu.Unlock()
		if before > after {
			t.Fatal("the stream lost something")
		}
		time.Sleep(time.Millisecond)
		s.mu.Lock()
		d, err := uses.NewDecoder()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range s.stored[after:] {
			b, err := d.Decode(m.Subject, m.Body)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range b.Uses {
				if u.At < told {
					t.Fatalf("a use of %v was stored after all before %v were said to be", u.At, told)
				}
			}
		}
		s.mu.Unlock()
	}
	cancel()
	wg.Wait()
	stop(t, r)
	if late.Load() == 0 {
		t.Error("nothing came too late: the test shows nothing")
	}
}

// TestStartLater opens a recorder whose sink is away: what it takes is stored behind
// the boot mark once the sink is there.
func TestStartLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		away.Store(true)
		s := &stream{before: func(context.Context) error {
			if away.Load() {
				return errSink
			}
			return nil
		}}
		r, err := New(config(s))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.StartLater(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.Start(t.Context()); !errors.Is(err, ErrState) {
			t.Errorf("then %v", err)
		}
		for i := range 10 {
			u := use(uint64(i))
			if !r.Record(t.Context(), &u) {
				t.Fatal("refused")
			}
		}
		time.Sleep(time.Minute)
		select {
		case <-r.Marked():
			t.Error("the mark is said to be stored")
		default:
		}
		if got := r.StoredThrough(); got != 0 {
			t.Errorf("stored through %v without a boot mark", got)
		}
		away.Store(false)
		<-r.Marked()
		stop(t, r)
		blocks, list, findings := s.audit(t)
		if len(list) != 10 || len(findings) != 0 || blocks[0].Kind != uses.KindBoot || blocks[0].Bound != DefaultMaxBuffered {
			t.Errorf("%d uses, begins with %+v, findings %+v", len(list), blocks[0].Header, findings)
		}
		// The mark that is written for a boot that ended is the very same one.
		mark, err := BootMark(events.LedgerID{1}, "edge-1", r.Boot(), r.Bound())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.PublishUses(t.Context(), []uses.Message{mark}); err != nil || len(s.stored) != len(blocks) {
			t.Errorf("%v, and %d of %d messages", err, len(s.stored), len(blocks))
		}
	})
}

// TestStartLaterNeverStored closes a recorder whose sink never came.
func TestStartLaterNeverStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stream{before: func(context.Context) error { return errSink }}
		r, err := New(config(s))
		if err != nil {
			t.Fatal(err)
		}
		if r.StoredThrough() != 0 {
			t.Error("something is said to be stored before the start")
		}
		if err := r.StartLater(t.Context()); err != nil {
			t.Fatal(err)
		}
		u := use(1)
		if !r.Record(t.Context(), &u) {
			t.Fatal("refused")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Close(ctx); !errors.Is(err, ErrUnstored) || !strings.Contains(err.Error(), "1 of 1") {
			t.Error(err)
		}
		if r.StoredThrough() != 0 {
			t.Error("something is said to be stored")
		}
		// Its mark, stored later, shows what is missing.
		mark, err := BootMark(events.LedgerID{1}, "edge-1", r.Boot(), DefaultMaxBuffered)
		if err != nil {
			t.Fatal(err)
		}
		s.ask(nil)
		if err := s.PublishUses(t.Context(), []uses.Message{mark}); err != nil {
			t.Fatal(err)
		}
		if _, _, findings := s.audit(t); len(findings) != 1 || findings[0].Kind != uses.FindingUnended || findings[0].Count != DefaultMaxBuffered {
			t.Errorf("%+v", findings)
		}
	})
}

func TestDurableAllocatesNothing(t *testing.T) {
	c := config(&discard{})
	c.Durable = true
	r := start(t, c)
	defer stop(t, r)
	u := use(1)
	// What a flush allocates is shared by all that it takes; one caller has it alone.
	// A timer or closure of the caller's own would come on top. What else goes on in
	// the process only adds, so the least of some turns is what counts.
	alone, flush := math.Inf(1), math.Inf(1)
	for range 5 {
		alone = min(alone, allocations(400, func() {
			if !r.Record(t.Context(), &u) {
				t.Error("refused")
			}
		}))
		flush = min(flush, allocations(400, func() {
			b := r.acquire()
			if r.add(b, &u) == full {
				t.Error("full")
			}
			g := b.group
			b.mu.Unlock()
			signal(r.wake)
			<-g.done
		}))
	}
	if alone > flush+0.5 {
		t.Errorf("%v allocations, %v of them the flush's", alone, flush)
	}
}

// allocations is how many a run of f takes on average, by a fraction: what
// [testing.AllocsPerRun] says is rounded down, and falls to either side of a number.
func allocations(runs int, f func()) float64 {
	f()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(runs)
}
