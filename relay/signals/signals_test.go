package signals_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/installation"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/usage"
	"github.com/keyledger/keyledger/relay/signals"
)

const acme = events.OrgID("acme")

// world is a ledger in memory with any number of servers on it, and one verifier.
type world struct {
	testing.TB
	log   *memory.Ledger
	owner commands.Wish
	hands *server
	enc   *uses.Encoder
	next  uint64
}

func newWorld(t testing.TB) *world {
	t.Helper()
	id := events.LedgerID{1}
	w := &world{TB: t, log: memory.New(id)}
	secret, err := commands.NewOwner()
	if err == nil {
		err = commands.Begin(t.Context(), w.log, id, secret, installation.Signer{Name: "log", VerifierKey: "log+0+0"}, time.Now())
	}
	if err == nil {
		w.enc, err = uses.NewEncoder()
	}
	if err != nil {
		t.Fatal(err)
	}
	w.owner = commands.Wish{Principal: commands.Principal{
		Actor: events.Actor{Type: events.ActorKey, Org: events.System, Key: events.KeyID{1}}, Org: events.System,
		Role: events.RoleOwner, Scope: events.Scope{AllWorkspaces: true},
	}}
	w.hands = w.server(nil)
	if _, err := w.hands.CreateOrganization(t.Context(), w.owner, organization.Create{ID: acme, Name: events.ClearText("Acme")}); err != nil {
		t.Fatal(err)
	}
	return w
}

// server is one with a view of uses and a keeper of its own.
type server struct {
	*commands.Service
	configuration *commands.Configuration
	view          *usage.View
	keeper        *signals.Keeper
	stop          func()
	loads         atomic.Int64
}

// log counts how often the ledger is asked.
type log struct {
	*memory.Ledger
	s *server
}

func (l log) Load(ctx context.Context, subject events.Subject, after events.Position) ([]events.Recorded, error) {
	l.s.loads.Add(1)
	return l.Ledger.Load(ctx, subject, after)
}

// server starts one. change changes its keeper's configuration; nil is none.
func (w *world) server(change func(*signals.Config)) *server {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &server{configuration: commands.NewConfiguration()}
	var err error
	s.Service, err = commands.New(commands.Config{
		Log: log{w.log, s}, Ledger: events.LedgerID{1}, Configuration: s.configuration, Logger: slog.New(slog.DiscardHandler),
		Holders: func(context.Context, events.OrgID) ([]events.KeyID, error) { return nil, nil },
		Await: func(ctx context.Context, pos events.Position) error {
			for {
				if at, _ := s.configuration.Position(ctx); at >= pos {
					return nil
				}
				time.Sleep(time.Millisecond)
			}
		},
		Label: func(parts ...string) ([32]byte, error) {
			mac := hmac.New(sha256.New, []byte("secret"))
			fmt.Fprintf(mac, "%q", parts)
			return [32]byte(mac.Sum(nil)), nil
		},
	})
	if err != nil {
		w.Fatal(err)
	}
	s.view, err = usage.Open(ctx, usage.Config{Path: filepath.Join(w.TempDir(), "usage.db"), Of: events.Positions{Ledger: events.LedgerID{1}, Epoch: 1}})
	if err != nil {
		w.Fatal(err)
	}
	ready := make(chan struct{})
	cfg := signals.Config{
		Usage: s.view, Ready: ready, Logger: slog.New(slog.DiscardHandler),
		Wanted: func(org events.OrgID) signals.Wanted {
			config, _ := s.configuration.Of(org)
			return signals.Wanted{Sources: true, Spike: key.SpikeThreshold(config.Organization.Policy.Signals)}
		},
		NoteSource: func(ctx context.Context, src usage.Source) (signals.Outcome, error) {
			out, err := s.NoteSource(ctx, src.Org, src.Key, commands.Seen{At: src.FirstAt, Code: src.FirstCode, Verifier: src.FirstVerifier, By: src.Kind, Source: src.Source})
			return signals.Outcome{Recorded: len(out.Facts) > 0 && !out.Replayed}, err
		},
		NoteSpike: func(ctx context.Context, d usage.Denials) (signals.Outcome, error) {
			out, next, err := s.NoteSpike(ctx, d.Org, d.Key, d.From, d.Count)
			return signals.Outcome{Recorded: len(out.Facts) > 0 && !out.Replayed, Next: next}, err
		},
	}
	if change != nil {
		change(&cfg)
	}
	if s.keeper, err = signals.New(cfg); err != nil {
		w.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = w.log.Follow(ctx, 0, func(facts []events.Recorded) error { return s.configuration.Apply(ctx, facts) })
	})
	wg.Go(func() {
		if err := w.log.FollowUses(ctx, 0, func(blocks []uses.Message) error { return s.view.Apply(ctx, blocks) }); ctx.Err() == nil {
			w.Error(err)
		}
	})
	if w.hands != nil { // people's wishes come from a server that tells nothing
		wg.Go(func() { s.keeper.Run(ctx) })
	}
	s.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := s.view.Close(); err != nil {
			w.Error(err)
		}
	})
	w.Cleanup(s.stop)
	for last, _ := w.log.Last(ctx); ; time.Sleep(time.Millisecond) {
		if at, _ := s.configuration.Position(ctx); at >= last {
			close(ready)
			return s
		}
	}
}

