package api_test

import (
	"encoding/base64"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
)

// problem reads a problem document and holds it to its form.
func problem(t testing.TB, a apitest.Answer) wire.Problem {
	t.Helper()
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Fatalf("%d answered as %q: %s", a.Status, got, a.Body)
	}
	p := as[wire.Problem](t, a)
	if p.Status != a.Status || p.Code == "" || p.Title == "" || !strings.HasSuffix(p.Type, "#"+p.Code) || p.RequestID != a.Header.Get("X-Request-Id") {
		t.Errorf("problem: %s", a.Body)
	}
	return p
}

func TestBadInput(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	s.Must(201, s.Owner, "POST", "/v1/organizations", `{"id":"strict","name":"Strict","limits":{"max_active_keys":1,"max_key_lifetime":"30d"}}`)
	s.Must(200, s.Owner, "PUT", "/v1/organizations/strict/permissions", catalogBody)
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	s.Must(201, s.Owner, "POST", "/v1/organizations/strict/keys", keyBody)
	rotated := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys/"+rotated.Key.ID+"/rotate", `{"grace":"0"}`)
	const keys = "/v1/organizations/acme/keys"
	one := keys + "/" + key.Key.ID
	base := func(more string) string { return strings.TrimSuffix(keyBody, "}") + more + "}" }
	long := strings.Repeat("n", 201)
	for name, tt := range map[string]struct {
		method, path, body string
		status             int
		code, field, says  string
	}{
		"not JSON":                  {"POST", keys, `{"name":`, 400, "invalid_request", "", "no valid JSON"},
		"no object":                 {"POST", keys, `[]`, 400, "invalid_request", "", "object"},
		"two values":                {"POST", keys, keyBody + `{}`, 400, "invalid_request", "", "nothing behind"},
		"empty":                     {"POST", keys, ` `, 400, "invalid_request", "", "empty"},
		"no body":                   {"POST", keys, ``, 400, "invalid_request", "", "empty"},
		"unknown member":            {"POST", keys, base(`,"nam":"x"`), 400, "invalid_request", "nam", "no such member"},
		"unknown nested member":     {"POST", keys, `{"permissions":{"lev":"all"}}`, 400, "invalid_request", "permissions.lev", "no such member"},
		"member in another case":    {"POST", keys, base(`,"Profile":"gold"`), 400, "invalid_request", "Profile", "lower case"},
		"member twice":              {"POST", keys, base(`,"name":"x"`), 400, "invalid_request", "name", "twice"},
		"wrong type":                {"POST", keys, `{"name":1}`, 400, "invalid_request", "name", "must be a string"},
		"wrong type in a list":      {"POST", keys, `{"permissions":[1]}`, 400, "invalid_request", "permissions[0]", "must be a string"},
		"wrong type of permissions": {"POST", keys, `{"permissions":1}`, 400, "invalid_request", "permissions", "must be an object"},
		"no time":                   {"POST", keys, base(`,"expires_at":"tomorrow"`), 400, "invalid_request", "expires_at", "RFC 3339"},
		"too deep":                  {"POST", keys, strings.Repeat(`{"a":`, 70) + "1" + strings.Repeat("}", 70), 400, "invalid_request", "", "deeper"},
		"name too long":             {"POST", keys, `{"name":"` + long + `","permissions":["interview:read"],"scope":{"all_workspaces":true}}`, 422, "invalid_value", "name", "200"},
		"unknown permission":        {"POST", keys, `{"permissions":["interview:sart"],"scope":{"all_workspaces":true}}`, 422, "unknown_permission", "permissions.grants", `did you mean "interview:start"?`},
		"unknown workspace":         {"POST", keys, `{"permissions":["interview:read"],"scope":{"workspaces":["nowhere"]}}`, 422, "unknown_workspace", "scope.workspaces", "nowhere"},
		"unknown profile":           {"POST", keys, base(`,"profile":"none"`), 422, "unknown_profile", "profile", "none"},
		"no permissions":            {"POST", keys, `{"scope":{"all_workspaces":true}}`, 422, "invalid_value", "permissions.level", "all, read_only or restricted"},
		"no scope":                  {"POST", keys, `{"permissions":["interview:read"]}`, 422, "invalid_value", "scope", "all_workspaces"},
		"past expiry":               {"POST", keys, base(`,"expires_at":"2020-01-01T00:00:00Z"`), 422, "past_expiry", "expires_at", "future"},
		"expiry before time":        {"POST", keys, base(`,"expires_at":"1969-01-01T00:00:00Z"`), 422, "past_expiry", "expires_at", "future"},
		"expiry at the first":       {"POST", keys, base(`,"expires_at":"1970-01-01T00:00:00Z"`), 422, "past_expiry", "expires_at", "future"},
		"both expiries":             {"POST", keys, base(`,"expires_at":"2099-01-01T00:00:00Z","expires_in":"1d"`), 422, "invalid_value", "expires_in", "one of them"},
		"no period":                 {"POST", keys, base(`,"expires_in":"5m"`), 422, "invalid_value", "expires_in", "90d"},
		"bad prefix":                {"POST", keys, base(`,"prefix":"Bad!"`), 422, "invalid_value", "prefix", "15 characters"},
		"bad kind":                  {"POST", keys, base(`,"kind":"other"`), 422, "invalid_value", "kind", "management"},
		"lifetime too long":         {"POST", "/v1/organizations/strict/keys", base(`,"expires_in":"1y"`), 422, "lifetime_too_long", "expires_in", "30d"},
		"limit reached":             {"POST", "/v1/organizations/strict/keys", keyBody, 409, "key_limit_reached", "", ""},
		"unknown organization":      {"POST", "/v1/organizations/nobody/keys", keyBody, 404, "not_found", "", "no such organization"},
		"impossible organization":   {"POST", "/v1/organizations/NOBODY!/keys", keyBody, 404, "not_found", "", ""},
		"unknown key":               {"GET", keys + "/0197ab6e-98f1-7c3a-8f0e-2f3a4b5c6d7e", "", 404, "not_found", "", "no such key"},
		"impossible key":            {"GET", keys + "/none", "", 404, "not_found", "", "no such key"},
		"unknown path":              {"GET", "/v1/nothing", "", 404, "not_found", "", ""},
		"unknown root path":         {"GET", "/nothing", "", 404, "not_found", "", ""},
		"unclean path":              {"GET", "/v1//organizations", "", 404, "not_found", "", ""},
		"wrong method":              {"PUT", keys, keyBody, 405, "method_not_allowed", "", "GET, HEAD, POST"},
		"bad cursor":                {"GET", keys + "?cursor=abc", "", 400, "invalid_cursor", "", "cursor"},
		"limit of none":             {"GET", keys + "?limit=0", "", 400, "invalid_request", "limit", "1 to 200"},
		"limit too large":           {"GET", keys + "?limit=201", "", 400, "invalid_request", "limit", "1 to 200"},
		"unknown parameter":         {"GET", keys + "?stauts=all", "", 400, "invalid_request", "stauts", "no such parameter"},
		"parameter twice":           {"GET", keys + "?status=all&status=ACTIVE", "", 400, "invalid_request", "status", "2 times"},
		"unknown status":            {"GET", keys + "?status=GONE", "", 400, "invalid_request", "status", "ACTIVE"},
		"dry run of what":           {"POST", keys + "?dry_run=yes", keyBody, 400, "invalid_request", "dry_run", "true or false"},
		"dry run of a read":         {"GET", keys + "?dry_run=true", "", 400, "invalid_request", "dry_run", "no such parameter"},
		"body of a read":            {"GET", keys, `{}`, 400, "invalid_request", "", "no body"},
		"null where none can be":    {"PATCH", one, `{"status":null}`, 422, "invalid_value", "status", "cannot be cleared"},
		"status EXPIRED":            {"PATCH", one, `{"status":"EXPIRED"}`, 422, "invalid_value", "status", "ACTIVE or INACTIVE"},
		"several nulls":             {"PATCH", one, `{"status":null,"scope":null}`, 422, "invalid_value", "scope", "cannot be cleared"},
		"empty metadata":            {"POST", keys, base(`,"metadata":{"a":""}`), 422, "invalid_value", "metadata", "empty"},
		"metadata emptied":          {"PATCH", one, `{"metadata":{"a":""}}`, 422, "invalid_value", "metadata", "null removes"},
		"grace of no rotation":      {"PATCH", one, `{"grace":"1h"}`, 409, "conflict", "grace", "not rotated"},
		"bad grace":                 {"POST", one + "/rotate", `{"grace":"soon"}`, 422, "invalid_value", "grace", "24h"},
		"rotated twice":             {"POST", keys + "/" + rotated.Key.ID + "/rotate", `{"grace":"0"}`, 409, "ended", "", ""},
		"id taken":                  {"POST", "/v1/organizations", `{"id":"acme","name":"x"}`, 409, "already_exists", "id", ""},
		"id of capitals":            {"POST", "/v1/organizations", `{"id":"ACME","name":"x"}`, 422, "invalid_value", "id", "a-z"},
		"no catalog":                {"PUT", "/v1/organizations/acme/permissions", `{}`, 400, "invalid_request", "permissions", "needed"},
		"bad access":                {"PUT", "/v1/organizations/acme/permissions", `{"permissions":[{"name":"a:b","access":"x"}]}`, 422, "invalid_value", "permissions[0].access", "read or write"},
		"settings of a list":        {"POST", "/v1/organizations/acme/profiles", `{"id":"p","name":"P","settings":[]}`, 422, "invalid_value", "settings", "object"},
		"patch to a list":           {"PATCH", "/v1/organizations/acme/profiles/gold", `{"settings":[]}`, 400, "invalid_request", "settings", "object"},
		"verify without secret":     {"POST", "/v1/verify", `{}`, 422, "invalid_value", "secret", "needed"},
		"verify by number":          {"POST", "/v1/verify", `{"secret":5}`, 400, "invalid_request", "secret", "string"},
		"verify unknown member":     {"POST", "/v1/verify", `{"secret":"x","scope":"y"}`, 400, "invalid_request", "scope", "no such member"},
		"verify twice":              {"POST", "/v1/verify", `{"secret":"x","secret":"y"}`, 400, "invalid_request", "secret", "twice"},
		"verify nothing":            {"POST", "/v1/verify", ``, 400, "invalid_request", "", ""},
		"verify at no position":     {"POST", "/v1/verify", `{"secret":"x","at_least":"p123"}`, 400, "invalid_position", "", "not a position"},
		"verify by query":           {"POST", "/v1/verify?secret=x", `{}`, 400, "invalid_request", "", "URL"},
		"events of no type":         {"GET", "/v1/events?types=key.revokd", "", 400, "invalid_request", "types", `"key.revoked"`},
		"events after nothing":      {"GET", "/v1/events?after=x", "", 400, "invalid_position", "after", "not a position"},
	} {
		t.Run(name, func(t *testing.T) {
			a := s.Do(s.Owner, tt.method, tt.path, tt.body)
			if tt.body == "" && tt.method != "GET" {
				a = s.Do(s.Owner, tt.method, tt.path, tt.body, "Content-Type", "application/json")
			}
			if a.Status != tt.status {
				t.Fatalf("%d %s, want %d", a.Status, a.Body, tt.status)
			}
			p := problem(t, a)
			if p.Code != tt.code || p.Field != tt.field || !strings.Contains(p.Detail, tt.says) {
				t.Errorf("%s, want %s at %q saying %q", a.Body, tt.code, tt.field, tt.says)
			}
		})
	}
}

