package api_test

import (
	"encoding/csv"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/projections/reports"
)

const reportsBase = "/v1/organizations/acme/audit/reports/"

// named makes a key of a name, and returns it.
func named(t testing.TB, s *apitest.Server, name, more string) wire.Created {
	t.Helper()
	return as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys",
		`{"name":`+quoted(name)+`,"permissions":["interview:read"],"scope":{"all_workspaces":true}`+more+`}`))
}

func quoted(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\t", `\t`).Replace(text) + `"`
}

// sheet reads a report in CSV: its first line, its rows by column, and its last line.
func sheet(t testing.TB, body string) (head string, rows []map[string]string, end string) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(body, "\r\n"), "\r\n")
	head, end = lines[0], lines[len(lines)-1]
	r := csv.NewReader(strings.NewReader(strings.Join(lines[1:len(lines)-1], "\r\n")))
	columns, err := r.Read()
	if err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	for {
		line, err := r.Read()
		if err == io.EOF {
			return head, rows, end
		}
		if err != nil {
			t.Fatalf("%v in %q", err, body)
		}
		row := map[string]string{}
		for i, c := range line {
			row[columns[i]] = c
		}
		rows = append(rows, row)
	}
}

func TestReportInEveryFormat(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	first := named(t, s, "Zapier", `,"metadata":{"owner":"team-a"},"expires_in":"90d"`)
	second := named(t, s, "cron", "")

	got := as[wire.Report](t, s.Must(200, s.Owner, "GET", reportsBase+"access-review", ""))
	if got.Report != "access-review" || got.Title != "Access review" || got.Organization != "acme" || got.Position != second.Position ||
		got.GeneratedAt.IsZero() || got.NextCursor != "" || len(got.Rows) != 2 {
		t.Fatalf("%+v", got)
	}
	for _, r := range got.Rows {
		if names := slices.Sorted(maps.Keys(r)); len(names) != len(got.Columns) {
			t.Errorf("a row has %v, the columns are %v", names, got.Columns)
		}
	}
	row := got.Rows[0]
	for name, want := range map[string]any{
		"key_id": first.Key.ID, "name": "Zapier", "kind": "api", "owner": "team-a", "status": "ACTIVE", "level": "restricted",
		"created_by_name": "owner", "age_days": 0.0, "last_used_at": nil, "masked": first.Key.Masked, "profile": "",
	} {
		if row[name] != want {
			t.Errorf("%s is %#v, want %#v", name, row[name], want)
		}
	}
	if grants, ok := row["grants"].([]any); !ok || len(grants) != 1 || grants[0] != "interview:read" {
		t.Errorf("grants: %v", row["grants"])
	}
	if row["expires_at"] == nil || got.Rows[1]["expires_at"] != nil {
		t.Errorf("expiries: %v, %v", row["expires_at"], got.Rows[1]["expires_at"])
	}

	page := as[wire.Report](t, s.Must(200, s.Owner, "GET", reportsBase+"access-review?limit=1", ""))
	if len(page.Rows) != 1 || page.NextCursor == "" {
		t.Fatalf("%+v", page)
	}
	page = as[wire.Report](t, s.Must(200, s.Owner, "GET", reportsBase+"access-review?limit=1&cursor="+page.NextCursor, ""))
	if len(page.Rows) != 1 || page.NextCursor != "" || page.Rows[0]["key_id"] != second.Key.ID {
		t.Fatalf("%+v", page)
	}

	a := s.Must(200, s.Owner, "GET", reportsBase+"access-review?format=csv", "")
	head, rows, end := sheet(t, a.Body)
	if !strings.HasPrefix(head, "# keyledger report access-review organization=acme generated_at=") ||
		!strings.Contains(head, " position="+second.Position) || end != "# end of report: 2 rows" {
		t.Errorf("head %q, end %q", head, end)
	}
	if len(rows) != 2 || rows[0]["key_id"] != first.Key.ID || rows[0]["workspaces"] != "*" || rows[1]["expires_at"] != "" {
		t.Errorf("%v", rows)
	}
	if got := a.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/csv") {
		t.Error(got)
	}
	if got := a.Header.Get("Content-Disposition"); !strings.HasPrefix(got, `attachment; filename="access-review-acme-`) {
		t.Error(got)
	}

	a = s.Must(200, s.Owner, "GET", reportsBase+"access-review?format=html", "")
	for _, want := range []string{"<title>Access review · acme</title>", second.Position, `<div class="name">Zapier</div>`, "2 rows. This is all of it.", "</html>"} {
		if !strings.Contains(a.Body, want) {
			t.Errorf("no %q in %s", want, a.Body)
		}
	}
	if a.Header.Get("Content-Security-Policy") != "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'" {
		t.Error(a.Header)
	}
	for _, alien := range []string{"src=", "href=", "@import", "url("} {
		if strings.Contains(a.Body, alien) {
			t.Errorf("the page asks for something: %s", alien)
		}
	}
}

