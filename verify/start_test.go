package verify_test

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/verifytest"
)

// TestStoredSnapshot: a first start goes on from what a server has stored, if it was
// signed by who may, and is no older than what was seen; else everything is replayed.
func TestStoredSnapshot(t *testing.T) {
	secret, _, err := note.GenerateKey(rand.Reader, "verifytest")
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	for _, orgs := range [][]events.OrgID{nil, {"acme"}} {
		l := verifytest.Begin(t)
		l.Organization("acme")
		l.Organization("globex")
		key, id := l.Key("acme")
		creds := l.Verifier("edge-1", 3*time.Second, orgs...)
		dir := filepath.Join(t.TempDir(), "snapshots")
		run := func(what string, want verify.Source, from events.Position, code events.Code, opts ...verify.Option) {
			t.Helper()
			c := open(t, l.Connect(creds), append(opts, verify.FewEvents(0), verify.StartJitter(time.Millisecond))...)
			l.Tick()
			ready(t, c)
			if s := c.Status(); s.Source != want || s.From != from || s.MaxStaleness != 3*time.Second && want == verify.FromBroker || s.Unready() != nil {
				t.Errorf("%v, %s: began with %s at %d and not %s at %d: %v", orgs, what, s.Source, s.From, want, from, s.Unready())
			}
			if got := ask(c, key); got != code || c.Positions() != l.Positions() {
				t.Errorf("%v, %s: %s, %+v", orgs, what, got, c.Positions())
			}
			shut(t, c)
		}
		run("nothing is stored", verify.FromReplay, 0, events.CodeValid)
		l.Tick()
		stored := l.StoreSnapshot(name(orgs), nil)
		run("by the ledger's word", verify.FromBroker, stored, events.CodeValid)
		run("with the key pinned", verify.FromBroker, stored, events.CodeValid, verify.LogKeys(l.LogKey()))
		run("into a folder", verify.FromBroker, stored, events.CodeValid, verify.SnapshotFolder(dir), verify.SnapshotEvery(0))
		l.Revoke("acme", id)
		run("out of the folder", verify.FromFolder, last(t, dir), events.CodeRevoked, verify.SnapshotFolder(dir))
		// What is stored is from before that now, and the folder's own have gone.
		for _, path := range files(t, dir, "*.snapshot") {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		run("an older one", verify.FromReplay, 0, events.CodeRevoked, verify.SnapshotFolder(dir))
		l.Tick()
		l.StoreSnapshot(name(orgs), stranger)
		run("signed by a stranger", verify.FromReplay, 0, events.CodeRevoked)
		run("signed by a stranger, with the key pinned", verify.FromReplay, 0, events.CodeRevoked, verify.LogKeys(l.LogKey()))
		if found := files(t, os.TempDir(), "keyledger-snapshot-*"); len(found) > 0 {
			t.Errorf("left behind: %v", found)
		}
	}
}

// name is whose snapshot is stored: that of the narrowed verifier, or everybody's.
func name(orgs []events.OrgID) events.CredentialName {
	if orgs == nil {
		return ""
	}
	return "edge-1"
}

// last is the position of the newest snapshot of a folder.
func last(t *testing.T, dir string) (pos events.Position) {
	t.Helper()
	found := files(t, dir, "*.snapshot")
	for _, c := range filepath.Base(found[len(found)-1])[:20] {
		pos = pos*10 + events.Position(c-'0')
	}
	return pos
}
