package byok

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/integration/program"
)

// tree reads every file below a folder, also those that are being written.
func tree(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		body, err := os.ReadFile(path)
		out[path] = body
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The secret is encrypted with a data key of its own, which is wrapped by a
// key-encryption key. That one is changed in its own time, and no event with it: what
// was wrapped before opens, is wrapped anew, and the old key opens nothing any more.
// Without the key-encryption key the folder gives nothing away.
func TestB10Envelope(t *testing.T) {
	w := alone(t)
	c := w.organization()
	secrets := map[string]string{}
	for _, provider := range []string{"openai", "anthropic", "mistral"} {
		secrets[provider] = w.key(provider, works)
		c.add(provider, secrets[provider])
	}
	all := func() {
		t.Helper()
		for provider, secret := range secrets {
			if a := c.resolve(0, provider); a.Text("secret") != secret {
				t.Errorf("%s: %s", provider, a)
			}
		}
	}
	all()
	kek := filepath.Join(w.data, "provider.kek")
	if info, err := os.Stat(kek); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the key-encryption key: %v, %v", info, err)
	}
	old, err := os.ReadFile(kek)
	if err != nil {
		t.Fatal(err)
	}
	facts := func() string {
		var out strings.Builder
		for line := range bytes.Lines(c.must(200, c.auditor, "GET", "/audit/export?format=jsonl", nil).Body) {
			if bytes.Contains(line, []byte("provider_key.added")) {
				out.Write(line)
			}
		}
		return out.String()
	}
	before := facts()
	w.servers[0].Stop()
	must(t, "kek", "add", kek)
	must(t, "kek", "promote", kek)
	w.run(1)
	all()
	a := w.doors[0].Must(t, 200, "POST", "/v1/provider-keys/rewrap", nil)
	if rewrapped, _ := a.Get("rewrapped").(float64); a.Get("failed") != 0.0 || rewrapped > float64(len(secrets)) {
		t.Errorf("rewrap: %s", a)
	}
	if a := w.doors[0].Must(t, 200, "POST", "/v1/provider-keys/rewrap", nil); a.Get("rewrapped") != 0.0 || a.Get("current") != float64(len(secrets)) || a.Get("failed") != 0.0 {
		t.Errorf("rewrap again: %s", a)
	}
	all()
	if now := facts(); now != before {
		t.Errorf("rewrapping changed the ledger:\n%s\nwas\n%s", now, before)
	}
	w.servers[0].Stop()
	for _, key := range (program.Answer{Body: []byte(must(t, "kek", "show", kek, "-o", "json"))}).List("keys") {
		if key := key.(obj); key["use"] == "opens" {
			must(t, "kek", "drop", kek, key["key"].(string), "--yes")
		}
	}
	w.run(1)
	all()
	w.servers[0].Stop()

	// Who has all of the folder but the key-encryption key of now has nothing.
	now, err := os.ReadFile(kek)
	if err != nil {
		t.Fatal(err)
	}
	for _, with := range []struct {
		name string
		key  []byte
	}{{"the key of before", old}, {"no key", nil}} {
		err := os.Remove(kek)
		if err == nil && with.key != nil {
			err = os.WriteFile(kek, with.key, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, said, code := program.Run(t, nil, "", append([]string{binary, "serve", "--data", w.data, "--listen", "127.0.0.1:0", "--nats-listen", ""}, w.flags()...)...)
		if code != 1 || !strings.Contains(said, "key-encryption key") {
			t.Errorf("with %s: exit code %d, %s", with.name, code, said)
		}
	}
	if err := os.WriteFile(kek, now, 0o600); err != nil {
		t.Fatal(err)
	}
	w.run(1)
	all()
	for path, body := range tree(t, w.data) {
		for provider, secret := range secrets {
			if bytes.Contains(body, []byte(secret)) || bytes.Contains(body, []byte(secret[len(secret)-12:])) {
				t.Errorf("%s stands in %s", provider, path)
			}
		}
	}
}

// A key-encryption key may also come from the environment.
func TestB10FromTheEnvironment(t *testing.T) {
	w := alone(t)
	c := w.organization()
	c.add("openai", w.key("openai", works))
	w.servers[0].Stop()
	kek := filepath.Join(w.data, "provider.kek")
	text, err := os.ReadFile(kek)
	if err == nil {
		err = os.Remove(kek)
	}
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"env", "THE_KEK=" + string(text), binary, "serve", "--data", w.data, "--listen", "127.0.0.1:0", "--nats-listen", "", "--kek", "env:THE_KEK"}, w.flags()...)
	s := program.Start(t, args...)
	w.doors = []*program.Door{program.At(s.Address("http://"), w.owner)}
	if a := c.resolve(0, "openai"); a.Text("secret") != w.key("openai", works) {
		t.Error(a)
	}
}

