package serve

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/relay/expiry"
)

// makeExpiry makes what records the ends of keys, and when they should be rotated.
func (p *parts) makeExpiry(cfg Config, service *commands.Service) error {
	appender := func(do func(context.Context, events.OrgID, events.KeyID) (commands.Outcome, error)) expiry.Appender {
		return func(ctx context.Context, org events.OrgID, key events.KeyID) (expiry.Outcome, error) {
			out, err := do(ctx, org, key)
			return expiry.Outcome{Position: out.Position, Recorded: len(out.Facts) > 0}, err
		}
	}
	var err error
	p.expiry, err = expiry.New(expiry.Config{
		Catalog: p.catalog, Ready: p.catalogs.Ready(), Applied: p.catalogs.Applied, WaitFor: p.catalogs.WaitFor,
		Expire: appender(service.ExpireKey), Notify: appender(service.NotifyExpiry),
		RotationDue: appender(service.NoteRotation), Revoke: appender(service.EndKey), Stale: p.mayEndEarly, Logger: cfg.Logger,
	})
	return err
}

// mayEndEarly tells whether this server knows too little, or its clock is too far
// ahead of the broker's, to record what is for ever. A clock that is ahead shows in
// the age of what has just come.
func (p *parts) mayEndEarly() bool {
	return p.verifier.Stale() || p.memory.Status().Late > projections.ClockMargin
}

// keepExpiry records ends until the context ends. It decides under what
// organizations are configured as, and so waits for that to be known.
func (p *parts) keepExpiry(ctx context.Context) {
	select {
	case <-p.memory.Ready():
		p.expiry.Run(ctx)
	case <-ctx.Done():
	}
}

// countedOverdue bounds what a scrape counts.
const countedOverdue = 100_000

func (p *parts) registerExpiry(registry *prometheus.Registry) error {
	overdue := &remembered{ask: func() (uint64, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		n, err := p.catalog.Overdue(ctx, events.TimeOf(time.Now()), countedOverdue)
		return uint64(n), err
	}}
	faults := []error{registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keyledger_expiry_overdue", Help: "Keys whose end or rotation is due, or notice of it, or whose organization has ended, and for which that is not recorded yet; verdicts do not wait for it. 100000 are that many or more.",
	}, func() float64 {
		n, err := overdue.get()
		if err != nil {
			return -1
		}
		return float64(n)
	}))}
	for _, outcome := range []struct {
		label string
		count func(expiry.Stats) uint64
	}{
		{"expired", func(s expiry.Stats) uint64 { return s.Expired }},
		{"noticed", func(s expiry.Stats) uint64 { return s.Noticed }},
		{"rotation_due", func(s expiry.Stats) uint64 { return s.RotationDue }},
		{"revoked", func(s expiry.Stats) uint64 { return s.Revoked }},
		{"idle", func(s expiry.Stats) uint64 { return s.Idle }},
		{"failed", func(s expiry.Stats) uint64 { return s.Failed }},
	} {
		faults = append(faults, registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "keyledger_expiry_tries_total", Help: "Keys of which this server tried to record what was due, by what came of it; idle are those that another server was faster with.",
			ConstLabels: prometheus.Labels{"outcome": outcome.label},
		}, func() float64 { return float64(outcome.count(p.expiry.Stats())) })))
	}
	return errors.Join(faults...)
}
