package scale_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/integration/natstest"
	"github.com/keyledger/keyledger/integration/program"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/snapshot"
	"github.com/keyledger/keyledger/relay/snapshots"
)

const (
	// writers append at the same time, each to an organization of its own.
	writers = 4
	// every is after how many keys the same come again: one that is revoked, one that
	// is disabled, one that has expired, one that is revoked while the test runs.
	every                                   = 500
	revoked, disabled, expired, revokedSoon = 0, 1, 2, 3
	// sampled is how many keys of a sort are asked about.
	sampled = 200
)

// world is a ledger on a node of its own.
type world struct {
	t            *testing.T
	binary, auth string
	nodes        *natstest.Cluster
	id           events.LedgerID
	ledger       *jetstream.Ledger
	signer       note.Signer
	vkey         string
	orgs         []events.OrgID
	// created is how many keys there are, perOrg how many of the first of them each
	// organization has.
	created, perOrg int
	// commands counts the appends.
	commands atomic.Uint64

	mu   sync.Mutex // guards the following
	soon []int      // the keys that were revoked while the test runs
}

// begin begins it as an operator does, but for its first events.
func begin(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{
		t: t, binary: program.Build(t, dir), auth: filepath.Join(dir, "auth"), nodes: natstest.ReserveOne(t),
		id: events.LedgerID(uuid.New()),
	}
	w.operate("nats-auth", "operator", "--out", w.auth)
	w.nodes.Start(w.auth)
	secret, vkey, err := note.GenerateKey(rand.Reader, "scale")
	w.must(err)
	w.signer, err = note.NewSigner(secret)
	w.must(err)
	w.vkey = vkey
	operator, err := nats.Connect(w.nodes.URL(0), nats.UserCredentials(filepath.Join(w.auth, credentials.OperatorCreds)))
	w.must(err)
	defer operator.Close()
	w.must(jetstream.EnsureStreams(t.Context(), operator, 1))
	w.ledger = w.connect()
	for i, e := range []events.Event{
		events.InstallationCreated{Ledger: w.id, Epoch: 1}, events.InstallationSignerAdded{Name: "scale", VerifierKey: vkey},
	} {
		w.must(w.append(w.ledger, entry{events.InstallationSubject(), e, events.Revision(i + 1)}))
	}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// operate runs the program as those who run an installation do.
func (w *world) operate(args ...string) {
	w.t.Helper()
	if out, said, code := program.Run(w.t, nil, "", append([]string{w.binary}, args...)...); code != 0 {
		w.t.Fatalf("keyledger %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, said)
	}
}

// connect returns the ledger as a server works with it.
func (w *world) connect() *jetstream.Ledger {
	w.t.Helper()
	conn, err := nats.Connect(w.nodes.URL(0), nats.UserCredentials(filepath.Join(w.auth, credentials.ServerCreds)), nats.CustomInboxPrefix(embedded.InboxPrefix))
	w.must(err)
	w.t.Cleanup(conn.Close)
	l, err := jetstream.New(jetstream.Config{Conn: conn, Ledger: w.id, Replicas: 1, AppendTimeout: time.Minute})
	w.must(err)
	return l
}

// entry is what is appended to an aggregate.
type entry struct {
	subject  events.Subject
	event    events.Event
	revision events.Revision
}

// append appends events as one.
func (w *world) append(l *jetstream.Ledger, list ...entry) error {
	number, now := w.commands.Add(1), events.TimeOf(time.Now())
	facts := make([]events.Entry, len(list))
	for i, e := range list {
		facts[i] = events.Entry{Subject: e.subject, Event: e.event, Meta: events.Meta{
			ID: events.EventID(numbered(number, uint64(i))), Ledger: w.id, Time: now, Revision: e.revision,
			Actor: events.Actor{Type: events.ActorSystem, Name: "scale"}, Command: events.CommandID(numbered(number, 1<<32)),
		}}
	}
	_, err := l.Append(w.t.Context(), facts)
	return err
}

// numbered is an id that nothing else has.
func numbered(a, b uint64) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[:8], a<<16)
	binary.BigEndian.PutUint64(id[8:], b)
	id[6], id[8] = 0x70|id[6]&0x0f, 0x80|id[8]&0x3f
	return id
}

func keyID(n int) events.KeyID { return events.KeyID(numbered(1<<40, uint64(n))) }

// secretOf is the key string of key number n.
func secretOf(n int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "key %d", n))
	key, err := keystring.New("kl_test", [24]byte(sum[:]))
	if err != nil {
		panic(err) // the prefix is none
	}
	return key.Reveal()
}

