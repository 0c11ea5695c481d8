package watermill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
)

// Bounds and defaults of [Delivery].
const (
	defaultAckWait      = 30 * time.Second
	minAckWait          = 100 * time.Millisecond
	defaultCloseTimeout = 10 * time.Second
	defaultHeartbeat    = 5 * time.Second
	minHeartbeat        = 100 * time.Millisecond // the broker takes no less
	maxInFlight         = 10_000                 // beyond it, a lost connection repeats too much
	maxPrefetch         = 1024
	// strictAsk is how many messages are asked for at a time when the broker
	// sends one at a time anyway.
	strictAsk = 64
	// askTimeout bounds every question to the broker.
	askTimeout = 5 * time.Second
)

// Delivery says how messages reach their handlers.
type Delivery struct {
	// Group names the durable consumer that the members of a group share: each
	// message goes to one of them, and the group's place survives them all.
	// Letters, digits, '-' and '_'. Empty: every subscription has a consumer of
	// its own, which begins at the first message and goes with it.
	Group string
	// MaxInFlight bounds how many messages of the group are sent and not yet
	// acknowledged. Default 1, which is strict order (see the package comment).
	MaxInFlight int
	// Prefetch bounds how many of those one subscription asks for ahead. It hands
	// them out one at a time; to work in parallel, subscribe more than once.
	// Default: MaxInFlight, at most 256.
	Prefetch int
	// AckWait is when the broker gives a message of a dead member to another.
	// While a handler works the broker is told so, three times in this time, for
	// as long as it takes. Default 30 s.
	AckWait time.Duration
	// DoubleAck waits until the broker has the acknowledgement: a round trip for
	// each message, and fewer that come twice.
	DoubleAck bool
	// NackDelay is how long a refused message waits before it comes again, by how
	// often it came. Default: 50 ms, doubling, at most 10 s.
	NackDelay func(delivered uint64) time.Duration
	// CloseTimeout bounds the wait for handlers when a subscription ends. Default
	// 10 s.
	CloseTimeout time.Duration
	// Malformed takes the messages that could not be read in full, and why, in
	// place of the handler: nil acknowledges, an error refuses. What was lost is
	// not in the message, what was read is. Without it they go to the handler
	// with [MetadataMalformed].
	Malformed func(*message.Message, error) error
	// Heartbeat is how often an idle broker shows that it is there. Default 5 s.
	Heartbeat time.Duration
	// Logger takes what goes wrong and comes right again. Default: nobody.
	Logger *slog.Logger
}

func (d Delivery) faults() []error {
	var faults []error
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, errors.New("watermill: "+text))
		}
	}
	fault(d.Group != "" && !token(d.Group) || len(d.Group) > maxTopic, "Group is not made of letters, digits, '-' and '_'")
	fault(d.MaxInFlight < 0 || d.MaxInFlight > maxInFlight, fmt.Sprintf("MaxInFlight is not within 1 and %d", maxInFlight))
	fault(d.Prefetch < 0 || d.Prefetch > maxPrefetch, fmt.Sprintf("Prefetch is not within 1 and %d", maxPrefetch))
	fault(d.AckWait != 0 && d.AckWait < minAckWait, "AckWait is less than 100 ms")
	fault(d.CloseTimeout < 0, "CloseTimeout is negative")
	fault(d.Heartbeat != 0 && (d.Heartbeat < minHeartbeat || d.Heartbeat > pullExpiry/2), "Heartbeat is not within 100 ms and 15 s")
	return faults
}

// window is how many messages are sent at a time, and how many are asked for.
func (d Delivery) window(inFlight int) Delivery {
	d.MaxInFlight = inFlight
	switch {
	case d.MaxInFlight == 1:
		d.Prefetch = strictAsk
	case d.Prefetch == 0:
		d.Prefetch = min(d.MaxInFlight, 256)
	}
	return d
}

