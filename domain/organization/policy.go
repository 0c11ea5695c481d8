package organization

import (
	"cmp"
	"slices"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/period"
	"github.com/keyledger/keyledger/events"
)

func (c Update) changesPolicy() bool {
	return c.Policy.Set || c.DefaultPrefix.Set || c.DefaultExpiresIn.Set || c.RotationDueAfter.Set || c.ExpiryNotices.Set ||
		c.ExpiryChoices.Set || c.LongestLifetime.Set || c.ExpiryRequired.Set || c.NameRequired.Set ||
		c.Signals.Set || c.NewSource.Set || c.DenialsSpike.Set || c.DenialsPerMinute.Set || c.ResolvesPerMinute.Set || c.Sealing.Set || c.UsesRetention.Set
}

func (c Update) policy(p events.Policy) events.Policy {
	sealing := p.Sealing
	p = c.Policy.Or(p)
	// A policy that takes the place of another and does not mention sealing does
	// not mean to end it.
	p.Sealing = c.Sealing.Or(cmp.Or(p.Sealing, sealing))
	p.DefaultPrefix = c.DefaultPrefix.Or(p.DefaultPrefix)
	p.DefaultExpiresIn = c.DefaultExpiresIn.Or(p.DefaultExpiresIn)
	p.RotationDueAfter = c.RotationDueAfter.Or(p.RotationDueAfter)
	p.ExpiryNotices = c.ExpiryNotices.Or(p.ExpiryNotices)
	p.ExpiryChoices = c.ExpiryChoices.Or(p.ExpiryChoices)
	p.MaxKeyLifetime = c.LongestLifetime.Or(p.MaxKeyLifetime)
	p.ExpiryRequired = c.ExpiryRequired.Or(p.ExpiryRequired)
	p.NameRequired = c.NameRequired.Or(p.NameRequired)
	p.Signals = c.Signals.Or(p.Signals)
	p.Signals.NewSource = c.NewSource.Or(p.Signals.NewSource)
	p.Signals.DenialsSpike = c.DenialsSpike.Or(p.Signals.DenialsSpike)
	p.Signals.DenialsPerMinute = c.DenialsPerMinute.Or(p.Signals.DenialsPerMinute)
	p.Signals.ResolvesPerMinute = c.ResolvesPerMinute.Or(p.Signals.ResolvesPerMinute)
	p.UsesRetention = c.UsesRetention.Or(p.UsesRetention)
	return settled(p)
}

// settled brings a policy's lists in their order: notices as they come, which is
// the longest first, and choices as they are offered, the shortest first.
func settled(p events.Policy) events.Policy {
	p.ExpiryNotices = ordered(p.ExpiryNotices, func(a, b events.Period) int { return period.Compare(b, a) })
	p.ExpiryChoices = ordered(p.ExpiryChoices, period.Compare)
	return p
}

// ordered sorts periods, each once.
func ordered(list []events.Period, compare func(a, b events.Period) int) []events.Period {
	if len(list) == 0 {
		return nil
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b events.Period) int { return cmp.Or(compare(a, b), cmp.Compare(a, b)) })
	return slices.CompactFunc(list, func(a, b events.Period) bool {
		return a == b || valid(a) && period.Compare(a, b) == 0
	})
}

func checkPolicy(p events.Policy) error {
	if p.DefaultPrefix != "" {
		if err := keystring.ValidPrefix(p.DefaultPrefix); err != nil {
			return domain.Refuse(domain.ErrInvalid, "policy.default_prefix", "must be 1 to 15 characters of a-z, 0-9 and '_', beginning with a letter or digit and not ending with '_'")
		}
	}
	for _, one := range []struct {
		field string
		value events.Period
	}{
		{"policy.default_expires_in", p.DefaultExpiresIn},
		{"policy.rotation_due_after", p.RotationDueAfter},
		{"policy.max_key_lifetime", p.MaxKeyLifetime},
		{"policy.uses_retention", p.UsesRetention},
	} {
		if err := period.Check(one.field, one.value); err != nil {
			return err
		}
	}
	if err := checkNotices(p.ExpiryNotices); err != nil {
		return err
	}
	if err := checkExpiry(p); err != nil {
		return err
	}
	switch p.Sealing {
	case "", events.SwitchOn, events.SwitchOff:
	default:
		return domain.Refuse(domain.ErrInvalid, sealingField, "must be on or off")
	}
	return checkSignals(p.Signals)
}

const sealingField = "policy.sealing"

