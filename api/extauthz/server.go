package extauthz

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/tap"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

const (
	// Service is the name that gateways ask for, and ask the health of.
	Service = "envoy.service.auth.v3.Authorization"
	method  = "Check"
)

// Verifier gives verdicts, such as [verify.Verifier]. It keeps nothing of the texts of
// a question beyond the call.
type Verifier interface {
	Verify(ctx context.Context, q *verify.Question) verify.Decision
}

// Config is what a server works with.
type Config struct {
	// Verifier gives the verdicts. Required.
	Verifier Verifier
	// Positions tells how positions are written. Required.
	Positions func() events.Positions
	// Ready reports whether verdicts can be given, for those who ask for the health
	// of the service. Without it they always can.
	Ready func() bool
	// Observe is told of every verdict and of the time it took. Optional.
	Observe func(events.Code, time.Duration)
	// RecordClientIP records the address that the gateway names as the other end of
	// its connection. It is personal data.
	RecordClientIP bool
	// TLS is what gateways have to speak; nil for nothing.
	TLS *tls.Config
	// Logger takes what goes wrong. Required.
	Logger *slog.Logger
}

// Validate reports everything that is missing at once.
func (c Config) Validate() error {
	var faults []error
	for _, part := range []struct {
		name    string
		missing bool
	}{
		{"Verifier", c.Verifier == nil},
		{"Positions", c.Positions == nil},
		{"Logger", c.Logger == nil},
	} {
		if part.missing {
			faults = append(faults, fmt.Errorf("extauthz: config: %s is needed", part.name))
		}
	}
	return errors.Join(faults...)
}

// Server answers gateways.
type Server struct {
	cfg      Config
	grpc     *grpc.Server
	stopping chan struct{}
	stop     sync.Once
	// position is the last that was written as a text.
	position atomic.Pointer[positionText]
}

// New returns a server that answers on what it is given to serve.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, stopping: make(chan struct{})}
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(proto.Name)}),
		grpc.MaxRecvMsgSize(MaxMessageBytes), grpc.MaxConcurrentStreams(MaxStreams), grpc.MaxHeaderListSize(MaxHeaderBytes),
		grpc.ConnectionTimeout(connectTimeout), grpc.InTapHandle(bounded),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout, Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingsEvery, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
	}
	if cfg.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(cfg.TLS)))
	}
	s.grpc = grpc.NewServer(options...)
	s.grpc.RegisterService(&grpc.ServiceDesc{
		ServiceName: Service, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: method, Handler: s.check}},
	}, s)
	grpc_health_v1.RegisterHealthServer(s.grpc, &health{ready: cfg.Ready, stopping: s.stopping})
	return s, nil
}

// bounded gives every question an end. Those who watch the health have none.
func bounded(ctx context.Context, call *tap.Info) (context.Context, error) {
	if call.FullMethodName != "/"+Service+"/"+method {
		return ctx, nil
	}
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= callTimeout {
		return ctx, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	// It is the context of the call that this one ends with.
	_ = cancel
	return ctx, nil
}

// Serve answers on a listener until Stop, and returns nil then. It closes the
// listener. A listener's address may be of any kind.
func (s *Server) Serve(l net.Listener) error {
	if err := s.grpc.Serve(netutil.LimitListener(l, MaxConnections)); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("extauthz: %w", err)
	}
	return nil
}

// Stop takes no more questions and answers those it has, until the context ends; what
// is left is cut off then. It returns when nothing runs any more.
func (s *Server) Stop(ctx context.Context) {
	s.stop.Do(func() { close(s.stopping) })
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		s.grpc.GracefulStop()
	}()
	select {
	case <-drained:
	case <-ctx.Done():
		s.cfg.Logger.Warn("gateways' questions were cut off")
		s.grpc.Stop()
		<-drained
	}
}

// check answers one question.
func (s *Server) check(_ any, stream grpc.ServerStream) error {
	var a asked
	defer func() { a.done() }()
	if err := stream.RecvMsg(&a); err != nil {
		return err
	}
	return stream.SendMsg(answer{s.answer(stream.Context(), &a)})
}

// answer asks for the verdict and writes what is told of it.
func (s *Server) answer(ctx context.Context, a *asked) (out mem.Buffer) {
	t := told{requestID: a.requested(), claimed: a.claimed}
	defer func() {
		if cause := recover(); cause != nil {
			// What was thrown may hold anything. Without an answer a gateway may let
			// the request pass.
			s.cfg.Logger.LogAttrs(ctx, slog.LevelError, "a question panicked",
				slog.String("request_id", t.requestID), slog.String("cause", fmt.Sprintf("%T", cause)), slog.String("stack", string(debug.Stack())))
			t.d, t.refusal = nil, &broken
			out = t.message()
		}
	}()
	var d verify.Decision
	var r refusal
	secret := a.secret()
	switch {
	case a.stray:
		t.refusal = &strayExtension
	case secret == "":
		t.refusal = &noKey
	default:
		q := a.question(secret, t.requestID, s.cfg.RecordClientIP)
		begin := time.Now()
		d = s.cfg.Verifier.Verify(ctx, &q)
		if s.cfg.Observe != nil {
			s.cfg.Observe(d.Code, time.Since(begin))
		}
		t.d, t.position = &d, s.positionOf(d.Position)
		if !d.Valid() {
			r = refusalOf(&d)
			t.refusal = &r
		}
	}
	return t.message()
}

// message writes it all.
func (t *told) message() mem.Buffer {
	w := writer{make([]byte, 0, 1<<10)}
	w.write(t)
	return mem.SliceBuffer(w.b)
}

// positionText is a position with its text, kept because verdict after verdict
// tells the same one.
type positionText struct {
	of   events.Positions
	pos  events.Position
	text string
}

func (s *Server) positionOf(pos events.Position) string {
	of := s.cfg.Positions()
	if last := s.position.Load(); last != nil && last.pos == pos && last.of == of {
		return last.text
	}
	p := &positionText{of, pos, of.Format(events.StreamLedger, pos)}
	s.position.Store(p)
	return p.text
}
