package asof

import "github.com/keyledger/keyledger/events"

// Trace follows something through the past, and tells the event that made it what
// it is: the last one with which it changed. Events that were appended as one
// count as one. What was so between them was never so, and if they left it as it
// was before them, none of them made it so.
type Trace[T any] struct {
	same   func(a, b T) bool
	now    T
	madeBy events.Position
	// before is what was so before the change that is under way.
	change     change
	before     T
	beforeThat events.Position
}

// NewTrace begins with what is so before the first event, made so by none.
func NewTrace[T any](first T, same func(a, b T) bool) Trace[T] {
	return Trace[T]{same: same, now: first}
}

// Look tells what is so after an event.
func (t *Trace[T]) Look(r *events.Recorded, now T) {
	if t.same(t.now, now) {
		return
	}
	if c := changeOf(r); c != t.change {
		t.change, t.before, t.beforeThat = c, t.now, t.madeBy
	}
	t.now, t.madeBy = now, r.Position
	if t.same(t.before, now) {
		t.madeBy = t.beforeThat
	}
}

// MadeBy is the position of the event that made it so, 0 when none did.
func (t *Trace[T]) MadeBy() events.Position { return t.madeBy }

// change names events that were appended as one by where they begin; an event
// alone is one by itself.
type change struct {
	first events.Position
	size  int
}

func changeOf(r *events.Recorded) change {
	if r.Meta.BatchSize == 0 {
		return change{first: r.Position}
	}
	return change{first: r.Position - events.Position(r.Meta.BatchIndex), size: r.Meta.BatchSize}
}
