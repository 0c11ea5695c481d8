package sidecar_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/listen"
	"github.com/keyledger/keyledger/api/sidecar"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
)

// pair is a server and a sidecar with the same verifier.
type pair struct {
	server *apitest.Server
	config sidecar.Config
	side   *sidecar.Server
	// http and unix are where the sidecar listens.
	http, unix string
	log        *apitest.Buffer
}

func startPair(t testing.TB, change ...func(*sidecar.Config)) *pair {
	t.Helper()
	p := &pair{server: apitest.Start(t), log: &apitest.Buffer{}}
	p.config = sidecar.Config{
		Verifier: p.server.Config.Verifier, Positions: func() events.Positions { return p.server.Positions },
		Checks:  map[string]func() error{"good": func() error { return nil }},
		Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.NewJSONHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		ServerURL: "https://keys.example",
	}
	for _, f := range change {
		f(&p.config)
	}
	p.http, p.unix = p.serve(t)
	return p
}

// serve runs the sidecar on a port and on a socket until the test ends.
func (p *pair) serve(t testing.TB) (tcp, unix string) {
	t.Helper()
	side, err := sidecar.New(p.config)
	if err != nil {
		t.Fatal(err)
	}
	p.side = side
	unix = filepath.Join(t.TempDir(), "s")
	served := make(chan error, 2)
	for _, address := range []string{"127.0.0.1:0", listen.Unix + unix} {
		l, err := listen.Open(address, 0o660)
		if err != nil {
			t.Fatal(err)
		}
		if address == "127.0.0.1:0" {
			tcp = l.Addr().String()
		}
		go func() { served <- side.Serve(l) }()
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(side.Shutdown(ctx), <-served, <-served); err != nil {
			t.Errorf("shut down: %v", err)
		}
	})
	return tcp, unix
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) String() string {
	var b strings.Builder
	fmt.Fprintln(&b, a.status)
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for n := range a.header {
			if !yield(n) {
				return
			}
		}
	}) {
		fmt.Fprintf(&b, "%s: %q\n", name, a.header[name])
	}
	return b.String() + a.body
}

// staleness is true of one moment alone.
var staleness = regexp.MustCompile(`"staleness":[0-9.]+`)

// exchange sends a request as it stands here on a connection of its own.
func exchange(t testing.TB, network, address, raw string) answer {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(raw, " ")
	return read(t, bufio.NewReader(conn), method)
}

func read(t testing.TB, from *bufio.Reader, method string) answer {
	t.Helper()
	res, err := http.ReadResponse(from, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Date", "Connection"} {
		res.Header.Del(name)
	}
	if staleness.Match(body) {
		res.Header.Del("Content-Length")
	}
	return answer{res.StatusCode, res.Header, staleness.ReplaceAllString(string(body), `"staleness":0`)}
}

// request writes a request. Headers are lines as they are sent.
func request(method, target, body string, headers ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: x\r\nX-Request-Id: req-1\r\n", method, target)
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	if body != "" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	return b.String() + "\r\n" + body
}

const (
	asJSON = "Content-Type: application/json"
	asForm = "Content-Type: application/x-www-form-urlencoded"
)

// world is what the questions are about.
type world struct {
	good, limited, revoked, inactive, management, strange, position string
}

