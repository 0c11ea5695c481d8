package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/ledgertest"
)

// ledgerOver is the cluster's ledger over one of its connections.
func ledgerOver(t *testing.T, conn *nats.Conn, catchUp time.Duration) *jetstream.Ledger {
	t.Helper()
	l, err := jetstream.New(jetstream.Config{
		Conn: conn, Ledger: ledgerID, Replicas: clustertest.Nodes,
		Heartbeat: 200 * time.Millisecond, CatchUp: catchUp,
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// What leaves the cluster as it was shares one, one test after the other.
func TestOnThreeNodes(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *clustertest.Cluster)
	}{
		{"ledger", ledgerOnThreeNodes},
		{"ledger by credential", ledgerByCredentialOnThreeNodes},
		{"conflicts", conflictsOnThreeNodes},
		{"withheld commit", withheldCommitOnThreeNodes},
		{"corruption", corruptionOnThreeNodes},
		{"snapshots", onThree(snapshotsAreRead)},
		{"half a snapshot", onThree(halfASnapshot)},
		{"snapshot meanwhile", onThree(snapshotMeanwhile)},
		{"snapshots at a time", onThree(snapshotsAtATime)},
		{"presence", onThree(presenceIsKept)},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := c.In(t)
			c.Begin()
			test.run(t, c)
		})
	}
}

// How facts are stored on three nodes, over a connection to a node that need not lead.
// What a ledger refuses to send, or to read, it does on one node as well.
func ledgerOnThreeNodes(t *testing.T, c *clustertest.Cluster) {
	var conns [clustertest.Nodes]*nats.Conn
	for i := range conns {
		conns[i] = c.Connect(i)
	}
	turn := 0
	ledgertest.Run(t, func(t *testing.T) ledgertest.Bench {
		c.Begin()
		turn++
		conn := conns[turn%len(conns)]
		l := ledgerOver(t, conn, 500*time.Millisecond)
		if err := l.CheckStreams(t.Context()); err != nil {
			t.Fatal(err)
		}
		return ledgertest.Bench{
			Ledger: l, ID: ledgerID,
			Plant: func(t testing.TB, subject string, body []byte) { plant(t, conn, subject, body) },
		}
	}, ledgertest.Stored)
}

// The same, followed by credentials that show everything.
func ledgerByCredentialOnThreeNodes(t *testing.T, c *clustertest.Cluster) {
	conns := []*nats.Conn{c.Connect(0), c.Connect(1), c.Connect(2)}
	used := new(atomic.Int64)
	ledgertest.Run(t, func(t *testing.T) ledgertest.Bench {
		c.Begin()
		conn := conns[int(used.Add(1))%len(conns)]
		return ledgertest.Bench{
			Ledger: credentialed{ledgerOver(t, conn, 500*time.Millisecond), t, conn, c.Operator(), used}, ID: ledgerID,
			Plant: func(t testing.TB, subject string, body []byte) { plant(t, conn, subject, body) },
		}
	}, ledgertest.Follows, ledgertest.Stored)
}

// Leaders step down and a node leaves while facts are appended, each until it is
// known to be stored: each is stored once, and followers see all in order, the
// ledger's own and one by a credential.
func TestLostLeaders(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t)
	c.Begin()
	writer, follower := ledgerOver(t, c.Connect(0), 0), ledgerOver(t, c.Connect(1), 0)
	const facts = 80
	var writing sync.WaitGroup
	writing.Go(func() {
		wish := entries(facts)
		for i := 0; i < facts; i += 2 {
			switch {
			case i == facts/2:
				c.Stop(2)
			case i%16 == 8:
				c.StepDown(jetstream.StreamLedger)
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
	reader(t, c.Connect(1), spec("credential"))
	followers := map[string]interface {
		Follow(context.Context, events.Position, func([]events.Recorded) error) error
	}{"ledger": follower, "credential": readerOf(t, c.Operator(), "credential")}
	for name, follower := range followers {
		writing.Go(func() {
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
			if !errors.Is(err, errEnough) {
				t.Errorf("%s: %v at %d", name, err, last)
			}
		})
	}
	writing.Wait()
	if end, err := writer.Last(t.Context()); err != nil || end != facts {
		t.Fatalf("last is %d: %v", end, err)
	}
}
