package jetstream_test

import (
	"testing"

	"github.com/keyledger/keyledger/events/ledgertest"
)

func TestLedger(t *testing.T) {
	ledgertest.Run(t, func(t *testing.T) ledgertest.Bench {
		b := begin(t, t.TempDir())
		return ledgertest.Bench{
			Ledger: ledger(t, b.Conn()), ID: ledgerID,
			Plant: func(t testing.TB, subject string, body []byte) { plant(t, b.Conn(), subject, body) },
		}
	})
}
