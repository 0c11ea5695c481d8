package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
)

func batch(items ...string) string { return `{"requests":[` + strings.Join(items, ",") + `]}` }

func TestBatch(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "other")
	make := func(org, body string) wire.Created {
		return as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/"+org+"/keys", body))
	}
	reader := make("acme", `{"permissions":["interview:read"],"scope":{"workspaces":["hiring"]},"profile":"gold"}`)
	revoked, foreign := make("acme", keyBody), make("other", keyBody)
	s.Must(200, s.Owner, "POST", "/v1/organizations/acme/keys/"+revoked.Key.ID+"/revoke", "")
	verifier := managementKey(t, s, "acme", "verifier", everywhere)
	items := []string{
		`{"secret":"` + reader.Secret + `","permission":"interview:read OR interview:start","workspace":"hiring"}`,
		`{"secret":"` + reader.Secret + `","permission":"interview:*"}`,
		`{"secret":"` + revoked.Secret + `"}`,
		`{"secret":"nonsense"}`,
		`{"secret":"` + foreign.Secret + `"}`,
		`{"secret":"` + reader.Secret + `","workspace":"support","context":{"request_id":"r-6"}}`,
		`{"secret":"` + verifier + `"}`,
	}
	want := []string{"VALID", "INSUFFICIENT_PERMISSIONS", "REVOKED", "MALFORMED", "NOT_FOUND", "OUT_OF_SCOPE", "INSUFFICIENT_PERMISSIONS"}
	quick := batch(items...)
	for _, body := range []string{quick, strings.Replace(quick, `"secret":"kl`, `"secret":"\u006bl`, 1)} {
		before := s.Recorder.Stats().Recorded
		got := as[wire.Verdicts](t, s.Must(200, verifier, "POST", "/v1/verify/batch", body)).Verdicts
		// The caller's own use, and one for each key that is there.
		if n := s.Recorder.Stats().Recorded - before; n != 6 {
			t.Errorf("%d uses are recorded", n)
		}
		if len(got) != len(want) {
			t.Fatalf("%d verdicts", len(got))
		}
		for i, v := range got {
			if v.Code != want[i] || v.Valid != (want[i] == "VALID") || v.Position == "" {
				t.Errorf("%d: %+v, want %s", i, v, want[i])
			}
			// Each is what it would be alone.
			if alone := as[wire.Verdict](t, s.Must(200, verifier, "POST", "/v1/verify", items[i])); alone.Code != v.Code || alone.KeyID != v.KeyID || alone.Kind != v.Kind {
				t.Errorf("%d: %+v, and alone %+v", i, v, alone)
			}
		}
		if got[0].Profile == nil || got[0].Profile.ID != "gold" || !got[0].ScopeChecked || got[1].ScopeChecked || got[6].Kind != "management" || got[6].Role != "verifier" || got[0].Kind != "" {
			t.Errorf("%+v", got)
		}
	}
	if v := as[wire.Verdicts](t, s.Must(200, s.Owner, "POST", "/v1/verify/batch", batch(items[4]))).Verdicts; !v[0].Valid {
		t.Errorf("for the installation: %+v", v)
	}
}

