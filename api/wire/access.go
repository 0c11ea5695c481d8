package wire

import "time"

// Access is what happened alike within a minute on one server: who read the audit
// log, could not log in, or was refused.
type Access struct {
	Minute       time.Time `json:"minute" doc:"The beginning of the minute." example:"2026-11-21T12:34:00Z"`
	Kind         string    `json:"kind" doc:"What happened." example:"login.failed"`
	Organization string    `json:"organization" doc:"Whose record it is; _system is the installation." example:"acme"`
	Server       string    `json:"server" doc:"The server that recorded it."`
	Actor        string    `json:"actor,omitzero" doc:"The management key, if it is known whose it was."`
	ActorName    string    `json:"actor_name,omitzero" doc:"The name of that key."`
	Role         string    `json:"role,omitzero" doc:"The role that it had."`
	What         string    `json:"what" doc:"The route or report; others is what was not told apart." example:"list-audit-events"`
	Code         string    `json:"code,omitzero" doc:"Why it was refused; left out when it was not. Of provider_key.tested what the test came to." example:"REVOKED"`
	Answer       string    `json:"answer,omitzero" enum:"customer,built_in" doc:"Of a provider key: what was answered."`
	Version      uint64    `json:"version,omitzero" doc:"Of a provider key: the version of the customer's secret."`
	Source       string    `json:"source,omitzero" doc:"Where it came from, as source_kind says."`
	SourceKind   string    `json:"source_kind,omitzero" doc:"client_ip, or label: the same for the same address on one day." example:"label"`
	Count        uint64    `json:"count" doc:"How often it happened." example:"3"`
	FirstAt      time.Time `json:"first_at" doc:"When for the first time."`
	LastAt       time.Time `json:"last_at" doc:"When for the last time."`
	RequestID    string    `json:"request_id,omitzero" doc:"The id of the first of these requests."`
}
