package commands_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/installation"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/domain/workspace"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
)

// world is one ledger in memory, begun, with any number of servers on it.
type world struct {
	testing.TB
	ctx    context.Context
	log    backend
	memory *memory.Ledger // the same, where it is one in memory
	ledger events.LedgerID
	clock  atomic.Int64 // added to the time
	owner  commands.Principal
}

// backend is the ledger below, with what tests look at.
type backend interface {
	commands.Log
	Last(ctx context.Context) (events.Position, error)
	At(ctx context.Context, pos events.Position) (events.Recorded, error)
	Follow(ctx context.Context, after events.Position, apply func([]events.Recorded) error) error
}

const acme = events.OrgID("acme")

func newWorld(t testing.TB) *world {
	t.Helper()
	ledger := events.LedgerID{1}
	log := memory.New(ledger)
	w := newWorldOn(t, log, ledger)
	w.memory = log
	return w
}

func newWorldOn(t testing.TB, log backend, ledger events.LedgerID) *world {
	t.Helper()
	w := &world{TB: t, ctx: t.Context(), log: log, ledger: ledger}
	secret, err := commands.NewOwner()
	if err != nil {
		t.Fatal(err)
	}
	if err := commands.Begin(w.ctx, w.log, ledger, secret, installation.Signer{Name: "log", VerifierKey: "log+0+0"}, w.now()); err != nil {
		t.Fatal(err)
	}
	w.owner = principal(events.System, events.RoleOwner)
	return w
}

func (w *world) now() time.Time          { return time.Now().Add(time.Duration(w.clock.Load())) }
func (w *world) advance(d time.Duration) { w.clock.Add(int64(d)) }

// server is a service with a configuration and a view of holders of its own,
// both fed by following the ledger.
type server struct {
	*commands.Service
	configuration *commands.Configuration

	mu      sync.Mutex
	changed chan struct{}
	keys    map[events.OrgID]map[events.KeyID]key.State
}

