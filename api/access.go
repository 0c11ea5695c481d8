package api

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/uses"
	accessview "github.com/keyledger/keyledger/projections/access"
	gather "github.com/keyledger/keyledger/relay/access"
	"github.com/keyledger/keyledger/verify"
)

// codeMissing is the code of a failed login that came without any key.
const codeMissing = "MISSING"

// access records that the caller of a request read something of the audit log, or
// took it away. What is a word of a small set. It never waits and never fails.
func (s *Server) access(c *call, kind access.Kind, org events.OrgID, what string) {
	s.record(c, kind, org, what, "")
}

func (s *Server) record(c *call, kind access.Kind, org events.OrgID, what, code string) {
	s.cfg.Accesses.Add(gather.Entry{
		Kind: kind, Org: org, Actor: c.principal.Actor, Role: c.principal.Role, What: what, Code: code,
		Source: peerOf(c.r), RequestID: c.requestID,
	})
}

// accessed records what has to be of a request that was answered, or refused with
// an error: that it read the audit log, or that a change was denied. Who was not let
// in is no caller yet, and recorded by admit.
func (s *Server) accessed(c *call, err error) {
	e := c.endpoint
	if c.principal.Role == "" || e.reads == "" && (err == nil || !e.change) {
		return
	}
	kind, code := e.reads, ""
	if err != nil {
		k := kindOf(err)
		switch k.Status {
		case http.StatusForbidden, http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed, http.StatusUnprocessableEntity:
			code = k.Code
		default:
			// It could not be read, or not be done: that denies nobody anything.
			return
		}
		if e.change {
			kind = access.CommandDenied
		}
	}
	what := e.id
	if report := c.r.PathValue("report"); report != "" && err == nil {
		what += "/" + report
	}
	s.record(c, kind, s.whose(c), what, code)
}

// whose is the organization that is to know of a request: that of its path, where
// the caller reaches it and it exists, else the caller's own. So nobody makes
// records of organizations that are not his, or that there are not.
func (s *Server) whose(c *call) events.OrgID {
	org, err := events.ParseOrgID(c.r.PathValue("org"))
	if err == nil && c.principal.Reaches(org) && (org == events.System || s.exists(org)) {
		return org
	}
	return c.principal.Org
}

func (s *Server) exists(org events.OrgID) bool {
	config, _ := s.cfg.Configuration.Of(org)
	return config.Organization.Exists
}

// loginFailed records that a request's management key was not good. Of a key that is
// one its organization knows; of anything else the installation.
func (s *Server) loginFailed(r *http.Request, requestID, code string, d *verify.Decision) {
	e := gather.Entry{
		Kind: access.LoginFailed, Org: events.System, What: methodLabel(r.Method) + " " + routeOf(r), Code: code,
		Source: peerOf(r), RequestID: requestID,
	}
	if !d.Key.IsZero() {
		e.Org, e.Role, e.Actor = d.Org, d.Role, events.Actor{Type: events.ActorKey, Org: d.Org, Key: d.Key}
	}
	s.cfg.Accesses.Add(e)
}

// Missed takes what a verifier was asked about a secret that is no key: see
// [verify.Config]. Questions about management keys are logins, which are recorded
// where they fail.
func Missed(to *gather.Gatherer) func(verify.Miss) {
	return func(m verify.Miss) {
		if m.Kind == events.KindManagement {
			return
		}
		org := m.Within
		if org == "" {
			org = events.System
		}
		to.Add(gather.Entry{
			Kind: access.SecretUnknown, Org: org, What: "verify", Code: m.Code.String(), Source: gate.AddressIn(m.From), RequestID: m.RequestID,
		})
	}
}

// peerOf is the address at the other end of a request's connection. What its headers
// say of others is not looked at: whoever tries keys may write anything there.
func peerOf(r *http.Request) string {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return addr.Addr().Unmap().WithZone("").String()
}

func (s *Server) accessEndpoint() endpoint {
	return endpoint{
		method: "GET", path: "/v1/organizations/{org}/audit/access", id: "list-access", tag: "Audit",
		summary: "List who read the audit log, who could not log in, and what was refused",
		description: "From the newest minute on: what happened alike within a minute, on one server, is one item with its count. A minute that is not over may still grow. " +
			"Kinds are " + kindsOfAccess() + ". What was done by a key of the organization, or to it, the organization sees; what nobody known did, the installation sees under _system. " +
			"source is the client's address if addresses are recorded (source_kind client_ip), else a label that is the same for the same address on one day. " +
			"Beyond what is told apart within a minute, what is others.",
		who: "Role owner, admin or auditor, not limited to workspaces. With all=true, which goes with _system, those of the installation see what every organization has.",
		query: append([]parameter{
			{name: "kind", description: "Only this kind.", of: "", example: string(access.LoginFailed)},
			{name: "actor", description: "Only what this one did: the id of a management key of the organization, or an actor as items show it.", of: "", example: "0197ab6e-98f1-7c3a-8f0e-2f3a4b5c6d7e"},
			{name: "from", description: "Only minutes that begin then or later.", of: time.Time{}, example: "2026-11-21T00:00:00Z"},
			{name: "to", description: "Only minutes that begin before then.", of: time.Time{}, example: "2026-11-22T00:00:00Z"},
			{name: "all", description: "true lists those of all organizations.", of: false},
		}, pageParameters()...),
		answers: wire.List[wire.Access]{}, status: 200, codes: []string{"invalid_cursor", "invalid_value"}, handle: s.listAccess, reads: access.AuditRead,
	}
}

