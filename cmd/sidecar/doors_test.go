package sidecar

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

// certificate writes a certificate of this machine, and returns who trusts it.
func certificate(t *testing.T) (cert, key string, trusting *tls.Config) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sidecar"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", secret), &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// TestTLS speaks TLS on ports, and in clear on sockets, over HTTP and gRPC.
func TestTLS(t *testing.T) {
	_, secret, _, cfg := begin(t)
	var trusting *tls.Config
	cfg.TLSCert, cfg.TLSKey, trusting = certificate(t)
	cfg.GRPCListen = []string{"127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "g")}
	r := start(t, cfg)
	port, socket, gRPC, local := r.addresses[0], r.addresses[1], r.addresses[2], r.addresses[3]
	if !strings.HasPrefix(port, "https://") || !strings.HasPrefix(gRPC, "grpcs://") || !strings.HasPrefix(local, "grpc+unix:") {
		t.Fatalf("%q", r.addresses)
	}
	if got := code(t, socket, secret); got != "VALID" {
		t.Errorf("on the socket: %s", got)
	}
	transport := &http.Transport{TLSClientConfig: trusting}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Post(port+"/v1/verify", "application/json", strings.NewReader(`{"secret":"`+secret+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if !strings.Contains(string(body), `"VALID"`) {
		t.Errorf("on the port: %s", body)
	}
	if res, err := http.Get("http://" + strings.TrimPrefix(port, "https://") + "/livez"); err == nil && res.StatusCode == http.StatusOK {
		t.Error("the port speaks in clear")
	}
	for target, with := range map[string]credentials.TransportCredentials{
		strings.TrimPrefix(gRPC, "grpcs://"):       credentials.NewTLS(trusting),
		strings.TrimPrefix(local, "grpc+"):         insecure.NewCredentials(),
		"passthrough:///" + gRPC[len("grpcs://"):]: insecure.NewCredentials(),
	} {
		conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(with))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
				Method: http.MethodGet, Path: "/docs/1", Headers: map[string]string{"authorization": "Bearer " + secret},
			}},
		}})
		conn.Close()
		if strings.HasPrefix(target, "passthrough:") {
			if err == nil {
				t.Error("the gRPC port speaks in clear")
			}
			continue
		}
		if err != nil || codes.Code(answer.GetStatus().GetCode()) != codes.OK {
			t.Errorf("%s: %v %v", target, answer, err)
		}
	}
}

// TestWhenStale cuts sidecars off and asks each past its bound.
func TestWhenStale(t *testing.T) {
	t.Parallel()
	ledger, secret, _, cfg := begin(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/verify" || r.Header.Get("Authorization") != "Bearer kl_mgmt" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"valid":false,"code":"INACTIVE","position":%q,"staleness_ms":1}`, ledger.Positions().Format(events.StreamLedger, 1))
	}))
	defer server.Close()
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, []byte("kl_mgmt\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	addresses, sidecars := map[verify.WhenStale]string{}, []*running(nil)
	for _, when := range []verify.WhenStale{verify.Deny, verify.Serve, verify.Ask} {
		cfg := cfg
		name := fmt.Sprintf("edge-%d", when)
		cfg.Nodes.Creds = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(cfg.Nodes.Creds, ledger.Verifier(events.CredentialName(name), 0), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg.Listen, cfg.MaxStaleness, cfg.WhenStale = []string{"127.0.0.1:0"}, 5*time.Second, when
		if when == verify.Ask {
			cfg.Server, cfg.ServerKeyFile = server.URL, keyFile
		}
		ledger.Tick()
		r := start(t, cfg)
		sidecars, addresses[when] = append(sidecars, r), r.addresses[0]
	}
	for when, address := range addresses {
		// The other ones took their time to start.
		ledger.Tick()
		for deadline := time.Now().Add(time.Minute); code(t, address, secret) != "VALID"; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d is not fresh", when)
			}
		}
	}
	ledger.Stop()
	for deadline := time.Now().Add(time.Minute); code(t, addresses[verify.Deny], secret) != "STALE"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never gets stale")
		}
	}
	time.Sleep(time.Second)
	if got := code(t, addresses[verify.Serve], secret); got != "VALID" {
		t.Errorf("serving: %s", got)
	}
	if got := code(t, addresses[verify.Ask], secret); got != "INACTIVE" {
		t.Errorf("asking: %s", got)
	}
	// What was recorded meanwhile is stored when the broker is back.
	ledger.Start()
	for _, r := range sidecars {
		r.stop()
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
	}
}

// TestDrains stops a sidecar while a question waits for an event: it is answered.
func TestDrains(t *testing.T) {
	t.Parallel()
	ledger, secret, _, cfg := begin(t)
	cfg.MaxWait = time.Minute
	r := start(t, cfg)
	c, base := client(t, r.addresses[1])
	next := ledger.Positions().Format(events.StreamLedger, ledger.Last()+1)
	var asking sync.WaitGroup
	asking.Go(func() {
		res, err := c.Post(base+"/v1/verify", "application/json", strings.NewReader(`{"secret":"`+secret+`","at_least":"`+next+`"}`))
		if err != nil {
			t.Error(err)
			return
		}
		defer res.Body.Close()
		if body, _ := io.ReadAll(res.Body); !strings.Contains(string(body), `"VALID"`) {
			t.Errorf("%s %s", res.Status, body)
		}
	})
	// Nothing tells that a question waits but that it is not answered.
	time.Sleep(300 * time.Millisecond)
	r.stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var d net.Dialer
	for ctx.Err() == nil {
		conn, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(r.addresses[0], "http://"))
		if err != nil {
			break
		}
		conn.Close()
	}
	ledger.Tick()
	asking.Wait()
	if err := <-r.ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
}
