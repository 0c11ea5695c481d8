package key_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/events"
)

// Whatever is read as a digest is 32 bytes that the text says in hex or base64;
// whatever is not is refused and not repeated.
func FuzzParseDigest(f *testing.F) {
	sum := sha256.Sum256([]byte("a key"))
	for _, value := range []string{
		hex.EncodeToString(sum[:]), strings.ToUpper(hex.EncodeToString(sum[:])),
		base64.StdEncoding.EncodeToString(sum[:]), base64.RawStdEncoding.EncodeToString(sum[:]),
		base64.URLEncoding.EncodeToString(sum[:]), base64.RawURLEncoding.EncodeToString(sum[:]),
	} {
		f.Add("sha256", value)
		if d, err := key.ParseDigest("prefix_short_long", value); err != nil || d.Value != sum || d.Alg != events.PrefixShortLong {
			f.Fatalf("%q: %v", value, err)
		}
	}
	for _, value := range []string{
		"", "secret", strings.Repeat("0", 64), hex.EncodeToString(sum[:31]), hex.EncodeToString(sum[:]) + "0", strings.Repeat("=", 44),
		base64.StdEncoding.EncodeToString(sum[:31]) + "==", strings.Repeat("_/", 21) + "A=", strings.Repeat("\n", 43),
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
	} {
		f.Add("sha256", value)
		if _, err := key.ParseDigest("sha256", value); !errors.Is(err, domain.ErrInvalid) {
			f.Fatalf("%q: %v", value, err)
		}
	}
	f.Add("md5", "x")
	f.Add("hmac-sha256", hex.EncodeToString(sum[:]))
	f.Fuzz(func(t *testing.T, alg, value string) {
		d, err := key.ParseDigest(alg, value)
		if err != nil {
			if !errors.Is(err, domain.ErrInvalid) || len(value) > 12 && strings.Contains(err.Error(), value) {
				t.Fatalf("%v", err)
			}
			return
		}
		if d.Alg != events.SHA256 && d.Alg != events.PrefixShortLong || d.PepperID != "" {
			t.Fatalf("%+v", d)
		}
		forms := []string{hex.EncodeToString(d.Value[:])}
		for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
			forms = append(forms, e.EncodeToString(d.Value[:]))
		}
		for _, form := range forms {
			if value == form || strings.EqualFold(value, forms[0]) {
				return
			}
		}
		t.Fatalf("%q was read as %s", value, forms[0])
	})
}
