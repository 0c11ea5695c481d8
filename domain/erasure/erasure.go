// Package erasure decides over the erasure of data subjects: which of the keys
// that sealed what was known of them are destroyed. A key that was erased once is
// erased for ever; what is sealed after that is sealed with another.
package erasure

import (
	"maps"
	"slices"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// State is a data subject as its facts tell it.
type State struct {
	// Erased are the keys that were, whether they are destroyed by now or not.
	Erased map[string]bool
	// Times is how often it was erased.
	Times int
	// Doubtful says that a fact could not be understood.
	Doubtful bool
}

// Erase erases what is known of a data subject.
type Erase struct {
	// Held are the keys that there are.
	Held []string
	// Insist gives a fact though there is nothing to erase any more: a wish that
	// shall be met again has to be recorded.
	Insist bool
}

// Decide turns the wish into a fact that names every key which is to be destroyed
// and was not erased before. Where there is none it gives none, unless the wish
// insists.
func Decide(s State, c Erase) ([]events.Event, error) {
	if s.Doubtful {
		return nil, domain.Refuse(domain.ErrConflict, "", "an event about this data subject is not understood by this version; update the server")
	}
	keys := []string{}
	for _, id := range c.Held {
		if !s.Erased[id] {
			keys = append(keys, id)
		}
	}
	slices.Sort(keys)
	switch {
	case len(c.Held) == 0 && s.Times == 0:
		return nil, domain.Refuse(domain.ErrNotFound, "", "nothing was ever sealed of this data subject")
	case len(keys) == 0 && !c.Insist:
		return nil, nil
	}
	return []events.Event{events.SubjectErased{Keys: slices.Compact(keys)}}, nil
}

// Evolve applies a fact.
func Evolve(s State, e events.Event) State {
	switch e := e.(type) {
	case events.SubjectErased:
		s.Erased = maps.Clone(s.Erased)
		if s.Erased == nil {
			s.Erased = map[string]bool{}
		}
		for _, id := range e.Keys {
			s.Erased[id] = true
		}
		s.Times++
	case events.Unknown, events.Malformed:
		s.Doubtful = true
	}
	return s
}
