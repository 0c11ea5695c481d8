package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/console"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/continuity"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/projections/reports"
	"github.com/keyledger/keyledger/projections/snapshot"
	"github.com/keyledger/keyledger/projections/usage"
	"github.com/keyledger/keyledger/relay/erasure"
	"github.com/keyledger/keyledger/relay/expiry"
	keeper "github.com/keyledger/keyledger/relay/retention"
	"github.com/keyledger/keyledger/relay/signals"
	"github.com/keyledger/keyledger/relay/snapshots"
	"github.com/keyledger/keyledger/relay/ticks"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// How long the parts of a stop may take.
const (
	drainRequests = 20 * time.Second
	drainUses     = 20 * time.Second
	drainNotes    = 5 * time.Second
)

// parts are a server's parts, in the order in which they start.
type parts struct {
	ledger        opened
	continuity    *continuity.View
	index         *index.Index
	configuration *commands.Configuration
	catalog       *catalog.Catalog
	audit         *audit.Log
	usage         *usage.View
	reports       *reports.Reports
	// subjects seal texts and open them.
	subjects *seals.Subjects

	access accessParts
	fleet  fleetParts
	// started is when this server did.
	started events.Time

	// memory feeds the index, the configuration and the count of both: what
	// verdicts and decisions rest on moves together.
	memory, catalogs, audits *projections.Runner
	uses                     *usesRunner
	ticks                    *ticks.Ticker
	expiry                   *expiry.Keeper
	signals                  *signals.Keeper
	erasure                  *erasure.Keeper
	retention                *keeper.Keeper
	providerKeepers          providerKeepers
	// barrier leaves room between memory's slices for pictures; snapshots is nil when
	// none are kept.
	barrier   *snapshot.Barrier
	snapshots *snapshots.Keeper
	// caughtUp is closed when memory has caught up.
	caughtUp chan struct{}
	service  *commands.Service

	sealer   *useSealer
	recorder *recording.Recorder
	verifier *verify.Verifier
	front    *api.Server
	gateways gateways
	log      *slog.Logger
	// addresses are told when the server answers.
	addresses string
}

// assemble opens the views and puts the parts together. Nothing runs yet.
func assemble(ctx context.Context, cfg Config, ledger opened) (*parts, error) {
	p := &parts{
		ledger: ledger, configuration: commands.NewConfiguration(), log: cfg.Logger, caughtUp: make(chan struct{}),
		started:  events.TimeOf(time.Now()),
		subjects: seals.NewSubjects(ledger.keys, ledger, ledger.positions.Ledger),
	}
	if err := p.openViews(ctx, cfg); err != nil {
		return nil, errors.Join(err, p.close())
	}
	if err := p.connect(cfg); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *parts) openViews(ctx context.Context, cfg Config) error {
	var err error
	if p.continuity, err = continuity.New(continuity.Config{Ledger: p.ledger.positions.Ledger, Logger: cfg.Logger}); err != nil {
		return err
	}
	if p.index, err = index.New(index.Config{Logger: cfg.Logger}); err != nil {
		return err
	}
	usagePath := filepath.Join(cfg.Data, "usage.db")
	if p.usage, err = usage.Open(ctx, usage.Config{Path: usagePath, Of: p.ledger.positions, Blocks: p.ledger, Logger: cfg.Logger}); err != nil {
		return err
	}
	p.catalog, err = catalog.Open(ctx, catalog.Config{
		Path: filepath.Join(cfg.Data, "catalog.db"), Of: p.ledger.positions, UsagePath: usagePath, Logger: cfg.Logger,
	})
	if err != nil {
		return err
	}
	p.audit, err = audit.Open(ctx, audit.Config{Path: filepath.Join(cfg.Data, "audit.db"), Of: p.ledger.positions, Logger: cfg.Logger})
	if err != nil {
		return err
	}
	if err := p.openAccess(ctx, cfg); err != nil {
		return err
	}
	return p.openReports(ctx, cfg)
}

