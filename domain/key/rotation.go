package key

import (
	"github.com/keyledger/keyledger/domain/configuration"
	"github.com/keyledger/keyledger/domain/period"
	"github.com/keyledger/keyledger/events"
)

// NoteRotation records that a key has reached the age at which the organization's
// policy wants it rotated, once for each such time: a policy that asks for it
// earlier than was told tells nothing new.
type NoteRotation struct {
	Now    events.Time
	Config configuration.State
}

func (NoteRotation) command() {}

// RotationDue is when the key should be rotated under a policy, gone or to come,
// and no instant for one that need not be: it was, it has ended by now, or the
// policy wants none.
func (s State) RotationDue(policy events.Policy, now events.Time) events.Time {
	if !s.Exists || !s.RotatedTo.IsZero() || s.Revoked || s.Expired || s.EndsAt().Passed(now) {
		return 0
	}
	return period.Add(s.CreatedAt, policy.RotateAfter())
}

func noteRotation(s State, c NoteRotation) ([]events.Event, error) {
	if over, err := s.over(c.Config); over || err != nil {
		return nil, err
	}
	if err := refuseConfig(c.Config); err != nil {
		return nil, err
	}
	policy := c.Config.Organization.Policy
	due := s.RotationDue(policy, c.Now)
	if !due.Passed(c.Now) || due <= s.RotationDueAt {
		return nil, nil
	}
	return []events.Event{events.KeyRotationDue{DueAt: due, After: policy.RotateAfter()}}, nil
}