func TestHeadersThatAreRefused(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	const path = "/v1/organizations/acme"
	for name, tt := range map[string]struct {
		header, value string
		status        int
		code          string
	}{
		"text":             {"Content-Type", "text/plain", 415, "unsupported_media_type"},
		"a form":           {"Content-Type", "application/x-www-form-urlencoded", 415, "unsupported_media_type"},
		"no type":          {"Content-Type", "", 415, "unsupported_media_type"},
		"another charset":  {"Content-Type", "application/json; charset=latin1", 415, "unsupported_media_type"},
		"compressed":       {"Content-Encoding", "gzip", 415, "unsupported_media_type"},
		"stale":            {"If-Match", `"9"`, 412, "stale_revision"},
		"stale and weak":   {"If-Match", `W/"9"`, 412, "stale_revision"},
		"not ours":         {"If-Match", `"abc"`, 412, "stale_revision"},
		"no entity tag":    {"If-Match", `9`, 400, "invalid_request"},
		"two entity tags":  {"If-Match", `"1", "2"`, 400, "invalid_request"},
		"idempotency":      {"Idempotency-Key", strings.Repeat("k", 256), 422, "invalid_value"},
		"long reason":      {"Keyledger-Reason", strings.Repeat("r", 1001), 422, "invalid_value"},
		"long ticket":      {"Keyledger-Ticket", strings.Repeat("t", 129), 422, "invalid_value"},
		"longest ticket":   {"Keyledger-Ticket", strings.Repeat("t", 128), 200, ""},
		"torn ticket":      {"Keyledger-Ticket", "SEC-\xff", 422, "invalid_value"},
		"merge patch":      {"Content-Type", "application/merge-patch+json", 200, ""},
		"charset":          {"Content-Type", "application/json; charset=UTF-8", 200, ""},
		"any":              {"If-Match", `*`, 200, ""},
		"current and weak": {"If-Match", `W/"1"`, 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			headers := []string{tt.header, tt.value}
			if tt.header == "If-Match" {
				headers = append(headers, "Keyledger-Reason", name)
			}
			a := s.Do(s.Owner, "PATCH", path+"?dry_run=true", `{"name":"Acme"}`, headers...)
			if a.Status != tt.status {
				t.Fatalf("%d %s, want %d", a.Status, a.Body, tt.status)
			}
			if tt.code != "" {
				if p := problem(t, a); p.Code != tt.code {
					t.Errorf("code %s, want %s", p.Code, tt.code)
				}
			}
		})
	}
}

