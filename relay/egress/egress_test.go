package egress_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/keyledger/keyledger/relay/egress"
)

// A proxy would resolve names and connect in our place. There is none at the one that
// the environment names, so that whatever asked it would fail.
func TestMain(m *testing.M) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy"} {
		if err := os.Setenv(name, "http://127.0.0.1:9"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// patience is for what must not end by itself.
const patience = time.Minute

// authority signs the certificates of a test's servers.
type authority struct {
	pem  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), cert, key}
}

// certify returns a server's certificate for names and addresses.
func (a *authority) certify(t *testing.T, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// names is a DNS server whose answers a test may change.
type names struct {
	address string

	mu    sync.Mutex
	at    map[string][]netip.Addr
	asked []string
}

func newNames(t *testing.T) *names {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &names{address: conn.LocalAddr().String(), at: map[string][]netip.Addr{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer, err := n.answer(buf[:size]); err == nil {
				conn.WriteTo(answer, from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return n
}

// set has a name lead somewhere from now on.
func (n *names) set(name string, to ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.at[name] = nil
	for _, a := range to {
		n.at[name] = append(n.at[name], netip.MustParseAddr(a))
	}
}

func (n *names) answer(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	q := m.Questions[0]
	n.mu.Lock()
	n.asked = append(n.asked, q.Name.String())
	found, known := n.at[strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))]
	n.mu.Unlock()
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}
	m.Additionals = nil
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range found {
		head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return m.Pack()
}

func (n *names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", n.address)
	}}
}

// server is a provider, or what only pretends to be one.
type server struct {
	*httptest.Server
	port string
	// connections counts what connected at all, TLS or not.
	connections *atomic.Int64
}

// counted counts connections.
type counted struct {
	net.Listener
	n *atomic.Int64
}

func (c counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

// serve starts a server, without TLS where there is no certificate.
func serve(t *testing.T, address string, cert *tls.Certificate, handler http.HandlerFunc) *server {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Server: httptest.NewUnstartedServer(handler), connections: new(atomic.Int64)}
	s.Listener.Close()
	s.Listener = counted{ln, s.connections}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	if cert != nil {
		s.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	_, s.port, _ = net.SplitHostPort(ln.Addr().String())
	return s
}

func fine(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "fine") }

// world is a provider of customers at 127.0.0.2, which the operator allows, and
// something at 127.0.0.1 and the same port that nobody should reach.
type world struct {
	ca               *authority
	names            *names
	provider, inside *server
}

func newWorld(t *testing.T, handler http.HandlerFunc) *world {
	t.Helper()
	w := &world{ca: newAuthority(t), names: newNames(t)}
	cert := w.ca.certify(t, "api.example.test", "127.0.0.1", "127.0.0.2", "localhost")
	w.provider = serve(t, "127.0.0.2:0", &cert, handler)
	w.inside = serve(t, "127.0.0.1:"+w.provider.port, &cert, fine)
	w.names.set("api.example.test", "127.0.0.2")
	return w
}

// client returns a client that may go to 127.0.0.2.
func (w *world) client(t *testing.T, change ...func(*egress.Config)) *egress.Client {
	t.Helper()
	cfg := egress.Config{Allow: []string{"127.0.0.2"}, CA: w.ca.pem, Resolver: w.names.resolver(), Timeout: patience}
	for _, f := range change {
		f(&cfg)
	}
	c, err := egress.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) url(path string) string { return "https://api.example.test:" + w.provider.port + path }

// get asks, and reads all of the answer.
func get(ctx context.Context, c *egress.Client, url string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer sk-very-secret")
	res, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}

func TestAnAnswerComesThrough(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, r.Method+" "+r.URL.String()+" "+r.Header.Get("Authorization")+" "+r.Proto)
	})
	status, body, err := get(t.Context(), w.client(t), w.url("/v1/models?api-version=1"))
	if err != nil || status != http.StatusTeapot || body != "GET /v1/models?api-version=1 Bearer sk-very-secret HTTP/1.1" {
		t.Errorf("got %d %q, %v", status, body, err)
	}
	if _, _, err := get(t.Context(), w.client(t), strings.Replace(w.url("/"), "api", "API", 1)); err != nil {
		t.Errorf("in capitals: got %v", err)
	}
	// Looked up as it stands, whatever networks this machine would search.
	w.names.mu.Lock()
	defer w.names.mu.Unlock()
	for _, name := range w.names.asked {
		if !strings.EqualFold(name, "api.example.test.") {
			t.Errorf("asked for %s", name)
		}
	}
}

