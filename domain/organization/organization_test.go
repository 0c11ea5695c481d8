package organization

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

var name = events.ClearText("Acme")

func fold(s State, facts []events.Event) State {
	for _, e := range facts {
		s = Evolve(s, e)
	}
	return s
}

func acme(t *testing.T) State {
	t.Helper()
	facts, err := Decide(State{}, Create{ID: "acme", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return fold(State{}, facts)
}

func TestLife(t *testing.T) {
	s := acme(t)
	if diff := cmp.Diff(State{Exists: true, ID: "acme", Name: name, Plan: events.PlanGrowth}, s); diff != "" || !s.Live() {
		t.Fatalf("created otherwise: %s", diff)
	}
	update := Update{
		Name: domain.Some(events.ClearText("Acme Inc")), Plan: domain.Some(events.PlanEnterprise),
		Limits: domain.Some(events.Limits{MaxActiveKeys: 10, MaxKeyLifetime: "1y"}),
		Policy: domain.Some(events.Policy{DefaultPrefix: "acme_live", DefaultExpiresIn: "90d", RotationDueAfter: "3mo"}),
	}
	facts, err := Decide(s, update)
	if err != nil || len(facts) != 4 {
		t.Fatalf("%v, %v", facts, err)
	}
	s = fold(s, facts)
	want := State{
		Exists: true, ID: "acme", Name: update.Name.Value, Plan: update.Plan.Value, Limits: update.Limits.Value, Policy: update.Policy.Value,
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Fatal(diff)
	}
	for _, c := range []Command{update, Update{}, Update{Name: domain.Some(s.Name)}} {
		if facts, err := Decide(s, c); err != nil || len(facts) != 0 {
			t.Errorf("a wish that changes nothing gave %v, %v", facts, err)
		}
	}
	facts, err = Decide(s, Delete{})
	if err != nil || len(facts) != 1 {
		t.Fatalf("%v, %v", facts, err)
	}
	if s = fold(s, facts); s.Live() {
		t.Fatal("it lives on")
	}
	if facts, err := Decide(s, Delete{}); err != nil || len(facts) != 0 {
		t.Errorf("ending it twice gave %v, %v", facts, err)
	}
	if _, err := Decide(s, update); !errors.Is(err, domain.ErrEnded) {
		t.Errorf("changed after its end: %v", err)
	}
	if _, err := Decide(s, Create{ID: "acme", Name: name}); !errors.Is(err, domain.ErrExists) {
		t.Errorf("begun again after its end: %v", err)
	}
}

func TestExpiryNotices(t *testing.T) {
	wish := func(list ...events.Period) Update { return Update{ExpiryNotices: domain.Some(list)} }
	s := acme(t)
	for _, step := range []struct {
		what string
		wish Update
		want []events.Period
		gave int
	}{
		{"set", wish("1d", "14d"), []events.Period{"14d", "1d"}, 1},
		{"again, in another order", wish("14d", "1d", "14d"), []events.Period{"14d", "1d"}, 0},
		{"another member", Update{DefaultPrefix: domain.Some("acme_live")}, []events.Period{"14d", "1d"}, 1},
		{"replaced", wish("1mo", "1y", "30d", "12mo", "366d"), []events.Period{"366d", "12mo", "1mo", "30d"}, 1},
		{"as many as may be, after what is the same", wish("1d", "2d", "3d", "4d", "5d", "5d"), []events.Period{"5d", "4d", "3d", "2d", "1d"}, 1},
		{"cleared", wish(), nil, 1},
		{"cleared again", wish(), nil, 0},
	} {
		before := slices.Clone(step.wish.ExpiryNotices.Value)
		facts, err := Decide(s, step.wish)
		if err != nil || len(facts) != step.gave {
			t.Fatalf("%s: %v, %v", step.what, facts, err)
		}
		s = fold(s, facts)
		if !slices.Equal(s.Policy.ExpiryNotices, step.want) {
			t.Errorf("%s: %v, want %v", step.what, s.Policy.ExpiryNotices, step.want)
		}
		if !slices.Equal(before, step.wish.ExpiryNotices.Value) {
			t.Errorf("%s: the wish was written to", step.what)
		}
	}
	facts, err := Decide(State{}, Create{ID: "beta", Name: name, Policy: events.Policy{ExpiryNotices: []events.Period{"1d", "7d"}}})
	if err != nil || !slices.Equal(fold(State{}, facts).Policy.ExpiryNotices, []events.Period{"7d", "1d"}) {
		t.Errorf("%v, %v", facts, err)
	}
	for what, list := range map[string][]events.Period{
		"too many": {"1d", "2d", "3d", "4d", "5d", "6d"}, "never": {"14d", "never"}, "empty": {""}, "no period": {"1w"}, "minutes": {"15m"},
	} {
		facts, err := Decide(s, wish(list...))
		var refusal *domain.Refusal
		if !errors.As(err, &refusal) || !errors.Is(err, domain.ErrInvalid) || refusal.Field != "policy.expiry_notices" || len(facts) != 0 {
			t.Errorf("%s: %v, %v", what, facts, err)
		}
	}
}

// The end stands on another subject, and may be folded first.
func TestEndIsAbsorbing(t *testing.T) {
	created := events.OrganizationCreated{ID: "acme", Name: name, Plan: events.PlanGrowth}
	s := fold(State{}, []events.Event{events.OrganizationDeleted{}, created, events.OrganizationRenamed{Name: name}})
	if s.Live() || !s.Ended {
		t.Fatalf("%+v", s)
	}
}

func TestRefusals(t *testing.T) {
	s := acme(t)
	create := func(change func(*Create)) Create {
		c := Create{ID: "beta", Name: name}
		change(&c)
		return c
	}
	system := fold(State{}, []events.Event{events.OrganizationCreated{ID: events.System, Name: name, Plan: events.PlanEnterprise}})
	for what, c := range map[string]struct {
		state   State
		command Command
		is      error
		field   string
	}{
		"taken":              {s, Create{ID: "acme", Name: name}, domain.ErrExists, "id"},
		"bad id":             {State{}, create(func(c *Create) { c.ID = "Acme Corp" }), domain.ErrInvalid, "id"},
		"no name":            {State{}, create(func(c *Create) { c.Name = events.Text{} }), domain.ErrInvalid, "name"},
		"long name":          {State{}, create(func(c *Create) { c.Name.Clear = strings.Repeat("x", 201) }), domain.ErrInvalid, "name"},
		"control in name":    {State{}, create(func(c *Create) { c.Name.Clear = "a\tb" }), domain.ErrInvalid, "name"},
		"bidi in name":       {State{}, create(func(c *Create) { c.Name.Clear = "a\u202eb" }), domain.ErrInvalid, "name"},
		"space about a name": {State{}, create(func(c *Create) { c.Name.Clear = " a" }), domain.ErrInvalid, "name"},
		"no UTF-8":           {State{}, create(func(c *Create) { c.Name.Clear = "a\xff" }), domain.ErrInvalid, "name"},
		"plan":               {State{}, create(func(c *Create) { c.Plan = "gold" }), domain.ErrInvalid, "plan"},
		"negative limit":     {State{}, create(func(c *Create) { c.Limits.MaxActiveKeys = -1 }), domain.ErrInvalid, "limits.max_active_keys"},
		"high limit":         {State{}, create(func(c *Create) { c.Limits.MaxActiveKeys = 1001 }), domain.ErrInvalid, "limits.max_active_keys"},
		"lifetime":           {State{}, create(func(c *Create) { c.Limits.MaxKeyLifetime = "90" }), domain.ErrInvalid, "limits.max_key_lifetime"},
		"prefix":             {State{}, create(func(c *Create) { c.Policy.DefaultPrefix = "Acme-" }), domain.ErrInvalid, "policy.default_prefix"},
		"default expiry":     {State{}, create(func(c *Create) { c.Policy.DefaultExpiresIn = "soon" }), domain.ErrInvalid, "policy.default_expires_in"},
		"rotation":           {State{}, create(func(c *Create) { c.Policy.RotationDueAfter = "15m" }), domain.ErrInvalid, "policy.rotation_due_after"},
		"update of none":     {State{}, Update{Name: domain.Some(name)}, domain.ErrNotFound, ""},
		"end of none":        {State{}, Delete{}, domain.ErrNotFound, ""},
		"end of system":      {system, Delete{}, domain.ErrForbidden, ""},
		"update: no name":    {s, Update{Name: domain.Some(events.Text{})}, domain.ErrInvalid, "name"},
		"update: plan":       {s, Update{Plan: domain.Some(events.Plan("gold"))}, domain.ErrInvalid, "plan"},
		"nothing":            {s, nil, domain.ErrInvalid, ""},
	} {
		t.Run(what, func(t *testing.T) {
			facts, err := Decide(c.state, c.command)
			var refusal *domain.Refusal
			if !errors.As(err, &refusal) || !errors.Is(err, c.is) || refusal.Field != c.field || refusal.Detail == "" || len(facts) != 0 {
				t.Errorf("%v, %v, want %v of %q", facts, err, c.is, c.field)
			}
		})
	}
}
