package jetstream_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
)

var ledgerID = events.LedgerID(uuid.MustParse("0198c0de-0000-7000-8000-00000000001d"))

// begin starts a broker on an empty folder and creates the streams.
func begin(t testing.TB, dir string) *embedded.Broker {
	t.Helper()
	b := start(t, dir)
	if err := setUp(t, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func setUp(t testing.TB, b *embedded.Broker) error {
	t.Helper()
	return b.Setup(t.Context(), func(conn *nats.Conn) error {
		return jetstream.EnsureStreams(t.Context(), conn, 1)
	})
}

// anew makes the streams that were used anew, over a connection that may.
func anew(t testing.TB, conn *nats.Conn) {
	t.Helper()
	if err := errors.Join(clustertest.Clear(t.Context(), conn), jetstream.EnsureStreams(t.Context(), conn, 1)); err != nil {
		t.Fatal(err)
	}
}

func start(t testing.TB, dir string) *embedded.Broker {
	t.Helper()
	b, err := embedded.Start(t.Context(), embedded.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	return b
}

func ledger(t testing.TB, conn *nats.Conn) *jetstream.Ledger {
	t.Helper()
	l, err := jetstream.New(jetstream.Config{Conn: conn, Ledger: ledgerID, Replicas: 1, Heartbeat: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// plant goes around the ledger.
func plant(t testing.TB, conn *nats.Conn, subject string, body []byte) {
	t.Helper()
	answer, err := conn.Request(subject, body, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(answer.Data, []byte(`"seq"`)) {
		t.Fatalf("planted nothing: %s", answer.Data)
	}
}
