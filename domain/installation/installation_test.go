package installation

import (
	"errors"
	"testing"

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
	if s != (State{Exists: true, Ledger: ledger, Epoch: 1}) {
		t.Errorf("%+v", s)
	}
	if _, err := Decide(s, Create{Ledger: events.LedgerID{2}}); !errors.Is(err, domain.ErrExists) {
		t.Errorf("begun twice: %v", err)
	}
	if again := Evolve(s, events.OrganizationDeleted{}); again != s {
		t.Errorf("%+v", again)
	}
}
