package index_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/projections/section"
)

var update = flag.Bool("update", false, "write the golden file anew")

// saved saves a picture.
func saved(t testing.TB, f *index.Frozen, only ...events.OrgID) []byte {
	t.Helper()
	var b bytes.Buffer
	w := section.NewWriter(&b)
	if err := errors.Join(f.Save(w, f.Position(), only), w.Flush()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func frozen(t testing.TB, x *index.Index) *index.Frozen {
	t.Helper()
	f, err := x.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func load(t testing.TB, b []byte) *index.Index {
	t.Helper()
	r := section.NewReader(bytes.NewReader(b), int64(len(b)))
	x, err := index.Load(index.Config{}, r)
	if err != nil {
		t.Fatal(err)
	}
	if r.Left() != 0 {
		t.Fatalf("%d bytes are left", r.Left())
	}
	return x
}

// everything makes facts of everything that a saved index holds.
func everything(b *book) {
	b.begin(acme)
	b.add(events.OrganizationSubject("globex"), events.OrganizationCreated{ID: "globex", Policy: events.Policy{Sealing: events.SwitchOn}})
	b.add(events.CatalogSubject("globex"), events.CatalogReplaced{Permissions: []events.CatalogPermission{
		{Name: "doc:read", Access: events.AccessRead, Description: events.ClearText("not kept").Clear, Routes: []string{"GET /docs/{id}", "GET /docs"}},
	}})
	b.add(events.OrganizationSubject("initech"), events.OrganizationCreated{ID: "initech"})
	b.add(events.EndSubject("initech"), events.OrganizationDeleted{})
	b.add(events.OrganizationSubject(acme), events.OrganizationRenamed{})
	b.add(events.WorkspaceSubject(acme, "w2"), events.WorkspaceDeleted{})
	b.add(events.ProfileSubject(acme, "p1"), events.ProfileCreated{ID: "p1", Name: events.ClearText("p"), Settings: events.Document(`{"a":1}`)})
	b.add(events.ProfileSubject(acme, "p2"), events.ProfileCreated{ID: "p2"})
	b.add(events.ProfileSubject(acme, "p2"), events.ProfileDeleted{})
	for n := range 40 {
		k := key(n)
		switch n % 4 {
		case 1:
			k.Permissions = events.Permissions{Level: events.LevelRestricted, Grants: []string{"doc:*", fmt.Sprintf("doc:%d", n)}}
			k.Scope = events.Scope{Workspaces: []events.WorkspaceID{"w1", "w2"}}
			k.Profile = "p1"
		case 2:
			k.ExpiresAt = events.Time(2_000_000_000_000_000 + n*1_000_000)
		case 3:
			k.Digest.Alg = events.PrefixShortLong
		}
		b.create([]events.OrgID{acme, "globex", "initech"}[n%3], k)
	}
	b.add(events.KeySubject(acme, keyID(0)), events.KeyDisabled{})
	b.add(events.RevokedSubject("globex", keyID(1)), events.KeyRevoked{})
	b.add(events.KeySubject(acme, keyID(6)), events.KeyRotated{GraceEndsAt: 1_900_000_000_000_000})
	b.add(events.KeySubject(acme, keyID(9)), events.KeyPermissionsChanged{Permissions: events.Permissions{Level: events.LevelReadOnly}})
	b.add(events.KeySubject(acme, keyID(12)), events.KeyExpired{})
	// One that ended before it began, and two of one digest in one organization: who
	// is shown one of two alone lets it in, where who sees both does not.
	b.add(events.RevokedSubject(acme, keyID(100)), events.KeyRevoked{})
	twin := key(4)
	twin.ID = keyID(101)
	b.create("globex", twin)
	b.add(events.RevokedSubject("globex", twin.ID), events.KeyRevoked{})
}

// TestLoadedIsWhatWasSaved also goes on with it.
func TestLoadedIsWhatWasSaved(t *testing.T) {
	b := newBook(t)
	everything(b)
	f := frozen(t, b.index)
	y := load(t, saved(t, f))
	f.Release()
	if d := cmp.Diff(b.index.Dump(), y.Dump()); d != "" {
		t.Fatal(d)
	}
	x := b.index
	more := func(b *book) {
		b.create(acme, key(100))
		b.create(acme, key(200))
		b.add(events.KeySubject(acme, keyID(1)), events.KeyEnabled{})
		b.add(events.KeySubject(acme, keyID(6)), events.KeyGraceChanged{})
		b.add(events.WorkspaceSubject(acme, "w3"), events.WorkspaceCreated{ID: "w3"})
		b.add(events.ProfileSubject(acme, "p1"), events.ProfileDeleted{})
		b.add(events.CatalogSubject("globex"), catalog("doc:read", "doc:write"))
		b.add(events.OrganizationSubject("globex"), events.OrganizationPolicyChanged{})
	}
	at, revisions := b.position, map[events.Subject]events.Revision{}
	for s, rev := range b.revisions {
		revisions[s] = rev
	}
	more(b)
	b.index, b.position, b.revisions = y, at, revisions
	more(b)
	if d := cmp.Diff(x.Dump(), y.Dump()); d != "" {
		t.Fatal(d)
	}
}

// TestNarrowedHoldsNothingElse compares with who has seen only that.
func TestNarrowedHoldsNothingElse(t *testing.T) {
	for _, only := range [][]events.OrgID{{acme}, {"globex", "initech"}, {"nobody"}} {
		whole, part := newBook(t), newBook(t)
		part.only = only
		everything(whole)
		everything(part)
		f := frozen(t, whole.index)
		var buf bytes.Buffer
		w := section.NewWriter(&buf)
		if err := errors.Join(f.Save(w, part.index.Applied(), only), w.Flush()); err != nil {
			t.Fatal(err)
		}
		f.Release()
		if d := cmp.Diff(part.index.Dump(), load(t, buf.Bytes()).Dump()); d != "" {
			t.Errorf("%v: %s", only, d)
		}
	}
}

// TestPictureIsOfItsPosition changes the index in every way while the picture is
// being written, page by page.
func TestPictureIsOfItsPosition(t *testing.T) {
	const keys = 12_000
	b := newBook(t)
	b.begin(acme)
	for n := range keys {
		b.create(acme, key(n))
	}
	want := b.index.Dump()
	f := frozen(t, b.index)
	if _, err := b.index.Freeze(); !errors.Is(err, index.ErrFreezing) {
		t.Errorf("a second picture: %v", err)
	}
	// The writer is ahead of the picture, beside it, and behind it.
	change := func(from int) {
		for n := from; n < keys; n += 37 {
			b.add(events.KeySubject(acme, keyID(n)), events.KeyDisabled{})
			b.create(acme, key(1_000_000+from*100_000+n))
		}
		b.add(events.RevokedSubject(acme, keyID(from)), events.KeyRevoked{})
		b.add(events.WorkspaceSubject(acme, events.WorkspaceID(fmt.Sprintf("later-%d", from))), events.WorkspaceCreated{ID: events.WorkspaceID(fmt.Sprintf("later-%d", from))})
		b.add(events.KeySubject(acme, keyID(from+20)), events.KeyPermissionsChanged{Permissions: events.Permissions{Level: events.LevelReadOnly}})
	}
	change(0)
	turns := 1
	var buf bytes.Buffer
	w := section.NewWriter(writerFunc(func(p []byte) (int, error) {
		if turns < 9 {
			change(turns)
			turns++
		}
		return buf.Write(p)
	}))
	if err := errors.Join(f.Save(w, f.Position(), nil), w.Flush()); err != nil {
		t.Fatal(err)
	}
	f.Release()
	if turns < 4 {
		t.Fatalf("the picture was written in %d turns", turns)
	}
	if got := load(t, buf.Bytes()).Dump(); got != want {
		t.Error("the picture is not of its position")
	}
	g := frozen(t, b.index)
	if got := load(t, saved(t, g)).Dump(); got != b.index.Dump() {
		t.Error("the next picture is not of its position")
	}
	g.Release()
	b.troubles(nil)
}

// TestWhoCannotWriteStops: a picture of many keys takes its time.
func TestWhoCannotWriteStops(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	for n := range 30_000 {
		b.create(acme, key(n))
	}
	f := frozen(t, b.index)
	defer f.Release()
	full, writes := errors.New("the disk is full"), 0
	w := section.NewWriter(writerFunc(func([]byte) (int, error) {
		writes++
		return 0, full
	}))
	if err := f.Save(w, f.Position(), nil); !errors.Is(err, full) || writes != 1 {
		t.Errorf("%v after %d writes", err, writes)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestPictureBesideAWriter does it at the same time, for the race detector.
func TestPictureBesideAWriter(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	for n := range 5_000 {
		b.create(acme, key(n))
	}
	for round := range 2 {
		want := b.index.Dump()
		f := frozen(t, b.index)
		done := make(chan []byte)
		go func() { done <- saved(t, f) }()
		for n := range 3_000 {
			b.create(acme, key(10_000*(round+1)+n))
			b.add(events.KeySubject(acme, keyID(n)), events.KeyScopeChanged{Scope: events.Scope{AllWorkspaces: round%2 == 0}})
		}
		got := load(t, <-done).Dump()
		f.Release()
		if got != want {
			t.Fatalf("round %d: the picture is not of its position", round)
		}
	}
}

func TestWithProblemsThereIsNoPicture(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	b.create(acme, key(1))
	b.add(events.KeySubject(acme, keyID(1)), events.Malformed{})
	if _, err := b.index.Freeze(); !errors.Is(err, index.ErrNotApplied) {
		t.Errorf("%v", err)
	}
}

// TestEveryByteCounts: what was cut is refused, and no changed byte lets anything
// panic. The digest that finds all the changes is the container's.
func TestEveryByteCounts(t *testing.T) {
	b := newBook(t)
	everything(b)
	f := frozen(t, b.index)
	whole := saved(t, f)
	f.Release()
	try := func(body []byte) error {
		_, err := index.Load(index.Config{}, section.NewReader(bytes.NewReader(body), int64(len(body))))
		return err
	}
	for n := range whole {
		if n%16 == 0 {
			if err := try(whole[:n]); !errors.Is(err, section.ErrDamaged) {
				t.Fatalf("cut to %d bytes: %v", n, err)
			}
		}
		changed := bytes.Clone(whole)
		changed[n] ^= 1 << (n % 8)
		if err := try(changed); err != nil && !errors.Is(err, section.ErrDamaged) {
			t.Fatalf("byte %d: %v", n, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	b := newBook(f)
	everything(b)
	picture := frozen(f, b.index)
	f.Add(saved(f, picture))
	picture.Release()
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, body []byte) {
		x, err := index.Load(index.Config{}, section.NewReader(bytes.NewReader(body), int64(len(body))))
		if err != nil {
			return
		}
		// What is loaded can be saved, and goes on.
		p := frozen(t, x)
		y := load(t, saved(t, p))
		p.Release()
		if d := cmp.Diff(x.Dump(), y.Dump()); d != "" {
			t.Fatal(d)
		}
		r := events.Recorded{Position: x.Applied() + 1, Subject: events.RevokedSubject(acme, keyID(0)), Event: events.KeyRevoked{}, Meta: events.Meta{Revision: 1}}
		if err := x.Apply(context.Background(), []events.Recorded{r}); err != nil {
			t.Fatal(err)
		}
	})
}

// TestShapeOfWhatIsSaved fails when an index is saved in another way than it was.
// Then snapshot.Projection has to be raised, and this file written anew.
func TestShapeOfWhatIsSaved(t *testing.T) {
	b := newBook(t)
	b.index.InOrder()
	everything(b)
	f := frozen(t, b.index)
	got := saved(t, f)
	f.Release()
	path := filepath.Join("testdata", "section.golden")
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
		t.Error("what is saved has another shape: raise snapshot.Projection, and run with -update")
	}
	if d := cmp.Diff(b.index.Dump(), load(t, want).Dump()); d != "" {
		t.Error(d)
	}
}

// TestSealing: whoever is not known to have its texts in clear has them sealed.
func TestSealing(t *testing.T) {
	b := newBook(t)
	everything(b)
	f := frozen(t, b.index)
	y := load(t, saved(t, f))
	f.Release()
	for org, want := range map[events.OrgID]bool{acme: false, "globex": true, "initech": false, "nobody": true, events.System: true} {
		if b.index.Sealing(org) != want || y.Sealing(org) != want {
			t.Errorf("%s: %t, loaded %t", org, b.index.Sealing(org), y.Sealing(org))
		}
	}
	b.add(events.OrganizationSubject(acme), events.OrganizationPolicyChanged{Policy: events.Policy{Sealing: events.SwitchOn}})
	if !b.index.Sealing(acme) {
		t.Error("a policy is not taken in")
	}
	b.add(events.OrganizationSubject("globex"), events.OrganizationPolicyChanged{})
	if b.index.Sealing("globex") {
		t.Error("a policy is not taken in")
	}
}
