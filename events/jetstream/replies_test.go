package jetstream

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// plain connects to a broker that holds nothing.
func plain(t *testing.T) *nats.Conn {
	t.Helper()
	s, err := server.NewServer(&server.Options{NoSigs: true, NoLog: true, DontListen: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(s.Shutdown)
	conn, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// That a question was answered twice is known, and since when.
func TestReplies(t *testing.T) {
	conn := plain(t)
	var r replies
	began := time.Now()
	if _, err := r.ask(t.Context(), conn, "who", nil); !errors.Is(err, nats.ErrNoResponders) {
		t.Fatalf("nobody: %v", err)
	}
	for leaders := 1; leaders <= 2; leaders++ {
		if _, err := conn.Subscribe("who", func(m *nats.Msg) { _ = m.Respond([]byte("I")) }); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			if m, err := r.ask(t.Context(), conn, "who", nil); err != nil || string(m.Data) != "I" {
				t.Fatal(err)
			}
		}
		// What was sent before has come after this.
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
		if leaders == 1 && r.doubled(began) {
			t.Fatal("one answered twice")
		}
	}
	for !r.doubled(began) {
		time.Sleep(time.Millisecond)
	}
	if r.doubled(time.Now().Add(time.Minute)) {
		t.Fatal("doubled later on")
	}
}

// An answer that came too late for who asked is no second one.
func TestLateReply(t *testing.T) {
	conn := plain(t)
	asked := make(chan *nats.Msg, 1)
	if _, err := conn.ChanSubscribe("who", asked); err != nil {
		t.Fatal(err)
	}
	var r replies
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := r.ask(ctx, conn, "who", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	late := <-asked
	if _, err := conn.Subscribe("next", func(m *nats.Msg) { _ = m.Respond(nil) }); err != nil {
		t.Fatal(err)
	}
	for _, twice := range []bool{false, true} {
		if err := late.Respond([]byte("I")); err != nil {
			t.Fatal(err)
		}
		// Whose answer comes after that.
		if _, err := r.ask(t.Context(), conn, "next", nil); err != nil {
			t.Fatal(err)
		}
		if got := r.doubled(began); got != twice {
			t.Errorf("doubled: %t, want %t", got, twice)
		}
	}
}
