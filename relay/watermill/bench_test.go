package watermill_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/batch"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/relay/watermill"
)

// replayed is how many facts one turn takes: few, so that what else the machine
// does meets both alike.
const replayed = 5_000

// BenchmarkFollow replays revocations through a follower and through nats.go's own
// consumer with the same settings, in turns, over one connection. Both learn each
// fact's place, decode it, see that it is this ledger's, and acknowledge it. The
// ratio is that of the rates, by the median of all turns: 1 is as fast as plain. "router" has Watermill's
// router and event processor on top, with one handler that does nothing.
func BenchmarkFollow(b *testing.B) {
	broker := broker(b)
	conn := operator(b, broker)
	l, err := jetstream.New(jetstream.Config{Conn: broker.Conn(), Ledger: ledgerID, Replicas: 1})
	if err != nil {
		b.Fatal(err)
	}
	for n := 0; n < replayed; n += events.MaxBatch {
		wish := make([]events.Entry, events.MaxBatch)
		for i := range wish {
			wish[i] = revocation("acme", n+i)
		}
		if _, err := l.Append(b.Context(), wish); err != nil {
			b.Fatal(err)
		}
	}
	for _, c := range []struct {
		name    string
		d       watermill.Delivery
		through func(*testing.B, *watermill.Subscriber)
	}{
		{"strict", watermill.Delivery{MaxInFlight: 1}, throughChannel},
		{"ahead", watermill.Delivery{MaxInFlight: 256}, throughChannel},
		{"ahead+double", watermill.Delivery{MaxInFlight: 256, DoubleAck: true}, throughChannel},
		{"ahead+router", watermill.Delivery{MaxInFlight: 256}, throughRouter},
	} {
		b.Run(c.name, func(b *testing.B) {
			var ours, plain []time.Duration
			for b.Loop() {
				c.d.Group = nuid.Next()
				ours = append(ours, timed(b, conn, watermill.ConsumerName(c.d.Group, "r"), func() { throughWatermill(b, conn, c.d, c.through) }))
				group := nuid.Next()
				plain = append(plain, timed(b, conn, group, func() { throughNATS(b, conn, group, c.d) }))
			}
			a, p := median(ours).Seconds(), median(plain).Seconds()
			b.ReportMetric(replayed/a, "facts/s")
			b.ReportMetric(replayed/p, "plain/s")
			b.ReportMetric(p/a, "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// median leaves out the odd turn in which somebody waits half a minute: nats.go's
// consumer does, about once in twenty, where one message at a time is in flight.
func median(took []time.Duration) time.Duration {
	slices.Sort(took)
	return took[len(took)/2]
}

// timed times a replay, and sees that all of it was acknowledged.
func timed(b *testing.B, conn *nats.Conn, consumer string, replay func()) time.Duration {
	b.Helper()
	start := time.Now()
	replay()
	took := time.Since(start)
	settled(b, conn, jetstream.StreamLedger, consumer)
	if err := js(b, conn).DeleteConsumer(b.Context(), jetstream.StreamLedger, consumer); err != nil {
		b.Fatal(err)
	}
	return took
}

func throughWatermill(b *testing.B, conn *nats.Conn, d watermill.Delivery, through func(*testing.B, *watermill.Subscriber)) {
	b.Helper()
	f, err := watermill.NewFollower(watermill.FollowerConfig{
		Conn: conn, Ledger: ledgerID, Topics: map[string][]string{"r": watermill.Revocations()}, Delivery: d,
	})
	if err != nil {
		b.Fatal(err)
	}
	through(b, f)
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
}

func throughChannel(b *testing.B, f *watermill.Subscriber) {
	b.Helper()
	messages, err := f.Subscribe(b.Context(), "r")
	if err != nil {
		b.Fatal(err)
	}
	for range replayed {
		m := <-messages
		if r, err := watermill.Decode(m); err != nil || r.Position == 0 {
			b.Fatal(r.Position, err)
		}
		m.Ack()
	}
}

func throughRouter(b *testing.B, f *watermill.Subscriber) {
	b.Helper()
	r, err := message.NewRouter(message.RouterConfig{}, wm.NopLogger{})
	if err != nil {
		b.Fatal(err)
	}
	p, err := cqrs.NewEventGroupProcessorWithConfig(r, cqrs.EventGroupProcessorConfig{
		GenerateSubscribeTopic: func(p cqrs.EventGroupProcessorGenerateSubscribeTopicParams) (string, error) {
			return p.EventGroupName, nil
		},
		SubscriberConstructor: func(cqrs.EventGroupProcessorSubscriberConstructorParams) (message.Subscriber, error) { return f, nil },
		Marshaler:             watermill.Marshaler{},
	})
	if err != nil {
		b.Fatal(err)
	}
	n, done := 0, make(chan struct{})
	err = p.AddHandlersGroup("r", cqrs.NewGroupEventHandler(func(_ context.Context, f *watermill.Fact[events.KeyRevoked]) error {
		if n++; n == replayed {
			close(done)
		}
		return nil
	}))
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.Run(b.Context()) }()
	<-done
	if err := r.Close(); err != nil {
		b.Fatal(err)
	}
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}

func throughNATS(b *testing.B, conn *nats.Conn, group string, d watermill.Delivery) {
	b.Helper()
	c, err := js(b, conn).CreateConsumer(b.Context(), jetstream.StreamLedger, natsjs.ConsumerConfig{
		Durable: group, FilterSubject: watermill.Revocations()[0],
		AckPolicy: natsjs.AckExplicitPolicy, MaxAckPending: d.MaxInFlight,
	})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	n := 0
	consuming, err := c.Consume(func(m natsjs.Msg) {
		at, err := m.Metadata()
		if err == nil {
			if r := batch.Read(ledgerID, m.Subject(), m.Data()); r.Event.Kind() != events.KindKeyRevoked || at.Sequence.Stream == 0 {
				err = errors.New("no revocation")
			}
		}
		if err == nil && d.DoubleAck {
			err = m.DoubleAck(b.Context())
		} else if err == nil {
			err = m.Ack()
		}
		if n++; n == replayed || err != nil {
			select {
			case done <- err:
			default:
			}
		}
	}, natsjs.PullMaxMessages(max(d.MaxInFlight, 64)))
	if err != nil {
		b.Fatal(err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	consuming.Stop()
	<-consuming.Closed()
	if err := conn.Flush(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkPublish publishes one message after another, beside nats.go's own
// publish with a message id, the same expectation and a confirmed answer, in turns.
func BenchmarkPublish(b *testing.B) {
	conn := operator(b, broker(b))
	initialize(b, subscriber(b, conn, swift("g")), "bench")
	p, stream := publisher(b, conn), js(b, conn)
	body := make([]byte, 200)
	var ours, plain time.Duration
	for b.Loop() {
		start := time.Now()
		if err := p.Publish("bench", newMessage(body)); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(start)
		start = time.Now()
		if _, err := stream.Publish(b.Context(), "bench", body, natsjs.WithMsgID(nuid.Next()), natsjs.WithExpectStream("bench")); err != nil {
			b.Fatal(err)
		}
		plain += time.Since(start)
	}
	b.ReportMetric(float64(b.N)/ours.Seconds(), "msgs/s")
	b.ReportMetric(float64(b.N)/plain.Seconds(), "plain/s")
	b.ReportMetric(plain.Seconds()/ours.Seconds(), "ratio")
}