func (w *world) key() events.KeyID {
	w.Helper()
	out, err := w.hands.CreateKey(w.Context(), w.owner, acme, commands.CreateKey{Create: key.Create{
		Permissions: events.Permissions{Level: events.LevelAll}, Scope: events.Scope{AllWorkspaces: true},
	}})
	if err != nil {
		w.Fatal(err)
	}
	return out.Key.ID
}

// Context is the test's.
func (w *world) Context() context.Context { return w.TB.(*testing.T).Context() }

// use records uses of a key at an instant, each from one source.
func (w *world) use(id events.KeyID, code events.Code, at time.Time, sources ...string) {
	w.Helper()
	list := make([]uses.Use, len(sources))
	for i, s := range sources {
		list[i] = uses.Use{At: events.TimeOf(at), Key: id, Code: code, Context: uses.Context{ClientIP: s}}
	}
	h := uses.Header{Ledger: events.LedgerID{1}, Org: acme, Verifier: "edge-1", Boot: uses.BootID{6: 0x70, 15: 1}, First: w.next + 1}
	w.next += uint64(len(list))
	blocks, err := w.enc.Encode(h, list)
	if err == nil {
		err = w.log.PublishUses(w.Context(), blocks)
	}
	if err != nil {
		w.Fatal(err)
	}
}

// denials are that many uses from nowhere.
func denials(n int) []string { return make([]string, n) }

// told counts the signals of a key.
func (w *world) told(id events.KeyID) (sources, spikes int) {
	w.Helper()
	facts, err := w.log.Load(w.Context(), events.KeySubject(acme, id), 0)
	if err != nil {
		w.Fatal(err)
	}
	for _, f := range facts {
		switch f.Event.(type) {
		case events.KeyNewSource:
			sources++
		case events.KeyDenialsSpike:
			spikes++
		}
	}
	return sources, spikes
}

