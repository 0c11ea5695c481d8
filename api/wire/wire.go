// Package wire is the JSON that the HTTP API speaks: the bodies of its requests
// and answers, shared by the server, the Go client and the OpenAPI document.
//
// Ids, names and other texts are strings here; whoever reads a body parses them.
// Times are RFC 3339 in UTC with up to six digits of a second. A position is an
// opaque text: compare it for equality, hand it back, and look for nothing in it.
//
// Members that say nothing are left out, but for `name`, `profile`, `expires_at`
// and `last_used_at` of a key, which are null so that everybody sees them.
package wire

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits bound what an organization may hold. What is left out is unbounded.
type Limits struct {
	MaxActiveKeys  int    `json:"max_active_keys,omitzero" minimum:"0" maximum:"1000" doc:"Most keys that may be ACTIVE or INACTIVE at once. 0 is no limit."`
	MaxKeyLifetime string `json:"max_key_lifetime,omitzero" maxLength:"16" example:"90d" doc:"Longest lifetime of a key: <n>d, <n>mo, <n>y or never."`
}

// Policy is how an organization wants its keys: what they are given when a
// request does not say, and what a request must not ask for.
type Policy struct {
	DefaultPrefix    string   `json:"default_prefix,omitzero" maxLength:"15" example:"acme_live" doc:"Prefix of keys created without one."`
	DefaultExpiresIn string   `json:"default_expires_in,omitzero" maxLength:"16" example:"90d" doc:"Expiry of keys created without one."`
	MaxKeyLifetime   string   `json:"max_key_lifetime,omitzero" maxLength:"16" example:"1y" doc:"Longest lifetime that a key may be given: <n>d, <n>mo or <n>y. The limit of that name holds as well; the shorter counts."`
	ExpiryRequired   bool     `json:"expiry_required,omitzero" doc:"Forbids keys that never expire."`
	ExpiryChoices    []string `json:"expiry_choices,omitempty" maxItems:"20" example:"[\"30d\",\"90d\",\"1y\"]" doc:"The only periods that expires_in may be, never among them if it is listed; expires_at is refused then. A rotation takes the one that is nearest to the key's lifetime."`
	NameRequired     bool     `json:"name_required,omitzero" doc:"Forbids keys without a name."`
	RotationDueAfter string   `json:"rotation_due_after,omitzero" maxLength:"16" example:"180d" doc:"Age at which a key should be rotated: 90d unless set, never for none."`
	ExpiryNotices    []string `json:"expiry_notices,omitempty" maxItems:"5" example:"[\"14d\",\"1d\"]" doc:"How long before a key ends a key.expiring event tells of it: <n>d, <n>mo or <n>y, the longest first."`
	Signals          Signals  `json:"signals,omitzero" doc:"What is told of how keys are used."`
	Sealing          string   `json:"sealing,omitzero" enum:"on,off" doc:"on has every text that may name a person or a place stored sealed, so that it can be erased: names, external ids, metadata and reasons of keys, and what comes with their uses. It cannot be switched off again, and what was stored before stays in clear."`
	UsesRetention    string   `json:"uses_retention,omitzero" maxLength:"16" example:"90d" doc:"How long single uses are kept: <n>d, <n>mo, <n>y or never, and at most as long as the installation keeps them, which is what holds unless this is set. Counts by hour and day, last uses and sources outlive them, and what is dropped is recorded as an event with its counts."`
}

// Signals say what is told of how keys are used.
type Signals struct {
	NewSource         string `json:"new_source,omitzero" enum:"on,off" doc:"Whether a key.new_source event tells that a key is used from where it never was, and provider_key.new_source that a provider key is resolved from there; on unless set."`
	DenialsSpike      string `json:"denials_spike,omitzero" enum:"on,off" doc:"Whether a key.denials_spike event tells that a key is denied unusually often; on unless set."`
	DenialsPerMinute  int    `json:"denials_per_minute,omitzero" minimum:"0" maximum:"100000" example:"20" doc:"How many denials of a key within a minute are unusual: 2 or more; 20 unless set."`
	ResolvesPerMinute int    `json:"resolves_per_minute,omitzero" minimum:"0" maximum:"1000000" example:"600" doc:"How many resolves of a provider key within a minute are unusual, so that a provider_key.resolves_spike event tells of them: 2 or more; 600 unless set."`
}

