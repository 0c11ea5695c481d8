package wire

// Problem is an error of the API: problem details (RFC 9457) with a code that
// never changes its meaning.
type Problem struct {
	Type      string  `json:"type" format:"uri-reference" example:"/docs#unknown_permission" doc:"Where the code is explained, on this server."`
	Title     string  `json:"title" example:"Unknown permission"`
	Status    int     `json:"status" example:"422"`
	Detail    string  `json:"detail,omitzero" doc:"What was wrong and what to do."`
	Code      string  `json:"code" example:"unknown_permission" doc:"Stable; decide on this."`
	Field     string  `json:"field,omitzero" example:"permissions.grants" doc:"The member, parameter or header at fault, if one is."`
	Errors    []Fault `json:"errors,omitempty" doc:"All faults, when there is more than one."`
	Problem   string  `json:"problem,omitzero" enum:"spaces,missing_prefix,other_provider,too_short,too_long,characters" doc:"Of provider_key_malformed alone: what is wrong with what was pasted."`
	LooksLike string  `json:"looks_like,omitzero" doc:"Of provider_key_malformed alone: whose key it looks like." example:"anthropic"`
	Error     string  `json:"error,omitzero" doc:"Of /oauth2 alone: what RFC 6749 calls it."`
	RequestID string  `json:"request_id,omitzero"`
}

// Fault is one of several faults of a request.
type Fault struct {
	Field  string `json:"field,omitzero"`
	Detail string `json:"detail"`
}
