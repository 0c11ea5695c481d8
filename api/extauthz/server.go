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
	"time"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/tap"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/verify"
)

const (
	// Service is the name that gateways ask for, and ask the health of.
	Service = "envoy.service.auth.v3.Authorization"
	method  = "Check"
)

// Config is what a server works with.
type Config struct {
	// Gate gives the verdicts and counts them. Required.
	Gate *gate.Gate
	// Ready reports whether verdicts can be given, for those who ask for the health
	// of the service. Without it they always can.
	Ready func() bool
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
	if c.Gate == nil {
		faults = append(faults, errors.New("extauthz: config: Gate is needed"))
	}
	if c.Logger == nil {
		faults = append(faults, errors.New("extauthz: config: Logger is needed"))
	}
	return errors.Join(faults...)
}

// Server answers gateways.
type Server struct {
	cfg      Config
	grpc     *grpc.Server
	stopping chan struct{}
	stop     sync.Once
	calls    sync.Pool
	answers  answers
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

// call is one question and its answer, used again and again.
type call struct {
	asked    asked
	question verify.Question
	decision verify.Decision
	out      *[]byte
	answers  *answers
}

// done forgets what was asked; a secret is among it.
func (c *call) done() {
	c.asked.done()
	c.question, c.decision = verify.Question{}, verify.Decision{}
	if c.out != nil {
		c.answers.Put(c.out)
		c.out = nil
	}
}

// check answers one question.
func (s *Server) check(_ any, stream grpc.ServerStream) error {
	c, ok := s.calls.Get().(*call)
	if !ok {
		c = &call{answers: &s.answers}
	}
	defer func() {
		c.done()
		s.calls.Put(c)
	}()
	if err := stream.RecvMsg(c); err != nil {
		return err
	}
	s.answer(stream.Context(), c)
	return stream.SendMsg(c)
}

// answer asks for the verdict and writes what is told of it.
func (s *Server) answer(ctx context.Context, c *call) {
	t := told{requestID: c.asked.requested(), claimed: c.asked.claimed}
	defer func() {
		if cause := recover(); cause != nil {
			// What was thrown may hold anything. Without an answer a gateway may let
			// the request pass.
			s.cfg.Logger.LogAttrs(ctx, slog.LevelError, "a question panicked",
				slog.String("request_id", t.requestID), slog.String("cause", fmt.Sprintf("%T", cause)), slog.String("stack", string(debug.Stack())))
			t.refuse(gate.ErrInternal)
			c.write(&t)
		}
	}()
	s.judge(ctx, c, &t)
	c.write(&t)
}

var (
	errNoKey = gate.Unauthenticated(gate.Realm, "send a key as Authorization: Bearer <key> or as X-Api-Key")
	errStray = gate.Refuse(gate.ErrRequest, "context_extensions", "takes permission and workspace, and nothing else: what is misspelt would not be asked for")
)

func (s *Server) judge(ctx context.Context, c *call, t *told) {
	secret := c.asked.secret()
	switch {
	case c.asked.stray:
		t.refuse(errStray)
		return
	case secret == "":
		t.refuse(errNoKey)
		return
	}
	c.asked.ask(&c.question, secret, t.requestID, s.cfg.RecordClientIP)
	c.decision = s.cfg.Gate.Judge(ctx, gate.DoorExtAuthz, &c.question)
	t.d, t.position = &c.decision, s.cfg.Gate.Position(c.decision.Position)
	if !t.d.Valid() {
		t.deny()
	}
}

// write writes the answer.
func (c *call) write(t *told) {
	if c.out == nil {
		c.out = c.answers.Get(0)
	}
	w := writer{(*c.out)[:0]}
	w.write(t)
	*c.out = w.b
}
