package projections

import (
	"container/heap"
	"context"
	"math"
	"sync"
	"sync/atomic"

	"github.com/keyledger/keyledger/events"
)

// waiters are those who wait for a position. The applier pays one atomic load a
// slice while nobody's position is reached, and wakes only whose is.
type waiters struct {
	// lowest is the lowest position waited for. A waiter lowers it before it
	// looks at the applied position again, the applier raises the applied
	// position before it looks at lowest: one of them sees the other.
	lowest atomic.Uint64

	mu      sync.Mutex
	queue   waitQueue
	stopped error
}

func (w *waiters) init() { w.lowest.Store(math.MaxUint64) }

func (w *waiters) wait(ctx context.Context, pos events.Position, applied func() events.Position) error {
	me := &waiter{pos: pos, done: make(chan struct{})}
	w.mu.Lock()
	if w.stopped != nil {
		err := w.stopped
		w.mu.Unlock()
		return err
	}
	heap.Push(&w.queue, me)
	w.note()
	w.mu.Unlock()
	if applied() >= pos {
		w.leave(me)
		return nil
	}
	select {
	case <-me.done:
		return me.err
	case <-ctx.Done():
		w.leave(me)
		return ctx.Err()
	}
}

// reached wakes those whose position has come.
func (w *waiters) reached(pos events.Position) {
	if uint64(pos) < w.lowest.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) > 0 && w.queue[0].pos <= pos {
		close(heap.Pop(&w.queue).(*waiter).done)
	}
	w.note()
}

// stop tells everybody, now and later, that nothing comes any more.
func (w *waiters) stop(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = err
	for _, me := range w.queue {
		me.err = err
		me.index = -1
		close(me.done)
	}
	w.queue = nil
	w.note()
}

func (w *waiters) leave(me *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if me.index >= 0 {
		heap.Remove(&w.queue, me.index)
		w.note()
	}
}

func (w *waiters) note() {
	lowest := uint64(math.MaxUint64)
	if len(w.queue) > 0 {
		lowest = uint64(w.queue[0].pos)
	}
	w.lowest.Store(lowest)
}

type waiter struct {
	pos   events.Position
	index int // in the queue, -1 outside
	done  chan struct{}
	err   error // set before done is closed
}

// waitQueue is a heap by position.
type waitQueue []*waiter

func (q waitQueue) Len() int           { return len(q) }
func (q waitQueue) Less(i, j int) bool { return q[i].pos < q[j].pos }

func (q waitQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *waitQueue) Push(x any) {
	me := x.(*waiter)
	me.index = len(*q)
	*q = append(*q, me)
}

func (q *waitQueue) Pop() any {
	old := *q
	me := old[len(old)-1]
	old[len(old)-1] = nil
	me.index = -1
	*q = old[:len(old)-1]
	return me
}
