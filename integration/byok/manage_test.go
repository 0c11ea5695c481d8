package byok

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/integration/program"
	"github.com/keyledger/keyledger/relay/providers/providertest"
)

// providers are all that a key can be brought of.
var providers = []string{"openai", "anthropic", "google", "mistral", "cohere", "azure-openai", "openai-compatible"}

// An admin adds a key of each provider, with a name or without, over the API and at
// the command line; what is none of the list is refused, with the nearest name.
func TestB01AddProviderKey(t *testing.T) {
	w := alone(t)
	byAPI, byCLI := w.organization(), w.organization()
	listed := byAPI.must(200, byAPI.admin, "GET", "/v1/providers", nil)
	for _, provider := range providers {
		known, ok := listed.Item(provider)
		if !ok || known.Text("name") == "" {
			t.Fatalf("%s is not among the providers: %s", provider, listed.Body)
		}
		needs, _ := known.Get("needs_base_url").(bool)
		body := obj{"provider": provider, "secret": w.key(provider, works), "name": "Our " + provider}
		args := []string{"provider-keys", "add", provider, "--name", "Our " + provider}
		if needs {
			if a := byAPI.ask(byAPI.admin, "POST", "/provider-keys", body); a.Status != 422 || a.Text("code") != "base_url_required" {
				t.Errorf("%s without an address: %s", provider, a)
			}
			body["base_url"] = w.base(provider)
			args = append(args, "--base-url", w.base(provider))
		}
		a := byAPI.must(201, byAPI.admin, "POST", "/provider-keys", body)
		if a.Text("id") != provider || a.Text("name") != "Our "+provider || a.Text("state") != "untested" || a.Text("position") == "" {
			t.Errorf("%s: %s", provider, a)
		}
		made := byCLI.document(byCLI.admin, w.key(provider, works), args...)
		if made.Status != 0 || made.Text("id") != provider || made.Text("name") != "Our "+provider {
			t.Errorf("%s at the command line: %s", provider, made)
		}
	}
	if a := byAPI.ask(byAPI.owner, "POST", "/provider-keys", obj{"provider": "openai", "secret": w.key("openai", works)}); a.Status != 409 || a.Text("code") != "provider_key_exists" {
		t.Errorf("a second one: %s", a)
	}
	nameless := w.organization()
	if a := nameless.add("openai", w.key("openai", works)); a.Text("name") != "" {
		t.Errorf("without a name: %s", a)
	}
	a := nameless.ask(nameless.owner, "POST", "/provider-keys", obj{"provider": "opnai", "secret": w.key("openai", works)})
	if a.Status != 422 || a.Text("code") != "provider_unknown" || !strings.Contains(string(a.Body), "openai") {
		t.Errorf("a provider that is none: %s", a)
	}
	if _, said, code := nameless.cli(nameless.owner, "", "provider-keys", "add", "mistral"); code != 2 && code != 1 {
		t.Errorf("no secret: exit code %d, %s", code, said)
	}
}

