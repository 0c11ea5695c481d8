package index

import (
	"errors"
	"strings"

	"github.com/keyledger/keyledger/events"
)

// ErrForetold says that an index holds what it was foretold and has not met yet: it is
// of no position.
var ErrForetold = errors.New("index: not all that was foretold has come")

// foretold is a key, or an organization with [events.RevokedAll] for its id, of which
// it is known that its end stands further on in the ledger.
type foretold struct {
	org events.OrgID
	id  string
}

// Foretell ends a key at once, or an organization with [events.RevokedAll] for its id,
// although the event that ends it is still to come: whoever has applied it in an
// earlier run, and begins before it now, does not go back on that. When it comes it
// changes nothing. What is none of both is passed over.
func (x *Index) Foretell(org events.OrgID, id string) {
	subject := events.Subject{Org: org, Aggregate: events.AggregateRevoked, ID: id}
	key, isKey := subject.Key()
	if id != events.RevokedAll && !isKey {
		return
	}
	x.writing.Lock()
	defer x.writing.Unlock()
	of := x.organization(org)
	if id == events.RevokedAll {
		if of.standing.Load()&standingEnded != 0 {
			return
		}
		of.stand(standingEnded)
	} else if x.flag(ref{of.index, key}, flagRevoked)&flagRevoked != 0 {
		return
	}
	if x.foretold == nil {
		x.foretold = map[foretold]struct{}{}
	}
	x.foretold[foretold{of.id, strings.Clone(id)}] = struct{}{}
}

// wasForetold reports whether an end was, which has come now.
func (x *Index) wasForetold(s events.Subject) bool {
	f := foretold{s.Org, s.ID}
	_, was := x.foretold[f]
	delete(x.foretold, f)
	return was
}
