package snapshots_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/events"
	stored "github.com/keyledger/keyledger/events/snapshots"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/continuity"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/projections/snapshot"
	"github.com/keyledger/keyledger/relay/snapshots"
)

// store is where snapshots lie, in memory.
type store struct {
	mu        sync.Mutex
	manifests map[events.ScopeLabel]stored.Manifest
	bodies    map[events.ScopeLabel][]byte
	published int
	asked     int
	// before is called before one is stored; fail fails.
	before func()
	fail   error
}

func newStore() *store {
	return &store{manifests: map[events.ScopeLabel]stored.Manifest{}, bodies: map[events.ScopeLabel][]byte{}}
}

func (s *store) SnapshotManifest(_ context.Context, scope events.ScopeLabel) (stored.Manifest, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	m, ok := s.manifests[scope]
	return m, ok, s.fail
}

func (s *store) PublishSnapshot(_ context.Context, m stored.Manifest, r io.Reader) error {
	body, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m.Side = "side"
	if err := m.Check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	had := s.manifests[m.Scope]
	if s.before != nil {
		s.before()
	}
	if had.Digest != s.manifests[m.Scope].Digest {
		return fmt.Errorf("another was stored: %w", events.ErrConflict)
	}
	if sha256.Sum256(body) != m.Digest || int64(len(body)) != m.Size {
		return errors.New("not what it says")
	}
	s.manifests[m.Scope], s.bodies[m.Scope] = m, body
	s.published++
	return nil
}

func (s *store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.published
}

// server is one that knows a ledger.
type server struct {
	t       *testing.T
	id      events.LedgerID
	index   *index.Index
	count   *continuity.View
	barrier *snapshot.Barrier
	signer  note.Signer
	key     string
	at      events.Position
	folder  string
}

func newServer(t *testing.T) *server {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, id: events.LedgerID(id), folder: t.TempDir()}
	secret, public, err := note.GenerateKey(rand.Reader, "keyledger")
	if err != nil {
		t.Fatal(err)
	}
	if s.signer, err = note.NewSigner(secret); err != nil {
		t.Fatal(err)
	}
	s.key = public
	if s.count, err = continuity.New(continuity.Config{Ledger: s.id}); err != nil {
		t.Fatal(err)
	}
	if s.index, err = index.New(index.Config{}); err != nil {
		t.Fatal(err)
	}
	s.barrier = snapshot.NewBarrier(projections.Together("index", s.count, s.index))
	if _, err := s.barrier.Position(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.add(events.InstallationSubject(), events.InstallationCreated{Ledger: s.id, Epoch: 1}, 1)
	s.add(events.InstallationSubject(), events.InstallationSignerAdded{Name: "keyledger", VerifierKey: public}, 2)
	return s
}

func (s *server) add(subject events.Subject, e events.Event, revision events.Revision) {
	s.t.Helper()
	s.at++
	f := events.Recorded{Position: s.at, Subject: subject, Event: e, Raw: []byte{byte(s.at)}, Stored: events.TimeOf(time.Now()), Meta: events.Meta{Revision: revision}}
	if err := s.barrier.Apply(context.Background(), []events.Recorded{f}); err != nil {
		s.t.Fatal(err)
	}
}

// facts adds so many facts of an organization.
func (s *server) facts(org events.OrgID, n int) {
	s.t.Helper()
	for range n {
		id := events.WorkspaceID(fmt.Sprintf("w%d", s.at))
		s.add(events.WorkspaceSubject(org, id), events.WorkspaceCreated{ID: id}, 1)
	}
}

func (s *server) issue(name events.CredentialName, label events.ScopeLabel, orgs ...events.OrgID) {
	s.t.Helper()
	s.add(events.CredentialSubject(name), events.CredentialIssued{
		Name: name, For: events.CredentialVerifier, Organizations: orgs, Account: "A", Scope: label,
	}, 1)
}

const every = 10 * time.Minute

