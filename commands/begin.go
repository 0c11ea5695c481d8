package commands

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/configuration"
	"github.com/keyledger/keyledger/domain/installation"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/domain/period"
	"github.com/keyledger/keyledger/events"
)

// Installation reads how the ledger began, if it did.
func Installation(ctx context.Context, log Log) (installation.State, error) {
	facts, err := log.Load(ctx, events.InstallationSubject(), 0)
	if err != nil {
		return installation.State{}, err
	}
	var state installation.State
	for _, f := range facts {
		switch f.Event.(type) {
		case events.Unknown, events.Malformed:
			return state, fmt.Errorf("%w: how the installation came to be cannot be read", events.ErrCorrupt)
		}
		state = installation.Evolve(state, f.Event)
	}
	return state, nil
}

// NewOwner draws the key of an installation's owner. The caller keeps the
// secret safe before it calls [Begin]: afterwards it could be lost for good.
func NewOwner() (keystring.Secret, error) {
	secret, _, err := draw(ManagementPrefix)
	return secret, err
}

// Begin appends an installation's first facts as one: the installation itself,
// the key that signs for it, its own organization, and its owner's key. Each
// subject is expected to be empty, so that of two who begin one ledger at once,
// one gets [events.ErrConflict]. The caller has stored the signing key before.
func Begin(ctx context.Context, log Log, ledger events.LedgerID, owner keystring.Secret, signer installation.Signer, at time.Time) error {
	now := events.TimeOf(at)
	issued, err := issuedTo(owner)
	if err != nil {
		return err
	}
	command, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("commands: draw a command id: %w", err)
	}
	facts, err := beginning(ledger, signer, issued, now)
	if err != nil {
		return err
	}
	entries := make([]events.Entry, 0, len(facts))
	revisions := map[events.Subject]events.Revision{}
	for _, f := range facts {
		event, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("commands: draw an event id: %w", err)
		}
		entry := events.Entry{Subject: f.subject, Event: f.event}
		if revisions[f.subject]++; revisions[f.subject] == 1 {
			entry.Expect = events.Expect(f.subject, 0)
		}
		entry.Meta = events.Meta{
			ID: events.EventID(event), Ledger: ledger, Time: now, Revision: revisions[f.subject],
			Actor:  events.Actor{Type: events.ActorSystem, Name: "installation"},
			Reason: events.ClearText("the installation begins"), Command: events.CommandID(command),
		}
		entries = append(entries, entry)
	}
	_, err = log.Append(ctx, entries)
	return err
}

// issuedTo makes a new key of an owner's secret.
func issuedTo(owner keystring.Secret) (key.Issued, error) {
	secret := owner.Reveal()
	if err := keystring.Check(secret); err != nil {
		return key.Issued{}, domain.Refuse(domain.ErrInvalid, "owner key", "is not a key of this ledger's form")
	}
	id, err := uuid.NewV7()
	if err != nil {
		return key.Issued{}, fmt.Errorf("commands: draw a key id: %w", err)
	}
	return key.Issued{
		ID: events.KeyID(id), Prefix: keystring.Prefix(secret), LastFour: keystring.LastFour(secret),
		Digest: events.Digest{Alg: events.SHA256, Value: events.DigestValue(keystring.Digest(secret))},
	}, nil
}

func beginning(ledger events.LedgerID, signer installation.Signer, issued key.Issued, now events.Time) ([]placed, error) {
	begun, err := installation.Decide(installation.State{}, installation.Create{Ledger: ledger})
	if err != nil {
		return nil, err
	}
	signs, err := installation.Decide(installation.Evolve(installation.State{}, begun[0]), installation.AddSigner{Signer: signer})
	if err != nil {
		return nil, err
	}
	org, err := organization.Decide(organization.State{}, organization.Create{
		ID: events.System, Name: events.ClearText("Installation"), Plan: events.PlanEnterprise,
	})
	if err != nil {
		return nil, err
	}
	config := configuration.Evolve(configuration.State{}, events.OrganizationSubject(events.System), org[0])
	owner, err := key.Decide(key.State{}, key.Create{
		Now: now, Config: config, Issued: issued, Kind: events.KindManagement, Role: events.RoleOwner,
		Name: events.ClearText("owner"), Scope: events.Scope{AllWorkspaces: true}, Expiry: key.Expiry{In: period.Never},
	})
	if err != nil {
		return nil, err
	}
	return []placed{
		{subject: events.InstallationSubject(), event: begun[0]},
		{subject: events.InstallationSubject(), event: signs[0]},
		{subject: events.OrganizationSubject(events.System), event: org[0]},
		{subject: events.KeySubject(events.System, issued.ID), event: owner[0]},
	}, nil
}
