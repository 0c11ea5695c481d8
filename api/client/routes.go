package client

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/keyledger/keyledger/api/wire"
)

// Page is the part of a list that is wanted.
type Page struct {
	// Cursor is the NextCursor of the page before.
	Cursor string
	// Limit is at most 200; 0 is the server's default.
	Limit int
}

func (p Page) apply(q url.Values) {
	if p.Cursor != "" {
		q.Set("cursor", p.Cursor)
	}
	if p.Limit != 0 {
		q.Set("limit", strconv.Itoa(p.Limit))
	}
}

func paged(p Page) Option { return func(r *request) { p.apply(r.query) } }

// CreateOrganization begins an organization.
func (c *Client) CreateOrganization(ctx context.Context, body wire.CreateOrganization, o ...Option) (wire.Organization, error) {
	return call[wire.Organization](ctx, c, "POST", path("organizations"), body, o...)
}

// Organizations lists organizations.
func (c *Client) Organizations(ctx context.Context, p Page) (wire.List[wire.Organization], error) {
	return call[wire.List[wire.Organization]](ctx, c, "GET", path("organizations"), nil, paged(p))
}

// Organization reads an organization.
func (c *Client) Organization(ctx context.Context, org string, o ...Option) (wire.Organization, error) {
	return call[wire.Organization](ctx, c, "GET", path("organizations", org), nil, o...)
}

// UpdateOrganization changes an organization.
func (c *Client) UpdateOrganization(ctx context.Context, org string, body wire.UpdateOrganization, o ...Option) (wire.Organization, error) {
	return call[wire.Organization](ctx, c, "PATCH", path("organizations", org), body, o...)
}

// DeleteOrganization ends an organization, and all its keys with it.
func (c *Client) DeleteOrganization(ctx context.Context, org string, o ...Option) (wire.Deleted, error) {
	return call[wire.Deleted](ctx, c, "DELETE", path("organizations", org), nil, o...)
}

// CreateWorkspace begins a workspace.
func (c *Client) CreateWorkspace(ctx context.Context, org string, body wire.CreateWorkspace, o ...Option) (wire.Workspace, error) {
	return call[wire.Workspace](ctx, c, "POST", path("organizations", org, "workspaces"), body, o...)
}

// Workspaces lists an organization's workspaces.
func (c *Client) Workspaces(ctx context.Context, org string, p Page) (wire.List[wire.Workspace], error) {
	return call[wire.List[wire.Workspace]](ctx, c, "GET", path("organizations", org, "workspaces"), nil, paged(p))
}

// Workspace reads a workspace.
func (c *Client) Workspace(ctx context.Context, org, id string, o ...Option) (wire.Workspace, error) {
	return call[wire.Workspace](ctx, c, "GET", path("organizations", org, "workspaces", id), nil, o...)
}

// UpdateWorkspace changes a workspace.
func (c *Client) UpdateWorkspace(ctx context.Context, org, id string, body wire.UpdateWorkspace, o ...Option) (wire.Workspace, error) {
	return call[wire.Workspace](ctx, c, "PATCH", path("organizations", org, "workspaces", id), body, o...)
}

// DeleteWorkspace ends a workspace.
func (c *Client) DeleteWorkspace(ctx context.Context, org, id string, o ...Option) (wire.Deleted, error) {
	return call[wire.Deleted](ctx, c, "DELETE", path("organizations", org, "workspaces", id), nil, o...)
}

// Permissions reads an organization's permission catalog.
func (c *Client) Permissions(ctx context.Context, org string, o ...Option) (wire.Permissions, error) {
	return call[wire.Permissions](ctx, c, "GET", path("organizations", org, "permissions"), nil, o...)
}

// ReplacePermissions puts a whole catalog in the place of the one before.
func (c *Client) ReplacePermissions(ctx context.Context, org string, body wire.ReplacePermissions, o ...Option) (wire.Permissions, error) {
	return call[wire.Permissions](ctx, c, "PUT", path("organizations", org, "permissions"), body, o...)
}

// CreateProfile begins a profile.
func (c *Client) CreateProfile(ctx context.Context, org string, body wire.CreateProfile, o ...Option) (wire.Profile, error) {
	return call[wire.Profile](ctx, c, "POST", path("organizations", org, "profiles"), body, o...)
}

// Profiles lists an organization's profiles.
func (c *Client) Profiles(ctx context.Context, org string, p Page) (wire.List[wire.Profile], error) {
	return call[wire.List[wire.Profile]](ctx, c, "GET", path("organizations", org, "profiles"), nil, paged(p))
}

// Profile reads a profile.
func (c *Client) Profile(ctx context.Context, org, id string, o ...Option) (wire.Profile, error) {
	return call[wire.Profile](ctx, c, "GET", path("organizations", org, "profiles", id), nil, o...)
}

// UpdateProfile changes a profile.
func (c *Client) UpdateProfile(ctx context.Context, org, id string, body wire.UpdateProfile, o ...Option) (wire.Profile, error) {
	return call[wire.Profile](ctx, c, "PATCH", path("organizations", org, "profiles", id), body, o...)
}

