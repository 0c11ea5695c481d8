package profile

import (
	"errors"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
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
	s := decide(t, State{}, Create{ID: "p", Name: first, Settings: events.Document(` { "b" : 1.50, "a" : [ true ] } `)}, 1)
	if got := string(s.Settings); got != `{"b":1.50,"a":[true]}` || !s.Live() {
		t.Fatalf("settings %s", got)
	}
	if bare := decide(t, State{}, Create{ID: "q", Name: first}, 1); string(bare.Settings) != "{}" {
		t.Fatalf("settings %s", bare.Settings)
	}
	decide(t, s, Update{Name: domain.Some(first), Settings: domain.Some(events.Document(`{"b":1.50,  "a":[true]}`))}, 0)
	s = decide(t, s, Update{Name: domain.Some(second), Settings: domain.Some(events.Document(nil))}, 2)
	if s.Name != second || string(s.Settings) != "{}" {
		t.Fatalf("%+v", s)
	}
	if s = decide(t, s, Delete{}, 1); s.Live() {
		t.Fatal("it lives on")
	}
	decide(t, s, Delete{}, 0)
	if _, err := Decide(s, Update{Name: domain.Some(first)}); !errors.Is(err, domain.ErrEnded) {
		t.Errorf("changed after its end: %v", err)
	}
	if _, err := Decide(s, Create{ID: "p", Name: first}); !errors.Is(err, domain.ErrExists) {
		t.Errorf("its id was used again: %v", err)
	}
	if s = Evolve(s, events.ProfileCreated{ID: "p", Name: first}); s.Live() {
		t.Error("an old fact brought it back")
	}
}

// A key that is written with escapes reads as it is, and so does what looks for it.
func TestSettingsHideNothingBehindEscapes(t *testing.T) {
	secret, err := keystring.New("kl_live", [24]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	escaped := strings.Replace(secret.Reveal(), "_", "\\u005f", 2)
	s := decide(t, State{}, Create{ID: "p", Name: events.ClearText("P"), Settings: events.Document(`{"token":"` + escaped + `"}`)}, 1)
	if !keystring.Contains(string(s.Settings)) {
		t.Error("an escaped key is not found in the settings")
	}
}

func TestRefusals(t *testing.T) {
	name := events.ClearText("P")
	live := decide(t, State{}, Create{ID: "p", Name: name}, 1)
	settings := func(doc string) Create { return Create{ID: "p", Name: name, Settings: events.Document(doc)} }
	for what, c := range map[string]struct {
		state   State
		command Command
		is      error
		field   string
	}{
		"bad id":      {State{}, Create{ID: "P", Name: name}, domain.ErrInvalid, "id"},
		"no name":     {State{}, Create{ID: "p"}, domain.ErrInvalid, "name"},
		"a list":      {State{}, settings(`[1]`), domain.ErrInvalid, "settings"},
		"null":        {State{}, settings(`null`), domain.ErrInvalid, "settings"},
		"no JSON":     {State{}, settings(`{"a":}`), domain.ErrInvalid, "settings"},
		"more":        {State{}, settings(`{} {}`), domain.ErrInvalid, "settings"},
		"twice":       {State{}, settings(`{"a":1,"a":2}`), domain.ErrInvalid, "settings"},
		"no UTF-8":    {State{}, settings("{\"a\":\"\xff\"}"), domain.ErrInvalid, "settings"},
		"too large":   {State{}, settings(`{"a":"` + strings.Repeat("x", events.MaxSettingsBytes) + `"}`), domain.ErrInvalid, "settings"},
		"update":      {live, Update{Settings: domain.Some(events.Document(`7`))}, domain.ErrInvalid, "settings"},
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
