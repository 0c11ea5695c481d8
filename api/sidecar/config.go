package sidecar

import (
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/events"
)

// Config is what a sidecar works with. Everything is needed unless it says
// otherwise.
type Config struct {
	// Verifier gives the verdicts, such as [verify.Client].
	Verifier gate.Verifier
	// Positions writes and reads positions as texts.
	Positions func() events.Positions
	// Effective lists the permissions of today's catalog that a key has, for the
	// scope of /oauth2/introspect. Optional.
	Effective func(events.OrgID, events.Permissions) []string
	// Checks tell by name why verdicts cannot be given, see [gate.Checks].
	Checks map[string]func() error
	// Metrics is where the listener's metrics are registered, and what GET /metrics
	// shows.
	Metrics *prometheus.Registry
	// Logger takes what goes wrong.
	Logger *slog.Logger
	// Document is the OpenAPI document.
	Document []byte
	// ServerURL is where the server is that changes keys, for who asks here for a
	// change. Optional.
	ServerURL string
	// RecordClientIP records the client_ip that verifications are asked with.
	// It is personal data, and dropped unless this is set.
	RecordClientIP bool
	// MaxConnections bounds the connections of each listener. 0 is
	// [DefaultMaxConnections]. Those beyond it are answered 503.
	MaxConnections int
}

// Validate reports everything that is wrong at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(bad bool, what string) {
		if bad {
			faults = append(faults, errors.New("sidecar: config: "+what))
		}
	}
	fault(c.Verifier == nil, "Verifier is needed")
	fault(c.Positions == nil, "Positions is needed")
	fault(c.Metrics == nil, "Metrics is needed")
	fault(c.Logger == nil, "Logger is needed")
	fault(c.MaxConnections < 0, "MaxConnections is negative")
	return errors.Join(faults...)
}
