package batch

import (
	"fmt"

	"github.com/keyledger/keyledger/events"
)

// Slice is how many facts a follower is handed at most, unless one batch is
// larger: enough to spread the cost of handing over, and little enough that a
// view is never far behind what it was handed.
const Slice = 512

// Holder holds facts back until the batch they belong to is whole. The broker
// shows readers a batch part by part. Its zero value is ready for use.
type Holder struct {
	held    []events.Recorded
	started bool
	// index of size parts of a batch have come; size is 0 between batches.
	index, size int
}

// Add takes the facts that come next and returns all that are whole by now. A
// batch of which a part is missing wraps [events.ErrCorrupt].
//
// The very first fact may stand within a batch: whoever follows from a position
// may have got it from a part.
func (h *Holder) Add(facts []events.Recorded) ([]events.Recorded, error) {
	end := -1
	for i := range facts {
		r := &facts[i]
		index, size := r.Meta.BatchIndex, r.Meta.BatchSize
		switch {
		case h.size != 0 && (index != h.index+1 || size != h.size):
			return nil, fmt.Errorf("%w: the batch of %d ends after part %d, before position %d", events.ErrCorrupt, h.size, h.index, r.Position)
		case h.size == 0 && index > 1 && h.started:
			return nil, fmt.Errorf("%w: a batch begins with part %d of %d at position %d", events.ErrCorrupt, index, size, r.Position)
		}
		h.started, h.index, h.size = true, index, size
		if index == size {
			h.index, h.size = 0, 0
			end = i
		}
	}
	if end < 0 {
		h.held = append(h.held, facts...)
		return nil, nil
	}
	whole := facts[: end+1 : end+1]
	if len(h.held) > 0 {
		whole = append(h.held, whole...)
	}
	h.held = append([]events.Recorded(nil), facts[end+1:]...)
	return whole, nil
}

// Each hands whole facts over in slices that split no batch.
func Each(whole []events.Recorded, apply func([]events.Recorded) error) error {
	for len(whole) > 0 {
		n := cut(whole)
		if err := apply(whole[:n:n]); err != nil {
			return err
		}
		whole = whole[n:]
	}
	return nil
}

func cut(whole []events.Recorded) int {
	if len(whole) <= Slice {
		return len(whole)
	}
	for n := Slice; n > 0; n-- {
		if whole[n-1].Last() {
			return n
		}
	}
	n := Slice
	for n < len(whole) && !whole[n-1].Last() {
		n++
	}
	return n
}
