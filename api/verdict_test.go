package api_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
)

// strange is a well-formed key that nobody has.
func strange(t testing.TB) string {
	t.Helper()
	s, err := keystring.New("kl_live", [24]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	return s.Reveal()
}

func TestVerdictOfAMissTellsNothing(t *testing.T) {
	s := apitest.Start(t)
	for secret, want := range map[string]string{strange(t): "NOT_FOUND", "nonsense": "MALFORMED"} {
		a := s.Must(200, s.Owner, "POST", "/v1/verify", `{"secret":"`+secret+`"}`)
		var got map[string]any
		if err := json.Unmarshal([]byte(a.Body), &got); err != nil {
			t.Fatal(err)
		}
		if got["code"] != want || got["valid"] != false || len(got) != 4 || got["position"] == nil || got["staleness"] == nil {
			t.Errorf("%s", a.Body)
		}
	}
}

func TestVerdictIsReadBothWays(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	quick := `{"secret":"` + key.Secret + `","permission":"interview:read"}`
	slow := `{"secret":"\u006b` + key.Secret[1:] + `","permission":"interview:read"}`
	for _, body := range []string{quick, slow} {
		if v := as[wire.Verdict](t, s.Must(200, s.Owner, "POST", "/v1/verify", body)); !v.Valid || v.Permissions.Level != "restricted" || v.ScopeChecked {
			t.Errorf("%+v", v)
		}
	}
	// A verdict that rests on a change that never comes is STALE.
	if _, err := s.Positions.Parse(1, key.Position); err != nil {
		t.Fatal(err)
	}
	future := s.Positions.Format(1, 1<<40)
	if v := verdict(t, s, s.Owner, key.Secret, `,"at_least":"`+future+`"`); v.Code != "STALE" {
		t.Errorf("a position to come: %+v", v)
	}
}

func TestAuthorize(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	furnish(s, "plain")
	s.Must(200, s.Owner, "PUT", "/v1/organizations/plain/permissions", `{"permissions":[{"name":"interview:read","access":"read"}]}`)
	make := func(org, body string) wire.Created {
		return as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/"+org+"/keys", body))
	}
	reader := make("acme", `{"permissions":["interview:read"],"scope":{"workspaces":["hiring"]},"profile":"gold"}`)
	routeless := make("plain", keyBody)
	revoked, inactive := make("acme", keyBody), make("acme", keyBody)
	s.Must(200, s.Owner, "POST", "/v1/organizations/acme/keys/"+revoked.Key.ID+"/revoke", "")
	s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme/keys/"+inactive.Key.ID, `{"status":"INACTIVE"}`)
	const read, start = "/api/v1/interviews/5?x=1", "/api/v1/interviews/start"
	for name, tt := range map[string]struct {
		key, query string
		headers    []string
		status     int
		code       string
		challenge  string
	}{
		"routed":                  {reader.Secret, "", []string{"X-Forwarded-Method", "GET", "X-Forwarded-Uri", read}, 200, "VALID", ""},
		"routed by nginx":         {reader.Secret, "", []string{"X-Original-Method", "GET", "X-Original-URI", read}, 200, "VALID", ""},
		"routed and not granted":  {reader.Secret, "", []string{"X-Forwarded-Method", "POST", "X-Forwarded-Uri", start}, 403, "INSUFFICIENT_PERMISSIONS", `error="insufficient_scope", scope="interview:start"`},
		"no route matches":        {reader.Secret, "", []string{"X-Forwarded-Method", "GET", "X-Forwarded-Uri", "/else"}, 403, "INSUFFICIENT_PERMISSIONS", `error="insufficient_scope"`},
		"nothing forwarded":       {reader.Secret, "", nil, 403, "INSUFFICIENT_PERMISSIONS", ""},
		"two stories of the path": {reader.Secret, "", []string{"X-Forwarded-Method", "GET", "X-Forwarded-Uri", read, "X-Original-URI", start}, 403, "INSUFFICIENT_PERMISSIONS", ""},
		"catalog without routes":  {routeless.Secret, "", nil, 200, "VALID", ""},
		"asked by header":         {reader.Secret, "", []string{"X-Keyledger-Permission", "interview:read"}, 200, "VALID", ""},
		"asked by query":          {reader.Secret, "?permission=interview:start", nil, 403, "INSUFFICIENT_PERMISSIONS", ""},
		"in its workspace":        {reader.Secret, "?permission=interview:read&workspace=hiring", nil, 200, "VALID", ""},
		"in another workspace":    {reader.Secret, "?permission=interview:read", []string{"X-Keyledger-Workspace", "support"}, 403, "OUT_OF_SCOPE", ""},
		"spoofed verdict":         {"nonsense", "", []string{"X-Keyledger-Code", "VALID", "X-Keyledger-Key-Id", reader.Key.ID}, 401, "MALFORMED", ""},
		"revoked":                 {revoked.Secret, "?permission=interview:read", nil, 401, "REVOKED", `error="invalid_token"`},
		"inactive":                {inactive.Secret, "?permission=interview:read", nil, 401, "INACTIVE", ""},
		"unknown":                 {strange(t), "", nil, 401, "NOT_FOUND", ""},
		"a management key":        {s.Owner, "", nil, 403, "INSUFFICIENT_PERMISSIONS", ""},
		"no key":                  {"", "", nil, 401, "", `Bearer realm="keyledger"`},
		"key as X-Api-Key":        {"", "?permission=interview:read", []string{"X-Api-Key", reader.Secret}, 200, "VALID", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{"GET", "POST", "DELETE", "PROPFIND"} {
				a := s.Do(tt.key, method, "/v1/authorize"+tt.query, "", tt.headers...)
				if got := a.Header.Get("X-Keyledger-Code"); a.Status != tt.status || got != tt.code {
					t.Fatalf("%s: %d %s %s, want %d %s", method, a.Status, got, a.Body, tt.status, tt.code)
				}
				if !strings.Contains(a.Header.Get("WWW-Authenticate"), tt.challenge) {
					t.Errorf("challenge %q, want %q", a.Header.Get("WWW-Authenticate"), tt.challenge)
				}
				if tt.status >= 400 {
					problem(t, a)
				}
			}
		})
	}
	h := s.Do(reader.Secret, "GET", "/v1/authorize?permission=interview:read&workspace=hiring", "").Header
	for name, want := range map[string]string{
		"X-Keyledger-Key-Id": reader.Key.ID, "X-Keyledger-Organization": "acme", "X-Keyledger-Profile": "gold",
		"X-Keyledger-Permissions": "interview:read", "X-Keyledger-Scope-Checked": "true", "X-Keyledger-Permission": "interview:read",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	// What nobody can decide, nginx must take for a denial.
	s.Config.Verifier.Close()
	if a := s.Do(reader.Secret, "GET", "/v1/authorize", ""); a.Status != 503 || a.Header.Get("Retry-After") == "" {
		t.Errorf("closed: %d %s", a.Status, a.Body)
	}
	if a := s.Do(reader.Secret, "GET", "/v1/authorize?deny=403", ""); a.Status != 403 || a.Header.Get("X-Keyledger-Code") != "UNAVAILABLE" {
		t.Errorf("closed, for nginx: %d %s", a.Status, a.Body)
	}
}

func TestHealth(t *testing.T) {
	var ready bool
	failing := func(err error) func() error {
		return func() error {
			if ready {
				return nil
			}
			return err
		}
	}
	told := errors.New("the first at position 7 on ledger.0001.acme.key.x")
	s := apitest.Start(t, func(c *api.Config) {
		c.Checks = map[string]func() error{
			"index":  failing(told),
			"events": failing(fmt.Errorf("view: %w", &api.Failing{Reason: "3 events could not be applied", Err: told})),
			"good":   func() error { return nil },
		}
	})
	s.Must(200, "", "GET", "/livez", "")
	// Anybody may ask; what the facts are about is for the log, once.
	a := s.Must(503, "", "GET", "/readyz", "")
	s.Must(503, "", "GET", "/readyz", "")
	if h := as[wire.Health](t, a); h.Ready || len(h.Checks) != 2 || h.Checks["index"] == "" || h.Checks["events"] != "3 events could not be applied" || strings.Contains(a.Body, "acme") {
		t.Errorf("%s", a.Body)
	}
	if log := s.Log.String(); strings.Count(log, told.Error()) != 2 {
		t.Errorf("log: %s", log)
	}
	ready = true
	if h := as[wire.Health](t, s.Must(200, "", "GET", "/readyz", "")); !h.Ready {
		t.Errorf("%+v", h)
	}
	if a := s.Do("", "GET", "/livez", "", "X-Request-Id", "mine-1"); a.Header.Get("X-Request-Id") != "mine-1" {
		t.Errorf("request id %q", a.Header.Get("X-Request-Id"))
	}
	if a := s.Do("", "GET", "/livez", "", "X-Request-Id", `bad "id"`); a.Header.Get("X-Request-Id") == `bad "id"` {
		t.Error("a request id that breaks log lines was taken")
	}
}

// A panic is a 500 that tells nothing.
func TestPanics(t *testing.T) {
	s := apitest.Start(t, func(c *api.Config) {
		c.Console = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("kl_live secret") })
	})
	a := s.Must(500, "", "GET", "/", "")
	if p := problem(t, a); p.Code != "internal" || strings.Contains(a.Body, "secret") {
		t.Errorf("%s", a.Body)
	}
	if log := s.Log.String(); strings.Contains(log, "kl_live secret") || !strings.Contains(log, a.Header.Get("X-Request-Id")) {
		t.Errorf("log: %s", log)
	}
}

