package extauthz_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/keyledger/keyledger/api/extauthz"
	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

// verdict is a verifier that does as a test tells it.
type verdict func(*verify.Question) verify.Decision

func (verdict) Check(*verify.Question) error { return nil }

func (v verdict) Verify(_ context.Context, q *verify.Question) verify.Decision { return v(q) }

func allow(*verify.Question) verify.Decision { return verify.Decision{Code: events.CodeValid} }

// door is one that is served until the test ends.
type door struct {
	*extauthz.Server
	conn   *grpc.ClientConn
	client authv3.AuthorizationClient
	served chan error
}

func open(t *testing.T, v verdict, network string, change ...func(*extauthz.Config)) *door {
	t.Helper()
	metrics, err := gate.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	g, err := gate.New(gate.Config{Verifier: v, Positions: func() events.Positions { return events.Positions{Ledger: events.LedgerID{1}, Epoch: 1} }, Metrics: metrics})
	if err != nil {
		t.Fatal(err)
	}
	cfg := extauthz.Config{Gate: g, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&cfg)
	}
	server, err := extauthz.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	address, target := "127.0.0.1:0", ""
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	if target = l.Addr().String(); network == "unix" {
		target = "unix:" + target
	}
	d := &door{Server: server, served: make(chan error, 1)}
	go func() { d.served <- server.Serve(l) }()
	if d.conn, err = grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	d.client = authv3.NewAuthorizationClient(d.conn)
	t.Cleanup(func() {
		d.conn.Close()
		d.stop(t)
	})
	return d
}

func (d *door) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	d.Stop(ctx)
	select {
	case err := <-d.served:
		if err != nil {
			t.Error(err)
		}
		d.served <- nil
	case <-ctx.Done():
		t.Error("it serves on")
	}
}

var aKey = question{method: "GET", path: "/", headers: map[string]string{"authorization": "Bearer k"}}

func TestConfigIsChecked(t *testing.T) {
	_, err := extauthz.New(extauthz.Config{})
	if err == nil || !strings.Contains(err.Error(), "Gate") || !strings.Contains(err.Error(), "Logger") {
		t.Error(err)
	}
}

