package key

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/configuration"
	"github.com/keyledger/keyledger/domain/period"
	"github.com/keyledger/keyledger/events"
)

// An organization's limit, which the installation sets, and its own policy both
// bind a key's name and expiry when they are set: by a create, an import, a
// change, a rotation. What a key has is not judged again by a change that leaves
// it. Where a wish breaks several rules the first of these is told:
//
//	policy.name_required
//	limits.max_key_lifetime
//	policy.expiry_required
//	policy.expiry_choices
//	policy.max_key_lifetime
//
// A default, and the lifetime that a successor takes over, yield to the rules
// instead of breaking them. The choices of a policy count for themselves: whether
// they lie within its own bound was asked when they were set, by the mean length
// of a month, so that no February takes one away.

// against refuses what an organization's policy does not allow.
func against(field, rule, format string, args ...any) error {
	return domain.Refuse(domain.ErrPolicy, field, "policy."+rule+": "+format, args...)
}

// checkName refuses what cannot be the name of a new key, or a new name.
func checkName(config configuration.State, name events.Text) error {
	if config.Organization.Policy.NameRequired && name.IsZero() {
		return against("name", "name_required", "keys of this organization have a name; give one")
	}
	return domain.CheckName("name", name, false)
}

// resolve turns a wish for a new key's expiry into an instant by the whole
// second, or none for never.
func resolve(now events.Time, config configuration.State, wish Expiry) (events.Time, error) {
	if wish == (Expiry{}) {
		return unsaid(now, config)
	}
	return wished(now, config, wish)
}

// unsaid is when a key expires of which nobody says it. Nobody asked for more
// than is allowed: the default yields to it.
func unsaid(now events.Time, config configuration.State) (events.Time, error) {
	policy := config.Organization.Policy
	at, limit := period.Add(now, policy.DefaultExpiresIn), limitEnd(now, config)
	if len(policy.ExpiryChoices) > 0 {
		if policy.DefaultExpiresIn == "" {
			return 0, against("expires_in", "expiry_choices", "say when the key expires: expires_in must be one of %s", listed(policy.ExpiryChoices))
		}
		at, ok := nearest(now, at, limit, policy.ExpiryChoices)
		if !ok {
			return 0, tooLong("expires_in", config, limit)
		}
		return at, nil
	}
	if at = sooner(at, sooner(limit, policyEnd(now, config))); at == 0 && policy.ExpiryRequired {
		return 0, against("expires_in", "expiry_required", "keys of this organization must expire; give expires_in, such as 90d, or set policy.default_expires_in")
	}
	return at, nil
}

// wished judges an expiry that somebody asks for; neither an instant nor a period
// is never.
func wished(now events.Time, config configuration.State, wish Expiry) (events.Time, error) {
	if wish.At != 0 && wish.In != "" {
		return 0, domain.Refuse(domain.ErrInvalid, "expires_in", "takes the place of expires_at; give one of them")
	}
	if err := period.Check("expires_in", wish.In); err != nil {
		return 0, err
	}
	field, at := "expires_at", wish.At.WholeSecond()
	if wish.In != "" {
		field, at = "expires_in", period.Add(now, wish.In)
	}
	if wish.At != 0 && at <= now {
		return 0, domain.Refuse(domain.ErrPastExpiry, field, "must lie in the future; it is %s now", now)
	}
	if at > now.Add(events.MaxPeriod) {
		return 0, domain.Refuse(domain.ErrInvalid, field, "lies more than 100 years ahead")
	}
	if limit := limitEnd(now, config); sooner(at, limit) != at {
		return 0, tooLong(field, config, limit)
	}
	return at, obeys(now, config, field, wish, at)
}

// obeys judges an expiry by the organization's own policy.
func obeys(now events.Time, config configuration.State, field string, wish Expiry, at events.Time) error {
	policy := config.Organization.Policy
	if at == 0 {
		wish.In = period.Never
	}
	switch end := policyEnd(now, config); {
	case at == 0 && policy.ExpiryRequired:
		return against(field, "expiry_required", "keys of this organization must expire; %s", instead(policy))
	case len(policy.ExpiryChoices) > 0 && wish.In == "":
		return against(field, "expiry_choices", "keys of this organization expire after a period; give expires_in instead, one of %s", listed(policy.ExpiryChoices))
	case len(policy.ExpiryChoices) > 0:
		if !slices.ContainsFunc(policy.ExpiryChoices, func(p events.Period) bool { return period.Compare(p, wish.In) == 0 }) {
			return against(field, "expiry_choices", "must be one of %s", listed(policy.ExpiryChoices))
		}
	case sooner(at, end) != at:
		return against(field, "max_key_lifetime", "keys of this organization may live %s at most, until %s", policy.MaxKeyLifetime, end)
	}
	return nil
}

