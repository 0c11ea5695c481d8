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

// Place is how far a group has come, as its consumer tells.
type Place struct {
	// Acknowledged is the sequence up to which everything is acknowledged, for
	// the ledger a position; 0 while nothing is. What a group keeps of what it
	// acknowledged has to reach as far.
	Acknowledged uint64
	// Pending is how many messages are not acknowledged yet: 0 is up to date.
	Pending uint64
}

// Place tells how far the group, or the bound consumer, of a topic has come. The
// broker's answer may be some seconds old where a node was cut off from the
// others.
func (s *Subscriber) Place(ctx context.Context, topic string) (Place, error) {
	if err := s.topics.prepare(ctx, s.js, topic); err != nil {
		return Place{}, err
	}
	src := s.topics.source(topic)
	if src.consumer.Durable == "" {
		return Place{}, fmt.Errorf("%w: without a group there is no place to tell", ErrNoConsumer)
	}
	info, err := s.consumerInfo(ctx, src)
	if err != nil {
		return Place{}, err
	}
	return Place{info.AckFloor.Stream, info.NumPending + uint64(max(info.NumAckPending, 0))}, nil
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
