package byok

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/keyledger/keyledger/integration/natstest"
	"github.com/keyledger/keyledger/integration/program"
)

// asking resolves at both servers, all the time, until it is ended: whoever asks has a
// secret that is at least as new as the last replacement that was answered before.
type asking struct {
	c *tenant
	// patient takes 503 for an answer: nothing was handed out.
	patient bool

	stop context.CancelFunc
	done sync.WaitGroup
	mu   sync.Mutex
	// answered is the newest version whose replacement was answered, got how often a
	// secret was.
	answered, got int
}

func (c *tenant) asking(patient bool) *asking {
	a := &asking{c: c, patient: patient, answered: 1}
	ctx, stop := context.WithCancel(c.t.Context())
	a.stop = stop
	for n := range 4 {
		a.done.Go(func() {
			door := program.At(c.doors[n%2].URL, c.resolver)
			for ctx.Err() == nil && !c.t.Failed() {
				a.ask(door)
			}
		})
	}
	return a
}

func (a *asking) ask(door *program.Door) {
	a.mu.Lock()
	least := a.answered
	a.mu.Unlock()
	got, err := door.Ask(a.c.t.Context(), "POST", "/v1/organizations/"+a.c.org+"/provider-keys/resolve", obj{"provider": "openai"})
	if err == nil && got.Status == 503 && a.patient {
		return
	}
	version, _ := got.Get("version").(float64)
	if err != nil || got.Status != 200 || got.Text("source") != "customer" || int(version) < least || got.Text("secret") != a.c.named("openai", int(version)-1) {
		a.c.t.Errorf("after version %d: %s, %v", least, got, err)
	}
	a.mu.Lock()
	a.got++
	a.mu.Unlock()
}

// replaced says that a replacement was answered.
func (a *asking) replaced(version int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answered = version
}

// end ends it, and returns how often a secret was handed out.
func (a *asking) end() int {
	a.stop()
	a.done.Wait()
	return a.got
}

// A key is replaced without a moment in which neither works: whoever resolves at
// either server, all the time, has the old one or the new one, and the new one as
// soon as the replacement is answered.
func TestB06ReplacedWithoutAGap(t *testing.T) {
	w := pair(t)
	c := w.organization()
	const rounds = 12
	c.add("openai", w.named("openai", 0))
	asking := c.asking(false)
	defer asking.end()
	for n := 1; n <= rounds; n++ {
		if n%3 == 0 {
			made := c.document(c.admin, w.named("openai", n), "provider-keys", "replace", "openai")
			if made.Status != 0 || made.Get("version") != float64(n+1) {
				t.Fatalf("at the command line: %s", made)
			}
		} else {
			a := c.at(n%2, c.admin, "PATCH", "/provider-keys/openai", obj{"secret": w.named("openai", n)})
			if a.Status != 200 || a.Get("version") != float64(n+1) {
				t.Fatalf("replacement %d: %s", n, a)
			}
		}
		asking.replaced(n + 1)
	}
	if n := asking.end(); n < rounds {
		t.Errorf("only %d were handed out", n)
	}
	// Where the secret goes is not changed without the secret.
	a := c.ask(c.owner, "PATCH", "/provider-keys/openai", obj{"base_url": "https://elsewhere.example"})
	if a.Status != 422 {
		t.Errorf("another address for the secret that is there: %s", a)
	}
}

// On three nodes it is so while nodes that lead are killed: a replacement that is
// tried again under its idempotency key is one, no answered one is lost, and what is
// handed out is never older than that.
func TestB06NodesKilled(t *testing.T) {
	t.Parallel()
	nodes := natstest.Reserve(t)
	w := on(t, nodes, "3")
	c := w.organization()
	c.add("openai", w.named("openai", 0))
	asking := c.asking(true)
	defer asking.end()
	restart := func() {}
	for n := 1; n <= 6; n++ {
		if n%3 == 0 {
			lost := nodes.Leader(map[int]string{3: "LEDGER", 6: "SEALS"}[n])
			nodes.Kill(lost)
			restart = func() { nodes.Restart(lost) }
		}
		program.Until(t, "a replacement to be answered", func() bool {
			a, err := program.At(w.doors[n%2].URL, c.admin).Ask(t.Context(), "PATCH", "/v1/organizations/"+c.org+"/provider-keys/openai",
				obj{"secret": w.named("openai", n)}, "Idempotency-Key", "replacement-"+strconv.Itoa(n))
			if err == nil && a.Status != 200 && a.Status != 503 && a.Status != 504 {
				t.Fatalf("replacement %d: %s", n, a)
			}
			return err == nil && a.Status == 200
		})
		asking.replaced(n + 1)
		restart()
		restart = func() {}
	}
	asking.end()
	for server := range 2 {
		program.Until(t, "both servers to hand out the last", func() bool {
			a := c.at(server, c.resolver, "POST", "/provider-keys/resolve", obj{"provider": "openai"})
			if a.Status == 200 && a.Text("secret") != w.named("openai", 6) {
				t.Fatalf("server %d: %s", server, a)
			}
			return a.Status == 200
		})
	}
	if a := c.must(200, c.owner, "GET", "/provider-keys/openai", nil); a.Get("version") != 7.0 {
		t.Errorf("after six replacements: %s", a)
	}
}

