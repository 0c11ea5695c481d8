package key

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/domain/period"
	"github.com/keyledger/keyledger/events"
)

// Of several rules that a wish breaks the first is told, by the member that breaks
// it, and the detail begins with its name.
func TestWhichRuleIsTold(t *testing.T) {
	all := events.Policy{MaxKeyLifetime: "90d", ExpiryRequired: true, ExpiryChoices: []events.Period{"7d", "30d"}, NameRequired: true}
	but := func(change func(*events.Policy)) events.Policy {
		p := all
		change(&p)
		return p
	}
	named := events.ClearText("a")
	for what, c := range map[string]struct {
		policy events.Policy
		limit  events.Period
		name   events.Text
		wish   Expiry
		is     error
		field  string
		rule   string
	}{
		"a name first":             {all, "1d", events.Text{}, Expiry{In: "never"}, domain.ErrPolicy, "name", "policy.name_required: "},
		"the limit next":           {all, "1d", named, Expiry{In: "never"}, domain.ErrLifetimeTooLong, "expires_in", "keys of this organization may live 1d at most"},
		"then that it expires":     {all, "", named, Expiry{In: "never"}, domain.ErrPolicy, "expires_in", "policy.expiry_required: "},
		"then the choices":         {all, "", named, Expiry{In: "1y"}, domain.ErrPolicy, "expires_in", "policy.expiry_choices: must be one of 7d, 30d"},
		"no instant beside them":   {all, "", named, Expiry{At: noon.Add(time.Hour)}, domain.ErrPolicy, "expires_at", "policy.expiry_choices: "},
		"not even as far":          {all, "", named, Expiry{At: period.Add(noon, "7d")}, domain.ErrPolicy, "expires_at", "policy.expiry_choices: "},
		"nor nothing":              {all, "", named, Expiry{}, domain.ErrPolicy, "expires_in", "policy.expiry_choices: say when"},
		"nothing, never a choice":  {but(func(p *events.Policy) { p.ExpiryRequired, p.ExpiryChoices = false, []events.Period{"7d", "never"} }), "", named, Expiry{}, domain.ErrPolicy, "expires_in", "policy.expiry_choices: say when"},
		"the longest last":         {but(func(p *events.Policy) { p.ExpiryChoices = nil }), "", named, Expiry{In: "91d"}, domain.ErrPolicy, "expires_in", "policy.max_key_lifetime: keys of this organization may live 90d at most"},
		"the longest, an instant":  {but(func(p *events.Policy) { p.ExpiryChoices = nil }), "", named, Expiry{At: period.Add(noon, "91d")}, domain.ErrPolicy, "expires_at", "policy.max_key_lifetime: "},
		"the longest, for ever":    {events.Policy{MaxKeyLifetime: "90d"}, "", named, Expiry{In: "never"}, domain.ErrPolicy, "expires_in", "policy.max_key_lifetime: "},
		"nothing to expire by":     {events.Policy{ExpiryRequired: true}, "", named, Expiry{}, domain.ErrPolicy, "expires_in", "policy.expiry_required: keys of this organization must expire; give expires_in"},
		"no choice in the limit":   {but(func(p *events.Policy) { p.DefaultExpiresIn = "7d" }), "1d", named, Expiry{}, domain.ErrLifetimeTooLong, "expires_in", "keys of this organization may live 1d"},
		"what is no period, first": {all, "1d", named, Expiry{In: "1w"}, domain.ErrInvalid, "expires_in", "must be <n>d"},
		"what has passed, first":   {all, "1d", named, Expiry{At: noon - 1}, domain.ErrPastExpiry, "expires_at", "must lie in the future"},
	} {
		t.Run(what, func(t *testing.T) {
			for _, kind := range []events.KeyKind{events.KindAPI, events.KindManagement} {
				wish := simple(t)
				if wish.Kind = kind; kind == events.KindManagement {
					wish.Role, wish.Permissions = events.RoleMember, events.Permissions{}
				}
				wish.Config.Organization.Policy, wish.Config.Organization.Limits.MaxKeyLifetime = c.policy, c.limit
				wish.Name, wish.Expiry = c.name, c.wish
				facts, err := Decide(State{}, wish)
				refused(t, facts, err, c.is, c.field)
				var refusal *domain.Refusal
				if errors.As(err, &refusal) && !strings.HasPrefix(refusal.Detail, c.rule) {
					t.Errorf("told %q, want %q", refusal.Detail, c.rule)
				}
				wish.Sovereign = true
				if _, err := Decide(State{}, wish); errors.Is(err, domain.ErrPolicy) || errors.Is(err, domain.ErrLifetimeTooLong) {
					t.Errorf("a sovereign wish was refused: %v", err)
				}
			}
		})
	}
}

