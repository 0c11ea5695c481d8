package providerkey

import (
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/keyledger/keyledger/domain/keystring"
)

// redacted is what stands for a secret wherever one is printed. Its last four
// characters are for owners and admins alone, so that no mask shows them.
const redacted = "(secret)"

// Secret holds a provider's secret on its way through the server. Whatever prints,
// logs, formats or encodes it gets the same word; only Reveal gives the secret. It is
// a keystring.Secret that shows nothing of itself.
type Secret struct{ held keystring.Secret }

// Conceal makes a Secret of what a customer gave.
func Conceal(secret string) Secret { return Secret{keystring.Conceal(secret)} }

// Reveal returns the secret itself, "" from the zero Secret.
func (s Secret) Reveal() string { return s.held.Reveal() }

// IsZero reports whether there is none.
func (s Secret) IsZero() bool { return s.held.IsZero() }

// Equal compares two secrets in a time that depends on their length alone.
func (s Secret) Equal(other Secret) bool { return s.held.Equal(other.held) }

// In reports whether a text holds the secret, in whatever case.
func (s Secret) In(text string) bool {
	return !s.IsZero() && strings.Contains(strings.ToLower(text), strings.ToLower(s.Reveal()))
}

// LastFour returns what is shown of the secret once it is saved.
func (s Secret) LastFour() string {
	text := []rune(s.Reveal())
	return string(text[max(0, len(text)-4):])
}

// String hides the secret.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// GoString hides it from %#v.
func (s Secret) GoString() string { return "providerkey.Secret" + redacted }

// Format hides it under every verb, %x and %d included.
func (s Secret) Format(f fmt.State, verb rune) {
	text := s.String()
	if verb == 'v' && f.Flag('#') {
		text = s.GoString()
	}
	// fmt.State keeps the bytes in memory and cannot fail.
	_, _ = io.WriteString(f, text)
}

// LogValue hides it from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides it from encoders. There is no way back: a Secret is not read
// from a document by accident either.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON hides it from encoders that prefer it.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }
