package wire

import "time"

// Moment is where in the ledger's history something is told of.
type Moment struct {
	Position string    `json:"position" doc:"Every event up to there counts, and none after it."`
	Time     time.Time `json:"time" doc:"The time that expiry is judged at: the one that was asked for, or when the last change up to the position was stored."`

	UsesKeptSince *time.Time `json:"uses_kept_since,omitempty" doc:"Of a key: last_used_at is null because single uses of before are not kept any more, and not because there was none."`
}

// PastVerdict is what a question would have been answered with.
type PastVerdict struct {
	Valid        bool    `json:"valid" doc:"true if the code is VALID."`
	Code         string  `json:"code" enum:"VALID,NOT_FOUND,REVOKED,EXPIRED,INACTIVE,INSUFFICIENT_PERMISSIONS,OUT_OF_SCOPE,UNAVAILABLE" doc:"NOT_FOUND: no secret leads to this key, because its digest is that of a key which was there before."`
	Permission   string  `json:"permission,omitzero" doc:"As it was asked."`
	Workspace    string  `json:"workspace,omitzero" doc:"As it was asked."`
	ScopeChecked bool    `json:"scope_checked" doc:"Whether a workspace was asked about and judged."`
	MadeSoBy     *Change `json:"made_so_by,omitempty" doc:"The last event with which the code became what it is, all judged at as_of.time: of the key, or of the organization."`
}

// Could is a key that could do what was asked.
type Could struct {
	KeyID       string  `json:"key_id" format:"uuid"`
	Name        *string `json:"name" doc:"Its name then, null when it had none."`
	Masked      string  `json:"masked" example:"kl_live_…a1B2"`
	Permissions *Grant  `json:"permissions,omitempty"`
	Scope       Scope   `json:"scope"`
	MadeSoBy    string  `json:"made_so_by" doc:"Position of the event that made the verdict VALID."`
}

// WhoCould are the keys whose verdict on a question was VALID.
type WhoCould struct {
	Items      []Could   `json:"items" doc:"From the oldest key on. A page may hold fewer than asked for, even none, while next_cursor says that there is more to be looked through."`
	NextCursor string    `json:"next_cursor,omitzero" doc:"Left out on the last page. The pages of one list are about one position."`
	Position   string    `json:"position" doc:"Every event up to there counts, and none after it."`
	Time       time.Time `json:"time" doc:"The time that expiry is judged at."`
}
