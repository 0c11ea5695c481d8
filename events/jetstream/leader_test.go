package jetstream_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/events/jetstream"
)

// confirmed reads a workspace's last fact until what was read is confirmed.
func confirmed(ctx context.Context, l *jetstream.Ledger, id events.WorkspaceID) (events.Recorded, error) {
	for {
		began := time.Now()
		r, _, err := l.Latest(ctx, events.WorkspaceSubject("acme", id))
		if err == nil {
			err = l.Confirm(ctx, began)
		}
		if !errors.Is(err, events.ErrConflict) {
			return r, err
		}
	}
}

// A leader that is cut off goes on answering, and what it answers is outdated once
// the others have another; none of that is confirmed. What the others answer is.
func TestConfirm(t *testing.T) {
	c := clustertest.Start(t)
	c.Begin()
	conns := [2]int{0, 1}
	cut, rest := c.Connect(conns[0]), c.Connect(conns[1])
	over := func(conn *nats.Conn) *jetstream.Ledger {
		// Who waits long for an answer misses what happens meanwhile.
		l, err := jetstream.New(jetstream.Config{
			Conn: conn, Ledger: ledgerID, Replicas: clustertest.Nodes, AppendTimeout: 500 * time.Millisecond, LoadTimeout: 2 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	outdated, current := over(cut), over(rest)
	create := entry("a")
	if _, err := current.Append(t.Context(), []events.Entry{create}); err != nil {
		t.Fatal(err)
	}
	for _, l := range []*jetstream.Ledger{outdated, current} {
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if r, err := confirmed(t.Context(), l, "a"); err != nil || r.Position != 1 {
					t.Errorf("confirm: %v", err)
				}
			})
		}
		all.Wait()
	}
	alone := c.NodeOf(cut)
	for c.NodeOf(rest) == alone {
		if err := rest.ForceReconnect(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.Lead(jetstream.StreamLedger, alone)
	c.Isolate(alone)
	change := entry("a")
	change.Meta.Revision, change.Event, change.Expect = 2, events.WorkspaceRenamed{Name: events.ClearText("renamed")}, events.Expect(change.Subject, 1)
	for {
		_, err := current.Append(t.Context(), []events.Entry{change})
		if err == nil {
			break
		}
		if !errors.Is(err, events.ErrUnavailable) && !errors.Is(err, events.ErrOutcomeUnknown) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if r, err := confirmed(t.Context(), current, "a"); err != nil || r.Position != 2 {
		t.Fatalf("position %d: %v", r.Position, err)
	}
	stale := 0
	for healed, end := false, time.Now().Add(6*time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if !healed && time.Until(end) < 3*time.Second {
			c.Heal(alone)
			healed = true
		}
		began := time.Now()
		r, found, err := outdated.Latest(t.Context(), change.Subject)
		if err != nil || !found {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		err = outdated.Confirm(ctx, began)
		cancel()
		if r.Position == 1 {
			if stale++; err == nil {
				t.Fatal("an outdated answer was confirmed")
			}
		}
	}
	if stale == 0 {
		t.Fatal("no answer was outdated: this shows nothing")
	}
	t.Logf("%d outdated answers, none of them confirmed", stale)
	if r, err := confirmed(t.Context(), outdated, "a"); err != nil || r.Position != 2 {
		t.Fatalf("after all, position %d: %v", r.Position, err)
	}
}
