package watermill

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// PublisherConfig says how messages are published.
type PublisherConfig struct {
	// Conn is the connection. Required; closing the publisher leaves it open.
	Conn *nats.Conn
	// Timeout bounds the wait for the broker's answer to one message, unless its
	// context ends sooner. Default 10 s.
	Timeout time.Duration
}

// Validate reports every fault at once.
func (c PublisherConfig) Validate() error {
	var faults []error
	if c.Conn == nil {
		faults = append(faults, errors.New("watermill: Conn is missing"))
	}
	if c.Timeout < 0 {
		faults = append(faults, errors.New("watermill: Timeout is negative"))
	}
	return errors.Join(faults...)
}

// Publisher publishes to topics of an application, never to the ledger. It is
// safe for concurrent use.
type Publisher struct {
	js      jetstream.JetStream
	timeout time.Duration

	mu      sync.Mutex
	closed  bool
	ongoing sync.WaitGroup
}

var _ message.Publisher = (*Publisher)(nil)

// NewPublisher returns a publisher.
func NewPublisher(c PublisherConfig) (*Publisher, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	js, err := jetstream.New(c.Conn)
	if err != nil {
		return nil, fmt.Errorf("watermill: %w", err)
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	return &Publisher{js: js, timeout: c.Timeout}, nil
}

// Publish stores messages one after another, each once the one before is stored,
// and stops at the first that is not. A message that was stored has
// [MetadataStream] and [MetadataSequence]; its UUID is what the broker tells a
// duplicate by. Errors: [ErrReadOnly], [ErrInvalidTopic], [ErrInvalidMessage],
// [ErrNoStream] and [ErrRefused] when nothing was stored of the message at which
// it stopped; [ErrOutcomeUnknown] when that is not known.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	if err := checkTopic(topic); err != nil {
		return err
	}
	if !p.begin() {
		return ErrClosed
	}
	defer p.ongoing.Done()
	for _, m := range messages {
		if err := p.publish(topic, m); err != nil {
			return fmt.Errorf("topic %q, message %q: %w", topic, m.UUID, err)
		}
	}
	return nil
}

func (p *Publisher) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.ongoing.Add(1)
	}
	return !p.closed
}

func (p *Publisher) publish(topic string, m *message.Message) error {
	out, err := marshal(topic, m)
	if err != nil {
		return err
	}
	if err := m.Context().Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	// Later the same error would not tell whether the message was sent before.
	if p.js.Conn().IsClosed() {
		return fmt.Errorf("%w: %w", ErrRefused, nats.ErrConnectionClosed)
	}
	ctx, cancel := context.WithTimeout(m.Context(), p.timeout)
	defer cancel()
	// The stream is named, so that a stream of somebody else whose subjects happen
	// to take the topic does not swallow its messages.
	ack, err := p.js.PublishMsg(ctx, out, jetstream.WithExpectStream(streamOf(topic)))
	if err != nil {
		return outcome(err)
	}
	if m.Metadata == nil {
		m.Metadata = message.Metadata{}
	}
	m.Metadata[MetadataStream] = ack.Stream
	m.Metadata[MetadataSequence] = strconv.FormatUint(ack.Sequence, 10)
	delete(m.Metadata, MetadataDuplicate)
	if ack.Duplicate {
		m.Metadata[MetadataDuplicate] = "true"
	}
	return nil
}

// codeStoreFailed is the one refusal after which bytes of the message may be
// found again.
const codeStoreFailed = 10077

// outcome tells what an error of the client means for the message.
func outcome(err error) error {
	var refused *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return fmt.Errorf("%w: %w", ErrNoStream, err)
	case errors.As(err, &refused) && refused.ErrorCode != codeStoreFailed:
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	for _, unsent := range []error{
		nats.ErrMaxPayload, nats.ErrConnectionDraining, nats.ErrInvalidConnection,
		nats.ErrReconnectBufExceeded, nats.ErrHeadersNotSupported, nats.ErrBadSubject,
	} {
		if errors.Is(err, unsent) {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
}

// Close waits for the messages that are being published and refuses further ones.
func (p *Publisher) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.ongoing.Wait()
	return nil
}
