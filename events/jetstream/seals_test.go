package jetstream_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
)

// A seal is stored once, under its own name.
func TestSealedOnce(t *testing.T) {
	b := begin(t, t.TempDir())
	l := ledger(t, b.Conn())
	if body, there, err := l.Sealed(t.Context(), "a.b"); body != nil || there || err != nil {
		t.Fatalf("%q, %t, %v", body, there, err)
	}
	if err := l.Seal(t.Context(), "a.b", []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := l.Seal(t.Context(), "a.c", []byte("two")); err != nil {
		t.Fatal(err)
	}
	if err := l.Seal(t.Context(), "a.b", []byte("three")); !errors.Is(err, events.ErrConflict) {
		t.Errorf("sealed twice: %v", err)
	}
	for name, want := range map[string]string{"a.b": "one", "a.c": "two"} {
		if body, there, err := l.Sealed(t.Context(), name); string(body) != want || !there || err != nil {
			t.Errorf("%s: %q, %t, %v", name, body, there, err)
		}
	}
	if _, _, err := ledger(t, start(t, t.TempDir()).Conn()).Sealed(t.Context(), "a.b"); !errors.Is(err, jetstream.ErrStreamMissing) {
		t.Errorf("without a stream: %v", err)
	}
}

// What is listed is what has facts, of that organization and that kind alone.
func TestIDs(t *testing.T) {
	b := begin(t, t.TempDir())
	l := ledger(t, b.Conn())
	var want []string
	if ids, err := l.IDs(t.Context(), events.System, events.AggregateKey); len(ids) != 0 || err != nil {
		t.Fatalf("%v, %v", ids, err)
	}
	for range 5 {
		id := events.KeyID(uuid.Must(uuid.NewV7()))
		want = append(want, id.String())
		for _, subject := range []events.Subject{
			events.KeySubject(events.System, id), events.KeySubject(events.System, id),
			events.RevokedSubject(events.System, id), events.KeySubject("acme", events.KeyID(uuid.Must(uuid.NewV7()))),
		} {
			plant(t, b.Conn(), subject.String(), []byte("a fact"))
		}
	}
	if ids, err := l.IDs(t.Context(), events.System, events.AggregateKey); !slices.Equal(ids, want) || err != nil {
		t.Errorf("got %v, want %v (%v)", ids, want, err)
	}
}

func TestReplicasAreNamed(t *testing.T) {
	b := begin(t, t.TempDir())
	if err := ledger(t, b.Conn()).CheckReplicas(t.Context()); err != nil {
		t.Error(err)
	}
	l, err := jetstream.New(jetstream.Config{Conn: b.Conn(), Ledger: ledgerID, Replicas: 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.CheckReplicas(t.Context()); !errors.Is(err, jetstream.ErrReplicas) || errors.Is(err, events.ErrCorrupt) {
		t.Error(err)
	}
}
