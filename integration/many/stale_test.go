package many

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/cmd/access"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/integration/natstest"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/continuity"
	"github.com/keyledger/keyledger/verify"
)

// tick has a server's ticks appended, every second, until the test ends.
func (w *world) tick() {
	w.Helper()
	secret, vkey, err := note.GenerateKey(rand.Reader, "many")
	if err != nil {
		w.Fatal(err)
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		w.Fatal(err)
	}
	w.append(events.InstallationSubject(), events.InstallationSignerAdded{Name: "many", VerifierKey: vkey})
	view, err := continuity.New(continuity.Config{Ledger: ledgerID})
	if err != nil {
		w.Fatal(err)
	}
	runner, err := projections.NewRunner(projections.Config{Source: w.ledger, View: view, Proven: view.Proven})
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := runner.Run(ctx); err != nil {
			w.Errorf("count the ledger: %v", err)
		}
	})
	running.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			last, err := w.ledger.Last(ctx)
			if err != nil || runner.WaitFor(ctx, last) != nil {
				continue
			}
			draft, _ := view.Next(events.TimeOf(time.Now()))
			text := draft.Tick.Text(ledgerID)
			signed, err := note.Sign(&note.Note{Text: text}, signer)
			if err != nil {
				w.Error(err)
				return
			}
			draft.Tick.Signature = strings.TrimSuffix(strings.TrimPrefix(string(signed), text+"\n"), "\n")
			w.append(events.TickSubject(), draft.Tick)
		}
	})
	w.Cleanup(func() { cancel(); running.Wait() })
}

// key makes a key of acme's.
func (w *world) key() (secret string, id events.KeyID) {
	w.Helper()
	var random [24]byte
	if _, err := rand.Read(random[:]); err != nil {
		w.Fatal(err)
	}
	key, err := keystring.New("kl_test", random)
	if err != nil {
		w.Fatal(err)
	}
	secret, id = key.Reveal(), events.KeyID(uuid.Must(uuid.NewV7()))
	w.append(events.KeySubject("acme", id), events.KeyCreated{
		ID: id, KeyKind: events.KindAPI, Prefix: keystring.Prefix(secret), LastFour: keystring.LastFour(secret),
		Digest:      events.Digest{Alg: events.SHA256, Value: keystring.Digest(secret)},
		Permissions: events.Permissions{Level: events.LevelAll}, Scope: events.Scope{AllWorkspaces: true}, CreatedAt: events.TimeOf(time.Now()),
	})
	return secret, id
}

// verifier opens one by a credential.
func (w *world) verifier(url, creds string, name string) *verify.Client {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	client, err := verify.Open(ctx, w.connect(url, creds), verify.Name(name), verify.StartJitter(0))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		// What it cannot store with half of its broker gone is not looked at here.
		_ = client.Close(ctx)
	})
	return client
}

// says waits until a verifier gives a verdict on a key.
func (w *world) says(client *verify.Client, secret string, want events.Code) {
	w.Helper()
	w.until("the verdict "+want.String(), func() error {
		if d := client.Verify(w.Context(), &verify.Question{Secret: secret}); d.Code != want {
			return fmt.Errorf("it is %s", d.Code)
		}
		return nil
	})
}

// Ticks come through mirrors and copies as all other facts do: a verifier whose mirror
// stands still, or whose leaf node is cut off, finds it out by itself and denies, while
// those who read the ledger itself go on; and is right again when it is back.
func TestStandingStill(t *testing.T) {
	w := begin(t)
	w.append(events.OrganizationSubject("acme"), events.OrganizationCreated{ID: "acme", Name: events.ClearText("Acme")})
	kept, _ := w.key()
	revoked, id := w.key()
	w.tick()
	folder := t.TempDir()
	w.doors("", func(d *access.Doors) error { return d.MakeMirror(t.Context(), "west", 1) })
	w.doors("", func(d *access.Doors) error { return d.IssueLeaf(t.Context(), "shop", w.cluster.Hubs(), folder) })
	leaf := natstest.ReserveLeaf(t)
	leaf.Start(folder)
	c, most := w.cluster, 5*time.Second
	node := w.nodeOf(jetstream.MirrorStream("west"))
	elsewhere := c.URL((node + 1) % natstest.Nodes)
	direct := w.verifier(elsewhere, w.issue("", access.Wish{Name: "direct", MaxStaleness: most}), "direct")
	mirrored := w.verifier(elsewhere, w.issue("", access.Wish{Name: "mirrored", MaxStaleness: most, Mirror: "west"}), "mirrored")
	till := w.verifier(leaf.URL(0), w.issue(leaf.URL(0), access.Wish{Name: "till", MaxStaleness: most, Leaf: "shop", Organizations: []events.OrgID{"acme"}}), "till")
	all := []*verify.Client{direct, mirrored, till}
	for _, client := range all {
		w.says(client, kept, events.CodeValid)
	}
	c.Kill(node)
	w.says(mirrored, kept, events.CodeStale)
	w.says(direct, kept, events.CodeValid)
	w.append(events.RevokedSubject("acme", id), events.KeyRevoked{})
	c.Restart(node)
	for _, client := range all {
		w.says(client, revoked, events.CodeRevoked)
		w.says(client, kept, events.CodeValid)
	}
	// A leaf node that hangs on nothing.
	w.doors("", func(d *access.Doors) error {
		return d.Revoke(t.Context(), "shop", "sold")
	})
	w.says(till, kept, events.CodeStale)
	w.says(direct, kept, events.CodeValid)
}
