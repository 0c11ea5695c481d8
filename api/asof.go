package api

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/configuration"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/sqlview"
	"github.com/keyledger/keyledger/projections/usage"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/asof"
)

func (s *Server) whoCouldEndpoint() endpoint {
	return endpoint{
		method: "GET", path: "/v1/organizations/{org}/audit/who-could", id: "list-who-could", tag: "Audit",
		summary:     "List the keys that could do something, then or now",
		description: "Every key whose verdict was VALID at a time or position, by the code that gives verdicts now, with the event that made it so.",
		who:         "Role owner, admin, member or auditor. A key that is limited to workspaces is told of keys whose scope lies within its own, then and now.",
		query: append([]parameter{
			{name: "permission", description: "A permission, or a query of several. Unless given, whether the key was good for anything.", of: "", example: "interview:start"},
			{name: "workspace", description: "Where. Unless given, no scope is judged.", of: "", example: "support"},
			{name: "at", description: "An RFC 3339 time, by the broker's clock, or a position. Events that were appended as one count as one. Unless given, now.", of: "", example: "2026-01-01T00:00:00Z"},
		}, pageParameters()...),
		answers: wire.WhoCould{}, status: 200, codes: []string{"invalid_cursor", "invalid_value"}, reads: access.AuditRead, handle: s.whoCould,
	}
}

// asOfParameters are those of a key that is to be shown as it was.
func asOfParameters() []parameter {
	return []parameter{
		{name: "as_of", description: "Shows the key as it was: at an RFC 3339 time, by the clock of the broker that stored what happened, or at a position. Events that were appended as one, as by a rotation, count as one.", of: "", example: "2026-01-01T00:00:00Z"},
		{name: "permission", description: "With as_of: adds the verdict on this permission, or query of several.", of: "", example: "interview:start"},
		{name: "workspace", description: "With as_of: adds the verdict on the key's use in this workspace.", of: "", example: "support"},
		{name: "verdict", description: "With as_of: true adds the verdict, also when nothing in particular is asked.", of: false},
	}
}

// moment is a point of the ledger's history: the events up to a position, and the
// time that they are judged at.
type moment struct {
	position events.Position
	at       events.Time
}

func (s *Server) showMoment(m moment) wire.Moment {
	return wire.Moment{Position: s.position(m.position), Time: m.at.Std()}
}

// moment reads a parameter that is a time or a position; left out it is now. One
// amid events that were appended as one is the last of them. It waits until this server has applied all that counts: an answer about the past
// that leaves out its end would be another one tomorrow.
func (s *Server) moment(ctx context.Context, text, field string) (moment, error) {
	last, err := s.cfg.Last(ctx)
	if err != nil {
		return moment{}, err
	}
	m := moment{position: last, at: events.TimeOf(time.Now())}
	byTime, byPosition := false, false
	if text != "" {
		at, notTime := time.Parse(time.RFC3339, text)
		pos, notPosition := s.cfg.Positions.Parse(events.StreamLedger, text)
		switch {
		case notPosition == nil && pos > last:
			return m, domain.Refuse(domain.ErrInvalid, field, "lies in the future: it is beyond the ledger's end")
		case notPosition == nil:
			m.position, byPosition = pos, true
		case notTime != nil:
			return m, refuse(errRequest, field, "%s", "must be a time as RFC 3339 writes it, such as 2026-12-31T00:00:00Z, or a position from an answer of this server")
		case at.After(m.at.Std()):
			return m, domain.Refuse(domain.ErrInvalid, field, "lies in the future")
		case at.UTC().Year() < 1970:
			return m, domain.Refuse(domain.ErrInvalid, field, "lies before everything; the first year is 1970")
		default:
			m.at, byTime = events.TimeOf(at), true
		}
	}
	if err := s.caughtUp(ctx, m.position); err != nil {
		return m, err
	}
	if byTime {
		if m.position, err = s.cfg.Audit.At(ctx, m.at); err != nil {
			return m, err
		}
	}
	// What was appended as one happened at once: there was nothing in between.
	if m.position, err = s.cfg.Audit.Whole(ctx, m.position); err != nil {
		return m, err
	}
	if err := s.caughtUp(ctx, m.position); err != nil || !byPosition {
		return m, err
	}
	m.at, err = s.cfg.Audit.Clock(ctx, m.position)
	return m, err
}

// caughtUp waits until this server has applied a position wherever the past is read.
func (s *Server) caughtUp(ctx context.Context, pos events.Position) error {
	waiting, cancel := context.WithTimeout(ctx, aheadWait)
	defer cancel()
	if err := s.cfg.WaitForAudit(waiting, pos); err != nil {
		return err
	}
	if !s.cfg.Verifier.Reached(waiting, pos) {
		// It tells whose digests are.
		return fmt.Errorf("%w: this server's verifier lags behind", events.ErrUnavailable)
	}
	return nil
}

