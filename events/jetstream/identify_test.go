package jetstream_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
)

// Which ledger it is says its first fact, and no later one.
func TestIdentify(t *testing.T) {
	b := begin(t, t.TempDir())
	if id, begun, err := jetstream.Identify(t.Context(), b.Conn()); begun || err != nil {
		t.Fatalf("an empty ledger is %s, %t, %v", id, begun, err)
	}
	installation := func(id events.LedgerID) events.Entry {
		return events.Entry{
			Subject: events.InstallationSubject(), Event: events.InstallationCreated{Ledger: id, Epoch: 1},
			Meta: events.Meta{
				ID: events.EventID(uuid.Must(uuid.NewV7())), Ledger: id, Time: events.TimeOf(time.Now()), Revision: 1,
				Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(uuid.New()),
			},
		}
	}
	if _, err := ledger(t, b.Conn()).Append(t.Context(), []events.Entry{installation(ledgerID)}); err != nil {
		t.Fatal(err)
	}
	other := installation(events.LedgerID{15: 9})
	other.Meta.RecordedTime = other.Meta.Time
	body, err := events.Encode(other.Subject, other.Event, other.Meta)
	if err != nil {
		t.Fatal(err)
	}
	plant(t, b.Conn(), other.Subject.String(), body)
	if id, begun, err := jetstream.Identify(t.Context(), b.Conn()); id != ledgerID || !begun || err != nil {
		t.Fatalf("got %s, %t, %v", id, begun, err)
	}
}

func TestIdentifyRefuses(t *testing.T) {
	b := start(t, t.TempDir())
	if _, _, err := jetstream.Identify(t.Context(), b.Conn()); !errors.Is(err, jetstream.ErrStreamMissing) {
		t.Fatalf("without a stream: %v", err)
	}
	if err := setUp(t, b); err != nil {
		t.Fatal(err)
	}
	plant(t, b.Conn(), events.InstallationSubject().String(), []byte("no fact at all"))
	if _, _, err := jetstream.Identify(t.Context(), b.Conn()); !errors.Is(err, events.ErrCorrupt) {
		t.Fatalf("with another first fact: %v", err)
	}
}
