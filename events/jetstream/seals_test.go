package jetstream_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
)

// A seal is stored once, under its own name.
func TestSealedOnce(t *testing.T) {
	b := begin(t, t.TempDir())
	l := ledger(t, b.Conn())
	if body, there, err := l.Sealed(t.Context(), "a.b"); body != nil || there || err != nil {
		t.Fatalf("%q, %t, %v", body, there, err)
	}
	if err := l.Seal(t.Context(), "a.b", []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := l.Seal(t.Context(), "a.c", []byte("two")); err != nil {
		t.Fatal(err)
	}
	if err := l.Seal(t.Context(), "a.b", []byte("three")); !errors.Is(err, events.ErrConflict) {
		t.Errorf("sealed twice: %v", err)
	}
	for name, want := range map[string]string{"a.b": "one", "a.c": "two"} {
		if body, there, err := l.Sealed(t.Context(), name); string(body) != want || !there || err != nil {
			t.Errorf("%s: %q, %t, %v", name, body, there, err)
		}
	}
	if _, _, err := ledger(t, start(t, t.TempDir()).Conn()).Sealed(t.Context(), "a.b"); !errors.Is(err, jetstream.ErrStreamMissing) {
		t.Errorf("without a stream: %v", err)
	}
}

func TestReplicasAreNamed(t *testing.T) {
	b := begin(t, t.TempDir())
	if err := ledger(t, b.Conn()).CheckReplicas(t.Context()); err != nil {
		t.Error(err)
	}
	l, err := jetstream.New(jetstream.Config{Conn: b.Conn(), Ledger: ledgerID, Replicas: 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.CheckReplicas(t.Context()); !errors.Is(err, jetstream.ErrReplicas) || errors.Is(err, events.ErrCorrupt) {
		t.Error(err)
	}
}

// What is destroyed is in no file of the broker any more, at once and after a
// restart; what lies beside it is.
func TestDestroyedIsOverwritten(t *testing.T) {
	dir := t.TempDir()
	b := begin(t, dir)
	l := ledger(t, b.Conn())
	bodies := map[string][]byte{}
	for _, name := range []string{"a", "b", "c"} {
		bodies[name] = []byte("wrapped key of " + name + ": " + strings.Repeat(name, 200))
		if err := l.Seal(t.Context(), "x.subject."+name, bodies[name]); err != nil {
			t.Fatal(err)
		}
	}
	gone := map[string]bool{}
	look := func(when string) {
		t.Helper()
		for name, body := range bodies {
			if in := files(t, dir, body); (len(in) == 0) != gone[name] {
				t.Errorf("%s: %s stands in %q", when, name, in)
			}
		}
	}
	look("at first")
	// One from the middle, one from the end, and one after the broker came back.
	for _, name := range []string{"b", "c", "a"} {
		if name == "a" {
			b.Shutdown()
			look("with the broker shut down")
			b = start(t, dir)
			l = ledger(t, b.Conn())
		}
		done, err := l.Destroy(t.Context(), "x.subject."+name, func(body []byte) bool { return bytes.Equal(body, bodies[name]) })
		if err != nil || !done {
			t.Fatal(done, err)
		}
		gone[name] = true
		look("without " + name)
	}
	b.Shutdown()
	look("at last")
}

// files are those below a folder that hold some bytes.
func files(t testing.TB, dir string, content []byte) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		held, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the broker tidies up
		}
		if bytes.Contains(held, content) {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
