package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/verify"
)

// Config is what a server works with. Everything is needed unless it says
// otherwise.
type Config struct {
	// Commands carries changes out.
	Commands *commands.Service
	// Configuration tells the permission catalogs that keys are shown under. It
	// is the one that Commands decides on.
	Configuration *commands.Configuration
	// Catalog is the view that reads are answered from, and WaitForCatalog
	// returns once it has applied a position: reads see what this server
	// answered before.
	Catalog        *catalog.Catalog
	WaitForCatalog func(context.Context, events.Position) error
	// Audit is the view of all events, and WaitForAudit the like for it. The
	// stream of events waits there for what comes.
	Audit        *audit.Log
	WaitForAudit func(context.Context, events.Position) error
	// Verifier gives verdicts, on the keys of requests and those asked about.
	Verifier *verify.Verifier
	// Positions writes and reads positions as texts.
	Positions events.Positions
	// Checks tell by name why the server is not ready yet: each returns nil
	// when its part is. They are asked at every GET /readyz, which anybody may
	// send: it shows the reason of a [*Failing] and nothing of another error.
	// The log takes all of it, once for each change.
	Checks map[string]func() error
	// Metrics is where the server's own metrics are registered, and what
	// GET /metrics shows.
	Metrics *prometheus.Registry
	// Logger takes one line for each request, and what goes wrong.
	Logger *slog.Logger
	// Version is the program's, for the OpenAPI document. Optional.
	Version string
	// Console serves GET / and nothing below it. Optional.
	Console http.Handler
	// RecordClientIP records the client_ip that verifications are asked with.
	// It is personal data, and dropped unless this is set.
	RecordClientIP bool
}

// Validate reports everything that is missing at once.
func (c Config) Validate() error {
	var faults []error
	for _, part := range []struct {
		name    string
		missing bool
	}{
		{"Commands", c.Commands == nil},
		{"Configuration", c.Configuration == nil},
		{"Catalog", c.Catalog == nil},
		{"WaitForCatalog", c.WaitForCatalog == nil},
		{"Audit", c.Audit == nil},
		{"WaitForAudit", c.WaitForAudit == nil},
		{"Verifier", c.Verifier == nil},
		{"Positions", c.Positions.Ledger.IsZero()},
		{"Metrics", c.Metrics == nil},
		{"Logger", c.Logger == nil},
	} {
		if part.missing {
			faults = append(faults, fmt.Errorf("api: config: %s is needed", part.name))
		}
	}
	return errors.Join(faults...)
}
