package verify_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/verifytest"
)

// patience bounds what a broker takes its time for.
const patience = 30 * time.Second

// until waits for something.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// open opens a client that ends with the test.
func open(t testing.TB, conn *nats.Conn, opts ...verify.Option) *verify.Client {
	t.Helper()
	c, err := verify.Open(t.Context(), conn, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, c) })
	return c
}

func shut(t testing.TB, c *verify.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		t.Error(err)
	}
}

// ready waits until a client is.
func ready(t testing.TB, c *verify.Client) {
	t.Helper()
	select {
	case <-c.Ready():
	case <-time.After(patience):
		t.Fatalf("not ready: %+v: %v", c.Status(), c.Status().Unready())
	}
}

func ask(c *verify.Client, secret string) events.Code {
	d := c.Verify(context.Background(), &verify.Question{Secret: secret})
	return d.Code
}

// TestClient: whoever reads everything, and whoever reads one organization, follows
// what happens, and what he was asked stands in the ledger's uses.
func TestClient(t *testing.T) {
	t.Parallel()
	l := verifytest.Begin(t)
	l.Organization("acme")
	l.Organization("globex")
	key, id := l.Key("acme", "doc:read")
	foreign, _ := l.Key("globex")
	whole := open(t, l.Connect(l.Verifier("edge-1", 0)))
	part := open(t, l.Connect(l.Verifier("edge-2", 0, "acme")), verify.Organizations("acme"), verify.LogKeys(l.LogKey()))
	if code := ask(part, "kl_test_unknown"); code != events.CodeStale {
		t.Errorf("before there was a tick: %s", code)
	}
	l.Tick()
	for name, c := range map[string]*verify.Client{"whole": whole, "part": part} {
		ready(t, c)
		if err := c.Status().Unready(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		d := c.Verify(t.Context(), &verify.Question{Secret: key, Method: "GET", Path: "/docs/1"})
		if !d.Valid() || d.Permission != "doc:read" || d.Org != "acme" {
			t.Errorf("%s: %+v", name, d)
		}
		if d := c.Verify(t.Context(), &verify.Question{Secret: key, Permission: "doc:write"}); d.Code != events.CodeInsufficientPermissions {
			t.Errorf("%s: %+v", name, d)
		}
		if got := c.Positions(); got != l.Positions() {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if code := ask(whole, foreign); code != events.CodeValid {
		t.Errorf("whole: %s", code)
	}
	if code := ask(part, foreign); code != events.CodeNotFound {
		t.Errorf("part: %s", code)
	}
	at := l.Revoke("acme", id)
	for name, c := range map[string]*verify.Client{"whole": whole, "part": part} {
		if d := c.Verify(t.Context(), &verify.Question{Secret: key, AtLeast: at}); d.Code != events.CodeRevoked {
			t.Errorf("%s, after it was revoked: %+v", name, d)
		}
		shut(t, c)
		if code := ask(c, key); code != events.CodeUnavailable {
			t.Errorf("%s, after its end: %s", name, code)
		}
		if s := c.Status(); s.Uses.Backlog != 0 || s.Uses.Recorded == 0 {
			t.Errorf("%s: %+v", name, s.Uses)
		}
	}
	if counted, findings := l.Uses(); counted["edge-1"] != 4 || counted["edge-2"] != 3 || len(findings) > 0 {
		t.Errorf("uses: %v, findings: %+v", counted, findings)
	}
	last := make(map[events.VerifierID]presence.Announcement)
	for _, said := range l.Announcements() {
		last[said.Verifier] = said
	}
	for name, orgs := range map[events.VerifierID][]events.OrgID{"edge-1": nil, "edge-2": {"acme"}} {
		said := last[name]
		if !said.Ended || said.Applied < at || said.Recorded == 0 || said.Backlog != 0 || said.Kind != presence.SDK || !slices.Equal(said.Organizations, orgs) {
			t.Errorf("%s said last: %+v", name, said)
		}
	}
}

// TestCredential: what is none of a verifier, or shows something else than is
// expected, is refused.
func TestCredential(t *testing.T) {
	t.Parallel()
	l := verifytest.Begin(t)
	l.Organization("acme")
	narrow := l.Verifier("edge-1", 0, "acme", "globex")
	for name, opts := range map[string][]verify.Option{
		"fewer": {verify.Organizations("acme")}, "others": {verify.Organizations("acme", "initech")},
	} {
		if _, err := verify.Open(t.Context(), l.Connect(narrow), opts...); !errors.Is(err, verify.ErrCredential) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := verify.Open(t.Context(), l.Connect(l.Verifier("edge-2", 0)), verify.Organizations("acme")); !errors.Is(err, verify.ErrCredential) {
		t.Errorf("everything: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := verify.Open(ctx, l.Connect(narrow), verify.Name("nobody")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a name that is not the credential's: %v", err)
	}
	// Who does not wait is told by the status.
	c := open(t, l.Connect(narrow), verify.Organizations("acme"), verify.AtOnce())
	until(t, "it is refused", func() bool { return errors.Is(c.Status().Err, verify.ErrCredential) })
	if code := ask(c, "kl_live_x"); code != events.CodeStale {
		t.Errorf("without anything to read: %s", code)
	}
}