func (d Delivery) filled() Delivery {
	if d.MaxInFlight == 0 {
		d.MaxInFlight = 1
	}
	if d.AckWait == 0 {
		d.AckWait = defaultAckWait
	}
	if d.NackDelay == nil {
		d.NackDelay = func(delivered uint64) time.Duration {
			return min(50*time.Millisecond<<min(max(delivered, 1)-1, 8), 10*time.Second)
		}
	}
	if d.CloseTimeout == 0 {
		d.CloseTimeout = defaultCloseTimeout
	}
	if d.Heartbeat == 0 {
		d.Heartbeat = defaultHeartbeat
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	return d
}

// SubscriberConfig says how an application subscribes to its own topics.
type SubscriberConfig struct {
	// Conn is the connection. Required; closing the subscriber leaves it open. It
	// should reconnect for ever (nats.MaxReconnects(-1)).
	Conn *nats.Conn
	// Streams says how the stream of a new topic is made.
	Streams Streams
	Delivery
}

// Validate reports every fault at once.
func (c SubscriberConfig) Validate() error {
	var faults []error
	if c.Conn == nil {
		faults = append(faults, errors.New("watermill: Conn is missing"))
	}
	faults = append(faults, c.Streams.faults()...)
	return errors.Join(append(faults, c.faults()...)...)
}

// Subscriber hands out the messages of topics. It is safe for concurrent use.
type Subscriber struct {
	conn     *nats.Conn
	js       jetstream.JetStream
	delivery Delivery
	topics   topics

	mu      sync.Mutex
	closed  bool
	closing chan struct{}
	running sync.WaitGroup
}

var (
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// topics is what a subscriber knows about topics: those of an application, or
// those of the ledger.
type topics interface {
	// prepare makes sure that a topic can be subscribed to.
	prepare(ctx context.Context, js jetstream.JetStream, topic string) error
	// source returns where the messages of a topic come from.
	source(topic string) source
}

// source is where messages come from.
type source struct {
	stream string
	// consumer has everything but what [Delivery] says.
	consumer jetstream.ConsumerConfig
	// bound says that somebody else makes the consumer.
	bound bool
	// ledger is whose facts they are; zero where there are none, and until a bound
	// consumer told.
	ledger events.LedgerID
	// read makes a message of what was stored; with a fault it is what could be
	// read of it.
	read func(*source, *nats.Msg, *place) (*message.Message, *reading)
}

// NewSubscriber returns a subscriber to topics of an application.
func NewSubscriber(c SubscriberConfig) (*Subscriber, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return newSubscriber(c.Conn, c.Delivery, own{c.Streams, c.Group})
}

func newSubscriber(conn *nats.Conn, d Delivery, t topics) (*Subscriber, error) {
	js, err := jetstream.New(conn, jetstream.WithDefaultTimeout(askTimeout))
	if err != nil {
		return nil, fmt.Errorf("watermill: %w", err)
	}
	return &Subscriber{conn: conn, js: js, delivery: d.filled(), topics: t, closing: make(chan struct{})}, nil
}

// own are the topics of an application: a stream each.
type own struct {
	streams Streams
	group   string
}

func (o own) prepare(ctx context.Context, js jetstream.JetStream, topic string) error {
	if err := checkTopic(topic); err != nil {
		return err
	}
	return o.streams.ensure(ctx, js, topic)
}

func (o own) source(topic string) source {
	return source{
		stream: streamOf(topic), read: unmarshal,
		consumer: jetstream.ConsumerConfig{Durable: o.group, FilterSubject: topic},
	}
}

// SubscribeInitialize makes sure that a topic can be published to: it creates the
// stream of an application's topic. Of the ledger it creates nothing, and says
// whether the topic is known.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	return s.topics.prepare(ctx, s.js, topic)
}

// Subscribe returns the messages of a topic, one at a time: the next one comes
// when the last was acknowledged or refused. The channel closes after the context
// ended or Close was called, and the handler's answer was waited for. The context
// of every message derives from the given one.
//
// The subscription outlives the connection's breaks and the consumer's removal;
// an ephemeral one then goes on behind what was acknowledged.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, ErrClosed
	}
	s.running.Add(1)
	s.mu.Unlock()
	sub, err := s.subscribe(ctx, topic)
	if err != nil {
		s.running.Done()
		return nil, err
	}
	go func() {
		defer s.running.Done()
		sub.run()
	}()
	return sub.out, nil
}