// orgOf is the organization of key number n.
func (w *world) orgOf(n int) events.OrgID {
	if n < *keys {
		return w.orgs[n/w.perOrg]
	}
	return w.orgs[n%len(w.orgs)]
}

// begun is what begins key number n.
func (w *world) begun(n int, now time.Time) entry {
	secret := secretOf(n)
	e := events.KeyCreated{
		ID: keyID(n), KeyKind: events.KindAPI, Name: events.ClearText(fmt.Sprintf("service %d", n)), Prefix: keystring.Prefix(secret),
		LastFour: keystring.LastFour(secret), Digest: events.Digest{Alg: events.SHA256, Value: keystring.Digest(secret)},
		Permissions: events.Permissions{Level: events.LevelAll}, Scope: events.Scope{AllWorkspaces: true},
		CreatedAt: events.TimeOf(now.Add(-48 * time.Hour)),
	}
	switch n / every % 3 {
	case 1:
		e.Permissions.Level = events.LevelReadOnly
	case 2:
		e.Permissions = events.Permissions{Level: events.LevelRestricted, Grants: []string{"doc:read"}}
	}
	switch n % every {
	case expired:
		e.ExpiresAt = events.TimeOf(now.Add(-time.Hour))
	case every - 1: // of some other day
		e.ExpiresAt = events.TimeOf(now.Add(24 * time.Hour))
	}
	return entry{events.KeySubject(w.orgOf(n), e.ID), e, 1}
}

// organization begins the organization with this number.
func (w *world) organization(l *jetstream.Ledger, i int) error {
	org, name := w.orgs[i], events.ClearText(fmt.Sprintf("Organization %d", i))
	return w.append(l,
		entry{events.OrganizationSubject(org), events.OrganizationCreated{ID: org, Name: name}, 1},
		entry{events.CatalogSubject(org), events.CatalogReplaced{Permissions: []events.CatalogPermission{
			{Name: "doc:read", Access: events.AccessRead}, {Name: "doc:write", Access: events.AccessWrite},
		}}, 1},
		entry{events.WorkspaceSubject(org, "w1"), events.WorkspaceCreated{ID: "w1", Name: name}, 1},
	)
}

// batch collects events of an organization, and appends as many as go into one.
type batch struct {
	w    *world
	l    *jetstream.Ledger
	list []entry
	err  error
}

func (b *batch) add(e entry) {
	if b.list = append(b.list, e); len(b.list) == events.MaxBatch {
		b.flush()
	}
}

func (b *batch) flush() {
	if b.err == nil && len(b.list) > 0 {
		b.err = b.w.append(b.l, b.list...)
	}
	b.list = b.list[:0]
}

// fill makes the keys of an organization, and changes some of them.
func (w *world) fill(l *jetstream.Ledger, i int) error {
	if err := w.organization(l, i); err != nil {
		return err
	}
	from, to := i*w.perOrg, min((i+1)*w.perOrg, *keys)
	b, now := &batch{w: w, l: l}, time.Now()
	for n := from; n < to; n++ {
		b.add(w.begun(n, now))
	}
	for n := from; n < to; n++ {
		if n%every == disabled {
			b.add(entry{events.KeySubject(w.orgs[i], keyID(n)), events.KeyDisabled{}, 2})
		}
	}
	// Revocations go with revocations alone.
	b.flush()
	for n := from; n < to; n++ {
		if n%every == revoked {
			b.add(w.revocation(n))
		}
	}
	b.flush()
	return b.err
}

func (w *world) revocation(n int) entry {
	return entry{events.RevokedSubject(w.orgOf(n), keyID(n)), events.KeyRevoked{}, 1}
}

// build fills the ledger, in batches of a thousand.
func (w *world) build() {
	w.t.Helper()
	w.perOrg = max(*keys/1000, 5_000)
	for i := range (*keys + w.perOrg - 1) / w.perOrg {
		w.orgs = append(w.orgs, events.OrgID(fmt.Sprintf("org-%d", i)))
	}
	began := time.Now()
	var next atomic.Int64
	var writing sync.WaitGroup
	faults := make(chan error, writers)
	for range writers {
		l := w.connect()
		writing.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(w.orgs)); i = next.Add(1) - 1 {
				if err := w.fill(l, int(i)); err != nil {
					faults <- err
					return
				}
			}
		})
	}
	writing.Wait()
	close(faults)
	for err := range faults {
		w.t.Fatal(err)
	}
	w.created = *keys
	took := time.Since(began)
	w.t.Logf("%d keys of %d organizations appended in %v, %.0f/s", *keys, len(w.orgs), took.Round(time.Second), float64(*keys)/took.Seconds())
}

