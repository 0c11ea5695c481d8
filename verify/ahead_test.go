package verify_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/verifytest"
)

// TestLedgerWasCut: a ledger that ends before what a client has seen of it is an alarm,
// with the snapshot and without, and no key comes back to life by it.
func TestLedgerWasCut(t *testing.T) {
	t.Parallel()
	l := verifytest.Begin(t)
	l.Organization("acme")
	key, id := l.Key("acme")
	creds, dir := l.Verifier("edge-1", 0), filepath.Join(t.TempDir(), "snapshots")
	l.Stop()
	restore := l.Copy()
	l.Start()
	c := open(t, l.Connect(creds), verify.SnapshotFolder(dir))
	revoked := l.Revoke("acme", id)
	until(t, "it is revoked", func() bool { return ask(c, key) == events.CodeRevoked })
	ready(t, c)
	shut(t, c)
	l.Stop()
	restore()
	l.Start()

	c = open(t, l.Connect(creds), verify.SnapshotFolder(dir))
	until(t, "the alarm", func() bool { return errors.Is(c.Status().Err, projections.ErrAhead) })
	if code := ask(c, key); code != events.CodeRevoked || c.Status().From < revoked {
		t.Errorf("with the snapshot: %s, from %d", code, c.Status().From)
	}
	shut(t, c)
	for _, path := range files(t, dir, "*.snapshot") {
		remove(t, path)
	}
	c = open(t, l.Connect(creds), verify.SnapshotFolder(dir))
	until(t, "all is replayed", func() bool { return c.Status().Applied == l.Last() })
	if code := ask(c, key); code != events.CodeStale {
		t.Errorf("by replay: %s", code)
	}
	if s := c.Status(); s.Unready() == nil || s.Seen < revoked || s.Applied >= revoked {
		t.Errorf("nobody is told: %+v", s)
	}
	shut(t, c)
}

// TestNothingStays: a client that was closed leaves no goroutine and no subscription.
func TestNothingStays(t *testing.T) {
	l := verifytest.Begin(t)
	l.Organization("acme")
	key, _ := l.Key("acme")
	conn := l.Connect(l.Verifier("edge-1", 0))
	// What the connection and the broker start for the first time is theirs.
	warm := open(t, conn)
	ready(t, warm)
	shut(t, warm)
	before, had := goleak.IgnoreCurrent(), conn.NumSubscriptions()
	c := open(t, conn, verify.SnapshotFolder(filepath.Join(t.TempDir(), "snapshots")))
	ready(t, c)
	if code := ask(c, key); code != events.CodeValid {
		t.Error(code)
	}
	shut(t, c)
	goleak.VerifyNone(t, before)
	if now := conn.NumSubscriptions(); now > had || conn.Status() != nats.CONNECTED {
		t.Errorf("%d subscriptions, of %d before: %s", now, had, conn.Status())
	}
	early := open(t, conn, verify.AtOnce())
	shut(t, early)
	goleak.VerifyNone(t, before)
}

// TestNoAllocations: a verdict of a client costs what one of its verifier does.
func TestNoAllocations(t *testing.T) {
	l := verifytest.Begin(t)
	l.Organization("acme")
	key, _ := l.Key("acme")
	c := open(t, l.Connect(l.Verifier("edge-1", 0)))
	ready(t, c)
	ctx := t.Context()
	n := testing.AllocsPerRun(200, func() {
		q := verify.Question{Secret: key, Permission: "doc:read"}
		if d := c.Verify(ctx, &q); !d.Valid() {
			t.Fatal(d.Code)
		}
	})
	// Others allocate meanwhile: the index is fed, uses are stored.
	if n > 1 {
		t.Errorf("%v allocations", n)
	}
}
