package serve

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyledger/keyledger/domain/period"
	"github.com/keyledger/keyledger/events"
	records "github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/access"
	gather "github.com/keyledger/keyledger/relay/access"
	"github.com/keyledger/keyledger/relay/providersignals"
)

const (
	// drainAccess bounds how long a stop waits for access records to be stored.
	drainAccess = 10 * time.Second

	// sealWait bounds how long a source waits for the key of its day, and
	// sealAgain is how long sources are told by labels after that was in vain.
	sealWait  = 2 * time.Second
	sealAgain = 10 * time.Second

	// forEver is what a view takes for records that do not end.
	forEver = time.Duration(math.MaxInt64)
)

// accessParts are what gathers access records, and the view of them.
type accessParts struct {
	gatherer *gather.Gatherer
	view     *access.View
	// counted counts what the view applies.
	counted *providersignals.Keeper
	ledger  *jetstream.Ledger
	log     *slog.Logger
	err     atomic.Pointer[error]
}

// openAccess opens the view and makes what gathers.
func (p *parts) openAccess(ctx context.Context, cfg Config) error {
	keep, err := p.ledger.AccessRetention(ctx)
	if err != nil {
		return err
	}
	if want := retention(cfg.AccessRetention); cfg.AccessRetention != "" && want != keep {
		p.log.Warn("access records are kept as long as their stream says, and not as --access-retention does: an operator of the cluster changes it",
			"stream", jetstream.StreamAccess, "max_age", keep)
	}
	if keep == 0 {
		keep = forEver
	}
	a := &p.access
	a.ledger, a.log = p.ledger.views, cfg.Logger
	if a.view, err = access.Open(ctx, access.Config{
		Path: filepath.Join(cfg.Data, "access.db"), Of: p.ledger.positions, Keep: keep, Logger: cfg.Logger,
	}); err != nil {
		return err
	}
	tell := &sourceTeller{label: p.ledger.keys.Label, log: cfg.Logger}
	if cfg.RecordClientIP {
		tell.sealer = p.subjects.RecentSealer
	}
	a.gatherer, err = gather.New(gather.Config{
		Ledger: p.ledger.positions.Ledger, Server: p.ledger.name, Sink: p.ledger, Tell: tell.tell, Logger: cfg.Logger,
	})
	return err
}

// retention is how long a period is from where calendars begin, 0 for never.
func retention(p events.Period) time.Duration {
	from := events.TimeOf(time.Unix(0, 0))
	if end := period.Add(from, p); end != 0 {
		return end.Std().Sub(from.Std())
	}
	return 0
}

func checkRetention(p events.Period) error {
	if err := period.Check("--access-retention", p); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// retain has the embedded broker keep access records as long as the configuration
// says. A cluster's operator says it there.
func (b *inProcess) retain(ctx context.Context, p events.Period) error {
	keep := jetstream.DefaultAccessRetention
	if p != "" {
		keep = retention(p)
	}
	return b.Setup(ctx, func(conn *nats.Conn) error { return jetstream.SetAccessRetention(ctx, conn, keep) })
}

func (c *onCluster) retain(context.Context, events.Period) error { return nil }

// sourceTeller tells where something came from without saying it in clear. It is
// called by one goroutine.
type sourceTeller struct {
	label func(parts ...string) ([seals.LabelBytes]byte, error)
	// sealer is what addresses are sealed with where they are recorded, else nil.
	sealer func(context.Context, events.OrgID, events.DataSubject) (seals.Sealer, error)
	log    *slog.Logger
	// again is when it is tried again to seal.
	again time.Time
}

func (t *sourceTeller) tell(ctx context.Context, day, source string) (string, records.SourceKind) {
	if t.sealer != nil && !time.Now().Before(t.again) {
		sealed, err := t.seal(ctx, day, source)
		if err == nil {
			return uses.SealedText(sealed), records.SourceSealed
		}
		t.again = time.Now().Add(sealAgain)
		t.log.Warn("sources of access records are told by labels: they cannot be sealed now", "error", err)
	}
	label, err := t.label("access source", day, source)
	if err != nil {
		return "", ""
	}
	return hex.EncodeToString(label[:len(label)/2]), records.SourceLabel
}

// seal seals a source under the installation's key of its day: to destroy that is to
// forget where everything of the day came from.
func (t *sourceTeller) seal(ctx context.Context, day, source string) (events.Sealed, error) {
	ctx, cancel := context.WithTimeout(ctx, sealWait)
	defer cancel()
	sealer, err := t.sealer(ctx, events.System, events.DataSubject("attempts-"+day))
	if err != nil {
		return events.Sealed{}, err
	}
	return sealer.Seal(seals.TextOfUse, source)
}

// follow feeds the view, and what counts beside it, until the context ends. A view that
// cannot go on stops, says so, and keeps nobody else from going on.
func (a *accessParts) follow(ctx context.Context) {
	after, err := a.after(ctx)
	if err == nil {
		err = a.ledger.FollowAccess(ctx, after, func(list []records.Message) error {
			if err := a.view.Apply(ctx, list); err != nil {
				return err
			}
			a.counted.Apply(list)
			return nil
		})
	}
	if err == nil || ctx.Err() != nil && !errors.Is(err, events.ErrCorrupt) {
		return
	}
	a.err.Store(&err)
	a.log.Error("view stopped", "view", a.view.Name(), "error", err)
}

func (a *accessParts) failed() error {
	if err := a.err.Load(); err != nil {
		return fmt.Errorf("view %s has stopped: %w", a.view.Name(), *err)
	}
	return nil
}

// drain stores what is gathered.
func (a *accessParts) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainAccess)
	defer cancel()
	return a.gatherer.Close(ctx)
}

func (a *accessParts) close() error {
	if a.view == nil {
		return nil
	}
	return a.view.Close()
}

func (a *accessParts) register(registry *prometheus.Registry) error {
	counter := func(name, help string, f func(gather.Stats) uint64) error {
		return registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 {
			return float64(f(a.gatherer.Stats()))
		}))
	}
	return errors.Join(
		counter("keyledger_access_total", "What access records count: reading the audit log, failed logins, denied changes, secrets that are no key.",
			func(s gather.Stats) uint64 { return s.Taken }),
		counter("keyledger_access_others_total", "What of that is counted among others, because it was too much to tell apart.",
			func(s gather.Stats) uint64 { return s.Others }),
		counter("keyledger_access_records_total", "Access records that are stored.", func(s gather.Stats) uint64 { return s.Stored }),
		registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "keyledger_access_rows", Help: "Rows of access records that may not be stored yet.",
		}, func() float64 { return float64(a.gatherer.Stats().Held) })),
		registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: stoppedMetric, Help: stoppedHelp, ConstLabels: prometheus.Labels{"view": access.Name},
		}, func() float64 { return truth(a.failed() != nil) })),
	)
}
