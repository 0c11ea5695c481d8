package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/ledgertest"
)

// cluster is three servers with one account, and a connection to each with the
// rights that a server works with.
type cluster struct {
	servers  []*server.Server
	working  []*nats.Conn
	operator *nats.Conn
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{}
	// Each has to know of the others before it starts.
	var routes []*url.URL
	for range 3 {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		routes = append(routes, &url.URL{Scheme: "nats-route", Host: free.Addr().String()})
		if err := free.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		port, err := strconv.Atoi(routes[i].Port())
		if err != nil {
			t.Fatal(err)
		}
		opts := &server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: t.TempDir(),
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port}, Routes: routes,
		}
		account := server.NewAccount("LEDGER")
		opts.Accounts = []*server.Account{account}
		opts.Users = []*server.User{
			{Username: "operator", Password: "operator", Account: account},
			{Username: "server", Password: "server", Account: account, Permissions: embedded.ServerPermissions()},
		}
		s, err := server.NewServer(opts)
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(func() {
			s.Shutdown()
			s.WaitForShutdown()
		})
		c.servers = append(c.servers, s)
	}
	for _, s := range c.servers {
		if !s.ReadyForConnections(20 * time.Second) {
			t.Fatal("server did not start")
		}
		live, err := s.LookupAccount("LEDGER")
		if err != nil {
			t.Fatal(err)
		}
		if err := live.EnableJetStream(nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	connect := func(s *server.Server, user string, options ...nats.Option) *nats.Conn {
		conn, err := nats.Connect(s.ClientURL(), append(options, nats.UserInfo(user, user), nats.MaxReconnects(-1))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		return conn
	}
	c.operator = connect(c.servers[0], "operator")
	for _, s := range c.servers {
		c.working = append(c.working, connect(s, "server", nats.CustomInboxPrefix(embedded.InboxPrefix)))
	}
	return c
}

// begin makes the streams anew, once the cluster can.
func (c *cluster) begin(t *testing.T) {
	t.Helper()
	js, err := natsjs.New(c.operator)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{jetstream.StreamLedger, jetstream.StreamUses} {
		for {
			err := js.DeleteStream(t.Context(), name)
			if err == nil || errors.Is(err, natsjs.ErrStreamNotFound) {
				break
			}
			// No leader yet.
			time.Sleep(50 * time.Millisecond)
		}
	}
	for {
		err := jetstream.EnsureStreams(t.Context(), c.operator, 3)
		if err == nil {
			return
		}
		if !errors.Is(err, events.ErrUnavailable) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// ledger is the ledger as it is seen over one of the nodes.
func (c *cluster) ledger(t *testing.T, node int, catchUp time.Duration) *jetstream.Ledger {
	t.Helper()
	l, err := jetstream.New(jetstream.Config{
		Conn: c.working[node], Ledger: ledgerID, Replicas: 3,
		Heartbeat: 200 * time.Millisecond, CatchUp: catchUp,
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// The suite on three nodes, over a connection to a node that need not lead.
func TestLedgerOnThreeNodes(t *testing.T) {
	c := startCluster(t)
	turn := 0
	ledgertest.Run(t, func(t *testing.T) ledgertest.Bench {
		c.begin(t)
		turn++
		l := c.ledger(t, turn%3, 500*time.Millisecond)
		if err := l.CheckStreams(t.Context()); err != nil {
			t.Fatal(err)
		}
		return ledgertest.Bench{
			Ledger: l, ID: ledgerID,
			Plant: func(t testing.TB, subject string, body []byte) { plant(t, c.working[turn%3], subject, body) },
		}
	})
}

// Leaders step down and a node leaves while facts are appended, each until it is
// known to be stored: each is stored once, and the follower sees all in order.
func TestLostLeaders(t *testing.T) {
	c := startCluster(t)
	c.begin(t)
	writer, follower := c.ledger(t, 0, 0), c.ledger(t, 1, 0)
	const facts = 80
	var writing sync.WaitGroup
	writing.Go(func() {
		wish := entries(facts)
		for i := 0; i < facts; i += 2 {
			switch {
			case i == facts/2:
				c.servers[2].Shutdown()
			case i%16 == 8:
				// Refused when there is no leader to step down.
				_, _ = c.operator.Request("$JS.API.STREAM.LEADER.STEPDOWN."+jetstream.StreamLedger, nil, time.Second)
			}
			for {
				_, err := writer.Append(t.Context(), wish[i:i+2])
				if err == nil || errors.Is(err, events.ErrConflict) {
					break
				}
				if !errors.Is(err, events.ErrUnavailable) && !errors.Is(err, events.ErrOutcomeUnknown) {
					t.Error(err)
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
	})
	seen := make(map[events.Subject]bool)
	last := events.Position(0)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := follower.Follow(ctx, 0, func(slice []events.Recorded) error {
		for _, r := range slice {
			if last++; r.Position != last || seen[r.Subject] {
				return fmt.Errorf("position %d after %d, seen before: %t", r.Position, last-1, seen[r.Subject])
			}
			seen[r.Subject] = true
		}
		if last == facts {
			return errEnough
		}
		return nil
	})
	writing.Wait()
	if !errors.Is(err, errEnough) {
		t.Fatalf("follow: %v at %d", err, last)
	}
	if end, err := writer.Last(t.Context()); err != nil || end != facts {
		t.Fatalf("last is %d: %v", end, err)
	}
}
