package api_test

import (
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
)

const catalogBody = `{"permissions":[
 {"name":"interview:start","access":"write","routes":["POST /api/v1/interviews/start"]},
 {"name":"interview:read","access":"read","routes":["GET /api/v1/interviews/{id}"]}]}`

const keyBody = `{"name":"Zapier","permissions":["interview:read"],"scope":{"all_workspaces":true}}`

// furnish makes an organization with workspaces, a catalog and a profile.
func furnish(s *apitest.Server, org string) {
	s.Must(201, s.Owner, "POST", "/v1/organizations", `{"id":"`+org+`","name":"Org `+org+`"}`)
	base := "/v1/organizations/" + org
	s.Must(201, s.Owner, "POST", base+"/workspaces", `{"id":"hiring","name":"Hiring"}`)
	s.Must(201, s.Owner, "POST", base+"/workspaces", `{"id":"support","name":"Support"}`)
	s.Must(200, s.Owner, "PUT", base+"/permissions", catalogBody)
	s.Must(201, s.Owner, "POST", base+"/profiles", `{"id":"gold","name":"Gold","settings":{"model":"large","limits":{"minutes":60}}}`)
	s.Seals(org, "user-4711")
}

// openAIKey has the form of a key of OpenAI.
const openAIKey = "sk-proj-aB3dE5gH7jK9mN1pQ3sT5vX7zA9cE1gH3jL5nP7rT9vX1aB3"

// connect gives an organization a key of OpenAI.
func connect(s *apitest.Server, org string) {
	s.Must(201, s.Owner, "POST", "/v1/organizations/"+org+"/provider-keys", `{"provider":"openai","secret":"`+openAIKey+`"}`)
}

func as[T any](t testing.TB, a apitest.Answer) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(a.Body), &v, json.RejectUnknownMembers(true)); err != nil {
		t.Fatalf("%v in %s", err, a.Body)
	}
	return v
}

func verdict(t testing.TB, s *apitest.Server, caller, secret, more string) wire.Verdict {
	t.Helper()
	return as[wire.Verdict](t, s.Must(200, caller, "POST", "/v1/verify", `{"secret":"`+secret+`"`+more+`}`))
}

// The whole life of a key, on a real broker.
func TestLifeOfAKey(t *testing.T) {
	s := apitest.StartEmbedded(t)
	furnish(s, "acme")
	a := s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys",
		`{"name":"Zapier","permissions":["interview:read"],"scope":{"workspaces":["hiring"]},"profile":"gold","expires_in":"90d","metadata":{"team":"a"}}`)
	created := as[wire.Created](t, a)
	path := "/v1/organizations/acme/keys/" + created.Key.ID
	if a.Header.Get("Location") != path || a.Header.Get("ETag") != `"1"` || created.Secret == "" || created.Position == "" {
		t.Fatalf("created: %v %+v", a.Header, created)
	}
	if got := created.Key.EffectivePermissions; len(got) != 1 || got[0] != "interview:read" {
		t.Errorf("effective permissions: %v", got)
	}
	at := `,"at_least":"` + created.Position + `"`
	v := verdict(t, s, s.Owner, created.Secret, `,"permission":"interview:read","workspace":"hiring"`+at)
	if !v.Valid || v.Code != "VALID" || v.KeyID != created.Key.ID || v.Organization != "acme" || !v.ScopeChecked || v.Profile == nil ||
		string(v.Profile.Settings) != `{"model":"large","limits":{"minutes":60}}` || v.ExpiresAt == "" {
		t.Errorf("verdict: %+v", v)
	}
	for more, want := range map[string]string{
		`,"permission":"interview:start"`: "INSUFFICIENT_PERMISSIONS", `,"permission":"no:such"`: "INSUFFICIENT_PERMISSIONS",
		`,"workspace":"support"`: "OUT_OF_SCOPE", ``: "VALID",
	} {
		if got := verdict(t, s, s.Owner, created.Secret, more).Code; got != want {
			t.Errorf("%s: %s, want %s", more, got, want)
		}
	}
	a = s.Must(200, s.Owner, "PATCH", path, `{"name":null,"metadata":{"team":null,"tier":"b"},"permissions":{"level":"all"},"profile":null,"expires_at":null}`, "If-Match", `"1"`)
	k := as[wire.Key](t, a)
	if k.Name != nil || k.Profile != nil || k.ExpiresAt != nil || len(k.Metadata) != 1 || k.Metadata["tier"] != "b" || k.Permissions.Level != "all" {
		t.Errorf("patched: %s", a.Body)
	}
	for _, member := range []string{`"name":null`, `"profile":null`, `"expires_at":null`, `"last_used_at":`} {
		if !strings.Contains(a.Body, member) {
			t.Errorf("%s does not hold %s", a.Body, member)
		}
	}
	s.Must(412, s.Owner, "PATCH", path, `{"name":"x"}`, "If-Match", `"1"`)
	if got := as[wire.Key](t, s.Must(200, s.Owner, "GET", path, "")); got.Name != nil || got.Position != k.Position {
		t.Errorf("read after write: %+v", got)
	}
	rotated := as[wire.Rotated](t, s.Must(201, s.Owner, "POST", path+"/rotate", `{"grace":"1h"}`))
	if rotated.Previous.RotatedTo != rotated.Key.ID || rotated.Key.RotatedFrom != created.Key.ID || rotated.Previous.GraceEndsAt == nil {
		t.Errorf("rotated: %+v", rotated)
	}
	for _, secret := range []string{created.Secret, rotated.Secret} {
		if v := verdict(t, s, s.Owner, secret, ""); !v.Valid {
			t.Errorf("in the grace: %+v", v)
		}
	}
	changed := as[wire.Changed](t, s.Must(200, s.Owner, "POST", path+"/revoke", `{"reason":"leaked in a log"}`, "If-Match", `"1"`))
	if changed.Key.Status != "REVOKED" || changed.Key.RevocationReason != "leaked in a log" || changed.Key.RevokedAt == nil {
		t.Errorf("revoked: %+v", changed.Key)
	}
	if got := verdict(t, s, s.Owner, created.Secret, "").Code; got != "REVOKED" {
		t.Errorf("after the revocation: %s", got)
	}
	s.Must(409, s.Owner, "PATCH", path, `{"status":"ACTIVE"}`)
	history := as[wire.List[wire.Change]](t, s.Must(200, s.Owner, "GET", path+"/history", ""))
	if len(history.Items) < 8 || history.Items[0].Type != "key.revoked" {
		t.Errorf("history: %+v", history)
	}
	if got := as[wire.List[wire.Key]](t, s.Must(200, s.Owner, "GET", "/v1/organizations/acme/keys", "")); len(got.Items) != 1 || got.Items[0].ID != rotated.Key.ID {
		t.Errorf("list hides REVOKED: %+v", got)
	}
	if got := as[wire.List[wire.Key]](t, s.Must(200, s.Owner, "GET", "/v1/organizations/acme/keys?status=all", "")); len(got.Items) != 2 {
		t.Errorf("list of all: %+v", got)
	}
	who := as[wire.Whoami](t, s.Must(200, rotated.Secret, "GET", "/v1/whoami", ""))
	if who.KeyID != rotated.Key.ID || who.Kind != "api" {
		t.Errorf("whoami: %+v", who)
	}
}
