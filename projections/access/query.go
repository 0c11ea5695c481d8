package access

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// Row is what happened alike within a minute on a server, and how often.
type Row struct {
	// Position is that of the first record that told of it.
	Position events.Position
	Server   events.VerifierID
	access.Row
	Count           uint64
	FirstAt, LastAt events.Time
	RequestID       string
}

// Page is the part of a list that is wanted.
type Page = sqlview.Page

// Filter says which rows are wanted. Its zero value wants those of no organization.
type Filter struct {
	Org events.OrgID
	// AllOrganizations wants those of every organization, whatever Org says.
	AllOrganizations bool
	// Kind wants those of a kind, What those of a route, a report or a provider,
	// Actor those of somebody.
	Kind  access.Kind
	What  string
	Actor events.Actor
	// From and To want rows whose minutes lie within [From, To).
	From, To events.Time
	Page
}

func (f Filter) list() sqlview.List {
	parts := []string{
		"access", string(f.Org), strconv.FormatBool(f.AllOrganizations), string(f.Kind), f.Actor.String(),
		strconv.FormatInt(int64(f.From), 10), strconv.FormatInt(int64(f.To), 10),
	}
	if f.What != "" {
		parts = append(parts, f.What)
	}
	return sqlview.ListOf(parts...)
}

// Rows lists rows from the newest on, and returns the cursor of the next page.
func (v *View) Rows(ctx context.Context, f Filter) ([]Row, string, error) {
	list := f.list()
	before, err := list.Before(f.Cursor)
	if err != nil {
		return nil, "", err
	}
	var w sqlview.Where
	if !f.AllOrganizations {
		w.AndBind(`org = `, string(f.Org))
	}
	if f.Kind != "" {
		w.AndBind(`kind = `, string(f.Kind))
	}
	if f.What != "" {
		w.AndBind(`what = `, f.What)
	}
	if actor := f.Actor.String(); actor != "" {
		w.And(`actor <> ''`)
		w.AndBind(`actor = `, actor)
	}
	if f.From != 0 || f.To != 0 {
		if f.To == 0 {
			f.To = math.MaxInt64
		}
		from, to := w.Bind(int64(f.From)), w.Bind(int64(f.To))
		// Minutes rise with positions, nearly: the ends of the range are found by
		// an index, so that a list of long ago does not begin with the newest.
		w.And(`position BETWEEN (SELECT min(position) FROM access WHERE minute >= ` + from + ` AND minute < ` + to + `)
			AND (SELECT max(position) FROM access WHERE minute >= ` + from + ` AND minute < ` + to + `)`)
		w.And(`minute >= ` + from + ` AND minute < ` + to)
	}
	w.AndBind(`position < `, before)
	query := columns + w.String() + ` ORDER BY position DESC LIMIT ` + w.Bind(f.Rows()+1)
	rows, err := sqlview.All(ctx, v.db, scan, query, w.Args()...)
	if err != nil {
		return nil, "", fmt.Errorf("access: %w", err)
	}
	rows, next := sqlview.Cut(list, f.Page, rows, func(r Row) events.Position { return r.Position })
	return rows, next, nil
}

const columns = `SELECT position, minute, org, kind, server, actor, role, what, code, answer, version, single, source, source_kind, count, first_at, last_at, request_id FROM access `

func scan(row sqlview.Scanner) (Row, error) {
	var r Row
	var actor string
	err := row.Scan(&r.Position, &r.Minute, &r.Org, &r.Kind, &r.Server, &actor, &r.Role, &r.What, &r.Code, &r.Answer, &r.Version, &r.Single, &r.Source, &r.SourceKind,
		&r.Count, &r.FirstAt, &r.LastAt, &r.RequestID)
	if err == nil && actor != "" {
		err = r.Actor.UnmarshalText([]byte(actor))
	}
	return r, err
}

// LastResolved is when an organization's own key of a provider was handed out last,
// 0 when that is not known.
func (v *View) LastResolved(ctx context.Context, org events.OrgID, provider events.ProviderID) (events.Time, error) {
	var at events.Time
	err := v.db.QueryRow(ctx, LastResolvedSQL, string(org), string(provider)).Scan(&at)
	if err != nil {
		return 0, fmt.Errorf("access: %w", err)
	}
	return at, nil
}

// LastResolvedSQL is the query of [View.LastResolved], for whoever reads the view's
// file beside others: ?1 is the organization, ?2 the provider.
const LastResolvedSQL = `SELECT coalesce(max(last_at), 0) FROM access INDEXED BY access_resolved
	WHERE org = ?1 AND what = ?2 AND ` + handedOut

// handedOut is the condition on rows of provider keys that were handed out.
const handedOut = `kind = '` + string(access.ProviderKeyResolved) + `' AND answer = '` + access.AnswerCustomer + `' AND code = ''`
