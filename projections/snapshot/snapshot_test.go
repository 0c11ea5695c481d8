package snapshot_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/events/snapshots"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/continuity"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/projections/snapshot"
)

const label = events.ScopeLabel("0123456789abcdef0123456789abcdef")

// scope are the organizations behind the label.
var scope = []events.OrgID{"acme", "globex"}

// world is a ledger with a server that reads all of it.
type world struct {
	t         testing.TB
	id        events.LedgerID
	ledger    *memory.Ledger
	facts     []events.Recorded
	revisions map[events.Subject]events.Revision
	signer    note.Signer
	key       string
	server    *reader
}

// reader is who reads the ledger, or a part of it.
type reader struct {
	index   *index.Index
	count   *continuity.View
	barrier *snapshot.Barrier
	only    []events.OrgID
}

func newWorld(t testing.TB) *world {
	t.Helper()
	id := events.LedgerID(newID(t))
	w := &world{t: t, id: id, ledger: memory.New(id), revisions: map[events.Subject]events.Revision{}}
	secret, public, err := note.GenerateKey(rand.Reader, "keyledger")
	if err != nil {
		t.Fatal(err)
	}
	if w.signer, err = note.NewSigner(secret); err != nil {
		t.Fatal(err)
	}
	w.key = public
	w.server = w.reader()
	w.add(events.InstallationSubject(), events.InstallationCreated{Ledger: id, Epoch: 1})
	w.add(events.InstallationSubject(), events.InstallationSignerAdded{Name: "keyledger", VerifierKey: public})
	w.add(events.CredentialSubject("edge-1"), events.CredentialIssued{
		Name: "edge-1", For: events.CredentialVerifier, Organizations: scope, Account: "A", Scope: label,
	})
	for _, org := range []events.OrgID{"acme", "globex", "initech"} {
		w.add(events.OrganizationSubject(org), events.OrganizationCreated{ID: org, Name: events.ClearText("o"), Plan: "growth"})
	}
	return w
}

