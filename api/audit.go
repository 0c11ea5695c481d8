package api

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/projections/audit"
)

func (s *Server) auditEndpoints() []endpoint {
	const base, tag = "/v1/organizations/{org}/audit", "Audit"
	return []endpoint{
		{
			method: "GET", path: base + "/events", id: "list-audit-events", tag: tag, summary: "List what was changed, by whom and why",
			description: "Every change, from the newest on unless order says otherwise, with what every field was before and is after. " +
				"The organization _system is the installation itself, and with all=true every organization there is.",
			who: "Role owner, admin, member or auditor; all=true takes one of the installation. A key that is limited to workspaces sees what concerns those workspaces and no other. " +
				"Texts that are sealed are shown to owner, admin and auditor.",
			query:   append(changeFilters(), pageParameters()...),
			answers: wire.List[wire.Change]{}, status: 200, codes: []string{"invalid_cursor", "invalid_position", "invalid_value"}, reads: access.AuditRead, handle: s.listChanges,
		},
		s.whoCouldEndpoint(), s.eraseEndpoint(),
	}
}

func changeFilters() []parameter {
	return append(eventFilters(), []parameter{
		{name: "type", description: "Only these types, comma-separated, with or without their version.", of: "", example: "key.created,key.revoked"},
		{name: "ticket", description: "Only what was done for exactly this ticket.", of: "", example: "SEC-42"},
		{name: "from", description: "Stored then or later, by the broker's clock; an RFC 3339 time.", of: "", example: "2026-01-01T00:00:00Z"},
		{name: "to", description: "Stored before then; an RFC 3339 time.", of: "", example: "2027-01-01T00:00:00Z"},
		{name: "after", description: "Only events after this position; 0 is the beginning.", of: "", example: "0"},
		{name: "order", description: "desc, from the newest on, or asc. desc unless given.", of: "", example: "desc"},
		{name: "all", description: "true for the events of every organization; asked of _system.", of: false},
		rawParameter,
	}...)
}

// eventFilters are those that lists and the stream of events have in common.
func eventFilters() []parameter {
	return []parameter{
		{name: "key", description: "Only what happened to this key, its revocation included.", of: "", example: "0197ab6e-98f1-7c3a-8f0e-2f3a4b5c6d7e"},
		{name: "actor", description: "Only what this actor did: key/<organization>/<key id>, a key id alone, system/<part> or verifier/<id>.", of: "", example: "key/acme/0197ab6e-98f1-7c3a-8f0e-2f3a4b5c6d7e"},
		{name: "workspace", description: "Only what concerns this workspace: itself, and keys whose scope lists it before or after.", of: "", example: "support"},
		{
			name: "q", of: "", example: "leaked",
			description: "Only what has this text, of at least 3 characters, in reason, ticket, request id, id, actor, or in a name, external id or metadata before or after. ASCII letters match in either case. An id of more than 24 characters is found by all of it or by its last 12. A text that is sealed is not found.",
		},
	}
}

var rawParameter = parameter{name: "raw", description: "true adds the stored CloudEvents documents.", of: false}

func (s *Server) listChanges(ctx context.Context, c *call) (reply, error) {
	org, err := c.look()
	if err != nil {
		return reply{}, err
	}
	raw, err := c.flag("raw")
	if err != nil {
		return reply{}, err
	}
	f, err := s.changeFilter(ctx, c, org)
	if err != nil {
		return reply{}, err
	}
	s.settleAudit(ctx)
	rows, next, err := s.cfg.Audit.Events(ctx, f)
	if err != nil {
		return reply{}, err
	}
	if len(rows) == 0 {
		if err := s.began(ctx, org); err != nil {
			return reply{}, err
		}
	}
	return reply{body: list(rows, next, s.changes(ctx, c.principal, raw).show)}, nil
}

// began returns nil when there is such an organization, or was: its end is no end
// of its audit log.
func (s *Server) began(ctx context.Context, org events.OrgID) error {
	rows, _, err := s.cfg.Audit.Events(ctx, audit.Filter{Org: org, Page: audit.Page{Limit: 1}})
	if err == nil && len(rows) == 0 {
		return missing("organization")
	}
	return err
}

// changeFilter reads which changes are wanted.
func (s *Server) changeFilter(ctx context.Context, c *call, org events.OrgID) (f audit.Filter, err error) {
	f = audit.Filter{Org: org}
	if f.AllOrganizations, err = c.flag("all"); err != nil {
		return f, err
	}
	if f.AllOrganizations && (org != events.System || !c.principal.Scope.AllWorkspaces) {
		return f, refuse(errRequest, "all", "is asked of the organization _system, with a key of the installation that is not limited to workspaces")
	}
	if !c.principal.Scope.AllWorkspaces {
		// Not nil: who sees no workspace sees nothing.
		f.Within = append([]events.WorkspaceID{}, c.principal.Scope.Workspaces...)
	}
	if err := s.eventFilter(ctx, c, &f); err != nil {
		return f, err
	}
	if f.Kinds, err = kindsOf("type", c.query("type")); err != nil {
		return f, err
	}
	f.Ticket = c.query("ticket")
	if f.From, f.To, err = c.period(); err != nil {
		return f, err
	}
	if text := c.query("after"); text != "" && text != "0" {
		if f.After, err = s.cfg.Positions.Parse(events.StreamLedger, text); err != nil {
			return f, refuse(err, "after", "%s", gate.PlainDetail(err, kindOf(err)))
		}
	}
	switch c.query("order") {
	case "", "desc":
	case "asc":
		f.OldestFirst = true
	default:
		return f, refuse(errRequest, "order", "must be desc or asc")
	}
	f.Cursor = c.query("cursor")
	f.Limit, err = c.limit()
	return f, err
}

