package events

import (
	"cmp"
	"fmt"
	"slices"
)

// Event is a fact: one of the structs of this file, and nothing else. Adding
// one means a struct, a kind in kinds.go, a golden, and a case wherever the
// linter for exhaustive switches asks for it.
//
// The rules for changing a fact are those of the package comment: never. Unknown
// members are refused by readers, so that an old verifier closes a key over
// whose restriction it knows nothing, and never reads around it.
type Event interface {
	// Kind returns the fact's kind with its version, such as `key.created.v1`.
	Kind() Kind
}

// Plan is what an organization pays for.
type Plan string

// The plans.
const (
	PlanStarter    Plan = "starter"
	PlanGrowth     Plan = "growth"
	PlanEnterprise Plan = "enterprise"
)

// TakesProviderKeys reports whether customers on the plan may bring keys of AI
// providers.
func (p Plan) TakesProviderKeys() bool { return p == PlanGrowth || p == PlanEnterprise }

// Period is a calendar period as people write it: `<n>d`, `<n>mo`, `<n>y`, or
// `never`. Empty says that none was set.
type Period string

// Limits bound what an organization may hold. Zero values bound nothing.
type Limits struct {
	// MaxActiveKeys bounds the customer keys that are ACTIVE or INACTIVE.
	MaxActiveKeys int `json:"max_active_keys,omitzero"`
	// MaxKeyLifetime bounds how far ahead a new expiry may lie.
	MaxKeyLifetime Period `json:"max_key_lifetime,omitzero"`
}

// Policy is how an organization wants its keys by default.
type Policy struct {
	// DefaultPrefix begins keys that were created without one of their own.
	DefaultPrefix string `json:"default_prefix,omitzero"`
	// DefaultExpiresIn is the expiry of keys created without one.
	DefaultExpiresIn Period `json:"default_expires_in,omitzero"`
	// RotationDueAfter is the age at which a key should be rotated.
	RotationDueAfter Period `json:"rotation_due_after,omitzero"`
	// ExpiryNotices are how long before a key's expiry [KeyExpiring] is recorded,
	// the longest first.
	ExpiryNotices []Period `json:"expiry_notices,omitempty"`
	// MaxKeyLifetime bounds how far ahead a new expiry may lie, like the limit of
	// that name, which is the installation's to set while this is the
	// organization's own.
	MaxKeyLifetime Period `json:"max_key_lifetime,omitzero"`
	// ExpiryRequired forbids keys that never expire.
	ExpiryRequired bool `json:"expiry_required,omitzero"`
	// ExpiryChoices are the only periods that a new expiry may be given as.
	ExpiryChoices []Period `json:"expiry_choices,omitempty"`
	// NameRequired forbids keys without a name.
	NameRequired bool `json:"name_required,omitzero"`
	// Signals say what is told of how keys are used.
	Signals Signals `json:"signals,omitzero"`
	// Sealing, once on, has every text that may name a person stored sealed. It
	// stays on: a copy of what was sealed must not come back in clear.
	Sealing Switch `json:"sealing,omitzero"`
	// UsesRetention is how long single uses are kept; counts outlive them.
	UsesRetention Period `json:"uses_retention,omitzero"`
}

// Signals say which [KeyNewSource] and [KeyDenialsSpike] an organization wants.
type Signals struct {
	// NewSource and DenialsSpike switch one off, or on, which they are unless set.
	NewSource    Switch `json:"new_source,omitzero"`
	DenialsSpike Switch `json:"denials_spike,omitzero"`
	// DenialsPerMinute is how many denials of a key within a minute are a spike;
	// 0 is [DefaultDenialsPerMinute].
	DenialsPerMinute int `json:"denials_per_minute,omitzero"`
	// ResolvesPerMinute is how many resolves of a provider key within a minute are
	// a spike; 0 is [DefaultResolvesPerMinute].
	ResolvesPerMinute int `json:"resolves_per_minute,omitzero"`
}

// Switch is on, off, or as it is by default.
type Switch string

// The positions of a switch.
const (
	SwitchOn  Switch = "on"
	SwitchOff Switch = "off"
)