// What was changed, as the audit log tells it, under the columns of a report.
func TestReportsOfChanges(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	k := named(t, s, "Zapier", "")
	s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme/keys/"+k.Key.ID, `{"name":"Zapier 2","reason":"=why"}`, "Keyledger-Ticket", "SEC-42")
	managementKey(t, s, "acme", "admin", everywhere)

	got := as[wire.Report](t, s.Must(200, s.Owner, "GET", reportsBase+"changes", ""))
	// The organization, two workspaces, the catalog, a profile, and three of keys.
	if len(got.Rows) != 8 || got.UsesPosition != "" || got.Parameters.From == nil || got.Parameters.To != nil || got.Parameters.Days != nil {
		t.Fatalf("%+v", got)
	}
	row := got.Rows[6]
	for name, want := range map[string]any{
		"type": "key.renamed", "aggregate": "key", "id": k.Key.ID, "revision": 2.0, "actor_name": "owner", "role": "owner", "scope": "*",
		"reason": "=why", "ticket": "SEC-42",
	} {
		if row[name] != want {
			t.Errorf("%s is %#v, want %#v", name, row[name], want)
		}
	}
	if d := cmp.Diff([]any{map[string]any{"field": "name", "before": "Zapier", "after": "Zapier 2"}}, row["changes"]); d != "" {
		t.Error(d)
	}
	if row["position"] != got.Rows[6]["position"] || got.Position != got.Rows[7]["position"] {
		t.Errorf("it stands at %s, its last row at %s", got.Position, got.Rows[7]["position"])
	}
	var paged []map[string]any
	for next := ""; ; {
		page := as[wire.Report](t, s.Must(200, s.Owner, "GET", reportsBase+"changes?limit=3"+next, ""))
		if paged = append(paged, page.Rows...); page.NextCursor == "" {
			break
		}
		next = "&cursor=" + page.NextCursor
	}
	if d := cmp.Diff(got.Rows, paged); d != "" {
		t.Errorf("whole (-), page by page (+):\n%s", d)
	}
	_, rows, _ := sheet(t, s.Must(200, s.Owner, "GET", reportsBase+"changes?format=csv", "").Body)
	if len(rows) != 8 || rows[6]["reason"] != "'=why" || rows[6]["changes"] != `[{"field":"name","before":"Zapier","after":"Zapier 2"}]` {
		t.Errorf("%v", rows)
	}
	if page := s.Must(200, s.Owner, "GET", reportsBase+"changes?format=html", "").Body; !strings.Contains(page, `<div class="change">name: Zapier → Zapier 2</div>`) {
		t.Error(page)
	}
	if got := as[wire.Report](t, s.Must(200, s.Owner, "GET", reportsBase+"changes?to="+got.Parameters.From.Format("2006-01-02T15:04:05Z"), "")); len(got.Rows) != 0 {
		t.Errorf("long ago: %+v", got.Rows)
	}
	got = as[wire.Report](t, s.Must(200, s.Owner, "GET", reportsBase+"management-changes", ""))
	if len(got.Rows) != 1 || got.Rows[0]["type"] != "key.created" || got.Rows[0]["name"] != "admin" || got.Rows[0]["key_role"] != "admin" ||
		got.Parameters.From != nil {
		t.Errorf("%+v", got)
	}
}

