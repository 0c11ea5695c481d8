package clustertest

import (
	"net"
	"strconv"
	"testing"
)

// TestPortsAreOnesOwn: a port that was given is given to nobody else, in no process,
// although nobody listens on it yet, and can be listened on.
func TestPortsAreOnesOwn(t *testing.T) {
	var given string
	t.Run("while the test runs", func(t *testing.T) {
		given = FreeAddresses(t, 1)[0]
		if err := claim(t, given); err == nil {
			t.Errorf("%s is given twice", given)
		}
		l, err := net.Listen("tcp", given)
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
	})
	if err := claim(t, given); err != nil {
		t.Errorf("%s is not given back: %v", given, err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := claim(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(taken.Addr().(*net.TCPAddr).Port))); err == nil {
		t.Error("a port that somebody listens on is given")
	}
}
