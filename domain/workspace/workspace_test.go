package workspace

import (
	"errors"
	"testing"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

func decide(t *testing.T, s State, c Command, facts int) State {
	t.Helper()
	got, err := Decide(s, c)
	if err != nil || len(got) != facts {
		t.Fatalf("%T gave %v, %v, want %d facts", c, got, err, facts)
	}
	for _, e := range got {
		s = Evolve(s, e)
	}
	return s
}

func TestLife(t *testing.T) {
	first, second := events.ClearText("First"), events.ClearText("Second")
	s := decide(t, State{}, Create{ID: "w", Name: first}, 1)
	if s != (State{Exists: true, ID: "w", Name: first}) || !s.Live() {
		t.Fatalf("%+v", s)
	}
	decide(t, s, Update{}, 0)
	decide(t, s, Update{Name: domain.Some(first)}, 0)
	if s = decide(t, s, Update{Name: domain.Some(second)}, 1); s.Name != second {
		t.Fatalf("%+v", s)
	}
	if s = decide(t, s, Delete{}, 1); s.Live() {
		t.Fatal("it lives on")
	}
	decide(t, s, Delete{}, 0)
	if _, err := Decide(s, Update{Name: domain.Some(first)}); !errors.Is(err, domain.ErrEnded) {
		t.Errorf("changed after its end: %v", err)
	}
	if _, err := Decide(s, Create{ID: "w", Name: first}); !errors.Is(err, domain.ErrExists) {
		t.Errorf("its id was used again: %v", err)
	}
	if s = Evolve(s, events.WorkspaceCreated{ID: "w", Name: first}); s.Live() {
		t.Error("an old fact brought it back")
	}
}

func TestRefusals(t *testing.T) {
	name := events.ClearText("W")
	live := decide(t, State{}, Create{ID: "w", Name: name}, 1)
	for what, c := range map[string]struct {
		state   State
		command Command
		is      error
		field   string
	}{
		"bad id":      {State{}, Create{ID: "a.b", Name: name}, domain.ErrInvalid, "id"},
		"no name":     {State{}, Create{ID: "w"}, domain.ErrInvalid, "name"},
		"not there":   {State{}, Update{Name: domain.Some(name)}, domain.ErrNotFound, ""},
		"none to end": {State{}, Delete{}, domain.ErrNotFound, ""},
		"unnamed":     {live, Update{Name: domain.Some(events.Text{})}, domain.ErrInvalid, "name"},
		"nothing":     {live, nil, domain.ErrInvalid, ""},
	} {
		facts, err := Decide(c.state, c.command)
		var refusal *domain.Refusal
		if !errors.As(err, &refusal) || !errors.Is(err, c.is) || refusal.Field != c.field || len(facts) != 0 {
			t.Errorf("%s: %v, %v, want %v of %q", what, facts, err, c.is, c.field)
		}
	}
}
