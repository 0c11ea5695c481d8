package histories

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
)

// load is what clients do, and what is judged of it afterwards.
type load interface {
	load(ctx context.Context)
	judge()
}

// under runs loads while something happens to the ledger.
func under(w *world, happens func(), loads ...load) {
	w.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	var running sync.WaitGroup
	for _, l := range loads {
		running.Go(func() { l.load(ctx) })
	}
	happens()
	cancel()
	running.Wait()
	for _, l := range loads {
		l.judge()
	}
}

// Two servers on one embedded broker, whose connections are cut now and then.
func TestOneNode(t *testing.T) {
	broker, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Shutdown)
	if err := broker.Setup(t.Context(), func(conn *nats.Conn) error { return jetstream.EnsureStreams(t.Context(), conn, 1) }); err != nil {
		t.Fatal(err)
	}
	var conns []*nats.Conn
	for range 2 {
		conn, err := broker.Connect(t.Context(), "server")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		conns = append(conns, conn)
	}
	w := newWorld(t, 1, conns...)
	under(w, func() {
		for n := range 6 {
			time.Sleep(time.Second)
			if err := conns[n%2].ForceReconnect(); err != nil {
				t.Error(err)
			}
		}
	}, newKeys(w))
}