// What a key has is not judged by a change that leaves it, and what it is to get is.
func TestAPolicyJudgesWhatChanges(t *testing.T) {
	end := noon.Add(20 * 24 * time.Hour).WholeSecond()
	endless := created(t, simple(t))
	bounded := evolve(endless, events.KeyExpiryChanged{ExpiresAt: end})
	named := evolve(bounded, events.KeyRenamed{Name: events.ClearText("a")})
	strict := config(t)
	strict.Organization.Policy = events.Policy{MaxKeyLifetime: "7d", ExpiryRequired: true, ExpiryChoices: []events.Period{"7d"}, NameRequired: true}
	for what, c := range map[string]struct {
		state  State
		change Update
		facts  int
	}{
		"metadata":                 {endless, Update{Metadata: domain.Some(events.Metadata{"a": events.ClearText("b")})}, 1},
		"never again":              {endless, Update{Expiry: domain.Some(Expiry{})}, 0},
		"never again, as a period": {endless, Update{Expiry: domain.Some(Expiry{In: "never"})}, 0},
		"the same instant":         {bounded, Update{Expiry: domain.Some(Expiry{At: end + 1})}, 0},
		"the same again, insisted": {bounded, Update{Expiry: domain.Some(Expiry{At: end}), Insist: true}, 1},
		"no name again":            {endless, Update{Name: domain.Some(events.Text{}), Insist: true}, 1},
		"a choice":                 {bounded, Update{Expiry: domain.Some(Expiry{In: "7d"})}, 1},
		"a name":                   {bounded, Update{Name: domain.Some(events.ClearText("b"))}, 1},
	} {
		c.change.Now, c.change.Config = noon, strict
		if facts, err := Decide(c.state, c.change); err != nil || len(facts) != c.facts {
			t.Errorf("%s: %v, %v", what, facts, err)
		}
	}
	for what, c := range map[string]struct {
		state  State
		change Update
		field  string
	}{
		"to never":           {bounded, Update{Expiry: domain.Some(Expiry{})}, "expires_at"},
		"to another instant": {bounded, Update{Expiry: domain.Some(Expiry{At: end + 1_000_000})}, "expires_at"},
		"from never":         {endless, Update{Expiry: domain.Some(Expiry{At: end})}, "expires_at"},
		"to no choice":       {endless, Update{Expiry: domain.Some(Expiry{In: "6d"})}, "expires_in"},
		"to no name":         {named, Update{Name: domain.Some(events.Text{})}, "name"},
	} {
		c.change.Now, c.change.Config = noon, strict
		facts, err := Decide(c.state, c.change)
		refused(t, facts, err, domain.ErrPolicy, c.field)
		if t.Failed() {
			t.Fatal(what)
		}
	}
}

