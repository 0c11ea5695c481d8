package commands_test

import (
	"errors"
	"testing"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
)

// TestTick: of several who append behind the same tick, one does.
func TestTick(t *testing.T) {
	w := newWorld(t)
	tick := events.Tick{At: events.TimeOf(w.now()), Through: 4, Signature: "x"}
	first, err := commands.Tick(w.ctx, w.log, w.ledger, tick, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	if m := first.Meta; m.Revision != 1 || m.Time != tick.At || m.Actor.String() != "system/ticks" || first.Position == 0 {
		t.Errorf("%+v", first)
	}
	// Whoever has not seen it yet, and whoever saw another.
	for _, before := range []events.Position{0, first.Position - 1, first.Position + 1} {
		if _, err := commands.Tick(w.ctx, w.log, w.ledger, tick, before, 2); !errors.Is(err, events.ErrConflict) {
			t.Errorf("behind position %d: %v", before, err)
		}
	}
	if _, err := commands.Tick(w.ctx, w.log, w.ledger, tick, first.Position, 2); err != nil {
		t.Error(err)
	}
	facts, err := w.log.Load(w.ctx, events.TickSubject(), 0)
	if err != nil || len(facts) != 2 {
		t.Errorf("%d ticks: %v", len(facts), err)
	}
}
