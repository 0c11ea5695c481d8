package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// Event is a fact as it was recorded, and what it changed.
type Event struct {
	Position events.Position
	Subject  events.Subject
	// Stored is the broker's time; Recorded and Time are those of whoever decided:
	// when the ledger was asked to store it, and when the wish came.
	Stored    events.Time
	Recorded  events.Time
	Time      events.Time
	Revision  events.Revision
	Kind      events.Kind
	Actor     events.Actor
	Role      events.Role
	Scope     string
	Reason    events.Text
	Ticket    string
	RequestID string
	Command   events.CommandID
	// Causation is the CloudEvents id of the fact that made the system act, empty
	// for none.
	Causation      string
	ConfigPosition events.Position
	// Changes are from what to what, in the order of the fact.
	Changes []Change
	// Workspaces are those that it concerns.
	Workspaces []events.WorkspaceID
	// Text is what it can be found by, a text a line.
	Text string
	// Raw is the stored body, byte for byte.
	Raw []byte
}

// Decode returns the fact of the stored body.
func (e Event) Decode() (events.Meta, events.Event, error) { return events.Decode(e.Subject, e.Raw) }

// Page is the part of a list that is wanted.
type Page = sqlview.Page

// Filter says which events are wanted. Its zero value wants those of no
// organization.
type Filter struct {
	Org events.OrgID
	// AllOrganizations wants those of every organization, whatever Org says.
	AllOrganizations bool
	// Within, when set, bounds what the asker may see: events that concern
	// workspaces of it and no other.
	Within []events.WorkspaceID
	// Key wants what happened to a key, its revocation included.
	Key events.KeyID
	// Actor wants what somebody did.
	Actor events.Actor
	// Kinds wants events of these kinds, with or without their versions.
	Kinds []events.Kind
	// Workspace wants events that concern a workspace of the organization.
	Workspace events.WorkspaceID
	// Ticket wants what was done for it.
	Ticket string
	// From and To want events that were stored within [From, To), by the broker's
	// clock. Where that stepped back, an event counts as stored when the one before
	// it was: so the part between two times is one part of the log.
	From, To events.Time
	// Query wants events with this text in reason, ticket, the names and metadata
	// before and after, request id, actor or id; ASCII letters match in either
	// case. A long id is found by all of it or by its end. It has [MinQuery]
	// characters; sealed texts are not searched.
	Query string
	// After wants nothing up to a position, Until nothing after one.
	After, Until events.Position
	// OldestFirst turns the list around, which begins with the newest.
	OldestFirst bool
	Page
}

func (f *Filter) list() sqlview.List {
	parts := []string{
		"events", string(f.Org), strconv.FormatBool(f.AllOrganizations), f.Key.String(), f.Actor.String(), string(f.Workspace), f.Ticket,
		strconv.FormatInt(int64(f.From), 10), strconv.FormatInt(int64(f.To), 10), f.Query,
		strconv.FormatUint(uint64(f.After), 10), strconv.FormatUint(uint64(f.Until), 10), strconv.FormatBool(f.OldestFirst), "kinds",
	}
	for _, k := range f.Kinds {
		parts = append(parts, string(k))
	}
	if f.Within != nil {
		parts = append(parts, "within:")
		for _, w := range f.Within {
			parts = append(parts, string(w))
		}
	}
	return sqlview.ListOf(parts...)
}

// maxQuery bounds a searched text: the longest text it could be found in.
const maxQuery = events.MaxReasonLength

// nothing reports whether a filter wants nothing for sure.
func (f *Filter) nothing() bool {
	if f.Query != "" && (len(f.Query) > maxQuery || utf8.RuneCountInString(f.Query) < MinQuery || !utf8.ValidString(f.Query)) {
		return true
	}
	return !f.AllOrganizations && f.Org == "" || f.Within != nil && len(f.Within) == 0
}

// Events lists events, and returns the cursor of the next page.
func (l *Log) Events(ctx context.Context, f Filter) ([]Event, string, error) {
	list := f.list()
	s := span{after: int64(f.After), before: math.MaxInt64, oldestFirst: f.OldestFirst, rows: f.Rows() + 1}
	if f.Until != 0 {
		s.before = int64(f.Until) + 1
	}
	if err := s.from(list, f.Page); err != nil {
		return nil, "", err
	}
	if f.nothing() {
		return nil, "", nil
	}
	if err := l.within(ctx, &s, f.From, f.To); err != nil {
		return nil, "", err
	}
	if s.after+1 >= s.before {
		return nil, "", nil
	}
	var found []Event
	drives := f.drives()
	for _, d := range drives {
		rows, err := l.rows(ctx, d, &f, s)
		if err != nil {
			return nil, "", err
		}
		found = append(found, rows...)
	}
	if len(drives) > 1 {
		found = s.merge(found)
	}
	found, next := sqlview.Cut(list, f.Page, found, func(e Event) events.Position { return e.Position })
	return found, next, nil
}

