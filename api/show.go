package api

import (
	"context"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/configuration"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/catalog"
)

func (s *Server) position(pos events.Position) string { return s.gate.Position(pos) }

// instant returns nil for none.
func instant(t events.Time) *time.Time { return gate.Instant(t) }

func textOrNull[T ~string](s T) *string {
	if s == "" {
		return nil
	}
	text := string(s)
	return &text
}

func keyIDText(id events.KeyID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// showKey shows a key to a caller as the catalog has it.
func (s *Server) showKey(ctx context.Context, p commands.Principal, k catalog.Key) wire.Key {
	out := wire.Key{
		ID: k.ID.String(), Name: textOrNull(s.text(ctx, p, k.Org, k.Name)), Kind: string(k.Kind), Role: string(k.Role),
		Prefix: k.Prefix, LastFour: k.LastFour, Masked: keystring.Masked(k.Prefix, k.LastFour), Status: string(k.Status),
		Permissions: grantOf(k.Kind, k.Permissions), EffectivePermissions: s.effective(k.Org, k.Permissions),
		Scope: scopeOf(k.Scope), GoneWorkspaces: s.gone(k.Org, k.Scope), Profile: textOrNull(k.Profile), CreatedAt: k.CreatedAt.Std(), CreatedBy: k.CreatedBy.String(),
		ExpiresAt: instant(k.ExpiresAt), LastUsedAt: instant(k.LastUsedAt),
		RotatedFrom: keyIDText(k.RotatedFrom), RotatedTo: keyIDText(k.RotatedTo), GraceEndsAt: instant(k.GraceEndsAt),
		RevokedAt: instant(k.RevokedAt), RevocationReason: s.text(ctx, p, k.Org, k.RevocationReason), ExternalID: s.text(ctx, p, k.Org, k.ExternalID),
		Metadata: s.metadata(ctx, p, k.Org, k.Metadata), DataSubject: string(k.DataSubject), Imported: k.Imported, RotationDueAt: instant(k.RotationDueAt), Position: s.position(k.Position),
	}
	return out
}

// showOwn shows a key as its own facts tell it, right after a change.
func (s *Server) showOwn(ctx context.Context, p commands.Principal, k commands.Key, lastUsed events.Time) wire.Key {
	config, _ := s.cfg.Configuration.Of(k.Org)
	return s.showKey(ctx, p, rowOf(k, config, events.TimeOf(time.Now()), lastUsed))
}

// rowOf is a key as the catalog would have it at an instant, by its own facts and
// a configuration of its organization.
func rowOf(k commands.Key, config configuration.State, now, lastUsed events.Time) catalog.Key {
	return catalog.Key{
		Org: k.Org, ID: k.ID, Kind: k.Kind, Role: k.Role, Name: k.Name, Prefix: k.Prefix, LastFour: k.LastFour,
		Permissions: k.Permissions, Scope: k.Scope, Profile: k.Profile, ExternalID: k.ExternalID, Metadata: k.Metadata,
		DataSubject: k.DataSubject, CreatedAt: k.CreatedAt, CreatedBy: k.CreatedBy, RotatedFrom: k.RotatedFrom, RotatedTo: k.RotatedTo,
		Imported: k.Imported, RotationDueAt: k.RotationDue(config.Organization.Policy, now),
		Status: k.Status(now), ExpiresAt: k.ExpiresAt, GraceEndsAt: k.GraceEndsAt,
		RevokedAt: k.RevokedAt, RevocationReason: k.RevocationReason, LastUsedAt: lastUsed, Position: k.Position,
	}
}

func grantOf(kind events.KeyKind, p events.Permissions) *wire.Grant { return gate.GrantOf(kind, p) }

func scopeOf(s events.Scope) wire.Scope { return gate.ScopeOf(s) }

func texts[T ~string](list []T) []string {
	if len(list) == 0 {
		return nil
	}
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = string(v)
	}
	return out
}

// effective are the permissions that a key has under today's catalog. It is
// shown; verdicts are made of the index.
func (s *Server) effective(org events.OrgID, p events.Permissions) []string {
	config, _ := s.cfg.Configuration.Of(org)
	return effectiveUnder(config, p)
}