// checkSealing refuses to end sealing: what is sealed would come back in clear with
// the next change of its key, beyond the reach of any erasure.
func checkSealing(had, next events.Policy) error {
	if had.Sealing == events.SwitchOn && next.Sealing != events.SwitchOn {
		return domain.Refuse(domain.ErrInvalid, sealingField, "is on and stays so: copies of what is sealed would be stored in clear, where no erasure reaches them")
	}
	return nil
}

func checkNotices(list []events.Period) error {
	const field = "policy.expiry_notices"
	if len(list) > events.MaxExpiryNotices {
		return domain.Refuse(domain.ErrInvalid, field, "holds %d periods, at most %d are allowed", len(list), events.MaxExpiryNotices)
	}
	for _, p := range list {
		if p == "" || p == period.Never {
			return domain.Refuse(domain.ErrInvalid, field, "must hold periods of the form <n>d, <n>mo or <n>y, such as 14d, and none for no notice")
		}
		if err := period.Check(field, p); err != nil {
			return err
		}
	}
	return nil
}

// checkExpiry refuses a policy on expiry that contradicts itself: nobody could
// create a key by it, or a part of it would never count.
func checkExpiry(p events.Policy) error {
	const choices, preset = "policy.expiry_choices", "policy.default_expires_in"
	if len(p.ExpiryChoices) > events.MaxExpiryChoices {
		return domain.Refuse(domain.ErrInvalid, choices, "holds %d periods, at most %d are allowed", len(p.ExpiryChoices), events.MaxExpiryChoices)
	}
	for _, c := range p.ExpiryChoices {
		if c == "" {
			return domain.Refuse(domain.ErrInvalid, choices, "must hold periods of the form <n>d, <n>mo or <n>y, or never, such as 90d, and none to allow all")
		}
		if err := period.Check(choices, c); err != nil {
			return err
		}
		if err := checkChoice(choices, "holds", c, p); err != nil {
			return err
		}
	}
	if p.DefaultExpiresIn == "" {
		return nil
	}
	if len(p.ExpiryChoices) > 0 && !slices.ContainsFunc(p.ExpiryChoices, func(c events.Period) bool { return period.Compare(c, p.DefaultExpiresIn) == 0 }) {
		return domain.Refuse(domain.ErrInvalid, preset, "is %s, which is none of policy.expiry_choices; change one of them", p.DefaultExpiresIn)
	}
	return checkChoice(preset, "is", p.DefaultExpiresIn, p)
}

// checkChoice holds a period that keys are to be given against the rules beside it.
func checkChoice(field, verb string, c events.Period, p events.Policy) error {
	if c == period.Never && p.ExpiryRequired {
		return domain.Refuse(domain.ErrInvalid, field, "%s never, which policy.expiry_required forbids; change one of them", verb)
	}
	if valid(p.MaxKeyLifetime) && period.Compare(c, p.MaxKeyLifetime) > 0 {
		return domain.Refuse(domain.ErrInvalid, field, "%s %s, which is longer than policy.max_key_lifetime of %s; change one of them", verb, c, p.MaxKeyLifetime)
	}
	return nil
}

// valid reports whether there is a period that ends.
func valid(p events.Period) bool {
	return p != "" && p != period.Never && period.Check("", p) == nil
}

func checkSignals(s events.Signals) error {
	for _, one := range []struct {
		field string
		value events.Switch
	}{{"policy.signals.new_source", s.NewSource}, {"policy.signals.denials_spike", s.DenialsSpike}} {
		switch one.value {
		case "", events.SwitchOn, events.SwitchOff:
		default:
			return domain.Refuse(domain.ErrInvalid, one.field, "must be on or off")
		}
	}
	if n := s.DenialsPerMinute; n != 0 && (n < events.MinDenialsPerMinute || n > events.MaxDenialsPerMinute) {
		return domain.Refuse(domain.ErrInvalid, "policy.signals.denials_per_minute", "must be %d to %d, or left out for %d",
			events.MinDenialsPerMinute, events.MaxDenialsPerMinute, events.DefaultDenialsPerMinute)
	}
	if n := s.ResolvesPerMinute; n != 0 && (n < events.MinResolvesPerMinute || n > events.MaxResolvesPerMinute) {
		return domain.Refuse(domain.ErrInvalid, "policy.signals.resolves_per_minute", "must be %d to %d, or left out for %d",
			events.MinResolvesPerMinute, events.MaxResolvesPerMinute, events.DefaultResolvesPerMinute)
	}
	return nil
}
