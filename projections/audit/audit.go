// Package audit is the log of every change, as it was recorded: who did what,
// when, from what to what, why and under which request, to be filtered, searched
// and paged, with the stored body of each fact. It is a view of the ledger in one
// SQLite file.
//
// It proves nothing by itself: whoever can write the file can change it. Proofs
// are made over the ledger, and the bodies here are those that were hashed.
package audit

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

var (
	// ErrBadCursor says that a text is no cursor of this very list.
	ErrBadCursor = sqlview.ErrBadCursor

	// ErrRevision says that a fact is not the next one of its subject.
	ErrRevision = fmt.Errorf("audit: fact is not the next revision of its subject: %w", events.ErrCorrupt)
)

// version is the projection's: raise it whenever the same facts come to mean
// other rows.
const version = 3

// schema is the file as auditors see it. Times are microseconds since 1970. A
// reason stands in clear, or sealed as JSON; one of the columns is empty.
const schema = `
CREATE TABLE event (
	position        INTEGER PRIMARY KEY,
	clock           INTEGER NOT NULL, -- the latest time stored so far: it rises with positions
	stored          INTEGER NOT NULL, -- when, by the broker's clock
	recorded        INTEGER NOT NULL, -- when the ledger was asked to store it
	claimed         INTEGER NOT NULL, -- when it was decided, by the clock of whoever did
	org             TEXT NOT NULL,
	aggregate       TEXT NOT NULL,
	id              TEXT NOT NULL,
	revision        INTEGER NOT NULL, -- of the aggregate, after this event
	kind            TEXT NOT NULL,    -- with its version
	name            TEXT NOT NULL,    -- the kind without it
	actor           TEXT NOT NULL,
	role            TEXT NOT NULL,
	scope           TEXT NOT NULL,
	reason          TEXT NOT NULL,
	reason_sealed   TEXT NOT NULL,
	ticket          TEXT NOT NULL,
	request_id      TEXT NOT NULL,
	command_id      TEXT NOT NULL,
	causation_id    TEXT NOT NULL,
	config_position INTEGER NOT NULL, -- 0 for none
	changes         TEXT NOT NULL,    -- [{"field": …, "before": …, "after": …}, …]
	workspaces      TEXT NOT NULL,    -- that it concerns, as a JSON list; empty for none
	text            TEXT NOT NULL,    -- what it can be found by, a text a line
	body            TEXT NOT NULL     -- as stored, byte for byte
) STRICT;
CREATE UNIQUE INDEX event_subject ON event (org, id, aggregate, revision);
CREATE INDEX event_org ON event (org, position);
CREATE INDEX event_actor ON event (org, actor, position);
CREATE INDEX event_name ON event (org, name, position);
CREATE INDEX event_ticket ON event (ticket, position) WHERE ticket <> '';
CREATE INDEX event_clock ON event (clock);
CREATE TABLE event_workspace (
	org       TEXT NOT NULL,
	workspace TEXT NOT NULL,
	position  INTEGER NOT NULL,
	PRIMARY KEY (org, workspace, position)
) STRICT, WITHOUT ROWID;
-- What a thing is after its last event, where its first does not tell.
CREATE TABLE state (
	first INTEGER PRIMARY KEY, -- position of its first event
	doc   TEXT NOT NULL
) STRICT;
CREATE VIRTUAL TABLE search USING fts5 (text, content='', detail=none, tokenize='trigram');
`

// Config says where the audit log is kept.
type Config struct {
	// Path is the SQLite file. Required.
	Path string
	// Of is the ledger that the log is of.
	Of events.Positions
	// Readers bounds the queries that run beside each other. 0 is
	// [sqlview.DefaultReaders].
	Readers int
	// Logger takes rebuilds. Nothing is logged without one.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error { return c.view().Validate() }

func (c Config) view() sqlview.Config {
	return sqlview.Config{
		Path: c.Path, Name: "audit", Version: version, Schema: schema + schemaAsOf, Of: c.Of, Readers: c.Readers, Logger: c.Logger,
	}
}

// Log is the view. Queries may be called by many goroutines.
type Log struct {
	db *sqlview.DB
}

// Open opens the log's file, or creates it. A file that is not this log's is
// replaced by an empty one, to be replayed.
func Open(ctx context.Context, c Config) (*Log, error) {
	db, err := sqlview.Open(ctx, c.view())
	if err != nil {
		return nil, err
	}
	return &Log{db: db}, nil
}

// Close ends the view.
func (l *Log) Close() error { return l.db.Close() }

// Name names the view.
func (l *Log) Name() string { return l.db.Name() }

// Position returns the last position whose rows are in the file.
func (l *Log) Position(ctx context.Context) (events.Position, error) { return l.db.Position(ctx) }

// Apply applies facts in one transaction. A fact of an unknown kind is kept like
// any other; a body that is no fact stops the log, because nothing true can be
// said of it. A tick is no change: it moves the position and leaves no row, or
// the log of a quiet year would be three million lines of nothing.
func (l *Log) Apply(ctx context.Context, facts []events.Recorded) error {
	return l.db.ApplySlice(ctx, facts, apply)
}

// Digest returns a hash of all rows and the position it was taken at.
func (l *Log) Digest(ctx context.Context) (events.Position, [sha256.Size]byte, error) {
	return l.db.Digest(ctx, `SELECT * FROM event ORDER BY position`, `SELECT * FROM state ORDER BY first`,
		`SELECT * FROM event_workspace ORDER BY org, workspace, position`)
}
