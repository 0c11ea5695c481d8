package program

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// Built is where programs are built, below the root of the module: once for all tests
// of all packages, since what is up to date is not linked again.
const Built = "bin/test"

// Build builds the program, and returns its path in a folder.
func Build(t testing.TB, dir string) string {
	t.Helper()
	return built(t, dir, BuildInto)
}

// BuildBroker is Build of nats-server, in the version that go.mod has.
func BuildBroker(t testing.TB, dir string) string {
	t.Helper()
	return built(t, dir, BuildBrokerInto)
}

func built(t testing.TB, dir string, into func(string) (string, error)) string {
	t.Helper()
	binary, err := into(dir)
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// BuildInto is Build before there is a test.
func BuildInto(dir string) (string, error) { return place(dir, "keyledger", keyledger) }

// BuildBrokerInto is BuildBroker before there is a test.
func BuildBrokerInto(dir string) (string, error) { return place(dir, "nats-server", broker) }

// A process looks only once whether a program is up to date.
var (
	keyledger = sync.OnceValues(func() (string, error) {
		return build("keyledger", "github.com/keyledger/keyledger/cmd/keyledger")
	})
	broker = sync.OnceValues(func() (string, error) {
		return build("nats-server", "github.com/nats-io/nats-server/v2")
	})
)

// place puts a program into a folder, where nobody replaces it while tests run it.
func place(dir, name string, build func() (string, error)) (string, error) {
	from, err := build()
	if err != nil {
		return "", err
	}
	to := filepath.Join(dir, name)
	if err := os.Link(from, to); err == nil {
		return to, nil
	}
	// The folder is on another disk.
	if err := copyProgram(from, to); err != nil {
		return "", fmt.Errorf("program: copy: %w", err)
	}
	return to, nil
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// build brings a program in [Built] up to date, one process at a time. Its packages
// are compiled as `make build` has them compiled, so that this is done once for both.
func build(name, pkg string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, Built)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("program: build: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, name+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", fmt.Errorf("program: build: %w", err)
	}
	defer lock.Close()
	for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		return "", fmt.Errorf("program: build: lock: %w", err)
	}
	binary := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", binary, pkg)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("program: build: %w\n%s", err, out)
	}
	return binary, nil
}

// Root returns the module's root folder.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("program: no go.mod above the test")
}
