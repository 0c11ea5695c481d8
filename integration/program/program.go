// Package program runs the real program in tests: it builds it, starts it as an
// operator does, waits until it says that it is ready, asks it over HTTP, and ends it
// as an operator does, as a power cut does, or not for a while.
package program

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience bounds what takes its own time. No test is about how long that is.
const Patience = 90 * time.Second

// Process is the program at work.
type Process struct {
	t   testing.TB
	cmd *exec.Cmd
	// ready holds what stood in the ready line, done how the program ended.
	ready chan []string
	done  chan error
	// addresses are those of the ready line.
	addresses []string

	mu  sync.Mutex
	log bytes.Buffer
}

// Start starts a command that says `ready` some time, such as the program with its
// arguments, perhaps behind another that puts it somewhere. It ends with the test.
func Start(t testing.TB, command ...string) *Process {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "KEYLEDGER_KEY=", "KEYLEDGER_URL=")
	return StartCommand(t, cmd)
}

// StartCommand is Start of a command with an environment of its own.
func StartCommand(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{t: t, cmd: cmd, ready: make(chan []string, 1), done: make(chan error, 1)}
	p.cmd.Stderr = p
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatalf("program: start: %v", err)
	}
	go func() {
		lines := bufio.NewScanner(io.TeeReader(out, p))
		for lines.Scan() {
			if words := strings.Fields(lines.Text()); len(words) > 1 && words[0] == "ready" {
				p.ready <- words[1:]
			}
		}
		p.done <- p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", strings.Join(cmd.Args, " "), p.wrong())
		}
	})
	return p
}

// Ready waits for the `ready` line.
func (p *Process) Ready() *Process {
	p.t.Helper()
	return p.ReadyWithin(Patience)
}

// ReadyWithin is Ready for what takes longer.
func (p *Process) ReadyWithin(patience time.Duration) *Process {
	p.t.Helper()
	if p.addresses != nil {
		return p
	}
	select {
	case p.addresses = <-p.ready:
	case err := <-p.done:
		p.done <- err
		p.t.Fatalf("program: it ended: %v", err)
	case <-time.After(patience):
		p.t.Fatal("program: it is not ready")
	}
	return p
}

// Address returns an address of the ready line by how it begins, such as http://.
func (p *Process) Address(scheme string) string {
	p.t.Helper()
	p.Ready()
	for _, a := range p.addresses {
		if strings.HasPrefix(a, scheme) {
			return a
		}
	}
	p.t.Fatalf("program: no %s among %v", scheme, p.addresses)
	return ""
}

// Pid is the process's.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Write keeps what the program says.
func (p *Process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

// Logged is what it said so far.
func (p *Process) Logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// wrong is what it said but for what went well.
func (p *Process) wrong() string {
	var kept strings.Builder
	for line := range strings.Lines(p.Logged()) {
		if !strings.Contains(line, "msg=request") || !strings.Contains(line, " status=2") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// Stop ends it as an operator does, and expects exit code 0.
func (p *Process) Stop() {
	p.t.Helper()
	if err := p.End(); err != nil {
		p.t.Fatal(err)
	}
}

// End is Stop for what outlives the test that started it.
func (p *Process) End() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // one that has ended takes none
	return p.Ended()
}

// Terminate has it end as an operator does, and does not wait for it.
func (p *Process) Terminate() { p.t.Helper(); p.signal(syscall.SIGTERM) }

// Ended waits until it has ended, and tells of any exit code but 0.
func (p *Process) Ended() error {
	select {
	case err := <-p.done:
		p.done <- err
		if err != nil {
			return fmt.Errorf("program: it ended: %w", err)
		}
		return nil
	case <-time.After(Patience):
		return errors.New("program: it does not end")
	}
}

// Kill ends it as a power cut does. It does nothing to one that has ended.
func (p *Process) Kill() {
	select {
	case err := <-p.done:
		p.done <- err
		return
	default:
	}
	if err := p.cmd.Process.Kill(); err == nil {
		err := <-p.done
		p.done <- err
	}
}

// Dump ends it with a dump of what it was at, as who looks for a fault does.
func (p *Process) Dump() {
	p.t.Helper()
	p.signal(syscall.SIGQUIT)
	if err := p.Ended(); err == nil {
		p.t.Fatal("program: it ended as if nothing were after SIGQUIT")
	}
}

// Pause has it stand still, and Resume go on as if nothing had been.
func (p *Process) Pause() { p.t.Helper(); p.signal(syscall.SIGSTOP) }

// Resume is told with Pause.
func (p *Process) Resume() { p.t.Helper(); p.signal(syscall.SIGCONT) }

func (p *Process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("program: %v", err)
	}
}

// Run runs a command to its end, with an environment beside this process's and a
// standard input.
func Run(t testing.TB, env []string, stdin string, command ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Env = append(append(os.Environ(), "KEYLEDGER_KEY=", "KEYLEDGER_URL="), env...)
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &said
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatalf("program: %s: %v", strings.Join(command, " "), err)
	}
	return out.String(), said.String(), cmd.ProcessState.ExitCode()
}

