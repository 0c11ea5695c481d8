package snapshot_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/snapshot"
)

func open(t testing.TB, path string) *snapshot.Folder {
	t.Helper()
	f, err := snapshot.OpenFolder(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// keep saves what a reader holds into a folder.
func keep(t testing.TB, f *snapshot.Folder, r *reader) snapshot.Written {
	t.Helper()
	p := freeze(t, r)
	defer p.Release()
	written, err := f.Save(p, now)
	if err != nil {
		t.Fatal(err)
	}
	return written
}

// filesIn are the names of the snapshots in a folder, oldest first.
func filesIn(t testing.TB, path string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(path, "*.snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func TestFolderKeepsTheNewest(t *testing.T) {
	w, path := newWorld(t), filepath.Join(t.TempDir(), "deep", "snapshots")
	f := open(t, path)
	if _, skipped, err := f.Newest(w.who(w.server)); !errors.Is(err, snapshot.ErrNone) || skipped != nil {
		t.Fatal(skipped, err)
	}
	var last snapshot.Written
	for n := range 4 {
		w.create("acme", n)
		last = keep(t, f, w.server)
	}
	if names := filesIn(t, path); len(names) != 2 {
		t.Errorf("%q", names)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", e.Name(), info.Mode(), err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	l, skipped, err := f.Newest(w.who(w.server))
	if err != nil || skipped != nil {
		t.Fatal(skipped, err)
	}
	if l.Position != last.Position || l.Digest != last.Digest || l.Size != last.Size || l.Index.Len() != 4 {
		t.Errorf("%+v, want %+v", l.Written, last)
	}
	seen, known, err := f.Seen()
	if err != nil || !known || seen.Ledger != w.id || seen.Position != last.Position || !slices.Equal(seen.Signers, []string{w.key}) {
		t.Errorf("%+v %t %v", seen, known, err)
	}
}

// TestWhatIsCalledNewer takes no place in a folder: it is none of its own.
func TestWhatIsCalledNewer(t *testing.T) {
	w, path := newWorld(t), t.TempDir()
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	f := open(t, path)
	for _, name := range []string{"99999999999999999999-0123456789abcdef.snapshot", "99999999999999999998-0123456789abcdef.snapshot"} {
		if err := os.WriteFile(filepath.Join(path, name), []byte("newer"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var last snapshot.Written
	for n := range 4 {
		w.create("acme", n)
		last = keep(t, f, w.server)
	}
	if l, skipped, err := f.Newest(w.who(w.server)); err != nil || l.Position != last.Position || len(skipped) != 2 {
		t.Errorf("%+v, skipped %+v: %v", l, skipped, err)
	}
	if names := filesIn(t, path); len(names) != 4 {
		t.Errorf("%q", names)
	}
}

// TestOldOnePutBack: neither by its name nor by another, and not when the newest has
// gone.
func TestOldOnePutBack(t *testing.T) {
	w, path := newWorld(t), t.TempDir()
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	f := open(t, path)
	w.create("acme", 1)
	keep(t, f, w.server)
	name := filesIn(t, path)[0]
	old, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	w.add(events.RevokedSubject("acme", keyID(1)), events.KeyRevoked{})
	newest := keep(t, f, w.server)
	refused := func(why string) {
		t.Helper()
		_, skipped, err := f.Newest(w.who(w.server))
		if !errors.Is(err, snapshot.ErrNone) || len(skipped) == 0 {
			t.Fatalf("%s: %v %v", why, skipped, err)
		}
		for _, s := range skipped {
			if !errors.Is(s.Err, snapshot.ErrOlder) && !errors.Is(s.Err, snapshot.ErrDamaged) {
				t.Errorf("%s: %s: %v", why, s.Name, s.Err)
			}
		}
	}
	put := func(name string, body []byte) {
		t.Helper()
		if err := os.WriteFile(name, body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(filesIn(t, path)[1])
	if err != nil {
		t.Fatal(err)
	}
	put(filesIn(t, path)[1], old)
	refused("under the newest one's name")
	put(filesIn(t, path)[1], whole[:len(whole)/2])
	refused("beside the newest, which was cut")
	if err := os.Remove(filesIn(t, path)[1]); err != nil {
		t.Fatal(err)
	}
	refused("alone")
	// It does not come in from elsewhere, either.
	if err := f.Admits(snapshot.Header{Ledger: w.id, Position: newest.Position - 1}); !errors.Is(err, snapshot.ErrOlder) {
		t.Error(err)
	}
	spool, err := f.Create()
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Discard()
	if _, err := spool.Write(old); err != nil {
		t.Fatal(err)
	}
	if _, err := spool.Load(w.who(w.server)); !errors.Is(err, snapshot.ErrOlder) {
		t.Error(err)
	}
	// Nor where the mark of what was seen is taken away with the newest.
	if err := os.Remove(filepath.Join(path, "seen")); err != nil {
		t.Fatal(err)
	}
	refused("without the mark")
}

// TestFromElsewhere takes in what was fetched, at the second try.
func TestFromElsewhere(t *testing.T) {
	w, path := newWorld(t), filepath.Join(t.TempDir(), "s")
	f := open(t, path)
	w.create("globex", 1)
	w.tick()
	body, written := save(t, w.server, label)
	part := w.reader(scope...)
	spool, err := f.Create()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := spool.Write([]byte("half of it")); err != nil {
		t.Fatal(err)
	}
	if _, err := spool.Load(w.who(part)); !errors.Is(err, snapshot.ErrDamaged) {
		t.Error(err)
	}
	if err := spool.Reset(); err != nil {
		t.Fatal(err)
	}
	for chunk := range slices.Chunk(body, 100) {
		if _, err := spool.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	l, err := spool.Load(w.who(part))
	if err != nil || l.Digest != written.Digest {
		t.Fatal(l, err)
	}
	if err := spool.Keep(l); err != nil {
		t.Fatal(err)
	}
	spool.Discard()
	l, skipped, err := f.Newest(w.who(part))
	if err != nil || skipped != nil || l.Position != written.Position {
		t.Fatal(skipped, err)
	}
	if left, _ := filepath.Glob(filepath.Join(path, "spool-*")); left != nil {
		t.Errorf("%q are left", left)
	}
}

// TestWhoseItIs: another ledger, another scope, another version.
func TestWhoseItIs(t *testing.T) {
	w, path := newWorld(t), filepath.Join(t.TempDir(), "s")
	f := open(t, path)
	w.create("acme", 1)
	keep(t, f, w.server)
	other := w.who(w.server)
	other.Ledger = events.LedgerID(newID(t))
	part := w.who(w.reader(scope...))
	wider := part
	wider.Organizations = append(slices.Clone(scope), "initech")
	for name, who := range map[string]snapshot.Reader{"another ledger": other, "a part of it": part, "another part": wider} {
		_, skipped, err := f.Newest(who)
		if !errors.Is(err, snapshot.ErrNone) || len(skipped) != 1 || !errors.Is(skipped[0].Err, snapshot.ErrForeign) {
			t.Errorf("%s: %v %v", name, skipped, err)
		}
	}
	body, _ := save(t, w.server, "")
	later := bytes.Replace(body, []byte(`"projection":1`), []byte(`"projection":2`), 1)
	if _, err := snapshot.Read(bytes.NewReader(later), int64(len(later)), w.who(w.server)); !errors.Is(err, snapshot.ErrVersion) {
		t.Error(err)
	}
	// The folder stays this ledger's.
	stranger := newWorld(t)
	stranger.create("acme", 1)
	p := freeze(t, stranger.server)
	if _, err := f.Save(p, now); !errors.Is(err, snapshot.ErrForeign) {
		t.Error(err)
	}
}

// TestOthersCouldWriteIt: what is not this user's alone is not read.
func TestOthersCouldWriteIt(t *testing.T) {
	w, path := newWorld(t), filepath.Join(t.TempDir(), "s")
	f := open(t, path)
	w.create("acme", 1)
	keep(t, f, w.server)
	if _, err := snapshot.OpenFolder(path); !errors.Is(err, snapshot.ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	name := filesIn(t, path)[0]
	skipped := func(why string, want error) {
		t.Helper()
		_, skipped, err := f.Newest(w.who(w.server))
		if !errors.Is(err, snapshot.ErrNone) || len(skipped) != 1 || !errors.Is(skipped[0].Err, want) {
			t.Errorf("%s: %v %v", why, skipped, err)
		}
	}
	chmod := func(name string, mode fs.FileMode) {
		t.Helper()
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	chmod(name, 0o620)
	skipped("writable by others", snapshot.ErrOpen)
	chmod(name, 0o604)
	skipped("readable by others", snapshot.ErrOpen)
	chmod(name, 0o600)
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := errors.Join(os.Rename(name, elsewhere), os.Symlink(elsewhere, name)); err != nil {
		t.Fatal(err)
	}
	if _, skipped, err := f.Newest(w.who(w.server)); !errors.Is(err, snapshot.ErrNone) || len(skipped) != 1 {
		t.Errorf("a link: %v %v", skipped, err)
	}
	if err := errors.Join(os.Remove(name), os.Rename(elsewhere, name)); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(name, 65534, -1); err != nil {
			t.Fatal(err)
		}
		skipped("another user's", snapshot.ErrOpen)
		if err := os.Chown(name, 0, -1); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := f.Newest(w.who(w.server)); err != nil {
		t.Errorf("put right again: %v", err)
	}
	// The mark, too: without it nothing is loaded.
	chmod(filepath.Join(path, "seen"), 0o606)
	if _, _, err := f.Newest(w.who(w.server)); !errors.Is(err, snapshot.ErrOpen) {
		t.Error(err)
	}
	chmod(filepath.Join(path, "seen"), 0o600)
	if err := os.WriteFile(filepath.Join(path, "seen"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Newest(w.who(w.server)); !errors.Is(err, snapshot.ErrDamaged) {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	chmod(path, 0o750)
	if _, err := snapshot.OpenFolder(path); !errors.Is(err, snapshot.ErrOpen) {
		t.Error(err)
	}
}
