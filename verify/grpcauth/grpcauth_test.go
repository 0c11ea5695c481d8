package grpcauth_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/grpcauth"
)

// oracle answers every question with the code that it is set to.
type oracle struct {
	mu    sync.Mutex
	code  events.Code
	asked verify.Question
}

func (o *oracle) Verify(_ context.Context, q *verify.Question) verify.Decision {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = *q
	return verify.Decision{Code: o.code, Org: "acme"}
}

func (o *oracle) Recheck(q *verify.Question) verify.Decision {
	return o.Verify(context.Background(), q)
}

func (o *oracle) set(code events.Code) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.code = code
}

// service is a service of one unary method and one stream, in the forms that the
// health service has.
type service struct {
	healthpb.UnimplementedHealthServer
	// streams are told what became of each stream's handler.
	streams chan error
	panics  bool
}

func (s *service) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if d, ok := verify.FromContext(ctx); !ok || d.Org != "acme" {
		return nil, status.Error(codes.Internal, "no verdict")
	}
	return &healthpb.HealthCheckResponse{}, nil
}

func (s *service) Watch(_ *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	d, ok := verify.FromContext(stream.Context())
	if !ok || d.Org != "acme" {
		return status.Error(codes.Internal, "no verdict")
	}
	if s.panics {
		panic("as asked")
	}
	if err := stream.Send(&healthpb.HealthCheckResponse{}); err != nil {
		return err
	}
	<-stream.Context().Done()
	err := stream.Send(&healthpb.HealthCheckResponse{})
	s.streams <- err
	return err
}

// serve serves behind a guard until the test ends.
func serve(t *testing.T, s *service, c grpcauth.Config, more ...grpc.StreamServerInterceptor) (healthpb.HealthClient, *grpcauth.Guard) {
	t.Helper()
	guard, err := grpcauth.New(c)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(guard.Unary), grpc.ChainStreamInterceptor(append(more, guard.Stream)...))
	healthpb.RegisterHealthServer(server, s)
	listener := bufconn.Listen(1 << 16)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	conn, err := grpc.NewClient("passthrough:///service", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		guard.Wait()
		serving.Wait()
	})
	return healthpb.NewHealthClient(conn), guard
}

const secret = "kl_test_00000000000000000000000000000000000000"

func with(t *testing.T, pairs ...string) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(t.Context(), pairs...)
}

func reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == grpcauth.Domain {
			return info.Reason
		}
	}
	return ""
}

// TestUnary: only VALID comes through, and what is denied says why, and nothing of the
// key.
func TestUnary(t *testing.T) {
	o := &oracle{}
	client, _ := serve(t, &service{}, grpcauth.Config{Verifier: o})
	for code, want := range map[events.Code]struct {
		code   codes.Code
		reason string
	}{
		events.CodeValid:                   {codes.OK, ""},
		events.CodeNone:                    {codes.Unavailable, "UNAVAILABLE"},
		events.CodeMalformed:               {codes.Unauthenticated, "KEY_MALFORMED"},
		events.CodeNotFound:                {codes.Unauthenticated, "KEY_NOT_FOUND"},
		events.CodeRevoked:                 {codes.Unauthenticated, "KEY_REVOKED"},
		events.CodeExpired:                 {codes.Unauthenticated, "KEY_EXPIRED"},
		events.CodeInactive:                {codes.Unauthenticated, "KEY_INACTIVE"},
		events.CodeInsufficientPermissions: {codes.PermissionDenied, "INSUFFICIENT_PERMISSIONS"},
		events.CodeOutOfScope:              {codes.PermissionDenied, "OUT_OF_SCOPE"},
		events.CodeStale:                   {codes.Unavailable, "STALE"},
		events.CodeUnavailable:             {codes.Unavailable, "UNAVAILABLE"},
	} {
		o.set(code)
		_, err := client.Check(with(t, "authorization", "bearer "+secret), &healthpb.HealthCheckRequest{})
		if status.Code(err) != want.code || reason(err) != want.reason || err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v, %q", code, err, reason(err))
		}
		if o.asked.Secret != secret || o.asked.Method != "POST" || o.asked.Path != "/grpc.health.v1.Health/Check" {
			t.Errorf("%s: asked by %s %s", code, o.asked.Method, o.asked.Path)
		}
	}
	o.set(events.CodeValid)
	if _, err := client.Check(with(t, "x-api-key", secret), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("x-api-key: %v", err)
	}
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unauthenticated || reason(err) != "UNAUTHENTICATED" {
		t.Errorf("no key: %v", err)
	}
}

