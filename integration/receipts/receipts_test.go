// Package receipts tests what is told of real verifiers: which there are, and by whom
// a revocation is applied. It holds tests alone.
package receipts

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/integration/program"
)

// obj is a JSON object.
type obj = map[string]any

// world is a server with its own broker, and what stands beside it.
type world struct {
	t      testing.TB
	binary string
	data   string
	broker string // where the server's broker listens, the same after a restart
	server *program.Process
	owner  *program.Door
}

func begin(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, binary: program.Build(t, t.TempDir()), data: t.TempDir(), broker: clustertest.FreeAddresses(t, 1)[0]}
	w.serve()
	w.owner.Must(t, 201, "POST", "/v1/organizations", obj{"id": "acme", "name": "Acme"})
	w.owner.Must(t, 201, "POST", "/v1/organizations", obj{"id": "other", "name": "Other"})
	w.owner.Must(t, 200, "PUT", "/v1/organizations/acme/permissions", obj{"permissions": []obj{{"name": "interview:read", "access": "read"}}})
	return w
}

func (w *world) serve() {
	w.t.Helper()
	w.server = program.Start(w.t, w.binary, "serve", "--data", w.data, "--listen", "127.0.0.1:0", "--nats-listen", w.broker).Ready()
	key, err := os.ReadFile(filepath.Join(w.data, "owner.key"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.owner = program.At(w.server.Address("http://"), strings.TrimSpace(string(key)))
}

// cli runs a command as the owner.
func (w *world) cli(args ...string) (stdout string, code int) {
	w.t.Helper()
	out, said, code := program.Run(w.t, []string{"KEYLEDGER_URL=" + w.owner.URL, "KEYLEDGER_KEY=" + w.owner.Key, "KEYLEDGER_ORG=acme"}, "",
		append([]string{w.binary}, args...)...)
	if code != 0 && code != 3 {
		w.t.Fatalf("keyledger %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, said)
	}
	return out, code
}

// sidecar is one, with the command it was started by.
type sidecar struct {
	*program.Process
	door    *program.Door
	command []string
}

func (w *world) sidecar(name, orgs string) *sidecar {
	w.t.Helper()
	dir := w.t.TempDir()
	creds, socket := filepath.Join(dir, "creds"), filepath.Join(dir, "s")
	w.cli("nats-auth", "verifier", name, "--data", w.data, "--orgs", orgs, "--max-staleness", "10s", "--out", creds)
	s := &sidecar{command: []string{
		w.binary, "sidecar", "--nats", w.server.Address("nats://"), "--nats-creds", creds, "--listen", "unix:" + socket,
		"--max-staleness", "10s", "--start-jitter", "1ms",
	}}
	s.Process, s.door = program.Start(w.t, s.command...).Ready(), program.At("unix:"+socket, "")
	w.awaits(name, "live")
	return s
}

// awaits waits until a verifier is said to be something.
func (w *world) awaits(name, state string) {
	w.t.Helper()
	program.Until(w.t, name+" to be "+state, func() bool {
		out, _ := w.cli("verifiers", "list", "--state", state, "-q")
		return slices.Contains(strings.Fields(out), name)
	})
}

// key makes a key, and returns its id and its secret.
func (w *world) key() (id, secret string) {
	w.t.Helper()
	a := w.owner.Must(w.t, 201, "POST", "/v1/organizations/acme/keys", obj{"permissions": []string{"interview:read"}, "scope": obj{"all_workspaces": true}})
	return a.Text("key.id"), a.Text("secret")
}

func (s *sidecar) says(w *world, secret string) string {
	w.t.Helper()
	return s.door.Must(w.t, 200, "POST", "/v1/verify", obj{"secret": secret}).Text("code")
}

// receipt asks for a receipt, and returns it with its items by verifier and state.
func (w *world) receipt(id, wait string) (program.Answer, map[string]obj) {
	w.t.Helper()
	a := w.owner.Must(w.t, 200, "GET", "/v1/organizations/acme/keys/"+id+"/receipt?wait="+wait, nil)
	items := map[string]obj{}
	for i := 0; a.Get("items."+strconv.Itoa(i)) != nil; i++ {
		item, _ := a.Get("items." + strconv.Itoa(i)).(obj)
		name, _ := item["verifier"].(string)
		state, _ := item["state"].(string)
		if name, _, ok := strings.Cut(name, "-"); ok && name == "server" {
			continue
		}
		items[name+" "+state] = item
	}
	return a, items
}

// Whoever revokes a key and waits is told when all that are there deny it, who is not
// there, and by when that one does. What a server has told it tells after a restart.
func TestReceipts(t *testing.T) {
	w := begin(t)
	edge, narrow := w.sidecar("edge", ""), w.sidecar("narrow", "acme")
	w.sidecar("theirs", "other")

	id, secret := w.key()
	for _, s := range []*sidecar{edge, narrow} {
		program.Until(t, "the key to be known", func() bool { return s.says(w, secret) == "VALID" })
	}
	out, code := w.cli("keys", "revoke", id, "--yes", "--wait=30s")
	for _, s := range []*sidecar{edge, narrow} {
		if got := s.says(w, secret); got != "REVOKED" {
			t.Errorf("%s after it was said that all have applied it", got)
		}
	}
	if code != 0 || !strings.Contains(out, "3 of 3 verifiers that are live") {
		t.Errorf("exit code %d: %s", code, out)
	}
	first, items := w.receipt(id, "10s")
	if items["edge live"]["applied_at"] == nil || items["narrow live"]["applied_at"] == nil || items["theirs live"] != nil || first.Get("uses_complete") != true {
		t.Errorf("%s", first)
	}
	if use := first.Text("last_accepted_use.verifier"); use != "edge" && use != "narrow" {
		t.Errorf("%s", first)
	}

	t.Log("one stands still")
	edge.Pause()
	id, _ = w.key()
	if out, code := w.cli("keys", "revoke", id, "--yes", "--wait=500ms"); code != 3 || !strings.Contains(out, "2 of 3 verifiers that are live") {
		t.Errorf("exit code %d: %s", code, out)
	}
	w.awaits("edge", "lost")
	a, items := w.receipt(id, "10s")
	if a.Get("complete") != true || a.Get("denied_everywhere_by") == nil || items["edge lost"]["applied"] != false || items["edge lost"]["denies_by"] == nil {
		t.Errorf("%s", a)
	}
	edge.Resume()
	program.Until(t, "edge to catch up", func() bool {
		a, items = w.receipt(id, "1s")
		return items["edge live"]["applied"] == true && items["edge live"]["applied_at"] != nil
	})

	t.Log("one breaks off, and comes back")
	edge.Kill()
	id, _ = w.key()
	w.cli("keys", "revoke", id, "--yes")
	edge.Process = program.Start(t, edge.command...).Ready()
	program.Until(t, "edge to be back", func() bool {
		a, items = w.receipt(id, "1s")
		return a.Get("complete") == true && items["edge live"]["applied"] == true
	})
	if broken := items["edge lost"]; broken["applied"] != false || broken["denies_by"] == nil {
		t.Errorf("nothing is told of the run that broke off: %s", a)
	}
	narrow.Stop()
	w.awaits("narrow", "ended")

	t.Log("the server begins again")
	before, _ := w.receipt(id, "1s")
	w.server.Stop()
	w.serve()
	w.awaits("edge", "live")
	program.Until(t, "what was known to be known again", func() bool {
		a, items = w.receipt(id, "1s")
		return a.Get("complete") == true && items["edge lost"] != nil
	})
	if got, want := items["edge lost"]["last_heard_at"], before.Get("revoked"); got == nil || want == nil || a.Text("revoked.position") != before.Text("revoked.position") {
		t.Errorf("%s, and before %s", a, before)
	}
	if _, items := w.receipt(first.Text("key_id"), "1s"); items["edge live"]["applied"] != true {
		t.Errorf("%v", items)
	}
}
