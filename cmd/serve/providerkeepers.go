package serve

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/providerkey"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/relay/datakeys"
	"github.com/keyledger/keyledger/relay/providersignals"
)

// providerKeepers are what keeps provider keys as they should be: their data keys,
// and what is told of how they are resolved.
type providerKeepers struct {
	// dataKeys is nil without a key-encryption key.
	dataKeys *datakeys.Keeper
	signals  *providersignals.Keeper
}

// makeDataKeys makes what keeps data keys. It is fed with the ledger before there is
// anything to destroy with.
func (p *parts) makeDataKeys(cfg Config) error {
	if p.ledger.envelopes == nil {
		return nil
	}
	var err error
	p.providerKeepers.dataKeys, err = datakeys.New(datakeys.Config{
		Envelopes: p.ledger.envelopes, Ready: p.caughtUp, Last: p.ledger.Last, Logger: cfg.Logger,
		Destroy: func(ctx context.Context, org events.OrgID, provider events.ProviderID, ids []events.DataKeyID) (bool, error) {
			return p.service.DestroyDataKeys(ctx, org, provider, ids)
		},
	})
	return err
}

// views are what of it follows the ledger.
func (k *providerKeepers) views() []projections.View {
	if k.dataKeys == nil {
		return nil
	}
	return []projections.View{k.dataKeys}
}

// keepDataKeys keeps data keys until the context ends.
func (k *providerKeepers) keepDataKeys(ctx context.Context) {
	if k.dataKeys != nil {
		k.dataKeys.Run(ctx)
	}
}

// makeProviderSignals makes what tells of unusual resolves.
func (p *parts) makeProviderSignals(cfg Config, service *commands.Service) error {
	outcome := func(out commands.Outcome, next events.Time, err error) (providersignals.Outcome, error) {
		return providersignals.Outcome{Recorded: len(out.Facts) > 0 && !out.Replayed, Next: next}, err
	}
	var err error
	p.providerKeepers.signals, err = providersignals.New(providersignals.Config{
		Ledger: p.ledger.positions.Ledger, Ready: p.memory.Ready(), Logger: cfg.Logger,
		Threshold: func(org events.OrgID) int {
			config, _ := p.configuration.Of(org)
			return providerkey.SpikeThreshold(config.Organization.Policy.Signals)
		},
		NoteSpike: func(ctx context.Context, s providersignals.Spike) (providersignals.Outcome, error) {
			return outcome(service.NoteProviderSpike(ctx, s.Org, s.Provider, s.From, s.Resolves))
		},
		NoteFailing: func(ctx context.Context, f providersignals.Failing) (providersignals.Outcome, error) {
			return outcome(service.NoteProviderFailing(ctx, f.Org, f.Provider, events.ProviderKeyFailing{
				Of: events.FailingResolves, Since: f.Since, Failures: f.Failures, Code: f.Code,
			}))
		},
	})
	p.access.counted = p.providerKeepers.signals
	return err
}

// after is where the view of access records goes on, and what counts them begins: at
// those that still count, which the view passes over.
func (a *accessParts) after(ctx context.Context) (events.Position, error) {
	after, err := a.view.Position(ctx)
	if err != nil {
		return 0, err
	}
	since, err := a.view.Since(ctx, events.TimeOf(time.Now().Add(-providersignals.Window)))
	return min(after, since), err
}

func (p *parts) registerProviderKeepers(registry *prometheus.Registry) error {
	faults := []error{p.registerProviderSignals(registry)}
	k := p.providerKeepers.dataKeys
	if k == nil {
		return errors.Join(faults...)
	}
	for _, current := range []struct {
		label string
		count func(datakeys.Stats) uint64
	}{
		{"true", func(s datakeys.Stats) uint64 { return s.Current }},
		{"false", func(s datakeys.Stats) uint64 { return s.Old }},
	} {
		faults = append(faults, registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "keyledger_provider_data_keys", Help: "Data keys of provider keys when they were last looked through, by whether the key-encryption key of today wraps them.",
			ConstLabels: prometheus.Labels{"current": current.label},
		}, func() float64 { return float64(current.count(k.Stats())) })))
	}
	faults = append(faults, registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keyledger_provider_data_keys_pending", Help: "Data keys of provider keys that are replaced or removed, and may not be destroyed yet.",
	}, func() float64 { return float64(k.Stats().Pending) })))
	for _, outcome := range []struct {
		label string
		count func(datakeys.Stats) uint64
	}{
		{"destroyed", func(s datakeys.Stats) uint64 { return s.Destroyed - s.Orphans }},
		{"orphan", func(s datakeys.Stats) uint64 { return s.Orphans }},
		{"rewrapped", func(s datakeys.Stats) uint64 { return s.Rewrapped }},
		{"failed", func(s datakeys.Stats) uint64 { return s.Failed }},
	} {
		faults = append(faults, registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "keyledger_provider_data_keys_kept_total", Help: "What this server did to keep data keys of provider keys as the ledger says: destroyed one because whoever ended it had not come to that, or an orphan that no event names; wrapped one anew; or failed, and tries again.",
			ConstLabels: prometheus.Labels{"outcome": outcome.label},
		}, func() float64 { return float64(outcome.count(k.Stats())) })))
	}
	return errors.Join(faults...)
}

func (p *parts) registerProviderSignals(registry *prometheus.Registry) error {
	var faults []error
	for _, outcome := range []struct {
		label string
		count func(providersignals.Stats) uint64
	}{
		{"resolves_spike", func(s providersignals.Stats) uint64 { return s.Spikes }},
		{"failing", func(s providersignals.Stats) uint64 { return s.Failings }},
		{"idle", func(s providersignals.Stats) uint64 { return s.Idle }},
		{"failed", func(s providersignals.Stats) uint64 { return s.Failed }},
		{"dropped", func(s providersignals.Stats) uint64 { return s.Dropped }},
	} {
		faults = append(faults, registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "keyledger_provider_signals_tries_total", Help: "What this server tried to tell of provider keys' resolves, by what came of it: the signal that it recorded; idle where there was nothing to record, mostly since another server was faster; dropped are records that were not counted.",
			ConstLabels: prometheus.Labels{"outcome": outcome.label},
		}, func() float64 { return float64(outcome.count(p.providerKeepers.signals.Stats())) })))
	}
	return errors.Join(faults...)
}
