package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify/recording"
)

const (
	asker  = "kl_mgmt_key"
	askedK = "kl_test_key"
	keyID  = "0198c0de-0000-7000-8000-000000000001"
)

var askedAt = events.Positions{Ledger: events.LedgerID{1}, Epoch: 1}

// answers is a server that answers every question with the same.
func answers(t *testing.T, status int, body string) (*server, *atomic.Int64) {
	t.Helper()
	var asked atomic.Int64
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("Authorization") != "Bearer "+asker || r.URL.Path != "/v1/verify" || r.URL.RawQuery != "" || r.Method != http.MethodPost {
			t.Errorf("asked by %s %s", r.Method, r.URL)
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(h.Close)
	s := newServer(ServerConfig{URL: h.URL, Key: asker, Timeout: 10 * time.Second})
	if err := s.validate(); err != nil {
		t.Fatal(err)
	}
	return s, &asked
}

func askedFor(s *server, q Question, orgs ...events.OrgID) (Decision, bool) {
	d := Decision{Code: events.CodeStale}
	if q.Secret == "" {
		q.Secret = askedK
	}
	ok := s.ask(context.Background(), &q, &d, askedAt, orgs)
	return d, ok
}

func at(pos events.Position) string { return askedAt.Format(events.StreamLedger, pos) }

func valid(more string) string {
	return fmt.Sprintf(`{"valid":true,"code":"VALID","key_id":%q,"organization":"acme","permissions":{"level":"restricted","grants":["doc:read"]},
		"scope":{"workspaces":["w1"]},"profile":{"id":"p1","name":"P","settings":{"a":1}},"expires_at":"2030-01-02T03:04:05Z","position":%q,"staleness":0.5%s}`, keyID, at(7), more)
}

// TestAsk: the whole verdict comes through.
func TestAsk(t *testing.T) {
	s, _ := answers(t, 200, valid(`,"scope_checked":true`))
	d, ok := askedFor(s, Question{Permission: "doc:read", Workspace: "w1", AtLeast: 7, Context: recording.Context{RequestID: "r"}}, "acme")
	if !ok || !d.Valid() || !d.Asked || d.Key.String() != keyID || d.Org != "acme" || d.Kind != events.KindAPI || d.Permission != "doc:read" ||
		d.Permissions.Grants[0] != "doc:read" || d.Scope.Workspaces[0] != "w1" || !d.ScopeChecked || d.Position != 7 || d.Staleness != time.Second/2 ||
		d.Profile.ID != "p1" || string(d.Profile.Settings) != `{"a":1}` || d.ExpiresAt.Std().Year() != 2030 || d.At == 0 {
		t.Errorf("%t %+v %+v", ok, d, d.Profile)
	}
	s, _ = answers(t, 200, `{"valid":false,"code":"NOT_FOUND","position":"`+at(7)+`","staleness":0}`)
	if d, ok := askedFor(s, Question{}); !ok || d.Code != events.CodeNotFound || !d.Key.IsZero() {
		t.Errorf("%t %+v", ok, d)
	}
}

// TestAskNobodysElse: a verdict on a key of an organization that does not exist for the
// asker is NOT_FOUND, and tells nothing of it.
func TestAskNobodysElse(t *testing.T) {
	s, _ := answers(t, 200, valid(""))
	for name, c := range map[string]struct {
		q    Question
		orgs []events.OrgID
	}{"the client is narrowed": {Question{}, []events.OrgID{"globex"}}, "the question is": {Question{Within: "globex"}, nil}} {
		if d, ok := askedFor(s, c.q, c.orgs...); !ok || d.Code != events.CodeNotFound || d.Org != "" || !d.Key.IsZero() || d.Profile != nil || d.Permissions.Level != "" {
			t.Errorf("%s: %t %+v", name, ok, d)
		}
	}
	// The server takes every key for one of an application's.
	if _, ok := askedFor(s, Question{Kind: events.KindManagement}); ok {
		t.Error("asked about a management key")
	}
}

// TestAskNoAnswer: what is not understood, or contradicts itself or the question, is
// no answer, and the verdict remains what it was.
func TestAskNoAnswer(t *testing.T) {
	whole := valid(`,"scope_checked":true`)
	for name, c := range map[string]struct {
		status int
		body   string
	}{
		"an outage":              {503, whole},
		"the asker is refused":   {401, whole},
		"no JSON":                {200, "<html>"},
		"nothing":                {200, ""},
		"an unknown code":        {200, `{"valid":true,"code":"FINE"}`},
		"valid and not":          {200, strings.Replace(whole, "true", "false", 1)},
		"valid, of nobody":       {200, `{"valid":true,"code":"VALID","position":"` + at(7) + `"}`},
		"a management key":       {200, valid(`,"scope_checked":true,"kind":"management"`)},
		"not valid, and valid":   {200, strings.Replace(whole, "VALID", "REVOKED", 1)},
		"another ledger":         {200, strings.Replace(whole, at(7), events.Positions{Ledger: events.LedgerID{15: 2}, Epoch: 1}.Format(events.StreamLedger, 7), 1)},
		"of before":              {200, strings.Replace(whole, at(7), at(6), 1)},
		"the scope is not told":  {200, valid("")},
		"too long":               {200, valid(`,"scope_checked":true,"x":"` + strings.Repeat("x", maxAnswer) + `"`)},
		"it is served stale":     {200, valid(`,"scope_checked":true,"stale":true`)},
		"it is stale itself":     {200, `{"valid":false,"code":"STALE","position":"` + at(7) + `"}`},
		"it cannot tell":         {200, `{"valid":false,"code":"UNAVAILABLE","position":"` + at(7) + `"}`},
		"a redirect to nowhere":  {307, ""},
		"a key that is no id":    {200, strings.Replace(whole, keyID, "x", 1)},
		"a second JSON document": {200, whole + "{}"},
	} {
		s, _ := answers(t, c.status, c.body)
		if d, ok := askedFor(s, Question{AtLeast: 7, Workspace: "w1"}); ok || d.Code != events.CodeStale || d.Asked {
			t.Errorf("%s: %+v", name, d)
		}
	}
	s, _ := answers(t, 200, whole)
	if d, ok := askedFor(s, Question{AtLeast: 7, Workspace: "w1"}); !ok || !d.Valid() {
		t.Errorf("whole: %+v", d)
	}
}

// TestAskRefused: a server that refuses the asker is told of in the log, once in a while,
// and no key is.
func TestAskRefused(t *testing.T) {
	s, asked := answers(t, http.StatusUnauthorized, asker+askedK)
	var said strings.Builder
	newOptions([]Option{func(o *options) { o.server = s }, Logger(slog.New(slog.NewTextHandler(&said, nil)))})
	for range failuresBeforeRest {
		if d, ok := askedFor(s, Question{}); ok {
			t.Errorf("%+v", d)
		}
	}
	if n := asked.Load(); n != failuresBeforeRest {
		t.Errorf("asked %d times", n)
	}
	if text := said.String(); strings.Count(text, "status 401") != 1 || strings.Contains(text, asker) || strings.Contains(text, askedK) {
		t.Errorf("said: %s", text)
	}
}

// TestAskIsNotRedirected: the key is for this server alone.
func TestAskIsNotRedirected(t *testing.T) {
	var got atomic.Bool
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got.Store(true) }))
	defer thief.Close()
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, thief.URL, http.StatusTemporaryRedirect)
	}))
	defer h.Close()
	s := newServer(ServerConfig{URL: h.URL, Key: asker})
	for _, q := range []Question{{}, {Method: "GET", Path: "/"}} {
		if _, ok := askedFor(s, q); ok || got.Load() {
			t.Errorf("the key went on: %t", got.Load())
		}
	}
}

