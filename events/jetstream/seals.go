package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
)

// sealsRoot begins the subjects of the stream of seals.
const sealsRoot = "seals."

// Sealed returns what the stream of seals holds under a name, and whether it
// holds anything. The stream's leader answers.
func (l *Ledger) Sealed(ctx context.Context, name string) ([]byte, bool, error) {
	subject := sealsRoot + name
	m, err := l.get(ctx, StreamSeals, getRequest{Last: subject})
	switch {
	case errors.Is(err, errNoMessage):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	case m.subject != subject:
		return nil, false, fmt.Errorf("%w: %s was answered when %s was asked for", events.ErrCorrupt, m.subject, subject)
	}
	return m.body, true, nil
}

// Seal stores what is wrapped under a name that holds nothing yet, else it is
// [events.ErrConflict]. The other errors are those of [Ledger.Append].
func (l *Ledger) Seal(ctx context.Context, name string, body []byte) error {
	m := nats.NewMsg(sealsRoot + name)
	m.Data = body
	set(m, headerExpected, strconv.Itoa(0))
	set(m, headerExpectedOn, m.Subject)
	_, err := l.publish(ctx, StreamSeals, []*nats.Msg{m})
	return err
}
