package announcing_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/verify/announcing"
)

// audience is told announcements, of a verifier whose uses are stored a while later.
type audience struct {
	*announcing.Announcer
	mu    sync.Mutex
	heard []presence.Announcement
	at    []time.Duration
	began time.Time
	// applied is how far the verifier has come.
	applied events.Position
	// deaf says that nothing can be stored.
	deaf bool
	// behind is how far the stored uses are behind.
	behind time.Duration
}

func begin(t *testing.T, lease time.Duration) *audience {
	t.Helper()
	a := &audience{began: time.Now()}
	var err error
	a.Announcer, err = announcing.New(announcing.Config{Lease: lease, State: func() presence.Announcement {
		return presence.Announcement{Verifier: "edge-1", Applied: a.applied, StoredThrough: events.TimeOf(time.Now().Add(-a.behind))}
	}, Publish: func(_ context.Context, said presence.Announcement) error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.deaf {
			return errors.New("nobody is there")
		}
		a.heard = append(a.heard, said)
		a.at = append(a.at, time.Since(a.began))
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// told are the announcements so far, and when each was.
func (a *audience) told() ([]presence.Announcement, []time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.heard), slices.Clone(a.at)
}

// run runs an announcer until the returned function.
func (a *audience) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { a.Run(ctx) })
	return func() { cancel(); running.Wait() }
}

// TestLease: an announcement comes at once, and before the last one has run out
// although one is lost.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := begin(t, 15*time.Second)
		stop := a.run()
		time.Sleep(time.Hour)
		stop()
		if a.at[0] != 0 {
			t.Errorf("the first came after %s", a.at[0])
		}
		for i := 1; i < len(a.at); i++ {
			if gap := a.at[i] - a.at[i-1]; gap > 5*time.Second || gap < 4*time.Second {
				t.Errorf("number %d came %s after the last", i+1, gap)
			}
		}
		for i, said := range a.heard {
			if said.Number != uint64(i+1) || said.Lease != 15_000 || said.Ended || said.At != events.TimeOf(a.began.Add(a.at[i])) {
				t.Fatalf("number %d: %+v", i+1, said)
			}
		}
	})
}

// TestSoon: what happens is told within a quarter of a second, not by a whole fleet at
// once, and told again when all uses from before are stored; and whatever happens, not
// more than four times a second.
func TestSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := begin(t, 15*time.Second)
		a.behind = 100 * time.Millisecond
		stop := a.run()
		defer stop()
		time.Sleep(time.Second)
		_, earlier := a.told()
		before := len(earlier)
		happened := time.Since(a.began)
		a.Soon()
		time.Sleep(time.Second)
		heard, told := a.told()
		heard, told = heard[before:], told[before:]
		if len(told) != 2 || told[0]-happened > 250*time.Millisecond || told[1]-happened > 500*time.Millisecond {
			t.Fatalf("happened after %s, told after %s", happened, told)
		}
		if heard[0].StoredThrough >= heard[0].At || heard[1].StoredThrough <= heard[0].At {
			t.Errorf("the second is not of when all was stored: %+v", heard)
		}
		before += len(told)
		for range 1000 {
			a.Soon()
			time.Sleep(time.Millisecond)
		}
		_, told = a.told()
		if n := len(told) - before; n < 3 || n > 5 {
			t.Errorf("%d times within a second", n)
		}
	})
}

// TestAFleetTellsByAndBy: what a hundred verifiers apply at once is not told at once.
func TestAFleetTellsByAndBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := map[time.Duration]int{}
		for range 100 {
			a := begin(t, 15*time.Second)
			stop := a.run()
			time.Sleep(time.Second)
			_, earlier := a.told()
			happened := time.Since(a.began)
			a.Soon()
			time.Sleep(time.Second)
			_, told := a.told()
			at[(told[len(earlier)]-happened).Truncate(20*time.Millisecond)]++
			stop()
		}
		if slices.Max(slices.Collect(maps.Values(at))) > 30 {
			t.Errorf("how many were told after how long: %v", at)
		}
	})
}

