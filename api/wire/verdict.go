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
}

// VerdictProfile is the profile that a verdict carries.
type VerdictProfile struct {
	ID       string         `json:"id"`
	Name     string         `json:"name,omitzero"`
	Settings jsontext.Value `json:"settings"`
}
