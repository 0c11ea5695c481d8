// Package wrapping wraps the keys that providers' secrets are encrypted with, so
// that they may lie where the broker's files are: with key-encryption keys that are
// kept elsewhere, in a file, in the environment or in a key management service.
//
// A [Ring] is what a server has: one key that wraps, and others that only open what
// was wrapped before.
package wrapping

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/keyledger/keyledger/events"
)

var (
	// ErrWrongKey says that no key-encryption key there is opens what was wrapped: it
	// was wrapped with another, for another purpose, or was damaged.
	ErrWrongKey = errors.New("wrapping: no key-encryption key opens this")

	// ErrKeyset says that a text is no keyset of key-encryption keys, or not one that
	// can be used as is meant.
	ErrKeyset = errors.New("wrapping: this is no keyset of key-encryption keys")
)

// Key is a key-encryption key, or what keeps several of which one wraps. It may be
// used concurrently.
type Key interface {
	// Name tells what has wrapped, and is part of it in clear: of 1 to [MaxName]
	// bytes, the same for ever, and no secret. Two may have one name, such as two
	// keysets.
	Name() string

	// Wrap encrypts plain so that it opens with the same bound bytes alone.
	// [events.ErrUnavailable] says that it may go another time.
	Wrap(ctx context.Context, plain, bound []byte) ([]byte, error)

	// Unwrap opens what Wrap gave. What does not open is [ErrWrongKey], and
	// [events.ErrUnavailable] says that nobody could tell.
	Unwrap(ctx context.Context, wrapped, bound []byte) ([]byte, error)

	// Current reports whether Wrap would take the very key today that has wrapped
	// this. It opens nothing, and what is no wrapping of this Key is not current.
	Current(ctx context.Context, wrapped []byte) (bool, error)
}

// MaxName bounds the name of a [Key]: its length is told in one byte.
const MaxName = 255

// format is how what a Ring has wrapped begins.
const format = 1

// Ring is one key that wraps, and any number of others that only open. Its zero value
// has none: it wraps and opens nothing.
type Ring struct {
	Primary Key
	Others  []Key
}

// IsZero reports whether there is no key.
func (r Ring) IsZero() bool { return r.Primary == nil }

// Wrap wraps with the primary key. What it returns begins with a byte for its format
// and that key's name.
func (r Ring) Wrap(ctx context.Context, plain, bound []byte) ([]byte, error) {
	if r.IsZero() {
		return nil, fmt.Errorf("%w: there is none", ErrWrongKey)
	}
	name := r.Primary.Name()
	if len(name) == 0 || len(name) > MaxName {
		return nil, fmt.Errorf("wrapping: a key-encryption key's name has %d bytes", len(name))
	}
	wrapped, err := r.Primary.Wrap(ctx, plain, bound)
	if err != nil {
		return nil, err
	}
	out := append([]byte{format, byte(len(name))}, name...)
	return append(out, wrapped...), nil
}

// Unwrap opens with whichever of the keys has wrapped it: [ErrWrongKey] if none of
// them has, and [events.ErrUnavailable] if one that may have does not answer.
func (r Ring) Unwrap(ctx context.Context, wrapped, bound []byte) ([]byte, error) {
	name, body, ok := split(wrapped)
	if !ok {
		return nil, ErrWrongKey
	}
	var silent error
	for _, key := range r.all() {
		if key.Name() != name {
			continue
		}
		switch plain, err := key.Unwrap(ctx, body, bound); {
		case err == nil:
			return plain, nil
		case errors.Is(err, ErrWrongKey):
		case silent == nil:
			silent = err
		}
	}
	if silent != nil {
		if !errors.Is(silent, events.ErrUnavailable) {
			silent = fmt.Errorf("%w: %w", events.ErrUnavailable, silent)
		}
		return nil, silent
	}
	return nil, ErrWrongKey
}

// Current reports whether it was the primary key that wrapped this, as it wraps today.
func (r Ring) Current(ctx context.Context, wrapped []byte) (bool, error) {
	name, body, ok := split(wrapped)
	if !ok || r.IsZero() || r.Primary.Name() != name {
		return false, nil
	}
	return r.Primary.Current(ctx, body)
}

func (r Ring) all() []Key {
	if r.IsZero() {
		return nil
	}
	return append([]Key{r.Primary}, r.Others...)
}

// split takes apart what Wrap put together.
func split(wrapped []byte) (name string, body []byte, ok bool) {
	if len(wrapped) < 2 || wrapped[0] != format || len(wrapped) < 2+int(wrapped[1]) {
		return "", nil, false
	}
	n := int(wrapped[1])
	return string(wrapped[2 : 2+n]), bytes.Clone(wrapped[2+n:]), true
}
