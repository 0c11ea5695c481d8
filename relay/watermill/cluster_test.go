package watermill_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/relay/watermill"
)

// On three nodes the stream's leader changes, the consumer's leader changes, and
// the node that leads both goes and comes back, while facts are appended: a group
// is given all of them, each for the first time in order, and so is a
// subscription without a group, whose consumer may be lost with a node.
func TestFollowCluster(t *testing.T) {
	c := clustertest.Start(t)
	c.Begin()
	conn := c.Operator()
	const count = 240
	follow := func(group string) <-chan *message.Message {
		d := swift(group)
		d.AckWait, d.DoubleAck = 3*time.Second, group != ""
		return subscribe(t, follower(t, watermill.FollowerConfig{
			Conn: conn, Ledger: ledgerID, Topics: map[string][]string{"r": watermill.Revocations()}, Delivery: d,
		}), "r")
	}
	channels := map[string]<-chan *message.Message{
		"group": follow("g"), "alone": follow(""), "credential": subscribe(t, follower(t, bound(admitted(t, c))), "r"),
	}
	appended := make(chan struct{})
	go func() {
		defer close(appended)
		appendAll(t, c.Connect(0), count)
	}()
	seen := map[string]map[events.KeyID]bool{"group": {}, "alone": {}, "credential": {}}
	last := map[string]events.Position{}
	stopped := -1
	for i := range count {
		switch i {
		case count / 6:
			c.StepDown(jetstream.StreamLedger)
		case count / 3:
			// Whether it was heard shows in nothing but that all goes on.
			_, _ = conn.Request("$JS.API.CONSUMER.LEADER.STEPDOWN.LEDGER."+watermill.ConsumerName("g", "r"), nil, patience)
		case count / 2:
			stopped = lonely(t, conn)
			c.Lead(jetstream.StreamLedger, stopped)
			c.Stop(stopped)
		case count * 3 / 4:
			c.Restart(stopped)
		}
		for name, messages := range channels {
			for len(seen[name]) <= i {
				m := arrives(t, name, messages)
				r, err := watermill.Decode(m)
				id, ok := r.Subject.Key()
				if err != nil || !ok {
					t.Fatalf("%s: %v, %v", name, r.Subject, err)
				}
				if !seen[name][id] {
					// With many in flight, what comes again comes late.
					if r.Position < last[name] && name != "credential" {
						t.Errorf("%s: position %d came after %d", name, r.Position, last[name])
					}
					seen[name][id], last[name] = true, r.Position
				}
				m.Ack()
			}
		}
	}
	<-appended
	for name, ids := range seen {
		for n := range count {
			if !ids[keyID(n)] {
				t.Errorf("%s: revocation %d is missing", name, n)
			}
		}
	}
}

// lonely is the node that has the consumer of the subscription without a group.
func lonely(t testing.TB, conn *nats.Conn) int {
	t.Helper()
	stream, err := js(t, conn).Stream(t.Context(), jetstream.StreamLedger)
	if err != nil {
		t.Fatal(err)
	}
	for info := range stream.ListConsumers(t.Context()).Info() {
		if info.Config.Durable == "" && info.Cluster != nil {
			if node, err := strconv.Atoi(strings.TrimPrefix(info.Cluster.Leader, "n")); err == nil {
				return node
			}
		}
	}
	t.Fatal("no consumer without a group is there")
	return 0
}

// admitted makes a subscriber's credential on a cluster, and connects with it.
func admitted(t testing.TB, c *clustertest.Cluster) *nats.Conn {
	t.Helper()
	issued, err := credentials.Draw(credential)
	if err != nil {
		t.Fatal(err)
	}
	account, err := c.Authority().Account(credential, issued.Account)
	if err != nil {
		t.Fatal(err)
	}
	if err := credentials.Push(t.Context(), c.System(), clustertest.Nodes, account); err != nil {
		t.Fatal(err)
	}
	for _, spec := range credential.Readers(ledgerID) {
		if err := jetstream.EnsureReader(t.Context(), c.Connect(0), spec); err != nil {
			t.Fatal(err)
		}
	}
	return enter(t, c.URL(0)+","+c.URL(1)+","+c.URL(2), issued.Creds)
}

// arrives waits for as long as a cluster may take to elect a leader, several
// times.
func arrives(t testing.TB, name string, messages <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case m, open := <-messages:
		if !open {
			t.Fatalf("%s: the channel is closed", name)
		}
		return m
	case <-time.After(6 * patience):
		t.Fatalf("%s: no message came", name)
	}
	return nil
}

// appendAll appends revocations one after another, each until it is there.
func appendAll(t testing.TB, conn *nats.Conn, count int) {
	l, err := jetstream.New(jetstream.Config{Conn: conn, Ledger: ledgerID, Replicas: clustertest.Nodes})
	if err != nil {
		t.Error(err)
		return
	}
	for n := range count {
		e := revocation("acme", n)
		e.Expect = events.Expectation{Subject: e.Subject}
		for t.Context().Err() == nil {
			_, err := l.Append(t.Context(), []events.Entry{e})
			if err == nil {
				break
			}
			// After an unknown outcome the fact may be there, which a conflict tells.
			if there, loadErr := l.Load(t.Context(), e.Subject, 0); loadErr == nil && len(there) > 0 {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	if err := t.Context().Err(); err != nil {
		t.Error(fmt.Errorf("not all was appended: %w", err))
	}
}