func TestBodyTooLarge(t *testing.T) {
	s := apitest.Start(t)
	for path, limit := range map[string]int{"/v1/organizations": api.MaxBodyBytes, "/v1/verify": api.MaxVerifyBytes} {
		a := s.Do(s.Owner, "POST", path, `{"name":"`+strings.Repeat("x", limit)+`"}`)
		if p := problem(t, a); a.Status != 413 || p.Code != "body_too_large" {
			t.Errorf("%s: %s", path, a.Body)
		}
	}
}

func TestIdempotency(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	const keys = "/v1/organizations/acme/keys"
	send := func(want int, body string) apitest.Answer {
		t.Helper()
		return s.Must(want, s.Owner, "POST", keys, body, "Idempotency-Key", "wish-1")
	}
	first := send(201, keyBody)
	again := send(201, keyBody)
	a, b := as[wire.Created](t, first), as[wire.Created](t, again)
	if b.Key.ID != a.Key.ID || b.Secret != "" || strings.Contains(again.Body, `"secret"`) || again.Header.Get("Idempotency-Replayed") != "true" ||
		again.Header.Get("Location") != first.Header.Get("Location") || first.Header.Get("Idempotency-Replayed") != "" {
		t.Errorf("repeated: %v %s", again.Header, again.Body)
	}
	if p := problem(t, send(422, strings.Replace(keyBody, "Zapier", "Other", 1))); p.Code != "idempotency_key_reused" {
		t.Errorf("another body: %+v", p)
	}
	rotate := func() wire.Rotated {
		return as[wire.Rotated](t, s.Must(201, s.Owner, "POST", keys+"/"+a.Key.ID+"/rotate", `{"grace":"1h"}`, "Idempotency-Key", "wish-2"))
	}
	one, two := rotate(), rotate()
	if one.Key.ID != two.Key.ID || one.Secret == "" || two.Secret != "" {
		t.Errorf("rotated twice: %+v and %+v", one, two)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	connect(s, "acme")
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	before, err := s.Ledger.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, all := readDocument(t, s)
	n := 0
	for _, op := range all {
		if !op.change() {
			continue
		}
		target := filled(op.path, "acme", "hiring", "gold", key.Key.ID) + "?dry_run=true"
		caller := s.Owner
		if op.OperationID == "revoke-self" {
			caller = key.Secret
		}
		body, headers := strings.NewReplacer(`"id":"acme"`, `"id":"new"`, `"id":"support"`, `"id":"new"`, `"id":"gold"`, `"id":"new"`).Replace(op.body(t)), []string(nil)
		if op.OperationID == "revoke-token" {
			body, headers = "token="+key.Secret, []string{"Content-Type", "application/x-www-form-urlencoded"}
		}
		a := s.Do(caller, op.method, target, body, headers...)
		if a.Status != 200 {
			t.Errorf("%s: %d %s", op.OperationID, a.Status, a.Body)
			continue
		}
		if out := as[wire.DryRun](t, a); !out.DryRun || len(out.Events) == 0 || strings.Contains(strings.ReplaceAll(a.Body, `"secret":"(sealed)"`, ""), `"secret":`) {
			t.Errorf("%s: %s", op.OperationID, a.Body)
		}
		n++
	}
	after, err := s.Ledger.Last(t.Context())
	if err != nil || after != before || n < 12 {
		t.Errorf("after %d dry runs the ledger went from %d to %d, %v", n, before, after, err)
	}
}

// A key that was pasted into any field of any body, any parameter, path or
// header is refused or masked, and comes back nowhere.
func TestSecretsPastedAnywhere(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	connect(s, "acme")
	furnish(s, "importers")
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	d, all := readDocument(t, s)
	fields := 0
	refused := func(where string, a apitest.Answer) {
		t.Helper()
		silent(t, where, a, key.Secret)
		if strings.HasPrefix(where, "import-keys.keys[]") {
			// Each key of an import is refused by itself.
			got := as[wire.ImportedKeys](t, a)
			if got.Refused != len(got.Items) || got.Refused == 0 || got.Items[0].Problem.Code != "secret_in_field" {
				t.Errorf("%s: %s", where, a.Body)
			}
			return
		}
		if strings.Contains(where, "provider-key.secret") {
			// A secret belongs there: whose it is is told, or that nothing more can be.
			return
		}
		if a.Status != 422 || problem(t, a).Code != "secret_in_field" {
			t.Errorf("%s: %d %s", where, a.Status, a.Body)
		}
	}
	for _, op := range all {
		if !strings.HasPrefix(op.path, "/v1/organizations") {
			continue
		}
		org := "acme"
		if op.OperationID == "import-keys" {
			// It goes on where others are refused, and acme comes to an end here.
			org = "importers"
		}
		target := filled(op.path, org, "hiring", "gold", key.Key.ID)
		for name := range strings.SplitSeq("org,workspace,profile,key", ",") {
			if !strings.Contains(op.path, "{"+name+"}") {
				continue
			}
			path := filled(strings.Replace(op.path, "{"+name+"}", key.Secret, 1), "acme", "hiring", "gold", key.Key.ID)
			refused(op.OperationID+" path "+name, s.Do(s.Owner, op.method, path, op.body(t)))
		}
		for _, p := range op.Parameters {
			switch p.In {
			case "query":
				refused(op.OperationID+" ?"+p.Name, s.Do(s.Owner, op.method, target+"?"+p.Name+"="+key.Secret, op.body(t)))
			case "header":
				a := s.Do(s.Owner, op.method, target, op.body(t), p.Name, key.Secret)
				if p.Name != "X-Request-Id" {
					refused(op.OperationID+" header "+p.Name, a)
				}
				silent(t, op.OperationID+" header "+p.Name, a, key.Secret)
			}
		}
		refused(op.OperationID+" unknown parameter", s.Do(s.Owner, op.method, target+"?"+key.Secret+"=1", op.body(t)))
		if op.RequestBody == nil {
			continue
		}
		content := op.RequestBody.Content["application/json"]
		example, _ := content.Example.(map[string]any)
		for where, body := range d.pasted(op.OperationID, content.Schema, example, key.Secret) {
			fields++
			b, err := json.Marshal(body)
			if err != nil {
				t.Fatal(err)
			}
			refused(where, s.Do(s.Owner, op.method, target, string(b)))
			refused(where+" escaped", s.Do(s.Owner, op.method, target, strings.Replace(string(b), key.Secret, `\u006b`+key.Secret[1:], 1)))
		}
		refused(op.OperationID+" no JSON", s.Do(s.Owner, op.method, target, key.Secret))
		refused(op.OperationID+" broken off", s.Do(s.Owner, op.method, target, `{"name":"`+key.Secret))
		refused(op.OperationID+" behind", s.Do(s.Owner, op.method, target, `{} "`+key.Secret+`"`))
	}
	if fields < 60 {
		t.Errorf("only %d fields were tried", fields)
	}
	refused("verify permission", s.Do(s.Owner, "POST", "/v1/verify", `{"secret":"x","permission":"`+key.Secret+`"}`))
	refused("verify workspace", s.Do(s.Owner, "POST", "/v1/verify", `{"secret":"x","workspace":"`+key.Secret+`"}`))
	for where, a := range map[string]apitest.Answer{
		"verify member":  s.Do(s.Owner, "POST", "/v1/verify", `{"secret":"x","`+key.Secret+`":1}`),
		"verify context": s.Do(s.Owner, "POST", "/v1/verify", `{"secret":"x","context":{"path":"/?k=`+key.Secret+`","request_id":"`+key.Secret+`"}}`),
		"verify broken":  s.Do(s.Owner, "POST", "/v1/verify", `{"secret":"`+key.Secret+`"`),
		"authorize":      s.Do(key.Secret, "GET", "/v1/authorize?permission="+key.Secret, "", "X-Forwarded-Uri", "/"+key.Secret, "X-Keyledger-Workspace", key.Secret),
		"authorize what": s.Do(key.Secret, "GET", "/v1/authorize?"+key.Secret+"=1", ""),
		"unknown path":   s.Do(s.Owner, "GET", "/"+key.Secret, ""),
		"unclean path":   s.Do(s.Owner, "GET", "//"+key.Secret, ""),
		"events types":   s.Do(s.Owner, "GET", "/v1/events?types="+key.Secret, ""),
		"last event":     s.Do(s.Owner, "GET", "/v1/events", "", "Last-Event-ID", key.Secret),
		"basic":          s.Do("", "GET", "/v1/whoami", "", "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(key.Secret))),
		"metrics":        s.Do("", "GET", "/metrics", ""),
		"history":        s.Do(s.Owner, "GET", "/v1/organizations/acme/keys/"+key.Key.ID+"/history", ""),
	} {
		silent(t, where, a, key.Secret)
	}
	for _, secret := range []string{key.Secret, s.Owner} {
		if strings.Contains(s.Log.String(), secret) || strings.Contains(s.Log.String(), secret[len(secret)-12:]) {
			t.Error("the log tells a secret")
		}
	}
}

func silent(t *testing.T, where string, a apitest.Answer, secret string) {
	t.Helper()
	if a.Status >= 500 {
		t.Errorf("%s: %d %s", where, a.Status, a.Body)
	}
	shown := a.Body
	for name, values := range a.Header {
		shown += name + strings.Join(values, " ")
	}
	// The last 12 characters are enough to know a key by.
	if strings.Contains(shown, secret[len(secret)-12:]) {
		t.Errorf("%s: the answer tells the secret", where)
	}
}

// pasted returns bodies of a schema, each with the secret in one place: every
// string, every name of a free member, and a member that does not exist.
func (d described) pasted(where string, s *schema, example map[string]any, secret string) map[string]map[string]any {
	out := map[string]map[string]any{}
	with := func(name string, v any) map[string]any {
		body := maps.Clone(example)
		if body == nil {
			body = map[string]any{}
		}
		body[name] = v
		return body
	}
	out[where+" unknown member"] = with(secret, 1)
	for name, p := range d.resolve(s).Properties {
		for place, v := range d.secrets(p, secret) {
			out[where+"."+name+place] = with(name, v)
		}
	}
	return out
}

// secrets returns values of a schema, each with the secret in one place.
func (d described) secrets(s *schema, secret string) map[string]any {
	out := map[string]any{}
	add := func(place string, wrap func(any) any, inner *schema) {
		for deeper, v := range d.secrets(inner, secret) {
			out[place+deeper] = wrap(v)
		}
	}
	s = d.resolve(s)
	switch {
	case len(s.OneOf) > 0:
		for _, one := range s.OneOf {
			maps.Copy(out, d.secrets(one, secret))
		}
	case mayBe(s, "string"):
		out[""] = secret
	case mayBe(s, "array"):
		add("[]", func(v any) any { return []any{v} }, s.Items)
	case mayBe(s, "object"):
		for name, p := range s.Properties {
			add("."+name, func(v any) any { return map[string]any{name: v} }, p)
		}
		if s.AdditionalProperties != nil && s.AdditionalProperties != false {
			out[".name"] = map[string]any{secret: "x"}
			out[".value"] = map[string]any{"x": secret}
			out[".deep"] = map[string]any{"x": []any{map[string]any{"y": "see " + secret + "."}}}
		}
	default:
		out[" in the place of another type"] = secret
	}
	return out
}

// What the document says of lengths and choices is held.
func TestDocumentedBoundsAreHeld(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	connect(s, "acme")
	furnish(s, "importers")
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	d, all := readDocument(t, s)
	tried := 0
	for _, op := range all {
		if op.RequestBody == nil || !op.change() {
			continue
		}
		content, ok := op.RequestBody.Content["application/json"]
		if !ok {
			continue
		}
		example, _ := content.Example.(map[string]any)
		for name, p := range d.resolve(content.Schema).Properties {
			p = d.resolve(p)
			for what, v := range map[string]any{"too long": strings.Repeat("a", p.MaxLength+1), "no choice": "nothing-of-these"} {
				if what == "too long" && p.MaxLength == 0 || what == "no choice" && len(p.Enum) == 0 {
					continue
				}
				body := maps.Clone(example)
				body[name] = v
				b, err := json.Marshal(body)
				if err != nil {
					t.Fatal(err)
				}
				tried++
				a := s.Do(s.Owner, op.method, filled(op.path, "acme", "hiring", "gold", key.Key.ID)+"?dry_run=true", string(b))
				if a.Status < 400 || a.Status >= 500 {
					t.Errorf("%s: %s %s: %d %s", op.OperationID, name, what, a.Status, a.Body)
				}
			}
		}
	}
	if tried < 30 {
		t.Errorf("only %d bounds were tried", tried)
	}
}

// FuzzBodies sends anything as the body of anything.
func FuzzBodies(f *testing.F) {
	s := apitest.Start(f)
	furnish(s, "acme")
	connect(s, "acme")
	key := as[wire.Created](f, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	_, all := readDocument(f, s)
	var targets []*operation
	for _, op := range all {
		if op.RequestBody != nil {
			targets = append(targets, op)
			f.Add(uint8(len(targets)-1), []byte(op.body(f)))
		}
	}
	for _, seed := range []string{
		"", "{}", "null", `{"name":null}`, `{"metadata":{"a":null}}`, `{"scope":{"workspaces":[""]}}`, `{"permissions":[""]}`, "{\"name\":\"\xff\"}",
		`{"expires_at":"0000-01-01T00:00:00Z"}`, `{"expires_at":"9999-12-31T23:59:59.999999999Z"}`, `{"limits":{"max_active_keys":1e400}}`,
		`{"settings":{"a":{"a":{"a":[]}}}}`, `{"secret":"` + key.Secret + `"}`, `{"name":"` + key.Secret + `"}`,
	} {
		for i := range targets {
			f.Add(uint8(i), []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		op := targets[int(which)%len(targets)]
		target := filled(op.path, "acme", "hiring", "gold", key.Key.ID)
		if op.change() {
			target += "?dry_run=true"
		}
		a := s.Serve(s.Owner, op.method, target, body)
		if a.Status >= 500 || a.Status < 200 || a.Status == http.StatusUnauthorized {
			t.Fatalf("%s: %d %s", op.OperationID, a.Status, a.Body)
		}
		if keystring.Contains(a.Body) {
			t.Fatalf("%s: the answer tells a key", op.OperationID)
		}
		if a.Status >= 400 {
			problem(t, a)
		}
	})
}
