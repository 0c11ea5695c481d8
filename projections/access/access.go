// Package access tells who read the audit log, to whom provider keys were handed
// out, who could not log in, what was refused and what strangers tried: a view of the
// stream of access records, in one SQLite file. It adds up what records tell of one
// row; what is recorded one by one is a row each.
//
// Rows and position change in one transaction. The file is rebuilt by deleting it,
// from what the stream then still holds: records end. The view lets rows go by the
// stream's own time, and keeps of each kind and organization as many as the stream
// would keep records, so that its file is bounded as the stream is.
//
// # The file
//
// SQL tools may read the file. This table keeps its columns; times are microseconds
// since 1970 in UTC:
//
//	access(position, minute, org, kind, server, actor, role, what, code, answer, version, single, source, source_kind, count, first_at, last_at, request_id)
package access

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// Name is the view's name.
const Name = "access"

// projection is raised whenever the same records come to mean other rows.
const projection = 2

// The defaults of a [Config].
const (
	DefaultKeep = 400 * 24 * time.Hour
	// DefaultMaxOfKind is how many records the stream keeps of a kind and an
	// organization.
	DefaultMaxOfKind = 500_000
)

const schema = `
CREATE TABLE access (
	position    INTEGER PRIMARY KEY, -- of the first record that told of the row
	minute      INTEGER NOT NULL,
	org         TEXT NOT NULL,
	kind        TEXT NOT NULL,
	server      TEXT NOT NULL,
	actor       TEXT NOT NULL,
	role        TEXT NOT NULL,
	what        TEXT NOT NULL,
	code        TEXT NOT NULL,
	answer      TEXT NOT NULL, -- what was handed out, where that is told
	version     INTEGER NOT NULL, -- of what was handed out; 0 is none
	single      TEXT NOT NULL, -- tells rows apart that are recorded one by one; else empty
	source      TEXT NOT NULL,
	source_kind TEXT NOT NULL,
	count       INTEGER NOT NULL,
	first_at    INTEGER NOT NULL,
	last_at     INTEGER NOT NULL,
	request_id  TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX access_row ON access (org, kind, minute, what, code, actor, role, source, source_kind, server, single, answer, version);
CREATE INDEX access_org ON access (org, position);
CREATE INDEX access_kind ON access (org, kind, position);
CREATE INDEX access_what ON access (org, kind, what, position);
CREATE INDEX access_actor ON access (actor, position) WHERE actor <> '';
CREATE INDEX access_minute ON access (minute, position);
CREATE INDEX access_resolved ON access (org, what, last_at) WHERE ` + handedOut + `;

CREATE TABLE boots (
	boot TEXT PRIMARY KEY,
	last INTEGER NOT NULL, -- the number of its last record
	seen INTEGER NOT NULL  -- when the stream last held one of it
) STRICT, WITHOUT ROWID;

CREATE TABLE lane (
	org  TEXT NOT NULL,
	kind TEXT NOT NULL,
	rows INTEGER NOT NULL,
	PRIMARY KEY (org, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE clock (
	one INTEGER PRIMARY KEY CHECK (one = 1),
	at  INTEGER NOT NULL -- the hour until which records were stored
) STRICT;
INSERT INTO clock VALUES (1, 0);
`

// Config says where the view is kept.
type Config struct {
	// Path is the SQLite file. Its folder must exist. Required.
	Path string
	// Of is the ledger whose records these are. Required.
	Of events.Positions
	// Keep is how long rows are kept. 0 is [DefaultKeep].
	Keep time.Duration
	// MaxOfKind is how many rows are kept of a kind and an organization, and some
	// more for a while, as they are let go a hundredth at a time. 0 is
	// [DefaultMaxOfKind].
	MaxOfKind int
	// Logger takes rebuilds, and records that cannot be read.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, errors.New("access: "+text))
		}
	}
	fault(c.Path == "", "no path")
	fault(c.Of.Ledger.IsZero(), "no ledger")
	fault(c.Keep < 0, "Keep is negative")
	fault(c.MaxOfKind < 0, "MaxOfKind is negative")
	return errors.Join(faults...)
}

// View is the view. Its queries may be called by many goroutines, Apply by one at a
// time.
type View struct {
	cfg Config
	db  *sqlview.DB
	log *slog.Logger
	// unreadable is how many records could not be read.
	unreadable atomic.Uint64
}

