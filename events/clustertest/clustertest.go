// Package clustertest runs three brokers as one cluster inside a test, with the
// accounts, the rights and the streams that a ledger has on a real one, and breaks
// it: a node is stopped, the leader steps down, a node is cut off from the
// others. What lies on the nodes' files stays, so that a stopped node comes back
// as the one it was.
package clustertest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
)

// Nodes is how many brokers there are: the fewest of which one can be missed.
const Nodes = 3

// patience bounds what a cluster takes its time for: an election takes 4 to 9 s,
// and a busy machine makes it several.
const patience = 90 * time.Second

// pause is between two looks.
const pause = 50 * time.Millisecond

// compare is how often nodes compare what they know of accounts. A real one does so
// every minute.
const compare = time.Second

// Cluster is three brokers with one root of trust. Its methods are for one
// goroutine at a time.
type Cluster struct {
	t         testing.TB
	nodes     [Nodes]*node
	authority *credentials.Authority
	operator  *nats.Conn
}

type node struct {
	server *server.Server
	dir    string
	port   int // where clients come in, the same after a restart
	routes int // where the other nodes come in
	// wires lead to the other nodes, nil to itself.
	wires [Nodes]*wire
}

// Start starts a cluster that ends with the test. It has no streams yet: see
// [Cluster.Begin].
func Start(t testing.TB) *Cluster {
	t.Helper()
	authority, err := credentials.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{t: t, authority: authority}
	ports := FreePorts(t, 2*len(c.nodes))
	for i := range c.nodes {
		c.nodes[i] = &node{dir: t.TempDir(), port: ports[2*i], routes: ports[2*i+1]}
	}
	// The nodes know each other only by wires that can be cut.
	for i, from := range c.nodes {
		for j, to := range c.nodes {
			if i == j {
				continue
			}
			w, err := newWire(to.routes)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(w.close)
			from.wires[j] = w
		}
	}
	for i := range c.nodes {
		c.start(i)
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.server.Shutdown()
			n.server.WaitForShutdown()
		}
	})
	for i := range c.nodes {
		c.open(i)
	}
	c.operator = c.connect(0, credentials.OperatorCreds)
	return c
}

// start starts a node, and does not wait for the others.
func (c *Cluster) start(i int) {
	c.t.Helper()
	n := c.nodes[i]
	var routes []*url.URL
	for _, w := range n.wires {
		if w != nil {
			routes = append(routes, &url.URL{Scheme: "nats-route", Host: w.address()})
		}
	}
	operator, err := c.authority.Operator()
	if err != nil {
		c.t.Fatal(err)
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "n" + strconv.Itoa(i), Host: "127.0.0.1", Port: n.port, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: n.dir, SyncAlways: true,
		// The nodes tell each other where a third one is, and would go around the
		// wires: they tell of a place where nobody listens.
		Cluster:          server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: n.routes, NoAdvertise: true, Advertise: "127.0.0.1:1"},
		Routes:           routes,
		TrustedOperators: []*jwt.OperatorClaims{operator}, SystemAccount: c.authority.SystemAccount(), AccountResolver: c.accounts(n),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	s.Start()
	n.server = s
}

// accounts is what a node keeps of accounts: those that are there from the
// beginning, and those that it is told of.
func (c *Cluster) accounts(n *node) server.AccountResolver {
	c.t.Helper()
	resolver, err := server.NewDirAccResolver(filepath.Join(n.dir, "accounts"), 0, compare, server.NoDelete)
	if err != nil {
		c.t.Fatal(err)
	}
	accounts, err := c.authority.Accounts()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, account := range accounts {
		if err := resolver.Store(account.Public, account.JWT); err != nil {
			c.t.Fatal(err)
		}
	}
	return resolver
}

// open waits for a node.
func (c *Cluster) open(i int) {
	c.t.Helper()
	if !c.nodes[i].server.ReadyForConnections(patience) {
		c.t.Fatalf("clustertest: node %d did not start", i)
	}
}

