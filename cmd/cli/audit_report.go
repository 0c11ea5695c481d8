package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/projections/reports"
)

func (a *app) auditReportCommand() *cobra.Command {
	var (
		days       int
		from, till string
	)
	c := &cobra.Command{
		Use: "report [NAME]", Short: "Show a report, such as access-review or dormant", Args: takes("[NAME]"),
		Long: `Show a report as of now, with the position of the ledger that it stands at.
Without a name, show which reports there are.

A table shows what matters most; -o json and -o csv have every column. -o html is
a page to print and to sign. With csv and html a report comes whole, however long
it is.`,
		Example: `  keyledger audit report access-review -o csv > review.csv
  keyledger audit report dormant --days 30
  keyledger audit report changes --from 2026-10-01 --to 2026-11-01 \
    -o html > october.html`,
		Annotations: map[string]string{showsPages: ""},
	}
	f := c.Flags()
	f.IntVar(&days, "days", 0, "how many `days` a key or a permission was not used, or a key is old at least; or how long the period is")
	f.StringVar(&from, "from", "", "beginning of the period: `time` or day")
	f.StringVar(&till, "to", "", "end of the period, which is not in it: `time` or day")
	page := pageFlags(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return a.reportNames()
		}
		d, err := findReport(args[0])
		if err != nil {
			return err
		}
		q := client.ReportQuestion{}
		if f.Changed("days") {
			q.Days = &days
		}
		if q.From, q.To, err = periodOf(from, till); err != nil {
			return err
		}
		whole := a.out.format == formatCSV || a.out.format == formatHTML
		if whole && (f.Changed("limit") || f.Changed("cursor")) {
			return usage("as "+a.out.format+" a report comes whole; --limit and --cursor are for tables and json", "")
		}
		s, org, err := a.openOrg(cmd)
		if err != nil {
			return err
		}
		if whole {
			return s.ReportFile(cmd.Context(), org, args[0], a.out.format, q, a.out.out)
		}
		report, err := collectReport(page, func(p client.Page) (wire.Report, error) {
			q.Page = p
			return s.Report(cmd.Context(), org, args[0], q)
		})
		if err != nil {
			return err
		}
		return a.showReport(d, report)
	}
	return c
}

// periodOf reads the flags of a period.
func periodOf(from, to string) (begin, end time.Time, err error) {
	if from != "" {
		if begin, err = instant("from", from); err != nil {
			return begin, end, err
		}
	}
	if to != "" {
		end, err = instant("to", to)
	}
	return begin, end, err
}

// findReport finds a report by its name.
func findReport(name string) (reports.Definition, error) {
	d, ok := reports.Find(reports.Name(name))
	if ok {
		return d, nil
	}
	var names []string
	for _, d := range reports.Definitions() {
		names = append(names, string(d.Name))
	}
	hint := "There are " + strings.Join(names, ", ") + "."
	if near, ok := permission.Nearest(name, names); ok {
		hint = "Did you mean " + near + "?"
	}
	return d, usage(fmt.Sprintf("there is no report %q", name), "%s", hint)
}

func (a *app) reportNames() error {
	type named struct {
		Name  string `json:"name"`
		Title string `json:"title"`
		About string `json:"about"`
		Not   string `json:"not"`
	}
	var list []named
	g := grid{head: []string{"NAME", "WHAT IT SHOWS"}, whole: map[string]bool{"NAME": true}, folded: map[string]bool{"WHAT IT SHOWS": true}}
	for _, d := range reports.Definitions() {
		list = append(list, named{string(d.Name), d.Title, d.About, d.Not})
		g.add(string(d.Name), string(d.Name), d.About)
	}
	return a.out.list(list, g)
}

// collectReport asks for pages until there are as many rows as were asked for. It
// stands where its first page does: later ones may know more.
func collectReport(p *page, ask func(client.Page) (wire.Report, error)) (wire.Report, error) {
	var first wire.Report
	rows, err := collect(p, func(q client.Page) (wire.List[map[string]any], error) {
		got, err := ask(q)
		if first.Report == "" {
			first = got
		}
		return wire.List[map[string]any]{Items: got.Rows, NextCursor: got.NextCursor}, err
	})
	first.Rows, first.NextCursor = rows.Items, rows.NextCursor
	return first, err
}

