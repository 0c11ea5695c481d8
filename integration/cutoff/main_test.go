package cutoff

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/keyledger/keyledger/integration/program"
)

// inside is set for the process that has a network of its own. It names the folder
// with the program.
const inside = "KEYLEDGER_CUTOFF_INSIDE"

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run runs the tests in a network that nobody else is in, so that wires can be laid
// and cut there without being root.
func run(m *testing.M) int {
	if os.Getenv(inside) != "" {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "keyledger-cutoff-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// All that needs a module comes before: from inside nothing is reached.
	_, err = program.BuildInto(dir)
	if err == nil {
		_, err = program.BuildBrokerInto(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	again := exec.Command("unshare", append([]string{"--user", "--map-root-user", "--net", "--mount", "--kill-child", os.Args[0]}, os.Args[1:]...)...)
	again.Env = append(os.Environ(), inside+"="+dir)
	again.Stdin, again.Stdout, again.Stderr = os.Stdin, os.Stdout, os.Stderr
	var exit *exec.ExitError
	switch err := again.Run(); {
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	case err != nil:
		fmt.Fprintf(os.Stderr, "cutoff: a network of one's own needs unshare (util-linux) and user namespaces: %v\n", err)
		return 1
	}
	return 0
}

// furnish makes the network usable: its loopback, and a place for the names of those
// within.
func furnish() error {
	// What `ip netns` keeps in /run is this process's alone.
	for _, command := range [][]string{
		{"mount", "-t", "tmpfs", "none", "/run"}, {"mkdir", "-p", "/run/netns"}, {"ip", "link", "set", "lo", "up"},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("cutoff: %v: %w: %s", command, err, out)
		}
	}
	return nil
}

// binary is the real program.
func binary() string { return filepath.Join(os.Getenv(inside), "keyledger") }
