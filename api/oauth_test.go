package api_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
)

const (
	introspectPath = "/oauth2/introspect"
	revokePath     = "/oauth2/revoke"
)

// form sends a form.
func form(s *apitest.Server, key, path, body string, headers ...string) apitest.Answer {
	return s.Do(key, "POST", path, body, append([]string{"Content-Type", "application/x-www-form-urlencoded"}, headers...)...)
}

func mustForm(t *testing.T, s *apitest.Server, status int, key, path, body string, headers ...string) apitest.Answer {
	t.Helper()
	a := form(s, key, path, body, headers...)
	if a.Status != status {
		t.Fatalf("%s: %d %s, want %d", path, a.Status, a.Body, status)
	}
	return a
}

func TestIntrospect(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "other")
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys",
		`{"permissions":["interview:read"],"scope":{"workspaces":["hiring"]},"expires_in":"90d"}`))
	all := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	got := as[wire.Introspection](t, mustForm(t, s, 200, s.Owner, introspectPath, "token="+url.QueryEscape(key.Secret)+"&token_type_hint=access_token&client_id=x"))
	if !got.Active || *got.Scope != "interview:read" || got.Sub != key.Key.ID || got.ClientID != key.Key.ID || got.Exp != key.Key.ExpiresAt.Unix() ||
		got.TokenType != "Bearer" || got.Iss != "urn:uuid:"+s.Positions.Ledger.String() || got.Keyledger.Organization != "acme" || !got.Keyledger.Valid {
		t.Errorf("%+v", got)
	}
	if got := as[wire.Introspection](t, mustForm(t, s, 200, s.Owner, introspectPath, "token="+all.Secret)); !got.Active || got.Scope == nil || *got.Scope != strings.Join(all.Key.EffectivePermissions, " ") || got.Exp != 0 {
		t.Errorf("%+v", got)
	}
	elsewhere := managementKey(t, s, "other", "verifier", everywhere)
	revoked := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	s.Must(200, s.Owner, "DELETE", "/v1/organizations/acme/keys/"+revoked.Key.ID, "")
	for name, ask := range map[string][2]string{
		"unknown": {s.Owner, "token=" + strange(t)}, "malformed": {s.Owner, "token=x"}, "revoked": {s.Owner, "token=" + revoked.Secret},
		"of another organization": {elsewhere, "token=" + key.Secret}, "a management key": {s.Owner, "token=" + s.Owner},
		"not granted": {s.Owner, "token=" + key.Secret + "&permission=interview:start"}, "elsewhere": {s.Owner, "token=" + key.Secret + "&workspace=support"},
	} {
		// Nothing else may be told, not even by a header.
		if a := mustForm(t, s, 200, ask[0], introspectPath, ask[1]); a.Body != `{"active":false}` || a.Header.Get("Content-Type") != "application/json" || a.Header.Get("X-Keyledger-Code") != "" {
			t.Errorf("%s: %s", name, a.Body)
		}
	}
	// A name that means nothing, and the key as the password.
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("gateway:"+s.Owner))
	if got := as[wire.Introspection](t, mustForm(t, s, 200, "", introspectPath, "token="+key.Secret, "Authorization", basic)); !got.Active {
		t.Errorf("%+v", got)
	}
	confined := managementKey(t, s, "acme", "verifier", `{"workspaces":["hiring"]}`)
	mustForm(t, s, 403, confined, introspectPath, "token="+key.Secret)
	if got := as[wire.Introspection](t, mustForm(t, s, 200, confined, introspectPath, "token="+key.Secret+"&workspace=hiring")); !got.Active {
		t.Errorf("%+v", got)
	}
	s.Config.Verifier.Close()
	if a := form(s, s.Owner, introspectPath, "token="+key.Secret); a.Status != 503 || strings.Contains(a.Body, "active") {
		t.Errorf("what cannot be told: %d %s", a.Status, a.Body)
	}
}

// A management key may introspect, whose verdict is not there; the token's is not.
func TestOAuthRefuses(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody)).Secret
	for name, tt := range map[string]struct {
		key, body, kind, query string
		status                 int
		oauth                  string
	}{
		"nobody asks":          {"", "token=" + key, "", "", 401, "invalid_client"},
		"a token asks":         {key, "token=" + key, "", "", 403, "unauthorized_client"},
		"no token":             {s.Owner, "x=y", "", "", 400, "invalid_request"},
		"empty token":          {s.Owner, "token=", "", "", 400, "invalid_request"},
		"no body":              {s.Owner, "", "", "", 400, "invalid_request"},
		"two tokens":           {s.Owner, "token=" + key + "&token=" + key, "", "", 400, "invalid_request"},
		"anything twice":       {s.Owner, "token=" + key + "&x=1&x=2", "", "", 400, "invalid_request"},
		"no form":              {s.Owner, "token=%zz", "", "", 400, "invalid_request"},
		"JSON":                 {s.Owner, `{"token":"` + key + `"}`, "application/json", "", 415, "invalid_request"},
		"too much":             {s.Owner, "token=" + strings.Repeat("x", 33<<10), "", "", 413, "invalid_request"},
		"in the URL":           {s.Owner, "", "", "?token=x", 400, "invalid_request"},
		"a key in the URL":     {s.Owner, "", "", "?token=" + key, 422, "invalid_request"},
		"empty permission":     {s.Owner, "token=" + key + "&permission=", "", "", 400, "invalid_request"},
		"a key as permission":  {s.Owner, "token=x&permission=" + key, "", "", 400, "invalid_request"},
		"no permission at all": {s.Owner, "token=x&permission=a+AND", "", "", 400, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			var headers []string
			if tt.kind != "" {
				headers = []string{"Content-Type", tt.kind}
			}
			a := mustForm(t, s, tt.status, tt.key, introspectPath+tt.query, tt.body, headers...)
			if p := problem(t, a); p.Error != tt.oauth || strings.Contains(a.Body, key) || a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s", a.Body)
			}
		})
	}
	s.Must(405, s.Owner, "GET", introspectPath, "")
	if log := s.Log.String(); strings.Contains(log, key) {
		t.Error("the token is in the log")
	}
}

