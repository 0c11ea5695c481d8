package histories

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/catalog"
	"github.com/keyledger/keyledger/domain/installation"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/wrapping"
	"github.com/keyledger/keyledger/projections"
	cataloging "github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// seed makes what clients choose, and which answers are lost, the same again. What
// meets what is the scheduler's.
var seed = flag.Uint64("seed", 1, "what clients do is drawn from it")

var ledgerID = events.LedgerID{1}

// world is a ledger with the servers on it.
type world struct {
	*testing.T
	ctx     context.Context
	servers []*server
	owner   commands.Principal
	// kek wraps what opens providers' secrets.
	kek *wrapping.Keyset
	// clients numbers them, each with dice of its own.
	clients atomic.Uint64
}

// server is what a `keyledger serve` is made of.
type server struct {
	*commands.Service
	*verify.Verifier
	number int
	conn   *nats.Conn
	ledger *jetstream.Ledger
	log    *lossy
	memory *projections.Runner
	// lagging are the positions that were answered before the index had come so far.
	lagging sync.Map
}

// newWorld begins a ledger over the first of the connections, with a server on
// each of them.
func newWorld(t *testing.T, replicas int, conns ...*nats.Conn) *world {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to have the clients do the same again: -seed %d", *seed)
		}
	})
	w := &world{T: t, ctx: t.Context(), owner: commands.Principal{
		Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Org: events.System,
		Role: events.RoleOwner, Scope: events.Scope{AllWorkspaces: true},
	}}
	var err error
	w.kek, err = wrapping.NewKeyset()
	w.must(err)
	for i, conn := range conns {
		ledger, err := jetstream.New(jetstream.Config{
			Conn: conn, Ledger: ledgerID, Replicas: replicas, Heartbeat: 200 * time.Millisecond,
			// Who waits longer does less in the time of a test.
			AppendTimeout: time.Second, LoadTimeout: time.Second, CatchUp: time.Minute,
		})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			secret, err := commands.NewOwner()
			if err != nil {
				t.Fatal(err)
			}
			if err := commands.Begin(w.ctx, ledger, ledgerID, secret, installation.Signer{Name: "log", VerifierKey: "log+0+0"}, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		w.servers = append(w.servers, w.serve(i, conn, ledger))
	}
	return w
}

// serve starts a server that ends with the test.
func (w *world) serve(number int, conn *nats.Conn, ledger *jetstream.Ledger) *server {
	w.Helper()
	s := &server{
		number: number, conn: conn, ledger: ledger,
		log: &lossy{Log: ledger, dice: rand.New(rand.NewPCG(*seed, 1_000+uint64(number)))},
	}
	x, err := index.New(index.Config{})
	w.must(err)
	configuration := commands.NewConfiguration()
	positions := events.Positions{Ledger: ledgerID, Epoch: 1}
	holders, err := cataloging.Open(w.ctx, cataloging.Config{
		Path: filepath.Join(w.TempDir(), "catalog.db"), Of: positions, UsagePath: filepath.Join(w.TempDir(), "usage.db"),
	})
	w.must(err)
	w.Cleanup(func() { _ = holders.Close() })
	s.memory = w.run(ledger, projections.Together("index", x, configuration))
	browsing := w.run(ledger, holders)

	recorder, err := recording.New(recording.Config{Ledger: ledgerID, Verifier: events.VerifierID("v" + strconv.Itoa(number)), Sink: ledger})
	w.must(err)
	w.must(recorder.Start(w.ctx))
	s.Verifier, err = verify.New(verify.Config{Index: x, Recorder: recorder, Fresh: s.memory.Fresh, WaitFor: s.memory.WaitFor, MaxWait: time.Second})
	w.must(err)
	w.Cleanup(func() {
		s.Verifier.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), time.Second)
		defer cancel()
		_ = recorder.Close(ctx) // uses are not what is judged here
	})
	s.Service, err = commands.New(commands.Config{
		Log: s.log, Ledger: ledgerID, Configuration: configuration, Logger: slog.New(slog.DiscardHandler),
		Envelopes: seals.NewEnvelopes(wrapping.Ring{Primary: w.kek}, ledger, ledgerID),
		Holders: func(ctx context.Context, org events.OrgID) ([]events.KeyID, error) {
			last, err := ledger.Last(ctx)
			if err != nil {
				return nil, err
			}
			if err := browsing.WaitFor(ctx, last); err != nil {
				return nil, err
			}
			return holders.Holders(ctx, org, events.TimeOf(time.Now()))
		},
		Await: func(ctx context.Context, pos events.Position) error {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			err := s.memory.WaitFor(ctx, pos)
			if err != nil {
				s.lagging.Store(pos, true)
			}
			return err
		},
	})
	w.must(err)
	return s
}

// run feeds a view until the test ends. A view that stops fails the test.
func (w *world) run(ledger *jetstream.Ledger, view projections.View) *projections.Runner {
	w.Helper()
	runner, err := projections.NewRunner(projections.Config{Source: ledger, View: view})
	w.must(err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.ctx))
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	w.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.Errorf("view %s: %v", view.Name(), err)
		}
	})
	select {
	case <-runner.Ready():
	case <-time.After(time.Minute):
		w.Fatalf("view %s is not ready", view.Name())
	}
	return runner
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// lossy loses answers, and requests before they are sent: whoever asked knows
// neither.
type lossy struct {
	commands.Log
	mu   sync.Mutex
	dice *rand.Rand
	calm atomic.Bool
}

// loss is how many of a hundred requests and answers are lost.
const loss = 3

