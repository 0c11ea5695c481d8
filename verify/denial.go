package verify

import (
	"net/http"

	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
)

// Denial is how a verdict is told to the client of an application, which must learn
// what it has to do and nothing else.
type Denial struct {
	// Status is that of HTTP: 401 where another key may help, 403 where this one may
	// not do this, 503 where there is no verdict.
	Status int
	// Code is stable; Title and Detail are for people.
	Code, Title, Detail string
}

// Denial is how the verdict is told to a client. It denies whatever it is asked of:
// one that is VALID is not told.
func (d *Decision) Denial() Denial { return DenialOf(d.Code) }

// DenialOf is how a code is told to a client. Nobody passes with one that is not
// known, nor with VALID, which is no denial.
func DenialOf(code events.Code) Denial {
	switch code {
	case events.CodeMalformed:
		return Denial{http.StatusUnauthorized, "key_malformed", "Malformed key", "this is not a key"}
	case events.CodeNotFound:
		return Denial{http.StatusUnauthorized, "key_not_found", "Unknown key", "there is no such key"}
	case events.CodeRevoked:
		return Denial{http.StatusUnauthorized, "key_revoked", "Revoked key", "the key was revoked"}
	case events.CodeExpired:
		return Denial{http.StatusUnauthorized, "key_expired", "Expired key", "the key has expired"}
	case events.CodeInactive:
		return Denial{http.StatusUnauthorized, "key_inactive", "Inactive key", "the key is switched off"}
	case events.CodeInsufficientPermissions:
		return Denial{http.StatusForbidden, "insufficient_permissions", "Insufficient permissions", "the key may not do this"}
	case events.CodeOutOfScope:
		return Denial{http.StatusForbidden, "out_of_scope", "Out of scope", "the key may not be used here"}
	case events.CodeStale:
		return Denial{http.StatusServiceUnavailable, "stale", "Stale", "this verifier does not know the latest changes; try again"}
	default:
		return Denial{http.StatusServiceUnavailable, "unavailable", "Unavailable", "there is no verdict right now; try again"}
	}
}

// Challenge is what RFC 6750 has a denial say in WWW-Authenticate within a realm,
// empty for nothing; the permission is the one that was judged. The realm must need
// no quoting.
func (d Denial) Challenge(realm, permissionName string) string {
	challenge := `Bearer realm="` + realm + `"`
	switch d.Status {
	case http.StatusUnauthorized:
		return challenge + `, error="invalid_token", error_description="` + d.Detail + `"`
	case http.StatusForbidden:
		challenge += `, error="insufficient_scope"`
		if _, err := permission.ParseName(permissionName); err == nil {
			challenge += `, scope="` + permissionName + `"`
		}
		return challenge
	default:
		return ""
	}
}
