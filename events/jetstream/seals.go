package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
)

// sealsRoot begins the subjects of the stream of seals.
const sealsRoot = "seals."

// Sealed returns what the stream of seals holds under a name, and whether it
// holds anything. The stream's leader answers.
func (l *Ledger) Sealed(ctx context.Context, name string) ([]byte, bool, error) {
	m, there, err := l.lastSeal(ctx, name)
	return m.body, there, err
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

// Destroy removes what lies under a name, if that is what is meant, and reports
// whether there was anything to remove. Its bytes are overwritten where they lay.
// It can be repeated, and after [events.ErrUnavailable] has to be: it may have
// been removed or not.
//
// What is removed is the very message that was looked at: one that is stored under
// the name meanwhile stays.
func (l *Ledger) Destroy(ctx context.Context, name string, meant func(body []byte) bool) (bool, error) {
	m, there, err := l.lastSeal(ctx, name)
	if err != nil || !there || !meant(m.body) {
		return false, err
	}
	request := struct {
		Seq     uint64 `json:"seq"`
		NoErase bool   `json:"no_erase"`
	}{Seq: m.seq}
	var answer struct {
		Error   *apiError `json:"error"`
		Success bool      `json:"success"`
	}
	if err := l.ask(ctx, "$JS.API.STREAM.MSG.DELETE."+StreamSeals, request, &answer); err != nil {
		return false, err
	}
	if answer.Error == nil && answer.Success {
		return true, nil
	}
	// Somebody else may have been faster; the refusals for that are several.
	switch now, there, err := l.lastSeal(ctx, name); {
	case err != nil:
		return false, err
	case !there || now.seq != m.seq:
		return false, nil
	case answer.Error != nil:
		return false, fmt.Errorf("%w: %w", events.ErrUnavailable, answer.Error)
	default:
		return false, fmt.Errorf("%w: the broker did not remove a seal", events.ErrUnavailable)
	}
}

// EachSeal hands over what lies under the names that begin with a prefix and a dot, in
// the order in which they were stored, until take returns an error, which is returned
// then. The stream's leader answers, one by one: what is stored meanwhile may be handed
// over, and what is stored under another name before it is destroyed under one is.
func (l *Ledger) EachSeal(ctx context.Context, prefix string, take func(name string, body []byte, stored events.Time) error) error {
	root := sealsRoot + prefix + "."
	for next := uint64(1); ; {
		m, err := l.get(ctx, StreamSeals, getRequest{Seq: next, Next: root + ">"})
		switch {
		case errors.Is(err, errNoMessage):
			return nil
		case err != nil:
			return err
		case m.seq < next || !strings.HasPrefix(m.subject, root):
			return fmt.Errorf("%w: %s at %d was answered when %s was asked for from %d on", events.ErrCorrupt, m.subject, m.seq, root, next)
		}
		if err := take(strings.TrimPrefix(m.subject, sealsRoot), m.body, m.stored); err != nil {
			return err
		}
		next = m.seq + 1
	}
}

// lastSeal returns what the stream of seals holds under a name.
func (l *Ledger) lastSeal(ctx context.Context, name string) (m message, there bool, err error) {
	subject := sealsRoot + name
	m, err = l.get(ctx, StreamSeals, getRequest{Last: subject})
	switch {
	case errors.Is(err, errNoMessage):
		return message{}, false, nil
	case err != nil:
		return message{}, false, err
	case m.subject != subject:
		return message{}, false, fmt.Errorf("%w: %s was answered when %s was asked for", events.ErrCorrupt, m.subject, subject)
	}
	return m, true, nil
}
