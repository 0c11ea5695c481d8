package events

import "fmt"

// Code says why a verdict is what it is. It stands in recorded uses as its
// number and everywhere else as its name; neither changes. Its zero value is no
// verdict, and denies.
type Code uint8

// The codes.
const (
	CodeNone                    Code = 0
	CodeValid                   Code = 1
	CodeMalformed               Code = 2
	CodeNotFound                Code = 3
	CodeRevoked                 Code = 4
	CodeExpired                 Code = 5
	CodeInactive                Code = 6
	CodeInsufficientPermissions Code = 7
	CodeOutOfScope              Code = 8
	CodeStale                   Code = 9
	CodeUnavailable             Code = 10
)

// Codes are all codes that a verdict may carry.
var Codes = [...]Code{
	CodeValid, CodeMalformed, CodeNotFound, CodeRevoked, CodeExpired, CodeInactive,
	CodeInsufficientPermissions, CodeOutOfScope, CodeStale, CodeUnavailable,
}

func (c Code) String() string {
	switch c {
	case CodeNone:
		return ""
	case CodeValid:
		return "VALID"
	case CodeMalformed:
		return "MALFORMED"
	case CodeNotFound:
		return "NOT_FOUND"
	case CodeRevoked:
		return "REVOKED"
	case CodeExpired:
		return "EXPIRED"
	case CodeInactive:
		return "INACTIVE"
	case CodeInsufficientPermissions:
		return "INSUFFICIENT_PERMISSIONS"
	case CodeOutOfScope:
		return "OUT_OF_SCOPE"
	case CodeStale:
		return "STALE"
	case CodeUnavailable:
		return "UNAVAILABLE"
	default:
		return fmt.Sprintf("CODE_%d", uint8(c))
	}
}

// ParseCode reads a code's name.
func ParseCode(s string) (Code, bool) {
	for _, c := range Codes {
		if c.String() == s {
			return c, true
		}
	}
	return CodeNone, false
}

// MarshalText writes the code's name.
func (c Code) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads a code's name.
func (c *Code) UnmarshalText(b []byte) error {
	v, ok := ParseCode(string(b))
	if !ok {
		return fmt.Errorf("%w: unknown verdict code", ErrMalformed)
	}
	*c = v
	return nil
}

// Status is the state of a key's life as people see it.
type Status string

// The statuses. INACTIVE can come back; EXPIRED and REVOKED are for ever.
const (
	StatusActive   Status = "ACTIVE"
	StatusInactive Status = "INACTIVE"
	StatusExpired  Status = "EXPIRED"
	StatusRevoked  Status = "REVOKED"
)
