package wire

import "time"

// Digest is how another system has hashed a key.
type Digest struct {
	Alg   string `json:"alg" enum:"sha256,prefix_short_long" doc:"sha256: of the whole key. prefix_short_long: the SHA-256 of what stands behind the last underscore, as keys of the form prefix_short_long have it."`
	Value string `json:"value" maxLength:"64" example:"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae" doc:"32 bytes in hex, or in base64 with either alphabet, padded or not. Never the key itself."`
}

// ImportKey is a key of another system.
type ImportKey struct {
	Digest      Digest            `json:"digest"`
	Prefix      string            `json:"prefix,omitzero" maxLength:"32" example:"acme_live" doc:"What its keys begin with, to be shown: a-z, A-Z, 0-9, '_', '.', '-'."`
	LastFour    string            `json:"last_four,omitzero" maxLength:"4" example:"a1B2" doc:"Its last four characters, to be shown."`
	Name        string            `json:"name,omitzero" maxLength:"200" example:"Zapier"`
	Permissions *GrantWish        `json:"permissions,omitempty" doc:"Needed. A list of grants is short for level restricted."`
	Scope       *Scope            `json:"scope,omitempty" doc:"all_workspaces: true, or a list of workspaces. Needed."`
	Profile     string            `json:"profile,omitzero" maxLength:"63"`
	ExpiresAt   *time.Time        `json:"expires_at,omitempty" doc:"Instead of expires_in."`
	ExpiresIn   string            `json:"expires_in,omitzero" maxLength:"16" example:"90d" doc:"Counted from now: <n>d, <n>mo, <n>y or never; the organization's default unless given."`
	CreatedAt   *time.Time        `json:"created_at,omitempty" doc:"When it was created there, which its age is counted from; now unless given."`
	Metadata    map[string]string `json:"metadata,omitempty" maxProperties:"32"`
	ExternalID  string            `json:"external_id,omitzero" maxLength:"200"`
	DataSubject string            `json:"data_subject,omitzero" maxLength:"63" pattern:"^[a-z0-9][a-z0-9-]{0,62}$" example:"user-4711" doc:"Pseudonym of whom the key's texts tell of; the key's own id unless given."`
	Status      string            `json:"status,omitzero" enum:"ACTIVE,INACTIVE" doc:"ACTIVE unless given."`
}

// ImportKeys brings keys over from another system.
type ImportKeys struct {
	Keys   []ImportKey `json:"keys" minItems:"1" maxItems:"1000"`
	Reason string      `json:"reason,omitzero" maxLength:"1000" doc:"Why, for the audit log."`
}

// What became of a key of an import.
const (
	ResultImported = "imported"
	ResultExists   = "exists"
	ResultRefused  = "refused"
)

// ImportItem is what became of one key of an import.
type ImportItem struct {
	Index   int            `json:"index" doc:"Its place in the request, from 0 on."`
	Result  string         `json:"result" enum:"imported,exists,refused" doc:"exists: it was imported before, and is as it was."`
	KeyID   string         `json:"key_id,omitzero" format:"uuid" doc:"The same whenever this digest is imported into this organization."`
	Problem *ImportProblem `json:"problem,omitempty" doc:"Why it is refused."`
}

// ImportProblem is why one key of an import was refused.
type ImportProblem struct {
	Code   string `json:"code" example:"unknown_permission" doc:"Stable; the codes of problem details."`
	Field  string `json:"field,omitzero" example:"permissions.grants" doc:"The member of the key at fault."`
	Detail string `json:"detail"`
}

// ImportedKeys answers an import.
type ImportedKeys struct {
	Items    []ImportItem `json:"items" doc:"One for each key, in the order of the request."`
	Imported int          `json:"imported"`
	Existing int          `json:"existing"`
	Refused  int          `json:"refused"`
	Position string       `json:"position,omitzero" doc:"Position of the last change among the keys that are there; left out when none is."`
}

// RevokeSelf ends the key of the request.
type RevokeSelf struct {
	Reason string `json:"reason,omitzero" maxLength:"1000" doc:"Why, for the audit log."`
}

// RevokedSelf answers the end of the key of the request.
type RevokedSelf struct {
	KeyID        string `json:"key_id" format:"uuid"`
	Organization string `json:"organization"`
	Status       string `json:"status" enum:"REVOKED"`
	Position     string `json:"position"`
}