// connect makes what runs and what answers.
func (p *parts) connect(cfg Config) error {
	err := errors.Join(p.makeErasure(cfg), p.makeRetention(cfg), p.makeDataKeys(cfg), p.makeFleet(cfg))
	if err != nil {
		return err
	}
	// What the index tells of, the configuration knows: whether a use's texts
	// are sealed is read there. What announces revocations comes after what denies.
	first := append([]projections.View{p.continuity, p.erasure, p.retention}, p.providerKeepers.views()...)
	p.barrier = snapshot.NewBarrier(projections.Together("index", append(first, p.configuration, p.fleet.view, p.index, p.fleet.announcer.View(0))...))
	for _, r := range []struct {
		runner **projections.Runner
		view   projections.View
		proven func() (events.Time, bool)
	}{
		{&p.memory, p.barrier, p.continuity.Proven},
		{&p.catalogs, p.catalog, nil},
		{&p.audits, p.audit, nil},
	} {
		if *r.runner, err = projections.NewRunner(projections.Config{
			Source: p.ledger.views, View: r.view, Proven: r.proven, Logger: cfg.Logger,
		}); err != nil {
			return err
		}
	}
	if err := errors.Join(p.makeTicks(cfg), p.makeSnapshots(cfg)); err != nil {
		return err
	}
	p.uses = &usesRunner{ledger: p.ledger.views, view: p.usage, told: p.retention.Told(), log: cfg.Logger}
	p.sealer = p.newUseSealer()
	p.recorder, err = recording.New(recording.Config{
		Ledger: p.ledger.positions.Ledger, Verifier: p.ledger.name, Sink: p.ledger, Sealer: p.sealer, Logger: cfg.Logger,
	})
	if err != nil {
		return err
	}
	p.verifier, err = verify.New(verify.Config{
		Index: p.index, Recorder: p.recorder, Fresh: p.known, WaitFor: p.memory.WaitFor,
		Missed: api.Missed(p.access.gatherer),
	})
	if err != nil {
		return err
	}
	p.service, err = commands.New(commands.Config{
		Log: p.ledger, Ledger: p.ledger.positions.Ledger, Configuration: p.configuration,
		Label: p.ledger.keys.Label, Subjects: p.subjects, Holders: p.holders, Taken: p.index.Taken, Await: p.await, Logger: cfg.Logger,
		UsesRetention: cfg.UsesRetention, Envelopes: p.ledger.envelopes,
	})
	if err != nil {
		return err
	}
	if err := p.makeExpiry(cfg, p.service); err != nil {
		return err
	}
	if err := errors.Join(p.makeSignals(cfg, p.service), p.makeProviderSignals(cfg, p.service)); err != nil {
		return err
	}
	return p.offer(cfg, p.service)
}

// offer makes the API.
func (p *parts) offer(cfg Config, service *commands.Service) error {
	registry := prometheus.NewRegistry()
	if err := p.register(registry); err != nil {
		return err
	}
	start, err := console.New(cfg.Version)
	if err != nil {
		return err
	}
	asked, err := p.openProviders(cfg)
	if err != nil {
		return err
	}
	p.front, err = api.New(api.Config{
		Commands: service, Configuration: p.configuration,
		Catalog: p.catalog, WaitForCatalog: p.catalogs.WaitFor,
		Audit: p.audit, WaitForAudit: p.audits.WaitFor, Last: p.ledger.Last, Reports: p.reports, Usage: p.usage, UsesRead: p.uses.read,
		Accesses: p.access.gatherer, AccessLog: p.access.view,
		Fleet: p.fleet.view, FleetRead: p.fleet.heard.Load, LastUses: p.ledger.LastUses,
		Verifier: p.verifier, Positions: p.ledger.positions, Checks: p.checks(),
		Metrics: registry, Logger: cfg.Logger, Version: cfg.Version, Console: start,
		RecordClientIP: cfg.RecordClientIP, Unseal: p.subjects.Open, Providers: asked,
	})
	return err
}