// dataKeys are the ids of the data keys that the events of a ledger name, by the
// provider or, of what was replaced, the version they are of.
func dataKeys(t *testing.T, data string) map[string]string {
	t.Helper()
	out := map[string]string{}
	named := regexp.MustCompile(`"(?:provider":"([a-z-]+)","version":1|version":([0-9]+)).*?"data_key":"([0-9a-f]{32})"`)
	for path, body := range tree(t, filepath.Join(data, "broker")) {
		if !strings.Contains(path, "/LEDGER/msgs/") {
			continue
		}
		for _, m := range named.FindAllSubmatch(body, -1) {
			out[string(m[1])+string(m[2])] = string(m[3])
		}
	}
	return out
}

// wrapped are the bytes that lie under a data key's id among the seals.
func wrapped(t *testing.T, data, id string) []byte {
	t.Helper()
	for path, body := range tree(t, filepath.Join(data, "broker")) {
		if i := bytes.Index(body, []byte(".provider."+id)); i >= 0 && strings.Contains(path, "/SEALS/msgs/") && filepath.Ext(path) == ".blk" {
			// What was stored begins behind the message's headers, with how it is
			// wrapped.
			from := i + bytes.Index(body[i:], []byte("\r\n\r\n")) + 60
			return bytes.Clone(body[from : from+64])
		}
	}
	return nil
}

// inSeals reports whether some bytes lie among the seals.
func inSeals(t *testing.T, data string, what []byte) bool {
	t.Helper()
	for path, body := range tree(t, filepath.Join(data, "broker")) {
		if i := bytes.Index(body, what); i >= 0 && strings.Contains(path, "/SEALS/") {
			t.Logf("at %d of %s", i, path)
			return true
		}
	}
	return false
}

