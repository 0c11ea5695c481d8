package cutoff

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/integration/natstest"
	"github.com/keyledger/keyledger/integration/program"
)

// bound is how old the sidecars of these tests let their knowledge become: the
// smallest that there is.
const bound = events.MinStaleness

// obj is a JSON object.
type obj = map[string]any

// world is a ledger on three nodes, a server, and an organization with keys.
type world struct {
	t      testing.TB
	nodes  *natstest.Cluster
	auth   string
	server *program.Process
	// owner asks the server as the installation's owner.
	owner *program.Door
}

// begin begins it, with flags for the server.
func begin(t *testing.T, flags ...string) *world {
	t.Helper()
	w := &world{t: t, nodes: natstest.Reserve(t), auth: filepath.Join(t.TempDir(), "auth")}
	w.operate("nats-auth", "operator", "--out", w.auth, "--nodes", strings.Join(w.nodes.Members(), ","))
	w.nodes.Start(w.auth)
	data := t.TempDir()
	w.operate(append([]string{"init", "--data", data}, w.as(credentials.OperatorCreds)...)...)
	key, err := os.ReadFile(filepath.Join(data, "owner.key"))
	if err != nil {
		t.Fatal(err)
	}
	command := append([]string{binary(), "serve", "--data", data, "--listen", "127.0.0.1:0"}, flags...)
	w.server = program.Start(t, append(command, w.as(credentials.ServerCreds)...)...)
	w.owner = program.At(w.server.Address("http://"), strings.TrimSpace(string(key)))
	w.owner.Must(t, 201, "POST", "/v1/organizations", obj{"id": "acme", "name": "Acme"})
	w.owner.Must(t, 200, "PUT", "/v1/organizations/acme/permissions", obj{"permissions": []obj{{"name": "interview:read", "access": "read"}}})
	return w
}

// in is the same world in a subtest.
func (w *world) in(t testing.TB) *world {
	c := *w
	c.t = t
	return &c
}

func (w *world) as(creds string) []string {
	return []string{"--nats", w.nodes.URL(0), "--nats-creds", filepath.Join(w.auth, creds)}
}

// operate runs the program as those who run an installation do, until it works: it
// can be repeated, and nodes may have no leader for a while.
func (w *world) operate(args ...string) {
	w.t.Helper()
	for deadline := time.Now().Add(program.Patience); ; time.Sleep(time.Second) {
		out, said, code := program.Run(w.t, nil, "", append([]string{binary()}, args...)...)
		if code == 0 {
			return
		}
		if code == 2 || time.Now().After(deadline) {
			w.t.Fatalf("keyledger %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, said)
		}
	}
}

// key is a customer's key.
type key struct{ id, secret string }

func (w *world) key() key {
	w.t.Helper()
	a := w.owner.Must(w.t, 201, "POST", "/v1/organizations/acme/keys", obj{"permissions": []string{"interview:read"}, "scope": obj{"all_workspaces": true}})
	return key{a.Text("key.id"), a.Text("secret")}
}

// imports has so many thousand keys imported, that nobody has.
func (w *world) imports(thousands int) {
	w.t.Helper()
	for i := range thousands {
		list := make([]obj, events.MaxImport)
		for n := range list {
			sum := sha256.Sum256(fmt.Appendf(nil, "key %d", i*len(list)+n))
			list[n] = obj{
				"digest": obj{"alg": "sha256", "value": hex.EncodeToString(sum[:])}, "prefix": "legacy",
				"permissions": []string{"interview:read"}, "scope": obj{"all_workspaces": true},
			}
		}
		w.owner.Must(w.t, 200, "POST", "/v1/organizations/acme/keys/import", obj{"keys": list})
	}
}

// revoke revokes a key, and returns when that was answered.
func (w *world) revoke(k key) time.Time {
	w.t.Helper()
	w.owner.Must(w.t, 200, "POST", "/v1/organizations/acme/keys/"+k.id+"/revoke", obj{"reason": "leaked"})
	return time.Now()
}

// sidecar is one behind a wire.
type sidecar struct {
	*program.Process
	*program.Door
	w    *world
	wire *wire
	name string
	// command is how it was started, connections how often it came to the nodes.
	command     []string
	connections atomic.Int64
}

// sidecar lets one in and starts it.
func (w *world) sidecar(name string, flags ...string) *sidecar {
	w.t.Helper()
	dir := w.t.TempDir()
	creds, socket := filepath.Join(dir, "creds"), filepath.Join(dir, "s")
	w.operate("nats-auth", "verifier", name, "--out", creds, "--nats", w.nodes.URL(0), "--auth", w.auth, "--max-staleness", bound.String())
	s := &sidecar{w: w, wire: lay(w.t), name: name}
	var urls []string
	for i := range natstest.Nodes {
		urls = append(urls, "nats://"+s.wire.carry(w.nodes.Client(i), &s.connections))
	}
	s.command = s.wire.behind(append([]string{
		binary(), "sidecar", "--nats", strings.Join(urls, ","), "--nats-creds", creds, "--listen", "unix:" + socket,
		"--max-staleness", bound.String(),
	}, flags...)...)
	s.Process, s.Door = program.Start(w.t, s.command...).Ready(), program.At("unix:"+socket, "")
	return s
}

// again starts a sidecar that has ended.
func (s *sidecar) again(flags ...string) {
	s.w.t.Helper()
	s.Process = program.Start(s.w.t, append(slices.Clone(s.command), flags...)...)
}

// verdict asks for the verdict on a key.
func (s *sidecar) verdict(k key) (string, error) {
	a, err := s.Ask(s.w.t.Context(), "POST", "/v1/verify", obj{"secret": k.secret, "permission": "interview:read"})
	if err != nil {
		return "", err
	}
	if a.Status != 200 {
		return "", fmt.Errorf("%s", a)
	}
	return a.Text("code"), nil
}

// says waits for a verdict on a key.
func (s *sidecar) says(want string, k key) {
	s.w.t.Helper()
	program.Until(s.w.t, s.name+" to say "+want, func() bool {
		got, err := s.verdict(k)
		return err == nil && got == want
	})
}

// said is a verdict, and when it was asked for and given.
type said struct {
	code       string
	begin, end time.Time
}

// witness asks a sidecar about keys again and again, and writes down what it says.
type witness struct {
	mu   sync.Mutex
	said map[string][]said
	stop func()
}

// watch begins to ask about keys.
func (s *sidecar) watch(keys ...key) *witness {
	w := &witness{said: map[string][]said{}}
	done := make(chan struct{})
	var asking sync.WaitGroup
	// Many keys are asked about less often each, or asking is all that is done here.
	pause := max(20, 2*time.Duration(len(keys))) * time.Millisecond
	for _, k := range keys {
		asking.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(pause):
				}
				begin := time.Now()
				code, err := s.verdict(k)
				if err != nil {
					continue // it has ended, or stands still: it says nothing
				}
				w.mu.Lock()
				w.said[k.id] = append(w.said[k.id], said{code, begin, time.Now()})
				w.mu.Unlock()
			}
		})
	}
	w.stop = sync.OnceFunc(func() {
		close(done)
		asking.Wait()
	})
	s.w.t.Cleanup(w.stop)
	return w
}

