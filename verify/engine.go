package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/snapshot"
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
	*beginning

	barrier   *snapshot.Barrier
	runner    *projections.Runner
	recorder  *recording.Recorder
	verifier  *Verifier
	announcer *announcing.Announcer
	punctual  *punctuality
	offline   *offline
	saved     saved
	// endings is nil without a folder.
	endings *endings

	// seen is how far an earlier run has come: before that nothing is fresh.
	seen events.Position
	// proved says that the index was proven fresh in this run.
	proved atomic.Bool
	// named is the run as the journal names it, nil if it does not.
	named *boot
	// recording is closed once uses can be recorded.
	recording chan struct{}
	// starting is the beginning of the recording, telling the announcements, and
	// saving the snapshots.
	starting, telling, saving task
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
func (c *Client) assemble(ctx context.Context, info jetstream.ReaderInfo, away bool) (*engine, error) {
	e := &engine{o: c.o, info: info, recording: make(chan struct{})}
	var err error
	if e.orgs, err = organizationsOf(info); err != nil {
		return nil, err
	}
	e.reader, err = jetstream.NewReader(jetstream.ReaderConfig{Conn: c.conn, Name: string(c.o.name), Info: info, Logger: c.o.log})
	if err != nil {
		return nil, err
	}
	if _, err := c.seen(info); err != nil {
		return nil, err
	}
	from := e.reader
	if away {
		from = nil
	}
	if e.beginning, err = c.beginning(ctx, from, c.o.reader(info, e.orgs)); err != nil {
		return nil, err
	}
	if away {
		e.offline = c.unheard(ctx, e)
	}
	if e.seen, err = c.seen(info); err != nil {
		return nil, err
	}
	if c.folder != nil {
		e.endings = endingsOf(c.o.folder, e.position, e.beginning.source != FromReplay, c.o.log)
		e.seen = max(e.seen, e.endings.last())
	}
	e.source = &source{reader: e.reader, narrowed: len(e.orgs) > 0, from: e.position}
	c.o.log.InfoContext(ctx, "verifier begins", "verifier", string(c.o.name), "from", string(e.beginning.source), "position", uint64(e.position))
	return e, errors.Join(c.follow(e), c.answer(e))
}

// unheard begins without the broker, by the snapshot alone: what an earlier run has
// seen to end after it is no more. Where nobody can tell what that was, there is no
// such beginning.
func (c *Client) unheard(ctx context.Context, e *engine) *offline {
	list, err := readEndings(filepath.Join(c.o.folder, endedFile), e.position)
	if err != nil {
		c.o.log.ErrorContext(ctx, "no verdicts are given without the broker: a key may have been revoked since the snapshot", "error", err)
		return nil
	}
	foretell(e.index, list)
	o := newOffline(e.stored, c.o.offlineMax, time.Now())
	if !o.serves(time.Now()) {
		c.o.log.WarnContext(ctx, "the snapshot is too old to give verdicts from: they are STALE until the broker is there", "up_to", e.stored, "max_age", c.o.offlineMax)
	}
	return o
}

// seen is how far an earlier run with the same folder has come. Where that was in
// another ledger, somebody has put this one in its place.
func (c *Client) seen(info jetstream.ReaderInfo) (events.Position, error) {
	if c.folder == nil {
		return 0, nil
	}
	seen, known, err := c.folder.Seen()
	switch {
	case err != nil:
		// The same goes for every snapshot beside it, which is told where those are
		// looked for: everything is replayed.
		return 0, nil //nolint:nilerr // See above.
	case !known:
		return 0, nil
	case seen.Ledger != info.Ledger:
		return 0, fmt.Errorf("%w: the credential shows ledger %s, and the folder %s is of ledger %s; give each a folder of its own",
			snapshot.ErrForeign, info.Ledger, c.o.folder, seen.Ledger)
	}
	return seen.Position, nil
}

// follow makes what moves the index.
func (c *Client) follow(e *engine) error {
	var err error
	e.announcer, err = announcing.New(announcing.Config{
		State: func() presence.Announcement { return c.announcement(e) }, Publish: e.publish, Lease: c.o.lease, Logger: c.o.log,
	})
	if err != nil {
		return err
	}
	e.punctual = &punctuality{live: e.live, through: e.position}
	views := []projections.View{e.continuity, e.index, e.punctual, e.announcer.View(e.position)}
	if e.endings != nil {
		views = append([]projections.View{e.endings}, views...)
	}
	e.barrier = snapshot.NewBarrier(projections.Together("index", views...))
	e.runner, err = projections.NewRunner(projections.Config{
		Source: e.source, View: e.barrier, Proven: e.continuity.Proven, Filtered: len(e.orgs) > 0, Logger: c.o.log,
	})
	return err
}

// answer makes what gives verdicts.
func (c *Client) answer(e *engine) error {
	s := &sink{Sink: e.reader, journal: c.journal, ledger: e.info.Ledger, name: c.o.name, log: c.o.log}
	var err error
	e.recorder, err = recording.New(recording.Config{
		Ledger: e.info.Ledger, Verifier: c.o.name, Sink: s, MaxBuffered: c.o.maxBuffered,
		Durable: c.o.durability == Durable, Sealer: recording.Withhold(e.index.Sealing), Logger: c.o.log,
	})
	if err != nil {
		return err
	}
	s.own = e.recorder.Boot()
	config := Config{
		Index: e.index, Recorder: e.recorder, Fresh: e.fresh, WaitFor: e.runner.WaitFor,
		MaxWait: c.o.maxWait, MaxStaleness: c.o.maxStaleness, ServeStaleNow: e.serves, Missed: c.o.missed,
		Bound: e.bound,
	}
	if c.o.server != nil {
		config.Ask = e.ask
	}
	e.verifier, err = New(config)
	return err
}

