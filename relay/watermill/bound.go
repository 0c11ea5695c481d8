package watermill

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
)

// MetadataLedger is, in the metadata of a consumer, the id of the ledger that it
// reads.
const MetadataLedger = "keyledger_ledger"

// bind takes from a consumer that somebody else made what this one is to know.
func (s *Subscriber) bind(ctx context.Context, src *source, d *Delivery) error {
	info, err := s.consumerInfo(ctx, *src)
	if err != nil {
		return err
	}
	is := info.Config
	reads := filters(src.consumer)
	if len(reads) == 0 {
		reads = filters(is)
	}
	if err := same(src.stream, is, reads); err != nil {
		return err
	}
	if text := is.Metadata[MetadataLedger]; text != "" {
		id, err := events.ParseLedgerID(text)
		if err != nil {
			return fmt.Errorf("watermill: consumer %q: its ledger: %w", is.Durable, err)
		}
		if src.ledger != (events.LedgerID{}) && src.ledger != id {
			return fmt.Errorf("%w: %q reads ledger %s", ErrGroupTaken, is.Durable, id)
		}
		src.ledger = id
	}
	if src.ledger == (events.LedgerID{}) {
		return fmt.Errorf("watermill: consumer %q does not say which ledger it reads: set Ledger", is.Durable)
	}
	d.AckWait = max(is.AckWait, minAckWait)
	inFlight := is.MaxAckPending
	if inFlight < 1 || inFlight > maxInFlight {
		inFlight = maxInFlight // no bound there
	}
	*d = d.window(inFlight)
	return nil
}

// Pending tells how many messages of a topic its group, or its bound consumer,
// has not acknowledged yet: 0 is up to date. The broker's answer may be some
// seconds old where a node was cut off from the others.
func (s *Subscriber) Pending(ctx context.Context, topic string) (uint64, error) {
	if err := s.topics.prepare(ctx, s.js, topic); err != nil {
		return 0, err
	}
	src := s.topics.source(topic)
	if src.consumer.Durable == "" {
		return 0, fmt.Errorf("%w: without a group there is no place to tell", ErrNoConsumer)
	}
	info, err := s.consumerInfo(ctx, src)
	if err != nil {
		return 0, err
	}
	return info.NumPending + uint64(max(info.NumAckPending, 0)), nil
}

// consumerInfo asks about a consumer that is there.
func (s *Subscriber) consumerInfo(ctx context.Context, src source) (*jetstream.ConsumerInfo, error) {
	c, err := s.js.Consumer(ctx, src.stream, src.consumer.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil, fmt.Errorf("%w: %q on stream %s", ErrNoConsumer, src.consumer.Durable, src.stream)
	}
	if err != nil {
		return nil, describe(src, err)
	}
	return c.CachedInfo(), nil
}
