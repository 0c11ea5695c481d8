// Package credential decides who is let in at the broker: by a name that is given
// once, for one purpose, and ended for ever when it is taken back.
package credential

import (
	"slices"
	"strings"
	"time"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// State is a credential as its facts tell it.
type State struct {
	Exists  bool
	Issued  events.CredentialIssued
	Revoked bool
}

// Command is what can be done to a credential.
type Command interface{ command() }

// Issue lets a program in.
type Issue struct{ events.CredentialIssued }

// Revoke shuts it out, for ever.
type Revoke struct{}

func (Issue) command()  {}
func (Revoke) command() {}

// Decide refuses a name that was used before, also for what is the same but for
// its account: who holds the other would be let in, or shut out, by mistake.
func Decide(s State, c Command) ([]events.Event, error) {
	switch c := c.(type) {
	case Issue:
		return issue(s, c.CredentialIssued)
	case Revoke:
		switch {
		case !s.Exists:
			return nil, domain.Refuse(domain.ErrNotFound, "", "there is no such credential")
		case s.Revoked:
			return nil, nil
		}
		return []events.Event{events.CredentialRevoked{}}, nil
	default:
		return nil, domain.Refuse(domain.ErrInvalid, "", "unknown command")
	}
}

func issue(s State, c events.CredentialIssued) ([]events.Event, error) {
	c.Organizations = slices.Sorted(slices.Values(c.Organizations))
	if err := check(c); err != nil {
		return nil, err
	}
	switch {
	case s.Revoked:
		return nil, domain.Refuse(domain.ErrEnded, "name", "the credential %s was revoked; names are never used again, so choose another", c.Name)
	case s.Exists && s.Issued.Account == c.Account && Same(s.Issued, c):
		return nil, nil
	case s.Exists:
		return nil, domain.Refuse(domain.ErrExists, "name", "the credential %s was issued before; names are never used again, so choose another", c.Name)
	}
	return []events.Event{c}, nil
}

// Same reports whether two credentials let their holders do the same.
func Same(a, b events.CredentialIssued) bool {
	return a.Name == b.Name && a.For == b.For && a.MaxStaleness == b.MaxStaleness && a.Mirror == b.Mirror && a.Leaf == b.Leaf && slices.Equal(a.Organizations, b.Organizations)
}

func check(c events.CredentialIssued) error {
	if _, err := events.ParseCredentialName(string(c.Name)); err != nil {
		return domain.RefuseID("name")
	}
	// Who has the name has the uses that are recorded under it.
	if strings.HasPrefix(string(c.Name), events.ServerVerifierPrefix) {
		return domain.Refuse(domain.ErrInvalid, "name", "must not begin with %q: so are servers called, which record uses too", events.ServerVerifierPrefix)
	}
	switch c.For {
	case events.CredentialVerifier, events.CredentialSubscriber, events.CredentialAuditor, events.CredentialLeaf:
	default:
		return domain.Refuse(domain.ErrInvalid, "for", "must be verifier, subscriber, auditor or leaf")
	}
	if c.Account == "" {
		return domain.Refuse(domain.ErrInvalid, "account", "is needed")
	}
	if err := checkOrganizations(c.Organizations); err != nil {
		return err
	}
	if err := checkPlace(c); err != nil {
		return err
	}
	if counted := c.For != events.CredentialSubscriber && len(c.Organizations) > 0; counted != (c.Scope != "") {
		return domain.Refuse(domain.ErrInvalid, "scope", "goes with organizations that are read in full")
	}
	if age := time.Duration(c.MaxStaleness) * time.Second; c.MaxStaleness != 0 {
		switch {
		case c.For != events.CredentialVerifier:
			return domain.Refuse(domain.ErrInvalid, "max_staleness", "is for verifiers")
		case age < events.MinStaleness || age > events.MaxStaleness:
			return domain.Refuse(domain.ErrInvalid, "max_staleness", "must lie within %s and %s", events.MinStaleness, events.MaxStaleness)
		}
	}
	return nil
}

// checkPlace checks where it reads.
func checkPlace(c events.CredentialIssued) error {
	_, noMirror := events.ParseMirrorName(string(c.Mirror))
	_, noLeaf := events.ParseCredentialName(string(c.Leaf))
	switch {
	case c.For == events.CredentialLeaf && len(c.Organizations) > 0:
		return domain.Refuse(domain.ErrInvalid, "organizations", "are those of the verifiers behind a leaf node, which keeps all of the ledger")
	case c.Mirror != "" && c.For != events.CredentialVerifier:
		return domain.Refuse(domain.ErrInvalid, "mirror", "is for verifiers")
	case c.Mirror != "" && noMirror != nil:
		return domain.RefuseID("mirror")
	case c.Leaf != "" && c.For != events.CredentialVerifier:
		return domain.Refuse(domain.ErrInvalid, "leaf", "is for verifiers")
	case c.Leaf != "" && noLeaf != nil:
		return domain.RefuseID("leaf")
	case c.Leaf != "" && c.Mirror != "":
		return domain.Refuse(domain.ErrInvalid, "leaf", "is a copy of its own: there is no mirror at it")
	}
	return nil
}

func checkOrganizations(orgs []events.OrgID) error {
	if len(orgs) > events.MaxCredentialOrganizations {
		return domain.Refuse(domain.ErrInvalid, "organizations", "are %d, at most %d are allowed; leave them out to reach all",
			len(orgs), events.MaxCredentialOrganizations)
	}
	for i, org := range orgs {
		_, err := events.ParseOrgID(string(org))
		switch {
		case err != nil:
			return domain.RefuseID("organizations")
		case org == events.System:
			return domain.Refuse(domain.ErrInvalid, "organizations", "the installation's own is nobody's to read alone")
		case i > 0 && orgs[i-1] == org:
			return domain.Refuse(domain.ErrInvalid, "organizations", "%s is named twice", org)
		}
	}
	return nil
}

// Evolve applies a fact.
func Evolve(s State, e events.Event) State {
	switch e := e.(type) {
	case events.CredentialIssued:
		s.Exists, s.Issued = true, e
	case events.CredentialRevoked:
		s.Revoked = true
	}
	return s
}
