package integration

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/api/client"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/integration/natstest"
	"github.com/keyledger/keyledger/projections"
)

// told adds the facts about keys' ends that a ledger holds behind a position: for each
// key the kinds and what they tell, in order.
func told(t *testing.T, ledger *jetstream.Ledger, after events.Position, out map[string][]string) events.Position {
	t.Helper()
	return readOn(t, ledger, after, func(f events.Recorded) {
		id, _ := f.Subject.Key()
		switch e := f.Event.(type) {
		case events.KeyExpired:
			if f.Meta.Time < e.ExpiredAt {
				t.Errorf("%s ends at %s, and was recorded at %s", id, e.ExpiredAt, f.Meta.Time)
			}
			if f.Meta.Actor.String() != "system/expiry" {
				t.Errorf("%s was recorded by %s", id, f.Meta.Actor)
			}
			out[id.String()] = append(out[id.String()], "end")
		case events.KeyExpiring:
			out[id.String()] = append(out[id.String()], string(e.Notice))
		}
	})
}

// awaitTold waits until every key was told of, and returns what else was.
func awaitTold(t *testing.T, ledger *jetstream.Ledger, want map[string]string) {
	t.Helper()
	got, read := map[string][]string{}, events.Position(0)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		read = told(t, ledger, read, got)
		missing := 0
		for id, text := range want {
			if text != "" && len(got[id]) < len(strings.Fields(text)) {
				missing++
			}
		}
		if missing == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("of %d keys not everything was told: %v", missing, got)
		}
	}
	for id, text := range want {
		if strings.Join(got[id], " ") != text {
			t.Errorf("of %s was told %v, want %s", id, got[id], text)
		}
		delete(got, id)
	}
	if len(got) > 0 {
		t.Errorf("more was told: %v", got)
	}
}

