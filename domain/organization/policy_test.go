package organization

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// Every member of a policy is set and cleared by itself, and a wish for what is so
// already gives no fact.
func TestPolicyMembers(t *testing.T) {
	s := acme(t)
	want := events.Policy{}
	for _, step := range []struct {
		what string
		wish Update
		then func()
		gave int
	}{
		{"longest", Update{LongestLifetime: domain.Some(events.Period("1y"))}, func() { want.MaxKeyLifetime = "1y" }, 1},
		{"choices", Update{ExpiryChoices: domain.Some([]events.Period{"1y", "30d", "12mo", "30d"})}, func() { want.ExpiryChoices = []events.Period{"30d", "12mo"} }, 1},
		{"the same choices", Update{ExpiryChoices: domain.Some([]events.Period{"12mo", "30d"})}, func() {}, 0},
		{"default", Update{DefaultExpiresIn: domain.Some(events.Period("1y"))}, func() { want.DefaultExpiresIn = "1y" }, 1},
		{"must expire", Update{ExpiryRequired: domain.Some(true)}, func() { want.ExpiryRequired = true }, 1},
		{"named", Update{NameRequired: domain.Some(true)}, func() { want.NameRequired = true }, 1},
		{"source", Update{NewSource: domain.Some(events.SwitchOff)}, func() { want.Signals.NewSource = events.SwitchOff }, 1},
		{"spike", Update{DenialsSpike: domain.Some(events.SwitchOn), DenialsPerMinute: domain.Some(2)}, func() {
			want.Signals.DenialsSpike, want.Signals.DenialsPerMinute = events.SwitchOn, 2
		}, 1},
		{"resolves", Update{ResolvesPerMinute: domain.Some(2)}, func() { want.Signals.ResolvesPerMinute = 2 }, 1},
		{"signals anew, but one", Update{Signals: domain.Some(events.Signals{}), DenialsPerMinute: domain.Some(100_000)}, func() {
			want.Signals = events.Signals{DenialsPerMinute: 100_000}
		}, 1},
		{"any choice", Update{ExpiryChoices: domain.Some([]events.Period(nil))}, func() { want.ExpiryChoices = nil }, 1},
		{"need not expire", Update{ExpiryRequired: domain.Some(false)}, func() { want.ExpiryRequired = false }, 1},
		{"anew, but one", Update{Policy: domain.Some(events.Policy{}), NameRequired: domain.Some(true)}, func() { want = events.Policy{NameRequired: true} }, 1},
	} {
		facts, err := Decide(s, step.wish)
		if err != nil || len(facts) != step.gave {
			t.Fatalf("%s: %v, %v", step.what, facts, err)
		}
		step.then()
		if s = fold(s, facts); !cmp.Equal(s.Policy, want) {
			t.Fatalf("%s: %s", step.what, cmp.Diff(want, s.Policy))
		}
	}
}

// A policy that contradicts itself is refused whichever part of it comes last.
func TestPolicyThatContradictsItself(t *testing.T) {
	long := make([]events.Period, 0, events.MaxExpiryChoices+1)
	for _, unit := range []string{"d", "mo", "y"} {
		for n := '1'; n <= '7'; n++ {
			long = append(long, events.Period(string(n)+unit))
		}
	}
	for what, c := range map[string]struct {
		policy events.Policy
		field  string
	}{
		"never, and must expire":      {events.Policy{ExpiryRequired: true, ExpiryChoices: []events.Period{"30d", "never"}}, "policy.expiry_choices"},
		"a choice beyond the longest": {events.Policy{MaxKeyLifetime: "90d", ExpiryChoices: []events.Period{"30d", "3mo"}}, "policy.expiry_choices"},
		"never beyond the longest":    {events.Policy{MaxKeyLifetime: "90d", ExpiryChoices: []events.Period{"never"}}, "policy.expiry_choices"},
		"a default that is no choice": {events.Policy{DefaultExpiresIn: "31d", ExpiryChoices: []events.Period{"30d", "90d"}}, "policy.default_expires_in"},
		"an endless default":          {events.Policy{DefaultExpiresIn: "never", ExpiryRequired: true}, "policy.default_expires_in"},
		"a default beyond":            {events.Policy{DefaultExpiresIn: "1y", MaxKeyLifetime: "90d"}, "policy.default_expires_in"},
		"no period":                   {events.Policy{ExpiryChoices: []events.Period{""}}, "policy.expiry_choices"},
		"too many":                    {events.Policy{ExpiryChoices: long}, "policy.expiry_choices"},
		"no longest":                  {events.Policy{MaxKeyLifetime: "1w"}, "policy.max_key_lifetime"},
		"a switch":                    {events.Policy{Signals: events.Signals{NewSource: "yes"}}, "policy.signals.new_source"},
		"another":                     {events.Policy{Signals: events.Signals{DenialsSpike: "ON"}}, "policy.signals.denials_spike"},
		"one a minute":                {events.Policy{Signals: events.Signals{DenialsPerMinute: 1}}, "policy.signals.denials_per_minute"},
		"one resolve a minute":        {events.Policy{Signals: events.Signals{ResolvesPerMinute: 1}}, "policy.signals.resolves_per_minute"},
		"too many resolves a minute":  {events.Policy{Signals: events.Signals{ResolvesPerMinute: 1_000_001}}, "policy.signals.resolves_per_minute"},
		"too many a minute":           {events.Policy{Signals: events.Signals{DenialsPerMinute: 100_001}}, "policy.signals.denials_per_minute"},
	} {
		_, created := Decide(State{}, Create{ID: "beta", Name: name, Policy: c.policy})
		_, updated := Decide(acme(t), Update{Policy: domain.Some(c.policy)})
		for _, err := range []error{created, updated} {
			var refusal *domain.Refusal
			if !errors.As(err, &refusal) || !errors.Is(err, domain.ErrInvalid) || refusal.Field != c.field {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	kept := events.Policy{MaxKeyLifetime: "never", ExpiryChoices: []events.Period{"1mo", "never"}, DefaultExpiresIn: "never"}
	facts, err := Decide(State{}, Create{ID: "beta", Name: name, Policy: kept})
	if err != nil || !slices.Equal(fold(State{}, facts).Policy.ExpiryChoices, kept.ExpiryChoices) {
		t.Errorf("%v, %v", facts, err)
	}
}