// keeper starts one of the server's.
func (s *server) keeper(to *store) *snapshots.Keeper {
	s.t.Helper()
	ready := make(chan struct{})
	close(ready)
	k, err := snapshots.New(snapshots.Config{
		Freeze: func() (p *snapshot.Picture, err error) {
			s.barrier.Between(func() { p, err = snapshot.Freeze(s.index, s.count) })
			return p, err
		},
		Count: s.count.Freeze, Ready: ready, Store: to, Signer: s.signer, Every: every, Folder: s.folder, Now: time.Now,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return k
}

// run runs keepers until the test's bubble has nothing left to wait for.
func run(t *testing.T, k *snapshots.Keeper) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx)
	}()
	return func() { cancel(); <-done }
}

// loads loads what is stored, and holds its manifest to it.
func (s *server) loads(from *store, scope events.ScopeLabel, orgs ...events.OrgID) *snapshot.Loaded {
	s.t.Helper()
	from.mu.Lock()
	defer from.mu.Unlock()
	m, ok := from.manifests[scope]
	if !ok {
		s.t.Fatalf("nothing is stored of %q", scope)
	}
	if err := snapshot.CheckSignature(&m, []string{s.key, s.key}); err != nil {
		s.t.Error(err)
	}
	who := snapshot.Reader{Ledger: s.id, Scope: scope, Organizations: orgs}
	if err := who.Admits(&m); err != nil {
		s.t.Error(err)
	}
	l, err := snapshot.Read(bytes.NewReader(from.bodies[scope]), m.Size, who)
	if err != nil {
		s.t.Fatal(err)
	}
	if l.Digest != m.Digest || l.Position != m.Position || l.Stored != m.Stored {
		s.t.Errorf("%+v is said to be %+v", l.Written, m)
	}
	return l
}

func TestMakesWhatIsMissingAndWhatIsBehind(t *testing.T) {
	s, to := newServer(t), newStore()
	label := events.ScopeLabel(strings.Repeat("0", 32))
	s.issue("edge-1", label, "acme")
	s.facts("acme", 3)
	s.facts("globex", 3)
	synctest.Test(t, func(t *testing.T) {
		k := s.keeper(to)
		stop := run(t, k)
		defer stop()
		time.Sleep(time.Minute)
		if to.count() != 2 {
			t.Fatalf("%d snapshots", to.count())
		}
		if l := s.loads(to, ""); l.Position != 9 {
			t.Errorf("at %d", l.Position)
		}
		// Of the narrowed one nothing is shown after acme's last fact.
		if l := s.loads(to, label, "acme"); l.Position != 6 || l.Continuity.MaxStaleness() != 0 {
			t.Errorf("at %d", l.Position)
		}
		// A few facts more are no reason, many are; of one organization for it alone
		// and for everything.
		s.facts("globex", 50)
		time.Sleep(every)
		if to.count() != 2 {
			t.Fatalf("%d snapshots", to.count())
		}
		s.facts("globex", 70)
		time.Sleep(every)
		if l := s.loads(to, ""); to.count() != 3 || l.Position != 129 {
			t.Fatalf("%d snapshots, at %d", to.count(), l.Position)
		}
		s.facts("acme", 110)
		time.Sleep(every)
		if to.count() != 5 {
			t.Fatalf("%d snapshots", to.count())
		}
		// After a day a single fact is.
		s.facts("acme", 1)
		time.Sleep(25 * time.Hour)
		if to.count() != 7 {
			t.Fatalf("%d snapshots", to.count())
		}
		// Who has lost his credential has no use for one.
		s.add(events.CredentialSubject("edge-1"), events.CredentialRevoked{}, 2)
		s.facts("acme", 200)
		time.Sleep(every)
		if to.count() != 8 {
			t.Fatalf("%d snapshots", to.count())
		}
		if got := k.Stats(); got.Stored != 8 || got.Failed != 0 || got.Lost != 0 || got.Position != s.at || got.Size == 0 || got.At == 0 {
			t.Errorf("%+v", got)
		}
	})
	if left, err := os.ReadDir(s.folder); err != nil || len(left) != 0 {
		t.Errorf("left in the folder: %v %v", left, err)
	}
}