func newID(t testing.TB) uuid.UUID {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// reader returns who has read nothing yet.
func (w *world) reader(only ...events.OrgID) *reader {
	w.t.Helper()
	config := continuity.Config{Ledger: w.id, Organizations: only}
	if len(only) > 0 {
		config.Scope = label
	}
	count, err := continuity.New(config)
	if err != nil {
		w.t.Fatal(err)
	}
	x, err := index.New(index.Config{})
	if err != nil {
		w.t.Fatal(err)
	}
	return readerOf(x, count, only...)
}

func readerOf(x *index.Index, count *continuity.View, only ...events.OrgID) *reader {
	return &reader{index: x, count: count, barrier: snapshot.NewBarrier(projections.Together("index", count, x)), only: only}
}

// who is the reader, as snapshots know him.
func (w *world) who(r *reader) snapshot.Reader {
	who := snapshot.Reader{Ledger: w.id, Organizations: r.only}
	if len(r.only) > 0 {
		who.Scope = label
	}
	return who
}

func (r *reader) sees(f events.Recorded) bool {
	return len(r.only) == 0 || slices.Contains(r.only, f.Subject.Org) || f.Subject == events.TickSubject() || f.Subject == events.InstallationSubject()
}

// read reads what is new to it.
func (r *reader) read(t testing.TB, facts ...events.Recorded) {
	t.Helper()
	if _, err := r.barrier.Position(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, f := range facts {
		if f.Position <= r.index.Applied() || !r.sees(f) {
			continue
		}
		if err := r.barrier.Apply(context.Background(), []events.Recorded{f}); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) add(subject events.Subject, e events.Event) events.Recorded {
	w.t.Helper()
	w.revisions[subject]++
	facts, err := w.ledger.Append(context.Background(), []events.Entry{{Subject: subject, Event: e, Meta: events.Meta{
		ID: events.EventID(newID(w.t)), Ledger: w.id, Time: events.TimeOf(time.Now()), Revision: w.revisions[subject],
		Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(newID(w.t)),
	}}})
	if err != nil {
		w.t.Fatal(err)
	}
	facts[0].Stored = events.TimeOf(time.Now()) // which only readers are told
	w.facts = append(w.facts, facts[0])
	w.server.read(w.t, facts[0])
	return facts[0]
}

// tick appends a tick of the server's.
func (w *world) tick() events.Recorded {
	w.t.Helper()
	d, ok := w.server.count.Next(events.TimeOf(time.Now()))
	if !ok {
		w.t.Fatal("no draft")
	}
	text := d.Tick.Text(w.id)
	signed, err := note.Sign(&note.Note{Text: text}, w.signer)
	if err != nil {
		w.t.Fatal(err)
	}
	d.Tick.Signature = strings.TrimSuffix(strings.TrimPrefix(string(signed), text+"\n"), "\n")
	return w.add(events.TickSubject(), d.Tick)
}

func keyID(n int) (id events.KeyID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	id[6], id[8] = 0x70, 0x80
	return id
}

func digestOf(n int) (v events.DigestValue) {
	binary.LittleEndian.PutUint64(v[:], uint64(n)*0x9e3779b97f4a7c15+1)
	return v
}

func (w *world) create(org events.OrgID, n int) events.Recorded {
	w.t.Helper()
	return w.add(events.KeySubject(org, keyID(n)), events.KeyCreated{
		ID: keyID(n), KeyKind: events.KindAPI, CreatedAt: now, Prefix: "k_", LastFour: "abcd", Digest: events.Digest{Alg: events.SHA256, Value: digestOf(n)},
		Permissions: events.Permissions{Level: events.LevelAll}, Scope: events.Scope{AllWorkspaces: true},
	})
}

// has tells whether a reader knows a key, and whether it ended.
func (r *reader) has(n int) (known, revoked bool) {
	d, hit := digestOf(n), index.Hit{}
	known = r.index.Lookup(&d, &hit)
	return known, known && hit.Revoked()
}

func freeze(t testing.TB, r *reader) *snapshot.Picture {
	t.Helper()
	var p *snapshot.Picture
	var err error
	r.barrier.Between(func() { p, err = snapshot.Freeze(r.index, r.count) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Release)
	return p
}

var now = events.TimeOf(time.Unix(1_700_000_000, 0))

func save(t testing.TB, r *reader, scope events.ScopeLabel) ([]byte, snapshot.Written) {
	t.Helper()
	var b bytes.Buffer
	p := freeze(t, r)
	defer p.Release()
	written, err := p.Write(&b, scope, now)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), written
}

func load(t testing.TB, body []byte, who snapshot.Reader) *reader {
	t.Helper()
	l, err := snapshot.Read(bytes.NewReader(body), int64(len(body)), who)
	if err != nil {
		t.Fatal(err)
	}
	return readerOf(l.Index, l.Continuity, who.Organizations...)
}

// TestGoesOnFromThere: who has loaded a snapshot, of his own or of the server's, is
// fresh with the next tick, like who was there all along.
func TestGoesOnFromThere(t *testing.T) {
	for _, only := range [][]events.OrgID{nil, scope} {
		for _, servers := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d organizations, by the server %t", len(only), servers), func(t *testing.T) {
				w := newWorld(t)
				there := w.reader(only...)
				for n := range 9 {
					w.create([]events.OrgID{"acme", "globex", "initech"}[n%3], n)
				}
				w.add(events.RevokedSubject("acme", keyID(3)), events.KeyRevoked{})
				w.tick()
				w.create("globex", 100)
				last := w.create("initech", 101)
				there.read(t, w.facts...)
				by, of := there, events.ScopeLabel("")
				if servers {
					by = w.server
					if only != nil {
						of = label
					}
				}
				body, written := save(t, by, of)
				if want := there.index.Applied(); written.Position != want || only != nil && want == last.Position {
					t.Fatalf("at position %d instead of %d", written.Position, want)
				}
				again := load(t, body, w.who(there))
				if at, holds := again.count.Proven(); at != 0 || !holds {
					t.Fatalf("proven up to %s by a snapshot", at)
				}
				w.add(events.RevokedSubject("globex", keyID(1)), events.KeyRevoked{})
				again.read(t, w.facts...)
				there.read(t, w.facts...)
				for range 2 {
					f := w.tick()
					again.read(t, w.facts...)
					there.read(t, w.facts...)
					w.create("initech", 1000+int(f.Position))
				}
				for n := range 9 {
					known, revoked := there.has(n)
					if k, r := again.has(n); k != known || r != revoked || known == (only != nil && n%3 == 2) {
						t.Errorf("key %d: known %t, revoked %t; want %t, %t", n, k, r, known, revoked)
					}
				}
				want, _ := there.count.Proven()
				if at, holds := again.count.Proven(); at != want || at == 0 || !holds || again.count.Err() != nil || again.index.Err() != nil {
					t.Errorf("proven up to %s, want %s; holds: %t; %v, %v", at, want, holds, again.count.Err(), again.index.Err())
				}
				if !slices.Equal(again.count.Signers(), []string{w.key}) {
					t.Errorf("signers: %q", again.count.Signers())
				}
			})
		}
	}
}

