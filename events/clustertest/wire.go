package clustertest

import (
	"io"
	"net"
	"strconv"
	"sync"
)

// wire carries connections to a port, until it is cut.
type wire struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu      sync.Mutex
	severed bool
	ends    map[net.Conn]struct{}
}

func newWire(port int) (*wire, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &wire{listener: l, target: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), ends: map[net.Conn]struct{}{}}
	w.running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			w.running.Go(func() { w.carry(near) })
		}
	})
	return w, nil
}

func (w *wire) address() string { return w.listener.Addr().String() }

// carry copies both ways until either side ends or the wire is cut.
func (w *wire) carry(near net.Conn) {
	defer w.drop(near)
	if !w.keep(near) {
		return
	}
	far, err := net.Dial("tcp", w.target)
	if err != nil {
		return
	}
	defer w.drop(far)
	if !w.keep(far) {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(near, far)
		_ = near.Close()
	})
	_, _ = io.Copy(far, near)
	_ = far.Close()
	back.Wait()
}

func (w *wire) keep(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.severed {
		return false
	}
	w.ends[c] = struct{}{}
	return true
}

func (w *wire) drop(c net.Conn) {
	_ = c.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ends, c)
}

// cut ends what is carried and refuses what comes.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.severed = true
	for c := range w.ends {
		_ = c.Close()
	}
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.severed = false
}

func (w *wire) close() {
	_ = w.listener.Close()
	w.cut()
	w.running.Wait()
}
