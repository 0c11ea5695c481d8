package api

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/usage"
)

// maxKeyMinutes bounds the time that a key's uses are counted over by the minute.
const maxKeyMinutes = 24 * time.Hour

// storedOrder is the order in which uses are followed.
const storedOrder = "stored"

func (s *Server) usesEndpoints() []endpoint {
	const base, one, tag = "/v1/organizations/{org}/audit/uses", "/v1/organizations/{org}/keys/{key}", "Audit"
	const looks = "Role owner, admin, member or auditor, within the key's own scope."
	const whole = "Role owner, admin, member or auditor, not limited to workspaces."
	const fewer = " A page may hold fewer than limit and still not be the last: go on while there is a next_cursor."
	return []endpoint{
		{
			method: "GET", path: one + "/uses", id: "list-key-uses", tag: tag, summary: "List the uses of a key",
			description: "Every single one, with its verdict, from the newest on unless order says otherwise. They are shown some milliseconds after the verdict." + fewer,
			who:         looks, query: append(useFilters(), pageParameters()...), answers: wire.KeptList[wire.Use]{}, status: 200,
			codes: []string{"invalid_cursor"}, handle: s.listKeyUses, reads: access.AuditRead,
		},
		{
			method: "GET", path: one + "/sources", id: "list-key-sources", tag: tag, summary: "List where a key was used from",
			description: fmt.Sprintf("Addresses of clients, where they are recorded, and programs otherwise, as they name themselves; the first in front. Of each key the first %d are kept.", usage.MaxSources),
			who:         looks, answers: wire.List[wire.KeySource]{}, status: 200, handle: s.listKeySources, reads: access.AuditRead,
		},
		{
			method: "GET", path: base, id: "list-uses", tag: tag, summary: "List the uses of all keys",
			description: "Those of the keys that the caller may see, with their verdicts, from the newest on unless order says otherwise." + fewer,
			who:         looks, query: append(append(useFilters(), keyParameter()), pageParameters()...), answers: wire.KeptList[wire.Use]{}, status: 200,
			codes: []string{"invalid_cursor"}, handle: s.listUses, reads: access.AuditRead,
		},
		{
			method: "GET", path: base + "/counts", id: "count-uses", tag: tag, summary: "Count uses by minute, hour or day",
			description: "By verdict, the oldest unit first; units without uses are left out, and one that from or to lies in is counted as a whole. Hours and days are kept for ever.",
			who:         whole + " With key, within the key's own scope.",
			query: append([]parameter{
				{name: "unit", description: "minute, hour or day; hour unless given. The minutes of one key are counted over 24 hours at most, and need from.", of: "", example: "hour"},
				keyParameter(), fromParameter(), toParameter(), codeParameter(),
			}, pageParameters()...),
			answers: wire.KeptList[wire.UseCount]{}, status: 200, codes: []string{"invalid_cursor", "invalid_value"}, handle: s.countUses, reads: access.AuditRead,
		},
		{
			method: "GET", path: base + "/findings", id: "list-uses-findings", tag: tag, summary: "List what is missing in the record of uses",
			description: "Verifiers number the uses of every organization, and mark the beginning and the end of every run. Numbers that are missing, and runs without an end, are listed here with how many uses may be missing at most: none is lost unseen. What a run lost tells nobody whose it was, so runs without an end are listed for every organization that their verifier ever recorded a use of. Under _system are those of all organizations.",
			who:         whole, query: pageParameters(), answers: wire.List[wire.UsesFinding]{}, status: 200, codes: []string{"invalid_cursor"},
			handle: s.listUsesFindings, reads: access.AuditRead,
		},
	}
}

func keyParameter() parameter {
	return parameter{name: "key", description: "Only those of this key.", of: "", example: "0197ab6e-98f1-7c3a-8f0e-2f3a4b5c6d7e"}
}

func fromParameter() parameter {
	return parameter{name: "from", description: "Only those from then on; an RFC 3339 time.", of: time.Time{}, example: "2026-11-21T00:00:00Z"}
}

func toParameter() parameter {
	return parameter{name: "to", description: "Only those before then.", of: time.Time{}, example: "2026-11-22T00:00:00Z"}
}

func codeParameter() parameter {
	return parameter{name: "code", description: "Only those with this verdict.", of: "", example: "EXPIRED"}
}

