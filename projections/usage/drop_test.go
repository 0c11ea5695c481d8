package usage

import (
	"context"
	"flag"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// lifes is how many random streams something is dropped of; the first is of seed 0.
var lifes = flag.Uint64("lifes", 1, "streams that uses are dropped of")

// midnight is what lies within the hours of [life].
const midnight = 504 * hour

// daysOf counts uses by day and verdict, without the view.
func daysOf(list []Use, wanted func(Use) bool) []events.UsesDay {
	counts := map[events.UsesDay]uint64{}
	for _, u := range list {
		if wanted(u) {
			counts[events.UsesDay{Day: u.At - u.At%(24*hour), Code: u.Code.String()}]++
		}
	}
	var out []events.UsesDay
	for d, n := range counts {
		d.Uses = n
		out = append(out, d)
	}
	return sorted(out)
}

func sorted(days []events.UsesDay) []events.UsesDay {
	slices.SortFunc(days, func(a, b events.UsesDay) int {
		if a.Day != b.Day {
			return int(a.Day - b.Day)
		}
		return slices.Compare([]byte(a.Code), []byte(b.Code))
	})
	return days
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func drop(t testing.TB, v *View, d Dropped) {
	t.Helper()
	if err := v.Drop(context.Background(), d); err != nil {
		t.Fatal(err)
	}
}

func counts(t testing.TB, v *View, unit Unit) map[string]uint64 {
	return counted(t, v, CountFilter{Org: "acme", Unit: unit, Page: sqlview.Page{Limit: 200}})
}

// What is dropped is not told any more, and was counted before: as often as a reader
// of the whole stream finds it. What came later of the days before is told apart by
// its position.
//
// Breaking it: days are counted without what is late, blocks that came again are
// counted twice, a minute too many is dropped.
func TestDrop(t *testing.T) {
	for seed := range *lifes {
		r := rand.New(rand.NewPCG(seed, 1))
		messages := life(t, r, 900)
		source := &held{messages: messages}
		v := openWith(t, filepath.Join(t.TempDir(), "usage.db"), source)
		list := all(t, messages)
		_, begin, err := v.Stored(context.Background(), Filter{Org: "acme"})
		if err != nil {
			t.Fatal(err)
		}
		through := events.Position(1 + slices.IndexFunc(messages, func(m events.UsesMessage) bool { return m.Stored > midnight+5*minute }))
		for at := 0; at < int(through); {
			next := min(int(through), at+1+r.IntN(100))
			apply(t, v, messages[at:next])
			at = next
		}
		dropped := map[events.OrgID]DroppedUses{}
		for _, org := range []events.OrgID{"acme", "beta"} {
			days, at, err := v.DaysBefore(context.Background(), org, midnight)
			if err != nil || at != through {
				t.Fatal(at, err)
			}
			want := daysOf(list, func(u Use) bool { return u.Org == org && u.At < midnight && u.Position <= through })
			if diff := gocmp.Diff(want, sorted(days)); diff != "" || len(days) == 0 {
				t.Fatalf("%s: %s", org, diff)
			}
			dropped[org] = DroppedUses{Before: midnight, Through: at}
		}
		before := counts(t, v, ByDay)
		drop(t, v, Dropped{Orgs: dropped})
		drop(t, v, Dropped{Orgs: dropped})
		if diff := gocmp.Diff(before, counts(t, v, ByDay)); diff != "" {
			t.Errorf("counts: %s", diff)
		}
		apply(t, v, messages[through:])
		kept := slices.DeleteFunc(slices.Clone(list), func(u Use) bool { return u.Org != "acme" || u.At < midnight })
		found := listed(t, v, Filter{Org: "acme", Ascending: true, Page: sqlview.Page{Limit: 100}})
		if len(found) != len(kept) || len(kept) == 0 || found[0].At < midnight {
			t.Errorf("%d uses are told, %d are kept", len(found), len(kept))
		}
		for followed := 0; ; {
			page, next, err := v.Stored(context.Background(), Filter{Org: "acme", Page: sqlview.Page{Cursor: begin, Limit: 100}})
			if err != nil || slices.ContainsFunc(page, func(u Use) bool { return u.At < midnight }) {
				t.Fatal("a follower is told of what was dropped", err)
			}
			if followed += len(page); next == begin {
				if followed != len(kept) {
					t.Errorf("a follower is told of %d uses, %d are kept", followed, len(kept))
				}
				break
			}
			begin = next
		}

		past := must[Past](t)(v.Past(context.Background(), 1, 1<<20))
		alive := slices.IndexFunc(messages, func(m events.UsesMessage) bool {
			return m.Position > through && slices.ContainsFunc(list, func(u Use) bool { return u.Position == m.Position }) ||
				slices.ContainsFunc(list, func(u Use) bool { return u.Position == m.Position && u.At >= midnight })
		})
		if past.Through == 0 || int(past.Through) > alive || slices.ContainsFunc(list, func(u Use) bool { return u.Position > past.Through && int(u.Position) <= alive }) {
			t.Errorf("past are the blocks up to %d, the first with something to tell is %d", past.Through, alive+1)
		}
		want := daysOf(list, func(u Use) bool { return u.Position <= past.Through })
		if diff := gocmp.Diff(want, sorted(past.Days)); diff != "" || past.Stored != messages[past.Through-1].Stored {
			t.Error(diff)
		}
		if some := must[Past](t)(v.Past(context.Background(), 1, 3)); some.Through == 0 || some.Through >= past.Through {
			t.Errorf("three blocks end at %d", some.Through)
		}
		source.begins = past.Through + 1
		drop(t, v, Dropped{Orgs: dropped, Through: past.Through})
		if again := must[Past](t)(v.Past(context.Background(), 1, 10)); again.Through != 0 {
			t.Errorf("dropped again: %+v", again)
		}
		if late := must[[]Kept](t)(v.Kept(context.Background())); len(late) != 2 || late[0].Before != midnight || late[0].Through != through {
			t.Errorf("%+v", late)
		}
	}
}

// A view that is rebuilt from what is left counts what a view does that has seen
// all, whenever it hears of what was dropped.
//
// Breaking it: what was dropped is counted again when it is met, or is not made up
// for.
func TestRebuiltAfterDrop(t *testing.T) {
	ctx := context.Background()
	for seed := range *lifes {
		r := rand.New(rand.NewPCG(seed, 2))
		messages := life(t, r, 900)
		v := openWith(t, filepath.Join(t.TempDir(), "usage.db"), &held{messages: messages})
		through := events.Position(1 + slices.IndexFunc(messages, func(m events.UsesMessage) bool { return m.Stored > midnight+5*minute }))
		apply(t, v, messages[:through])
		dropped := map[events.OrgID]DroppedUses{}
		for _, org := range []events.OrgID{"acme", "beta"} {
			days, _, err := v.DaysBefore(ctx, org, midnight)
			if err != nil {
				t.Fatal(err)
			}
			dropped[org] = DroppedUses{Before: midnight, Through: through, Days: days}
		}
		drop(t, v, Dropped{Orgs: dropped})
		past := must[Past](t)(v.Past(ctx, 1, 1<<20))
		drop(t, v, Dropped{Orgs: dropped, Through: past.Through})
		apply(t, v, messages[through:])
		want := counts(t, v, ByDay)
		for name, heard := range map[string]events.Position{"first": past.Through, "in the middle": past.Through + (through-past.Through)/2, "at the end": through} {
			again := openWith(t, filepath.Join(t.TempDir(), "again.db"), &held{messages: messages, begins: past.Through + 1})
			apply(t, again, messages[past.Through:heard])
			if whole := must[bool](t)(again.Whole(ctx, through)); whole {
				t.Error("a rebuilt view takes itself for whole")
			}
			drop(t, again, Dropped{Orgs: dropped, Through: past.Through})
			apply(t, again, messages[heard:])
			if diff := gocmp.Diff(want, counts(t, again, ByDay)); diff != "" {
				t.Errorf("told %s: %s", name, diff)
			}
			a, b := listed(t, v, Filter{Org: "acme", Page: sqlview.Page{Limit: 200}}), listed(t, again, Filter{Org: "acme", Page: sqlview.Page{Limit: 200}})
			if diff := gocmp.Diff(a, b); diff != "" {
				t.Errorf("told %s: %s", name, diff)
			}
		}
		if whole := must[bool](t)(v.Whole(ctx, through)); !whole {
			t.Error("the view missed nothing")
		}
	}
}

// What retention dropped while nobody looked is no loss.
//
// Breaking it: a gap is explained that reaches further.
func TestGapsAreExplained(t *testing.T) {
	messages := busy(t)
	v := open(t, filepath.Join(t.TempDir(), "usage.db"))
	apply(t, v, messages[:4])
	apply(t, v, messages[8:])
	gap := func() Finding {
		t.Helper()
		list, _, err := v.Incomplete(context.Background(), FindingFilter{Org: events.System, Page: sqlview.Page{Limit: 50}})
		i := slices.IndexFunc(list, func(f Finding) bool { return f.Kind == FindingGap })
		if err != nil || i < 0 {
			t.Fatal(list, err)
		}
		return list[i]
	}
	for _, through := range []events.Position{0, 7, 8} {
		drop(t, v, Dropped{Through: through})
		if got := gap(); got.Explained != (through == 8) {
			t.Errorf("up to %d: %+v", through, got)
		}
	}
}

// A block whose uses came after their day was dropped is counted before it goes, and
// what two blocks hold is counted once.
//
// Breaking it: the position up to which a day was counted is not looked at, numbers
// that came again are counted.
func TestLateBlocksAreNotPast(t *testing.T) {
	const at = 10 * 24 * hour
	s := newStream(t)
	s.boot(1, at)
	s.uses(1, "acme", 1, use(1, at, events.CodeValid), use(1, at+1, events.CodeValid))
	s.uses(1, "acme", 2, use(1, at+1, events.CodeValid), use(1, at+2, events.CodeExpired))
	s.uses(1, "acme", 4, use(1, at+3, events.CodeValid))
	for i := range s.messages {
		s.messages[i].Stored = at + 48*hour
	}
	v := openWith(t, filepath.Join(t.TempDir(), "usage.db"), &held{messages: s.messages})
	apply(t, v, s.messages)
	drop(t, v, Dropped{Orgs: map[events.OrgID]DroppedUses{"acme": {Before: at + 24*hour, Through: 3}}})
	past := must[Past](t)(v.Past(context.Background(), 1, 100))
	want := []events.UsesDay{{Day: at, Code: "EXPIRED", Uses: 1}, {Day: at, Code: "VALID", Uses: 2}}
	if diff := gocmp.Diff(want, sorted(past.Days)); diff != "" || past.Through != 3 {
		t.Errorf("up to %d: %s", past.Through, diff)
	}
}
