package commands

import (
	"context"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/credential"
	"github.com/keyledger/keyledger/events"
)

// Operator is who runs the installation and its broker: whoever holds the broker's
// root of trust, with no key of the ledger.
func Operator() Principal {
	return Principal{
		Actor: events.Actor{Type: events.ActorSystem, Name: "operator"},
		Org:   events.System, Role: events.RoleOwner, Scope: events.Scope{AllWorkspaces: true},
	}
}

// Credential reads what became of a broker credential.
func Credential(ctx context.Context, log Reader, name events.CredentialName) (credential.State, error) {
	var state credential.State
	if _, err := events.ParseCredentialName(string(name)); err != nil {
		return state, domain.RefuseID("name")
	}
	facts, err := log.Load(ctx, events.CredentialSubject(name), 0)
	for _, f := range facts {
		state = credential.Evolve(state, f.Event)
	}
	return state, err
}

// IssueCredential records who is let in at the broker. It opens nothing by itself:
// that is for whoever holds the broker's root of trust.
func (s *Service) IssueCredential(ctx context.Context, w Wish, issued events.CredentialIssued) (Outcome, error) {
	if err := w.Principal.authorizeInstallation("issuing a broker credential"); err != nil {
		return Outcome{}, err
	}
	if _, err := events.ParseCredentialName(string(issued.Name)); err != nil {
		return Outcome{}, domain.RefuseID("name")
	}
	return single(ctx, s, w, events.CredentialSubject(issued.Name), credential.Evolve, credential.Decide, credential.Command(credential.Issue{CredentialIssued: issued}))
}

// RevokeCredential records that somebody is shut out at the broker, for ever.
func (s *Service) RevokeCredential(ctx context.Context, w Wish, name events.CredentialName) (Outcome, error) {
	if err := w.Principal.authorizeInstallation("revoking a broker credential"); err != nil {
		return Outcome{}, err
	}
	return single(ctx, s, w, events.CredentialSubject(name), credential.Evolve, credential.Decide, credential.Command(credential.Revoke{}))
}
