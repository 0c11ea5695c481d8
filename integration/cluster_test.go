package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/integration/natstest"
)

// cluster is three brokers that an installation is begun on.
type cluster struct {
	*natstest.Cluster
	t *testing.T
	// creds is the folder with the credentials that programs use.
	creds string
	// operator may do everything with the streams.
	operator *nats.Conn
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{Cluster: natstest.Reserve(t), t: t, creds: t.TempDir()}
	authority, err := credentials.Create(c.creds)
	if err == nil {
		err = authority.WriteCluster(c.Members())
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Start(c.creds)
	c.operator = c.connect(credentials.OperatorCreds)
	return c
}

// connect returns a connection with somebody's rights.
func (c *cluster) connect(creds string, options ...nats.Option) *nats.Conn {
	c.t.Helper()
	conn, err := nats.Connect(c.URL(0), append(options, nats.UserCredentials(filepath.Join(c.creds, creds)),
		nats.MaxReconnects(-1), nats.DontRandomize(), nats.ReconnectWait(50*time.Millisecond))...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(conn.Close)
	return conn
}

// drop takes a stream away behind everybody's back.
func (c *cluster) drop(stream string) {
	c.t.Helper()
	if _, err := c.operator.Request("$JS.API.STREAM.DELETE."+stream, nil, 10*time.Second); err != nil {
		c.t.Fatal(err)
	}
}

// flags are those with which a program reaches the cluster as somebody.
func (c *cluster) flags(creds string, more ...string) []string {
	return append([]string{"--nats", c.URL(0), "--nats-creds", filepath.Join(c.creds, creds)}, more...)
}

// begin begins an installation with a folder of its own and returns that.
func (c *cluster) begin() string {
	c.t.Helper()
	data := filepath.Join(c.t.TempDir(), "init")
	code, out := c.init(data)
	if code != 0 {
		c.t.Fatalf("init ended with %d\n%s", code, out)
	}
	said(c.t, out, "A new ledger", filepath.Join(data, "owner.key"), "--installation-key")
	return data
}

func (c *cluster) init(data string, more ...string) (int, string) {
	c.t.Helper()
	code, out := keyledger(c.t, append([]string{"init", "--data", data}, c.flags(credentials.OperatorCreds, more...)...)...)
	if keystring.Contains(out) {
		c.t.Errorf("init prints a key:\n%s", out)
	}
	return code, out
}

// join starts a server in an empty folder, with the installation key of another.
func (c *cluster) join(begun string) *server {
	c.t.Helper()
	return c.serve(c.t.TempDir(), "--installation-key", filepath.Join(begun, "installation.key"))
}

func (c *cluster) serve(data string, more ...string) *server {
	c.t.Helper()
	return run(c.t, data, "127.0.0.1:0", c.flags(credentials.ServerCreds, more...)...).awaitReady()
}

func ownerIn(t *testing.T, data string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(data, "owner.key"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// until waits for what a server learns from another, or from a cluster, in its
// own time.
func (s *server) until(what string, done func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: not within 90 s\n%s", what, s.Logged())
		}
	}
}

// verdictAt asks for a verdict that has seen a position.
func (s *server) verdictAt(owner, secret, position string) string {
	s.t.Helper()
	body, err := json.Marshal(map[string]string{"secret": secret, "permission": "interview:read", "at_least": position})
	if err != nil {
		s.t.Fatal(err)
	}
	return s.must(200, owner, "POST", "/v1/verify", string(body)).Text("code")
}

// hearsAtOnce tells one server what the next wish needs, which goes to another
// without a pause: as it is for whoever comes through a load balancer.
func (s *server) hearsAtOnce(owner string, other *server) {
	s.t.Helper()
	const callers, rounds = 8, 10
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			for j := range rounds {
				org := fmt.Sprintf("org%d-%d", i, j)
				for _, wish := range []struct {
					at                 *server
					method, path, body string
				}{
					{other, "POST", "", fmt.Sprintf(`{"id":%q,"name":"N"}`, org)},
					{s, "PUT", "/" + org + "/permissions", catalogBody},
					{other, "POST", "/" + org + "/keys", keyBody},
				} {
					a, err := wish.at.ask(owner, wish.method, "/v1/organizations"+wish.path, wish.body)
					// A server that is too busy to hear of it in time says so, and
					// never that it is not there.
					for n := 0; err == nil && a.Status == 503 && n < 20; n++ {
						time.Sleep(time.Second)
						a, err = wish.at.ask(owner, wish.method, "/v1/organizations"+wish.path, wish.body)
					}
					if err != nil || a.Status/100 != 2 {
						s.t.Errorf("%s %s: %s, %v", wish.method, wish.path, a, err)
						return
					}
				}
			}
		})
	}
	all.Wait()
}

