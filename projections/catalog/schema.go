package catalog

// version is the projection's: raise it whenever the same facts come to mean
// other rows.
const version = 5

// schema is the file as auditors see it. Times are microseconds since 1970, 0
// is none. A text that may be sealed has two columns: clear, and the seal as
// JSON; one of them is empty. Every table tells the revision and the position
// of the last fact on a row's subject.
const schema = `
CREATE TABLE organization (
	org              TEXT NOT NULL PRIMARY KEY,
	name             TEXT NOT NULL,
	name_sealed      TEXT NOT NULL,
	plan             TEXT NOT NULL,
	limits           TEXT NOT NULL, -- JSON
	policy           TEXT NOT NULL, -- JSON
	rotate_after     TEXT NOT NULL, -- the age at which keys should be rotated, as a modifier of SQLite's dates; empty is none
	created_at       INTEGER NOT NULL,
	updated_at       INTEGER NOT NULL,
	created_position INTEGER NOT NULL UNIQUE,
	revision         INTEGER NOT NULL,
	position         INTEGER NOT NULL
) STRICT;

CREATE TABLE workspace (
	org              TEXT NOT NULL,
	id               TEXT NOT NULL,
	name             TEXT NOT NULL,
	name_sealed      TEXT NOT NULL,
	created_at       INTEGER NOT NULL,
	updated_at       INTEGER NOT NULL,
	deleted_at       INTEGER NOT NULL DEFAULT 0,
	created_position INTEGER NOT NULL,
	revision         INTEGER NOT NULL,
	position         INTEGER NOT NULL,
	PRIMARY KEY (org, id)
) STRICT;
CREATE INDEX workspace_newest ON workspace (org, created_position);

CREATE TABLE permissions (
	org         TEXT NOT NULL PRIMARY KEY,
	permissions TEXT NOT NULL, -- JSON, the whole catalog
	updated_at  INTEGER NOT NULL,
	revision    INTEGER NOT NULL,
	position    INTEGER NOT NULL
) STRICT;

CREATE TABLE profile (
	org              TEXT NOT NULL,
	id               TEXT NOT NULL,
	name             TEXT NOT NULL,
	name_sealed      TEXT NOT NULL,
	settings         TEXT NOT NULL, -- JSON
	created_at       INTEGER NOT NULL,
	updated_at       INTEGER NOT NULL,
	deleted_at       INTEGER NOT NULL DEFAULT 0,
	created_position INTEGER NOT NULL,
	revision         INTEGER NOT NULL,
	position         INTEGER NOT NULL,
	PRIMARY KEY (org, id)
) STRICT;
CREATE INDEX profile_newest ON profile (org, created_position);

-- A key's row is what its own subject tells. Whether it is revoked stands in
-- revocation; the mark here keeps revoked keys out of the index that lists run
-- along. created_position is the row's number: keys arrive in its order.
CREATE TABLE key (
	created_position   INTEGER PRIMARY KEY,
	org                TEXT NOT NULL,
	id                 TEXT NOT NULL,
	kind               TEXT NOT NULL,
	role               TEXT NOT NULL,
	name               TEXT NOT NULL,
	name_sealed        TEXT NOT NULL,
	prefix             TEXT NOT NULL,
	last_four          TEXT NOT NULL,
	level              TEXT NOT NULL,
	grants             TEXT NOT NULL, -- JSON
	all_workspaces     INTEGER NOT NULL,
	workspaces         TEXT NOT NULL, -- JSON
	profile            TEXT NOT NULL,
	created_at         INTEGER NOT NULL,
	created_by         TEXT NOT NULL,
	expires_at         INTEGER NOT NULL,
	disabled           INTEGER NOT NULL DEFAULT 0,
	expired_at         INTEGER NOT NULL DEFAULT 0,
	grace_ends_at      INTEGER NOT NULL DEFAULT 0,
	imported           INTEGER NOT NULL,
	rotated_from       TEXT NOT NULL,
	rotated_to         TEXT NOT NULL DEFAULT '',
	external_id        TEXT NOT NULL,
	external_id_sealed TEXT NOT NULL,
	metadata           TEXT NOT NULL, -- JSON
	data_subject       TEXT NOT NULL, -- whose texts these are, as a pseudonym; empty is the key's own id
	revoked            INTEGER NOT NULL,
	ends_at            INTEGER NOT NULL, -- the first of expires_at and grace_ends_at
	noticed_at         INTEGER NOT NULL, -- when that was set, or notice of it given
	rotation_due_at    INTEGER NOT NULL DEFAULT 0, -- when it should be rotated, none for what was or has ended
	rotation_told_at   INTEGER NOT NULL DEFAULT 0, -- which such time was told last
	due_at             INTEGER NOT NULL DEFAULT 0, -- when a fact is due next: notice of the end, it itself, the rotation, or the organization's end
	revision           INTEGER NOT NULL,
	position           INTEGER NOT NULL
) STRICT;
CREATE INDEX key_due ON key (due_at) WHERE due_at <> 0;
CREATE UNIQUE INDEX key_id ON key (org, id);
CREATE INDEX key_newest ON key (org, created_position);
CREATE INDEX key_unrevoked ON key (org, created_position) WHERE revoked = 0;
CREATE INDEX key_rotation ON key (org, created_position, rotation_due_at) WHERE rotation_due_at <> 0;
CREATE INDEX key_management ON key (org, created_position) WHERE kind = 'management';
CREATE INDEX key_profile ON key (org, profile) WHERE profile <> '';
CREATE INDEX key_external ON key (org, external_id) WHERE external_id <> '';

-- How long before a key's end its organization wants notice, as a modifier of
-- SQLite's dates.
CREATE TABLE notice (
	org    TEXT NOT NULL,
	before TEXT NOT NULL,
	PRIMARY KEY (org, before)
) STRICT, WITHOUT ROWID;

-- Absorbing: a row comes and never goes, before its key or after. The id _all is
-- the end of the organization, and with it of all its keys.
CREATE TABLE revocation (
	org           TEXT NOT NULL,
	id            TEXT NOT NULL,
	revoked_at    INTEGER NOT NULL,
	revoked_by    TEXT NOT NULL,
	reason        TEXT NOT NULL,
	reason_sealed TEXT NOT NULL,
	revision      INTEGER NOT NULL,
	position      INTEGER NOT NULL,
	PRIMARY KEY (org, id)
) STRICT, WITHOUT ROWID;

-- Subjects whose facts are not shown here, so that their revisions are.
CREATE TABLE subject (
	org       TEXT NOT NULL,
	aggregate TEXT NOT NULL,
	id        TEXT NOT NULL,
	revision  INTEGER NOT NULL,
	position  INTEGER NOT NULL,
	PRIMARY KEY (org, aggregate, id)
) STRICT, WITHOUT ROWID;
`

// digestQueries give every row in the order of its key.
var digestQueries = []string{
	`SELECT * FROM organization ORDER BY org`,
	`SELECT * FROM workspace ORDER BY org, id`,
	`SELECT * FROM permissions ORDER BY org`,
	`SELECT * FROM profile ORDER BY org, id`,
	`SELECT * FROM key ORDER BY org, id`,
	`SELECT * FROM metadata ORDER BY org, name, value, created_position`,
	`SELECT * FROM notice ORDER BY org, before`,
	`SELECT * FROM revocation ORDER BY org, id`,
	`SELECT * FROM provider_key ORDER BY org, id`,
	`SELECT * FROM subject ORDER BY org, aggregate, id`,
}

// usageStandIn is what the catalog reads of the usage view, while there is none.
const usageStandIn = `CREATE TABLE usage.last_used (
	org TEXT NOT NULL, key TEXT NOT NULL, at INTEGER NOT NULL, seen_at INTEGER NOT NULL, PRIMARY KEY (org, key)
) WITHOUT ROWID`

const usageProbe = `SELECT org, key, at FROM usage.last_used LIMIT 0`
