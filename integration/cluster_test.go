package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events/clustertest"
)

// cluster is three brokers that installations are begun on.
type cluster struct {
	*clustertest.Cluster
	t *testing.T
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	return &cluster{clustertest.Start(t), t}
}

// flags are those with which a program reaches the cluster as somebody.
func (c *cluster) flags(user string, more ...string) []string {
	c.t.Helper()
	urls := make([]string, clustertest.Nodes)
	for i := range urls {
		urls[i] = strings.Replace(c.URL(i), "nats://", "nats://"+user+":"+user+"@", 1)
	}
	return append([]string{"--nats", strings.Join(urls, ",")}, more...)
}

// begin begins an installation with a folder of its own and returns that.
func (c *cluster) begin() string {
	c.t.Helper()
	data := filepath.Join(c.t.TempDir(), "init")
	code, out := c.init(data)
	if code != 0 {
		c.t.Fatalf("init ended with %d\n%s", code, out)
	}
	return data
}

func (c *cluster) init(data string, more ...string) (int, string) {
	c.t.Helper()
	code, out := keyledger(c.t, append([]string{"init", "--data", data}, c.flags("operator", more...)...)...)
	if keystring.Contains(out) {
		c.t.Errorf("init prints a key:\n%s", out)
	}
	return code, out
}

// join starts a server in an empty folder, with the installation key of another.
func (c *cluster) join(begun string, more ...string) *server {
	c.t.Helper()
	return c.serve(c.t.TempDir(), append([]string{"--installation-key", filepath.Join(begun, "installation.key")}, more...)...)
}

func (c *cluster) serve(data string, more ...string) *server {
	c.t.Helper()
	return run(c.t, data, "127.0.0.1:0", c.flags("server", more...)...).awaitReady()
}

func ownerIn(t *testing.T, data string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(data, "owner.key"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// Servers side by side are one: what one of them is told, the others act on.
func TestServersSideBySide(t *testing.T) {
	c := startCluster(t)
	begun := c.begin()
	owner := ownerIn(t, begun)
	one, two, three := c.serve(begun), c.join(begun), c.join(begun)
	one.organization(owner, "acme", "")
	created := two.must(201, owner, "POST", "/v1/organizations/acme/keys", keyBody)
	secret, at := created.text("secret"), created.text("position")
	for _, s := range []*server{one, two, three} {
		body := `{"secret":"` + secret + `","permission":"interview:read","at_least":"` + at + `"}`
		if code := s.must(200, owner, "POST", "/v1/verify", body).text("code"); code != "VALID" {
			t.Errorf("%s says %s", s.url, code)
		}
	}
	revoked := three.must(200, owner, "POST", "/v1/organizations/acme/keys/"+created.text("key.id")+"/revoke", `{"reason":"leaked"}`)
	for _, s := range []*server{one, two, three} {
		body := `{"secret":"` + secret + `","permission":"interview:read","at_least":"` + revoked.text("position") + `"}`
		if code := s.must(200, owner, "POST", "/v1/verify", body).text("code"); code != "REVOKED" {
			t.Errorf("%s says %s", s.url, code)
		}
	}
}