// Door is where somebody asks over HTTP.
type Door struct {
	// URL is where: http://…, or unix:PATH.
	URL string
	// Key is a management key, or empty.
	Key    string
	client *http.Client
}

// askers is how many at most ask at one door side by side: as many connections are
// kept, since opening another for each request costs more than the request.
const askers = 64

// overTCP are the connections to all doors that are no sockets.
var overTCP = func() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, askers
	return t
}()

// At returns the door at an address of the ready line.
func At(url, key string) *Door {
	d := &Door{URL: url, Key: key, client: &http.Client{Timeout: Patience, Transport: overTCP}}
	if path, ok := strings.CutPrefix(url, "unix:"); ok {
		d.URL = "http://unix"
		d.client.Transport = &http.Transport{MaxIdleConnsPerHost: askers, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}
	}
	return d
}

// Answer is what a request came back with.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

func (a Answer) String() string { return fmt.Sprintf("%d %s", a.Status, a.Body) }

// Get returns a member of the answer by its path, such as `items.0.id`, nil where
// there is none.
func (a Answer) Get(path string) any {
	var v any
	if err := json.Unmarshal(a.Body, &v); err != nil {
		return nil
	}
	for name := range strings.SplitSeq(path, ".") {
		switch in := v.(type) {
		case map[string]any:
			v = in[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(in) {
				return nil
			}
			v = in[i]
		default:
			return nil
		}
	}
	return v
}

// Text is a member that is a string, "" where there is none.
func (a Answer) Text(path string) string { s, _ := a.Get(path).(string); return s }

// List is a member that is an array.
func (a Answer) List(path string) []any { l, _ := a.Get(path).([]any); return l }

// Item is the item of a list whose id it is, as an answer of its own.
func (a Answer) Item(id string) (Answer, bool) {
	for _, item := range a.List("items") {
		if o, ok := item.(map[string]any); ok && o["id"] == id {
			body, err := json.Marshal(o)
			return Answer{Status: a.Status, Body: body}, err == nil
		}
	}
	return Answer{}, false
}

// Form is the body of a request that takes a form.
type Form string

// Ask sends a request with a body, if any: a [Form], or what becomes JSON. Headers are
// name, value, name, value.
func (d *Door) Ask(ctx context.Context, method, path string, body any, headers ...string) (Answer, error) {
	var sent io.Reader
	kind := "application/json"
	if form, ok := body.(Form); ok {
		sent, kind = strings.NewReader(string(form)), "application/x-www-form-urlencoded"
	} else if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return Answer{}, err
		}
		sent = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, d.URL+path, sent)
	if err != nil {
		return Answer{}, err
	}
	if d.Key != "" {
		req.Header.Set("Authorization", "Bearer "+d.Key)
	}
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := d.client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	return Answer{Status: res.StatusCode, Header: res.Header, Body: out}, err
}

// Must asks until it is answered by more than 503, which says that nothing was done,
// and expects a status.
func (d *Door) Must(t testing.TB, want int, method, path string, body any, headers ...string) Answer {
	t.Helper()
	for deadline := time.Now().Add(Patience); ; time.Sleep(50 * time.Millisecond) {
		a, err := d.Ask(t.Context(), method, path, body, headers...)
		if err == nil && a.Status == http.StatusServiceUnavailable && want != a.Status && time.Now().Before(deadline) {
			continue
		}
		if err != nil || a.Status != want {
			t.Fatalf("%s %s: got %s, %v, want %d", method, path, a, err, want)
		}
		return a
	}
}

// Until waits for what comes in its own time.
func Until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, Patience)
		}
	}
}
