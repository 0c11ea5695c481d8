package verify_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/verifytest"
)

// TestOfflineStartTakesNothingBack: what a run has denied for ever, after the last
// snapshot was saved, is denied by the next one too, although it has no broker and
// begins with that snapshot; and where nobody can tell what that was, nothing is
// answered.
func TestOfflineStartTakesNothingBack(t *testing.T) {
	t.Parallel()
	l := verifytest.Begin(t)
	l.Organization("acme")
	l.Organization("globex")
	revoked, id := l.Key("acme")
	ended, _ := l.Key("globex")
	good, _ := l.Key("acme")
	creds, dir := l.Verifier("edge-1", 0), filepath.Join(t.TempDir(), "snapshots")
	c := open(t, l.Connect(creds), verify.SnapshotFolder(dir))
	l.Tick()
	ready(t, c)
	shut(t, c)
	c = open(t, l.Connect(creds), verify.SnapshotFolder(dir), verify.OfflineStart(time.Hour))
	l.Tick()
	ready(t, c)
	l.Revoke("acme", id)
	last := l.Append(events.EndSubject("globex"), events.OrganizationDeleted{})
	until(t, "both are revoked", func() bool { return ask(c, revoked) == events.CodeRevoked && ask(c, ended) == events.CodeRevoked })
	until(t, "it has announced that", func() bool {
		for _, said := range l.Announcements() {
			if said.Boot == c.Status().Boot && said.Applied >= last {
				return said.OfflineStart == time.Hour.Milliseconds()
			}
		}
		return false
	})
	// It is killed now, and leaves what lies in the folder.
	left := func() string {
		to := filepath.Join(t.TempDir(), "left")
		if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		for _, path := range append(files(t, to, "*"), to) {
			if err := os.Chmod(path, map[bool]os.FileMode{true: 0o700, false: 0o600}[path == to]); err != nil {
				t.Fatal(err)
			}
		}
		return to
	}
	killed, torn, unknown, later := left(), left(), left(), left()
	shut(t, c)
	l.Stop()

	change := func(dir string, f func([]byte) []byte) {
		path := filepath.Join(dir, "ended")
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	change(torn, func(b []byte) []byte { return append(b, "99 acme 0"...) })
	remove(t, filepath.Join(unknown, "ended"))
	change(later, func(b []byte) []byte { return append([]byte("since 99999\n"), b[slices.Index(b, '\n')+1:]...) })
	for dir, want := range map[string]events.Code{killed: events.CodeRevoked, torn: events.CodeRevoked, unknown: events.CodeUnavailable, later: events.CodeUnavailable} {
		c := away(t, l.Connect(creds), verify.SnapshotFolder(dir), verify.OfflineStart(time.Hour))
		other := events.CodeValid
		if want == events.CodeUnavailable {
			other = want
		}
		for key, code := range map[string]events.Code{revoked: want, ended: want, good: other} {
			if got := ask(c, key); got != code {
				t.Errorf("%s: %s, and not %s", filepath.Base(filepath.Dir(dir)), got, code)
			}
		}
		giveUp(t, c)
		// And so it remains.
		again := away(t, l.Connect(creds), verify.SnapshotFolder(dir), verify.OfflineStart(time.Hour))
		if got := ask(again, revoked); got != want {
			t.Errorf("%s, the second time: %s", filepath.Base(filepath.Dir(dir)), got)
		}
		giveUp(t, again)
	}

	c = open(t, l.Connect(creds), verify.SnapshotFolder(killed), verify.OfflineStart(time.Hour))
	if code := ask(c, good); code != events.CodeValid {
		t.Errorf("offline: %s", code)
	}
	l.Start()
	l.Tick()
	until(t, "it is fresh", func() bool { return !c.Status().Stale })
	if err := c.Status().Unready(); err != nil || ask(c, revoked) != events.CodeRevoked || ask(c, ended) != events.CodeRevoked || ask(c, good) != events.CodeValid {
		t.Errorf("with the broker back: %v", err)
	}
	shut(t, c)
	if s := c.Status(); s.SnapshotErr != nil || s.SnapshotPosition < last {
		t.Errorf("no snapshot is saved: %+v", s)
	}
	if body, err := os.ReadFile(filepath.Join(killed, "ended")); err != nil || string(body) != fmt.Sprintf("since %d\n", c.Status().SnapshotPosition) {
		t.Errorf("what the snapshot knows is still noted: %q, %v", body, err)
	}
}

// TestNobodyAnswersUnannounced: a receipt that says who has applied a revocation does
// not leave out who answers.
func TestNobodyAnswersUnannounced(t *testing.T) {
	t.Parallel()
	l := verifytest.Begin(t)
	l.Organization("acme")
	key, _ := l.Key("acme")
	hear := l.Deaf()
	c := open(t, l.Connect(l.Verifier("edge-1", 0)), verify.WhileStale(verify.Serve))
	l.Tick()
	until(t, "all is read", func() bool { return c.Status().Applied == l.Last() && c.Status().Recording })
	time.Sleep(100 * time.Millisecond)
	if s := c.Status(); ask(c, key) != events.CodeStale || s.Announced || s.Ready || s.Staleness != -1 {
		t.Errorf("%s: %+v", ask(c, key), s)
	}
	hear()
	ready(t, c)
	if len(l.Announcements()) == 0 || ask(c, key) != events.CodeValid {
		t.Errorf("%s: %+v", ask(c, key), c.Status())
	}
}
