package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/events/jetstream"
)

// What a conflict is called differs between one node and three. It is one error.
func TestConflictsOnOneNode(t *testing.T) {
	all, _ := open(t)
	l := ledger(t, all())
	conflicts(t, l, l, map[string]string{
		"a stale expectation": "(10071)", "an id again": "stored before", "an id again, with its expectation": "(10071)", "an id again, in a batch": "(10201)",
	})
}

func conflictsOnThreeNodes(t *testing.T, c *clustertest.Cluster) {
	conflicts(t, ledgerOver(t, c.Connect(0), 0), ledgerOver(t, c.Connect(1), 0), map[string]string{
		"a stale expectation": "(10071)", "an id again": "stored before", "an id again, with its expectation": "stored before", "an id again, in a batch": "(10201)",
		// Two on their way to the quorum at once.
		"a race": "(10164)",
	})
}

func conflicts(t *testing.T, l, other *jetstream.Ledger, want map[string]string) {
	t.Helper()
	refused := func(what string, wish ...events.Entry) {
		t.Helper()
		before, err := l.Last(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(t.Context(), wish); !errors.Is(err, events.ErrConflict) || !strings.Contains(err.Error(), want[what]) {
			t.Errorf("%s: %v, want %s", what, err, want[what])
		}
		lastBecomes(t, l, before)
	}
	first := entry("a")
	batch := entries(2)
	for _, wish := range [][]events.Entry{{first}, batch} {
		if _, err := l.Append(t.Context(), wish); err != nil {
			t.Fatal(err)
		}
	}
	refused("a stale expectation", entry("a"))
	bare := first
	bare.Expect = events.Expectation{}
	refused("an id again", bare)
	refused("an id again, with its expectation", first)
	for i := range batch {
		batch[i].Expect = events.Expectation{}
	}
	refused("an id again, in a batch", batch...)
	if want["a race"] == "" {
		return
	}
	for n := 0; ; n++ {
		var errs [2]error
		var both sync.WaitGroup
		for i, l := range []*jetstream.Ledger{l, other} {
			wish := entry(events.WorkspaceID(fmt.Sprintf("race-%d", n)))
			both.Go(func() { _, errs[i] = l.Append(t.Context(), []events.Entry{wish}) })
		}
		both.Wait()
		lost := errors.Join(errs[0], errs[1])
		if errs[0] != nil && errs[1] != nil || !errors.Is(lost, events.ErrConflict) {
			t.Fatalf("race: %v", lost)
		}
		if strings.Contains(lost.Error(), want["a race"]) {
			break
		}
		if n == 2000 {
			t.Fatalf("never met %s", want["a race"])
		}
	}
}

func TestWithheldCommit(t *testing.T) {
	all, _ := open(t)
	conn := all()
	withheldCommit(t, ledger(t, conn), conn)
}

func withheldCommitOnThreeNodes(t *testing.T, c *clustertest.Cluster) {
	conn := c.Connect(0)
	withheldCommit(t, ledgerOver(t, conn, 0), conn)
}

// A batch whose commit does not come is not there for anybody, and in nobody's way.
func withheldCommit(t *testing.T, l *jetstream.Ledger, conn *nats.Conn) {
	t.Helper()
	wish := entries(3)
	for i, e := range wish[:2] {
		m := nats.NewMsg(e.Subject.String())
		m.Data = []byte("part")
		m.Header = nats.Header{
			"Nats-Batch-Id": {"withheld"}, "Nats-Batch-Sequence": {fmt.Sprint(i + 1)},
			"Nats-Expected-Last-Subject-Sequence": {"0"}, "Nats-Expected-Last-Subject-Sequence-Subject": {e.Subject.String()},
		}
		if err := conn.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	// The same subjects, while it is open.
	facts, err := l.Append(t.Context(), wish)
	if err != nil || facts[0].Position != 1 {
		t.Fatalf("append: %v", err)
	}
	for i, r := range follow(t, l, 3) {
		if r.Subject != wish[i].Subject || r.Meta.ID != wish[i].Meta.ID {
			t.Fatalf("position %d is another's", r.Position)
		}
	}
	lastBecomes(t, l, 3)
}

// An append that a leader takes who is cut off is neither done nor not done: its
// outcome is unknown, until the same wish again tells.
func TestUnknownOutcomeOnThreeNodes(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t)
	c.Begin()
	conn := c.Connect(0)
	l, err := jetstream.New(jetstream.Config{
		Conn: conn, Ledger: ledgerID, Replicas: clustertest.Nodes, AppendTimeout: 300 * time.Millisecond, LoadTimeout: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), []events.Entry{entry("before")}); err != nil {
		t.Fatal(err)
	}
	alone := c.NodeOf(conn)
	c.Lead(jetstream.StreamLedger, alone)
	c.Isolate(alone)
	one, two := entries(1), []events.Entry{entry("x"), entry("y")}
	for _, wish := range [][]events.Entry{one, two} {
		if _, err := l.Append(t.Context(), wish); !errors.Is(err, events.ErrOutcomeUnknown) || errors.Is(err, events.ErrUnavailable) {
			t.Fatalf("append: %v", err)
		}
	}
	c.Heal(alone)
	for _, wish := range [][]events.Entry{one, two} {
		for {
			_, err := l.Append(t.Context(), wish)
			if err == nil || errors.Is(err, events.ErrConflict) {
				break
			}
			if !errors.Is(err, events.ErrUnavailable) && !errors.Is(err, events.ErrOutcomeUnknown) {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	seen := map[events.EventID]bool{}
	for _, r := range follow(t, l, 4) {
		if seen[r.Meta.ID] {
			t.Fatalf("stored twice, again at %d", r.Position)
		}
		seen[r.Meta.ID] = true
	}
	for _, e := range append(one, two...) {
		if !seen[e.Meta.ID] {
			t.Fatalf("%s is not there", e.Subject)
		}
	}
	lastBecomes(t, l, 4)
}

// On three nodes, as on one: what went missing is found out by whoever comes across
// it, and a stream that is changed or gone is refused.
func corruptionOnThreeNodes(t *testing.T, c *clustertest.Cluster) {
	conn := c.Connect(1)
	l := ledgerOver(t, conn, 500*time.Millisecond)
	js, err := natsjs.New(c.Operator())
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), jetstream.StreamLedger)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	good := config
	config.DenyDelete = false
	again := func(config natsjs.StreamConfig) {
		t.Helper()
		if err := js.DeleteStream(t.Context(), jetstream.StreamLedger); err != nil {
			t.Fatal(err)
		}
		for {
			if stream, err = js.CreateStream(t.Context(), config); err == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	again(config)
	if err := l.CheckStreams(t.Context()); !errors.Is(err, jetstream.ErrStreamChanged) || !strings.Contains(err.Error(), "deny_delete is") {
		t.Fatalf("check: %v", err)
	}
	wish := entries(6)
	for i := range wish {
		if _, err := l.Append(t.Context(), wish[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.DeleteMsg(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	reader(t, conn, spec("gap"))
	byName := map[string]interface {
		Follow(context.Context, events.Position, func([]events.Recorded) error) error
	}{"ledger": l, "credential": readerOf(t, c.Operator(), "gap")}
	for name, follower := range byName {
		seen := events.Position(0)
		err := follower.Follow(t.Context(), 0, func(slice []events.Recorded) error {
			seen = slice[len(slice)-1].Position
			return nil
		})
		if !errors.Is(err, events.ErrCorrupt) || seen > 2 {
			t.Errorf("%s: %v at %d", name, err, seen)
		}
	}
	again(good)
	if err := l.CheckStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), jetstream.StreamLedger); err != nil {
		t.Fatal(err)
	}
	if err := l.CheckStreams(t.Context()); !errors.Is(err, jetstream.ErrStreamMissing) {
		t.Fatalf("check: %v", err)
	}
}