// span is a part of the log, and how much of it is wanted from which end.
type span struct {
	// after and before are positions that are no more in it.
	after, before int64
	oldestFirst   bool
	rows          int
}

// from goes on where a cursor stands.
func (s *span) from(list sqlview.List, p Page) error {
	if s.oldestFirst {
		at, err := list.After(p.Cursor)
		s.after = max(s.after, at)
		return err
	}
	at, err := list.Before(p.Cursor)
	s.before = min(s.before, at)
	return err
}

func (s *span) order(column string) string {
	if s.oldestFirst {
		return ` ORDER BY ` + column + ` LIMIT `
	}
	return ` ORDER BY ` + column + ` DESC LIMIT `
}

// merge puts the rows of several queries in order. One may be in more of them.
func (s *span) merge(found []Event) []Event {
	slices.SortFunc(found, func(a, b Event) int {
		if s.oldestFirst {
			return cmp.Compare(a.Position, b.Position)
		}
		return cmp.Compare(b.Position, a.Position)
	})
	found = slices.CompactFunc(found, func(a, b Event) bool { return a.Position == b.Position })
	return found[:min(len(found), s.rows)]
}

// within narrows the span to what was stored within times.
func (l *Log) within(ctx context.Context, s *span, from, to events.Time) error {
	first := func(t events.Time) (int64, error) {
		pos := int64(math.MaxInt64)
		err := l.db.QueryRow(ctx, `SELECT coalesce((SELECT position FROM event INDEXED BY event_clock WHERE clock >= ?1 ORDER BY clock, position LIMIT 1), ?2)`,
			int64(t), pos).Scan(&pos)
		if err != nil {
			return 0, fmt.Errorf("audit: position at a time: %w", err)
		}
		return pos, nil
	}
	if from != 0 {
		pos, err := first(from)
		if err != nil {
			return err
		}
		s.after = max(s.after, pos-1)
	}
	if to != 0 {
		pos, err := first(to)
		if err != nil {
			return err
		}
		s.before = min(s.before, pos)
	}
	return nil
}

// drive is the index that a query runs along: its rows come in the order of
// positions, so that the first page is found without looking at the rest.
type drive struct {
	// table is what is read, position its column of positions.
	table, position string
	// where narrows it; each condition ends with a value.
	where []condition
}

type condition struct {
	column string
	value  any
}

// drives choose the index that leaves least to look at. What a filter wants
// beside is compared row by row.
func (f *Filter) drives() []drive {
	org := condition{`event.org = `, string(f.Org)}
	switch {
	case !f.Key.IsZero() && !f.AllOrganizations:
		// Events of one key are few: they are put in order.
		return []drive{{`event INDEXED BY event_subject`, `event.position`, []condition{org, {`event.id = `, f.Key.String()}}}}
	case f.Ticket != "":
		return []drive{{`event INDEXED BY event_ticket`, `event.position`, []condition{{`event.ticket <> '' AND event.ticket = `, f.Ticket}}}}
	case f.Workspace != "":
		return []drive{f.driveWorkspace(f.Workspace)}
	case f.Query != "" || !f.Key.IsZero() || f.indexed() > 1 || f.AllOrganizations && f.indexed() > 0:
		return []drive{{
			`search CROSS JOIN event ON event.position = search.rowid`, `search.rowid`,
			[]condition{{`search MATCH `, f.match()}},
		}}
	case f.Within != nil:
		out := make([]drive, 0, len(f.Within))
		for _, w := range f.Within {
			out = append(out, f.driveWorkspace(w))
		}
		return out
	case f.Actor != events.Actor{}:
		return []drive{{`event INDEXED BY event_actor`, `event.position`, []condition{org, {`event.actor = `, f.Actor.String()}}}}
	case len(f.Kinds) > 0:
		var out []drive
		for _, name := range f.names() {
			out = append(out, drive{`event INDEXED BY event_name`, `event.position`, []condition{org, {`event.name = `, name}}})
		}
		return out
	case f.AllOrganizations:
		return []drive{{`event`, `event.position`, nil}}
	default:
		return []drive{{`event INDEXED BY event_org`, `event.position`, []condition{org}}}
	}
}

func (f *Filter) driveWorkspace(w events.WorkspaceID) drive {
	return drive{
		`event_workspace AS w CROSS JOIN event ON event.position = w.position`, `w.position`,
		[]condition{{`w.org = `, string(f.Org)}, {`w.workspace = `, string(w)}},
	}
}

