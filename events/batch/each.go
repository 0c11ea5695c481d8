package batch

import (
	"fmt"

	"github.com/keyledger/keyledger/events"
)

// PrepareEach checks and encodes facts that go out together, because one large
// publish costs less than many, and stand alone for whoever reads them: none has
// a place in a batch. Each is the only fact of its command and of its subject,
// and expects something of no other subject, so that each could have been
// appended by itself. Errors are those of [Prepare].
func PrepareEach(ledger events.LedgerID, entries []events.Entry, now events.Time) ([]Part, error) {
	switch {
	case len(entries) == 0:
		return nil, fmt.Errorf("%w: no facts", ErrInvalid)
	case len(entries) > events.MaxBatch:
		return nil, fmt.Errorf("%w: a batch of %d facts, at most %d are possible", events.ErrTooLarge, len(entries), events.MaxBatch)
	}
	subjects := make(map[events.Subject]bool, len(entries))
	wishes := make(map[events.CommandID]bool, len(entries))
	for i, e := range entries {
		switch {
		case subjects[e.Subject] || wishes[e.Meta.Command]:
			return nil, fmt.Errorf("%w: entry %d is about the subject or of the command of an earlier one", ErrInvalid, i+1)
		case !e.Expect.Subject.IsZero() && e.Expect.Subject != e.Subject:
			return nil, fmt.Errorf("%w: entry %d expects something of a subject that is not its own", ErrInvalid, i+1)
		case e.Subject.Org != entries[0].Subject.Org:
			return nil, fmt.Errorf("%w: facts of two organizations in one batch", ErrInvalid)
		}
		subjects[e.Subject], wishes[e.Meta.Command] = true, true
	}
	parts := make([]Part, len(entries))
	err := spread(len(entries), func(i int) error {
		one, err := Prepare(ledger, entries[i:i+1], now)
		if err == nil {
			parts[i] = one[0]
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return parts, nil
}
