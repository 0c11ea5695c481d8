package doors

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/events/snapshots"
)

// read reads everything that a credential shows.
func (w *world) read(conn *nats.Conn, stream, name string) []string {
	w.Helper()
	js, err := natsjs.New(conn)
	if err != nil {
		w.Fatal(err)
	}
	consumer, err := js.Consumer(w.Context(), stream, name)
	if err != nil {
		w.Fatal(err)
	}
	var out []string
	for {
		batch, err := consumer.FetchNoWait(100)
		if err != nil {
			w.Fatal(err)
		}
		n := 0
		for m := range batch.Messages() {
			n++
			out = append(out, m.Subject())
			if stream == jetstream.StreamLedger && strings.HasPrefix(name, "sub") {
				if err := m.DoubleAck(w.Context()); err != nil {
					w.Fatal(err)
				}
			}
		}
		if err := batch.Error(); err != nil {
			w.Fatal(err)
		}
		if n == 0 {
			return out
		}
	}
}

// Each sees what it is for, and of no other organization anything.
func TestWalls(t *testing.T) {
	both(t, func(w *world) {
		w.append(entry(events.TickSubject(), events.Tick{At: events.TimeOf(time.Now()), Signature: "none"}))
		tick, acme, globex := events.TickSubject().String(), fmt.Sprintf("ledger.%04d.acme.", events.Partition("acme")), fmt.Sprintf("ledger.%04d.globex.", events.Partition("globex"))
		for name, c := range map[string]struct {
			grant  credentials.Grant
			stream string
			want   []string // what subjects begin with, in their order
		}{
			"verifier":        {grant("ver", events.CredentialVerifier), "LEDGER", []string{acme, acme, acme, acme + "revoked", globex, globex, globex, globex + "revoked", tick}},
			"verifier, one":   {grant("ver-one", events.CredentialVerifier, "globex"), "LEDGER", []string{globex, globex, globex, globex + "revoked", tick}},
			"verifier, two":   {grant("ver-two", events.CredentialVerifier, "globex", "acme"), "LEDGER", []string{acme, acme, acme, acme, globex, globex, globex, globex, tick}},
			"verifier, none":  {grant("ver-none", events.CredentialVerifier, "initech"), "LEDGER", []string{tick}},
			"subscriber":      {grant("sub", events.CredentialSubscriber), "LEDGER", []string{acme + "revoked.", globex + "revoked."}},
			"subscriber, one": {grant("sub-one", events.CredentialSubscriber, "acme"), "LEDGER", []string{acme + "revoked."}},
			"auditor":         {grant("aud", events.CredentialAuditor), "LEDGER", []string{acme, acme, acme, acme, globex, globex, globex, globex, tick}},
			"auditor, uses":   {grant("aud-uses", events.CredentialAuditor), "USES", []string{"uses.", "uses."}},
			"auditor, one":    {grant("aud-one", events.CredentialAuditor, "acme"), "USES", []string{events.UsesSubject("acme", "other")}},
			"auditor, access": {grant("aud-access", events.CredentialAuditor), "ACCESS", []string{access.Subject("acme", ""), access.Subject("globex", "")}},
			"auditor, one's":  {grant("aud-ones", events.CredentialAuditor, "globex"), "ACCESS", []string{access.Subject("globex", access.LoginFailed)}},
		} {
			conn := w.connect(nats.UserCredentialBytes(w.admit(c.grant)))
			got := w.read(conn, c.stream, string(c.grant.Name))
			if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
				w.Errorf("%s: saw %q, want %q", name, got, c.want)
			}
		}
	})
}

// A verifier records uses under its own name, of its own organizations.
func TestOwnUses(t *testing.T) {
	both(t, func(w *world) {
		conn := w.connect(nats.UserCredentialBytes(w.admit(grant("ver", events.CredentialVerifier, "acme"))))
		for org, want := range map[events.OrgID]error{"acme": nil, events.System: nil, "globex": nats.ErrNoResponders} {
			answer, err := conn.Request(events.UsesSubject(org, "ver"), []byte("uses"), 10*time.Second)
			if !errors.Is(err, want) || err == nil && !strings.Contains(string(answer.Data), `"seq"`) {
				w.Errorf("uses of %s: %v", org, err)
			}
		}
	})
}

