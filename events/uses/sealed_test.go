package uses

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/events"
)

// sealedOf is a sealed text of a size.
func sealedOf(size int) string {
	s := SealedText(events.Sealed{Subject: "person-7", Key: strings.Repeat("0a", 16), Box: "x"})
	return s + strings.Repeat("x", size-len(s))
}

func TestSealedTexts(t *testing.T) {
	whole := events.Sealed{Subject: "person-7", Key: "0badcafe", Box: "AbC+/=="}
	if got, ok := ParseSealed(SealedText(whole)); !ok || got != whole {
		t.Errorf("%+v, %v", got, ok)
	}
	for _, text := range []string{
		"", "sealed", SealedNone, "sealed:", "sealed:a", "sealed:a:b", "sealed:a:b:", "sealed::b:c", "sealed:a::c", "sealed:a:b:c:d", "Sealed:a:b:c", "192.0.2.1",
	} {
		if got, ok := ParseSealed(text); ok || !got.IsZero() {
			t.Errorf("%q is taken for sealed: %+v", text, got)
		}
	}
	for text, want := range map[string]string{
		"": "", "curl/8": "curl/8", "sealed": "sealed", "sealed:": "sealed?", "sealed:a:b:c": "sealed?a:b:c", SealedNone: "sealed?none",
	} {
		if got := Plain(text); got != want {
			t.Errorf("%q is written as %q", text, got)
		}
	}
}

// Sealed texts have more room than those in clear, and come back whole.
func TestSealedTextsInBlocks(t *testing.T) {
	want := []Use{
		{At: 1, Context: Context{RequestID: sealedOf(MaxSealedRequestID), Path: sealedOf(MaxSealed), ClientIP: sealedOf(MaxSealed), UserAgent: sealedOf(MaxSealed)}},
		{At: 2, Context: Context{RequestID: SealedNone, Path: SealedNone, ClientIP: SealedNone, UserAgent: SealedNone}},
		{At: 3, Context: Context{RequestID: "r", Path: "/", ClientIP: "192.0.2.1", UserAgent: "curl"}},
	}
	if diff := cmp.Diff(want, decodeAll(t, 1, encode(t, header(), want))); diff != "" {
		t.Error(diff)
	}
	// As many as there may be, of the largest size, and each another.
	many := make([]Use, 3000)
	for i := range many {
		many[i] = want[0]
		many[i].At = events.Time(i)
		many[i].Path = sealedOf(MaxSealed-2) + string(rune('a'+i%26)) + string(rune('a'+i/26%26))
	}
	if diff := cmp.Diff(many, decodeAll(t, 1, encode(t, header(), many))); diff != "" {
		t.Error(diff[:min(len(diff), 2000)])
	}
}

// The longest of what is sealed fits, with the names of the longest subject and of
// a key, and what encryption adds.
func TestSealedTextsFit(t *testing.T) {
	const added = 5 + 16 // Tink's prefix and a synthetic IV
	base64 := func(n int) string { return strings.Repeat("x", (n+added+2)/3*4) }
	for name, tt := range map[string]struct{ clear, sealed int }{
		"path": {MaxPath, MaxSealed}, "client ip": {MaxClientIP, MaxSealed}, "user agent": {MaxUserAgent, MaxSealed},
		"request id": {MaxRequestIDToSeal, MaxSealedRequestID},
	} {
		s := SealedText(events.Sealed{Subject: strings.Repeat("s", events.MaxIDLength), Key: strings.Repeat("0a", 16), Box: base64(tt.clear)})
		if len(s) > tt.sealed {
			t.Errorf("a sealed %s has %d bytes, and room for %d", name, len(s), tt.sealed)
		}
	}
}

// Only a sealed text may be longer than one in clear.
func TestLongTextsAreSealed(t *testing.T) {
	for name, u := range map[string]Use{
		"path":       {Context: Context{Path: sealedOf(MaxPath + 1)}},
		"client ip":  {Context: Context{ClientIP: sealedOf(MaxClientIP + 1)}},
		"user agent": {Context: Context{UserAgent: sealedOf(MaxUserAgent + 1)}},
		"request id": {Context: Context{RequestID: sealedOf(MaxRequestID + 1)}},
	} {
		e := encoder(t)
		n, from, to, err := e.columns(0, 1, func(_ int, to *Use) { *to = u })
		if err != nil || n != 1 {
			t.Fatal(n, err)
		}
		// The same columns, of which nobody would say that they are sealed.
		e.raw = []byte(strings.ReplaceAll(string(e.raw), SealedPrefix, "seAled:"))
		e.pack(1)
		h := header()
		h.Kind, h.First, h.Last, h.From, h.To = KindUses, 1, 1, from, to
		b := h.append(nil)
		m := h.message(append(append(b, 1, 1), append(binary.AppendUvarint(nil, uint64(len(e.raw))), e.packed...)...))
		if _, err := decoder(t).Decode(m.Subject, m.Body); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "beyond its limit") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
