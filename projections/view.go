package projections

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyledger/keyledger/events"
)

var (
	// ErrOutOfOrder says that a fact came which is not the next one. Positions
	// have no legitimate gap, so that this is corruption wherever it happens.
	ErrOutOfOrder = fmt.Errorf("projections: fact is not the next one: %w", events.ErrCorrupt)

	// ErrAhead says that a view has applied more than the ledger holds: the
	// ledger was cut or exchanged, or the view is that of another one.
	ErrAhead = fmt.Errorf("projections: view is ahead of the ledger: %w", events.ErrCorrupt)

	// ErrStopped says that a view does not move any more, and wraps why.
	ErrStopped = errors.New("projections: view has stopped")

	// ErrPanicked says that a view panicked over a fact.
	ErrPanicked = errors.New("projections: view panicked")

	// ErrUsed says that a runner was started twice. A runner is for one run.
	ErrUsed = errors.New("projections: runner was started before")
)

// Source is a ledger to be followed.
type Source interface {
	// Follow calls apply with every fact after a position, in slices, in order
	// and without a gap, or with every one that a filter on the broker lets
	// through. Facts that were appended as one come in one slice.
	// It outlives interruptions of the ledger, and returns only when the
	// context ends, when the ledger is corrupt ([events.ErrCorrupt]), or with
	// the error of apply, which it does not call again then. The slice is the
	// source's again once apply has returned.
	Follow(ctx context.Context, after events.Position, apply func([]events.Recorded) error) error

	// Last returns the position of the ledger's last fact, 0 when it is empty, as
	// its leader knows it; of a source that is filtered, the last that it lets
	// through. It says how far there is to go, and proves nothing.
	Last(ctx context.Context) (events.Position, error)
}

// View is what facts are applied to. Its methods are called by one goroutine at
// a time; how it is read meanwhile is its own affair.
type View interface {
	// Name names the view in logs and metrics.
	Name() string

	// Position returns the last position applied, as far as the view would
	// remember it after a crash. The runner asks at its start, and again when
	// Apply has failed.
	Position(ctx context.Context) (events.Position, error)

	// Apply applies facts, or those before one that it cannot apply, whose error
	// it wraps by [At]; either way facts that were appended as one stay
	// together. An error stops the view for good: whatever may pass by itself is
	// retried inside.
	Apply(ctx context.Context, facts []events.Recorded) error
}

// FactError says over which fact a view stopped.
type FactError struct {
	Position events.Position
	Subject  events.Subject
	Err      error
}

// At wraps the error of a view over one fact. It repeats nothing of the fact
// but where it stands.
func At(fact events.Recorded, err error) error {
	return &FactError{Position: fact.Position, Subject: fact.Subject, Err: err}
}

func (e *FactError) Error() string {
	return fmt.Sprintf("at position %d on %s: %v", e.Position, e.Subject, e.Err)
}

func (e *FactError) Unwrap() error { return e.Err }
