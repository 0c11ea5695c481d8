package api

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/projections/reports"
)

//go:embed report.html
var reportTemplate string

// pagePolicy lets a page have its style and nothing else.
const pagePolicy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

// pageRows bounds a page to print: 10,000 rows are some hundred sheets, and about
// what a browser still lays out.
const pageRows = 10_000

// errPageFull ends a page that has as many rows as it may.
var errPageFull = errors.New("api: page is full")

// pageFact is a line above the table.
type pageFact struct{ Name, Value string }

// pageColumn is a column of the page. It tells several of the report's, one below
// the other: side by side they would not fit on paper.
type pageColumn struct {
	title string
	lines []pageLine
}

// pageLine is one of those, with a word before it where it does not speak for
// itself.
type pageLine struct{ column, label string }

func lines(pairs ...string) []pageLine {
	var out []pageLine
	for _, p := range pairs {
		column, label, _ := strings.Cut(p, "|")
		out = append(out, pageLine{column, label})
	}
	return out
}

// pageColumns are the columns of a report's page. Each of the report's is in one.
var pageColumns = map[reports.Name][]pageColumn{
	reports.AccessReview: {
		{"Key", lines("name", "masked", "key_id", "external_id|external id")},
		{"Owner", lines("owner")},
		{"Kind", lines("kind", "role", "may_resolve|provider keys:")},
		{"Status", lines("status")},
		{"May", lines("level", "grants")},
		{"Where", lines("workspaces", "profile|profile")},
		{"Created", lines("created_at", "age_days|days old:", "created_by_name|by", "created_by")},
		{"Last used", lines("last_used_at", "last_permission")},
		{"Ends", lines("expires_at", "rotation_due_at|rotate by")},
	},
	reports.Dormant: {
		{"Key", lines("name", "masked", "key_id")},
		{"Owner", lines("owner")},
		{"Kind", lines("kind", "role")},
		{"Status", lines("status")},
		{"May", lines("level")},
		{"Where", lines("workspaces")},
		{"Created", lines("created_at", "created_by_name|by", "created_by")},
		{"Last used", lines("last_used_at")},
		{"Days unused", lines("unused_days")},
		{"Last attempt", lines("last_seen_at", "last_seen_code")},
		{"Ends", lines("expires_at")},
	},
	reports.NeverExpires: {
		{"Key", lines("name", "masked", "key_id")},
		{"Owner", lines("owner")},
		{"Kind", lines("kind", "role")},
		{"Status", lines("status")},
		{"May", lines("level", "grants")},
		{"Where", lines("workspaces")},
		{"Created", lines("created_at", "created_by_name|by", "created_by")},
		{"Days old", lines("age_days")},
		{"Last used", lines("last_used_at")},
		{"Rotate by", lines("rotation_due_at")},
	},
	reports.RotationAge: {
		{"Key", lines("name", "masked", "key_id")},
		{"Owner", lines("owner")},
		{"Kind", lines("kind", "role", "imported")},
		{"Status", lines("status")},
		{"Created", lines("created_at", "created_by_name|by", "created_by")},
		{"Days old", lines("age_days")},
		{"Rotated", lines("rotated_from|from", "rotated_to|to")},
		{"Rotate by", lines("rotation_due_at")},
		{"Days overdue", lines("overdue_days")},
		{"Ends", lines("expires_at")},
		{"Last used", lines("last_used_at")},
	},
	reports.OverWide: {
		{"Key", lines("name", "masked", "key_id")},
		{"Owner", lines("owner")},
		{"Status", lines("status")},
		{"May", lines("level", "grants")},
		{"Where", lines("workspaces")},
		{"Created", lines("created_at", "created_by_name|by", "created_by")},
		{"Last used", lines("last_used_at")},
		{"Permissions", lines("granted")},
		{"Used", lines("used")},
		{"Not used", lines("unused")},
	},
	reports.Changes: {
		{"When", lines("stored_at", "claimed_at|claimed", "position")},
		{"What", lines("type")},
		{"Of", lines("aggregate", "id", "revision|revision")},
		{"By", lines("actor_name", "actor", "role|role", "scope|scope")},
		{"From what to what", lines("changes")},
		{"Why", lines("reason", "ticket|ticket", "request_id|request")},
	},
	reports.FailedVerifications: {
		{"What", lines("what")},
		{"Key", lines("name", "masked", "key_id")},
		{"Verdict", lines("code")},
		{"Source", lines("source", "source_kind")},
		{"Count", lines("count")},
		{"First", lines("first_at")},
		{"Last", lines("last_at")},
	},
	reports.ManagementChanges: {
		{"When", lines("stored_at", "claimed_at|claimed", "position")},
		{"What", lines("type")},
		{"Key", lines("name", "key_role|role", "id", "revision|revision")},
		{"By", lines("actor_name", "actor", "role|role", "scope|scope")},
		{"From what to what", lines("changes")},
		{"Why", lines("reason", "ticket|ticket", "request_id|request")},
	},
	reports.ProviderKeys: {
		{"Provider", lines("provider", "name", "base_url")},
		{"State", lines("state")},
		{"Secret", lines("version|version", "replaced_at|replaced")},
		{"Days old", lines("secret_age_days")},
		{"Last test", lines("last_test_result", "missing_models|missing", "last_test_at", "last_test_version|of version")},
		{"Handed out", lines("last_resolved_at")},
		{"Connected", lines("created_at", "created_by_name|by", "created_by")},
	},
}

