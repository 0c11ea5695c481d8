package histories

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
)

// load is what clients do, and what is judged of it afterwards.
type load interface {
	load(ctx context.Context)
	// enough says that what was done so far is worth judging.
	enough() bool
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
	// A slow machine takes its time.
	for deadline := time.Now().Add(3 * time.Minute); slices.ContainsFunc(loads, func(l load) bool { return !l.enough() }); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Error("too little was done: this proves little")
			break
		}
	}
	cancel()
	at := time.Now()
	running.Wait()
	w.Logf("all clients have ended after %.1f s", time.Since(at).Seconds())
	for _, l := range loads {
		l.judge()
	}
}

// oneNode is a world with two servers on one embedded broker.
func oneNode(t *testing.T) *world {
	t.Helper()
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
	return newWorld(t, 1, conns...)
}

// One node, and connections that are cut now and then.
//
// Breaking it, and what showed it:
//   - answers that do not wait for the server's own index: the plain history of
//     keys and of ends;
//   - questions that do not wait for the position they name: the history of
//     questions that name the last answered change;
//   - a rotation without its expectation on the predecessor's revocation: its
//     model, and the ledger, with successors born after it;
//   - creates under a limit without the expectation on its guard: the limit's
//     model, and the ledger, with 9 keys on 4 places;
//   - an index that does not honour the end of an organization: the end's model;
//   - a data key that is destroyed before its replacement is recorded: resolves that
//     open nothing;
//   - a lost answer taken for one that nothing happened: [Log.Settle];
//   - repeats that do not look for their own first outcome: [Log.Settle].
func TestOneNode(t *testing.T) {
	w := oneNode(t)
	under(w, func() {
		for n := range 6 {
			time.Sleep(time.Second)
			if err := w.servers[n%2].conn.ForceReconnect(); err != nil {
				t.Error(err)
			}
		}
	}, newKeys(w), newLimit(w), newRotations(w), newEnds(w), newProviders(w))
}

// Two servers on three nodes, while the leader steps down, connections are cut,
// the leader is cut off from the others together with a server that goes on
// asking it, and the leader is killed.
//
// What a server beside an outdated leader says is judged like everything else.
//
// Breaking it: resolves that nobody confirms are answered by it with secrets that
// were replaced, which the model of a provider key shows.
func TestThreeNodes(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t)
	c.Begin()
	conns := []*nats.Conn{c.Connect(0), c.Connect(1)}
	w := newWorld(t, clustertest.Nodes, conns...)
	under(w, func() {
		at := time.Now()
		step := func(what string, wait time.Duration) {
			time.Sleep(wait)
			t.Logf("%5.1f s: %s", time.Since(at).Seconds(), what)
		}
		for n := range 3 {
			step("the leader steps down", time.Second)
			c.StepDown(jetstream.StreamLedger)
			step("a connection is cut", 500*time.Millisecond)
			if err := conns[n%len(conns)].ForceReconnect(); err != nil {
				t.Error(err)
			}
		}
		for c.NodeOf(conns[0]) == c.NodeOf(conns[1]) {
			if err := conns[1].ForceReconnect(); err != nil {
				t.Error(err)
			}
			time.Sleep(200 * time.Millisecond)
		}
		alone := c.NodeOf(conns[0])
		c.Lead(jetstream.StreamLedger, alone)
		step("the leader is cut off, with a server", time.Second)
		c.Isolate(alone)
		// Long enough for the others to elect one, and for the old one to notice.
		step("the leader is back", 14*time.Second)
		c.Heal(alone)
		step("the leader is killed", 3*time.Second)
		killed := c.Leader(jetstream.StreamLedger)
		c.Stop(killed)
		step("the killed one is back", 3*time.Second)
		c.Restart(killed)
		step("the end", 2*time.Second)
	}, newKeys(w), newLimit(w), newRotations(w), newEnds(w), newProviders(w))
}
