// Package grpcauth lets calls of gRPC through by the verdict on their key, and has
// handlers know whose call it is:
//
//	guard, err := grpcauth.New(grpcauth.Config{Verifier: client})
//	…
//	server := grpc.NewServer(grpc.UnaryInterceptor(guard.Unary), grpc.StreamInterceptor(guard.Stream))
//
// and in a handler
//
//	d, _ := verify.FromContext(ctx)
//
// The key comes as metadata: authorization, "Bearer <key>", or x-api-key. What is
// denied ends with UNAUTHENTICATED for a key that is good for nothing,
// PERMISSION_DENIED for one that may not do this, UNAVAILABLE when there is no
// verdict, and with the reason as google.rpc.ErrorInfo of the domain "keyledger".
//
// A stream is judged when it begins, and again and again while it lasts: it ends
// within [Config.RecheckEvery] of the moment in which its key is revoked here, or has
// expired, or the verifier is stale: streams are judged anew here alone, also by a
// client that asks a server while it is stale.
package grpcauth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// Verifier gives verdicts: a [verify.Client], or a [verify.Verifier].
type Verifier interface {
	Verify(ctx context.Context, q *verify.Question) verify.Decision
	Recheck(q *verify.Question) verify.Decision
}

// DefaultRecheckEvery is how long a stream may go on that would not be let through
// any more. Judging anew takes less than a microsecond.
const DefaultRecheckEvery = time.Second

// Domain is that of the reasons for which calls are denied.
const Domain = "keyledger"

// Config says what is asked of a call.
type Config struct {
	// Verifier gives the verdicts. Required.
	Verifier Verifier
	// Permission returns what a method, such as /docs.v1.Docs/Read, needs. Where it
	// is nil, or returns "", the permission is found in the routes of the key's own
	// catalog, where a method is "POST /docs.v1.Docs/Read".
	Permission func(method string) string
	// Question changes what is asked, at the end. Optional.
	Question func(ctx context.Context, method string, q *verify.Question)
	// Open returns which methods need no key, such as those of health checks. Nil
	// is none.
	Open func(method string) bool
	// RecheckEvery is how often a stream is judged anew. 0 is
	// [DefaultRecheckEvery], less than 0 is never.
	RecheckEvery time.Duration
	// Logger takes panics of handlers whose stream had ended. Nothing is logged
	// without one.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	if c.Verifier == nil {
		return errors.New("grpcauth: no verifier")
	}
	return nil
}

// Guard lets calls through.
type Guard struct {
	config Config
	// handlers are those of streams.
	handlers sync.WaitGroup
}

