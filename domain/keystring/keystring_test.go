package keystring_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/domain/keystring"
)

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

type vectors struct {
	Alphabet string
	Valid    []struct{ Prefix, Random, Key, SHA256, Masked string }
	Invalid  []struct{ Why, Key, Error string }
}

func readVectors(t testing.TB) (v vectors) {
	t.Helper()
	raw, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Valid) == 0 || len(v.Invalid) == 0 {
		t.Fatal("no vectors")
	}
	return v
}

// mustKey makes the key of a prefix and bytes that are right by construction.
func mustKey(t interface{ Fatal(...any) }, prefix string, random [24]byte) string {
	secret, err := keystring.New(prefix, random)
	if err != nil {
		t.Fatal(err)
	}
	return secret.Reveal()
}

func TestVectors(t *testing.T) {
	v := readVectors(t)
	if v.Alphabet != alphabet {
		t.Error("the alphabet changed")
	}
	scanner := regexp.MustCompile(`^[a-z0-9][a-z0-9_]{0,14}_[0-9A-Za-z]{39}$`)
	for _, c := range v.Valid {
		raw, err := hex.DecodeString(c.Random)
		if err != nil || len(raw) != 24 {
			t.Fatalf("vector %s: bad random bytes", c.Masked)
		}
		secret, err := keystring.New(c.Prefix, [24]byte(raw))
		if err != nil {
			t.Fatalf("vector %s: %v", c.Masked, err)
		}
		if secret.Reveal() != c.Key {
			t.Errorf("vector %s: another key was made", c.Masked)
		}
		if err := keystring.Check(c.Key); err != nil {
			t.Errorf("vector %s: %v", c.Masked, err)
		}
		digest := keystring.Digest(c.Key)
		if hex.EncodeToString(digest[:]) != c.SHA256 {
			t.Errorf("vector %s: another digest", c.Masked)
		}
		if got := keystring.Masked(keystring.Prefix(c.Key), keystring.LastFour(c.Key)); got != c.Masked || secret.String() != c.Masked {
			t.Errorf("vector %s: masked as %s and %s", c.Masked, got, secret)
		}
		if !scanner.MatchString(c.Key) {
			t.Errorf("vector %s: the documented pattern misses it", c.Masked)
		}
	}
	for _, c := range v.Invalid {
		err := keystring.Check(c.Key)
		if !errors.Is(err, keystring.ErrMalformed) {
			t.Errorf("%s: Check = %v, want ErrMalformed", c.Why, err)
		}
		if got := errors.Is(err, keystring.ErrChecksum); got != (c.Error == "checksum") {
			t.Errorf("%s: Check = %v, want a fault of kind %q", c.Why, err, c.Error)
		}
		if keystring.WellFormed(c.Key) {
			t.Errorf("%s: well-formed", c.Why)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	if s, err := keystring.New("kl_live", [24]byte{}); !errors.Is(err, keystring.ErrNoRandomness) || !s.IsZero() {
		t.Errorf("zero bytes: %v", err)
	}
	if s, err := keystring.New("Kl", [24]byte{1}); !errors.Is(err, keystring.ErrPrefix) || !s.IsZero() {
		t.Errorf("bad prefix: %v", err)
	}
}

func TestValidPrefix(t *testing.T) {
	for _, p := range []string{"a", "0", "kl", "kl_live", "kl_test_2", "a__b", "9_z", "abcdefghijklmno"} {
		if err := keystring.ValidPrefix(p); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	for p, part := range map[string]string{
		"":                 "empty",
		"abcdefghijklmnop": "16 characters",
		"Kl":               "character 1",
		"kl-live":          "character 3",
		"kl live":          "character 3",
		"kl_lìve":          "character 5",
		"kl\x00":           "character 3",
		"_kl":              "start",
		"kl_":              "end",
		"_":                "start",
	} {
		err := keystring.ValidPrefix(p)
		if !errors.Is(err, keystring.ErrPrefix) || !strings.Contains(err.Error(), part) {
			t.Errorf("%q: %v, want an error about %q", p, err, part)
		}
	}
	key := mustKey(t, "kl_live", [24]byte{7})
	if err := keystring.ValidPrefix(key); err == nil || strings.Contains(err.Error(), key[8:20]) {
		t.Error("a key as prefix: no error, or one that repeats it")
	}
}

// Any single wrong, missing or doubled character after the prefix, and any two
// neighbours swapped, are found without a look-up.
func TestEveryTypoIsFound(t *testing.T) {
	const printable = alphabet + "_-+/= .\n\x00\xff"
	rapid.Check(t, func(t *rapid.T) {
		key := drawKey(t)
		for i := len(key) - 40; i < len(key); i++ {
			for _, c := range []byte(printable) {
				if c != key[i] && keystring.WellFormed(key[:i]+string([]byte{c})+key[i+1:]) {
					t.Fatalf("character %d replaced by %q: still well-formed", i, c)
				}
			}
			if keystring.WellFormed(key[:i] + key[i+1:]) {
				t.Fatalf("character %d left out: still well-formed", i)
			}
			if keystring.WellFormed(key[:i+1] + key[i:]) {
				t.Fatalf("character %d doubled: still well-formed", i)
			}
			if i+1 < len(key) && key[i] != key[i+1] &&
				keystring.WellFormed(key[:i]+key[i+1:i+2]+key[i:i+1]+key[i+2:]) {
				t.Fatalf("characters %d and %d swapped: still well-formed", i, i+1)
			}
		}
	})
}

func drawPrefix(t *rapid.T) string {
	return rapid.StringMatching(`[a-z0-9]([a-z0-9_]{0,13}[a-z0-9])?`).Draw(t, "prefix")
}

func drawRandom(t *rapid.T) (random [24]byte) {
	copy(random[:], rapid.SliceOfN(rapid.Byte(), 24, 24).Draw(t, "random"))
	if random == ([24]byte{}) {
		random[23] = 1
	}
	return random
}

func drawKey(t *rapid.T) string { return mustKey(t, drawPrefix(t), drawRandom(t)) }

func TestEveryKeyIsWellFormed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix, random := drawPrefix(t), drawRandom(t)
		key := mustKey(t, prefix, random)
		if len(key) > keystring.MaxLen || len(key) != len(prefix)+40 {
			t.Fatalf("%d bytes", len(key))
		}
		if err := keystring.Check(key); err != nil {
			t.Fatal(err)
		}
		if keystring.Prefix(key) != prefix || keystring.LastFour(key) != key[len(key)-4:] {
			t.Fatalf("prefix %q, last four %q", keystring.Prefix(key), keystring.LastFour(key))
		}
		// The number is read back by other mathematics than made it.
		n := new(big.Int)
		for _, c := range key[len(prefix)+1 : len(prefix)+34] {
			n.Mul(n, big.NewInt(62)).Add(n, big.NewInt(int64(strings.IndexRune(alphabet, c))))
		}
		var back [24]byte
		n.FillBytes(back[:])
		if back != random {
			t.Fatal("the random part is another number")
		}
	})
}

