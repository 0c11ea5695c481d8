package embedded

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/jetstream"
)

func begin(t *testing.T, config Config) *Broker {
	t.Helper()
	b, err := Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	return b
}

// The folder belongs to one broker at a time, and is free after it.
func TestLocked(t *testing.T) {
	dir := t.TempDir()
	b := begin(t, Config{Dir: dir})
	_, err := Start(t.Context(), Config{Dir: dir})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("start: %v", err)
	}
	b.Shutdown()
	begin(t, Config{Dir: dir})
}

// Every answer is on disk, whatever the broker's default is.
func TestSyncsAlways(t *testing.T) {
	b := begin(t, Config{Dir: t.TempDir()})
	if !b.server.JetStreamConfig().SyncAlways {
		t.Fatal("the broker answers before it syncs")
	}
}

func TestDoesNotListen(t *testing.T) {
	b := begin(t, Config{Dir: t.TempDir()})
	if addr := b.Addr(); addr != nil {
		t.Fatalf("listens on %s", addr)
	}
}

// Nobody comes in from outside without credentials that this broker knows.
func TestStrangers(t *testing.T) {
	b := begin(t, Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	url := "nats://" + b.Addr().String()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, options := range map[string][]nats.Option{
		"nobody": nil, "password": {nats.UserInfo("sys", "sys")}, "token": {nats.Token("t")}, "key": {nats.Nkey(public, key.Sign)},
	} {
		if conn, err := nats.Connect(url, options...); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s: %v, %v", name, conn, err)
		}
	}
}

// The system account is out of reach, of the operator too.
func TestSystemAccount(t *testing.T) {
	b := begin(t, Config{Dir: t.TempDir()})
	err := b.Setup(t.Context(), func(conn *nats.Conn) error {
		if _, err := conn.Request("$SYS.REQ.SERVER.PING", nil, 5*time.Second); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("ping: %v", err)
		}
		_, err := conn.Request("$JS.API.INFO", nil, 5*time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// The operator's connection goes with the call, as soon as the broker hears.
	for b.server.NumClients() != 1 {
		time.Sleep(5 * time.Millisecond)
	}
}

// Credentials that another root of trust signed come back with an error.
func TestRefusedInProcess(t *testing.T) {
	b := begin(t, Config{Dir: t.TempDir()})
	other, err := credentials.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	own := b.authority
	b.authority = other
	defer func() { b.authority = own }()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := b.Connect(ctx, "stranger"); err == nil {
		t.Fatal("a stranger was let in")
	}
}

// Streams without what opens them are not taken for none.
func TestLostTrust(t *testing.T) {
	dir := t.TempDir()
	streams(t, dir)
	if err := os.Rename(filepath.Join(dir, AuthorityDir), filepath.Join(dir, "aside")); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), Config{Dir: dir}); !errors.Is(err, ErrNoTrust) || !strings.Contains(err.Error(), AuthorityDir) {
		t.Fatalf("start: %v", err)
	}
	if err := os.Rename(filepath.Join(dir, "aside"), filepath.Join(dir, AuthorityDir)); err != nil {
		t.Fatal(err)
	}
	found(t, dir)
}

// Streams of a broker that did not sign for accounts are found where they are.
func TestEarlierFolder(t *testing.T) {
	dir := t.TempDir()
	account := streams(t, dir)
	at := filepath.Join(dir, "broker", "jetstream")
	if err := os.Rename(filepath.Join(at, account), filepath.Join(at, unsignedAccount)); err != nil {
		t.Fatal(err)
	}
	// As it was, and after a crash between the two steps.
	for _, there := range []bool{false, true} {
		if !there {
			if err := os.RemoveAll(filepath.Join(dir, AuthorityDir)); err != nil {
				t.Fatal(err)
			}
		}
		account = found(t, dir)
		if !there {
			if err := os.Rename(filepath.Join(at, account), filepath.Join(at, unsignedAccount)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// streams makes the streams of a folder and returns the account they are in.
func streams(t *testing.T, dir string) string {
	t.Helper()
	b, err := Start(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Shutdown()
	if err := b.Setup(t.Context(), func(conn *nats.Conn) error { return jetstream.EnsureStreams(t.Context(), conn, 1) }); err != nil {
		t.Fatal(err)
	}
	return b.Authority().LedgerAccount()
}

func found(t *testing.T, dir string) string {
	t.Helper()
	b, err := Start(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Shutdown()
	l, err := jetstream.New(jetstream.Config{Conn: b.Conn(), Ledger: events.LedgerID{1}, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.CheckStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b.Authority().LedgerAccount()
}

// Where it listens stands in the folder for as long as it does.
func TestAddress(t *testing.T) {
	dir := t.TempDir()
	b := begin(t, Config{Dir: dir, Listen: "127.0.0.1:0"})
	if address, ok := Address(dir); !ok || address != "nats://"+b.Addr().String() {
		t.Errorf("listens at %q, %v", address, ok)
	}
	b.Shutdown()
	if address, ok := Address(dir); ok {
		t.Errorf("still listens at %q", address)
	}
	begin(t, Config{Dir: dir})
	if address, ok := Address(dir); ok {
		t.Errorf("listens at %q", address)
	}
}

func TestUnusableFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), Config{Dir: file}); err == nil {
		t.Fatal("a file was taken for a folder")
	}
	// Where the broker's files should be is something else: it says so, stops,
	// and leaves the folder free.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "broker"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Start(t.Context(), Config{Dir: dir}); err == nil || errors.Is(err, ErrLocked) {
			t.Fatalf("start: %v", err)
		}
	}
}

func TestValidate(t *testing.T) {
	err := Config{Listen: "nowhere"}.Validate()
	if err == nil || !strings.Contains(err.Error(), "Dir") || !strings.Contains(err.Error(), "Listen") {
		t.Fatalf("validate: %v", err)
	}
	for _, listen := range []string{"", "127.0.0.1:4222", "[::1]:0", "localhost:4222"} {
		if err := (Config{Dir: "x", Listen: listen}).Validate(); err != nil {
			t.Errorf("%q: %v", listen, err)
		}
	}
	for _, listen := range []string{":4222", "0.0.0.0:4222", "[::]:4222", "10.1.2.3:4222", "broker.example:4222"} {
		if err := (Config{Dir: "x", Listen: listen}).Validate(); !errors.Is(err, ErrInsecure) || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%q: %v", listen, err)
		}
		if err := (Config{Dir: "x", Listen: listen, TLS: &tls.Config{}}).Validate(); err != nil {
			t.Errorf("%q: %v", listen, err)
		}
	}
}

// The broker's warnings reach the log, and its chatter does not.
func TestLog(t *testing.T) {
	var text strings.Builder
	l := &logger{to: slog.New(slog.NewTextHandler(&text, nil))}
	l.Noticef("chatter")
	l.Debugf("chatter")
	l.Tracef("chatter")
	l.Warnf("disk %d", 1)
	l.Errorf("disk %d", 2)
	l.Fatalf("disk %d", 3)
	if got := text.String(); strings.Contains(got, "chatter") || strings.Count(got, "disk") != 3 {
		t.Errorf("logged %q", got)
	}
	if l.reason() != "disk 3" {
		t.Errorf("reason is %q", l.reason())
	}
}
