package key

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
)

// ParseDigest reads the digest of a key of another system: 32 bytes in hex, or in
// base64 with either alphabet, padded or not. What is none is never repeated: it
// may be the key itself.
func ParseDigest(alg, value string) (events.Digest, error) {
	d := events.Digest{Alg: events.DigestAlg(alg)}
	switch d.Alg {
	case events.SHA256, events.PrefixShortLong:
	case "":
		return d, domain.Refuse(domain.ErrInvalid, "digest.alg", "is needed: sha256 (of the whole key), or prefix_short_long")
	default:
		return d, domain.Refuse(domain.ErrInvalid, "digest.alg", "must be sha256 (of the whole key) or prefix_short_long")
	}
	raw, ok := digestBytes(value)
	if !ok {
		return d, domain.Refuse(domain.ErrInvalid, "digest.value", "must be the 32 bytes of a SHA-256 in hex or base64. If it is the key itself, treat that as leaked: only its digest belongs here")
	}
	d.Value = events.DigestValue(raw)
	return d, checkDigest(d)
}

// digestBytes tells hex from base64 by the length, which none shares.
func digestBytes(value string) ([]byte, bool) {
	var (
		raw []byte
		err error
	)
	switch len(value) {
	case hex.EncodedLen(sha256.Size):
		raw, err = hex.DecodeString(value)
	case base64.RawStdEncoding.EncodedLen(sha256.Size), base64.StdEncoding.EncodedLen(sha256.Size):
		text := strings.TrimSuffix(value, "=")
		if len(text) != base64.RawStdEncoding.EncodedLen(sha256.Size) || strings.ContainsAny(text, "\r\n") {
			return nil, false
		}
		encoding := base64.RawStdEncoding
		if strings.ContainsAny(text, "-_") {
			encoding = base64.RawURLEncoding
		}
		// One digest has one text in each form.
		raw, err = encoding.Strict().DecodeString(text)
	default:
		return nil, false
	}
	return raw, err == nil && len(raw) == sha256.Size
}

// checkDigest refuses digests of nothing, which an export of empty columns is
// full of: whoever sent no key at all would have one.
func checkDigest(d events.Digest) error {
	if nothing := sha256.Sum256(nil); d.Value == (events.DigestValue{}) || d.Value == events.DigestValue(nothing) {
		return domain.Refuse(domain.ErrInvalid, "digest.value", "is the digest of no key")
	}
	return nil
}

// checkIssued refuses what cannot be shown of a new key, and of an imported one
// what cannot be known of it.
func checkIssued(c Create) error {
	if !c.Imported {
		if err := keystring.ValidPrefix(c.Issued.Prefix); err != nil {
			return domain.Refuse(domain.ErrInvalid, "prefix", "must be 1 to 15 characters of a-z, 0-9 and '_', beginning with a letter or digit and not ending with '_'")
		}
		return nil
	}
	if c.Kind != events.KindAPI {
		return domain.Refuse(domain.ErrInvalid, "kind", "only keys of kind api can be imported")
	}
	if err := checkDigest(c.Issued.Digest); err != nil {
		return err
	}
	if err := checkShown(c.Issued.Prefix, c.Issued.LastFour); err != nil {
		return err
	}
	switch c.Status {
	case "", events.StatusActive, events.StatusInactive:
	default:
		return domain.Refuse(domain.ErrInvalid, "status", "must be ACTIVE or INACTIVE; a key that has ended need not be imported")
	}
	if c.CreatedAt < 0 || c.CreatedAt > c.Now {
		return domain.Refuse(domain.ErrInvalid, "created_at", "must not lie in the future, nor before 1970; it is %s now", c.Now)
	}
	return nil
}

// checkShown refuses a beginning and an end of a key that are no such thing.
func checkShown(prefix, lastFour string) error {
	for i := range len(prefix) {
		switch c := prefix[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.', c == '-':
		default:
			return refusePrefix()
		}
	}
	if len(prefix) > events.MaxImportedPrefix {
		return refusePrefix()
	}
	if len(lastFour) != 0 && len(lastFour) != 4 || strings.ContainsFunc(lastFour, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return domain.Refuse(domain.ErrInvalid, "last_four", "must be the last four characters of the key, in printable ASCII, or be left out")
	}
	return nil
}

func refusePrefix() error {
	return domain.Refuse(domain.ErrInvalid, "prefix", "must be at most %d characters of a-z, A-Z, 0-9, '_', '.' and '-'", events.MaxImportedPrefix)
}

// began is when a key began.
func (c Create) began() events.Time {
	if c.Imported && !c.CreatedAt.IsZero() {
		return c.CreatedAt
	}
	return c.Now
}
