package serve

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/continuity"
	"github.com/keyledger/keyledger/relay/ticks"
	"github.com/keyledger/keyledger/verify"
)

// known is when verdicts were last known to rest on everything: never, before this run
// was announced. A receipt that says who has applied a revocation must count it.
func (p *parts) known() time.Time {
	if p.fleet.announcer.Stats().Stored == 0 {
		return time.Time{}
	}
	return p.memory.Fresh()
}

// makeTicks makes what keeps verdicts fresh, here and at every verifier, while
// nothing happens.
func (p *parts) makeTicks(cfg Config) error {
	var err error
	p.ticks, err = ticks.New(ticks.Config{
		Continuity: p.continuity, Ready: p.memory.Ready(), Fresh: p.memory.Fresh, WaitFor: p.memory.WaitFor,
		Signer: p.ledger.keys.Signer(), MaxStaleness: verify.DefaultMaxStaleness, Logger: cfg.Logger,
		Appender: ticks.AppenderFunc(func(ctx context.Context, t events.Tick, before events.Position, revision events.Revision) (events.Recorded, error) {
			return commands.Tick(ctx, p.ledger, p.ledger.positions.Ledger, t, before, revision)
		}),
	})
	return err
}

// fresh says why verdicts are not fresh, or would not be.
func (p *parts) fresh() error {
	if p.verifier.Stale() {
		reason := "the index is not proven fresh: verdicts are STALE"
		if p.memory.Status().ClockAhead > projections.ClockMargin {
			reason = "the broker's clock and this machine's are too far apart: verdicts are STALE"
		} else if p.fleet.announcer.Stats().Stored == 0 {
			reason = "the broker has not taken yet that this server is there: verdicts are STALE"
		}
		return &api.Failing{Reason: reason, Err: p.continuity.Err()}
	}
	return nil
}

// agrees says that the last tick was not agreed with.
func (p *parts) agrees() error {
	err := p.continuity.Err()
	if errors.Is(err, continuity.ErrRefused) {
		return failing("the last tick is none: somebody who may append to the ledger does not play by its rules", err)
	}
	return failing("the last tick tells of another history than was read: verdicts are STALE", err)
}

// registerFreshness registers what /metrics shows of ticks.
func (p *parts) registerFreshness(registry *prometheus.Registry) error {
	var faults []error
	counter := func(name, help string, labels prometheus.Labels, f func() uint64) {
		faults = append(faults, registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels},
			func() float64 { return float64(f()) })))
	}
	gauge := func(name, help string, f func() float64) {
		faults = append(faults, registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)))
	}
	counter("keyledger_tick_faults_total", "Ticks that were not signed by the installation, stood where they do not belong, or told of other events than were read.",
		nil, p.continuity.Faults)
	for result, of := range map[string]func(ticks.Stats) uint64{
		"appended": func(s ticks.Stats) uint64 { return s.Appended },
		"lost":     func(s ticks.Stats) uint64 { return s.Lost },
		"failed":   func(s ticks.Stats) uint64 { return s.Failed },
	} {
		counter("keyledger_ticks_total", "Ticks that this server tried to append: appended, lost to a faster server, or failed.",
			prometheus.Labels{"result": result}, func() uint64 { return of(p.ticks.Stats()) })
	}
	gauge("keyledger_broker_clock_ahead_seconds", "How far the broker's clock was ahead of this machine's at this server's last tick, negative for behind.",
		func() float64 { return p.ticks.Stats().Clock.Seconds() })
	return errors.Join(faults...)
}
