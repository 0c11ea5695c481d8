package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/period"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/projections/catalog"
)

func (s *Server) keyEndpoints() []endpoint {
	const base, one = "/v1/organizations/{org}/keys", "/v1/organizations/{org}/keys/{key}"
	const tag = "Keys"
	const changes = "Role owner or admin; a key that is limited to workspaces manages keys within them, and nobody manages a role above their own."
	const looks = "Role owner, admin, member or auditor, within the key's own scope."
	ended := []string{"invalid_value", "unknown_permission", "unknown_workspace", "unknown_profile", "past_expiry", "lifetime_too_long", "policy_violation", "ended"}
	revoke := endpoint{
		tag: tag, who: changes, answers: wire.Changed{}, status: 200, change: true, handle: s.revokeKey,
		description: "For ever, and from the next verdict on. It holds whatever the revision, so that nothing blocks it, and repeating it does no harm. A successor lives on unless cascade asks for it; while no VALID use of it is known, warnings tells that, with dry_run too.",
	}
	byPost, byDelete := revoke, revoke
	byPost.method, byPost.path, byPost.id, byPost.summary = "POST", one+"/revoke", "revoke-key", "Revoke a key"
	byPost.takes, byPost.bare, byPost.example = wire.RevokeKey{}, true, wire.RevokeKey{Reason: "leaked in a log"}
	byDelete.method, byDelete.path, byDelete.id, byDelete.summary = "DELETE", one, "delete-key", "Revoke a key (the same as POST …/revoke)"
	return []endpoint{
		{
			method: "POST", path: base, id: "create-key", tag: tag, summary: "Create a key",
			description: "The secret is in this answer and nowhere else, ever. With an Idempotency-Key a repetition makes no second key and answers without the secret.",
			who:         changes, takes: wire.CreateKey{}, change: true, answers: wire.Created{}, status: 201,
			example: wire.CreateKey{
				Name: "Zapier", Permissions: &wire.GrantWish{Level: "restricted", Grants: []string{"interview:read"}},
				Scope: &wire.Scope{Workspaces: []string{"support"}}, ExpiresIn: "90d",
			},
			codes: append([]string{"key_limit_reached"}, ended...), handle: s.createKey,
		},
		{
			method: "GET", path: base, id: "list-keys", tag: tag, summary: "List keys", description: "From the newest on. REVOKED keys are hidden unless status asks for them.",
			who: looks, query: keyFilters(), answers: wire.List[wire.Key]{}, status: 200, codes: []string{"invalid_cursor"}, handle: s.listKeys,
		},
		{
			method: "GET", path: one, id: "get-key", tag: tag, summary: "Get a key, as it is or as it was",
			description: "With as_of the key as its events tell it up to there, under the configuration of then, with the event that made it so. It is 404 when there was no such key yet. last_used_at is of then, too, as long as its single uses are kept.",
			who:         looks, query: asOfParameters(), answers: wire.Key{}, status: 200, codes: []string{"invalid_value"}, handle: s.getKey,
		},
		{
			method: "PATCH", path: one, id: "update-key", tag: tag, summary: "Change a key",
			description: "A merge patch. It holds from the next verdict on. A REVOKED or EXPIRED key does not change any more.", who: changes,
			takes: wire.UpdateKey{}, example: wire.UpdateKey{Name: wire.Some("Zapier production"), Status: wire.Some("INACTIVE")}, change: true, match: true,
			answers: wire.Key{}, status: 200, codes: ended, handle: s.updateKey,
		},
		byDelete,
		byPost,
		{
			method: "POST", path: one + "/rotate", id: "rotate-key", tag: tag, summary: "Rotate a key",
			description: "Gives the key a successor with the same permissions, scope and profile. Both are good until the grace ends; PATCH the old key's grace to cut it short.",
			who:         changes, takes: wire.RotateKey{}, example: wire.RotateKey{Grace: "24h"}, change: true, match: true,
			answers: wire.Rotated{}, status: 201, codes: append([]string{"already_rotated", "key_limit_reached"}, ended...), handle: s.rotateKey,
		},
		{
			method: "GET", path: one + "/history", id: "get-key-history", tag: tag, summary: "Get a key's history",
			description: "Every event of the key and of its revocation, from the newest on, as the audit log tells it.", who: looks,
			query:   append([]parameter{rawParameter}, pageParameters()...),
			answers: wire.List[wire.Change]{}, status: 200, codes: []string{"invalid_cursor"}, reads: access.AuditRead, handle: s.keyHistory,
		},
	}
}