func (w *world) server(options ...func(*commands.Config)) *server {
	w.Helper()
	s := &server{
		configuration: commands.NewConfiguration(), changed: make(chan struct{}),
		keys: map[events.OrgID]map[events.KeyID]key.State{},
	}
	cfg := commands.Config{
		Log: w.log, Ledger: w.ledger, Configuration: s.configuration, Await: s.await, Now: w.now,
		Holders: func(_ context.Context, org events.OrgID) ([]events.KeyID, error) { return s.holders(org, w.now()), nil },
		Logger:  slog.New(slog.DiscardHandler),
	}
	for _, o := range options {
		o(&cfg)
	}
	var err error
	if s.Service, err = commands.New(cfg); err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.log.Follow(ctx, 0, func(facts []events.Recorded) error { return s.apply(ctx, facts) })
	}()
	w.Cleanup(func() { cancel(); <-done })
	last, err := w.log.Last(w.ctx)
	if err == nil {
		err = s.await(w.ctx, last)
	}
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func (s *server) apply(ctx context.Context, facts []events.Recorded) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range facts {
		if id, ok := f.Subject.Key(); ok {
			if s.keys[f.Subject.Org] == nil {
				s.keys[f.Subject.Org] = map[events.KeyID]key.State{}
			}
			s.keys[f.Subject.Org][id] = key.Evolve(s.keys[f.Subject.Org][id], f.Event)
		}
	}
	if err := s.configuration.Apply(ctx, facts); err != nil {
		return err
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

func (s *server) await(ctx context.Context, pos events.Position) error {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if at, err := s.configuration.Position(ctx); err != nil || at >= pos {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *server) holders(org events.OrgID, now time.Time) []events.KeyID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []events.KeyID
	for id, k := range s.keys[org] {
		if k.HoldsPlace(events.TimeOf(now)) {
			out = append(out, id)
		}
	}
	return out
}

// principal is a management key of a role, everywhere in its organization.
func principal(org events.OrgID, role events.Role, workspaces ...events.WorkspaceID) commands.Principal {
	var id events.KeyID
	copy(id[:], string(org)+"/"+string(role))
	return commands.Principal{
		Actor: events.Actor{Type: events.ActorKey, Org: org, Key: id}, Org: org, Role: role,
		Scope: events.Scope{AllWorkspaces: len(workspaces) == 0, Workspaces: workspaces},
	}
}

// acme begins an organization with two workspaces.
func (w *world) acme(s *server, limits events.Limits) {
	w.Helper()
	w.organization(s, acme, limits)
}

func (w *world) organization(s *server, org events.OrgID, limits events.Limits) {
	w.Helper()
	if _, err := s.CreateOrganization(w.ctx, w.by(w.owner), organization.Create{ID: org, Name: events.ClearText("An organization"), Limits: limits}); err != nil {
		w.Fatal(err)
	}
	for _, id := range []events.WorkspaceID{"a", "b"} {
		if _, err := s.CreateWorkspace(w.ctx, w.by(w.owner), org, workspace.Create{ID: id, Name: events.ClearText("A workspace")}); err != nil {
			w.Fatal(err)
		}
	}
}

func (w *world) by(p commands.Principal) commands.Wish {
	return commands.Wish{Principal: p, Reason: "test", RequestID: "r-1"}
}

// repeatable is a wish that can be told again.
func (w *world) repeatable(p commands.Principal, key, body string) commands.Wish {
	wish := w.by(p)
	wish.IdempotencyKey, wish.Route, wish.Body = key, "POST /keys", []byte(body)
	return wish
}

// plain is a customer's key that nothing is wrong with.
func plain(workspaces ...events.WorkspaceID) commands.CreateKey {
	return commands.CreateKey{Create: key.Create{
		Permissions: events.Permissions{Level: events.LevelAll},
		Scope:       events.Scope{AllWorkspaces: len(workspaces) == 0, Workspaces: workspaces},
	}}
}

func management(role events.Role, workspaces ...events.WorkspaceID) commands.CreateKey {
	c := plain(workspaces...)
	c.Permissions, c.Kind, c.Role = events.Permissions{}, events.KindManagement, role
	return c
}

func (w *world) create(s *server, org events.OrgID, c commands.CreateKey) commands.KeyOutcome {
	w.Helper()
	out, err := s.CreateKey(w.ctx, w.by(w.owner), org, c)
	if err != nil {
		w.Fatal(err)
	}
	return out
}

// last is where the ledger ends: what appends nothing leaves it there.
func (w *world) last() events.Position {
	w.Helper()
	pos, err := w.log.Last(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	return pos
}

// all are the facts of the whole ledger.
func (w *world) all() []events.Recorded {
	w.Helper()
	var out []events.Recorded
	for pos := events.Position(1); pos <= w.last(); pos++ {
		f, err := w.log.At(w.ctx, pos)
		if err != nil {
			w.Fatal(err)
		}
		out = append(out, f)
	}
	return out
}

// born are the keys of an organization, in the order of their creation.
func (w *world) born(org events.OrgID) []events.KeyID {
	w.Helper()
	var out []events.KeyID
	for _, f := range w.all() {
		if e, ok := f.Event.(events.KeyCreated); ok && f.Subject.Org == org {
			out = append(out, e.ID)
		}
	}
	return out
}

// fixedHolders is a view that fails, or tells the same whatever happens.
func fixedHolders(ids []events.KeyID) func(context.Context, events.OrgID) ([]events.KeyID, error) {
	return func(context.Context, events.OrgID) ([]events.KeyID, error) {
		if ids == nil {
			return nil, errors.New("no view")
		}
		return ids, nil
	}
}

// between does something once, before the next append.
type between struct {
	*memory.Ledger
	do func()
}

func (b *between) Append(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	if do := b.do; do != nil {
		b.do = nil
		do()
	}
	return b.Ledger.Append(ctx, entries)
}

// counting counts the attempts to append a revocation.
type counting struct {
	*memory.Ledger
	revocations int
}

func (c *counting) Append(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	if entries[0].Event.Kind() == events.KindKeyRevoked {
		c.revocations++
	}
	return c.Ledger.Append(ctx, entries)
}
