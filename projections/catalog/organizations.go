package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// Organization is a tenant as the catalog shows it.
type Organization struct {
	ID        events.OrgID
	Name      events.Text
	Plan      events.Plan
	Limits    events.Limits
	Policy    events.Policy
	CreatedAt events.Time
	UpdatedAt events.Time
	// EndedAt is when the organization was deleted, 0 if it lives.
	EndedAt events.Time
	// Revision counts the facts of the organization and of its end.
	Revision events.Revision
	// Position is that of the last of them.
	Position events.Position

	created events.Position
}

const organizationColumns = `SELECT o.org, o.name, o.name_sealed, o.plan, o.limits, o.policy, o.created_at, o.updated_at,
	coalesce(e.revoked_at, 0), o.revision + coalesce(e.revision, 0), max(o.position, coalesce(e.position, 0)), o.created_position
	FROM organization o LEFT JOIN revocation e ON e.org = o.org AND e.id = '` + events.RevokedAll + `' `

func scanOrganization(row sqlview.Scanner) (Organization, error) {
	var o Organization
	var name sqlview.Text
	var limits, policy string
	err := row.Scan(&o.ID, &name.Clear, &name.Sealed, &o.Plan, &limits, &policy, &o.CreatedAt, &o.UpdatedAt,
		&o.EndedAt, &o.Revision, &o.Position, &o.created)
	if err != nil {
		return o, err
	}
	if o.Name, err = name.Text(); err != nil {
		return o, err
	}
	return o, errors.Join(decode(limits, &o.Limits), decode(policy, &o.Policy))
}

// Organization returns an organization, ended ones too.
func (c *Catalog) Organization(ctx context.Context, org events.OrgID) (Organization, error) {
	return one(scanOrganization, c.db.QueryRow(ctx, organizationColumns+`WHERE o.org = ?`, string(org)))
}

// Organizations lists the living organizations from the newest on, and returns
// the cursor of the next page.
func (c *Catalog) Organizations(ctx context.Context, p Page) ([]Organization, string, error) {
	l := sqlview.ListOf("organizations")
	before, err := l.Before(p.Cursor)
	if err != nil {
		return nil, "", err
	}
	found, err := sqlview.All(ctx, c.db, scanOrganization, organizationColumns+
		`WHERE e.org IS NULL AND o.created_position < ? ORDER BY o.created_position DESC LIMIT ?`, before, p.Rows()+1)
	if err != nil {
		return nil, "", err
	}
	found, next := sqlview.Cut(l, p, found, func(o Organization) events.Position { return o.created })
	return found, next, nil
}

// Workspace is a workspace as the catalog shows it.
type Workspace struct {
	Org       events.OrgID
	ID        events.WorkspaceID
	Name      events.Text
	CreatedAt events.Time
	UpdatedAt events.Time
	// DeletedAt is when it was deleted, 0 if it lives.
	DeletedAt events.Time
	Revision  events.Revision
	Position  events.Position

	created events.Position
}

const workspaceColumns = `SELECT org, id, name, name_sealed, created_at, updated_at, deleted_at, revision, position, created_position
	FROM workspace `

func scanWorkspace(row sqlview.Scanner) (Workspace, error) {
	var w Workspace
	var name sqlview.Text
	err := row.Scan(&w.Org, &w.ID, &name.Clear, &name.Sealed, &w.CreatedAt, &w.UpdatedAt, &w.DeletedAt, &w.Revision, &w.Position, &w.created)
	if err == nil {
		w.Name, err = name.Text()
	}
	return w, err
}

// Workspace returns a workspace, deleted ones too.
func (c *Catalog) Workspace(ctx context.Context, org events.OrgID, id events.WorkspaceID) (Workspace, error) {
	return one(scanWorkspace, c.db.QueryRow(ctx, workspaceColumns+`WHERE org = ? AND id = ?`, string(org), string(id)))
}

