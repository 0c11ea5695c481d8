package verify

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/events"
)

func TestStaleness(t *testing.T) {
	const never = time.Duration(math.MaxInt64)
	for name, c := range map[string]struct{ lived, told, want time.Duration }{
		"both agree":                            {time.Second, time.Second, time.Second},
		"at once":                               {0, 0, 0},
		"the clock was set back by an hour":     {time.Minute, time.Minute - time.Hour, time.Minute},
		"and the ledger stays away":             {59 * time.Minute, -time.Minute, 59 * time.Minute},
		"the machine slept for an hour":         {time.Minute, time.Hour, time.Hour},
		"a proof from the future":               {-time.Second, -time.Second, never},
		"however little":                        {-1, 0, never},
		"or with the clock set forward by much": {-1, time.Hour, never},
	} {
		if got := staleness(c.lived, c.told); got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestProcessThatStoodStill does not go on by the time at which it stopped, although
// nothing has set its clock since.
func TestProcessThatStoodStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		proven := time.Now()
		v := &Verifier{fresh: func() time.Time { return proven }, maxStale: time.Minute, began: proven}
		v.tick()
		if v.Stale() {
			t.Fatal("stale from the beginning")
		}
		time.Sleep(time.Hour)
		now, stale := v.clock()
		if want := events.TimeOf(time.Now()); now != want || stale != time.Hour || !v.Stale() {
			t.Errorf("at %s it takes it for %s, and itself for %s stale", want, now, stale)
		}
		// One that was closed has no time any more.
		v.stop = func() {}
		v.Close()
		time.Sleep(time.Hour)
		if now, _ := v.clock(); now != 0 {
			t.Errorf("closed, it takes it for %s", now)
		}
	})
}
