package api_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/keystring"
)

// accesses waits until there are access records, and returns those whose kind, code
// and organization it asks for, newest first.
func accesses(t testing.TB, s *apitest.Server, caller, org, query string, enough func([]wire.Access) bool) []wire.Access {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(25 * time.Millisecond) {
		list := as[wire.List[wire.Access]](t, s.Must(200, caller, "GET", "/v1/organizations/"+org+"/audit/access?limit=200"+query, "")).Items
		if enough(list) {
			return list
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s%s: %+v", org, query, list)
		}
	}
}

// some wants any, and counted all that there are of them.
func counted(n uint64) func([]wire.Access) bool {
	return func(list []wire.Access) bool {
		var sum uint64
		for _, a := range list {
			sum += a.Count
		}
		return sum >= n
	}
}

func only(t testing.TB, list []wire.Access) wire.Access {
	t.Helper()
	if len(list) != 1 {
		t.Fatalf("%d rows: %+v", len(list), list)
	}
	return list[0]
}

// Whose the key is that was not taken knows of it; of anything else the installation.
func TestFailedLogins(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "other")
	made := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys",
		`{"name":"ops","kind":"management","role":"admin","scope":{"all_workspaces":true}}`))
	s.Must(200, s.Owner, "POST", "/v1/organizations/acme/keys/"+made.Key.ID+"/revoke", "")
	const path = "/v1/organizations/acme/keys"
	s.Must(401, made.Secret, "GET", path, "", "X-Request-Id", "r-1")
	unknown := strange(t)
	s.Must(401, unknown, "GET", path, "")
	s.Must(401, "nonsense", "GET", path, "")
	s.Must(401, "", "GET", path, "")

	got := only(t, accesses(t, s, s.Owner, "acme", "&kind=login.failed", counted(1)))
	if got.Code != "REVOKED" || got.Actor != "key/acme/"+made.Key.ID || got.ActorName != "ops" || got.Role != "admin" || got.Count != 1 ||
		got.What != "GET /v1/organizations/{org}/keys" || got.RequestID != "r-1" || got.SourceKind != "label" || len(got.Source) != 32 {
		t.Errorf("%+v", got)
	}
	codes := map[string]uint64{}
	for _, a := range accesses(t, s, s.Owner, "_system", "&kind=login.failed", counted(3)) {
		codes[a.Code] += a.Count
		if a.Actor != "" || a.Organization != "_system" || a.Source == "" || strings.Contains(a.Source, "127.0.0.1") {
			t.Errorf("%+v", a)
		}
	}
	accesses(t, s, s.Owner, "_system", "&kind=secret.unknown", func(list []wire.Access) bool { return len(list) == 0 })
	if codes["NOT_FOUND"] != 1 || codes["MALFORMED"] != 1 || codes["MISSING"] != 1 || len(codes) != 3 {
		t.Errorf("%v", codes)
	}
	// Whoever asks what a key is that nobody has tries it like any other.
	nobodys, err := keystring.New(commands.ManagementPrefix, [24]byte{3, 2, 1})
	if err != nil {
		t.Fatal(err)
	}
	s.Must(401, nobodys.Reveal(), "GET", "/v1/whoami", "")
	s.Must(401, "nobodys", "GET", "/v1/whoami", "")
	accesses(t, s, s.Owner, "_system", "&kind=login.failed", counted(4))
	only(t, accesses(t, s, s.Owner, "_system", "&kind=secret.unknown", counted(1)))
	// What the other organization has is its own.
	auditor := managementKey(t, s, "other", "auditor", everywhere)
	accesses(t, s, auditor, "other", "&kind=login.failed", func(list []wire.Access) bool { return len(list) == 0 })
	s.Must(404, auditor, "GET", "/v1/organizations/acme/audit/access", "")
	s.Must(404, auditor, "GET", "/v1/organizations/_system/audit/access?all=true", "")
	// All of it the installation sees at once, and nobody else.
	all := accesses(t, s, s.Owner, "_system", "&all=true&kind=login.failed", counted(5))
	if len(all) != 5 {
		t.Errorf("%+v", all)
	}
	s.Must(400, s.Owner, "GET", "/v1/organizations/acme/audit/access?all=true", "")
	for _, secret := range []string{unknown, made.Secret, "nonsense"} {
		if body := s.Must(200, s.Owner, "GET", "/v1/organizations/_system/audit/access?all=true&limit=200", "").Body; strings.Contains(body, secret) {
			t.Error("a record holds what was tried")
		}
	}
}

