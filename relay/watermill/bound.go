package watermill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
)

// MetadataLedger is, in the metadata of a consumer, the id of the ledger that it
// reads.
const MetadataLedger = "keyledger_ledger"

const (
	// codeNoConsumer says that a consumer is not there, codeNoStream that its
	// stream is not.
	codeNoConsumer = 10014
	codeNoStream   = 10059
	// codeNoJetStream is what an account without streams of its own answers to
	// any question.
	codeNoJetStream = 10039
	// secondAnswer bounds the wait for another answer than that one.
	secondAnswer = time.Second
)

// bind takes from a consumer that somebody else made what this one is to know.
func (s *Subscriber) bind(ctx context.Context, src *source, d *Delivery) error {
	info, err := s.consumerInfo(ctx, src.stream, src.consumer.Durable)
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
	info, err := s.consumerInfo(ctx, src.stream, src.consumer.Durable)
	if err != nil {
		return 0, err
	}
	return info.NumPending + uint64(max(info.NumAckPending, 0)), nil
}

// consumerInfo asks about a consumer. It does without nats.go's own question:
// asked from another account, through an import, the broker answers twice, once
// for the account that has the consumer and once for the one that asks, and
// either may be first.
func (s *Subscriber) consumerInfo(ctx context.Context, stream, name string) (*jetstream.ConsumerInfo, error) {
	inbox := s.conn.NewInbox()
	answers, err := s.conn.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("watermill: %w", err)
	}
	defer func() { _ = answers.Unsubscribe() }()
	subject := jetstream.DefaultAPIPrefix + "CONSUMER.INFO." + stream + "." + name
	if err := s.conn.PublishRequest(subject, inbox, nil); err != nil {
		return nil, fmt.Errorf("watermill: %w", err)
	}
	for first := true; ; first = false {
		wait, cancel := context.WithTimeout(ctx, secondAnswer)
		if first {
			cancel()
			wait, cancel = context.WithTimeout(ctx, askTimeout)
		}
		m, err := answers.NextMsgWithContext(wait)
		cancel()
		if err != nil && !first {
			err = errors.New("the broker has no streams for this account")
		}
		if err != nil {
			return nil, fmt.Errorf("watermill: ask about consumer %q: %w", name, err)
		}
		info, code, err := readInfo(m)
		switch {
		case code == codeNoJetStream:
		case code == codeNoConsumer:
			return nil, fmt.Errorf("%w: %q on stream %s", ErrNoConsumer, name, stream)
		case code == codeNoStream:
			return nil, fmt.Errorf("%w: %s", ErrNoStream, stream)
		case err != nil:
			return nil, fmt.Errorf("watermill: ask about consumer %q: %w", name, err)
		default:
			return info, nil
		}
	}
}

func readInfo(m *nats.Msg) (*jetstream.ConsumerInfo, jetstream.ErrorCode, error) {
	if m.Header.Get("Status") == "503" {
		return nil, 0, nats.ErrNoResponders
	}
	var answer struct {
		jetstream.ConsumerInfo
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return nil, 0, err
	}
	if answer.Error != nil {
		return nil, answer.Error.ErrorCode, answer.Error
	}
	return &answer.ConsumerInfo, 0, nil
}
