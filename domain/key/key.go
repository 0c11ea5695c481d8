// Package key decides over API keys: how they are created, changed, rotated,
// and how they end. A revoked key is revoked for ever, whatever the order in
// which facts arrive, and so is one whose expiry was recorded.
package key

import (
	"maps"
	"slices"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// State is a key as the facts on its two subjects tell it.
type State struct {
	Exists      bool
	ID          events.KeyID
	Kind        events.KeyKind
	Role        events.Role
	Name        events.Text
	Prefix      string
	LastFour    string
	Digest      events.Digest
	Permissions events.Permissions
	Scope       events.Scope
	Profile     events.ProfileID
	CreatedAt   events.Time
	ExpiresAt   events.Time
	Metadata    events.Metadata
	ExternalID  events.Text
	RotatedFrom events.KeyID
	RotatedTo   events.KeyID
	GraceEndsAt events.Time
	// Imported says that the key came from another system.
	Imported bool
	// DataSubject is whom the key's texts tell of.
	DataSubject events.DataSubject
	// Noticed is the last notice that was given of the end as it stands.
	Noticed events.Period
	// RotationDueAt is what was told of last.
	RotationDueAt events.Time
	// Sources counts the new sources that were told of, SpikeAt is the last spike.
	Sources  int
	SpikeAt  events.Time
	Disabled bool
	Expired  bool
	Revoked  bool
	// Doubtful says that a fact which bears on verdicts could not be
	// understood. Such a key can be revoked and nothing else.
	Doubtful bool
}

// EndsAt is when the key's time comes: its expiry or the end of its grace,
// whichever is first.
func (s State) EndsAt() events.Time {
	if s.GraceEndsAt != 0 && (s.ExpiresAt == 0 || s.GraceEndsAt < s.ExpiresAt) {
		return s.GraceEndsAt
	}
	return s.ExpiresAt
}

// Status returns where in its life the key is.
func (s State) Status(now events.Time) events.Status {
	switch {
	case s.Revoked:
		return events.StatusRevoked
	case s.Expired || s.EndsAt().Passed(now):
		return events.StatusExpired
	case s.Disabled:
		return events.StatusInactive
	default:
		return events.StatusActive
	}
}

// HoldsPlace reports whether the key counts against the limit on active keys: a
// customer's key that is ACTIVE or INACTIVE and was not rotated.
func (s State) HoldsPlace(now events.Time) bool {
	if !s.Exists || s.Kind != events.KindAPI || !s.RotatedTo.IsZero() {
		return false
	}
	status := s.Status(now)
	return status == events.StatusActive || status == events.StatusInactive
}

// Evolve applies a fact. It accepts every fact in every order: what the ledger
// holds has happened.
func Evolve(s State, e events.Event) State {
	next := evolved(s, e)
	if next.EndsAt() != s.EndsAt() {
		// Notice of an end is none of another.
		next.Noticed = ""
	}
	return next
}

func evolved(s State, e events.Event) State {
	switch e := e.(type) {
	case events.KeyCreated:
		if s.Exists {
			return s
		}
		revoked, expired, doubtful := s.Revoked, s.Expired, s.Doubtful
		s = State{
			Exists: true, ID: e.ID, Kind: e.KeyKind, Role: e.Role, Name: e.Name, Prefix: e.Prefix, LastFour: e.LastFour,
			Digest: e.Digest, Permissions: e.Permissions, Scope: e.Scope, Profile: e.Profile, CreatedAt: e.CreatedAt,
			ExpiresAt: e.ExpiresAt, Metadata: e.Metadata, ExternalID: e.ExternalID, RotatedFrom: e.RotatedFrom,
			Imported: e.Imported, DataSubject: e.Subject(), Revoked: revoked, Expired: expired, Doubtful: doubtful,
		}
	case events.KeyRenamed:
		s.Name = e.Name
	case events.KeyPermissionsChanged:
		s.Permissions = e.Permissions
	case events.KeyScopeChanged:
		s.Scope = e.Scope
	case events.KeyProfileChanged:
		s.Profile = e.Profile
	case events.KeyMetadataChanged:
		s.Metadata = e.Metadata
	case events.KeyDisabled:
		s.Disabled = true
	case events.KeyEnabled:
		s.Disabled = false
	case events.KeyExpiryChanged:
		s.ExpiresAt = e.ExpiresAt
	case events.KeyRotated:
		s.RotatedTo, s.GraceEndsAt = e.Successor, e.GraceEndsAt
	case events.KeyGraceChanged:
		s.GraceEndsAt = e.GraceEndsAt
	case events.KeyExpiring:
		if e.ExpiresAt == s.EndsAt() {
			s.Noticed = e.Notice
		}
	case events.KeyRotationDue:
		s.RotationDueAt = e.DueAt
	case events.KeyNewSource:
		s.Sources++
	case events.KeyDenialsSpike:
		s.SpikeAt = e.From
	case events.KeyExpired:
		s.Expired = true
	case events.KeyRevoked:
		s.Revoked = true
	case events.Unknown, events.Malformed:
		s.Doubtful = s.Doubtful || events.Bears(e)
	}
	return s
}

// Equal reports whether two states are the same.
func (s State) Equal(o State) bool {
	return s.Exists == o.Exists && s.ID == o.ID && s.Kind == o.Kind && s.Role == o.Role && s.Name == o.Name &&
		s.Prefix == o.Prefix && s.LastFour == o.LastFour && s.Digest == o.Digest &&
		samePermissions(s.Permissions, o.Permissions) && sameScope(s.Scope, o.Scope) && s.Profile == o.Profile &&
		s.CreatedAt == o.CreatedAt && s.ExpiresAt == o.ExpiresAt && maps.Equal(s.Metadata, o.Metadata) &&
		s.ExternalID == o.ExternalID && s.RotatedFrom == o.RotatedFrom && s.RotatedTo == o.RotatedTo &&
		s.GraceEndsAt == o.GraceEndsAt && s.Imported == o.Imported && s.DataSubject == o.DataSubject && s.Noticed == o.Noticed && s.RotationDueAt == o.RotationDueAt &&
		s.Sources == o.Sources && s.SpikeAt == o.SpikeAt && s.Disabled == o.Disabled && s.Expired == o.Expired &&
		s.Revoked == o.Revoked && s.Doubtful == o.Doubtful
}

func samePermissions(a, b events.Permissions) bool {
	return a.Level == b.Level && slices.Equal(a.Grants, b.Grants)
}

func sameScope(a, b events.Scope) bool {
	return a.AllWorkspaces == b.AllWorkspaces && slices.Equal(a.Workspaces, b.Workspaces)
}

// refuseEnded refuses changes of what has ended: nothing brings it back.
func (s State) refuseEnded(now events.Time) error {
	switch {
	case !s.Exists:
		return domain.Refuse(domain.ErrNotFound, "", "there is no such key")
	case s.Revoked:
		return domain.Refuse(domain.ErrEnded, "", "the key is REVOKED, which is for ever; create a new key")
	case s.Status(now) == events.StatusExpired:
		return domain.Refuse(domain.ErrEnded, "", "the key is EXPIRED, which is for ever; create a new key, and extend the next one before its time")
	case s.Doubtful:
		return s.refuseDoubtful()
	default:
		return nil
	}
}

func (s State) refuseDoubtful() error {
	return domain.Refuse(domain.ErrConflict, "", "the key holds a fact that this version does not understand; it can only be revoked until the server is updated")
}