// TestConfig: what the application says of methods.
func TestConfig(t *testing.T) {
	if _, err := grpcauth.New(grpcauth.Config{}); err == nil {
		t.Error("nobody gives verdicts")
	}
	o := &oracle{code: events.CodeValid}
	client, _ := serve(t, &service{}, grpcauth.Config{
		Verifier:   o,
		Permission: func(method string) string { return "of:" + method[strings.LastIndexByte(method, '/')+1:] },
		Question: func(ctx context.Context, _ string, q *verify.Question) {
			md, _ := metadata.FromIncomingContext(ctx)
			q.Workspace = events.WorkspaceID(md.Get("workspace")[0])
		},
	})
	if _, err := client.Check(with(t, "x-api-key", secret, "workspace", "w1"), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if o.asked.Permission != "of:Check" || o.asked.Method != "" || o.asked.Workspace != "w1" {
		t.Errorf("asked for %s %s in %s", o.asked.Permission, o.asked.Method, o.asked.Workspace)
	}
	o.set(events.CodeRevoked)
	client, _ = serve(t, &service{}, grpcauth.Config{Verifier: o, Open: func(method string) bool { return strings.HasSuffix(method, "/Check") }})
	// Its handler has no verdict then.
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Internal {
		t.Errorf("an open method: %v", err)
	}
}

// TestStream: a stream ends when its key does, for the client and for the handler.
func TestStream(t *testing.T) {
	o := &oracle{code: events.CodeRevoked}
	s := &service{streams: make(chan error, 1)}
	client, guard := serve(t, s, grpcauth.Config{Verifier: o, RecheckEvery: time.Millisecond})
	watch := func() grpc.ServerStreamingClient[healthpb.HealthCheckResponse] {
		t.Helper()
		stream, err := client.Watch(with(t, "x-api-key", secret), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	if _, err := watch().Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("with a revoked key: %v", err)
	}
	o.set(events.CodeValid)
	stream := watch()
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	o.set(events.CodeRevoked)
	if _, err := stream.Recv(); status.Code(err) != codes.Unauthenticated || reason(err) != "KEY_REVOKED" {
		t.Errorf("after it was revoked: %v", err)
	}
	if err := <-s.streams; status.Code(err) != codes.Unauthenticated {
		t.Errorf("the handler went on sending: %v", err)
	}
	guard.Wait()
}

// TestRecheckNever leaves streams alone.
func TestRecheckNever(t *testing.T) {
	o := &oracle{code: events.CodeValid}
	s := &service{streams: make(chan error, 1)}
	client, _ := serve(t, s, grpcauth.Config{Verifier: o, RecheckEvery: -1})
	ctx, cancel := context.WithCancel(with(t, "x-api-key", secret))
	stream, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	o.set(events.CodeRevoked)
	cancel()
	if err := <-s.streams; status.Code(err) == codes.Unauthenticated {
		t.Errorf("it was ended all the same: %v", err)
	}
}

// TestPanic goes where the server expects it.
func TestPanic(t *testing.T) {
	recovered := make(chan any, 1)
	client, _ := serve(t, &service{panics: true}, grpcauth.Config{
		Verifier: &oracle{code: events.CodeValid}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}, func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		defer func() {
			recovered <- recover()
			err = status.Error(codes.Internal, "it panicked")
		}()
		return handler(srv, ss)
	})
	stream, err := client.Watch(with(t, "x-api-key", secret), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Internal {
		t.Error(err)
	}
	if p := <-recovered; p != "as asked" {
		t.Errorf("recovered %v", p)
	}
}
