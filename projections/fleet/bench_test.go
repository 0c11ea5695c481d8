package fleet_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/events/uses"
)

// Ten thousand verifiers announce themselves 2,000 times a second.
func BenchmarkTenThousandVerifiers(b *testing.B) {
	w := begin(b)
	const n = 10_000
	say := func(i int) presence.Message {
		boot := uses.BootID{1, byte(i), byte(i >> 8)}
		w.numbers[boot]++
		m, err := presence.Encode(&presence.Announcement{
			Ledger: ledger, Verifier: events.VerifierID(fmt.Sprintf("edge-%05d", i)), Boot: boot, Number: w.numbers[boot], Kind: presence.SDK,
			At: w.now(), StartedAt: w.now(), Applied: w.position, MaxStaleness: 30_000, Lease: presence.MaxLease.Milliseconds(),
		})
		if err != nil {
			b.Fatal(err)
		}
		w.heard++
		m.Position, m.Stored = w.heard, w.now()
		return m
	}
	for i := range n {
		w.view.Hear([]presence.Message{say(i)})
	}
	r := w.revoke("acme")
	b.Run("standings", func(b *testing.B) {
		for b.Loop() {
			if got := len(w.view.Standings(r, time.Now())); got != n {
				b.Fatal(got)
			}
		}
	})
	b.Run("rows", func(b *testing.B) {
		for b.Loop() {
			w.view.Rows(time.Now())
		}
	})
	b.Run("hear", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			b.StopTimer()
			m := say(i % n)
			b.StartTimer()
			w.view.Hear([]presence.Message{m})
		}
	})
}
