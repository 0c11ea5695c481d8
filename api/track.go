package api

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/events"
)

// track is what is noted of a request for its log line and the metrics. It is
// the writer that the handlers write to.
type track struct {
	http.ResponseWriter
	requestID string
	actor     events.Actor
	status    int
	// quiet says that the line is for debugging: a verdict was given, whose use
	// is recorded and tells more, or a probe was answered.
	quiet bool
	// code is the problem's, err what our log may know of it.
	code string
	err  error
}

// trackOf returns the track of a request. Handlers are only ever given one.
func trackOf(w http.ResponseWriter) *track {
	t, ok := w.(*track)
	if !ok {
		return &track{ResponseWriter: w}
	}
	return t
}

func (t *track) WriteHeader(status int) {
	if t.status == 0 {
		t.status = status
	}
	t.ResponseWriter.WriteHeader(status)
}

func (t *track) Write(b []byte) (int, error) {
	if t.status == 0 {
		t.status = http.StatusOK
	}
	return t.ResponseWriter.Write(b)
}

// Unwrap lets [http.ResponseController] reach the connection.
func (t *track) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func (t *track) fail(p wire.Problem, err error) { t.code, t.err = p.Code, err }

// tracked wraps everything: it names the request, catches panics, and writes
// the log line and the metrics when the request is over.
func (s *Server) tracked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		t := &track{ResponseWriter: w, requestID: gate.RequestID(r.Header.Get("X-Request-Id"))}
		h := w.Header()
		h["X-Request-Id"] = []string{t.requestID}
		h["X-Content-Type-Options"] = nosniff
		defer func() {
			if cause := recover(); cause != nil {
				s.panicked(t, r, cause)
			}
			s.finished(t, r, time.Since(begin))
		}()
		next.ServeHTTP(t, r)
	})
}

var nosniff = []string{"nosniff"}

// panicked answers a request whose handler panicked, without details. What was
// thrown may hold anything, so that only its type is logged, with the stack,
// whose lines show no values of strings.
func (s *Server) panicked(t *track, r *http.Request, cause any) {
	if err, ok := cause.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		t.status = 499
		return
	}
	s.cfg.Logger.LogAttrs(r.Context(), slog.LevelError, "a request panicked",
		slog.String("request_id", t.requestID), slog.String("route", routeOf(r)),
		slog.String("cause", fmt.Sprintf("%T", cause)), slog.String("stack", string(debug.Stack())))
	if t.status == 0 {
		t.fail(writeProblem(t, errInternal, t.requestID), nil)
	}
}

func (s *Server) finished(t *track, r *http.Request, took time.Duration) {
	if t.status == 0 {
		t.status = http.StatusOK
	}
	route := routeOf(r)
	s.metrics.request(methodLabel(r.Method), route, t.status, took)
	level := slog.LevelInfo
	switch {
	case t.status >= 500:
		level = slog.LevelWarn
	case t.quiet:
		level = slog.LevelDebug
	}
	if !s.cfg.Logger.Enabled(r.Context(), level) {
		return
	}
	attrs := make([]slog.Attr, 0, 8)
	attrs = append(attrs,
		slog.String("method", methodLabel(r.Method)), slog.String("route", route), slog.Int("status", t.status),
		slog.Duration("took", took), slog.String("request_id", t.requestID))
	if actor := t.actor.String(); actor != "" {
		attrs = append(attrs, slog.String("actor", actor))
	}
	if t.code != "" {
		attrs = append(attrs, slog.String("code", t.code))
	}
	if t.status >= 500 && t.err != nil {
		attrs = append(attrs, slog.String("error", provider.Redact(keystring.Redact(t.err.Error()))))
	}
	s.cfg.Logger.LogAttrs(r.Context(), level, "request", attrs...)
}

// methodLabel bounds what a client can make of a label or a log line.
func methodLabel(method string) string {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
		return method
	default:
		return "other"
	}
}