// holders lists who holds a place as of the ledger's end.
func (p *parts) holders(ctx context.Context, org events.OrgID) ([]events.KeyID, error) {
	last, err := p.ledger.Last(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.catalogs.WaitFor(ctx, last); err != nil {
		return nil, err
	}
	return p.catalog.Holders(ctx, org, events.TimeOf(time.Now()))
}

// awaitOwn bounds how long an answered change waits for this server's own index.
const awaitOwn = 5 * time.Second

func (p *parts) await(ctx context.Context, pos events.Position) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), awaitOwn)
	defer cancel()
	return p.memory.WaitFor(ctx, pos)
}

// checks say by name why the server is not ready. The reasons are open to
// everybody: subjects and positions go to the log.
func (p *parts) checks() map[string]func() error {
	return map[string]func() error{
		"broker": func() error {
			if !p.ledger.connected() {
				return &api.Failing{Reason: "no broker is connected: nothing can be changed"}
			}
			return nil
		},
		"index":   check(p.memory),
		"catalog": check(p.catalogs),
		"audit":   check(p.audits),
		"usage": func() error {
			return failing("the view has stopped", p.uses.failed())
		},
		"access": func() error {
			return failing("the view has stopped", p.access.failed())
		},
		"fleet": func() error {
			return failing("the view has stopped", p.fleet.failed())
		},
		"problems": func() error {
			return failing("events could not be applied; their keys are UNAVAILABLE", p.index.Err())
		},
		"fresh": p.fresh,
		"ticks": p.agrees,
		"configuration": func() error {
			if n := p.configuration.Faults(); n > 0 {
				return &api.Failing{Reason: fmt.Sprintf("%d events about organizations could not be applied", n)}
			}
			return nil
		},
	}
}

// failing gives an error a reason that everybody may read.
func failing(reason string, err error) error {
	if err == nil {
		return nil
	}
	return &api.Failing{Reason: reason, Err: err}
}

func check(r *projections.Runner) func() error {
	return func() error {
		s := r.Status()
		switch s.State {
		case projections.StateLive:
			return nil
		case projections.StateStopped:
			return failing("the view has stopped", fmt.Errorf("view %s has stopped at position %d: %w", s.View, s.Applied, s.Err))
		default:
			reason := "the view is " + s.State.String()
			if s.Goal > 0 {
				reason = fmt.Sprintf("%s, %d %% done", reason, min(s.Applied, s.Goal)*100/s.Goal)
			}
			return &api.Failing{Reason: reason}
		}
	}
}

