package snapshot

import (
	"context"
	"sync"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections"
)

// Barrier is a view around another one, between whose slices something else can be
// done.
type Barrier struct {
	view projections.View
	mu   sync.Mutex
}

// NewBarrier returns a barrier around a view.
func NewBarrier(view projections.View) *Barrier { return &Barrier{view: view} }

// Name names the view.
func (b *Barrier) Name() string { return b.view.Name() }

// Position returns the last position applied.
func (b *Barrier) Position(ctx context.Context) (events.Position, error) { return b.view.Position(ctx) }

// Apply applies a slice.
func (b *Barrier) Apply(ctx context.Context, facts []events.Recorded) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.view.Apply(ctx, facts)
}

// Between does something while no slice is being applied: all that the view is made
// of is at one position then. Facts wait for it, so that it should be short.
func (b *Barrier) Between(do func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	do()
}
