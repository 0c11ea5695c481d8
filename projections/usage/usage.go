// Package usage finds every single use of a key, by key and by time, and tells when
// each key was last used and from where, how often and with what verdicts, and
// whether any recorded use is missing: a view of the stream of uses, in one SQLite
// file.
//
// The file holds no single use. It is an index of the blocks that do: of each key,
// and of each organization, and for each minute and verdict, which blocks hold uses,
// 64 blocks to a row, one bit each. A list fetches just the blocks that its page is
// in, and the same blocks give the same rows, however they came. Counts and last
// uses are rows of their own, so that they outlive the blocks.
//
// A key's last use is its last VALID one: an attempt that was denied is no use
// of what the key gives access to, and a key that is only ever denied must look
// dormant to whoever reviews access. The last attempt whatever its verdict is
// kept beside it as seen.
//
// Blocks go through [uses.Continuity], and what it finds is kept with the
// position at which it was found. Rows and position change in one transaction;
// the file is rebuilt by deleting it, from what the stream then still holds.
//
// # The file
//
// Other views and SQL tools may read the file, and ATTACH it read-only. These
// tables and views keep their columns; times are microseconds since 1970 in
// UTC, ids are texts:
//
//	last_used(org, key, at, permission, workspace, seen_at, seen_code)
//	source(org, key, kind, source, first_at, last_at, first_verifier, first_code, position, news)
//	denials(minute, org, key, count, position)
//	findings(position, n, kind, verifier, boot, org, first, last, count, from_at, to_at)
//	unended(verifier, boot, bound, began, seen, superseded)
//	key_counts(org, key, hour, code, count)
//	org_counts(org, hour, code, count)
//	permission_use(org, key, permission, at)
//	denied_source(org, key, day, code, kind, source, count)
//	block(position, org, verifier, boot, first, last, count, from_at, to_at, stored)
//
// In last_used, at is NULL for a key that never had a VALID use; permission and
// workspace are those of the VALID use at that time; seen_code is the number of
// the [events.Code] of the last attempt.
//
// A source is where uses of a key came from, in clear: a client's address where
// that is recorded, else the program that it says it is (kind says which). last_at
// is the minute of the last use from there. Of each key some are kept, those that
// came first; news marks what [View.NewSources] tells. In denials, minute is the
// beginning of one, and position that of the last block that told of a denial in
// it; see [View.Denials] for how long they are kept.
//
// Counts are of uses that came for the first time; code is the number of an
// [events.Code], hour and day are the beginning of one. In permission_use are the
// permissions that VALID uses asked for, each name of a query, and the hour of the
// last one. In denied_source are uses that were not VALID, by where they came from;
// kind and source are empty for uses that do not tell, and for sources that are not
// kept. A block tells which numbers of the verifier's run it holds.
package usage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// Name is the view's name.
const Name = "usage"

// projection is raised whenever the same blocks come to mean other rows.
const projection = 5

// FindingGap is a kind of finding of this view's own: the positions First to
// Last of the stream were not there to be read, because they expired before, or
// for a worse reason. Their uses may be missing here.
const FindingGap uses.FindingKind = "gap"

// FindingUnreadable is another: what stands at the position is no block of this
// ledger. The view goes on behind it, unlike views of the ledger: every verifier
// that is let in writes to this stream under its own name, also one that was taken
// over, and none of them must stop what is known of all the others. What the block
// should have told of is missing by its numbers.
const FindingUnreadable uses.FindingKind = "unreadable"

// ErrBlock says that blocks came out of order, and where.
var ErrBlock = fmt.Errorf("usage: stream of uses holds what it must not: %w", events.ErrCorrupt)

