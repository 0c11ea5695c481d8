package expiry_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/installation"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/relay/expiry"
)

const (
	acme = events.OrgID("acme")
	day  = 24 * time.Hour
)

// world is a ledger in memory with any number of servers on it.
type world struct {
	testing.TB
	ctx context.Context
	log *faulty
	dir string
	// now is the clock of wishes; time.Now unless set.
	now func() time.Time
	// hands makes the wishes of people. It keeps no ends of keys.
	hands *server
	files int
	// tables is the file of a catalog that knows nothing yet; nil has it made.
	tables []byte
}

// faulty is a ledger that cannot be asked now and then.
type faulty struct {
	*memory.Ledger
	// far is how long it takes to get there.
	far  time.Duration
	away atomic.Bool
	// unknown are how many appends by the keepers get no answer; every other one
	// is stored all the same.
	unknown atomic.Int64
}

func (f *faulty) Append(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	time.Sleep(f.far)
	if f.away.Load() {
		return nil, events.ErrUnavailable
	}
	switch entries[0].Event.(type) {
	case events.KeyExpired, events.KeyExpiring, events.KeyRotationDue, events.KeyRevoked:
		if n := f.unknown.Add(-1); n >= 0 {
			if n%2 == 0 {
				if _, err := f.Ledger.Append(ctx, entries); err != nil {
					return nil, err
				}
			}
			return nil, events.ErrOutcomeUnknown
		}
	}
	return f.Ledger.Append(ctx, entries)
}

func (f *faulty) AppendEach(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	time.Sleep(f.far)
	switch {
	case f.away.Load():
		return nil, events.ErrUnavailable
	case f.unknown.Load() > 0:
		// Each by itself meets its own end.
		return nil, events.ErrConflict
	}
	return f.Ledger.AppendEach(ctx, entries)
}

func (f *faulty) Load(ctx context.Context, s events.Subject, after events.Position) ([]events.Recorded, error) {
	time.Sleep(f.far)
	if f.away.Load() {
		return nil, events.ErrUnavailable
	}
	return f.Ledger.Load(ctx, s, after)
}

var owner = commands.Principal{
	Actor: events.Actor{Type: events.ActorKey, Org: events.System, Key: events.KeyID{1}}, Org: events.System,
	Role: events.RoleOwner, Scope: events.Scope{AllWorkspaces: true},
}

func wish() commands.Wish { return commands.Wish{Principal: owner} }

// newWorld begins a ledger with an organization, in a bubble.
func newWorld(t testing.TB, dir string) *world {
	t.Helper()
	w := newWorldAt(t, dir, nil, nil)
	w.log.far = time.Millisecond
	return w
}

func newWorldAt(t testing.TB, dir string, now func() time.Time, tables []byte) *world {
	t.Helper()
	id := events.LedgerID{1}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, ctx: t.Context(), log: &faulty{Ledger: memory.New(id)}, dir: dir, now: now, tables: tables}
	secret, err := commands.NewOwner()
	if err == nil {
		err = commands.Begin(w.ctx, w.log, id, secret, installation.Signer{Name: "log", VerifierKey: "log+0+0"}, time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	w.hands = w.server(nil)
	w.must(w.hands.CreateOrganization(w.ctx, wish(), organization.Create{ID: acme, Name: events.ClearText("Acme")}))
	return w
}

func (w *world) must(_ commands.Outcome, err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// server is one with a catalog and a keeper of its own.
type server struct {
	*commands.Service
	catalog *catalog.Catalog
	runner  *projections.Runner
	keeper  *expiry.Keeper
	stop    func()
}

// server starts one. change changes its keeper's configuration; nil is none.
func (w *world) server(change func(*expiry.Config)) *server {
	w.Helper()
	w.files++
	s := &server{}
	path := filepath.Join(w.dir, fmt.Sprint(w.files, ".db"))
	var err error
	if w.tables != nil {
		err = os.WriteFile(path, w.tables, 0o600)
	}
	if err == nil {
		s.catalog, err = catalog.Open(w.ctx, catalog.Config{Path: path})
	}
	if err != nil {
		w.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	configuration := commands.NewConfiguration()
	s.runner, err = projections.NewRunner(projections.Config{
		Source: w.log, View: projections.Together("all", s.catalog, configuration), Logger: quiet,
	})
	if err != nil {
		w.Fatal(err)
	}
	s.Service, err = commands.New(commands.Config{
		Log: w.log, Ledger: events.LedgerID{1}, Configuration: configuration, Await: s.runner.WaitFor, Now: w.now, Logger: quiet,
		Holders: func(context.Context, events.OrgID) ([]events.KeyID, error) { return nil, nil },
	})
	if err != nil {
		w.Fatal(err)
	}
	cfg := expiry.Config{
		Catalog: s.catalog, Ready: s.runner.Ready(), Applied: s.runner.Applied, WaitFor: s.runner.WaitFor,
		Expire: s.appender(s.ExpireKey), Notify: s.appender(s.NotifyExpiry),
		RotationDue: s.appender(s.NoteRotation), Revoke: s.appender(s.EndKey), Logger: quiet,
		Stale: func() bool { return false },
	}
	if change != nil {
		change(&cfg)
	}
	if s.keeper, err = expiry.New(cfg); err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.ctx))
	var running sync.WaitGroup
	running.Go(func() { _ = s.runner.Run(ctx) })
	if change != nil {
		running.Go(func() { s.keeper.Run(ctx) })
	}
	s.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		if err := s.catalog.Close(); err != nil {
			w.Error(err)
		}
	})
	<-s.runner.Ready()
	return s
}