// Organization is a tenant.
type Organization struct {
	ID        string    `json:"id" example:"acme" doc:"For ever, and never used again."`
	Name      string    `json:"name" example:"Acme Inc."`
	Plan      string    `json:"plan" enum:"starter,growth,enterprise"`
	Limits    Limits    `json:"limits"`
	Policy    Policy    `json:"policy"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	Position  string    `json:"position" doc:"Position of the organization's last change."`
}

// CreateOrganization begins an organization.
type CreateOrganization struct {
	ID     string `json:"id" maxLength:"63" pattern:"^[a-z0-9][a-z0-9-]{0,62}$" example:"acme" doc:"Chosen by you, for ever, and never used again."`
	Name   string `json:"name" maxLength:"200" example:"Acme Inc."`
	Plan   string `json:"plan,omitzero" enum:"starter,growth,enterprise" doc:"growth unless given."`
	Limits Limits `json:"limits,omitzero"`
	Policy Policy `json:"policy,omitzero"`
	Reason string `json:"reason,omitzero" maxLength:"1000" doc:"Why, for the audit log."`
}

// UpdateOrganization is a merge patch of an organization.
type UpdateOrganization struct {
	Name   Optional[string]       `json:"name,omitzero" maxLength:"200"`
	Plan   Optional[string]       `json:"plan,omitzero" enum:"starter,growth,enterprise"`
	Limits Optional[UpdateLimits] `json:"limits,omitzero" doc:"Members that are given change, null clears one."`
	Policy Optional[UpdatePolicy] `json:"policy,omitzero" doc:"Members that are given change, null clears one."`
	Reason string                 `json:"reason,omitzero" maxLength:"1000" doc:"Why, for the audit log."`
}

// UpdateLimits is a merge patch of limits.
type UpdateLimits struct {
	MaxActiveKeys  Optional[int]    `json:"max_active_keys,omitzero" minimum:"0" maximum:"1000"`
	MaxKeyLifetime Optional[string] `json:"max_key_lifetime,omitzero" maxLength:"16"`
}

// UpdatePolicy is a merge patch of a policy. A list takes the place of the whole
// one.
type UpdatePolicy struct {
	DefaultPrefix    Optional[string]        `json:"default_prefix,omitzero" maxLength:"15"`
	DefaultExpiresIn Optional[string]        `json:"default_expires_in,omitzero" maxLength:"16"`
	MaxKeyLifetime   Optional[string]        `json:"max_key_lifetime,omitzero" maxLength:"16"`
	ExpiryRequired   Optional[bool]          `json:"expiry_required,omitzero"`
	ExpiryChoices    Optional[[]string]      `json:"expiry_choices,omitzero" maxItems:"20" doc:"Takes the place of the whole list."`
	NameRequired     Optional[bool]          `json:"name_required,omitzero"`
	RotationDueAfter Optional[string]        `json:"rotation_due_after,omitzero" maxLength:"16"`
	ExpiryNotices    Optional[[]string]      `json:"expiry_notices,omitzero" maxItems:"5" doc:"Takes the place of the whole list."`
	Signals          Optional[UpdateSignals] `json:"signals,omitzero" doc:"Members that are given change, null clears one."`
	Sealing          Optional[string]        `json:"sealing,omitzero" enum:"on,off" doc:"on stays on."`
	UsesRetention    Optional[string]        `json:"uses_retention,omitzero" maxLength:"16" doc:"What was dropped by a shorter one does not come back with a longer."`
}

// IsZero reports whether nothing is patched.
func (p UpdatePolicy) IsZero() bool {
	return p.DefaultPrefix.IsZero() && p.DefaultExpiresIn.IsZero() && p.MaxKeyLifetime.IsZero() && p.ExpiryRequired.IsZero() &&
		p.ExpiryChoices.IsZero() && p.NameRequired.IsZero() && p.RotationDueAfter.IsZero() && p.ExpiryNotices.IsZero() && p.Signals.IsZero() && p.Sealing.IsZero() && p.UsesRetention.IsZero()
}

// UpdateSignals is a merge patch of signals.
type UpdateSignals struct {
	NewSource         Optional[string] `json:"new_source,omitzero" enum:"on,off"`
	DenialsSpike      Optional[string] `json:"denials_spike,omitzero" enum:"on,off"`
	DenialsPerMinute  Optional[int]    `json:"denials_per_minute,omitzero" minimum:"0" maximum:"100000"`
	ResolvesPerMinute Optional[int]    `json:"resolves_per_minute,omitzero" minimum:"0" maximum:"1000000"`
}

// Workspace is a project inside an organization.
type Workspace struct {
	ID        string    `json:"id" example:"support"`
	Name      string    `json:"name" example:"Support"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	Position  string    `json:"position" doc:"Position of the workspace's last change."`
}

