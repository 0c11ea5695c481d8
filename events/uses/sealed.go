package uses

import (
	"strings"

	"github.com/keyledger/keyledger/events"
)

// What may name a person or a place in a use is its request id, path, client IP
// and user agent. Where an organization has its texts sealed, each of them stands
// in a block as
//
//	sealed:<data subject>:<key>:<box>
//
// which are the members of an [events.Sealed], so that the key that opens it can
// be destroyed and the block stays what it is. A text that could not be sealed is
// left out, and [SealedNone] stands in its place: it is never written in clear
// instead.

// SealedPrefix begins every sealed text, and none in clear: see [Plain].
const SealedPrefix = "sealed:"

// SealedNone stands where a text was left out.
const SealedNone = SealedPrefix + "none"

const (
	// MaxSealed bounds a sealed text: the longest path with what sealing adds,
	// in base64, and the names beside it.
	MaxSealed = 512

	// MaxSealedRequestID bounds a sealed request id, whose length must fit one
	// byte.
	MaxSealedRequestID = 255

	// MaxRequestIDToSeal is how much of a request id is sealed, so that it fits:
	// a UUID does, and a W3C traceparent.
	MaxRequestIDToSeal = 88
)

// SealedText returns what stands in a block for a sealed text.
func SealedText(s events.Sealed) string {
	return SealedPrefix + s.Subject + ":" + s.Key + ":" + s.Box
}

// ParseSealed reads what SealedText writes, and reports whether it was that.
// [SealedNone] is not: there is nothing to open.
func ParseSealed(text string) (events.Sealed, bool) {
	rest, ok := strings.CutPrefix(text, SealedPrefix)
	if !ok {
		return events.Sealed{}, false
	}
	var s events.Sealed
	if s.Subject, rest, ok = strings.Cut(rest, ":"); !ok {
		return events.Sealed{}, false
	}
	s.Key, s.Box, ok = strings.Cut(rest, ":")
	if !ok || s.Subject == "" || s.Key == "" || s.Box == "" || strings.Contains(s.Box, ":") {
		return events.Sealed{}, false
	}
	return s, true
}

// Plain returns what is written of a text in clear. One that begins as a sealed
// text does came from a caller who would have it look erased: its colon becomes a
// question mark.
func Plain(text string) string {
	if !strings.HasPrefix(text, SealedPrefix) {
		return text
	}
	return unlikeSealed(text)
}

// unlikeSealed is apart, so that Plain costs next to nothing for all other texts.
func unlikeSealed(text string) string { return "sealed?" + text[len(SealedPrefix):] }

// limitOf is how long a text may be that may be sealed.
func limitOf(text string, clear, sealed int) int {
	if strings.HasPrefix(text, SealedPrefix) {
		return sealed
	}
	return clear
}
