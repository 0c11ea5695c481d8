package catalog

import (
	"errors"
	"fmt"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// applier is one fact on its way into the rows of its subject.
type applier struct {
	tx   *sqlview.Tx
	fact *events.Recorded
	org  string
	id   string
	time int64
}

func apply(tx *sqlview.Tx, fact *events.Recorded) error {
	a := applier{tx: tx, fact: fact, org: string(fact.Subject.Org), id: fact.Subject.ID, time: int64(fact.Meta.Time)}
	switch e := fact.Event.(type) {
	case events.Malformed:
		return fmt.Errorf("%w: %s", events.ErrMalformed, e.Reason)
	case events.Unknown:
		if e.Bears {
			return fmt.Errorf("%w: %s", ErrUnknown, e.Name)
		}
		return a.count()
	case events.InstallationCreated, events.InstallationSignerAdded, events.CredentialIssued, events.CredentialRevoked,
		events.Tick, events.QuotaChanged, events.SubjectErased, events.UsesDropped:
		return a.count()
	}
	switch fact.Subject.Aggregate {
	case events.AggregateOrganization:
		return a.organization()
	case events.AggregateWorkspace:
		return a.workspace()
	case events.AggregateCatalog, events.AggregateProfile:
		return a.configuration()
	case events.AggregateKey:
		return a.key()
	case events.AggregateRevoked:
		return a.revoked()
	case events.AggregateProviderKey:
		return a.providerKey()
	default:
		return a.unexpected()
	}
}

// unexpected stops the view over a kind that was added to the ledger and not
// here.
func (a *applier) unexpected() error {
	return fmt.Errorf("catalog: no rows for %s on %s", a.fact.Event.Kind(), a.fact.Subject.Aggregate)
}

// insert begins a row. There must be none, and the fact must be the first.
func (a *applier) insert(query string, args ...any) error {
	if a.fact.Meta.Revision != 1 {
		return a.notNext()
	}
	return a.one(a.tx.Exec(query+` ON CONFLICT DO NOTHING`, append(args, a.time, int64(a.fact.Position))...))
}

// update changes the row of the fact's subject, if the fact is the next one.
// What is set ends with a comma.
func (a *applier) update(table, set string, args ...any) error {
	rev := int64(a.fact.Meta.Revision)
	return a.one(a.tx.Exec(`UPDATE `+table+` SET `+set+` revision = ?, position = ? WHERE org = ? AND id = ? AND revision = ?`,
		append(args, rev, int64(a.fact.Position), a.org, a.id, rev-1)...))
}

// updateOrg is update for a table with one row an organization.
func (a *applier) updateOrg(table, set string, args ...any) error {
	rev := int64(a.fact.Meta.Revision)
	return a.one(a.tx.Exec(`UPDATE `+table+` SET `+set+` revision = ?, position = ? WHERE org = ? AND revision = ?`,
		append(args, rev, int64(a.fact.Position), a.org, rev-1)...))
}

func (a *applier) one(n int64, err error) error {
	if err == nil && n != 1 {
		err = a.notNext()
	}
	return err
}

func (a *applier) notNext() error {
	return fmt.Errorf("%w: %s of revision %d", ErrRevision, a.fact.Event.Kind(), a.fact.Meta.Revision)
}

// count notes the revision of a fact that is not shown here.
func (a *applier) count() error {
	aggregate := a.fact.Subject.Aggregate
	switch aggregate {
	case events.AggregateOrganization:
		return a.updateOrg("organization", "")
	case events.AggregateCatalog:
		return a.updateOrg("permissions", "")
	case events.AggregateWorkspace, events.AggregateProfile, events.AggregateKey, events.AggregateProviderKey:
		return a.update(string(aggregate), "")
	case events.AggregateRevoked:
		return a.update("revocation", "")
	default:
	}
	rev, pos := int64(a.fact.Meta.Revision), int64(a.fact.Position)
	if rev == 1 {
		return a.one(a.tx.Exec(`INSERT INTO subject (org, aggregate, id, revision, position) VALUES (?, ?, ?, 1, ?)
			ON CONFLICT DO NOTHING`, a.org, string(aggregate), a.id, pos))
	}
	return a.one(a.tx.Exec(`UPDATE subject SET revision = ?, position = ? WHERE org = ? AND aggregate = ? AND id = ? AND revision = ?`,
		rev, pos, a.org, string(aggregate), a.id, rev-1))
}

func (a *applier) organization() error {
	switch e := a.fact.Event.(type) {
	case events.OrganizationCreated:
		limits, policy, err := encode2(e.Limits, e.Policy)
		if err != nil {
			return err
		}
		if err := a.insert(`INSERT INTO organization (org, name, name_sealed, plan, limits, policy, rotate_after, created_at, created_position, updated_at, revision, position)
			VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?8, 1, ?9)`,
			a.org, e.Name.Clear, sqlview.Sealed(e.Name), string(e.Plan), limits, policy, defaultRotateAfter); err != nil {
			return err
		}
		return a.policy(e.Policy)
	case events.OrganizationRenamed:
		return a.updateOrg("organization", "name = ?, name_sealed = ?, updated_at = ?,", e.Name.Clear, sqlview.Sealed(e.Name), a.time)
	case events.OrganizationPlanChanged:
		return a.updateOrg("organization", "plan = ?, updated_at = ?,", string(e.Plan), a.time)
	case events.OrganizationLimitsChanged:
		limits, err := encode(e.Limits)
		return errors.Join(err, a.updateOrg("organization", "limits = ?, updated_at = ?,", limits, a.time))
	case events.OrganizationPolicyChanged:
		policy, err := encode(e.Policy)
		return errors.Join(err, a.updateOrg("organization", "policy = ?, updated_at = ?,", policy, a.time), a.policy(e.Policy))
	default:
		return a.unexpected()
	}
}

func (a *applier) workspace() error {
	switch e := a.fact.Event.(type) {
	case events.WorkspaceCreated:
		return a.insert(`INSERT INTO workspace (org, id, name, name_sealed, created_at, created_position, updated_at, revision, position)
			VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?5, 1, ?6)`, a.org, a.id, e.Name.Clear, sqlview.Sealed(e.Name))
	case events.WorkspaceRenamed:
		return a.update("workspace", "name = ?, name_sealed = ?, updated_at = ?,", e.Name.Clear, sqlview.Sealed(e.Name), a.time)
	case events.WorkspaceDeleted:
		return a.update("workspace", "deleted_at = ?1, updated_at = ?1,", a.time)
	default:
		return a.unexpected()
	}
}

// configuration is what keys are judged under: the permission catalog and the
// profiles.
func (a *applier) configuration() error {
	switch e := a.fact.Event.(type) {
	case events.CatalogReplaced:
		permissions, err := encode(e.Permissions)
		if err != nil {
			return err
		}
		if a.fact.Meta.Revision == 1 {
			return a.insert(`INSERT INTO permissions (org, permissions, updated_at, revision, position) VALUES (?1, ?2, ?3, 1, ?4)`, a.org, permissions)
		}
		return a.updateOrg("permissions", "permissions = ?, updated_at = ?,", permissions, a.time)
	case events.ProfileCreated:
		return a.insert(`INSERT INTO profile (org, id, name, name_sealed, settings, created_at, created_position, updated_at, revision, position)
			VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?6, 1, ?7)`, a.org, a.id, e.Name.Clear, sqlview.Sealed(e.Name), string(e.Settings))
	case events.ProfileRenamed:
		return a.update("profile", "name = ?, name_sealed = ?, updated_at = ?,", e.Name.Clear, sqlview.Sealed(e.Name), a.time)
	case events.ProfileSettingsChanged:
		return a.update("profile", "settings = ?, updated_at = ?,", string(e.Settings), a.time)
	case events.ProfileDeleted:
		return a.update("profile", "deleted_at = ?1, updated_at = ?1,", a.time)
	default:
		return a.unexpected()
	}
}

func (a *applier) key() error {
	switch e := a.fact.Event.(type) {
	case events.KeyCreated:
		return a.keyCreated(e)
	case events.KeyRenamed:
		return a.update("key", "name = ?, name_sealed = ?,", e.Name.Clear, sqlview.Sealed(e.Name))
	case events.KeyPermissionsChanged:
		grants, err := encodeList(e.Permissions.Grants)
		return errors.Join(err, a.update("key", "level = ?, grants = ?,", string(e.Permissions.Level), grants))
	case events.KeyScopeChanged:
		workspaces, err := encodeList(e.Scope.Workspaces)
		return errors.Join(err, a.update("key", "all_workspaces = ?, workspaces = ?,", e.Scope.AllWorkspaces, workspaces))
	case events.KeyProfileChanged:
		return a.update("key", "profile = ?,", string(e.Profile))
	case events.KeyMetadataChanged:
		return a.relabel(e.Metadata)
	case events.KeyDisabled:
		return a.update("key", "disabled = 1,")
	case events.KeyEnabled:
		return a.update("key", "disabled = 0,")
	case events.KeyExpiryChanged:
		return errors.Join(a.update("key", "expires_at = ?,", int64(e.ExpiresAt)), a.moved())
	case events.KeyRotated:
		return errors.Join(a.update("key", "rotated_to = ?, grace_ends_at = ?, rotation_due_at = 0,", keyText(e.Successor), int64(e.GraceEndsAt)), a.moved())
	case events.KeyGraceChanged:
		return errors.Join(a.update("key", "grace_ends_at = ?,", int64(e.GraceEndsAt)), a.moved())
	case events.KeyExpiring:
		return errors.Join(a.update("key", "noticed_at = ?,", a.time), a.due())
	case events.KeyRotationDue:
		return errors.Join(a.update("key", "rotation_told_at = ?,", int64(e.DueAt)), a.due())
	case events.KeyNewSource, events.KeyDenialsSpike:
		return a.update("key", "")
	case events.KeyExpired:
		return errors.Join(a.update("key", "expired_at = ?, rotation_due_at = 0,", int64(e.ExpiredAt)), a.due())
	default:
		return a.unexpected()
	}
}

func (a *applier) keyCreated(e events.KeyCreated) error {
	grants, err := encodeList(e.Permissions.Grants)
	if err != nil {
		return err
	}
	workspaces, metadata := "", ""
	if workspaces, err = encodeList(e.Scope.Workspaces); err != nil {
		return err
	}
	if metadata, err = encodeMetadata(e.Metadata); err != nil {
		return err
	}
	actor := a.fact.Meta.Actor.String()
	if a.fact.Meta.Revision != 1 {
		return a.notNext()
	}
	err = a.one(a.tx.Exec(`INSERT INTO key (org, id, kind, role, name, name_sealed, prefix, last_four, level, grants,
			all_workspaces, workspaces, profile, created_at, created_by, expires_at, rotated_from, external_id, external_id_sealed,
			metadata, ends_at, imported, noticed_at, created_position, position, data_subject, revision, revoked)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?16, ?21, ?22, ?23, ?23, ?24, 1,
			EXISTS (SELECT 1 FROM revocation r WHERE r.org = ?1 AND r.id = ?2)) ON CONFLICT DO NOTHING`,
		a.org, a.id, string(e.KeyKind), string(e.Role), e.Name.Clear, sqlview.Sealed(e.Name), e.Prefix, e.LastFour,
		string(e.Permissions.Level), grants, e.Scope.AllWorkspaces, workspaces, string(e.Profile), int64(e.CreatedAt), actor,
		int64(e.ExpiresAt), keyText(e.RotatedFrom), e.ExternalID.Clear, sqlview.Sealed(e.ExternalID), metadata, e.Imported, a.time, int64(a.fact.Position),
		string(e.DataSubject)))
	if err != nil {
		return err
	}
	return errors.Join(a.label(e.Metadata), a.born())
}

func (a *applier) revoked() error {
	meta := a.fact.Meta
	switch a.fact.Event.(type) {
	case events.KeyRevoked, events.OrganizationDeleted:
	default:
		return a.unexpected()
	}
	if err := a.insert(`INSERT INTO revocation (org, id, revoked_by, reason, reason_sealed, revoked_at, revision, position)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7)`, a.org, a.id, meta.Actor.String(), meta.Reason.Clear, sqlview.Sealed(meta.Reason)); err != nil {
		return err
	}
	if a.id == events.RevokedAll {
		_, err := a.tx.Exec(`UPDATE key SET rotation_due_at = 0, due_at = ? WHERE `+unrevoked, a.time, a.org)
		return err
	}
	// No row when the key is yet to come.
	_, err := a.tx.Exec(`UPDATE key SET revoked = 1, rotation_due_at = 0, due_at = 0 WHERE org = ? AND id = ?`, a.org, a.id)
	return err
}