// indexed counts the tags that a filter wants beside the organization's.
func (f *Filter) indexed() int {
	n := 0
	if f.Actor != (events.Actor{}) {
		n++
	}
	if len(f.Kinds) > 0 {
		n++
	}
	return n
}

// names are the kinds' names, each once.
func (f *Filter) names() []string {
	var out []string
	for _, k := range f.Kinds {
		if name := k.Name(); !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// match is what the index of texts is asked.
func (f *Filter) match() string {
	var all []string
	if !f.AllOrganizations {
		all = append(all, quoted(tag('o', string(f.Org))))
	}
	if f.Actor != (events.Actor{}) {
		all = append(all, quoted(tag('a', f.Actor.String())))
	}
	if len(f.Kinds) > 0 {
		var either []string
		for _, name := range f.names() {
			either = append(either, quoted(tag('k', name)))
		}
		all = append(all, "("+strings.Join(either, " OR ")+")")
	}
	if !f.Key.IsZero() {
		all = append(all, grams(tail(f.Key.String())))
	}
	if f.Query != "" {
		all = append(all, "("+searched(f.Query)+")")
	}
	return strings.Join(all, " AND ")
}

// rows runs one query.
func (l *Log) rows(ctx context.Context, d drive, f *Filter, s span) ([]Event, error) {
	var w sqlview.Where
	for _, c := range d.where {
		w.AndBind(c.column, c.value)
	}
	// The bounds may be pushed into any index by its position.
	if s.after > 0 {
		w.AndBind(d.position+` > `, s.after)
	}
	if s.before < math.MaxInt64 {
		w.AndBind(d.position+` < `, s.before)
	}
	f.compare(&w)
	query := fields + ` FROM ` + d.table + ` ` + w.String() + s.order(d.position) + w.Bind(s.rows)
	found, err := sqlview.All(ctx, l.db, scan, query, w.Args()...)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return found, nil
}

// compare adds all that a filter wants, whatever index leads there.
func (f *Filter) compare(w *sqlview.Where) {
	if !f.AllOrganizations {
		w.AndBind(`event.org = `, string(f.Org))
	}
	if !f.Key.IsZero() {
		w.AndBind(`event.aggregate IN ('`+string(events.AggregateKey)+`', '`+string(events.AggregateRevoked)+`') AND event.id = `, f.Key.String())
	}
	if actor := f.Actor.String(); actor != "" {
		w.AndBind(`event.actor = `, actor)
	}
	if f.Ticket != "" {
		w.AndBind(`event.ticket = `, f.Ticket)
	}
	if len(f.Kinds) > 0 {
		var either []string
		for _, k := range f.Kinds {
			p := w.Bind(string(k))
			either = append(either, `event.kind = `+p+` OR event.name = `+p)
		}
		w.And(`(` + strings.Join(either, ` OR `) + `)`)
	}
	if f.Workspace != "" {
		w.And(`EXISTS (SELECT 1 FROM event_workspace AS c WHERE c.org = event.org AND c.workspace = ` + w.Bind(string(f.Workspace)) +
			` AND c.position = event.position)`)
	}
	if f.Within != nil {
		// Ids of workspaces cannot fail to be written.
		b, _ := json.Marshal(f.Within)
		w.And(`event.workspaces <> '' AND NOT EXISTS (SELECT 1 FROM json_each(event.workspaces) AS c
			WHERE c.value NOT IN (SELECT value FROM json_each(` + w.Bind(string(b)) + `)))`)
	}
	if f.Query != "" {
		q := strings.ToLower(f.Query)
		found := `instr(lower(event.text), ` + w.Bind(lowered(f.Query)) + `) > 0`
		if len(q) > wholeID {
			p := w.Bind(q)
			found += ` OR event.id = ` + p + ` OR lower(event.request_id) = ` + p + ` OR substr(event.actor, -length(` + p + `)) = ` + p
		}
		w.And(`(` + found + `)`)
	}
}

// lowered lowers ASCII letters alone, as SQLite does.
func lowered(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// Wants reports whether an event is one that a filter wants, its page and the
// times apart: for who follows what comes.
func (f *Filter) Wants(e *Event) bool {
	switch {
	case f.nothing(), !f.AllOrganizations && e.Subject.Org != f.Org:
		return false
	case f.Actor != events.Actor{} && e.Actor != f.Actor, f.Ticket != "" && e.Ticket != f.Ticket:
		return false
	case f.Workspace != "" && !slices.Contains(e.Workspaces, f.Workspace), f.Within != nil && !lieWithin(e.Workspaces, f.Within):
		return false
	case len(f.Kinds) > 0 && !slices.ContainsFunc(f.Kinds, func(k events.Kind) bool { return k == e.Kind || string(k) == e.Kind.Name() }):
		return false
	}
	if !f.Key.IsZero() {
		if id, ok := e.Subject.Key(); !ok || id != f.Key {
			return false
		}
	}
	return f.Query == "" || e.holds(f.Query)
}

func lieWithin(list, bounds []events.WorkspaceID) bool {
	return len(list) > 0 && !slices.ContainsFunc(list, func(w events.WorkspaceID) bool { return !slices.Contains(bounds, w) })
}

// holds reports whether a text is found in an event.
func (e *Event) holds(text string) bool {
	text = lowered(text)
	if strings.Contains(lowered(e.Text), text) {
		return true
	}
	return len(text) > wholeID && (e.Subject.ID == text || lowered(e.RequestID) == text || strings.HasSuffix(e.Actor.String(), text))
}

// History lists what happened to one thing, its end included, from the newest
// on: to a key on [events.AggregateKey], a workspace, a profile, a catalog, or
// an organization.
func (l *Log) History(ctx context.Context, subject events.Subject, p Page) ([]Event, string, error) {
	subjects := []events.Subject{subject}
	switch subject.Aggregate {
	case events.AggregateKey:
		subjects = append(subjects, events.Subject{Org: subject.Org, Aggregate: events.AggregateRevoked, ID: subject.ID})
	case events.AggregateOrganization:
		subjects = append(subjects, events.EndSubject(subject.Org))
	default:
	}
	list := sqlview.ListOf("history", subject.String())
	before, err := list.Before(p.Cursor)
	if err != nil {
		return nil, "", err
	}
	var w sqlview.Where
	w.AndBind(`org = `, string(subject.Org))
	ids, aggregates, either := make([]string, len(subjects)), make([]string, len(subjects)), make([]string, len(subjects))
	for i, s := range subjects {
		ids[i], aggregates[i] = w.Bind(s.ID), w.Bind(string(s.Aggregate))
		either[i] = `id = ` + ids[i] + ` AND aggregate = ` + aggregates[i]
	}
	// The lists lead the index to both at once; by the pairs alone it would be
	// read for the whole organization.
	w.And(`id IN (` + strings.Join(ids, `, `) + `) AND aggregate IN (` + strings.Join(aggregates, `, `) + `)`)
	w.And(`(` + strings.Join(either, ` OR `) + `)`)
	w.AndBind(`position < `, before)
	query := columns + `INDEXED BY event_subject ` + w.String() + ` ORDER BY position DESC LIMIT ` + w.Bind(p.Rows()+1)
	found, err := sqlview.All(ctx, l.db, scan, query, w.Args()...)
	if err != nil {
		return nil, "", fmt.Errorf("audit: %w", err)
	}
	found, next := sqlview.Cut(list, p, found, func(e Event) events.Position { return e.Position })
	return found, next, nil
}

const columns = fields + ` FROM event `

const fields = `SELECT event.position, stored, recorded, claimed, event.org, aggregate, id, revision, kind, actor, role, scope, reason,
	reason_sealed, ticket, request_id, command_id, causation_id, config_position, changes, workspaces, event.text, body`

func scan(row sqlview.Scanner) (Event, error) {
	var e Event
	var reason sqlview.Text
	var actor, command, changes, workspaces string
	err := row.Scan(&e.Position, &e.Stored, &e.Recorded, &e.Time, &e.Subject.Org, &e.Subject.Aggregate, &e.Subject.ID, &e.Revision, &e.Kind, &actor,
		&e.Role, &e.Scope, &reason.Clear, &reason.Sealed, &e.Ticket, &e.RequestID, &command, &e.Causation, &e.ConfigPosition,
		&changes, &workspaces, &e.Text, &e.Raw)
	if err != nil {
		return e, err
	}
	var errs [5]error
	e.Reason, errs[0] = reason.Text()
	if actor != "" {
		errs[1] = e.Actor.UnmarshalText([]byte(actor))
	}
	errs[2] = e.Command.UnmarshalText([]byte(command))
	e.Changes, errs[3] = decodeChanges(changes)
	if workspaces != "" {
		errs[4] = json.Unmarshal([]byte(workspaces), &e.Workspaces)
	}
	return e, errors.Join(errs[:]...)
}

// At returns the last position that the broker had stored at an instant, by its
// own clock; 0 when there was none yet. Where that clock stepped back, what was
// stored then counts from the time that it had reached before.
func (l *Log) At(ctx context.Context, t events.Time) (events.Position, error) {
	var pos events.Position
	err := l.db.QueryRow(ctx, `SELECT coalesce((SELECT position FROM event INDEXED BY event_clock WHERE clock <= ? ORDER BY clock DESC, position DESC LIMIT 1), 0)`,
		int64(t)).Scan(&pos)
	if err != nil {
		return 0, fmt.Errorf("audit: %w", err)
	}
	return pos, nil
}