func TestDeniedCommands(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "other")
	member := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys",
		`{"name":"m","kind":"management","role":"member","scope":{"all_workspaces":true}}`))
	s.Must(403, member.Secret, "POST", "/v1/organizations/acme/keys", keyBody)
	s.Must(404, member.Secret, "POST", "/v1/organizations/other/keys", keyBody)
	s.Must(404, member.Secret, "POST", "/v1/organizations/nowhere/keys", keyBody)
	s.Must(409, s.Owner, "POST", "/v1/organizations", `{"id":"acme","name":"again"}`)
	s.Must(422, s.Owner, "POST", "/v1/organizations/acme/keys", `{"permissions":["nothing:there"],"scope":{"all_workspaces":true}}`)
	s.Must(404, s.Owner, "POST", "/v1/organizations/nowhere/keys", keyBody)
	// What cannot be read was no command.
	s.Must(400, s.Owner, "POST", "/v1/organizations/acme/keys", `{`)

	list := accesses(t, s, s.Owner, "acme", "&kind=command.denied&actor="+member.Key.ID, counted(3))
	codes := map[string]uint64{}
	for _, a := range list {
		codes[a.Code] += a.Count
		if a.Role != "member" || a.What != "create-key" || a.Organization != "acme" {
			t.Errorf("%+v", a)
		}
	}
	if codes["forbidden"] != 1 || codes["not_found"] != 2 || len(codes) != 2 {
		t.Errorf("%v", codes)
	}
	if all := accesses(t, s, s.Owner, "acme", "&kind=command.denied", counted(4)); len(all) != 3 {
		t.Errorf("%+v", all)
	}
	// What was tried on another's organization is in the records of who tried it.
	accesses(t, s, s.Owner, "other", "&kind=command.denied", func(list []wire.Access) bool { return len(list) == 0 })
	codes = map[string]uint64{}
	for _, a := range accesses(t, s, s.Owner, "_system", "&kind=command.denied", counted(2)) {
		codes[a.What+" "+a.Code] += a.Count
	}
	if codes["create-organization already_exists"] != 1 || codes["create-key not_found"] != 1 || len(codes) != 2 {
		t.Errorf("%v", codes)
	}
}

func TestReadingTheAuditLogIsRecorded(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	made := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	auditor := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys",
		`{"name":"a","kind":"management","role":"auditor","scope":{"all_workspaces":true}}`))
	member := managementKey(t, s, "acme", "member", everywhere)
	s.Must(200, auditor.Secret, "GET", "/v1/organizations/acme/audit/events", "")
	s.Must(200, auditor.Secret, "GET", "/v1/organizations/acme/keys/"+made.Key.ID+"/history", "")
	s.Must(200, auditor.Secret, "GET", "/v1/organizations/acme/audit/reports/dormant", "")
	s.Must(403, member, "GET", "/v1/organizations/acme/audit/access", "")
	next := stream(t, s, auditor.Secret, "?after=0")
	next()
	what := map[string]bool{}
	for _, a := range accesses(t, s, s.Owner, "acme", "&kind=audit.read&actor="+auditor.Key.ID, counted(4)) {
		what[a.What] = true
		if a.Code != "" || a.Role != "auditor" {
			t.Errorf("%+v", a)
		}
	}
	for _, id := range []string{"list-audit-events", "get-key-history", "get-report/dormant", "stream-events"} {
		if !what[id] {
			t.Errorf("%s is not among %v", id, what)
		}
	}
	// To read these records is recorded as well, and so is not to be allowed to.
	list := accesses(t, s, s.Owner, "acme", "&kind=audit.read", func(list []wire.Access) bool {
		denied, own := false, false
		for _, a := range list {
			denied = denied || a.What == "list-access" && a.Code == "forbidden" && a.Role == "member"
			own = own || a.What == "list-access" && a.Code == "" && a.Actor != ""
		}
		return denied && own
	})
	for i := 1; i < len(list); i++ {
		if list[i].Minute.After(list[i-1].Minute) {
			t.Errorf("%v stands before %v", list[i-1].Minute, list[i].Minute)
		}
	}
}

