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
	ctx, cancel := context.WithCancel(ctx)
	p := &pipeline{ledger: l, ordered: make(chan *chunk, pipelineDepth), work: make(chan *chunk, pipelineDepth)}
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
		t := &tail{ledger: l, stream: StreamLedger, last: after, hand: func(msgs []message) error { return p.add(ctx, msgs) }}
		ended = t.run(ctx)
	})
	var holder batch.Holder
	for c := range p.ordered {
		<-c.done
		whole, err := holder.Add(c.facts)
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
	ledger  *Ledger
	ordered chan *chunk
	work    chan *chunk
}

type chunk struct {
	messages []message
	facts    []events.Recorded
	done     chan struct{}
}

func (c *chunk) decode(l *Ledger) {
	c.facts = make([]events.Recorded, len(c.messages))
	for i, m := range c.messages {
		c.facts[i] = l.decode(m)
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
	t := &tail{ledger: l, stream: StreamUses, expires: true, last: after, hand: func(msgs []message) error {
		blocks := make([]events.UsesMessage, len(msgs))
		for i, m := range msgs {
			blocks[i] = events.UsesMessage{Position: events.Position(m.seq), Subject: m.subject, Body: m.body, Stored: m.stored}
		}
		return apply(blocks)
	}}
	return t.run(ctx)
}
