package batch

import (
	"fmt"

	"github.com/keyledger/keyledger/events"
)

// Partial holds facts back as [Holder] does, for whoever is shown a part of the
// ledger and may never see some parts of a batch. Its batch is whole when the last
// part has come, or a fact behind where that one stands. Its zero value is ready
// for use.
type Partial struct {
	held []events.Recorded
	// first and last are where the batch that is held begins and ends; last is 0
	// between batches.
	first, last events.Position
	seen        events.Position
}

// Add takes the facts that come next and returns all that are whole by now. Facts
// that say of themselves that they stand in one batch with others, which stand
// elsewhere or in none, wrap [events.ErrCorrupt], and so do positions that do not
// increase.
func (p *Partial) Add(facts []events.Recorded) ([]events.Recorded, error) {
	whole := 0
	for i := range facts {
		r := &facts[i]
		before := p.seen
		if r.Position <= before {
			return nil, fmt.Errorf("%w: position %d came after %d", events.ErrCorrupt, r.Position, before)
		}
		p.seen = r.Position
		if r.Position > p.last {
			p.last, whole = 0, len(p.held)
		}
		first, last := r.Position, r.Position
		if size := r.Meta.BatchSize; size > 1 {
			first -= min(first, events.Position(r.Meta.BatchIndex-1))
			last = first + events.Position(size-1)
		}
		switch {
		case p.last != 0 && (first != p.first || last != p.last):
			return nil, fmt.Errorf("%w: position %d is not of the batch from %d to %d", events.ErrCorrupt, r.Position, p.first, p.last)
		case p.last == 0 && before != 0 && first <= before:
			return nil, fmt.Errorf("%w: position %d is of the batch from %d to %d, and %d is not", events.ErrCorrupt, r.Position, first, last, before)
		}
		p.first, p.last = first, last
		p.held = append(p.held, *r)
		if r.Position == last {
			p.last, whole = 0, len(p.held)
		}
	}
	if whole == 0 {
		return nil, nil
	}
	out := p.held[:whole:whole]
	p.held = append([]events.Recorded(nil), p.held[whole:]...)
	return out, nil
}
