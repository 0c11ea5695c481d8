package api_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

const auditEvents = "/v1/organizations/acme/audit/events"

// kinds are the types of changes, in their order.
func kinds(t testing.TB, a apitest.Answer) []string {
	t.Helper()
	out := []string{}
	for _, c := range as[wire.List[wire.Change]](t, a).Items {
		out = append(out, c.Type)
	}
	return out
}

// Of every change it is told who made it, when, from what to what, and why.
func TestAChangeIsToldWhole(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	admin := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", `{"name":"Desk","kind":"management","role":"admin","scope":{"all_workspaces":true}}`))
	key := as[wire.Created](t, s.Must(201, admin.Secret, "POST", "/v1/organizations/acme/keys", keyBody))
	path := "/v1/organizations/acme/keys/" + key.Key.ID
	s.Must(200, admin.Secret, "PATCH", path, `{"permissions":["interview:*"],"scope":{"workspaces":["hiring"]},"reason":"moves"}`,
		"Keyledger-Ticket", "SEC-42", "X-Request-Id", "req-8f14e45f")
	list := as[wire.List[wire.Change]](t, s.Must(200, admin.Secret, "GET", auditEvents+"?key="+key.Key.ID+"&raw=true", ""))
	history := as[wire.List[wire.Change]](t, s.Must(200, admin.Secret, "GET", path+"/history?raw=true", ""))
	if d := cmp.Diff(list, history); d != "" || len(list.Items) != 3 {
		t.Fatalf("the history is not the list of its key: %s", d)
	}
	scope, permissions, created := list.Items[0], list.Items[1], list.Items[2]
	if scope.Type != "key.scope_changed" || permissions.Type != "key.permissions_changed" || created.Type != "key.created" {
		t.Fatalf("%s, %s, %s", scope.Type, permissions.Type, created.Type)
	}
	want := []wire.FieldChange{{
		Field: "permissions", Before: map[string]any{"level": "restricted", "grants": []any{"interview:read"}},
		After: map[string]any{"level": "restricted", "grants": []any{"interview:*"}},
	}}
	if d := cmp.Diff(want, permissions.Changes); d != "" {
		t.Error(d)
	}
	for _, c := range []wire.Change{scope, permissions} {
		if c.Actor != "key/acme/"+admin.Key.ID || c.ActorName != "Desk" || c.Role != "admin" || c.Scope != "*" || c.Reason != "moves" || c.Ticket != "SEC-42" ||
			c.RequestID != "req-8f14e45f" || c.CommandID == "" || c.CommandID != scope.CommandID || c.ConfigPosition == "" || c.Organization != "acme" ||
			c.Aggregate != "key" || c.ID != key.Key.ID || !strings.HasSuffix(c.Subject, ".acme.key."+key.Key.ID) {
			t.Errorf("%+v", c)
		}
		if c.ClaimedAt.After(c.RecordedAt) || c.RecordedAt.After(c.StoredAt.Add(time.Second)) || c.StoredAt.IsZero() {
			t.Errorf("claimed %s, recorded %s, stored %s", c.ClaimedAt, c.RecordedAt, c.StoredAt)
		}
	}
	if !slices.Equal(scope.Workspaces, []string{"hiring"}) || scope.Revision != 3 || created.Workspaces != nil {
		t.Errorf("%+v, %+v", scope, created)
	}
	if !strings.Contains(string(scope.Event), `"ticket":"SEC-42"`) || !strings.Contains(string(created.Event), `"digest"`) {
		t.Errorf("stored as %s", scope.Event)
	}
	silent(t, "changes", s.Must(200, admin.Secret, "GET", auditEvents, ""), key.Secret)
	if strings.Contains(s.Must(200, admin.Secret, "GET", auditEvents, "").Body, "digest") {
		t.Error("a digest is told")
	}
	// The name of an actor is not told to who may not see that actor's key.
	first := as[wire.List[wire.Change]](t, s.Must(200, admin.Secret, "GET", auditEvents+"?order=asc&limit=1", "")).Items[0]
	if first.Type != "organization.created" || first.ActorName != "" || !strings.HasPrefix(first.Actor, "key/_system/") {
		t.Errorf("%+v", first)
	}
}

