package jetstream_test

import (
	"net"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events/embedded"
)

// line is what lies between a connection and its broker, and can fail.
type line struct {
	mu    sync.Mutex
	mute  bool
	conns []net.Conn
}

// connect returns a working connection over the line.
func (l *line) connect(t testing.TB, b *embedded.Broker) *nats.Conn {
	t.Helper()
	conn, err := b.Connect(t.Context(), "line", func(o *nats.Options) error {
		o.InProcessServer = provider{l, o.InProcessServer}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// silence keeps everything that the broker says from arriving, for good: what is
// said to the broker still does.
func (l *line) silence() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mute = true
}

// cut breaks the line. The client reconnects, and hears again.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mute = false
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
}

func (l *line) muted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mute
}

type provider struct {
	line  *line
	inner nats.InProcessConnProvider
}

func (p provider) InProcessConn() (net.Conn, error) {
	conn, err := p.inner.InProcessConn()
	if err != nil {
		return nil, err
	}
	p.line.mu.Lock()
	defer p.line.mu.Unlock()
	p.line.conns = append(p.line.conns, conn)
	return wire{conn, p.line}, nil
}

type wire struct {
	net.Conn
	line *line
}

func (w wire) Read(b []byte) (int, error) {
	for {
		n, err := w.Conn.Read(b)
		if err != nil || !w.line.muted() {
			return n, err
		}
	}
}
