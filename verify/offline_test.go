package verify_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/snapshot"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/verifytest"
)

// TestFolder: a start goes on from the snapshot of the last run, and an older one that
// is put back in its place is not used.
func TestFolder(t *testing.T) {
	t.Parallel()
	for _, orgs := range [][]events.OrgID{nil, {"acme"}} {
		l := verifytest.Begin(t)
		l.Organization("acme")
		key, id := l.Key("acme")
		creds, dir := l.Verifier("edge-1", 0, orgs...), filepath.Join(t.TempDir(), "snapshots")
		opts := []verify.Option{verify.SnapshotFolder(dir)}
		l.Tick()
		run := func(want verify.Source, code events.Code) events.Position {
			t.Helper()
			c := open(t, l.Connect(creds), opts...)
			l.Tick()
			ready(t, c)
			if s := c.Status(); s.Source != want || s.Unready() != nil {
				t.Errorf("narrowed to %v it began with %s: %+v", orgs, s.Source, s)
			}
			if got := ask(c, key); got != code {
				t.Errorf("narrowed to %v, from %s: %s", orgs, want, got)
			}
			if c.Positions() != l.Positions() {
				t.Errorf("positions: %+v", c.Positions())
			}
			shut(t, c)
			return c.Status().SnapshotPosition
		}
		first := run(verify.FromReplay, events.CodeValid)
		old := files(t, dir, "*.snapshot")
		if first == 0 || len(old) != 1 {
			t.Fatalf("nothing was saved: %v", old)
		}
		kept, err := os.ReadFile(old[0])
		if err != nil {
			t.Fatal(err)
		}
		if second := run(verify.FromFolder, events.CodeValid); second <= first {
			t.Fatalf("saved at %d, and then at %d", first, second)
		}
		l.Revoke("acme", id)
		run(verify.FromFolder, events.CodeRevoked)
		// The first one, in which the key was good, in the place of all others.
		for _, path := range files(t, dir, "*.snapshot") {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(old[0], kept, 0o600); err != nil {
			t.Fatal(err)
		}
		run(verify.FromReplay, events.CodeRevoked)
		// A damaged one is passed over.
		for _, path := range files(t, dir, "*.snapshot") {
			body, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			body[len(body)/2] ^= 1
			if err := os.WriteFile(path, body, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		run(verify.FromReplay, events.CodeRevoked)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func files(t *testing.T, dir, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestFolderIsOnes: two clients do not share a folder, and others must have no rights
// on it.
func TestFolderIsOnes(t *testing.T) {
	t.Parallel()
	l := verifytest.Begin(t)
	creds, dir := l.Verifier("edge-1", 0), filepath.Join(t.TempDir(), "snapshots")
	c := open(t, l.Connect(creds), verify.SnapshotFolder(dir))
	if _, err := verify.Open(t.Context(), l.Connect(creds), verify.SnapshotFolder(dir)); !errors.Is(err, snapshot.ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
	shut(t, c)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := verify.Open(t.Context(), l.Connect(creds), verify.SnapshotFolder(dir)); !errors.Is(err, snapshot.ErrOpen) {
		t.Errorf("open to others: %v", err)
	}
}

// TestOtherLedger: a folder is of one ledger, and nobody takes another for it.
func TestOtherLedger(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "snapshots")
	first, second := verifytest.Begin(t), verifytest.Begin(t)
	c := open(t, first.Connect(first.Verifier("edge-1", 0)), verify.SnapshotFolder(dir))
	ready(t, c)
	shut(t, c)
	if _, err := verify.Open(t.Context(), second.Connect(second.Verifier("edge-1", 0)), verify.SnapshotFolder(dir)); !errors.Is(err, snapshot.ErrForeign) {
		t.Errorf("another ledger: %v", err)
	}
	// And it is still the first one's.
	c = open(t, first.Connect(first.Verifier("edge-2", 0)), verify.SnapshotFolder(dir))
	ready(t, c)
	if s := c.Status(); s.Source != verify.FromFolder {
		t.Errorf("began with %s", s.Source)
	}
}

// TestOfflineStart: without a broker verdicts come from the snapshot while it is young
// enough, are flagged, and their uses are stored when the broker is back; a run that
// ended without being able to is seen.
func TestOfflineStart(t *testing.T) {
	t.Parallel()
	l := verifytest.Begin(t)
	l.Organization("acme")
	key, id := l.Key("acme")
	creds, dir := l.Verifier("edge-1", 0, "acme"), filepath.Join(t.TempDir(), "snapshots")
	first := open(t, l.Connect(creds), verify.SnapshotFolder(dir))
	l.Tick()
	ready(t, first)
	shut(t, first)
	l.Revoke("acme", id)
	l.Stop()

	// Nobody asked for it.
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	if _, err := verify.Open(ctx, l.Connect(creds), verify.SnapshotFolder(dir)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without leave: %v", err)
	}
	cancel()

	// Too old.
	c := away(t, l.Connect(creds), verify.SnapshotFolder(dir), verify.OfflineStart(time.Millisecond))
	if d := c.Verify(t.Context(), &verify.Question{Secret: key}); d.Code != events.CodeStale {
		t.Errorf("from a snapshot that is too old: %+v", d)
	}
	if c.Status().Offline || c.Status().Ready {
		t.Errorf("it says that it gives verdicts: %+v", c.Status())
	}
	giveUp(t, c)

	c = away(t, l.Connect(creds), verify.SnapshotFolder(dir), verify.OfflineStart(time.Hour))
	ready(t, c)
	d := c.Verify(t.Context(), &verify.Question{Secret: key})
	if !d.Valid() || !d.Stale || !c.Status().Offline || c.Status().Staleness != -1 {
		t.Errorf("offline: %+v, %+v", d, c.Status())
	}
	if d := c.Verify(t.Context(), &verify.Question{Secret: "kl_test_unknown"}); d.Code == events.CodeStale || d.Valid() || !d.Stale {
		t.Errorf("offline, an unknown key: %+v", d)
	}
	// It dies with what it holds.
	lost := c.Status().Boot
	giveUp(t, c)

	c = away(t, l.Connect(creds), verify.SnapshotFolder(dir), verify.OfflineStart(time.Hour))
	ready(t, c)
	if code := ask(c, key); code != events.CodeValid {
		t.Errorf("offline: %s", code)
	}
	l.Start()
	l.Tick()
	until(t, "it is fresh", func() bool { return !c.Status().Stale })
	if d := c.Verify(t.Context(), &verify.Question{Secret: key}); d.Code != events.CodeRevoked || d.Stale || c.Status().Offline {
		t.Errorf("with the broker back: %+v, %+v", d, c.Status())
	}
	shut(t, c)
	counted, findings := l.Uses()
	if counted["edge-1"] != 2 {
		t.Errorf("uses: %v", counted)
	}
	// Three runs without an end: two gave up offline, one of which lost a use.
	unended := map[uses.BootID]bool{}
	for _, f := range findings {
		unended[f.Boot] = f.Kind == uses.FindingUnended
	}
	if !unended[lost] || len(findings) != 2 {
		t.Errorf("the run that was lost is not seen: %+v", findings)
	}
	if left, err := os.ReadFile(filepath.Join(dir, "boots")); err != nil || !slices.Equal(left, []byte("[]\n")) {
		t.Errorf("the journal still names runs: %q, %v", left, err)
	}
}

// away opens a client that will be given up.
func away(t *testing.T, conn *nats.Conn, opts ...verify.Option) *verify.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := verify.Open(ctx, conn, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// giveUp closes a client whose uses cannot be stored.
func giveUp(t *testing.T, c *verify.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := c.Close(ctx); err == nil {
		t.Error("nothing was left undone")
	}
}
