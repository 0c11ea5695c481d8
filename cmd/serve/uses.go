package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/projections/usage"
)

// usesRunner feeds the usage view with the stream of uses, as a
// projections.Runner does with the ledger.
type usesRunner struct {
	ledger *jetstream.Ledger
	view   *usage.View
	log    *slog.Logger
	err    atomic.Pointer[error]
}

// run follows until the context ends. A view that cannot go on stops, says so,
// and keeps nobody else from going on.
func (r *usesRunner) run(ctx context.Context) {
	after, err := r.view.Position(ctx)
	if err == nil {
		err = r.ledger.FollowUses(ctx, after, func(blocks []events.UsesMessage) error { return r.view.Apply(ctx, blocks) })
	}
	if err == nil || ctx.Err() != nil && !errors.Is(err, events.ErrCorrupt) {
		return
	}
	r.err.Store(&err)
	r.log.Error("view stopped", "view", r.view.Name(), "error", err)
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