func instead(policy events.Policy) string {
	switch {
	case len(policy.ExpiryChoices) > 0:
		return "give expires_in, one of " + listed(policy.ExpiryChoices)
	case policy.MaxKeyLifetime != "" && policy.MaxKeyLifetime != period.Never:
		return "give expires_in, " + string(policy.MaxKeyLifetime) + " at most"
	default:
		return "give expires_in, such as 90d"
	}
}

func listed(choices []events.Period) string {
	texts := make([]string, len(choices))
	for i, p := range choices {
		texts[i] = string(p)
	}
	return strings.Join(texts, ", ")
}

func tooLong(field string, config configuration.State, limit events.Time) error {
	return domain.Refuse(domain.ErrLifetimeTooLong, field,
		"keys of this organization may live %s at most, until %s", config.Organization.Limits.MaxKeyLifetime, limit)
}

// keepsExpiry reports whether a wish is for the very expiry that the key has.
func (s State) keepsExpiry(wish Expiry) bool {
	if wish.In != "" {
		return wish.In == period.Never && wish.At == 0 && s.ExpiresAt == 0
	}
	return wish.At.WholeSecond() == s.ExpiresAt
}

// successorExpiry gives a successor its predecessor's lifetime, as far as that is
// allowed. A policy of choices gives the one that is nearest to it, and what the
// limit leaves when it leaves no choice: that a key can be rotated comes first.
func successorExpiry(s State, c Rotate) (events.Time, error) {
	if c.Expiry != (Expiry{}) {
		return resolve(c.Now, c.Config, c.Expiry)
	}
	policy, limit := c.Config.Organization.Policy, limitEnd(c.Now, c.Config)
	var at events.Time
	if s.ExpiresAt != 0 {
		at = min(c.Now+(s.ExpiresAt-s.CreatedAt), c.Now.Add(events.MaxPeriod)).WholeSecond()
		// A lifetime below a second must not be cut down to none.
		at = max(at, c.Now.Add(time.Second).WholeSecond())
	}
	if len(policy.ExpiryChoices) > 0 {
		if chosen, ok := nearest(c.Now, at, limit, policy.ExpiryChoices); ok {
			return chosen, nil
		}
		return limit, nil
	}
	if at = sooner(at, sooner(limit, policyEnd(c.Now, c.Config))); at == 0 && policy.ExpiryRequired {
		return unsaid(c.Now, c.Config)
	}
	return at, nil
}

// nearest returns which choice ends nearest to a wanted end, the sooner of two
// that are as near, and whether there is one within the limit.
func nearest(now, want, limit events.Time, choices []events.Period) (events.Time, bool) {
	var best events.Time
	found := false
	for _, p := range choices {
		at := period.Add(now, p)
		if sooner(at, limit) == at && (!found || apart(at, want) < apart(best, want)) {
			best, found = at, true
		}
	}
	return best, found
}

// apart is how far two ends lie from each other; never lies beyond them all.
func apart(a, b events.Time) int64 {
	d := last(a) - last(b)
	return max(d, -d)
}

func last(at events.Time) int64 {
	if at == 0 {
		return math.MaxInt64
	}
	return int64(at)
}

// sooner is the first of two ends; 0 is never.
func sooner(a, b events.Time) events.Time {
	if last(b) < last(a) {
		return b
	}
	return a
}

// limitEnd is the last instant at which a key that is decided on now may expire
// by the installation's limit, or none; policyEnd that by the organization's own
// policy.
func limitEnd(now events.Time, config configuration.State) events.Time {
	return period.Add(now, config.Organization.Limits.MaxKeyLifetime)
}

func policyEnd(now events.Time, config configuration.State) events.Time {
	return period.Add(now, config.Organization.Policy.MaxKeyLifetime)
}
