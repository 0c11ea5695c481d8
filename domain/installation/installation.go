// Package installation decides how a ledger begins: with one fact, before which
// there is nothing, and never a second time.
package installation

import (
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// State is an installation as its facts tell it.
type State struct {
	Exists bool
	Ledger events.LedgerID
	Epoch  uint32
}

// Create begins the installation.
type Create struct {
	Ledger events.LedgerID
}

// Decide refuses a second beginning.
func Decide(s State, c Create) ([]events.Event, error) {
	if s.Exists {
		return nil, domain.Refuse(domain.ErrExists, "", "this ledger has begun already")
	}
	if c.Ledger.IsZero() {
		return nil, domain.Refuse(domain.ErrInvalid, "ledger", "is needed")
	}
	return []events.Event{events.InstallationCreated{Ledger: c.Ledger, Epoch: 1}}, nil
}

// Evolve applies a fact.
func Evolve(s State, e events.Event) State {
	if e, ok := e.(events.InstallationCreated); ok {
		return State{Exists: true, Ledger: e.Ledger, Epoch: e.Epoch}
	}
	return s
}
