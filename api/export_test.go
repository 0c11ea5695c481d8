package api_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
)

const exportPath = "/v1/organizations/acme/audit/export"

// exportedLines reads an export line by line.
func exportedLines(t testing.TB, body string) []wire.ExportedEvent {
	t.Helper()
	var out []wire.ExportedEvent
	for line := range strings.Lines(body) {
		var e wire.ExportedEvent
		if err := json.Unmarshal([]byte(line), &e, json.RejectUnknownMembers(true)); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		out = append(out, e)
	}
	return out
}

func TestExport(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "other")
	furnish(s, "acme")
	k := named(t, s, "Zapier", "")
	s.Must(200, s.Owner, "POST", "/v1/organizations/acme/keys/"+k.Key.ID+"/revoke", `{"reason":"=leaked"}`)

	a := s.Must(200, s.Owner, "GET", exportPath, "")
	lines := exportedLines(t, a.Body)
	// The organization, two workspaces, the catalog, a profile, the key, its end.
	if len(lines) != 7 || lines[0].Type != "organization.created" || lines[6].Type != "key.revoked" {
		t.Fatalf("%d lines: %s", len(lines), a.Body)
	}
	if at := a.Header.Get("Keyledger-Position"); at != lines[6].Position {
		t.Errorf("it stands at %s, the last line at %s", at, lines[6].Position)
	}
	// Every document is the stored one, byte for byte.
	stored := map[string]string{}
	last, err := s.Ledger.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	read := errors.New("read")
	err = s.Ledger.Follow(t.Context(), 0, func(facts []events.Recorded) error {
		for _, r := range facts {
			stored[s.Positions.Format(events.StreamLedger, r.Position)] = string(r.Raw)
			if r.Position == last {
				return read
			}
		}
		return nil
	})
	if !errors.Is(err, read) {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSuffix(a.Body, "\n"), "\n") {
		if !strings.HasSuffix(line, `,"event":`+stored[lines[i].Position]+`}`) {
			t.Errorf("line %d is not what is stored", i+1)
		}
	}

	if all := exportedLines(t, s.Must(200, s.Owner, "GET", exportPath+"?after=0", "").Body); len(all) != len(lines) {
		t.Errorf("after the beginning there are %d lines", len(all))
	}
	rest := exportedLines(t, s.Must(200, s.Owner, "GET", exportPath+"?after="+lines[4].Position, "").Body)
	if len(rest) != 2 || rest[0].Position != lines[5].Position {
		t.Errorf("after the fifth: %+v", rest)
	}
	if got := s.Must(200, s.Owner, "GET", exportPath+"?to=2020-01-01T00:00:00Z", "").Body; got != "" {
		t.Errorf("before its beginning: %s", got)
	}
	all := exportedLines(t, s.Must(200, s.Owner, "GET", "/v1/organizations/_system/audit/export?all=true", "").Body)
	if len(all) != int(last) {
		t.Errorf("%d of %d events of all organizations", len(all), last)
	}

	head, rows, end := sheet(t, s.Must(200, s.Owner, "GET", exportPath+"?format=csv", "").Body)
	if !strings.HasPrefix(head, "# keyledger export changes organization=acme ") || end != "# end of export: 7 rows" || len(rows) != 7 {
		t.Errorf("%s, %d rows, %s", head, len(rows), end)
	}
	if row := rows[6]; row["type"] != "key.revoked" || row["reason"] != "'=leaked" || row["id"] != k.Key.ID || row["position"] != lines[6].Position {
		t.Errorf("%v", row)
	}
}

// A document with line breaks between its members, which ours have none of, is one
// line all the same.
func TestExportOfLineBreaks(t *testing.T) {
	s := apitest.Start(t)
	subject := events.OrganizationSubject("planted")
	id := func(n byte) (v [16]byte) { v[6], v[8], v[15] = 0x70, 0x80, n; return v }
	body, err := events.Encode(subject, events.OrganizationCreated{ID: "planted", Plan: events.PlanGrowth}, events.Meta{
		ID: id(1), Ledger: s.Positions.Ledger, Time: events.TimeOf(time.Now()), RecordedTime: events.TimeOf(time.Now()), Revision: 1,
		Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: id(2),
	})
	if err != nil {
		t.Fatal(err)
	}
	indented := jsontext.Value(bytes.Clone(body))
	if err := indented.Indent(); err != nil {
		t.Fatal(err)
	}
	pos := s.Ledger.(*memory.Ledger).Plant(subject.String(), indented)
	if err := s.Config.WaitForAudit(t.Context(), pos); err != nil {
		t.Fatal(err)
	}
	if err := s.Config.WaitForCatalog(t.Context(), pos); err != nil {
		t.Fatal(err)
	}
	got := s.Must(200, s.Owner, "GET", "/v1/organizations/planted/audit/export", "").Body
	if lines := exportedLines(t, got); len(lines) != 1 || lines[0].Type != "organization.created" || !strings.HasSuffix(got, `,"event":`+string(body)+"}\n") {
		t.Errorf("%q", got)
	}
}

// What was recorded outlives the organization.
func TestReportsOfAnEndedOrganization(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	s.Must(200, s.Owner, "DELETE", "/v1/organizations/acme", "")
	lines := exportedLines(t, s.Must(200, s.Owner, "GET", exportPath, "").Body)
	if last := lines[len(lines)-1]; last.Type != "organization.deleted" {
		t.Errorf("the last event is %+v", last)
	}
	got := as[wire.Report](t, s.Must(200, s.Owner, "GET", reportsBase+"changes", ""))
	if len(got.Rows) != len(lines) {
		t.Errorf("%d changes, %d exported", len(got.Rows), len(lines))
	}
}

func TestExportRefuses(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "other")
	for query, want := range map[string]string{
		"?format=json": "invalid_request format", "?from=yesterday": "invalid_request from", "?all=true": "invalid_request all",
		"?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z": "invalid_value from", "?after=7": "invalid_position after",
		"?limit=3": "invalid_request limit",
	} {
		if p := as[wire.Problem](t, s.Do(s.Owner, "GET", exportPath+query, "")); p.Code+" "+p.Field != want {
			t.Errorf("%s: %s %s, want %s", query, p.Code, p.Field, want)
		}
	}
	for role, want := range map[string]int{"owner": 200, "admin": 200, "auditor": 200, "member": 403, "verifier": 403} {
		s.Must(want, managementKey(t, s, "acme", role, everywhere), "GET", exportPath, "")
		s.Must(404, managementKey(t, s, "other", role, everywhere), "GET", exportPath, "")
	}
	s.Must(403, managementKey(t, s, "acme", "admin", `{"workspaces":["hiring"]}`), "GET", exportPath, "")
	s.Must(401, "", "GET", exportPath, "")
}
