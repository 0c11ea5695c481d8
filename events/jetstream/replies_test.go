package jetstream

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// That a question was answered twice is known, and since when.
func TestReplies(t *testing.T) {
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
	defer conn.Close()
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
