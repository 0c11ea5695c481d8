package cutoff

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/integration/program"
)

// oldSnapshotIsRefused: with the broker there it changes nothing, and
// without it nothing that was revoked meanwhile comes back.
func oldSnapshotIsRefused(t *testing.T, w *world) {
	dir, old := filepath.Join(t.TempDir(), "snapshots"), filepath.Join(t.TempDir(), "old")
	gone, stays := w.key(), w.key()
	s := w.sidecar("old", "--snapshot-dir", dir, "--offline-start-max-age", "1h")
	s.says("VALID", gone)
	s.Stop() // which saves one
	copyFiles(t, dir, old, "*.snapshot")
	private(t, dir)

	// A start without any node goes on from what was saved, flagged.
	s.wire.cut()
	s.again()
	s.says("VALID", stays)
	s.Kill()
	s.wire.mend()

	s.again()
	s.Ready()
	w.revoke(gone)
	s.says("REVOKED", gone)
	s.Stop()

	remove(t, dir, "*.snapshot")
	copyFiles(t, old, dir, "*.snapshot")
	s.wire.cut()
	s.again()
	program.Until(t, "the old snapshot to be refused", func() bool { return strings.Contains(s.Logged(), "older") })
	until := time.Now().Add(2 * bound)
	for time.Now().Before(until) {
		for _, k := range []key{gone, stays} {
			if code, err := s.verdict(k); err == nil && code == "VALID" {
				t.Fatal("VALID by an old snapshot")
			}
		}
	}
	s.wire.mend()
	s.says("REVOKED", gone)
	s.says("VALID", stays)
}

// startsFromWhatTheServerStored: an empty folder, and everything is there without a
// replay.
func startsFromWhatTheServerStored(t *testing.T, w *world) {
	gone, stays := w.key(), w.key()
	w.revoke(gone)
	w.imports(52)
	program.Until(t, "the server to have stored a snapshot", func() bool {
		return strings.Count(w.server.Logged(), "snapshot stored") > 1 // one from before the import, at least
	})
	s := w.sidecar("stored", "--start-jitter", "100ms")
	if !strings.Contains(s.Logged(), "from=broker") {
		t.Error("it did not start from the stored snapshot")
	}
	s.says("REVOKED", gone)
	s.says("VALID", stays)
	later := w.key()
	s.says("VALID", later)
	w.revoke(stays)
	s.says("REVOKED", stays)
}

// leavesATrace: what it took along is bounded, and a finding.
func leavesATrace(t *testing.T, w *world) {
	k := w.key()
	s := w.sidecar("killed")
	watch := s.watch(k)
	watch.until(t, k, time.Now(), "VALID")
	s.wire.cut()
	watch.until(t, k, time.Now(), "VALID") // recorded nowhere but there
	s.Kill()
	watch.stop()
	s.wire.mend()
	s.again()
	s.Ready()
	program.Until(t, "the finding of the run that was killed", func() bool {
		a, err := w.owner.Ask(t.Context(), "GET", "/v1/organizations/_system/audit/uses/findings", nil)
		if err != nil || a.Status != 200 {
			return false
		}
		items, _ := a.Get("items").([]any)
		for _, item := range items {
			if f, ok := item.(obj); ok && f["verifier"] == "killed" && f["superseded"] == true {
				bounded, _ := f["count"].(float64)
				return bounded > 0
			}
		}
		return false
	})
}

func copyFiles(t *testing.T, from, to, pattern string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(from, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no %s in %s: %v", pattern, from, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil {
			err = os.WriteFile(filepath.Join(to, filepath.Base(f)), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func remove(t *testing.T, dir, pattern string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
}

// private expects that nobody but the owner reads what is in a folder.
func private(t *testing.T, dir string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", f.Name(), info.Mode().Perm())
		}
	}
}