// eventFilter reads what lists and the stream have in common.
func (s *Server) eventFilter(ctx context.Context, c *call, f *audit.Filter) error {
	var err error
	if text := c.query("key"); text != "" {
		if f.Key, err = events.ParseKeyID(text); err != nil {
			return refuse(errRequest, "key", "is no key id")
		}
	}
	if text := c.query("actor"); text != "" {
		if f.Actor, err = s.actor(ctx, f.Org, text); err != nil {
			return err
		}
	}
	if text := c.query("workspace"); text != "" {
		if f.AllOrganizations {
			return refuse(errRequest, "workspace", "is one of an organization: ask for that organization's events")
		}
		if f.Workspace, err = events.ParseWorkspaceID(text); err != nil {
			return refuse(errRequest, "workspace", "is no workspace id")
		}
	}
	f.Query = c.query("q")
	if f.Query != "" && (utf8.RuneCountInString(f.Query) < audit.MinQuery || !utf8.ValidString(f.Query)) {
		return refuse(errRequest, "q", "must have at least %d characters", audit.MinQuery)
	}
	return nil
}

// actor reads who is meant. A key's id alone is one of the organization, else of
// the installation.
func (s *Server) actor(ctx context.Context, org events.OrgID, text string) (events.Actor, error) {
	var a events.Actor
	if strings.Contains(text, "/") {
		if err := a.UnmarshalText([]byte(text)); err != nil {
			return a, refuse(errRequest, "actor", "must be key/<organization>/<key id>, a key id, system/<part> or verifier/<id>")
		}
		return a, nil
	}
	id, err := events.ParseKeyID(text)
	if err != nil {
		return a, refuse(errRequest, "actor", "must be key/<organization>/<key id>, a key id, system/<part> or verifier/<id>")
	}
	a = events.Actor{Type: events.ActorKey, Org: org, Key: id}
	if _, err := s.cfg.Catalog.Key(ctx, org, id, events.TimeOf(time.Now())); err != nil {
		a.Org = events.System
	}
	return a, nil
}

// time reads an instant, 0 when it is left out.
func (c *call) time(name string) (events.Time, error) {
	text := c.query(name)
	if text == "" {
		return 0, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	// Its year in UTC is what is written of it.
	if year := at.UTC().Year(); err != nil || year < 1970 || year > 9999 {
		return 0, refuse(errRequest, name, "must be a time as RFC 3339 writes it, such as 2026-12-31T00:00:00Z")
	}
	return events.TimeOf(at), nil
}

// times reads from and to, each 0 when it is left out.
func (c *call) times() (from, to events.Time, err error) {
	if from, err = c.time("from"); err == nil {
		to, err = c.time("to")
	}
	return from, to, err
}

// period is times of which the later comes last.
func (c *call) period() (from, to events.Time, err error) {
	if from, to, err = c.times(); err == nil && from != 0 && to != 0 && from >= to {
		err = domain.Refuse(domain.ErrInvalid, "to", "must be later than from")
	}
	return from, to, err
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
	page := audit.Page{Cursor: c.query("cursor"), Limit: limit}
	if within := c.principal.Scope; !within.AllWorkspaces {
		// What was before the key came into their workspaces is not theirs to see.
		rows, next, err := s.cfg.Audit.Events(ctx, audit.Filter{Org: k.Org, Key: k.ID, Within: append([]events.WorkspaceID{}, within.Workspaces...), Page: page})
		return reply{body: list(rows, next, s.changes(ctx, c.principal, raw).show)}, err
	}
	rows, next, err := s.cfg.Audit.History(ctx, events.KeySubject(k.Org, k.ID), page)
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
	org := e.Subject.Org
	out := wire.Change{
		Position: v.server.position(e.Position), Type: e.Kind.Name(), Subject: e.Subject.String(), Organization: string(org),
		Aggregate: string(e.Subject.Aggregate), ID: e.Subject.ID, Revision: int64(e.Revision),
		ClaimedAt: e.Time.Std(), RecordedAt: e.Recorded.Std(), StoredAt: e.Stored.Std(), Actor: e.Actor.String(), ActorName: v.nameOf(e.Actor),
		Role: string(e.Role), Scope: e.Scope, Reason: v.server.text(v.ctx, v.principal, org, e.Reason), Ticket: e.Ticket,
		RequestID: e.RequestID, CommandID: e.Command.String(), CausationID: e.Causation,
		Changes: make([]wire.FieldChange, 0, len(e.Changes)), Workspaces: texts(e.Workspaces),
	}
	if e.ConfigPosition != 0 {
		out.ConfigPosition = v.server.position(e.ConfigPosition)
	}
	for _, c := range e.Changes {
		out.Changes = append(out.Changes, wire.FieldChange{Field: c.Field, Before: v.value(org, c.Personal(), c.Before), After: v.value(org, c.Personal(), c.After)})
	}
	if v.raw {
		out.Event = jsontext.Value(e.Raw)
	}
	return out
}

// value shows what a field was or is. Only one that people gave can be sealed:
// what looks like a seal elsewhere is what somebody wrote there.
func (v *changes) value(org events.OrgID, personal bool, value jsontext.Value) any {
	if personal && value.Kind() == '{' {
		var t events.Text
		if json.Unmarshal(value, &t) == nil {
			return v.server.text(v.ctx, v.principal, org, t)
		}
	}
	return value
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
