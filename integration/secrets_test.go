package integration

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/uses"
)

// No file of the data folder, log line, metric or error tells a secret.
func TestNoSecretAnywhere(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	owner := s.owner()
	s.organization(owner, "acme", "")
	created := s.must(201, owner, "POST", "/v1/organizations/acme/keys", keyBody)
	secret, id := created.Text("secret"), created.Text("key.id")
	rotated := s.must(201, owner, "POST", "/v1/organizations/acme/keys/"+id+"/rotate", `{"grace":"1h"}`)
	secrets := []string{secret, rotated.Text("secret"), owner}

	var shown bytes.Buffer
	look := func(a answer, err error) {
		if err != nil {
			t.Fatal(err)
		}
		shown.Write(a.Body)
		for name, values := range a.Header {
			shown.WriteString(name + ": " + strings.Join(values, ",") + "\n")
		}
	}
	s.verdict(owner, secret, "interview:read")
	for _, wrong := range []string{secret, rotated.Text("secret")} {
		org := "/v1/organizations/acme"
		for _, try := range [][3]string{
			{"POST", org + "/keys", `{"name":"` + wrong + `","permissions":["interview:read"],"scope":{"all_workspaces":true}}`},
			{"POST", org + "/keys", `{"` + wrong + `":1}`},
			{"POST", org + "/keys", `{"name":"x","metadata":{"k":"` + wrong + `"},"permissions":["interview:read"],"scope":{"all_workspaces":true}}`},
			{"POST", org + "/keys", `{"name":"x","permissions":["` + wrong + `"],"scope":{"all_workspaces":true}}`},
			{"POST", org + "/keys", wrong},
			{"PATCH", org + "/keys/" + id, `{"name":"` + wrong + `"}`},
			{"PATCH", org + "/keys/" + id, `{"status":"` + wrong + `"}`},
			{"POST", org + "/keys/" + id + "/revoke", `{"reason":"leaked: ` + wrong + `"}`},
			{"GET", org + "/keys/" + wrong, ""},
			{"GET", org + "/keys?q=" + wrong, ""},
			{"GET", org + "/keys?cursor=" + wrong, ""},
			{"GET", "/v1/organizations/" + wrong, ""},
			{"GET", "/" + wrong, ""},
			{"POST", "/v1/organizations", `{"id":"` + wrong + `","name":"n"}`},
			{"POST", org + "/workspaces", `{"id":"w","name":"` + wrong + `"}`},
			{"POST", org + "/profiles", `{"id":"p","name":"p","settings":{"a":"` + wrong + `"}}`},
			{"PUT", org + "/permissions", `{"permissions":[{"name":"a:b","access":"read","description":"` + wrong + `"}]}`},
			{"POST", "/v1/verify", `{"secret":"` + wrong + `","permission":"` + wrong + `"`},
			{"POST", "/v1/verify", `{"secret":"` + wrong + `","` + wrong + `":1}`},
			{"POST", "/v1/verify", `{"secret":"` + wrong + `","context":{"path":"/x?key=` + wrong + `","request_id":"` + wrong + `","user_agent":"` + wrong + `"}}`},
		} {
			look(s.ask(owner, try[0], try[1], try[2]))
			look(s.ask(wrong, try[0], try[1], try[2]))
		}
		look(s.ask(owner, "POST", "/v1/organizations/acme/keys", keyBody, "Idempotency-Key", wrong, "X-Request-Id", wrong, "Keyledger-Reason", wrong))
		look(s.ask(wrong, "GET", "/v1/authorize", "", "X-Forwarded-Uri", "/api?key="+wrong, "X-Forwarded-Method", "GET", "X-Keyledger-Permission", wrong))
		look(s.ask(wrong+"x", "GET", "/v1/whoami", ""))
	}
	look(s.ask("", "GET", "/metrics", ""))
	look(s.ask("", "GET", "/openapi.json", ""))
	look(s.ask(owner, "GET", "/v1/organizations/acme/keys/"+id+"/history", ""))
	s.Stop()

	for _, secret := range secrets {
		if strings.Contains(shown.String(), secret) {
			i := strings.Index(shown.String(), secret)
			t.Errorf("an answer shows a secret after %q", shown.String()[max(0, i-80):i])
		}
		if strings.Contains(s.Logged(), secret) {
			t.Error("the log shows a secret")
		}
		// The last 12 characters are enough to know a key by.
		if tail := secret[len(secret)-12:]; strings.Contains(s.Logged(), tail) {
			t.Error("the log shows the end of a secret")
		}
	}
	grep(t, s.data, secrets)
	grepStreams(t, s.data, secrets)
}

// grepStreams reads what the broker stored, uses unpacked.
func grepStreams(t *testing.T, dir string, secrets []string) {
	t.Helper()
	broker, err := embedded.Start(t.Context(), embedded.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Shutdown()
	ledger, err := jetstream.New(jetstream.Config{Conn: broker.Conn(), Ledger: events.LedgerID{1}, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	look := func(what string, content []byte) {
		for _, secret := range secrets {
			if bytes.Contains(content, []byte(secret)) {
				t.Errorf("%s holds a secret", what)
			}
		}
	}
	read := func(last func(context.Context) (events.Position, error), follow func(context.Context, func(events.Position))) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		end, err := last(ctx)
		if err != nil || end == 0 {
			t.Fatalf("the stream ends at %d: %v", end, err)
		}
		follow(ctx, func(at events.Position) {
			if at >= end {
				cancel()
			}
		})
	}
	read(ledger.Last, func(ctx context.Context, reached func(events.Position)) {
		_ = ledger.Follow(ctx, 0, func(facts []events.Recorded) error {
			for _, f := range facts {
				look("event "+string(f.Event.Kind()), f.Raw)
				reached(f.Position)
			}
			return nil
		})
	})
	blocks, err := uses.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	read(ledger.LastUses, func(ctx context.Context, reached func(events.Position)) {
		_ = ledger.FollowUses(ctx, 0, func(messages []events.UsesMessage) error {
			for _, m := range messages {
				block, err := blocks.Decode(m.Subject, m.Body)
				if err != nil {
					t.Errorf("block of uses at %d: %v", m.Position, err)
				}
				look("block of uses", []byte(fmt.Sprintf("%+v", block)))
				seen += len(block.Uses)
				reached(m.Position)
			}
			return nil
		})
	})
	if seen == 0 {
		t.Error("no use was recorded")
	}
}

// grep reads every file of a data folder but the owner's key.
func grep(t *testing.T, dir string, secrets []string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for _, secret := range secrets {
			if bytes.Contains(content, []byte(secret)) && filepath.Base(path) != "owner.key" {
				t.Errorf("%s holds a secret", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 5 {
		t.Fatalf("only %d files were read", files)
	}
}
