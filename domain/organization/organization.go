// Package organization decides over organizations: the tenants with their plan,
// limits and policy. An organization's end is absorbing, and with it all its
// keys are denied at once.
package organization

import (
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/period"
	"github.com/keyledger/keyledger/events"
)

// State is an organization as its facts tell it.
type State struct {
	Exists bool
	ID     events.OrgID
	Name   events.Text
	Plan   events.Plan
	Limits events.Limits
	Policy events.Policy
	// Ended is told by the one fact on [events.EndSubject], whatever the order.
	Ended bool
}

// Live reports whether the organization is there and has not ended.
func (s State) Live() bool { return s.Exists && !s.Ended }

// Command is a wish about an organization: [Create], [Update] or [Delete].
type Command interface{ command() }

// Create begins an organization.
type Create struct {
	ID     events.OrgID
	Name   events.Text
	Plan   events.Plan
	Limits events.Limits
	Policy events.Policy
}

// Update changes what is set, on the state that the decision is made on.
type Update struct {
	Name domain.Optional[events.Text]
	Plan domain.Optional[events.Plan]
	// Limits and Policy take the place of all there is. The members below them
	// change one, after that.
	Limits           domain.Optional[events.Limits]
	MaxActiveKeys    domain.Optional[int]
	MaxKeyLifetime   domain.Optional[events.Period]
	Policy           domain.Optional[events.Policy]
	DefaultPrefix    domain.Optional[string]
	DefaultExpiresIn domain.Optional[events.Period]
	RotationDueAfter domain.Optional[events.Period]
	// ExpiryNotices and ExpiryChoices take the place of the whole list.
	ExpiryNotices domain.Optional[[]events.Period]
	ExpiryChoices domain.Optional[[]events.Period]
	// LongestLifetime is the policy's bound, beside the limit above.
	LongestLifetime domain.Optional[events.Period]
	ExpiryRequired  domain.Optional[bool]
	NameRequired    domain.Optional[bool]
	// Signals takes the place of all of them, before one is changed below.
	Signals           domain.Optional[events.Signals]
	NewSource         domain.Optional[events.Switch]
	DenialsSpike      domain.Optional[events.Switch]
	DenialsPerMinute  domain.Optional[int]
	ResolvesPerMinute domain.Optional[int]
	// Sealing has texts that may name a person sealed, from then on.
	Sealing domain.Optional[events.Switch]
	// UsesRetention is how long single uses are kept. What was dropped by a shorter
	// one does not come back with a longer.
	UsesRetention domain.Optional[events.Period]
	// Insist gives a fact for whatever is set, though it is so already: a wish
	// that shall be met again has to be recorded.
	Insist bool
}

// ChangesLimits reports whether a limit is among what is set.
func (c Update) ChangesLimits() bool {
	return c.Limits.Set || c.MaxActiveKeys.Set || c.MaxKeyLifetime.Set
}

func (c Update) limits(l events.Limits) events.Limits {
	l = c.Limits.Or(l)
	l.MaxActiveKeys = c.MaxActiveKeys.Or(l.MaxActiveKeys)
	l.MaxKeyLifetime = c.MaxKeyLifetime.Or(l.MaxKeyLifetime)
	return l
}

// Delete ends an organization for ever.
type Delete struct{}

func (Create) command() {}
func (Update) command() {}
func (Delete) command() {}

// Decide turns a wish into facts. A wish that changes nothing gives none, unless
// it insists.
func Decide(s State, c Command) ([]events.Event, error) {
	switch c := c.(type) {
	case Create:
		return create(s, c)
	case Update:
		return update(s, c)
	case Delete:
		if !s.Exists {
			return nil, domain.Refuse(domain.ErrNotFound, "", "there is no such organization")
		}
		if s.ID == events.System {
			return nil, domain.Refuse(domain.ErrForbidden, "", "the installation's own organization cannot be deleted")
		}
		if s.Ended {
			return nil, nil
		}
		return []events.Event{events.OrganizationDeleted{}}, nil
	default:
		return nil, domain.Refuse(domain.ErrInvalid, "", "unknown command")
	}
}

