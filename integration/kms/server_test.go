package kms

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/integration/program"
)

// patience is for what must not end by itself.
const patience = time.Minute

type obj = map[string]any

var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "keyledger-kms-")
	if err == nil {
		binary, err = program.BuildInto(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// world is a server with an organization whose provider keys it keeps.
type world struct {
	t        *testing.T
	data     string
	server   *program.Process
	owner    *program.Door
	resolver *program.Door
	secret   string
}

// newWorld starts a server with key-encryption keys.
func newWorld(t *testing.T, keks ...string) *world {
	t.Helper()
	w := &world{t: t, data: t.TempDir()}
	w.start(keks...)
	w.owner.Must(t, 201, "POST", "/v1/organizations", obj{"id": "acme", "name": "Acme"})
	w.secret = w.owner.Must(t, 201, "POST", "/v1/organizations/acme/keys", obj{
		"kind": "management", "role": "resolver", "name": "resolver", "scope": obj{"all_workspaces": true},
	}).Text("secret")
	w.resolver = program.At(w.owner.URL, w.secret)
	program.Until(t, "the resolver to be known", func() bool {
		a, err := w.resolver.Ask(t.Context(), "GET", "/v1/whoami", nil)
		return err == nil && a.Status == 200
	})
	return w
}

// start starts the server, or starts it again with other keys.
func (w *world) start(keks ...string) {
	w.t.Helper()
	if w.server != nil {
		w.server.Stop()
	}
	command := []string{binary, "serve", "--data", w.data, "--listen", "127.0.0.1:0", "--nats-listen", ""}
	for _, kek := range keks {
		command = append(command, "--kek", kek)
	}
	w.server = program.Start(w.t, command...).Ready()
	key, err := os.ReadFile(filepath.Join(w.data, "owner.key"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.owner = program.At(w.server.Address("http://"), strings.TrimSpace(string(key)))
	w.resolver = program.At(w.owner.URL, w.secret)
}

// secretOf is the key of a provider.
func secretOf(provider string) string {
	return map[string]string{
		"openai": "sk-proj-", "anthropic": "sk-ant-api03-", "mistral": "",
	}[provider] + strings.Repeat("kEyOf"+provider, 6)
}

// add connects a provider.
func (w *world) add(provider string, want int) program.Answer {
	w.t.Helper()
	return w.owner.Must(w.t, want, "POST", "/v1/organizations/acme/provider-keys", obj{"provider": provider, "secret": secretOf(provider), "force": true})
}

// resolve asks once, whatever the answer.
func (w *world) resolve(provider string) program.Answer {
	w.t.Helper()
	a, err := w.resolver.Ask(w.t.Context(), "POST", "/v1/organizations/acme/provider-keys/resolve", obj{"provider": provider})
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// resolves expects the customer's key, as soon as there is an answer.
func (w *world) resolves(provider string) {
	w.t.Helper()
	var a program.Answer
	program.Until(w.t, "the service to be back", func() bool { a = w.resolve(provider); return a.Status != 503 })
	if a.Status != 200 || a.Text("source") != "customer" || a.Text("secret") != secretOf(provider) {
		w.t.Fatalf("resolve %s: %d from %q", provider, a.Status, a.Text("source"))
	}
}

// silent expects no answer: not the built-in allocation either.
func (w *world) silent(provider string) {
	w.t.Helper()
	if a := w.resolve(provider); a.Status != 503 || a.Get("source") != nil || a.Get("secret") != nil {
		w.t.Fatalf("resolve %s: %d from %q", provider, a.Status, a.Text("source"))
	}
}

// looksThrough waits for a server that has started to have looked through data keys
// that today's key wraps, which it does not do again for an hour.
func (w *world) looksThrough(n int) {
	w.t.Helper()
	program.Until(w.t, "the data keys to be looked through", func() bool {
		text := string(w.owner.Must(w.t, 200, "GET", "/metrics", nil).Body)
		return strings.Contains(text, fmt.Sprintf("keyledger_provider_data_keys{current=\"true\"} %d\n", n))
	})
}

// rewrap wraps all data keys anew.
func (w *world) rewrap() program.Answer {
	w.t.Helper()
	return w.owner.Must(w.t, 200, "POST", "/v1/provider-keys/rewrap", nil)
}

// The key-encryption key is in the token alone. It is rotated there, what it wrapped
// before opens until it was wrapped anew, and then the key before can be destroyed.
func TestRotationInTheToken(t *testing.T) {
	t.Parallel()
	k := newToken(t)
	w := newWorld(t, "kms:"+k.endpoint())
	w.add("openai", 201)
	w.add("anthropic", 201)
	w.resolves("openai")
	if _, err := os.Stat(filepath.Join(w.data, "provider.kek")); err == nil {
		t.Error("a key-encryption key was drawn beside the one in the token")
	}
	nothingIn(t, w.data, secretOf("openai"), secretOf("anthropic"))

	first := k.keys()
	k.rotate()
	w.resolves("openai")
	// A server that has just started looks through them, too, and may come to one first.
	a := w.rewrap()
	rewrapped, _ := a.Get("rewrapped").(float64)
	current, _ := a.Get("current").(float64)
	if rewrapped+current != 2 || a.Get("failed") != 0.0 {
		t.Errorf("rewrap: %s", a)
	}
	if a := w.rewrap(); a.Get("rewrapped") != 0.0 || a.Get("current") != 2.0 || a.Get("failed") != 0.0 {
		t.Errorf("rewrap again: %s", a)
	}
	k.destroy(first[0])
	w.resolves("openai")
	w.resolves("anthropic")
	w.start("kms:" + k.endpoint())
	w.resolves("openai")
	w.resolves("anthropic")
	w.looksThrough(2)

	// Without that, what the key wrapped is lost with it, and nothing else serves.
	second := k.keys()
	k.rotate()
	w.add("mistral", 201)
	k.destroy(second[0])
	w.silent("openai")
	w.silent("anthropic")
	w.resolves("mistral")
	if a := w.rewrap(); a.Get("rewrapped") != 0.0 || a.Get("current") != 1.0 || a.Get("failed") != 2.0 {
		t.Errorf("rewrap of what is lost: %s", a)
	}
}

// While the service is away nothing is resolved and nothing is saved, and all else
// goes on. Once it is back, so is everything.
func TestAServiceThatIsAway(t *testing.T) {
	t.Parallel()
	k := newToken(t)
	w := newWorld(t, "kms:"+k.endpoint())
	w.add("openai", 201)
	w.resolves("openai")
	for _, away := range []struct {
		how        string
		gone, back func()
	}{
		{"stopped", func() { k.plugin.Stop() }, k.start},
		{"killed", func() { k.plugin.Kill() }, k.start},
		{"standing still", func() { k.plugin.Pause() }, func() { k.plugin.Resume() }},
		{"away when the server starts", func() { k.plugin.Stop(); w.start("kms:" + k.endpoint()) }, k.start},
	} {
		away.gone()
		// A process does not stand still at the moment it is told to.
		program.Until(t, "the service to be away", func() bool { return w.resolve("openai").Status == 503 })
		w.silent("openai")
		w.add("anthropic", 503)
		list := w.owner.Must(t, 200, "GET", "/v1/organizations/acme/provider-keys", nil)
		if n := len(list.List("items")); n != 1 {
			t.Errorf("%s: %d provider keys are listed", away.how, n)
		}
		if a, err := w.owner.Ask(t.Context(), "GET", "/v1/whoami", nil); err != nil || a.Status != 200 {
			t.Errorf("%s: %s, %v", away.how, a, err)
		}
		away.back()
		w.resolves("openai")
		if t.Failed() {
			t.Fatal(away.how)
		}
	}
	w.add("anthropic", 201)
	w.resolves("anthropic")
}

// An installation moves from a file to a token, and from one token to another, while
// every provider key goes on.
func TestMoving(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "kek")
	if _, said, code := program.Run(t, nil, "", binary, "kek", "new", file); code != 0 {
		t.Fatal(said)
	}
	one, two := newToken(t), newToken(t)
	w := newWorld(t, "file:"+file)
	w.add("openai", 201)
	before := "file:" + file
	for _, next := range []string{"kms:" + one.endpoint(), "kms:" + two.endpoint(), "file:" + file} {
		w.start(next, before)
		w.resolves("openai")
		if a := w.rewrap(); a.Get("failed") != 0.0 {
			t.Errorf("rewrap: %s", a)
		}
		w.start(next)
		w.resolves("openai")
		before = next
	}
}

// nothingIn expects that no file below a folder holds a text.
func nothingIn(t *testing.T, dir string, texts ...string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		body, err := os.ReadFile(path)
		for _, text := range texts {
			if bytes.Contains(body, []byte(text)) {
				t.Errorf("%s holds a provider's key", path)
			}
		}
		files++
		return err
	})
	if err != nil || files == 0 {
		t.Fatalf("%d files: %v", files, err)
	}
}
