package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
)

// What only this door refuses.
var (
	errHeadersTooLarge = errors.New("sidecar: headers too large")
	errSlow            = errors.New("sidecar: request took too long")
	errElsewhere       = errors.New("sidecar: done by the server alone")
)

// problems are those of every door, and ours.
func problems() gate.Table {
	return append(gate.Table{
		{
			Err: errHeadersTooLarge, Status: 431, Code: "headers_too_large", Title: "Headers too large",
			Detail: "the headers are longer than a request may have",
		},
		{
			Err: errSlow, Status: 408, Code: "request_timeout", Title: "Request took too long",
			Detail: "the request did not come in time; nothing was done",
		},
		{Err: errElsewhere, Status: 501, Code: "ask_the_server", Title: "Done by the server alone"},
	}, gate.Problems()...)
}

// Server answers on any number of listeners.
type Server struct {
	cfg      Config
	gate     *gate.Gate
	checks   *gate.Checks
	problems gate.Table
	routes   map[string]*route
	metrics  *metrics
	http     fasthttp.Server
	requests sync.Pool

	// ctx ends when there is no more time for what waits.
	ctx  context.Context
	stop context.CancelFunc
}

// New returns a server.
func New(c Config) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = DefaultMaxConnections
	}
	verdicts, err := gate.NewMetrics(c.Metrics)
	if err != nil {
		return nil, err
	}
	g, err := gate.New(gate.Config{
		Verifier: c.Verifier, Positions: c.Positions, Metrics: verdicts, Effective: c.Effective, RecordClientIP: c.RecordClientIP,
	})
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: c, gate: g, checks: gate.NewChecks(c.Checks, c.Logger), problems: problems()}
	if s.metrics, err = newMetrics(c.Metrics); err != nil {
		return nil, err
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.routes = s.routesOf()
	s.requests.New = func() any {
		return &request{s: s, id: make([]byte, 0, gate.MaxRequestID), out: gate.Buffers{Out: make([]byte, 0, answerBytes)}}
	}
	s.http = fasthttp.Server{
		Handler: s.handle, ErrorHandler: s.unreadable, HeaderReceived: s.bound,
		Concurrency: c.MaxConnections, ReadBufferSize: maxHeaderBytes, WriteBufferSize: writeBuffer,
		ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxRequestBodySize: gate.MaxVerifyBatchBytes, DisablePreParseMultipartForm: true,
		NoDefaultServerHeader: true, NoDefaultContentType: true, CloseOnShutdown: true,
		SecureErrorLogMessage: true, Logger: quiet{c.Logger},
	}
	return s, nil
}

// Serve answers what comes to a listener until it is closed, by Shutdown or by
// somebody else. Wrap the listener in [crypto/tls.NewListener] for TLS.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); err != nil {
		return fmt.Errorf("sidecar: %w", err)
	}
	return nil
}

// Shutdown closes the listeners, answers the requests that are there, and returns
// when the last is answered or ctx ends. What waits for a position then is told so.
func (s *Server) Shutdown(ctx context.Context) error {
	defer s.stop()
	if err := s.http.ShutdownWithContext(ctx); err != nil {
		return fmt.Errorf("sidecar: shut down: %w", err)
	}
	return nil
}

// quiet keeps the texts of fasthttp out of the log: they may repeat what a client
// sent.
type quiet struct{ log *slog.Logger }

func (q quiet) Printf(string, ...any) {
	q.log.Debug("a connection ended in the middle of something")
}

// request is one request on its way, used again and again.
type request struct {
	s     *Server
	ctx   *fasthttp.RequestCtx
	head  head
	route *route
	// path and query are those of the URL, as far as they could be read.
	path, query string
	// id is the request's id.
	id []byte
	// asks is what a gateway asks, out holds the questions of others and the answer.
	asks gate.Request
	out  gate.Buffers
	// err is what our log may know of a failure.
	err error
}

// handle answers one request.
func (s *Server) handle(ctx *fasthttp.RequestCtx) {
	begin := time.Now()
	r := s.requests.Get().(*request)
	r.ctx = ctx
	defer func() {
		if cause := recover(); cause != nil {
			s.panicked(r, cause)
		}
		s.finished(r, time.Since(begin))
		r.release()
	}()
	if err := r.answer(); err != nil {
		r.fail(err)
	}
}

// release forgets the request, and the secret in it, and gives its room back.
func (r *request) release() {
	r.head.reset()
	r.asks = gate.Request{}
	r.out.Forget()
	r.ctx, r.route, r.path, r.query, r.err, r.id = nil, nil, "", "", nil, r.id[:0]
	if cap(r.out.Out) <= gate.MaxVerifyBytes {
		r.s.requests.Put(r)
	}
}