const schema = `
CREATE TABLE last_used (
	org        TEXT NOT NULL,
	key        TEXT NOT NULL,
	at         INTEGER,
	permission TEXT NOT NULL,
	workspace  TEXT NOT NULL,
	seen_at    INTEGER NOT NULL,
	seen_code  INTEGER NOT NULL,
	no         INTEGER PRIMARY KEY, -- names the key in other tables; those in use since long stand together
	-- The newest row of key_hours and of key_blocks for VALID uses, until a newer
	-- one takes its place: most often that is the one to change.
	hour_count INTEGER NOT NULL,
	minute     INTEGER NOT NULL,
	segment    INTEGER NOT NULL,
	bits       INTEGER NOT NULL,
	count      INTEGER NOT NULL,
	from_us    INTEGER NOT NULL,
	to_us      INTEGER NOT NULL,
	UNIQUE (org, key)
) STRICT;

CREATE TABLE orgs (
	no             INTEGER PRIMARY KEY,
	org            TEXT NOT NULL UNIQUE,
	dropped_before INTEGER NOT NULL -- single uses before this are not told any more
) STRICT;

-- Which blocks hold uses of a key: of 64 of them one bit each, for each minute and
-- verdict that the uses are of.
CREATE TABLE key_blocks (
	no      INTEGER NOT NULL,
	minute  INTEGER NOT NULL, -- since 1970
	code    INTEGER NOT NULL,
	segment INTEGER NOT NULL, -- position / 64
	bits    INTEGER NOT NULL, -- bit position % 64
	count   INTEGER NOT NULL,
	from_us INTEGER NOT NULL, -- of the first use, in the minute
	to_us   INTEGER NOT NULL, -- of the last one
	PRIMARY KEY (no, minute, code, segment)
) STRICT, WITHOUT ROWID;

-- The same for an organization.
CREATE TABLE org_blocks (
	no      INTEGER NOT NULL,
	minute  INTEGER NOT NULL,
	code    INTEGER NOT NULL,
	segment INTEGER NOT NULL,
	bits    INTEGER NOT NULL,
	count   INTEGER NOT NULL,
	from_us INTEGER NOT NULL,
	to_us   INTEGER NOT NULL,
	PRIMARY KEY (no, minute, code, segment)
) STRICT, WITHOUT ROWID;

CREATE TABLE blocks (
	position INTEGER PRIMARY KEY,
	org      INTEGER NOT NULL, -- orgs.no
	boot     INTEGER NOT NULL, -- boots.place
	first    INTEGER NOT NULL,
	count    INTEGER NOT NULL,
	fresh    INTEGER NOT NULL, -- the first number that came for the first time
	from_at  INTEGER NOT NULL,
	to_at    INTEGER NOT NULL,
	stored   INTEGER NOT NULL
) STRICT;

CREATE TABLE key_hours (
	no    INTEGER NOT NULL,
	hour  INTEGER NOT NULL, -- since 1970
	code  INTEGER NOT NULL,
	count INTEGER NOT NULL,
	PRIMARY KEY (no, hour, code)
) STRICT, WITHOUT ROWID;

CREATE TABLE org_hours (
	no    INTEGER NOT NULL,
	hour  INTEGER NOT NULL,
	code  INTEGER NOT NULL,
	count INTEGER NOT NULL,
	PRIMARY KEY (no, hour, code)
) STRICT, WITHOUT ROWID;

CREATE TABLE org_minutes (
	no     INTEGER NOT NULL,
	minute INTEGER NOT NULL,
	code   INTEGER NOT NULL,
	count  INTEGER NOT NULL,
	PRIMARY KEY (no, minute, code)
) STRICT, WITHOUT ROWID;

-- Uses that were not VALID, by where they came from.
CREATE TABLE key_denied (
	no     INTEGER NOT NULL,
	day    INTEGER NOT NULL, -- since 1970
	code   INTEGER NOT NULL,
	kind   TEXT NOT NULL,
	source TEXT NOT NULL,
	count  INTEGER NOT NULL,
	PRIMARY KEY (no, day, code, kind, source)
) STRICT, WITHOUT ROWID;

CREATE TABLE key_permission (
	no         INTEGER NOT NULL,
	permission TEXT NOT NULL,
	hour       INTEGER NOT NULL, -- of the last VALID use
	PRIMARY KEY (no, permission)
) STRICT, WITHOUT ROWID;

CREATE TABLE source (
	org            TEXT NOT NULL,
	key            TEXT NOT NULL,
	kind           TEXT NOT NULL,
	source         TEXT NOT NULL,
	first_at       INTEGER NOT NULL,
	last_at        INTEGER NOT NULL, -- by the minute
	first_verifier TEXT NOT NULL,
	first_code     INTEGER NOT NULL,
	position       INTEGER NOT NULL, -- of the block that the first use was in
	news           INTEGER NOT NULL, -- whether it is worth telling
	PRIMARY KEY (org, key, kind, source)
) STRICT, WITHOUT ROWID;
CREATE INDEX source_news ON source (position, first_at) WHERE news;

CREATE TABLE denials (
	minute   INTEGER NOT NULL,
	org      TEXT NOT NULL,
	key      TEXT NOT NULL,
	count    INTEGER NOT NULL,
	position INTEGER NOT NULL, -- of the last block that was counted
	PRIMARY KEY (minute, org, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX denials_news ON denials (position) WHERE count >= 2;

CREATE TABLE clock (
	one INTEGER PRIMARY KEY CHECK (one = 1),
	at  INTEGER NOT NULL -- the minute until which blocks were stored
) STRICT;

CREATE TABLE findings (
	position INTEGER NOT NULL,
	n        INTEGER NOT NULL,
	kind     TEXT NOT NULL,
	verifier TEXT NOT NULL,
	boot     TEXT NOT NULL,
	org      TEXT NOT NULL,
	first    INTEGER NOT NULL,
	last     INTEGER NOT NULL,
	count    INTEGER NOT NULL,
	from_at  INTEGER NOT NULL,
	to_at    INTEGER NOT NULL,
	PRIMARY KEY (position, n)
) STRICT, WITHOUT ROWID;

CREATE INDEX findings_org ON findings (org, position, n);

CREATE TABLE boots (
	verifier   TEXT NOT NULL,
	boot       TEXT NOT NULL,
	place      INTEGER NOT NULL, -- the position of its first block
	marked     INTEGER NOT NULL,
	bound      INTEGER NOT NULL,
	began      INTEGER NOT NULL,
	seen       INTEGER NOT NULL,
	ended      INTEGER NOT NULL,
	PRIMARY KEY (verifier, boot)
) STRICT, WITHOUT ROWID;

CREATE TABLE series (
	verifier TEXT NOT NULL,
	boot     TEXT NOT NULL,
	org      TEXT NOT NULL,
	last     INTEGER NOT NULL,
	at       INTEGER NOT NULL,
	ended    INTEGER NOT NULL,
	"end"    INTEGER NOT NULL,
	PRIMARY KEY (verifier, boot, org)
) STRICT, WITHOUT ROWID;

-- Of which organizations verifiers ever recorded uses.
CREATE TABLE served (
	org      TEXT NOT NULL,
	verifier TEXT NOT NULL,
	PRIMARY KEY (org, verifier)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX boots_place ON boots (place);

CREATE TABLE numbers (
	one  INTEGER PRIMARY KEY CHECK (one = 1),
	last INTEGER NOT NULL -- the last number that a key got
) STRICT;

-- What retention dropped: of organizations, and in the row without one of the stream.
CREATE TABLE dropped (
	org     TEXT PRIMARY KEY,
	before  INTEGER NOT NULL,
	through INTEGER NOT NULL -- a position
) STRICT, WITHOUT ROWID;

CREATE TABLE beginning (
	trimmed INTEGER NOT NULL -- whether the stream's first blocks had expired
) STRICT;

CREATE VIEW unended AS
	SELECT verifier, boot, bound, began, seen, EXISTS (
		SELECT 1 FROM boots AS later WHERE later.verifier = boots.verifier AND later.place > boots.place
	) AS superseded
	FROM boots WHERE NOT ended;

CREATE VIEW block AS
	SELECT position, o.org, verifier, b.boot, first, first + count - 1 AS last, count, from_at, to_at, stored
	FROM blocks JOIN orgs AS o ON o.no = blocks.org JOIN boots AS b ON b.place = blocks.boot;

CREATE VIEW key_counts AS
	SELECT org, key, hour * 3600000000 AS hour, code, count FROM (
		SELECT org, key, h.hour, code, h.count FROM last_used AS l JOIN key_hours AS h ON h.no = l.no
		UNION ALL SELECT org, key, minute / 60, 1, hour_count FROM last_used WHERE hour_count > 0
	);

CREATE VIEW org_counts AS
	SELECT org, hour * 3600000000 AS hour, code, count FROM orgs JOIN org_hours USING (no);

CREATE VIEW permission_use AS
	SELECT org, key, p.permission, p.hour * 3600000000 AS at FROM last_used AS l JOIN key_permission AS p ON p.no = l.no;

CREATE VIEW denied_source AS
	SELECT org, key, day * 86400000000 AS day, code, kind, source, d.count FROM last_used AS l JOIN key_denied AS d ON d.no = l.no;
`