// TestSeveralServers: one of them makes it.
func TestSeveralServers(t *testing.T) {
	s, to := newServer(t), newStore()
	s.facts("acme", 3)
	synctest.Test(t, func(t *testing.T) {
		var keepers []*snapshots.Keeper
		for range 3 {
			k := s.keeper(to)
			keepers = append(keepers, k)
			defer run(t, k)()
		}
		for round := range 5 {
			time.Sleep(2 * every)
			if to.count() != round+1 {
				t.Errorf("%d snapshots after %d rounds", to.count(), round+1)
			}
			s.facts("acme", 150)
		}
		var made uint64
		for _, k := range keepers {
			made += k.Stats().Stored
		}
		if made != 5 {
			t.Errorf("%d were made", made)
		}
	})
}

// TestFactsBetweenTwoServers: one that another server has just made is new enough,
// whatever came since.
func TestFactsBetweenTwoServers(t *testing.T) {
	s, to := newServer(t), newStore()
	s.facts("acme", 3)
	synctest.Test(t, func(t *testing.T) {
		for range 3 {
			defer run(t, s.keeper(to))()
		}
		for range 70 {
			s.facts("acme", 1)
			time.Sleep(100 * time.Millisecond)
		}
		if to.count() != 1 {
			t.Errorf("%d snapshots", to.count())
		}
	})
}

// TestAnotherWasFaster: that is no failure.
func TestAnotherWasFaster(t *testing.T) {
	s, to := newServer(t), newStore()
	s.facts("acme", 3)
	to.before = func() {
		m := stored.Manifest{Ledger: s.id, Projection: snapshot.Projection, Position: 1000, Digest: events.DigestValue{1}}
		to.manifests[""] = m
	}
	synctest.Test(t, func(t *testing.T) {
		k := s.keeper(to)
		stop := run(t, k)
		defer stop()
		time.Sleep(4 * every)
		if got := k.Stats(); got.Lost != 1 || got.Stored != 0 || got.Failed != 0 || got.Position != 1000 {
			t.Errorf("%+v", got)
		}
	})
}

// TestOfAnotherVersion: one of an earlier program is replaced, one of a later program
// as long as there is nobody who makes them.
func TestOfAnotherVersion(t *testing.T) {
	for _, later := range []bool{false, true} {
		s, to := newServer(t), newStore()
		s.facts("acme", 3)
		synctest.Test(t, func(t *testing.T) {
			m := stored.Manifest{Ledger: s.id, Projection: snapshot.Projection - 1, Position: s.at, Stored: events.TimeOf(time.Now()), CreatedAt: events.TimeOf(time.Now())}
			if later {
				m.Projection = snapshot.Projection + 1
			}
			to.manifests[""] = m
			stop := run(t, s.keeper(to))
			defer stop()
			time.Sleep(2 * every)
			if made := to.count() > 0; made == later {
				t.Errorf("made another: %t", made)
			}
			time.Sleep(25 * time.Hour)
			if to.count() == 0 {
				t.Error("nobody makes any")
			}
		})
	}
}

// TestFailsAndTriesAgain, and says so.
func TestFailsAndTriesAgain(t *testing.T) {
	s, to := newServer(t), newStore()
	s.facts("acme", 3)
	synctest.Test(t, func(t *testing.T) {
		to.fail = events.ErrUnavailable
		k := s.keeper(to)
		stop := run(t, k)
		defer stop()
		time.Sleep(every)
		to.mu.Lock()
		to.fail = nil
		to.mu.Unlock()
		if got := k.Stats(); got.Failed == 0 || got.Stored != 0 {
			t.Errorf("%+v", got)
		}
		time.Sleep(every)
		if got := k.Stats(); got.Stored != 1 {
			t.Errorf("%+v", got)
		}
		// What could not be applied is not handed on to others.
		failed := k.Stats().Failed
		s.add(events.WorkspaceSubject("acme", "w9999"), events.Malformed{}, 1)
		s.facts("acme", 200)
		time.Sleep(2 * every)
		if got := k.Stats(); got.Stored != 1 || got.Failed == failed {
			t.Errorf("%+v", got)
		}
	})
}

func TestConfigSaysWhatIsMissing(t *testing.T) {
	_, err := snapshots.New(snapshots.Config{})
	for _, what := range []string{"make snapshots of", "Ready", "Store", "Signer", "Every", "Folder", "Now", "Logger"} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s is not missed: %v", what, err)
		}
	}
}