// Servers side by side are one: what one of them is told, the others act on.
func TestServersSideBySide(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	begun := c.begin()
	owner := ownerIn(t, begun)
	one, two, three := c.serve(begun), c.join(begun), c.join(begun)
	servers := []*server{one, two, three}
	one.organization(owner, "acme", "")
	two.hearsAtOnce(owner, one)
	created := two.must(201, owner, "POST", "/v1/organizations/acme/keys", keyBody)
	for _, s := range servers {
		if code := s.verdictAt(owner, created.Text("secret"), created.Text("position")); code != "VALID" {
			t.Errorf("%s says %s", s.url, code)
		}
	}
	revoked := three.must(200, owner, "POST", "/v1/organizations/acme/keys/"+created.Text("key.id")+"/revoke", `{"reason":"leaked"}`)
	for _, s := range servers {
		if code := s.verdictAt(owner, created.Text("secret"), revoked.Text("position")); code != "REVOKED" {
			t.Errorf("%s says %s", s.url, code)
		}
	}
	for _, name := range []string{"owner.key", "owner.key.pending", "installation.key"} {
		if _, err := os.Stat(filepath.Join(two.data, name)); err == nil {
			t.Errorf("a server that joined holds %s", name)
		}
	}
	for _, name := range []string{"ledger.id", "log.vkey"} {
		if a, b := read(t, begun, name), read(t, two.data, name); a != b {
			t.Errorf("%s is %q and %q", name, a, b)
		}
	}
	t.Run("refused", func(t *testing.T) { c.refusals(t, begun, two.data) })
	t.Run("owner reset", func(t *testing.T) { c.ownerReset(t, begun, servers) })
	t.Run("missing stream", func(t *testing.T) { c.missingStream(t, begun, servers) })
}