// A verifier reads the snapshots of its own scope, and no other's, by whatever it asks
// for: neither as it is let in, nor if its user might ask for anything.
func TestOwnSnapshots(t *testing.T) {
	both(t, func(w *world) {
		stored := func(scope events.ScopeLabel) (manifest, chunk string) {
			m, there, err := w.ledger.SnapshotManifest(w.Context(), scope)
			if err != nil || !there {
				w.Fatalf("no snapshot: %v", err)
			}
			return snapshots.ManifestSubject(scope), snapshots.ChunkSubject(scope, m.Side, 0)
		}
		for _, bare := range []bool{false, true} {
			admit := func(name events.CredentialName, orgs ...events.OrgID) *nats.Conn {
				g := grant(name, events.CredentialVerifier, orgs...)
				if bare {
					g.Name += "-bare"
					return w.connect(w.admitBare(g))
				}
				return w.connect(nats.UserCredentialBytes(w.admit(g)))
			}
			for name, c := range map[string]struct {
				conn *nats.Conn
				own  []events.ScopeLabel
			}{
				"all":    {admit("all"), []events.ScopeLabel{""}},
				"acme":   {admit("acme", "acme"), []events.ScopeLabel{acmeScope}},
				"globex": {admit("globex", "globex"), nil},
			} {
				for _, scope := range []events.ScopeLabel{"", acmeScope} {
					manifest, chunk := stored(scope)
					own := slices.Contains(c.own, scope)
					for _, subject := range []string{manifest, chunk} {
						answer, err := c.conn.Request("$JS.API.DIRECT.GET.SNAPSHOTS."+subject, nil, 10*time.Second)
						if own && (err != nil || len(answer.Data) == 0) {
							w.Errorf("%s does not read %s: %v", name, subject, err)
						}
						if !own && err == nil {
							w.Errorf("%s reads %s: %v %q", name, subject, answer.Header, answer.Data)
						}
					}
				}
				// What the body of a request asks for beside its subject.
				for _, scope := range c.own {
					manifest, _ := stored(scope)
					foreign, _ := stored(map[events.ScopeLabel]events.ScopeLabel{"": acmeScope, acmeScope: ""}[scope])
					for _, body := range []string{
						`{"seq":1}`, `{"seq":1,"next_by_subj":"` + foreign + `"}`, `{"last_by_subj":"` + foreign + `"}`, `{"multi_last":["` + foreign + `"]}`,
						`{"multi_last":["snapshots.>"],"batch":10}`, `{"seq":1,"batch":10}`, `{"start_time":"2000-01-01T00:00:00Z","next_by_subj":">"}`,
					} {
						answer, err := c.conn.Request("$JS.API.DIRECT.GET.SNAPSHOTS."+manifest, []byte(body), 10*time.Second)
						if err != nil || len(answer.Data) > 0 || answer.Header.Get("Status") != "408" {
							w.Errorf("%s is told by %s: %+v, %v", name, body, answer, err)
						}
					}
				}
			}
		}
	})
}

// A verifier speaks for itself, and for no other.
func TestOwnPresence(t *testing.T) {
	both(t, func(w *world) {
		conn := w.connect(nats.UserCredentialBytes(w.admit(grant("ver", events.CredentialVerifier, "acme"))))
		said := func() string {
			var got struct {
				Message struct {
					Seq  uint64
					Data []byte
				}
			}
			w.ask("$JS.API.STREAM.MSG.GET."+jetstream.StreamPresence, fmt.Sprintf(`{"last_by_subj":%q}`, presence.Subject("other")), &got)
			return fmt.Sprintf("%d %q", got.Message.Seq, got.Message.Data)
		}
		before, inbox := said(), conn.NewInbox()
		answers, err := conn.SubscribeSync(inbox)
		if err == nil {
			err = conn.PublishRequest(presence.Subject("other"), inbox, []byte("forged"))
		}
		if err != nil {
			w.Fatal(err)
		}
		// The stream takes what it is told in order: what came before this is there.
		answer, err := conn.Request(presence.Subject("ver"), []byte("here"), 30*time.Second)
		if err != nil || !strings.Contains(string(answer.Data), `"seq"`) {
			w.Errorf("presence of its own: %v", err)
		}
		if after := said(); after != before {
			w.Errorf("presence of another: %s, before %s", after, before)
		}
		// What its user may not publish is answered by nothing at all.
		if answer, err := answers.NextMsg(short); err == nil && answer.Header.Get("Status") != "503" {
			w.Errorf("presence of another: %v %q", answer.Header, answer.Data)
		}
	})
}

