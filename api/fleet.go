package api

import (
	"context"
	"encoding/base64"
	"slices"
	"time"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/fleet"
)

func (s *Server) verifiersEndpoint() endpoint {
	return endpoint{
		method: "GET", path: "/v1/verifiers", id: "list-verifiers", tag: "Verification", summary: "List who gives verdicts, and how far each has come",
		description: "Servers, sidecars and SDKs, by name, as they announce themselves every few seconds: what is told of one is its own word. " +
			"A verifier that is not heard of any more is lost; it denies within its max_staleness, unless it serves stale.",
		who: "Role owner, admin, member or auditor. Keys of the installation see all, those of an organization the verifiers that serve it.",
		query: append([]parameter{
			{name: "organization", description: "Only those that answer for keys of this organization.", of: "", example: "acme"},
			{name: "state", description: "live, lost, silent or ended.", of: "", example: "lost"},
		}, pageParameters()...),
		answers: wire.List[wire.Verifier]{}, status: 200, codes: []string{"invalid_cursor"}, handle: s.listVerifiers,
	}
}

func (s *Server) listVerifiers(ctx context.Context, c *call) (reply, error) {
	if p := c.principal; !p.MayLook(p.Org) {
		return reply{}, domain.Refuse(domain.ErrForbidden, "", "role %s may not look; this needs role owner, admin, member or auditor", p.Role)
	}
	org, err := c.served()
	if err != nil {
		return reply{}, err
	}
	state := fleet.State(c.query("state"))
	if state != "" && !slices.Contains(fleet.States(), state) {
		return reply{}, refuse(errRequest, "state", "must be live, lost, silent or ended")
	}
	limit, err := c.limit()
	if err != nil {
		return reply{}, err
	}
	after, err := verifierAfter(c.query("cursor"))
	if err != nil {
		return reply{}, err
	}
	if err := s.fleetRead(ctx); err != nil {
		return reply{}, err
	}
	var rows []fleet.Row
	next := ""
	for _, row := range s.cfg.Fleet.Rows(time.Now()) {
		if row.Name <= after || state != "" && row.State != state || org != "" && !row.Serves(org) {
			continue
		}
		if len(rows) == limit {
			next = base64.RawURLEncoding.EncodeToString([]byte(rows[limit-1].Name))
			break
		}
		rows = append(rows, row)
	}
	return reply{body: list(rows, next, func(r fleet.Row) wire.Verifier { return s.showVerifier(c, r) })}, nil
}

// served is the organization whose verifiers are wanted, empty for all.
func (c *call) served() (events.OrgID, error) {
	text := c.query("organization")
	if text == "" && c.principal.Installation() {
		return "", nil
	}
	if text == "" {
		return c.principal.Org, nil
	}
	org, err := events.ParseOrgID(text)
	if err != nil || !c.principal.Reaches(org) {
		return "", missing("organization")
	}
	return org, nil
}

// verifierAfter reads where a list goes on: behind a name.
func verifierAfter(cursor string) (events.VerifierID, error) {
	if cursor == "" {
		return "", nil
	}
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return "", errCursor
	}
	name, err := events.ParseVerifierID(string(text))
	if err != nil {
		return "", errCursor
	}
	return name, nil
}

// fleetRead refuses to tell of verifiers before their announcements were read: who is
// not read of yet would look as if lost, or as if there were no such verifier.
func (s *Server) fleetRead(ctx context.Context) error {
	if s.cfg.FleetRead == nil {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, readWait)
	defer cancel()
	for !s.cfg.FleetRead() {
		select {
		case <-wait.Done():
			return refuse(events.ErrUnavailable, "", "what verifiers announce is being read again after a start; try again")
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// showVerifier shows a verifier to a caller. What one that several organizations share
// has counted tells of all of them, and so it is for the installation.
func (s *Server) showVerifier(c *call, r fleet.Row) wire.Verifier {
	out := wire.Verifier{
		Name: string(r.Name), State: string(r.State), Duplicate: r.Duplicate, IssuedAt: instant(r.IssuedAt),
		Organizations: texts(r.Organizations), MaxStaleness: r.MaxStaleness.Seconds(),
	}
	switch {
	case r.RevokedAt != 0:
		out.Credential = "revoked"
	case r.IssuedAt != 0:
		out.Credential = "issued"
	}
	own := slices.Equal(r.Organizations, []events.OrgID{c.principal.Org})
	all := c.principal.Installation()
	if !all && len(r.Organizations) > 0 {
		out.Organizations = []string{string(c.principal.Org)}
	}
	if r.State == fleet.Silent {
		return out
	}
	said := r.Said
	out.Kind, out.Version, out.Ready, out.ServesStale = string(said.Kind), said.Version, said.Ready, said.ServesStale
	out.Position, out.StartedAt, out.LastHeardAt = s.position(said.Applied), instant(said.StartedAt), instant(r.HeardAt)
	out.Lease = milliseconds(said.Lease).Seconds()
	if said.Staleness >= 0 {
		seconds := milliseconds(said.Staleness).Seconds()
		out.Staleness = &seconds
	}
	if all || own {
		out.Recorded, out.Backlog, out.Misses = &said.Recorded, &said.Backlog, &said.Misses
		if r.BehindKnown {
			out.Behind = &r.Behind
		}
	}
	return out
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
