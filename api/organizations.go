package api

import (
	"context"
	"errors"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/catalog"
)

func (s *Server) organizationEndpoints() []endpoint {
	const base, one = "/v1/organizations", "/v1/organizations/{org}"
	const tag = "Organizations"
	return []endpoint{
		{
			method: "POST", path: base, id: "create-organization", tag: tag, summary: "Create an organization",
			description: "An organization is a tenant. Its id is for ever and never used again.", who: "Role owner or admin of the installation.",
			takes: wire.CreateOrganization{},
			example: wire.CreateOrganization{
				ID: "acme", Name: "Acme Inc.", Limits: wire.Limits{MaxActiveKeys: 100, MaxKeyLifetime: "1y"},
				Policy: wire.Policy{DefaultExpiresIn: "90d", ExpiryNotices: []string{"14d", "1d"}},
			},
			change: true, answers: wire.Organization{}, status: 201, codes: []string{"already_exists", "invalid_value"},
			handle: s.createOrganization,
		},
		{
			method: "GET", path: base, id: "list-organizations", tag: tag, summary: "List organizations",
			description: "From the newest on. A key of an organization sees its own.", who: "Role owner, admin, member or auditor.",
			query: pageParameters(), answers: wire.List[wire.Organization]{}, status: 200, codes: []string{"invalid_cursor"},
			handle: s.listOrganizations,
		},
		{
			method: "GET", path: one, id: "get-organization", tag: tag, summary: "Get an organization", who: "Role owner, admin, member or auditor.",
			answers: wire.Organization{}, status: 200, handle: s.getOrganization,
		},
		{
			method: "PATCH", path: one, id: "update-organization", tag: tag, summary: "Change an organization",
			description: "A merge patch. Plan and limits are the installation's to change. A policy binds keys when they are created, imported, changed or rotated, and not those that are; one that contradicts itself is refused. Of several rules that a key breaks the first of these is told: policy.name_required, limits.max_key_lifetime, policy.expiry_required, policy.expiry_choices, policy.max_key_lifetime.",
			who:         "Role owner or admin; for plan and limits, of the installation.",
			takes:       wire.UpdateOrganization{}, example: wire.UpdateOrganization{
				Name: wire.Some("Acme Corporation"),
				Policy: wire.Some(wire.UpdatePolicy{
					ExpiryRequired: wire.Some(true), ExpiryChoices: wire.Some([]string{"30d", "90d"}), DefaultExpiresIn: wire.Some("30d"), NameRequired: wire.Some(true),
					Signals: wire.Some(wire.UpdateSignals{DenialsPerMinute: wire.Some(50)}),
				}),
			},
			change: true, match: true, answers: wire.Organization{}, status: 200, codes: []string{"invalid_value", "ended"},
			handle: s.updateOrganization,
		},
		{
			method: "DELETE", path: one, id: "delete-organization", tag: tag, summary: "End an organization",
			description: "Denies all its keys at once, for ever. Its id is never used again.", who: "Role owner.",
			change: true, answers: wire.Deleted{}, status: 200, handle: s.deleteOrganization,
		},
	}
}

func (s *Server) createOrganization(ctx context.Context, c *call) (reply, error) {
	body, w, err := wished(c, func(b wire.CreateOrganization) string { return b.Reason })
	if err != nil {
		return reply{}, err
	}
	id, err := parseID("id", body.ID, events.ParseOrgID)
	if err != nil {
		return reply{}, err
	}
	out, err := s.cfg.Commands.CreateOrganization(ctx, w, organization.Create{
		ID: id, Name: events.ClearText(body.Name), Plan: events.Plan(body.Plan),
		Limits: events.Limits{MaxActiveKeys: body.Limits.MaxActiveKeys, MaxKeyLifetime: events.Period(body.Limits.MaxKeyLifetime)},
		Policy: policyFrom(body.Policy),
	})
	return s.organizationChanged(ctx, w, out, err, id, "/v1/organizations/"+string(id))
}

func (s *Server) organizationChanged(ctx context.Context, w commands.Wish, out commands.Outcome, err error, id events.OrgID, location string) (reply, error) {
	return changed(ctx, s, w, out, err, location, func() (wire.Organization, events.Revision, error) {
		o, err := s.cfg.Catalog.Organization(ctx, id)
		return s.showOrganization(o), o.Revision, err
	})
}

func (s *Server) listOrganizations(ctx context.Context, c *call) (reply, error) {
	limit, err := c.limit()
	if err != nil {
		return reply{}, err
	}
	if !c.principal.MayLook(c.principal.Org) {
		return reply{}, domain.Refuse(domain.ErrForbidden, "", "role %s may not look; this needs role owner, admin, member or auditor", c.principal.Role)
	}
	s.settle(ctx)
	if c.principal.Installation() {
		rows, next, err := s.cfg.Catalog.Organizations(ctx, catalog.Page{Cursor: c.query("cursor"), Limit: limit})
		return reply{body: list(rows, next, s.showOrganization)}, err
	}
	if c.query("cursor") != "" {
		return reply{}, errCursor
	}
	o, err := s.organization(ctx, c.principal.Org)
	if errors.Is(err, domain.ErrNotFound) {
		return reply{body: list(nil, "", s.showOrganization)}, nil
	}
	return reply{body: list([]catalog.Organization{o}, "", s.showOrganization)}, err
}

