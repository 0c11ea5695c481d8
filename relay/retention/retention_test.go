package retention_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/installation"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/sqlview"
	"github.com/keyledger/keyledger/projections/usage"
	"github.com/keyledger/keyledger/relay/retention"
)

var _ projections.View = (*retention.Keeper)(nil)

const (
	acme, beta = events.OrgID("acme"), events.OrgID("beta")
	day        = 24 * time.Hour
	// every is how often the keepers look: days go by here, and each look costs
	// processor time.
	every = time.Hour
)

var ledgerID = events.LedgerID{1}

// ledger is in memory, or a broker's.
type ledger interface {
	commands.Log
	projections.Source
	retention.Stream
	usage.BlockReader
	PublishUses(context.Context, []events.UsesMessage) error
	FollowUses(context.Context, events.Position, func([]events.UsesMessage) error) error
}

// world is a ledger with any number of servers on it.
type world struct {
	testing.TB
	log ledger
	dir string
	enc *uses.Encoder
	// ahead is how far the keepers' clock is ahead of the uses.
	ahead atomic.Int64
	// keep is how many days an organization's uses are kept, 0 for all.
	keep sync.Map

	files int
	last  map[events.OrgID]uint64
	// recorded is what was: what the facts must come to.
	recorded map[events.OrgID]map[events.UsesDay]uint64
}

func newWorld(t testing.TB, dir string, log ledger) *world {
	t.Helper()
	enc, err := uses.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	secret, err := commands.NewOwner()
	if err == nil {
		err = commands.Begin(t.Context(), log, ledgerID, secret, installation.Signer{Name: "log", VerifierKey: "log+0+0"}, time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, log: log, dir: dir, enc: enc, last: map[events.OrgID]uint64{}, recorded: map[events.OrgID]map[events.UsesDay]uint64{}}
	h := uses.Header{Kind: uses.KindBoot, Ledger: ledgerID, Org: events.System, Verifier: "edge", Boot: uses.BootID{6: 0x70, 15: 1}, From: w.at(0), Bound: 1 << 20}
	w.publish(w.enc.Mark(h))
	return w
}

func (w *world) at(ago time.Duration) events.Time { return events.TimeOf(time.Now().Add(-ago)) }

func (w *world) publish(m events.UsesMessage, err error) {
	w.Helper()
	if err == nil {
		err = w.log.PublishUses(w.Context(), []events.UsesMessage{m})
	}
	if err != nil {
		w.Fatal(err)
	}
}

// use records uses of an organization in a block of their own.
func (w *world) use(org events.OrgID, ago time.Duration, codes ...events.Code) {
	w.Helper()
	h := uses.Header{Ledger: ledgerID, Org: org, Verifier: "edge", Boot: uses.BootID{6: 0x70, 15: 1}, First: w.last[org] + 1}
	var list []uses.Use
	for _, code := range codes {
		at := w.at(ago)
		list = append(list, uses.Use{At: at, Key: events.KeyID{6: 0x70, 15: 1}, Code: code})
		if w.recorded[org] == nil {
			w.recorded[org] = map[events.UsesDay]uint64{}
		}
		w.recorded[org][events.UsesDay{Day: at - at%events.Time(day/time.Microsecond), Code: code.String()}]++
	}
	w.last[org] += uint64(len(list))
	blocks, err := w.enc.Encode(h, list)
	if err != nil || len(blocks) != 1 {
		w.Fatal(len(blocks), err)
	}
	w.publish(blocks[0], nil)
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }

// server is one with a view of uses and a keeper of its own.
type server struct {
	*commands.Service
	usage  *usage.View
	runner *projections.Runner
	keeper *retention.Keeper
	stop   func()
}

func (w *world) server(change func(*retention.Config)) *server {
	w.Helper()
	w.files++
	s := &server{}
	quiet := slog.New(slog.DiscardHandler)
	var err error
	s.usage, err = usage.Open(w.Context(), usage.Config{
		Path: filepath.Join(w.dir, fmt.Sprint(w.files, ".db")), Of: events.Positions{Ledger: ledgerID, Epoch: 1}, Blocks: w.log,
	})
	if err != nil {
		w.Fatal(err)
	}
	configuration, ready := commands.NewConfiguration(), make(chan struct{})
	cfg := retention.Config{
		Every: every, Usage: s.usage, Ready: ready, Stale: func() bool { return false }, Stream: w.log, Now: w.now, Logger: quiet,
		Before: func(org events.OrgID, now events.Time) events.Time {
			days, ok := w.keep.Load(org)
			if !ok {
				return 0
			}
			from := events.TimeOf(now.Std().Add(-time.Duration(days.(int)) * day))
			return from - from%events.Time(day/time.Microsecond)
		},
		Dropped: func(ctx context.Context, org events.OrgID) (usage.DroppedUses, error) {
			state, err := s.DroppedUses(ctx, org)
			return usage.DroppedUses{Before: state.Before, Through: state.Through, Days: state.Days()}, err
		},
		DropUses: func(ctx context.Context, org events.OrgID, before events.Time, through events.Position, days []events.UsesDay) (bool, error) {
			out, err := s.DropUses(ctx, org, before, through, days)
			return len(out.Facts) > 0, err
		},
		DropBlocks: func(ctx context.Context, stored events.Time, through events.Position, blocks uint64, days []events.UsesDay) (bool, error) {
			out, err := s.DropBlocks(ctx, stored, through, blocks, days)
			return len(out.Facts) > 0, err
		},
	}
	if change != nil {
		change(&cfg)
	}
	if s.keeper, err = retention.New(cfg); err != nil {
		w.Fatal(err)
	}
	s.runner, err = projections.NewRunner(projections.Config{Source: w.log, View: projections.Together("all", s.keeper, configuration), Logger: quiet})
	if err != nil {
		w.Fatal(err)
	}
	s.Service, err = commands.New(commands.Config{
		Log: w.log, Ledger: ledgerID, Configuration: configuration, Await: s.runner.WaitFor, Logger: quiet,
		Holders: func(context.Context, events.OrgID) ([]events.KeyID, error) { return nil, nil },
	})
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.Context()))
	var running sync.WaitGroup
	running.Go(func() { _ = s.runner.Run(ctx) })
	<-s.runner.Ready()
	close(ready)
	running.Go(func() { s.keeper.Run(ctx) })
	running.Go(func() {
		select {
		case <-s.keeper.Told():
			_ = w.log.FollowUses(ctx, 0, func(blocks []events.UsesMessage) error { return s.usage.Apply(ctx, blocks) })
		case <-ctx.Done():
		}
	})
	s.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		if err := s.usage.Close(); err != nil {
			w.Error(err)
		}
	})
	return s
}

