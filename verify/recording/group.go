package recording

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/events"
)

// gatherAtMost bounds how long a flush waits for those that the last one served to
// come again: short beside what a disk takes to sync.
const gatherAtMost = 500 * time.Microsecond

// group are the uses that one flush takes, for those who wait until they are stored.
type group struct {
	stored bool          // set before done is closed
	done   chan struct{} // closed when they are stored, or never will be
}

// waiters counts those who wait until their uses are stored. It only helps to choose
// the moment of a flush.
type waiters struct {
	parked atomic.Int64 // since the last flush began
	target atomic.Int64 // as many as that flush served
	timers sync.Pool
}

// nextGroup begins a new group; the one before is under way. There are none where
// nobody waits for them.
func (r *Recorder) nextGroup() {
	if !r.cfg.Durable {
		return
	}
	r.underWay, r.group = r.group, &group{done: make(chan struct{})}
	r.waiters.target.Store(r.waiters.parked.Swap(0))
}

// settle tells those who wait for a group what came of it.
func (g *group) settle(stored bool) {
	if g != nil {
		g.stored = stored
		close(g.done)
	}
}

// await waits until a group is stored, up to MaxWait, and reports whether it is.
func (r *Recorder) await(ctx context.Context, g *group) bool {
	if r.waiters.parked.Add(1) == r.waiters.target.Load() {
		signal(r.hurry)
	}
	timer, _ := r.waiters.timers.Get().(*time.Timer)
	if timer == nil {
		timer = time.NewTimer(r.cfg.MaxWait)
	} else {
		timer.Reset(r.cfg.MaxWait)
	}
	defer func() {
		timer.Stop()
		r.waiters.timers.Put(timer)
	}()
	select {
	case <-g.done:
		return g.stored
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// gatherGroup waits until as many have come as the last flush served, for a moment at
// most: those who were answered together ask again together, and one sync of the disk
// should serve them all. It reports whether the recorder is still open.
func (r *Recorder) gatherGroup() bool {
	if r.waiters.parked.Load() >= r.waiters.target.Load() {
		return true
	}
	timer := time.NewTimer(gatherAtMost)
	defer timer.Stop()
	for r.waiters.parked.Load() < r.waiters.target.Load() {
		select {
		case <-timer.C:
			return true
		case <-r.hurry:
		case <-r.stop:
			return false
		}
	}
	return true
}

// stored tells everybody that what a flush took is stored.
func (r *Recorder) stored(through events.Time) {
	r.through.tell(through)
	r.through.storing.Store(false)
	r.underWay.settle(true)
	r.underWay = nil
}

// abandon refuses those who wait: nothing is stored any more. The recorder is not
// open, so that nobody comes after.
func (r *Recorder) abandon() {
	if !r.cfg.Durable {
		return
	}
	for _, b := range r.buffers {
		b.empty() // whoever was adding has added now
	}
	r.group.settle(false)
	r.underWay.settle(false)
}
