package products

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds what takes its own time. No test is about how long that is.
const patience = 90 * time.Second

// server is a running `keyledger serve`.
type server struct {
	url string
	cmd *exec.Cmd
	// ready holds the address of the ready line, done how the program ended.
	ready chan string
	done  chan error

	mu  sync.Mutex
	log bytes.Buffer
}

// launch starts the program, which answers once it is ready.
func launch(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{cmd: exec.Command(binary, args...), ready: make(chan string, 1), done: make(chan error, 1)}
	s.cmd.Env = append(os.Environ(), "KEYLEDGER_KEY=", "KEYLEDGER_URL=")
	s.cmd.Stderr = s
	out, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		lines := bufio.NewScanner(io.TeeReader(out, s))
		for lines.Scan() {
			if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "ready" {
				s.ready <- fields[1]
			}
		}
		s.done <- s.cmd.Wait()
	}()
	return s
}

// awaitReady waits for the `ready` line.
func (s *server) awaitReady(t *testing.T) {
	t.Helper()
	select {
	case s.url = <-s.ready:
	case err := <-s.done:
		s.done <- err
		t.Fatalf("serve ended: %v\n%s", err, s.logged())
	case <-time.After(patience):
		t.Fatalf("serve is not ready\n%s", s.logged())
	}
}

// Write keeps what the program says.
func (s *server) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

// logged is what the program said, but for what went well.
func (s *server) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var said strings.Builder
	for line := range strings.Lines(s.log.String()) {
		if !strings.Contains(line, " level=INFO ") {
			said.WriteString(line)
		}
	}
	return said.String()
}

// stop ends the program as an operator does, and is satisfied with exit code 0.
func (s *server) stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // one that has ended takes none
	select {
	case err := <-s.done:
		if err != nil {
			return fmt.Errorf("serve after SIGTERM: %w\n%s", err, s.logged())
		}
		return nil
	case <-time.After(patience):
		return fmt.Errorf("serve does not end after SIGTERM: %w\n%s", s.cmd.Process.Kill(), s.logged())
	}
}
