package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
)

func connect(t *testing.T, s *apitest.Server) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: s.URL + "/", Key: client.Secret(s.Owner + "\n"), UserAgent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func check[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Every method, against a real server.
func TestEveryRoute(t *testing.T) {
	s := apitest.Start(t)
	c, ctx := connect(t, s), t.Context()
	org := check[wire.Organization](t)
	if o := org(c.CreateOrganization(ctx, wire.CreateOrganization{ID: "acme", Name: "Acme"})); o.Plan != "growth" {
		t.Errorf("%+v", o)
	}
	patched := org(c.UpdateOrganization(ctx, "acme", wire.UpdateOrganization{
		Limits: wire.Some(wire.UpdateLimits{MaxActiveKeys: wire.Some(10)}), Policy: wire.Some(wire.UpdatePolicy{DefaultPrefix: wire.Some("acme")}),
	}))
	again := org(c.UpdateOrganization(ctx, "acme", wire.UpdateOrganization{Limits: wire.Some(wire.UpdateLimits{MaxKeyLifetime: wire.Some("1y")})}))
	if patched.Limits.MaxActiveKeys != 10 || again.Limits.MaxActiveKeys != 10 || again.Limits.MaxKeyLifetime != "1y" || again.Policy.DefaultPrefix != "acme" {
		t.Errorf("merged: %+v then %+v", patched, again)
	}
	if o := org(c.UpdateOrganization(ctx, "acme", wire.UpdateOrganization{Limits: wire.Some(wire.UpdateLimits{MaxActiveKeys: wire.Null[int]()})})); o.Limits.MaxActiveKeys != 0 || o.Limits.MaxKeyLifetime != "1y" {
		t.Errorf("cleared: %+v", o)
	}
	if l := check[wire.List[wire.Organization]](t)(c.Organizations(ctx, client.Page{Limit: 1})); len(l.Items) != 1 || l.NextCursor == "" {
		t.Errorf("%+v", l)
	}
	check[wire.Workspace](t)(c.CreateWorkspace(ctx, "acme", wire.CreateWorkspace{ID: "hiring", Name: "Hiring"}))
	check[wire.Workspace](t)(c.UpdateWorkspace(ctx, "acme", "hiring", wire.UpdateWorkspace{Name: wire.Some("Talent")}))
	if w := check[wire.Workspace](t)(c.Workspace(ctx, "acme", "hiring")); w.Name != "Talent" {
		t.Errorf("%+v", w)
	}
	if l := check[wire.List[wire.Workspace]](t)(c.Workspaces(ctx, "acme", client.Page{})); len(l.Items) != 1 {
		t.Errorf("%+v", l)
	}
	check[wire.Permissions](t)(c.ReplacePermissions(ctx, "acme", wire.ReplacePermissions{Permissions: []wire.Permission{{Name: "a:read", Access: "read"}, {Name: "a:write", Access: "write"}}}))
	if p := check[wire.Permissions](t)(c.Permissions(ctx, "acme")); len(p.Permissions) != 2 {
		t.Errorf("%+v", p)
	}
	check[wire.Profile](t)(c.CreateProfile(ctx, "acme", wire.CreateProfile{ID: "gold", Name: "Gold", Settings: jsontext.Value(`{"a":1,"b":{"c":2}}`)}))
	if p := check[wire.Profile](t)(c.UpdateProfile(ctx, "acme", "gold", wire.UpdateProfile{Settings: jsontext.Value(`{"a":null,"b":{"d":3}}`)})); string(p.Settings) != `{"b":{"c":2,"d":3}}` {
		t.Errorf("%s", p.Settings)
	}
	if l := check[wire.List[wire.Profile]](t)(c.Profiles(ctx, "acme", client.Page{})); len(l.Items) != 1 {
		t.Errorf("%+v", l)
	}
	keys(t, c)
	check[wire.Deleted](t)(c.DeleteWorkspace(ctx, "acme", "hiring"))
	check[wire.Deleted](t)(c.DeleteOrganization(ctx, "acme"))
	if _, err := c.Organization(ctx, "acme"); code(err) != "not_found" {
		t.Errorf("after its end: %v", err)
	}
}

// keys is the part about keys.
func keys(t *testing.T, c *client.Client) {
	t.Helper()
	ctx := t.Context()
	created := check[wire.Created](t)(c.CreateKey(ctx, "acme", wire.CreateKey{
		Name: "one", Permissions: &wire.GrantWish{Level: "read_only"}, Scope: &wire.Scope{AllWorkspaces: true}, Profile: "gold", ExpiresIn: "30d",
		Metadata: map[string]string{"a": "1", "b": "2"},
	}))
	id := created.Key.ID
	if created.Key.Prefix != "acme" || created.Key.EffectivePermissions[0] != "a:read" {
		t.Errorf("%+v", created.Key)
	}
	var meta client.Answered
	k := check[wire.Key](t)(c.Key(ctx, "acme", id, client.Meta(&meta)))
	if meta.ETag != `"1"` || meta.RequestID == "" || *k.Profile != "gold" {
		t.Errorf("%+v %+v", meta, k)
	}
	k = check[wire.Key](t)(c.UpdateKey(ctx, "acme", id, wire.UpdateKey{Metadata: wire.Null[map[string]*string]()}, client.IfMatch(meta.ETag), client.Reason("tidy")))
	if len(k.Metadata) != 0 {
		t.Errorf("%+v", k.Metadata)
	}
	if _, err := c.UpdateKey(ctx, "acme", id, wire.UpdateKey{Name: wire.Null[string]()}, client.IfMatch(meta.ETag)); code(err) != "stale_revision" {
		t.Errorf("stale: %v", err)
	}
	var dry wire.DryRun
	if _, err := c.RevokeKey(ctx, "acme", id, wire.RevokeKey{}, client.DryRun(&dry)); err != nil || !dry.DryRun || len(dry.Events) != 1 {
		t.Errorf("%+v %v", dry, err)
	}
	if _, err := c.DeleteProfile(ctx, "acme", "gold"); code(err) != "in_use" || !strings.Contains(err.Error(), id) {
		t.Errorf("in use: %v", err)
	}
	check[wire.Deleted](t)(c.DeleteProfile(ctx, "acme", "gold", client.Force()))
	if k := check[wire.Key](t)(c.Key(ctx, "acme", id)); k.Profile != nil {
		t.Errorf("still attached: %s", *k.Profile)
	}
	rotated := check[wire.Rotated](t)(c.RotateKey(ctx, "acme", id, wire.RotateKey{Grace: "1h"}))
	if v := check[wire.Verdict](t)(c.Verify(ctx, wire.VerifyRequest{Secret: rotated.Secret, Permission: "a:read", AtLeast: rotated.Position})); !v.Valid {
		t.Errorf("%+v", v)
	}
	batch := check[wire.Verdicts](t)(c.VerifyBatch(ctx, wire.VerifyBatch{Requests: []wire.VerifyRequest{
		{Secret: rotated.Secret, Permission: "a:read OR a:write"}, {Secret: "nonsense"}, {Secret: rotated.Secret, Permission: "a:*"},
	}}))
	if v := batch.Verdicts; len(v) != 3 || !v[0].Valid || v[1].Code != "MALFORMED" || v[2].Code != "INSUFFICIENT_PERMISSIONS" {
		t.Errorf("%+v", batch)
	}
	changed := check[wire.Changed](t)(c.RevokeKey(ctx, "acme", id, wire.RevokeKey{Reason: "done", Cascade: true}))
	if changed.Key.Status != "REVOKED" {
		t.Errorf("%+v", changed)
	}
	if l := check[wire.List[wire.Key]](t)(c.Keys(ctx, "acme", client.KeyFilter{Status: "REVOKED", Query: "one", UnusedSince: time.Now(), Page: client.Page{Limit: 10}})); len(l.Items) != 2 {
		t.Errorf("revoked and unused: %+v", l)
	}
	if l := check[wire.List[wire.Change]](t)(c.KeyHistory(ctx, "acme", id, client.Page{})); len(l.Items) < 5 {
		t.Errorf("%+v", l)
	}
	if w := check[wire.Whoami](t)(c.Whoami(ctx)); w.Role != "owner" || w.Organization != "_system" {
		t.Errorf("%+v", w)
	}
}

func code(err error) string {
	var p *client.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return ""
}

// A change that was not done, or of which nobody knows, is sent again under the
// same idempotency key, and a refusal is not.
func TestRetries(t *testing.T) {
	for name, tt := range map[string]struct {
		first []int
		sent  int32
		fails string
	}{
		"at once":       {nil, 1, ""},
		"not done":      {[]int{503}, 2, ""},
		"not known":     {[]int{504, 503}, 3, ""},
		"cut off":       {[]int{0, 0}, 3, ""},
		"refused":       {[]int{409, 409}, 1, "conflict"},
		"never":         {[]int{503, 503, 503, 503}, 4, "conflict"},
		"from a proxy":  {[]int{502}, 1, "http_502"},
		"not our words": {[]int{418}, 1, "http_418"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var sent atomic.Int32
			keys := make(chan string, 10)
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := int(sent.Add(1))
				keys <- r.Header.Get("Idempotency-Key")
				if n > len(tt.first) {
					_, _ = w.Write([]byte(`{"position":"p1","later":true}`))
					return
				}
				switch status := tt.first[n-1]; status {
				case 0:
					panic(http.ErrAbortHandler)
				case 418, 502:
					http.Error(w, "<html>", status)
				default:
					w.WriteHeader(status)
					_, _ = w.Write([]byte(`{"type":"","title":"","status":1,"code":"conflict"}`))
				}
			}))
			defer s.Close()
			c, err := client.New(client.Config{URL: s.URL, Retries: 3})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.DeleteOrganization(t.Context(), "acme")
			if code(err) != tt.fails || (err != nil) != (tt.fails != "") {
				t.Errorf("got %v", err)
			}
			if got := sent.Load(); got != tt.sent {
				t.Errorf("sent %d times, want %d", got, tt.sent)
			}
			first := <-keys
			for range tt.sent - 1 {
				if next := <-keys; next != first || first == "" {
					t.Errorf("sent under %q and %q", first, next)
				}
			}
		})
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, url := range []string{"", "127.0.0.1:8080", "ftp://x", "http://user:pass@x", "http://x?y", "http://"} {
		if _, err := client.New(client.Config{URL: url}); !errors.Is(err, client.ErrConfig) {
			t.Errorf("%q: %v", url, err)
		}
	}
}

