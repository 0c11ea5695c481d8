package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/batch"
)

// The headers of a publish. The three of an atomic batch are NATS ADR-50.
const (
	headerMessageID     = "Nats-Msg-Id"
	headerExpected      = "Nats-Expected-Last-Subject-Sequence"
	headerExpectedOn    = "Nats-Expected-Last-Subject-Sequence-Subject"
	headerBatchID       = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
)

// Within a batch the broker is asked for a sign of life now and then: it says
// early that the batch was refused, and keeps large batches from overrunning the
// broker's inbound queue (128 MiB for all of a stream). Each one is a wait, so
// small batches go without; their one answer comes as soon.
const (
	signEvery = 512
	signBytes = 4 << 20
)

// Append stores facts as one, or nothing, and returns them in their places
// (Stored is left to readers: the broker does not tell). All belong to one
// organization. Errors:
//
//   - [events.ErrConflict]: an expectation did not hold, or one of the message
//     ids (see [batch.Part]) was stored before. Nothing was stored by this call.
//   - [events.ErrUnavailable]: nothing was stored, a retry is safe. No one
//     answers for the stream, the connection is down, the broker refused before
//     storing, or the commit of the batch was never sent.
//   - [events.ErrOutcomeUnknown]: all or nothing was stored. The answer to what
//     decides did not come, or does not tell.
//   - [events.ErrTooLarge]: a fact or the batch is; nothing was stored.
//   - [batch.ErrInvalid]: the caller's fault; nothing was sent.
//
// An answer that the caller's context did not wait for is unknown.
func (l *Ledger) Append(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	parts, err := batch.Prepare(l.id, entries, events.TimeOf(time.Now()))
	if err != nil {
		return nil, err
	}
	return l.store(ctx, parts)
}

// store publishes what was made ready as one.
func (l *Ledger) store(ctx context.Context, parts []batch.Part) ([]events.Recorded, error) {
	msgs := make([]*nats.Msg, len(parts))
	for i, p := range parts {
		m := nats.NewMsg(p.Recorded.Subject.String())
		m.Data = p.Recorded.Raw
		set(m, headerMessageID, p.MessageID)
		if x := p.Expect; !x.Subject.IsZero() {
			// The subject is always named, also when it is the message's own: one
			// form, and always literal. Wildcards are not serializable on a quorum.
			set(m, headerExpected, strconv.FormatUint(uint64(x.Last), 10))
			set(m, headerExpectedOn, x.Subject.String())
		}
		msgs[i] = m
	}
	ack, err := l.publish(ctx, StreamLedger, msgs)
	if err != nil {
		return nil, err
	}
	if ack.Duplicate {
		return nil, fmt.Errorf("%w: message id was stored before, at position %d", events.ErrConflict, ack.Seq)
	}
	l.seen.reach(ack.Seq)
	out := make([]events.Recorded, len(parts))
	first := ack.Seq - uint64(len(parts)) + 1
	for i, p := range parts {
		out[i] = p.Recorded
		out[i].Position = events.Position(first + uint64(i))
	}
	return out, nil
}

// set writes a header as it is: the canonical form of package net/textproto is
// not the broker's.
func set(m *nats.Msg, name, value string) { m.Header[name] = []string{value} }

// pubAck is the broker's answer to a publish, or to the commit of a batch.
type pubAck struct {
	Error     *apiError `json:"error"`
	Stream    string    `json:"stream"`
	Seq       uint64    `json:"seq"`
	Duplicate bool      `json:"duplicate"`
	Batch     string    `json:"batch"`
	Count     int       `json:"count"`
}

// publish stores messages as one and returns the answer to the last.
func (l *Ledger) publish(ctx context.Context, stream string, msgs []*nats.Msg) (pubAck, error) {
	// While the connection is down, the client would keep what is published in
	// a buffer and send it later: an outcome unknown for no gain.
	if status := l.conn.Status(); status != nats.CONNECTED {
		return pubAck{}, fmt.Errorf("%w: connection is %s", events.ErrUnavailable, status)
	}
	if err := ctx.Err(); err != nil {
		return pubAck{}, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	last := msgs[len(msgs)-1]
	id := ""
	if len(msgs) > 1 {
		id = nuid.Next()
		if err := l.stage(ctx, id, msgs); err != nil {
			return pubAck{}, err
		}
		set(last, headerBatchCommit, "1")
	}
	// From here on the facts may be stored whatever happens.
	answer, err := l.request(ctx, last)
	if err != nil {
		return pubAck{}, outcome(err)
	}
	var ack pubAck
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return pubAck{}, fmt.Errorf("%w: unreadable answer", events.ErrOutcomeUnknown)
	}
	switch {
	case ack.Error != nil:
		return pubAck{}, ack.Error.append()
	case ack.Stream != stream || ack.Seq < uint64(len(msgs)) || ack.Batch != id || (id != "" && ack.Count != len(msgs)):
		return pubAck{}, fmt.Errorf("%w: the answer is for something else", events.ErrOutcomeUnknown)
	}
	return ack, nil
}

// stage sends all of a batch but its last message. Whatever goes wrong, nothing
// is stored: without the commit the broker drops the batch, after 10 s at most.
func (l *Ledger) stage(ctx context.Context, id string, msgs []*nats.Msg) error {
	unsent := 0
	for i, m := range msgs {
		set(m, headerBatchID, id)
		set(m, headerBatchSequence, strconv.Itoa(i+1))
		if i == len(msgs)-1 {
			return nil
		}
		unsent += len(m.Data)
		// The first message of a large batch is acknowledged too: it opens the
		// batch, which is where the broker refuses one too many.
		if (i == 0 && len(msgs) > signEvery) || (i+1)%signEvery == 0 || unsent >= signBytes {
			unsent = 0
			answer, err := l.request(ctx, m)
			if err != nil {
				return staging(err)
			}
			if len(answer.Data) == 0 {
				continue
			}
			var ack pubAck
			if err := json.Unmarshal(answer.Data, &ack); err == nil && ack.Error != nil {
				return staging(ack.Error)
			}
			return staging(errors.New("jetstream: unexpected answer within a batch"))
		}
		if err := l.conn.PublishMsg(m); err != nil {
			return staging(err)
		}
	}
	return nil
}

func (l *Ledger) request(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, l.config.AppendTimeout)
	defer cancel()
	return l.conn.RequestMsgWithContext(ctx, m)
}

// staging is the error of a batch whose commit was not sent.
func staging(err error) error {
	var refused *apiError
	if errors.Is(err, nats.ErrMaxPayload) || errors.As(err, &refused) && (refused.Code == codeMessageTooLarge || refused.Code == codeBatchTooLarge) {
		return fmt.Errorf("%w: %w", events.ErrTooLarge, err)
	}
	return fmt.Errorf("%w: batch was not committed: %w", events.ErrUnavailable, err)
}

// outcome tells what is known when the request that decides got no answer.
func outcome(err error) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		// The broker itself says that nobody took the message.
		return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	case errors.Is(err, nats.ErrMaxPayload):
		// The client measured it and sent nothing.
		return fmt.Errorf("%w: %w", events.ErrTooLarge, err)
	default:
		// Deadlines, a cancelled context, and a connection that closed: the
		// client does not tell whether it did so before or after sending.
		return fmt.Errorf("%w: %w", events.ErrOutcomeUnknown, err)
	}
}
