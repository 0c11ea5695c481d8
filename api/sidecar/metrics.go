package sidecar

import (
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/domain/keystring"
)

// metrics are the listener's own. No label holds what a client chose.
type metrics struct {
	requests *prometheus.HistogramVec
	// known are the observers of requests that came before: a look-up by labels
	// costs more than a verdict. The map is never written to once it is here.
	known atomic.Pointer[map[labels]prometheus.Observer]
}

type labels struct {
	method, route string
	status        int
}

func newMetrics(registry *prometheus.Registry) (*metrics, error) {
	m := &metrics{requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "keyledger_http_request_duration_seconds", Help: "Time from a request's headers to its answer.",
		Buckets: []float64{1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, .001, .0025, .005, .01, .025, .1, 1, 5},
	}, []string{"method", "route", "status"})}
	m.known.Store(&map[labels]prometheus.Observer{})
	if err := registry.Register(m.requests); err != nil {
		return nil, fmt.Errorf("sidecar: register metrics: %w", err)
	}
	return m, nil
}

func (m *metrics) request(l labels, took time.Duration) {
	known := m.known.Load()
	o, ok := (*known)[l]
	if !ok {
		o = m.requests.WithLabelValues(l.method, l.route, strconv.Itoa(l.status))
		more := maps.Clone(*known)
		more[l] = o
		// If another was quicker, this one is asked for again next time.
		m.known.CompareAndSwap(known, &more)
	}
	o.Observe(took.Seconds())
}

// finished counts a request, and writes its line. Verdicts have none but for who
// looks closely: their uses are recorded and tell more.
func (s *Server) finished(r *request, took time.Duration) {
	l := labels{methodLabel(text(r.ctx.Request.Header.Method())), r.route.label(), r.ctx.Response.StatusCode()}
	s.metrics.request(l, took)
	level := slog.LevelDebug
	if l.status >= 500 {
		level = slog.LevelWarn
	}
	if !s.cfg.Logger.Enabled(s.ctx, level) {
		return
	}
	attrs := append(make([]slog.Attr, 0, 6),
		slog.String("method", l.method), slog.String("route", l.route), slog.Int("status", l.status),
		slog.Duration("took", took), slog.String("request_id", string(r.id)))
	if r.err != nil && l.status >= 500 {
		attrs = append(attrs, slog.String("error", keystring.Redact(r.err.Error())))
	}
	s.cfg.Logger.LogAttrs(s.ctx, level, "request", attrs...)
}

// methodLabel bounds what a client can make of a label or a log line.
func methodLabel(method string) string {
	switch method {
	case "GET":
		return "GET"
	case "HEAD":
		return "HEAD"
	case "POST":
		return "POST"
	case "PUT":
		return "PUT"
	case "PATCH":
		return "PATCH"
	case "DELETE":
		return "DELETE"
	case "OPTIONS":
		return "OPTIONS"
	default:
		return "other"
	}
}
