// Package keystring makes, checks, masks and finds the keys that keyledger
// hands out, without asking anyone: whether a string is one of ours, which part
// of it may be shown, and whether a text has one in it that must not be stored.
//
// A key is
//
//	<prefix>_<random><checksum>
//
// with three parts:
//
//   - prefix: 1 to 15 of a-z, 0-9 and '_', neither starting nor ending with '_';
//   - random: 24 random bytes, read as one big-endian number, in base62 (digits
//     0-9A-Za-z), padded with '0' on the left to 33 characters;
//   - checksum: the CRC-32 (IEEE) of those 33 characters, in base62, padded to 6.
//     The prefix stays out of it, as in GitHub's tokens.
//
// A scanner finds all of them with [a-z0-9][a-z0-9_]{0,14}_[0-9A-Za-z]{39}. The
// checksum tells a typo from a key without a look-up; anyone can compute it, so
// it proves nothing about who issued the key. A typo in the prefix it does not
// see; that key's digest is simply unknown.
//
// The form is for ever: testdata/vectors.json holds examples for other
// implementations, and examples are only ever added.
package keystring

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"unsafe"
)

const (
	// MaxLen is the longest key. SHA-256 takes 55 bytes in one block, and a
	// second block costs half as much again at every verification.
	MaxLen = MaxPrefixLen + 1 + bodyLen

	// MaxPrefixLen is what MaxLen leaves for the prefix.
	MaxPrefixLen = 15

	// ManagementPrefix begins the keys that manage the ledger itself.
	ManagementPrefix = "kl_mgmt"

	randomLen   = 33 // 62^33 > 2^192 > 62^32
	checksumLen = 6  // 62^6 > 2^32 > 62^5
	bodyLen     = randomLen + checksumLen
	minLen      = 1 + 1 + bodyLen

	alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

	// maxRandom is 2^192-1. The alphabet ascends in ASCII, so that comparing
	// strings of one length compares the numbers.
	maxRandom = "2lFA6LboL2xx0ldQH2K1TdSrwuqMMiME3"
)

var (
	// ErrMalformed says that a string is not a key of ours; every error of
	// Check wraps it.
	ErrMalformed = errors.New("keystring: malformed key")

	// ErrChecksum says that a string has the form of a key but not its
	// checksum: a typo, or a forgery by someone who did not read this page.
	ErrChecksum = fmt.Errorf("%w: the checksum does not match", ErrMalformed)

	// ErrPrefix says that a prefix cannot begin a key.
	ErrPrefix = errors.New("keystring: invalid prefix")

	// ErrNoRandomness says that the random bytes were never filled in.
	ErrNoRandomness = errors.New("keystring: the random bytes are all zero")

	// Made once, so that refusing a key costs no allocation either.
	errLength    = fmt.Errorf("%w: a key has %d to %d characters", ErrMalformed, minLen, MaxLen)
	errSeparator = fmt.Errorf("%w: no '_' before the last %d characters", ErrMalformed, bodyLen)
	errPrefix    = fmt.Errorf("%w: the prefix is 1 to %d of a-z, 0-9 and '_', neither starting nor ending with '_'", ErrMalformed, MaxPrefixLen)
	errAlphabet  = fmt.Errorf("%w: a character is not of 0-9, A-Z, a-z", ErrMalformed)
	errRange     = fmt.Errorf("%w: the random part does not fit 24 bytes", ErrMalformed)
)

// notDigit marks, in digits, a byte that is not of the alphabet.
const notDigit = 0x80

// digits is the value of each byte in base62. Only read.
var digits = func() (t [256]byte) {
	for i := range t {
		t[i] = notDigit
	}
	for i := range alphabet {
		t[alphabet[i]] = byte(i)
	}
	return t
}()

// New makes the key of a prefix and 24 bytes from a cryptographic random
// source. It fails with ErrPrefix, or with ErrNoRandomness when a caller forgot
// to fill the bytes in (by chance that happens once in 2^192).
func New(prefix string, random [24]byte) (Secret, error) {
	if err := ValidPrefix(prefix); err != nil {
		return Secret{}, err
	}
	if random == ([24]byte{}) {
		return Secret{}, ErrNoRandomness
	}
	b := make([]byte, 0, MaxLen)
	b = append(b, prefix...)
	b = append(b, '_')
	b = appendNumber(b, random)
	sum := uint64(crc32.ChecksumIEEE(b[len(b)-randomLen:]))
	b = appendBase62(b, sum, checksumLen)
	return Conceal(string(b)), nil
}

// appendNumber appends the 192-bit number in 33 digits.
func appendNumber(dst []byte, random [24]byte) []byte {
	// Division by 62^10, the largest power of the base in 64 bits, yields ten
	// digits at a time: 3 + 10 + 10 + 10.
	const chunk, chunkDigits = 839299365868340224, 10
	words := [3]uint64{
		binary.BigEndian.Uint64(random[0:]),
		binary.BigEndian.Uint64(random[8:]),
		binary.BigEndian.Uint64(random[16:]),
	}
	var chunks [4]uint64
	for i := range chunks {
		var rem uint64
		for j := range words {
			words[j], rem = bits.Div64(rem, words[j], chunk)
		}
		chunks[i] = rem
	}
	dst = appendBase62(dst, chunks[3], randomLen-3*chunkDigits)
	for i := 2; i >= 0; i-- {
		dst = appendBase62(dst, chunks[i], chunkDigits)
	}
	return dst
}