func pageParameters() []parameter {
	return []parameter{
		{name: "cursor", description: "next_cursor of the page before.", of: ""},
		{name: "limit", description: "Most items to answer: 1 to 200, 50 unless given.", of: 0, example: 50},
	}
}

func keyFilters() []parameter {
	return append([]parameter{
		{name: "status", description: "ACTIVE, INACTIVE, EXPIRED, REVOKED, or all. Unless given, all but REVOKED.", of: "", example: "ACTIVE"},
		{name: "workspace", description: "Keys that may be used in this workspace.", of: "", example: "support"},
		{name: "q", description: "Keys with this text in name, prefix, last four, id or external id. A text that is sealed is not found.", of: "", example: "zapier"},
		{name: "unused_since", description: "Keys that existed then and were not used since; an RFC 3339 time.", of: "", example: "2026-01-01T00:00:00Z"},
		{name: "external_id", description: "The key of exactly this external id, unless it is sealed.", of: "", example: "crm-4711"},
		{name: "kind", description: "api or management.", of: "", example: "api"},
		{
			name: "metadata", most: MaxMetadataFilters, of: []string{}, example: []string{"team=platform"},
			description: "Keys with this member of metadata, as name=value (in a URL metadata=team%3Dplatform). Given up to 5 times, all must hold. The name ends at the first '='. A value that is sealed is not found.",
		},
		{name: "rotation_due", description: "true for keys that have reached the age at which they should be rotated, and were not.", of: false, example: true},
	}, pageParameters()...)
}

// key reads the organization and key of the path.
func (c *call) key() (events.OrgID, events.KeyID, error) {
	org, err := c.org()
	if err != nil {
		return "", events.KeyID{}, err
	}
	id, err := events.ParseKeyID(c.r.PathValue("key"))
	if err != nil {
		return "", events.KeyID{}, missing("key")
	}
	return org, id, nil
}

func (s *Server) createKey(ctx context.Context, c *call) (reply, error) {
	org, err := c.org()
	if err != nil {
		return reply{}, err
	}
	body, w, err := wished(c, func(b wire.CreateKey) string { return b.Reason })
	if err != nil {
		return reply{}, err
	}
	create := commands.CreateKey{Prefix: body.Prefix, Create: key.Create{
		Kind: events.KeyKind(body.Kind), Role: events.Role(body.Role), Name: events.ClearText(body.Name),
		ExternalID: events.ClearText(body.ExternalID), DataSubject: events.DataSubject(body.DataSubject),
	}}
	if create.Metadata, err = metadataFrom(body.Metadata); err != nil {
		return reply{}, err
	}
	if body.Permissions != nil {
		create.Permissions = permissionsFrom(*body.Permissions)
	}
	if body.Scope != nil {
		if create.Scope, err = scopeFrom(*body.Scope); err != nil {
			return reply{}, err
		}
	}
	if body.Profile != "" {
		if create.Profile, err = parseID("profile", body.Profile, events.ParseProfileID); err != nil {
			return reply{}, err
		}
	}
	if create.Expiry, err = expiryFrom(body.ExpiresAt, body.ExpiresIn); err != nil {
		return reply{}, err
	}
	out, err := s.cfg.Commands.CreateKey(ctx, w, org, create)
	if err != nil {
		return reply{}, err
	}
	if w.DryRun {
		return preview(out.Facts)
	}
	s.remember(out.Position)
	return reply{
		body:     wire.Created{Key: s.showOwn(ctx, c.principal, out.Key, s.lastUsed(ctx, out, out.Key)), Secret: out.Secret.Reveal(), Position: s.position(out.Position)},
		revision: out.Key.Revision, replayed: out.Replayed, location: keyPath(org, out.Key.ID), lags: !out.Applied,
	}, nil
}