// facts are those that say what was dropped.
func (w *world) facts(at events.Subject) []events.UsesDropped {
	w.Helper()
	list, err := w.log.Load(w.Context(), at, 0)
	if err != nil {
		w.Fatal(err)
	}
	var out []events.UsesDropped
	for _, f := range list {
		out = append(out, f.Event.(events.UsesDropped))
	}
	return out
}

func (w *world) first() events.Position {
	w.Helper()
	first, err := w.log.FirstUses(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	return first
}

// eventually waits for a while.
func (w *world) eventually(what string, is func() bool) {
	w.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("%s: it did not come", what)
		}
	}
}

// counted checks that facts count what was recorded of an organization before a time.
func (w *world) counted(facts []events.UsesDropped, before events.Time, orgs ...events.OrgID) {
	w.Helper()
	want, got := map[events.UsesDay]uint64{}, map[events.UsesDay]uint64{}
	for _, org := range orgs {
		for d, n := range w.recorded[org] {
			if d.Day < before {
				want[d] += n
			}
		}
	}
	for _, f := range facts {
		for _, d := range f.Days {
			got[events.UsesDay{Day: d.Day, Code: d.Code}] += d.Uses
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.Error(diff)
	}
}

// days are an organization's counts by day.
func (s *server) days(t testing.TB, org events.OrgID) []usage.Count {
	t.Helper()
	list, _, err := s.usage.Counts(t.Context(), usage.CountFilter{Org: org, Unit: usage.ByDay, Page: sqlview.Page{Limit: 200}})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func (s *server) told(t testing.TB, org events.OrgID) int {
	t.Helper()
	list, _, err := s.usage.Uses(t.Context(), usage.Filter{Org: org, Page: sqlview.Page{Limit: 200}})
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestRetention: an organization's days are dropped once, by one of several servers,
// with the counts of what was recorded. The stream begins later when nobody's uses
// at its beginning are kept any more.
//
// Breaking it: the organization's own retention is not looked at, a server does not
// expect what it decided on, the stream is cut where another's uses stand.
func TestRetention(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir, memory.New(ledgerID))
		w.keep.Store(acme, 2)
		w.keep.Store(beta, 5)
		var servers []*server
		for range 2 {
			servers = append(servers, w.server(nil))
			defer servers[len(servers)-1].stop()
		}
		w.use(acme, 0, 1, 1, 4) // at 2, behind the boot's mark
		w.use(acme, 0, 1)
		w.use(beta, 0, 1, 7) // at 4
		time.Sleep(26 * time.Hour)
		w.use(acme, time.Minute, 1, 1)
		w.use(acme, 25*time.Hour, 1) // late
		time.Sleep(21 * time.Hour)
		if w.facts(events.RetentionSubject(acme)) != nil || w.first() != 1 {
			t.Fatal("dropped before its time")
		}
		time.Sleep(26 * time.Hour) // now it is 3 days
		facts := w.facts(events.RetentionSubject(acme))
		if len(facts) != 1 || facts[0].Through != 6 {
			t.Fatalf("%+v", facts)
		}
		midnight := facts[0].Before
		w.counted(facts, midnight, acme)
		for _, s := range servers {
			if n := s.told(t, acme); n != 2 {
				t.Errorf("%d uses are told", n)
			}
			if n := s.told(t, beta); n != 2 {
				t.Errorf("%d uses of another are told", n)
			}
		}
		// The stream's beginning goes: what is behind it is kept by somebody.
		if got := w.facts(events.StreamRetentionSubject()); len(got) != 1 || got[0].Through != 3 || got[0].Blocks != 3 || w.first() != 4 {
			t.Fatalf("%+v, it begins with %d", got, w.first())
		}
		w.use(acme, 3*day, 4, 4) // late, of a day that was dropped
		time.Sleep(4 * day)
		if facts = w.facts(events.RetentionSubject(acme)); len(facts) != 2 {
			t.Fatalf("%+v", facts)
		}
		w.counted(facts, facts[1].Before, acme)
		w.counted(w.facts(events.RetentionSubject(beta)), facts[1].Before, beta)
		if got := w.facts(events.StreamRetentionSubject()); w.first() != 8 || got[len(got)-1].Through != 7 {
			t.Errorf("it begins with %d: %+v", w.first(), got)
		}
		w.counted(w.facts(events.StreamRetentionSubject()), facts[1].Before, acme, beta)
		after := servers[1].days(t, acme)
		total := map[events.UsesDay]uint64{}
		for _, c := range after {
			total[events.UsesDay{Day: c.At, Code: c.Code.String()}] = c.Count
		}
		if diff := cmp.Diff(w.recorded[acme], total); diff != "" || servers[0].told(t, acme) != 0 {
			t.Errorf("counts by day: %s", diff)
		}
		fresh := w.server(nil)
		defer fresh.stop()
		time.Sleep(2 * every)
		if diff := cmp.Diff(after, fresh.days(t, acme)); diff != "" {
			t.Errorf("of a view that is made anew: %s", diff)
		}
		var stats retention.Stats
		for _, s := range servers {
			got := s.keeper.Stats()
			stats.Uses, stats.Blocks, stats.Failed = stats.Uses+got.Uses, stats.Blocks+got.Blocks, stats.Failed+got.Failed
		}
		if recorded := uint64(len(w.facts(events.StreamRetentionSubject()))); stats.Uses != 3 || stats.Blocks != recorded || stats.Failed != 0 {
			t.Errorf("%+v", stats)
		}
	})
}

