package jetstream_test

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
)

var long = events.WorkspaceSubject("acme", "long")

// history appends so many facts of one subject, with facts of others in front of
// each of them.
func history(t testing.TB, l *jetstream.Ledger, facts, others int) {
	t.Helper()
	var wish []events.Entry
	flush := func() {
		if _, err := l.Append(t.Context(), wish); err != nil {
			t.Fatal(err)
		}
		wish = nil
	}
	for i := range facts {
		for k := range others {
			wish = append(wish, entry(events.WorkspaceID("w"+strconv.Itoa(i*others+k))))
		}
		wish = append(wish, turn(i+1))
		if len(wish)+others >= events.MaxBatch {
			flush()
		}
	}
	if len(wish) > 0 {
		flush()
	}
}

// turn is the fact of a revision in a long history.
func turn(revision int) events.Entry {
	e := entry("long")
	e.Meta.Revision, e.Expect = events.Revision(revision), events.Expectation{}
	if revision > 1 {
		e.Event = events.WorkspaceRenamed{Name: events.ClearText("name " + strconv.Itoa(revision))}
	}
	return e
}

// A long history is whole, takes few questions, and leaves no consumer behind;
// without the right to make one it takes longer.
func TestLoadLong(t *testing.T) {
	const facts = 4300
	b := begin(t, t.TempDir())
	history(t, ledger(t, b.Conn()), facts, 0)
	load := func(l *jetstream.Ledger, after events.Position) {
		t.Helper()
		got, err := l.Load(t.Context(), long, after)
		if err != nil || len(got) != facts-int(after) {
			t.Fatalf("%d facts after %d: %v", len(got), after, err)
		}
		for i, r := range got {
			if want := after + events.Position(i) + 1; r.Position != want || r.Meta.Revision != events.Revision(want) || r.Stored.IsZero() {
				t.Fatalf("fact %d stands at %d in revision %d", i, r.Position, r.Meta.Revision)
			}
		}
	}
	questions := func(ask func()) (n int) {
		t.Helper()
		err := b.Setup(t.Context(), func(conn *nats.Conn) error {
			heard := make(chan *nats.Msg, 2*facts)
			sub, err := conn.ChanSubscribe("$JS.API.STREAM.MSG.GET."+jetstream.StreamLedger, heard)
			if err == nil {
				err = conn.Flush()
			}
			if err != nil {
				return err
			}
			ask()
			if err := errors.Join(conn.Flush(), sub.Unsubscribe()); err != nil {
				return err
			}
			n = len(heard)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := questions(func() { load(ledger(t, b.Conn()), 0) }); n == 0 || n > 30 {
		t.Errorf("%d questions for %d facts", n, facts)
	}
	load(ledger(t, b.Conn()), 100)
	operate(t, b, func(js natsjs.JetStream) error {
		s, err := js.Stream(t.Context(), jetstream.StreamLedger)
		if err != nil {
			return err
		}
		for n := 1; n > 0; time.Sleep(10 * time.Millisecond) {
			info, err := s.Info(t.Context())
			if err != nil {
				return err
			}
			n = info.State.Consumers
		}
		return nil
	})
	operate(t, b, func(js natsjs.JetStream) error {
		config := live(t, b, jetstream.StreamLedger)
		config.MaxConsumers = 1
		if _, err := js.UpdateStream(t.Context(), config); err != nil {
			return err
		}
		_, err := js.CreateConsumer(t.Context(), jetstream.StreamLedger, natsjs.ConsumerConfig{Durable: "the-only"})
		return err
	})
	const before = facts - 300
	if n := questions(func() { load(ledger(t, b.Conn()), before) }); n < facts-before {
		t.Errorf("%d questions for %d facts, and no consumer", n, facts-before)
	}
}
