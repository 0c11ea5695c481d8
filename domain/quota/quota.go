// Package quota decides who holds a place under an organization's limit on
// active keys. Its facts are the guard that creates are appended with: whoever
// takes a place expects the last of them, and so the limit is exact.
package quota

import (
	"slices"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// State is the guard as its facts tell it.
type State struct {
	Limit   int
	Holders []events.KeyID
}

// Holds reports whether a key holds a place.
func (s State) Holds(id events.KeyID) bool { return slices.Contains(s.Holders, id) }

// Command is a wish about places: [Take], [Admit], [Replace] or [Reset].
type Command interface{ command() }

// Take asks for a place. Ended are the holders known to have ended; they are
// released by the same fact, and need to be given only when the guard is full.
type Take struct {
	Key   events.KeyID
	Limit int
	Ended []events.KeyID
}

// Admit asks for a place for each of several keys, in their order. When there is
// none for all of them it is refused, unless Partly: then the first get those that
// there are, and only when there are none at all is it refused.
type Admit struct {
	Keys   []events.KeyID
	Limit  int
	Ended  []events.KeyID
	Partly bool
}

// Replace hands the place of a rotated key to its successor. Nobody gains a
// place, so it holds under a full limit, also one that was lowered since. A key
// whose place the guard does not know takes a new one.
type Replace struct {
	Old, New events.KeyID
	Limit    int
	Ended    []events.KeyID
}

// Reset writes the holders as they are, when a limit is set.
type Reset struct {
	Limit   int
	Holders []events.KeyID
}

func (Take) command()    {}
func (Admit) command()   {}
func (Replace) command() {}
func (Reset) command()   {}

// Decide turns a wish into the guard's next fact.
func Decide(s State, c Command) ([]events.Event, error) {
	switch c := c.(type) {
	case Take:
		return take(s, c.Key, c.Limit, c.Ended)
	case Admit:
		return admit(s, c)
	case Replace:
		i := slices.Index(s.Holders, c.Old)
		if i < 0 {
			return take(s, c.New, c.Limit, c.Ended)
		}
		next := append(slices.Delete(slices.Clone(s.Holders), i, i+1), c.New)
		if len(next) > events.MaxActiveKeysLimit {
			next = without(next, c.Ended)
		}
		if len(next) > events.MaxActiveKeysLimit {
			return nil, domain.Refuse(domain.ErrKeyLimitReached, "", "the organization has %d active keys, more than any limit allows; revoke some first", len(next))
		}
		return []events.Event{events.QuotaChanged{Limit: c.Limit, Holders: next}}, nil
	case Reset:
		if len(c.Holders) > events.MaxActiveKeysLimit {
			return nil, domain.Refuse(domain.ErrConflict, "limits.max_active_keys",
				"the organization has %d active keys; an exact limit is possible up to %d, revoke some first", len(c.Holders), events.MaxActiveKeysLimit)
		}
		if c.Limit == s.Limit && slices.Equal(c.Holders, s.Holders) {
			return nil, nil
		}
		return []events.Event{events.QuotaChanged{Limit: c.Limit, Holders: append([]events.KeyID{}, c.Holders...)}}, nil
	default:
		return nil, domain.Refuse(domain.ErrInvalid, "", "unknown command")
	}
}

func take(s State, id events.KeyID, limit int, ended []events.KeyID) ([]events.Event, error) {
	return admit(s, Admit{Keys: []events.KeyID{id}, Limit: limit, Ended: ended})
}

func admit(s State, c Admit) ([]events.Event, error) {
	holders := s.Holders
	if len(holders)+len(c.Keys) > c.Limit {
		holders = without(holders, c.Ended)
	}
	room := max(0, c.Limit-len(holders))
	if room == 0 || room < len(c.Keys) && !c.Partly {
		return nil, domain.Refuse(domain.ErrKeyLimitReached, "",
			"the organization may have %d active keys and has %d; revoke one, or raise limits.max_active_keys", c.Limit, len(holders))
	}
	next := append(slices.Clone(holders), c.Keys[:min(room, len(c.Keys))]...)
	return []events.Event{events.QuotaChanged{Limit: c.Limit, Holders: next}}, nil
}

func without(holders, gone []events.KeyID) []events.KeyID {
	set := make(map[events.KeyID]struct{}, len(gone))
	for _, id := range gone {
		set[id] = struct{}{}
	}
	return slices.DeleteFunc(slices.Clone(holders), func(id events.KeyID) bool { _, ok := set[id]; return ok })
}

// Evolve applies a fact.
func Evolve(s State, e events.Event) State {
	if e, ok := e.(events.QuotaChanged); ok {
		return State{Limit: e.Limit, Holders: e.Holders}
	}
	return s
}
