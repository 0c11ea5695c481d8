package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/integration/natstest"
	"github.com/keyledger/keyledger/integration/program"
)

// project is docker-compose.yml as the loader of `docker compose` reads it.
type project struct {
	t        *testing.T
	root     string
	Services map[string]composed
	// volumes are the folders that stand for the project's volumes, and hosts the
	// addresses that stand for those of its network.
	volumes map[string]string
	hosts   map[string]string
}

// composed is a service of it.
type composed struct {
	Image               string
	Build               *struct{ Context string }
	Command, Entrypoint []string
	Environment         map[string]string
	User                string
	ReadOnly            bool     `json:"read_only"`
	CapDrop             []string `json:"cap_drop"`
	Healthcheck         *struct{ Test []string }
	Ports               []struct {
		HostIP string `json:"host_ip"`
	}
	Volumes   []mount
	Profiles  []string
	DependsOn map[string]struct{ Condition string } `json:"depends_on"`
	Restart   string
}

type mount struct {
	Type, Source, Target string
	ReadOnly             bool `json:"read_only"`
}

// compose loads the file, and fails where `docker compose config` would.
func compose(t *testing.T) *project {
	t.Helper()
	p := &project{t: t, root: natstest.Root(t), volumes: map[string]string{}, hosts: map[string]string{}}
	cmd := exec.Command("go", "-C", "tools", "run", "./composeconfig", "../docker-compose.yml")
	cmd.Dir = p.root
	var fault bytes.Buffer
	cmd.Stderr = &fault
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, fault.String())
	}
	if err := json.Unmarshal(out, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// nodes are the names of the services that are nodes of the cluster, in order.
func (p *project) nodes() []string {
	return slices.Sorted(func(yield func(string) bool) {
		for name, s := range p.Services {
			if _, is := s.Environment["NATS_NAME"]; is && !yield(name) {
				return
			}
		}
	})
}

// What the file mounts is there, what it opens is open to this machine alone, and
// the nodes are started with the conf, the variables and the version that the tests
// start theirs with.
//
// Breaking it, and what showed it: another conf, a variable more or fewer, another
// version of the image, a port without 127.0.0.1, a service without a check that
// others wait for, seeds mounted into a server, a service that ends and that nobody
// waits for.
func TestComposeFile(t *testing.T) {
	t.Parallel()
	p := compose(t)
	for name, s := range p.Services {
		for _, m := range s.Volumes {
			if _, err := os.Stat(m.Source); m.Type == "bind" && (err != nil || !m.ReadOnly) {
				t.Errorf("%s mounts %s, read-only: %t: %v", name, m.Source, m.ReadOnly, err)
			}
			if m.Source == "authority" && name != "operator" && name != "handout" && (name != "nats-auth" || len(s.Profiles) == 0) {
				t.Errorf("%s has the seeds", name)
			}
			if m.Source == "beginning" && name != "init" && name != "handout" {
				t.Errorf("%s may make streams, and more", name)
			}
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s is open at %q", name, port.HostIP)
			}
		}
		// `docker compose up --wait` takes a service that has ended for one that has
		// failed, unless somebody waits for its end.
		if s.Restart == "" && len(s.Profiles) == 0 && !p.awaited(name) {
			t.Errorf("nobody waits for the end of %s", name)
		}
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) {
			t.Errorf("%s is not confined", name)
		}
		for on, d := range s.DependsOn {
			if check := p.Services[on].Healthcheck; d.Condition == "service_healthy" && check == nil && p.Services[on].Build == nil {
				t.Errorf("%s waits for %s, whose health nobody checks", name, on)
			}
		}
		for variable, value := range s.Environment {
			if keystring.Contains(value) || strings.Contains(value, "SEED") || strings.Contains(value, "eyJ") {
				t.Errorf("%s holds a secret in %s", name, variable)
			}
		}
	}
	nodes := p.nodes()
	if len(nodes) != natstest.Nodes {
		t.Fatalf("nodes: %v", nodes)
	}
	wanted := "nats:" + moduleVersion(t, p.root, "github.com/nats-io/nats-server/v2") + "-alpine"
	for _, name := range nodes {
		s := p.Services[name]
		if s.Image != wanted || s.Environment["NATS_NAME"] != name {
			t.Errorf("%s is %s and made from %s, want %s", name, s.Environment["NATS_NAME"], s.Image, wanted)
		}
		if got := slices.Sorted(maps.Keys(s.Environment)); !slices.Equal(got, natstest.Variables()) {
			t.Errorf("%s is told %v, and a node of the tests %v", name, got, natstest.Variables())
		}
		conf := s.Command[slices.Index(s.Command, "--config")+1]
		if source := p.mounted(s, conf); source != filepath.Join(p.root, natstest.Conf) {
			t.Errorf("%s is started with %s, and the nodes of the tests with %s", name, source, natstest.Conf)
		}
		if p.mounted(s, filepath.Dir(conf)+"/auth") != "nodes" {
			t.Errorf("%s does not find what its conf includes", name)
		}
	}
}

