package batch

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/keyledger/keyledger/events"
)

// ledger makes facts that were appended in batches of the given sizes.
func ledger(sizes ...int) []events.Recorded {
	var facts []events.Recorded
	for _, size := range sizes {
		for i := range size {
			r := events.Recorded{Position: events.Position(len(facts) + 1)}
			if size > 1 {
				r.Meta.BatchIndex, r.Meta.BatchSize = i+1, size
			}
			facts = append(facts, r)
		}
	}
	return facts
}

// However the facts arrive, they come out in order, in slices that split no
// batch and are no larger than they must be.
func TestHolderAndEach(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 12 {
		var sizes []int
		for range 1 + random.IntN(40) {
			sizes = append(sizes, []int{1, 1, 2, 3, 7, Slice - 1, Slice, Slice + 1, events.MaxBatch}[random.IntN(9)])
		}
		facts := ledger(sizes...)
		var holder Holder
		next := events.Position(0)
		for rest := facts; len(rest) > 0; {
			n := min(1+random.IntN(700), len(rest))
			whole, err := holder.Add(rest[:n:n])
			if err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
			err = Each(whole, func(slice []events.Recorded) error {
				first, last := slice[0], slice[len(slice)-1]
				if first.Meta.BatchIndex > 1 || !last.Last() {
					t.Fatalf("a slice from part %d to part %d of %d", first.Meta.BatchIndex, last.Meta.BatchIndex, last.Meta.BatchSize)
				}
				if len(slice) > Slice && first.Meta.BatchSize != len(slice) {
					t.Fatalf("a slice of %d", len(slice))
				}
				for i := range slice {
					if next++; slice[i].Position != next {
						t.Fatalf("position %d, want %d", slice[i].Position, next)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if int(next) != len(facts) {
			t.Fatalf("%d of %d facts came out", next, len(facts))
		}
	}
}

func TestHolderTorn(t *testing.T) {
	part := func(index, size int) events.Recorded {
		return events.Recorded{Meta: events.Meta{BatchIndex: index, BatchSize: size}}
	}
	for name, facts := range map[string][]events.Recorded{
		"broken off by a fact":    {part(1, 2), part(0, 0)},
		"broken off by a batch":   {part(1, 3), part(2, 3), part(1, 2)},
		"a part is missing":       {part(1, 3), part(3, 3)},
		"a part of another":       {part(1, 2), part(2, 3)},
		"a part comes twice":      {part(1, 3), part(1, 3)},
		"begins with a late part": {part(0, 0), part(2, 2)},
	} {
		var holder Holder
		if _, err := holder.Add(facts); !errors.Is(err, events.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Whoever follows from a part's position meets the next part first.
	var holder Holder
	if whole, err := holder.Add([]events.Recorded{part(2, 3), part(3, 3), part(0, 0), part(1, 2)}); err != nil || len(whole) != 3 {
		t.Errorf("%d facts: %v", len(whole), err)
	}
}

// Whatever part of the ledger is shown, and however it arrives, all of that comes
// out, in order, no batch in two pieces, and each as soon as nothing of it can come
// any more.
func TestPartial(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		var sizes []int
		for range 1 + random.IntN(40) {
			sizes = append(sizes, []int{1, 1, 2, 3, 7, Slice + 1}[random.IntN(6)])
		}
		var shown []events.Recorded
		for _, r := range ledger(sizes...) {
			if random.IntN(3) > 0 {
				shown = append(shown, r)
			}
		}
		var held Partial
		out := 0
		for n := range shown {
			whole, err := held.Add(shown[n : n+1])
			if err != nil {
				t.Fatal(err)
			}
			for i := range whole {
				if whole[i].Position != shown[out].Position {
					t.Fatalf("position %d, want %d", whole[i].Position, shown[out].Position)
				}
				out++
			}
			if out > 0 && out < len(shown) && batchOf(shown[out-1]) == batchOf(shown[out]) {
				t.Fatalf("the batch from %d on came in two pieces", batchOf(shown[out]))
			}
			// What is held back is one batch, whose last part has not come: positions
			// increase, so its first and its last tell.
			if out <= n && (batchOf(shown[out]) != batchOf(shown[n]) || shown[n].Last()) {
				t.Fatalf("position %d is held back behind %d", shown[out].Position, shown[n].Position)
			}
		}
	}
}

func batchOf(r events.Recorded) events.Position {
	return r.Position - events.Position(max(r.Meta.BatchIndex, 1)-1)
}

func TestPartialTorn(t *testing.T) {
	part := func(pos events.Position, index, size int) events.Recorded {
		return events.Recorded{Position: pos, Meta: events.Meta{BatchIndex: index, BatchSize: size}}
	}
	for name, facts := range map[string][]events.Recorded{
		"comes twice":             {part(4, 0, 0), part(4, 0, 0)},
		"goes back":               {part(4, 0, 0), part(3, 0, 0)},
		"a fact within":           {part(4, 1, 3), part(5, 0, 0)},
		"another batch within":    {part(4, 1, 3), part(6, 1, 2)},
		"another size":            {part(4, 1, 3), part(5, 2, 4)},
		"another place":           {part(4, 1, 3), part(6, 2, 3)},
		"begins before the last":  {part(4, 0, 0), part(5, 3, 3)},
		"begins before the first": {part(4, 0, 0), part(6, 3, 3)},
	} {
		var held Partial
		if _, err := held.Add(facts); !errors.Is(err, events.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Whoever follows from a part's position meets the next part first.
	var held Partial
	if whole, err := held.Add([]events.Recorded{part(6, 3, 3), part(9, 1, 2)}); err != nil || len(whole) != 1 {
		t.Errorf("%d facts: %v", len(whole), err)
	}
}

func TestSpread(t *testing.T) {
	for _, n := range []int{1, alone, alone + 1, events.MaxBatch} {
		called := make([]int, n)
		if err := spread(n, func(i int) error {
			called[i]++
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for i, c := range called {
			if c != 1 {
				t.Fatalf("%d of %d was called %d times", i, n, c)
			}
		}
		fault := errors.New("fault")
		if err := spread(n, func(i int) error {
			if i == n-1 {
				return fault
			}
			return nil
		}); !errors.Is(err, fault) {
			t.Fatalf("of %d: %v", n, err)
		}
	}
}
