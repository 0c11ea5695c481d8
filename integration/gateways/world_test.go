package gateways

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/integration/program"
)

// bound is how stale the sidecar may be. It is waited for once, and long enough for a
// busy machine not to reach it otherwise.
const bound = "10s"

// world is a ledger with a server and a sidecar, an organization with a catalog,
// keys, and the application that gateways guard.
type world struct {
	server, sidecar *program.Process
	owner           *program.Door
	application     *application

	// judges are where gateways may ask: an address, or unix:PATH.
	judges map[string]string
	// follow starts the sidecar.
	follow func() *program.Process

	// reader may read interviews, reporter read reports in one workspace, outsider in
	// another one, everything may do all that the catalog has, inactive is switched
	// off, and manager has a management key.
	reader, reporter, outsider, everything, inactive, manager holder

	cases atomic.Uint64
}

// organization is the one whose keys are judged.
const organization = "acme"

func newWorld(t testing.TB) *world {
	t.Helper()
	binary, data, addresses := program.Build(t, t.TempDir()), t.TempDir(), clustertest.FreeAddresses(t, 3)
	broker, tcp, grpc := addresses[0], addresses[1], addresses[2]
	w := &world{application: newApplication(t)}
	w.server = program.Start(t, binary, "serve", "--data", data, "--listen", "127.0.0.1:0", "--nats-listen", broker, "--record-client-ip").Ready()
	key, err := os.ReadFile(filepath.Join(data, "owner.key"))
	if err != nil {
		t.Fatal(err)
	}
	creds, socket, calls := filepath.Join(data, "gate.creds"), filepath.Join(data, "s.sock"), filepath.Join(data, "g.sock")
	if _, said, code := program.Run(t, nil, "", binary, "nats-auth", "verifier", "gate", "--data", data, "--max-staleness", bound, "--out", creds); code != 0 {
		t.Fatalf("nats-auth: %s", said)
	}
	w.follow = func() *program.Process {
		return program.Start(t, binary, "sidecar", "--nats", "nats://"+broker, "--nats-creds", creds, "--listen", tcp, "--listen", "unix:"+socket,
			"--grpc-listen", grpc, "--grpc-listen", "unix:"+calls, "--start-jitter", "0", "--record-client-ip")
	}
	w.sidecar = w.follow().Ready()
	w.judges = map[string]string{"server": strings.TrimPrefix(w.server.Address("http://"), "http://"), "sidecar": tcp, "sidecar by socket": "unix:" + socket, "sidecar by gRPC": grpc, "sidecar by gRPC on a socket": "unix:" + calls}
	w.owner = program.At(w.server.Address("http://"), strings.TrimSpace(string(key)))
	must := func(want int, method, path string, body map[string]any) program.Answer {
		return w.owner.Must(t, want, method, "/v1/organizations"+path, body)
	}
	must(201, "POST", "", obj{"id": organization, "name": "Acme"})
	must(201, "POST", "/acme/workspaces", obj{"id": "hiring", "name": "Hiring"})
	must(201, "POST", "/acme/workspaces", obj{"id": "research", "name": "Research"})
	must(201, "POST", "/acme/profiles", obj{"id": "fast", "name": "Fast", "settings": obj{"model": "small"}})
	must(200, "PUT", "/acme/permissions", obj{"permissions": []obj{
		{"name": "interview:start", "access": "write", "routes": []string{"POST /api/v1/interviews/start"}},
		{"name": "interview:read", "access": "read", "routes": []string{"GET /api/v1/interviews/{id}"}},
		{"name": "report:read", "access": "read"},
	}})
	w.reader = w.key(t, obj{"permissions": []string{"interview:read"}, "profile": "fast"})
	w.reporter = w.key(t, obj{"permissions": []string{"report:read"}, "scope": obj{"workspaces": []string{"hiring"}}})
	w.outsider = w.key(t, obj{"permissions": []string{"report:read"}, "scope": obj{"workspaces": []string{"research"}}})
	w.inactive = w.key(t, obj{"permissions": []string{"interview:read"}})
	must(200, "PATCH", "/acme/keys/"+w.inactive.id, obj{"status": "INACTIVE"})
	w.everything = w.key(t, obj{"permissions": obj{"level": "all"}})
	w.manager = w.key(t, obj{"kind": "management", "role": "owner"})
	program.Until(t, "the sidecar to know the last key", func() bool {
		a, err := program.At("http://"+tcp, w.manager.secret).Ask(t.Context(), "GET", "/v1/authorize", nil)
		return err == nil && a.Status == 403
	})
	return w
}

type obj = map[string]any

// holder is somebody with a key.
type holder struct{ secret, id string }

// key makes a key.
func (w *world) key(t testing.TB, wish obj) holder {
	t.Helper()
	body := obj{"scope": obj{"all_workspaces": true}}
	for name, value := range wish {
		body[name] = value
	}
	made := w.owner.Must(t, 201, "POST", "/v1/organizations/"+organization+"/keys", body)
	return holder{made.Text("secret"), made.Text("key.id")}
}

// revoke ends a key.
func (w *world) revoke(t testing.TB, h holder) {
	t.Helper()
	w.owner.Must(t, 200, "POST", "/v1/organizations/"+organization+"/keys/"+h.id+"/revoke", obj{"reason": "it was stolen"})
}

// next names a request.
func (w *world) next() string { return strconv.FormatUint(w.cases.Add(1), 10) }

// send sends a request through a gateway, and returns the answer and what arrived at
// the application.
func (w *world) send(t testing.TB, g *gateway, r request) (response, []arrival) {
	t.Helper()
	c := dial(t, g.address)
	defer c.conn.Close()
	return w.sendOn(t, c, r)
}

// sendOn is send on a connection that is there.
func (w *world) sendOn(t testing.TB, c *connection, r request) (response, []arrival) {
	t.Helper()
	name := w.next()
	res, err := c.exchange(r.method, r.wire(name))
	if err != nil {
		t.Fatalf("%s %s: %v", r.method, r.target, err)
	}
	return res, w.application.saw(name)
}
