package verify

import (
	"context"
	"sync"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections"
)

// lateFor is for how long events must come late before a clock is said to be wrong:
// after a cut they do for no longer than it is from one tick to the next.
const lateFor = 15 * time.Second

// punctuality is a view that notes how late events come, by this machine's clock. Those
// that were there at the start say nothing of that.
type punctuality struct {
	live func() bool

	mu      sync.Mutex // guards the following
	through events.Position
	// since is when the first came of those that all came late, and last when the
	// last of them did, by so much.
	since, last time.Time
	late        time.Duration
}

func (p *punctuality) Name() string { return "punctuality" }

func (p *punctuality) Position(context.Context) (events.Position, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.through, nil
}

func (p *punctuality) Apply(_ context.Context, facts []events.Recorded) error {
	live := p.live()
	p.mu.Lock()
	defer p.mu.Unlock()
	newest := &facts[len(facts)-1]
	p.through = newest.Position
	if !live {
		return nil
	}
	now := time.Now()
	late := now.Sub(newest.Stored.Std())
	if late <= projections.ClockMargin {
		p.since, p.last, p.late = time.Time{}, time.Time{}, 0
		return nil
	}
	if p.since.IsZero() {
		p.since = now
	}
	p.last, p.late = now, late
	return nil
}

// lateness is by how much events have come late for long, 0 if they have not.
func (p *punctuality) lateness() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last.Sub(p.since) < lateFor {
		return 0
	}
	return p.late
}
