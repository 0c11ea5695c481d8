package serve

import (
	"log/slog"
	"testing"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/usage"
)

// TestReadUses holds what is told of a view that is made anew to where it stands.
func TestReadUses(t *testing.T) {
	of := events.Positions{Ledger: events.LedgerID(uuid.Must(uuid.NewV7()))}
	view, err := usage.Open(t.Context(), usage.Config{Path: t.TempDir() + "/usage.db", Of: of})
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	r := &usesRunner{view: view, log: slog.New(slog.DiscardHandler)}
	want := func(percent uint64) {
		t.Helper()
		if got, err := r.read(t.Context()); err != nil || got != percent {
			t.Errorf("%d %%, %v; want %d %%", got, err, percent)
		}
	}
	want(0) // nobody knows how far it is
	goal := events.Position(200)
	r.goal.Store(&goal)
	want(0)
	goal = 0
	want(100)
	goal = 200
	want(100) // what was whole stays so, whatever comes
}