// Every filter, alone and with others, through the client; and what is no filter
// is refused instead of showing everything.
func TestChangesAreFiltered(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "other")
	admin := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", `{"name":"Desk","kind":"management","role":"admin","scope":{"all_workspaces":true}}`))
	key := as[wire.Created](t, s.Must(201, admin.Secret, "POST", "/v1/organizations/acme/keys", `{"name":"Nightly batch","permissions":["interview:read"],"scope":{"workspaces":["hiring"]}}`, "Keyledger-Ticket", "OPS-7"))
	s.Must(200, s.Owner, "POST", "/v1/organizations/acme/keys/"+key.Key.ID+"/revoke", `{"reason":"Leaked on a site"}`)
	c, err := client.New(client.Config{URL: s.URL, Key: client.Secret(s.Owner)})
	if err != nil {
		t.Fatal(err)
	}
	revoked := as[wire.List[wire.Change]](t, s.Must(200, s.Owner, "GET", auditEvents+"?limit=1", "")).Items[0]
	for name, tt := range map[string]struct {
		filter client.ChangeFilter
		want   string
	}{
		"key":            {client.ChangeFilter{Key: key.Key.ID}, "[key.revoked key.created]"},
		"actor":          {client.ChangeFilter{Actor: "key/acme/" + admin.Key.ID}, "[key.created]"},
		"actor's id":     {client.ChangeFilter{Actor: admin.Key.ID}, "[key.created]"},
		"types":          {client.ChangeFilter{Types: []string{"key.revoked", "profile.created.v1"}}, "[key.revoked profile.created]"},
		"workspace":      {client.ChangeFilter{Workspace: "hiring"}, "[key.revoked key.created workspace.created]"},
		"ticket":         {client.ChangeFilter{Ticket: "OPS-7"}, "[key.created]"},
		"no such ticket": {client.ChangeFilter{Ticket: "OPS"}, "[]"},
		"reason":         {client.ChangeFilter{Query: "leaked ON"}, "[key.revoked]"},
		"name":           {client.ChangeFilter{Query: "nightly"}, "[key.created]"},
		"ticket's text":  {client.ChangeFilter{Query: "ops-7"}, "[key.created]"},
		"id":             {client.ChangeFilter{Query: strings.ToUpper(key.Key.ID), Key: key.Key.ID}, "[key.revoked key.created]"},
		"end of an id":   {client.ChangeFilter{Query: key.Key.ID[28:], OldestFirst: true}, "[key.created key.revoked]"},
		"together":       {client.ChangeFilter{Query: "leaked", Types: []string{"key.revoked"}, Key: key.Key.ID, Workspace: "hiring"}, "[key.revoked]"},
		"from":           {client.ChangeFilter{From: revoked.StoredAt, Types: []string{"key.revoked"}}, "[key.revoked]"},
		"to":             {client.ChangeFilter{To: revoked.StoredAt, Key: key.Key.ID}, "[key.created]"},
		"after":          {client.ChangeFilter{After: key.Position}, "[key.revoked]"},
		"oldest first":   {client.ChangeFilter{OldestFirst: true, Page: client.Page{Limit: 2}}, "[organization.created workspace.created]"},
	} {
		list, err := c.Changes(t.Context(), "acme", tt.filter)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := []string{}
		for _, c := range list.Items {
			got = append(got, c.Type)
		}
		if fmt.Sprint(got) != tt.want {
			t.Errorf("%s: %v, want %s", name, got, tt.want)
		}
	}
	all, err := c.Changes(t.Context(), "_system", client.ChangeFilter{AllOrganizations: true, Types: []string{"organization.created"}})
	if err != nil || len(all.Items) < 2 || all.Items[0].Organization != "other" {
		t.Errorf("all: %+v, %v", all, err)
	}
	for query, detail := range map[string]string{
		"key=nonsense":            "is no key id",
		"actor=nobody":            "must be key/<organization>",
		"actor=robot/x":           "must be key/<organization>",
		"type=key.revokd":         "did you mean",
		"workspace=No":            "is no workspace id",
		"q=ab":                    "at least 3 characters",
		"from=yesterday":          "RFC 3339",
		"to=0001-01-01T00:00:00Z": "RFC 3339",
		"order=up":                "desc or asc",
		"all=true":                "asked of the organization _system",
		"all=yes":                 "must be true or false",
		"after=nonsense":          "",
		"cursor=nonsense":         "",
		"reason=x":                "no such parameter",
		"limit=201":               "1 to 200",
		"from=" + url.QueryEscape("9999-12-31T23:59:59-23:59"): "RFC 3339",
		"to=" + url.QueryEscape("1970-01-01T00:00:00+23:59"):   "RFC 3339",
	} {
		if p := problem(t, s.Must(400, s.Owner, "GET", auditEvents+"?"+query, "")); !strings.Contains(p.Detail, detail) {
			t.Errorf("%s: %s", query, p.Detail)
		}
	}
	if p := problem(t, s.Must(422, s.Owner, "GET", auditEvents+"?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "")); p.Field != "to" {
		t.Errorf("%+v", p)
	}
	if p := problem(t, s.Must(400, s.Owner, "GET", "/v1/organizations/_system/audit/events?all=true&workspace=hiring", "")); p.Field != "workspace" {
		t.Errorf("%+v", p)
	}
}

