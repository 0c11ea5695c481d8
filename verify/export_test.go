package verify

import (
	"time"

	"github.com/keyledger/keyledger/events"
)

// StandStill leaves a verifier as one whose process stood still for d between judging
// and recording: its clock says what it said then.
func (v *Verifier) StandStill(d time.Duration) {
	v.stop()
	v.ticker.Wait()
	v.tick()
	v.now.Store(int64(events.TimeOf(time.Now().Add(-d))))
}

// FewEvents is how many events are replayed rather than that a snapshot is fetched.
func FewEvents(n uint64) Option { return func(o *options) { o.few = n } }
