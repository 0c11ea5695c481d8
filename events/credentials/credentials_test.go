package credentials

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
)

// files reads a folder.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(text)
	}
	return out
}

func create(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// It is made once: whatever a crash left of it, and however many make it at once,
// the keys that were drawn stay.
func TestCreate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "auth")
	if _, err := Open(dir); !errors.Is(err, ErrNoAuthority) {
		t.Fatalf("open: %v", err)
	}
	var wait sync.WaitGroup
	made := make([]*Authority, 8)
	for i := range made {
		wait.Go(func() { made[i], _ = Create(dir) })
	}
	wait.Wait()
	for _, a := range made {
		if a == nil || a.operator.public != made[0].operator.public || a.ledger.public != made[0].ledger.public {
			t.Fatal("two roots of trust were made")
		}
	}
	before := files(t, dir)
	if len(before) != 9 {
		t.Errorf("%d files: %v", len(before), before)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v %v", info, err)
	}
	for name := range before {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info, err)
		}
		if strings.HasSuffix(name, ".nk") {
			continue
		}
		// As if it had not been written before the crash.
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		create(t, dir)
	}
	after := files(t, dir)
	for name, text := range before {
		if strings.HasSuffix(name, ".nk") && after[name] != text {
			t.Errorf("%s was drawn anew", name)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files instead of %d", len(after), len(before))
	}
	opened, err := Open(dir)
	if err != nil || opened.LedgerAccount() != made[0].LedgerAccount() {
		t.Errorf("open: %v", err)
	}
}

