package gateways

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/keyledger/integration/natstest"
	"github.com/keyledger/keyledger/integration/program"
)

// gateway is a program at work, in front of the application.
type gateway struct {
	name string
	// address is where clients reach it.
	address string
	// plain is where the same program takes to the application without asking.
	plain string
	// stale is what it answers where keyledger has no verdict, and down where nobody
	// answers it.
	stale int
	down  []int
	// standIn says that it is no program, and patient that it waits long for an answer.
	standIn, patient bool
}

// put is a piece of a configuration and what a test puts in its place.
type put struct{ old, now string }

// configure copies the configuration of docs/gateways/name into a folder, with
// pieces replaced. Each of them must be there: else the documented configuration is
// another one than what runs.
func configure(t testing.TB, name string, puts ...put) string {
	t.Helper()
	from, dir := filepath.Join(natstest.Root(t), "docs", "gateways", name), t.TempDir()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	found := make([]bool, len(puts))
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(from, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range puts {
			found[i] = found[i] || bytes.Contains(text, []byte(p.old))
			text = bytes.ReplaceAll(text, []byte(p.old), []byte(p.now))
		}
		if err := os.WriteFile(filepath.Join(dir, entry.Name()), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, p := range puts {
		if !found[i] {
			t.Fatalf("docs/gateways/%s does not say %q", name, p.old)
		}
	}
	return dir
}

// launch starts a gateway's program, waits until it listens, and ends it with the
// test.
func launch(t testing.TB, address string, command ...string) {
	t.Helper()
	var said journal
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; `make setup` installs what the tests need", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		select {
		case <-ended:
		case <-time.After(program.Patience):
			t.Errorf("%s does not end", command[0])
			_ = cmd.Process.Kill()
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", strings.Join(command, " "), said.String())
		}
	})
	program.Until(t, command[0]+" to listen", func() bool {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s ended: %v\n%s", command[0], err, said.String())
		default:
		}
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
}

// journal is what a program says.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write keeps it.
func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}
