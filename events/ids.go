package events

import (
	"encoding/hex"
	"fmt"

	"github.com/google/uuid"
)

// OrgID names an organization: `[a-z0-9][a-z0-9-]{0,62}`, or [System].
type OrgID string

// System is the installation's own organization. Its keys reach every other.
const System OrgID = "_system"

// WorkspaceID names a workspace within its organization.
type WorkspaceID string

// ProfileID names a profile within its organization.
type ProfileID string

// VerifierID names a verifier: the part of a use's subject that tells who
// recorded it.
type VerifierID string

// ServerVerifierPrefix begins the names under which servers record uses, and no
// credential's.
const ServerVerifierPrefix = "server-"

// CredentialName names a broker credential, and with it the account, the consumer
// and the verifier that it is for.
type CredentialName string

// MirrorName names a mirror of the ledger, by which many verifiers can read.
type MirrorName string

// KeyID is the id of a key, 16 bytes, written as a UUID.
type KeyID uuid.UUID

// LedgerID is the id of an installation's ledger, drawn once at its beginning.
type LedgerID uuid.UUID

// EventID is the CloudEvents id of a fact, a UUIDv7. It never orders facts.
type EventID uuid.UUID

// CommandID is the id of the wish that a fact fulfils. It is drawn at random or
// derived from an idempotency key, and a repeated wish has the same.
type CommandID uuid.UUID

// ParseOrgID reads an organization's id.
func ParseOrgID(s string) (OrgID, error) {
	if s == string(System) {
		return System, nil
	}
	return parseSlug[OrgID]("organization", s)
}

// ParseWorkspaceID reads a workspace's id.
func ParseWorkspaceID(s string) (WorkspaceID, error) { return parseSlug[WorkspaceID]("workspace", s) }

// ParseProfileID reads a profile's id.
func ParseProfileID(s string) (ProfileID, error) { return parseSlug[ProfileID]("profile", s) }

// ParseVerifierID reads a verifier's id.
func ParseVerifierID(s string) (VerifierID, error) { return parseSlug[VerifierID]("verifier", s) }

// ParseCredentialName reads a credential's name.
func ParseCredentialName(s string) (CredentialName, error) {
	return parseSlug[CredentialName]("credential", s)
}

// ParseMirrorName reads the name of a mirror.
func ParseMirrorName(s string) (MirrorName, error) { return parseSlug[MirrorName]("mirror", s) }

// parseSlug never repeats the text in its error: people paste secrets anywhere.
func parseSlug[T ~string](what, s string) (T, error) {
	if !slug(s) {
		return "", fmt.Errorf("%w: %s id must be 1 to %d characters of a-z, 0-9 and '-', and begin with a letter or digit",
			ErrInvalidID, what, MaxIDLength)
	}
	return T(s), nil
}

func slug(s string) bool {
	if len(s) == 0 || len(s) > MaxIDLength || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// ParseKeyID reads a key's id in the one canonical form of a UUID.
func ParseKeyID(s string) (KeyID, error) { return parseUUID[KeyID]("key", s) }

// ParseLedgerID reads a ledger's id.
func ParseLedgerID(s string) (LedgerID, error) { return parseUUID[LedgerID]("ledger", s) }

// parseUUID takes lower case with hyphens alone, so that one id has one text.
func parseUUID[T ~[16]byte, S ~string | ~[]byte](what string, s S) (T, error) {
	var id T
	ok := len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' &&
		unhex(id[0:4], s[0:8]) && unhex(id[4:6], s[9:13]) && unhex(id[6:8], s[14:18]) &&
		unhex(id[8:10], s[19:23]) && unhex(id[10:16], s[24:36])
	if !ok {
		return T{}, fmt.Errorf("%w: %s id must be a UUID in lower case", ErrInvalidID, what)
	}
	return id, nil
}

// nibbles holds 16 more than the value of a lower-case hex digit, and 0 for
// everything else.
var nibbles = func() (t [256]byte) {
	for i, c := range []byte("0123456789abcdef") {
		t[c] = 16 + byte(i)
	}
	return t
}()

// unhex takes lower-case hex digits of exactly the length of dst alone.
func unhex[S ~string | ~[]byte](dst []byte, src S) bool {
	if len(src) != 2*len(dst) {
		return false
	}
	for i := range dst {
		hi, lo := nibbles[src[2*i]], nibbles[src[2*i+1]]
		if hi == 0 || lo == 0 {
			return false
		}
		dst[i] = (hi-16)<<4 | (lo - 16)
	}
	return true
}

func uuidText(id [16]byte) string {
	var buf [36]byte
	return string(appendUUID(buf[:0], id))
}

// appendUUID writes what parseUUID reads.
func appendUUID(dst []byte, id [16]byte) []byte {
	dst = append(hex.AppendEncode(dst, id[0:4]), '-')
	dst = append(hex.AppendEncode(dst, id[4:6]), '-')
	dst = append(hex.AppendEncode(dst, id[6:8]), '-')
	dst = append(hex.AppendEncode(dst, id[8:10]), '-')
	return hex.AppendEncode(dst, id[10:16])
}

// Append writes the id behind b.
func (id KeyID) Append(b []byte) []byte { return appendUUID(b, id) }

// IsZero reports whether there is no id.
func (id KeyID) IsZero() bool     { return id == KeyID{} }
func (id LedgerID) IsZero() bool  { return id == LedgerID{} }
func (id EventID) IsZero() bool   { return id == EventID{} }
func (id CommandID) IsZero() bool { return id == CommandID{} }

func (id KeyID) String() string     { return uuidText(id) }
func (id LedgerID) String() string  { return uuidText(id) }
func (id EventID) String() string   { return uuidText(id) }
func (id CommandID) String() string { return uuidText(id) }

func (id KeyID) MarshalText() ([]byte, error)     { return appendUUID(nil, id), nil }
func (id LedgerID) MarshalText() ([]byte, error)  { return appendUUID(nil, id), nil }
func (id EventID) MarshalText() ([]byte, error)   { return appendUUID(nil, id), nil }
func (id CommandID) MarshalText() ([]byte, error) { return appendUUID(nil, id), nil }

func (id *KeyID) UnmarshalText(b []byte) error     { return setUUID(id, "key", b) }
func (id *LedgerID) UnmarshalText(b []byte) error  { return setUUID(id, "ledger", b) }
func (id *EventID) UnmarshalText(b []byte) error   { return setUUID(id, "event", b) }
func (id *CommandID) UnmarshalText(b []byte) error { return setUUID(id, "command", b) }

func setUUID[T ~[16]byte](id *T, what string, b []byte) error {
	v, err := parseUUID[T](what, b)
	if err == nil {
		*id = v
	}
	return err
}

// DataSubject is the pseudonym of a person, or of whatever else texts may tell
// of, in the grammar of ids. It stands in facts in clear: a name or an address is
// none.
type DataSubject string

// ParseDataSubject reads a data subject's pseudonym.
func ParseDataSubject(s string) (DataSubject, error) {
	return parseSlug[DataSubject]("data subject", s)
}
