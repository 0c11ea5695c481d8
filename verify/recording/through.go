package recording

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/events"
)

// maxLate is how much later than it was judged a use may come to the recorder: more
// than a verifier's clock may be behind, and what [Recorder.StoredThrough] stays
// behind. Who comes later judges anew.
const maxLate = 100 * time.Millisecond

// through keeps up to which time all uses are stored.
//
// Uses of a time before the floor are not taken. Whoever wants to tell that all before
// some time are stored raises the floor to it, then looks at every buffer under its
// lock, and has stored what was there.
type through struct {
	floor, told atomic.Int64
	// storing says that uses that are in no buffer may not be stored yet.
	storing atomic.Bool
	// held counts uses that wait for room in a buffer: the floor must not pass them.
	held atomic.Int64

	mu sync.Mutex // held by who moves the floor
}

// begin raises the floor, and returns the time that all uses lie after which are not
// in a buffer yet.
func (t *through) begin() events.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	floor := events.Time(t.floor.Load())
	if t.held.Load() > 0 {
		return floor
	}
	now := events.TimeOf(time.Now().Add(-maxLate))
	// A clock that was set back takes the floor along: what is judged from now on is
	// late by that clock, and not in truth. Less than maxLate makes nothing late.
	if now < floor && floor-now <= events.Time(maxLate.Microseconds()) {
		return floor
	}
	if now < floor {
		// By this clock nothing is told yet.
		t.told.Store(0)
	}
	t.floor.Store(int64(now))
	return now
}

// late reports whether a use of a time before the floor comes too late, and not from a
// clock that was set back.
func (t *through) late(at events.Time) bool { return at < t.begin() }

// Late reports whether a use of a time is refused for coming too late: all that
// were judged before are said to be stored. Whoever asks may judge anew.
func (r *Recorder) Late(at events.Time) bool {
	return at < events.Time(r.through.floor.Load()) && r.through.late(at)
}

// StoredThrough returns a time before which, by this machine's clock, no use lies that
// is not stored: neither one that was recorded nor one that will be. It is a tenth
// of a second ago while nothing waits, falls behind while uses wait to be stored, and goes
// back only when the clock is set back, to zero at first. It is zero before the boot mark
// is stored.
func (r *Recorder) StoredThrough() events.Time {
	began := r.through.begin()
	for _, b := range r.buffers {
		if !b.empty() {
			return events.Time(r.through.told.Load())
		}
	}
	// In this order: what has left a buffer since was being stored by then.
	select {
	case <-r.marked:
	default:
		return 0
	}
	if !r.through.storing.Load() {
		r.through.tell(began)
	}
	return events.Time(r.through.told.Load())
}

// tell keeps that all uses of an earlier time are stored.
func (t *through) tell(at events.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// Another may have told more meanwhile. What lies past the floor was begun by a
	// clock that has been set back since.
	if int64(at) > t.told.Load() && int64(at) <= t.floor.Load() {
		t.told.Store(int64(at))
	}
}
