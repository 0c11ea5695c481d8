package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events/clustertest"
)

// `keyledger events tail` shows every event once, in order, whatever becomes of
// the server meanwhile, and says why it was interrupted.
//
// Breaking it: a client that begins anew from now on leaves out what happened
// while it was away.
func TestTailOutlivesItsServer(t *testing.T) {
	t.Parallel()
	address := clustertest.FreeAddresses(t, 1)[0]
	s := startAt(t, t.TempDir(), address)
	owner := s.owner()
	s.organization(owner, "acme", "")

	tail := exec.Command(binary, "events", "tail", "--after", "0", "--types", "workspace.renamed", "-o", "json")
	tail.Env = append(os.Environ(), "KEYLEDGER_KEY="+owner, "KEYLEDGER_URL="+s.url)
	out, err := tail.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	said := &journal{}
	tail.Stderr = said
	if err := tail.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tail.Process.Kill() }()
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			lines <- scan.Text()
		}
	}()
	n := 0
	// rename makes events, and expects those and no others.
	rename := func() {
		t.Helper()
		var want []string
		for range 5 {
			n++
			a := s.must(200, owner, "PATCH", "/v1/organizations/acme/workspaces/hiring", fmt.Sprintf(`{"name":"Hiring %d"}`, n))
			want = append(want, a.Text("position"))
		}
		for _, position := range want {
			select {
			case line := <-lines:
				var e struct{ Position string }
				if err := json.Unmarshal([]byte(line), &e); err != nil || e.Position != position {
					t.Fatalf("shown %s, want position %s", line, position)
				}
			case <-time.After(30 * time.Second):
				t.Fatalf("position %s is not shown; it said:\n%s", position, said)
			}
		}
	}
	rename()
	s.Stop()
	said.await(t, "Interrupted, trying again: unavailable: the server stops")
	s = startAt(t, s.data, address)
	rename()
	s.Kill()
	said.await(t, "Interrupted, trying again: no answer")
	s = startAt(t, s.data, address)
	rename()
	if err := tail.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if line, more := <-lines; more {
		t.Errorf("one more: %s", line)
	}
	if err := tail.Wait(); err != nil {
		t.Errorf("interrupted, it ends with %v:\n%s", err, said)
	}
}

// journal is what a program writes, and may be read meanwhile.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

func (j *journal) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(j.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not say %q:\n%s", text, j)
		}
	}
}
