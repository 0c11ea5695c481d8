// Package batch makes facts ready to be appended as one: it refuses what a
// ledger must never hold, fills in what only the ledger knows, and encodes. Every
// ledger calls it before anything is sent or stored, so that all of them refuse
// the same.
package batch

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/keyledger/keyledger/events"
)

// ErrInvalid says that the caller asked for something that is never appended,
// however often it is tried: a fault of the program, not of the ledger.
var ErrInvalid = errors.New("batch: not to be appended")

// Part is a fact made ready.
type Part struct {
	// Recorded is the fact as readers will see it, except for its Position and
	// the broker's time.
	Recorded events.Recorded
	// MessageID is the command's id and the fact's number among the facts of
	// that command in this batch. Where else in the batch it stands does not
	// matter, so that a repeated wish has the ids of its first attempt although
	// it meets other company.
	MessageID string
	// Expect is the entry's expectation; none if its subject is zero.
	Expect events.Expectation
}

// Prepare checks and encodes entries that are to be appended as one. Errors wrap
// [ErrInvalid] or [events.ErrTooLarge].
func Prepare(ledger events.LedgerID, entries []events.Entry, now events.Time) ([]Part, error) {
	if err := check(ledger, entries); err != nil {
		return nil, err
	}
	parts := make([]Part, len(entries))
	of := make(map[events.CommandID]int, 1)
	for i, e := range entries {
		meta := e.Meta
		meta.RecordedTime, meta.BatchIndex, meta.BatchSize = now, 0, 0
		if len(entries) > 1 {
			meta.BatchIndex, meta.BatchSize = i+1, len(entries)
		}
		body, err := events.Encode(e.Subject, e.Event, meta)
		if errors.Is(err, events.ErrTooLarge) {
			return nil, err
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		// Whatever readers would refuse must not get in: it would be there for
		// ever. Reading it back is small against storing it, and the caller gets
		// what every reader gets.
		meta, event, err := events.Decode(e.Subject, body)
		if err != nil {
			return nil, fmt.Errorf("%w: no reader would accept it: %w", ErrInvalid, err)
		}
		of[meta.Command]++
		parts[i] = Part{
			Recorded:  events.Recorded{Subject: e.Subject, Meta: meta, Event: event, Raw: body},
			MessageID: meta.Command.String() + "/" + strconv.Itoa(of[meta.Command]),
			Expect:    e.Expect,
		}
	}
	return parts, nil
}

func check(ledger events.LedgerID, entries []events.Entry) error {
	switch {
	case len(entries) == 0:
		return fmt.Errorf("%w: no facts", ErrInvalid)
	case len(entries) > events.MaxBatch:
		return fmt.Errorf("%w: a batch of %d facts, at most %d are possible", events.ErrTooLarge, len(entries), events.MaxBatch)
	}
	org := entries[0].Subject.Org
	revocations := 0
	written := make(map[events.Subject]bool, len(entries))
	expected := make(map[events.Subject]events.Position, 1)
	for i, e := range entries {
		if _, err := events.ParseSubject(e.Subject.String()); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if e.Event == nil {
			return fmt.Errorf("%w: no fact", ErrInvalid)
		}
		if e.Subject.Org != org {
			return fmt.Errorf("%w: facts of two organizations in one batch", ErrInvalid)
		}
		if e.Meta.Ledger != ledger {
			return fmt.Errorf("%w: a fact of another ledger", ErrInvalid)
		}
		if e.Subject.Aggregate == events.AggregateRevoked {
			revocations++
		}
		x := e.Expect
		if !x.Subject.IsZero() {
			// The broker refuses an expectation on what the batch wrote before;
			// here it is refused with the reason.
			if x.Subject == e.Subject && written[e.Subject] {
				return fmt.Errorf("%w: entry %d expects something of a subject that an earlier entry writes", ErrInvalid, i+1)
			}
			if last, ok := expected[x.Subject]; ok && last != x.Last {
				return fmt.Errorf("%w: entry %d expects another position of a subject than an earlier entry", ErrInvalid, i+1)
			}
			if _, err := events.ParseSubject(x.Subject.String()); err != nil {
				return fmt.Errorf("%w: expectation: %w", ErrInvalid, err)
			}
			expected[x.Subject] = x.Last
		}
		written[e.Subject] = true
	}
	// Whoever follows revocations alone, by a filter on the server, would wait
	// for the rest of the batch for ever.
	if revocations != 0 && revocations != len(entries) {
		return fmt.Errorf("%w: revocations in one batch with other facts", ErrInvalid)
	}
	for i, e := range entries {
		if x := e.Expect.Subject; !x.IsZero() && x != e.Subject && written[x] {
			return fmt.Errorf("%w: entry %d expects something of a subject that another entry writes", ErrInvalid, i+1)
		}
	}
	return nil
}