// TestNarrowedTellsNothingOfOthers: neither names nor digests.
func TestNarrowedTellsNothingOfOthers(t *testing.T) {
	w := newWorld(t)
	w.add(events.CredentialSubject("edge-2"), events.CredentialIssued{
		Name: "edge-2", For: events.CredentialVerifier, Organizations: []events.OrgID{"initech"}, Account: "A", Scope: "fedcba9876543210fedcba9876543210",
	})
	own, others := w.create("acme", 1), []events.Recorded{w.create("initech", 2), w.create(events.System, 3)}
	w.tick()
	body, _ := save(t, w.server, label)
	whole, _ := save(t, w.server, "")
	digest := func(f events.Recorded) string { d := f.Event.(events.KeyCreated).Digest.Value; return string(d[:]) }
	for what, text := range map[string]string{
		"an organization": "initech", "a credential": "edge-2", "a scope": "fedcba98", "a key": digest(others[0]), "a management key": digest(others[1]),
	} {
		if bytes.Contains(body, []byte(text)) || !bytes.Contains(whole, []byte(text)) {
			t.Errorf("it tells of %s of others", what)
		}
	}
	if !bytes.Contains(body, []byte(digest(own))) {
		t.Error("its own key is not there")
	}
}

// TestEveryByteIsHeldTo flips a bit of every byte, another one each time, and cuts at
// every byte.
func TestEveryByteIsHeldTo(t *testing.T) {
	w := newWorld(t)
	w.create("acme", 1)
	w.tick()
	body, written := save(t, w.server, "")
	if written.Size != int64(len(body)) {
		t.Fatalf("%d bytes, said to be %d", len(body), written.Size)
	}
	who := w.who(w.server)
	refused := func(body []byte) bool {
		_, err := snapshot.Read(bytes.NewReader(body), int64(len(body)), who)
		return errors.Is(err, snapshot.ErrDamaged) || errors.Is(err, snapshot.ErrVersion) || errors.Is(err, snapshot.ErrForeign)
	}
	for n := range body {
		changed := bytes.Clone(body)
		changed[n] ^= 1 << (n % 8)
		if !refused(changed) {
			t.Fatalf("bit %d of byte %d counts for nothing", n%8, n)
		}
		if !refused(body[:n]) {
			t.Fatalf("cut to %d bytes it is taken", n)
		}
	}
	if !refused(append(bytes.Clone(body), 0)) {
		t.Error("what comes after it is taken")
	}
}

// shapes are the digests of what the parts of a snapshot look like, by version.
var shapes = map[int]string{
	1: "4df572dc402c7b9de04e94522868e8d5cc6ab6a5fd8d128fdd9e9eee5c91b4b1",
}

// TestVersionIsRaised: the parts keep files of what they save. When those change, so
// does the version.
func TestVersionIsRaised(t *testing.T) {
	sum := sha256.New()
	for _, path := range []string{"../index/testdata/section.golden", "../continuity/testdata/whole.golden", "../continuity/testdata/narrowed.golden"} {
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(sum, "%d\n%s", len(body), body)
	}
	if got := fmt.Sprintf("%x", sum.Sum(nil)); shapes[snapshot.Projection] != got {
		t.Errorf("what is saved looks like %s, and in version %d like %q: raise snapshot.Projection", got, snapshot.Projection, shapes[snapshot.Projection])
	}
}

