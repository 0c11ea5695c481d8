package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/batch"
)

// AppendEach stores facts that stand alone, at adjacent positions, all or none:
// one atomic batch for the broker, which syncs it once, and single facts for
// whoever reads them (see [batch.PrepareEach]). Errors are those of Append. A
// conflict does not tell which of the facts met it.
func (l *Ledger) AppendEach(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	parts, err := batch.PrepareEach(l.id, entries, events.TimeOf(time.Now()))
	if err != nil {
		return nil, err
	}
	return l.store(ctx, parts)
}

// Latest returns the last fact of a subject, and whether there is one. Like Load
// it asks the stream's leader. What came before is not looked at.
func (l *Ledger) Latest(ctx context.Context, subject events.Subject) (events.Recorded, bool, error) {
	if _, err := events.ParseSubject(subject.String()); err != nil {
		return events.Recorded{}, false, err
	}
	m, err := l.get(ctx, StreamLedger, getRequest{Last: subject.String()})
	if errors.Is(err, errNoMessage) {
		return events.Recorded{}, false, nil
	}
	if err != nil {
		return events.Recorded{}, false, err
	}
	if m.subject != subject.String() {
		return events.Recorded{}, false, fmt.Errorf("%w: position %d was answered when the last on %s was asked for", events.ErrCorrupt, m.seq, subject)
	}
	return m.decode(l.id), true, nil
}