// register registers what /metrics shows beside the API's own.
func (p *parts) register(registry *prometheus.Registry) error {
	faults := []error{
		registry.Register(collectors.NewGoCollector()),
		registry.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})),
		p.registerFreshness(registry),
		p.registerExpiry(registry),
		p.registerSignals(registry),
		p.access.register(registry),
		p.fleet.register(registry),
		p.registerErasure(registry),
		p.registerProviderKeepers(registry),
		p.registerRetention(registry),
		p.registerSnapshots(registry),
	}
	gauge := func(name, help string, labels prometheus.Labels, f func() float64) {
		faults = append(faults, registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, f)))
	}
	// Whoever scrapes must not be able to keep the broker busy.
	last := &remembered{ask: func() (uint64, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		pos, err := p.ledger.Last(ctx)
		return uint64(pos), err
	}}
	for _, r := range []*projections.Runner{p.memory, p.catalogs, p.audits} {
		gauge("keyledger_projection_lag_events", "Events that a view has not applied yet.", prometheus.Labels{"view": r.Status().View}, func() float64 {
			head, err := last.get()
			if err != nil {
				return -1
			}
			return float64(head - min(uint64(r.Applied()), head))
		})
		gauge("keyledger_projection_lag_seconds", "Time since a view was last known to hold every event.", prometheus.Labels{"view": r.Status().View}, func() float64 {
			if fresh := r.Fresh(); !fresh.IsZero() {
				return time.Since(fresh).Seconds()
			}
			return -1
		})
	}
	usageLag := &remembered{ask: func() (uint64, error) { return p.uses.lag(context.Background()) }}
	gauge("keyledger_projection_lag_events", "Events that a view has not applied yet.", prometheus.Labels{"view": "usage"}, func() float64 {
		lag, err := usageLag.get()
		if err != nil {
			return -1
		}
		return float64(lag)
	})
	for _, r := range []*projections.Runner{p.memory, p.catalogs, p.audits} {
		gauge(stoppedMetric, stoppedHelp, prometheus.Labels{"view": r.Status().View}, func() float64 {
			return truth(r.Status().State == projections.StateStopped)
		})
	}
	gauge(stoppedMetric, stoppedHelp, prometheus.Labels{"view": p.usage.Name()}, func() float64 { return truth(p.uses.failed() != nil) })
	for _, t := range index.Troubles() {
		faults = append(faults, registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "keyledger_index_problems_total", Help: "Events that the verification index could not apply, by what was wrong with them.",
			ConstLabels: prometheus.Labels{"trouble": t.String()},
		}, func() float64 { return float64(p.index.Count(t)) })))
	}
	gauge("keyledger_configuration_faults", "Events about organizations that could not be applied to what changes are decided on.", nil,
		func() float64 { return float64(p.configuration.Faults()) })
	gauge("keyledger_index_keys", "Keys in the verification index.", nil, func() float64 { return float64(p.index.Len()) })
	gauge("keyledger_uses_backlog", "Uses that are recorded and not yet stored.", nil, func() float64 { return float64(p.recorder.Stats().Backlog) })
	faults = append(faults, registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "keyledger_uses_texts_left_out_total", Help: "Uses that were recorded without their texts, because these could not be sealed in time.",
	}, func() float64 { return float64(p.sealer.leftOut.Load()) })))
	for _, code := range []events.Code{events.CodeMalformed, events.CodeNotFound} {
		faults = append(faults, registry.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "keyledger_verify_misses_total", Help: "Verdicts about secrets that match no key; they are counted and not recorded.",
			ConstLabels: prometheus.Labels{"code": code.String()},
		}, func() float64 { return float64(p.verifier.Unrecorded(code)) })))
	}
	return errors.Join(faults...)
}

const (
	stoppedMetric = "keyledger_view_stopped"
	stoppedHelp   = "1 when a view has stopped for good: over an event that it cannot apply, or a ledger that is corrupt."
)

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// serve runs all parts until the context ends, and stops them in order.
func (p *parts) serve(ctx context.Context, cfg Config, listener net.Listener) error {
	// The views outlive the listener, and the recorder's end.
	running, stopViews := context.WithCancel(context.WithoutCancel(ctx))
	var views sync.WaitGroup
	for _, r := range []*projections.Runner{p.memory, p.catalogs, p.audits} {
		// A view that stops says so by itself, in the log and in readiness.
		views.Go(func() { _ = r.Run(running) })
	}
	views.Go(func() { p.uses.run(running) })
	views.Go(func() { p.ticks.Run(running) })
	views.Go(func() { p.keepExpiry(running) })
	views.Go(func() { p.signals.Run(running) })
	views.Go(func() { p.access.follow(running) })
	views.Go(func() { p.fleet.follow(running) })
	views.Go(func() { p.fleet.measure(running) })
	views.Go(func() { p.erasure.Run(running) })
	views.Go(func() { p.providerKeepers.keepDataKeys(running) })
	views.Go(func() { p.providerKeepers.signals.Run(running) })
	views.Go(func() { p.keepRetention(running) })
	views.Go(func() { p.keepSnapshots(running) })
	defer func() {
		stopViews()
		views.Wait()
		if err := p.close(); err != nil {
			p.log.Error("close views", "error", err)
		}
	}()
	if err := p.recorder.Start(ctx); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	p.access.gatherer.Start()
	// Its last word comes when all is stored.
	defer p.fleet.announce(ctx)()
	views.Go(func() { p.uses.tellUnended(running, p.ledger.name) })
	err := p.answer(ctx, cfg, listener)
	noting, stopNoting := context.WithTimeout(context.WithoutCancel(ctx), drainNotes)
	p.front.Close(noting)
	stopNoting()
	p.verifier.Close()
	err = errors.Join(err, p.access.drain(ctx))
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainUses)
	defer cancel()
	return errors.Join(err, p.recorder.Close(drain))
}