// copyBut copies a folder but for some of it.
func copyBut(t *testing.T, to, from string, but func(path string) bool) {
	t.Helper()
	for path, body := range tree(t, from) {
		name, err := filepath.Rel(from, path)
		if err != nil {
			t.Fatal(err)
		}
		if but(name) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, name), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Removing or replacing a key destroys the data key, so that what is left of it is
// dead for good: a backup that was taken before, of all but the seals, put back beside
// the seals of today opens nothing of it.
func TestB11DeadForGood(t *testing.T) {
	w := alone(t)
	c := w.organization()
	for _, provider := range []string{"openai", "anthropic", "mistral"} {
		c.add(provider, w.key(provider, works))
	}
	w.servers[0].Stop()
	first := wrapped(t, w.data, dataKeys(t, w.data)["openai"])
	w.run(1)
	c.must(200, c.owner, "PATCH", "/provider-keys/openai", obj{"secret": w.named("openai", 1)})
	w.servers[0].Stop()
	ids := dataKeys(t, w.data)
	if len(ids) != 4 {
		t.Fatalf("the ledger names %v", ids)
	}
	if len(first) == 0 || inSeals(t, w.data, first) {
		t.Error("the data key of what was replaced is still there")
	}
	replaced, removed, kept := wrapped(t, w.data, ids["anthropic"]), wrapped(t, w.data, ids["2"]), wrapped(t, w.data, ids["mistral"])
	for _, b := range [][]byte{replaced, removed, kept} {
		if !inSeals(t, w.data, b) || len(b) == 0 {
			t.Fatal("no data key is found where it should lie")
		}
	}
	backup := t.TempDir()
	isSeals := func(path string) bool { return strings.Contains(path, "/SEALS/") }
	copyBut(t, backup, w.data, isSeals)

	w.run(1)
	c.must(200, c.owner, "DELETE", "/provider-keys/openai", nil)
	c.must(200, c.owner, "PATCH", "/provider-keys/anthropic", obj{"secret": w.named("anthropic", 1)})
	if a := c.resolve(0, "mistral"); a.Text("secret") != w.key("mistral", works) {
		t.Fatal(a)
	}
	w.servers[0].Stop()
	for what, body := range map[string][]byte{"replaced": replaced, "removed": removed} {
		if inSeals(t, w.data, body) {
			t.Errorf("the data key of what was %s is not destroyed where it lay", what)
		}
	}
	if !inSeals(t, w.data, kept) {
		t.Error("a data key that is needed is not where it was")
	}

	copyBut(t, backup, w.data, func(path string) bool { return !isSeals(path) })
	if err := os.RemoveAll(w.data); err != nil {
		t.Fatal(err)
	}
	copyBut(t, w.data, backup, func(string) bool { return false })
	w.run(1)
	// The ledger of then says that all three are connected; only one opens.
	for provider, opens := range map[string]bool{"openai": false, "anthropic": false, "mistral": true} {
		a := c.ask(c.resolver, "POST", "/provider-keys/resolve", obj{"provider": provider})
		if opens && (a.Status != 200 || a.Text("secret") != w.key(provider, works)) {
			t.Errorf("%s: %s", provider, a)
		}
		if !opens && (a.Status != 503 || a.Get("secret") != nil) {
			t.Errorf("%s came back: %s", provider, a)
		}
	}
}

// A secret stands in clear nowhere: in no file, log, error, metric, event or process
// list, and in nothing that a program leaves behind that is ended the hard way; also
// when the provider repeats it in its error, when it is pasted where it does not
// belong, and when requests are broken off.
func TestB12NeverInClear(t *testing.T) {
	w := alone(t)
	c := w.organization()
	var secrets []string
	shown := map[string]string{}
	say := func(what string, a program.Answer) { shown[what] = a.String() }
	for _, provider := range providers {
		body := func(cond condition) obj {
			secret := w.key(provider, cond)
			secrets = append(secrets, secret)
			out := obj{"provider": provider, "secret": secret}
			if base := w.base(provider); base != "" {
				out["base_url"] = base
			}
			return out
		}
		o := w.organization()
		for _, cond := range []condition{echoed, invalid, works} {
			say(provider+" tested, "+string(cond), o.ask(o.admin, "POST", "/provider-keys/test", body(cond)))
		}
		say(provider+" added", o.ask(o.admin, "POST", "/provider-keys", body(works)))
		say(provider+" tested again", o.ask(o.admin, "POST", "/provider-keys/"+provider+"/test", nil))
		if a := o.resolve(0, provider); a.Text("secret") != w.key(provider, works) {
			t.Errorf("%s: %s", provider, a)
		}
	}
	secret := w.key("openai", works)
	c.add("openai", secret)
	for what, body := range map[string]any{
		"a name":         obj{"provider": "mistral", "secret": w.key("mistral", works), "name": "it is " + w.key("mistral", works)},
		"a reason":       obj{"provider": "mistral", "secret": w.key("mistral", works), "reason": w.key("mistral", works)},
		"the provider":   obj{"provider": secret, "secret": secret},
		"the address":    obj{"provider": "openai-compatible", "secret": secret, "base_url": "https://example.com/" + secret},
		"another member": obj{"provider": "mistral", secret: true, "secret": secret},
		"no text":        obj{"provider": "mistral", "secret": []string{secret}},
		"a number":       obj{"provider": 7, "secret": secret},
	} {
		a := c.ask(c.owner, "POST", "/provider-keys", body)
		if a.Status < 400 || a.Status >= 500 {
			t.Errorf("%s: %s", what, a)
		}
		say(what, a)
	}
	say("in the path", c.ask(c.owner, "GET", "/provider-keys/"+secret, nil))
	say("in the query", c.ask(c.owner, "GET", "/provider-keys?secret="+secret, nil))
	say("in a header", c.ask(c.owner, "GET", "/provider-keys", nil, "X-Request-Id", secret))
	say("as a management key", c.ask(secret, "GET", "/provider-keys", nil))
	say("replaced", c.ask(c.owner, "PATCH", "/provider-keys/openai", obj{"secret": w.named("openai", 1)}))
	secrets = append(secrets, w.named("openai", 1))
	for _, path := range []string{"/audit/events", "/audit/export?format=jsonl", "/audit/export?format=csv", "/audit/access", "/provider-keys/openai/resolves"} {
		say(path, c.must(200, c.owner, "GET", path, nil))
	}
	say("metrics", w.doors[0].Must(t, 200, "GET", "/metrics", nil))
	for _, args := range [][]string{{"show", "openai"}, {"list"}, {"resolve", "openai"}, {"test", "openai"}} {
		out, said, _ := c.cli(c.owner, "", append([]string{"provider-keys"}, args...)...)
		shown["provider-keys "+strings.Join(args, " ")] = out + said
	}
	// Events as subscribers see them, and what is left of the process.
	pid := w.servers[0].Pid()
	for _, name := range []string{"cmdline", "environ"} {
		body, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
		if err != nil && !os.IsPermission(err) {
			t.Error(err)
		}
		shown[name] = string(body)
	}
	w.servers[0].Dump()
	shown["what the program said, its dump included"] = w.servers[0].Logged()
	if !strings.Contains(shown["what the program said, its dump included"], "goroutine ") {
		t.Error("SIGQUIT left no dump to look into")
	}
	for path, body := range tree(t, w.data) {
		shown[path] = string(body)
	}
	for what, text := range shown {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				i := strings.Index(text, secret)
				t.Errorf("%s holds a secret behind %q", what, text[max(0, i-200):i])
			}
		}
	}
}
