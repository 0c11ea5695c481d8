package reports

import "slices"

// Name names a report.
type Name string

// The reports there are.
const (
	AccessReview        Name = "access-review"
	Dormant             Name = "dormant"
	NeverExpires        Name = "never-expires"
	RotationAge         Name = "rotation-age"
	OverWide            Name = "over-wide"
	Changes             Name = "changes"
	FailedVerifications Name = "failed-verifications"
	ManagementChanges   Name = "management-changes"
	ProviderKeys        Name = "provider-keys"
)

// DefaultDays is how long a key is unused, or a permission, before a report shows
// it: what PCI DSS 8.2.6 takes for an inactive account.
const DefaultDays = 90

// DefaultPeriod is how many days a report of what happened reaches back unless it
// is told.
const DefaultPeriod = 30

// MaxDays bounds what a report is asked for: longer than any ledger is old.
const MaxDays = 36_500

// Definition says what a report shows.
type Definition struct {
	Name  Name
	Title string
	// About says what it shows, and Not what it does not.
	About, Not string
	// Columns are the names of its columns, in order.
	Columns []string
	// TakesDays says that it is asked with a number of days, and Days how many
	// those are unless given; with 0 it then shows all.
	TakesDays bool
	Days      int
	// Whole says that it is about the organization as a whole, and for nobody who
	// only looks: for owners, admins and auditors of all workspaces.
	Whole bool
	// TakesPeriod says that it is asked with a beginning and an end. Without a
	// beginning, the days up to the end are.
	TakesPeriod bool
}

// Definitions are the reports there are, in the order in which people read them.
func Definitions() []Definition { return slices.Clone(definitions[:]) }

// Find returns the definition of a report.
func Find(name Name) (Definition, bool) {
	for _, d := range definitions {
		if d.Name == name {
			return d, true
		}
	}
	return Definition{}, false
}

var definitions = [...]Definition{
	{
		Name: AccessReview, Title: "Access review",
		About: "Every key that is ACTIVE or INACTIVE: whose it is, what it may do and where, when it was last used, how old it is and when it ends. The owner is what the member \"owner\" of the key's metadata says. may_resolve tells the management keys to which provider keys are handed out.",
		Not:   "It does not show who holds a key's secret, nor what the services do that a key is good for. Keys of the installation that may resolve stand in the review of _system. Keys that are EXPIRED or REVOKED are left out.",
		Columns: []string{
			"key_id", "name", "kind", "role", "masked", "owner", "created_by", "created_by_name", "status", "level", "grants", "workspaces", "profile",
			"created_at", "age_days", "expires_at", "last_used_at", "last_permission", "rotation_due_at", "external_id", "may_resolve",
		},
	},
	{
		Name: Dormant, Title: "Dormant keys", TakesDays: true, Days: DefaultDays,
		About: "Keys that are ACTIVE or INACTIVE, are older than the days asked for, and of which no VALID use is known within them. last_seen_at is the last attempt, whatever its verdict.",
		Not:   "A use that no verifier recorded is not known; the findings on uses tell which may be missing.",
		Columns: []string{
			"key_id", "name", "kind", "role", "masked", "owner", "created_by", "created_by_name", "status", "level", "workspaces",
			"created_at", "last_used_at", "unused_days", "last_seen_at", "last_seen_code", "expires_at",
		},
	},
	{
		Name: NeverExpires, Title: "Keys that never expire",
		About: "Keys that are ACTIVE or INACTIVE and have neither an expiry nor the end of a rotation's grace.",
		Not:   "It does not tell whether a key has to be so: the reason, where one was given, stands in the key's history.",
		Columns: []string{
			"key_id", "name", "kind", "role", "masked", "owner", "created_by", "created_by_name", "status", "level", "grants", "workspaces",
			"created_at", "age_days", "last_used_at", "rotation_due_at",
		},
	},
	{
		Name: RotationAge, Title: "Age since rotation", TakesDays: true,
		About: "Keys that are ACTIVE or INACTIVE by the age of their secret, the oldest first. A rotation makes a new key, so that the age of a key is that of its secret. overdue_days counts from when the organization's policy wants it rotated.",
		Not:   "Of a key that was imported the age counts from the import: how old its secret is, the ledger cannot know.",
		Columns: []string{
			"key_id", "name", "kind", "role", "masked", "owner", "created_by", "created_by_name", "status", "created_at", "age_days",
			"imported", "rotated_from", "rotated_to", "rotation_due_at", "overdue_days", "expires_at", "last_used_at",
		},
	},
	{
		Name: OverWide, Title: "Over-wide keys", TakesDays: true, Days: DefaultDays,
		About: "Keys that are ACTIVE or INACTIVE, are older than the days asked for, and have permissions that no VALID use asked for within them. granted counts the permissions of today's catalog that the key has.",
		Not:   "A verification that asks for no permission tells nothing of what was used. A permission that the key was given lately shows as unused like one that it has had for long.",
		Columns: []string{
			"key_id", "name", "masked", "owner", "created_by", "created_by_name", "status", "level", "grants", "workspaces",
			"created_at", "last_used_at", "granted", "used", "unused",
		},
	},
	{
		Name: Changes, Title: "Changes", TakesDays: true, Days: DefaultPeriod, TakesPeriod: true,
		About: "Every change that was recorded in the period: who, what, from what to what, why. Times are those at which the ledger stored it.",
		Not:   "It does not show what was decided outside this ledger, nor who stood behind an actor's key.",
		Columns: []string{
			"position", "stored_at", "claimed_at", "type", "aggregate", "id", "revision", "actor", "actor_name", "role", "scope", "reason", "ticket",
			"request_id", "changes",
		},
	},
	{
		Name: FailedVerifications, Title: "Failed verifications", TakesDays: true, Days: DefaultPeriod, TakesPeriod: true,
		About: "Verifications that were not VALID: by key, verdict and source, counted by the day (UTC), from the day on in which the period begins; then, by minute and source, verifications and logins that no key is known of.",
		Not:   "Sources are known where a verifier is told them, and of each key some are told apart. What matches no key belongs to no organization, unless one of its keys asked: most of it stands in the report of _system.",
		Columns: []string{
			"what", "key_id", "name", "masked", "code", "source_kind", "source", "count", "first_at", "last_at",
		},
	},
	{
		Name: ManagementChanges, Title: "Changes of management keys", TakesDays: true, TakesPeriod: true,
		About: "Everything that was ever done to a management key: who created, changed, rotated or revoked it, and why.",
		Not:   "It does not show what a management key was used for: the changes it made stand in the report of changes, with the key as the actor.",
		Columns: []string{
			"position", "stored_at", "claimed_at", "type", "id", "name", "key_role", "revision", "actor", "actor_name", "role", "scope", "reason", "ticket",
			"request_id", "changes",
		},
	},
	{
		Name: ProviderKeys, Title: "Provider keys", Whole: true,
		About: "Every connected AI provider: how old the secret is that serves, what the last test of it came to, and when it was handed out last. state is connected, untested, failing, or suspended where the plan has no provider keys.",
		Not:   "It shows nothing of a secret. What was spent with a key, and by whom besides the platform, only the provider knows. When it was handed out is known as long as access records are kept.",
		Columns: []string{
			"provider", "name", "state", "version", "base_url", "created_at", "created_by", "created_by_name", "replaced_at", "secret_age_days",
			"last_test_at", "last_test_result", "last_test_version", "missing_models", "last_resolved_at",
		},
	},
}