func useFilters() []parameter {
	return []parameter{
		fromParameter(), toParameter(), codeParameter(),
		{name: "permission", description: "Only those that asked for this permission, alone or in a query.", of: "", example: "interview:start"},
		{name: "workspace", description: "Only those that asked for this workspace.", of: "", example: "support"},
		{name: "order", description: "desc, the newest first, or asc; or stored, to follow them: those that are stored from now on, late ones too, with a next_cursor that always goes on. desc unless given.", of: "", example: "asc"},
	}
}

// seenKey reads a key by its id that the caller may see.
func (s *Server) seenKey(ctx context.Context, c *call, org events.OrgID, text string) (events.KeyID, error) {
	id, err := events.ParseKeyID(text)
	if err != nil {
		return id, missing("key")
	}
	s.settle(ctx)
	k, err := s.cfg.Catalog.Key(ctx, org, id, events.TimeOf(time.Now()))
	if errors.Is(err, catalog.ErrNotFound) || err == nil && !c.principal.Covers(k.Scope) {
		return id, missing("key")
	}
	return id, err
}

// usesRead refuses to tell of uses while a view that is made anew has not read them
// all: what is not read yet would look as if it never was. It waits for a moment, in
// which most starts are over.
func (s *Server) usesRead(ctx context.Context) error {
	if s.cfg.UsesRead == nil {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, readWait)
	defer cancel()
	for {
		percent, err := s.cfg.UsesRead(ctx)
		if err != nil || percent >= 100 {
			return err
		}
		select {
		case <-wait.Done():
			return refuse(events.ErrUnavailable, "", "the record of uses is being read again after a start, %d %% done; try again", percent)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *Server) listKeyUses(ctx context.Context, c *call) (reply, error) {
	k, err := s.seen(ctx, c)
	if err != nil {
		return reply{}, err
	}
	f, err := c.useFilter(k.Org)
	if err != nil {
		return reply{}, err
	}
	f.Key = k.ID
	return s.answerUses(ctx, c, f)
}

func (s *Server) listUses(ctx context.Context, c *call) (reply, error) {
	org, err := c.look()
	if err != nil {
		return reply{}, err
	}
	f, err := c.useFilter(org)
	if err != nil {
		return reply{}, err
	}
	if err := s.wasOrganization(ctx, org); err != nil {
		return reply{}, err
	}
	if text := c.query("key"); text != "" {
		if f.Key, err = s.seenKey(ctx, c, org, text); err != nil {
			return reply{}, err
		}
	} else if !c.principal.Scope.AllWorkspaces {
		f.Sees = func(ctx context.Context, keys []events.KeyID) (map[events.KeyID]bool, error) {
			return s.seesKeys(ctx, c, org, keys)
		}
	}
	return s.answerUses(ctx, c, f)
}

// seesKeys tells which of some keys the caller may see.
func (s *Server) seesKeys(ctx context.Context, c *call, org events.OrgID, keys []events.KeyID) (map[events.KeyID]bool, error) {
	seen := make(map[events.KeyID]bool, len(keys))
	for _, id := range keys {
		k, err := s.cfg.Catalog.Key(ctx, org, id, events.TimeOf(time.Now()))
		if err != nil && !errors.Is(err, catalog.ErrNotFound) {
			return nil, err
		}
		seen[id] = err == nil && c.principal.Covers(k.Scope)
	}
	return seen, nil
}

func (s *Server) answerUses(ctx context.Context, c *call, f usage.Filter) (reply, error) {
	if err := s.usesRead(ctx); err != nil {
		return reply{}, err
	}
	read := s.cfg.Usage.Uses
	if c.query("order") == storedOrder {
		read = s.cfg.Usage.Stored
	}
	rows, next, err := read(ctx, f)
	s.usesAhead(ctx, c.principal, f.Org, rows)
	if err != nil {
		return reply{}, err
	}
	return kept(ctx, s, f.Org, list(rows, next, func(u usage.Use) wire.Use {
		text := func(t string) string { return s.useText(ctx, c.principal, f.Org, t) }
		return wire.Use{
			At: u.At.Std(), KeyID: u.Key.String(), Code: u.Code.String(), Permission: u.Permission, Workspace: u.Workspace,
			Verifier: string(u.Verifier), Boot: u.Boot.String(), Number: u.Number, Position: s.usesPosition(u.Position), StoredAt: u.Stored.Std(),
			RequestID: text(u.RequestID), Method: u.Method, Path: text(u.Path), ClientIP: text(u.ClientIP), UserAgent: text(u.UserAgent),
		}
	}))
}

// kept answers a list with the time before which retention has dropped what could be
// in it.
func kept[T any](ctx context.Context, s *Server, org events.OrgID, items wire.List[T]) (reply, error) {
	before, err := s.cfg.Usage.DroppedBefore(ctx, org)
	return reply{body: wire.KeptList[T]{List: items, DroppedBefore: instant(before)}}, err
}

func (s *Server) usesPosition(pos events.Position) string {
	return s.cfg.Positions.Format(events.StreamUses, pos)
}

// useFilter reads which uses are wanted.
func (c *call) useFilter(org events.OrgID) (f usage.Filter, err error) {
	f = usage.Filter{Org: org, Permission: c.query("permission"), Workspace: c.query("workspace")}
	if f.From, f.To, err = c.between(); err != nil {
		return f, err
	}
	if f.Code, err = c.code(); err != nil {
		return f, err
	}
	if len(f.Permission) > permission.MaxQueryLen {
		return f, refuse(errRequest, "permission", "has at most %d bytes", permission.MaxQueryLen)
	}
	if len(f.Workspace) > uses.MaxWorkspace {
		return f, refuse(errRequest, "workspace", "has at most %d bytes", uses.MaxWorkspace)
	}
	switch c.query("order") {
	case "", "desc":
	case "asc":
		f.Ascending = true
	case storedOrder:
		if f.From != 0 || f.To != 0 {
			return f, refuse(errRequest, "order", "stored begins now; it takes neither from nor to")
		}
	default:
		return f, refuse(errRequest, "order", "must be asc, desc or stored")
	}
	f.Cursor = c.query("cursor")
	f.Limit, err = c.limit()
	return f, err
}

// between reads the time that is asked about.
func (c *call) between() (from, to events.Time, err error) {
	if from, to, err = c.times(); err != nil {
		return 0, 0, err
	}
	if to != 0 && to < from {
		return 0, 0, domain.Refuse(domain.ErrInvalid, "to", "lies before from")
	}
	return from, to, nil
}

// code reads a verdict's code, none when it is left out.
func (c *call) code() (events.Code, error) {
	text := c.query("code")
	if text == "" {
		return events.CodeNone, nil
	}
	code, ok := events.ParseCode(text)
	if !ok {
		return code, refuse(errRequest, "code", "is none of %v", events.Codes)
	}
	return code, nil
}

func (s *Server) countUses(ctx context.Context, c *call) (reply, error) {
	org, err := c.look()
	if err != nil {
		return reply{}, err
	}
	f := usage.CountFilter{Org: org, Unit: usage.ByHour}
	switch unit := usage.Unit(c.query("unit")); unit {
	case "":
	case usage.ByMinute, usage.ByHour, usage.ByDay:
		f.Unit = unit
	default:
		return reply{}, refuse(errRequest, "unit", "must be minute, hour or day")
	}
	if f.From, f.To, err = c.between(); err != nil {
		return reply{}, err
	}
	if f.Code, err = c.code(); err != nil {
		return reply{}, err
	}
	f.Cursor = c.query("cursor")
	if f.Limit, err = c.limit(); err != nil {
		return reply{}, err
	}
	if err := s.wasOrganization(ctx, org); err != nil {
		return reply{}, err
	}
	switch text := c.query("key"); {
	case text != "":
		if f.Key, err = s.seenKey(ctx, c, org, text); err != nil {
			return reply{}, err
		}
		if err := keyMinutes(&f); err != nil {
			return reply{}, err
		}
	case !c.principal.Scope.AllWorkspaces:
		return reply{}, domain.Refuse(domain.ErrForbidden, "key", "this counts the uses of the whole organization, and the key's scope is limited to workspaces; ask for one key")
	}
	if err := s.usesRead(ctx); err != nil {
		return reply{}, err
	}
	rows, next, err := s.cfg.Usage.Counts(ctx, f)
	if err != nil {
		return reply{}, err
	}
	return kept(ctx, s, org, list(rows, next, func(n usage.Count) wire.UseCount {
		return wire.UseCount{At: n.At.Std(), Unit: string(f.Unit), Code: n.Code.String(), Count: n.Count}
	}))
}

// keyMinutes bounds the time over which a key's minutes are counted.
func keyMinutes(f *usage.CountFilter) error {
	if f.Unit != usage.ByMinute {
		return nil
	}
	to := f.To
	if to == 0 {
		to = events.TimeOf(time.Now())
	}
	if f.From == 0 || to-f.From > events.Time(maxKeyMinutes/time.Microsecond) {
		return domain.Refuse(domain.ErrInvalid, "from", "the minutes of one key are counted over 24 hours at most; say from when on, or ask by hour")
	}
	return nil
}

func (s *Server) listKeySources(ctx context.Context, c *call) (reply, error) {
	k, err := s.seen(ctx, c)
	if err != nil {
		return reply{}, err
	}
	if err := s.usesRead(ctx); err != nil {
		return reply{}, err
	}
	rows, err := s.cfg.Usage.Sources(ctx, k.Org, k.ID)
	return reply{body: list(rows, "", func(u usage.Source) wire.KeySource {
		return wire.KeySource{
			Kind: string(u.Kind), Source: s.useText(ctx, c.principal, k.Org, u.Source), FirstAt: u.FirstAt.Std(), LastAt: max(u.FirstAt, u.LastAt).Std(),
			FirstVerifier: string(u.FirstVerifier), FirstCode: u.FirstCode.String(),
		}
	})}, err
}

func (s *Server) listUsesFindings(ctx context.Context, c *call) (reply, error) {
	org, err := c.look()
	if err != nil {
		return reply{}, err
	}
	if !c.principal.Scope.AllWorkspaces {
		return reply{}, domain.Refuse(domain.ErrForbidden, "", "this concerns the whole organization; the key's scope is limited to workspaces")
	}
	if err := s.wasOrganization(ctx, org); err != nil {
		return reply{}, err
	}
	f := usage.FindingFilter{Org: org}
	if org == events.System {
		f.Org = ""
	}
	f.Cursor = c.query("cursor")
	if f.Limit, err = c.limit(); err != nil {
		return reply{}, err
	}
	if err := s.usesRead(ctx); err != nil {
		return reply{}, err
	}
	rows, next, err := s.cfg.Usage.Incomplete(ctx, f)
	return reply{body: list(rows, next, s.showFinding)}, err
}

func (s *Server) showFinding(f usage.Finding) wire.UsesFinding {
	out := wire.UsesFinding{
		Kind: string(f.Kind), Verifier: string(f.Verifier), Organization: string(f.Org), First: f.First, Last: f.Last, Count: f.Count,
		From: instant(f.From), To: instant(f.To), Position: s.usesPosition(f.Position), Superseded: f.Superseded, Explained: f.Explained, Detail: findingText(f),
	}
	if !f.Boot.IsZero() {
		out.Boot = f.Boot.String()
	}
	return out
}

// findingText says what a finding means.
func findingText(f usage.Finding) string {
	switch f.Kind {
	case uses.FindingMissing:
		return fmt.Sprintf("uses %d to %d are in no block", f.First, f.Last)
	case uses.FindingRepeated:
		return fmt.Sprintf("uses %d to %d came again; they are told and counted once", f.First, f.Last)
	case uses.FindingUnmarked:
		return "the run has blocks before the mark of its beginning, so that nothing bounds what it may have lost"
	case uses.FindingAfterEnd:
		return fmt.Sprintf("uses %d to %d came after the mark that says they do not exist; they are not told or counted", f.First, f.Last)
	case uses.FindingTotal:
		return fmt.Sprintf("the end of the run tells of %d uses that are not there: those of a whole organization are missing", f.Count)
	case uses.FindingUnended:
		if !f.Superseded {
			return fmt.Sprintf("the run has no end yet: it goes on, or it broke off and up to %d uses are missing", f.Count)
		}
		return fmt.Sprintf("the run broke off without the mark of its end: up to %d uses may be missing", f.Count)
	case usage.FindingGap:
		if f.Explained {
			return fmt.Sprintf("positions %d to %d of the stream were dropped by retention before they were read here; their uses were counted before", f.First, f.Last)
		}
		return fmt.Sprintf("positions %d to %d of the stream were not there to be read: they expired before, or are lost", f.First, f.Last)
	case usage.FindingUnreadable:
		return "what stands here is no block of uses of this ledger"
	default:
		return ""
	}
}
