package jetstream

import (
	"context"
	"runtime"
	"sync"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/batch"
)

// Follow hands every fact after a position to apply, in order and without a gap,
// in slices of what has arrived: up to [batch.Slice], or one larger batch. A
// batch is held back until it is whole and never split, except that it may begin
// within one if the position does. What apply is given is its own to keep.
//
// A body that is no fact of the subject it stands on is handed over as
// [events.Malformed]. Gaps, positions that go back, torn batches and a stream
// that ends before the position end with [events.ErrCorrupt]. Follow outlives
// disconnects and the loss of leaders; it returns the context's error, apply's,
// or [events.ErrUnavailable] once the connection was closed for ever.
func (l *Ledger) Follow(ctx context.Context, after events.Position, apply func([]events.Recorded) error) error {
	return follow(ctx, l.id, l.tail(StreamLedger, after), &batch.Holder{}, apply)
}

// holder holds facts back until the batch they belong to is whole.
type holder interface {
	Add(facts []events.Recorded) ([]events.Recorded, error)
}

// follow decodes what a tail brings, several slices at a time, and hands it over
// in order.
func follow(ctx context.Context, id events.LedgerID, t *tail, held holder, apply func([]events.Recorded) error) error {
	ctx, cancel := context.WithCancel(ctx)
	p := &pipeline{ledger: id, ordered: make(chan *chunk, pipelineDepth), work: make(chan *chunk, pipelineDepth)}
	var workers, reader sync.WaitGroup
	defer func() {
		cancel()
		reader.Wait()
		close(p.work)
		workers.Wait()
	}()
	for range min(runtime.GOMAXPROCS(0), maxDecoders) {
		workers.Go(p.decode)
	}
	var ended error
	reader.Go(func() {
		defer close(p.ordered)
		t.hand = func(msgs []message) error { return p.add(ctx, msgs) }
		ended = t.run(ctx)
	})
	for c := range p.ordered {
		<-c.done
		whole, err := held.Add(c.facts)
		if err != nil {
			return err
		}
		err = batch.Each(whole, func(facts []events.Recorded) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return apply(facts)
		})
		if err != nil {
			return err
		}
	}
	return ended
}

// Decoding a fact costs more than reading it, so several slices are decoded at a
// time. They are handed over in the order in which they arrived.
const (
	pipelineDepth = 8
	maxDecoders   = 4
	// inline is up to how many facts are decoded on the spot: handing them to
	// someone else takes longer.
	inline = 4
)

type pipeline struct {
	ledger  events.LedgerID
	ordered chan *chunk
	work    chan *chunk
}

type chunk struct {
	messages []message
	facts    []events.Recorded
	done     chan struct{}
}

func (c *chunk) decode(ledger events.LedgerID) {
	c.facts = make([]events.Recorded, len(c.messages))
	for i, m := range c.messages {
		c.facts[i] = m.decode(ledger)
	}
	close(c.done)
}

func (p *pipeline) decode() {
	for c := range p.work {
		c.decode(p.ledger)
	}
}

func (p *pipeline) add(ctx context.Context, messages []message) error {
	c := &chunk{messages: messages, done: make(chan struct{})}
	if len(messages) <= inline {
		c.decode(p.ledger)
	} else {
		select {
		case p.work <- c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case p.ordered <- c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// FollowUses hands every block of uses after a position to apply, in order, in
// slices of what has arrived. The stream may begin later than the position, as
// old uses expire, and then so do the blocks; within there is no gap. Errors are
// those of [Ledger.Follow].
func (l *Ledger) FollowUses(ctx context.Context, after events.Position, apply func([]events.UsesMessage) error) error {
	return followUses(ctx, l.tail(StreamUses, after), apply)
}

func followUses(ctx context.Context, t *tail, apply func([]events.UsesMessage) error) error {
	return followAs(ctx, t, apply, func(m message) events.UsesMessage {
		return events.UsesMessage{Position: events.Position(m.seq), Subject: m.subject, Body: m.body, Stored: m.stored}
	})
}

// followAs follows a stream of messages that each stand alone.
func followAs[T any](ctx context.Context, t *tail, apply func([]T) error, as func(message) T) error {
	t.hand = func(msgs []message) error {
		all := make([]T, len(msgs))
		for i, m := range msgs {
			all[i] = as(m)
		}
		return apply(all)
	}
	return t.run(ctx)
}
