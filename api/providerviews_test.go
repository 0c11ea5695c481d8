package api_test

import (
	"strings"
	"testing"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
)

const providerReport = reportsBase + "provider-keys"

// The report of provider keys says how old a secret is and who gave it, in every
// format, and nothing of the secret.
func TestReportOfProviderKeys(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	if got := as[wire.Report](t, s.Must(200, s.Owner, "GET", providerReport, "")); len(got.Rows) != 0 || got.UsesPosition != "" {
		t.Fatalf("%+v", got)
	}
	connect(s, "acme")
	s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme/provider-keys/openai", `{"name":"Research"}`)
	resolver := managementKey(t, s, "acme", "resolver", everywhere)
	s.Must(200, resolver, "POST", "/v1/organizations/acme/provider-keys/resolve", `{"provider":"openai"}`)
	s.Must(403, resolver, "GET", providerReport, "")

	auditor := managementKey(t, s, "acme", "auditor", everywhere)
	a := s.Must(200, auditor, "GET", providerReport, "")
	got := as[wire.Report](t, a)
	if len(got.Rows) != 1 || len(got.Rows[0]) != len(got.Columns) {
		t.Fatalf("%+v", got)
	}
	for name, want := range map[string]any{
		"provider": "openai", "name": "Research", "state": "untested", "version": 1.0, "secret_age_days": 0.0, "last_test_result": "", "last_test_at": nil,
		"replaced_at": nil, "base_url": "",
	} {
		if got.Rows[0][name] != want {
			t.Errorf("%s is %#v, want %#v", name, got.Rows[0][name], want)
		}
	}
	csv := s.Must(200, auditor, "GET", providerReport+"?format=csv", "")
	if _, rows, end := sheet(t, csv.Body); len(rows) != 1 || rows[0]["provider"] != "openai" || end != "# end of report: 1 rows" {
		t.Errorf("%v, %q", rows, end)
	}
	page := s.Must(200, auditor, "GET", providerReport+"?format=html", "")
	if !strings.Contains(page.Body, "Research") || !strings.Contains(page.Body, "untested") {
		t.Error(page.Body)
	}
	for _, body := range []string{a.Body, csv.Body, page.Body} {
		if strings.Contains(body, openAIKey[len(openAIKey)-4:]) || strings.Contains(body, "sealed") {
			t.Errorf("something of the secret is in %s", body)
		}
	}
	// Who may resolve stands in the review of keys.
	may := 0
	for _, r := range as[wire.Report](t, s.Must(200, auditor, "GET", reportsBase+"access-review", "")).Rows {
		if r["may_resolve"] == true {
			may++
			if r["role"] != "resolver" {
				t.Errorf("%v", r)
			}
		}
	}
	if may != 1 {
		t.Errorf("%d may resolve", may)
	}
}

// Where an organization has its texts sealed a provider key's name is sealed too, and
// comes open to whom such texts are shown. Its secret stays as it is stored.
func TestSealedNamesOfProviderKeys(t *testing.T) {
	const name = "Desk of Alice"
	s := apitest.Start(t)
	furnish(s, "acme")
	s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme", `{"policy":{"sealing":"on"}}`)
	connect(s, "acme")
	s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme/provider-keys/openai", `{"name":"`+name+`"}`)
	member, auditor := managementKey(t, s, "acme", "member", everywhere), managementKey(t, s, "acme", "auditor", everywhere)
	if e := stream(t, s, auditor, "?after=0&types=provider_key.renamed")(); !strings.Contains(e["data"], name) || strings.Contains(e["data"], `"sealed"`) {
		t.Error(e["data"])
	}
	if e := stream(t, s, member, "?after=0&types=provider_key.renamed")(); strings.Contains(e["data"], name) || !strings.Contains(e["data"], `"sealed"`) {
		t.Error(e["data"])
	}
	if e := stream(t, s, auditor, "?after=0&types=provider_key.added")(); !strings.Contains(e["data"], `"sealed":{"data_key":"`) || strings.Contains(e["data"], openAIKey) {
		t.Error(e["data"])
	}
	const log = "/v1/organizations/acme/audit/events?type=provider_key.renamed"
	if a := s.Must(200, auditor, "GET", log, ""); !strings.Contains(a.Body, name) {
		t.Error(a.Body)
	}
	if a := s.Must(200, member, "GET", log, ""); strings.Contains(a.Body, name) {
		t.Error(a.Body)
	}
	if a := s.Must(200, auditor, "GET", providerReport, ""); !strings.Contains(a.Body, name) {
		t.Error(a.Body)
	}
}