func TestPrefixAndLastFourOfOtherStrings(t *testing.T) {
	for _, s := range []string{"", "a", "abcd", "hunter2", "other-system-key", strings.Repeat("a", 41), strings.Repeat("_", 47), "_" + strings.Repeat("a", 39)} {
		if p, l := keystring.Prefix(s), keystring.LastFour(s); p != "" || l != "" {
			t.Errorf("%q: prefix %q, last four %q, want none", s, p, l)
		}
	}
}

func TestMasked(t *testing.T) {
	for _, c := range []struct{ prefix, lastFour, want string }{
		{"kl_live", "a1B2", "kl_live_…a1B2"},
		{"", "a1B2", "…a1B2"},
		{"kl", "", "kl_…"},
		{"", "", "…"},
		{"kl", "0123456789", "kl_…6789"},
		{"0123456789abcdefghij", "a1B2", "0123456789abcde_…a1B2"},
	} {
		if got := keystring.Masked(c.prefix, c.lastFour); got != c.want {
			t.Errorf("Masked(%q, %q) = %q, want %q", c.prefix, c.lastFour, got, c.want)
		}
	}
}

func TestDigestIsSHA256(t *testing.T) {
	for _, n := range []int{0, 1, 32, 54, 55, 56, 63, 64, 65, 512} {
		s := strings.Repeat("k", n)
		if keystring.Digest(s) != sha256.Sum256([]byte(s)) {
			t.Errorf("%d bytes: another digest", n)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	key := mustKey(t, "abcdefghijklmno", [24]byte{1, 2, 3})
	typo := key[:len(key)-1] + "!"
	swapped := key[:20] + string(key[20]^1) + key[21:]
	long := strings.Repeat("x", 512)
	text := []byte(strings.Repeat("a_b ", 100) + swapped + " " + key + " tail")
	textString := string(text)
	for name, f := range map[string]func(){
		"Check": func() {
			for _, s := range [...]string{key, typo, swapped, long, ""} {
				_ = keystring.Check(s)
			}
		},
		"Digest": func() {
			for _, s := range [...]string{key, long, ""} {
				_ = keystring.Digest(s)
			}
		},
		"Prefix and LastFour": func() { _, _ = keystring.Prefix(key), keystring.LastFour(key) },
		"Find":                func() { _, _, _ = keystring.Find(text) },
		"Contains":            func() { _ = keystring.Contains(textString) },
		"Redact of nothing":   func() { _ = keystring.Redact(long) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func FuzzCheck(f *testing.F) {
	v := readVectors(f)
	for _, c := range v.Valid {
		f.Add(c.Key)
	}
	for _, c := range v.Invalid {
		f.Add(c.Key)
	}
	f.Fuzz(func(t *testing.T, s string) {
		err := keystring.Check(s)
		if keystring.WellFormed(s) != (err == nil) {
			t.Fatal("WellFormed and Check disagree")
		}
		_ = keystring.Digest(s)
		prefix, last := keystring.Prefix(s), keystring.LastFour(s)
		if (prefix == "") != (last == "") {
			t.Fatal("a prefix without a last four, or the other way round")
		}
		if prefix == "" {
			if err == nil {
				t.Fatal("well-formed without a form")
			}
			return
		}
		if keystring.ValidPrefix(prefix) != nil || !strings.HasPrefix(s, prefix+"_") || !strings.HasSuffix(s, last) {
			t.Fatal("not the prefix, or not the last four")
		}
		if keystring.Redact(s) != keystring.Masked(prefix, last) {
			t.Fatal("Redact and Masked disagree")
		}
		if err != nil {
			if errors.Is(err, keystring.ErrMalformed) && keystring.Contains(s) {
				t.Fatal("a malformed key of the right form contains a key")
			}
			return
		}
		if start, end, ok := keystring.Find([]byte(s)); !ok || start != 0 || end != len(s) {
			t.Fatal("Find misses it")
		}
		// There is one key for a number: it must be the one New makes.
		n := new(big.Int)
		for _, c := range s[len(prefix)+1 : len(prefix)+34] {
			n.Mul(n, big.NewInt(62)).Add(n, big.NewInt(int64(strings.IndexRune(alphabet, c))))
		}
		var random [24]byte
		n.FillBytes(random[:])
		if random != ([24]byte{}) && mustKey(t, prefix, random) != s {
			t.Fatal("two well-formed keys for one number")
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	key := mustKey(b, "kl_live", [24]byte(bytes.Repeat([]byte{0xa5}, 24)))
	b.ReportAllocs()
	for b.Loop() {
		if !keystring.WellFormed(key) {
			b.Fatal("malformed")
		}
	}
}

func BenchmarkDigest(b *testing.B) {
	key := mustKey(b, "abcdefghijklmno", [24]byte(bytes.Repeat([]byte{0xa5}, 24)))
	b.ReportAllocs()
	for b.Loop() {
		_ = keystring.Digest(key)
	}
}