// asIs leaves a keeper's configuration as it is.
func asIs(*expiry.Config) {}

func (s *server) appender(do func(context.Context, events.OrgID, events.KeyID) (commands.Outcome, error)) expiry.Appender {
	return func(ctx context.Context, org events.OrgID, id events.KeyID) (expiry.Outcome, error) {
		out, err := do(ctx, org, id)
		return expiry.Outcome{Position: out.Position, Recorded: len(out.Facts) > 0}, err
	}
}

// notices sets how long ahead the organization wants notice.
func (w *world) notices(list ...events.Period) {
	w.Helper()
	w.must(w.hands.UpdateOrganization(w.ctx, wish(), acme, organization.Update{ExpiryNotices: domain.Some(list)}))
}

// create begins a key that lives for a while, or for ever.
func (w *world) create(lives time.Duration) events.KeyID {
	w.Helper()
	return w.createIn(acme, lives)
}

func (w *world) createIn(org events.OrgID, lives time.Duration) events.KeyID {
	w.Helper()
	c := commands.CreateKey{Create: key.Create{
		Permissions: events.Permissions{Level: events.LevelAll}, Scope: events.Scope{AllWorkspaces: true},
	}}
	if lives > 0 {
		c.Expiry.At = events.TimeOf(time.Now().Add(lives))
	}
	out, err := w.hands.CreateKey(w.ctx, wish(), org, c)
	if err != nil {
		w.Fatal(err)
	}
	return out.Key.ID
}

func (w *world) update(id events.KeyID, u key.Update) {
	w.Helper()
	out, err := w.hands.UpdateKey(w.ctx, wish(), acme, id, u)
	w.must(out.Outcome, err)
}

// told is a fact that a keeper appended.
type told struct {
	at     events.Position
	kind   events.Kind
	notice events.Period
	// after is how long after it was due it was recorded.
	after time.Duration
}

func (x told) String() string {
	switch x.kind {
	case events.KindKeyExpiring:
		return string(x.notice)
	case events.KindKeyRotationDue:
		return "rotate"
	case events.KindKeyRevoked:
		return "revoked"
	default:
		return "end"
	}
}

// told are the keepers' facts of every key, in order.
func (w *world) told() map[events.KeyID][]told {
	w.Helper()
	out := map[events.KeyID][]told{}
	ended := map[events.OrgID]events.Recorded{}
	last, err := w.log.Last(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	for pos := events.Position(1); pos <= last; pos++ {
		f, err := w.log.At(w.ctx, pos)
		if err != nil {
			w.Fatal(err)
		}
		var x told
		if f.Meta.Actor.String() != "system/expiry" {
			if _, ok := f.Event.(events.OrganizationDeleted); ok {
				ended[f.Subject.Org] = f
			}
			continue
		}
		switch e := f.Event.(type) {
		case events.KeyExpired:
			x = told{at: pos, kind: f.Event.Kind(), after: f.Meta.Time.Std().Sub(e.ExpiredAt.Std())}
		case events.KeyExpiring:
			at := e.ExpiresAt.Std().Add(-days(w, e.Notice))
			x = told{at: pos, kind: f.Event.Kind(), notice: e.Notice, after: f.Meta.Time.Std().Sub(at)}
		case events.KeyRotationDue:
			x = told{at: pos, kind: f.Event.Kind(), after: f.Meta.Time.Std().Sub(e.DueAt.Std())}
		case events.KeyRevoked:
			end := ended[f.Subject.Org]
			if f.Meta.Causation != end.Meta.ID {
				w.Errorf("revoked since %s, its organization ended with %s", f.Meta.Causation, end.Meta.ID)
			}
			x = told{at: pos, kind: f.Event.Kind(), after: f.Meta.Time.Std().Sub(end.Meta.Time.Std())}
		default:
			w.Errorf("%s by the keepers", f.Event.Kind())
		}
		id, _ := f.Subject.Key()
		out[id] = append(out[id], x)
	}
	return out
}

func days(t testing.TB, p events.Period) time.Duration {
	t.Helper()
	var n int
	if _, err := fmt.Sscanf(string(p), "%dd", &n); err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * day
}

// expect holds what was told of a key to what should have been, in time.
func (w *world) expect(what string, list []told, within time.Duration, want ...string) {
	w.Helper()
	if got := fmt.Sprint(list); got != fmt.Sprint(want) {
		w.Errorf("%s: %s, want %s", what, got, want)
	}
	for _, x := range list {
		if x.after < 0 || x.after > within {
			w.Errorf("%s: %s came %s after it was due", what, x, x.after)
		}
	}
}