func furnish(t testing.TB, s *apitest.Server) world {
	t.Helper()
	s.Must(201, s.Owner, "POST", "/v1/organizations", `{"id":"acme","name":"Acme"}`)
	s.Must(201, s.Owner, "POST", "/v1/organizations/acme/workspaces", `{"id":"hiring","name":"Hiring"}`)
	s.Must(200, s.Owner, "PUT", "/v1/organizations/acme/permissions", `{"permissions":[
		{"name":"interview:read","access":"read","routes":["GET /api/v1/interviews/{id}"]},
		{"name":"interview:start","access":"write","routes":["POST /api/v1/interviews/start"]}]}`)
	s.Must(201, s.Owner, "POST", "/v1/organizations/acme/profiles", `{"id":"gold","name":"Gold \"ä\"","settings":{"rate":5}}`)
	made := func(body string) wire.Created {
		var out wire.Created
		if err := json.Unmarshal([]byte(s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", body).Body), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	const all = `{"permissions":{"level":"all"},"scope":{"all_workspaces":true},"profile":"gold","expires_in":"90d"}`
	good, revoked, inactive := made(all), made(all), made(all)
	limited := made(`{"permissions":["interview:read"],"scope":{"workspaces":["hiring"]}}`)
	s.Must(200, s.Owner, "DELETE", "/v1/organizations/acme/keys/"+revoked.Key.ID, "")
	s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme/keys/"+inactive.Key.ID, `{"status":"INACTIVE"}`)
	strange, err := keystring.New("kl_live", [24]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	return world{
		good: good.Secret, limited: limited.Secret, revoked: revoked.Secret, inactive: inactive.Secret,
		management: made(`{"kind":"management","role":"member","scope":{"all_workspaces":true}}`).Secret,
		strange:    strange.Reveal(), position: limited.Position,
	}
}

// questions are requests to which a server and a sidecar have the same answer. Where
// the server asks for a management key, it is in the place of AUTH.
func (w world) questions() map[string]string {
	verify := func(body string, headers ...string) string {
		return request("POST", "/v1/verify", body, append(headers, "AUTH", asJSON)...)
	}
	one := `{"secret":"` + w.good + `","permission":"interview:read","workspace":"hiring"}`
	out := map[string]string{
		"valid":            verify(one),
		"limited":          verify(`{"secret":"` + w.limited + `","permission":"interview:read","context":{"request_id":"r","path":"/a?b","user_agent":"x"}}`),
		"not granted":      verify(`{"secret":"` + w.limited + `","permission":"interview:start"}`),
		"out of scope":     verify(`{"secret":"` + w.limited + `","workspace":"support"}`),
		"a query":          verify(`{"secret":"` + w.good + `","permission":"interview:read AND (interview:start OR report:*)"}`),
		"no query":         verify(`{"secret":"` + w.good + `","permission":"interview:read AND"}`),
		"revoked":          verify(`{"secret":"` + w.revoked + `"}`),
		"inactive":         verify(`{"secret":"` + w.inactive + `"}`),
		"not found":        verify(`{"secret":"` + w.strange + `"}`),
		"malformed":        verify(`{"secret":"nonsense"}`),
		"a management key": verify(`{"secret":"` + w.management + `"}`),
		"at least":         verify(`{"secret":"` + w.good + `","at_least":"` + w.position + `"}`),
		"no position":      verify(`{"secret":"` + w.good + `","at_least":"p000"}`),
		"escaped":          verify(`{"secret":"\u006b` + w.good[1:] + `"}`),
		"no secret":        verify(`{}`), "empty member": verify(`{"secret":"x","permission":""}`), "null": verify(`{"secret":"x","workspace":null}`),
		"twice": verify(`{"secret":"x","secret":"y"}`), "unknown": verify(`{"secret":"x","other":1}`), "no object": verify(`[]`), "broken": verify(`{"secret":"x"`),
		"not UTF-8": verify("{\"secret\":\"\xff\"}"), "a number": verify(`{"secret":1}`), "behind": verify(one + "{}"),
		"a key as permission": verify(`{"secret":"x","permission":"` + w.good + `"}`), "a key as a member": verify(`{"` + w.good + `":1}`),
		"no body":            request("POST", "/v1/verify", "", "AUTH", asJSON),
		"plain":              request("POST", "/v1/verify", one, "AUTH", "Content-Type: text/plain"),
		"charset":            request("POST", "/v1/verify", one, "AUTH", `Content-Type: application/json; charset="UTF-8"`),
		"latin":              request("POST", "/v1/verify", one, "AUTH", "Content-Type: application/json; charset=latin1"),
		"packed":             verify(one, "Content-Encoding: gzip"),
		"in pieces":          "POST /v1/verify HTTP/1.1\r\nHost: x\r\nX-Request-Id: req-1\r\nAUTH\r\n" + asJSON + "\r\nTransfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(one), one),
		"too long":           verify(`{"secret":"` + strings.Repeat("x", 10<<10) + `","permission":"` + strings.Repeat("x", 6<<10) + `"}`),
		"a query in the URL": request("POST", "/v1/verify?secret=x", one, "AUTH", asJSON),
		"a key in the URL":   request("POST", "/v1/verify?secret="+w.good, one, "AUTH", asJSON),
		"a get":              request("GET", "/v1/verify", "", "AUTH"),
		"a put":              request("PUT", "/v1/verify", one, "AUTH", asJSON),
		"lower case headers": "POST /v1/verify HTTP/1.1\r\nhost: x\r\nx-request-id: req-1\r\nAUTH\r\ncontent-type: application/json\r\ncontent-length: " + fmt.Sprint(len(one)) + "\r\n\r\n" + one,
		"escaped path":       request("POST", "/v1/%76erify", one, "AUTH", asJSON),
		"absolute form":      request("POST", "http://x/v1/verify", one, "AUTH", asJSON),

		"batch":          request("POST", "/v1/verify/batch", `{"requests":[`+one+`,{"secret":"`+w.revoked+`"},{"secret":"nonsense"}]}`, "AUTH", asJSON),
		"empty batch":    request("POST", "/v1/verify/batch", `{"requests":[]}`, "AUTH", asJSON),
		"large batch":    request("POST", "/v1/verify/batch", `{"requests":[`+strings.Repeat(one+",", 100)+one+`]}`, "AUTH", asJSON),
		"a bad one":      request("POST", "/v1/verify/batch", `{"requests":[`+one+`,{"secret":"x","at_least":"p000"}]}`, "AUTH", asJSON),
		"another bad":    request("POST", "/v1/verify/batch", `{"requests":[`+one+`,{"permission":"x"}]}`, "AUTH", asJSON),
		"a broken batch": request("POST", "/v1/verify/batch", `{"requests":[`, "AUTH", asJSON),

		"whoami": request("GET", "/v1/whoami", "", "Authorization: bearer  "+w.good), "whoami of a management key": request("GET", "/v1/whoami", "", "Authorization: Bearer "+w.management),
		"whoami, limited": request("GET", "/v1/whoami", "", "Authorization: Bearer "+w.limited), "whoami, revoked": request("GET", "/v1/whoami", "", "Authorization: Bearer "+w.revoked),
		"whoami, nobody": request("GET", "/v1/whoami", ""), "whoami, nonsense": request("GET", "/v1/whoami", "", "Authorization: Bearer nonsense"),
		"whoami, basic": request("GET", "/v1/whoami", "", "Authorization: Basic eDp5"), "whoami with a query": request("GET", "/v1/whoami?a=b", "", "Authorization: Bearer "+w.good),
		"whoami with a key in the query": request("GET", "/v1/whoami?a="+w.good, "", "Authorization: Bearer "+w.good), "whoami head": request("HEAD", "/v1/whoami", "", "Authorization: Bearer "+w.good),

		"livez": request("GET", "/livez", ""), "livez head": request("HEAD", "/livez", ""), "livez post": request("POST", "/livez", "", ""), "readyz": request("GET", "/readyz", ""),
		"nowhere": request("GET", "/v1/nothing", ""), "a key in the path": request("GET", "/v1/"+w.good, ""), "an escaped key in the path": request("GET", "/v1/%6bl"+w.good[2:], ""),
		"a slash too much": request("POST", "/v1/verify/", one, "AUTH", asJSON), "another": request("POST", "//v1/verify", one, "AUTH", asJSON),
		"dots": request("POST", "/v1/x/../verify", one, "AUTH", asJSON), "an escaped slash": request("POST", "/v1%2Fverify", one, "AUTH", asJSON),
		"a foreign request id": "GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: req-2\r\nX-Request-Id: req-3\r\n\r\n",
	}
	for name, question := range w.gateways() {
		out["gateway: "+name] = question
	}
	return out
}

// gateways are those of gateways, which need no management key.
func (w world) gateways() map[string]string {
	out := map[string]string{}
	bearer := "Authorization: Bearer " + w.limited
	for name, tt := range map[string]struct {
		query   string
		headers []string
	}{
		"no key": {"", nil}, "an empty key": {"", []string{"Authorization: Bearer ", "X-Api-Key: "}}, "another header": {"?permission=interview:read", []string{"X-Api-Key: " + w.good}},
		"another scheme": {"", []string{"Authorization: Basic eDp5"}}, "both": {"?permission=interview:read", []string{bearer, "X-Api-Key: " + w.good}},
		"two keys": {"?permission=interview:read", []string{bearer, "Authorization: Bearer " + w.good}}, "nothing first": {"", []string{"Authorization: ", bearer}},
		"allowed": {"?permission=interview:read&workspace=hiring", []string{bearer}}, "not granted": {"?permission=interview:start", []string{bearer}},
		"out of scope": {"?permission=interview:read&workspace=support", []string{bearer}}, "by header": {"", []string{bearer, "X-Keyledger-Permission: interview:read", "X-Keyledger-Workspace: hiring"}},
		"by both": {"?permission=interview:read", []string{bearer, "X-Keyledger-Permission: interview:start"}}, "twice": {"", []string{bearer, "X-Keyledger-Permission: interview:read", "x-keyledger-permission: interview:start"}},
		"empty header": {"?permission=interview:read", []string{bearer, "X-Keyledger-Permission:"}}, "empty query": {"?permission=", []string{bearer}},
		"routed": {"", []string{bearer, "X-Forwarded-Method: GET", "X-Forwarded-Uri: /api/v1/interviews/5?x=1"}}, "by nginx": {"", []string{bearer, "X-Original-Method: GET", "X-Original-URI: /api/v1/interviews/5"}},
		"two stories": {"", []string{bearer, "X-Forwarded-Method: GET", "X-Forwarded-Uri: /api/v1/interviews/5", "X-Original-Uri: /else"}}, "no route": {"", []string{bearer, "X-Forwarded-Method: GET", "X-Forwarded-Uri: /else"}},
		"nothing forwarded": {"", []string{bearer}}, "folded": {"?deny=403", []string{"X-Api-Key: " + w.revoked}}, "fold wrong": {"?deny=404", []string{bearer}}, "unknown parameter": {"?x=1", []string{bearer}},
		"no query": {"?permission=%zz", []string{bearer}}, "semicolons": {"?x=1;permission=a", []string{bearer}}, "twice in the query": {"?permission=a&permission=b", []string{bearer}},
		"revoked": {"", []string{"X-Api-Key: " + w.revoked}}, "inactive": {"", []string{"X-Api-Key: " + w.inactive}}, "strange": {"", []string{"X-Api-Key: " + w.strange}}, "nonsense": {"", []string{"X-Api-Key: nonsense"}},
		"bytes beyond ASCII": {"?permission=interview:read", []string{bearer, "User-Agent: \xc3\xa4\xff", "X-Forwarded-For: \xe4"}}, "tabs": {"?permission=interview:read", []string{"Authorization:\tBearer " + w.limited + "\t", "X:\ta\tb"}},
		"underscores": {"?permission=interview:read", []string{bearer, "X_Keyledger_Permission: interview:start"}}, "an old browser": {"?permission=interview:read", []string{bearer, "Upgrade: websocket", "Connection: Upgrade", "TE: trailers", "Cookie: a=b; c"}},
		"a management key": {"", []string{"Authorization: Bearer " + w.management}}, "spoofed": {"", []string{"X-Api-Key: nonsense", "X-Keyledger-Code: VALID", "X-Keyledger-Key-Id: 1"}},
		"a query of permissions": {"?permission=interview:read+AND+interview:start", []string{bearer}}, "a key as the permission": {"?permission=" + w.good, []string{bearer}},
	} {
		for _, method := range []string{"GET", "POST", "HEAD"} {
			out[name+" "+method] = request(method, "/v1/authorize"+tt.query, "", tt.headers...)
		}
	}
	return out
}

// A sidecar answers as the server does, on a port and on a socket: the same status,
// the same headers, the same bytes.
//
// Breaking it: with the last of several keys in the place of the first, or with
// headers of the request before that are not forgotten.
func TestAnswersAsTheServerDoes(t *testing.T) {
	p := startPair(t)
	w := furnish(t, p.server)
	host := strings.TrimPrefix(p.server.URL, "http://")
	for name, question := range w.questions() {
		t.Run(name, func(t *testing.T) {
			want := exchange(t, "tcp", host, strings.ReplaceAll(question, "AUTH", "Authorization: Bearer "+p.server.Owner))
			ask := strings.ReplaceAll(question, "AUTH\r\n", "")
			for network, address := range map[string]string{"tcp": p.http, "unix": p.unix} {
				if got := exchange(t, network, address, ask); got.String() != want.String() {
					t.Errorf("over %s:\n%s\nwant\n%s", network, got, want)
				}
			}
		})
	}
	if log := p.log.String(); keystring.Contains(log) {
		t.Errorf("a key in the log:\n%s", log)
	}
}
