package products

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/integration/natstest"
	"github.com/keyledger/keyledger/integration/program"
)

// binary is the real program, built once for all tests of this package.
var binary string

// scratch is where worlds keep their files.
var scratch string

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run builds the program, runs the tests on it, and ends the worlds that they
// shared.
func run(m *testing.M) (code int) {
	flag.Parse()
	// Tests mostly wait for other processes, however few processors there are.
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "keyledger-products-")
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
	code = m.Run()
	for _, w := range []*shared{&alone, &clustered} {
		if err := w.end(code != 0); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

// world is a ledger on nats-server processes, with two servers on it.
type world struct {
	one, two *server
	// owner is the installation owner's key.
	owner string
	// join starts a further server, in an empty folder, that ends with the test.
	join func(*testing.T) *server
}

// alone and clustered are the worlds that the tests share: on one node of
// nats-server, and on three.
var alone, clustered = shared{nodes: 1}, shared{nodes: natstest.Nodes}

// shared is a world that begins when a test first asks for it, and outlives that
// test.
type shared struct {
	nodes int
	once  sync.Once
	world *world
	// servers are those that were started, ends what remains to be done.
	servers []*server
	ends    []func()
	failed  bool
}

// onOne gives a test the world on one node.
func onOne(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	return alone.in(t)
}

// server is a running `keyledger serve`.
type server struct {
	*program.Process
	url string
}

// launch starts one, and waits until it is ready.
func launch(t testing.TB, command ...string) *server {
	t.Helper()
	p := program.Start(t, command...)
	return &server{Process: p, url: p.Address("http://")}
}

// onBoth runs a test on one node and on three.
func onBoth(t *testing.T, f func(*testing.T, *world)) {
	t.Helper()
	t.Parallel()
	for name, s := range map[string]*shared{"one node": &alone, "three nodes": &clustered} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, s.in(t))
		})
	}
}

func (s *shared) in(t *testing.T) *world {
	t.Helper()
	s.once.Do(func() { s.begin(t) })
	if s.world == nil {
		t.Fatalf("the world of %d nodes did not begin; another test says why", s.nodes)
	}
	return s.world
}

// begin begins a world as an operator does: a root of trust, nodes, one init, and
// a server for each of two machines.
func (s *shared) begin(t *testing.T) {
	t.Helper()
	dir := filepath.Join(scratch, strconv.Itoa(s.nodes))
	auth, begun := filepath.Join(dir, "auth"), filepath.Join(dir, "one")
	var nodes *natstest.Cluster
	if tb := (lasting{TB: t, s: s}); s.nodes == 1 {
		nodes = natstest.ReserveOne(tb)
		operate(t, "nats-auth", "operator", "--out", auth)
	} else {
		nodes = natstest.Reserve(tb)
		operate(t, "nats-auth", "operator", "--out", auth, "--nodes", strings.Join(nodes.Members(), ","))
	}
	nodes.Start(auth)
	as := func(creds string) []string {
		return []string{"--nats", nodes.URL(0), "--nats-creds", filepath.Join(auth, creds), "--replicas", strconv.Itoa(s.nodes)}
	}
	operate(t, append([]string{"init", "--data", begun}, as(credentials.OperatorCreds)...)...)
	owner, err := os.ReadFile(filepath.Join(begun, "owner.key"))
	if err != nil {
		t.Fatal(err)
	}
	serve := func(t testing.TB, data string) *server {
		args := []string{binary, "serve", "--data", data, "--listen", "127.0.0.1:0", "--record-client-ip"}
		return launch(t, slices.Concat(args, as(credentials.ServerCreds), []string{
			"--installation-key", filepath.Join(begun, "installation.key"), "--kek", "file:" + filepath.Join(begun, "provider.kek"),
		})...)
	}
	one, two := serve(lasting{t, s}, begun), serve(lasting{t, s}, filepath.Join(dir, "two"))
	s.servers = append(s.servers, one, two)
	s.world = &world{one: one, two: two, owner: strings.TrimSpace(string(owner)), join: func(t *testing.T) *server {
		server := serve(t, t.TempDir())
		t.Cleanup(server.Stop)
		return server
	}}
}

// end ends the servers as an operator does, and the nodes under them.
func (s *shared) end(failed bool) error {
	s.failed = failed
	var fault error
	for _, server := range s.servers {
		if err := server.End(); err != nil && fault == nil {
			fault = err
		}
	}
	for _, end := range slices.Backward(s.ends) {
		end()
	}
	return fault
}

// lasting is the test that began a world, but for what must last longer than that
// test does.
type lasting struct {
	testing.TB
	s *shared
}

func (l lasting) Cleanup(end func()) { l.s.ends = append(l.s.ends, end) }

func (l lasting) Failed() bool { return l.s.failed }

func (l lasting) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (l lasting) TempDir() string {
	dir, err := os.MkdirTemp(scratch, "nodes-")
	if err != nil {
		l.Fatal(err)
	}
	return dir
}

// operate runs the program as those who run an installation do.
func operate(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Dir = scratch
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("keyledger %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// organizations numbers them: their ids are for ever, and tests share a world.
var organizations atomic.Uint64

// organization begins an organization for a test, with the workspaces hiring and
// research, the catalog of the project keys, and an owner. It returns the owner at
// the first server, which both servers know. More are members of the request, such
// as limits.
func (w *world) organization(t *testing.T, more ...obj) caller {
	t.Helper()
	id := fmt.Sprintf("%.40s-%d", strings.ToLower(strings.TrimPrefix(strings.Split(t.Name(), "/")[0], "Test")), organizations.Add(1))
	body := obj{"id": id, "name": "Organization " + id}
	for _, m := range more {
		for name, value := range m {
			body[name] = value
		}
	}
	root := caller{t: t, server: w.one, key: w.owner, org: id}
	root.must(201, "POST", "/v1/organizations", body)
	for id, name := range map[string]string{"hiring": "Hiring", "research": "Research"} {
		root.must(201, "POST", "/workspaces", obj{"id": id, "name": name})
	}
	root.must(200, "PUT", "/permissions", catalog)
	return w.as(root, obj{"name": "the owner", "role": "owner"})
}

// as makes a management key by the wish of another's, and returns who holds it,
// once both servers know him.
func (w *world) as(by caller, wish obj) caller {
	by.t.Helper()
	body := obj{"kind": "management", "scope": everywhere}
	for name, value := range wish {
		body[name] = value
	}
	made := by.must(201, "POST", "/keys", body)
	c := caller{t: by.t, server: w.one, key: made.Text("secret"), org: by.org}
	for _, s := range []*server{w.one, w.two} {
		c.at(s).until("both servers to know who asks", func() bool { return c.at(s).ask("GET", "/v1/whoami", nil).Status == 200 })
	}
	return c
}

// everywhere is the scope of a key that is good in all workspaces.
var everywhere = obj{"all_workspaces": true}

// catalog is what the interview platform's API has.
var catalog = obj{"permissions": []obj{
	{"name": "interview:start", "access": "write", "routes": []string{"POST /api/v1/interviews/start"}},
	{"name": "interview:read", "access": "read", "routes": []string{"GET /api/v1/interviews/{id}"}},
	{"name": "interview:complete", "access": "write", "routes": []string{"POST /api/v1/interviews/{id}/complete"}},
}}
