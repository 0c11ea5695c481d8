package integration

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/integration/program"
)

// binary is the real program, built once for all tests of this package.
var binary string

// sideBySide is how many tests run at a time. Most of what a test takes here it waits:
// for elections, for what comes due, for who must notice that somebody is away.
const sideBySide = 4

func TestMain(m *testing.M) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		if err := flag.Set("test.parallel", strconv.Itoa(sideBySide)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(build(m))
}

// build builds the program and runs the tests on it.
func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "keyledger-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if binary, err = program.BuildInto(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// server is a running `keyledger serve` on a data folder of its own.
type server struct {
	*program.Process
	t    testing.TB
	data string
	url  string
}

// start runs the program on a data folder and waits for its `ready` line.
func start(t testing.TB, data string) *server {
	t.Helper()
	return startAt(t, data, "127.0.0.1:0")
}

// startAt is start on an address.
func startAt(t testing.TB, data, listen string) *server {
	t.Helper()
	return run(t, data, listen, alone...).awaitReady()
}

// alone are the flags of a server that nobody shares a broker with: many of them
// run side by side, and the default port is one.
var alone = []string{"--nats-listen", ""}

// awaitReady waits for the `ready` line.
func (s *server) awaitReady() *server {
	s.t.Helper()
	s.url = s.Address("http://")
	return s
}

// launch runs the program and waits until it answers, ready or not.
func launch(t *testing.T, data string) *server {
	t.Helper()
	address := clustertest.FreeAddresses(t, 1)[0]
	s := run(t, data, address, alone...)
	s.url = "http://" + address
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if a, err := s.ask("", "GET", "/livez", ""); err == nil && a.Status == 200 {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("serve does not answer\n%s", s.Logged())
		}
	}
}

// run starts the program on a data folder.
func run(t testing.TB, data, listen string, more ...string) *server {
	t.Helper()
	return &server{Process: program.Start(t, append([]string{binary, "serve", "--data", data, "--listen", listen}, more...)...), t: t, data: data}
}

// owner is the installation owner's key.
func (s *server) owner() string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.data, "owner.key"))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// caller keeps as many connections as any test has callers: one that is made for each
// request costs more than the request.
var caller = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

// answer is what a request came back with.
type answer = program.Answer

// ask sends a request; headers are name, value, name, value.
func (s *server) ask(key, method, path, body string, headers ...string) (answer, error) {
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := caller.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	return answer{Status: res.StatusCode, Header: res.Header, Body: out}, err
}

// must asks and expects a status.
func (s *server) must(want int, key, method, path, body string, headers ...string) answer {
	s.t.Helper()
	a, err := s.ask(key, method, path, body, headers...)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.Status != want {
		s.t.Fatalf("%s %s: got %s, want %d", method, path, a, want)
	}
	return a
}

// verdict asks for the verdict over a secret and returns its code.
func (s *server) verdict(key, secret, permission string) string {
	s.t.Helper()
	body, err := json.Marshal(map[string]string{"secret": secret, "permission": permission})
	if err != nil {
		s.t.Fatal(err)
	}
	if permission == "" {
		body = []byte(fmt.Sprintf(`{"secret":%q}`, secret))
	}
	return s.must(200, key, "POST", "/v1/verify", string(body)).Text("code")
}

const catalogBody = `{"permissions":[
 {"name":"interview:start","access":"write","routes":["POST /api/v1/interviews/start"]},
 {"name":"interview:read","access":"read","routes":["GET /api/v1/interviews/{id}"]},
 {"name":"interview:complete","access":"write","routes":["POST /api/v1/interviews/{id}/complete"]}]}`

// organization makes an organization with a workspace and a catalog.
func (s *server) organization(owner, id, more string) {
	s.t.Helper()
	s.must(201, owner, "POST", "/v1/organizations", fmt.Sprintf(`{"id":%q,"name":"Organization %s"%s}`, id, id, more))
	s.must(201, owner, "POST", "/v1/organizations/"+id+"/workspaces", `{"id":"hiring","name":"Hiring"}`)
	s.must(200, owner, "PUT", "/v1/organizations/"+id+"/permissions", catalogBody)
}

const keyBody = `{"name":"interview service","permissions":["interview:read"],"scope":{"all_workspaces":true}}`