// Config says where the view is kept.
type Config struct {
	// Path is the SQLite file. Its folder must exist. Required.
	Path string
	// Of is the ledger whose uses these are. Required.
	Of events.Positions
	// Blocks is where single blocks are read for [View.Uses], which needs it.
	Blocks BlockReader
	// Logger takes rebuilds and waits. Nothing is logged without one.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	if c.Path == "" {
		faults = append(faults, errors.New("usage: no path"))
	}
	if c.Of.Ledger.IsZero() {
		faults = append(faults, errors.New("usage: no ledger"))
	}
	return errors.Join(faults...)
}

// View is the view. Its queries may be called by many goroutines, Apply by one
// at a time.
type View struct {
	cfg Config
	db  *sqlview.DB
	dec *uses.Decoder
	// blocks is nil without a source.
	blocks *blocks
	// mu is held by who writes.
	mu sync.Mutex
	at events.Position
	// As the file has it, nil when it must be read again.
	seen  *uses.Continuity
	known *known
	// dropped is what retention dropped of organizations.
	dropped map[events.OrgID]DroppedUses
	clock   events.Time
	// news is how far there may be something that NewSources or Denials tells.
	news atomic.Uint64
}

// Open opens the view's file, or creates it.
func Open(ctx context.Context, c Config) (*View, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	dec, err := uses.NewDecoder()
	if err != nil {
		return nil, fmt.Errorf("usage: %w", err)
	}
	db, err := sqlview.Open(ctx, sqlview.Config{
		Path: c.Path, Name: Name, Version: projection, Schema: schema, Of: c.Of, Logger: c.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("usage: %w", err)
	}
	v := &View{cfg: c, db: db, dec: dec}
	if c.Blocks != nil {
		v.blocks = newBlocks(c.Blocks, c.Of.Ledger)
	}
	return v, nil
}

// Close closes the file.
func (v *View) Close() error { return v.db.Close() }

// Name is the view's name.
func (v *View) Name() string { return Name }

// Position returns the last position of the stream of uses that was applied.
func (v *View) Position(ctx context.Context) (events.Position, error) { return v.db.Position(ctx) }

// News is a position that moves on, up to the last one applied, whenever there may be
// something new for [View.NewSources] or [View.Denials] up to there. It is 0 before
// the first Apply, and costs nothing to ask.
func (v *View) News() events.Position { return events.Position(v.news.Load()) }

// Digest returns a hash of the view's rows and the position they stand at.
func (v *View) Digest(ctx context.Context) (events.Position, [sha256.Size]byte, error) {
	return v.db.Digest(ctx,
		`SELECT * FROM last_used ORDER BY org, key`,
		`SELECT * FROM orgs ORDER BY no`,
		`SELECT * FROM key_blocks ORDER BY no, minute, code, segment`,
		`SELECT * FROM org_blocks ORDER BY no, minute, code, segment`,
		`SELECT * FROM blocks ORDER BY position`,
		`SELECT * FROM key_hours ORDER BY no, hour, code`,
		`SELECT * FROM org_hours ORDER BY no, hour, code`,
		`SELECT * FROM org_minutes ORDER BY no, minute, code`,
		`SELECT * FROM key_denied ORDER BY no, day, code, kind, source`,
		`SELECT * FROM key_permission ORDER BY no, permission`,
		`SELECT * FROM source ORDER BY org, key, kind, source`,
		`SELECT * FROM denials ORDER BY minute, org, key`,
		`SELECT * FROM clock`,
		`SELECT * FROM findings ORDER BY position, n`,
		`SELECT * FROM boots ORDER BY verifier, boot`,
		`SELECT * FROM series ORDER BY verifier, boot, org`,
		`SELECT * FROM served ORDER BY org, verifier`,
		`SELECT * FROM numbers`,
		`SELECT * FROM dropped ORDER BY org`,
		`SELECT * FROM beginning`,
	)
}
