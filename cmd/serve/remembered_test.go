package serve

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestRememberedIsAskedOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked uint64
		away := errors.New("away")
		r := &remembered{ask: func() (uint64, error) {
			if asked++; asked == 2 {
				return 0, away
			}
			return asked, nil
		}}
		for second, want := range []uint64{1, 0, 3} {
			for range 100 {
				got, err := r.get()
				if got != want || (err != nil) != (want == 0) || asked != uint64(second+1) {
					t.Fatalf("second %d: %d, %v, asked %d times", second, got, err, asked)
				}
			}
			time.Sleep(time.Second)
		}
	})
}