// BenchmarkVerify asks for verdicts over HTTP, and beside it the barest handler
// that reads and writes bodies of the same size.
func BenchmarkVerify(b *testing.B) {
	s := apitest.Start(b)
	furnish(s, "acme")
	key := as[wire.Created](b, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	body := `{"secret":"` + key.Secret + `","permission":"interview:read","workspace":"hiring"}`
	answer := s.Must(200, s.Owner, "POST", "/v1/verify", body).Body
	bare := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			b.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answer)
	}))
	defer bare.Close()
	const callers = 32
	transport := &http.Transport{MaxIdleConnsPerHost: callers}
	defer transport.CloseIdleConnections()
	// ask sends n requests from all callers and returns how long that took.
	ask := func(url string, n int) time.Duration {
		var left atomic.Int64
		left.Store(int64(n))
		var wg sync.WaitGroup
		begin := time.Now()
		for range callers {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					req, err := http.NewRequest("POST", url, strings.NewReader(body))
					if err != nil {
						b.Error(err)
						return
					}
					req.Header.Set("Authorization", "Bearer "+s.Owner)
					req.Header.Set("Content-Type", "application/json")
					res, err := transport.RoundTrip(req)
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			})
		}
		wg.Wait()
		return time.Since(begin)
	}
	// In turns, so that what else the machine does meets both alike.
	const turn = 2000
	ask(bare.URL, turn)
	ask(s.URL+"/v1/verify", turn)
	var bareTook, took time.Duration
	n := 0
	for b.Loop() {
		bareTook += ask(bare.URL, turn)
		took += ask(s.URL+"/v1/verify", turn)
		n += turn
	}
	b.ReportMetric(float64(bareTook)/float64(took), "of-bare")
	b.ReportMetric(float64(n)/took.Seconds(), "verify/s")
	b.ReportMetric(float64(n)/bareTook.Seconds(), "bare/s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkHandler is the handler alone, with no network.
func BenchmarkHandler(b *testing.B) {
	s := apitest.Start(b)
	furnish(s, "acme")
	key := as[wire.Created](b, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody))
	body := `{"secret":"` + key.Secret + `","permission":"interview:read","workspace":"hiring"}`
	req := httptest.NewRequest("POST", "/v1/verify", nil)
	req.Header.Set("Authorization", "Bearer "+s.Owner)
	req.Header.Set("Content-Type", "application/json")
	reader := strings.NewReader(body)
	w := &sink{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		reader.Reset(body)
		req.Body = io.NopCloser(reader)
		clear(w.header)
		s.Handler.ServeHTTP(w, req)
	}
	if w.status != 200 {
		b.Fatal(w.status)
	}
}

type sink struct {
	header http.Header
	status int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }
func (s *sink) WriteHeader(status int)      { s.status = status }
