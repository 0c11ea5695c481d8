package jetstream_test

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
)

// beside makes a stream RAW with the ledger's own configuration, to compare with
// on the same disk, in the same run, in turns.
func beside(b *testing.B, broker *embedded.Broker) (*nats.Conn, natsjs.JetStream) {
	b.Helper()
	config := live(b, broker, jetstream.StreamLedger)
	config.Name, config.Subjects = "RAW", []string{"raw.>"}
	operate(b, broker, func(js natsjs.JetStream) error {
		_, err := js.CreateStream(b.Context(), config)
		return err
	})
	// An operator's connection, to be kept beyond the call.
	var conn *nats.Conn
	if err := broker.Setup(b.Context(), func(c *nats.Conn) error {
		o := c.Opts
		var err error
		conn, err = o.Connect()
		return err
	}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(conn.Close)
	js, err := natsjs.New(conn)
	if err != nil {
		b.Fatal(err)
	}
	return conn, js
}

// BenchmarkAppend appends beside plain publishes of the same bodies with the same
// durability: what the ledger costs above the broker.
func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, 2, 100, 1000} {
		b.Run(fmt.Sprintf("facts=%d", n), func(b *testing.B) {
			broker := begin(b, b.TempDir())
			l := ledger(b, broker.Conn())
			conn, js := beside(b, broker)
			var ours, raw time.Duration
			seq := 0
			for b.Loop() {
				wish := make([]events.Entry, n)
				for i := range wish {
					seq++
					wish[i] = entry(events.WorkspaceID("w" + strconv.Itoa(seq)))
				}
				start := time.Now()
				facts, err := l.Append(b.Context(), wish)
				ours += time.Since(start)
				if err != nil {
					b.Fatal(err)
				}
				start = time.Now()
				if n == 1 {
					_, err = js.Publish(b.Context(), "raw."+wish[0].Subject.String(), facts[0].Raw)
				} else {
					err = rawBatch(conn, facts)
				}
				raw += time.Since(start)
				if err != nil {
					b.Fatal(err)
				}
			}
			total := float64(n * b.N)
			b.ReportMetric(total/ours.Seconds(), "facts/s")
			b.ReportMetric(total/raw.Seconds(), "raw/s")
			b.ReportMetric(raw.Seconds()/ours.Seconds(), "of-raw")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// rawBatch publishes an atomic batch with nothing but what makes it one.
func rawBatch(conn *nats.Conn, facts []events.Recorded) error {
	id := nuid.Next()
	for i, r := range facts {
		m := nats.NewMsg("raw." + r.Subject.String())
		m.Data = r.Raw
		m.Header.Set("Nats-Batch-Id", id)
		m.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i+1))
		if i < len(facts)-1 {
			if err := conn.PublishMsg(m); err != nil {
				return err
			}
			continue
		}
		m.Header.Set("Nats-Batch-Commit", "1")
		answer, err := conn.RequestMsg(m, time.Minute)
		if err != nil {
			return err
		}
		if answer.Header.Get("Status") != "" || len(answer.Data) == 0 {
			return errors.New("batch was not committed")
		}
	}
	return nil
}

// BenchmarkFollow replays facts, decoded, beside nats.go's ordered consumer over
// the same messages, undecoded.
func BenchmarkFollow(b *testing.B) {
	const facts = 50_000
	broker := begin(b, b.TempDir())
	l := ledger(b, broker.Conn())
	_, js := beside(b, broker)
	for i := 0; i < facts; i += events.MaxBatch {
		wish := make([]events.Entry, events.MaxBatch)
		for k := range wish {
			wish[k] = entry(events.WorkspaceID("w" + strconv.Itoa(i+k)))
		}
		if _, err := l.Append(b.Context(), wish); err != nil {
			b.Fatal(err)
		}
	}
	var ours, raw time.Duration
	for b.Loop() {
		start := time.Now()
		err := l.Follow(b.Context(), 0, func(slice []events.Recorded) error {
			if slice[len(slice)-1].Position == facts {
				return errEnough
			}
			return nil
		})
		ours += time.Since(start)
		if !errors.Is(err, errEnough) {
			b.Fatal(err)
		}
		start = time.Now()
		if err := replay(b, js, facts); err != nil {
			b.Fatal(err)
		}
		raw += time.Since(start)
	}
	total := float64(facts * b.N)
	b.ReportMetric(total/ours.Seconds(), "facts/s")
	b.ReportMetric(total/raw.Seconds(), "raw/s")
	b.ReportMetric(raw.Seconds()/ours.Seconds(), "of-raw")
	b.ReportMetric(0, "ns/op")
}

func replay(b *testing.B, js natsjs.JetStream, facts int) error {
	consumer, err := js.OrderedConsumer(b.Context(), jetstream.StreamLedger, natsjs.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	done := make(chan struct{})
	seen := 0
	reading, err := consumer.Consume(func(natsjs.Msg) {
		if seen++; seen == facts {
			close(done)
		}
	}, natsjs.PullMaxMessages(5000))
	if err != nil {
		return err
	}
	<-done
	reading.Stop()
	return nil
}

// BenchmarkLoad reads the history of one subject among those of others, decoded,
// beside asking the leader for each fact of it, undecoded.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1500} {
		b.Run(fmt.Sprintf("facts=%d", n), func(b *testing.B) {
			broker := begin(b, b.TempDir())
			l := ledger(b, broker.Conn())
			history(b, l, n, 4)
			var ours, each time.Duration
			for b.Loop() {
				start := time.Now()
				facts, err := l.Load(b.Context(), long, 0)
				ours += time.Since(start)
				if err != nil || len(facts) != n {
					b.Fatal(len(facts), err)
				}
				start = time.Now()
				for _, r := range append(facts, events.Recorded{Position: facts[n-1].Position + 1}) {
					ask := fmt.Appendf(nil, `{"seq":%d,"next_by_subj":%q,"no_hdr":true}`, r.Position, long)
					if _, err := broker.Conn().Request("$JS.API.STREAM.MSG.GET."+jetstream.StreamLedger, ask, time.Minute); err != nil {
						b.Fatal(err)
					}
				}
				each += time.Since(start)
			}
			b.ReportMetric(ours.Seconds()*1e3/float64(b.N), "ms")
			b.ReportMetric(each.Seconds()*1e3/float64(b.N), "each-ms")
			b.ReportMetric(ours.Seconds()/each.Seconds(), "of-each")
			b.ReportMetric(0, "ns/op")
		})
	}
}