// CreateWorkspace begins a workspace.
type CreateWorkspace struct {
	ID     string `json:"id" maxLength:"63" pattern:"^[a-z0-9][a-z0-9-]{0,62}$" example:"support" doc:"Chosen by you, for ever, and never used again."`
	Name   string `json:"name" maxLength:"200" example:"Support"`
	Reason string `json:"reason,omitzero" maxLength:"1000" doc:"Why, for the audit log."`
}

// UpdateWorkspace is a merge patch of a workspace.
type UpdateWorkspace struct {
	Name   Optional[string] `json:"name,omitzero" maxLength:"200"`
	Reason string           `json:"reason,omitzero" maxLength:"1000" doc:"Why, for the audit log."`
}

// Permission is one entry of an organization's permission catalog.
type Permission struct {
	Name        string   `json:"name" example:"interview:start" doc:"resource:action."`
	Access      string   `json:"access" enum:"read,write" doc:"What using it does; keys of level read_only have every read permission."`
	Description string   `json:"description,omitzero" maxLength:"300"`
	Routes      []string `json:"routes,omitempty" maxItems:"32" example:"[\"POST /api/v1/interviews/start\"]" doc:"Routes of your own API that ask for it, for /v1/authorize."`
}

// Permissions is an organization's permission catalog.
type Permissions struct {
	Permissions []Permission `json:"permissions"`
	Position    string       `json:"position,omitzero" doc:"Position of the catalog's last change, left out before the first."`
}

// ReplacePermissions puts a whole catalog in the place of the one before.
type ReplacePermissions struct {
	Permissions []Permission `json:"permissions" maxItems:"512"`
	Reason      string       `json:"reason,omitzero" maxLength:"1000" doc:"Why, for the audit log."`
}

// Profile is a named settings document that comes back with every verdict.
type Profile struct {
	ID        string         `json:"id" example:"gold"`
	Name      string         `json:"name" example:"Gold"`
	Settings  jsontext.Value `json:"settings" doc:"A JSON object of your own, at most 16 KiB."`
	CreatedAt time.Time      `json:"created_at"`
	UpdatedAt time.Time      `json:"updated_at"`
	Position  string         `json:"position" doc:"Position of the profile's last change."`
}

// CreateProfile begins a profile.
type CreateProfile struct {
	ID       string         `json:"id" maxLength:"63" pattern:"^[a-z0-9][a-z0-9-]{0,62}$" example:"gold" doc:"Chosen by you, for ever, and never used again."`
	Name     string         `json:"name" maxLength:"200" example:"Gold"`
	Settings jsontext.Value `json:"settings,omitzero" doc:"A JSON object of your own, at most 16 KiB; empty unless given."`
	Reason   string         `json:"reason,omitzero" maxLength:"1000" doc:"Why, for the audit log."`
}

