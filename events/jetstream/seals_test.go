package jetstream_test

import (
	"errors"
	"testing"

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