func (l *lossy) lost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dice.IntN(100) < loss && !l.calm.Load()
}

func (l *lossy) Append(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	return l.deliver(ctx, entries, l.Log.Append)
}

func (l *lossy) AppendEach(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	return l.deliver(ctx, entries, l.Log.AppendEach)
}

func (l *lossy) deliver(ctx context.Context, entries []events.Entry, append func(context.Context, []events.Entry) ([]events.Recorded, error)) ([]events.Recorded, error) {
	if l.lost() {
		return nil, events.ErrOutcomeUnknown
	}
	facts, err := append(ctx, entries)
	if err == nil && l.lost() {
		return nil, events.ErrOutcomeUnknown
	}
	return facts, err
}

// calm has no answers lost from here on.
func (w *world) calm() {
	for _, s := range w.servers {
		s.log.calm.Store(true)
	}
}

// client is one who asks servers, one request at a time.
type client struct {
	*rand.Rand
	number int
	wishes int
	owner  commands.Principal
}

func (w *world) client() *client {
	n := w.clients.Add(1)
	return &client{Rand: rand.New(rand.NewPCG(*seed, n)), number: int(n), owner: w.owner}
}

// wish is a new wish that can be told again.
func (c *client) wish() commands.Wish {
	c.wishes++
	id := strconv.Itoa(c.number) + "-" + strconv.Itoa(c.wishes)
	return commands.Wish{Principal: c.owner, Route: "test", Body: []byte("{}"), IdempotencyKey: id, RequestID: id}
}

// settled repeats what was answered with "unknown", most of the time until it is
// known. Of what was once unknown, being told that nothing happened this time says
// nothing; being refused does, and so does having it done.
func (c *client) settled(ctx context.Context, do func() error) error {
	patience, doubt := c.IntN(8), false
	for n := 0; ; n++ {
		err := do()
		switch {
		case errors.Is(err, events.ErrOutcomeUnknown):
			doubt = true
		case !doubt || !errors.Is(err, events.ErrUnavailable):
			return err
		}
		if n >= patience || ctx.Err() != nil {
			return events.ErrOutcomeUnknown
		}
		c.rest()
	}
}

// told is what an error tells, and whether it goes into a history: nothing else than
// the refusal that the state of things may cause, if any may.
func (w *world) told(what string, err error, refusal error) (Answer, bool) {
	switch {
	case errors.Is(err, events.ErrOutcomeUnknown):
		return Answer{Unknown: true}, true
	case errors.Is(err, events.ErrUnavailable):
		return Answer{Nothing: true, Why: err.Error()}, true
	case errors.Is(err, refusal):
		return Answer{Refused: true}, true
	default:
		w.Errorf("%s: %v", what, err)
		return Answer{}, false
	}
}

// done is what an outcome tells. The position of a repeated wish is that of its
// aggregate by now; its own is that of its facts.
func (w *world) done(s *server, out commands.Outcome) Answer {
	_, lagging := s.lagging.Load(out.Position)
	a := Answer{Unchanged: len(out.Facts) == 0, Lagging: lagging}
	for _, f := range out.Facts {
		a.Position = max(a.Position, f.Position)
	}
	return a
}

// rest is what a client does between two requests.
func (c *client) rest() { time.Sleep(time.Duration(1+c.IntN(10)) * time.Millisecond) }

// until repeats what is needed before a test can go on.
func (w *world) until(what string, do func() error) {
	w.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("%s: %v", what, err)
		}
	}
}

// organization begins an organization with a catalog, known to every server.
func (w *world) organization(c *client, org events.OrgID, limit int, permissions ...events.CatalogPermission) error {
	s := w.servers[0]
	var last events.Position
	wishes := []func(commands.Wish) (commands.Outcome, error){
		func(wish commands.Wish) (commands.Outcome, error) {
			return s.CreateOrganization(w.ctx, wish, organization.Create{
				ID: org, Name: events.ClearText("An organization"), Limits: events.Limits{MaxActiveKeys: limit},
			})
		},
		func(wish commands.Wish) (commands.Outcome, error) {
			return s.ReplaceCatalog(w.ctx, wish, org, catalog.Replace{Permissions: permissions})
		},
	}
	for _, do := range wishes {
		wish := c.wish()
		for done := false; !done; c.rest() {
			out, err := do(wish)
			if done = err == nil; done {
				last = max(last, out.Position)
				// An answered organization may be one that the server itself does
				// not know of yet, when its index lags.
				if err := s.memory.WaitFor(w.ctx, last); err != nil {
					return err
				}
			} else if !errors.Is(err, events.ErrOutcomeUnknown) && !errors.Is(err, events.ErrUnavailable) {
				return err
			}
		}
	}
	for _, s := range w.servers {
		if err := s.memory.WaitFor(w.ctx, last); err != nil {
			return err
		}
	}
	return nil
}

// settle compares a log with the ledger.
func (w *world) settle(l *Log, chain func(events.Recorded) string) {
	w.Helper()
	if err := l.Settle(w.facts(), chain); err != nil {
		w.Error(err)
	}
}

// facts are all of the ledger, as any reader gets them.
func (w *world) facts() []events.Recorded {
	w.Helper()
	s := w.servers[0]
	var last events.Position
	w.until("the ledger's end", func() (err error) {
		last, err = s.ledger.Last(w.ctx)
		return err
	})
	var all []events.Recorded
	enough := errors.New("enough")
	err := s.ledger.Follow(w.ctx, 0, func(facts []events.Recorded) error {
		all = append(all, facts...)
		if all[len(all)-1].Position >= last {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		w.Fatal(err)
	}
	return all
}
