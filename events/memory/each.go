package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/batch"
)

// AppendEach stores facts that stand alone, at adjacent positions, all or none.
func (l *Ledger) AppendEach(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	parts, err := batch.PrepareEach(l.id, entries, events.TimeOf(time.Now()))
	if err != nil {
		return nil, err
	}
	return l.storeParts(parts)
}

// Latest returns the last fact of a subject, and whether there is one.
func (l *Ledger) Latest(ctx context.Context, subject events.Subject) (events.Recorded, bool, error) {
	if err := ctx.Err(); err != nil {
		return events.Recorded{}, false, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	if _, err := events.ParseSubject(subject.String()); err != nil {
		return events.Recorded{}, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.last[subject.String()]
	if last == 0 {
		return events.Recorded{}, false, nil
	}
	return l.facts[last-1], true, nil
}

// Confirm confirms what was read, as there is no leader that could be outdated, and
// says where the ledger ends.
func (l *Ledger) Confirm(ctx context.Context, _ time.Time) (events.Position, error) {
	return l.Last(ctx)
}
