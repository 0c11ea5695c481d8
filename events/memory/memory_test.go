package memory_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/ledgertest"
	"github.com/keyledger/keyledger/events/memory"
)

var id = events.LedgerID(uuid.MustParse("0198c0de-0000-7000-8000-00000000001d"))

func TestLedger(t *testing.T) {
	ledgertest.Run(t, func(*testing.T) ledgertest.Bench {
		l := memory.New(id)
		return ledgertest.Bench{Ledger: l, ID: id, Plant: func(_ testing.TB, subject string, body []byte) { l.Plant(subject, body) }}
	})
}

func entry() events.Entry {
	s := events.WorkspaceSubject("acme", "w")
	return events.Entry{
		Subject: s, Event: events.WorkspaceCreated{ID: "w", Name: events.ClearText("w")}, Expect: events.Expect(s, 0),
		Meta: events.Meta{
			ID: events.EventID(uuid.Must(uuid.NewV7())), Ledger: id, Time: events.TimeOf(time.Now()), Revision: 1,
			Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(uuid.New()),
		},
	}
}

// A fault before storing leaves nothing, one after it leaves all; and the next
// append is not concerned.
func TestFailNext(t *testing.T) {
	l := memory.New(id)
	l.FailNext(events.ErrUnavailable, false)
	l.FailNext(events.ErrOutcomeUnknown, true)
	e := entry()
	if _, err := l.Append(t.Context(), []events.Entry{e}); !errors.Is(err, events.ErrUnavailable) {
		t.Fatal(err)
	}
	if last, _ := l.Last(t.Context()); last != 0 {
		t.Fatalf("last is %d", last)
	}
	if _, err := l.Append(t.Context(), []events.Entry{e}); !errors.Is(err, events.ErrOutcomeUnknown) {
		t.Fatal(err)
	}
	if last, _ := l.Last(t.Context()); last != 1 {
		t.Fatalf("last is %d", last)
	}
	if _, err := l.Append(t.Context(), []events.Entry{e}); !errors.Is(err, events.ErrConflict) {
		t.Fatal(err)
	}
}

// A message id is refused for ever, also when the broker would have forgotten it.
func TestMessageIDsAreForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := memory.New(id)
		e := entry()
		e.Expect = events.Expectation{}
		if _, err := l.Append(t.Context(), []events.Entry{e}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		if _, err := l.Append(t.Context(), []events.Entry{e}); !errors.Is(err, events.ErrConflict) {
			t.Fatal(err)
		}
	})
}