// pastQuestion reads what is asked about the past.
func (c *call) pastQuestion() (verify.Question, error) {
	q := verify.Question{Permission: c.query("permission")}
	if permission.MayBeQuery(q.Permission) {
		if _, err := permission.ParseQuery(q.Permission); err != nil {
			return q, gate.NotAsked(err)
		}
	}
	if text := c.query("workspace"); text != "" {
		id, err := events.ParseWorkspaceID(text)
		if err != nil {
			return q, refuse(errRequest, "workspace", "is no workspace id")
		}
		q.Workspace = id
	}
	return q, nil
}

// pastKey is a key on its way through its past, with the configuration of its
// organization beside it.
type pastKey struct {
	key   commands.Key
	over  bool // the organization ended before the key did
	at    events.Time
	trace asof.Trace[commands.Key]
}

func newPastKey(at events.Time) *pastKey {
	k := &pastKey{at: at}
	k.trace = asof.NewTrace(commands.Key{}, k.same)
	return k
}

// apply applies one of the key's own events, or the end of its organization.
func (k *pastKey) apply(r *events.Recorded) {
	if r.Subject.ID != events.RevokedAll {
		was := k.key
		k.key = k.key.After(*r)
		if k.over {
			k.key.RevokedAt, k.key.RevokedBy, k.key.RevocationReason = was.RevokedAt, was.RevokedBy, was.RevocationReason
		}
	} else if k.key.Exists && !k.key.Revoked {
		k.over, k.key.Revoked, k.key.Position = true, true, r.Position
		k.key.RevokedAt, k.key.RevokedBy, k.key.RevocationReason = r.Meta.Time, r.Meta.Actor, r.Meta.Reason
	}
	k.trace.Look(r, k.key)
}

// same reports whether two states are shown as the same key: what was only told of
// it, and what makes no difference to its status at the time, does not count.
func (k *pastKey) same(a, b commands.Key) bool {
	plain := func(s key.State) key.State {
		s.Noticed, s.RotationDueAt, s.Sources, s.SpikeAt = "", 0, 0, 0
		s.Disabled, s.Expired, s.Revoked = false, false, false
		return s
	}
	return a.Status(k.at) == b.Status(k.at) && a.RevokedAt == b.RevokedAt && a.RevocationReason == b.RevocationReason &&
		plain(a.State).Equal(plain(b.State))
}

// keyThen shows a key as it was.
func (s *Server) keyThen(ctx context.Context, c *call, now catalog.Key) (reply, error) {
	q, err := c.pastQuestion()
	if err != nil {
		return reply{}, err
	}
	asked, err := c.flag("verdict")
	if err != nil {
		return reply{}, err
	}
	asked = asked || q.Permission != "" || q.Workspace != ""
	m, err := s.moment(ctx, c.query("as_of"), "as_of")
	if err != nil {
		return reply{}, err
	}
	then, config := newPastKey(m.at), configuration.State{}
	past := func(yield func(events.Recorded, error) bool) {
		for r, err := range s.cfg.Audit.Bearing(ctx, now.Org, []events.KeyID{now.ID}, m.position) {
			if err == nil {
				config.Apply(r.Subject, r.Event)
				if ofKeys(&r) {
					then.apply(&r)
				}
			}
			if !yield(r, err) {
				return
			}
		}
	}
	answer, err := s.judgePast(past, asked, q, m)
	switch {
	case err != nil:
		return reply{}, err
	case !then.key.Exists:
		return reply{}, domain.Refuse(domain.ErrNotFound, "as_of", "there was no such key then: it is there since %s", now.CreatedAt.Std().Format(time.RFC3339Nano))
	case !c.principal.Covers(then.key.Scope):
		return reply{}, missing("key")
	}
	used, since, err := s.lastUsedThen(ctx, now, m.at)
	if err != nil {
		return reply{}, err
	}
	shown := s.showThen(ctx, c.principal, then, config, used)
	at := s.showMoment(m)
	at.UsesKeptSince = instant(since)
	shown.AsOf = &at
	changes := s.changes(ctx, c.principal, false)
	if shown.MadeSoBy, err = s.madeSoBy(ctx, changes, then.trace.MadeBy()); err != nil {
		return reply{}, err
	}
	if asked {
		shown.Verdict = &wire.PastVerdict{
			Valid: answer.Valid(), Code: answer.Code.String(), Permission: q.Permission, Workspace: string(q.Workspace), ScopeChecked: answer.ScopeChecked,
		}
		shown.Verdict.MadeSoBy, err = s.madeSoBy(ctx, changes, answer.MadeBy)
	}
	return reply{body: shown}, err
}

