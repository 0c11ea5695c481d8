package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/reports"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// The formats of reports and exports.
const (
	formatJSON  = "json"
	formatCSV   = "csv"
	formatHTML  = "html"
	formatLines = "jsonl"
)

const (
	csvType  = "text/csv; charset=utf-8; header=present"
	htmlType = "text/html; charset=utf-8"
)

func (s *Server) reportEndpoint() endpoint {
	var names []string
	for _, d := range reports.Definitions() {
		names = append(names, string(d.Name))
	}
	return endpoint{
		method: "GET", path: "/v1/organizations/{org}/audit/reports/{report}", id: "get-report", tag: "Audit", summary: "Get a report",
		description: "One of " + strings.Join(names, ", ") + ". As JSON it comes page by page; as CSV and as a page to print it comes whole, and is cut off visibly when it breaks. Each tells the position of the ledger, and of the uses, that it stands at.\n\n" + aboutReports(),
		who:         "Role owner, admin, member or auditor. A key that is limited to workspaces gets rows of keys and of changes within them. The report provider-keys is for roles owner, admin and auditor of all workspaces.",
		query: append([]parameter{
			{name: "format", description: "json, csv or html; json unless given.", of: "", example: formatCSV},
			{name: "days", description: "Of dormant, over-wide and rotation-age: how long a key or permission was not used, or how old a key is, at least. Of reports of a period: how many days it is long, in the place of from.", of: 0, example: 90},
			{name: "from", description: "Of reports of a period: its beginning, an RFC 3339 time.", of: "", example: "2026-10-01T00:00:00Z"},
			{name: "to", description: "Of reports of a period: its end, which is not in it.", of: "", example: "2026-11-01T00:00:00Z"},
		}, pageParameters()...),
		answers: wire.Report{}, also: []string{"text/csv", "text/html"}, status: 200, codes: []string{"invalid_cursor", "invalid_value"}, reads: access.AuditRead, handle: s.report,
	}
}

// aboutReports says of each report what it shows.
func aboutReports() string {
	var b strings.Builder
	for _, d := range reports.Definitions() {
		fmt.Fprintf(&b, "%s: %s %s\n\n", d.Name, d.About, d.Not)
	}
	return strings.TrimSpace(b.String())
}

// asking is a request for a report.
type asking struct {
	call       *call
	definition reports.Definition
	question   reports.Question
	page       sqlview.Page
	format     string
}

func (s *Server) report(ctx context.Context, c *call) (reply, error) {
	a, err := s.asking(ctx, c)
	if err != nil {
		return reply{}, err
	}
	s.settle(ctx)
	s.settleAudit(ctx)
	if err := s.wasOrganization(ctx, a.question.Org); err != nil {
		return reply{}, err
	}
	switch a.question.Report {
	case reports.Changes, reports.ManagementChanges, reports.ProviderKeys:
	default:
		if err := s.usesRead(ctx); err != nil {
			return reply{}, err
		}
	}
	switch a.format {
	case formatCSV:
		return reply{flow: &flowing{contentType: csvType, filename: a.filename(), send: func(ctx context.Context, f *flow) error {
			return s.reportCSV(ctx, a, f)
		}}}, nil
	case formatHTML:
		return reply{flow: &flowing{contentType: htmlType, policy: pagePolicy, send: func(ctx context.Context, f *flow) error {
			return s.reportPage(ctx, a, f)
		}}}, nil
	}
	var out wire.Report
	next, err := s.rows(ctx, a, &a.page,
		func(h wire.Report) error { out = h; return nil },
		func(cells []any) error {
			row := make(map[string]any, len(cells))
			for i, name := range a.definition.Columns {
				row[name] = cells[i]
			}
			out.Rows = append(out.Rows, row)
			return nil
		})
	out.NextCursor = next
	return reply{body: out}, err
}

// wasOrganization checks that there is or was an organization: its end is no end of
// the questions about it.
func (s *Server) wasOrganization(ctx context.Context, org events.OrgID) error {
	if org == events.System {
		return nil
	}
	_, err := s.cfg.Catalog.Organization(ctx, org)
	if errors.Is(err, catalog.ErrNotFound) {
		return missing("organization")
	}
	return err
}

