// Package byok tests what is promised of provider keys, the keys that customers bring
// of their own accounts at AI providers: sentence by sentence, with the real program
// and a local server that speaks as the providers do. It holds tests alone.
package byok

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/integration/natstest"
	"github.com/keyledger/keyledger/integration/program"
)

// obj is a JSON object.
type obj = map[string]any

var (
	binary  string
	scratch string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run builds the program once, and runs the tests on it.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "keyledger-byok-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	scratch = dir
	if binary, err = program.BuildInto(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// world is one server or two on one ledger, and a provider that they ask.
type world struct {
	t *testing.T
	*fake
	servers []*program.Process
	doors   []*program.Door
	// data is the first server's folder.
	data string
	// start starts the n-th server again, on its folder.
	start func(n int, more ...string) *program.Process
	owner string
}

// alone begins a ledger in a server with its own broker.
func alone(t *testing.T, more ...string) *world {
	t.Helper()
	t.Parallel()
	return begin(t, newFake(t), more...)
}

// strict is alone where nothing is allowed but by everybody's rules.
func strict(t *testing.T) *world {
	t.Helper()
	f := newFake(t)
	f.narrow = true
	return begin(t, f)
}

func begin(t *testing.T, f *fake, more ...string) *world {
	t.Helper()
	w := &world{t: t, fake: f, data: t.TempDir()}
	w.start = func(_ int, again ...string) *program.Process {
		args := append([]string{binary, "serve", "--data", w.data, "--listen", "127.0.0.1:0", "--nats-listen", "", "--record-client-ip"}, w.flags()...)
		return program.Start(t, append(append(args, more...), again...)...)
	}
	w.run(1)
	return w
}

// pair begins a ledger on a node of its own, with two servers.
func pair(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	return on(t, natstest.ReserveOne(t), "1")
}

// on begins a ledger on nodes, with two servers.
func on(t *testing.T, nodes *natstest.Cluster, replicas string) *world {
	t.Helper()
	w := &world{t: t, fake: newFake(t), data: filepath.Join(t.TempDir(), "one")}
	auth := filepath.Join(t.TempDir(), "auth")
	if operator := []string{"nats-auth", "operator", "--out", auth}; replicas == "1" {
		must(t, operator...)
	} else {
		must(t, append(operator, "--nodes", strings.Join(nodes.Members(), ","))...)
	}
	nodes.Start(auth)
	as := func(creds string) []string {
		return []string{"--nats", nodes.URL(0), "--nats-creds", filepath.Join(auth, creds), "--replicas", replicas}
	}
	must(t, append([]string{"init", "--data", w.data}, as(credentials.OperatorCreds)...)...)
	folders := []string{w.data, t.TempDir()}
	w.start = func(n int, again ...string) *program.Process {
		args := append([]string{
			binary, "serve", "--data", folders[n], "--listen", "127.0.0.1:0", "--record-client-ip",
			"--installation-key", filepath.Join(w.data, "installation.key"), "--kek", "file:" + filepath.Join(w.data, "provider.kek"),
		}, as(credentials.ServerCreds)...)
		return program.Start(t, append(append(args, w.flags()...), again...)...)
	}
	w.run(2)
	return w
}

// must runs the program as those who run an installation do.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, said, code := program.Run(t, nil, "", append([]string{binary}, args...)...)
	if code != 0 {
		t.Fatalf("keyledger %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, said)
	}
	return out
}

// run starts the servers and finds out where they are.
func (w *world) run(servers int) {
	w.t.Helper()
	w.servers, w.doors = nil, nil
	for n := range servers {
		w.servers = append(w.servers, w.start(n))
	}
	for _, s := range w.servers {
		key, err := os.ReadFile(filepath.Join(w.data, "owner.key"))
		if w.owner = strings.TrimSpace(string(key)); err != nil && w.owner == "" {
			s.Ready()
			key, err = os.ReadFile(filepath.Join(w.data, "owner.key"))
			w.owner = strings.TrimSpace(string(key))
		}
		if err != nil {
			w.t.Fatal(err)
		}
		w.doors = append(w.doors, program.At(s.Address("http://"), w.owner))
	}
}

// organizations numbers them.
var organizations atomic.Uint64

// tenant is an organization with its people.
type tenant struct {
	*world
	t   *testing.T
	org string
	// Each is a management key's secret.
	owner, admin, member, auditor, verifier, resolver string
}

// organization begins one, with a management key of each role.
func (w *world) organization(more ...obj) *tenant {
	w.t.Helper()
	c := &tenant{world: w, t: w.t, org: "acme-" + strconv.FormatUint(organizations.Add(1), 10)}
	body := obj{"id": c.org, "name": "Acme"}
	for _, m := range more {
		for name, v := range m {
			body[name] = v
		}
	}
	w.doors[0].Must(w.t, 201, "POST", "/v1/organizations", body)
	for role, key := range map[string]*string{
		"owner": &c.owner, "admin": &c.admin, "member": &c.member, "auditor": &c.auditor, "verifier": &c.verifier, "resolver": &c.resolver,
	} {
		a := w.doors[0].Must(w.t, 201, "POST", "/v1/organizations/"+c.org+"/keys", obj{"kind": "management", "role": role, "name": role, "scope": obj{"all_workspaces": true}})
		*key = a.Text("secret")
		for _, door := range w.doors {
			program.Until(w.t, role+" to be known", func() bool {
				a, err := program.At(door.URL, *key).Ask(w.t.Context(), "GET", "/v1/whoami", nil)
				return err == nil && a.Status == 200
			})
		}
	}
	return c
}

// ask asks the first server with a key, below the organization.
func (c *tenant) ask(key, method, path string, body any, headers ...string) program.Answer {
	c.t.Helper()
	return c.at(0, key, method, path, body, headers...)
}

// at is ask at one of the servers.
func (c *tenant) at(server int, key, method, path string, body any, headers ...string) program.Answer {
	c.t.Helper()
	if !strings.HasPrefix(path, "/v1/") {
		path = "/v1/organizations/" + c.org + path
	}
	a, err := program.At(c.doors[server].URL, key).Ask(c.t.Context(), method, path, body, headers...)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// must asks and expects a status.
func (c *tenant) must(want int, key, method, path string, body any, headers ...string) program.Answer {
	c.t.Helper()
	a := c.ask(key, method, path, body, headers...)
	if a.Status != want {
		c.t.Fatalf("%s %s: got %s, want %d", method, path, a, want)
	}
	return a
}

// add connects a provider with a secret.
func (c *tenant) add(provider, secret string, more ...obj) program.Answer {
	c.t.Helper()
	body := obj{"provider": provider, "secret": secret}
	for _, m := range more {
		for name, v := range m {
			body[name] = v
		}
	}
	return c.must(201, c.owner, "POST", "/provider-keys", body)
}

// resolve asks for a provider's key as the platform does.
func (c *tenant) resolve(server int, provider string) program.Answer {
	c.t.Helper()
	a := c.at(server, c.resolver, "POST", "/provider-keys/resolve", obj{"provider": provider})
	if a.Status != 200 {
		c.t.Fatalf("resolve %s at server %d: %s", provider, server, a)
	}
	return a
}

// cli runs the program as somebody of the organization.
func (c *tenant) cli(key, stdin string, args ...string) (stdout, stderr string, code int) {
	c.t.Helper()
	return program.Run(c.t, []string{"KEYLEDGER_URL=" + c.doors[0].URL, "KEYLEDGER_KEY=" + key, "KEYLEDGER_ORG=" + c.org}, stdin, append([]string{binary}, args...)...)
}

// document is what a command prints as JSON.
func (c *tenant) document(key, stdin string, args ...string) program.Answer {
	c.t.Helper()
	out, said, code := c.cli(key, stdin, append(args, "-o", "json")...)
	if code != 0 && code != 3 {
		c.t.Fatalf("keyledger %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, said)
	}
	return program.Answer{Status: code, Body: []byte(out)}
}