// TestSignatureIsOfWhoMay, over what is said.
func TestSignatureIsOfWhoMay(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	w.create("acme", 1)
	w.tick()
	_, written := save(t, w.server, label)
	m := written.Manifest()
	signed, err := note.Sign(&note.Note{Text: m.Text()}, w.signer)
	if err != nil {
		t.Fatal(err)
	}
	m.Signature = strings.TrimSuffix(strings.TrimPrefix(string(signed), m.Text()+"\n"), "\n")
	if err := snapshot.CheckSignature(&m, []string{other.key, w.key, w.key}); err != nil {
		t.Error(err)
	}
	if err := (snapshot.Reader{Ledger: w.id, Scope: label, Organizations: scope}).Admits(&m); err != nil {
		t.Error(err)
	}
	if err := (snapshot.Reader{Ledger: w.id}).Admits(&m); !errors.Is(err, snapshot.ErrForeign) {
		t.Error(err)
	}
	refused := func(why string, m *snapshots.Manifest, keys ...string) {
		t.Helper()
		if err := snapshot.CheckSignature(m, keys); !errors.Is(err, snapshot.ErrUnsigned) {
			t.Errorf("%s: %v", why, err)
		}
	}
	refused("by nobody's key", &m)
	refused("by another's key", &m, other.key)
	changed := m
	changed.Position++
	refused("of another position", &changed, w.key)
	changed = m
	changed.Digest[0]++
	refused("of other bytes", &changed, w.key)
	changed = m
	changed.Signature += "\n" + m.Signature
	refused("with more lines than one", &changed, w.key)
	changed.Signature = ""
	refused("without one", &changed, w.key)
}

func TestWithProblemsThereIsNoSnapshot(t *testing.T) {
	w := newWorld(t)
	if err := w.server.index.Apply(t.Context(), []events.Recorded{{
		Position: 1000, Subject: events.KeySubject("acme", keyID(1)), Event: events.Malformed{}, Meta: events.Meta{Revision: 1},
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.Freeze(w.server.index, w.server.count); !errors.Is(err, snapshot.ErrProblems) || !errors.Is(err, index.ErrNotApplied) {
		t.Error(err)
	}
	if _, err := snapshot.Freeze(w.reader().index, w.server.count); !errors.Is(err, snapshot.ErrProblems) {
		t.Errorf("an index of another position: %v", err)
	}
	fresh := w.reader()
	if _, err := snapshot.Freeze(fresh.index, fresh.count); !errors.Is(err, snapshot.ErrProblems) || !errors.Is(err, continuity.ErrUnproven) {
		t.Errorf("nothing read yet: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	w := newWorld(f)
	w.create("acme", 1)
	w.tick()
	body, _ := save(f, w.server, "")
	f.Add(body, true)
	part, _ := save(f, w.server, label)
	f.Add(part, false)
	narrowed := w.reader(scope...)
	f.Fuzz(func(t *testing.T, body []byte, whole bool) {
		who := w.who(w.server)
		if !whole {
			who = w.who(narrowed)
		}
		// What is changed is also given its digest, so that more is read than that.
		try := [][]byte{body}
		if n := len(body) - sha256.Size; n > 0 {
			sum := sha256.Sum256(body[:n])
			try = append(try, append(bytes.Clone(body[:n]), sum[:]...))
		}
		for _, body := range try {
			l, err := snapshot.Read(bytes.NewReader(body), int64(len(body)), who)
			switch {
			case err == nil:
				if l.Index.Applied() != l.Position || l.Continuity.Applied() != l.Position || l.Size != int64(len(body)) {
					t.Fatalf("%+v", l.Written)
				}
			case !errors.Is(err, snapshot.ErrDamaged) && !errors.Is(err, snapshot.ErrVersion) && !errors.Is(err, snapshot.ErrForeign):
				t.Fatal(err)
			}
		}
	})
}