// Removing a key falls back to the built-in allocation, at once and at every server,
// of this provider alone, and has nothing to do with API keys.
func TestB07FallsBack(t *testing.T) {
	w := pair(t)
	c := w.organization()
	before := c.must(201, c.owner, "POST", "/keys", obj{"permissions": obj{"level": "all"}, "scope": obj{"all_workspaces": true}}).Text("secret")
	if a := c.resolve(0, "openai"); a.Text("source") != "built_in" || a.Text("reason") != "not_connected" || a.Get("secret") != nil {
		t.Errorf("before: %s", a)
	}
	c.add("openai", w.key("openai", works))
	c.add("mistral", w.key("mistral", works))
	for server := range 2 {
		if a := c.resolve(server, "openai"); a.Text("source") != "customer" || a.Text("secret") != w.key("openai", works) || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("connected, at server %d: %s", server, a)
		}
	}
	out, said, code := c.cli(c.admin, "", "provider-keys", "remove", "openai", "--yes", "--reason", "contract ended")
	if code != 0 {
		t.Fatalf("exit code %d, %s%s", code, out, said)
	}
	for server := range 2 {
		if a := c.resolve(server, "openai"); a.Text("source") != "built_in" || a.Text("reason") != "not_connected" {
			t.Errorf("removed, at server %d: %s", server, a)
		}
		if a := c.resolve(server, "mistral"); a.Text("source") != "customer" {
			t.Errorf("another provider, at server %d: %s", server, a)
		}
	}
	if a := c.must(200, c.verifier, "POST", "/v1/verify", obj{"secret": before}); a.Text("code") != "VALID" {
		t.Errorf("an API key: %s", a)
	}
	// It may come back, as another version.
	if a := c.add("openai", w.named("openai", 1)); a.Get("version") != 2.0 {
		t.Errorf("added again: %s", a)
	}
	if a := c.resolve(1, "openai"); a.Text("secret") != w.named("openai", 1) {
		t.Errorf("added again: %s", a)
	}
	if a := c.must(200, c.owner, "DELETE", "/provider-keys/openai", nil); a.Status != 200 {
		t.Error(a)
	}
	if a := c.ask(c.owner, "GET", "/provider-keys/openai", nil); a.Status != 404 {
		t.Errorf("after its end: %s", a)
	}
	c.must(200, c.owner, "DELETE", "/v1/organizations/"+c.org, nil)
	for server := range 2 {
		if a := c.at(server, w.owner, "POST", "/provider-keys/resolve", obj{"provider": "mistral"}); a.Status == 200 {
			t.Errorf("after the end of the organization, at server %d: %s", server, a)
		}
	}
}