// of is what was said of a key so far.
func (w *witness) of(k key) []said {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.said[k.id])
}

// until waits for a verdict on a key that was asked for after an instant.
func (w *witness) until(t testing.TB, k key, after time.Time, code string) {
	t.Helper()
	program.Until(t, "the verdict "+code, func() bool {
		return slices.ContainsFunc(w.of(k), func(s said) bool { return s.code == code && s.begin.After(after) })
	})
}

// neverAfter expects that a verdict was never given on a question asked after an
// instant.
func (w *witness) neverAfter(t testing.TB, k key, at time.Time, code, why string) {
	t.Helper()
	for _, s := range w.of(k) {
		if s.code == code && s.begin.After(at) {
			t.Fatalf("%s %s after %s", code, s.begin.Sub(at), why)
		}
	}
}

// neverUndone expects that a key once revoked was never anything else.
func (w *witness) neverUndone(t testing.TB, k key) {
	t.Helper()
	revoked := time.Time{}
	for _, s := range w.of(k) {
		switch {
		case s.code == "REVOKED" && revoked.IsZero():
			revoked = s.end
		case s.code != "REVOKED" && !revoked.IsZero() && s.begin.After(revoked):
			t.Fatalf("%s after it was REVOKED", s.code)
		}
	}
	if revoked.IsZero() {
		t.Fatal("it was never REVOKED")
	}
}

// codes counts what was said of a key.
func (w *witness) codes(k key) map[string]int {
	out := map[string]int{}
	for _, s := range w.of(k) {
		out[s.code]++
	}
	return out
}

// recorded counts the uses of a key that the server knows, by verdict.
func (w *world) recorded(k key) (map[string]int, error) {
	a, err := w.owner.Ask(w.t.Context(), "GET", "/v1/organizations/acme/audit/uses/counts?unit=day&key="+k.id, nil)
	if err != nil || a.Status != 200 {
		return nil, errors.Join(err, fmt.Errorf("%s", a))
	}
	out := map[string]int{}
	for i := 0; a.Get("items."+strconv.Itoa(i)) != nil; i++ {
		n, _ := a.Get("items." + strconv.Itoa(i) + ".count").(float64)
		out[a.Text("items."+strconv.Itoa(i)+".code")] += int(n)
	}
	return out, nil
}

// allRecorded waits until what was said of a key is what the audit log has. A use
// that could not be recorded was UNAVAILABLE, and is none.
func (w *world) allRecorded(witness *witness, k key) {
	w.t.Helper()
	want := witness.codes(k)
	delete(want, "UNAVAILABLE")
	var got map[string]int
	program.Until(w.t, fmt.Sprintf("the uses %v of a key to be those that were answered", want), func() bool {
		var err error
		got, err = w.recorded(k)
		if err == nil && !maps.Equal(got, want) {
			for code, n := range got {
				if n > want[code] {
					w.t.Fatalf("the audit log has %v, answered were %v", got, want)
				}
			}
		}
		return err == nil && maps.Equal(got, want)
	})
}