// Equal reports whether two policies say the same.
func (p Policy) Equal(o Policy) bool {
	return p.DefaultPrefix == o.DefaultPrefix && p.DefaultExpiresIn == o.DefaultExpiresIn &&
		p.RotationDueAfter == o.RotationDueAfter && slices.Equal(p.ExpiryNotices, o.ExpiryNotices) &&
		p.MaxKeyLifetime == o.MaxKeyLifetime && p.ExpiryRequired == o.ExpiryRequired && slices.Equal(p.ExpiryChoices, o.ExpiryChoices) &&
		p.NameRequired == o.NameRequired && p.Signals == o.Signals && p.Sealing == o.Sealing && p.UsesRetention == o.UsesRetention
}

// RotateAfter is the age at which keys should be rotated, which is `never` where
// none is.
func (p Policy) RotateAfter() Period { return cmp.Or(p.RotationDueAfter, DefaultRotationDueAfter) }

// IsZero reports whether nothing is set.
func (p Policy) IsZero() bool { return p.Equal(Policy{}) }

// Access says what using a permission does.
type Access string

// What a permission does.
const (
	AccessRead  Access = "read"
	AccessWrite Access = "write"
)

// CatalogPermission is one entry of a permission catalog.
type CatalogPermission struct {
	Name        string   `json:"name"`
	Access      Access   `json:"access"`
	Description string   `json:"description,omitzero"`
	Routes      []string `json:"routes,omitempty"`
}

// Level is a grant level. Its zero value grants nothing.
type Level string

// The grant levels.
const (
	LevelAll        Level = "all"
	LevelReadOnly   Level = "read_only"
	LevelRestricted Level = "restricted"
)

// Permissions are what a key may do, within the catalog as it is at the verdict.
type Permissions struct {
	Level Level `json:"level"`
	// Grants are the permissions of a restricted key, sorted: `resource:action`
	// or `resource:*`.
	Grants []string `json:"grants,omitempty"`
}

// IsZero reports whether there are no permissions, as a management key has none.
func (p Permissions) IsZero() bool { return p.Level == "" && len(p.Grants) == 0 }

// Scope is where a key may be used. Its zero value is nowhere.
type Scope struct {
	AllWorkspaces bool          `json:"all_workspaces,omitzero"`
	Workspaces    []WorkspaceID `json:"workspaces,omitempty"`
}

// KeyKind tells a customer's key from one that manages this ledger.
type KeyKind string

// The kinds of keys.
const (
	KindAPI        KeyKind = "api"
	KindManagement KeyKind = "management"
)

// Role is what a management key may do. Its zero value may do nothing.
type Role string

// The roles.
const (
	RoleOwner    Role = "owner"
	RoleAdmin    Role = "admin"
	RoleMember   Role = "member"
	RoleAuditor  Role = "auditor"
	RoleVerifier Role = "verifier"
	RoleResolver Role = "resolver"
)

// DigestAlg names how a digest was made.
type DigestAlg string

// The digest algorithms.
const (
	// SHA256 is the SHA-256 of the whole key string.
	SHA256 DigestAlg = "sha256"
	// PrefixShortLong is the SHA-256 of what stands behind the last underscore of a
	// key string such as `<prefix>_<short token>_<long token>`: another system's
	// form, of keys that were imported from there.
	PrefixShortLong DigestAlg = "prefix_short_long"
	// HMACSHA256 is the HMAC-SHA-256 of the whole key string under a pepper.
	HMACSHA256 DigestAlg = "hmac-sha256"
)

// DigestValue is the 32 bytes of a digest, written in lower-case hex.
type DigestValue [32]byte

// Digest is what the ledger knows of a key's secret.
type Digest struct {
	Alg DigestAlg `json:"alg"`
	// PepperID names the pepper of an HMAC; it is empty for a bare hash.
	PepperID string      `json:"pepper_id,omitzero"`
	Value    DigestValue `json:"value"`
}

// InstallationCreated is the first fact of every ledger.
type InstallationCreated struct {
	Ledger LedgerID `json:"ledger"`
	// Epoch is the ledger's epoch; a restore opens the next.
	Epoch uint32 `json:"epoch"`
}

// InstallationSignerAdded makes a key that signs for the installation known:
// ticks and checkpoints carry its signatures from then on.
type InstallationSignerAdded struct {
	// Name is the key's name, as its signature lines begin with.
	Name string `json:"name"`
	// VerifierKey is what signatures are checked with, in the form of C2SP
	// signed-note (`<name>+<hash>+<key>`).
	VerifierKey string `json:"verifier_key"`
}

// CredentialKind says what a broker credential is for.
type CredentialKind string

