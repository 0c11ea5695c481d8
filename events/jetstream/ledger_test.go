package jetstream_test

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events/ledgertest"
)

func TestLedger(t *testing.T) {
	b := begin(t, t.TempDir())
	ledgertest.Run(t, func(t *testing.T) ledgertest.Bench {
		err := b.Setup(t.Context(), func(conn *nats.Conn) error {
			anew(t, conn)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return ledgertest.Bench{
			Ledger: ledger(t, b.Conn()), ID: ledgerID,
			Plant: func(t testing.TB, subject string, body []byte) { plant(t, b.Conn(), subject, body) },
		}
	})
}
