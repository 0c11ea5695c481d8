package erasure

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

func TestDecide(t *testing.T) {
	had := Evolve(State{}, events.SubjectErased{Keys: []string{"a", "b"}})
	for _, one := range []struct {
		what string
		had  State
		wish Erase
		want [][]string
		err  error
	}{
		{"nothing ever", State{}, Erase{}, nil, domain.ErrNotFound},
		{"nothing ever, insisting", State{}, Erase{Insist: true}, nil, domain.ErrNotFound},
		{"the first", State{}, Erase{Held: []string{"a"}}, [][]string{{"a"}}, nil},
		{"several, in order and each once", State{}, Erase{Held: []string{"b", "a", "b"}}, [][]string{{"a", "b"}}, nil},
		{"the next", had, Erase{Held: []string{"c"}}, [][]string{{"c"}}, nil},
		{"nothing more", had, Erase{}, nil, nil},
		{"nothing more, insisting", had, Erase{Insist: true}, [][]string{{}}, nil},
		{"not destroyed yet", had, Erase{Held: []string{"a"}}, nil, nil},
		{"one of them new", had, Erase{Held: []string{"a", "c"}}, [][]string{{"c"}}, nil},
		{"not understood", Evolve(had, events.Unknown{Name: "subject.other.v1"}), Erase{Held: []string{"c"}}, nil, domain.ErrConflict},
	} {
		facts, err := Decide(one.had, one.wish)
		if !errors.Is(err, one.err) || len(facts) != len(one.want) {
			t.Errorf("%s: %v, %v", one.what, facts, err)
			continue
		}
		for i, f := range facts {
			if keys := f.(events.SubjectErased).Keys; keys == nil || !slices.Equal(keys, one.want[i]) {
				t.Errorf("%s: %q, want %q", one.what, keys, one.want[i])
			}
		}
	}
}

// Whatever is held when, no key is named twice and none is left out.
func TestEveryKeyIsNamedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var state State
		seen, named := map[string]bool{}, map[string]int{}
		for range rapid.IntRange(1, 10).Draw(t, "times") {
			held := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 0, 3).Draw(t, "held")
			facts, err := Decide(state, Erase{Held: held, Insist: rapid.Bool().Draw(t, "insist")})
			if len(held) == 0 && state.Times == 0 {
				if !errors.Is(err, domain.ErrNotFound) {
					t.Fatal(err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range held {
				seen[id] = true
			}
			before := state
			for _, f := range facts {
				for _, id := range f.(events.SubjectErased).Keys {
					named[id]++
				}
				if state = Evolve(state, f); len(before.Erased) > len(state.Erased) {
					t.Fatal("something came back")
				}
			}
		}
		for id := range seen {
			if named[id] != 1 || !state.Erased[id] {
				t.Fatalf("%s is named %d times", id, named[id])
			}
		}
	})
}
