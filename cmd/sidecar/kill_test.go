package sidecar

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/cmd/nodes"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/verifytest"
)

// beSidecar names the variable that has this binary be a sidecar: its broker, its
// credentials, its socket and how it records, separated by spaces.
const beSidecar = "KEYLEDGER_TEST_SIDECAR"

func TestMain(m *testing.M) {
	fields := strings.Fields(os.Getenv(beSidecar))
	if len(fields) == 0 {
		os.Exit(m.Run())
	}
	cfg := Config{
		Nodes: nodes.Config{URL: fields[0], Creds: fields[1]}, Listen: []string{unixPrefix + fields[2]}, SocketMode: 0o600,
		MaxStaleness: time.Hour, MaxWait: time.Second, Out: os.Stdout, Logger: slog.New(slog.DiscardHandler),
	}
	if fields[3] == "durable" {
		cfg.Uses = verify.Durable
	}
	if err := Run(context.Background(), cfg); err != nil {
		os.Exit(1)
	}
}

// TestKilled kills sidecars in the middle of answering. A durable one has stored every
// use whose verdict it gave; a buffered one may have lost some, and its boot mark says
// how many at most.
func TestKilled(t *testing.T) {
	for mode, bound := range map[string]uint64{"durable": 0, "buffered": 1 << 16} {
		t.Run(mode, func(t *testing.T) {
			ledger := verifytest.Begin(t)
			ledger.Organization(acme)
			secret, _ := ledger.Key(acme, "doc:read")
			dir := t.TempDir()
			creds, socket := filepath.Join(dir, "creds"), filepath.Join(dir, "s")
			if err := os.WriteFile(creds, ledger.Verifier("edge", 0), 0o600); err != nil {
				t.Fatal(err)
			}
			given := answersUntilKilled(t, strings.Join([]string{ledger.URL(), creds, socket, mode}, " "), socket, secret)
			recorded, findings := ledger.Uses()
			if len(findings) != 1 || findings[0].Kind != uses.FindingUnended || findings[0].Count != bound {
				t.Errorf("findings %+v: want a run without an end that may have lost %d uses", findings, bound)
			}
			if recorded["edge"]+bound < given {
				t.Errorf("%d verdicts were given, %d uses are stored, and at most %d are said to be missing", given, recorded["edge"], bound)
			}
			t.Logf("%d verdicts, %d uses", given, recorded["edge"])
		})
	}
}

// answersUntilKilled runs a sidecar, asks it with many connections, kills it after some
// thousand answers, and returns how many it gave.
func answersUntilKilled(t *testing.T, what, socket, secret string) uint64 {
	t.Helper()
	program := exec.CommandContext(t.Context(), os.Args[0])
	program.Env = append(os.Environ(), beSidecar+"="+what, "GORACE=atexit_sleep_ms=0")
	out, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, "ready ") {
		t.Fatalf("%q %v", line, err)
	}
	const callers, enough = 32, 3000
	var given atomic.Uint64
	var clients sync.WaitGroup
	for range callers {
		clients.Go(func() {
			conn, err := net.Dial("unix", socket)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			in := bufio.NewReader(conn)
			for {
				valid, err := exchange(conn, in, verifying(secret))
				if err != nil {
					return // it is dead
				}
				if valid {
					given.Add(1)
				}
			}
		})
	}
	for given.Load() < enough && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	if err := program.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	clients.Wait()
	_ = program.Wait() // killed
	return given.Load()
}
