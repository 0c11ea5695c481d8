package wire

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Change is an event of the ledger as the audit log tells it: who did what, when,
// from what to what, and why.
type Change struct {
	Position       string         `json:"position"`
	Type           string         `json:"type" example:"key.permissions_changed" doc:"Without its version."`
	Subject        string         `json:"subject" example:"ledger.0412.acme.key.0197ab6e-98f1-7c3a-8f0e-2f3a4b5c6d7e"`
	Organization   string         `json:"organization"`
	Aggregate      string         `json:"aggregate" example:"key" doc:"What it happened to: key, revoked (a key's revocation, or with the id _all the organization's end), organization, workspace, profile, catalog, …"`
	ID             string         `json:"id" doc:"Of what it happened to."`
	Revision       int64          `json:"revision" doc:"Of what it happened to, after it."`
	ClaimedAt      time.Time      `json:"claimed_at" doc:"When the wish came and was decided, by the server's clock."`
	RecordedAt     time.Time      `json:"recorded_at" doc:"When the ledger was asked to store it, by the server's clock."`
	StoredAt       time.Time      `json:"stored_at" doc:"When it was stored, by the broker's clock. from and to are about this one; the order is that of positions."`
	Actor          string         `json:"actor" example:"key/acme/0197ab6e-98f1-7c3a-8f0e-2f3a4b5c6d7e" doc:"key/<organization>/<key id>, system/<part> or verifier/<id>."`
	ActorName      string         `json:"actor_name,omitzero" doc:"The name of the actor's key today. Left out when it has none, or when it is not yours to see."`
	Role           string         `json:"role,omitzero" doc:"The actor's role then."`
	Scope          string         `json:"scope,omitzero" doc:"The actor's scope then: * for all workspaces, or some of them."`
	Reason         string         `json:"reason,omitzero"`
	Ticket         string         `json:"ticket,omitzero"`
	RequestID      string         `json:"request_id,omitzero"`
	CommandID      string         `json:"command_id" doc:"Events of one command have the same."`
	CausationID    string         `json:"causation_id,omitzero" doc:"The CloudEvents id of the event that made the system act."`
	ConfigPosition string         `json:"config_position,omitzero" doc:"Position of the configuration it was decided under."`
	Changes        []FieldChange  `json:"changes" doc:"From what to what, field by field. Empty for an event of a kind that this server does not know."`
	Workspaces     []string       `json:"workspaces,omitempty" doc:"Workspaces it concerns: those that the key's scope lists before and after, or the workspace itself."`
	Event          jsontext.Value `json:"event,omitzero" doc:"The stored CloudEvents document, byte for byte. Left out unless raw=true."`
}

// FieldChange is what became of one field. What a policy, limits, metadata,
// settings or a catalog hold is told member by member, as in metadata.team.
type FieldChange struct {
	Field  string `json:"field" example:"permissions"`
	Before any    `json:"before" doc:"null when there was none."`
	After  any    `json:"after" doc:"null when there is none any more."`
}
