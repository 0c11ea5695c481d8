package organization

import (
	"errors"
	"testing"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// Sealing is switched on and never off again, whatever else of the policy changes.
func TestSealingStaysOn(t *testing.T) {
	set := func(v events.Switch) Update { return Update{Sealing: domain.Some(v)} }
	for _, step := range []struct {
		what    string
		had     events.Switch
		wish    Update
		gave    int
		refused bool
		want    events.Switch
	}{
		{"off at first", "", set(events.SwitchOff), 1, false, events.SwitchOff},
		{"on", "", set(events.SwitchOn), 1, false, events.SwitchOn},
		{"on after off", events.SwitchOff, set(events.SwitchOn), 1, false, events.SwitchOn},
		{"on again", events.SwitchOn, set(events.SwitchOn), 0, false, events.SwitchOn},
		{"off", events.SwitchOn, set(events.SwitchOff), 0, true, events.SwitchOn},
		{"cleared", events.SwitchOn, set(""), 0, true, events.SwitchOn},
		{"neither", "", set("maybe"), 0, true, ""},
		{"another policy that does not mention it", events.SwitchOn, Update{Policy: domain.Some(events.Policy{NameRequired: true})}, 1, false, events.SwitchOn},
		{"another policy that ends it", events.SwitchOn, Update{Policy: domain.Some(events.Policy{Sealing: events.SwitchOff})}, 0, true, events.SwitchOn},
		{"something else", events.SwitchOn, Update{NameRequired: domain.Some(true)}, 1, false, events.SwitchOn},
	} {
		s := acme(t)
		s.Policy.Sealing = step.had
		facts, err := Decide(s, step.wish)
		if errors.Is(err, domain.ErrInvalid) != step.refused || len(facts) != step.gave {
			t.Errorf("%s: %v, %v", step.what, facts, err)
		}
		if got := fold(s, facts).Policy.Sealing; got != step.want {
			t.Errorf("%s: it is %q, want %q", step.what, got, step.want)
		}
	}
	if _, err := Decide(State{}, Create{ID: "acme", Name: events.ClearText("Acme"), Policy: events.Policy{Sealing: "maybe"}}); !errors.Is(err, domain.ErrInvalid) {
		t.Error(err)
	}
}
