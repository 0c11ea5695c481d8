package listen_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/api/listen"
)

func TestTCP(t *testing.T) {
	l, err := listen.Open("127.0.0.1:0", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := listen.Open(l.Addr().String(), 0); err == nil {
		t.Error("a port was taken twice")
	}
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := listen.Open(listen.Unix+path, 0o660)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|0o660 {
		t.Fatalf("%v, %v", info, err)
	}
	if got := l.Addr().String(); got != path {
		t.Errorf("is at %s", got)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	// A program that lives keeps its socket.
	if _, err := listen.Open(listen.Unix+path, 0o660); !errors.Is(err, listen.ErrInUse) {
		t.Errorf("taken from another: %v", err)
	}
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// One that was left by a program that died is replaced, and then not removed by
// whoever comes late.
func TestSocketLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	if err := os.WriteFile(path+".new", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	one, err := listen.Open(listen.Unix+path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := listen.Open(listen.Unix+path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := one.Close(); err != nil {
		t.Error(err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the socket of another was removed: %v", err)
	}
	conn.Close()
}

// What is no socket is somebody's file.
func TestSocketIsNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen.Open(listen.Unix+path, 0o600); !errors.Is(err, listen.ErrInUse) {
		t.Errorf("%v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Errorf("%q, %v", b, err)
	}
	target := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, target); err != nil {
		t.Fatal(err)
	}
	if _, err := listen.Open(listen.Unix+target, 0o600); !errors.Is(err, listen.ErrInUse) {
		t.Errorf("a link: %v", err)
	}
	for _, bad := range []string{"", strings.Repeat("x", 200), "/no/such/folder/s"} {
		if _, err := listen.Open(listen.Unix+bad, 0o600); err == nil {
			t.Errorf("%q was opened", bad)
		}
	}
}