func (s *Server) listAccess(ctx context.Context, c *call) (reply, error) {
	f, err := s.accessFilter(c)
	if err != nil {
		return reply{}, err
	}
	rows, next, err := s.cfg.AccessLog.Rows(ctx, f)
	if err != nil {
		return reply{}, err
	}
	names := s.changes(ctx, c.principal, false)
	return reply{body: list(rows, next, func(r accessview.Row) wire.Access {
		out := wire.Access{
			Minute: r.Minute.Std(), Kind: string(r.Kind), Organization: string(r.Org), Server: string(r.Server),
			Actor: r.Actor.String(), ActorName: names.nameOf(r.Actor), Role: string(r.Role), What: r.What, Code: r.Code,
			Answer: r.Answer, Version: r.Version, Count: r.Count,
			FirstAt: r.FirstAt.Std(), LastAt: r.LastAt.Std(), RequestID: r.RequestID,
		}
		out.Source, out.SourceKind = s.whence(ctx, c.principal, r)
		return out
	})}, nil
}

// whence is where a record came from, and how that is told.
func (s *Server) whence(ctx context.Context, p commands.Principal, r accessview.Row) (source, kind string) {
	if r.SourceKind == access.SourceSealed {
		return s.source(ctx, p, r.Source), string(access.SourceIP)
	}
	return r.Source, string(r.SourceKind)
}

// source opens a sealed source. It is sealed under the installation's key of its
// day, and whoever may see the record may see it.
func (s *Server) source(ctx context.Context, p commands.Principal, text string) string {
	sealed, ok := uses.ParseSealed(text)
	if !ok {
		return markSealed
	}
	return s.opened(ctx, commands.Principal{Org: events.System, Role: p.Role}, events.System, sealed, seals.TextOfUse)
}

func (s *Server) accessFilter(c *call) (accessview.Filter, error) {
	var f accessview.Filter
	org, err := c.look()
	if err != nil {
		return f, err
	}
	switch p := c.principal; {
	case p.Role == events.RoleMember:
		return f, domain.Refuse(domain.ErrForbidden, "", "this needs role owner, admin or auditor; the key has role %s", p.Role)
	case !p.Scope.AllWorkspaces:
		return f, domain.Refuse(domain.ErrForbidden, "", "this concerns the whole organization; the key's scope is limited to workspaces")
	}
	f.Org = org
	if f.AllOrganizations, err = c.flag("all"); err != nil {
		return f, err
	}
	if f.AllOrganizations && org != events.System {
		return f, refuse(errRequest, "all", "goes with organization %s", events.System)
	}
	if text := c.query("kind"); text != "" {
		if f.Kind, err = access.ParseKind(text); err != nil {
			return f, domain.Refuse(domain.ErrInvalid, "kind", "is none; there are %s", kindsOfAccess())
		}
	}
	if f.Actor, err = actorIn(c.query("actor"), org); err != nil {
		return f, err
	}
	if f.From, f.To, err = c.period(); err != nil {
		return f, err
	}
	f.Cursor = c.query("cursor")
	f.Limit, err = c.limit()
	return f, err
}

func kindsOfAccess() string {
	var out []string
	for _, k := range access.Kinds() {
		out = append(out, string(k))
	}
	return strings.Join(out, ", ")
}

// actorIn reads an actor: as it is shown, or the id of a management key.
func actorIn(text string, org events.OrgID) (events.Actor, error) {
	var a events.Actor
	if text == "" {
		return a, nil
	}
	if id, err := events.ParseKeyID(text); err == nil {
		return events.Actor{Type: events.ActorKey, Org: org, Key: id}, nil
	}
	if err := a.UnmarshalText([]byte(text)); err != nil {
		return a, domain.Refuse(domain.ErrInvalid, "actor", "is neither the id of a key nor an actor such as key/acme/0197ab6e-98f1-7c3a-8f0e-2f3a4b5c6d7e")
	}
	return a, nil
}