// The name leads to a provider when it is looked at, and inside when it is used.
func TestANameIsJudgedWhenItIsConnectedTo(t *testing.T) {
	w := newWorld(t, fine)
	c := w.client(t)
	if err := c.Check(t.Context(), w.url("/")); err != nil {
		t.Fatal(err)
	}
	if _, body, err := get(t.Context(), c, w.url("/")); err != nil || body != "fine" {
		t.Fatalf("got %q, %v", body, err)
	}
	w.names.set("api.example.test", "127.0.0.1")
	if _, _, err := get(t.Context(), c, w.url("/")); !errors.Is(err, egress.ErrForbidden) {
		t.Errorf("got %v", err)
	}
	if err := c.Check(t.Context(), w.url("/")); !errors.Is(err, egress.ErrForbidden) {
		t.Errorf("got %v", err)
	}
	// Of several addresses only those that may be are tried.
	w.names.set("api.example.test", "127.0.0.1", "127.0.0.2", "::1")
	if _, body, err := get(t.Context(), c, w.url("/")); err != nil || body != "fine" {
		t.Errorf("got %q, %v", body, err)
	}
	if n := w.inside.connections.Load(); n != 0 {
		t.Errorf("%d connections went inside", n)
	}
}

// A connection that was made while a name led elsewhere is not used again.
func TestNoConnectionIsKept(t *testing.T) {
	w := newWorld(t, fine)
	c := w.client(t)
	for range 3 {
		if _, _, err := get(t.Context(), c, w.url("/")); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.provider.connections.Load(); n != 3 {
		t.Errorf("%d connections for 3 requests", n)
	}
}

func TestAddressesInsideAreRefused(t *testing.T) {
	w := newWorld(t, fine)
	w.names.set("mapped.example.test", "::ffff:127.0.0.1")
	w.names.set("loopback.example.test", "::1")
	w.names.set("localhost", "127.0.0.1")
	w.names.set("metadata.example.test", "169.254.169.254")
	w.names.set("translated.example.test", "64:ff9b::7f00:1")
	w.names.set("inside.example.test", "127.0.0.1")
	w.names.set("x.localhost", "127.0.0.1")
	c := w.client(t)
	for _, host := range []string{
		"127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "localhost",
		"localhost.", "LOCALHOST", "x.localhost", "127.0.0.1.", "127.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.01", "0", "0.0.0.0", "[::]",
		"mapped.example.test", "loopback.example.test", "metadata.example.test", "translated.example.test", "inside.example.test",
		"inside.example.test.", "169.254.169.254", "168.63.129.16", "10.0.0.1", "[fd00:ec2::254]", "[fe80::1%25lo]",
	} {
		url := "https://" + host + ":" + w.inside.port + "/"
		if _, _, err := get(t.Context(), c, url); !errors.Is(err, egress.ErrForbidden) {
			t.Errorf("%s: got %v", host, err)
		}
		if err := c.Check(t.Context(), url); !errors.Is(err, egress.ErrForbidden) {
			t.Errorf("look at %s: got %v", host, err)
		}
	}
	if n := w.inside.connections.Load(); n != 0 {
		t.Errorf("%d connections went inside", n)
	}
}

func TestOtherRequestsAreRefused(t *testing.T) {
	w := newWorld(t, fine)
	plain := serve(t, "127.0.0.2:0", nil, fine)
	c := w.client(t)
	for _, url := range []string{
		"http://127.0.0.2:" + plain.port, "ftp://127.0.0.2", "https:127.0.0.2", "https://", "https://user:secret@127.0.0.2:" + w.provider.port,
		"https://127.0.0.2:" + w.provider.port + "/#x", "https://127.0.0.2:0", "https://127.0.0.2:70000",
	} {
		if _, _, err := get(t.Context(), c, url); !errors.Is(err, egress.ErrForbidden) {
			t.Errorf("%s: got %v", url, err)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url("/"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "other.example.test"
	if res, err := c.Do(req); !errors.Is(err, egress.ErrForbidden) {
		if err == nil {
			res.Body.Close()
		}
		t.Errorf("another host in the header: got %v", err)
	}
	if n := plain.connections.Load() + w.provider.connections.Load(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

func TestTheOperatorAllows(t *testing.T) {
	w := newWorld(t, fine)
	w.names.set("inside.example.test", "127.0.0.1")
	byName := func(name string) string { return "https://" + name + ":" + w.inside.port }
	for _, test := range []struct {
		allow, url string
		want       error
	}{
		{"127.0.0.1", byName("127.0.0.1"), nil},
		{"127.0.0.0/8", byName("127.0.0.1"), nil},
		{"127.0.0.1:" + w.inside.port, byName("127.0.0.1"), nil},
		{"127.0.0.1:1", byName("127.0.0.1"), egress.ErrForbidden},
		{"::ffff:127.0.0.1", byName("127.0.0.1"), nil},
		{"localhost", byName("localhost"), nil},
		{"LOCALHOST:" + w.inside.port, byName("localhost"), nil},
		{"localhost", byName("LocalHost"), nil},
		{"localhost:1", byName("localhost"), egress.ErrForbidden},
		{"localhost", byName("127.0.0.1"), egress.ErrForbidden},
		{"127.0.0.1", byName("localhost"), egress.ErrForbidden},
		{"inside.example.test", "https://inside.example.test:" + w.inside.port, egress.ErrTLS},
		{"127.0.0.3", byName("127.0.0.1"), egress.ErrForbidden},
	} {
		c := w.client(t, func(cfg *egress.Config) {
			cfg.Allow = []string{test.allow}
			// This machine's own names.
			if strings.Contains(strings.ToLower(test.url), "localhost") {
				cfg.Resolver = nil
			}
		})
		if _, _, err := get(t.Context(), c, test.url); !errors.Is(err, test.want) {
			t.Errorf("%s with %s: got %v, want %v", test.url, test.allow, err, test.want)
		}
		if err := c.Check(t.Context(), test.url); errors.Is(err, egress.ErrForbidden) != errors.Is(test.want, egress.ErrForbidden) {
			t.Errorf("look at %s with %s: got %v", test.url, test.allow, err)
		}
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308, 300, 304} {
		var w *world
		w = newWorld(t, func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				rw.Header().Set("Location", w.url("/elsewhere"))
				rw.WriteHeader(status)
				return
			}
			t.Errorf("asked for %s", r.URL)
		})
		if _, _, err := get(t.Context(), w.client(t), w.url("/")); !errors.Is(err, egress.ErrRedirect) {
			t.Errorf("%d: got %v", status, err)
		}
	}
}

func TestAnswersAreBounded(t *testing.T) {
	endless := func(w io.Writer) {
		page := bytes.Repeat([]byte("x"), 32<<10)
		for {
			if _, err := w.Write(page); err != nil {
				return
			}
		}
	}
	for path, test := range map[string]struct {
		handler http.HandlerFunc
		want    error
	}{
		"all that may be": {func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1<<20)) }, nil},
		"one byte more":   {func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1<<20+1)) }, egress.ErrTooLarge},
		"endless body":    {func(w http.ResponseWriter, _ *http.Request) { endless(w) }, egress.ErrTooLarge},
		"compressed": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			endless(gzip.NewWriter(w))
		}, egress.ErrTooLarge},
		"long header": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 80<<10))
			io.WriteString(w, "fine")
		}, egress.ErrUnreachable},
		"many headers before the answer": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 8<<10))
			for range 100 {
				w.WriteHeader(http.StatusEarlyHints)
			}
		}, egress.ErrUnreachable},
	} {
		t.Run(path, func(t *testing.T) {
			w := newWorld(t, test.handler)
			_, body, err := get(t.Context(), w.client(t), w.url("/"))
			if !errors.Is(err, test.want) || len(body) > 1<<20 {
				t.Errorf("got %d bytes, %v, want %v", len(body), err, test.want)
			}
		})
	}
}

