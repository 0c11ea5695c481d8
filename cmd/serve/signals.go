package serve

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/usage"
	"github.com/keyledger/keyledger/relay/signals"
)

// makeSignals makes what tells of unusual uses.
func (p *parts) makeSignals(cfg Config, service *commands.Service) error {
	outcome := func(out commands.Outcome, next events.Time, err error) (signals.Outcome, error) {
		return signals.Outcome{Recorded: len(out.Facts) > 0 && !out.Replayed, Next: next}, err
	}
	var err error
	p.signals, err = signals.New(signals.Config{
		Usage: p.usage, Ready: p.memory.Ready(), Logger: cfg.Logger,
		Wanted: func(org events.OrgID) signals.Wanted {
			config, _ := p.configuration.Of(org)
			wanted := config.Organization.Policy.Signals
			w := signals.Wanted{Sources: wanted.NewSource != events.SwitchOff}
			if wanted.DenialsSpike != events.SwitchOff {
				w.Spike = key.SpikeThreshold(wanted)
			}
			return w
		},
		NoteSource: func(ctx context.Context, s usage.Source) (signals.Outcome, error) {
			out, err := service.NoteSource(ctx, s.Org, s.Key, commands.Seen{
				At: s.FirstAt, Code: s.FirstCode, Verifier: s.FirstVerifier, By: s.Kind, Source: s.Source,
			})
			return outcome(out, 0, err)
		},
		NoteSpike: func(ctx context.Context, d usage.Denials) (signals.Outcome, error) {
			return outcome(service.NoteSpike(ctx, d.Org, d.Key, d.From, d.Count))
		},
	})
	return err
}

func (p *parts) registerSignals(registry *prometheus.Registry) error {
	var faults []error
	for _, outcome := range []struct {
		label string
		count func(signals.Stats) uint64
	}{
		{"new_source", func(s signals.Stats) uint64 { return s.Sources }},
		{"denials_spike", func(s signals.Stats) uint64 { return s.Spikes }},
		{"idle", func(s signals.Stats) uint64 { return s.Idle }},
		{"failed", func(s signals.Stats) uint64 { return s.Failed }},
		{"dropped", func(s signals.Stats) uint64 { return s.Dropped }},
	} {
		faults = append(faults, registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "keyledger_signals_tries_total", Help: "What this server tried to tell of keys' uses, by what came of it: the signal that it recorded; idle where there was nothing to record, mostly since another server was faster; dropped is what is not tried again.",
			ConstLabels: prometheus.Labels{"outcome": outcome.label},
		}, func() float64 { return float64(outcome.count(p.signals.Stats())) })))
	}
	return errors.Join(faults...)
}
