package watermill_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/relay/watermill"
)

// The broker goes and comes again, twice, under a publisher and subscribers:
// nothing is lost, nothing is stored twice, and order holds. A consumer without a
// group does not survive that on the broker, and goes on where it was.
func TestReconnect(t *testing.T) {
	dir := t.TempDir()
	s := listening(t, dir, server.RANDOM_PORT)
	port := s.Addr().(*net.TCPAddr).Port
	conn := dial(t, s, "all")
	const count = 300
	d := swift("g")
	d.DoubleAck, d.AckWait = true, 2*time.Second
	grouped := subscriber(t, conn, d)
	initialize(t, grouped, "re")
	own := swift("")
	own.AckWait = 2 * time.Second
	channels := map[string]<-chan *message.Message{
		"group": subscribe(t, grouped, "re"), "alone": subscribe(t, subscriber(t, conn, own), "re"),
	}
	published := make(chan struct{})
	go func() {
		defer close(published)
		p, err := watermill.NewPublisher(watermill.PublisherConfig{Conn: conn, Timeout: time.Second})
		if err != nil {
			t.Error(err)
			return
		}
		for i := range count {
			m := message.NewMessage(wm.NewUUID(), fmt.Append(nil, i))
			for p.Publish("re", m) != nil && t.Context().Err() == nil {
				time.Sleep(10 * time.Millisecond)
			}
		}
	}()
	twice := 0
	for i := range count {
		if i == count/3 || i == count/2 {
			s.Shutdown()
			s.WaitForShutdown()
			s = listening(t, dir, port)
		}
		for name, messages := range channels {
			for {
				m := next(t, messages)
				if string(m.Payload) == fmt.Sprint(i) {
					m.Ack()
					break
				}
				// One whose acknowledgement was lost may come again.
				var n int
				if _, err := fmt.Sscan(string(m.Payload), &n); err != nil || n > i {
					t.Fatalf("%s: message %s came when %d was due", name, m.Payload, i)
				}
				twice++
				m.Ack()
			}
		}
	}
	<-published
	t.Logf("%d messages came twice", twice)
	stream, err := js(t, conn).Stream(t.Context(), "re")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != count {
		t.Errorf("%d messages are stored", n)
	}
}

// Closed for ever is the end of a subscription, and it says so.
func TestConnectionClosed(t *testing.T) {
	conn := operator(t, broker(t))
	s := subscriber(t, conn, swift("g"))
	initialize(t, s, "end")
	messages := subscribe(t, s, "end")
	conn.Close()
	select {
	case _, open := <-messages:
		if open {
			t.Fatal("a message came")
		}
	case <-time.After(patience):
		t.Fatal("the channel stays open")
	}
}

// A line that is cut and mended at once is no reason to lose or repeat anything
// but what was on the way.
func TestLineCut(t *testing.T) {
	s := listening(t, t.TempDir(), server.RANDOM_PORT)
	lines := lines{make(chan net.Conn, 100)}
	conn := dial(t, s, "all", nats.SetCustomDialer(lines))
	d := swift("g")
	d.MaxInFlight, d.AckWait = 20, time.Second
	sub := subscriber(t, conn, d)
	initialize(t, sub, "cut")
	publish(t, dial(t, s, "all"), "cut", 100)
	messages := subscribe(t, sub, "cut")
	seen := map[string]bool{}
	for len(seen) < 100 {
		m := next(t, messages)
		seen[string(m.Payload)] = true
		if len(seen)%25 == 10 {
			lines.cut()
		}
		m.Ack()
	}
}

// lines dials, and breaks what it dialled.
type lines struct{ conns chan net.Conn }

func (l lines) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	if err == nil {
		l.conns <- conn
	}
	return conn, err
}

func (l lines) cut() { _ = (<-l.conns).Close() }
