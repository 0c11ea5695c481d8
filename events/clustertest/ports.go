package clustertest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// The ports that tests take lie below those that the system gives to connections
// which go out: one of those could sit on a port before its node does.
const (
	firstPort = 20_000
	lastPort  = 32_000
)

// FreePorts returns ports of this machine, all different, that are the test's until
// it ends: for processes that are told a port, and may start late or start again.
//
// Nobody can listen on a port for another process. The UDP port of the same number is
// held instead, which nothing here uses, and of which the system knows one owner, in
// whichever process: what runs side by side is never given the same port.
func FreePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, 0, n)
	for tries := 0; len(ports) < n; tries++ {
		port := firstPort + rand.IntN(lastPort-firstPort)
		err := claim(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		switch {
		case err == nil:
			ports = append(ports, port)
		case tries > 1000:
			t.Fatalf("clustertest: no port is free: %v", err)
		}
	}
	return ports
}

// claim takes an address that nobody listens on.
func claim(t testing.TB, address string) error {
	held, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		_ = held.Close()
		return err
	}
	t.Cleanup(func() { _ = held.Close() })
	return l.Close()
}

// FreeAddresses are [FreePorts] with the host before them.
func FreeAddresses(t testing.TB, n int) []string {
	t.Helper()
	addresses := make([]string, 0, n)
	for _, port := range FreePorts(t, n) {
		addresses = append(addresses, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	return addresses
}