// settled waits until all servers have tried what there is, and nothing is left.
func (w *world) settled(tries uint64, servers ...*server) {
	w.Helper()
	for _, s := range servers {
		deadline := time.Now().Add(time.Minute)
		for {
			st := s.keeper.Stats()
			if st.Sources+st.Spikes+st.Idle >= tries {
				break
			}
			if time.Now().After(deadline) {
				w.Fatalf("a minute later: %+v, want %d tries", st, tries)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// Two servers see the same, and so does one that starts later: all of it is told
// once, and by whoever tried first.
func TestEachIsToldOnce(t *testing.T) {
	w := newWorld(t)
	a, b := w.server(nil), w.server(nil)
	one, two := w.key(), w.key()
	now := time.Now()
	w.use(one, events.CodeValid, now, "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1")
	w.use(two, events.CodeInsufficientPermissions, now.Truncate(time.Minute), denials(25)...)
	w.settled(3, a, b)
	late := w.server(nil)
	w.settled(3, late)
	if sources, spikes := w.told(one); sources != 2 || spikes != 0 {
		t.Errorf("%d sources, %d spikes", sources, spikes)
	}
	if sources, spikes := w.told(two); sources != 0 || spikes != 1 {
		t.Errorf("%d sources, %d spikes", sources, spikes)
	}
	x, y, z := a.keeper.Stats(), b.keeper.Stats(), late.keeper.Stats()
	if x.Sources+y.Sources != 2 || x.Spikes+y.Spikes != 1 || z.Sources+z.Spikes != 0 || z.Idle != 3 {
		t.Errorf("%+v, %+v, %+v", x, y, z)
	}
}

// What happened more than a day ago is not told of any more.
func TestOldNewsIsNone(t *testing.T) {
	w := newWorld(t)
	s := w.server(nil)
	old, fresh := w.key(), w.key()
	w.use(old, events.CodeValid, time.Now().Add(-25*time.Hour), "10.0.0.1", "10.0.0.2")
	w.use(fresh, events.CodeValid, time.Now().Add(-23*time.Hour), "10.0.0.1", "10.0.0.2")
	w.settled(1, s)
	// What is told next comes behind what would have been told of the old one.
	w.use(fresh, events.CodeValid, time.Now(), "10.0.0.3")
	w.settled(2, s)
	if st := s.keeper.Stats(); st.Sources != 2 || st.Idle != 0 {
		t.Errorf("%+v", st)
	}
	if sources, _ := w.told(old); sources != 0 {
		t.Errorf("%d sources", sources)
	}
	if sources, _ := w.told(fresh); sources != 2 {
		t.Errorf("%d sources", sources)
	}
}

// Whoever holds a revoked key and uses it from everywhere, as often as he likes, has
// one spike told, and costs the ledger next to nothing.
func TestAStrangerWithARevokedKey(t *testing.T) {
	w := newWorld(t)
	s := w.server(nil)
	id, other := w.key(), w.key()
	if _, err := w.hands.RevokeKey(t.Context(), w.owner, acme, id, false); err != nil {
		t.Fatal(err)
	}
	began := time.Now().Truncate(time.Minute)
	for i := range 300 {
		from := make([]string, 40)
		for j := range from {
			from[j] = fmt.Sprintf("10.%d.%d.%d", i, j, i)
		}
		// Minutes that go back: a clock that is late, or somebody who is.
		w.use(id, events.CodeRevoked, began.Add(-time.Duration(i%50)*time.Minute), from...)
		time.Sleep(2 * time.Millisecond)
	}
	w.use(other, events.CodeValid, time.Now(), "10.0.0.1", "10.0.0.2")
	deadline := time.Now().Add(time.Minute)
	for sources := 0; sources == 0 && time.Now().Before(deadline); sources, _ = w.told(other) {
		time.Sleep(5 * time.Millisecond)
	}
	w.settled(2, s)
	if sources, spikes := w.told(id); sources != 0 || spikes != 1 {
		t.Errorf("%d sources, %d spikes", sources, spikes)
	}
	if st, loads := s.keeper.Stats(), s.loads.Load(); st.Idle > 2 || loads > 20 {
		t.Errorf("%+v after asking the ledger %d times", st, loads)
	}
}

// A ledger that is away is asked again, and everything is told in the end.
func TestTheLedgerIsAway(t *testing.T) {
	w := newWorld(t)
	var away atomic.Bool
	away.Store(true)
	s := w.server(func(c *signals.Config) {
		note := c.NoteSource
		c.NoteSource = func(ctx context.Context, src usage.Source) (signals.Outcome, error) {
			if away.Load() {
				return signals.Outcome{}, events.ErrUnavailable
			}
			return note(ctx, src)
		}
	})
	id := w.key()
	w.use(id, events.CodeValid, time.Now(), "10.0.0.1", "10.0.0.2", "10.0.0.3")
	for s.keeper.Stats().Failed < 2 {
		time.Sleep(5 * time.Millisecond)
	}
	away.Store(false)
	w.settled(2, s)
	if sources, _ := w.told(id); sources != 2 {
		t.Errorf("%d sources", sources)
	}
}

// A key of which nothing is taken keeps nobody else from being told of, and is tried
// again.
func TestOneKeyFails(t *testing.T) {
	w := newWorld(t)
	var bad atomic.Pointer[events.KeyID]
	var tries atomic.Int64
	s := w.server(func(c *signals.Config) {
		source, spike := c.NoteSource, c.NoteSpike
		fails := func(id events.KeyID) bool {
			b := bad.Load()
			return b != nil && id == *b && tries.Add(1) <= 3
		}
		c.NoteSource = func(ctx context.Context, src usage.Source) (signals.Outcome, error) {
			if fails(src.Key) {
				return signals.Outcome{}, events.ErrCorrupt
			}
			return source(ctx, src)
		}
		c.NoteSpike = func(ctx context.Context, d usage.Denials) (signals.Outcome, error) {
			if fails(d.Key) {
				return signals.Outcome{}, events.ErrCorrupt
			}
			return spike(ctx, d)
		}
	})
	one, two := w.key(), w.key()
	bad.Store(&one)
	now := time.Now().Truncate(time.Minute)
	w.use(one, events.CodeInsufficientPermissions, now, denials(30)...)
	w.use(one, events.CodeValid, now, "10.0.0.1", "10.0.0.2")
	w.use(two, events.CodeValid, now, "10.0.0.1", "10.0.0.2")
	w.settled(3, s)
	if sources, spikes := w.told(one); sources != 1 || spikes != 1 {
		t.Errorf("%d sources, %d spikes", sources, spikes)
	}
	if sources, _ := w.told(two); sources != 1 {
		t.Errorf("%d sources", sources)
	}
}

func TestValidate(t *testing.T) {
	_, err := signals.New(signals.Config{})
	if err == nil || strings.Count(err.Error(), "signals: no ") != 6 {
		t.Error(err)
	}
	if errors.Is(err, events.ErrUnavailable) {
		t.Error("an outage")
	}
}
