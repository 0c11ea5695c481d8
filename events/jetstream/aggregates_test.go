package jetstream_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
)

// What is listed is what has facts, of that organization and that kind alone.
func TestAggregates(t *testing.T) {
	b := begin(t, t.TempDir())
	l := ledger(t, b.Conn())
	var want []events.Subject
	if got, err := l.Aggregates(t.Context(), events.System, events.AggregateKey); len(got) != 0 || err != nil {
		t.Fatalf("%v, %v", got, err)
	}
	for range 5 {
		id := events.KeyID(uuid.Must(uuid.NewV7()))
		want = append(want, events.KeySubject(events.System, id))
		for _, subject := range []events.Subject{
			events.KeySubject(events.System, id), events.KeySubject(events.System, id),
			events.RevokedSubject(events.System, id), events.KeySubject("acme", events.KeyID(uuid.Must(uuid.NewV7()))),
		} {
			plant(t, b.Conn(), subject.String(), []byte("a fact"))
		}
	}
	if got, err := l.Aggregates(t.Context(), events.System, events.AggregateKey); !slices.Equal(got, want) || err != nil {
		t.Errorf("got %v, want %v (%v)", got, want, err)
	}
}