// awaited tells whether a service waits for another to end well.
func (p *project) awaited(name string) bool {
	for _, s := range p.Services {
		if s.DependsOn[name].Condition == "service_completed_successfully" {
			return true
		}
	}
	return false
}

// mounted is what a path of a service is, "" if nothing.
func (p *project) mounted(s composed, path string) string {
	for _, m := range s.Volumes {
		if m.Target == path {
			return m.Source
		}
	}
	return ""
}

// moduleVersion is the version of a module that go.mod pins, without its v.
func moduleVersion(t *testing.T, root, module string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^\s*` + regexp.QuoteMeta(module) + ` v(\S+)`).FindSubmatch(text)
	if found == nil {
		t.Fatalf("go.mod does not have %s", module)
	}
	return string(found[1])
}

// local writes a service's text for this machine: its mounts are folders here, and
// the names of its network addresses here.
func (p *project) local(s composed, text string) string {
	for _, m := range s.Volumes {
		if m.Type == "volume" {
			at := regexp.MustCompile(`(^|[\s"'=,:])` + regexp.QuoteMeta(m.Target) + `(/|$|[\s"'])`)
			// Twice: neighbours share the space between them.
			for range 2 {
				text = at.ReplaceAllString(text, "${1}"+p.volume(m.Source)+"${2}")
			}
		}
	}
	for name, address := range p.hosts {
		text = strings.ReplaceAll(text, name, address)
	}
	return text
}

// volume is the folder that stands for a volume.
func (p *project) volume(name string) string {
	if p.volumes[name] == "" {
		// Its path must not look like one of those that are replaced.
		dir, err := os.MkdirTemp(p.t.TempDir(), "volume-")
		if err != nil {
			p.t.Fatal(err)
		}
		p.volumes[name] = dir
	}
	return p.volumes[name]
}

// command makes a service a process of this machine. Its program is the one that
// the tests have built, and what the image tells it, it is told too.
func (p *project) command(name string, more ...string) *exec.Cmd {
	p.t.Helper()
	s, ok := p.Services[name]
	if !ok {
		p.t.Fatalf("no service %s", name)
	}
	words := slices.Concat(s.Entrypoint, s.Command)
	switch {
	case s.Build == nil:
	case len(s.Entrypoint) > 0:
		words[0] = binary
	default:
		words = append([]string{binary}, words...)
	}
	for i := range words {
		words[i] = p.local(s, words[i])
	}
	cmd := exec.Command(words[0], append(words[1:], more...)...)
	cmd.Env = append(os.Environ(), "KEYLEDGER_KEY=", "KEYLEDGER_URL=", "KEYLEDGER_DATA="+p.local(s, "/data"))
	for variable, value := range s.Environment {
		cmd.Env = append(cmd.Env, variable+"="+p.local(s, value))
	}
	return cmd
}

