package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/projections/fleet"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/announcing"
)

const (
	// drainPresence bounds how long a stop waits for its announcement. Without it the
	// server looks lost when its lease runs out.
	drainPresence = 5 * time.Second
	// measureEvery is how often it is looked for revocations that have arrived. How
	// long they took the announcements tell.
	measureEvery = time.Second
)

// fleetParts are the view of verifiers, and what announces this one.
type fleetParts struct {
	view      *fleet.View
	announcer *announcing.Announcer
	ledger    *jetstream.Ledger
	took      prometheus.Histogram
	log       *slog.Logger
	err       atomic.Pointer[error]
	// heard is set once the announcements are read that were there at the start, and
	// one after them.
	heard atomic.Bool
}

// makeFleet makes the view, and what announces this server.
func (p *parts) makeFleet(cfg Config) error {
	f := &p.fleet
	f.ledger, f.log = p.ledger.views, cfg.Logger
	f.took = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "keyledger_revocation_propagation_seconds",
		Help:    "Time from a revocation being stored until the last live verifier had applied it. Some of many are timed.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
	})
	var err error
	f.view, err = fleet.New(fleet.Config{Ledger: p.ledger.positions.Ledger, MaxStaleness: verify.DefaultMaxStaleness, Logger: cfg.Logger})
	if err != nil {
		return err
	}
	version := printable(cfg.Version)
	f.announcer, err = announcing.New(announcing.Config{
		State: func() presence.Announcement { return p.announcement(version) },
		Publish: func(ctx context.Context, a presence.Announcement) error {
			m, err := presence.Encode(&a)
			if err != nil {
				return err
			}
			return p.ledger.PublishPresence(ctx, m)
		},
		Logger: cfg.Logger,
	})
	return err
}

// announcement is what this server says of itself.
func (p *parts) announcement(version string) presence.Announcement {
	// Of the recorder first what is stored, so that nothing is that was not taken.
	through, stats, staleness := p.recorder.StoredThrough(), p.recorder.Stats(), int64(-1)
	if fresh := p.memory.Fresh(); !fresh.IsZero() {
		staleness = time.Since(fresh).Milliseconds()
	}
	return presence.Announcement{
		Ledger: p.ledger.positions.Ledger, Verifier: p.ledger.name, Boot: p.recorder.Boot(), Kind: presence.Server, Version: version,
		StartedAt: p.started, Applied: p.memory.Applied(), Staleness: max(staleness, -1), MaxStaleness: verify.DefaultMaxStaleness.Milliseconds(),
		Ready: !p.verifier.Stale(), Recorded: stats.Recorded, Backlog: stats.Backlog, StoredThrough: through,
		Misses: p.verifier.Unrecorded(events.CodeMalformed) + p.verifier.Unrecorded(events.CodeNotFound),
	}
}

// printable is a version as it may be announced.
func printable(version string) string {
	version = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '-'
		}
		return r
	}, version)
	return version[:min(len(version), presence.MaxVersionLength)]
}

// follow feeds the view with announcements until the context ends.
func (f *fleetParts) follow(ctx context.Context) {
	goal, err := f.begin(ctx)
	if err == nil {
		err = f.ledger.FollowPresence(ctx, 0, func(list []presence.Message) error {
			f.view.Hear(list)
			// One that has just come, such as this server's own, also tells how long
			// ago the others were.
			if list[len(list)-1].Position > goal {
				f.heard.Store(true)
			}
			return nil
		})
	}
	if err == nil || ctx.Err() != nil && !errors.Is(err, events.ErrCorrupt) {
		return
	}
	f.err.Store(&err)
	f.log.Error("view stopped", "view", f.view.Name(), "error", err)
}

// begin learns how many announcements there are.
func (f *fleetParts) begin(ctx context.Context) (events.Position, error) {
	for {
		last, err := f.ledger.LastPresence(ctx)
		if err == nil || errors.Is(err, events.ErrCorrupt) {
			return last, err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

func (f *fleetParts) failed() error {
	if err := f.err.Load(); err != nil {
		return fmt.Errorf("view %s has stopped: %w", f.view.Name(), *err)
	}
	return nil
}

// measure times revocations until the context ends.
func (f *fleetParts) measure(ctx context.Context) {
	for pause(ctx, measureEvery) == nil {
		for _, took := range f.view.Propagated(time.Now()) {
			f.took.Observe(took.Seconds())
		}
	}
}

// announce announces this server from now on. What it returns ends that, and says
// that the server has ended.
func (f *fleetParts) announce(ctx context.Context) (end func()) {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	var done sync.WaitGroup
	done.Go(func() { f.announcer.Run(running) })
	return func() {
		stop()
		done.Wait()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainPresence)
		defer cancel()
		if err := f.announcer.End(drain); err != nil {
			f.log.Warn("this server's end is not announced: it will look lost", "error", err)
		}
	}
}

// register registers what /metrics shows of the fleet.
func (f *fleetParts) register(registry *prometheus.Registry) error {
	faults := []error{
		registry.Register(f.took),
		registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "keyledger_verifier_staleness_seconds_max", Help: "How long ago the stalest live verifier was known to hold everything.",
		}, func() float64 {
			_, stalest := f.view.Count(time.Now())
			return stalest.Seconds()
		})),
		registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "keyledger_presence_faults_total", Help: "Announcements of verifiers that were none, or of another than whose credential it was.",
		}, func() float64 { return float64(f.view.Faults()) })),
		registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: stoppedMetric, Help: stoppedHelp, ConstLabels: prometheus.Labels{"view": fleet.Name},
		}, func() float64 { return truth(f.failed() != nil) })),
	}
	for _, state := range fleet.States() {
		faults = append(faults, registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "keyledger_verifiers", Help: "Verifiers, by whether they are heard of.", ConstLabels: prometheus.Labels{"state": string(state)},
		}, func() float64 {
			counts, _ := f.view.Count(time.Now())
			return float64(counts[state])
		})))
	}
	return errors.Join(faults...)
}
