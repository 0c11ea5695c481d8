package verify

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/continuity"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/verify/announcing"
	"github.com/keyledger/keyledger/verify/recording"
)

// never is the staleness of who was never fresh.
const never = time.Duration(math.MaxInt64)

// engine is what a client runs once it is known what there is to read.
type engine struct {
	o      *options
	info   jetstream.ReaderInfo
	orgs   []events.OrgID
	reader *jetstream.Reader
	source *source

	continuity *continuity.View
	index      *index.Index
	installed  *installed
	runner     *projections.Runner
	recorder   *recording.Recorder
	verifier   *Verifier
	announcer  *announcing.Announcer

	// recording is closed once uses can be recorded.
	recording chan struct{}
	// starting is the beginning of the recording, and telling the announcements.
	starting, telling task
}

// task is something that runs beside the rest until it is ended.
type task struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// begin runs f, which ends with its context.
func (t *task) begin(ctx context.Context, work *sync.WaitGroup, f func(context.Context)) {
	ctx, t.cancel = context.WithCancel(ctx)
	t.done = make(chan struct{})
	work.Go(func() {
		defer close(t.done)
		f(ctx)
	})
}

// end ends it, and waits for that.
func (t *task) end() {
	t.cancel()
	<-t.done
}

// assemble makes the parts. Nothing runs yet but the verifier's clock.
func (c *Client) assemble(_ context.Context, info jetstream.ReaderInfo) (*engine, error) {
	e := &engine{o: c.o, info: info, recording: make(chan struct{}), installed: &installed{}}
	var err error
	if e.orgs, err = organizationsOf(info); err != nil {
		return nil, err
	}
	e.reader, err = jetstream.NewReader(jetstream.ReaderConfig{Conn: c.conn, Name: string(c.o.name), Info: info, Logger: c.o.log})
	if err != nil {
		return nil, err
	}
	e.source = &source{reader: e.reader, narrowed: len(e.orgs) > 0}
	e.continuity, err = continuity.New(continuity.Config{
		Ledger: info.Ledger, Scope: events.ScopeLabel(info.Scope), Organizations: e.orgs, VerifierKeys: c.o.keys, Logger: c.o.log,
	})
	if err != nil {
		return nil, err
	}
	if e.index, err = index.New(index.Config{Logger: c.o.log}); err != nil {
		return nil, err
	}
	e.announcer, err = announcing.New(announcing.Config{
		State: func() presence.Announcement { return c.announcement(e) }, Publish: e.publish, Lease: c.o.lease, Logger: c.o.log,
	})
	if err != nil {
		return nil, err
	}
	e.runner, err = projections.NewRunner(projections.Config{
		Source: e.source, View: projections.Together("index", e.continuity, e.installed, e.index, e.announcer.View(0)),
		Proven: e.continuity.Proven, Filtered: len(e.orgs) > 0, Logger: c.o.log,
	})
	if err != nil {
		return nil, err
	}
	e.recorder, err = recording.New(recording.Config{
		Ledger: info.Ledger, Verifier: c.o.name, Sink: e.reader, MaxBuffered: c.o.maxBuffered,
		Durable: c.o.durability == Durable, Sealer: recording.Withhold(nil), Logger: c.o.log,
	})
	if err != nil {
		return nil, err
	}
	config := Config{
		Index: e.index, Recorder: e.recorder, Fresh: e.fresh, WaitFor: e.runner.WaitFor,
		MaxWait: c.o.maxWait, MaxStaleness: c.o.maxStaleness, ServeStale: c.o.whenStale == Serve, Missed: c.o.missed,
	}
	if c.o.server != nil {
		config.Ask = e.ask
	}
	e.verifier, err = New(config)
	return e, err
}

// fresh is when the client was last known to hold everything. Before all is read that
// was there at the start it never was: what was answered before a restart holds after
// it.
func (e *engine) fresh() time.Time {
	if !e.source.caughtUp() {
		return time.Time{}
	}
	return e.runner.Fresh()
}

// ask has the server answer what is not known here, or all that is STALE if that is
// wanted.
func (e *engine) ask(ctx context.Context, q *Question, d *Decision) bool {
	if !d.Key.IsZero() && e.o.whenStale != Ask {
		return false
	}
	return e.o.server.ask(ctx, q, d, e.positions(), e.orgs)
}

func (e *engine) positions() events.Positions {
	return events.Positions{Ledger: e.info.Ledger, Epoch: e.installed.epoch.Load()}
}

// run starts the parts, which end with the client's context.
func (c *Client) run(ctx context.Context, e *engine) {
	// A view that stops says so by itself, in the log and in the status.
	c.work.Go(func() { _ = e.runner.Run(ctx) })
	e.starting.begin(ctx, &c.work, func(ctx context.Context) {
		if e.recorder.Start(ctx) == nil {
			close(e.recording)
		}
	})
	e.telling.begin(ctx, &c.work, e.announcer.Run)
	c.work.Go(func() { c.arrive(ctx, e) })
}

// arrive closes Ready when the client can give verdicts.
func (c *Client) arrive(ctx context.Context, e *engine) {
	for _, first := range []<-chan struct{}{e.runner.Ready(), e.recording} {
		select {
		case <-first:
		case <-ctx.Done():
			return
		}
	}
	look := time.NewTicker(glance)
	defer look.Stop()
	for e.verifier.Stale() {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
	close(c.ready)
}

// close ends the parts that have something to leave behind.
func (e *engine) close(ctx context.Context) error {
	e.verifier.Close()
	e.starting.end()
	err := e.recorder.Close(ctx)
	e.telling.end()
	return errors.Join(err, e.announcer.End(ctx))
}

// announcement is what the client says of itself.
func (c *Client) announcement(e *engine) presence.Announcement {
	s := c.status(e)
	said := presence.Announcement{
		Ledger: s.Ledger, Verifier: s.Verifier, Boot: s.Boot, Kind: s.Kind, Version: s.Version, Organizations: e.orgs,
		StartedAt: events.TimeOf(s.StartedAt), Applied: s.Applied, Staleness: s.Staleness.Milliseconds(),
		// Who starts offline answers by what it holds for so long.
		MaxStaleness: max(s.MaxStaleness, c.o.offlineMax).Milliseconds(), ServesStale: s.WhenStale == Serve,
		Ready: s.Ready && len(s.Failing()) == 0, Recorded: s.Uses.Recorded, Backlog: s.Uses.Backlog,
		StoredThrough: s.StoredThrough, Misses: s.Misses,
	}
	if s.Staleness < 0 {
		said.Staleness = -1
	}
	return said
}

// publish stores an announcement.
func (e *engine) publish(ctx context.Context, said presence.Announcement) error {
	m, err := presence.Encode(&said)
	if err != nil {
		return err
	}
	return e.reader.PublishPresence(ctx, m)
}

// installed notes which epoch of the ledger this is.
type installed struct {
	through atomic.Uint64
	epoch   atomic.Uint32
}

func (i *installed) Name() string { return "installation" }

func (i *installed) Position(context.Context) (events.Position, error) {
	return events.Position(i.through.Load()), nil
}

func (i *installed) Apply(_ context.Context, facts []events.Recorded) error {
	for j := range facts {
		if e, ok := facts[j].Event.(events.InstallationCreated); ok && facts[j].Subject == events.InstallationSubject() {
			i.epoch.CompareAndSwap(0, e.Epoch)
		}
	}
	i.through.Store(uint64(facts[len(facts)-1].Position))
	return nil
}
