package wire

import "time"

// Use is one recorded verification of a key.
type Use struct {
	At         time.Time `json:"at" doc:"When the verdict was given, by the verifier's clock, but not after stored_at." example:"2026-11-21T12:34:56.789Z"`
	KeyID      string    `json:"key_id"`
	Code       string    `json:"code" doc:"The verdict." example:"VALID"`
	Permission string    `json:"permission,omitzero" doc:"What was asked for: a permission, or a query of several." example:"interview:start"`
	Workspace  string    `json:"workspace,omitzero" doc:"Where it was asked for." example:"support"`
	Verifier   string    `json:"verifier" doc:"Who gave the verdict." example:"edge-1"`
	Boot       string    `json:"boot" doc:"The run of the verifier."`
	Number     uint64    `json:"number" doc:"Its number in the run and the organization. Uses are numbered without a gap: a missing one is a finding." example:"41"`
	Position   string    `json:"position" doc:"Of its block, in the stream of uses."`
	StoredAt   time.Time `json:"stored_at" doc:"When its block was stored, by the broker's clock."`
	RequestID  string    `json:"request_id,omitzero"`
	Method     string    `json:"method,omitzero" example:"POST"`
	Path       string    `json:"path,omitzero" example:"/api/v1/interviews/start"`
	ClientIP   string    `json:"client_ip,omitzero" doc:"Only where recording it is switched on."`
	UserAgent  string    `json:"user_agent,omitzero"`
}

// UseCount is how many uses of a minute, hour or day had a verdict.
type UseCount struct {
	At    time.Time `json:"at" doc:"The beginning of the unit, in UTC." example:"2026-11-21T12:00:00Z"`
	Unit  string    `json:"unit" example:"hour"`
	Code  string    `json:"code" example:"VALID"`
	Count uint64    `json:"count" example:"1204"`
}

// KeySource is where a key was used from.
type KeySource struct {
	Kind          string    `json:"kind" doc:"client_ip where addresses are recorded, else user_agent." example:"client_ip"`
	Source        string    `json:"source" example:"203.0.113.7"`
	FirstAt       time.Time `json:"first_at" doc:"Of the first use from there."`
	LastAt        time.Time `json:"last_at" doc:"The minute of the last one, first_at where that is later."`
	FirstVerifier string    `json:"first_verifier" doc:"Who gave the verdict on the first use." example:"edge-1"`
	FirstCode     string    `json:"first_code" doc:"The verdict on it." example:"VALID"`
}

// KeptList is a list of what retention drops.
type KeptList[T any] struct {
	List[T]
	DroppedBefore *time.Time `json:"dropped_before,omitzero" doc:"Single uses before then, and their counts by minute, were dropped because the organization keeps them no longer; uses.dropped events count them. Left out where none were."`
}

// UsesFinding is what is wrong with the record of uses, or may be.
type UsesFinding struct {
	Kind         string     `json:"kind" doc:"missing, repeated, unmarked, after_end, total, unended, gap or unreadable." example:"missing"`
	Verifier     string     `json:"verifier,omitzero" example:"edge-1"`
	Boot         string     `json:"boot,omitzero" doc:"The run of the verifier."`
	Organization string     `json:"organization" doc:"Whose uses it is about; _system is all of them."`
	First        uint64     `json:"first,omitzero" doc:"The first number concerned; of a gap, the first position in the stream."`
	Last         uint64     `json:"last,omitzero" doc:"The last one."`
	Count        uint64     `json:"count" doc:"How many uses may be concerned, at most."`
	From         *time.Time `json:"from,omitzero" doc:"Between then"`
	To           *time.Time `json:"to,omitzero" doc:"and then they happened, as far as is known."`
	Position     string     `json:"position" doc:"Of the block it was found at, in the stream of uses; of a run without an end, of its first block."`
	Superseded   bool       `json:"superseded,omitzero" doc:"Of a run without an end: that the verifier has begun another one since. Where it has not, it may well be running."`
	Explained    bool       `json:"explained,omitzero" doc:"Of a gap: that retention dropped these positions, after their uses were counted in uses.dropped events. Nothing is missing."`
	Detail       string     `json:"detail" doc:"The same as a sentence."`
}