// Nobody sees beyond their walls, and an end is no end of the audit log.
func TestAuditLogHasWalls(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "other")
	both := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", `{"permissions":["interview:read"],"scope":{"workspaces":["hiring","support"]}}`))
	within := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", `{"permissions":["interview:read"],"scope":{"workspaces":["hiring"]}}`))
	confined := managementKey(t, s, "acme", "auditor", `{"workspaces":["hiring"]}`)
	list := as[wire.List[wire.Change]](t, s.Must(200, confined, "GET", auditEvents, ""))
	var got []string
	for _, c := range list.Items {
		got = append(got, c.Type+" "+c.ID)
		if c.ID == both.Key.ID {
			t.Errorf("an event of a key beyond the scope: %+v", c)
		}
	}
	if len(got) != 3 || got[1] != "key.created "+within.Key.ID || got[2] != "workspace.created hiring" {
		t.Errorf("within a workspace: %v", got)
	}
	if got := kinds(t, s.Must(200, confined, "GET", auditEvents+"?key="+both.Key.ID, "")); len(got) != 0 {
		t.Errorf("a key beyond the scope: %v", got)
	}
	if got := kinds(t, s.Must(200, confined, "GET", auditEvents+"?workspace=support&q=support", "")); len(got) != 0 {
		t.Errorf("a workspace beyond the scope: %v", got)
	}
	auditor := managementKey(t, s, "acme", "auditor", everywhere)
	s.Must(404, auditor, "GET", "/v1/organizations/other/audit/events", "")
	s.Must(404, auditor, "GET", "/v1/organizations/_system/audit/events?all=true", "")
	s.Must(404, s.Owner, "GET", "/v1/organizations/never/audit/events", "")
	for _, c := range as[wire.List[wire.Change]](t, s.Must(200, auditor, "GET", auditEvents+"?q="+url.QueryEscape("created"), "")).Items {
		if c.Organization != "acme" {
			t.Errorf("an event of another organization: %+v", c)
		}
	}
	s.Must(200, s.Owner, "DELETE", "/v1/organizations/acme", "")
	if got := kinds(t, s.Must(200, s.Owner, "GET", auditEvents+"?type=organization.deleted", "")); !slices.Equal(got, []string{"organization.deleted"}) {
		t.Errorf("after the end: %v", got)
	}
}

// A key that came into a workspace brings along what happened there and since, and not
// what was before, in its history as in the list of events.
func TestHistoryHasWalls(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	made := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys",
		`{"permissions":["interview:read"],"scope":{"workspaces":["support"]},"reason":"known to support alone"}`))
	path := "/v1/organizations/acme/keys/" + made.Key.ID
	moved := as[wire.Key](t, s.Must(200, s.Owner, "PATCH", path, `{"scope":{"workspaces":["hiring"]},"reason":"support is done"}`)).Position
	s.Must(200, s.Owner, "PATCH", path, `{"status":"INACTIVE"}`)
	s.Must(200, s.Owner, "POST", path+"/revoke", `{"reason":"over"}`)
	confined := managementKey(t, s, "acme", "auditor", `{"workspaces":["hiring"]}`)
	if got := kinds(t, s.Must(200, s.Owner, "GET", path+"/history", "")); len(got) != 4 {
		t.Errorf("all of it: %v", got)
	}
	a := s.Must(200, confined, "GET", path+"/history?raw=true", "")
	if got := kinds(t, a); !slices.Equal(got, []string{"key.revoked", "key.disabled"}) || strings.Contains(a.Body, "support") {
		t.Errorf("within a workspace: %v", got)
	}
	k := as[wire.Key](t, s.Must(200, confined, "GET", path+"?as_of="+moved, ""))
	if k.MadeSoBy == nil || k.MadeSoBy.Position != moved || k.MadeSoBy.Reason != "" || len(k.MadeSoBy.Changes) != 0 {
		t.Errorf("what moved it there is told as %+v", k.MadeSoBy)
	}
	page := as[wire.List[wire.Change]](t, s.Must(200, confined, "GET", path+"/history?limit=1", ""))
	if got := kinds(t, s.Must(200, confined, "GET", path+"/history?limit=1&cursor="+page.NextCursor, "")); !slices.Equal(got, []string{"key.disabled"}) {
		t.Errorf("the second page: %v", got)
	}
}