// fresh is when the client was last known to hold everything. Before all is read that
// was there at the start, or that an earlier run has seen, it never was: what was
// answered before a restart holds after it. Nor was it before anybody knows of this
// run: a receipt that says who has applied a revocation must count it.
func (e *engine) fresh() time.Time {
	if !e.announced() || !e.source.caughtUp() || e.index.Applied() < e.seen {
		return time.Time{}
	}
	at := e.runner.Fresh()
	if !at.IsZero() && !e.proved.Load() {
		e.proved.Store(true)
	}
	return at
}

// announced reports whether the run has been announced.
func (e *engine) announced() bool { return e.announcer.Stats().Stored > 0 }

// live reports whether what comes now was not there at the start.
func (e *engine) live() bool {
	s := e.runner.Status()
	return s.State == projections.StateLive && s.Applied >= s.Goal && e.source.caughtUp()
}

// bound is what the credential was issued with, 0 if nobody has told: the ledger tells
// who reads all of it, and the broker the others.
func (e *engine) bound() time.Duration {
	if d := e.continuity.Allowed(events.CredentialName(e.o.name)); d > 0 {
		return d
	}
	return e.info.MaxStaleness
}

// serves reports whether verdicts are given past the bound: never before the index
// was proven fresh, except from a snapshot while the broker is away from the
// beginning on.
func (e *engine) serves(now time.Time) bool {
	if e.proved.Load() {
		return e.o.whenStale == Serve
	}
	return e.offline.serves(now)
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
	return events.Positions{Ledger: e.info.Ledger, Epoch: e.continuity.Epoch()}
}

// run starts the parts, which end with the client's context.
func (c *Client) run(ctx context.Context, e *engine) {
	if e.offline != nil {
		c.recordOffline(ctx, e)
	}
	// A view that stops says so by itself, in the log and in the status.
	c.work.Go(func() { _ = e.runner.Run(ctx) })
	e.starting.begin(ctx, &c.work, func(ctx context.Context) { c.record(ctx, e) })
	e.telling.begin(ctx, &c.work, e.announcer.Run)
	e.saving.begin(ctx, &c.work, func(ctx context.Context) { c.save(ctx, e) })
	c.work.Go(func() { c.arrive(ctx, e) })
}

// record begins the recording when the boot mark is stored. Without a broker it has
// begun already.
func (c *Client) record(ctx context.Context, e *engine) {
	if e.named == nil {
		if e.recorder.Start(ctx) == nil {
			close(e.recording)
		}
		return
	}
	select {
	case <-e.recorder.Marked():
		c.forget(ctx, e)
	case <-ctx.Done():
	}
}

// recordOffline begins the recording without a broker, when the run is named in the
// journal.
func (c *Client) recordOffline(ctx context.Context, e *engine) {
	own := boot{Ledger: e.info.Ledger, Verifier: c.o.name, Boot: e.recorder.Boot().String(), Bound: e.recorder.Bound()}
	err := c.journal.add(own)
	if err == nil {
		err = e.recorder.StartLater(ctx)
	}
	if err != nil {
		c.o.log.ErrorContext(ctx, "uses cannot be recorded while the broker is away: verdicts are UNAVAILABLE", "error", err)
		return
	}
	e.named = &own
	close(e.recording)
}

// forget takes the run out of the journal once its mark is stored.
func (c *Client) forget(ctx context.Context, e *engine) {
	if err := c.journal.remove(*e.named); err != nil {
		// Its mark is stored once more by the next run, which changes nothing.
		c.o.log.WarnContext(ctx, "journal of runs", "error", err)
	}
}

// arrive closes Ready when the client can give verdicts.
func (c *Client) arrive(ctx context.Context, e *engine) {
	select {
	case <-e.recording:
	case <-ctx.Done():
		return
	}
	look := time.NewTicker(glance)
	defer look.Stop()
	for e.verifier.Stale() && !e.verifier.Serving() {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
	close(c.ready)
	// Whoever looks at the fleet sees it at once.
	e.announcer.Soon()
}

// shut ends the parts that have something to leave behind.
func (c *Client) shut(ctx context.Context, e *engine) error {
	e.verifier.Close()
	e.saving.end()
	var saving sync.WaitGroup
	saving.Go(func() { c.saveOnce(context.WithoutCancel(ctx), e) })
	defer saving.Wait()
	e.starting.end()
	err := e.recorder.Close(ctx)
	if e.named != nil {
		select {
		case <-e.recorder.Marked():
			c.forget(ctx, e)
		default:
		}
	}
	e.telling.end()
	return errors.Join(err, e.announcer.End(ctx))
}

// announcement is what the client says of itself.
func (c *Client) announcement(e *engine) presence.Announcement {
	s := c.status(e)
	if e.endings != nil {
		// What is announced as applied is not taken back by the next run.
		e.endings.sync()
	}
	said := presence.Announcement{
		Ledger: s.Ledger, Verifier: s.Verifier, Boot: s.Boot, Kind: s.Kind, Version: s.Version, Organizations: e.orgs,
		StartedAt: events.TimeOf(s.StartedAt), Applied: s.Applied, Staleness: s.Staleness.Milliseconds(),
		MaxStaleness: s.MaxStaleness.Milliseconds(), ServesStale: s.WhenStale == Serve,
		// Who starts offline answers by what it holds for so long.
		OfflineStart: c.o.offlineMax.Milliseconds(),
		Ready:        s.Ready && len(s.Failing()) == 0, Recorded: s.Uses.Recorded, Backlog: s.Uses.Backlog,
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