func (s *Subscriber) subscribe(ctx context.Context, topic string) (*subscription, error) {
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := s.topics.prepare(asking, s.js, topic); err != nil {
		return nil, err
	}
	src, delivery := s.topics.source(topic), s.delivery.window(s.delivery.MaxInFlight)
	if src.bound {
		if err := s.bind(asking, &src, &delivery); err != nil {
			return nil, err
		}
	}
	sub := newSubscription(ctx, s, src, delivery, topic)
	if err := sub.renew(asking); err != nil {
		return nil, err
	}
	if err := sub.listen(); err != nil {
		return nil, err
	}
	return sub, nil
}

// Close ends all subscriptions: nothing more is handed out, what was not handed
// out goes back to the broker, and the handlers' answers are waited for up to
// CloseTimeout. What is unanswered then has its context cancelled, goes back to
// the broker too and comes again. It returns nil, and so do further calls.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	s.mu.Unlock()
	s.running.Wait()
	return nil
}

// ensureConsumer makes a source's consumer, or sees that it is there. Begin, if
// it is not 0, is where a consumer without a group goes on.
func (s *Subscriber) ensureConsumer(ctx context.Context, src source, begin uint64) error {
	if src.bound {
		// A request for messages finds out whether it is there.
		return nil
	}
	c := src.consumer
	c.AckPolicy, c.ReplayPolicy = jetstream.AckExplicitPolicy, jetstream.ReplayInstantPolicy
	c.AckWait, c.MaxAckPending, c.MaxDeliver = s.delivery.AckWait, s.delivery.MaxInFlight, -1
	if c.Durable == "" {
		c.InactiveThreshold, c.MemoryStorage = 5*time.Minute, true
		if begin != 0 {
			c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, begin
		}
	}
	_, err := s.js.CreateConsumer(ctx, src.stream, c)
	if errors.Is(err, jetstream.ErrConsumerExists) {
		return s.adopt(ctx, src.stream, c)
	}
	return describe(src, err)
}

// adopt takes over a group's consumer that was made with other settings. What it
// reads is not a setting.
func (s *Subscriber) adopt(ctx context.Context, stream string, c jetstream.ConsumerConfig) error {
	there, err := s.js.Consumer(ctx, stream, c.Durable)
	if err != nil {
		return fmt.Errorf("watermill: group %q: %w", c.Durable, err)
	}
	is := there.CachedInfo().Config
	if err := same(stream, is, filters(c)); err != nil {
		return err
	}
	is.AckWait, is.MaxAckPending, is.MaxDeliver = c.AckWait, c.MaxAckPending, c.MaxDeliver
	if _, err := s.js.UpdateConsumer(ctx, stream, is); err != nil {
		return fmt.Errorf("watermill: group %q: %w", c.Durable, err)
	}
	return nil
}

// same refuses a consumer that is not read as this one is, or reads something else.
func same(stream string, is jetstream.ConsumerConfig, reads []string) error {
	if !slices.Equal(filters(is), reads) || is.AckPolicy != jetstream.AckExplicitPolicy {
		return fmt.Errorf("%w: %q on stream %s reads %q, acknowledging: %s", ErrGroupTaken, is.Durable, stream, filters(is), is.AckPolicy)
	}
	return nil
}

func filters(c jetstream.ConsumerConfig) []string {
	all := slices.Clone(c.FilterSubjects)
	if c.FilterSubject != "" {
		all = append(all, c.FilterSubject)
	}
	slices.Sort(all)
	return all
}

func describe(src source, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("%w: %s", ErrNoStream, src.stream)
	default:
		return fmt.Errorf("watermill: consumer on stream %s: %w", src.stream, err)
	}
}