// UpdateProfile is a merge patch of a profile. Its settings are merged as RFC
// 7396 says: members that are given replace, null removes one.
type UpdateProfile struct {
	Name     Optional[string] `json:"name,omitzero" maxLength:"200"`
	Settings jsontext.Value   `json:"settings,omitzero" doc:"Merged into the settings: members that are given replace, null removes one."`
	Reason   string           `json:"reason,omitzero" maxLength:"1000" doc:"Why, for the audit log."`
}

// Grant is what a key may do.
type Grant struct {
	Level  string   `json:"level" enum:"all,read_only,restricted"`
	Grants []string `json:"grants,omitempty" maxItems:"200" doc:"Of a restricted key: resource:action, or resource:* for all of a resource."`
}

// Scope is where a key may be used.
type Scope struct {
	AllWorkspaces bool     `json:"all_workspaces,omitzero"`
	Workspaces    []string `json:"workspaces,omitempty" maxItems:"400"`
}

// Key is an API key, without its secret.
type Key struct {
	ID                   string            `json:"id" format:"uuid"`
	Name                 *string           `json:"name" doc:"null when the key has no name."`
	Kind                 string            `json:"kind" enum:"api,management"`
	Role                 string            `json:"role,omitzero" enum:"owner,admin,member,auditor,verifier,resolver" doc:"Of a management key."`
	Prefix               string            `json:"prefix" example:"kl_live"`
	LastFour             string            `json:"last_four" example:"a1B2"`
	Masked               string            `json:"masked" example:"kl_live_…a1B2"`
	Status               string            `json:"status" enum:"ACTIVE,INACTIVE,EXPIRED,REVOKED"`
	Permissions          *Grant            `json:"permissions,omitempty" doc:"Left out for a management key, which has a role."`
	EffectivePermissions []string          `json:"effective_permissions" doc:"The permissions of today's catalog that the key has; with as_of, of the catalog of then."`
	Scope                Scope             `json:"scope"`
	GoneWorkspaces       []string          `json:"gone_workspaces,omitempty" doc:"Workspaces of its scope that were deleted. A key whose scope lists no other is denied as OUT_OF_SCOPE everywhere."`
	Profile              *string           `json:"profile" doc:"Id of the profile, null without one."`
	CreatedAt            time.Time         `json:"created_at"`
	CreatedBy            string            `json:"created_by" example:"key/_system/0197ab6e-98f1-7c3a-8f0e-2f3a4b5c6d7e" doc:"key/<organization>/<key id> or system/<part>."`
	ExpiresAt            *time.Time        `json:"expires_at" doc:"null for never."`
	LastUsedAt           *time.Time        `json:"last_used_at" doc:"null when the key was not used yet. It may lag some seconds behind."`
	RotatedFrom          string            `json:"rotated_from,omitzero" doc:"The key that this one succeeds."`
	RotatedTo            string            `json:"rotated_to,omitzero" doc:"The key that succeeds this one."`
	RotationDueAt        *time.Time        `json:"rotation_due_at,omitempty" doc:"When the key has the age at which its organization's policy wants it rotated. Left out when there is no such age, and of a key that was rotated or has ended."`
	Imported             bool              `json:"imported,omitzero" doc:"true for a key that came from another system, by its digest."`
	GraceEndsAt          *time.Time        `json:"grace_ends_at,omitempty" doc:"Until when a rotated key lives beside its successor."`
	RevokedAt            *time.Time        `json:"revoked_at,omitempty"`
	RevocationReason     string            `json:"revocation_reason,omitzero"`
	ExternalID           string            `json:"external_id,omitzero"`
	Metadata             map[string]string `json:"metadata"`
	DataSubject          string            `json:"data_subject" doc:"Pseudonym of whom the key's texts tell of, and those of its uses: what POST …/audit/erase takes. The key's own id unless another was given."`
	Position             string            `json:"position" doc:"Position of the key's last change. Ask for a verdict with at_least to be sure it is applied."`
	AsOf                 *Moment           `json:"as_of,omitempty" doc:"With as_of alone: when the key was so."`
	MadeSoBy             *Change           `json:"made_so_by,omitempty" doc:"With as_of alone: the last event with which the key became what is shown, or the end of its organization, all seen at as_of.time. What changed its effective permissions alone does not count; verdict tells that."`
	Verdict              *PastVerdict      `json:"verdict,omitempty" doc:"With as_of, when a permission, a workspace or verdict=true asks for it."`
}

