package events

import "time"

// Every bound that shapes a fact, each with its reason. They are checked where
// a wish becomes a fact; a reader never relies on them.
const (
	// MaxFactBytes bounds a stored body: an entry of a transparency log's tile
	// ends at 65,535 bytes, and the rest is room for what wraps it.
	MaxFactBytes = 60 * 1024

	// MaxKeyBytes bounds what a key is, written as the event that begins it: a
	// rotation begins a successor with all of it, and the rest is room for the
	// longest envelope (a reason of 1,000 bytes takes twice as much escaped).
	MaxKeyBytes = MaxFactBytes - 6*1024

	// MaxBatch is the broker's bound on one atomic batch.
	MaxBatch = 1000

	// MaxIDLength bounds organization, workspace and profile ids: a DNS label,
	// so that an id fits host names, file names and subjects alike.
	MaxIDLength = 63

	// MaxAggregateLength bounds the aggregates of later versions, which stand in
	// subjects, metrics and tables; the longest of today's has 12 characters.
	MaxAggregateLength = 32

	// MaxKindLength bounds a fact's kind: an unknown one stands in metrics and
	// tables, and the longest known one has 30 characters.
	MaxKindLength = 64

	// MaxNameLength bounds display names, in bytes. Longer ones break tables.
	MaxNameLength = 200

	// MaxReasonLength bounds the reason given for a change, in bytes: a
	// sentence and a ticket, not a document.
	MaxReasonLength = 1000

	// MaxTicketLength holds the name of a ticket, or a short address of one.
	MaxTicketLength = 128

	// MaxRequestIDLength holds any trace id or UUID that callers send along.
	MaxRequestIDLength = 128

	// MaxExternalIDLength holds ids of other systems, URNs included.
	MaxExternalIDLength = 200

	// MaxDescriptionLength bounds a permission's description, in bytes.
	MaxDescriptionLength = 300

	// MaxMetadataEntries, MaxMetadataKeyLength and MaxMetadataValueLength keep
	// metadata within a third of a fact.
	MaxMetadataEntries     = 32
	MaxMetadataKeyLength   = 64
	MaxMetadataValueLength = 500

	// MaxGrants bounds the permissions listed on one key.
	MaxGrants = 200

	// MaxScopeWorkspaces bounds the workspaces listed on one key: half a fact
	// when every id is as long as it may be.
	MaxScopeWorkspaces = 400

	// MaxCatalogPermissions bounds a catalog; it is one fact, and one bit each
	// in the verification index.
	MaxCatalogPermissions = 512

	// MaxPermissionRoutes bounds the routes listed on one permission.
	MaxPermissionRoutes = 32

	// MaxWorkspaces bounds the workspaces of an organization that live: every
	// server holds all of them in memory, and what a key of all workspaces may do
	// is judged among them. It is a project for each customer of a large product.
	MaxWorkspaces = 10_000

	// MaxProfiles bounds the profiles of an organization that live: their settings
	// are in the memory of every verifier, 16 MiB at most.
	MaxProfiles = 1000

	// MaxSettingsBytes bounds a profile's settings document: it travels with
	// every verdict.
	MaxSettingsBytes = 16 * 1024

	// MaxActiveKeysLimit is the largest exact limit on active keys: the quota's
	// last fact lists every holder, and a thousand ids fill two thirds of it.
	MaxActiveKeysLimit = 1000

	// MaxTickScopes bounds the scopes that one tick tells of: at 150 bytes each
	// they fill three quarters of a fact. What has changed beyond goes into the
	// next. It is part of what a tick means, and never changes.
	MaxTickScopes = 300

	// MaxCredentialOrganizations bounds the organizations of one broker credential:
	// each is a filter of its consumer and an import of its account.
	MaxCredentialOrganizations = 200

	// MinStaleness and MaxStaleness bound how old a verifier may let its knowledge
	// become. Three ticks go into it, and each is a fact for ever: at one a second
	// they are 30 million a year. A day is when nobody would call it fresh.
	MinStaleness = 3 * time.Second
	MaxStaleness = 24 * time.Hour

	// MaxExpiryNotices bounds the notices that are given of one key's end: a month,
	// a week, a day ahead and two to spare. Each is a fact of every key.
	MaxExpiryNotices = 5

	// MaxExpiryChoices bounds the periods that a policy lets people choose from:
	// more are no choice.
	MaxExpiryChoices = 20

	// DefaultRotationDueAfter is the age at which keys should be rotated where no
	// policy says another: what PCI DSS and most guides of clouds ask for.
	DefaultRotationDueAfter Period = "90d"

	// MaxNewSources bounds how many new sources are told of one key, for ever: who
	// used it from as many has a key that is on the move, and each is a fact.
	MaxNewSources = 16

	// DefaultDenialsPerMinute is how many denials of a key within a minute are a
	// spike: more than somebody causes who tries a few things by hand.
	// MinDenialsPerMinute and MaxDenialsPerMinute bound what a policy may say.
	DefaultDenialsPerMinute = 20
	MinDenialsPerMinute     = 2
	MaxDenialsPerMinute     = 100_000

	// SpikeEvery is how often a spike of one key is told at most, and
	// EndedSpikeEvery that of one that has ended: whoever holds it could fill the
	// ledger otherwise.
	SpikeEvery      = time.Hour
	EndedSpikeEvery = 24 * time.Hour

	// SealedTextBytes is what sealing adds to a text before it is written in base64:
	// the synthetic initialization vector of AES-SIV, and which key of its keyset it
	// is of. SealingKeyLength is how long the name of a data subject's key is.
	SealedTextBytes  = 16 + 5
	SealingKeyLength = 32

	// MaxProviderSecretLength bounds a provider's secret, in bytes: the longest that
	// are given out today have some 200, and tokens of gateways may be longer.
	// MinProviderSecretLength is shorter than any: last four characters of what is
	// not much longer would be most of it.
	MaxProviderSecretLength = 4096
	MinProviderSecretLength = 16

	// MaxBaseURLLength bounds a provider's address: a host name of 253 characters
	// and a path.
	MaxBaseURLLength = 512

	// MaxModels bounds the models that a platform needs of one provider, and
	// MaxModelLength the name of each: they stand in the result of a test.
	MaxModels      = 64
	MaxModelLength = 128

	// MaxProviderSources bounds how many sources are told of one provider key, for
	// ever, as MaxNewSources does of a key.
	MaxProviderSources = 16

	// DefaultResolvesPerMinute is how many resolves of a provider key within a
	// minute are a spike: ten a second, where a platform should keep what it was
	// given for a while. MinResolvesPerMinute and MaxResolvesPerMinute bound what a
	// policy may say. It is told once in [SpikeEvery].
	DefaultResolvesPerMinute = 600
	MinResolvesPerMinute     = 2
	MaxResolvesPerMinute     = 1_000_000

	// FailingTestsInRow is how many tests of a provider key fail in a row before it
	// is told, and FailingResolvesPerHour how many resolves within an hour: one or
	// two are an outage of the provider, or a hand that slipped.
	FailingTestsInRow      = 3
	FailingResolvesPerHour = 5

	// MaxUsesDays bounds the days that one [UsesDropped] counts: with every code on
	// each of them they fill three quarters of a fact.
	MaxUsesDays = 90

	// MaxImport bounds the keys of one import: what fits one atomic batch.
	MaxImport = MaxBatch

	// MaxImportedPrefix bounds the beginning that is shown of an imported key.
	MaxImportedPrefix = 32

	// MaxPeriod bounds lifetimes and grace periods to what calendars agree on.
	MaxPeriod = 100 * 366 * 24 * time.Hour

	// MaxGrace bounds the time that a rotated key lives beside its successor.
	MaxGrace = 366 * 24 * time.Hour
)