// TestAskServerAway: a server that does not answer is left alone, until it does again.
func TestAskServerAway(t *testing.T) {
	var away atomic.Bool
	away.Store(true)
	var asked atomic.Int64
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if away.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		fmt.Fprint(w, valid(""))
	}))
	defer h.Close()
	s := newServer(ServerConfig{URL: h.URL, Key: asker, Timeout: 10 * time.Second})
	for range 1000 {
		if _, ok := askedFor(s, Question{}); ok {
			t.Fatal("answered")
		}
	}
	if n := asked.Load(); n < failuresBeforeRest || n > 2*failuresBeforeRest {
		t.Errorf("asked %d times", n)
	}
	away.Store(false)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, ok := askedFor(s, Question{}); ok {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it is left alone for ever")
		}
	}
	if _, ok := askedFor(s, Question{}); !ok {
		t.Error("and again")
	}
}

// TestAskBounded: not more are on their way than may be, and none for longer.
func TestAskBounded(t *testing.T) {
	release := make(chan struct{})
	var now, most atomic.Int64
	h := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		select {
		case <-release:
		case <-r.Context().Done():
		}
		now.Add(-1)
	}))
	defer h.Close()
	defer close(release)
	s := newServer(ServerConfig{URL: h.URL, Key: asker, Timeout: 100 * time.Millisecond, MaxAsking: 3})
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, ok := askedFor(s, Question{}); ok {
				t.Error("answered")
			}
		})
	}
	all.Wait()
	if n := most.Load(); n > 3 {
		t.Errorf("%d at a time", n)
	}
}

