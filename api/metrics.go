package api

import (
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keyledger/keyledger/events"
)

// metrics are the server's own. No label ever holds what a client chose: routes
// are patterns, codes and statuses a closed set.
type metrics struct {
	requests *prometheus.HistogramVec
	// known are the observers of requests that came before: a look-up by
	// labels costs more than a verdict.
	known   map[requestLabels]prometheus.Observer
	knowing sync.RWMutex
	verify  [len(doors)][len(events.Codes) + 1]prometheus.Observer
	streams prometheus.Gauge
	// streamsEnded counts by why they ended.
	streamsEnded *prometheus.CounterVec
}

type requestLabels struct {
	method, route string
	status        int
}

// door is how a verdict went out.
type door int

const (
	doorVerify door = iota
	doorAuthorize
)

var doors = [...]string{"verify", "authorize"}

func newMetrics(registry *prometheus.Registry) (*metrics, error) {
	m := &metrics{
		known: map[requestLabels]prometheus.Observer{},
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keyledger_http_request_duration_seconds", Help: "Time from a request's headers to its answer.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 15},
		}, []string{"method", "route", "status"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keyledger_event_streams", Help: "Clients that follow GET /v1/events.",
		}),
		streamsEnded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyledger_event_streams_ended_total", Help: "Streams of GET /v1/events that ended, by why.",
		}, []string{"reason"}),
	}
	verdicts := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "keyledger_verify_duration_seconds", Help: "Time a verdict took, by its code and the path it was asked on.",
		Buckets: []float64{1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 1e-4, 1e-3, 1e-2, .1, 1},
	}, []string{"code", "path"})
	for p, name := range doors {
		for _, code := range events.Codes {
			m.verify[p][code] = verdicts.WithLabelValues(code.String(), name)
		}
	}
	for _, reason := range [...]string{endedByClient, endedSlow, endedByStop, endedByKey, endedUnknown, endedUnreadable} {
		m.streamsEnded.WithLabelValues(reason)
	}
	return m, errors.Join(registry.Register(m.requests), registry.Register(verdicts), registry.Register(m.streams), registry.Register(m.streamsEnded))
}

func (m *metrics) request(method, route string, status int, took time.Duration) {
	labels := requestLabels{method, route, status}
	m.knowing.RLock()
	o, ok := m.known[labels]
	m.knowing.RUnlock()
	if !ok {
		o = m.requests.WithLabelValues(method, route, strconv.Itoa(status))
		m.knowing.Lock()
		m.known[labels] = o
		m.knowing.Unlock()
	}
	o.Observe(took.Seconds())
}

func (m *metrics) verdict(p door, code events.Code, took time.Duration) {
	if o := m.verify[p][code]; o != nil {
		o.Observe(took.Seconds())
	}
}

func metricsHandler(registry *prometheus.Registry) http.Handler {
	show := promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		trackOf(w).quiet = true
		show.ServeHTTP(w, r)
	})
}
