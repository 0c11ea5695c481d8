package serve

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/period"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/usage"
	keeper "github.com/keyledger/keyledger/relay/retention"
)

// makeRetention makes what drops uses that are old. It is fed with the ledger before
// there is anything to record with.
func (p *parts) makeRetention(cfg Config) error {
	recorded := func(do func(*commands.Service) (commands.Outcome, error)) (bool, error) {
		out, err := do(p.service)
		return len(out.Facts) > 0 && !out.Replayed, err
	}
	var err error
	p.retention, err = keeper.New(keeper.Config{
		Usage: p.usage, Ready: p.caughtUp, Stale: p.mayEndEarly, Stream: p.ledger, Now: time.Now, Logger: cfg.Logger,
		Before: func(org events.OrgID, now events.Time) events.Time {
			config, _ := p.configuration.Of(org)
			return keptFrom(now, config.Organization.Policy.UsesRetention, cfg.UsesRetention)
		},
		Dropped: func(ctx context.Context, org events.OrgID) (usage.DroppedUses, error) {
			state, err := p.service.DroppedUses(ctx, org)
			return usage.DroppedUses{Before: state.Before, Through: state.Through, Days: state.Days()}, err
		},
		DropUses: func(ctx context.Context, org events.OrgID, before events.Time, through events.Position, days []events.UsesDay) (bool, error) {
			return recorded(func(s *commands.Service) (commands.Outcome, error) {
				return s.DropUses(ctx, org, before, through, days)
			})
		},
		DropBlocks: func(ctx context.Context, stored events.Time, through events.Position, blocks uint64, days []events.UsesDay) (bool, error) {
			return recorded(func(s *commands.Service) (commands.Outcome, error) {
				return s.DropBlocks(ctx, stored, through, blocks, days)
			})
		},
	})
	return err
}

// keptFrom is the midnight from which on uses are kept, by the shortest of what an
// organization and the installation say; 0 keeps all.
func keptFrom(now events.Time, periods ...events.Period) events.Time {
	var from events.Time
	for _, p := range periods {
		from = max(from, period.Before(now, p))
	}
	const day = events.Time(24 * time.Hour / time.Microsecond)
	return from - from%day
}

// keepRetention drops old uses until the context ends.
func (p *parts) keepRetention(ctx context.Context) {
	select {
	case <-p.memory.Ready():
		close(p.caughtUp)
		p.retention.Run(ctx)
	case <-ctx.Done():
	}
}

func (p *parts) registerRetention(registry *prometheus.Registry) error {
	var faults []error
	for _, outcome := range []struct {
		label string
		count func(keeper.Stats) uint64
	}{
		{"uses", func(s keeper.Stats) uint64 { return s.Uses }},
		{"blocks", func(s keeper.Stats) uint64 { return s.Blocks }},
		{"purged", func(s keeper.Stats) uint64 { return s.Purged }},
		{"failed", func(s keeper.Stats) uint64 { return s.Failed }},
	} {
		faults = append(faults, registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "keyledger_uses_drops_total", Help: "What this server did to drop uses that are older than they are kept: recorded it of an organization's uses, or of blocks of their stream, removed those blocks; or failed, and tries again.",
			ConstLabels: prometheus.Labels{"outcome": outcome.label},
		}, func() float64 { return float64(outcome.count(p.retention.Stats())) })))
	}
	return errors.Join(faults...)
}