// Below the plan there are no provider keys: the refusal names the plan. A downgrade
// resolves to the built-in allocation and keeps the key for the upgrade.
func TestB08PlanGate(t *testing.T) {
	w := pair(t)
	c := w.organization(obj{"plan": "starter"})
	secret := w.key("openai", works)
	for what, a := range map[string]program.Answer{
		"add":  c.ask(c.owner, "POST", "/provider-keys", obj{"provider": "openai", "secret": secret}),
		"test": c.ask(c.owner, "POST", "/provider-keys/test", obj{"provider": "openai", "secret": secret}),
	} {
		if a.Status != 403 || a.Text("code") != "plan_required" || !strings.Contains(string(a.Body), "growth") {
			t.Errorf("%s: %s", what, a)
		}
	}
	_, said, code := c.cli(c.owner, secret, "provider-keys", "add", "openai")
	if code != 1 || !strings.Contains(said, "growth") {
		t.Errorf("at the command line: exit code %d, %s", code, said)
	}
	if a := c.resolve(0, "openai"); a.Text("source") != "built_in" || a.Text("reason") != "not_connected" {
		t.Errorf("resolve: %s", a)
	}
	plan := func(to string) {
		c.must(200, w.owner, "PATCH", "/v1/organizations/"+c.org, obj{"plan": to})
	}
	plan("growth")
	c.add("openai", secret)
	everywhere := func(source string) {
		t.Helper()
		if a := c.resolve(0, "openai"); a.Text("source") != source {
			t.Errorf("want %s: %s", source, a)
		}
		program.Until(t, "the other server to follow", func() bool { return c.resolve(1, "openai").Text("source") == source })
	}
	everywhere("customer")
	plan("starter")
	everywhere("built_in")
	if a := c.resolve(0, "openai"); a.Text("reason") != "plan" || a.Get("secret") != nil {
		t.Errorf("below the plan: %s", a)
	}
	if a := c.ask(c.owner, "PATCH", "/provider-keys/openai", obj{"secret": w.named("openai", 1)}); a.Status != 403 || a.Text("code") != "plan_required" {
		t.Errorf("replaced below the plan: %s", a)
	}
	if a := c.must(200, c.owner, "GET", "/provider-keys/openai", nil); a.Text("state") != "suspended" {
		t.Errorf("kept: %s", a)
	}
	plan("enterprise")
	everywhere("customer")
	if a := c.resolve(0, "openai"); a.Text("secret") != secret {
		t.Errorf("after the upgrade: %s", a)
	}
	plan("starter")
	c.must(200, c.owner, "DELETE", "/provider-keys/openai", nil)
}

// Only a resolver or an owner resolves, and each time is on record, one by one, with
// who, from where and what was answered; who is refused is on record as well.
func TestB09OnlyResolvers(t *testing.T) {
	w := alone(t)
	c := w.organization()
	secret := w.key("openai", works)
	c.add("openai", secret)
	ask := func(key string) program.Answer {
		return c.ask(key, "POST", "/provider-keys/resolve", obj{"provider": "openai"}, "X-Request-Id", "req-4711")
	}
	for role, key := range map[string]string{"admin": c.admin, "member": c.member, "auditor": c.auditor, "verifier": c.verifier} {
		if a := ask(key); a.Status != 403 || strings.Contains(string(a.Body), secret) {
			t.Errorf("%s: %s", role, a)
		}
	}
	api := c.must(201, c.owner, "POST", "/keys", obj{"permissions": obj{"level": "all"}, "scope": obj{"all_workspaces": true}}).Text("secret")
	if a := ask(api); a.Status != 401 && a.Status != 403 {
		t.Errorf("an API key: %s", a)
	}
	c.must(201, c.owner, "POST", "/workspaces", obj{"id": "hiring", "name": "Hiring"})
	narrow := c.must(201, c.owner, "POST", "/keys", obj{"kind": "management", "role": "resolver", "scope": obj{"workspaces": []string{"hiring"}}}).Text("secret")
	if a := ask(narrow); a.Status != 403 {
		t.Errorf("a resolver of one workspace: %s", a)
	}
	other := w.organization()
	if a := ask(other.resolver); a.Status != 404 {
		t.Errorf("another organization's: %s", a)
	}
	const times = 7
	for range times {
		if a := ask(c.resolver); a.Status != 200 || a.Text("secret") != secret {
			t.Fatalf("resolver: %s", a)
		}
	}
	if a := ask(c.owner); a.Status != 200 {
		t.Errorf("owner: %s", a)
	}
	out, said, code := c.cli(c.resolver, "", "provider-keys", "resolve", "openai", "--secret-only")
	if code != 0 || strings.TrimSpace(out) != secret {
		t.Errorf("exit code %d, %s", code, said)
	}
	handedOut := func(items []any) int {
		n := 0
		for _, item := range items {
			if item.(obj)["answer"] == "customer" && item.(obj)["actor"] != "" {
				n++
			}
		}
		return n
	}
	program.Until(t, "every resolve to be on record", func() bool {
		return handedOut(c.must(200, c.owner, "GET", "/provider-keys/openai/resolves", nil).List("items")) == times+2
	})
	for _, path := range []string{"/provider-keys/openai/resolves", "/audit/access?kind=provider_key.resolved"} {
		var a program.Answer
		program.Until(t, "refusals to be on record in "+path, func() bool {
			a = c.must(200, c.owner, "GET", path, nil)
			return strings.Contains(string(a.Body), `"forbidden"`)
		})
		if strings.Count(string(a.Body), "req-4711") < times || strings.Contains(string(a.Body), secret) {
			t.Errorf("%s: %s", path, a)
		}
	}
	if a := c.must(200, c.owner, "GET", "/provider-keys/openai", nil); a.Text("last_resolved_at") == "" {
		t.Errorf("when it was resolved: %s", a)
	}
}