func keyPath(org events.OrgID, id events.KeyID) string {
	return "/v1/organizations/" + string(org) + "/keys/" + id.String()
}

// lastUsed asks the catalog when a key was last used. A new one was not, and a
// key that the catalog does not know yet neither.
func (s *Server) lastUsed(ctx context.Context, out commands.KeyOutcome, k commands.Key) events.Time {
	if !out.Secret.IsZero() && k.ID == out.Key.ID {
		return 0
	}
	row, err := s.cfg.Catalog.Key(ctx, k.Org, k.ID, events.TimeOf(time.Now()))
	if err != nil {
		return 0
	}
	return row.LastUsedAt
}

func (s *Server) listKeys(ctx context.Context, c *call) (reply, error) {
	org, err := c.look()
	if err != nil {
		return reply{}, err
	}
	f, err := c.keyFilter(org)
	if err != nil {
		return reply{}, err
	}
	s.settle(ctx)
	if _, err := s.organization(ctx, org); err != nil {
		return reply{}, err
	}
	rows, next, err := s.cfg.Catalog.Keys(ctx, f, events.TimeOf(time.Now()))
	s.keysAhead(ctx, c.principal, org, rows)
	return reply{body: list(rows, next, func(k catalog.Key) wire.Key { return s.showKey(ctx, c.principal, k) })}, err
}

// keyFilter reads which keys are wanted.
func (c *call) keyFilter(org events.OrgID) (f catalog.Filter, err error) {
	f = catalog.Filter{Org: org, Within: c.principal.Scope, Query: c.query("q"), ExternalID: c.query("external_id"), Kind: events.KeyKind(c.query("kind"))}
	f.Cursor = c.query("cursor")
	if f.Limit, err = c.limit(); err != nil {
		return f, err
	}
	switch status := events.Status(c.query("status")); status {
	case "", catalog.StatusAny, events.StatusActive, events.StatusInactive, events.StatusExpired, events.StatusRevoked:
		f.Status = status
	default:
		return f, refuse(errRequest, "status", "must be ACTIVE, INACTIVE, EXPIRED, REVOKED or all")
	}
	switch f.Kind {
	case "", events.KindAPI, events.KindManagement:
	default:
		return f, refuse(errRequest, "kind", "must be api or management")
	}
	if text := c.query("workspace"); text != "" {
		if f.Workspace, err = events.ParseWorkspaceID(text); err != nil {
			return f, refuse(errRequest, "workspace", "is no workspace id")
		}
	}
	if text := c.query("unused_since"); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return f, refuse(errRequest, "unused_since", "%s", "must be a time as RFC 3339 writes it, such as 2026-12-31T00:00:00Z")
		}
		f.UnusedSince = events.TimeOf(at)
	}
	for _, text := range c.r.URL.Query()["metadata"] {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" || value == "" || len(name) > events.MaxMetadataKeyLength || len(value) > events.MaxMetadataValueLength {
			return f, refuse(errRequest, "metadata", "must be name=value, in a URL metadata=team%%3Dplatform, with a name of 1 to %d bytes and a value of 1 to %d",
				events.MaxMetadataKeyLength, events.MaxMetadataValueLength)
		}
		f.Metadata = append(f.Metadata, catalog.Labelled{Name: name, Value: value})
	}
	f.RotationDue, err = c.flag("rotation_due")
	return f, err
}