var errDied = errors.New("died")

// dying is a stream that whoever recorded a drop does not come to.
type dying struct{ retention.Stream }

func (dying) DropUses(context.Context, events.Position) error { return errDied }

// TestDiedBetween: whoever records that blocks go and dies leaves them to whoever
// comes next, and nobody removes what the ledger does not say is dropped.
//
// Breaking it: a keeper that has recorded nothing itself removes nothing.
func TestDiedBetween(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir, memory.New(ledgerID))
		w.keep.Store(acme, 1)
		w.use(acme, 0, 1, 1)
		w.use(beta, 0, 1)
		time.Sleep(3 * day)
		s := w.server(func(c *retention.Config) { c.Stream = dying{w.log} })
		defer s.stop()
		time.Sleep(3 * every)
		if got := w.facts(events.StreamRetentionSubject()); len(got) != 1 || got[0].Through != 2 || w.first() != 1 || s.keeper.Stats().Failed == 0 {
			t.Fatalf("%+v, it begins with %d", got, w.first())
		}
		s.stop()
		next := w.server(nil)
		defer next.stop()
		time.Sleep(3 * every)
		if got := next.keeper.Stats(); w.first() != 3 || got != (retention.Stats{Purged: 1}) {
			t.Errorf("it begins with %d: %+v", w.first(), got)
		}
		if len(w.facts(events.StreamRetentionSubject())) != 1 || len(w.facts(events.RetentionSubject(acme))) != 1 {
			t.Error("recorded twice")
		}
	})
}