// answer serves HTTP until the context ends, and answers what it has taken.
func (p *parts) answer(ctx context.Context, cfg Config, listener net.Listener) error {
	// Requests outlive the signal to stop: they end when they are answered, or
	// cut off.
	open, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	server := &http.Server{
		Handler: p.front.Handler(), ReadHeaderTimeout: api.ReadHeaderTimeout, ReadTimeout: api.ReadTimeout,
		WriteTimeout: api.WriteTimeout, IdleTimeout: api.IdleTimeout, MaxHeaderBytes: api.MaxHeaderBytes,
		BaseContext: func(net.Listener) context.Context { return open },
		ErrorLog:    slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	// Streams have no end of their own.
	server.RegisterOnShutdown(p.front.EndStreams)
	ended := make(chan error, 2)
	go func() { ended <- server.Serve(listener) }()
	p.gateways.serve(ended)
	var announcing sync.WaitGroup
	starting, settled := context.WithCancel(ctx)
	defer settled()
	announcing.Go(func() {
		if !p.ready(starting) {
			return
		}
		// It said before that it is not.
		p.fleet.announcer.Soon()
		if cfg.Ready != nil {
			cfg.Ready(reach(cfg, listener))
		}
		if cfg.Out != nil {
			fmt.Fprintf(cfg.Out, "ready %s\n", p.addresses)
		}
	})
	var err error
	select {
	case err = <-ended:
		err = fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
		p.log.Info("stopping: open requests are answered first")
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainRequests)
	defer cancel()
	var others sync.WaitGroup
	others.Go(func() { p.gateways.stop(drain) })
	if shutdown := server.Shutdown(drain); shutdown != nil {
		p.log.Warn("requests were cut off", "error", shutdown)
		_ = server.Close()
	}
	others.Wait()
	// Of a server that could not serve nobody else would end this.
	settled()
	announcing.Wait()
	return err
}

// ready returns true once the views hold all that the ledger held at the start
// and the index is proven fresh: before that, verdicts are STALE. A view of SQL
// that has stopped is not waited for: it would be for ever, and whoever starts
// the program again for it would only lose the verdicts, too. Readiness, the
// log and the metrics name it.
func (p *parts) ready(ctx context.Context) bool {
	arrived := func(r *projections.Runner) bool {
		select {
		case <-r.Ready():
			return true
		default:
			return r.Status().State == projections.StateStopped
		}
	}
	for !arrived(p.catalogs) || !arrived(p.audits) || p.memory.Fresh().IsZero() || p.verifier.Stale() {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// close closes the views' files.
func (p *parts) close() error {
	faults := []error{p.access.close()}
	if p.reports != nil {
		faults = append(faults, p.reports.Close())
	}
	if p.catalog != nil {
		faults = append(faults, p.catalog.Close())
	}
	if p.audit != nil {
		faults = append(faults, p.audit.Close())
	}
	if p.usage != nil {
		faults = append(faults, p.usage.Close())
	}
	return errors.Join(faults...)
}