// seen reads a key that the caller may see.
func (s *Server) seen(ctx context.Context, c *call) (catalog.Key, error) {
	if _, err := c.look(); err != nil {
		return catalog.Key{}, err
	}
	org, id, err := c.key()
	if err != nil {
		return catalog.Key{}, err
	}
	s.settle(ctx)
	k, err := s.cfg.Catalog.Key(ctx, org, id, events.TimeOf(time.Now()))
	if errors.Is(err, catalog.ErrNotFound) || err == nil && !c.principal.Covers(k.Scope) {
		return k, missing("key")
	}
	return k, err
}

func (s *Server) getKey(ctx context.Context, c *call) (reply, error) {
	k, err := s.seen(ctx, c)
	if err != nil {
		return reply{}, err
	}
	if c.query("as_of") != "" {
		s.access(c, access.AuditRead, k.Org, "get-key?as_of")
		return s.keyThen(ctx, c, k)
	}
	for _, name := range []string{"permission", "workspace", "verdict"} {
		if c.query(name) != "" {
			return reply{}, refuse(errRequest, name, "is asked together with as_of; what holds now, POST /v1/verify tells")
		}
	}
	return reply{body: s.showKey(ctx, c.principal, k), revision: k.Revision}, nil
}

func (s *Server) updateKey(ctx context.Context, c *call) (reply, error) {
	org, id, err := c.key()
	if err != nil {
		return reply{}, err
	}
	body, w, err := wished(c, func(b wire.UpdateKey) string { return b.Reason })
	if err != nil {
		return reply{}, err
	}
	change, err := updateFrom(body)
	if err != nil {
		return reply{}, err
	}
	out, err := s.cfg.Commands.UpdateKey(ctx, w, org, id, change)
	if err != nil {
		return reply{}, err
	}
	if w.DryRun {
		return preview(out.Facts)
	}
	if err := s.applied(out.Outcome); err != nil {
		return reply{}, err
	}
	return reply{
		body:     s.showOwn(ctx, c.principal, out.Key, s.lastUsed(ctx, out, out.Key)),
		revision: out.Key.Revision, replayed: out.Replayed, lags: !out.Applied,
	}, nil
}

func updateFrom(body wire.UpdateKey) (key.Update, error) {
	change := key.Update{
		Name:   domain.Optional[events.Text]{Set: body.Name.Set, Value: events.ClearText(body.Name.Value)},
		Status: domain.Optional[events.Status]{Set: body.Status.Set, Value: events.Status(body.Status.Value)},
	}
	err := errors.Join(needed("permissions", body.Permissions), needed("scope", body.Scope), needed("status", body.Status),
		notNull("expires_in", body.ExpiresIn, `for a key that never expires give "never"`),
		notNull("grace", body.Grace, `a grace can be cut short and not taken away; "0" ends it now`))
	if err != nil {
		return change, err
	}
	if body.Permissions.Set {
		change.Permissions = domain.Some(permissionsFrom(body.Permissions.Value))
	}
	if body.Scope.Set {
		scope, err := scopeFrom(body.Scope.Value)
		if err != nil {
			return change, err
		}
		change.Scope = domain.Some(scope)
	}
	if body.Profile.Set {
		change.Profile.Set = true
		if body.Profile.Value != "" {
			if change.Profile.Value, err = parseID("profile", body.Profile.Value, events.ParseProfileID); err != nil {
				return change, err
			}
		}
	}
	if body.ExpiresAt.Set || body.ExpiresIn.Set {
		var at *time.Time
		if body.ExpiresAt.Set && !body.ExpiresAt.Null {
			at = &body.ExpiresAt.Value
		} else if body.ExpiresAt.Null && body.ExpiresIn.Set {
			return change, domain.Refuse(domain.ErrInvalid, "expires_in", "takes the place of expires_at; give one of them")
		}
		if body.ExpiresIn.Set && body.ExpiresIn.Value == "" {
			return change, domain.Refuse(domain.ErrInvalid, "expires_in", `must be <n>d, <n>mo, <n>y or never`)
		}
		expiry, err := expiryFrom(at, body.ExpiresIn.Value)
		if err != nil {
			return change, err
		}
		change.Expiry = domain.Some(expiry)
	}
	if body.Grace.Set {
		grace, err := period.Grace("grace", body.Grace.Value)
		if err != nil {
			return change, err
		}
		change.Grace = domain.Some(grace)
	}
	change.ClearMetadata = body.Metadata.Null
	if body.Metadata.Set && !body.Metadata.Null {
		merged := events.Metadata{}
		for name, value := range body.Metadata.Value {
			switch {
			case value == nil:
				merged[name] = events.Text{}
			case *value == "":
				return change, errEmptyValue()
			default:
				merged[name] = events.ClearText(*value)
			}
		}
		change.Metadata = domain.Some(merged)
	}
	return change, nil
}

