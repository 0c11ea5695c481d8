package commands

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
)

// Tick appends a tick behind the one that its maker has seen last, at a position
// of 0 if he has seen none, as the revision that comes next. Of several who do so
// at once one succeeds, and the others get [events.ErrConflict]: they have
// nothing to do any more. A tick is never repeated, whatever became of it: the
// next one says what it would have said.
func Tick(ctx context.Context, log Appender, ledger events.LedgerID, t events.Tick, before events.Position, revision events.Revision) (events.Recorded, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return events.Recorded{}, fmt.Errorf("commands: draw an event id: %w", err)
	}
	command, err := uuid.NewV7()
	if err != nil {
		return events.Recorded{}, fmt.Errorf("commands: draw a command id: %w", err)
	}
	facts, err := log.Append(ctx, []events.Entry{{
		Subject: events.TickSubject(), Event: t, Expect: events.Expect(events.TickSubject(), before),
		Meta: events.Meta{
			ID: events.EventID(id), Ledger: ledger, Time: t.At, Revision: revision,
			Actor: events.Actor{Type: events.ActorSystem, Name: "ticks"}, Command: events.CommandID(command),
		},
	}})
	if err != nil {
		return events.Recorded{}, err
	}
	return facts[0], nil
}
