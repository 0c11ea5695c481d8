package api

import (
	"context"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/audit"
)

func (s *Server) auditEndpoints() []endpoint {
	const base, tag = "/v1/organizations/{org}/audit", "Audit"
	return []endpoint{
		{
			method: "GET", path: base + "/events", id: "list-audit-events", tag: tag, summary: "List what was changed, by whom and why",
			description: "Every change, from the newest on unless order says otherwise, with what every field was before and is after.",
			who:         "Role owner, admin, member or auditor. A key that is limited to workspaces asks for one key at a time.",
			query:       append(changeFilters(), pageParameters()...),
			answers:     wire.List[wire.Change]{}, status: 200, codes: []string{"invalid_cursor"}, handle: s.listChanges,
		},
		s.whoCouldEndpoint(), s.eraseEndpoint(),
	}
}

func changeFilters() []parameter {
	return []parameter{
		{name: "raw", description: "true adds the stored CloudEvents documents.", of: false},
	}
}

func (s *Server) listChanges(ctx context.Context, c *call) (reply, error) {
	org, err := c.look()
	if err != nil {
		return reply{}, err
	}
	raw, err := c.flag("raw")
	if err != nil {
		return reply{}, err
	}
	f := audit.Filter{Org: org}
	if !c.principal.Scope.AllWorkspaces {
		f.Org = ""
	}
	f.Cursor = c.query("cursor")
	if f.Limit, err = c.limit(); err != nil {
		return reply{}, err
	}
	s.settleAudit(ctx)
	rows, next, err := s.cfg.Audit.Events(ctx, f)
	return reply{body: list(rows, next, s.changes(ctx, c.principal, raw).show)}, err
}

func (s *Server) keyHistory(ctx context.Context, c *call) (reply, error) {
	k, err := s.seen(ctx, c)
	if err != nil {
		return reply{}, err
	}
	raw, err := c.flag("raw")
	if err != nil {
		return reply{}, err
	}
	limit, err := c.limit()
	if err != nil {
		return reply{}, err
	}
	s.settleAudit(ctx)
	rows, next, err := s.cfg.Audit.History(ctx, events.KeySubject(k.Org, k.ID), audit.Page{Cursor: c.query("cursor"), Limit: limit})
	return reply{body: list(rows, next, s.changes(ctx, c.principal, raw).show)}, err
}

// changes shows events to one caller. It is made for one answer: it remembers the
// names of actors that it has looked up.
type changes struct {
	server    *Server
	ctx       context.Context
	principal commands.Principal
	raw       bool
	names     map[events.Actor]string
}

func (s *Server) changes(ctx context.Context, p commands.Principal, raw bool) *changes {
	return &changes{server: s, ctx: ctx, principal: p, raw: raw, names: map[events.Actor]string{}}
}

// show shows an event.
func (v *changes) show(e audit.Event) wire.Change {
	out := wire.Change{
		Position: v.server.position(e.Position), Type: e.Kind.Name(), Subject: e.Subject.String(), Organization: string(e.Subject.Org),
		Aggregate: string(e.Subject.Aggregate), ID: e.Subject.ID, Revision: int64(e.Revision),
		ClaimedAt: e.Time.Std(), StoredAt: e.Stored.Std(), Actor: e.Actor.String(), ActorName: v.nameOf(e.Actor),
		Role: string(e.Role), Scope: e.Scope, Reason: v.server.text(v.ctx, v.principal, e.Subject.Org, e.Reason),
		RequestID: e.RequestID, CommandID: e.Command.String(), Changes: []wire.FieldChange{},
	}
	if v.raw {
		out.Event = jsontext.Value(e.Raw)
	}
	return out
}

// nameOf is the name of an actor's key, where the caller may see that key.
func (v *changes) nameOf(a events.Actor) string {
	if a.Type != events.ActorKey || !v.principal.MayLook(a.Org) {
		return ""
	}
	name, known := v.names[a]
	if known {
		return name
	}
	k, err := v.server.cfg.Catalog.Key(v.ctx, a.Org, a.Key, events.TimeOf(time.Now()))
	if err == nil && v.principal.Covers(k.Scope) {
		name = v.server.text(v.ctx, v.principal, a.Org, k.Name)
	}
	v.names[a] = name
	return name
}
