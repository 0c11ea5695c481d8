package verify_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/verifytest"
)

// asking is a server that finds every key valid.
func asking(t *testing.T, l *verifytest.Ledger) verify.Option {
	t.Helper()
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"valid":true,"code":"VALID","key_id":%q,"organization":"acme","position":%q,"staleness":0}`,
			uuid.NewString(), l.Positions().Format(events.StreamLedger, 1))
	}))
	t.Cleanup(h.Close)
	return verify.Server(verify.ServerConfig{URL: h.URL, Key: "kl_mgmt_key", Timeout: 10 * time.Second})
}

// TestWhileStale: past the bound every verdict but REVOKED is STALE, unless something
// else was asked for; and when what happened meanwhile has come, all is as before.
func TestWhileStale(t *testing.T) {
	t.Parallel()
	l := verifytest.Begin(t)
	l.Organization("acme")
	good, _ := l.Key("acme")
	bad, id := l.Key("acme")
	l.Revoke("acme", id)
	bound := verify.MaxStaleness(50 * time.Millisecond)
	type want struct{ good, bad, unknown events.Code }
	for i, c := range []struct {
		name   string
		opts   []verify.Option
		stale  want
		asks   bool // about what is known
		serves bool
	}{
		{"deny", nil, want{events.CodeStale, events.CodeRevoked, events.CodeStale}, false, false},
		{"deny, and ask about unknown ones", []verify.Option{asking(t, l)}, want{events.CodeStale, events.CodeRevoked, events.CodeValid}, false, false},
		{"serve", []verify.Option{verify.WhileStale(verify.Serve)}, want{events.CodeValid, events.CodeRevoked, events.CodeMalformed}, false, true},
		{"serve, and ask about unknown ones", []verify.Option{verify.WhileStale(verify.Serve), asking(t, l)}, want{events.CodeValid, events.CodeRevoked, events.CodeValid}, false, true},
		{"ask", []verify.Option{verify.WhileStale(verify.Ask), asking(t, l)}, want{events.CodeValid, events.CodeRevoked, events.CodeValid}, true, false},
	} {
		client := open(t, l.Connect(l.Verifier(events.CredentialName(fmt.Sprint("edge-", i)), 0, "acme")), append(c.opts, bound)...)
		if d := client.Verify(t.Context(), &verify.Question{Secret: "kl_x"}); d.Stale || d.Valid() && !d.Asked {
			t.Errorf("%s, before anything was proven: %+v", c.name, d)
		}
		look := func(when string, want want, flagged, known bool) {
			t.Helper()
			for _, q := range []struct {
				what, secret string
				want         events.Code
				asked        bool
			}{
				{"good", good, want.good, known},
				{"bad", bad, want.bad, false},
				{"unknown", "kl_x", want.unknown, want.unknown == events.CodeValid},
			} {
				d := client.Verify(t.Context(), &verify.Question{Secret: q.secret})
				if d.Code != q.want || d.Asked != q.asked || d.Stale != (flagged && !d.Asked) {
					t.Errorf("%s, %s, a key that is %s: %s, asked: %t, flagged: %t", c.name, when, q.what, d.Code, d.Asked, d.Stale)
				}
			}
		}
		// A tick makes it fresh, for the moment.
		fresh := func() {
			t.Helper()
			until(t, "it is fresh", func() bool {
				l.Tick()
				for range 10 {
					if !client.Status().Stale {
						return true
					}
					time.Sleep(time.Millisecond)
				}
				return false
			})
		}
		fresh()
		until(t, "its verdicts are", func() bool {
			l.Tick()
			d := client.Verify(t.Context(), &verify.Question{Secret: good})
			return d.Valid() && !d.Stale && !d.Asked
		})
		ready(t, client)
		until(t, "it is stale", func() bool { return client.Status().Stale })
		look("stale", c.stale, c.serves, c.asks)
		until(t, "it recovers", func() bool {
			l.Tick()
			d := client.Verify(t.Context(), &verify.Question{Secret: good})
			return d.Valid() && !d.Stale && !d.Asked
		})
		shut(t, client)
	}
}

// TestBrokerAway: whoever is cut off from the broker denies past his bound, and goes on
// when it is back with what happened meanwhile.
func TestBrokerAway(t *testing.T) {
	t.Parallel()
	l := verifytest.Begin(t)
	l.Organization("acme")
	key, id := l.Key("acme")
	c := open(t, l.Connect(l.Verifier("edge-1", 0)), verify.MaxStaleness(time.Second))
	until(t, "it is fresh", func() bool { l.Tick(); return ask(c, key) == events.CodeValid })
	l.Stop()
	until(t, "it denies", func() bool { return ask(c, key) == events.CodeStale })
	failing := map[string]bool{}
	for _, f := range c.Status().Failing() {
		failing[f.Check] = true
	}
	if !failing["broker"] || !failing["fresh"] {
		t.Errorf("%+v", c.Status().Failing())
	}
	l.Start()
	l.Revoke("acme", id)
	until(t, "the revocation is here", func() bool {
		code := ask(c, key)
		if code == events.CodeValid {
			t.Fatal("it was accepted again")
		}
		return code == events.CodeRevoked
	})
	until(t, "all is well", func() bool { l.Tick(); return c.Status().Unready() == nil })
	// Before the broker goes that came last.
	shut(t, c)
}

// TestAskBeforeOpened: who starts while the broker is away asks the server, where it is
// known of which organizations he may speak: as demanded, or as an earlier run was shown.
func TestAskBeforeOpened(t *testing.T) {
	t.Parallel()
	l := verifytest.Begin(t)
	l.Organization("acme")
	key, _ := l.Key("acme")
	part, whole, dir := l.Verifier("edge-1", 0, "globex"), l.Verifier("edge-2", 0), filepath.Join(t.TempDir(), "snapshots")
	conns := [...]*nats.Conn{l.Connect(part), l.Connect(whole), l.Connect(whole)}
	earlier := open(t, conns[2], verify.SnapshotFolder(dir))
	until(t, "it is fresh", func() bool { l.Tick(); return ask(earlier, key) == events.CodeValid })
	shut(t, earlier)
	l.Stop()
	for name, c := range map[string]struct {
		conn *nats.Conn
		more []verify.Option
		want events.Code
	}{
		"of nobody knows whom":         {conns[1], nil, events.CodeStale},
		"demanded, and not those":      {conns[0], []verify.Option{verify.Organizations("globex")}, events.CodeNotFound},
		"shown to an earlier run":      {conns[2], []verify.Option{verify.SnapshotFolder(dir)}, events.CodeValid},
		"of an earlier run, with none": {conns[2], []verify.Option{verify.SnapshotFolder(filepath.Join(t.TempDir(), "empty"))}, events.CodeStale},
	} {
		client := open(t, c.conn, append(c.more, verify.AtOnce(), asking(t, l))...)
		d := client.Verify(t.Context(), &verify.Question{Secret: key})
		if d.Code != c.want || d.Asked != (c.want != events.CodeStale) {
			t.Errorf("%s: %+v, want %s", name, d, c.want)
		}
		if n := client.Status().Asked.Answered; n != map[bool]uint64{true: 1}[d.Asked] {
			t.Errorf("%s: %d answers are counted", name, n)
		}
		shut(t, client)
	}
}

// TestCredentialBound: the bound that a credential was issued with holds where it is
// the smaller one.
func TestCredentialBound(t *testing.T) {
	t.Parallel()
	l := verifytest.Begin(t)
	c := open(t, l.Connect(l.Verifier("edge-1", 3*time.Second)), verify.MaxStaleness(time.Minute))
	ready(t, c)
	until(t, "it knows", func() bool { return c.Status().MaxStaleness == 3*time.Second })
	// Who reads a part of the ledger knows it before he has read anything.
	c = open(t, l.Connect(l.Verifier("edge-3", 3*time.Second, "acme")), verify.MaxStaleness(time.Minute))
	if d := c.Status().MaxStaleness; d != 3*time.Second {
		t.Errorf("narrowed: %s", d)
	}
	c = open(t, l.Connect(l.Verifier("edge-2", 3*time.Second)), verify.MaxStaleness(time.Second))
	until(t, "it knows", func() bool { return c.Status().Applied > 0 })
	if d := c.Status().MaxStaleness; d != time.Second {
		t.Errorf("the bound is %s", d)
	}
}