func read(t *testing.T, data, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(data, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// refusals are what a server must not begin with.
func (c *cluster) refusals(t *testing.T, begun, running string) {
	key := filepath.Join(begun, "installation.key")
	write := func(dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	with := func(data string, want []string, more ...string) {
		t.Helper()
		said(t, refused(t, data, c.flags(credentials.ServerCreds, more...)...), want...)
	}
	with(running, []string{"data folder is in use", running}, "--installation-key", key)

	foreign := t.TempDir()
	write(foreign, "ledger.id", "01980000-0000-7000-8000-000000000000\n")
	with(foreign, []string{"belongs to another ledger"}, "--installation-key", key)

	with(t.TempDir(), []string{"3 and not 1", "--replicas"}, "--installation-key", key, "--replicas", "1")

	without := t.TempDir()
	with(without, []string{"installation key is not at", "--installation-key"})

	// The key of an installation of one's own.
	other := start(t, t.TempDir())
	other.Stop()
	with(without, []string{"is another installation's"}, "--installation-key", filepath.Join(other.data, "installation.key"))
	write(without, "installation.key", "no key\n")
	with(without, []string{"this is no installation key"})
	if _, err := os.Stat(filepath.Join(without, "ledger.id")); err == nil {
		t.Error("a server that was refused has joined")
	}

	// An embedded broker's folder is no cluster's, though it is that of a server.
	with(other.data, []string{"belongs to another ledger"})

	if code, out := c.init(begun); code != 0 || !strings.Contains(out, "has begun already") {
		t.Errorf("init once more: %d\n%s", code, out)
	}
	again := t.TempDir()
	if code, out := c.init(again); code != 1 || !strings.Contains(out, "has begun on this cluster already, and not from this folder") {
		t.Errorf("init from another folder: %d\n%s", code, out)
	}
	if left, err := filepath.Glob(filepath.Join(again, "*key*")); err != nil || len(left) > 0 {
		t.Errorf("the folder that began nothing holds %s (%v)", left, err)
	}
}

// ownerReset ends an owner's key that others know, while servers run.
func (c *cluster) ownerReset(t *testing.T, begun string, servers []*server) {
	old := ownerIn(t, begun)
	out := filepath.Join(t.TempDir(), "new", "owner.key")
	code, text := keyledger(t, append([]string{
		"owner", "reset", "--data", filepath.Dir(out), "--revoke-others", "--reason", "leaked", "--yes",
	}, c.flags(credentials.OperatorCreds)...)...)
	if code != 0 || keystring.Contains(text) {
		t.Fatalf("owner reset: %d\n%s", code, text)
	}
	said(t, text, "Revoked 1 other owner's key", out)
	owner := ownerIn(t, filepath.Dir(out))
	for _, s := range servers {
		for key, want := range map[string]int{owner: 200, old: 401} {
			s.until("the new owner alone", func() bool {
				a, err := s.ask(key, "GET", "/v1/whoami", "")
				return err == nil && a.Status == want
			})
		}
	}
	keys := servers[0].must(200, owner, "GET", "/v1/organizations/_system/keys?status=all", "")
	var list struct {
		Items []struct {
			Status    string `json:"status"`
			CreatedBy any    `json:"created_by"`
			Reason    string `json:"revocation_reason"`
		} `json:"items"`
	}
	if err := json.Unmarshal(keys.Body, &list); err != nil || len(list.Items) != 2 {
		t.Fatalf("%v: %s", err, keys)
	}
	for _, k := range list.Items {
		if k.Status == "REVOKED" && k.Reason != "leaked" || k.Status == "ACTIVE" && !strings.Contains(fmt.Sprint(k.CreatedBy), "operator") {
			t.Errorf("%+v", k)
		}
	}
}

// missingStream takes a stream away behind the servers' backs. The folder of one
// that was there before takes that for an alarm, and nobody makes it again.
func (c *cluster) missingStream(t *testing.T, begun string, servers []*server) {
	for _, s := range servers {
		s.Stop()
	}
	c.drop(jetstream.StreamUses)
	// A cluster is given some time to find a stream that it should have.
	var wg sync.WaitGroup
	wg.Go(func() {
		if code, out := c.init(begun); code != 1 || !strings.Contains(out, "stream is missing") {
			t.Errorf("init: %d\n%s", code, out)
		}
	})
	said(t, refused(t, servers[1].data, c.flags(credentials.ServerCreds)...), "corrupt", "stream is missing", "USES")
	wg.Wait()
}

// An installation on a cluster begins once, whoever begins it and however often
// he is interrupted.
func TestBeginningOnACluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	said(t, refused(t, t.TempDir(), c.flags(credentials.ServerCreds)...), "no ledger has begun on this cluster", "keyledger init begins one")
	said(t, refused(t, t.TempDir(), c.flags(credentials.ServerCreds)[:2]...), "the broker refuses the credentials", "--nats-creds")
	if code, out := keyledger(t, append([]string{"init", "--data", t.TempDir()}, c.flags(credentials.ServerCreds)...)...); code != 1 {
		t.Errorf("init with a server's credentials: %d\n%s", code, out)
	} else {
		said(t, out, "the broker refuses the credentials", "ermissions violation")
	}
	for round := range 2 {
		// Killed at any moment, it goes on when it is run again.
		data := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Millisecond+rand.N(120*time.Millisecond))
		cmd := exec.CommandContext(ctx, binary, append([]string{"init", "--data", data}, c.flags(credentials.OperatorCreds)...)...)
		if err := cmd.Run(); err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		cancel()
		// Beside it, others begin too, from folders of their own.
		dirs := []string{data, t.TempDir(), t.TempDir()}
		codes := make([]int, len(dirs))
		var wg sync.WaitGroup
		for i, dir := range dirs {
			wg.Go(func() { codes[i], _ = c.init(dir) })
		}
		wg.Wait()
		began := ""
		for i, dir := range dirs {
			left, err := filepath.Glob(filepath.Join(dir, "*"))
			switch {
			case err != nil:
				t.Fatal(err)
			case codes[i] == 0 && began == "":
				began = dir
			case codes[i] != 1 || len(left) > 1:
				t.Errorf("round %d: init ended with %v, and left %s", round, codes, left)
			}
		}
		if began == "" {
			t.Fatalf("round %d: nobody began: %v", round, codes)
		}
		c.ownedBy(began)
		for _, stream := range jetstream.Streams() {
			c.drop(stream)
		}
	}
}

// ownedBy checks that the ledger has one owner, whose key is in a folder.
func (c *cluster) ownedBy(data string) {
	c.t.Helper()
	l := c.ledger()
	if id := strings.TrimSpace(read(c.t, data, "ledger.id")); id != c.id().String() {
		c.t.Errorf("the folder is of ledger %s, the cluster's is %s", id, c.id())
	}
	owners, err := l.Aggregates(c.t.Context(), events.System, events.AggregateKey)
	if err != nil || len(owners) != 1 {
		c.t.Fatalf("the ledger has owners %v (%v)", owners, err)
	}
	created, ok, err := l.Latest(c.t.Context(), owners[0])
	if err != nil || !ok || created.Event.(events.KeyCreated).Digest.Value != events.DigestValue(keystring.Digest(ownerIn(c.t, data))) {
		c.t.Errorf("the owner's key in the folder is not the ledger's: %v", err)
	}
}

// A cluster that goes as a whole takes no server with it: that one says that it
// is not ready, denies once it cannot know any more, and goes on by itself when
// the cluster is back.
func TestClusterGoneAndBack(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	data := c.begin()
	s, owner := c.serve(data), ownerIn(t, data)
	s.organization(owner, "acme", "")
	secret := s.must(201, owner, "POST", "/v1/organizations/acme/keys", keyBody).Text("secret")
	ready := func() bool { a, err := s.ask("", "GET", "/readyz", ""); return err == nil && a.Status == 200 }
	s.until("ready", ready)
	for i := range natstest.Nodes {
		c.Stop(i)
	}
	s.until("not ready", func() bool { return !ready() })
	if a, err := s.ask(owner, "POST", "/v1/organizations", `{"id":"later","name":"Later"}`); err != nil || a.Status != 503 {
		t.Errorf("a change without a broker: %s, %v", a, err)
	}
	// Without the broker no use can be stored either: whichever bound is met
	// first, nothing is VALID for ever.
	s.until("denied", func() bool {
		a, err := s.ask(owner, "POST", "/v1/authorize?permission=interview:read", "", "X-Api-Key", secret)
		return err == nil && a.Status == 503
	})
	c.RestartAll()
	s.until("ready again", ready)
	s.until("valid again", func() bool { return s.verdict(owner, secret, "interview:read") == "VALID" })
	s.must(201, owner, "POST", "/v1/organizations", `{"id":"later","name":"Later"}`)
	s.Stop()
}

// A cluster that is not there, or does not take the credentials, is told as that.
func TestNoCluster(t *testing.T) {
	t.Parallel()
	said(t, refused(t, t.TempDir(), "--nats", "nats://user:secret@127.0.0.1:1"), "no broker answers at nats://xxxxx@127.0.0.1:1", "--nats")
}
