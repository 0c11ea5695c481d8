package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/projections/access"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/fleet"
	"github.com/keyledger/keyledger/projections/reports"
	"github.com/keyledger/keyledger/projections/usage"
	gather "github.com/keyledger/keyledger/relay/access"
	"github.com/keyledger/keyledger/relay/providers"
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
	// Reports answers reports, out of the files of the views.
	Reports *reports.Reports
	// Accesses takes access records, and AccessLog is the view of them.
	Accesses  *gather.Gatherer
	AccessLog *access.View
	// Usage is the view of uses. It must be able to read single blocks.
	Usage *usage.View
	// UsesRead tells how many percent of the uses that were there when this server
	// started its view of them has read. Without it they are taken as read.
	UsesRead func(context.Context) (uint64, error)
	// Fleet is the view of verifiers, and FleetRead tells that it has read what was
	// announced before this server started. Without it that is taken as read.
	Fleet     *fleet.View
	FleetRead func() bool
	// LastUses returns the last position of the stream of uses. Without it nothing
	// says that the view of uses has read all of them.
	LastUses func(context.Context) (events.Position, error)
	// Last returns the ledger's last position: what tells a position that does
	// not exist from one that this server has not reached.
	Last func(context.Context) (events.Position, error)
	// Streams bounds the streams of events. Its zero value is what is documented.
	Streams StreamConfig
	// Verifier gives verdicts, on the keys of requests and those asked about.
	Verifier *verify.Verifier
	// Positions writes and reads positions as texts.
	Positions events.Positions
	// Checks tell by name why the server is not ready yet: each returns nil
	// when its part is. They are asked at every GET /readyz, which anybody may
	// send: it shows the reason of a [*Failing] and nothing of another error.
	// The log takes all of it, once for each change.
	Checks map[string]func() error
	// Unseal opens a text of an organization that was sealed, by what it is (see
	// package seals). Without it sealed texts are shown to nobody. Optional.
	Unseal func(ctx context.Context, org events.OrgID, sealed events.Sealed, what string) (string, error)
	// Providers is what provider keys take beside Commands.
	Providers ProvidersConfig
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

// ProvidersConfig is what provider keys take.
type ProvidersConfig struct {
	// Client asks providers about keys.
	Client *providers.Client
	// Models are those that the installation needs of each provider: what Client
	// tests for.
	Models map[events.ProviderID][]string
	// Label returns what stands for some parts to everybody who has not the
	// installation's key: seals.Keys.Label. It stands for secrets in what is hashed
	// of requests.
	Label func(parts ...string) ([32]byte, error)
	// Reach reports why an address may not be called, if it may not, as far as that
	// is known before: egress.Client.Check. Without it every address may be saved,
	// and Client finds out. Optional.
	Reach func(ctx context.Context, baseURL string) error
	// LastFour opens the last four characters of a saved secret:
	// seals.Envelopes.OpenLastFour. Without it nobody is shown them. Optional.
	LastFour func(ctx context.Context, of seals.Binding, sealed events.SealedSecret) (string, error)
}

// StreamConfig bounds the streams of events.
type StreamConfig struct {
	// Heartbeat is how often a quiet stream says that it is still there. 0 is
	// 15 seconds.
	Heartbeat time.Duration
	// Patience is how long a reader may take to take what it is sent. 0 is 30
	// seconds. One that takes it later is cut off and told so; one that has not
	// taken it after twice that time is cut off.
	Patience time.Duration
}

func (c StreamConfig) withDefaults() StreamConfig {
	if c.Heartbeat == 0 {
		c.Heartbeat = defaultHeartbeat
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	return c
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
		{"Usage", c.Usage == nil},
		{"Reports", c.Reports == nil},
		{"Accesses", c.Accesses == nil},
		{"AccessLog", c.AccessLog == nil},
		{"Fleet", c.Fleet == nil},
		{"Last", c.Last == nil},
		{"Verifier", c.Verifier == nil},
		{"Positions", c.Positions.Ledger.IsZero()},
		{"Providers.Client", c.Providers.Client == nil},
		{"Providers.Label", c.Providers.Label == nil},
		{"Metrics", c.Metrics == nil},
		{"Logger", c.Logger == nil},
	} {
		if part.missing {
			faults = append(faults, fmt.Errorf("api: config: %s is needed", part.name))
		}
	}
	if c.Streams.Heartbeat < 0 || c.Streams.Patience < 0 {
		faults = append(faults, errors.New("api: config: Streams holds a negative time"))
	}
	return errors.Join(faults...)
}
