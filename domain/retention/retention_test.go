package retention

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/events"
)

const day = events.Time(24 * 3600 * 1_000_000)

func evolve(t interface{ Errorf(string, ...any) }, s State, facts []events.Event) State {
	for _, e := range facts {
		d := e.(events.UsesDropped)
		days := map[events.Time]bool{}
		for _, n := range d.Days {
			days[n.Day] = true
		}
		if len(days) == 0 || len(days) > events.MaxUsesDays {
			t.Errorf("a fact with %d days", len(days))
		}
		s = Evolve(s, e)
	}
	return s
}

// Every use is counted in one fact, however often it is asked and however late it
// came; what knows less than whoever was last records nothing.
func TestEveryUseIsCountedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s State
		known := map[Day]uint64{}
		var before events.Time
		var through events.Position
		for range rapid.IntRange(1, 8).Draw(t, "rounds") {
			before += events.Time(rapid.IntRange(0, 200).Draw(t, "days")) * day
			through += events.Position(rapid.IntRange(1, 5).Draw(t, "blocks"))
			for range rapid.IntRange(0, 200).Draw(t, "uses") {
				if before > 0 {
					at := events.Time(rapid.Int64Range(0, int64(before/day)-1).Draw(t, "day")) * day
					known[Day{at, rapid.SampledFrom([]string{"VALID", "EXPIRED"}).Draw(t, "code")}]++
				}
			}
			wish := DropUses{Before: before, Through: through, Days: State{Counted: known}.Days()}
			facts, err := Decide(s, wish)
			if err != nil {
				t.Fatal(err)
			}
			next := evolve(t, s, facts)
			for _, e := range facts {
				if d := e.(events.UsesDropped); d.Before != before || d.Through != through || d.Blocks != 0 {
					t.Errorf("%+v", d)
				}
			}
			if len(facts) > 0 {
				if diff := cmp.Diff(wish.Days, next.Days()); diff != "" {
					t.Error(diff)
				}
				more := append(wish.Days, events.UsesDay{Day: -day, Code: "VALID", Uses: 1})
				for what, c := range map[string]DropUses{
					"again":                 wish,
					"for the same midnight": {Before: before, Through: through + 1, Days: more},
					"for one before it":     {Before: before - day, Through: through + 1, Days: more},
					"of whoever is behind":  {Before: before + day, Through: through - 1, Days: more},
				} {
					if again, err := Decide(next, c); err != nil || len(again) > 0 {
						t.Errorf("%s: %v, %v", what, again, err)
					}
				}
			}
			s = next
		}
	})
}

func TestDropBlocks(t *testing.T) {
	days := []events.UsesDay{{Day: day, Code: "VALID", Uses: 3}, {Day: 0, Code: "VALID", Uses: 2}}
	for i := range events.Time(events.MaxUsesDays) {
		days = append(days, events.UsesDay{Day: (2 + i) * day, Code: "REVOKED", Uses: 1})
	}
	facts, err := Decide(State{}, DropBlocks{Stored: 7, Through: 12, Blocks: 10, Days: days})
	if err != nil || len(facts) != 2 {
		t.Fatal(facts, err)
	}
	s := evolve(t, State{}, facts)
	if s.Through != 12 || s.Before != 7 || len(s.Days()) != len(days) || facts[0].(events.UsesDropped).Blocks != 10 || facts[1].(events.UsesDropped).Blocks != 0 {
		t.Errorf("%+v", s)
	}
	for _, through := range []events.Position{11, 12} {
		if facts, err := Decide(s, DropBlocks{Stored: 8, Through: through, Blocks: 1, Days: days}); err != nil || facts != nil {
			t.Error(facts, err)
		}
	}
	s = Evolve(s, events.Unknown{Name: "uses.dropped.v2"})
	if facts, err := Decide(s, DropBlocks{Stored: 9, Through: 13, Blocks: 1, Days: days}); err == nil {
		t.Error(facts)
	}
}