// What takes too long ends, whichever part of it does, and whoever has enough.
func TestExchangesEnd(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	wait := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	dribble := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			io.WriteString(w, "x")
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	for name, handler := range map[string]http.HandlerFunc{"no header": wait, "a body by the byte": dribble} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, handler)
			short := w.client(t, func(cfg *egress.Config) { cfg.Timeout = 300 * time.Millisecond })
			if _, _, err := get(t.Context(), short, w.url("/")); !errors.Is(err, egress.ErrTimeout) {
				t.Errorf("got %v", err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, _, err := get(ctx, w.client(t), w.url("/")); !errors.Is(err, egress.ErrTimeout) {
				t.Errorf("by its own deadline: got %v", err)
			}
			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(100*time.Millisecond, cancel)
			if _, _, err := get(ctx, w.client(t), w.url("/")); !errors.Is(err, context.Canceled) {
				t.Errorf("given up: got %v", err)
			}
		})
	}
	w := newWorld(t, fine)
	short := w.client(t, func(cfg *egress.Config) { cfg.Timeout = 300 * time.Millisecond })
	if _, _, err := get(t.Context(), short, "https://"+silent.Addr().String()); !errors.Is(err, egress.ErrTimeout) {
		t.Errorf("no handshake: got %v", err)
	}
}

