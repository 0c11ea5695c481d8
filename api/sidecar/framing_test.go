package sidecar_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/api/sidecar"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

// fixed is a verifier that lets one secret pass, and remembers what it was asked.
type fixed struct {
	mu    sync.Mutex
	asked []string
	// during is called within every verdict.
	during func(context.Context)
}

func (f *fixed) Check(*verify.Question) error { return nil }

func (f *fixed) Verify(ctx context.Context, q *verify.Question) verify.Decision {
	f.mu.Lock()
	f.asked = append(f.asked, strings.Clone(q.Secret+" "+q.Permission))
	f.mu.Unlock()
	if f.during != nil {
		f.during(ctx)
	}
	if q.Secret == "panic" {
		panic("kl_live secret")
	}
	d := verify.Decision{Code: events.CodeNotFound, Position: 7}
	if q.Secret == "good" {
		d.Code, d.Key, d.Org = events.CodeValid, events.KeyID{1}, "acme"
		d.Permissions.Level = events.LevelAll
	}
	return d
}

func (f *fixed) questions() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.asked...)
}

// door runs a sidecar on a verifier alone.
func door(t testing.TB, v *fixed, change ...func(*sidecar.Config)) (*pair, *fixed) {
	t.Helper()
	p := &pair{}
	p.config = sidecar.Config{
		Verifier: v, Positions: func() events.Positions { return events.Positions{Ledger: events.LedgerID{9}, Epoch: 1} },
		Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&p.config)
	}
	p.http, p.unix = p.serve(t)
	return p, v
}

// statuses sends bytes on one connection, ends them, and returns the status of each
// answer.
func statuses(t testing.TB, network, address, raw string) []int {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// It may close before it has taken everything.
	_, _ = io.WriteString(conn, raw)
	_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	return answersIn(conn)
}

func answersIn(from io.Reader) []int {
	var out []int
	for r := bufio.NewReader(from); ; {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return out
		}
		if res.StatusCode == http.StatusContinue {
			continue
		}
		out = append(out, res.StatusCode)
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return out
		}
	}
}

const smuggled = "GET /v1/authorize HTTP/1.1\r\nHost: x\r\nX-Api-Key: smuggled\r\n\r\n"

// What another program on the way may have read in another way is refused, and
// nothing behind it on the connection is taken for a request.
//
// Breaking it: without head.read, or without closing the connection after it, the
// smuggled key is asked about.
func TestOddFraming(t *testing.T) {
	p, v := door(t, &fixed{})
	const post, host = "POST /v1/verify HTTP/1.1\r\n", "Host: x\r\n"
	length := fmt.Sprint(len(smuggled))
	for name, raw := range map[string]string{
		"a space before the colon":       post + host + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"a space in a name":              post + host + "Content Length: 5\r\n\r\n",
		"a folded line":                  post + host + "X: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
		"folded with a tab":              post + host + "X: a\r\n\tb: c\r\nContent-Length: 0\r\n\r\n",
		"length and coding":              post + host + "Content-Length: " + length + "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"coding and length":              post + host + "Transfer-Encoding: chunked\r\nContent-Length: " + length + "\r\n\r\n0\r\n\r\n",
		"two lengths":                    post + host + "Content-Length: 0\r\nContent-Length: " + length + "\r\n\r\n",
		"the same length twice":          post + host + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
		"a list of lengths":              post + host + "Content-Length: 0, 0\r\n\r\n",
		"a signed length":                post + host + "Content-Length: +0\r\n\r\n",
		"a negative length":              post + host + "Content-Length: -1\r\n\r\n",
		"a length in hex":                post + host + "Content-Length: 0x0\r\n\r\n",
		"no length":                      post + host + "Content-Length:\r\n\r\n",
		"another coding":                 post + host + "Transfer-Encoding: identity\r\n\r\n",
		"two codings":                    post + host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"the coding twice":               post + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"a coding with a tail":           post + host + "Transfer-Encoding: chunked;x\r\n\r\n0\r\n\r\n",
		"a vertical tab in the coding":   post + host + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n",
		"a coding of an old version":     "POST /v1/verify HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"lines that end otherwise":       post + host + "X: y\nContent-Length: 0\r\n\r\n",
		"a bare return":                  post + host + "X: y\rContent-Length: 0\r\n\r\n",
		"a zero byte":                    post + host + "X: \x00\r\n\r\n",
		"no colon":                       post + host + "nonsense\r\n\r\n",
		"no name":                        post + host + ": x\r\n\r\n",
		"no host":                        post + "Content-Length: 0\r\n\r\n",
		"two hosts":                      post + host + host + "\r\n",
		"another expectation":            post + host + "Expect: 200-ok\r\n\r\n",
		"a version to come":              "GET /livez HTTP/2.0\r\nHost: x\r\n\r\n",
		"the preface of HTTP/2":          "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"no version":                     "GET /livez\r\nHost: x\r\n\r\n",
		"no method":                      " /livez HTTP/1.1\r\nHost: x\r\n\r\n",
		"two spaces":                     "GET  /livez HTTP/1.1\r\nHost: x\r\n\r\n",
		"a chunk of no length":           post + host + "Transfer-Encoding: chunked\r\n\r\n\r\n",
		"a chunk of a negative length":   post + host + "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
		"a chunk of an endless length":   post + host + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("f", 40) + "\r\n",
		"a chunk that is longer":         post + host + "Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
		"a chunk with another line end":  post + host + "Transfer-Encoding: chunked\r\n\r\n0;x\n\r\n\r\n",
		"a key in the trailer of chunks": post + host + "Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n0\r\nAuthorization: Bearer smuggled\r\n\r\n",
	} {
		for network, address := range map[string]string{"tcp": p.http, "unix": p.unix} {
			got := statuses(t, network, address, raw+smuggled)
			if len(got) != 1 || got[0] != 400 {
				t.Errorf("%s over %s: %v", name, network, got)
			}
		}
	}
	for _, asked := range v.questions() {
		if strings.HasPrefix(asked, "smuggled") {
			t.Fatal("the smuggled request was answered")
		}
	}
}