// asking reads which report is wanted, and how.
func (s *Server) asking(_ context.Context, c *call) (a asking, err error) {
	a.call = c
	org, err := c.look()
	if err != nil {
		return a, err
	}
	known := false
	if a.definition, known = reports.Find(reports.Name(c.r.PathValue("report"))); !known {
		return a, missing("report")
	}
	d, p := a.definition, c.principal
	switch {
	case d.Whole && p.Role == events.RoleMember:
		return a, domain.Refuse(domain.ErrForbidden, "", "this report needs role owner, admin or auditor; the key has role %s", p.Role)
	case d.Whole && !p.Scope.AllWorkspaces:
		return a, domain.Refuse(domain.ErrForbidden, "", "this report is of a whole organization; the key's scope is limited to workspaces")
	}
	a.question = reports.Question{
		Report: d.Name, Org: org, Within: c.principal.Scope, Now: events.TimeOf(time.Now()),
	}
	if err := a.parameters(c); err != nil {
		return a, err
	}
	switch a.format = c.query("format"); a.format {
	case "", formatJSON:
		a.format = formatJSON
	case formatCSV, formatHTML:
		for _, name := range []string{"cursor", "limit"} {
			if c.query(name) != "" {
				return a, refuse(errRequest, name, "is of format json alone; as %s a report comes whole", a.format)
			}
		}
	default:
		return a, refuse(errRequest, "format", "must be json, csv or html")
	}
	a.page.Cursor = c.query("cursor")
	a.page.Limit, err = c.limit()
	return a, err
}

// parameters reads what the report is asked with, and refuses what it does not
// take: a filter that does nothing must not look as if it did.
func (a *asking) parameters(c *call) error {
	d, q := a.definition, &a.question
	q.Days = d.Days
	if text := c.query("days"); text != "" {
		n, err := strconv.Atoi(text)
		switch {
		case !d.TakesDays:
			return refuse(errRequest, "days", "the report %s is not asked with a number of days", d.Name)
		case err != nil || n < 0 || n > reports.MaxDays:
			return refuse(errRequest, "days", "must be 0 to %d", reports.MaxDays)
		}
		q.Days = n
	}
	var err error
	if q.From, q.To, err = c.times(); err != nil {
		return err
	}
	switch {
	case !d.TakesPeriod && q.From != 0:
		return refuse(errRequest, "from", "the report %s is of now and takes no period", d.Name)
	case !d.TakesPeriod && q.To != 0:
		return refuse(errRequest, "to", "the report %s is of now and takes no period", d.Name)
	case q.From != 0 && c.query("days") != "":
		return refuse(errRequest, "days", "takes the place of from; give one of them")
	case q.From != 0 && q.To != 0 && q.From >= q.To:
		return domain.Refuse(domain.ErrInvalid, "from", "must lie before to")
	}
	return nil
}

// filename names a report's file: report, organization and day.
func (a *asking) filename() string {
	return fmt.Sprintf("%s-%s-%s.%s", a.definition.Name, a.question.Org, a.question.Now.Std().Format("20060102"), a.format)
}

// head is a report without its rows.
func (s *Server) reportHead(a asking, position, usesPosition events.Position) wire.Report {
	q := a.question
	out := wire.Report{
		Report: string(q.Report), Title: a.definition.Title, Organization: string(q.Org), GeneratedAt: q.Now.Std(),
		Position: s.position(position), Columns: a.definition.Columns, Rows: []map[string]any{},
	}
	if usesPosition != 0 {
		out.UsesPosition = s.cfg.Positions.Format(events.StreamUses, usesPosition)
	}
	switch {
	case a.definition.TakesPeriod:
		from, to := q.Period()
		out.Parameters.From, out.Parameters.To = instant(from), instant(to)
	case a.definition.TakesDays:
		out.Parameters.Days = &q.Days
	}
	return out
}

