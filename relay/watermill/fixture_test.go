package watermill_test

import (
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/relay/watermill"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(
		m,
		// The suite's own subscriber hands on what nobody reads any more when it
		// was closed, for ever.
		goleak.IgnoreAnyFunction("github.com/ThreeDotsLabs/watermill/internal/subscriber.(*multiplier).Subscribe.func2"),
		goleak.IgnoreAnyFunction("github.com/ThreeDotsLabs/watermill/internal/subscriber.(*multiplier).Subscribe.func3"),
	)
}

var ledgerID = events.LedgerID(uuid.MustParse("0198c0de-0000-7000-8000-00000000001d"))

// broker starts an embedded broker with the ledger's streams, for programs within.
func broker(t testing.TB) *embedded.Broker {
	t.Helper()
	return start(t, embedded.Config{Dir: t.TempDir()})
}

// listens starts one that others reach.
func listens(t testing.TB) *embedded.Broker {
	t.Helper()
	return start(t, embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
}

func start(t testing.TB, c embedded.Config) *embedded.Broker {
	t.Helper()
	b, err := embedded.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	if err := b.Setup(t.Context(), func(conn *nats.Conn) error { return jetstream.EnsureStreams(t.Context(), conn, 1) }); err != nil {
		t.Fatal(err)
	}
	return b
}

// operator returns a connection that may do everything.
func operator(t testing.TB, b *embedded.Broker, options ...nats.Option) *nats.Conn {
	t.Helper()
	var conn *nats.Conn
	err := b.Setup(t.Context(), func(c *nats.Conn) error {
		o := c.Opts
		for _, option := range options {
			if err := option(&o); err != nil {
				return err
			}
		}
		var err error
		conn, err = o.Connect()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func js(t testing.TB, conn *nats.Conn) natsjs.JetStream {
	t.Helper()
	js, err := natsjs.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// swift is delivery for tests: what is refused comes again at once, and nobody
// waits long for handlers that were forgotten.
func swift(group string) watermill.Delivery {
	return watermill.Delivery{
		Group: group, CloseTimeout: 100 * time.Millisecond, Heartbeat: time.Second,
		NackDelay: func(uint64) time.Duration { return 0 },
	}
}

func publisher(t testing.TB, conn *nats.Conn) *watermill.Publisher {
	t.Helper()
	p, err := watermill.NewPublisher(watermill.PublisherConfig{Conn: conn, Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func subscriber(t testing.TB, conn *nats.Conn, d watermill.Delivery) *watermill.Subscriber {
	t.Helper()
	s, err := watermill.NewSubscriber(watermill.SubscriberConfig{Conn: conn, Delivery: d})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newMessage(body []byte) *message.Message { return message.NewMessage(wm.NewUUID(), body) }