// pageCell is a cell of the page.
type pageCell struct{ Lines []pageText }

// pageText is a line in it.
type pageText struct{ Class, Label, Text string }

// parseReportPage parses the page.
func parseReportPage() (*template.Template, error) {
	t, err := template.New("report").Parse(reportTemplate)
	if err != nil {
		return nil, fmt.Errorf("api: report's page: %w", err)
	}
	return t, nil
}

// reportPage writes a report as a page to print, which asks for nothing else.
func (s *Server) reportPage(ctx context.Context, a asking, to io.Writer) error {
	count := 0
	place := make(map[string]int, len(a.definition.Columns))
	for i, name := range a.definition.Columns {
		place[name] = i
	}
	columns := pageColumns[a.definition.Name]
	_, err := s.rows(ctx, a, nil, func(h wire.Report) error {
		return s.sheets.ExecuteTemplate(to, "head", a.pageHead(h))
	}, func(cells []any) error {
		if count == pageRows {
			return errPageFull
		}
		count++
		row := make([]pageCell, len(columns))
		for i, column := range columns {
			for _, l := range column.lines {
				row[i].Lines = appendCell(row[i].Lines, l, cells[place[l.column]])
			}
		}
		return s.sheets.ExecuteTemplate(to, "row", row)
	})
	full := errors.Is(err, errPageFull)
	if err != nil && !full {
		return err
	}
	return s.sheets.ExecuteTemplate(to, "foot", pageEnd(count, full))
}

// pageEnd says whether the page has all of the report.
func pageEnd(rows int, full bool) string {
	switch {
	case full:
		return fmt.Sprintf("These are the first %d rows. There are more: as CSV the report comes whole.", rows)
	case rows == 1:
		return "1 row. This is all of it."
	default:
		return fmt.Sprintf("%d rows. This is all of it.", rows)
	}
}

func (a *asking) pageHead(h wire.Report) any {
	facts := []pageFact{
		{"Organization", h.Organization},
		{"Made", pageTime(h.GeneratedAt)},
		{"Position", h.Position},
		{"Position of uses", h.UsesPosition},
	}
	if h.Parameters.Days != nil {
		facts = append(facts, pageFact{"Days", fmt.Sprint(*h.Parameters.Days)})
	}
	if h.Parameters.From != nil {
		facts = append(facts, pageFact{"From", pageTime(*h.Parameters.From)})
	}
	if h.Parameters.To != nil {
		facts = append(facts, pageFact{"To", pageTime(*h.Parameters.To)})
	}
	var columns []string
	for _, c := range pageColumns[a.definition.Name] {
		columns = append(columns, c.title)
	}
	return struct {
		Title, Organization, About, Not string
		Facts                           []pageFact
		Columns                         []string
	}{
		h.Title, h.Organization, a.definition.About, a.definition.Not,
		slices.DeleteFunc(facts, func(f pageFact) bool { return f.Value == "" }), columns,
	}
}

func pageTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// appendCell shows a cell of the report as lines of one of the page; what says
// nothing has none.
func appendCell(out []pageText, l pageLine, v any) []pageText {
	line := pageText{Label: l.label, Class: pageClasses[l.column]}
	switch v := v.(type) {
	case []string:
		for _, word := range v {
			if l.column == "workspaces" && word == "*" {
				word = "all"
			}
			out = append(out, pageText{Class: line.Class, Label: l.label, Text: word})
		}
		return out
	case []wire.FieldChange:
		for _, c := range v {
			out = append(out, pageText{Class: "change", Text: fmt.Sprintf("%s: %s → %s", c.Field, changeText(c.Before), changeText(c.After))})
		}
		return out
	case *time.Time:
		switch {
		case v != nil:
			line.Text = v.UTC().Format(time.DateTime)
		case l.column == "expires_at":
			line.Text = "never"
		}
	case bool:
		if v {
			line.Text = strings.ReplaceAll(l.column, "_", " ")
		}
	case int64:
		// Versions count from 1: this one was not tested.
		if v != 0 || l.column != "last_test_version" {
			line.Text = cellText(v)
		}
	default:
		line.Text = cellText(v)
	}
	if line.Text == "" {
		return out
	}
	return append(out, line)
}

// pageClasses are the styles of what is long and seldom read.
var pageClasses = map[string]string{
	"key_id": "id", "id": "id", "created_by": "id", "actor": "id", "position": "id", "request_id": "id", "rotated_from": "id", "rotated_to": "id",
	"created_at": "at", "last_used_at": "at", "expires_at": "at", "rotation_due_at": "at", "last_seen_at": "at", "stored_at": "at", "first_at": "at",
	"last_at": "at", "last_test_at": "at", "last_resolved_at": "at", "replaced_at": "at", "base_url": "id", "claimed_at": "at small", "name": "name",
}

// changeText shows what a field was or is: a text as it is, and anything else as its
// JSON.
func changeText(v any) string {
	raw, ok := v.(jsontext.Value)
	if !ok {
		if v == nil {
			return "none"
		}
		return cellText(v)
	}
	switch raw.Kind() {
	case 'n':
		return "none"
	case '"':
		var text string
		if json.Unmarshal(raw, &text) == nil {
			return text
		}
	default:
	}
	return string(raw)
}
