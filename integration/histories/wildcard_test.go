package histories

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events/clustertest"
)

// Why every expectation is on a literal subject: on three nodes one with a
// wildcard does not hold against a write that is on its way to the quorum, while a
// literal one does. Should the wildcard hold one day, this test fails, and the rule
// may be thought over.
func TestWildcardExpectationsDoNotHold(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t)
	js, err := natsjs.New(c.Operator())
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		_, err := js.CreateStream(t.Context(), natsjs.StreamConfig{
			Name: "RACE", Subjects: []string{"ledger.race.>"}, Replicas: clustertest.Nodes, Storage: natsjs.FileStorage,
		})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	const most = 2000
	if broken, rounds := race(t, c, most, func(n int) string { return fmt.Sprintf("ledger.race.wild%d.>", n) }, "wild"); broken == 0 {
		t.Errorf("the wildcard held in all of %d rounds", rounds)
	} else {
		t.Logf("the wildcard broke in round %d", rounds)
	}
	if broken, rounds := race(t, c, 300, func(n int) string { return fmt.Sprintf("ledger.race.plain%d.a", n) }, "plain"); broken != 0 {
		t.Errorf("the literal expectation broke in round %d", rounds)
	}
}

// race has one client append to a subject, and another to its neighbour, expecting
// that there is nothing on what expected names. It ends with the first round in
// which both succeeded and the expectation was not met.
func race(t *testing.T, c *clustertest.Cluster, most int, expected func(int) string, name string) (broken, rounds int) {
	t.Helper()
	first, second := c.Connect(0), c.Connect(1)
	for n := range most {
		var a, b *natsjs.PubAck
		var both sync.WaitGroup
		both.Go(func() { a = publish(t, first, fmt.Sprintf("ledger.race.%s%d.a", name, n)) })
		both.Go(func() {
			b = publish(t, second, fmt.Sprintf("ledger.race.%s%d.b", name, n), natsjs.WithExpectLastSequenceForSubject(0, expected(n)))
		})
		both.Wait()
		if a != nil && b != nil && a.Sequence < b.Sequence {
			return 1, n + 1
		}
	}
	return 0, most
}

// publish returns nil when the expectation did not hold.
func publish(t *testing.T, conn *nats.Conn, subject string, options ...natsjs.PublishOpt) *natsjs.PubAck {
	js, err := natsjs.New(conn)
	if err != nil {
		t.Error(err)
		return nil
	}
	ack, err := js.Publish(t.Context(), subject, nil, options...)
	var refused *natsjs.APIError
	if err != nil && !errors.As(err, &refused) {
		t.Error(err)
	}
	return ack
}
