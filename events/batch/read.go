package batch

import (
	"fmt"
	"strings"

	"github.com/keyledger/keyledger/events"
)

// Read makes a fact of what is stored under a subject. It never fails: a subject
// that is none, a body that is no fact, and a fact that was made for another
// ledger come back as [events.Malformed], in the place where they stand. A fact
// of another ledger is good in every other respect, so that only this tells a
// rehearsal's revocations, or its keys, from the ledger's own.
func Read(ledger events.LedgerID, subject string, body []byte) events.Recorded {
	r := events.Recorded{Raw: body}
	s, err := events.ParseSubject(subject)
	if err != nil {
		r.Event = events.Malformed{Reason: err.Error()}
		return r
	}
	r.Subject = s
	// The error repeats what the Malformed event in its place says.
	r.Meta, r.Event, err = events.Decode(s, body)
	if err == nil && r.Meta.Ledger != ledger {
		r.Event = events.Malformed{Reason: fmt.Sprintf("%v: it was made for another ledger", events.ErrMalformed)}
	}
	return r
}

// CheckRevisions refuses facts of one subject, read after a position, of which
// one is not the next revision: no decision is made on a doubtful history. A
// malformed fact has no revision to go by, and neither has the one after it.
func CheckRevisions(facts []events.Recorded, after events.Position) error {
	want, known := events.Revision(1), after == 0
	for _, r := range facts {
		if _, bad := r.Event.(events.Malformed); bad {
			known = false
			continue
		}
		if known && r.Meta.Revision != want {
			return fmt.Errorf("%w: position %d on %s has revision %d, and %d comes next",
				events.ErrCorrupt, r.Position, r.Subject, r.Meta.Revision, want)
		}
		want, known = r.Meta.Revision+1, true
	}
	return nil
}

// CheckUses refuses blocks of uses that are never published.
func CheckUses(blocks []events.UsesMessage) error {
	for _, b := range blocks {
		switch {
		case b.ID == "" || len(b.ID) > 128 || strings.ContainsAny(b.ID, "\r\n"):
			return fmt.Errorf("%w: a block of uses without a proper id", ErrInvalid)
		case !usesSubject(b.Subject):
			return fmt.Errorf("%w: a block of uses on a subject that is none of theirs", ErrInvalid)
		case len(b.Body) > events.MaxFactBytes:
			return fmt.Errorf("%w: a block of uses of %d bytes, at most %d are possible", events.ErrTooLarge, len(b.Body), events.MaxFactBytes)
		}
	}
	return nil
}

func usesSubject(subject string) bool {
	parts := strings.Split(subject, ".")
	if len(parts) != 4 {
		return false
	}
	org, err := events.ParseOrgID(parts[2])
	if err != nil {
		return false
	}
	verifier, err := events.ParseVerifierID(parts[3])
	return err == nil && events.UsesSubject(org, verifier) == subject
}