// A rotation that says nothing of an expiry takes over the lifetime as far as the
// policy allows it.
func TestRotateFitsTheLifetimeToThePolicy(t *testing.T) {
	endless := created(t, simple(t))
	living := func(p events.Period) State {
		return evolve(endless, events.KeyExpiryChanged{ExpiresAt: period.Add(noon, p)})
	}
	choices := func(list ...events.Period) events.Policy { return events.Policy{ExpiryChoices: list} }
	for what, c := range map[string]struct {
		state  State
		policy events.Policy
		limit  events.Period
		want   events.Period
	}{
		"within":                          {living("30d"), events.Policy{MaxKeyLifetime: "90d"}, "", "30d"},
		"cut":                             {living("120d"), events.Policy{MaxKeyLifetime: "90d"}, "", "90d"},
		"cut by the limit":                {living("120d"), events.Policy{MaxKeyLifetime: "90d"}, "60d", "60d"},
		"cut by the policy":               {living("120d"), events.Policy{MaxKeyLifetime: "60d"}, "90d", "60d"},
		"endless":                         {endless, events.Policy{MaxKeyLifetime: "60d"}, "90d", "60d"},
		"endless, must expire":            {endless, events.Policy{MaxKeyLifetime: "60d", ExpiryRequired: true}, "", "60d"},
		"endless, by default":             {endless, events.Policy{DefaultExpiresIn: "30d", ExpiryRequired: true}, "", "30d"},
		"a choice":                        {living("30d"), choices("7d", "30d", "90d"), "", "30d"},
		"the nearest choice":              {living("40d"), choices("7d", "30d", "90d"), "", "30d"},
		"the nearest, longer":             {living("80d"), choices("7d", "30d", "90d"), "", "90d"},
		"the sooner of two":               {living("60d"), choices("30d", "90d"), "", "30d"},
		"the shortest":                    {living("1d"), choices("7d", "30d"), "", "7d"},
		"the longest for an endless":      {endless, choices("7d", "30d"), "", "30d"},
		"never for an endless":            {endless, choices("7d", "never"), "", "never"},
		"never cut by a limit":            {endless, choices("7d", "never"), "30d", "7d"},
		"a choice within the limit":       {living("90d"), choices("7d", "30d", "90d"), "60d", "30d"},
		"the limit that leaves no choice": {living("90d"), choices("30d", "90d"), "7d", "7d"},
	} {
		conf := config(t)
		conf.Organization.Policy, conf.Organization.Limits.MaxKeyLifetime = c.policy, c.limit
		facts, err := Decide(c.state, Rotate{Now: noon, Config: conf, Issued: issued(2)})
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if got := facts[1].(events.KeyCreated).ExpiresAt; got != period.Add(noon, c.want) {
			t.Errorf("%s: the successor ends at %s, want %s", what, got, c.want)
		}
	}
	conf := config(t)
	conf.Organization.Policy.ExpiryRequired = true
	facts, err := Decide(endless, Rotate{Now: noon, Config: conf, Issued: issued(2)})
	refused(t, facts, err, domain.ErrPolicy, "expires_in")

	// A month of February is a month in June, and no week.
	february := living("28d")
	conf.Organization.Policy = choices("7d", "1mo", "3mo")
	facts, err = Decide(february, Rotate{Now: noon, Config: conf, Issued: issued(2)})
	if err != nil || facts[1].(events.KeyCreated).ExpiresAt != period.Add(noon, "1mo") {
		t.Errorf("%v, %v", facts, err)
	}
}

// obeyed is the policy in other words: what may stand in a fact that is decided on
// at an instant.
func obeyed(policy events.Policy, limit events.Period, now, expires events.Time) (rule string, ok bool) {
	within := func(p events.Period) bool {
		end := period.Add(now, p)
		return end == 0 || expires != 0 && expires <= end
	}
	switch {
	case !within(limit):
		return "limits.max_key_lifetime", false
	case policy.ExpiryRequired && expires == 0:
		return "policy.expiry_required", false
	case len(policy.ExpiryChoices) > 0:
		return "policy.expiry_choices", slices.ContainsFunc(policy.ExpiryChoices, func(p events.Period) bool { return period.Add(now, p) == expires })
	default:
		return "policy.max_key_lifetime", within(policy.MaxKeyLifetime)
	}
}