// What was refused shows by key and source, and of strangers to the installation.
func TestReportOfFailures(t *testing.T) {
	s := apitest.Start(t, func(c *api.Config) { c.RecordClientIP = true })
	furnish(s, "acme")
	k := named(t, s, "Zapier", "")
	for range 3 {
		s.Must(200, s.Owner, "POST", "/v1/verify", `{"secret":"`+k.Secret+`","permission":"interview:start","context":{"client_ip":"192.0.2.7"}}`)
	}
	var got wire.Report
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		got = as[wire.Report](t, s.Must(200, s.Owner, "GET", reportsBase+"failed-verifications", ""))
		if len(got.Rows) == 1 && got.Rows[0]["count"] == 3.0 {
			break
		}
	}
	if len(got.Rows) != 1 || got.UsesPosition == "" {
		t.Fatalf("%+v", got)
	}
	for name, want := range map[string]any{
		"what": "key", "key_id": k.Key.ID, "name": "Zapier", "code": "INSUFFICIENT_PERMISSIONS", "source_kind": "client_ip", "source": "192.0.2.7", "count": 3.0,
	} {
		if got.Rows[0][name] != want {
			t.Errorf("%s is %v, want %v", name, got.Rows[0][name], want)
		}
	}
}

// What is sealed is shown to those who may see it, and taken away by nobody.
func TestReportsOfWhatIsSealed(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme", `{"policy":{"sealing":"on"}}`)
	k := named(t, s, "Alice's script", `,"metadata":{"owner":"Alice"},"data_subject":"user-1"`)
	s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme/keys/"+k.Key.ID, `{"name":"Alice's other script","reason":"Alice asked"}`)
	member := managementKey(t, s, "acme", "member", everywhere)
	auditor := managementKey(t, s, "acme", "auditor", everywhere)
	said := func(key, query string) string { return s.Must(200, key, "GET", reportsBase+query, "").Body }
	for _, query := range []string{"access-review", "access-review?format=csv", "access-review?format=html", "changes", "changes?format=csv", "changes?format=html"} {
		if got := said(auditor, query); !strings.Contains(got, "Alice") || strings.Contains(got, "(sealed)") {
			t.Errorf("an auditor does not see what is sealed in %s: %s", query, got)
		}
		if got := said(member, query); strings.Contains(got, "Alice") || !strings.Contains(got, "(sealed)") {
			t.Errorf("a member sees what is sealed in %s: %s", query, got)
		}
	}
	for _, query := range []string{"", "?format=csv"} {
		if got := s.Must(200, auditor, "GET", exportPath+query, "").Body; strings.Contains(got, "Alice") || !strings.Contains(got, "sealed") {
			t.Errorf("an export holds what is sealed: %s", got)
		}
	}
	s.Must(200, s.Owner, "POST", "/v1/organizations/acme/audit/erase", `{"subject":"user-1"}`)
	for _, query := range []string{"access-review", "changes", "changes?format=html"} {
		if got := said(auditor, query); strings.Contains(got, "Alice") || !strings.Contains(got, "(erased)") {
			t.Errorf("what was erased is in %s: %s", query, got)
		}
	}
}

// What stands in a name must run neither in a spreadsheet nor in a browser.
func TestReportsRunNothing(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	formulas := []string{
		`=HYPERLINK("https://evil.example","click")`, `+1+1`, `-2+3`, `@SUM(1)`, `＝1+1`, `# end of report: 0 rows`, "=1+1\",\"x",
	}
	for _, f := range formulas {
		named(t, s, f, "")
	}
	named(t, s, `<script>alert(1)</script>`, "")
	_, rows, end := sheet(t, s.Must(200, s.Owner, "GET", reportsBase+"access-review?format=csv", "").Body)
	if len(rows) != len(formulas)+1 || end != "# end of report: 8 rows" {
		t.Fatalf("%d rows, %s", len(rows), end)
	}
	for i, f := range formulas {
		if rows[i]["name"] != "'"+f {
			t.Errorf("%q is written as %q", f, rows[i]["name"])
		}
	}
	for _, row := range rows {
		for name, cell := range row {
			if strings.ContainsAny(cell[:min(1, len(cell))], "=+-@\t\r\n") {
				t.Errorf("%s begins like a formula: %q", name, cell)
			}
		}
	}
	page := s.Must(200, s.Owner, "GET", reportsBase+"access-review?format=html", "").Body
	if strings.Contains(page, "<script") || !strings.Contains(page, "&lt;script&gt;") {
		t.Error("a name is part of the page")
	}
}

