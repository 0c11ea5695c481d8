package gate

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/provider"
)

// RequestID takes the caller's id when it is one that may stand in facts and
// logs, and draws one otherwise.
func RequestID(given string) string {
	if KeepsRequestID(given) {
		return given
	}
	return string(AppendRequestID(nil))
}

// AppendRequestID draws an id. It only has to be found in a log: a trace id's
// form, from a cheap source.
func AppendRequestID(b []byte) []byte {
	var random [16]byte
	binary.BigEndian.PutUint64(random[:8], rand.Uint64())
	binary.BigEndian.PutUint64(random[8:], rand.Uint64())
	return hex.AppendEncode(b, random[:])
}

// KeepsRequestID reports whether a caller's id is one that may stand in facts and
// logs.
func KeepsRequestID(id string) bool {
	if len(id) == 0 || len(id) > MaxRequestID {
		return false
	}
	for i := range len(id) {
		if c := id[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	// Not even a part of a key: Redact masks what only has the form of one.
	return keystring.Redact(id) == id && !provider.Contains(id)
}
