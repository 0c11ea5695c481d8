package watermill_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/relay/watermill"
)

const replayed = 20_000

// BenchmarkFollow replays revocations through a follower and through nats.go's own
// consumer with the same settings, in turns. Both decode every fact. The ratio is
// that of the rates: 1 is as fast as plain.
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
	for name, d := range map[string]watermill.Delivery{
		"strict": {MaxInFlight: 1}, "ahead": {MaxInFlight: 256}, "ahead+double": {MaxInFlight: 256, DoubleAck: true},
	} {
		b.Run(name, func(b *testing.B) {
			var ours, plain time.Duration
			for b.Loop() {
				ours += throughWatermill(b, conn, d)
				plain += throughNATS(b, conn, d)
			}
			total := float64(replayed * b.N)
			b.ReportMetric(total/ours.Seconds(), "facts/s")
			b.ReportMetric(total/plain.Seconds(), "plain/s")
			b.ReportMetric(plain.Seconds()/ours.Seconds(), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func throughWatermill(b *testing.B, conn *nats.Conn, d watermill.Delivery) time.Duration {
	b.Helper()
	d.Group = nuid.Next()
	f, err := watermill.NewFollower(watermill.FollowerConfig{
		Conn: conn, Ledger: ledgerID, Topics: map[string][]string{"r": watermill.Revocations()}, Delivery: d,
	})
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	messages, err := f.Subscribe(b.Context(), "r")
	if err != nil {
		b.Fatal(err)
	}
	for range replayed {
		m := <-messages
		if _, err := watermill.Decode(m); err != nil {
			b.Fatal(err)
		}
		m.Ack()
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

func throughNATS(b *testing.B, conn *nats.Conn, d watermill.Delivery) time.Duration {
	b.Helper()
	start := time.Now()
	c, err := js(b, conn).CreateConsumer(b.Context(), jetstream.StreamLedger, natsjs.ConsumerConfig{
		Durable: nuid.Next(), FilterSubject: watermill.Revocations()[0],
		AckPolicy: natsjs.AckExplicitPolicy, MaxAckPending: d.MaxInFlight,
	})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	n := 0
	consuming, err := c.Consume(func(m natsjs.Msg) {
		subject, err := events.ParseSubject(m.Subject())
		if err == nil {
			_, _, err = events.Decode(subject, m.Data())
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
	return time.Since(start)
}

// BenchmarkPublish publishes one message after another, beside nats.go's own
// publish with a message id and a confirmed answer, in turns.
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
		if _, err := stream.Publish(b.Context(), "bench", body, natsjs.WithMsgID(nuid.Next())); err != nil {
			b.Fatal(err)
		}
		plain += time.Since(start)
	}
	b.ReportMetric(float64(b.N)/ours.Seconds(), "msgs/s")
	b.ReportMetric(float64(b.N)/plain.Seconds(), "plain/s")
	b.ReportMetric(plain.Seconds()/ours.Seconds(), "ratio")
}
