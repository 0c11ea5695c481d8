package keystring

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"strconv"
)

// Secret holds a key on its short way from New to the one answer that shows
// it. Whatever prints, logs, formats or encodes a Secret gets the masked form;
// only Reveal gives the key.
//
// It is deliberately not a string. fmt prints an unexported string field and a
// value under %p without asking its methods, encoding/json does so with a map
// key, and a conversion to string would look like any other. A function value is
// opaque to all of them, and to printers that follow pointers. The price is that
// secrets are compared with Equal, not with ==.
//
// The zero Secret holds no key.
type Secret struct{ reveal func() string }

// Conceal makes a Secret of a key that arrived as a string, of ours or not.
func Conceal(key string) Secret {
	if key == "" {
		return Secret{}
	}
	return Secret{reveal: func() string { return key }}
}

// Reveal returns the key itself, "" from the zero Secret.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// IsZero reports whether there is no key.
func (s Secret) IsZero() bool { return s.reveal == nil }

// Equal compares two secrets in a time that depends on their length alone.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// String returns the masked form, "kl_live_…a1B2"; "…" for a key that is not of
// our form and "" for none.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	key := s.Reveal()
	return Masked(Prefix(key), LastFour(key))
}

// GoString returns the masked form, for %#v.
func (s Secret) GoString() string { return "keystring.Secret(" + strconv.Quote(s.String()) + ")" }

// Format writes the masked form under every verb, %x and %d included.
func (s Secret) Format(f fmt.State, verb rune) {
	text := s.String()
	switch {
	case verb == 'v' && f.Flag('#'):
		text = s.GoString()
	case verb == 'q':
		text = strconv.Quote(text)
	}
	// fmt.State keeps the bytes in memory and cannot fail.
	_, _ = io.WriteString(f, text)
}

// LogValue gives slog the masked form.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText gives encoders (JSON, XML and others) the masked form. There
// is no way back: a Secret is not read from a document by accident either.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