// past makes keys as of a time that is gone, as if a server had been told then:
// what lies a day before their ends then lies between.
func (c *cluster) past(ledger *jetstream.Ledger, ago time.Duration) *commands.Service {
	c.t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	configuration := commands.NewConfiguration()
	runner, err := projections.NewRunner(projections.Config{Source: ledger, View: configuration, Logger: quiet})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = runner.Run(ctx) })
	c.t.Cleanup(func() { cancel(); running.Wait() })
	service, err := commands.New(commands.Config{
		Log: ledger, Ledger: c.id(), Configuration: configuration, Await: runner.WaitFor, Logger: quiet,
		Holders: func(context.Context, events.OrgID) ([]events.KeyID, error) { return nil, nil },
		Now:     func() time.Time { return time.Now().Add(-ago) },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	<-runner.Ready()
	return service
}

func (c *cluster) ledger() *jetstream.Ledger {
	c.t.Helper()
	ledger, err := jetstream.New(jetstream.Config{
		Conn: c.connect(credentials.ServerCreds, nats.CustomInboxPrefix(embedded.InboxPrefix)), Ledger: c.id(), Replicas: natstest.Nodes,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return ledger
}

// id is that of the ledger on the cluster.
func (c *cluster) id() events.LedgerID {
	c.t.Helper()
	id, _, err := jetstream.Identify(c.t.Context(), c.operator)
	if err != nil {
		c.t.Fatal(err)
	}
	return id
}

// endsAt creates a key that ends at an instant.
func (s *server) endsAt(owner string, at time.Time) string {
	s.t.Helper()
	body := fmt.Sprintf(`{"permissions":{"level":"all"},"scope":{"all_workspaces":true},"expires_at":%q}`, at.UTC().Format(time.RFC3339Nano))
	return s.must(201, owner, "POST", "/v1/organizations/acme/keys", body).Text("key.id")
}

// Several servers on one ledger tell of each end, and give each notice, exactly
// once, whoever of them is killed, and also of what came while none was there.
//
// Breaking it: a keeper that takes up only what comes due after its start leaves
// out what came before; an append without its expectation tells twice of what two
// servers try at once.
func TestEndsOfKeys(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	begun := c.begin()
	owner := ownerIn(t, begun)
	one, two := c.serve(begun), c.join(begun)
	ledger := c.ledger()
	one.organization(owner, "acme", `,"policy":{"expiry_notices":["1d"]}`)
	want := map[string]string{}

	subscribed := two.subscribe(owner, "key.expired", "key.expiring")

	soon := time.Now().Add(6 * time.Second).Truncate(time.Second)
	for n := range 20 {
		want[[]*server{one, two}[n%2].endsAt(owner, soon)] = "end"
	}
	path := "/v1/organizations/acme/keys/"
	off, gone, moved, rotated := one.endsAt(owner, soon), one.endsAt(owner, soon), one.endsAt(owner, soon), one.endsAt(owner, soon.Add(time.Hour))
	one.must(200, owner, "PATCH", path+off, `{"status":"INACTIVE"}`)
	one.must(200, owner, "POST", path+gone+"/revoke", `{}`)
	one.must(200, owner, "PATCH", path+moved, fmt.Sprintf(`{"expires_at":%q}`, soon.Add(time.Second).UTC().Format(time.RFC3339)))
	successor := one.must(201, owner, "POST", path+rotated+"/rotate", `{"grace":"0"}`).Text("key.id")
	want[off], want[gone], want[moved], want[rotated], want[successor] = "end", "", "end", "end", ""
	manager := one.must(201, owner, "POST", "/v1/organizations/acme/keys",
		fmt.Sprintf(`{"kind":"management","role":"member","scope":{"all_workspaces":true},"expires_at":%q}`, soon.UTC().Format(time.RFC3339))).Text("key.id")
	want[manager] = "end"

	// Keys of two days ago, of which notice is due by now.
	then := c.past(ledger, 48*time.Hour)
	by := commands.Wish{Principal: commands.Principal{
		Actor: events.Actor{Type: events.ActorKey, Org: events.System, Key: events.KeyID{1}}, Org: events.System,
		Role: events.RoleOwner, Scope: events.Scope{AllWorkspaces: true},
	}}
	for range 10 {
		out, err := then.CreateKey(t.Context(), by, "acme", commands.CreateKey{Create: key.Create{
			Permissions: events.Permissions{Level: events.LevelAll}, Scope: events.Scope{AllWorkspaces: true},
			Expiry: key.Expiry{At: events.TimeOf(time.Now().Add(20 * time.Hour))},
		}})
		if err != nil {
			t.Fatal(err)
		}
		want[out.Key.ID.String()] = "1d"
	}
	awaitTold(t, ledger, want)
	one.toldOf(owner, off, "key.created", "key.disabled", "key.expired")
	subscribed(want)

	// One is killed right before the time.
	soon = time.Now().Add(5 * time.Second).Truncate(time.Second)
	for range 20 {
		want[two.endsAt(owner, soon)] = "end"
	}
	time.Sleep(time.Until(soon) - 100*time.Millisecond)
	one.Kill()
	awaitTold(t, ledger, want)

	// The other is, too, and the time comes without a server.
	soon = time.Now().Add(5 * time.Second).Truncate(time.Second)
	for range 20 {
		want[two.endsAt(owner, soon)] = "end"
	}
	two.Kill()
	time.Sleep(time.Until(soon) + time.Second)
	one, two = c.serve(begun), c.serve(two.data, "--installation-key", filepath.Join(begun, "installation.key"))
	awaitTold(t, ledger, want)
	for _, s := range []*server{one, two} {
		if text := string(s.must(200, "", "GET", "/metrics", "").Body); !strings.Contains(text, "\nkeyledger_expiry_overdue 0\n") {
			t.Errorf("%s: something is overdue", s.url)
		}
	}
}

// subscribe follows the events of some kinds. What it returns waits until as many
// were seen of each key as are wanted, and ends it.
func (s *server) subscribe(owner string, kinds ...string) func(want map[string]string) {
	s.t.Helper()
	c, err := client.New(client.Config{URL: s.url, Key: keystring.Conceal(owner)})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	seen, ended := make(chan string, 1000), make(chan error, 1)
	go func() {
		ended <- c.Events(ctx, client.Follow{Types: kinds, After: "0"}, func(e wire.Event) error {
			seen <- string(e.Event)
			return nil
		})
	}()
	return func(want map[string]string) {
		s.t.Helper()
		defer cancel()
		left := map[string]int{}
		n := 0
		for id, text := range want {
			left[id] = len(strings.Fields(text))
			n += left[id]
		}
		for ; n > 0; n-- {
			select {
			case event := <-seen:
				for id := range left {
					if strings.Contains(event, id) {
						left[id]--
					}
				}
			case err := <-ended:
				s.t.Errorf("%d events did not come: %v", n, err)
				return
			}
		}
		for id, n := range left {
			if n != 0 {
				s.t.Errorf("of %s came %d events too few", id, n)
			}
		}
	}
}

// toldOf expects the kinds of a key's events, oldest first.
func (s *server) toldOf(owner, id string, want ...string) {
	s.t.Helper()
	var got []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && !slices.Equal(got, want); time.Sleep(50 * time.Millisecond) {
		got = nil
		items, _ := s.must(200, owner, "GET", "/v1/organizations/acme/keys/"+id+"/history", "").Get("items").([]any)
		for _, item := range items {
			kind, _ := item.(map[string]any)["type"].(string)
			got = append([]string{kind}, got...)
		}
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("history %v, want %v", got, want)
	}
}