// The kinds of broker credentials.
const (
	// CredentialVerifier reads the ledger and publishes its own uses.
	CredentialVerifier CredentialKind = "verifier"
	// CredentialSubscriber reads revocations.
	CredentialSubscriber CredentialKind = "subscriber"
	// CredentialAuditor reads everything and writes nothing.
	CredentialAuditor CredentialKind = "auditor"
	// CredentialLeaf is for a broker of its own that keeps a copy of the ledger near
	// its verifiers.
	CredentialLeaf CredentialKind = "leaf"
)

// CredentialIssued lets a program in at the broker. What it may read and write
// there follows from its kind, its name and its organizations.
type CredentialIssued struct {
	Name CredentialName `json:"name"`
	For  CredentialKind `json:"for"`
	// Organizations are the only ones it reaches, sorted; none means all.
	Organizations []OrgID `json:"organizations,omitempty"`
	// Account is the public key of the broker account that it lives in.
	Account string `json:"account"`
	// Scope is the label under which ticks count what a verifier reads that is
	// narrowed to organizations. It is drawn at random: whoever reads a tick
	// learns of no organization but his own.
	Scope ScopeLabel `json:"scope,omitzero"`
	// MaxStaleness is how old a verifier lets its knowledge become, in seconds;
	// 0 is the default. Ticks come three times as often as the smallest.
	MaxStaleness int `json:"max_staleness,omitzero"`
	// Mirror is the mirror of the ledger that a verifier reads by; none means the
	// ledger's own stream.
	Mirror MirrorName `json:"mirror,omitzero"`
	// Leaf is the credential of the leaf node that a verifier is at; none means the
	// installation's own broker.
	Leaf CredentialName `json:"leaf,omitzero"`
}

// CredentialRevoked shuts the program out again, for ever.
type CredentialRevoked struct{}

// ScopeLabel names a scope in ticks: 16 bytes, in lower-case hex.
type ScopeLabel string

// TickScope is how much there was of a scope.
type TickScope struct {
	Scope ScopeLabel `json:"scope"`
	// Count is how many facts of the scope's organizations there were up to the
	// tick's Through.
	Count uint64 `json:"count"`
	// Digest is the SHA-256 of the chains of its organizations, in their order:
	// so a scope can be told of whenever it was provisioned, from the first fact
	// of its organizations on.
	Digest DigestValue `json:"digest"`
}

// Tick says how far the ledger reached at a time at which nothing else may have
// been appended: whoever sees it through a consumer of his own knows that he is
// not cut off, and by count and digest that nothing was kept from him.
//
// A digest is a chain: it begins with 32 zero bytes, and each fact makes it the
// SHA-256 of the digest before, the fact's position in 8 bytes, big-endian, and
// the SHA-256 of its stored body. There is one of the whole ledger, and one of
// every organization over its own facts alone.
type Tick struct {
	// At is when the tick was made, by the clock of who made it.
	At Time `json:"at"`
	// Through is the last position that is counted: that of the tick before, or
	// one after it.
	Through Position `json:"through"`
	// Digest is the chain over every fact of the ledger through there.
	Digest DigestValue `json:"digest"`
	// Scopes are those that have more facts than they were last told to have, or
	// were not yet told of, in order of their labels. A tick with [MaxTickScopes]
	// of them is continued by the next; any other says that a scope which it
	// leaves out has what it was last told to have.
	Scopes []TickScope `json:"scopes,omitempty"`
	// Signature is the signature line of a signed note (C2SP) whose text is
	// [Tick.Text].
	Signature string `json:"signature"`
}

// Text is what a tick's signature is over: every member but the signature, and
// the ledger that it was made for, a line each.
func (t Tick) Text(ledger LedgerID) string {
	b := fmt.Appendf(nil, "keyledger tick v1\n%s\n%d\n%d\n%s\n", ledger, t.At, t.Through, t.Digest)
	for _, s := range t.Scopes {
		b = fmt.Appendf(b, "%s %d %s\n", s.Scope, s.Count, s.Digest)
	}
	return string(b)
}

// OrganizationCreated begins an organization.
type OrganizationCreated struct {
	ID     OrgID  `json:"id"`
	Name   Text   `json:"name"`
	Plan   Plan   `json:"plan"`
	Limits Limits `json:"limits"`
	Policy Policy `json:"policy"`
}

// OrganizationRenamed changes an organization's display name.
type OrganizationRenamed struct {
	Name Text `json:"name"`
}

// OrganizationPlanChanged moves an organization to another plan.
type OrganizationPlanChanged struct {
	Plan Plan `json:"plan"`
}