// effectiveUnder are the permissions that a key has under a catalog.
func effectiveUnder(config configuration.State, p events.Permissions) []string {
	out := []string{}
	if p.Level == "" {
		return out
	}
	grants := make([]permission.Grant, len(p.Grants))
	for i, g := range p.Grants {
		grants[i] = permission.Grant(g)
	}
	for _, entry := range config.Catalog.Permissions {
		if permission.Allowed(permission.Level(p.Level), grants, permission.Name(entry.Name), permission.Access(entry.Access)) {
			out = append(out, entry.Name)
		}
	}
	return out
}

// gone are the workspaces of a scope that live no more.
func (s *Server) gone(org events.OrgID, scope events.Scope) []string {
	if len(scope.Workspaces) == 0 {
		return nil
	}
	config, _ := s.cfg.Configuration.Of(org)
	return goneUnder(config, scope)
}

func goneUnder(config configuration.State, scope events.Scope) []string {
	var out []string
	for _, w := range scope.Workspaces {
		if !config.Workspaces[w].Live() {
			out = append(out, string(w))
		}
	}
	return out
}

func (s *Server) showOrganization(o catalog.Organization) wire.Organization {
	return wire.Organization{
		ID: string(o.ID), Name: o.Name.String(), Plan: string(o.Plan), Limits: showLimits(o.Limits), Policy: showPolicy(o.Policy),
		CreatedAt: o.CreatedAt.Std(), UpdatedAt: o.UpdatedAt.Std(), Position: s.position(o.Position),
	}
}

func showLimits(l events.Limits) wire.Limits {
	return wire.Limits{MaxActiveKeys: l.MaxActiveKeys, MaxKeyLifetime: string(l.MaxKeyLifetime)}
}

func showPolicy(p events.Policy) wire.Policy {
	return wire.Policy{
		DefaultPrefix: p.DefaultPrefix, DefaultExpiresIn: string(p.DefaultExpiresIn),
		MaxKeyLifetime: string(p.MaxKeyLifetime), ExpiryRequired: p.ExpiryRequired, ExpiryChoices: texts(p.ExpiryChoices),
		NameRequired: p.NameRequired, RotationDueAfter: string(p.RotationDueAfter), ExpiryNotices: texts(p.ExpiryNotices),
		Signals: wire.Signals{
			NewSource: string(p.Signals.NewSource), DenialsSpike: string(p.Signals.DenialsSpike), DenialsPerMinute: p.Signals.DenialsPerMinute,
			ResolvesPerMinute: p.Signals.ResolvesPerMinute,
		},
		Sealing: string(p.Sealing), UsesRetention: string(p.UsesRetention),
	}
}

func (s *Server) showWorkspace(w catalog.Workspace) wire.Workspace {
	return wire.Workspace{
		ID: string(w.ID), Name: w.Name.String(), CreatedAt: w.CreatedAt.Std(), UpdatedAt: w.UpdatedAt.Std(), Position: s.position(w.Position),
	}
}

func (s *Server) showProfile(p catalog.Profile) wire.Profile {
	return wire.Profile{
		ID: string(p.ID), Name: p.Name.String(), Settings: jsontext.Value(p.Settings), CreatedAt: p.CreatedAt.Std(),
		UpdatedAt: p.UpdatedAt.Std(), Position: s.position(p.Position),
	}
}

func (s *Server) showPermissions(p catalog.Permissions) wire.Permissions {
	out := wire.Permissions{Permissions: []wire.Permission{}}
	if p.Position != 0 {
		out.Position = s.position(p.Position)
	}
	for _, entry := range p.Permissions {
		out.Permissions = append(out.Permissions, wire.Permission{
			Name: entry.Name, Access: string(entry.Access), Description: entry.Description, Routes: entry.Routes,
		})
	}
	return out
}

func list[V, W any](rows []V, next string, show func(V) W) wire.List[W] {
	out := wire.List[W]{Items: make([]W, 0, len(rows)), NextCursor: next}
	for _, row := range rows {
		out.Items = append(out.Items, show(row))
	}
	return out
}