// CreateKey begins a key.
type CreateKey struct {
	Name        string            `json:"name,omitzero" maxLength:"200" example:"Zapier"`
	Prefix      string            `json:"prefix,omitzero" maxLength:"15" example:"acme_live" doc:"The organization's default unless given."`
	Permissions *GrantWish        `json:"permissions,omitempty" doc:"Needed for a key of kind api. A list of grants is short for level restricted."`
	Scope       *Scope            `json:"scope,omitempty" doc:"all_workspaces: true, or a list of workspaces. Needed."`
	Profile     string            `json:"profile,omitzero" maxLength:"63"`
	ExpiresAt   *time.Time        `json:"expires_at,omitempty" doc:"Instead of expires_in. It is cut to the whole second."`
	ExpiresIn   string            `json:"expires_in,omitzero" maxLength:"16" example:"90d" doc:"<n>d, <n>mo, <n>y or never; the organization's default unless given."`
	Metadata    map[string]string `json:"metadata,omitempty" maxProperties:"32"`
	ExternalID  string            `json:"external_id,omitzero" maxLength:"200"`
	DataSubject string            `json:"data_subject,omitzero" maxLength:"63" pattern:"^[a-z0-9][a-z0-9-]{0,62}$" example:"user-4711" doc:"Pseudonym of whom the key's texts tell of, for all of its life and that of its successors: what POST …/audit/erase takes. It is stored in clear and never erased, so that a name or an address is none. The key's own id unless given."`
	Kind        string            `json:"kind,omitzero" enum:"api,management" doc:"api unless given."`
	Role        string            `json:"role,omitzero" enum:"owner,admin,member,auditor,verifier,resolver" doc:"Of a key of kind management."`
	Reason      string            `json:"reason,omitzero" maxLength:"1000" doc:"Why, for the audit log."`
}

// UpdateKey is a merge patch of a key. Permissions and scope are values and are
// given whole; metadata is merged.
type UpdateKey struct {
	Name        Optional[string]             `json:"name,omitzero" maxLength:"200" doc:"null clears it."`
	Permissions Optional[GrantWish]          `json:"permissions,omitzero" doc:"Given whole. A list of grants is short for level restricted."`
	Scope       Optional[Scope]              `json:"scope,omitzero" doc:"Given whole."`
	Status      Optional[string]             `json:"status,omitzero" enum:"ACTIVE,INACTIVE" doc:"INACTIVE switches the key off until it is ACTIVE again."`
	Profile     Optional[string]             `json:"profile,omitzero" maxLength:"63" doc:"null detaches it."`
	ExpiresAt   Optional[time.Time]          `json:"expires_at,omitzero" doc:"null is never. It is cut to the whole second."`
	ExpiresIn   Optional[string]             `json:"expires_in,omitzero" maxLength:"16" doc:"Instead of expires_at, counted from now."`
	Metadata    Optional[map[string]*string] `json:"metadata,omitzero" doc:"Merged: null removes a member, null for the whole removes all."`
	Grace       Optional[string]             `json:"grace,omitzero" maxLength:"8" example:"15m" doc:"Cuts the grace of a rotated key short, counted from now."`
	Reason      string                       `json:"reason,omitzero" maxLength:"1000" doc:"Why, for the audit log."`
}

// RevokeKey ends a key for ever.
type RevokeKey struct {
	Reason  string `json:"reason,omitzero" maxLength:"1000" doc:"Why, for the audit log."`
	Cascade bool   `json:"cascade,omitzero" doc:"Revoke the keys that succeed it as well."`
}