// reportTables are the columns of a report that a table shows.
var reportTables = map[reports.Name][]string{
	reports.AccessReview: {"key_id", "name", "owner", "role", "status", "level", "grants", "workspaces", "age_days", "last_used_at", "expires_at"},
	reports.Dormant:      {"key_id", "name", "owner", "status", "created_at", "last_used_at", "unused_days", "last_seen_code"},
	reports.NeverExpires: {"key_id", "name", "owner", "status", "level", "grants", "workspaces", "age_days", "last_used_at"},
	reports.RotationAge:  {"key_id", "name", "owner", "status", "age_days", "rotation_due_at", "overdue_days", "last_used_at"},
	reports.OverWide:     {"key_id", "name", "owner", "level", "granted", "used", "unused", "last_used_at"},
	reports.Changes:      {"stored_at", "type", "id", "actor_name", "role", "changes", "reason", "ticket"},
	reports.FailedVerifications: {
		"what", "key_id", "name", "code", "source", "count", "first_at", "last_at",
	},
	reports.ProviderKeys:      {"provider", "name", "state", "version", "secret_age_days", "last_test_result", "last_test_at", "last_resolved_at"},
	reports.ManagementChanges: {"stored_at", "type", "id", "name", "key_role", "actor_name", "changes", "reason", "ticket"},
}

// showReport prints a report.
func (a *app) showReport(d reports.Definition, r wire.Report) error {
	switch a.out.format {
	case formatJSON:
		return a.out.json(r)
	case formatTable:
		if err := a.out.say("%s of %s, made %s at position %s\n", a.out.bold(r.Title), plain(r.Organization), at(r.GeneratedAt), plain(r.Position)); err != nil {
			return err
		}
	}
	columns := reportTables[d.Name]
	g := grid{none: "There is nothing to show.", whole: map[string]bool{}, folded: map[string]bool{}}
	for _, c := range columns {
		head := strings.ToUpper(strings.ReplaceAll(c, "_", " "))
		g.head = append(g.head, head)
		switch c {
		case "key_id", "id", "provider", "status", "last_test_at", "last_resolved_at", "last_used_at", "created_at", "stored_at":
			g.whole[head] = true
		case "grants", "workspaces", "used", "unused", "changes", "reason", "source":
			g.folded[head] = true
		}
	}
	for _, row := range r.Rows {
		cells := make([]string, len(columns))
		for i, c := range columns {
			cells[i] = reportCell(row[c])
			if c == "changes" {
				cells[i] = rowChangeText(row)
			}
			if t, err := time.Parse(time.RFC3339Nano, cells[i]); err == nil && strings.HasSuffix(c, "_at") {
				cells[i] = t.UTC().Format(time.DateTime)
			}
		}
		g.add(reportCell(row[r.Columns[0]]), cells...)
	}
	return a.listed(r, r.NextCursor, g)
}

// reportCell writes a cell of a report, as JSON brought it.
func reportCell(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case bool:
		return map[bool]string{true: "yes"}[v]
	case []any:
		words := make([]string, len(v))
		for i, w := range v {
			words[i] = reportCell(w)
		}
		return strings.Join(words, ", ")
	default:
		return valueText("", v)
	}
}

// rowChangeText says what a row of a report tells of a change, as the audit log does.
func rowChangeText(row map[string]any) string {
	c := wire.Change{Type: reportCell(row["type"])}
	list, _ := row["changes"].([]any)
	for _, item := range list {
		if f, ok := item.(map[string]any); ok {
			c.Changes = append(c.Changes, wire.FieldChange{Field: reportCell(f["field"]), Before: f["before"], After: f["after"]})
		}
	}
	text := headline(c)
	if moved := movedText(c); moved != "" {
		text += " (" + moved + ")"
	}
	return text
}
