package verify

import (
	"math"
	"testing"
	"time"
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