// A server whose clock or knowledge is wrong drops nothing.
func TestStaleServersDropNothing(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir, memory.New(ledgerID))
		w.keep.Store(acme, 1)
		var stale atomic.Bool
		stale.Store(true)
		s := w.server(func(c *retention.Config) { c.Stale = stale.Load })
		defer s.stop()
		w.use(acme, 0, 1)
		time.Sleep(3 * day)
		if w.facts(events.RetentionSubject(acme)) != nil {
			t.Error("dropped")
		}
		stale.Store(false)
		time.Sleep(3 * every)
		if w.facts(events.RetentionSubject(acme)) == nil {
			t.Error("kept")
		}
	})
}

// TestOnABroker: the same on a broker, with two servers at once.
func TestOnABroker(t *testing.T) {
	b, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	if err := b.Setup(t.Context(), func(c *nats.Conn) error { return jetstream.EnsureStreams(t.Context(), c, 1) }); err != nil {
		t.Fatal(err)
	}
	log, err := jetstream.New(jetstream.Config{Conn: b.Conn(), Ledger: ledgerID, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, t.TempDir(), log)
	w.keep.Store(acme, 30)
	for i := range 100 {
		w.use(acme, time.Duration(i)*time.Hour, 1, 1, 4)
	}
	w.ahead.Store(int64(40 * day))
	w.use(beta, 0, 1)
	one, two := w.server(nil), w.server(nil)
	defer one.stop()
	defer two.stop()
	w.eventually("the stream begins later", func() bool { return w.first() == 102 })
	for _, s := range []*server{one, two} {
		w.eventually("it is told no more", func() bool { return s.told(t, acme) == 0 && s.told(t, beta) == 1 })
	}
	facts := w.facts(events.RetentionSubject(acme))
	if len(facts) != 1 {
		t.Fatalf("%+v", facts)
	}
	w.counted(facts, facts[0].Before, acme)
	stream := w.facts(events.StreamRetentionSubject())
	if len(stream) != 1 || stream[0].Blocks != 101 || one.keeper.Stats().Blocks+two.keeper.Stats().Blocks != 1 {
		t.Errorf("%+v", stream)
	}
	w.counted(stream, facts[0].Before, acme)
	if err := log.CheckStreams(t.Context()); err != nil {
		t.Error(err)
	}
	fresh := w.server(nil)
	defer fresh.stop()
	w.eventually("a new view", func() bool { return fresh.told(t, beta) == 1 })
	if diff := cmp.Diff(one.days(t, acme), fresh.days(t, acme)); diff != "" {
		t.Error(diff)
	}
}
