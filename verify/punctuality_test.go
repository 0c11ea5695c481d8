package verify

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/events"
)

// TestPunctuality: a clock is wrong when events go on to come late, and not when those
// of a replay or of a cut do.
func TestPunctuality(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		live := false
		p := &punctuality{live: func() bool { return live }, through: 3}
		if at, err := p.Position(t.Context()); at != 3 || err != nil {
			t.Errorf("position %d: %v", at, err)
		}
		comes := func(late time.Duration) {
			t.Helper()
			p.through++
			if err := p.Apply(t.Context(), []events.Recorded{{Position: p.through, Stored: events.TimeOf(time.Now().Add(-late))}}); err != nil {
				t.Fatal(err)
			}
		}
		for range 100 {
			comes(time.Hour)
			time.Sleep(time.Second)
		}
		if d := p.lateness(); d != 0 {
			t.Errorf("over a replay: %s", d)
		}
		live = true
		comes(time.Minute) // of while it was cut off
		time.Sleep(time.Minute)
		if d := p.lateness(); d != 0 {
			t.Errorf("over a cut: %s", d)
		}
		comes(time.Second)
		for range 3 {
			comes(time.Minute)
			time.Sleep(10 * time.Second)
		}
		if d := p.lateness(); d < 59*time.Second || d > 61*time.Second {
			t.Errorf("with a clock that is a minute ahead: %s", d)
		}
		comes(time.Second)
		if d := p.lateness(); d != 0 {
			t.Errorf("after it was set: %s", d)
		}
	})
}