// A body in chunks is read, and is the last on its connection, whatever stands in the
// lengths of the chunks.
func TestChunksEndAConnection(t *testing.T) {
	p, v := door(t, &fixed{})
	for _, length := range []string{"11", "11;a=b", "11 ", "11X0"} {
		raw := "POST /v1/verify HTTP/1.1\r\nHost: x\r\n" + asJSON + "\r\nTransfer-Encoding: chunked\r\n\r\n" + length + "\r\n{\"secret\":\"good\"}\r\n0\r\n\r\n"
		if got := statuses(t, "tcp", p.http, raw+smuggled); len(got) != 1 || got[0] != 200 {
			t.Errorf("%q: %v", length, got)
		}
	}
	for _, asked := range v.questions() {
		if asked != "good " {
			t.Errorf("asked about %q", asked)
		}
	}
}

// Requests that come all at once are answered in their order, each with its own
// texts.
func TestPipelining(t *testing.T) {
	p, _ := door(t, &fixed{})
	var raw strings.Builder
	var want []string
	for i := range 50 {
		secret := "good"
		if i%3 == 0 {
			secret = fmt.Sprintf("other-%d", i)
		}
		body := `{"secret":"` + secret + `"}`
		fmt.Fprintf(&raw, "POST /v1/verify HTTP/1.1\r\nHost: x\r\nX-Request-Id: r-%d\r\n%s\r\nContent-Length: %d\r\n\r\n%s", i, asJSON, len(body), body)
		want = append(want, fmt.Sprintf("r-%d %t", i, secret == "good"))
	}
	conn, err := net.Dial("tcp", p.http)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, raw.String()); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	for _, w := range want {
		a := read(t, r, "POST")
		if got := a.header.Get("X-Request-Id") + fmt.Sprintf(" %t", strings.Contains(a.body, `"valid":true`)); got != w {
			t.Fatalf("%s, want %s", got, w)
		}
	}
}

// Many connections at once do not see each other's texts.
func TestConcurrentConnections(t *testing.T) {
	p, _ := door(t, &fixed{})
	var wg sync.WaitGroup
	for n := range 16 {
		wg.Go(func() {
			for i := range 50 {
				id, secret := fmt.Sprintf("c%d-%d", n, i), "good"
				if (n+i)%2 == 0 {
					secret = "x" + id
				}
				a := exchange(t, "unix", p.unix, request("GET", "/v1/authorize?permission=a:"+strings.Repeat("b", n+1), "", "X-Api-Key: "+secret, "Accept: "+id))
				if (a.status == 200) != (secret == "good") || a.header.Get("X-Request-Id") != "req-1" {
					t.Errorf("%s", a)
				}
			}
		})
	}
	wg.Wait()
}