// A key can be tested before it is saved, and again at any time after; the last
// result and its time are kept.
func TestB02TestBeforeAndAfter(t *testing.T) {
	w := alone(t)
	c := w.organization()
	good, bad := w.key("openai", works), w.key("openai", invalid)
	pasted := c.must(200, c.admin, "POST", "/provider-keys/test", obj{"provider": "openai", "secret": bad})
	if pasted.Text("result") != "invalid" || pasted.Get("works") != false {
		t.Errorf("pasted: %s", pasted)
	}
	out, said, code := c.cli(c.admin, bad+"\n", "provider-keys", "test", "--provider", "openai")
	if code != 3 || !strings.Contains(out+said, "invalid") {
		t.Errorf("pasted at the command line: exit code %d, %s%s", code, out, said)
	}
	if a := c.must(200, c.admin, "GET", "/provider-keys", nil); len(a.List("items")) != 0 {
		t.Errorf("a test saved something: %s", a)
	}
	c.add("openai", good)
	if a := c.must(200, c.admin, "GET", "/provider-keys/openai", nil); a.Get("last_test") != nil || a.Text("state") != "untested" {
		t.Errorf("before the first test: %s", a)
	}
	saved := c.must(200, c.admin, "POST", "/provider-keys/openai/test", nil)
	if saved.Text("result") != "works" || saved.Get("works") != true {
		t.Errorf("saved: %s", saved)
	}
	shown := c.must(200, c.admin, "GET", "/provider-keys/openai", nil)
	if shown.Text("last_test.result") != "works" || shown.Text("last_test.at") == "" || shown.Text("state") != "connected" {
		t.Errorf("what is kept: %s", shown)
	}
	// The provider takes it back, and the next test tells.
	w.Set(events.ProviderOpenAI, good, revoked)
	out, said, code = c.cli(c.admin, "", "provider-keys", "test", "openai")
	if code != 3 || !strings.Contains(out+said, "expired") {
		t.Errorf("after the provider revoked it: exit code %d, %s%s", code, out, said)
	}
	if a := c.must(200, c.admin, "GET", "/provider-keys/openai", nil); a.Text("last_test.result") != "expired_or_revoked" || a.Text("state") != "failing" {
		t.Errorf("what is kept then: %s", a)
	}
	if a := c.ask(c.admin, "POST", "/provider-keys/mistral/test", nil); a.Status != 404 {
		t.Errorf("one that is not there: %s", a)
	}
}

// testsOfOne is fewer than what an organization may ask within a minute.
const testsOfOne = 8

// A test tells apart what may be wrong, with each provider as it answers, and sees
// what went wrong in pasting without asking anybody.
func TestB03TellsApart(t *testing.T) {
	w := alone(t)
	for _, provider := range providers {
		c, tests := w.organization(), 0
		for cond, want := range providertest.Conditions(events.ProviderID(provider)) {
			if cond == providertest.Slow {
				continue // it is about patience
			}
			body := obj{"provider": provider, "secret": w.key(provider, cond)}
			if base := w.base(provider); base != "" {
				body["base_url"] = base
			}
			if tests++; tests%testsOfOne == 0 {
				c = w.organization()
			}
			a := c.must(200, c.owner, "POST", "/provider-keys/test", body)
			if a.Text("result") != string(want) {
				t.Errorf("%s, a key that is %s: want %s, got %s", provider, cond, want, a)
			}
			if missing := providertest.Models(events.ProviderID(provider))[1]; want == events.ProviderMissingModels && fmt.Sprint(a.List("missing_models")) != fmt.Sprint([]any{missing}) {
				t.Errorf("%s does not name what is missing: %s", provider, a)
			}
			if a.Text("message") == "" || strings.Contains(string(a.Body), w.key(provider, cond)) {
				t.Errorf("%s, %s: %s", provider, cond, a)
			}
		}
	}
	if w.Strayed() {
		t.Error("a key was sent where it does not belong")
	}
	asked := w.asked()
	for pasted, want := range map[string][2]string{
		" " + w.key("openai", works):                      {"openai", "spaces"},
		w.key("openai", works) + "\n":                     {"openai", "spaces"},
		strings.TrimPrefix(w.key("openai", works), "sk-"): {"openai", "missing_prefix"},
		w.key("anthropic", works):                         {"openai", "other_provider"},
		w.key("google", works):                            {"anthropic", "other_provider"},
		"sk-" + strings.Repeat("ü", 20):                   {"openai", "characters"},
	} {
		c := w.organization()
		a := c.must(200, c.owner, "POST", "/provider-keys/test", obj{"provider": want[0], "secret": pasted})
		if a.Text("result") != "malformed" || a.Text("problem") != want[1] || strings.Contains(string(a.Body), strings.TrimSpace(pasted)) {
			t.Errorf("%s pasted for %s: %s", want[1], want[0], a)
		}
	}
	if now := w.asked(); now != asked {
		t.Errorf("%d requests went out for what cannot be a key", now-asked)
	}
	c := w.organization()
	if a := c.must(200, c.owner, "POST", "/provider-keys/test", obj{
		"provider": "openai-compatible", "secret": w.key("openai-compatible", works), "base_url": "https://127.0.0.1:1/v1",
	}); a.Text("result") != "unreachable" {
		t.Errorf("nobody there: %s", a)
	}
}

