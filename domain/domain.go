// Package domain is the pure core of the ledger: what may happen to an
// installation, its organizations and their keys, decided without a clock,
// randomness, or a door to the world.
//
// Each aggregate has a package of its own with the same two functions: Decide
// turns a state and a command into facts, or refuses; Evolve turns a state and
// a fact into the next state, and is used both to decide and to replay. The
// time, random bytes and configuration that a decision needs arrive inside the
// command.
//
// This package holds what they share: why a wish is refused, and the checks of
// texts that people write.
package domain

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/keyledger/keyledger/events"
)

// Families of refusals. Every error of Decide wraps exactly one of them.
var (
	// ErrInvalid says that the wish makes no sense as it stands.
	ErrInvalid = errors.New("domain: invalid")
	// ErrNotFound says that there is nothing by that id.
	ErrNotFound = errors.New("domain: not found")
	// ErrConflict says that the wish makes sense, but not in this state.
	ErrConflict = errors.New("domain: conflict")
	// ErrForbidden says that the actor may not.
	ErrForbidden = errors.New("domain: forbidden")
	// ErrStale says that the caller decided on an older revision.
	ErrStale = errors.New("domain: stale revision")
)

// Members of the families that callers tell apart.
var (
	ErrUnknownPermission = fmt.Errorf("%w: unknown permission", ErrInvalid)
	ErrUnknownWorkspace  = fmt.Errorf("%w: unknown workspace", ErrInvalid)
	ErrUnknownProfile    = fmt.Errorf("%w: unknown profile", ErrInvalid)
	ErrPastExpiry        = fmt.Errorf("%w: expiry lies in the past", ErrInvalid)
	ErrLifetimeTooLong   = fmt.Errorf("%w: lifetime exceeds the limit", ErrInvalid)
	ErrPolicy            = fmt.Errorf("%w: against the organization's policy", ErrInvalid)
	ErrDigestTaken       = fmt.Errorf("%w: digest is taken", ErrConflict)
	ErrSecretInField     = fmt.Errorf("%w: field holds a secret", ErrInvalid)

	ErrUnknownProvider      = fmt.Errorf("%w: unknown provider", ErrInvalid)
	ErrProviderKeyMalformed = fmt.Errorf("%w: not a key of the provider", ErrInvalid)
	ErrProviderKeyExists    = fmt.Errorf("%w: provider key exists", ErrConflict)
	ErrPlanRequired         = fmt.Errorf("%w: a higher plan is needed", ErrForbidden)

	ErrExists          = fmt.Errorf("%w: id is taken", ErrConflict)
	ErrEnded           = fmt.Errorf("%w: has ended", ErrConflict)
	ErrInUse           = fmt.Errorf("%w: in use", ErrConflict)
	ErrKeyLimitReached = fmt.Errorf("%w: key limit reached", ErrConflict)
	ErrLimitReached    = fmt.Errorf("%w: limit reached", ErrConflict)
	ErrAlreadyRotated  = fmt.Errorf("%w: already rotated", ErrConflict)
	ErrLastOwner       = fmt.Errorf("%w: last owner", ErrConflict)
)

// Refusal is an error of Decide with what the caller needs to mend it. Its
// texts never repeat a value that could hold a secret.
type Refusal struct {
	// Err is one of this package's errors.
	Err error
	// Field is the member of the request that is at fault, if one is.
	Field string
	// Detail says what was wrong and what to do, in a sentence.
	Detail string
}

func (r *Refusal) Error() string {
	if r.Field == "" {
		return r.Err.Error() + ": " + r.Detail
	}
	return r.Err.Error() + ": " + r.Field + ": " + r.Detail
}

func (r *Refusal) Unwrap() error { return r.Err }

// Refuse makes a refusal.
func Refuse(err error, field, format string, args ...any) error {
	return &Refusal{Err: err, Field: field, Detail: fmt.Sprintf(format, args...)}
}

// RefuseID refuses what is not of the form that ids have.
func RefuseID(field string) error {
	return Refuse(ErrInvalid, field, "must be 1 to %d characters of a-z, 0-9 and '-', and begin with a letter or digit", events.MaxIDLength)
}

// Optional is a member of a change that may be left out.
type Optional[T any] struct {
	Set   bool
	Value T
}

// Some returns a member that is there.
func Some[T any](v T) Optional[T] { return Optional[T]{Set: true, Value: v} }

// Or returns the value, and what there was when none is set.
func (o Optional[T]) Or(had T) T {
	if o.Set {
		return o.Value
	}
	return had
}

// CheckText refuses texts that would break a table, a log line or a fact.
func CheckText(field, text string, limit int) error {
	switch {
	case !utf8.ValidString(text):
		return Refuse(ErrInvalid, field, "must be valid UTF-8")
	case len(text) > limit:
		return Refuse(ErrInvalid, field, "is %d bytes long, at most %d are allowed", len(text), limit)
	case strings.TrimSpace(text) != text:
		return Refuse(ErrInvalid, field, "must not begin or end with white space")
	}
	for _, r := range text {
		if unicode.IsControl(r) || !unicode.IsGraphic(r) {
			return Refuse(ErrInvalid, field, "must not hold control or invisible characters")
		}
	}
	return nil
}

// CheckName refuses what cannot be a display name.
func CheckName(field string, name events.Text, required bool) error {
	if !name.Sealed.IsZero() {
		return nil
	}
	if required && name.Clear == "" {
		return Refuse(ErrInvalid, field, "is needed")
	}
	return CheckText(field, name.Clear, events.MaxNameLength)
}
