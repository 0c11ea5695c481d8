package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/batch"
)

// aloneUpTo is up to how many blocks or records are published one by one. A batch
// has a fixed price on one server (a file of its own, about 2 ms) and one sync;
// single messages have a sync each.
const aloneUpTo = 4

// PublishUses stores blocks of uses, in order. Many go as atomic batches, only
// for speed: each block stands alone, and after an error some may be stored and
// others not. A block that was stored before, by an attempt whose outcome was
// unknown, is not stored again, as long as it is retried under its id within the
// two minutes that the broker remembers ids; readers go by the numbers that a
// verifier gave its blocks.
//
// It is retried, with the same ids, after [events.ErrUnavailable] and
// [events.ErrOutcomeUnknown].
func (l *Ledger) PublishUses(ctx context.Context, blocks []events.UsesMessage) error {
	if err := batch.CheckUses(blocks); err != nil {
		return err
	}
	for len(blocks) > 0 {
		n := min(len(blocks), events.MaxBatch)
		if err := l.publishUses(ctx, blocks[:n]); err != nil {
			return err
		}
		blocks = blocks[n:]
	}
	return nil
}

func (l *Ledger) publishUses(ctx context.Context, blocks []events.UsesMessage) error {
	msgs := make([]*nats.Msg, len(blocks))
	for i, b := range blocks {
		msgs[i] = identified(b.Subject, b.ID, b.Body)
	}
	return l.publishAlone(ctx, StreamUses, msgs)
}

// publishAlone publishes messages each of which stands alone, and has an id.
func (l *Ledger) publishAlone(ctx context.Context, stream string, msgs []*nats.Msg) error {
	if len(msgs) > aloneUpTo {
		_, err := l.publish(ctx, stream, msgs)
		if !alone(err) {
			return err
		}
	}
	for _, m := range msgs {
		// The headers of a batch that was refused are not for one alone.
		m = identified(m.Subject, m.Header.Get(headerMessageID), m.Data)
		// A duplicate is acknowledged like any other.
		_, err := l.publish(ctx, stream, []*nats.Msg{m})
		var refused *apiError
		if errors.As(err, &refused) && refused.Code == codeDuplicateInFlight {
			return fmt.Errorf("%w: an earlier attempt is still on its way: %w", events.ErrOutcomeUnknown, refused)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// alone tells whether blocks whose batch was refused can be stored one by one. Some
// were stored before, and the broker does not say which: one by one it does. Or it
// takes no more batches: a stream has room for a few dozen that are open, whoever
// opened them, and a verifier that leaves its own open must not keep the uses of
// all the others from being stored.
func alone(err error) bool {
	var refused *apiError
	if !errors.As(err, &refused) {
		return false
	}
	return refused.Code == codeBatchDuplicate || refused.Code == codeBatchesTooMany || refused.Code == codeBatchIncomplete
}

func identified(subject, id string, body []byte) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = body
	set(m, headerMessageID, id)
	return m
}

// UsesAt returns the block of uses at a position, as the stream's leader has it. It
// wraps [events.ErrInvalidPosition] if the stream does not reach that far, or begins
// behind it by now, and [events.ErrCorrupt] if it does and the block is missing.
func (l *Ledger) UsesAt(ctx context.Context, pos events.Position) (events.UsesMessage, error) {
	if pos == 0 {
		return events.UsesMessage{}, fmt.Errorf("%w: no block stands at position 0", events.ErrInvalidPosition)
	}
	m, err := l.get(ctx, StreamUses, getRequest{Seq: uint64(pos)})
	switch {
	case errors.Is(err, errNoMessage):
		info, err := l.info(ctx, StreamUses)
		if err != nil {
			return events.UsesMessage{}, err
		}
		if uint64(pos) < info.State.First || uint64(pos) > info.State.Last {
			return events.UsesMessage{}, fmt.Errorf("%w: no block of uses stands at position %d", events.ErrInvalidPosition, pos)
		}
		return events.UsesMessage{}, fmt.Errorf("%w: block of uses %d is missing", events.ErrCorrupt, pos)
	case err != nil:
		return events.UsesMessage{}, err
	}
	return events.UsesMessage{Position: events.Position(m.seq), Subject: m.subject, Body: m.body, Stored: m.stored}, nil
}

// FirstUses returns the position that the stream of uses begins with, or will if
// it holds none.
func (l *Ledger) FirstUses(ctx context.Context) (events.Position, error) {
	info, err := l.info(ctx, StreamUses)
	// A stream that never held any begins with 1, and says 0.
	return events.Position(max(info.State.First, 1)), err
}

// DropUses removes the blocks of uses up to a position. It wraps
// [events.ErrInvalidPosition] if the stream does not reach that far. It can be
// repeated, and after [events.ErrUnavailable] has to be: they may have been removed
// or not. That they go must be a fact of the ledger before.
func (l *Ledger) DropUses(ctx context.Context, through events.Position) error {
	info, err := l.info(ctx, StreamUses)
	switch {
	case err != nil:
		return err
	case uint64(through) > info.State.Last:
		return fmt.Errorf("%w: no block of uses stands at position %d", events.ErrInvalidPosition, through)
	case uint64(through) < info.State.First:
		return nil
	}
	// The broker keeps what stands at Seq. Without one it would keep nothing.
	return l.purge(ctx, StreamUses, struct {
		Seq uint64 `json:"seq"`
	}{uint64(through) + 1})
}

// purge removes what a request says from a stream that lets it. After an error it may
// have been removed or not.
func (l *Ledger) purge(ctx context.Context, stream string, request any) error {
	var answer struct {
		Error   *apiError `json:"error"`
		Success bool      `json:"success"`
	}
	if err := l.ask(ctx, "$JS.API.STREAM.PURGE."+stream, request, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return fmt.Errorf("%w: %w", events.ErrUnavailable, answer.Error)
	}
	if !answer.Success {
		return fmt.Errorf("%w: the broker removed nothing from %s", events.ErrUnavailable, stream)
	}
	return nil
}
