package api

import (
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
)

// metrics are the server's own. No label ever holds what a client chose: routes
// are patterns, codes and statuses a closed set.
type metrics struct {
	requests *prometheus.HistogramVec
	// known are the observers of requests that came before: a look-up by
	// labels costs more than a verdict.
	known    map[requestLabels]prometheus.Observer
	knowing  sync.RWMutex
	verdicts *gate.Metrics
	streams  prometheus.Gauge
	// streamsEnded counts by why they ended.
	streamsEnded *prometheus.CounterVec
	// resolves and tests count what became of provider keys.
	resolves, tests *prometheus.CounterVec
}

type requestLabels struct {
	method, route string
	status        int
}

func newMetrics(registry *prometheus.Registry) (*metrics, error) {
	verdicts, err := gate.NewMetrics(registry)
	if err != nil {
		return nil, err
	}
	m := &metrics{
		verdicts: verdicts,
		known:    map[requestLabels]prometheus.Observer{},
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
		resolves: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyledger_provider_resolves_total", Help: "Times that a provider key was asked for, by what was answered: customer, built_in, or refused when nothing was.",
		}, []string{"provider", "source"}),
		tests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyledger_provider_tests_total", Help: "Tests of provider keys, by what they came to.",
		}, []string{"provider", "result"}),
	}
	for _, p := range events.Providers() {
		for _, source := range [...]string{access.AnswerCustomer, access.AnswerBuiltIn, sourceRefused} {
			m.resolves.WithLabelValues(string(p), source)
		}
		for _, result := range events.ProviderResults() {
			m.tests.WithLabelValues(string(p), string(result))
		}
	}
	for _, reason := range [...]string{endedByClient, endedSlow, endedByStop, endedByKey, endedUnknown, endedUnreadable} {
		m.streamsEnded.WithLabelValues(reason)
	}
	return m, errors.Join(registry.Register(m.requests), registry.Register(m.streams), registry.Register(m.streamsEnded),
		registry.Register(m.resolves), registry.Register(m.tests))
}

func (m *metrics) providerResolve(p events.ProviderID, source string) {
	m.resolves.WithLabelValues(string(p), source).Inc()
}

func (m *metrics) providerTest(p events.ProviderID, result events.ProviderResult) {
	m.tests.WithLabelValues(string(p), string(result)).Inc()
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

func metricsHandler(registry *prometheus.Registry) http.Handler {
	show := promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		trackOf(w).quiet = true
		show.ServeHTTP(w, r)
	})
}