// Whatever an organization may set as its policy, what is accepted obeys it, and
// the fact's own outcome does; and what obeys it is accepted.
func TestWhatIsAcceptedObeysThePolicy(t *testing.T) {
	base := config(t)
	endless := created(t, simple(t))
	periods := []events.Period{"1d", "7d", "28d", "30d", "31d", "1mo", "60d", "3mo", "90d", "12mo", "1y", "366d", period.Never}
	rapid.Check(t, func(t *rapid.T) {
		one := rapid.SampledFrom(periods)
		maybe := rapid.Custom(func(t *rapid.T) events.Period {
			if rapid.Bool().Draw(t, "set") {
				return one.Draw(t, "period")
			}
			return ""
		})
		policy := events.Policy{
			DefaultExpiresIn: maybe.Draw(t, "default"), MaxKeyLifetime: maybe.Draw(t, "max"), ExpiryRequired: rapid.Bool().Draw(t, "required"),
			NameRequired: rapid.Bool().Draw(t, "named"),
		}
		if rapid.Bool().Draw(t, "choose") {
			policy.ExpiryChoices = rapid.SliceOfNDistinct(one, 1, 4, rapid.ID[events.Period]).Draw(t, "choices")
		}
		set, err := organization.Decide(organization.State{Exists: true, ID: "acme", Plan: events.PlanGrowth, Name: events.ClearText("a")},
			organization.Update{Policy: domain.Some(policy), Insist: true})
		if err != nil {
			return // It contradicts itself.
		}
		conf := base
		conf.Organization = organization.Evolve(conf.Organization, set[0])
		policy = conf.Organization.Policy
		limit := maybe.Draw(t, "limit")
		conf.Organization.Limits.MaxKeyLifetime = limit
		now := noon.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "day")) * 24 * time.Hour)

		var wish Expiry
		switch rapid.IntRange(0, 2).Draw(t, "expiry") {
		case 1:
			wish.In = one.Draw(t, "in")
		case 2:
			wish.At = now.Add(time.Duration(rapid.IntRange(1, 500).Draw(t, "at")) * 24 * time.Hour)
		}
		name := events.ClearText(rapid.SampledFrom([]string{"", "a"}).Draw(t, "name"))
		judge := func(what string, err error, expires events.Time, asked Expiry) {
			t.Helper()
			rule, ok := obeyed(policy, limit, now, expires)
			if err == nil && !ok {
				t.Fatalf("%s %+v under %+v and a limit of %q: ends at %s, against %s", what, asked, policy, limit, expires, rule)
			}
			if err == nil || asked == (Expiry{}) {
				return
			}
			at := asked.At.WholeSecond()
			if asked.In != "" {
				at = period.Add(now, asked.In)
			}
			if _, ok := obeyed(policy, limit, now, at); ok && (len(policy.ExpiryChoices) == 0 || slices.Contains(policy.ExpiryChoices, asked.In)) {
				t.Fatalf("%s %+v under %+v and a limit of %q obeys and is refused: %v", what, asked, policy, limit, err)
			}
		}
		create := Create{Now: now, Config: conf, Issued: issued(1), Name: name, Permissions: events.Permissions{Level: events.LevelAll}, Scope: events.Scope{AllWorkspaces: true}, Expiry: wish}
		facts, err := Decide(State{}, create)
		if policy.NameRequired && name.IsZero() {
			if !errors.Is(err, domain.ErrPolicy) {
				t.Fatalf("a key without a name: %v, %v", facts, err)
			}
			create.Name = events.ClearText("b")
			facts, err = Decide(State{}, create)
		}
		var made State
		if err == nil {
			made = Evolve(State{}, facts[0])
		}
		judge("create", err, made.ExpiresAt, wish)

		if wish != (Expiry{}) {
			facts, err = Decide(endless, Update{Now: now, Config: conf, Expiry: domain.Some(wish)})
			changed := endless
			if len(facts) > 0 {
				changed = Evolve(changed, facts[0])
			}
			if err != nil || len(facts) > 0 {
				judge("update", err, changed.ExpiresAt, wish)
			}
		}
		old := evolve(endless, events.KeyExpiryChanged{ExpiresAt: rapid.SampledFrom([]events.Time{0, period.Add(now, "1d"), period.Add(now, "60d"), period.Add(now, "1y")}).Draw(t, "end")})
		facts, err = Decide(old, Rotate{Now: now, Config: conf, Issued: issued(2), Expiry: wish})
		var next events.Time
		if err == nil {
			next = facts[1].(events.KeyCreated).ExpiresAt
		}
		fits := slices.ContainsFunc(policy.ExpiryChoices, func(p events.Period) bool {
			_, ok := obeyed(events.Policy{}, limit, now, period.Add(now, p))
			return ok
		})
		if wish == (Expiry{}) && len(policy.ExpiryChoices) > 0 && !fits {
			if err != nil || next != period.Add(now, limit) {
				t.Fatalf("a rotation that the limit leaves no choice ends at %s: %v", next, err)
			}
			return
		}
		judge("rotate", err, next, wish)
	})
}
