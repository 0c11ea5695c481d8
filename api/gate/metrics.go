package gate

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/events"
)

// Door is how a verdict goes out.
type Door int

// The doors.
const (
	DoorVerify Door = iota
	DoorAuthorize
	DoorIntrospect
	DoorExtAuthz
)

var doors = [...]string{"verify", "authorize", "introspect", "ext_authz"}

// Metrics times verdicts. Nothing that a client chose is a label.
type Metrics struct {
	took [len(doors)][len(events.Codes) + 1]prometheus.Observer
}

// NewMetrics registers the metrics of the verdicts of a process. Doors that share
// a registry share them.
func NewMetrics(registry prometheus.Registerer) (*Metrics, error) {
	verdicts := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "keyledger_verify_duration_seconds", Help: "Time a verdict took, by its code and the path it was asked on.",
		Buckets: []float64{1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 1e-4, 1e-3, 1e-2, .1, 1},
	}, []string{"code", "path"})
	if err := registry.Register(verdicts); err != nil {
		var there prometheus.AlreadyRegisteredError
		ok := errors.As(err, &there)
		if ok {
			verdicts, ok = there.ExistingCollector.(*prometheus.HistogramVec)
		}
		if !ok {
			return nil, fmt.Errorf("gate: register metrics: %w", err)
		}
	}
	m := &Metrics{}
	for door, name := range doors {
		for _, code := range events.Codes {
			m.took[door][code] = verdicts.WithLabelValues(code.String(), name)
		}
	}
	return m, nil
}

func (m *Metrics) verdict(door Door, code events.Code, took time.Duration) {
	if of := &m.took[door]; int(code) < len(of) && of[code] != nil {
		of[code].Observe(took.Seconds())
	}
}
