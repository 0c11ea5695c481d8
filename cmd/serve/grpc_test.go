package serve

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// A server answers gateways over gRPC, says so on its line, and ends with both doors.
func TestGateways(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	for name, tt := range map[string]struct {
		change func(*Config)
		scheme string
	}{
		"in clear": {func(*Config) {}, "grpc://"},
		"tls":      {func(c *Config) { c.TLSCert, c.TLSKey = cert, key }, "grpcs://"},
		"socket":   {func(c *Config) { c.GRPCListen = "unix:" + filepath.Join(c.Data, "envoy.sock") }, "grpc+"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			ready := make(chan struct{})
			cfg := Config{
				Listen: "127.0.0.1:0", GRPCListen: "127.0.0.1:0", Data: t.TempDir(), Logger: discard,
				Out: writerFunc(func(b []byte) (int, error) {
					defer close(ready)
					return out.Write(b)
				}),
			}
			tt.change(&cfg)
			ended := make(chan error, 1)
			go func() { ended <- Run(ctx, cfg) }()
			select {
			case <-ready:
			case err := <-ended:
				t.Fatal(err)
			}
			_, address, ok := strings.Cut(out.String(), tt.scheme)
			if !ok {
				t.Fatalf("no %s on the line %s", tt.scheme, out.String())
			}
			owner, err := os.ReadFile(filepath.Join(cfg.Data, OwnerFile))
			if err != nil {
				t.Fatal(err)
			}
			askGateway(t, strings.TrimSpace(address), cfg.TLSCert, strings.TrimSpace(string(owner)))
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func askGateway(t *testing.T, address, ca, owner string) {
	t.Helper()
	secure := insecure.NewCredentials()
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		secure = credentials.NewTLS(&tls.Config{RootCAs: roots})
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(secure))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	h, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil || h.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
	// A management key is a key, and of no use to a gateway.
	r, err := authv3.NewAuthorizationClient(conn).Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Path: "/", Headers: map[string]string{"authorization": "Bearer " + owner},
		}},
	}})
	if err != nil || codes.Code(r.GetStatus().GetCode()) != codes.PermissionDenied || r.GetDeniedResponse().GetStatus().GetCode() != 403 {
		t.Errorf("%v, %v", r, err)
	}
}

func TestGatewaysRefused(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := Config{Listen: "127.0.0.1:0", GRPCListen: taken.Addr().String(), Data: t.TempDir(), Logger: discard}
	if err := Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "--grpc-listen") {
		t.Errorf("a port that is taken: %v", err)
	}
	cfg.GRPCListen = "0.0.0.0:0"
	if err := cfg.Validate(); !errors.Is(err, ErrInsecure) {
		t.Errorf("beyond loopback in clear: %v", err)
	}
	for _, bad := range []string{"nowhere", "unix:"} {
		cfg.GRPCListen = bad
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "--grpc-listen") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// A server whose gateways cannot come in any more says so, and does not go on without
// them.
func TestBrokenGateways(t *testing.T) {
	cfg := Config{Listen: "127.0.0.1:0", Data: t.TempDir(), Logger: discard}
	b, err := startBroker(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.stop()
	ledger, err := open(t.Context(), cfg, b)
	if err != nil {
		t.Fatal(err)
	}
	defer ledger.close()
	parts, err := assemble(t.Context(), cfg, ledger)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		t.Fatal(err)
	}
	gateways, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(parts.admitGateways(cfg, gateways), gateways.Close()); err != nil {
		t.Fatal(err)
	}
	if err := parts.serve(t.Context(), cfg, listener); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serve: %v", err)
	}
}
