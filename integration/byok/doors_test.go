package byok

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/integration/natstest"
	"github.com/keyledger/keyledger/integration/program"
)

// Where a customer has secrets sent is a public https address, by whatever name: no
// address of the installation's own network, and no redirect to one.
func TestB13BaseURLs(t *testing.T) {
	// Nothing is allowed here but by the rules of everybody.
	t.Parallel()
	w := strict(t)
	c := w.organization()
	secret := w.key("openai-compatible", works)
	for _, base := range []string{
		"http://api.example.com/v1", "ftp://example.com", "https://127.0.0.1/v1", "https://localhost/v1", "https://localhost./v1",
		"https://10.0.0.8/v1", "https://192.168.1.1", "https://172.16.0.1:8443/v1", "https://169.254.169.254/latest/meta-data", "https://[::1]/v1",
		"https://[::ffff:127.0.0.1]/v1", "https://[::ffff:10.0.0.1]/v1", "https://[fe80::1]/v1", "https://[fd00::1]/v1", "https://[64:ff9b::7f00:1]/v1",
		"https://0x7f000001/v1", "https://2130706433/v1", "https://127.1/v1", "https://0.0.0.0/v1", "https://100.64.0.1/v1",
		"https://user:correcthorse@example.com/v1", "https://example.com/v1?key=1", "https://example.com/v1#x", "https:///v1", "example.com/v1", "",
	} {
		body := obj{"provider": "openai-compatible", "secret": secret, "base_url": base}
		if a := c.ask(c.owner, "POST", "/provider-keys", body); a.Status != 422 || strings.Contains(string(a.Body), "correcthorse") {
			t.Errorf("%q was saved: %s", base, a)
		}
		tester := w.organization()
		a := tester.ask(tester.owner, "POST", "/provider-keys/test", body)
		if a.Status == 200 && a.Text("result") != "unreachable" || a.Status != 200 && a.Status != 422 {
			t.Errorf("%q was asked: %s", base, a)
		}
	}
	if n := w.asked(); n != 0 {
		t.Errorf("%d requests reached this machine", n)
	}
	// An operator's own address for a provider is asked, and is none that customers name.
	other := w.organization()
	if a := other.must(200, other.owner, "POST", "/provider-keys/test", obj{"provider": "openai", "secret": w.key("openai", works)}); a.Text("result") != "works" {
		t.Errorf("the operator's own: %s", a)
	}
	own := obj{"provider": "openai-compatible", "secret": secret, "base_url": w.base("openai-compatible")}
	if a := other.ask(other.owner, "POST", "/provider-keys/test", own); a.Status != 422 {
		t.Errorf("a customer names the operator's own: %s", a)
	}
	// What the operator allows may be asked, and leads nowhere else.
	open := begin(t, newFake(t))
	o := open.organization()
	a := o.must(200, o.owner, "POST", "/provider-keys/test", obj{"provider": "openai-compatible", "secret": open.key("openai-compatible", works), "base_url": open.base("openai-compatible")})
	if a.Text("result") != "works" {
		t.Errorf("allowed: %s", a)
	}
	for _, cond := range []condition{redirects, endless} {
		asked := open.asked()
		a := o.must(200, o.owner, "POST", "/provider-keys/test", obj{"provider": "openai-compatible", "secret": open.key("openai-compatible", cond), "base_url": open.base("openai-compatible")})
		if a.Text("result") != "unreachable" || open.asked() != asked+1 {
			t.Errorf("%s, %d requests: %s", cond, open.asked()-asked, a)
		}
	}
}

// Spending alerts and usage are the provider's, and the page for developers says so.
func TestB14NotOurs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(natstest.Root(t), "docs", "byok.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := strings.ToLower(string(text))
	for _, word := range []string{"spending", "usage", "we do not", "backup", "rate_limited", "missing_models", "other_provider"} {
		if !strings.Contains(page, word) {
			t.Errorf("docs/byok.md says nothing of %q", word)
		}
	}
}

// Unusual use is an event that others hear: a new source, a burst of resolves,
// repeated failures.
func TestB15Unusual(t *testing.T) {
	w := alone(t)
	c := w.organization(obj{"policy": obj{"signals": obj{"resolves_per_minute": 5}}})
	c.add("openai", w.key("openai", works))
	c.add("mistral", w.key("mistral", invalid))
	from := func(address string) {
		t.Helper()
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
		client := &http.Client{Timeout: program.Patience, Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
		req, err := http.NewRequestWithContext(t.Context(), "POST", w.doors[0].URL+"/v1/organizations/"+c.org+"/provider-keys/resolve", strings.NewReader(`{"provider":"openai"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+c.resolver)
		req.Header.Set("Content-Type", "application/json")
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := res.Body.Close(); err != nil || res.StatusCode != 200 {
			t.Fatalf("%d, %v", res.StatusCode, err)
		}
	}
	from("127.0.0.7")
	from("127.0.0.9")
	from("127.0.0.9")
	for range 12 {
		from("127.0.0.7")
	}
	for range 3 {
		c.must(200, c.owner, "POST", "/provider-keys/mistral/test", nil)
	}
	for range 6 {
		if a := c.ask(c.member, "POST", "/provider-keys/resolve", obj{"provider": "openai"}); a.Status != 403 {
			t.Fatal(a)
		}
	}
	for _, want := range []struct{ kind, about string }{
		{"provider_key.new_source", `"source"`},
		{"provider_key.resolves_spike", `"threshold"`},
		{"provider_key.failing", `"tests"`},
		{"provider_key.failing", `"resolves"`},
	} {
		program.Until(t, want.kind+" "+want.about, func() bool {
			a := c.must(200, c.auditor, "GET", "/audit/events?type="+want.kind, nil)
			return strings.Contains(string(a.Body), want.about)
		})
	}
	out, said, code := c.cli(w.owner, "", "events", "tail", "--after", "0", "--types", "provider_key.new_source", "--limit", "2", "-o", "json")
	if code != 0 || strings.Count(out, "keyledger.provider_key.new_source.v1") != 2 || strings.Contains(out, "127.0.0.7") {
		t.Errorf("subscribed: exit code %d, %s%s", code, out, said)
	}
}