// Of secrets that nobody has is told how often they were tried, when and where from,
// to whom they were tried on.
func TestStrangersSecrets(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	caller := managementKey(t, s, "acme", "verifier", everywhere)
	for range 3 {
		verdict(t, s, caller, strange(t), `,"context":{"client_ip":"192.0.2.7"}`)
		s.Must(401, "", "GET", "/v1/authorize", "", "X-Api-Key", strange(t), "X-Forwarded-For", "192.0.2.9")
	}
	verdict(t, s, caller, "typo", "")
	list := accesses(t, s, s.Owner, "acme", "&kind=secret.unknown", counted(4))
	sources := map[string]uint64{}
	for _, a := range list {
		sources[a.Code+" "+strconv.FormatBool(a.Source != "")] += a.Count
		if a.Actor != "" || strings.Contains(a.Source, "192") {
			t.Errorf("%+v", a)
		}
	}
	if sources["NOT_FOUND true"] != 3 || sources["MALFORMED false"] != 1 || len(list) != 2 {
		t.Errorf("%+v", list)
	}
	got := only(t, accesses(t, s, s.Owner, "_system", "&kind=secret.unknown", counted(3)))
	if got.Count != 3 || got.Code != "NOT_FOUND" || got.Source == "" {
		t.Errorf("%+v", got)
	}
}

// Who looks at a key as it was is recorded once.
func TestAccessOfThePast(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	k := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", `{"permissions":["interview:read"],"scope":{"all_workspaces":true}}`))
	s.Must(200, s.Owner, "GET", "/v1/organizations/acme/keys/"+k.Key.ID+"?as_of="+k.Position, "")
	s.Must(200, s.Owner, "GET", "/v1/organizations/acme/audit/events", "")
	list := accesses(t, s, s.Owner, "acme", "&kind=audit.read", func(list []wire.Access) bool {
		return slices.ContainsFunc(list, func(a wire.Access) bool { return a.What == "list-audit-events" })
	})
	for _, a := range list {
		if a.What != "list-audit-events" && a.What != "list-access" && (a.What != "get-key?as_of" || a.Count != 1) {
			t.Errorf("%+v", a)
		}
	}
}

func TestAccessFilters(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	const path = "/v1/organizations/acme/audit/access"
	for query, status := range map[string]int{
		"?kind=nothing": 422, "?actor=nobody": 422, "?from=yesterday": 400, "?to=1": 400, "?cursor=x": 400, "?limit=0": 400, "?all=maybe": 400,
		"?sort=up": 400, "?from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z": 200, "?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z": 422,
	} {
		s.Must(status, s.Owner, "GET", path+query, "")
	}
	limited := managementKey(t, s, "acme", "auditor", `{"workspaces":["support"]}`)
	s.Must(403, limited, "GET", path, "")
	for range 3 {
		s.Must(404, s.Owner, "GET", "/v1/organizations/acme/keys/"+strings.Repeat("0", 8)+"-0000-7000-8000-000000000000/history", "")
		s.Must(200, s.Owner, "GET", "/v1/organizations/acme/audit/events", "")
	}
	accesses(t, s, s.Owner, "acme", "&kind=audit.read", func(list []wire.Access) bool { return len(list) >= 3 })
	// Page by page it is the same list.
	all := as[wire.List[wire.Access]](t, s.Must(200, s.Owner, "GET", path+"?to="+time.Now().Add(time.Hour).UTC().Format(time.RFC3339), "")).Items
	cursor, paged := "", 0
	for {
		page := as[wire.List[wire.Access]](t, s.Must(200, s.Owner, "GET", path+"?limit=1"+cursor, ""))
		paged += len(page.Items)
		if page.NextCursor == "" {
			break
		}
		cursor = "&cursor=" + page.NextCursor
	}
	if paged < len(all) || len(all) < 3 {
		t.Errorf("%d rows, %d page by page", len(all), paged)
	}
}