// organization reads one that lives.
func (s *Server) organization(ctx context.Context, id events.OrgID) (catalog.Organization, error) {
	o, err := s.cfg.Catalog.Organization(ctx, id)
	if err == nil && !o.EndedAt.IsZero() || errors.Is(err, catalog.ErrNotFound) {
		return o, missing("organization")
	}
	return o, err
}

func (s *Server) getOrganization(ctx context.Context, c *call) (reply, error) {
	org, err := c.look()
	if err != nil {
		return reply{}, err
	}
	s.settle(ctx)
	o, err := s.organization(ctx, org)
	return reply{body: s.showOrganization(o), revision: o.Revision}, err
}

func (s *Server) updateOrganization(ctx context.Context, c *call) (reply, error) {
	org, err := c.org()
	if err != nil {
		return reply{}, err
	}
	body, w, err := wished(c, func(b wire.UpdateOrganization) string { return b.Reason })
	if err != nil {
		return reply{}, err
	}
	if err := needed("name", body.Name); err != nil {
		return reply{}, err
	}
	if err := needed("plan", body.Plan); err != nil {
		return reply{}, err
	}
	change := organization.Update{
		Name: domain.Optional[events.Text]{Set: body.Name.Set, Value: events.ClearText(body.Name.Value)},
		Plan: domain.Optional[events.Plan]{Set: body.Plan.Set, Value: events.Plan(body.Plan.Value)},
	}
	patchLimits(&change, body.Limits)
	patchPolicy(&change, body.Policy)
	out, err := s.cfg.Commands.UpdateOrganization(ctx, w, org, change)
	return s.organizationChanged(ctx, w, out, err, org, "")
}

// patchLimits hands the members of a merge patch on: they are merged where the
// decision is made.
func patchLimits(change *organization.Update, patch wire.Optional[wire.UpdateLimits]) {
	if patch.Null {
		change.Limits = domain.Some(events.Limits{})
	}
	change.MaxActiveKeys = given(patch.Value.MaxActiveKeys)
	change.MaxKeyLifetime = givenAs[events.Period](patch.Value.MaxKeyLifetime)
}

func policyFrom(p wire.Policy) events.Policy {
	return events.Policy{
		DefaultPrefix: p.DefaultPrefix, DefaultExpiresIn: events.Period(p.DefaultExpiresIn),
		MaxKeyLifetime: events.Period(p.MaxKeyLifetime), ExpiryRequired: p.ExpiryRequired, ExpiryChoices: periods(p.ExpiryChoices),
		NameRequired: p.NameRequired, RotationDueAfter: events.Period(p.RotationDueAfter), ExpiryNotices: periods(p.ExpiryNotices),
		Signals: events.Signals{
			NewSource: events.Switch(p.Signals.NewSource), DenialsSpike: events.Switch(p.Signals.DenialsSpike),
			DenialsPerMinute: p.Signals.DenialsPerMinute, ResolvesPerMinute: p.Signals.ResolvesPerMinute,
		},
		Sealing: events.Switch(p.Sealing), UsesRetention: events.Period(p.UsesRetention),
	}
}

func patchPolicy(change *organization.Update, patch wire.Optional[wire.UpdatePolicy]) {
	if patch.Null {
		change.Policy = domain.Some(events.Policy{})
	}
	p := patch.Value
	change.DefaultPrefix = given(p.DefaultPrefix)
	change.DefaultExpiresIn = givenAs[events.Period](p.DefaultExpiresIn)
	change.LongestLifetime = givenAs[events.Period](p.MaxKeyLifetime)
	change.ExpiryRequired, change.NameRequired = given(p.ExpiryRequired), given(p.NameRequired)
	change.ExpiryChoices = givenPeriods(p.ExpiryChoices)
	change.RotationDueAfter = givenAs[events.Period](p.RotationDueAfter)
	change.ExpiryNotices = givenPeriods(p.ExpiryNotices)
	if p.Signals.Null {
		change.Signals = domain.Some(events.Signals{})
	}
	change.NewSource = givenAs[events.Switch](p.Signals.Value.NewSource)
	change.DenialsSpike = givenAs[events.Switch](p.Signals.Value.DenialsSpike)
	change.DenialsPerMinute = given(p.Signals.Value.DenialsPerMinute)
	change.ResolvesPerMinute = given(p.Signals.Value.ResolvesPerMinute)
	change.Sealing = givenAs[events.Switch](p.Sealing)
	change.UsesRetention = givenAs[events.Period](p.UsesRetention)
}

func givenPeriods(o wire.Optional[[]string]) domain.Optional[[]events.Period] {
	return domain.Optional[[]events.Period]{Set: o.Set, Value: periods(o.Value)}
}

func periods(list []string) []events.Period {
	var out []events.Period
	for _, p := range list {
		out = append(out, events.Period(p))
	}
	return out
}

func (s *Server) deleteOrganization(ctx context.Context, c *call) (reply, error) {
	org, err := c.org()
	if err != nil {
		return reply{}, err
	}
	w, err := c.wish("")
	if err != nil {
		return reply{}, err
	}
	out, err := s.cfg.Commands.DeleteOrganization(ctx, w, org)
	return s.deleted(w, out, err)
}

// parseID reads an id that the caller chose. Its meaning is wrong, not its
// syntax: the body did parse.
func parseID[T ~string](field, text string, parse func(string) (T, error)) (T, error) {
	id, err := parse(text)
	if err != nil {
		return "", domain.Refuse(domain.ErrInvalid, field, "must be 1 to %d characters of a-z, 0-9 and '-', and begin with a letter or digit", events.MaxIDLength)
	}
	return id, nil
}