// once runs a service that ends.
func (p *project) once(name string) string {
	p.t.Helper()
	out, err := p.command(name).CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// handout gives everybody his part. The service gives the parts to the image's user;
// here there is no other user than the tester.
func (p *project) handout() {
	s := p.Services["handout"]
	for i, word := range s.Command {
		s.Command[i] = strings.ReplaceAll(word, "65532", fmt.Sprint(os.Getuid()))
	}
	p.once("handout")
}

// up starts the project as `docker compose up` does, as processes of this machine:
// first what makes credentials, then the nodes, the beginning, and the servers.
func (p *project) up() (*natstest.Cluster, []*server) {
	p.t.Helper()
	nodes := natstest.Reserve(p.t)
	for i, name := range p.nodes() {
		p.hosts[name+":4222"], p.hosts[name+":6222"] = nodes.Client(i), nodes.Member(i)
	}
	p.once("operator")
	p.handout()
	nodes.Start(p.volume("nodes"))
	if said := p.once("init"); keystring.Contains(said) {
		p.t.Errorf("init prints a key:\n%s", said)
	}
	return nodes, []*server{p.server("server-1"), p.server("server-2")}
}

func (p *project) server(name string) *server {
	p.t.Helper()
	s := &server{Process: program.StartCommand(p.t, p.command(name, "--listen", "127.0.0.1:0")), t: p.t, data: p.volume(name)}
	return s.awaitReady()
}

// The project comes up from its files, and its servers are one: what is made through
// one of them is judged by the other, and taken back there. Brought up again it finds
// what it has made.
//
// Breaking it, and what showed it: a part that is not handed out, a node that is
// called otherwise, credentials that may not what their service does.
func TestCompose(t *testing.T) {
	t.Parallel()
	p := compose(t)
	_, servers := p.up()
	owner := strings.TrimSpace(string(readFile(t, filepath.Join(p.volume("owner"), "owner.key"))))
	servers[0].organization(owner, "acme", "")
	awaitCatalog(t, servers[1], owner)
	created := servers[1].must(201, owner, "POST", "/v1/organizations/acme/keys", keyBody)
	judged := func(s *server, since answer, want string) {
		t.Helper()
		body := fmt.Sprintf(`{"secret":%q,"permission":"interview:read","at_least":%q}`, created.Text("secret"), since.Text("position"))
		if got := s.must(200, owner, "POST", "/v1/verify", body).Text("code"); got != want {
			t.Errorf("%s says %s, want %s", s.url, got, want)
		}
	}
	for _, s := range servers {
		judged(s, created, "VALID")
	}
	revoked := servers[0].must(200, owner, "POST", "/v1/organizations/acme/keys/"+created.Text("key.id")+"/revoke", "{}")
	for _, s := range servers {
		judged(s, revoked, "REVOKED")
	}

	// As `docker compose run` gives other words.
	service := p.Services["nats-auth"]
	service.Command = []string{"verifier", "edge-1", "--out", "/issued/edge-1.creds"}
	p.Services["nats-auth"] = service
	p.once("nats-auth")
	if held, err := credentials.Holder(readFile(t, p.volume("issued")+"/edge-1.creds")); err != nil || held.Name != "edge-1" {
		t.Errorf("let in: %+v, %v", held, err)
	}

	made := func() (all []byte) {
		for _, path := range []string{
			p.volume("nodes") + "/cluster.conf", p.volume("servers") + "/server.creds", p.volume("beginning") + "/operator.creds",
			p.volume("installation") + "/installation.key", p.volume("installation") + "/provider.kek", p.volume("owner") + "/owner.key",
		} {
			all = append(all, readFile(t, path)...)
		}
		return all
	}
	before := made()
	p.once("operator")
	p.handout()
	p.once("init")
	if !bytes.Equal(before, made()) {
		t.Error("brought up again, it begins anew")
	}
	servers[1].Stop()
	judged(p.server("server-2"), revoked, "REVOKED")
}

// awaitCatalog waits until a server has followed another to the organization's
// catalog.
func awaitCatalog(t *testing.T, s *server, owner string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		a, err := s.ask(owner, "GET", "/v1/organizations/acme/permissions", "")
		if items, _ := a.Get("permissions").([]any); err == nil && len(items) > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not follow: %s, %v", s.url, a, err)
		}
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
