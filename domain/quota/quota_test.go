package quota

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

func id(n int) events.KeyID { return events.KeyID{byte(n >> 8), byte(n)} }

// The guard against a naive oracle: a limit is never exceeded by a take, ended
// holders are released only by a take that finds it full, and a rotation passes
// whatever the limit is by now.
func TestHoldersNeverExceedTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var (
			state State
			model []events.KeyID
			ended []events.KeyID
			next  int
		)
		limit := rapid.IntRange(1, 6).Draw(t, "limit")
		decide := func(c Command) error {
			facts, err := Decide(state, c)
			if err != nil {
				if !errors.Is(err, domain.ErrKeyLimitReached) || len(facts) != 0 {
					t.Fatalf("%v with %d facts", err, len(facts))
				}
				return err
			}
			for _, f := range facts {
				state = Evolve(state, f)
			}
			return nil
		}
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				next++
				err := decide(Take{Key: id(next), Limit: limit, Ended: ended})
				if len(model) >= limit {
					model = slices.DeleteFunc(model, func(k events.KeyID) bool { return slices.Contains(ended, k) })
				}
				if len(model) >= limit {
					if err == nil {
						t.Fatalf("took place %d of %d", len(model)+1, limit)
					}
					// Refused: nothing was released either.
					model = slices.Clone(state.Holders)
					return
				}
				if model = append(model, id(next)); err != nil {
					t.Fatalf("refused place %d of %d: %v", len(model), limit, err)
				}
				if len(state.Holders) > limit {
					t.Fatalf("%d hold %d places", len(state.Holders), limit)
				}
			},
			"end": func(t *rapid.T) {
				if len(model) > 0 {
					ended = append(ended, rapid.SampledFrom(model).Draw(t, "key"))
				}
			},
			"rotate": func(t *rapid.T) {
				if len(model) == 0 {
					return
				}
				next++
				old := rapid.SampledFrom(model).Draw(t, "key")
				if err := decide(Replace{Old: old, New: id(next), Limit: limit}); err != nil {
					t.Fatalf("a rotation was refused: %v", err)
				}
				model = append(slices.DeleteFunc(model, func(k events.KeyID) bool { return k == old }), id(next))
			},
			"relimit": func(t *rapid.T) { limit = rapid.IntRange(1, 6).Draw(t, "limit") },
			"": func(t *rapid.T) {
				if !slices.Equal(state.Holders, model) {
					t.Fatalf("holders %v, want %v", state.Holders, model)
				}
			},
		})
	})
}

func TestReplaceOfAHolderUnknownToTheGuardTakesAPlace(t *testing.T) {
	full := State{Limit: 1, Holders: []events.KeyID{id(1)}}
	if _, err := Decide(full, Replace{Old: id(7), New: id(8), Limit: 1}); !errors.Is(err, domain.ErrKeyLimitReached) {
		t.Fatalf("%v", err)
	}
	facts, err := Decide(full, Replace{Old: id(7), New: id(8), Limit: 1, Ended: []events.KeyID{id(1)}})
	if err != nil || !slices.Equal(Evolve(full, facts[0]).Holders, []events.KeyID{id(8)}) {
		t.Fatalf("%v, %v", facts, err)
	}
}

func TestReset(t *testing.T) {
	facts, err := Decide(State{}, Reset{Limit: 3, Holders: []events.KeyID{id(1)}})
	if err != nil || len(facts) != 1 {
		t.Fatalf("%v, %v", facts, err)
	}
	s := Evolve(State{}, facts[0])
	if s.Limit != 3 || !s.Holds(id(1)) || s.Holds(id(2)) {
		t.Fatalf("%+v", s)
	}
	if again, err := Decide(s, Reset{Limit: 3, Holders: []events.KeyID{id(1)}}); err != nil || len(again) != 0 {
		t.Fatalf("a reset that changes nothing gave %v, %v", again, err)
	}
	// More holders than the limit is allowed: nobody is thrown out, and nobody gets in.
	facts, err = Decide(s, Reset{Limit: 1, Holders: []events.KeyID{id(1), id(2)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decide(Evolve(s, facts[0]), Take{Key: id(3), Limit: 1}); !errors.Is(err, domain.ErrKeyLimitReached) {
		t.Fatalf("%v", err)
	}
	var refusal *domain.Refusal
	if _, err := Decide(s, Reset{Limit: 1, Holders: make([]events.KeyID, events.MaxActiveKeysLimit+1)}); !errors.As(err, &refusal) || refusal.Field != "limits.max_active_keys" {
		t.Fatalf("%v", err)
	}
}

// Whoever decides may share the state with others who do.
func TestDecideLeavesTheStateAlone(t *testing.T) {
	holders := append(make([]events.KeyID, 0, 8), id(1), id(2), id(3))
	s := State{Limit: 3, Holders: holders}
	for _, c := range []Command{
		Take{Key: id(4), Limit: 4},
		Take{Key: id(4), Limit: 3, Ended: []events.KeyID{id(1)}},
		Admit{Keys: []events.KeyID{id(4), id(5)}, Limit: 4, Partly: true},
		Replace{Old: id(1), New: id(4), Limit: 3},
		Reset{Limit: 9, Holders: []events.KeyID{id(9)}},
	} {
		if _, err := Decide(s, c); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(holders[:4], []events.KeyID{id(1), id(2), id(3), {}}) {
			t.Fatalf("%T changed the holders to %v", c, holders[:4])
		}
	}
}

// Several at once get what taking one after another would give them.
func TestAdmitIsTakingOneAfterAnother(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit, had, want := rapid.IntRange(1, 8).Draw(t, "limit"), rapid.IntRange(0, 8).Draw(t, "had"), rapid.IntRange(1, 8).Draw(t, "want")
		var s State
		var ended, keys []events.KeyID
		for n := range had {
			s.Holders = append(s.Holders, id(n))
			if rapid.Bool().Draw(t, "ended") {
				ended = append(ended, id(n))
			}
		}
		one := s
		if had+want > limit {
			one.Holders = without(s.Holders, ended)
		}
		for n := range want {
			keys = append(keys, id(100+n))
			if facts, err := Decide(one, Take{Key: id(100 + n), Limit: limit}); err == nil {
				one = Evolve(one, facts[0])
			}
		}
		facts, err := Decide(s, Admit{Keys: keys, Limit: limit, Ended: ended, Partly: true})
		if !one.Holds(id(100)) {
			if !errors.Is(err, domain.ErrKeyLimitReached) {
				t.Fatalf("%v", err)
			}
			return
		}
		if err != nil || !slices.Equal(Evolve(s, facts[0]).Holders, one.Holders) {
			t.Fatalf("%v, %v; want %v", facts, err, one.Holders)
		}
		if _, err := Decide(s, Admit{Keys: keys, Limit: limit, Ended: ended}); (err == nil) != one.Holds(keys[want-1]) {
			t.Fatalf("all or nothing: %v", err)
		}
	})
}