func TestReportsRefuse(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	for query, want := range map[string]string{
		"access-review?days=3":                    "invalid_request days",
		"access-review?from=2026-01-01T00:00:00Z": "invalid_request from",
		"never-expires?to=2026-01-01T00:00:00Z":   "invalid_request to",
		"dormant?days=-1":                         "invalid_request days",
		"dormant?days=x":                          "invalid_request days",
		"dormant?days=36501":                      "invalid_request days",
		"dormant?format=pdf":                      "invalid_request format",
		"dormant?format=csv&limit=3":              "invalid_request limit",
		"dormant?format=html&cursor=x":            "invalid_request cursor",
		"dormant?cursor=x":                        "invalid_cursor ",
		"dormant?limit=201":                       "invalid_request limit",
		"dormant?status=all":                      "invalid_request status",
		"everything":                              "not_found ",
	} {
		a := s.Do(s.Owner, "GET", reportsBase+query, "")
		p := as[wire.Problem](t, a)
		if got := p.Code + " " + p.Field; got != want {
			t.Errorf("%s: %s, want %s (%s)", query, got, want, p.Detail)
		}
	}
	s.Must(404, s.Owner, "GET", "/v1/organizations/nowhere/audit/reports/dormant", "")
	s.Must(200, s.Owner, "GET", "/v1/organizations/_system/audit/reports/access-review", "")
	s.Must(200, s.Owner, "HEAD", reportsBase+"dormant?format=csv", "")
}

// TestReportsWalls asks as those who may see all, some and nothing.
func TestReportsWalls(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "other")
	named(t, s, "everywhere", "")
	hiring := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys",
		`{"name":"hiring","permissions":["interview:read"],"scope":{"workspaces":["hiring"]}}`))
	stranger := managementKey(t, s, "other", "owner", everywhere)
	verifier := managementKey(t, s, "acme", "verifier", everywhere)
	member := managementKey(t, s, "acme", "member", everywhere)
	auditor := managementKey(t, s, "acme", "auditor", everywhere)
	scoped := managementKey(t, s, "acme", "admin", `{"workspaces":["hiring"]}`)
	for _, d := range reports.Definitions() {
		for _, format := range []string{"json", "csv", "html"} {
			path := reportsBase + string(d.Name) + "?format=" + format
			s.Must(404, stranger, "GET", path, "")
			s.Must(403, verifier, "GET", path, "")
			s.Must(401, "", "GET", path, "")
			partly := 200
			if d.Whole {
				partly = 403
			}
			s.Must(partly, member, "GET", path, "")
			s.Must(partly, scoped, "GET", path, "")
			s.Must(200, auditor, "GET", path, "")
		}
	}
	got := as[wire.Report](t, s.Must(200, scoped, "GET", reportsBase+"access-review", ""))
	var ids []any
	for _, r := range got.Rows {
		ids = append(ids, r["key_id"])
	}
	// Its own key lies within its scope, too.
	if len(ids) != 2 || ids[0] != hiring.Key.ID {
		t.Errorf("in hiring: %v", ids)
	}
	// Whose key of the installation it was is not for the organization to see.
	for _, r := range got.Rows {
		if r["created_by_name"] != "" || !strings.HasPrefix(r["created_by"].(string), "key/_system/") {
			t.Errorf("created by %v, %v", r["created_by"], r["created_by_name"])
		}
	}
}