// given hands a member of a merge patch on; null is its zero value, which is none.
func given[T any](o wire.Optional[T]) domain.Optional[T] {
	return domain.Optional[T]{Set: o.Set, Value: o.Value}
}

// givenAs is given for a text that has a type of its own.
func givenAs[T ~string](o wire.Optional[string]) domain.Optional[T] {
	return domain.Optional[T]{Set: o.Set, Value: T(o.Value)}
}

// needed refuses null for a member that cannot be without a value.
func needed[T any](field string, o wire.Optional[T]) error {
	if o.Null {
		return domain.Refuse(domain.ErrInvalid, field, "is needed and cannot be cleared")
	}
	return nil
}

// notNull refuses null where clearing could mean two things, and says how to say
// either.
func notNull(field string, o wire.Optional[string], instead string) error {
	if o.Null {
		return domain.Refuse(domain.ErrInvalid, field, "cannot be null: %s", instead)
	}
	return nil
}

func permissionsFrom(g wire.GrantWish) events.Permissions {
	return events.Permissions{Level: events.Level(g.Level), Grants: g.Grants}
}

func scopeFrom(s wire.Scope) (events.Scope, error) {
	out := events.Scope{AllWorkspaces: s.AllWorkspaces}
	for _, text := range s.Workspaces {
		id, err := parseID("scope.workspaces", text, events.ParseWorkspaceID)
		if err != nil {
			return out, err
		}
		out.Workspaces = append(out.Workspaces, id)
	}
	return out, nil
}

func metadataFrom(m map[string]string) (events.Metadata, error) {
	if len(m) == 0 {
		return nil, nil
	}
	out := make(events.Metadata, len(m))
	for name, value := range m {
		if value == "" {
			return nil, errEmptyValue()
		}
		out[name] = events.ClearText(value)
	}
	return out, nil
}

// errEmptyValue refuses what would look like a member and be none: to facts an
// empty text says that there is none.
func errEmptyValue() error {
	return domain.Refuse(domain.ErrInvalid, "metadata", "a value must not be empty; in a change, null removes a member")
}

// expiryFrom reads either member. An instant that facts cannot hold is refused
// here: cut to none, it would never come.
func expiryFrom(at *time.Time, in string) (key.Expiry, error) {
	if at == nil {
		return key.Expiry{In: events.Period(in)}, nil
	}
	if y := at.UTC().Year(); y < 1970 || y > 9999 {
		return key.Expiry{}, domain.Refuse(domain.ErrPastExpiry, "expires_at", "must lie in the future, and before the year 10000")
	}
	t := events.TimeOf(*at)
	if t.IsZero() {
		return key.Expiry{}, domain.Refuse(domain.ErrPastExpiry, "expires_at", "must lie in the future")
	}
	return key.Expiry{At: t, In: events.Period(in)}, nil
}

