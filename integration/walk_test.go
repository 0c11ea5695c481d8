package integration

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// The main job: each change decides the very next verdict, and every step is
// found in the ledger.
func TestMainJob(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	owner := s.owner()
	s.organization(owner, "acme", "")
	created := s.must(201, owner, "POST", "/v1/organizations/acme/keys", keyBody)
	secret, id := created.Text("secret"), created.Text("key.id")
	path := "/v1/organizations/acme/keys/" + id

	for _, want := range [][2]string{{"interview:read", "VALID"}, {"interview:start", "INSUFFICIENT_PERMISSIONS"}, {"interview:nothing", "INSUFFICIENT_PERMISSIONS"}} {
		if got := s.verdict(owner, secret, want[0]); got != want[1] {
			t.Errorf("%s: got %s, want %s", want[0], got, want[1])
		}
	}
	for i := range 20 {
		grants, start := `["interview:read"]`, "INSUFFICIENT_PERMISSIONS"
		if i%2 == 0 {
			grants, start = `["interview:start"]`, "VALID"
		}
		s.must(200, owner, "PATCH", path, `{"permissions":`+grants+`}`)
		if got := s.verdict(owner, secret, "interview:start"); got != start {
			t.Fatalf("round %d: got %s right after the change, want %s", i, got, start)
		}
	}
	s.must(200, owner, "PATCH", path, `{"status":"INACTIVE"}`)
	if got := s.verdict(owner, secret, ""); got != "INACTIVE" {
		t.Errorf("switched off: got %s", got)
	}
	s.must(200, owner, "PATCH", path, `{"status":"ACTIVE"}`)
	s.must(200, secret, "GET", "/v1/authorize", "", "X-Forwarded-Method", "GET", "X-Forwarded-Uri", "/api/v1/interviews/42?full=1")
	for _, uri := range []string{"/api/v1/interviews/start", "/api/v1/interviews/42/complete", "/api/v1/other", "/api/v1/interviews/../interviews/42"} {
		s.must(403, secret, "GET", "/v1/authorize", "", "X-Forwarded-Method", "POST", "X-Forwarded-Uri", uri)
	}
	s.must(200, owner, "POST", path+"/revoke", `{"reason":"leaked in a log"}`)
	if got := s.verdict(owner, secret, ""); got != "REVOKED" {
		t.Fatalf("revoked: got %s", got)
	}
	s.must(401, secret, "GET", "/v1/authorize", "")

	// By no command does it come back.
	for _, try := range [][3]string{
		{"PATCH", "", `{"status":"ACTIVE"}`},
		{"PATCH", "", `{"expires_at":null}`},
		{"PATCH", "", `{"name":"again"}`},
		{"POST", "/rotate", `{"grace":"24h"}`},
	} {
		s.must(409, owner, try[0], path+try[1], try[2])
	}
	s.must(200, owner, "POST", path+"/revoke", `{}`)
	if got := s.verdict(owner, secret, ""); got != "REVOKED" {
		t.Fatalf("after tries to bring it back: got %s", got)
	}

	history := string(s.must(200, owner, "GET", path+"/history?limit=200", "").Body)
	for _, want := range []string{"key.created", "key.permissions_changed", "key.disabled", "key.enabled", "key.revoked", "leaked in a log"} {
		if !strings.Contains(history, want) {
			t.Errorf("history does not tell of %q", want)
		}
	}

	s.Stop()
	s = start(t, s.data)
	if got := s.verdict(owner, secret, ""); got != "REVOKED" {
		t.Fatalf("after a restart: got %s", got)
	}
}