func create(s State, c Create) ([]events.Event, error) {
	if s.Ended {
		return nil, domain.Refuse(domain.ErrExists, "id", "an organization of this id has ended; ids are never used again, choose another")
	}
	if s.Exists {
		return nil, domain.Refuse(domain.ErrExists, "id", "there is, or was, an organization of this id; ids are never used again")
	}
	if _, err := events.ParseOrgID(string(c.ID)); err != nil {
		return nil, domain.RefuseID("id")
	}
	if c.Plan == "" {
		c.Plan = events.PlanGrowth
	}
	c.Policy = settled(c.Policy)
	if err := check(c.Name, c.Plan, c.Limits, c.Policy); err != nil {
		return nil, err
	}
	return []events.Event{events.OrganizationCreated(c)}, nil
}

func update(s State, c Update) ([]events.Event, error) {
	if !s.Exists {
		return nil, domain.Refuse(domain.ErrNotFound, "", "there is no such organization")
	}
	if s.Ended {
		return nil, domain.Refuse(domain.ErrEnded, "", "the organization has ended")
	}
	next := s
	next.Name, next.Plan = c.Name.Or(s.Name), c.Plan.Or(s.Plan)
	next.Limits, next.Policy = c.limits(s.Limits), c.policy(s.Policy)
	var out []events.Event
	if c.Name.Set && (c.Insist || next.Name != s.Name) {
		out = append(out, events.OrganizationRenamed{Name: next.Name})
	}
	if c.Plan.Set && (c.Insist || next.Plan != s.Plan) {
		out = append(out, events.OrganizationPlanChanged{Plan: next.Plan})
	}
	if c.ChangesLimits() && (c.Insist || next.Limits != s.Limits) {
		out = append(out, events.OrganizationLimitsChanged{Limits: next.Limits})
	}
	if c.changesPolicy() && (c.Insist || !next.Policy.Equal(s.Policy)) {
		out = append(out, events.OrganizationPolicyChanged{Policy: next.Policy})
	}
	if err := check(next.Name, next.Plan, next.Limits, next.Policy); err != nil {
		return nil, err
	}
	if err := checkSealing(s.Policy, next.Policy); err != nil {
		return nil, err
	}
	return out, nil
}

func check(name events.Text, plan events.Plan, limits events.Limits, policy events.Policy) error {
	if err := domain.CheckName("name", name, true); err != nil {
		return err
	}
	switch plan {
	case events.PlanStarter, events.PlanGrowth, events.PlanEnterprise:
	default:
		return domain.Refuse(domain.ErrInvalid, "plan", "must be starter, growth or enterprise")
	}
	if limits.MaxActiveKeys < 0 || limits.MaxActiveKeys > events.MaxActiveKeysLimit {
		return domain.Refuse(domain.ErrInvalid, "limits.max_active_keys", "must be 1 to %d, or left out for none", events.MaxActiveKeysLimit)
	}
	if err := period.Check("limits.max_key_lifetime", limits.MaxKeyLifetime); err != nil {
		return err
	}
	return checkPolicy(policy)
}

// Evolve applies a fact.
func Evolve(s State, e events.Event) State {
	switch e := e.(type) {
	case events.OrganizationCreated:
		ended := s.Ended
		s = State{Exists: true, ID: e.ID, Name: e.Name, Plan: e.Plan, Limits: e.Limits, Policy: e.Policy, Ended: ended}
	case events.OrganizationRenamed:
		s.Name = e.Name
	case events.OrganizationPlanChanged:
		s.Plan = e.Plan
	case events.OrganizationLimitsChanged:
		s.Limits = e.Limits
	case events.OrganizationPolicyChanged:
		s.Policy = e.Policy
	case events.OrganizationDeleted:
		s.Ended = true
	}
	return s
}