// connect connects to a node, and to another when that one is gone.
func (c *Cluster) connect(i int, creds string, options ...nats.Option) *nats.Conn {
	c.t.Helper()
	secret, err := c.authority.Creds(creds)
	if err != nil {
		c.t.Fatal(err)
	}
	urls := ""
	for j := range Nodes {
		urls += fmt.Sprintf("nats://127.0.0.1:%d,", c.nodes[(i+j)%Nodes].port)
	}
	conn, err := nats.Connect(urls[:len(urls)-1], append(options,
		nats.UserCredentialBytes(secret), nats.MaxReconnects(-1), nats.DontRandomize(), nats.IgnoreDiscoveredServers(),
		nats.ReconnectWait(pause))...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(conn.Close)
	return conn
}

// Connect returns a connection with the rights that a server works with. It
// begins at a node and goes to the next one when that is gone.
func (c *Cluster) Connect(node int) *nats.Conn {
	c.t.Helper()
	return c.connect(node, credentials.ServerCreds, nats.CustomInboxPrefix(embedded.InboxPrefix))
}

// URL is where clients come in at a node.
func (c *Cluster) URL(node int) string {
	return fmt.Sprintf("nats://127.0.0.1:%d", c.nodes[node].port)
}

// System returns a connection to the system account.
func (c *Cluster) System() *nats.Conn {
	c.t.Helper()
	return c.connect(0, credentials.SystemCreds)
}

// Authority returns the nodes' root of trust.
func (c *Cluster) Authority() *credentials.Authority { return c.authority }

// Operator returns the connection that may do everything with the streams.
func (c *Cluster) Operator() *nats.Conn { return c.operator }

// In is the same cluster in another test, where what is asked of it ends with that
// test, and it itself does not. One such test at a time has the cluster.
func (c *Cluster) In(t testing.TB) *Cluster {
	t.Helper()
	in := *c
	in.t = t
	return &in
}

// Begin makes the ledger's streams, anew those that were used, once the cluster can.
func (c *Cluster) Begin() {
	c.t.Helper()
	c.until("unused streams", func() bool {
		err := Clear(c.t.Context(), c.operator)
		if err != nil && !errors.Is(err, events.ErrUnavailable) {
			c.t.Fatal(err)
		}
		return err == nil
	})
	c.until("streams", func() bool {
		err := jetstream.EnsureStreams(c.t.Context(), c.operator, Nodes)
		if err != nil && !errors.Is(err, events.ErrUnavailable) {
			c.t.Fatal(err)
		}
		return err == nil
	})
}

// Clear deletes those of the ledger's streams that anything was ever stored in, or
// that anybody reads, over a connection that may do everything. Making one again costs
// a cluster several times what a small test does, so those that are as new stay.
func Clear(ctx context.Context, conn *nats.Conn) error {
	js, err := natsjs.New(conn)
	if err != nil {
		return err
	}
	for _, name := range jetstream.Streams() {
		s, err := js.Stream(ctx, name)
		if errors.Is(err, natsjs.ErrStreamNotFound) {
			continue
		}
		if err == nil {
			if state := s.CachedInfo().State; state.LastSeq == 0 && state.Consumers == 0 {
				continue
			}
			err = js.DeleteStream(ctx, name)
		}
		if err != nil && !errors.Is(err, natsjs.ErrStreamNotFound) {
			return fmt.Errorf("%w: clear stream %s: %w", events.ErrUnavailable, name, err)
		}
	}
	return nil
}

// Leader returns the node that leads a stream, once there is one among those
// that the operator's connection reaches.
func (c *Cluster) Leader(stream string) int {
	c.t.Helper()
	leader := -1
	c.until("a leader of "+stream, func() bool {
		for i, n := range c.nodes {
			if n.server.Running() && n.server.JetStreamIsStreamLeader(c.authority.LedgerAccount(), stream) {
				leader = i
			}
		}
		return leader >= 0
	})
	return leader
}

// First returns the node that leads the cluster itself, once there is one.
func (c *Cluster) First() int {
	c.t.Helper()
	first := -1
	c.until("a leader of the cluster", func() bool {
		for i, n := range c.nodes {
			if n.server.Running() && n.server.JetStreamIsLeader() {
				first = i
			}
		}
		return first >= 0
	})
	return first
}

// Outdate cuts off a node that leads a stream and the cluster itself, which then
// takes it 16 s or more to notice, while the others need 9 at most for another
// leader. It has to be [Cluster.First].
func (c *Cluster) Outdate(stream string, node int) {
	c.t.Helper()
	// A leader looks every 10 s, beginning with its term, whether it has heard from
	// anybody within 10 s.
	c.Lead(stream, (node+1)%Nodes)
	c.Lead(stream, node)
	time.Sleep(2 * time.Second)
	c.Isolate(node)
}

// StepDown has the leader of a stream hand its office over. It is refused where
// there is no leader.
func (c *Cluster) StepDown(stream string) {
	// Whether it was heard shows in who leads then.
	_, _ = c.operator.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil, time.Second)
}

// Lead makes a node the leader of a stream.
func (c *Cluster) Lead(stream string, node int) {
	c.t.Helper()
	request := fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, c.nodes[node].server.Name())
	c.until("node "+strconv.Itoa(node)+" to lead "+stream, func() bool {
		if c.Leader(stream) == node {
			return true
		}
		_, _ = c.operator.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, request, time.Second)
		return false
	})
}

// NodeOf returns the node that a connection is at, once it is at one.
func (c *Cluster) NodeOf(conn *nats.Conn) int {
	c.t.Helper()
	at := -1
	c.until("a connected client", func() bool {
		for i, n := range c.nodes {
			if u, err := url.Parse(conn.ConnectedUrl()); err == nil && u.Port() == strconv.Itoa(n.port) {
				at = i
			}
		}
		return at >= 0
	})
	return at
}

// Stop stops a node without waiting for its clients.
func (c *Cluster) Stop(node int) {
	c.nodes[node].server.Shutdown()
	c.nodes[node].server.WaitForShutdown()
}

// Restart starts a stopped node on the files it left.
func (c *Cluster) Restart(node int) {
	c.t.Helper()
	c.start(node)
	c.open(node)
}

// Isolate cuts the wires between a node and the others. Its clients stay with it.
func (c *Cluster) Isolate(node int) { c.wires(node, (*wire).cut) }

// Heal mends what Isolate cut.
func (c *Cluster) Heal(node int) { c.wires(node, (*wire).mend) }

func (c *Cluster) wires(node int, f func(*wire)) {
	for i, n := range c.nodes {
		for j, w := range n.wires {
			if w != nil && (i == node || j == node) {
				f(w)
			}
		}
	}
}

// until waits for something that a cluster does in its own time.
func (c *Cluster) until(what string, done func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(pause) {
		if time.Now().After(deadline) {
			c.t.Fatalf("clustertest: %s: not within %s", what, patience)
		}
	}
}
