package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// refused runs `keyledger serve` on a folder that it must not serve, and returns
// what it says.
func refused(t *testing.T, data string, more ...string) string {
	t.Helper()
	if len(more) == 0 {
		more = alone
	}
	code, out := keyledger(t, append([]string{"serve", "--data", data, "--listen", "127.0.0.1:0"}, more...)...)
	if code != 1 {
		t.Fatalf("serve ended with %d, want exit code 1\n%s", code, out)
	}
	if strings.Contains(out, "ready http") {
		t.Errorf("serve said:\n%s", out)
	}
	return out
}

// keyledger runs the program to its end and returns the exit code and what it said.
func keyledger(t *testing.T, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), "KEYLEDGER_KEY=", "KEYLEDGER_URL=")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || !exit.Exited()) {
		t.Fatalf("keyledger %s: %v\n%s", args[0], err, out)
	}
	if strings.Contains(string(out), "panic") || strings.Contains(string(out), "goroutine ") {
		t.Errorf("keyledger %s said:\n%s", args[0], out)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func said(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("serve does not say %q:\n%s", w, text)
		}
	}
}

// Two servers on one folder would write over each other's files.
func TestSecondServerOnOneFolder(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	owner := s.owner()
	said(t, refused(t, s.data), "data folder is in use", s.data)
	s.organization(owner, "acme", "")
	s.Stop()
	// The folder is free again, and as it was left.
	again := start(t, s.data)
	again.must(200, owner, "GET", "/v1/organizations/acme", "")
}

// A stream that was there and is not any more is an alarm: an empty one in its
// place would be a ledger that has forgotten every revocation.
func TestMissingStreamIsNeverMadeAgain(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	owner := s.owner()
	s.Stop()
	// The broker's folder of an account is named after the account's key.
	streams := "broker/jetstream/*/streams/"
	for name, lost := range map[string]string{
		"the ledger": streams + "LEDGER", "the uses": streams + "USES", "the seals": streams + "SEALS", "the access records": streams + "ACCESS", "all": "broker",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := t.TempDir()
			if err := os.CopyFS(data, os.DirFS(s.data)); err != nil {
				t.Fatal(err)
			}
			there, err := filepath.Glob(filepath.Join(data, lost))
			if err != nil || len(there) != 1 {
				t.Fatalf("%s is at %v (%v)", name, there, err)
			}
			gone := there[0]
			if err := os.RemoveAll(gone); err != nil {
				t.Fatal(err)
			}
			// The second time it must not have become a beginning either.
			for range 2 {
				said(t, refused(t, data), "corrupt", "stream is missing")
			}
			found, err := filepath.Glob(filepath.Join(data, streams+"*/msgs/*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range found {
				if strings.HasPrefix(file, gone) {
					t.Errorf("%s was made again", file)
				}
			}
			if text, err := os.ReadFile(filepath.Join(data, "owner.key")); err != nil || strings.TrimSpace(string(text)) != owner {
				t.Errorf("the owner's key was touched (%v)", err)
			}
		})
	}
}

func TestFolderOfAnotherLedger(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	s.Stop()
	const id = "01980000-0000-7000-8000-000000000000"
	if err := os.WriteFile(filepath.Join(s.data, "ledger.id"), []byte(id+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	said(t, refused(t, s.data), "belongs to another ledger", id)
}

// SIGTERM answers the requests that are open, however long after it their ends
// come, ends the streams, and exits with 0.
func TestSIGTERMAnswersOpenRequests(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	owner := s.owner()
	s.organization(owner, "acme", "")
	stream := s.events(owner)

	// The server asks for a body when its handler reads it.
	const body = keyBody
	c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answers := bufio.NewReader(c)
	fmt.Fprintf(c, "POST /v1/organizations/acme/keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"+
		"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n", owner, len(body))
	line, err := answers.ReadString('\n')
	if err != nil || !strings.Contains(line, "100") {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := answers.ReadString('\n'); err != nil {
		t.Fatal(err)
	}

	s.Terminate()
	// The stream ends by itself, while the request is open.
	if _, err := io.Copy(io.Discard, stream); err != nil {
		t.Errorf("the stream broke off: %v", err)
	}
	// Longer than anything but the request's own time limit may last.
	time.Sleep(1500 * time.Millisecond)
	fmt.Fprint(c, body)
	res, err := http.ReadResponse(answers, nil)
	if err != nil {
		t.Fatalf("the open request: %v\n%s", err, s.Logged())
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 201 {
		t.Fatalf("the open request: %d %s %v", res.StatusCode, out, err)
	}
	if err := s.Ended(); err != nil {
		t.Fatal(err)
	}
	// What was answered is there.
	again := start(t, s.data)
	if code := again.verdict(owner, answer{Body: out}.Text("secret"), "interview:read"); code != "VALID" {
		t.Errorf("the key that was created last is %s", code)
	}
}

// events opens the stream of events and returns it once it has begun.
func (s *server) events(key string) io.Reader {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), "GET", s.url+"/v1/events", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != 200 {
		s.t.Fatalf("the stream: %d", res.StatusCode)
	}
	lines := bufio.NewReader(res.Body)
	if _, err := lines.ReadString('\n'); err != nil {
		s.t.Fatal(err)
	}
	return lines
}
