package sidecar

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/keyledger/keyledger/verify"
)

// register registers what /metrics shows beside the doors' own.
func (s *sidecar) register() error {
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &gauges{status: s.client.Status},
	} {
		if err := s.registry.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// measure is one metric of a verifier's status.
type measure struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*verify.Status) float64
}

// gauges shows a verifier's status, which is asked for once a scrape.
type gauges struct{ status func() verify.Status }

var build = prometheus.NewDesc("keyledger_build_info", "1, with the program's version.", []string{"version"}, nil)

var failing = prometheus.NewDesc("keyledger_check_failing", "1 for every check that keeps the program from being ready.", []string{"check"}, nil)

var began = prometheus.NewDesc("keyledger_start_position", "Where the index began to follow the ledger in this run, by what it began with: a snapshot of its folder or of the broker, or a replay.", []string{"source"}, nil)

// measures has the names that servers use for the same.
var measures = []measure{
	gauge("keyledger_verify_staleness_seconds", "How long ago the verifier was last known to hold every event; -1 for never.", func(s *verify.Status) float64 {
		return seconds(s.Staleness)
	}),
	gauge("keyledger_verify_max_staleness_seconds", "Past this staleness verdicts are STALE.", func(s *verify.Status) float64 { return seconds(s.MaxStaleness) }),
	gauge("keyledger_verify_stale", "1 while verdicts are STALE, or given without a bound.", func(s *verify.Status) float64 { return truth(s.Stale) }),
	gauge("keyledger_ready", "1 when nothing keeps the program from being ready.", func(s *verify.Status) float64 { return truth(len(s.Failing()) == 0) }),
	gauge("keyledger_broker_connected", "1 while a broker is connected.", func(s *verify.Status) float64 { return truth(s.Connected) }),
	gauge("keyledger_clock_ahead_seconds", "How far the broker's clock was ahead at the last event.", func(s *verify.Status) float64 { return seconds(s.Clock.Ahead) }),
	gauge("keyledger_event_late_seconds", "How old the last event was when it came, by this machine's clock.", func(s *verify.Status) float64 { return seconds(s.Clock.Late) }),
	gauge("keyledger_index_position", "How far the index has come: the sequence in the stream.", func(s *verify.Status) float64 { return float64(s.Applied) }),
	gauge("keyledger_index_keys", "Keys in the verification index.", func(s *verify.Status) float64 { return float64(s.Keys) }),
	gauge("keyledger_uses_backlog", "Uses that are recorded and not yet stored.", func(s *verify.Status) float64 { return float64(s.Uses.Backlog) }),
	counter("keyledger_uses_stored_total", "Uses that are stored.", func(s *verify.Status) float64 { return float64(s.Uses.Flushed) }),
	counter("keyledger_uses_refused_total", "Verdicts that were not given because their use could not be recorded.", func(s *verify.Status) float64 { return float64(s.Uses.Refused) }),
	counter("keyledger_uses_failures_total", "Attempts to store uses that failed; they are made again.", func(s *verify.Status) float64 { return float64(s.Uses.Failures) }),
	counter("keyledger_verify_misses_total", "Verdicts about secrets that match no key; they are counted and not recorded.", func(s *verify.Status) float64 { return float64(s.Misses) }),
	gauge("keyledger_offline", "1 while verdicts come from a snapshot and no bound holds, because no broker has answered since the start.", func(s *verify.Status) float64 {
		return truth(s.Offline)
	}),
	gauge("keyledger_snapshot_age_seconds", "How long ago this run last saved a snapshot; -1 for never.", func(s *verify.Status) float64 {
		if s.SnapshotAt.IsZero() {
			return -1
		}
		return time.Since(s.SnapshotAt).Seconds()
	}),
	gauge("keyledger_snapshot_position", "The position of that snapshot: the sequence in the stream.", func(s *verify.Status) float64 { return float64(s.SnapshotPosition) }),
	counter("keyledger_snapshot_failures_total", "Snapshots that could not be saved.", func(s *verify.Status) float64 { return float64(s.SnapshotFailures) }),
	counter("keyledger_asked_total", "Questions that the server was asked.", func(s *verify.Status) float64 { return float64(s.Asked.Asked) }),
	counter("keyledger_asked_answered_total", "Those that it answered.", func(s *verify.Status) float64 { return float64(s.Asked.Answered) }),
	counter("keyledger_asked_failed_total", "Those that it did not answer, or not as a server does.", func(s *verify.Status) float64 { return float64(s.Asked.Failed) }),
	counter("keyledger_tick_faults_total", "Ticks that did not agree with what was read.", func(s *verify.Status) float64 { return float64(s.TickFaults) }),
}

func gauge(name, help string, of func(*verify.Status) float64) measure {
	return measure{prometheus.NewDesc(name, help, nil, nil), prometheus.GaugeValue, of}
}

func counter(name, help string, of func(*verify.Status) float64) measure {
	return measure{prometheus.NewDesc(name, help, nil, nil), prometheus.CounterValue, of}
}

func seconds(d time.Duration) float64 {
	if d < 0 {
		return -1
	}
	return d.Seconds()
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Describe implements [prometheus.Collector].
func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	out <- build
	out <- failing
	out <- began
	for _, m := range measures {
		out <- m.desc
	}
}

// Collect implements [prometheus.Collector].
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	s := g.status()
	out <- prometheus.MustNewConstMetric(build, prometheus.GaugeValue, 1, s.Version)
	if s.Source != "" {
		out <- prometheus.MustNewConstMetric(began, prometheus.GaugeValue, float64(s.From), string(s.Source))
	}
	failed := map[string]bool{}
	for _, f := range s.Failing() {
		failed[f.Check] = true
	}
	for _, check := range checks {
		out <- prometheus.MustNewConstMetric(failing, prometheus.GaugeValue, truth(failed[check]), check)
	}
	for _, m := range measures {
		out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.of(&s))
	}
}
