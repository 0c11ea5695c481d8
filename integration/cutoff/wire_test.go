package cutoff

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// wires numbers them.
var wires atomic.Int32

// wire leads from a network of its own to the nodes.
type wire struct {
	t    testing.TB
	name string
	host string
}

// lay lays a wire. It is taken up with the test.
func lay(t testing.TB) *wire {
	t.Helper()
	n := wires.Add(1)
	w := &wire{t: t, name: fmt.Sprintf("edge%d", n), host: fmt.Sprintf("10.79.%d.1", n)}
	w.ip("netns", "add", w.name)
	t.Cleanup(func() { w.ip("netns", "delete", w.name) })
	w.ip("link", "add", "w"+w.name, "type", "veth", "peer", "name", "wire", "netns", w.name)
	w.ip("addr", "add", w.host+"/24", "dev", "w"+w.name)
	w.ip("link", "set", "w"+w.name, "up")
	w.ip("-n", w.name, "addr", "add", fmt.Sprintf("10.79.%d.2/24", n), "dev", "wire")
	w.ip("-n", w.name, "link", "set", "wire", "up")
	w.ip("-n", w.name, "link", "set", "lo", "up")
	return w
}

func (w *wire) ip(args ...string) {
	w.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		w.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// cut has the wire carry nothing, in either direction, and nobody told.
func (w *wire) cut() { w.t.Helper(); w.ip("link", "set", "w"+w.name, "down") }

// mend has it carry again.
func (w *wire) mend() { w.t.Helper(); w.ip("link", "set", "w"+w.name, "up") }

// behind is a command that runs at the far end.
func (w *wire) behind(command ...string) []string {
	return append([]string{"ip", "netns", "exec", w.name}, command...)
}

// carry has somebody at the far end reach an address, by the one that it returns.
// It counts connections.
func (w *wire) carry(to string, connections *atomic.Int64) string {
	w.t.Helper()
	l, err := net.Listen("tcp", w.host+":0")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	w.t.Cleanup(func() {
		stop()
		_ = l.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			all.Go(func() { join(ctx, near, to) })
		}
	})
	return l.Addr().String()
}

// join carries bytes between a connection and an address until either ends.
func join(ctx context.Context, near net.Conn, to string) {
	defer near.Close()
	far, err := new(net.Dialer).DialContext(ctx, "tcp", to)
	if err != nil {
		return
	}
	defer far.Close()
	ended := context.AfterFunc(ctx, func() { _, _ = near.Close(), far.Close() })
	defer ended()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		both.Go(func() {
			// Either end is the end of both.
			_, _ = io.Copy(way[0], way[1])
			_, _ = way[0].Close(), way[1].Close()
		})
	}
	both.Wait()
}
