package serve

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/relay/erasure"
)

// makeErasure makes what finishes erasures.
func (p *parts) makeErasure(cfg Config) error {
	var err error
	p.erasure, err = erasure.New(erasure.Config{Forget: p.subjects.Forget, Destroy: p.subjects.Destroy, Logger: cfg.Logger})
	return err
}

func (p *parts) registerErasure(registry *prometheus.Registry) error {
	return errors.Join(
		registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "keyledger_erasures_pending", Help: "Erased data subjects whose keys may not be destroyed yet.",
		}, func() float64 { return float64(p.erasure.Stats().Pending) })),
		registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "keyledger_erasures_finished_total", Help: "Keys of erased data subjects that this server destroyed because whoever erased them had not come to it.",
		}, func() float64 { return float64(p.erasure.Stats().Destroyed) })),
		registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "keyledger_erasures_failed_total", Help: "Tries to destroy the keys of erased data subjects that failed; they are made again.",
		}, func() float64 { return float64(p.erasure.Stats().Failed) })),
	)
}