// A crash before the operator's key leaves nothing that is in force, and a key that
// is lost beside it is not drawn anew.
func TestLostKeys(t *testing.T) {
	dir := t.TempDir()
	create(t, dir)
	before := files(t, dir)
	for _, seed := range []string{systemSeed, ledgerSeed, serverSeed} {
		if err := os.Remove(filepath.Join(dir, seed)); err != nil {
			t.Fatal(err)
		}
		for _, f := range []func(string) (*Authority, error){Create, Open} {
			if a, err := f(dir); err == nil || !strings.Contains(err.Error(), seed) {
				t.Errorf("without %s: %v, %v", seed, a, err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, seed), []byte("SAsecret"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("with a spoilt %s: %v", seed, err)
		}
		if err := os.WriteFile(filepath.Join(dir, seed), []byte(before[seed]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, operatorSeed)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errors.Is(err, ErrNoAuthority) {
		t.Errorf("open: %v", err)
	}
	if a := create(t, dir); a.LedgerAccount() == "" || files(t, dir)[ledgerSeed] != before[ledgerSeed] {
		t.Error("what was drawn before a crash was drawn anew")
	}
}

// A nats-server that includes the conf trusts what the authority signs.
func TestConf(t *testing.T) {
	dir := t.TempDir()
	a := create(t, filepath.Join(dir, "auth"))
	if err := a.WriteCluster([]string{"127.0.0.1:1", "n2:6222", "[::1]:6222"}); err != nil {
		t.Fatal(err)
	}
	password := files(t, filepath.Join(dir, "auth"))[ClusterFile]
	if err := a.WriteCluster([]string{"127.0.0.1:1", "n2:6222", "[::1]:6222"}); err != nil || files(t, filepath.Join(dir, "auth"))[ClusterFile] != password {
		t.Errorf("the nodes' password was drawn anew: %v", err)
	}
	for _, bad := range []string{"n1", "n1:1\"\n", "user@n1:1", "n1:1 }"} {
		if err := a.WriteCluster([]string{bad}); !errors.Is(err, ErrNode) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	conf := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\nserver_name: n\ninclude auth/auth.conf\nresolver { type: full, dir: %q }\njetstream { store_dir: %q }\n"+
		"cluster { name: c, listen: \"127.0.0.1:-1\", include auth/cluster.conf }\n", filepath.Join(dir, "accounts"), filepath.Join(dir, "store"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	if len(opts.Routes) != 3 || opts.Cluster.Password == "" {
		t.Errorf("routes %v", opts.Routes)
	}
	opts.NoLog, opts.NoSigs, opts.Cluster, opts.Routes = true, true, server.ClusterOpts{}, nil
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("did not start")
	}
	for _, name := range []string{ServerCreds, OperatorCreds, SystemCreds} {
		conn, err := nats.Connect(s.ClientURL(), nats.UserCredentials(filepath.Join(dir, "auth", name)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		conn.Close()
	}
	if _, err := nats.Connect(s.ClientURL()); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("nobody was let in: %v", err)
	}
}

func widest() Grant {
	g := Grant{Name: events.CredentialName(strings.Repeat("n", events.MaxIDLength)), For: events.CredentialVerifier, Scope: "00112233445566778899aabbccddeeff"}
	for i := range events.MaxCredentialOrganizations {
		g.Organizations = append(g.Organizations, events.OrgID(fmt.Sprintf("%s%03d", strings.Repeat("o", events.MaxIDLength-3), i)))
	}
	return g
}

// The largest grant fits what the broker takes: 4 KiB to say who one is, and a
// message for the account.
func TestSizes(t *testing.T) {
	a := create(t, t.TempDir())
	g := widest()
	issued, err := Draw(g)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.ParseDecoratedJWT(issued.Creds)
	if err != nil {
		t.Fatal(err)
	}
	if len(token) > server.MAX_CONTROL_LINE_SIZE/2 {
		t.Errorf("the user has %d bytes", len(token))
	}
	account, err := a.Account(g, issued.Account)
	if err != nil {
		t.Fatal(err)
	}
	if len(account.JWT) > server.MAX_PAYLOAD_SIZE/4 {
		t.Errorf("the account has %d bytes", len(account.JWT))
	}
	for _, name := range []string{ServerCreds, OperatorCreds, SystemCreds} {
		content, err := a.Creds(name)
		if err != nil {
			t.Fatal(err)
		}
		if token, err := jwt.ParseDecoratedJWT(content); err != nil || len(token) > server.MAX_CONTROL_LINE_SIZE/2 {
			t.Errorf("%s: %d bytes, %v", name, len(token), err)
		}
	}
}

// What each account reaches, word for word: whatever is added here is a door.
func TestImports(t *testing.T) {
	a := create(t, t.TempDir())
	next := func(stream, name string) []string {
		return []string{"$JS.API.CONSUMER.INFO." + stream + "." + name, "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + name}
	}
	reset := func(stream, name string) string { return "$JS.API.CONSUMER.RESET." + stream + "." + name }
	for name, c := range map[string]struct {
		grant Grant
		want  []string
	}{
		"verifier": {Grant{Name: "v", For: events.CredentialVerifier}, append(next("LEDGER", "v"), reset("LEDGER", "v"), "uses.*.*.v", "presence.v", "$JS.API.DIRECT.GET.SNAPSHOTS.snapshots.all.>")},
		"verifier of one": {
			Grant{Name: "v", For: events.CredentialVerifier, Organizations: []events.OrgID{"acme"}, Scope: "s"},
			append(next("LEDGER", "v"), reset("LEDGER", "v"), "uses.0160.acme.v", events.UsesSubject(events.System, "v"), "presence.v",
				"$JS.API.DIRECT.GET.SNAPSHOTS.snapshots.s.>"),
		},
		"verifier by a mirror": {
			Grant{Name: "v", For: events.CredentialVerifier, Mirror: "west"},
			append(next("MIRROR_west", "v"), reset("MIRROR_west", "v"), "uses.*.*.v", "presence.v", "$JS.API.DIRECT.GET.SNAPSHOTS.snapshots.all.>"),
		},
		"subscriber": {Grant{Name: "s", For: events.CredentialSubscriber}, append(next("LEDGER", "s"), "$JS.ACK.LEDGER.s.>")},
		"auditor": {
			Grant{Name: "a", For: events.CredentialAuditor},
			slices.Concat(next("LEDGER", "a"), next("USES", "a"), next("ACCESS", "a"), []string{reset("LEDGER", "a"), reset("USES", "a"), reset("ACCESS", "a")}),
		},
	} {
		issued, err := Draw(c.grant)
		if err != nil {
			t.Fatal(err)
		}
		account, err := a.Account(c.grant, issued.Account)
		if err != nil {
			t.Fatal(err)
		}
		claims, err := jwt.DecodeAccountClaims(account.JWT)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, i := range claims.Imports {
			if i.LocalSubject == apiInfo && i.Subject == nowhere {
				continue
			}
			local := strings.Replace(string(i.Subject), "MIRROR_west", "LEDGER", 1)
			if string(i.LocalSubject) == local {
				i.LocalSubject = ""
			}
			if i.Account != a.LedgerAccount() || i.LocalSubject != "" || i.Token != "" || i.AllowTrace || i.Share {
				t.Errorf("%s: import %+v", name, i)
			}
			got = append(got, string(i.Subject))
		}
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s reaches %q, want %q", name, got, c.want)
		}
		l := claims.Limits
		if l.LeafNodeConn != 0 || l.Exports != 0 || l.Conn != maxConnections || l.Subs != maxSubscriptions || l.Payload != maxPayload || l.IsJSEnabled() || !l.DisallowBearer {
			t.Errorf("%s: limits %+v", name, l)
		}
		held, err := Holder(issued.Creds)
		if err != nil || held != (Held{c.grant.Name, c.grant.For, issued.Account}) {
			t.Errorf("%s: held %+v, %v", name, held, err)
		}
	}
	for _, bad := range [][]byte{nil, []byte("x"), []byte("-----BEGIN NATS USER JWT-----\nx.y.z\n------END NATS USER JWT------\n")} {
		if held, err := Holder(bad); err == nil || bytes.Contains([]byte(err.Error()), []byte("x.y.z")) {
			t.Errorf("%q: %+v %v", bad, held, err)
		}
	}
}

// What crosses between a leaf node and the broker, word for word, with two behind it.
func TestLeafAccount(t *testing.T) {
	a := create(t, t.TempDir())
	g := Grant{Name: "shop", For: events.CredentialLeaf}
	issued, err := Draw(g)
	if err != nil {
		t.Fatal(err)
	}
	behind := []Grant{
		{Name: "v", For: events.CredentialVerifier, Leaf: "shop"},
		{Name: "w", For: events.CredentialVerifier, Leaf: "shop", Organizations: []events.OrgID{"acme", "globex"}, Scope: "s"},
	}
	account, err := a.Account(g, issued.Account, behind...)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := jwt.DecodeAccountClaims(account.JWT)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, i := range claims.Imports {
		if i.Account != a.LedgerAccount() || (i.Type == jwt.Stream) != (i.Subject == "keyledger.copy.shop") {
			t.Errorf("import %+v", i)
		}
		if i.LocalSubject != apiInfo {
			got[string(i.Subject)] = string(i.LocalSubject)
		}
	}
	want := map[string]string{
		"keyledger.copy.shop": "", "$JS.FC.LEDGER.shop.*": "", "$JS.FC.*.*.LEDGER.shop.*": "",
		"$JS.API.CONSUMER.RESET.LEDGER.shop": "keyledger.hub.CONSUMER.RESET.LEDGER.shop",
		"uses.*.*.v":                         "", "uses.*.*.w": "", "presence.v": "", "presence.w": "",
		"$JS.API.DIRECT.GET.SNAPSHOTS.snapshots.all.>": "keyledger.hub.DIRECT.GET.SNAPSHOTS.snapshots.all.>",
		"$JS.API.DIRECT.GET.SNAPSHOTS.snapshots.s.>":   "keyledger.hub.DIRECT.GET.SNAPSHOTS.snapshots.s.>",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("it reaches (-want +got):\n%s", diff)
	}
	l := claims.Limits
	if l.LeafNodeConn != maxLeafConnections || l.Exports != 0 || l.IsJSEnabled() || !l.DisallowBearer {
		t.Errorf("limits %+v", l)
	}
	// At the broker, nobody hangs a leaf node on the account that holds the streams.
	for _, leaf := range []bool{false, true} {
		accounts, err := a.accounts(leaf)
		if err != nil {
			t.Fatal(err)
		}
		for _, account := range accounts {
			claims, err := jwt.DecodeAccountClaims(account.JWT)
			if err != nil {
				t.Fatal(err)
			}
			if want := leaf && account.Public == a.LedgerAccount(); (claims.Limits.LeafNodeConn != 0) != want {
				t.Errorf("%s takes %d leaf nodes", claims.Name, claims.Limits.LeafNodeConn)
			}
		}
	}
	// With as many behind it as there may be, it fits what deploy/nats takes.
	var most []Grant
	for i := range 150 {
		g := widest()
		g.Name = events.CredentialName(fmt.Sprintf("%s%03d", strings.Repeat("n", events.MaxIDLength-3), i))
		g.Scope = events.ScopeLabel(fmt.Sprintf("%032d", i))
		most = append(most, g)
	}
	if account, err = a.Account(g, issued.Account, most...); err != nil || len(account.JWT) > 240*1024 {
		t.Errorf("it has %d bytes, %v", len(account.JWT), err)
	}
}

func TestWriteLeaf(t *testing.T) {
	a := create(t, t.TempDir())
	for _, bad := range [][]string{
		nil,
		{"n1:7422"},
		{"nats://n1:7422"},
		{"tls://n1"},
		{"tls://user:secret@n1:7422"},
		{"tls://n1:7422\"\n"},
		{"tls://n1:7422/x"},
		{"tls://n1:7422", "x"},
	} {
		if err := a.WriteLeaf(t.TempDir(), bad); !errors.Is(err, ErrHub) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	dir := t.TempDir()
	if err := a.WriteLeaf(dir, []string{"nats-leaf://n1:7422", "tls://[::1]:7422"}); err != nil {
		t.Fatal(err)
	}
	for name, text := range files(t, dir) {
		if strings.Contains(text, a.server.public) || strings.Contains(text, "SEED") {
			t.Errorf("%s holds what a leaf node has no use for", name)
		}
	}
}

// Nothing that LEDGER offers lets anybody change a stream. Seals can be removed, and
// uses that retention drops, by the server alone.
func TestExports(t *testing.T) {
	for _, subject := range exports() {
		for _, verb := range []string{"CREATE", "UPDATE", "DELETE", "PURGE", "RESTORE", "SNAPSHOT", "MSG.DELETE", "LEADER.STEPDOWN", "PEER.REMOVE"} {
			for _, stream := range []string{"LEDGER", "USES", "SEALS", "ACCESS", "PRESENCE", "SNAPSHOTS"} {
				if verb == "MSG.DELETE" && stream == "SEALS" || verb == "PURGE" && (stream == "USES" || stream == "SNAPSHOTS") {
					continue
				}
				if jwt.Subject("$JS.API.STREAM." + verb + "." + stream).IsContainedIn(jwt.Subject(subject)) {
					t.Errorf("%s offers %s", subject, verb)
				}
			}
		}
	}
}
