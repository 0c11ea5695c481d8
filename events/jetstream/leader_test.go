package jetstream_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/events/jetstream"
)

// confirmed reads a workspace's last fact until what was read is confirmed. A
// cluster that has just lost a leader, or got a node back, takes its time.
func confirmed(ctx context.Context, l *jetstream.Ledger, id events.WorkspaceID) (events.Recorded, error) {
	for patience := time.Now().Add(30 * time.Second); ; {
		began := time.Now()
		r, _, err := l.Latest(ctx, events.WorkspaceSubject("acme", id))
		if err == nil {
			_, err = l.Confirm(ctx, began)
		}
		if err == nil || time.Now().After(patience) {
			return r, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A leader that is cut off goes on answering, and what it answers is outdated once
// the others have another; none of that is confirmed. What the others answer is.
func TestConfirm(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t)
	c.Begin()
	first := c.First()
	cut, rest := c.Connect(first), c.Connect((first+1)%clustertest.Nodes)
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
	before, err := confirmed(t.Context(), current, "a")
	if err != nil {
		t.Fatal(err)
	}
	c.Outdate(jetstream.StreamLedger, first)
	var answered atomic.Bool
	var asking sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	stale := 0
	asking.Go(func() {
		for ctx.Err() == nil {
			began, after := time.Now(), answered.Load()
			r, _, err := outdated.Latest(ctx, before.Subject)
			if err == nil && after && r.Position == before.Position {
				stale++
				if _, err := outdated.Confirm(ctx, began); err == nil {
					t.Errorf("confirmed: position %d, when another was answered", r.Position)
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	change := entry("a")
	change.Meta.Revision, change.Event, change.Expect = 2, events.WorkspaceRenamed{Name: events.ClearText("renamed")}, events.Expect(change.Subject, before.Position)
	for err = errors.New("not tried"); err != nil && !errors.Is(err, events.ErrConflict); {
		_, err = current.Append(t.Context(), []events.Entry{change})
		time.Sleep(20 * time.Millisecond)
	}
	answered.Store(true)
	if r, err := confirmed(t.Context(), current, "a"); err != nil || r.Position <= before.Position {
		t.Errorf("position %d: %v", r.Position, err)
	}
	// Some of the time alone, and some of it back among the others.
	time.Sleep(2 * time.Second)
	c.Heal(first)
	time.Sleep(2 * time.Second)
	cancel()
	asking.Wait()
	if r, err := confirmed(t.Context(), outdated, "a"); err != nil || r.Position <= before.Position {
		t.Errorf("after all, position %d: %v", r.Position, err)
	}
	if stale == 0 {
		t.Fatal("no answer was outdated: this shows nothing")
	}
	t.Logf("%d outdated answers, none of them confirmed", stale)
}
