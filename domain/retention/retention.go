// Package retention decides over what is dropped of the recorded uses: of an
// organization day by day, and of the stream from its beginning on. What was dropped
// once stays so, and every use is counted in one fact.
package retention

import (
	"cmp"
	"maps"
	"slices"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// State is what was dropped, as its facts tell it.
type State struct {
	// Before and Through are as the last fact says.
	Before  events.Time
	Through events.Position
	// Counted is how many uses of a day and verdict are dropped.
	Counted map[Day]uint64
	// Doubtful says that a fact could not be understood.
	Doubtful bool
}

// Day is a day, in UTC, and a verdict.
type Day struct {
	Day  events.Time
	Code string
}

// Days are the counts in the order of facts.
func (s State) Days() []events.UsesDay {
	out := make([]events.UsesDay, 0, len(s.Counted))
	for d, n := range s.Counted {
		out = append(out, events.UsesDay{Day: d.Day, Code: d.Code, Uses: n})
	}
	return ordered(out)
}

func ordered(days []events.UsesDay) []events.UsesDay {
	slices.SortFunc(days, func(a, b events.UsesDay) int { return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(a.Code, b.Code)) })
	return days
}

// Command is a wish: [DropUses] or [DropBlocks].
type Command interface{ command() }

// DropUses drops single uses of an organization.
type DropUses struct {
	// Before is a midnight, and Through how far the stream was counted.
	Before  events.Time
	Through events.Position
	// Days count all uses of the organization of days before, in blocks up to
	// Through, whether they were counted in a fact or not.
	Days []events.UsesDay
}

// DropBlocks drops the beginning of the stream.
type DropBlocks struct {
	// Stored is when the last of the blocks was stored, and Through where it stands.
	Stored  events.Time
	Through events.Position
	// Blocks is how many messages there are up to there, and Days count their uses.
	Blocks uint64
	Days   []events.UsesDay
}

func (DropUses) command()   {}
func (DropBlocks) command() {}

// Decide turns a wish into facts that say the same and share its days. A wish that
// would drop nothing new gives none, and neither does one of somebody who knows less
// of the stream than whoever dropped last.
func Decide(s State, c Command) ([]events.Event, error) {
	if s.Doubtful {
		return nil, domain.Refuse(domain.ErrConflict, "", "an event about the retention of uses is not understood by this version; update the server")
	}
	switch c := c.(type) {
	case DropUses:
		if c.Before <= s.Before || c.Through < s.Through {
			return nil, nil
		}
		return shared(events.UsesDropped{Before: c.Before, Through: c.Through}, s.uncounted(c.Days)), nil
	case DropBlocks:
		if c.Through <= s.Through || c.Blocks == 0 {
			return nil, nil
		}
		return shared(events.UsesDropped{Before: c.Stored, Through: c.Through, Blocks: c.Blocks}, ordered(slices.Clone(c.Days))), nil
	default:
		return nil, domain.Refuse(domain.ErrInvalid, "", "unknown command")
	}
}

// uncounted is what days hold beyond what was counted.
func (s State) uncounted(days []events.UsesDay) []events.UsesDay {
	var out []events.UsesDay
	for _, d := range days {
		if had := s.Counted[Day{d.Day, d.Code}]; d.Uses > had {
			d.Uses -= had
			out = append(out, d)
		}
	}
	return ordered(out)
}

// shared gives each fact as many days as it has room for. Without any there is
// nothing to tell.
func shared(fact events.UsesDropped, days []events.UsesDay) []events.Event {
	var out []events.Event
	for len(days) > 0 {
		n, distinct := 1, 1
		for ; n < len(days); n++ {
			if days[n].Day == days[n-1].Day {
				continue
			}
			if distinct++; distinct > events.MaxUsesDays {
				break
			}
		}
		next := fact
		next.Days = days[:n:n]
		out, days = append(out, next), days[n:]
		fact.Blocks = 0 // counted once
	}
	return out
}

// Evolve applies a fact.
func Evolve(s State, e events.Event) State {
	switch e := e.(type) {
	case events.UsesDropped:
		s.Before, s.Through = max(s.Before, e.Before), max(s.Through, e.Through)
		s.Counted = maps.Clone(s.Counted)
		if s.Counted == nil {
			s.Counted = map[Day]uint64{}
		}
		for _, d := range e.Days {
			s.Counted[Day{d.Day, d.Code}] += d.Uses
		}
	case events.Unknown, events.Malformed:
		s.Doubtful = true
	}
	return s
}
