package installation

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

func TestBeginsOnce(t *testing.T) {
	ledger := events.LedgerID{1}
	if _, err := Decide(State{}, Create{}); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("begun without a ledger: %v", err)
	}
	facts, err := Decide(State{}, Create{Ledger: ledger})
	if err != nil || len(facts) != 1 {
		t.Fatalf("%v, %v", facts, err)
	}
	s := Evolve(State{}, facts[0])
	if diff := cmp.Diff(State{Exists: true, Ledger: ledger, Epoch: 1}, s); diff != "" {
		t.Error(diff)
	}
	if _, err := Decide(s, Create{Ledger: events.LedgerID{2}}); !errors.Is(err, domain.ErrExists) {
		t.Errorf("begun twice: %v", err)
	}
	if diff := cmp.Diff(s, Evolve(s, events.OrganizationDeleted{})); diff != "" {
		t.Error(diff)
	}
}

func TestSigners(t *testing.T) {
	one, two := Signer{"one", "one+01+AA"}, Signer{"two", "two+02+AA"}
	begun := Evolve(State{}, events.InstallationCreated{Ledger: events.LedgerID{1}, Epoch: 1})
	if _, err := Decide(State{}, AddSigner{one}); !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("a signer before the beginning: %v", err)
	}
	for _, bad := range []Signer{{}, {"one", ""}, {"one", "two+02+AA"}, {"", "+02+AA"}, {"one", "one"}} {
		if facts, err := Decide(begun, AddSigner{bad}); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%v: %v, %v", bad, facts, err)
		}
	}
	s := begun
	for _, signer := range []Signer{one, two} {
		facts, err := Decide(s, AddSigner{signer})
		if err != nil || len(facts) != 1 {
			t.Fatalf("%v, %v", facts, err)
		}
		s = Evolve(s, facts[0])
	}
	if diff := cmp.Diff([]Signer{one, two}, s.Signers); diff != "" {
		t.Error(diff)
	}
	if facts, err := Decide(s, AddSigner{two}); err != nil || len(facts) != 0 {
		t.Errorf("a signer that is known: %v, %v", facts, err)
	}
	// Two futures of one state do not share it.
	a, b := Evolve(begun, events.InstallationSignerAdded(one)), Evolve(begun, events.InstallationSignerAdded(two))
	if a.Signers[0] != one || b.Signers[0] != two || len(begun.Signers) != 0 {
		t.Errorf("%v, %v, %v", a, b, begun)
	}
}
