package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/projections/usage"
)

// usesRunner feeds the usage view with the stream of uses, as a
// projections.Runner does with the ledger.
type usesRunner struct {
	ledger *jetstream.Ledger
	view   *usage.View
	// told is closed when the view knows what was dropped before it began.
	told <-chan struct{}
	log  *slog.Logger
	err  atomic.Pointer[error]
	// goal is how far the stream went at the start, once that is known, and whole
	// that the view has come there.
	goal  atomic.Pointer[events.Position]
	whole atomic.Bool
}

// run follows until the context ends. A view that cannot go on stops, says so,
// and keeps nobody else from going on.
func (r *usesRunner) run(ctx context.Context) {
	after, err := r.view.Position(ctx)
	if err == nil && after == 0 {
		select {
		case <-r.told:
		case <-ctx.Done():
		}
	}
	if err == nil {
		err = r.begin(ctx, after)
	}
	if err == nil {
		err = r.ledger.FollowUses(ctx, after, func(blocks []events.UsesMessage) error {
			if err := r.view.Apply(ctx, blocks); err != nil {
				return err
			}
			_, err := r.read(ctx)
			return err
		})
	}
	if err == nil || ctx.Err() != nil && !errors.Is(err, events.ErrCorrupt) {
		return
	}
	r.err.Store(&err)
	r.log.Error("view stopped", "view", r.view.Name(), "error", err)
}

// begin learns how far the stream goes.
func (r *usesRunner) begin(ctx context.Context, after events.Position) error {
	for {
		last, err := r.ledger.LastUses(ctx)
		if err == nil {
			r.goal.Store(&last)
			r.log.Info("replay begins", "view", r.view.Name(), "after", uint64(after), "goal", uint64(last))
			return nil
		}
		if errors.Is(err, events.ErrCorrupt) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// read tells how many percent of what was there at the start the view has read.
func (r *usesRunner) read(ctx context.Context) (uint64, error) {
	if r.whole.Load() {
		return 100, nil
	}
	goal := r.goal.Load()
	if goal == nil {
		return 0, nil
	}
	pos, err := r.view.Position(ctx)
	if err != nil {
		return 0, err
	}
	if pos < *goal {
		return uint64(pos) * 100 / uint64(*goal), nil
	}
	if r.whole.CompareAndSwap(false, true) {
		r.log.Info("replay is over", "view", r.view.Name(), "applied", uint64(pos))
	}
	return 100, nil
}

// tellUnended says once, when the view has caught up, which of this server's
// boots ended without a mark: a crash took up to that many uses along.
func (r *usesRunner) tellUnended(ctx context.Context, self events.VerifierID) {
	for {
		if lag, err := r.lag(ctx); err == nil && lag == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	boots, err := r.view.Unended(ctx)
	if err != nil {
		r.log.Warn("boots without an end mark cannot be looked up", "error", err)
		return
	}
	for _, b := range boots {
		if b.Verifier == self && b.Superseded {
			r.log.Warn("an earlier run ended without its mark: uses may be missing",
				"boot", uuid.UUID(b.Boot).String(), "at_most", b.Count, "began", b.From.String(), "last_seen", b.To.String())
		}
	}
}

// failed returns why the view stopped.
func (r *usesRunner) failed() error {
	if err := r.err.Load(); err != nil {
		return fmt.Errorf("view %s has stopped: %w", r.view.Name(), *err)
	}
	return nil
}

// lag returns how many blocks are not yet applied.
func (r *usesRunner) lag(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	last, err := r.ledger.LastUses(ctx)
	if err != nil {
		return 0, err
	}
	pos, err := r.view.Position(ctx)
	return uint64(last - min(pos, last)), err
}
