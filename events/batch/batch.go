// Package batch makes facts ready to be appended as one: it refuses what a
// ledger must never hold, fills in what only the ledger knows, and encodes. Every
// ledger calls it before anything is sent or stored, so that all of them refuse
// the same.
package batch

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"

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
		of[e.Meta.Command]++
		parts[i].MessageID = e.Meta.Command.String() + "/" + strconv.Itoa(of[e.Meta.Command])
		parts[i].Expect = e.Expect
	}
	err := spread(len(entries), func(i int) error {
		meta := entries[i].Meta
		meta.RecordedTime, meta.BatchIndex, meta.BatchSize = now, 0, 0
		if len(entries) > 1 {
			meta.BatchIndex, meta.BatchSize = i+1, len(entries)
		}
		var err error
		parts[i].Recorded, err = encode(entries[i], meta)
		return err
	})
	if err != nil {
		return nil, err
	}
	return parts, nil
}

func encode(e events.Entry, meta events.Meta) (events.Recorded, error) {
	body, err := events.Encode(e.Subject, e.Event, meta)
	if errors.Is(err, events.ErrTooLarge) {
		return events.Recorded{}, err
	}
	if err != nil {
		return events.Recorded{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	// Whatever readers would refuse must not get in: it would be there for ever.
	// Reading it back is small against storing it, and the caller gets what every
	// reader gets.
	meta, event, err := events.Decode(e.Subject, body)
	if err != nil {
		return events.Recorded{}, fmt.Errorf("%w: no reader would accept it: %w", ErrInvalid, err)
	}
	return events.Recorded{Subject: e.Subject, Meta: meta, Event: event, Raw: body}, nil
}

// alone is up to how many facts are encoded on the spot: more are worth waking
// other processors for.
const alone = 64

// spread calls f for every index below n and returns the first error by index.
func spread(n int, f func(i int) error) error {
	workers := min(runtime.GOMAXPROCS(0), (n+alone-1)/alone)
	errs := make([]error, workers)
	var all sync.WaitGroup
	for w := range workers {
		run := func() {
			for i := n * w / workers; i < n*(w+1)/workers && errs[w] == nil; i++ {
				errs[w] = f(i)
			}
		}
		if w == workers-1 {
			run()
		} else {
			all.Go(run)
		}
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
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
