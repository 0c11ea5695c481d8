package middleware_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/middleware"
)

// oracle answers every question with one code, and keeps the question.
type oracle struct {
	code  events.Code
	asked []verify.Question
}

func (o *oracle) Verify(_ context.Context, q *verify.Question) verify.Decision {
	o.asked = append(o.asked, *q)
	return verify.Decision{Code: o.code, Org: "acme", Permission: q.Permission}
}

func guard(t *testing.T, c middleware.Config) *middleware.Guard {
	t.Helper()
	g, err := middleware.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// answer has a handler behind a guard answer a request.
func answer(h http.Handler, r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

// secret is a key of our own form.
var secret = func() string {
	key, err := keystring.New("kl_test", [24]byte{1})
	if err != nil {
		panic(err)
	}
	return key.Reveal()
}()

func request(method, target string) *http.Request {
	r := httptest.NewRequest(method, target, http.NoBody)
	r.Header.Set("Authorization", "Bearer "+secret)
	return r
}

// TestDenials: only VALID comes through; everything else is answered as RFC 6750 and
// RFC 9457 have it, whatever the verifier returns.
func TestDenials(t *testing.T) {
	const invalid = `Bearer realm="keyledger", error="invalid_token", error_description="`
	for code, want := range map[events.Code]struct {
		status          int
		code, challenge string
	}{
		events.CodeNone:                    {401, "unauthenticated", `Bearer realm="keyledger"`},
		events.CodeMalformed:               {401, "key_malformed", invalid + `this is not a key"`},
		events.CodeNotFound:                {401, "key_not_found", invalid + `there is no such key"`},
		events.CodeRevoked:                 {401, "key_revoked", invalid + `the key was revoked"`},
		events.CodeExpired:                 {401, "key_expired", invalid + `the key has expired"`},
		events.CodeInactive:                {401, "key_inactive", invalid + `the key is switched off"`},
		events.CodeInsufficientPermissions: {403, "insufficient_permissions", `Bearer realm="keyledger", error="insufficient_scope", scope="doc:read"`},
		events.CodeOutOfScope:              {403, "out_of_scope", `Bearer realm="keyledger", error="insufficient_scope", scope="doc:read"`},
		events.CodeStale:                   {503, "stale", ""},
		events.CodeUnavailable:             {503, "unavailable", ""},
		events.Code(99):                    {503, "unavailable", ""},
		events.CodeValid:                   {status: 200},
	} {
		g := guard(t, middleware.Config{Verifier: &oracle{code: code}})
		came := false
		res := answer(g.Require("doc:read", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			d, ok := verify.FromContext(r.Context())
			came = ok && d.Valid() && d.Org == "acme"
		})), request("GET", "/docs/1"))
		if came != (code == events.CodeValid) || res.StatusCode != want.status || res.Header.Get("WWW-Authenticate") != want.challenge {
			t.Errorf("%s: came through: %t, %d %q", code, came, res.StatusCode, res.Header.Get("WWW-Authenticate"))
		}
		if came {
			continue
		}
		var p struct {
			Code   string `json:"code"`
			Status int    `json:"status"`
		}
		if err := json.NewDecoder(res.Body).Decode(&p); err != nil || p.Code != want.code || p.Status != want.status ||
			res.Header.Get("Content-Type") != "application/problem+json" || res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %+v, %v, %v", code, p, res.Header, err)
		}
		if (res.Header.Get("Retry-After") != "") != (want.status == 503) {
			t.Errorf("%s: Retry-After %q", code, res.Header.Get("Retry-After"))
		}
	}
}

// TestQuestion is what the request says, and what the configuration makes of it.
func TestQuestion(t *testing.T) {
	o := &oracle{code: events.CodeValid}
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	last := func() verify.Question { return o.asked[len(o.asked)-1] }

	r := request("POST", "/docs/a%2Fb?key="+secret)
	r.Header.Set("X-Request-Id", "r-1")
	r.Header.Set("User-Agent", "curl")
	answer(guard(t, middleware.Config{Verifier: o}).Authenticate(next), r)
	if q := last(); q.Secret != secret || q.Permission != "" || q.Method != "POST" || q.Path != "/docs/a%2Fb" ||
		q.Context.RequestID != "r-1" || q.Context.Path != "/docs/a%2Fb" || q.Context.UserAgent != "curl" || q.Context.ClientIP != "" {
		t.Errorf("by route: %#v %+v", q.Path, q.Context)
	}
	// A key in the path is no part of what is recorded.
	answer(guard(t, middleware.Config{Verifier: o}).Authenticate(next), request("GET", "/docs/"+secret))
	if q := last(); strings.Contains(q.Context.Path, secret) {
		t.Error("a key is recorded with the path")
	}
	g := guard(t, middleware.Config{
		Verifier: o, Permission: func(*http.Request) string { return "doc:read" },
		ClientIP: func(*http.Request) string { return "192.0.2.1" },
		Question: func(r *http.Request, q *verify.Question) {
			q.Workspace = events.WorkspaceID(r.Header.Get("X-Workspace"))
		},
	})
	r = request("GET", "/docs/1")
	r.Header.Set("X-Workspace", "w1")
	answer(g.Authenticate(next), r)
	if q := last(); q.Permission != "doc:read" || q.Method != "" || q.Workspace != "w1" || q.Context.ClientIP != "192.0.2.1" || q.From != "192.0.2.1" {
		t.Errorf("%+v %+v", q.Permission, q.Context)
	}
	answer(g.Require("doc:write", next), request("GET", "/docs/1"))
	if q := last(); q.Permission != "doc:write" {
		t.Errorf("required: %s", q.Permission)
	}
}

// TestKey: where a key may stand.
func TestKey(t *testing.T) {
	for name, c := range map[string]struct {
		header http.Header
		want   string
	}{
		"none":      {http.Header{}, ""},
		"bearer":    {http.Header{"Authorization": {"Bearer  k "}}, "k"},
		"any case":  {http.Header{"Authorization": {"bEARER k"}}, "k"},
		"basic":     {http.Header{"Authorization": {"Basic k"}}, ""},
		"api key":   {http.Header{"X-Api-Key": {"k"}}, "k"},
		"both":      {http.Header{"Authorization": {"Bearer k"}, "X-Api-Key": {"other"}}, "k"},
		"no scheme": {http.Header{"Authorization": {"k"}}, ""},
	} {
		if got := middleware.Key(&http.Request{Header: c.header}); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	o := &oracle{code: events.CodeValid}
	r := httptest.NewRequest("GET", "/?key="+secret, http.NoBody)
	if res := answer(guard(t, middleware.Config{Verifier: o}).Authenticate(http.NotFoundHandler()), r); res.StatusCode != 401 || len(o.asked) != 0 {
		t.Errorf("a key in the URL: %d", res.StatusCode)
	}
}

// TestDenied: an application may answer for itself.
func TestDenied(t *testing.T) {
	g := guard(t, middleware.Config{Verifier: &oracle{code: events.CodeRevoked}, Denied: func(w http.ResponseWriter, _ *http.Request, d *verify.Decision) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write([]byte(d.Code.String()))
	}})
	if res := answer(g.Authenticate(http.NotFoundHandler()), request("GET", "/")); res.StatusCode != http.StatusTeapot {
		t.Errorf("%d", res.StatusCode)
	}
	for _, c := range []middleware.Config{{}, {Verifier: &oracle{}, Realm: `a"b`}} {
		if _, err := middleware.New(c); err == nil {
			t.Errorf("%+v is taken", c.Realm)
		}
	}
}
