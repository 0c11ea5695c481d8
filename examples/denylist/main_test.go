package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
)

// admitted starts a broker, and returns where it is and the file of a credential.
func admitted(t *testing.T, kind events.CredentialKind) (url, file string) {
	t.Helper()
	b, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	if err := b.Setup(t.Context(), func(conn *nats.Conn) error { return jetstream.EnsureStreams(t.Context(), conn, 1) }); err != nil {
		t.Fatal(err)
	}
	grant := credentials.Grant{Name: "gateway", For: kind}
	issued, err := credentials.Draw(grant)
	if err != nil {
		t.Fatal(err)
	}
	account, err := b.Authority().Account(grant, issued.Account)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Push(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	for _, spec := range grant.Readers(events.LedgerID(uuid.New())) {
		if err := jetstream.EnsureReader(t.Context(), b.Conn(), spec); err != nil {
			t.Fatal(err)
		}
	}
	file = filepath.Join(t.TempDir(), "gateway.creds")
	if err := os.WriteFile(file, issued.Creds, 0o600); err != nil {
		t.Fatal(err)
	}
	return b.Addr().String(), file
}

// The program follows, answers, and ends when it is told to.
func TestRun(t *testing.T) {
	url, creds := admitted(t, events.CredentialSubscriber)
	out, in := io.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"--nats", url, "--creds", creds, "--file", filepath.Join(t.TempDir(), "list"), "--listen", "127.0.0.1:0"}, in)
		_ = in.Close()
		ended <- err
	}()
	address := ""
	buffer := make([]byte, 4096)
	for address == "" {
		n, err := out.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		if _, rest, ok := strings.Cut(string(buffer[:n]), "listen="); ok {
			address = strings.TrimSpace(rest)
		}
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		response, err := http.Get("http://" + address + "/status")
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the list is never up to date")
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What it cannot work with is told at once.
func TestRunRefuses(t *testing.T) {
	url, auditor := admitted(t, events.CredentialAuditor)
	garbage := filepath.Join(t.TempDir(), "x.creds")
	if err := os.WriteFile(garbage, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"no such file":   {"--creds", filepath.Join(t.TempDir(), "none")},
		"x.creds":        {"--creds", garbage},
		"a subscriber's": {"--creds", auditor},
		"not defined":    {"--orgs", "acme"},
	} {
		args = append([]string{"--nats", url, "--file", filepath.Join(t.TempDir(), "list")}, args...)
		if err := run(t.Context(), args, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