func (s *Server) revokeKey(ctx context.Context, c *call) (reply, error) {
	org, id, err := c.key()
	if err != nil {
		return reply{}, err
	}
	var body wire.RevokeKey
	if c.endpoint.takes != nil {
		if body, err = read[wire.RevokeKey](c); err != nil {
			return reply{}, err
		}
	}
	w, err := c.wish(body.Reason)
	if err != nil {
		return reply{}, err
	}
	out, err := s.cfg.Commands.RevokeKey(ctx, w, org, id, body.Cascade)
	if err != nil {
		return reply{}, err
	}
	var warnings []wire.Warning
	if !body.Cascade {
		warnings = s.successorUnused(ctx, c.principal, out)
	}
	if w.DryRun {
		return previewOf(out.Facts, warnings)
	}
	if err := s.applied(out.Outcome); err != nil {
		return reply{}, err
	}
	return reply{
		body: wire.Changed{
			Key: s.showOwn(ctx, c.principal, out.Key, s.lastUsed(ctx, out, out.Key)), Position: s.position(out.Position), Warnings: warnings,
		},
		revision: out.Key.Revision, replayed: out.Replayed, lags: !out.Applied,
	}, nil
}

// successorUnused warns whoever ends a key that was rotated while nobody has
// changed over to its successor, as far as the catalog knows. A key that had
// ended before takes nothing from anybody.
func (s *Server) successorUnused(ctx context.Context, asks commands.Principal, out commands.KeyOutcome) []wire.Warning {
	k := out.Key
	now := events.TimeOf(time.Now())
	revoked := slices.ContainsFunc(out.Facts, func(f events.Recorded) bool { return f.Event.Kind() == events.KindKeyRevoked })
	if !revoked || k.RotatedTo.IsZero() || k.Expired || k.EndsAt().Passed(now) {
		return nil
	}
	s.settle(ctx)
	next, err := s.cfg.Catalog.Key(ctx, k.Org, k.RotatedTo, now)
	switch {
	case errors.Is(err, catalog.ErrNotFound):
		// It is there, or the key would not have been rotated to it: too young to
		// be known, let alone to be used.
	case err != nil, !asks.Covers(next.Scope), !next.LastUsedAt.IsZero():
		return nil
	case next.Status == events.StatusRevoked, next.Status == events.StatusExpired:
		return nil
	}
	return []wire.Warning{{
		Code: wire.WarnSuccessorUnused,
		Detail: fmt.Sprintf("no VALID use is known of %s, the key that succeeds it: whoever used this one until now may not have changed over yet, and is denied",
			k.RotatedTo),
	}}
}

func (s *Server) rotateKey(ctx context.Context, c *call) (reply, error) {
	org, id, err := c.key()
	if err != nil {
		return reply{}, err
	}
	body, w, err := wished(c, func(b wire.RotateKey) string { return b.Reason })
	if err != nil {
		return reply{}, err
	}
	grace, err := period.Grace("grace", body.Grace)
	if err != nil {
		return reply{}, err
	}
	expiry, err := expiryFrom(body.ExpiresAt, body.ExpiresIn)
	if err != nil {
		return reply{}, err
	}
	out, err := s.cfg.Commands.RotateKey(ctx, w, org, id, commands.RotateKey{Grace: grace, Expiry: expiry})
	if err != nil {
		return reply{}, err
	}
	if w.DryRun {
		return preview(out.Facts)
	}
	s.remember(out.Position)
	return reply{
		body: wire.Rotated{
			Key: s.showOwn(ctx, c.principal, out.Key, s.lastUsed(ctx, out, out.Key)), Secret: out.Secret.Reveal(),
			Previous: s.showOwn(ctx, c.principal, out.Previous, s.lastUsed(ctx, out, out.Previous)), Position: s.position(out.Position),
		},
		revision: out.Key.Revision, replayed: out.Replayed, location: keyPath(org, out.Key.ID), lags: !out.Applied,
	}, nil
}
