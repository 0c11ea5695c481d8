// Package verifytest gives a test a ledger of its own, on a broker in its process,
// with verifier credentials to read it by: for tests of programs that use package
// verify. What it appends goes through the broker as a server's changes do, and past
// the rules that a server keeps: the caller says what happened.
package verifytest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/continuity"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/projections/snapshot"
)

// patience bounds what a broker takes its time for.
const patience = 30 * time.Second

// Permissions are those of every organization's catalog.
var permissions = []events.CatalogPermission{
	{Name: "doc:read", Access: events.AccessRead, Routes: []string{"GET /docs/{id}"}},
	{Name: "doc:write", Access: events.AccessWrite, Routes: []string{"POST /docs"}},
}

// Ledger is a ledger on a broker. Its methods are for one goroutine at a time.
type Ledger struct {
	t   testing.TB
	id  events.LedgerID
	dir string
	// listen is where verifiers come in, the same after a restart.
	listen string
	signer note.Signer
	vkey   string

	broker    *embedded.Broker
	ledger    *jetstream.Ledger
	revisions map[events.Subject]events.Revision
	// scopes are the labels of those who read a part.
	scopes   map[events.CredentialName]events.ScopeLabel
	counting *counting
}

// counting is what ticks and snapshots are made of.
type counting struct {
	view    *continuity.View
	index   *index.Index
	barrier *snapshot.Barrier
	runner  *projections.Runner
	stop    func()
}

// Begin begins a ledger that ends with the test. It holds no organization yet.
func Begin(t testing.TB) *Ledger {
	t.Helper()
	l := &Ledger{
		t: t, id: events.LedgerID(uuid.New()), listen: clustertest.FreeAddresses(t, 1)[0],
		revisions: make(map[events.Subject]events.Revision), scopes: make(map[events.CredentialName]events.ScopeLabel),
	}
	l.dir = l.folder()
	secret, vkey, err := note.GenerateKey(rand.Reader, "verifytest")
	l.must(err)
	l.vkey = vkey
	l.signer, err = note.NewSigner(secret)
	l.must(err)
	l.Start()
	l.must(l.broker.Setup(t.Context(), func(conn *nats.Conn) error { return jetstream.EnsureStreams(t.Context(), conn, 1) }))
	l.Append(events.InstallationSubject(), events.InstallationCreated{Ledger: l.id, Epoch: 1})
	l.Append(events.InstallationSubject(), events.InstallationSignerAdded{Name: "verifytest", VerifierKey: vkey})
	return l
}