// appendBase62 appends n in exactly width digits.
func appendBase62(dst []byte, n uint64, width int) []byte {
	start := len(dst)
	for range width {
		dst = append(dst, '0')
	}
	for i := len(dst) - 1; i >= start; i-- {
		dst[i] = alphabet[n%62]
		n /= 62
	}
	return dst
}

// ValidPrefix reports why a prefix cannot begin a key, as an error that wraps
// ErrPrefix, or nil. The error says where the fault is and never repeats the
// value: what stands in a prefix field by mistake may well be a key.
func ValidPrefix(prefix string) error {
	switch {
	case prefix == "":
		return fmt.Errorf("%w: it is empty", ErrPrefix)
	case len(prefix) > MaxPrefixLen:
		return fmt.Errorf("%w: it has %d characters, at most %d are allowed", ErrPrefix, len(prefix), MaxPrefixLen)
	}
	for i := range len(prefix) {
		if !isPrefixByte(prefix[i]) {
			return fmt.Errorf("%w: character %d is not of a-z, 0-9 and '_'", ErrPrefix, i+1)
		}
	}
	if prefix[0] == '_' || prefix[len(prefix)-1] == '_' {
		return fmt.Errorf("%w: it may neither start nor end with '_'", ErrPrefix)
	}
	return nil
}

// Check returns nil when s is a well-formed key, else an error that wraps
// ErrMalformed: ErrChecksum when only the checksum is wrong. It takes any
// bytes, allocates nothing, and its errors hold nothing of s.
func Check(s string) error {
	if len(s) < minLen || len(s) > MaxLen {
		return errLength
	}
	sep := len(s) - bodyLen - 1
	if s[sep] != '_' {
		return errSeparator
	}
	if !validPrefix(s[:sep]) {
		return errPrefix
	}
	return checkBody(bytesOf(s[sep+1:]))
}

// WellFormed reports whether Check finds nothing wrong with s.
func WellFormed(s string) bool { return Check(s) == nil }

// checkBody checks the 39 characters after the separator.
func checkBody(body []byte) error {
	body = body[:bodyLen]
	random, checksum := body[:randomLen], body[randomLen:]
	var seen byte
	for _, c := range random {
		seen |= digits[c]
	}
	var sum uint64
	for _, c := range checksum {
		d := digits[c]
		seen |= d
		sum = sum*62 + uint64(d)
	}
	switch {
	case seen&notDigit != 0:
		return errAlphabet
	case string(random) > maxRandom:
		return errRange
	case uint64(crc32.ChecksumIEEE(random)) != sum:
		return ErrChecksum
	}
	return nil
}

// Prefix returns the prefix of a string that has the form of a key, whatever
// its checksum; "" for any other.
func Prefix(s string) string {
	if !shaped(s) {
		return ""
	}
	return s[:len(s)-bodyLen-1]
}

// LastFour returns the last four characters of a string that has the form of a
// key, whatever its checksum; "" for any other, of which four characters could
// be the better part.
func LastFour(s string) string {
	if !shaped(s) {
		return ""
	}
	return s[len(s)-4:]
}

// shaped reports whether s has the form of a key, whatever its checksum.
func shaped(s string) bool {
	if len(s) < minLen || len(s) > MaxLen {
		return false
	}
	sep := len(s) - bodyLen - 1
	return s[sep] == '_' && validPrefix(s[:sep]) && digitRun(bytesOf(s[sep+1:])) == bodyLen
}

const ellipsis = "…"

// Masked is how a key is shown after it was handed out: "kl_live_…a1B2". What is
// unknown of an imported key may be "". Of a prefix longer than any prefix, or
// a "last four" of more than four, only what a key may show is used.
func Masked(prefix, lastFour string) string {
	prefix = prefix[:min(len(prefix), MaxPrefixLen)]
	lastFour = lastFour[max(0, len(lastFour)-4):]
	if prefix == "" {
		return ellipsis + lastFour
	}
	return prefix + "_" + ellipsis + lastFour
}

// Digest is the SHA-256 of the whole string, what the ledger stores in place of
// the key. It allocates nothing, whatever the length. 192 random bits cannot be
// guessed, so no slow hash is needed.
func Digest(s string) [sha256.Size]byte { return sha256.Sum256(bytesOf(s)) }

func validPrefix(p string) bool {
	if p == "" || len(p) > MaxPrefixLen || p[0] == '_' || p[len(p)-1] == '_' {
		return false
	}
	for i := range len(p) {
		if !isPrefixByte(p[i]) {
			return false
		}
	}
	return true
}

func isPrefixByte(c byte) bool { return isPrefixEnd(c) || c == '_' }

// isPrefixEnd is what a prefix may start and end with.
func isPrefixEnd(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// bytesOf views a string as bytes, without the copy on the heap that []byte(s)
// would be: hash/crc32 and crypto/sha256 take slices only, and escape analysis
// does not see through them. Nothing here may write to the result.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