// New returns a guard.
func New(c Config) (*Guard, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.RecheckEvery == 0 {
		c.RecheckEvery = DefaultRecheckEvery
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Guard{config: c}, nil
}

// Wait waits for the handlers of streams that the guard has ended. It is called after
// the server was stopped.
func (g *Guard) Wait() { g.handlers.Wait() }

// Unary is a [grpc.UnaryServerInterceptor].
func (g *Guard) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if g.open(info.FullMethod) {
		return handler(ctx, req)
	}
	q, err := g.question(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	d := g.config.Verifier.Verify(ctx, &q)
	if !d.Valid() {
		return nil, denied(&d)
	}
	return handler(verify.NewContext(ctx, &d), req)
}

// Stream is a [grpc.StreamServerInterceptor].
func (g *Guard) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if g.open(info.FullMethod) {
		return handler(srv, ss)
	}
	q, err := g.question(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	d := g.config.Verifier.Verify(ss.Context(), &q)
	if !d.Valid() {
		return denied(&d)
	}
	ctx, cancel := context.WithCancelCause(verify.NewContext(ss.Context(), &d))
	defer cancel(nil)
	watched := &stream{ServerStream: ss, ctx: ctx}
	if g.config.RecheckEvery < 0 {
		return handler(srv, watched)
	}
	// It was waited for once, and what was asked for is there.
	q.AtLeast = 0
	done := g.handle(srv, watched, handler)
	look := time.NewTicker(g.config.RecheckEvery)
	defer look.Stop()
	for {
		select {
		case out := <-done:
			out.rethrow()
			return out.err
		case <-look.C:
			if d := g.config.Verifier.Recheck(&q); !d.Valid() {
				err := denied(&d)
				watched.ended.Store(&err)
				cancel(err)
				// gRPC ends the stream when this returns, and with it whatever the
				// handler waits for there.
				return err
			}
		}
	}
}

// outcome is what became of a handler.
type outcome struct {
	err      error
	panicked any
}

// rethrow goes on with the panic of a handler where the server expects it.
func (o outcome) rethrow() {
	if o.panicked != nil {
		panic(o.panicked)
	}
}

// handle runs a handler, whose outcome comes by the channel.
func (g *Guard) handle(srv any, ss *stream, handler grpc.StreamHandler) <-chan outcome {
	done := make(chan outcome, 1)
	g.handlers.Go(func() {
		var out outcome
		defer func() {
			if out.panicked = recover(); out.panicked != nil && ss.ended.Load() != nil {
				g.config.Logger.Error("handler panicked after its stream had ended", slog.Any("panic", out.panicked))
			}
			done <- out
		}()
		out.err = handler(srv, ss)
	})
	return done
}

// stream is a stream that may be ended.
type stream struct {
	grpc.ServerStream
	ctx   context.Context
	ended atomic.Pointer[error]
}

// Context is that of the stream, with the verdict.
func (s *stream) Context() context.Context { return s.ctx }

// SendMsg sends, unless the stream was ended.
func (s *stream) SendMsg(m any) error {
	if err := s.ended.Load(); err != nil {
		return *err
	}
	return s.ServerStream.SendMsg(m)
}

// RecvMsg receives, unless the stream was ended.
func (s *stream) RecvMsg(m any) error {
	if err := s.ended.Load(); err != nil {
		return *err
	}
	return s.ServerStream.RecvMsg(m)
}

func (g *Guard) open(method string) bool { return g.config.Open != nil && g.config.Open(method) }

// question is what is asked of a call.
func (g *Guard) question(ctx context.Context, method string) (verify.Question, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	q := verify.Question{Secret: Key(md), Context: recording.Context{
		RequestID: keystring.Redact(first(md, "x-request-id")), Method: http.MethodPost, Path: keystring.Redact(method),
		UserAgent: keystring.Redact(first(md, "user-agent")),
	}}
	if q.Secret == "" {
		return q, refusal(codes.Unauthenticated, "unauthenticated", "send a key as authorization: Bearer <key> or as x-api-key")
	}
	if g.config.Permission != nil {
		q.Permission = g.config.Permission(method)
	}
	if q.Permission == "" {
		q.Method, q.Path = http.MethodPost, method
	}
	if g.config.Question != nil {
		g.config.Question(ctx, method, &q)
	}
	return q, nil
}

// Key is the key that a call carries.
func Key(md metadata.MD) string {
	const scheme = "bearer "
	if a := first(md, "authorization"); len(a) > len(scheme) && strings.EqualFold(a[:len(scheme)], scheme) {
		return strings.TrimSpace(a[len(scheme):])
	}
	return first(md, "x-api-key")
}

func first(md metadata.MD, name string) string {
	if values := md.Get(name); len(values) > 0 {
		return values[0]
	}
	return ""
}

// denied is how a verdict is told to a client.
func denied(d *verify.Decision) error {
	denial := d.Denial()
	code := codes.Unavailable
	switch denial.Status {
	case http.StatusUnauthorized:
		code = codes.Unauthenticated
	case http.StatusForbidden:
		code = codes.PermissionDenied
	}
	return refusal(code, denial.Code, denial.Detail)
}

func refusal(code codes.Code, reason, detail string) error {
	s := status.New(code, fmt.Sprintf("%s: %s", Domain, detail))
	// An error here is that of a message which cannot be encoded, and this one can.
	if with, err := s.WithDetails(&errdetails.ErrorInfo{Reason: strings.ToUpper(reason), Domain: Domain}); err == nil {
		s = with
	}
	return s.Err()
}
