package deny

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	wm "github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/relay/watermill"
)

var (
	// ErrEnded says that the connection was closed for ever: by the broker when
	// the credential was revoked, or by its owner.
	ErrEnded = errors.New("deny: the connection to the ledger has ended")
	// ErrLost says that the list lacks what was acknowledged: its file is an older
	// one, or a new one. The ledger tells only what was not acknowledged, so that
	// this takes a new credential, to which it tells everything.
	ErrLost = errors.New("deny: the list lacks revocations that were acknowledged")
)

const (
	// topic names what is followed, and the group of its handlers.
	topic = "revocations"
	// look is how often the broker is asked whether anything is pending.
	look = time.Second
	// begin bounds the wait between two attempts to begin.
	begin = 5 * time.Second
)

// Config says what is followed, and where it is written down.
type Config struct {
	// Conn is a connection with a subscriber's credential, that reconnects for
	// ever. Required.
	Conn *nats.Conn
	// Consumer is the credential's name. Required. One credential keeps one list:
	// two services with the same one would share its messages.
	Consumer string
	// List takes what comes. Required.
	List *List
	// Patience is for how long a handler that fails is tried again before its
	// message is set aside. The next one waits for so long. Default 3 s.
	Patience time.Duration
	// Logger takes what goes wrong. Required.
	Logger *slog.Logger
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	for name, missing := range map[string]bool{
		"Conn": c.Conn == nil, "Consumer": c.Consumer == "", "List": c.List == nil, "Logger": c.Logger == nil,
	} {
		if missing {
			faults = append(faults, fmt.Errorf("deny: %s is missing", name))
		}
	}
	if c.Patience < 0 {
		faults = append(faults, errors.New("deny: Patience is negative"))
	}
	return errors.Join(faults...)
}

// Follower keeps a list up to date.
type Follower struct {
	config  Config
	pending atomic.Uint64
	current atomic.Pointer[time.Time]
}

// NewFollower returns a follower. Nothing is followed before Run.
func NewFollower(c Config) (*Follower, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Patience == 0 {
		c.Patience = 3 * time.Second
	}
	return &Follower{config: c}, nil
}

// Current tells when the list was last known to hold every revocation that the
// ledger had, zero if never in this run, and how many it lacked when it was last
// asked.
func (f *Follower) Current() (time.Time, uint64) {
	if at := f.current.Load(); at != nil {
		return *at, f.pending.Load()
	}
	return time.Time{}, f.pending.Load()
}

// Run follows until the context ends, and returns nil then. Only [ErrEnded] and
// [ErrLost] end it before: a broker that cannot be reached, or a consumer that is
// not there yet, is tried again.
func (f *Follower) Run(ctx context.Context) error {
	for {
		err := f.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case f.config.Conn.IsClosed():
			return errors.Join(ErrEnded, f.config.Conn.LastError())
		case errors.Is(err, ErrLost):
			return err
		}
		f.config.Logger.Error("following revocations", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(begin):
		}
	}
}

// follow runs a router until it ends.
func (f *Follower) follow(ctx context.Context) error {
	follower, err := watermill.NewFollower(watermill.FollowerConfig{
		Conn: f.config.Conn, Consumer: f.config.Consumer, Topics: map[string][]string{topic: watermill.Revocations()},
		Delivery: watermill.Delivery{Logger: f.config.Logger},
	})
	if err != nil {
		return err
	}
	defer func() { _ = follower.Close() }() // it returns nil
	place, err := follower.Place(ctx, topic)
	if err != nil {
		return err
	}
	if last := f.config.List.Last(); uint64(last) < place.Acknowledged {
		return fmt.Errorf("%w up to position %d, and ends at %d: bring its file back, or begin anew with a new credential", ErrLost, place.Acknowledged, last)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	messages, err := follower.Subscribe(ctx, topic)
	if err != nil {
		return err
	}
	router, err := f.router(begun{follower, messages})
	if err != nil {
		return err
	}
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		f.watch(ctx, follower)
	}()
	err = router.Run(ctx)
	stop()
	<-looked
	if err == nil {
		err = errors.New("deny: the subscription has ended")
	}
	return err
}

// begun is a subscription that has begun. A router whose subscription cannot begin
// leaves a goroutine behind, and here it is tried again and again.
type begun struct {
	*watermill.Subscriber
	messages <-chan *message.Message
}

