package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
)

// Identify tells which ledger is behind a connection, and whether one has begun
// there at all: for whoever has no [Ledger] yet because it takes an id to open
// one. The ledger's first fact, read from the stream's leader, is the only one
// that says so of itself. That it cannot be read wraps [events.ErrCorrupt].
func Identify(ctx context.Context, conn *nats.Conn) (events.LedgerID, bool, error) {
	return readOnly(conn).identify(ctx, StreamLedger)
}

func (l *Ledger) identify(ctx context.Context, stream string) (events.LedgerID, bool, error) {
	subject := events.InstallationSubject()
	m, err := l.get(ctx, stream, getRequest{Seq: 1, Next: subject.String()})
	if errors.Is(err, errNoMessage) {
		return events.LedgerID{}, false, nil
	}
	if err != nil {
		return events.LedgerID{}, false, err
	}
	_, event, err := events.Decode(subject, m.body)
	begun, ok := event.(events.InstallationCreated)
	if !ok || m.subject != subject.String() {
		return events.LedgerID{}, false, errors.Join(fmt.Errorf("%w: the ledger's first fact cannot be read", events.ErrCorrupt), err)
	}
	return begun.Ledger, true, nil
}
