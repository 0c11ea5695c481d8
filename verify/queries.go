package verify

import (
	"hash/maphash"
	"math/rand/v2"
	"sync/atomic"

	"github.com/keyledger/keyledger/domain/permission"
)

// A thousand different queries are more than the gateways and services of an
// installation ask, and at 0.8 KiB at most each they take less than a mebibyte.
const (
	querySets = 256
	queryWays = 4
)

// queries keeps queries that were asked lately, parsed. Nobody waits for anybody
// here, and a query that has not been kept costs its asker the parsing, a
// microsecond or so, and nobody else anything.
//
// What makes room for a new query is one that was not asked again since it came:
// who asks a new one each time competes with his own kind. Where all have been
// asked again, one has to prove it anew, and the new one is not kept this time.
//
// A nil one keeps nothing.
type queries struct {
	// seed makes it unpredictable which queries are in each other's way.
	seed maphash.Seed
	sets [querySets]querySet
}

type querySet [queryWays]atomic.Pointer[keptQuery]

type keptQuery struct {
	query permission.Query
	asked atomic.Bool
}

func newQueries() *queries { return &queries{seed: maphash.MakeSeed()} }

// get returns the query of a text. Its error is that of
// [permission.ParseQuery]. It keeps nothing of the text itself.
func (c *queries) get(text string) (*permission.Query, error) {
	if c == nil || len(text) > permission.MaxQueryLen {
		q, err := permission.ParseQuery(text)
		if err != nil {
			return nil, err
		}
		return &q, nil
	}
	set := &c.sets[maphash.String(c.seed, text)%querySets]
	for i := range set {
		if kept := set[i].Load(); kept != nil && kept.query.Text() == text {
			// Written once, not at every use by every processor.
			if !kept.asked.Load() {
				kept.asked.Store(true)
			}
			return &kept.query, nil
		}
	}
	q, err := permission.ParseQuery(text)
	if err != nil {
		return nil, err
	}
	fresh := &keptQuery{query: q.Clone()}
	set.keep(fresh)
	return &fresh.query, nil
}

// keep makes room for a query, or does not. Of two that meet here one may be
// lost: it is parsed again when it is asked again.
func (s *querySet) keep(fresh *keptQuery) {
	for i := range s {
		if s[i].CompareAndSwap(nil, fresh) {
			return
		}
	}
	for i := range s {
		if old := s[i].Load(); !old.asked.Load() {
			s[i].CompareAndSwap(old, fresh)
			return
		}
	}
	s[rand.IntN(queryWays)].Load().asked.Store(false)
}

// check parses a question's Permission, if it must be a query.
func (c *queries) check(q *Question) error {
	if !permission.MayBeQuery(q.Permission) {
		return nil
	}
	var err error
	q.query, err = c.get(q.Permission)
	return err
}