// TestNobodyThere: what cannot be stored is tried again, ever more slowly, and told
// when it can.
func TestNobodyThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := begin(t, 15*time.Second)
		a.deaf = true // nobody else is there yet
		stop := a.run()
		a.Soon()
		time.Sleep(time.Minute)
		if n := a.Stats().Failed; n < 10 || n > 40 {
			t.Errorf("%d attempts within a minute", n)
		}
		a.mu.Lock()
		a.deaf = false
		a.mu.Unlock()
		time.Sleep(5 * time.Second)
		if heard, _ := a.told(); len(heard) < 2 {
			t.Errorf("told %d times since", len(heard))
		}
		stop()
		if err := a.End(context.Background()); err != nil || !a.heard[len(a.heard)-1].Ended {
			t.Errorf("the end: %v, %+v", err, a.heard[len(a.heard)-1])
		}
		a.deaf = true
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := a.End(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an end that nobody hears: %v", err)
		}
	})
}

// TestView tells of revocations that are young, and how long ago they were applied, and
// of nothing else.
func TestView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := begin(t, time.Minute)
		stop := a.run()
		defer stop()
		time.Sleep(time.Second)
		id, now := events.KeyID{1}, time.Now()
		view := a.View(7)
		if at, err := view.Position(t.Context()); at != 7 || err != nil {
			t.Errorf("position %d: %v", at, err)
		}
		for _, c := range []struct {
			fact events.Recorded
			told int
		}{
			{events.Recorded{Position: 8, Subject: events.KeySubject("acme", id), Stored: events.TimeOf(now)}, 0},
			{events.Recorded{Position: 9, Subject: events.RevokedSubject("acme", id), Stored: events.TimeOf(now.Add(-time.Hour))}, 0},
			{events.Recorded{Position: 10, Subject: events.RevokedSubject("acme", id), Stored: events.TimeOf(now)}, 2},
			{events.Recorded{Position: 11, Subject: events.EndSubject("acme"), Stored: events.TimeOf(now)}, 2},
		} {
			before, _ := a.told()
			a.applied = c.fact.Position
			if err := view.Apply(t.Context(), []events.Recorded{c.fact}); err != nil {
				t.Fatal(err)
			}
			applied := events.TimeOf(time.Now())
			time.Sleep(time.Second)
			after, _ := a.told()
			if n := len(after) - len(before); n != c.told {
				t.Errorf("position %d is told %d times, and not %d", c.fact.Position, n, c.told)
			}
			for _, said := range after[len(before):] {
				if late := said.At.Add(-time.Duration(said.RevokedAgo)*time.Millisecond) - applied; said.Revoked != c.fact.Position || late < 0 || late >= 1000 {
					t.Errorf("applied %d at %d, and said %+v", c.fact.Position, applied, said)
				}
			}
		}
	})
}

func TestConfig(t *testing.T) {
	if _, err := announcing.New(announcing.Config{Lease: time.Second}); err == nil {
		t.Error("nothing to announce, nowhere, for a second")
	}
}

// What the verdicts do not rest on yet is not said to be applied.
func TestRevokedIsNotAheadOfApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := begin(t, time.Minute)
		a.applied = 8
		fact := events.Recorded{Position: 9, Subject: events.RevokedSubject("acme", events.KeyID{1}), Stored: events.TimeOf(time.Now())}
		if err := a.View(7).Apply(t.Context(), []events.Recorded{fact}); err != nil {
			t.Fatal(err)
		}
		stop := a.run()
		time.Sleep(time.Second)
		stop()
		for _, said := range a.heard {
			if said.Revoked != 0 || said.RevokedAgo != 0 {
				t.Errorf("%+v", said)
			}
		}
	})
}
