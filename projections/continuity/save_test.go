package continuity_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/continuity"
	"github.com/keyledger/keyledger/projections/section"
)

var update = flag.Bool("update", false, "write the golden files anew")

func saved(t testing.TB, f *continuity.Frozen, label events.ScopeLabel) []byte {
	t.Helper()
	var b bytes.Buffer
	w := section.NewWriter(&b)
	if err := errors.Join(f.Save(w, label), w.Flush()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func load(c continuity.Config, body []byte) (*continuity.View, error) {
	r := section.NewReader(bytes.NewReader(body), int64(len(body)))
	v, err := continuity.Load(c, r)
	if err == nil && r.Left() != 0 {
		err = errors.New("something is left")
	}
	return v, err
}

// TestPositionsOfScopes: a narrowed reader begins at a fact that he is shown.
func TestPositionsOfScopes(t *testing.T) {
	w := newWorld(t)
	w.issue("edge-1", "s1", 0, "acme", "globex")
	w.issue("edge-2", "s2", 0, "initech")
	w.issue("edge-3", "s3", 0, "nobody")
	w.append(events.CredentialSubject("reader"), events.CredentialIssued{
		Name: "reader", For: events.CredentialAuditor, Organizations: []events.OrgID{"acme"}, Account: "A", Scope: "s4",
	}, 1)
	tick := w.tick()
	globex := w.add("globex")
	initech := w.add("initech")
	other := w.add("other")
	f, err := w.maker.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	for label, want := range map[events.ScopeLabel]events.Position{
		"": other.Position, "s1": globex.Position, "s2": initech.Position, "s3": tick.Position,
	} {
		if at, _, err := f.For(label); at != want || err != nil {
			t.Errorf("%q begins at %d, want %d: %v", label, at, want, err)
		}
	}
	if _, _, err := f.For("s9"); !errors.Is(err, continuity.ErrUnknownScope) {
		t.Errorf("%v", err)
	}
	scopes := f.Scopes()
	if len(scopes) != 3 || scopes[0].Label != "s1" || scopes[0].Facts != 1 || scopes[2].Facts != 0 || scopes[0].Last != globex.Position || f.Facts("s2") != 1 || f.Facts("") != uint64(other.Position) {
		t.Errorf("%+v", scopes)
	}
	w.append(events.CredentialSubject("edge-2"), events.CredentialRevoked{}, 2)
	w.append(events.InstallationSubject(), events.InstallationSignerAdded{Name: "other", VerifierKey: "not a key"}, 3)
	f, err = w.maker.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	if at, _, err := f.For("s3"); at != other.Position+2 || err != nil {
		t.Errorf("begins at %d: %v", at, err)
	}
	if _, _, err := f.For("s2"); !errors.Is(err, continuity.ErrUnknownScope) || len(f.Scopes()) != 2 {
		t.Errorf("whose credential was revoked: %v, %+v", err, f.Scopes())
	}
}

// TestUnprovenIsNotSaved: what nobody could rely on.
func TestUnprovenIsNotSaved(t *testing.T) {
	w := newWorld(t)
	w.issue("edge-1", "s1", 0, "acme")
	w.add("acme")
	r := w.narrowed("s1", "acme")
	unproven := func(v *continuity.View, why string) {
		t.Helper()
		if _, err := v.Freeze(); !errors.Is(err, continuity.ErrUnproven) {
			t.Errorf("%s: %v", why, err)
		}
	}
	unproven(r.View, "before a tick")
	r.read(t, w.tick())
	f, err := r.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	config := continuity.Config{Ledger: w.id, Scope: "s1", Organizations: []events.OrgID{"acme"}}
	v, err := load(config, saved(t, f, "s1"))
	if err != nil {
		t.Fatal(err)
	}
	unproven(v, "loaded, and nothing seen since")
	w.add("acme") // which r does not see
	r.read(t, w.tick())
	unproven(r.View, "in doubt")
}

// TestLoadedByAnother: what one reader has saved is none of another's.
func TestLoadedByAnother(t *testing.T) {
	w := newWorld(t)
	w.issue("edge-1", "s1", 0, "acme")
	w.add("acme")
	w.tick()
	f, err := w.maker.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	narrow := continuity.Config{Ledger: w.id, Scope: "s1", Organizations: []events.OrgID{"acme"}}
	other := narrow
	other.Organizations = []events.OrgID{"acme", "globex"}
	for name, try := range map[string]struct {
		as    continuity.Config
		label events.ScopeLabel
	}{
		"a part as the whole":      {continuity.Config{Ledger: w.id}, "s1"},
		"the whole as a part":      {narrow, ""},
		"of another organization":  {other, "s1"},
		"of another scope's label": {continuity.Config{Ledger: w.id, Scope: "s2", Organizations: []events.OrgID{"acme"}}, "s1"},
	} {
		if _, err := load(try.as, saved(t, f, try.label)); !errors.Is(err, section.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPinnedKeysStayPinned: what a snapshot says of who signs does not count either.
func TestPinnedKeysStayPinned(t *testing.T) {
	w := newWorld(t)
	w.add("acme")
	f, err := w.maker.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	_, stranger := newSigner(t, "stranger")
	v, err := load(continuity.Config{Ledger: w.id, VerifierKeys: []string{stranger}}, saved(t, f, ""))
	if err != nil {
		t.Fatal(err)
	}
	tick := w.tick()
	if err := v.Apply(t.Context(), []events.Recorded{tick}); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(v.Err(), continuity.ErrRefused) {
		t.Errorf("a tick of a signer who is not pinned: %v", v.Err())
	}
	if got := v.Signers(); len(got) != 1 || got[0] != w.key {
		t.Errorf("the ledger names %q", got)
	}
}

// TestBoundsAreKept: all of them by who reads everything, his own by who does not.
func TestBoundsAreKept(t *testing.T) {
	w := newWorld(t)
	w.issue("edge-1", "s1", 30, "acme")
	w.issue("edge-2", "s2", 60, "globex")
	w.add("acme")
	f, err := w.maker.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	whole, err := load(continuity.Config{Ledger: w.id}, saved(t, f, ""))
	if err != nil {
		t.Fatal(err)
	}
	part, err := load(continuity.Config{Ledger: w.id, Scope: "s1", Organizations: []events.OrgID{"acme"}}, saved(t, f, "s1"))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[events.CredentialName][2]time.Duration{
		"edge-1": {30 * time.Second, 30 * time.Second}, "edge-2": {time.Minute, 0}, "edge-3": {},
	} {
		if a, b := whole.Allowed(name), part.Allowed(name); a != want[0] || b != want[1] || w.maker.Allowed(name) != want[0] {
			t.Errorf("%s: %s and %s, want %s", name, a, b, want)
		}
	}
	if whole.Epoch() != 1 || part.Epoch() != 1 || whole.MaxStaleness() != 30*time.Second {
		t.Errorf("epochs %d and %d", whole.Epoch(), part.Epoch())
	}
}

func FuzzLoad(f *testing.F) {
	w := newWorld(f)
	w.issue("edge-1", "s1", 30, "acme", "globex")
	w.add("acme")
	w.tick()
	frozen, err := w.maker.Freeze()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(saved(f, frozen, ""), true)
	f.Add(saved(f, frozen, "s1"), false)
	tick := w.tick()
	f.Fuzz(func(t *testing.T, body []byte, whole bool) {
		config := continuity.Config{Ledger: w.id}
		if !whole {
			config.Scope, config.Organizations = "s1", []events.OrgID{"acme", "globex"}
		}
		v, err := load(config, body)
		if err != nil {
			return
		}
		if at, _ := v.Proven(); at != 0 {
			t.Fatal("something is proven by what was loaded")
		}
		if err := v.Apply(t.Context(), []events.Recorded{tick}); err != nil {
			t.Fatal(err)
		}
	})
}

// TestShapeOfWhatIsSaved fails when a count is saved in another way than it was. Then
// snapshot.Projection has to be raised, and these files written anew.
func TestShapeOfWhatIsSaved(t *testing.T) {
	// Facts whose bytes are the same in every run.
	id := events.LedgerID{15: 1}
	v, err := continuity.New(continuity.Config{Ledger: id})
	if err != nil {
		t.Fatal(err)
	}
	key, err := note.NewEd25519VerifierKey("keyledger", make(ed25519.PublicKey, ed25519.PublicKeySize))
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range []struct {
		subject events.Subject
		event   events.Event
	}{
		{events.InstallationSubject(), events.InstallationCreated{Ledger: id, Epoch: 1}},
		{events.InstallationSubject(), events.InstallationSignerAdded{Name: "keyledger", VerifierKey: key}},
		{events.CredentialSubject("edge-1"), events.CredentialIssued{
			Name: "edge-1", For: events.CredentialVerifier, Organizations: []events.OrgID{"acme", "globex"}, Account: "A", Scope: "s1", MaxStaleness: 30,
		}},
		{events.CredentialSubject("edge-2"), events.CredentialIssued{Name: "edge-2", For: events.CredentialVerifier, Organizations: []events.OrgID{"acme"}, Account: "B", Scope: "s2"}},
		{events.OrganizationSubject("acme"), events.OrganizationCreated{ID: "acme"}},
		{events.OrganizationSubject("globex"), events.OrganizationCreated{ID: "globex"}},
		{events.CredentialSubject("edge-2"), events.CredentialRevoked{}},
	} {
		f := events.Recorded{Position: events.Position(i + 1), Subject: e.subject, Event: e.event, Raw: []byte{byte(i)}, Stored: events.Time(1000 + i)}
		f.Meta.Revision = 1
		if err := v.Apply(t.Context(), []events.Recorded{f}); err != nil {
			t.Fatal(err)
		}
	}
	frozen, err := v.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	for name, label := range map[string]events.ScopeLabel{"whole.golden": "", "narrowed.golden": "s1"} {
		got, path := saved(t, frozen, label), filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: what is saved has another shape: raise snapshot.Projection, and run with -update", name)
		}
	}
}