// grow makes more keys, as happens between two starts.
func (w *world) grow() {
	w.t.Helper()
	now := time.Now()
	for range max(*keys/1000, every) {
		e := w.begun(w.created, now)
		w.must(w.append(w.ledger, e))
		if w.created%every == revoked {
			w.must(w.append(w.ledger, w.revocation(w.created)))
		}
		w.created++
	}
}

// live has somebody revoke a key now and then until the test ends: a ledger to which
// nothing is ever added shows nobody that he is up to date.
func (w *world) live() {
	ctx, cancel := context.WithCancel(w.t.Context())
	l := w.connect()
	var living sync.WaitGroup
	living.Go(func() {
		for n := revokedSoon; n < *keys && ctx.Err() == nil; n += every {
			if err := w.append(l, w.revocation(n)); err != nil {
				if ctx.Err() == nil {
					w.t.Errorf("revoke a key: %v", err)
				}
				return
			}
			w.mu.Lock()
			w.soon = append(w.soon, n)
			w.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})
	w.t.Cleanup(func() {
		cancel()
		living.Wait()
	})
}

// verdict is one that is due.
type verdict struct {
	key, secret string
	code        events.Code
}

// expect returns the verdicts that are due from whoever starts now: on keys of every
// sort from all over the ledger, on the newest, and on those that were revoked since
// the test began.
func (w *world) expect() []verdict {
	var due []verdict
	add := func(n int, code events.Code) {
		due = append(due, verdict{fmt.Sprintf("key %d", n), secretOf(n), code})
	}
	step := max(*keys/every/sampled, 1) * every
	for _, sort := range []struct {
		number int
		code   events.Code
	}{
		{revoked, events.CodeRevoked},
		{disabled, events.CodeInactive},
		{expired, events.CodeExpired},
		{revokedSoon + 1, events.CodeValid},
		{every - 1, events.CodeValid},
	} {
		for n := sort.number; n < *keys; n += step {
			add(n, sort.code)
		}
	}
	for n := max(*keys, w.created-sampled); n < w.created; n++ {
		switch n % every {
		case revoked:
			add(n, events.CodeRevoked)
		case expired:
			add(n, events.CodeExpired)
		default:
			add(n, events.CodeValid)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.soon {
		add(n, events.CodeRevoked)
	}
	add(w.created, events.CodeNotFound) // not yet
	return due
}

// keep has a snapshot stored at the broker as a server does that goes on from one of
// its own.
func (w *world) keep(folder string) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	own, err := snapshot.OpenFolder(folder)
	w.must(err)
	loaded, skipped, err := own.Newest(snapshot.Reader{Ledger: w.id})
	if err != nil || len(skipped) > 0 {
		w.t.Fatal(skipped, err)
	}
	w.must(own.Close())
	barrier := snapshot.NewBarrier(projections.Together("index", loaded.Continuity, loaded.Index))
	runner, err := projections.NewRunner(projections.Config{Source: w.ledger, View: barrier, Proven: loaded.Continuity.Proven})
	w.must(err)
	keeper, err := snapshots.New(snapshots.Config{
		Freeze: func() (picture *snapshot.Picture, err error) {
			barrier.Between(func() { picture, err = snapshot.Freeze(loaded.Index, loaded.Continuity) })
			return picture, err
		},
		Count: loaded.Continuity.Freeze, Ready: runner.Ready(), Store: w.ledger, Signer: w.signer,
		Every: time.Millisecond, Folder: w.t.TempDir(), Now: time.Now, Logger: slog.New(slog.NewTextHandler(w.t.Output(), nil)),
	})
	w.must(err)
	var running sync.WaitGroup
	running.Go(func() {
		if err := runner.Run(ctx); err != nil {
			w.t.Errorf("follow the ledger: %v", err)
		}
	})
	last, err := w.ledger.Last(ctx)
	w.must(err)
	// What was loaded proves nothing before something has come from the ledger itself.
	w.must(runner.WaitFor(ctx, last))
	began := time.Now()
	running.Go(func() { keeper.Run(ctx) })
	for keeper.Stats().Stored == 0 && time.Since(began) < patience && keeper.Stats().Failed == 0 {
		time.Sleep(time.Millisecond)
	}
	took := time.Since(began)
	cancel()
	running.Wait()
	s := keeper.Stats()
	if s.Stored == 0 {
		w.t.Fatalf("no snapshot is stored: %+v", s)
	}
	w.t.Logf("stored at the broker in %v, %d bytes a key", took.Round(time.Millisecond), s.Size/int64(*keys))
}