// Workspaces lists the living workspaces of an organization that lie within a
// scope, from the newest on. The zero scope holds none.
func (c *Catalog) Workspaces(ctx context.Context, org events.OrgID, within events.Scope, p Page) ([]Workspace, string, error) {
	parts := []string{"workspaces", string(org), strconv.FormatBool(within.AllWorkspaces)}
	for _, w := range within.Workspaces {
		parts = append(parts, string(w))
	}
	l := sqlview.ListOf(parts...)
	before, err := l.Before(p.Cursor)
	if err != nil {
		return nil, "", err
	}
	var w sqlview.Where
	w.AndBind(`org = `, string(org))
	w.And(`deleted_at = 0`)
	w.AndBind(`created_position < `, before)
	if !within.AllWorkspaces {
		bounds, err := encodeList(within.Workspaces)
		if err != nil {
			return nil, "", err
		}
		w.And(`id IN (SELECT b.value FROM json_each(` + w.Bind(bounds) + `) b)`)
	}
	found, err := sqlview.All(ctx, c.db, scanWorkspace,
		workspaceColumns+w.String()+` ORDER BY created_position DESC LIMIT `+w.Bind(p.Rows()+1), w.Args()...)
	if err != nil {
		return nil, "", err
	}
	found, next := sqlview.Cut(l, p, found, func(w Workspace) events.Position { return w.created })
	return found, next, nil
}

// Permissions is an organization's permission catalog.
type Permissions struct {
	Org         events.OrgID
	Permissions []events.CatalogPermission
	UpdatedAt   events.Time
	Revision    events.Revision
	Position    events.Position
}

// Permissions returns an organization's permission catalog, an empty one of
// revision 0 when it never wrote any.
func (c *Catalog) Permissions(ctx context.Context, org events.OrgID) (Permissions, error) {
	p := Permissions{Org: org}
	var permissions string
	err := c.db.QueryRow(ctx, `SELECT permissions, updated_at, revision, position FROM permissions WHERE org = ?`, string(org)).
		Scan(&permissions, &p.UpdatedAt, &p.Revision, &p.Position)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return p, nil
	case err != nil:
		return p, fmt.Errorf("catalog: %w", err)
	}
	return p, decode(permissions, &p.Permissions)
}

// Profile is a profile as the catalog shows it.
type Profile struct {
	Org       events.OrgID
	ID        events.ProfileID
	Name      events.Text
	Settings  events.Document
	CreatedAt events.Time
	UpdatedAt events.Time
	// DeletedAt is when it was deleted, 0 if it lives.
	DeletedAt events.Time
	Revision  events.Revision
	Position  events.Position

	created events.Position
}

const profileColumns = `SELECT org, id, name, name_sealed, settings, created_at, updated_at, deleted_at, revision, position, created_position
	FROM profile `

func scanProfile(row sqlview.Scanner) (Profile, error) {
	var p Profile
	var name sqlview.Text
	var settings string
	err := row.Scan(&p.Org, &p.ID, &name.Clear, &name.Sealed, &settings, &p.CreatedAt, &p.UpdatedAt, &p.DeletedAt, &p.Revision, &p.Position, &p.created)
	if err == nil {
		p.Settings = events.Document(settings)
		p.Name, err = name.Text()
	}
	return p, err
}

// Profile returns a profile, deleted ones too.
func (c *Catalog) Profile(ctx context.Context, org events.OrgID, id events.ProfileID) (Profile, error) {
	return one(scanProfile, c.db.QueryRow(ctx, profileColumns+`WHERE org = ? AND id = ?`, string(org), string(id)))
}

// Profiles lists the living profiles of an organization from the newest on.
func (c *Catalog) Profiles(ctx context.Context, org events.OrgID, p Page) ([]Profile, string, error) {
	l := sqlview.ListOf("profiles", string(org))
	before, err := l.Before(p.Cursor)
	if err != nil {
		return nil, "", err
	}
	found, err := sqlview.All(ctx, c.db, scanProfile, profileColumns+
		`WHERE org = ? AND deleted_at = 0 AND created_position < ? ORDER BY created_position DESC LIMIT ?`, string(org), before, p.Rows()+1)
	if err != nil {
		return nil, "", err
	}
	found, next := sqlview.Cut(l, p, found, func(p Profile) events.Position { return p.created })
	return found, next, nil
}

// one scans the only row.
func one[T any](scan func(sqlview.Scanner) (T, error), row *sql.Row) (T, error) {
	v, err := scan(row)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return v, ErrNotFound
	case err != nil:
		return v, fmt.Errorf("catalog: %w", err)
	}
	return v, nil
}
