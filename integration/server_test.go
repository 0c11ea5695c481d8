package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/keyledger/integration/program"
)

// binary is the real program, built once for all tests of this package.
var binary string

func TestMain(m *testing.M) {
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
	t    testing.TB
	data string
	url  string
	cmd  *exec.Cmd
	// ready holds the address of the ready line, done how the program ended.
	ready chan string
	done  chan error

	mu  sync.Mutex
	log bytes.Buffer
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
	t := s.t
	t.Helper()
	select {
	case s.url = <-s.ready:
	case err := <-s.done:
		t.Fatalf("serve ended: %v\n%s", err, s.logged())
	case <-time.After(60 * time.Second):
		t.Fatalf("serve is not ready\n%s", s.logged())
	}
	return s
}

// launch runs the program and waits until it answers, ready or not.
func launch(t *testing.T, data string) *server {
	t.Helper()
	address := freeAddress(t)
	s := run(t, data, address, alone...)
	s.url = "http://" + address
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if a, err := s.ask("", "GET", "/livez", ""); err == nil && a.status == 200 {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("serve does not answer\n%s", s.logged())
		}
	}
}

// freeAddress is one that nobody listened on a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// run starts the program on a data folder.
func run(t testing.TB, data, listen string, more ...string) *server {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"serve", "--data", data, "--listen", listen}, more...)...)
	cmd.Env = append(os.Environ(), "KEYLEDGER_KEY=", "KEYLEDGER_URL=")
	return runCommand(t, data, cmd)
}

// runCommand starts a command that serves from a data folder.
func runCommand(t testing.TB, data string, cmd *exec.Cmd) *server {
	t.Helper()
	s := &server{t: t, data: data, cmd: cmd, done: make(chan error, 1), ready: make(chan string, 1)}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stderr = s.writer()
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		lines := bufio.NewScanner(io.TeeReader(out, s.writer()))
		for lines.Scan() {
			if i := strings.Index(lines.Text(), "http://"); i >= 0 && strings.HasPrefix(lines.Text(), "ready") {
				s.ready <- strings.Fields(lines.Text()[i:])[0]
			}
		}
		s.done <- s.cmd.Wait()
	}()
	t.Cleanup(func() { s.kill() })
	return s
}

func (s *server) writer() io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.log.Write(p)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (s *server) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// stop ends the program as an operator does and expects exit code 0.
func (s *server) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	select {
	case err := <-s.done:
		s.done <- err
		if err != nil {
			s.t.Fatalf("serve after SIGTERM: %v\n%s", err, s.logged())
		}
	case <-time.After(60 * time.Second):
		s.t.Fatalf("serve does not end after SIGTERM\n%s", s.logged())
	}
}

// kill ends the program as a power cut does.
func (s *server) kill() {
	select {
	case err := <-s.done:
		s.done <- err
		return
	default:
	}
	if err := s.cmd.Process.Kill(); err == nil {
		err := <-s.done
		s.done <- err
	}
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

// answer is what a request came back with.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// get returns a member of the answer by its path, such as `key.id`.
func (a answer) get(path string) any {
	var v any
	if err := json.Unmarshal(a.body, &v); err != nil {
		return nil
	}
	for _, name := range strings.Split(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

func (a answer) text(path string) string { s, _ := a.get(path).(string); return s }

func (a answer) String() string { return fmt.Sprintf("%d %s", a.status, a.body) }

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
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	return answer{status: res.StatusCode, header: res.Header, body: out}, err
}

// must asks and expects a status.
func (s *server) must(want int, key, method, path, body string, headers ...string) answer {
	s.t.Helper()
	a, err := s.ask(key, method, path, body, headers...)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.status != want {
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
	return s.must(200, key, "POST", "/v1/verify", string(body)).text("code")
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