// ofKeys reports whether an event is one of a key's own, or ends all of them.
func ofKeys(r *events.Recorded) bool {
	return r.Subject.Aggregate == events.AggregateKey || r.Subject.Aggregate == events.AggregateRevoked
}

// judgePast goes through the past of one key, and answers the question if one is
// asked.
func (s *Server) judgePast(past iter.Seq2[events.Recorded, error], asked bool, q verify.Question, m moment) (asof.Answer, error) {
	if !asked {
		for _, err := range past {
			if err != nil {
				return asof.Answer{}, err
			}
		}
		return asof.Answer{}, nil
	}
	answers, err := asof.Ask{Question: q, At: m.at, Leads: s.cfg.Verifier.Leads}.Of(past)
	if err != nil || len(answers) == 0 {
		return asof.Answer{}, err
	}
	return answers[0], nil
}

// showThen shows a key as it was, under what its organization was configured as.
func (s *Server) showThen(ctx context.Context, p commands.Principal, then *pastKey, config configuration.State, used events.Time) wire.Key {
	shown := s.showKey(ctx, p, rowOf(then.key, config, then.at, used))
	shown.EffectivePermissions, shown.GoneWorkspaces = effectiveUnder(config, then.key.Permissions), goneUnder(config, then.key.Scope)
	return shown
}

// lastUsedThen is when a key was last used up to an instant. That is looked up
// among its single uses if it was used since. Where none is found it is 0, and since
// is when those that are kept begin: 0 if there never were others.
func (s *Server) lastUsedThen(ctx context.Context, now catalog.Key, at events.Time) (used, since events.Time, err error) {
	if now.LastUsedAt <= at {
		return now.LastUsedAt, 0, nil
	}
	found, _, err := s.cfg.Usage.Uses(ctx, usage.Filter{Org: now.Org, Key: now.ID, To: at + 1, Code: events.CodeValid, Page: sqlview.Page{Limit: 1}})
	switch {
	case err != nil:
		return 0, 0, err
	case len(found) > 0:
		return found[0].At, 0, nil
	}
	if since, err = s.cfg.Usage.DroppedBefore(ctx, now.Org); since <= now.CreatedAt {
		since = 0
	}
	return 0, since, err
}

// madeSoBy shows the event at a position, nil for none. Who is limited to
// workspaces is told of what concerns others, or the whole organization, that it was
// and not what it said.
func (s *Server) madeSoBy(ctx context.Context, v *changes, pos events.Position) (*wire.Change, error) {
	if pos == 0 {
		return nil, nil
	}
	e, found, err := s.cfg.Audit.Event(ctx, pos)
	if err != nil || !found {
		return nil, err
	}
	shown := v.show(e)
	scope := v.principal.Scope
	theirs := audit.Filter{Org: e.Subject.Org, Within: append([]events.WorkspaceID{}, scope.Workspaces...)}
	if !scope.AllWorkspaces && !theirs.Wants(&e) {
		shown = wire.Change{
			Position: shown.Position, Type: shown.Type, Subject: shown.Subject, Organization: shown.Organization, Aggregate: shown.Aggregate, ID: shown.ID,
			Revision: shown.Revision, ClaimedAt: shown.ClaimedAt, RecordedAt: shown.RecordedAt, StoredAt: shown.StoredAt, Changes: []wire.FieldChange{},
		}
	}
	return &shown, nil
}

// whoCould lists the keys whose verdict was VALID.
func (s *Server) whoCould(ctx context.Context, c *call) (reply, error) {
	org, err := c.look()
	if err != nil {
		return reply{}, err
	}
	s.settle(ctx)
	if err := s.wasOrganization(ctx, org); err != nil {
		return reply{}, err
	}
	q, err := c.pastQuestion()
	if err != nil {
		return reply{}, err
	}
	limit, err := c.limit()
	if err != nil {
		return reply{}, err
	}
	// Each goes through the past of thousands of keys.
	leave, err := s.looking.sit(ctx, c.principal.Org)
	if err != nil {
		return reply{}, err
	}
	defer leave()
	select {
	case s.pasts <- struct{}{}:
		defer func() { <-s.pasts }()
	case <-ctx.Done():
		return reply{}, ctx.Err()
	}
	l, err := s.whoCouldList(ctx, c, org, q)
	if err != nil {
		return reply{}, err
	}
	l.limit = limit
	return s.pageWhoCould(ctx, c, l)
}

// couldList is a list of keys that could do something, read from where a page
// ended.
type couldList struct {
	principal commands.Principal
	org       events.OrgID
	question  verify.Question
	moment    moment
	after     events.Position
	limit     int
}

