package jetstream_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
)

func entry(id events.WorkspaceID) events.Entry {
	s := events.WorkspaceSubject("acme", id)
	return events.Entry{
		Subject: s, Event: events.WorkspaceCreated{ID: id, Name: events.ClearText("w")}, Expect: events.Expect(s, 0),
		Meta: events.Meta{
			ID: events.EventID(uuid.Must(uuid.NewV7())), Ledger: ledgerID, Time: events.TimeOf(time.Now()), Revision: 1,
			Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(uuid.New()),
		},
	}
}

func entries(n int) []events.Entry {
	out := make([]events.Entry, n)
	for i := range out {
		out[i] = entry(events.WorkspaceID(fmt.Sprintf("w%d", i)))
	}
	return out
}

// impatient is a ledger that does not wait long for an answer.
func impatient(t testing.TB, conn *nats.Conn) *jetstream.Ledger {
	t.Helper()
	l, err := jetstream.New(jetstream.Config{
		Conn: conn, Ledger: ledgerID, Replicas: 1,
		AppendTimeout: 300 * time.Millisecond, LoadTimeout: 300 * time.Millisecond, Heartbeat: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// lastBecomes waits until the ledger ends at a position.
func lastBecomes(t *testing.T, l *jetstream.Ledger, want events.Position) {
	t.Helper()
	for {
		last, err := l.Last(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if last >= want {
			if last != want {
				t.Fatalf("last is %d, want %d", last, want)
			}
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// An answer that is lost leaves the outcome unknown, although the facts are
// stored; the same wish again then meets a conflict.
func TestLostAnswer(t *testing.T) {
	for _, n := range []int{1, 2, 7} {
		t.Run(fmt.Sprintf("%d facts", n), func(t *testing.T) {
			b := begin(t, t.TempDir())
			var way line
			l := impatient(t, way.connect(t, b))
			way.silence()
			wish := entries(n)
			if _, err := l.Append(t.Context(), wish); !errors.Is(err, events.ErrOutcomeUnknown) || errors.Is(err, events.ErrUnavailable) {
				t.Fatalf("append: %v", err)
			}
			lastBecomes(t, ledger(t, b.Conn()), events.Position(n))
			if _, err := ledger(t, b.Conn()).Append(t.Context(), wish); !errors.Is(err, events.ErrConflict) {
				t.Fatalf("append again: %v", err)
			}
		})
	}
}

// A large batch asks for a sign of life before it commits. If none comes,
// nothing is stored, and that is known.
func TestLostAnswerBeforeCommit(t *testing.T) {
	b := begin(t, t.TempDir())
	var way line
	l := impatient(t, way.connect(t, b))
	way.silence()
	if _, err := l.Append(t.Context(), entries(600)); !errors.Is(err, events.ErrUnavailable) || errors.Is(err, events.ErrOutcomeUnknown) {
		t.Fatalf("append: %v", err)
	}
	lastBecomes(t, ledger(t, b.Conn()), 0)
}

// Losing the answer to uses and publishing them again stores them once.
func TestLostAnswerToUses(t *testing.T) {
	b := begin(t, t.TempDir())
	var way line
	l := impatient(t, way.connect(t, b))
	var blocks []events.UsesMessage
	for i := range 20 {
		blocks = append(blocks, events.UsesMessage{Subject: events.UsesSubject("acme", "v1"), ID: fmt.Sprintf("b%d", i), Body: []byte{byte(i)}})
	}
	way.silence()
	if err := l.PublishUses(t.Context(), blocks); !errors.Is(err, events.ErrOutcomeUnknown) {
		t.Fatalf("publish: %v", err)
	}
	good := ledger(t, b.Conn())
	if err := good.PublishUses(t.Context(), blocks); err != nil {
		t.Fatalf("publish again: %v", err)
	}
	if last, err := good.LastUses(t.Context()); err != nil || last != 20 {
		t.Fatalf("last is %d: %v", last, err)
	}
}

// Somebody who opens as many batches as the broker takes, and commits none, does not
// keep the uses of others from being stored.
func TestUsesBesideOpenBatches(t *testing.T) {
	b := begin(t, t.TempDir())
	l := ledger(t, b.Conn())
	stored := events.Position(0)
	for _, n := range []int{10, 500} {
		refused := false
		for i := range 60 {
			answer, err := b.Conn().RequestMsg(&nats.Msg{Subject: events.UsesSubject("acme", "evil"), Data: []byte("evil"), Header: nats.Header{
				"Nats-Batch-Id": {fmt.Sprintf("evil-%d-%d", n, i)}, "Nats-Batch-Sequence": {"1"},
			}}, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			refused = refused || strings.Contains(string(answer.Data), "10210")
		}
		if !refused {
			t.Fatal("the broker takes any number of batches: this shows nothing")
		}
		var blocks []events.UsesMessage
		for i := range n {
			blocks = append(blocks, events.UsesMessage{Subject: events.UsesSubject("acme", "v1"), ID: fmt.Sprintf("b%d-%d", n, i), Body: []byte("block")})
		}
		if err := l.PublishUses(t.Context(), blocks); err != nil {
			t.Fatalf("publish %d: %v", n, err)
		}
		stored += events.Position(n)
		if last, err := l.LastUses(t.Context()); err != nil || last != stored {
			t.Fatalf("last is %d: %v", last, err)
		}
	}
}

// Where nobody answers for the stream, nothing was stored.
func TestNobodyAnswers(t *testing.T) {
	b := start(t, t.TempDir())
	l := ledger(t, b.Conn())
	for _, n := range []int{1, 2, 600} {
		if _, err := l.Append(t.Context(), entries(n)); !errors.Is(err, events.ErrUnavailable) {
			t.Fatalf("append of %d: %v", n, err)
		}
	}
	if _, err := l.Load(t.Context(), events.WorkspaceSubject("acme", "w"), 0); !errors.Is(err, jetstream.ErrStreamMissing) {
		t.Fatalf("load: %v", err)
	}
}

func TestClosedConnection(t *testing.T) {
	b := begin(t, t.TempDir())
	conn, err := b.Connect(t.Context(), "closed")
	if err != nil {
		t.Fatal(err)
	}
	l := ledger(t, conn)
	done := make(chan error, 1)
	go func() {
		done <- l.Follow(t.Context(), 0, func([]events.Recorded) error {
			conn.Close()
			return nil
		})
	}()
	if _, err := l.Append(t.Context(), entries(1)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, events.ErrUnavailable) {
		t.Fatalf("follow: %v", err)
	}
	if _, err := l.Append(t.Context(), entries(1)); !errors.Is(err, events.ErrUnavailable) {
		t.Fatalf("append: %v", err)
	}
	if _, err := l.Last(t.Context()); !errors.Is(err, events.ErrUnavailable) {
		t.Fatalf("last: %v", err)
	}
}
