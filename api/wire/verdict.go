package wire

import "github.com/go-json-experiment/json/jsontext"

// VerifyRequest asks for a verdict.
type VerifyRequest struct {
	Secret     string         `json:"secret" example:"kl_live_…" doc:"The key as the caller presented it."`
	Permission string         `json:"permission,omitzero" example:"interview:start" doc:"Must the key be allowed this? One permission, or a query such as interview:read AND (interview:start OR report:*)."`
	Workspace  string         `json:"workspace,omitzero" example:"support" doc:"Must the key be of use there? Without it no scope is judged."`
	AtLeast    string         `json:"at_least,omitzero" doc:"A position that must be applied before the verdict; STALE when it is not in time."`
	Context    *VerifyContext `json:"context,omitempty" doc:"Recorded with the use."`
}

// VerifyContext is what is recorded of the request that a verdict is for. Texts
// that are too long are cut, and keys in them masked: neither keeps a use from
// its verdict.
type VerifyContext struct {
	RequestID string `json:"request_id,omitzero" doc:"Cut at 128 bytes."`
	Method    string `json:"method,omitzero" doc:"Cut at 16 bytes."`
	Path      string `json:"path,omitzero" doc:"Without the query. Cut at 256 bytes."`
	ClientIP  string `json:"client_ip,omitzero" doc:"Recorded only where the server is configured to."`
	UserAgent string `json:"user_agent,omitzero" doc:"Cut at 128 bytes."`
}

// VerifyBatch asks for many verdicts at once.
type VerifyBatch struct {
	Requests []VerifyRequest `json:"requests" minItems:"1" maxItems:"100" doc:"1 to 100."`
}

// Verdicts answer /v1/verify/batch, in the order of its requests.
type Verdicts struct {
	Verdicts []Verdict `json:"verdicts"`
}

// Verdict answers /v1/verify. For MALFORMED and NOT_FOUND it tells valid, code,
// position and staleness alone.
type Verdict struct {
	Valid        bool            `json:"valid"`
	Code         string          `json:"code" enum:"VALID,MALFORMED,NOT_FOUND,REVOKED,EXPIRED,INACTIVE,INSUFFICIENT_PERMISSIONS,OUT_OF_SCOPE,STALE,UNAVAILABLE"`
	KeyID        string          `json:"key_id,omitzero"`
	Organization string          `json:"organization,omitzero"`
	Kind         string          `json:"kind,omitzero" enum:"management" doc:"Only of a management key, which is good for this API alone and grants no permission."`
	Role         string          `json:"role,omitzero" doc:"Of a management key."`
	Profile      *VerdictProfile `json:"profile,omitempty"`
	Permissions  *Grant          `json:"permissions,omitempty"`
	Scope        *Scope          `json:"scope,omitempty"`
	ExpiresAt    string          `json:"expires_at,omitzero" format:"date-time"`
	ScopeChecked bool            `json:"scope_checked,omitzero" doc:"Whether a workspace was asked about and judged."`
	Position     string          `json:"position" doc:"How far this verifier has applied the ledger."`
	Staleness    float64         `json:"staleness" doc:"Seconds since this verifier last knew that it had applied everything."`
	Asked        bool            `json:"asked,omitzero" doc:"true when a sidecar that was stale asked a server for this one. Left out otherwise."`
	Stale        bool            `json:"stale,omitzero" doc:"true when a sidecar that was told to serve stale verdicts gave this one past its bound: a revocation may be missing. Left out otherwise."`
}

// VerdictProfile is the profile that a verdict carries.
type VerdictProfile struct {
	ID       string         `json:"id"`
	Name     string         `json:"name,omitzero"`
	Settings jsontext.Value `json:"settings"`
}

// IntrospectRequest is the form of /oauth2/introspect (RFC 7662). Parameters that
// are not known are passed over.
type IntrospectRequest struct {
	Token         string `json:"token" example:"kl_live_…" doc:"The key as the caller presented it."`
	TokenTypeHint string `json:"token_type_hint,omitzero" doc:"Passed over: there is one type of token."`
	Permission    string `json:"permission,omitzero" example:"interview:start" doc:"Must the token be allowed this? One permission, or a query, as for /v1/verify. It is inactive otherwise."`
	Workspace     string `json:"workspace,omitzero" example:"support" doc:"Must the token be of use there? It is inactive otherwise."`
}

// Introspection answers /oauth2/introspect (RFC 7662). Of a token that is not
// active it tells that alone.
type Introspection struct {
	Active    bool     `json:"active"`
	Scope     *string  `json:"scope,omitempty" example:"interview:read interview:start" doc:"The permissions that the key has today, with spaces between."`
	ClientID  string   `json:"client_id,omitzero" format:"uuid" doc:"The key's id."`
	TokenType string   `json:"token_type,omitzero" enum:"Bearer"`
	Exp       int64    `json:"exp,omitzero" doc:"When the key expires, in seconds since 1970. Left out for never."`
	Sub       string   `json:"sub,omitzero" format:"uuid" doc:"The key's id."`
	Iss       string   `json:"iss,omitzero" example:"urn:uuid:0197ab6e-98f1-7c3a-8f0e-2f3a4b5c6d7e" doc:"The installation."`
	Keyledger *Verdict `json:"keyledger,omitempty" doc:"The verdict, as /v1/verify answers it."`
}

// RevokeRequest is the form of /oauth2/revoke (RFC 7009).
type RevokeRequest struct {
	Token         string `json:"token" example:"kl_live_…" doc:"The key that is to end."`
	TokenTypeHint string `json:"token_type_hint,omitzero" doc:"Passed over: there is one type of token."`
}