// OrganizationLimitsChanged replaces an organization's limits.
type OrganizationLimitsChanged struct {
	Limits Limits `json:"limits"`
}

// OrganizationPolicyChanged replaces an organization's policy.
type OrganizationPolicyChanged struct {
	Policy Policy `json:"policy"`
}

// OrganizationDeleted ends an organization and denies all its keys at once. It
// stands on [EndSubject] and is absorbing.
type OrganizationDeleted struct{}

// WorkspaceCreated begins a workspace.
type WorkspaceCreated struct {
	ID   WorkspaceID `json:"id"`
	Name Text        `json:"name"`
}

// WorkspaceRenamed changes a workspace's display name.
type WorkspaceRenamed struct {
	Name Text `json:"name"`
}

// WorkspaceDeleted ends a workspace, for ever.
type WorkspaceDeleted struct{}

// CatalogReplaced is an organization's whole permission catalog from now on.
type CatalogReplaced struct {
	Permissions []CatalogPermission `json:"permissions"`
}

// ProfileCreated begins a profile.
type ProfileCreated struct {
	ID       ProfileID `json:"id"`
	Name     Text      `json:"name"`
	Settings Document  `json:"settings"`
}

// ProfileRenamed changes a profile's display name.
type ProfileRenamed struct {
	Name Text `json:"name"`
}

// ProfileSettingsChanged replaces a profile's settings.
type ProfileSettingsChanged struct {
	Settings Document `json:"settings"`
}

// ProfileDeleted ends a profile, for ever.
type ProfileDeleted struct{}

// QuotaChanged lists who holds a place under the limit on active keys. It is
// appended with whatever takes or frees a place, as the guard that makes the
// limit exact.
type QuotaChanged struct {
	// Limit is the limit that was in force; 0 is none.
	Limit int `json:"limit"`
	// Holders are all who hold a place after this fact, in order of arrival.
	Holders []KeyID `json:"holders"`
}

// KeyCreated begins a key.
type KeyCreated struct {
	ID       KeyID   `json:"id"`
	KeyKind  KeyKind `json:"kind"`
	Role     Role    `json:"role,omitzero"`
	Name     Text    `json:"name,omitzero"`
	Prefix   string  `json:"prefix"`
	LastFour string  `json:"last_four"`
	Digest   Digest  `json:"digest"`
	// Permissions are an API key's; a management key has a role instead.
	Permissions Permissions `json:"permissions,omitzero"`
	Scope       Scope       `json:"scope"`
	Profile     ProfileID   `json:"profile,omitzero"`
	// CreatedAt is the time of the wish, so that a successor can be given the
	// same lifetime.
	CreatedAt  Time     `json:"created_at"`
	ExpiresAt  Time     `json:"expires_at,omitzero"`
	Metadata   Metadata `json:"metadata,omitempty"`
	ExternalID Text     `json:"external_id,omitzero"`
	// RotatedFrom is the key that this one succeeds.
	RotatedFrom KeyID `json:"rotated_from,omitzero"`
	// Imported says that the key came from another system, as a digest: its prefix
	// and last four are what was told of it, and CreatedAt is when it began there.
	Imported bool `json:"imported,omitzero"`
	// DataSubject is the pseudonym of whom the key's texts tell of, and those of
	// its uses; without one it is the key's own id. A successor has it too.
	DataSubject DataSubject `json:"data_subject,omitzero"`
}

// Subject is the data subject of a key's texts.
func (k KeyCreated) Subject() DataSubject {
	return cmp.Or(k.DataSubject, DataSubject(k.ID.String()))
}

// KeyRenamed changes a key's display name.
type KeyRenamed struct {
	Name Text `json:"name"`
}

// KeyPermissionsChanged replaces what a key may do.
type KeyPermissionsChanged struct {
	Permissions Permissions `json:"permissions"`
}

// KeyScopeChanged replaces where a key may be used.
type KeyScopeChanged struct {
	Scope Scope `json:"scope"`
}

// KeyProfileChanged attaches a profile, or detaches it when empty.
type KeyProfileChanged struct {
	Profile ProfileID `json:"profile,omitzero"`
}

// KeyMetadataChanged replaces a key's metadata.
type KeyMetadataChanged struct {
	Metadata Metadata `json:"metadata"`
}

// KeyDisabled switches a key off for a while.
type KeyDisabled struct{}

// KeyEnabled switches a key on again.
type KeyEnabled struct{}