// A verifier that breaks lets nobody pass: without an answer a gateway might.
func TestPanicsDeny(t *testing.T) {
	var log bytes.Buffer
	d := open(t, func(*verify.Question) verify.Decision { panic("Bearer k") }, "tcp", func(c *extauthz.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	r, err := d.client.Check(t.Context(), aKey.request())
	if err != nil || r.GetDeniedResponse().GetStatus().GetCode() != 500 || codes.Code(r.GetStatus().GetCode()) != codes.Internal {
		t.Errorf("%v, %v", r, err)
	}
	d.stop(t)
	if text := log.String(); !strings.Contains(text, "panicked") || strings.Contains(text, "Bearer k") {
		t.Errorf("logged: %s", text)
	}
}

// Who cannot tell, denies by an answer too, and says when to come again.
func TestStaleAndUnavailableDeny(t *testing.T) {
	for _, code := range []events.Code{events.CodeStale, events.CodeUnavailable, 0} {
		d := open(t, func(*verify.Question) verify.Decision { return verify.Decision{Code: code} }, "tcp")
		r, err := d.client.Check(t.Context(), aKey.request())
		if err != nil {
			t.Fatal(err)
		}
		status, headers := denied(r)
		if status != 503 || headers["retry-after"] == "" || codes.Code(r.GetStatus().GetCode()) != codes.Unavailable {
			t.Errorf("%s: %v", code, r)
		}
	}
}

func TestHealth(t *testing.T) {
	ready := make(chan bool, 1)
	ready <- true
	d := open(t, allow, "unix", func(c *extauthz.Config) {
		c.Ready = func() bool {
			now := <-ready
			ready <- now
			return now
		}
	})
	client := healthv1.NewHealthClient(d.conn)
	check := func(service string, want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if r, err := client.Check(t.Context(), &healthv1.HealthCheckRequest{Service: service}); err != nil || r.Status != want {
			t.Errorf("%q: %v, %v", service, r, err)
		}
	}
	check("", healthv1.HealthCheckResponse_SERVING)
	check(extauthz.Service, healthv1.HealthCheckResponse_SERVING)
	if _, err := client.Check(t.Context(), &healthv1.HealthCheckRequest{Service: "other"}); status.Code(err) != codes.NotFound {
		t.Errorf("another service: %v", err)
	}
	watch, err := client.Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthv1.HealthCheckResponse_ServingStatus{healthv1.HealthCheckResponse_SERVING, healthv1.HealthCheckResponse_NOT_SERVING} {
		r, err := watch.Recv()
		if err != nil || r.Status != want {
			t.Fatalf("watching: %v, %v", r, err)
		}
		<-ready
		ready <- false
	}
	check("", healthv1.HealthCheckResponse_NOT_SERVING)
	// Those who watch do not keep it from stopping.
	d.stop(t)
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "the server stops" {
		t.Errorf("at the end: %v", err)
	}
}

// What was asked is answered before the server stops, and cut off when that takes
// too long.
func TestStop(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	slow := func(q *verify.Question) verify.Decision {
		asked <- struct{}{}
		<-answer
		return allow(q)
	}
	d := open(t, slow, "tcp")
	got := make(chan *authv3.CheckResponse, 1)
	go func() {
		r, err := d.client.Check(context.Background(), aKey.request())
		if err != nil {
			t.Error(err)
		}
		got <- r
	}()
	<-asked
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		d.stop(t)
	}()
	answer <- struct{}{}
	if r := <-got; r.GetOkResponse() == nil {
		t.Errorf("%v", r)
	}
	<-stopped

	d = open(t, slow, "tcp")
	cut := make(chan error, 1)
	go func() {
		_, err := d.client.Check(context.Background(), aKey.request())
		cut <- err
	}()
	<-asked
	over, cancel := context.WithCancel(context.Background())
	cancel()
	stopped = make(chan struct{})
	go func() {
		defer close(stopped)
		d.Stop(over)
	}()
	if err := <-cut; status.Code(err) != codes.Unavailable {
		t.Errorf("cut off: %v", err)
	}
	// It waits for what it cut off.
	select {
	case <-stopped:
		t.Error("it has stopped while a question is judged")
	default:
	}
	answer <- struct{}{}
	<-stopped
}

// What is too large or no question is an error, and the connection lives on.
func TestBounds(t *testing.T) {
	d := open(t, allow, "tcp")
	large := aKey
	large.path = "/" + strings.Repeat("x", extauthz.MaxMessageBytes)
	if _, err := d.client.Check(t.Context(), large.request()); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("too large: %v", err)
	}
	var out emptypb.Empty
	check := "/" + extauthz.Service + "/Check"
	for name, bad := range map[string][]byte{"a wrong length": {0x0a, 5, 'k'}, "an open group": {0x0b}} {
		err := d.conn.Invoke(t.Context(), check, &bad, &out, grpc.ForceCodecV2(rawCodec{}))
		if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "kl_") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := d.conn.Invoke(t.Context(), "/"+extauthz.Service+"/Other", &emptypb.Empty{}, &out); status.Code(err) != codes.Unimplemented {
		t.Errorf("another method: %v", err)
	}
	if err := d.conn.Invoke(t.Context(), "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &emptypb.Empty{}, &out); status.Code(err) != codes.Unimplemented {
		t.Errorf("reflection: %v", err)
	}
	if r, err := d.client.Check(t.Context(), aKey.request()); err != nil || r.GetOkResponse() == nil {
		t.Errorf("afterwards: %v, %v", r, err)
	}
}

// With TLS nobody comes in who speaks it not, or speaks something else on it.
func TestTLSIsAskedFor(t *testing.T) {
	d := open(t, allow, "tcp", func(c *extauthz.Config) { c.TLS = &tls.Config{MinVersion: tls.VersionTLS13} })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if r, err := d.client.Check(ctx, aKey.request()); err == nil {
		t.Errorf("in clear: %v", r)
	}
}

// Nothing runs on when it has stopped.
func TestNothingStays(t *testing.T) {
	before := goleak.IgnoreCurrent()
	d := open(t, allow, "tcp")
	if _, err := d.client.Check(t.Context(), aKey.request()); err != nil {
		t.Error(err)
	}
	d.conn.Close()
	d.stop(t)
	goleak.VerifyNone(t, before)
}