// Whatever is wrong with one request refuses all, names it, and judges no key.
func TestBatchIsRefusedAsAWhole(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	good := `{"secret":"` + key.Secret + `","workspace":"hiring"}`
	confined := managementKey(t, s, "acme", "member", `{"workspaces":["hiring"]}`)
	many := func(n int) string { return batch(strings.Split(strings.Repeat(good+"\n", n), "\n")[:n]...) }
	for name, c := range map[string]struct {
		caller, body string
		status       int
		code, field  string
	}{
		"no secret":             {s.Owner, batch(good, good, `{"permission":"a:b"}`), 422, "invalid_value", "requests[2].secret"},
		"null":                  {s.Owner, batch(good, `null`), 422, "invalid_value", "requests[1].secret"},
		"no query":              {s.Owner, batch(good, `{"secret":"x","permission":"a:b OR"}`), 422, "invalid_value", "requests[1].permission"},
		"empty permission":      {s.Owner, batch(good, `{"secret":"x","permission":""}`), 400, "invalid_request", "requests[1].permission"},
		"key as a permission":   {s.Owner, batch(good, `{"secret":"x","permission":"`+key.Secret+`"}`), 422, "secret_in_field", "requests[1].permission"},
		"key as a workspace":    {s.Owner, batch(good, `{"secret":"x","workspace":"`+key.Secret+`"}`), 422, "secret_in_field", "requests[1].workspace"},
		"no position":           {s.Owner, batch(good, `{"secret":"x","at_least":"p"}`), 400, "invalid_position", "requests[1].at_least"},
		"no such member":        {s.Owner, batch(good, `{"secret":"x","kind":"api"}`), 400, "invalid_request", "requests[1].kind"},
		"none":                  {s.Owner, batch(), 422, "invalid_value", "requests"},
		"nothing":               {s.Owner, "{}", 422, "invalid_value", "requests"},
		"too many":              {s.Owner, many(api.MaxVerifyBatch + 1), 422, "invalid_value", "requests"},
		"too long":              {s.Owner, batch(`{"secret":"` + strings.Repeat("x", api.MaxVerifyBatchBytes) + `"}`), 413, "body_too_large", ""},
		"nowhere, and confined": {confined, batch(good, `{"secret":"x"}`), 403, "forbidden", "requests[1].workspace"},
		"outside, and confined": {confined, batch(good, good, `{"secret":"x","workspace":"support"}`), 403, "forbidden", "requests[2].workspace"},
		"an API key":            {key.Secret, batch(good), 403, "forbidden", ""},
		"nobody":                {"", batch(good), 401, "unauthenticated", "Authorization"},
	} {
		t.Run(name, func(t *testing.T) {
			before := s.Recorder.Stats().Recorded
			a := s.Do(c.caller, "POST", "/v1/verify/batch", c.body)
			if p := problem(t, a); a.Status != c.status || p.Code != c.code || p.Field != c.field {
				t.Errorf("%d %s", a.Status, a.Body)
			}
			silent(t, name, a, key.Secret)
			if n := s.Recorder.Stats().Recorded - before; n > 1 {
				t.Errorf("%d uses are recorded", n)
			}
		})
	}
	if v := as[wire.Verdicts](t, s.Must(200, confined, "POST", "/v1/verify/batch", many(api.MaxVerifyBatch))).Verdicts; len(v) != api.MaxVerifyBatch || !v[99].Valid {
		t.Errorf("%d verdicts", len(v))
	}
	s.Must(400, s.Owner, "POST", "/v1/verify/batch?key=x", batch(good))
	s.Must(http.StatusMethodNotAllowed, s.Owner, "GET", "/v1/verify/batch", "")
}

// A query that cannot be read is told to who asks for a verdict, and denied to
// who comes through a gateway, where the use tells.
func TestQueriesThroughBothDoors(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	long := strings.Repeat("interview:read OR ", 40) + "interview:read"
	for query, want := range map[string]string{
		"interview:read OR interview:start":                      "VALID",
		"interview:read and (interview:start or interview:read)": "VALID",
		"interview:read AND interview:start":                     "INSUFFICIENT_PERMISSIONS",
		"interview:*":                                            "INSUFFICIENT_PERMISSIONS",
		"nothing:*":                                              "INSUFFICIENT_PERMISSIONS",
		"interview:read OR":                                      "at byte 18",
		"interview:read AND NOT interview:start":                 "there is no NOT",
		long:                                                     "at most 512 bytes",
	} {
		a := s.Do(s.Owner, "POST", "/v1/verify", fmt.Sprintf(`{"secret":%q,"permission":%q}`, key.Secret, query))
		gateway := s.Do(key.Secret, "GET", "/v1/authorize", "", "X-Keyledger-Permission", query)
		if strings.ToUpper(want) == want {
			if v := as[wire.Verdict](t, a); a.Status != 200 || v.Code != want || gateway.Header.Get("X-Keyledger-Code") != want {
				t.Errorf("%q: %s, and %s", query, a.Body, gateway.Header.Get("X-Keyledger-Code"))
			}
			continue
		}
		if p := problem(t, a); p.Status != 422 || p.Code != "invalid_value" || p.Field != "permission" || !strings.Contains(p.Detail, want) || strings.Contains(p.Detail, query) {
			t.Errorf("%q: %s", query, a.Body)
		}
		if gateway.Status != 403 || gateway.Header.Get("X-Keyledger-Code") != "INSUFFICIENT_PERMISSIONS" || gateway.Header.Get("X-Keyledger-Key-Id") != key.Key.ID {
			t.Errorf("%q: %d %s", query, gateway.Status, gateway.Body)
		}
	}
	// A client cannot make of the gateway's question another, of two halves.
	for _, halves := range [][2]string{{"interview:start OR (", "interview:read)"}, {"interview:start OR ", " interview:read"}, {"interview:start", "OR interview:read"}} {
		a := s.Do(key.Secret, "GET", "/v1/authorize?permission="+url.QueryEscape(halves[1]), "", "X-Keyledger-Permission", halves[0])
		if a.Status != 403 || a.Header.Get("X-Keyledger-Code") != "INSUFFICIENT_PERMISSIONS" {
			t.Errorf("%q: %d", halves, a.Status)
		}
	}
}