// KeyExpiryChanged sets when a key expires; without a time it never does.
type KeyExpiryChanged struct {
	ExpiresAt Time `json:"expires_at,omitzero"`
}

// KeyRotated says that a successor was born in the same batch. The key itself
// lives on until its grace ends.
type KeyRotated struct {
	Successor   KeyID `json:"successor"`
	GraceEndsAt Time  `json:"grace_ends_at"`
}

// KeyGraceChanged cuts the grace of a rotated key short.
type KeyGraceChanged struct {
	GraceEndsAt Time `json:"grace_ends_at"`
}

// KeyExpiring gives notice of a key's end ahead of it, once for each notice that
// the organization's policy asks for. The key is as good as before.
type KeyExpiring struct {
	ExpiresAt Time `json:"expires_at"`
	// Notice is how long ahead the policy wants it.
	Notice Period `json:"notice"`
}

// KeyRotationDue says that a key has reached the age at which the organization's
// policy wants it rotated. The key is as good as before.
type KeyRotationDue struct {
	DueAt Time `json:"due_at"`
	// After is that age.
	After Period `json:"after"`
}

// SourceKind says what a use's source was told by.
type SourceKind string

// What tells a use's source.
const (
	SourceClientIP  SourceKind = "client_ip"
	SourceUserAgent SourceKind = "user_agent"
)

// SourceLabel tells the sources of a key's uses apart and nothing else: the first
// 16 bytes of an HMAC-SHA-256 under a key of the installation, in lower-case hex.
// The source itself stands with the use alone, which does not last for ever.
type SourceLabel string

// KeyNewSource says that a key was used from where it never was before. Its very
// first source is none.
type KeyNewSource struct {
	// At is the time of the use, Code its verdict, Verifier who gave it.
	At       Time        `json:"at"`
	Code     Code        `json:"code"`
	Verifier VerifierID  `json:"verifier"`
	By       SourceKind  `json:"by"`
	Source   SourceLabel `json:"source"`
}

// KeyDenialsSpike says that uses of a key were denied unusually often.
type KeyDenialsSpike struct {
	// From is the beginning of the minute in which Threshold was reached, and
	// Denials is how many there were by the time that it was noticed.
	From      Time `json:"from"`
	Denials   int  `json:"denials"`
	Threshold int  `json:"threshold"`
}

// KeyExpired records that a key's time has come. It is absorbing.
type KeyExpired struct {
	ExpiredAt Time `json:"expired_at"`
}

// KeyRevoked ends a key for ever. It stands on [RevokedSubject], is
// unconditional and absorbing, and wins whatever the order.
type KeyRevoked struct{}

// SubjectErased records that a data subject was erased: the keys that sealed
// what was known of it are destroyed. What it is about stays as it was stored,
// and says nothing any more.
type SubjectErased struct {
	// Keys name the sealing keys, as [Sealed.Key] does.
	Keys []string `json:"keys"`
}

// UsesDropped records what retention dropped of the recorded uses. On
// [RetentionSubject] it says that single uses of an organization are told no more,
// if they happened before Before and stand in the stream of uses up to Through; on
// [StreamRetentionSubject], that the stream begins behind Through from now on.
type UsesDropped struct {
	// Before is an organization's midnight, in UTC; of the stream, when the last
	// message that goes was stored.
	Before Time `json:"before"`
	// Through is a position of the stream of uses.
	Through Position `json:"through"`
	// Blocks is how many messages of the stream go.
	Blocks uint64 `json:"blocks,omitzero"`
	// Days count what is dropped here and was not counted in an earlier one, by
	// day and verdict, in this order. Of the stream they count the uses of all
	// organizations, each of which one of theirs has counted too. Where there are
	// more than [MaxUsesDays] days, several facts that say the same share them.
	Days []UsesDay `json:"days,omitempty"`
}

// UsesDay is how many uses of a day, in UTC, had a verdict.
type UsesDay struct {
	Day  Time   `json:"day"`
	Code string `json:"code"`
	Uses uint64 `json:"uses"`
}

// Unknown is a fact of a kind that this program does not know: appended by a
// later version. It is kept and shown raw.
type Unknown struct {
	Name Kind
	// Bears says whether it bears on verdicts; it then closes its key.
	Bears bool
	Data  Document
}

// Malformed stands in the place of a stored body that is no fact. Readers that
// decide close what its subject names; readers that show stop.
type Malformed struct {
	Reason string
}
