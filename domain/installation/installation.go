// Package installation decides how a ledger begins: with one fact, before which
// there is nothing, and never a second time; and which keys sign for it.
package installation

import (
	"slices"
	"strings"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// State is an installation as its facts tell it.
type State struct {
	Exists bool
	Ledger events.LedgerID
	Epoch  uint32
	// Signers are the keys whose signatures count, oldest first.
	Signers []Signer
}

// Signer is a key that signs for the installation.
type Signer struct {
	// Name begins its signature lines.
	Name string
	// VerifierKey is its public half, `<name>+<hash>+<key>`.
	VerifierKey string
}

// Command is what can be done to an installation.
type Command interface{ command() }

// Create begins the installation.
type Create struct {
	Ledger events.LedgerID
}

// AddSigner makes a key known that signs from now on.
type AddSigner struct{ Signer }

func (Create) command()    {}
func (AddSigner) command() {}

// Decide refuses a second beginning, and a signer that does not go by its name.
func Decide(s State, c Command) ([]events.Event, error) {
	switch c := c.(type) {
	case Create:
		return create(s, c)
	case AddSigner:
		return addSigner(s, c)
	default:
		return nil, domain.Refuse(domain.ErrInvalid, "", "unknown command")
	}
}

func create(s State, c Create) ([]events.Event, error) {
	if s.Exists {
		return nil, domain.Refuse(domain.ErrExists, "", "this ledger has begun already")
	}
	if c.Ledger.IsZero() {
		return nil, domain.Refuse(domain.ErrInvalid, "ledger", "is needed")
	}
	return []events.Event{events.InstallationCreated{Ledger: c.Ledger, Epoch: 1}}, nil
}

func addSigner(s State, c AddSigner) ([]events.Event, error) {
	switch {
	case !s.Exists:
		return nil, domain.Refuse(domain.ErrNotFound, "", "this ledger has not begun")
	case c.Name == "" || !strings.HasPrefix(c.VerifierKey, c.Name+"+"):
		return nil, domain.Refuse(domain.ErrInvalid, "verifier_key", "must begin with the signer's name")
	case slices.Contains(s.Signers, c.Signer):
		return nil, nil
	}
	return []events.Event{events.InstallationSignerAdded{Name: c.Name, VerifierKey: c.VerifierKey}}, nil
}

// Evolve applies a fact.
func Evolve(s State, e events.Event) State {
	switch e := e.(type) {
	case events.InstallationCreated:
		return State{Exists: true, Ledger: e.Ledger, Epoch: e.Epoch}
	case events.InstallationSignerAdded:
		s.Signers = append(slices.Clip(s.Signers), Signer{Name: e.Name, VerifierKey: e.VerifierKey})
	}
	return s
}