// After saving only the last four characters are shown, to owners and admins alone.
func TestB04LastFour(t *testing.T) {
	w := alone(t)
	c := w.organization()
	secret := w.key("anthropic", works)
	made := c.add("anthropic", secret)
	four := secret[len(secret)-4:]
	for what, a := range map[string]program.Answer{
		"the answer": made,
		"to owners":  c.must(200, c.owner, "GET", "/provider-keys/anthropic", nil),
		"to admins":  c.must(200, c.admin, "GET", "/provider-keys", nil),
		"by command": c.document(c.admin, "", "provider-keys", "show", "anthropic"),
	} {
		if !strings.Contains(string(a.Body), `"last_four":"`+four+`"`) && !strings.Contains(string(a.Body), `"last_four": "`+four+`"`) || strings.Contains(string(a.Body), secret) {
			t.Errorf("%s: %s", what, a)
		}
	}
	for role, key := range map[string]string{"member": c.member, "auditor": c.auditor, "verifier": c.verifier, "resolver": c.resolver} {
		for _, path := range []string{"/provider-keys", "/provider-keys/anthropic"} {
			if a := c.ask(key, "GET", path, nil); a.Status != 403 || strings.Contains(string(a.Body), four) {
				t.Errorf("%s: %s", role, a)
			}
		}
	}
	// Whoever reads the audit log sees that there is one, and nothing of it.
	for _, path := range []string{"/audit/events", "/audit/export?format=jsonl"} {
		a := c.must(200, c.auditor, "GET", path, nil)
		if !strings.Contains(string(a.Body), "provider_key.added") || strings.Contains(string(a.Body), four+`"`) || strings.Contains(string(a.Body), secret) {
			t.Errorf("%s: %s", path, a)
		}
	}
	other := w.organization()
	if a := other.ask(other.owner, "GET", "/v1/organizations/"+c.org+"/provider-keys", nil); a.Status != 404 {
		t.Errorf("another organization: %s", a)
	}
}

// Connected providers are listed with their state.
func TestB05Listed(t *testing.T) {
	w := alone(t)
	c := w.organization()
	c.add("openai", w.key("openai", works))
	c.add("mistral", w.key("mistral", invalid))
	c.add("cohere", w.key("cohere", works))
	c.must(200, c.owner, "POST", "/provider-keys/openai/test", nil)
	c.must(200, c.owner, "POST", "/provider-keys/mistral/test", nil)
	states := func() string {
		var out []string
		for _, item := range c.must(200, c.admin, "GET", "/provider-keys", nil).List("items") {
			out = append(out, fmt.Sprint(item.(obj)["provider"], " ", item.(obj)["state"]))
		}
		slices.Sort(out)
		return strings.Join(out, ", ")
	}
	if got := states(); got != "cohere untested, mistral failing, openai connected" {
		t.Error(got)
	}
	c.must(200, w.owner, "PATCH", "/v1/organizations/"+c.org, obj{"plan": "starter"})
	if got := states(); got != "cohere suspended, mistral suspended, openai suspended" {
		t.Errorf("below the plan: %s", got)
	}
	out, said, code := c.cli(c.admin, "", "provider-keys", "list")
	if code != 0 || !strings.Contains(out, "suspended") || strings.Count(out, "\n") < 4 {
		t.Errorf("exit code %d, %s%s", code, out, said)
	}
}