// RotateKey gives a key a successor.
type RotateKey struct {
	Grace     string     `json:"grace" maxLength:"8" example:"24h" doc:"How long the old key lives on: 0, <n>m (minutes), <n>h or <n>d."`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"Of the new key, cut to the whole second; the lifetime of the old one, counted from now, unless given, as far as limit and policy allow it."`
	ExpiresIn string     `json:"expires_in,omitzero" maxLength:"16" doc:"Instead of expires_at."`
	Reason    string     `json:"reason,omitzero" maxLength:"1000" doc:"Why, for the audit log."`
}

// Created answers the creation of a key.
type Created struct {
	Key      Key    `json:"key"`
	Secret   string `json:"secret,omitzero" doc:"The key itself: shown this once and kept nowhere. Left out when the request is a repetition (Idempotency-Replayed)."`
	Position string `json:"position"`
}

// Rotated answers a rotation.
type Rotated struct {
	Key      Key    `json:"key" doc:"The new key."`
	Secret   string `json:"secret,omitzero" doc:"The new key itself: shown this once and kept nowhere. Left out when the request is a repetition (Idempotency-Replayed)."`
	Previous Key    `json:"previous" doc:"The old key, which lives on until grace_ends_at."`
	Position string `json:"position"`
}

// Changed answers a revocation.
type Changed struct {
	Key      Key       `json:"key"`
	Position string    `json:"position"`
	Warnings []Warning `json:"warnings,omitempty" doc:"What may not have been meant. It was done all the same."`
}

// Warning says of a change that it may not have been meant.
type Warning struct {
	Code   string `json:"code" enum:"successor_unused" doc:"successor_unused: the key was rotated, and no VALID use of its successor is known, so that whoever used the key may now be denied. Uses are known some seconds after they happen."`
	Detail string `json:"detail"`
}

// WarnSuccessorUnused warns of the end of a key whose successor is not used yet.
const WarnSuccessorUnused = "successor_unused"

// Deleted answers the end of an organization, workspace or profile.
type Deleted struct {
	Position string `json:"position"`
}

// DryRun answers any change asked for with dry_run=true: what would have been
// appended. Nothing was, and a key that would have been created does not exist.
type DryRun struct {
	DryRun bool      `json:"dry_run" doc:"true."`
	Events []Preview `json:"events" doc:"Empty when nothing would change."`
	// Warnings are those of the change.
	Warnings []Warning `json:"warnings,omitempty" doc:"What may not be meant."`
	// Items are those of an import alone.
	Items []ImportItem `json:"items,omitempty" doc:"Of an import: what would become of each key."`
}

// Preview is an event that was not appended.
type Preview struct {
	Type    string         `json:"type" example:"keyledger.key.created.v1"`
	Subject string         `json:"subject"`
	Data    jsontext.Value `json:"data"`
}

// Event is an event of the ledger.
type Event struct {
	Position string         `json:"position"`
	Kind     string         `json:"kind" example:"key.created"`
	Event    jsontext.Value `json:"event" doc:"The stored CloudEvents document."`
}

// EventEnd is the type of a stream's last event, whose data is a [Problem] that
// says why the server ends it.
const EventEnd = "end"

// List is one page of a list.
type List[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor,omitzero" doc:"Ask with cursor= for the next page; left out on the last."`
}

// Whoami is what the key of the request is.
type Whoami struct {
	KeyID        string     `json:"key_id"`
	Organization string     `json:"organization"`
	Kind         string     `json:"kind" enum:"api,management"`
	Role         string     `json:"role,omitzero"`
	Permissions  *Grant     `json:"permissions,omitempty"`
	Scope        Scope      `json:"scope"`
	ExpiresAt    *time.Time `json:"expires_at"`
	Position     string     `json:"position"`
}

// Health answers /readyz.
type Health struct {
	Ready  bool              `json:"ready"`
	Checks map[string]string `json:"checks,omitempty" doc:"The checks that fail, and why."`
}