// whoCouldList reads which list is asked for, and where it goes on. A cursor holds
// the moment that the first page was about, which may have been its own now.
func (s *Server) whoCouldList(ctx context.Context, c *call, org events.OrgID, q verify.Question) (l couldList, err error) {
	l = couldList{principal: c.principal, org: org, question: q}
	cursor := c.query("cursor")
	if cursor == "" {
		l.moment, err = s.moment(ctx, c.query("at"), "at")
		return l, err
	}
	at, rest, _ := strings.Cut(cursor, ".")
	pos, rest, _ := strings.Cut(rest, ".")
	micros, err := strconv.ParseInt(at, 36, 64)
	if err != nil {
		return l, errCursor
	}
	position, err := strconv.ParseUint(pos, 36, 63)
	if err != nil || rest == "" {
		return l, errCursor
	}
	l.moment = moment{position: events.Position(position), at: events.Time(micros)}
	after, err := l.list(c.query("at")).After(rest)
	l.after = events.Position(after)
	return l, err
}

// list names the list, so that a cursor of another is refused.
func (l couldList) list(at string) sqlview.List {
	return sqlview.ListOf("who could", string(l.org), l.question.Permission, string(l.question.Workspace), at,
		strconv.FormatInt(int64(l.moment.at), 36), strconv.FormatUint(uint64(l.moment.position), 36))
}

func (s *Server) pageWhoCould(ctx context.Context, c *call, l couldList) (reply, error) {
	out := wire.WhoCould{Items: []wire.Could{}, Position: s.position(l.moment.position), Time: l.moment.at.Std()}
	for looked := 0; ; {
		keys, err := s.cfg.Audit.Created(ctx, l.org, l.after, l.moment.position, keysAtOnce)
		if err != nil {
			return reply{}, err
		}
		could, err := s.could(ctx, l, keys)
		if err != nil {
			return reply{}, err
		}
		for _, k := range keys {
			shown, ok := could[k.ID]
			if ok && len(out.Items) == l.limit {
				out.NextCursor = l.cursor(c.query("at"))
				return reply{body: out}, nil
			}
			if ok {
				out.Items = append(out.Items, shown)
			}
			l.after = k.Position
		}
		if looked += len(keys); len(keys) < keysAtOnce {
			return reply{body: out}, nil
		}
		if looked >= maxLooked {
			out.NextCursor = l.cursor(c.query("at"))
			return reply{body: out}, nil
		}
	}
}

func (l couldList) cursor(at string) string {
	return strconv.FormatInt(int64(l.moment.at), 36) + "." + strconv.FormatUint(uint64(l.moment.position), 36) + "." + l.list(at).Cursor(l.after)
}

// could tells which of some keys could do what is asked.
func (s *Server) could(ctx context.Context, l couldList, keys []audit.CreatedKey) (map[events.KeyID]wire.Could, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	ids, then := make([]events.KeyID, len(keys)), make(map[events.KeyID]commands.Key, len(keys))
	for i, k := range keys {
		ids[i] = k.ID
	}
	past := func(yield func(events.Recorded, error) bool) {
		for r, err := range s.cfg.Audit.Bearing(ctx, l.org, ids, l.moment.position) {
			if id, ok := r.Subject.Key(); err == nil && ok {
				then[id] = then[id].After(r)
			}
			if !yield(r, err) {
				return
			}
		}
	}
	answers, err := asof.Ask{Question: l.question, At: l.moment.at, Leads: s.cfg.Verifier.Leads}.Of(past)
	if err != nil {
		return nil, err
	}
	out := map[events.KeyID]wire.Could{}
	for _, a := range slices.DeleteFunc(answers, func(a asof.Answer) bool { return !a.Valid() }) {
		k := then[a.ID]
		if seen, err := s.seenThenAndNow(ctx, l.principal, k); err != nil {
			return nil, err
		} else if !seen {
			continue
		}
		out[a.ID] = wire.Could{
			KeyID: a.ID.String(), Name: textOrNull(s.text(ctx, l.principal, l.org, k.Name)), Masked: keystring.Masked(k.Prefix, k.LastFour),
			Permissions: grantOf(k.Kind, k.Permissions), Scope: scopeOf(k.Scope), MadeSoBy: s.position(a.MadeBy),
		}
	}
	return out, nil
}

// seenThenAndNow reports whether a caller may be told what a key was: one that is
// limited to workspaces sees what lay within them, of keys that still do.
func (s *Server) seenThenAndNow(ctx context.Context, p commands.Principal, then commands.Key) (bool, error) {
	if p.Scope.AllWorkspaces {
		return true, nil
	}
	if !p.Covers(then.Scope) {
		return false, nil
	}
	now, err := s.cfg.Catalog.Key(ctx, then.Org, then.ID, events.TimeOf(time.Now()))
	if errors.Is(err, catalog.ErrNotFound) {
		return false, nil
	}
	return err == nil && p.Covers(now.Scope), err
}