// answer answers a request, or says what is wrong with it.
func (r *request) answer() error {
	h := &r.ctx.Request.Header
	err := r.head.read(h.RawHeaders(), !h.IsHTTP11())
	r.name(err)
	if err == nil && !known(text(h.Protocol())) {
		err = errFraming
	}
	if err != nil {
		// Whatever follows on this connection may be a part of this one.
		r.ctx.SetConnectionClose()
		return err
	}
	// fasthttp takes anything for an extension of a chunk, and where such a body ends
	// others may see elsewhere: nothing behind it is taken for a request.
	if r.head.closes || r.head.chunked {
		r.ctx.SetConnectionClose()
	}
	if err := r.locate(text(h.RequestURI())); err != nil {
		return err
	}
	method := text(h.Method())
	if !r.route.takes(method) {
		return &gate.Refusal{Err: gate.ErrMethod, Detail: "this path takes " + r.route.allow, Headers: map[string][]string{"Allow": {r.route.allow}}}
	}
	return r.route.handle(r)
}

// name gives the request its id: the caller's, if its headers could be read, and it
// is one that may stand in facts and logs.
func (r *request) name(err error) {
	if err == nil && gate.KeepsRequestID(r.head.requestID) {
		r.id = append(r.id, r.head.requestID...)
	} else {
		r.id = gate.AppendRequestID(r.id)
	}
	r.labelled()
}

// labelled sets the headers that every answer has.
func (r *request) labelled() {
	h := &r.ctx.Response.Header
	h.SetCanonical(nameRequestID, r.id)
	h.SetCanonical(nameContentTypeOptions, nosniff)
}

// What every answer says, as the bytes that are written.
var (
	nameRequestID          = []byte("X-Request-Id")
	nameContentTypeOptions = []byte("X-Content-Type-Options")
	nameCacheControl       = []byte("Cache-Control")
	nosniff                = []byte("nosniff")
	noStore                = []byte("no-store")
)

func known(protocol string) bool { return protocol == "HTTP/1.1" || protocol == "HTTP/1.0" }

// fail answers with the problem that an error is.
func (r *request) fail(err error) {
	r.err = err
	p := r.s.problems.Problem(err, string(r.id))
	if r.route != nil && r.route.oauth {
		p = gate.InOAuthsWords(p)
	}
	var ours *gate.Refusal
	if errors.As(err, &ours) {
		for name, values := range ours.Headers {
			r.ctx.Response.Header.Set(name, strings.Join(values, ", "))
		}
	}
	r.problem(&p)
}

func (r *request) problem(p *wire.Problem) {
	h := &r.ctx.Response.Header
	h.SetContentType("application/problem+json")
	h.SetCanonical(nameCacheControl, noStore)
	if p.Status == fasthttp.StatusServiceUnavailable {
		h.Set("Retry-After", gate.RetryAfter)
	}
	r.ctx.SetStatusCode(p.Status)
	r.ctx.SetBody(gate.AppendProblem(r.out.Out[:0], *p))
}

// canonical takes headers whose names are canonical, and has fasthttp look at the
// values alone that could end a line.
type canonical struct{ h *fasthttp.ResponseHeader }

func (c canonical) Set(name, value string) {
	if strings.ContainsAny(value, "\r\n") {
		c.h.Set(name, value)
		return
	}
	c.h.SetCanonical(bytesOf(name), bytesOf(value))
}

// json answers with a body.
func (r *request) json(body []byte) {
	h := &r.ctx.Response.Header
	h.SetContentType(gate.TypeJSON)
	h.SetCanonical(nameCacheControl, noStore)
	r.ctx.SetBody(body)
}

// panicked answers a request whose handler panicked, without details. What was
// thrown may hold anything, so that only its type is logged, with the stack, whose
// lines show no values of strings.
func (s *Server) panicked(r *request, cause any) {
	s.cfg.Logger.LogAttrs(s.ctx, slog.LevelError, "a request panicked",
		slog.String("request_id", string(r.id)), slog.String("route", r.route.label()),
		slog.String("cause", fmt.Sprintf("%T", cause)), slog.String("stack", string(debug.Stack())))
	r.ctx.Response.Reset()
	r.ctx.Response.Header.SetNoDefaultContentType(true)
	r.labelled()
	r.ctx.SetConnectionClose()
	r.fail(gate.ErrInternal)
}

// unreadable answers what is no request, or none that may be. The connection is
// closed after it.
func (s *Server) unreadable(ctx *fasthttp.RequestCtx, err error) {
	r := s.requests.Get().(*request)
	r.ctx = ctx
	ctx.Response.Reset()
	ctx.Response.Header.SetNoDefaultContentType(true)
	r.name(r.head.read(ctx.Request.Header.RawHeaders(), true))
	var (
		small *fasthttp.ErrSmallBuffer
		slow  net.Error
	)
	why := gate.Refuse(gate.ErrRequest, "", "the request cannot be read")
	switch {
	case errors.As(err, &small):
		why = errHeadersTooLarge
	case errors.As(err, &slow) && slow.Timeout():
		why = errSlow
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		limit := s.bound(&ctx.Request.Header).MaxRequestBodySize
		why = gate.Refuse(gate.ErrTooLarge, "", "the body may be %d bytes long", limit)
	}
	r.fail(why)
	s.finished(r, 0)
	r.release()
}
