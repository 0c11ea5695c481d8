package audit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// Event is a fact as it was recorded.
type Event struct {
	Position events.Position
	Subject  events.Subject
	// Stored is the broker's time, Time that of whoever decided.
	Stored    events.Time
	Time      events.Time
	Revision  events.Revision
	Kind      events.Kind
	Actor     events.Actor
	Role      events.Role
	Scope     string
	Reason    events.Text
	RequestID string
	Command   events.CommandID
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
	// Key wants what happened to a key, its revocation included.
	Key events.KeyID
	// Actor wants what somebody did.
	Actor events.Actor
	// Kind wants events of a kind, with or without its version.
	Kind events.Kind
	// From and To want events that were decided within [From, To). Times are
	// decoration: the order is that of positions.
	From, To events.Time
	// Query wants events with this text in reason, request id, id or actor;
	// ASCII letters match in either case. Sealed reasons are not searched.
	Query string
	// After wants nothing up to a position, Until nothing after one.
	After, Until events.Position
	// OldestFirst turns the list around, which begins with the newest.
	OldestFirst bool
	Page
}

func (f Filter) list() sqlview.List {
	return sqlview.ListOf("events", string(f.Org), strconv.FormatBool(f.AllOrganizations), f.Key.String(), f.Actor.String(), string(f.Kind),
		strconv.FormatInt(int64(f.From), 10), strconv.FormatInt(int64(f.To), 10), f.Query,
		strconv.FormatUint(uint64(f.After), 10), strconv.FormatUint(uint64(f.Until), 10), strconv.FormatBool(f.OldestFirst))
}

// maxQuery bounds a searched text: the longest text it could be found in.
const maxQuery = events.MaxReasonLength

// Events lists events, and returns the cursor of the next page.
func (l *Log) Events(ctx context.Context, f Filter) ([]Event, string, error) {
	var w sqlview.Where
	if !f.AllOrganizations {
		w.AndBind(`org = `, string(f.Org))
	}
	if !f.Key.IsZero() {
		w.AndBind(`aggregate IN ('`+string(events.AggregateKey)+`', '`+string(events.AggregateRevoked)+`') AND id = `, f.Key.String())
	}
	if actor := f.Actor.String(); actor != "" {
		w.AndBind(`actor = `, actor)
	}
	if f.Kind != "" {
		kind := w.Bind(string(f.Kind))
		w.And(`(kind = ` + kind + ` OR name = ` + kind + `)`)
	}
	if f.From != 0 {
		w.AndBind(`time >= `, int64(f.From))
	}
	if f.To != 0 {
		w.AndBind(`time < `, int64(f.To))
	}
	if f.After != 0 {
		w.AndBind(`position > `, int64(f.After))
	}
	if f.Until != 0 {
		w.AndBind(`position <= `, int64(f.Until))
	}
	if len(f.Query) > maxQuery {
		return nil, "", nil
	}
	if f.Query != "" {
		w.AndContains(f.Query, `reason`, `request_id`, `id`, `actor`)
	}
	return l.page(ctx, f.list(), &w, f.Page, f.OldestFirst)
}

// History lists what happened to one thing, its end included, from the newest
// on: to a key on [events.AggregateKey], a workspace, a profile, a catalog, or
// an organization. Unlike [Log.Events] it finds all of that by an index.
func (l *Log) History(ctx context.Context, subject events.Subject, p Page) ([]Event, string, error) {
	subjects := []events.Subject{subject}
	switch subject.Aggregate {
	case events.AggregateKey:
		subjects = append(subjects, events.Subject{Org: subject.Org, Aggregate: events.AggregateRevoked, ID: subject.ID})
	case events.AggregateOrganization:
		subjects = append(subjects, events.EndSubject(subject.Org))
	default:
	}
	var w sqlview.Where
	w.AndBind(`org = `, string(subject.Org))
	either := make([]string, len(subjects))
	for i, s := range subjects {
		either[i] = `id = ` + w.Bind(s.ID) + ` AND aggregate = ` + w.Bind(string(s.Aggregate))
	}
	w.And(`(` + strings.Join(either, ` OR `) + `)`)
	return l.page(ctx, sqlview.ListOf("history", subject.String()), &w, p, false)
}

func (l *Log) page(ctx context.Context, list sqlview.List, w *sqlview.Where, p Page, oldestFirst bool) ([]Event, string, error) {
	order := ` ORDER BY position DESC LIMIT `
	from, err := list.Before(p.Cursor)
	condition := `position < `
	if oldestFirst {
		order, condition = ` ORDER BY position LIMIT `, `position > `
		from, err = list.After(p.Cursor)
	}
	if err != nil {
		return nil, "", err
	}
	w.AndBind(condition, from)
	query := columns + w.String() + order + w.Bind(p.Rows()+1)
	found, err := sqlview.All(ctx, l.db, scan, query, w.Args()...)
	if err != nil {
		return nil, "", fmt.Errorf("audit: %w", err)
	}
	found, next := sqlview.Cut(list, p, found, func(e Event) events.Position { return e.Position })
	return found, next, nil
}

const columns = `SELECT position, stored, time, org, aggregate, id, revision, kind, actor, role, scope, reason, reason_sealed,
	request_id, command_id, body FROM event `

func scan(row sqlview.Scanner) (Event, error) {
	var e Event
	var reason sqlview.Text
	var actor, command string
	err := row.Scan(&e.Position, &e.Stored, &e.Time, &e.Subject.Org, &e.Subject.Aggregate, &e.Subject.ID, &e.Revision, &e.Kind, &actor,
		&e.Role, &e.Scope, &reason.Clear, &reason.Sealed, &e.RequestID, &command, &e.Raw)
	if err != nil {
		return e, err
	}
	var errs [3]error
	e.Reason, errs[0] = reason.Text()
	if actor != "" {
		errs[1] = e.Actor.UnmarshalText([]byte(actor))
	}
	errs[2] = e.Command.UnmarshalText([]byte(command))
	return e, errors.Join(errs[:]...)
}

// At returns the last position that the broker had stored at an instant, by its
// own clock; 0 when there was none yet.
func (l *Log) At(ctx context.Context, t events.Time) (events.Position, error) {
	var pos events.Position
	// Clocks may step back, so that times do not rise with positions for sure:
	// the last one that is not later is found, wherever it stands.
	err := l.db.QueryRow(ctx, `SELECT coalesce(max(position), 0) FROM event WHERE stored <= ?`, int64(t)).Scan(&pos)
	if err != nil {
		return 0, fmt.Errorf("audit: %w", err)
	}
	return pos, nil
}