// Who is shut out is thrown out where he is connected, at every node, and stays out.
func TestShutOut(t *testing.T) {
	both(t, func(w *world) {
		g := grant("ver", events.CredentialVerifier)
		secret := w.admit(g)
		conn := w.connect(nats.UserCredentialBytes(secret), nats.NoReconnect())
		stays := w.connect(nats.UserCredentialBytes(w.admit(grant("stays", events.CredentialVerifier))), nats.NoReconnect())
		held, err := credentials.Holder(secret)
		if err != nil {
			w.Fatal(err)
		}
		account, err := w.authority.Revoked(g.Name, held.Account)
		if err != nil {
			w.Fatal(err)
		}
		w.push(account)
		for deadline := time.Now().Add(30 * time.Second); !conn.IsClosed(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				w.Fatal("still connected")
			}
		}
		if again, err := nats.Connect(w.url, nats.UserCredentialBytes(secret)); !errors.Is(err, nats.ErrAuthorization) {
			w.Errorf("let in again: %v, %v", again, err)
		}
		if err := stays.Flush(); err != nil {
			w.Errorf("another was thrown out: %v", err)
		}
		if _, err := w.server.Request("$JS.API.STREAM.INFO.LEDGER", nil, 5*time.Second); err != nil {
			w.Errorf("the server was thrown out: %v", err)
		}
	})
}

// Who was let in, and who was shut out, is so after a restart.
func TestRestart(t *testing.T) {
	dir := folder(t)
	in, out := grant("in", events.CredentialVerifier), grant("out", events.CredentialVerifier)
	var secrets [2][]byte
	start := func() (*embedded.Broker, string) {
		b, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, Listen: "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		return b, "nats://" + b.Addr().String()
	}
	b, _ := start()
	for i, g := range []credentials.Grant{in, out} {
		issued, err := credentials.Draw(g)
		if err != nil {
			t.Fatal(err)
		}
		secrets[i] = issued.Creds
		account, err := b.Authority().Account(g, issued.Account)
		if err != nil {
			t.Fatal(err)
		}
		accounts := []credentials.Account{account}
		if i == 1 {
			if account, err = b.Authority().Revoked(g.Name, issued.Account); err != nil {
				t.Fatal(err)
			}
			accounts = append(accounts, account)
		}
		if err := b.Push(t.Context(), accounts...); err != nil {
			t.Fatal(err)
		}
	}
	b.Shutdown()
	b, url := start()
	defer b.Shutdown()
	conn, err := nats.Connect(url, nats.UserCredentialBytes(secrets[0]))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, err := nats.Connect(url, nats.UserCredentialBytes(secrets[1])); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("let in again: %v", err)
	}
}

// A node that was away when somebody was let in, and somebody shut out, hears of both
// from the others.
func TestNodeThatWasAway(t *testing.T) {
	c := nodes.in(t)
	c.Begin()
	system := c.System()
	push := func(account credentials.Account, err error) {
		t.Helper()
		if err == nil {
			err = credentials.Push(t.Context(), system, 0, account)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	draw := func(name events.CredentialName) (credentials.Grant, credentials.Issued) {
		g := grant(name, events.CredentialVerifier)
		issued, err := credentials.Draw(g)
		if err != nil {
			t.Fatal(err)
		}
		return g, issued
	}
	in, drawnIn := draw("in")
	out, drawnOut := draw("out")
	push(c.Authority().Account(out, drawnOut.Account))
	const away = 2
	c.Stop(away)
	// Accounts are told apart by the second they were signed in.
	time.Sleep(time.Second)
	push(c.Authority().Account(in, drawnIn.Account))
	push(c.Authority().Revoked(out.Name, drawnOut.Account))
	c.Restart(away)
	lets := func(secret []byte) bool {
		conn, err := nats.Connect(c.URL(away), nats.UserCredentialBytes(secret))
		if err != nil {
			return false
		}
		defer conn.Close()
		return conn.Flush() == nil
	}
	for deadline := time.Now().Add(time.Minute); !lets(drawnIn.Creds) || lets(drawnOut.Creds); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the node did not hear")
		}
	}
}