// TestAskByRoute asks as a gateway does, and is told the permission.
func TestAskByRoute(t *testing.T) {
	var seen http.Header
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if seen = r.Header; r.URL.Path != "/v1/authorize" {
			t.Errorf("asked by %s", r.URL)
		}
		o := w.Header()
		switch r.Header.Get("X-Forwarded-Uri") {
		case "/stale":
			o.Set("X-Keyledger-Stale", "true")
			o.Set("X-Keyledger-Scope-Checked", "true")
		case "/anywhere":
			o.Set("X-Keyledger-Scope-Checked", "false")
		default:
			o.Set("X-Keyledger-Scope-Checked", "true")
		}
		o.Set("X-Keyledger-Code", "VALID")
		o.Set("X-Keyledger-Key-Id", keyID)
		o.Set("X-Keyledger-Organization", "acme")
		o.Set("X-Keyledger-Permission", "doc:read")
		o.Set("X-Keyledger-Permissions", "doc:read,doc:write")
		o.Set("X-Keyledger-Profile", "p1")
		o.Set("X-Keyledger-Position", at(7))
	}))
	defer h.Close()
	s := newServer(ServerConfig{URL: h.URL, Key: asker})
	q := Question{Method: "GET", Path: "/docs/1", Workspace: "w1", Context: recording.Context{UserAgent: "curl", ClientIP: "192.0.2.1", RequestID: "r"}}
	d, ok := askedFor(s, q, "acme")
	if !ok || !d.Valid() || d.Permission != "doc:read" || len(d.Permissions.Grants) != 2 || d.Profile.ID != "p1" || d.Position != 7 {
		t.Errorf("%t %+v", ok, d)
	}
	for name, want := range map[string]string{
		"X-Api-Key": askedK, "Authorization": "", "X-Forwarded-Method": "GET", "X-Original-Method": "GET", "X-Forwarded-Uri": "/docs/1",
		"X-Original-Uri": "/docs/1", "X-Keyledger-Workspace": "w1", "User-Agent": "curl", "X-Forwarded-For": "192.0.2.1", "X-Request-Id": "r",
	} {
		if got := seen.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if _, ok := askedFor(s, Question{Method: "GET", Path: "/", AtLeast: 8}); ok {
		t.Error("from before what was asked for")
	}
	if _, ok := askedFor(s, Question{Method: "GET", Path: "/stale", Workspace: "w1"}); ok {
		t.Error("a verdict that is served stale")
	}
	// Something on the way has taken the workspace out of the question.
	if _, ok := askedFor(s, Question{Method: "GET", Path: "/anywhere", Workspace: "w1"}); ok {
		t.Error("the scope was not judged")
	}
	if _, ok := askedFor(s, Question{Secret: "a\r\nb", Method: "GET", Path: "/"}); ok {
		t.Error("a secret that is no header")
	}
}

// TestServerConfig: what would give keys away is refused.
func TestServerConfig(t *testing.T) {
	for _, c := range []ServerConfig{
		{},
		{URL: "https://example.com"},
		{Key: asker},
		{URL: "ftp://example.com", Key: asker},
		{URL: "http://example.com", Key: asker},
		{URL: "https://user:pw@example.com", Key: asker},
		{URL: "https://example.com?x", Key: asker},
		{URL: "https://example.com", Key: "a b"},
		{URL: "https://example.com", Key: asker, Timeout: -1},
		{URL: "https://example.com", Key: asker, MaxAsking: -1},
	} {
		if newServer(c).validate() == nil {
			t.Errorf("%s is taken", c.URL)
		}
	}
	for _, c := range []ServerConfig{
		{URL: "https://example.com", Key: asker},
		{URL: "http://localhost:1", Key: asker},
		{URL: "http://[::1]:1/below", Key: asker},
		{URL: "http://example.com", Key: asker, Insecure: true},
	} {
		if err := newServer(c).validate(); err != nil {
			t.Errorf("%s: %v", c.URL, err)
		}
	}
	c := ServerConfig{Key: asker}
	if text, err := json.Marshal(fmt.Sprintf("%v %+v %#v", c, c, &c)); err != nil || strings.Contains(string(text), asker) {
		t.Errorf("%s %v", text, err)
	}
}

// FuzzVerdict: whatever a server answers, only a whole verdict lets anybody through.
func FuzzVerdict(f *testing.F) {
	f.Add([]byte(valid("")))
	f.Add([]byte(`{"valid":true}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		q := Question{Secret: askedK, AtLeast: 7}
		d, err := readVerdict(body, &q, askedAt)
		if err == nil && d.Valid() && (d.Key.IsZero() || d.Org == "" || d.Position < 7 || d.Kind != events.KindAPI) {
			t.Errorf("%+v", d)
		}
	})
}
