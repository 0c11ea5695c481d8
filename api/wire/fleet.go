package wire

import "time"

// Verifier is one that gives verdicts: a server, a sidecar, or the SDK in a program.
// What it says of itself is its own word.
type Verifier struct {
	Name          string     `json:"name" doc:"What its uses are recorded under, and its credential is called." example:"edge-1"`
	Kind          string     `json:"kind,omitzero" enum:"server,sidecar,sdk" doc:"What it runs in; left out for one that was never heard of."`
	State         string     `json:"state" enum:"live,lost,silent,ended" doc:"live is heard of within its lease, lost is not any more, silent has a credential and was never heard of, or not for a week, ended said that it ends."`
	Duplicate     bool       `json:"duplicate,omitzero" doc:"Two programs work under its name: give each a credential of its own."`
	Ready         bool       `json:"ready" doc:"Whether it said that it answers, and that nothing it knows of is wrong."`
	Version       string     `json:"version,omitzero" doc:"The program's."`
	Credential    string     `json:"credential,omitzero" enum:"issued,revoked" doc:"Left out for a server, which needs none of the ledger's."`
	IssuedAt      *time.Time `json:"issued_at,omitzero" doc:"When the credential was issued."`
	Organizations []string   `json:"organizations,omitempty" doc:"The only ones whose keys it answers for; left out for all. A key of an organization is told of no other."`
	Position      string     `json:"position,omitzero" doc:"How far it had applied the ledger, by its last word."`
	Behind        *uint64    `json:"behind,omitzero" doc:"How many events that is behind this server. Left out for one that is narrowed to organizations, whose own events may be older."`
	Staleness     *float64   `json:"staleness,omitzero" doc:"Seconds since it was known to hold everything, by its last word; left out when it was never."`
	MaxStaleness  float64    `json:"max_staleness" doc:"Seconds past which it denies, by its word, or by its credential." example:"30"`
	ServesStale   bool       `json:"serves_stale,omitzero" doc:"It was told to give verdicts past max_staleness all the same: nothing bounds how long it accepts a revoked key."`
	Recorded      *uint64    `json:"recorded,omitzero" doc:"Uses that it took in this run."`
	Backlog       *uint64    `json:"backlog,omitzero" doc:"Uses that are not stored yet. This, behind, recorded and misses are told of a verifier that others share to keys of the installation alone."`
	Misses        *uint64    `json:"misses,omitzero" doc:"How often it was asked about secrets that are no key."`
	StartedAt     *time.Time `json:"started_at,omitzero" doc:"When its run began, by its own clock."`
	LastHeardAt   *time.Time `json:"last_heard_at,omitzero" doc:"When it was last heard of, by the broker's clock."`
	Lease         float64    `json:"lease,omitzero" doc:"Seconds without a word after which it is lost." example:"15"`
}

// Receipt tells what became of a revocation.
type Receipt struct {
	KeyID        string         `json:"key_id"`
	Organization string         `json:"organization" example:"acme"`
	Revoked      ReceiptRevoked `json:"revoked"`
	Complete     bool           `json:"complete" doc:"Every verifier that is live and serves the organization has applied it."`
	AppliedBy    int            `json:"applied_by" doc:"So many of them have." example:"3"`
	Verifiers    int            `json:"verifiers" doc:"So many there are." example:"3"`
	// LastAppliedAt is T1 of the receipt.
	LastAppliedAt      *time.Time        `json:"last_applied_at,omitzero" doc:"When the last of them had applied it, by the broker's clock: its first announcement that says so, less how long ago that was by its word. It had it then or earlier. Left out while not all have, and where that was before anything is known of it."`
	LastAcceptedUse    *AcceptedUse      `json:"last_accepted_use,omitzero" doc:"The last VALID use that is recorded."`
	UsesComplete       bool              `json:"uses_complete" doc:"Every use that a live verifier accepted before it applied the revocation is stored, and read: no later accepted use will turn up of those."`
	DeniedEverywhereBy *time.Time        `json:"denied_everywhere_by,omitzero" doc:"From then on every verifier denies the key, those too that are not heard of: they deny by their bound. Left out where one serves past its bound, which nothing bounds."`
	Items              []ReceiptVerifier `json:"items" doc:"Who serves the organization, those that have not applied it first. One that said that it ends is not among them."`
}

// ReceiptRevoked is the revocation itself.
type ReceiptRevoked struct {
	Position string    `json:"position"`
	At       time.Time `json:"at" doc:"When it was stored, by the broker's clock."`
	Type     string    `json:"type" enum:"key.revoked,organization.deleted" doc:"What ended the key."`
	By       string    `json:"by" example:"key/acme/0197ab6e-98f1-7c3a-8f0e-2f3a4b5c6d7e"`
	ByName   string    `json:"by_name,omitzero" doc:"The name of that key."`
	Reason   string    `json:"reason,omitzero"`
}

// AcceptedUse is a use that was accepted.
type AcceptedUse struct {
	At       time.Time `json:"at" doc:"When the verdict was given, by the verifier's clock."`
	Verifier string    `json:"verifier,omitzero" doc:"Who gave it. Left out, with what follows, where single uses are not kept any more."`
	Position string    `json:"position,omitzero" doc:"Of its block, in the stream of uses."`
	Number   uint64    `json:"number,omitzero" doc:"Its number in the verifier's run and the organization."`
}

// ReceiptVerifier is where a verifier stands with a revocation.
type ReceiptVerifier struct {
	Verifier     string     `json:"verifier" example:"edge-1"`
	Kind         string     `json:"kind,omitzero" enum:"server,sidecar,sdk"`
	Boot         string     `json:"boot,omitzero" doc:"The run of it. A run that broke off and another has taken the place of is an item of its own as long as it may matter."`
	State        string     `json:"state" enum:"live,lost,silent,ended" doc:"One that ended is here only if it may answer without the broker when it is started again, by what it held."`
	Since        *time.Time `json:"since,omitzero" doc:"Since when one that is not live is not heard of; of a silent one, since it has a credential."`
	Applied      bool       `json:"applied"`
	AppliedAt    *time.Time `json:"applied_at,omitzero" doc:"When it had, by the broker's clock: when that was first announced, less how long ago it was by the verifier's word. It had it then or earlier. Left out where that was before anything is known of it."`
	Position     string     `json:"position,omitzero" doc:"How far it had come by its last word."`
	LastHeardAt  *time.Time `json:"last_heard_at,omitzero"`
	MaxStaleness float64    `json:"max_staleness" doc:"Its bound, in seconds; of one that has not applied it and may start without the broker, how old what it holds may be then, if that is longer."`
	ServesStale  bool       `json:"serves_stale,omitzero" doc:"It does not keep to it."`
	DeniesBy     *time.Time `json:"denies_by,omitzero" doc:"When it denies at the latest although it has not applied the revocation: it cannot have been shown anything younger, so that its bound has passed by then. That holds for a silent one, too, unless it was told to serve stale. Left out where nothing bounds it, and where it has applied it."`
}