// A use shows as last_used_at within a second or so.
func TestLastUsed(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	owner := s.owner()
	s.organization(owner, "acme", "")
	created := s.must(201, owner, "POST", "/v1/organizations/acme/keys", keyBody)
	path := "/v1/organizations/acme/keys/" + created.Text("key.id")
	if got := s.must(200, owner, "GET", path, "").Get("last_used_at"); got != nil {
		t.Fatalf("before any use: %v", got)
	}
	s.verdict(owner, created.Text("secret"), "interview:read")
	deadline := time.Now().Add(20 * time.Second)
	for s.must(200, owner, "GET", path, "").Get("last_used_at") == nil {
		if time.Now().After(deadline) {
			t.Fatal("last_used_at never came")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// The same idempotency key gives one key and no second secret, whatever
// happened in between.
func TestIdempotentCreate(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	owner := s.owner()
	s.organization(owner, "acme", "")
	s.organization(owner, "other", "")
	const wish = "4b7c1c1e-0001"
	first := s.must(201, owner, "POST", "/v1/organizations/acme/keys", keyBody, "Idempotency-Key", wish)
	repeat := func(when string) {
		t.Helper()
		again := s.must(201, owner, "POST", "/v1/organizations/acme/keys", keyBody, "Idempotency-Key", wish)
		if again.Text("key.id") != first.Text("key.id") || again.Get("secret") != nil || again.Header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("%s: got %s with Idempotency-Replayed %q", when, again, again.Header.Get("Idempotency-Replayed"))
		}
	}
	repeat("at once")
	s.must(422, owner, "POST", "/v1/organizations/acme/keys", strings.Replace(keyBody, "interview service", "another", 1), "Idempotency-Key", wish)
	other := s.must(201, owner, "POST", "/v1/organizations/other/keys", keyBody, "Idempotency-Key", wish)
	if other.Text("key.id") == first.Text("key.id") || other.Text("secret") == "" {
		t.Errorf("another organization got %s", other)
	}
	s.Stop()
	s = start(t, s.data)
	repeat("after a restart")
	s.Kill()
	s = start(t, s.data)
	repeat("after kill -9")
	items, _ := s.must(200, owner, "GET", "/v1/organizations/acme/keys?status=all", "").Get("items").([]any)
	if len(items) != 1 {
		t.Errorf("got %d keys, want 1", len(items))
	}
}

// Of 64 clients at once under a limit of 10, exactly 10 get a key.
func TestLimitIsExact(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	owner := s.owner()
	s.organization(owner, "acme", `,"limits":{"max_active_keys":10}`)
	race := func() (created, refused []answer) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				a, err := s.ask(owner, "POST", "/v1/organizations/acme/keys", keyBody)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					t.Errorf("create: %v", err)
				case a.Status == 201:
					created = append(created, a)
				case a.Status == 409 && a.Text("code") == "key_limit_reached":
					refused = append(refused, a)
				default:
					t.Errorf("create: %s", a)
				}
			})
		}
		wg.Wait()
		return created, refused
	}
	created, refused := race()
	if len(created) != 10 || len(refused) != 54 {
		t.Fatalf("got %d keys and %d refusals, want 10 and 54", len(created), len(refused))
	}
	for _, a := range created[:3] {
		s.must(200, owner, "POST", "/v1/organizations/acme/keys/"+a.Text("key.id")+"/revoke", `{}`)
	}
	if created, _ = race(); len(created) != 3 {
		t.Errorf("after three ended: got %d more keys, want 3", len(created))
	}
}

// Every answered change holds after kill -9 in the middle of a stream of creates.
func TestKillDuringCreates(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	owner := s.owner()
	s.organization(owner, "acme", "")
	type issued struct{ id, secret, want string }
	var answered []issued
	for round := range 3 {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() {
				for i := 0; ; i++ {
					a, err := s.ask(owner, "POST", "/v1/organizations/acme/keys", fmt.Sprintf(`{"name":"key %d-%d-%d","permissions":["interview:read"],"scope":{"all_workspaces":true}}`, round, n, i))
					if err != nil || a.Status != 201 {
						return
					}
					k := issued{a.Text("key.id"), a.Text("secret"), "VALID"}
					if i%3 == 0 {
						r, err := s.ask(owner, "POST", "/v1/organizations/acme/keys/"+k.id+"/revoke", `{"reason":"test"}`)
						switch {
						case err != nil:
							k.want = "" // unanswered: either outcome is right
						case r.Status == 200:
							k.want = "REVOKED"
						}
					}
					mu.Lock()
					answered = append(answered, k)
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(300+200*round) * time.Millisecond)
		s.Kill()
		wg.Wait()
		s = start(t, s.data)
		for _, k := range answered {
			if got := s.verdict(owner, k.secret, "interview:read"); got != k.want && k.want != "" {
				t.Fatalf("round %d: key %s: got %s, want %s", round, k.id, got, k.want)
			}
			s.must(200, owner, "GET", "/v1/organizations/acme/keys/"+k.id, "")
		}
		t.Logf("round %d: %d answered keys hold", round, len(answered))
	}
	// What the crashes may have taken along is said, with its bound.
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(s.Logged(), "ended without its mark"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("the log does not tell of the boots that were killed")
			break
		}
	}
	if len(answered) < 20 {
		t.Errorf("only %d keys were answered: this proves little", len(answered))
	}
}
