package serve

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/projections/snapshot"
	"github.com/keyledger/keyledger/relay/snapshots"
)

// makeSnapshots makes what keeps snapshots for verifiers to start from, if any are
// kept.
func (p *parts) makeSnapshots(cfg Config) error {
	if cfg.SnapshotEvery == 0 {
		return nil
	}
	var err error
	p.snapshots, err = snapshots.New(snapshots.Config{
		Freeze: func() (picture *snapshot.Picture, err error) {
			p.barrier.Between(func() { picture, err = snapshot.Freeze(p.index, p.continuity) })
			return picture, err
		},
		Count: p.continuity.Freeze, Ready: p.memory.Ready(), Store: p.ledger, Signer: p.ledger.keys.Signer(),
		Every: cfg.SnapshotEvery, Folder: cfg.Data, Now: time.Now, Logger: cfg.Logger,
	})
	return err
}

// keepSnapshots keeps snapshots until the context ends.
func (p *parts) keepSnapshots(ctx context.Context) {
	if p.snapshots != nil {
		p.snapshots.Run(ctx)
	}
}

// registerSnapshots registers what /metrics shows of snapshots.
func (p *parts) registerSnapshots(registry *prometheus.Registry) error {
	if p.snapshots == nil {
		return nil
	}
	var faults []error
	for _, outcome := range []struct {
		label string
		count func(snapshots.Stats) uint64
	}{
		{"stored", func(s snapshots.Stats) uint64 { return s.Stored }},
		{"lost", func(s snapshots.Stats) uint64 { return s.Lost }},
		{"failed", func(s snapshots.Stats) uint64 { return s.Failed }},
	} {
		faults = append(faults, registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "keyledger_snapshots_total", Help: "Snapshots for verifiers to start from that this server stored, that another server stored first, and rounds in which one could not be made.",
			ConstLabels: prometheus.Labels{"outcome": outcome.label},
		}, func() float64 { return float64(outcome.count(p.snapshots.Stats())) })))
	}
	gauge := func(name, help string, of func(snapshots.Stats) float64) {
		faults = append(faults, registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help},
			func() float64 { return of(p.snapshots.Stats()) })))
	}
	gauge("keyledger_snapshot_timestamp_seconds", "Time up to which the stored snapshot of everything holds the ledger, as this server saw it last; 0 where there is none.",
		func(s snapshots.Stats) float64 { return float64(s.At) / float64(time.Second/time.Microsecond) })
	gauge("keyledger_snapshot_bytes", "Size of the stored snapshot of everything, as this server saw it last.",
		func(s snapshots.Stats) float64 { return float64(s.Size) })
	return errors.Join(faults...)
}