// Open opens the view's file, or creates it.
func Open(ctx context.Context, c Config) (*View, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Keep == 0 {
		c.Keep = DefaultKeep
	}
	if c.MaxOfKind == 0 {
		c.MaxOfKind = DefaultMaxOfKind
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	db, err := sqlview.Open(ctx, sqlview.Config{
		Path: c.Path, Name: Name, Version: projection, Schema: schema, Of: c.Of, Logger: c.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("access: %w", err)
	}
	return &View{cfg: c, db: db, log: c.Logger}, nil
}

// Close closes the file.
func (v *View) Close() error { return v.db.Close() }

// Name is the view's name.
func (v *View) Name() string { return Name }

// Position returns the last position of the stream that was applied.
func (v *View) Position(ctx context.Context) (events.Position, error) { return v.db.Position(ctx) }

// Unreadable returns how many records this view passed over since it was opened,
// because they cannot be read: those of a later version of this program.
func (v *View) Unreadable() uint64 { return v.unreadable.Load() }

// Apply applies records, in the stream's order: all of them in one transaction, or
// none. What was applied before is passed over, and so is what a server stored
// twice.
func (v *View) Apply(ctx context.Context, records []access.Message) error {
	at, err := v.Position(ctx)
	if err != nil {
		return err
	}
	for len(records) > 0 && records[0].Position <= at {
		records = records[1:]
	}
	if len(records) == 0 {
		return nil
	}
	return v.db.Update(ctx, at, records[len(records)-1].Position, func(tx *sqlview.Tx) error {
		for _, m := range records {
			r, err := access.Decode(v.cfg.Of.Ledger, m)
			if err != nil {
				v.unreadable.Add(1)
				v.log.Warn("no access record", "position", m.Position, "error", err)
				continue
			}
			if err := v.add(tx, m, &r); err != nil {
				return err
			}
			// Record by record, so that what is let go does not depend on how
			// the records were sliced.
			if err := v.forget(tx, m.Stored); err != nil {
				return err
			}
		}
		return nil
	})
}

// add counts a record, unless it was counted.
func (v *View) add(tx *sqlview.Tx, m access.Message, r *access.Record) error {
	n, err := tx.Exec(`INSERT INTO boots AS b VALUES (?, ?, ?)
		ON CONFLICT DO UPDATE SET last = excluded.last, seen = max(b.seen, excluded.seen) WHERE excluded.last > b.last`,
		r.Boot.String(), int64(r.Number), int64(m.Stored))
	if err != nil || n == 0 {
		return err
	}
	// The index says which rows are one, and only a new one is at this position.
	var position events.Position
	if _, err := tx.QueryRow(`INSERT INTO access AS a (org, kind, minute, what, code, actor, role, source, source_kind, server, single, answer, version,
			count, first_at, last_at, request_id, position)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (org, kind, minute, what, code, actor, role, source, source_kind, server, single, answer, version)
		DO UPDATE SET count = a.count + excluded.count, first_at = min(a.first_at, excluded.first_at), last_at = max(a.last_at, excluded.last_at)
		RETURNING position`, []any{
		string(r.Org), string(r.Kind), int64(r.Minute), r.What, r.Code, r.Actor.String(), string(r.Role), r.Source, string(r.SourceKind), string(r.Server),
		r.Single, r.Answer, int64(r.Version), int64(r.Count), int64(r.FirstAt), int64(r.LastAt), r.RequestID, int64(m.Position),
	}, &position); err != nil || position != m.Position {
		return err
	}
	return v.trim(tx, r.Org, r.Kind)
}

// forget lets go what is too old, once an hour of the stream's time.
func (v *View) forget(tx *sqlview.Tx, stored events.Time) error {
	const hour = events.Time(time.Hour / time.Microsecond)
	now := stored - stored%hour
	if n, err := tx.Exec(`UPDATE clock SET at = ?1 WHERE at < ?1`, int64(now)); err != nil || n == 0 {
		return err
	}
	oldest := int64(now) - v.cfg.Keep.Microseconds()
	if _, err := tx.Exec(`UPDATE lane SET rows = rows - (SELECT count(*) FROM access
		WHERE access.org = lane.org AND access.kind = lane.kind AND minute < ?1)
		WHERE EXISTS (SELECT 1 FROM access WHERE minute < ?1)`, oldest); err != nil {
		return err
	}
	if _, err := tx.Exec(`DELETE FROM access WHERE minute < ?`, oldest); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM boots WHERE seen < ?`, oldest)
	return err
}

// trim counts a new row, and lets the oldest of its kind go when there are too many.
func (v *View) trim(tx *sqlview.Tx, of events.OrgID, what access.Kind) error {
	org, kind, most := string(of), string(what), int64(v.cfg.MaxOfKind)
	var rows int64
	if _, err := tx.QueryRow(`INSERT INTO lane AS l VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET rows = l.rows + 1 RETURNING rows`,
		[]any{org, kind}, &rows); err != nil || rows <= most+most/100 {
		return err
	}
	if _, err := tx.Exec(`DELETE FROM access WHERE position IN (
		SELECT position FROM access INDEXED BY access_kind WHERE org = ? AND kind = ? ORDER BY position LIMIT ?)`, org, kind, rows-most); err != nil {
		return err
	}
	_, err := tx.Exec(`UPDATE lane SET rows = ? WHERE org = ? AND kind = ?`, most, org, kind)
	return err
}

// Digest returns a hash of the view's rows and the position they stand at.
func (v *View) Digest(ctx context.Context) (events.Position, [sha256.Size]byte, error) {
	return v.db.Digest(ctx,
		`SELECT * FROM access ORDER BY position`,
		`SELECT * FROM boots ORDER BY boot`,
		`SELECT * FROM lane ORDER BY org, kind`,
		`SELECT * FROM clock`,
	)
}