// folder is a temporary one. A broker that has ended may still sweep up in it.
func (l *Ledger) folder() string {
	dir, err := os.MkdirTemp("", "verifytest")
	l.must(err)
	l.t.Cleanup(func() {
		for range 50 {
			if os.RemoveAll(dir) == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	return dir
}

func (l *Ledger) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// Start starts the broker, on the ledger that it had before it was stopped.
func (l *Ledger) Start() {
	l.t.Helper()
	b, err := embedded.Start(l.t.Context(), embedded.Config{Dir: l.dir, Listen: l.listen})
	l.must(err)
	l.broker, l.listen = b, b.Addr().String()
	l.t.Cleanup(b.Shutdown)
	l.ledger, err = jetstream.New(jetstream.Config{Conn: b.Conn(), Ledger: l.id, Replicas: 1})
	l.must(err)
}

// Stop stops the broker.
func (l *Ledger) Stop() {
	if l.counting != nil {
		l.counting.stop()
		l.counting = nil
	}
	l.broker.Shutdown()
}

// Copy keeps the broker's files as they are, and returns what puts them back: each
// while the broker is stopped. So a ledger is cut, as a backup that is older than what
// was answered since cuts it.
func (l *Ledger) Copy() (restore func()) {
	l.t.Helper()
	kept := l.folder()
	revisions := maps.Clone(l.revisions)
	l.must(os.CopyFS(kept, os.DirFS(l.dir)))
	return func() {
		l.t.Helper()
		l.must(os.RemoveAll(l.dir))
		l.must(os.MkdirAll(l.dir, 0o700))
		l.must(os.CopyFS(l.dir, os.DirFS(kept)))
		l.revisions = revisions
	}
}

// ID is the ledger's.
func (l *Ledger) ID() events.LedgerID { return l.id }

// Positions write and read its positions.
func (l *Ledger) Positions() events.Positions { return events.Positions{Ledger: l.id, Epoch: 1} }

// LogKey is the verifier key of what the installation signs, and Signer signs it.
func (l *Ledger) LogKey() string { return l.vkey }

// Signer signs for the installation.
func (l *Ledger) Signer() note.Signer { return l.signer }

// JetStream is the ledger as a server works with it.
func (l *Ledger) JetStream() *jetstream.Ledger { return l.ledger }

// URL is where verifiers come in.
func (l *Ledger) URL() string { return "nats://" + l.listen }

// Append appends an event to its aggregate, and returns where it stands.
func (l *Ledger) Append(subject events.Subject, e events.Event) events.Position {
	l.t.Helper()
	facts, err := l.ledger.Append(l.t.Context(), []events.Entry{{Subject: subject, Event: e, Meta: events.Meta{
		ID: events.EventID(uuid.Must(uuid.NewV7())), Ledger: l.id, Time: events.TimeOf(time.Now()), Revision: l.revisions[subject] + 1,
		Actor: events.Actor{Type: events.ActorSystem, Name: "verifytest"}, Command: events.CommandID(uuid.New()),
	}}})
	l.must(err)
	l.revisions[subject]++
	return facts[0].Position
}

// Organization makes an organization with the permissions doc:read and doc:write,
// routes to them (GET /docs/{id}, POST /docs), and the workspaces w1 and w2.
func (l *Ledger) Organization(org events.OrgID) {
	l.t.Helper()
	l.Append(events.OrganizationSubject(org), events.OrganizationCreated{ID: org, Name: events.ClearText(string(org))})
	l.Append(events.CatalogSubject(org), events.CatalogReplaced{Permissions: permissions})
	for _, w := range []events.WorkspaceID{"w1", "w2"} {
		l.Append(events.WorkspaceSubject(org, w), events.WorkspaceCreated{ID: w, Name: events.ClearText(string(w))})
	}
}

// Key makes a key that may do what is listed, everything if nothing is, in all
// workspaces, and returns it with its id.
func (l *Ledger) Key(org events.OrgID, grants ...string) (secret string, id events.KeyID) {
	l.t.Helper()
	var random [24]byte
	_, err := rand.Read(random[:])
	l.must(err)
	key, err := keystring.New("kl_test", random)
	l.must(err)
	secret, id = key.Reveal(), events.KeyID(uuid.Must(uuid.NewV7()))
	may := events.Permissions{Level: events.LevelAll}
	if len(grants) > 0 {
		may = events.Permissions{Level: events.LevelRestricted, Grants: slices.Sorted(slices.Values(grants))}
	}
	l.Append(events.KeySubject(org, id), events.KeyCreated{
		ID: id, KeyKind: events.KindAPI, Prefix: keystring.Prefix(secret), LastFour: keystring.LastFour(secret),
		Digest:      events.Digest{Alg: events.SHA256, Value: keystring.Digest(secret)},
		Permissions: may, Scope: events.Scope{AllWorkspaces: true}, CreatedAt: events.TimeOf(time.Now()),
	})
	return secret, id
}

// Revoke revokes a key, and returns where that stands.
func (l *Ledger) Revoke(org events.OrgID, id events.KeyID) events.Position {
	l.t.Helper()
	return l.Append(events.RevokedSubject(org, id), events.KeyRevoked{})
}

// Last is where the ledger ends.
func (l *Ledger) Last() events.Position {
	l.t.Helper()
	last, err := l.ledger.Last(l.t.Context())
	l.must(err)
	return last
}

// Verifier issues a credential for a verifier, narrowed to organizations if any are
// named, and returns what opens the broker with it: a secret.
func (l *Ledger) Verifier(name events.CredentialName, maxStaleness time.Duration, orgs ...events.OrgID) []byte {
	l.t.Helper()
	issued := events.CredentialIssued{
		Name: name, For: events.CredentialVerifier, Organizations: slices.Sorted(slices.Values(orgs)), MaxStaleness: int(maxStaleness / time.Second),
	}
	if len(orgs) > 0 {
		label := make([]byte, 16)
		_, err := rand.Read(label)
		l.must(err)
		issued.Scope = events.ScopeLabel(hex.EncodeToString(label))
		l.scopes[name] = issued.Scope
	}
	drawn, err := credentials.Draw(credentials.GrantOf(issued))
	l.must(err)
	issued.Account = drawn.Account
	l.Append(events.CredentialSubject(name), issued)
	grant := credentials.GrantOf(issued)
	for _, r := range grant.Readers(l.id) {
		l.must(jetstream.EnsureReader(l.t.Context(), l.broker.Conn(), r))
	}
	account, err := l.broker.Authority().Account(grant, drawn.Account)
	l.must(err)
	l.must(l.broker.Push(l.t.Context(), account))
	return drawn.Creds
}

// Connect connects with a credential. The connection ends with the test, and comes
// back by itself when the broker does; it is returned also when no broker is there.
func (l *Ledger) Connect(creds []byte, options ...nats.Option) *nats.Conn {
	l.t.Helper()
	conn, err := nats.Connect(l.URL(), append([]nats.Option{
		nats.UserCredentialBytes(creds), nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond),
		nats.RetryOnFailedConnect(true), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}, options...)...)
	l.must(err)
	l.t.Cleanup(conn.Close)
	return conn
}

// Tick appends a tick that counts everything there is, which makes those fresh who
// read a part of it.
func (l *Ledger) Tick() events.Position {
	l.t.Helper()
	draft, _ := l.counted().view.Next(events.TimeOf(time.Now()))
	draft.Tick.Signature = l.sign(l.signer, draft.Tick.Text(l.id))
	return l.Append(events.TickSubject(), draft.Tick)
}

// StoreSnapshot stores a snapshot of everything there is, or of what a verifier is shown
// that is narrowed, signed by somebody; nil is the installation.
func (l *Ledger) StoreSnapshot(of events.CredentialName, signer note.Signer) events.Position {
	l.t.Helper()
	if signer == nil {
		signer = l.signer
	}
	c := l.counted()
	var picture *snapshot.Picture
	var err error
	c.barrier.Between(func() { picture, err = snapshot.Freeze(c.index, c.view) })
	l.must(err)
	defer picture.Release()
	var b bytes.Buffer
	written, err := picture.Write(&b, l.scopes[of], events.TimeOf(time.Now()))
	l.must(err)
	m := written.Manifest()
	m.Signature = l.sign(signer, m.Text())
	l.must(l.ledger.PublishSnapshot(l.t.Context(), m, &b))
	return m.Position
}

// sign returns the signature line over a text.
func (l *Ledger) sign(signer note.Signer, text string) string {
	l.t.Helper()
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	l.must(err)
	return strings.TrimSuffix(strings.TrimPrefix(string(signed), text+"\n"), "\n")
}

// counted is the count of all there is.
func (l *Ledger) counted() *counting {
	l.t.Helper()
	if l.counting == nil {
		l.count()
	}
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	l.must(l.counting.runner.WaitFor(ctx, l.Last()))
	return l.counting
}

// count begins to count the ledger.
func (l *Ledger) count() {
	l.t.Helper()
	view, err := continuity.New(continuity.Config{Ledger: l.id})
	l.must(err)
	x, err := index.New(index.Config{})
	l.must(err)
	barrier := snapshot.NewBarrier(projections.Together("verifytest", view, x))
	runner, err := projections.NewRunner(projections.Config{Source: l.ledger, View: barrier, Proven: view.Proven})
	l.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := runner.Run(ctx); err != nil {
			l.t.Errorf("verifytest: count the ledger: %v", err)
		}
	})
	stop := sync.OnceFunc(func() { cancel(); running.Wait() })
	l.t.Cleanup(stop)
	l.counting = &counting{view, x, barrier, runner, stop}
}

