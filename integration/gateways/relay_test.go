package gateways

import (
	"io"
	"net"
	"sync"
	"testing"
)

// relay stands between gateways and keyledger, and counts the connections.
type relay struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	ends  map[net.Conn]bool
	taken int
	// running are all goroutines.
	running sync.WaitGroup
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: l, to: to, ends: make(map[net.Conn]bool)}
	r.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r.running.Go(func() { r.carry(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.cut()
		r.running.Wait()
	})
	return r
}

func (r *relay) carry(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", r.to)
	if err != nil {
		return
	}
	defer to.Close()
	r.mu.Lock()
	r.taken++
	r.ends[from], r.ends[to] = true, true
	r.mu.Unlock()
	r.running.Go(func() {
		_, _ = io.Copy(from, to)
		_ = from.Close()
	})
	_, _ = io.Copy(to, from)
	r.mu.Lock()
	delete(r.ends, from)
	delete(r.ends, to)
	r.mu.Unlock()
}

// cut ends all connections.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.ends {
		_ = conn.Close()
	}
}

// count is how many connections there were.
func (r *relay) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.taken
}

// kept shows that a gateway does not connect to keyledger anew for each request, and
// that nobody is refused when the connections that it kept have ended.
func kept(t *testing.T, w *world, start func(t testing.TB, ask, application string) *gateway) {
	r := newRelay(t, w.judges["sidecar"])
	g := start(t, r.listener.Addr().String(), w.application.address)
	for range 5 {
		before := r.count()
		const many = 40
		for range many {
			if res, saw := w.send(t, g, get(w.reader)); res.status != 200 || len(saw) != 1 {
				t.Fatalf("%s, and %d arrived", res, len(saw))
			}
		}
		// One for each worker, at most.
		if made := r.count() - before; made > many/2 {
			t.Errorf("%d requests took %d connections", many, made)
		}
		r.cut()
	}
}