// Texts that are sealed are told to those who may see them, before and after, and
// to nobody once they are erased.
func TestSealedTextsInChanges(t *testing.T) {
	s := apitest.Start(t)
	made := private(t, s)
	path := "/v1/organizations/acme/keys/" + made.Key.ID
	s.Must(200, s.Owner, "PATCH", path, `{"name":"Ada King","reason":"she married"}`)
	member := managementKey(t, s, "acme", "member", everywhere)
	check := func(who, caller, before, after, reason string) {
		t.Helper()
		c := as[wire.List[wire.Change]](t, s.Must(200, caller, "GET", path+"/history?limit=1", "")).Items[0]
		want := []wire.FieldChange{{Field: "name", Before: before, After: after}}
		if d := cmp.Diff(want, c.Changes); d != "" || c.Reason != reason {
			t.Errorf("%s: because of %q: %s", who, c.Reason, d)
		}
	}
	check("the owner", s.Owner, "Ada Lovelace", "Ada King", "she married")
	check("a member", member, "(sealed)", "(sealed)", "(sealed)")
	for _, q := range []string{"Lovelace", "King", "married", "4711"} {
		if got := kinds(t, s.Must(200, s.Owner, "GET", auditEvents+"?key="+made.Key.ID+"&q="+q, "")); len(got) != 0 {
			t.Errorf("%s finds what is sealed: %v", q, got)
		}
	}
	erase(t, s)
	check("the owner, after the erasure", s.Owner, "(erased)", "(erased)", "(erased)")
}

// The stream takes the filters of the list, for what was and for what comes.
func TestStreamIsFiltered(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	first := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", `{"name":"one","permissions":["interview:read"],"scope":{"workspaces":["hiring"]}}`))
	second := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", `{"name":"two","permissions":["interview:read"],"scope":{"workspaces":["support"]}}`))
	self := as[wire.Whoami](t, s.Must(200, s.Owner, "GET", "/v1/whoami", ""))
	for query, want := range map[string][2]string{
		"key=" + second.Key.ID:                                                  {"key.created " + second.Key.ID, "key.revoked " + second.Key.ID},
		"workspace=hiring&types=key.created,key.revoked":                        {"key.created " + first.Key.ID, "key.revoked " + first.Key.ID},
		"q=it+leaked&types=key.created,key.revoked":                             {"key.revoked " + first.Key.ID, "key.revoked " + second.Key.ID},
		"types=key.revoked&actor=" + url.QueryEscape("key/_system/"+self.KeyID): {"key.revoked " + first.Key.ID, "key.revoked " + second.Key.ID},
	} {
		t.Run(query, func(t *testing.T) {
			next := stream(t, s, s.Owner, "?organization=acme&after=0&"+query)
			// Whichever comes first has happened or is to come.
			for _, k := range []wire.Created{first, second} {
				s.Must(200, s.Owner, "POST", "/v1/organizations/acme/keys/"+k.Key.ID+"/revoke", `{"reason":"it leaked"}`)
			}
			for _, want := range want {
				e := next()
				kind, id, _ := strings.Cut(want, " ")
				if e["event"] != kind || !strings.Contains(e["data"], id) {
					t.Fatalf("%v, want %s", e, want)
				}
			}
		})
	}
	s.Must(400, s.Owner, "GET", "/v1/events?workspace=hiring", "")
	s.Must(400, s.Owner, "GET", "/v1/events?q=ab", "")
	s.Must(400, s.Owner, "GET", "/v1/events?key=nonsense", "")
}