func (b begun) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	return b.messages, nil
}

// router leads revocations to their handlers. A handler that fails is tried again
// for a while, and then its message is set aside. Only when that fails too
// does the message go back to the broker, which sends it again, and again; the
// list is not up to date as long as that lasts, and says so.
func (f *Follower) router(follower message.Subscriber) (*message.Router, error) {
	logger := wm.NewSlogLoggerWithLevelMapping(f.config.Logger, map[slog.Level]slog.Level{slog.LevelInfo: slog.LevelDebug})
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 15 * time.Second}, logger)
	if err != nil {
		return nil, fmt.Errorf("deny: %w", err)
	}
	aside, err := middleware.PoisonQueueWithFilter(f.config.List, "aside", func(err error) bool {
		// A handler that was told to stop has not failed.
		return !errors.Is(err, context.Canceled)
	})
	if err != nil {
		return nil, fmt.Errorf("deny: %w", err)
	}
	again := middleware.Retry{
		MaxRetries: 1000, MaxElapsedTime: f.config.Patience, // which comes first
		InitialInterval: 50 * time.Millisecond, Multiplier: 2, MaxInterval: 2 * time.Second, ResetContextOnRetry: true,
	}
	router.AddMiddleware(aside, again.Middleware, middleware.Recoverer)
	// One group of handlers: processors that subscribe for each handler would
	// share the consumer's messages among handlers.
	processor, err := cqrs.NewEventGroupProcessorWithConfig(router, cqrs.EventGroupProcessorConfig{
		GenerateSubscribeTopic: func(p cqrs.EventGroupProcessorGenerateSubscribeTopicParams) (string, error) {
			return p.EventGroupName, nil
		},
		SubscriberConstructor: func(cqrs.EventGroupProcessorSubscriberConstructorParams) (message.Subscriber, error) {
			return follower, nil
		},
		// What none of them takes is an error, and set aside.
		AckOnUnknownEvent: false,
		Marshaler:         watermill.Marshaler{},
		Logger:            logger,
	})
	if err != nil {
		return nil, fmt.Errorf("deny: %w", err)
	}
	if err := processor.AddHandlersGroup(topic, f.config.handlers()...); err != nil {
		return nil, fmt.Errorf("deny: %w", err)
	}
	return router, nil
}

// handlers are one for each kind of fact on the subjects of revocations, those
// that there will be, and those that cannot be read.
func (c Config) handlers() []cqrs.GroupEventHandler {
	return []cqrs.GroupEventHandler{
		cqrs.NewGroupEventHandler(func(_ context.Context, f *watermill.Fact[events.KeyRevoked]) error {
			return c.List.Deny(f.Recorded, string(f.Event.Kind()))
		}),
		cqrs.NewGroupEventHandler(func(_ context.Context, f *watermill.Fact[events.OrganizationDeleted]) error {
			return c.List.Deny(f.Recorded, string(f.Event.Kind()))
		}),
		cqrs.NewGroupEventHandler(func(ctx context.Context, f *watermill.Fact[events.Unknown]) error {
			c.Logger.WarnContext(ctx, "a kind that this service does not know", "kind", f.Event.Name, "position", f.Recorded.Position, "bears", f.Event.Bears)
			if !f.Event.Bears {
				return c.List.Pass(f.Recorded, string(f.Event.Name)) // it says itself that it closes nothing
			}
			return c.List.Deny(f.Recorded, string(f.Event.Name))
		}),
		cqrs.NewGroupEventHandler(func(ctx context.Context, f *watermill.Fact[events.Malformed]) error {
			c.Logger.ErrorContext(ctx, "a fact that cannot be read", "subject", f.Recorded.Subject, "position", f.Recorded.Position, "reason", f.Event.Reason)
			return c.List.Deny(f.Recorded, f.Event.Reason)
		}),
	}
}

// watch asks the broker how far behind the list is.
func (f *Follower) watch(ctx context.Context, follower *watermill.Subscriber) {
	for tick := time.NewTicker(look); ; {
		asked := time.Now()
		if place, err := follower.Place(ctx, topic); err == nil {
			f.pending.Store(place.Pending)
			if place.Pending == 0 {
				f.current.Store(&asked)
			}
		} else if ctx.Err() == nil {
			f.config.Logger.Warn("whether the list is up to date is not known", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return
		}
	}
}