func TestTheOtherSideProvesWhoItIs(t *testing.T) {
	w := newWorld(t, fine)
	stranger := newAuthority(t).certify(t, "127.0.0.2")
	misnamed := w.ca.certify(t, "other.example.test")
	good := w.ca.certify(t, "127.0.0.2")
	old := httptest.NewUnstartedServer(http.HandlerFunc(fine))
	ln, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	old.Listener.Close()
	old.Listener = ln
	old.Config.ErrorLog = log.New(io.Discard, "", 0)
	old.TLS = &tls.Config{Certificates: []tls.Certificate{good}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.StartTLS()
	defer old.Close()
	_, oldPort, _ := net.SplitHostPort(ln.Addr().String())
	for name, port := range map[string]string{
		"a stranger's certificate": serve(t, "127.0.0.2:0", &stranger, fine).port,
		"another's name":           serve(t, "127.0.0.2:0", &misnamed, fine).port,
		"no TLS":                   serve(t, "127.0.0.2:0", nil, fine).port,
		"old TLS":                  oldPort,
	} {
		if _, _, err := get(t.Context(), w.client(t), "https://127.0.0.2:"+port); !errors.Is(err, egress.ErrTLS) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, _, err := get(t.Context(), w.client(t), "https://127.0.0.2:"+serve(t, "127.0.0.2:0", &good, fine).port); err != nil {
		t.Errorf("a good one: got %v", err)
	}
}

// Errors are shown to customers: they say what happened, and of nothing where.
func TestErrorsSayNothingOfTheRequest(t *testing.T) {
	w := newWorld(t, fine)
	w.names.set("inside.example.test", "10.11.12.13")
	closed := serve(t, "127.0.0.2:0", nil, fine)
	closed.Close()
	c := w.client(t)
	for url, want := range map[string]error{
		"https://missing.example.test/secret-path?key=sk-very-secret":                     egress.ErrName,
		"https://inside.example.test/secret-path?key=sk-very-secret":                      egress.ErrForbidden,
		"https://127.0.0.2:" + closed.port + "/secret-path?key=sk-very-secret":            egress.ErrUnreachable,
		"https://u:sk-very-secret@api.example.test/secret-path":                           egress.ErrForbidden,
		"https://localhost:" + w.inside.port + "/secret-path?key=sk-very-secret":          egress.ErrForbidden,
		"https://wrong.example.test:" + w.provider.port + "/secret-path?k=sk-very-secret": egress.ErrTLS,
	} {
		w.names.set("wrong.example.test", "127.0.0.2")
		_, _, err := get(t.Context(), c, url)
		if !errors.Is(err, want) || !errors.Is(err, egress.ErrUnreachable) {
			t.Errorf("%s: got %v, want %v", url, err, want)
		}
		for _, word := range []string{"secret", "example.test", "127.0.0", "10.11.12.13", "sk-"} {
			if err != nil && strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v", url, err)
			}
		}
	}
}