func TestLimits(t *testing.T) {
	p, _ := door(t, &fixed{})
	for name, tt := range map[string]struct {
		raw    string
		status int
	}{
		"headers":         {"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 40<<10) + "\r\n\r\n", 431},
		"a long URL":      {"GET /" + strings.Repeat("x", 40<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431},
		"a body":          {request("POST", "/v1/verify", strings.Repeat("x", 17<<10), asJSON), 413},
		"a body to come":  {"POST /v1/verify HTTP/1.1\r\nHost: x\r\n" + asJSON + "\r\nContent-Length: 99999999999\r\n\r\n", 413},
		"one expected":    {"POST /v1/verify HTTP/1.1\r\nHost: x\r\n" + asJSON + "\r\nExpect: 100-continue\r\nContent-Length: 999999\r\n\r\n", 413},
		"chunks":          {"POST /v1/verify HTTP/1.1\r\nHost: x\r\n" + asJSON + "\r\nTransfer-Encoding: chunked\r\n\r\n5000\r\n" + strings.Repeat("x", 0x5000) + "\r\n0\r\n\r\n", 413},
		"another's limit": {request("POST", "/v1/%76erify", strings.Repeat("x", 17<<10), asJSON), 413},
		"a batch":         {request("POST", "/v1/verify/batch", strings.Repeat("x", 257<<10), asJSON), 413},
		"a form":          {request("POST", "/oauth2/introspect", "token="+strings.Repeat("x", 33<<10), asForm), 413},
		"a length beyond": {"POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400},
	} {
		if got := statuses(t, "tcp", p.http, tt.raw); len(got) != 1 || got[0] != tt.status {
			t.Errorf("%s: %v, want %d", name, got, tt.status)
		}
	}
	// A body that waits to be asked for is asked for.
	body := `{"secret":"good"}`
	raw := fmt.Sprintf("POST /v1/verify HTTP/1.1\r\nHost: x\r\n%s\r\nExpect: 100-Continue\r\nContent-Length: %d\r\n\r\n%s", asJSON, len(body), body)
	if got := statuses(t, "tcp", p.http, raw); len(got) != 1 || got[0] != 200 {
		t.Errorf("an expected body: %v", got)
	}
}

// Connections beyond the bound are refused, and those within go on.
func TestTooManyConnections(t *testing.T) {
	p, _ := door(t, &fixed{}, func(c *sidecar.Config) { c.MaxConnections = 2 })
	conns := make([]net.Conn, 2)
	for i := range conns {
		var err error
		if conns[i], err = net.Dial("tcp", p.http); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
		if _, err := io.WriteString(conns[i], request("GET", "/livez", "")); err != nil {
			t.Fatal(err)
		}
		if a := read(t, bufio.NewReader(conns[i]), "GET"); a.status != 200 {
			t.Fatalf("%s", a)
		}
	}
	if got := statuses(t, "tcp", p.http, request("GET", "/livez", "")); len(got) != 1 || got[0] != 503 {
		t.Errorf("one too many: %v", got)
	}
	// Those of the socket are counted apart.
	if got := statuses(t, "unix", p.unix, request("GET", "/livez", "")); len(got) != 1 || got[0] != 200 {
		t.Errorf("on the socket: %v", got)
	}
}

func TestPanic(t *testing.T) {
	log := &bytes.Buffer{}
	p, _ := door(t, &fixed{}, func(c *sidecar.Config) { c.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	a := exchange(t, "tcp", p.http, request("GET", "/v1/authorize", "", "X-Api-Key: panic"))
	if a.status != 500 || !strings.Contains(a.body, `"internal"`) || strings.Contains(a.body, "secret") || a.header.Get("X-Request-Id") != "req-1" {
		t.Errorf("%s", a)
	}
	if a := exchange(t, "tcp", p.http, request("GET", "/v1/authorize", "", "X-Api-Key: good")); a.status != 200 {
		t.Errorf("after it: %s", a)
	}
	if strings.Contains(log.String(), "kl_live secret") {
		t.Errorf("%s", log)
	}
}

// What a request waits for has an end when the sidecar stops, and what is being
// answered is answered.
func TestShutdownAnswers(t *testing.T) {
	begun := make(chan struct{})
	v := &fixed{during: func(ctx context.Context) {
		close(begun)
		<-ctx.Done()
	}}
	side, err := sidecar.New(sidecar.Config{
		Verifier: v, Positions: func() events.Positions { return events.Positions{Ledger: events.LedgerID{9}} },
		Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- side.Serve(l) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request("GET", "/v1/authorize", "", "X-Api-Key: good")); err != nil {
		t.Fatal(err)
	}
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := side.Shutdown(ctx); err == nil {
		t.Error("it did not wait")
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if a := read(t, bufio.NewReader(conn), "GET"); a.status != 200 {
		t.Errorf("%s", a)
	}
}

// The listener may be one of TLS.
func TestTLS(t *testing.T) {
	// Only for its certificate, and a client that trusts it.
	other := httptest.NewTLSServer(http.NotFoundHandler())
	defer other.Close()
	p, _ := door(t, &fixed{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- p.side.Serve(tls.NewListener(l, &tls.Config{Certificates: other.TLS.Certificates, MinVersion: tls.VersionTLS12}))
	}()
	client := other.Client()
	for range 2 {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+l.Addr().String()+"/v1/authorize", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Api-Key", "good")
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 200 || res.TLS == nil {
			t.Errorf("%d", res.StatusCode)
		}
	}
	// Who speaks in clear there is told nothing and asks nothing.
	if got := statuses(t, "tcp", l.Addr().String(), smuggled); len(got) != 0 {
		t.Errorf("in clear: %v", got)
	}
	client.CloseIdleConnections()
}

// A client whose name means nothing to OAuth is answered in OAuth's words, and is
// told where keys are revoked.
func TestOAuth(t *testing.T) {
	p, _ := door(t, &fixed{}, func(c *sidecar.Config) { c.ServerURL = "https://keys.example" })
	for name, tt := range map[string]struct {
		raw, want string
		status    int
	}{
		"active":    {request("POST", "/oauth2/introspect", "token=good", asForm), `{"active":true,"client_id":"01000000-0000-0000-0000-000000000000"`, 200},
		"inactive":  {request("POST", "/oauth2/introspect", "token=x", asForm), `{"active":false}`, 200},
		"no token":  {request("POST", "/oauth2/introspect", "x=y", asForm), `"error":"invalid_request"`, 400},
		"no form":   {request("POST", "/oauth2/introspect", `{"token":"good"}`, asJSON), `"code":"unsupported_media_type"`, 415},
		"in a URL":  {request("POST", "/oauth2/introspect?token=x", "token=good", asForm), "ends up in logs", 400},
		"by GET":    {request("GET", "/oauth2/introspect?token=x", ""), "method_not_allowed", 405},
		"to revoke": {request("POST", "/oauth2/revoke", "token=good", asForm), "changes nothing; send it to the server at https://keys.example", 501},
	} {
		a := exchange(t, "unix", p.unix, tt.raw)
		if a.status != tt.status || !strings.Contains(a.body, tt.want) || name == "inactive" && a.body != tt.want {
			t.Errorf("%s: %s", name, a)
		}
	}
}

// FuzzRaw holds the sidecar to net/http: bytes that the sidecar takes for requests
// that it answers are requests of the same methods and URLs to net/http, and no more
// of them.
func FuzzRaw(f *testing.F) {
	for _, seed := range []string{
		smuggled, request("POST", "/v1/verify", `{"secret":"good"}`, asJSON) + smuggled,
		"POST /v1/verify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n" + smuggled,
		"GET http://x/livez HTTP/1.0\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "GET /livez HTTP/1.1\nHost: x\n\n",
		"POST /v1/verify HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}", "\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /v1/authorize?permission=a%zz HTTP/1.1\r\nhost:x\r\nconnection: Close\r\n\r\n" + smuggled,
	} {
		f.Add([]byte(seed))
	}
	v := &fixed{}
	p, _ := door(f, v)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 16<<10 {
			return
		}
		want := requestsIn(raw)
		got := statuses(t, "unix", p.unix, string(raw))
		answered := 0
		for _, status := range got {
			// What is refused as no request at all may be one to net/http.
			if status != 400 && status != 431 && status != 413 {
				answered++
			}
		}
		if answered > want {
			t.Fatalf("%q: %v, where net/http reads %d requests", raw, got, want)
		}
	})
}

// requestsIn counts the requests that net/http reads of bytes. Empty lines before
// one are passed over, as RFC 9112 (2.2) says.
func requestsIn(raw []byte) (n int) {
	for r := bufio.NewReader(bytes.NewReader(raw)); ; {
		for b, _ := r.Peek(1); len(b) == 1 && (b[0] == '\r' || b[0] == '\n'); b, _ = r.Peek(1) {
			_, _ = r.Discard(1)
		}
		req, err := http.ReadRequest(r)
		if err != nil {
			return n
		}
		// One whose body ends with the connection counts, and is the last.
		n++
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return n
		}
	}
}
