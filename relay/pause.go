package relay

import (
	"context"
	"errors"
	"time"

	"github.com/keyledger/keyledger/events"
)

// Pause waits, and reports whether it was allowed to last: false when the context
// ends first.
func Pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Outage reports whether it is the ledger that failed, or who asked it that went,
// and not what was asked about one thing.
func Outage(err error) bool {
	return errors.Is(err, events.ErrUnavailable) || errors.Is(err, events.ErrOutcomeUnknown) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