// Uses counts the uses that are stored, by the verifier that recorded them, and
// returns what their numbers show to be wrong: runs that have no end among it.
func (l *Ledger) Uses() (map[events.VerifierID]uint64, []uses.Finding) {
	l.t.Helper()
	counted := make(map[events.VerifierID]uint64)
	var runs uses.Continuity
	var findings []uses.Finding
	last, err := l.ledger.LastUses(l.t.Context())
	l.must(err)
	for pos := events.Position(1); pos <= last; pos++ {
		m, err := l.ledger.UsesAt(l.t.Context(), pos)
		l.must(err)
		h, err := uses.ReadHeader(m.Subject, m.Body)
		l.must(err)
		fresh, found := runs.Add(h)
		if fresh > 0 {
			counted[h.Verifier] += h.Last - fresh + 1
		}
		findings = append(findings, found...)
	}
	return counted, append(findings, runs.Unended()...)
}

// Deaf has the broker take no announcements, until what it returns is called.
func (l *Ledger) Deaf() (hear func()) {
	l.t.Helper()
	l.must(l.broker.Setup(l.t.Context(), func(conn *nats.Conn) error {
		js, err := conn.JetStream()
		if err != nil {
			return err
		}
		return js.DeleteStream(jetstream.StreamPresence)
	}))
	return func() {
		l.t.Helper()
		l.must(l.broker.Setup(l.t.Context(), func(conn *nats.Conn) error { return jetstream.EnsureStreams(l.t.Context(), conn, 1) }))
	}
}

// Announcements are all that verifiers have said of themselves so far.
func (l *Ledger) Announcements() []presence.Announcement {
	l.t.Helper()
	last, err := l.ledger.LastPresence(l.t.Context())
	l.must(err)
	var said []presence.Announcement
	if last == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	err = l.ledger.FollowPresence(ctx, 0, func(messages []presence.Message) error {
		for _, m := range messages {
			a, err := presence.Decode(l.id, m)
			l.must(err)
			said = append(said, a)
		}
		if messages[len(messages)-1].Position >= last {
			return errAll
		}
		return nil
	})
	if !errors.Is(err, errAll) {
		l.t.Fatal(err)
	}
	return said
}

// errAll ends a reading that has come to the end.
var errAll = errors.New("verifytest: that is all")
