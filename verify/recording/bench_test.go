package recording_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/verify/recording"
)

func now() events.Time { return events.TimeOf(time.Now()) }

// BenchmarkDurable records uses with 256 callers on an embedded broker that syncs
// always, buffered and durably in turns: each caller does some work between two uses,
// as long as a verdict over HTTP takes or none.
func BenchmarkDurable(b *testing.B) {
	const callers = 256
	broker, err := embedded.Start(b.Context(), embedded.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(broker.Shutdown)
	if err := broker.Setup(b.Context(), func(c *nats.Conn) error { return jetstream.EnsureStreams(b.Context(), c, 1) }); err != nil {
		b.Fatal(err)
	}
	conn, err := broker.Connect(b.Context(), "benchmark")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(conn.Close)
	id := events.LedgerID(uuid.New())
	ledger, err := jetstream.New(jetstream.Config{Conn: conn, Ledger: id, Replicas: 1})
	if err != nil {
		b.Fatal(err)
	}
	run := func(durable bool, work time.Duration, total int) time.Duration {
		r, err := recording.New(recording.Config{
			Ledger: id, Verifier: "benchmark", Sink: ledger, Durable: durable, MaxWait: 10 * time.Second,
		})
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		var left atomic.Int64
		left.Store(int64(total))
		began := time.Now()
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				key := events.KeyID(uuid.New())
				for left.Add(-1) >= 0 {
					for spun := time.Now(); time.Since(spun) < work; {
					}
					u := recording.Use{Org: "acme", Key: key, Code: events.CodeValid, Permission: "interview:start"}
					// A goroutine that stood still comes too late, and judges anew.
					for u.At = now(); !r.Record(b.Context(), &u); u.At = now() {
						if !r.Late(u.At) {
							b.Error("refused")
							return
						}
					}
				}
			})
		}
		wg.Wait()
		// What is buffered has to be stored as well.
		if err := r.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
		return time.Since(began)
	}
	for _, c := range []struct {
		name string
		work time.Duration
	}{{"bare", 0}, {"http", 15 * time.Microsecond}} {
		b.Run(c.name, func(b *testing.B) {
			const total = 100_000
			var buffered, durable time.Duration
			for range b.N {
				buffered += run(false, c.work, total)
				durable += run(true, c.work, total)
			}
			rate := func(d time.Duration) float64 { return float64(b.N) * total / d.Seconds() }
			b.ReportMetric(rate(buffered), "buffered/s")
			b.ReportMetric(rate(durable), "durable/s")
			b.ReportMetric(rate(durable)/rate(buffered), "durable/buffered")
			b.ReportMetric(0, "ns/op")
		})
	}
}