func TestRevokeToken(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "other")
	const keys = "/v1/organizations/acme/keys"
	admin, member := managementKey(t, s, "acme", "admin", everywhere), managementKey(t, s, "acme", "member", everywhere)
	foreign := managementKey(t, s, "other", "owner", everywhere)
	made := func() wire.Created { return as[wire.Created](t, s.Must(201, s.Owner, "POST", keys, keyBody)) }
	by := func(k wire.Created) string { return s.Must(200, s.Owner, "GET", keys+"/"+k.Key.ID+"/history", "").Body }

	held := made()
	for range 2 {
		// The second time it has ended already, which is as good.
		if a := mustForm(t, s, 200, "", revokePath, "token="+held.Secret+"&token_type_hint=refresh_token", "Keyledger-Reason", "pushed to a repository"); a.Body != "" {
			t.Errorf("%s", a.Body)
		}
		if v := verdict(t, s, s.Owner, held.Secret, ""); v.Code != "REVOKED" {
			t.Errorf("%+v", v)
		}
	}
	if h := by(held); !strings.Contains(h, `"actor":"key/acme/`+held.Key.ID+`"`) || !strings.Contains(h, "pushed to a repository") {
		t.Errorf("nobody can tell that the key did it: %s", h)
	}
	self := made()
	mustForm(t, s, 200, self.Secret, revokePath, "token="+self.Secret)
	managed := made()
	mustForm(t, s, 200, admin, revokePath, "token="+managed.Secret)
	if h := by(managed); strings.Contains(h, `"actor":"key/acme/`+managed.Key.ID+`"`) || verdict(t, s, s.Owner, managed.Secret, "").Code != "REVOKED" {
		t.Errorf("not the manager's doing: %s", h)
	}
	// What is no token needs no end, whoever asks for it.
	for _, key := range []string{"", admin} {
		for _, token := range []string{strange(t), "nonsense"} {
			mustForm(t, s, 200, key, revokePath, "token="+token)
		}
	}
	kept := made()
	for _, key := range []string{member, foreign} {
		if p := problem(t, mustForm(t, s, 403, key, revokePath, "token="+kept.Secret)); p.Error != "unauthorized_client" {
			t.Errorf("%+v", p)
		}
	}
	for _, key := range []string{"nonsense", held.Secret} {
		if p := problem(t, mustForm(t, s, 401, key, revokePath, "token="+kept.Secret)); p.Error != "invalid_client" {
			t.Errorf("%+v", p)
		}
	}
	mustForm(t, s, http.StatusConflict, "", revokePath, "token="+s.Owner)
	for token, events := range map[string]int{kept.Secret: 1, strange(t): 0} {
		if dry := as[wire.DryRun](t, mustForm(t, s, 200, "", revokePath+"?dry_run=true", "token="+token)); !dry.DryRun || len(dry.Events) != events {
			t.Errorf("tried: %+v", dry)
		}
	}
	mustForm(t, s, 400, "", revokePath+"?token=x", "token="+kept.Secret)
	if v := verdict(t, s, s.Owner, kept.Secret, ""); v.Code != "VALID" {
		t.Errorf("refused, and done: %+v", v)
	}
	s.Config.Verifier.Close()
	if a := form(s, "", revokePath, "token="+kept.Secret); a.Status != 503 || a.Header.Get("Retry-After") == "" {
		t.Errorf("what cannot be told passes for ended: %d %s", a.Status, a.Body)
	}
}

// A sidecar's document describes what it offers, and that nobody needs a key.
func TestSidecarDocument(t *testing.T) {
	body, err := api.SidecarDocument("1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	var d described
	if err := json.Unmarshal(body, &d); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/verify", "/v1/verify/batch", "/v1/authorize", "/v1/whoami", introspectPath, "/livez", "/readyz", "/metrics"} {
		for method, op := range d.Paths[path] {
			_, needs := op.Security[0]["key"]
			if needs != (path == "/v1/whoami") {
				t.Errorf("%s %s: %v", method, path, op.Security)
			}
		}
		if len(d.Paths[path]) == 0 {
			t.Errorf("%s is not described", path)
		}
	}
	if len(d.Paths) != 8 || strings.Contains(string(body), "/v1/organizations") {
		t.Errorf("%d paths", len(d.Paths))
	}
}