// rows reads a report, a page of it or without one all of it, as its caller may
// see it.
func (s *Server) rows(ctx context.Context, a asking, page *sqlview.Page, begin func(wire.Report) error, each func([]any) error) (string, error) {
	changes := s.changes(ctx, a.call.principal, false)
	cells := func(r reports.Row) []any {
		if e, ok := r[0].(audit.Event); ok {
			return a.event(changes.show(e), s.about(ctx, a, r[1:]))
		}
		out := make([]any, len(r))
		for i, c := range r {
			out[i] = s.cell(ctx, a, c)
		}
		return out
	}
	head := func(h reports.Head) error { return begin(s.reportHead(a, h.Position, h.UsesPosition)) }
	if page == nil {
		leave, err := s.sent.sit(ctx, a.call.principal.Org)
		if err != nil {
			return "", err
		}
		defer leave()
		return "", s.cfg.Reports.Whole(ctx, a.question, head, func(r reports.Row) error { return each(cells(r)) })
	}
	found, err := s.cfg.Reports.Page(ctx, a.question, *page)
	if err == nil {
		err = head(found.Head)
	}
	for _, r := range found.Rows {
		if err == nil {
			err = each(cells(r))
		}
	}
	return found.Next, err
}

// about shows the name and role of the key that a change is about, where the report
// tells it.
func (s *Server) about(ctx context.Context, a asking, cells []any) map[string]any {
	if len(cells) == 0 {
		return nil
	}
	k, ok := cells[0].(catalog.Key)
	if !ok {
		return nil
	}
	return map[string]any{"name": s.text(ctx, a.call.principal, a.question.Org, k.Name), "key_role": string(k.Role)}
}

// event lays a change out under the columns of the report.
func (a asking) event(c wire.Change, about map[string]any) []any {
	out := make([]any, len(a.definition.Columns))
	for i, column := range a.definition.Columns {
		switch column {
		case "position":
			out[i] = c.Position
		case "stored_at":
			out[i] = &c.StoredAt
		case "claimed_at":
			out[i] = &c.ClaimedAt
		case "type":
			out[i] = c.Type
		case "aggregate":
			out[i] = c.Aggregate
		case "id":
			out[i] = c.ID
		case "revision":
			out[i] = c.Revision
		case "actor":
			out[i] = c.Actor
		case "actor_name":
			out[i] = c.ActorName
		case "role":
			out[i] = c.Role
		case "scope":
			out[i] = c.Scope
		case "reason":
			out[i] = c.Reason
		case "ticket":
			out[i] = c.Ticket
		case "request_id":
			out[i] = c.RequestID
		case "changes":
			out[i] = c.Changes
		default:
			out[i] = about[column]
		}
	}
	return out
}

// cell shows a cell to the caller.
func (s *Server) cell(ctx context.Context, a asking, v any) any {
	switch v := v.(type) {
	case events.Text:
		return s.text(ctx, a.call.principal, a.question.Org, v)
	case reports.KeyName:
		// Who acts in an organization may be of the installation, whose keys are
		// not for everybody to see.
		if p := a.call.principal; !p.MayLook(v.Org) || !p.Covers(v.Scope) {
			return ""
		}
		return s.text(ctx, a.call.principal, v.Org, v.Text)
	case reports.Source:
		return s.useText(ctx, a.call.principal, v.Org, v.Text)
	case events.Time:
		return instant(v)
	case []string:
		if v == nil {
			return []string{}
		}
		return v
	default:
		return v
	}
}

func (s *Server) reportCSV(ctx context.Context, a asking, to io.Writer) error {
	var sheet *csvSheet
	_, err := s.rows(ctx, a, nil, func(h wire.Report) error {
		var err error
		sheet, err = newCSV(to, "report", headText(h), h.Columns)
		return err
	}, func(cells []any) error { return sheet.row(cells) })
	if err != nil {
		return err
	}
	return sheet.end()
}

// headText is where a report stands, on one line.
func headText(h wire.Report) string {
	parts := []string{h.Report, "organization=" + h.Organization, "generated_at=" + h.GeneratedAt.Format(time.RFC3339), "position=" + h.Position}
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+"="+value)
		}
	}
	add("uses_position", h.UsesPosition)
	if h.Parameters.Days != nil {
		add("days", strconv.Itoa(*h.Parameters.Days))
	}
	add("from", cellText(h.Parameters.From))
	add("to", cellText(h.Parameters.To))
	return strings.Join(parts, " ")
}