// DeleteProfile ends a profile; with [Force] also when keys have it.
func (c *Client) DeleteProfile(ctx context.Context, org, id string, o ...Option) (wire.Deleted, error) {
	return call[wire.Deleted](ctx, c, "DELETE", path("organizations", org, "profiles", id), nil, o...)
}

// CreateKey begins a key. Its secret is in the answer and nowhere else.
func (c *Client) CreateKey(ctx context.Context, org string, body wire.CreateKey, o ...Option) (wire.Created, error) {
	return call[wire.Created](ctx, c, "POST", path("organizations", org, "keys"), body, o...)
}

// ImportKeys brings keys over from another system, up to 1,000 at once. Each has
// its own result in the answer; importing them again makes no second ones.
func (c *Client) ImportKeys(ctx context.Context, org string, body wire.ImportKeys, o ...Option) (wire.ImportedKeys, error) {
	return call[wire.ImportedKeys](ctx, c, "POST", path("organizations", org, "keys")+"/import", body, o...)
}

// KeyFilter says which keys are wanted; its zero value wants all but REVOKED.
type KeyFilter struct {
	// Status is ACTIVE, INACTIVE, EXPIRED, REVOKED or all.
	Status      string
	Workspace   string
	Query       string
	UnusedSince time.Time
	ExternalID  string
	// Kind is api or management.
	Kind string
	// Metadata are up to 5 members that a key must have.
	Metadata map[string]string
	// RotationDue wants keys that should be rotated by now.
	RotationDue bool
	Page
}

func (f KeyFilter) option(r *request) {
	set := func(name, value string) {
		if value != "" {
			r.query.Set(name, value)
		}
	}
	set("status", f.Status)
	set("workspace", f.Workspace)
	set("q", f.Query)
	set("external_id", f.ExternalID)
	set("kind", f.Kind)
	if !f.UnusedSince.IsZero() {
		set("unused_since", f.UnusedSince.UTC().Format(time.RFC3339Nano))
	}
	for _, name := range slices.Sorted(maps.Keys(f.Metadata)) {
		r.query.Add("metadata", name+"="+f.Metadata[name])
	}
	if f.RotationDue {
		set("rotation_due", "true")
	}
	f.apply(r.query)
}

// Keys lists an organization's keys.
func (c *Client) Keys(ctx context.Context, org string, f KeyFilter) (wire.List[wire.Key], error) {
	return call[wire.List[wire.Key]](ctx, c, "GET", path("organizations", org, "keys"), nil, f.option)
}

// Key reads a key.
func (c *Client) Key(ctx context.Context, org, id string, o ...Option) (wire.Key, error) {
	return call[wire.Key](ctx, c, "GET", path("organizations", org, "keys", id), nil, o...)
}

// UpdateKey changes a key.
func (c *Client) UpdateKey(ctx context.Context, org, id string, body wire.UpdateKey, o ...Option) (wire.Key, error) {
	return call[wire.Key](ctx, c, "PATCH", path("organizations", org, "keys", id), body, o...)
}

// RevokeKey ends a key for ever.
func (c *Client) RevokeKey(ctx context.Context, org, id string, body wire.RevokeKey, o ...Option) (wire.Changed, error) {
	return call[wire.Changed](ctx, c, "POST", path("organizations", org, "keys", id)+"/revoke", body, o...)
}

// RotateKey gives a key a successor. Its secret is in the answer and nowhere else.
func (c *Client) RotateKey(ctx context.Context, org, id string, body wire.RotateKey, o ...Option) (wire.Rotated, error) {
	return call[wire.Rotated](ctx, c, "POST", path("organizations", org, "keys", id)+"/rotate", body, o...)
}

// KeyHistory lists what happened to a key, from the newest on.
func (c *Client) KeyHistory(ctx context.Context, org, id string, p Page, o ...Option) (wire.List[wire.Change], error) {
	return call[wire.List[wire.Change]](ctx, c, "GET", path("organizations", org, "keys", id)+"/history", nil, append(o, paged(p))...)
}

// Verify asks for a verdict.
func (c *Client) Verify(ctx context.Context, body wire.VerifyRequest) (wire.Verdict, error) {
	return call[wire.Verdict](ctx, c, "POST", path("verify"), body)
}

// VerifyBatch asks for up to 100 verdicts at once, which come in the order of the
// requests.
func (c *Client) VerifyBatch(ctx context.Context, body wire.VerifyBatch) (wire.Verdicts, error) {
	return call[wire.Verdicts](ctx, c, "POST", path("verify")+"/batch", body)
}

// RevokeSelf ends the client's own key, for ever.
func (c *Client) RevokeSelf(ctx context.Context, body wire.RevokeSelf, o ...Option) (wire.RevokedSelf, error) {
	return call[wire.RevokedSelf](ctx, c, "POST", "/v1/whoami/revoke", body, o...)
}

// Whoami tells what the client's key is.
func (c *Client) Whoami(ctx context.Context) (wire.Whoami, error) {
	return call[wire.Whoami](ctx, c, "GET", path("whoami"), nil)
}