// No id leaves its place in the path.
func TestIDsStayInTheirPlace(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := strings.Count(r.URL.EscapedPath(), "/"); got != 5 {
			t.Errorf("path %s", r.URL.EscapedPath())
		}
		_, _ = w.Write([]byte(`{}`))
	}))
	defer s.Close()
	c, err := client.New(client.Config{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", ".", "..", "a/b", "../x", "a?b", "a#b", "%2f"} {
		if _, err := c.Key(t.Context(), "acme", id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestEvents(t *testing.T) {
	s := apitest.Start(t)
	c := connect(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan wire.Event, 100)
	done := make(chan error, 1)
	enough := errors.New("enough")
	go func() {
		n := 0
		done <- c.Events(ctx, client.Follow{After: "0", Types: []string{"workspace.created"}}, func(e wire.Event) error {
			got <- e
			if n++; n == 3 {
				return enough
			}
			return nil
		})
	}()
	check[wire.Organization](t)(c.CreateOrganization(ctx, wire.CreateOrganization{ID: "acme", Name: "Acme"}))
	for _, id := range []string{"one", "two", "three"} {
		w := check[wire.Workspace](t)(c.CreateWorkspace(ctx, "acme", wire.CreateWorkspace{ID: id, Name: id}))
		if e := <-got; e.Position != w.Position || e.Kind != "workspace.created" || !strings.Contains(string(e.Event), id) {
			t.Errorf("%+v, want %+v", e, w)
		}
	}
	if err := <-done; !errors.Is(err, enough) {
		t.Errorf("ended with %v", err)
	}
	if err := c.Events(ctx, client.Follow{Types: []string{"nothing"}}, func(wire.Event) error { return nil }); code(err) != "invalid_request" {
		t.Errorf("no such type: %v", err)
	}
}

// A server says why it ends a stream: what passes is told and taken up again,
// what does not is returned.
func TestEventsHearWhyTheyEnd(t *testing.T) {
	ends := []string{
		`{"code":"unavailable","status":503,"title":"","type":"","detail":"the server stops"}`,
		`{"code":"slow_reader","status":408,"title":"","type":"","detail":"read faster"}`,
		`no problem`,
		`{"code":"unauthenticated","status":401,"title":"","type":"","detail":"the key is not accepted"}`,
	}
	var n atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		turn := int(n.Add(1))
		if got, want := r.URL.Query().Get("after"), fmt.Sprintf("p%d", turn-1); got != want {
			t.Errorf("taken up after %q, want %q", got, want)
		}
		fmt.Fprintf(w, "id: p%d\nevent: key.created\ndata: {}\n\nevent: end\ndata: %s\n\n", turn, ends[turn-1])
	}))
	defer s.Close()
	c, err := client.New(client.Config{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	var seen, told []string
	err = c.Events(t.Context(), client.Follow{
		After: "p0", Interrupted: func(why error) { told = append(told, code(why)) },
	}, func(e wire.Event) error {
		seen = append(seen, e.Position)
		return nil
	})
	if code(err) != "unauthenticated" || strings.Join(seen, " ") != "p1 p2 p3 p4" || strings.Join(told, " ") != "unavailable slow_reader " {
		t.Errorf("saw %q, was told %q, ended with %v", seen, told, err)
	}
}

// A stream that breaks is taken up where it was.
func TestEventsAreTakenUpAgain(t *testing.T) {
	var n atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) {
		case 1:
			_, _ = w.Write([]byte("retry: 1\nid: p0\n\nid: p1\nevent: key.created\ndata: {}\n\nid: p2\nevent: key.created\ndata: {"))
		case 2:
			if got := r.URL.Query().Get("after"); got != "p1" {
				t.Errorf("taken up after %q", got)
			}
			_, _ = w.Write([]byte(": still here\nid: p2\n\nid: p3\nevent: key.revoked\ndata: {\ndata: }\n\n"))
		default:
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"code":"unauthenticated","status":401,"title":"","type":""}`))
		}
	}))
	defer s.Close()
	c, err := client.New(client.Config{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	err = c.Events(t.Context(), client.Follow{}, func(e wire.Event) error {
		seen = append(seen, e.Position+" "+string(e.Event))
		return nil
	})
	if code(err) != "unauthenticated" || strings.Join(seen, ",") != "p1 {},p3 {\n}" {
		t.Errorf("%q, %v", seen, err)
	}
}
