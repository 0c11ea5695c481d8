// Package sqlview keeps a view of the ledger in one SQLite file: rows and the
// position they stand at change in the same transaction, so that every fact
// counts exactly once, whenever the process dies.
//
// The file is derived. One with another schema, of another projection version,
// of another ledger, or unreadable, is deleted and replayed. There is one
// writer, the view's runner, and many readers, who never wait for it.
package sqlview

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/keyledger/keyledger/events"
)

var (
	// ErrPosition says that facts do not continue where the file stands:
	// another process writes to it, or the facts come out of order.
	ErrPosition = errors.New("sqlview: facts do not continue where the view stands")

	// errStale says that a file is to be rebuilt.
	errStale = errors.New("sqlview: file is not one of this view")
)

// layoutVersion is the version of what this package itself keeps in a file.
const layoutVersion = 1

// layout is this package's own table, of one row.
const layout = `CREATE TABLE view (
	one      INTEGER PRIMARY KEY CHECK (one = 1),
	name     TEXT NOT NULL,
	layout   INTEGER NOT NULL, -- of this table
	version  INTEGER NOT NULL, -- of the projection
	schema   TEXT NOT NULL,    -- SHA-256 of the statements that made the other tables
	ledger   TEXT NOT NULL,
	epoch    INTEGER NOT NULL,
	position INTEGER NOT NULL  -- the last one applied
) STRICT`

// DB is an open view. Its methods may be called by many goroutines, but for
// Update and Apply, which are the runner's.
type DB struct {
	cfg    Config
	log    *slog.Logger
	writer *sql.DB
	conn   *sql.Conn // the only one of writer
	tx     Tx
	broken error // set when a transaction could not be ended

	readers readers
	closing sync.Once
	closed  error
}

// Open opens a view's file, or creates it.
func Open(ctx context.Context, c Config) (*DB, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(c.Path)
	if err != nil {
		return nil, fmt.Errorf("sqlview: %s: %w", c.Name, err)
	}
	c.Path = path
	if c.Readers == 0 {
		c.Readers = DefaultReaders
	}
	db := &DB{cfg: c, log: c.Logger}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	db.log = db.log.With("view", c.Name)
	err = db.openWriter(ctx)
	if errors.Is(err, errStale) {
		db.log.LogAttrs(ctx, slog.LevelWarn, "view is rebuilt", slog.Any("reason", err))
		if err = remove(path); err == nil {
			err = db.openWriter(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("sqlview: open %s: %w", c.Name, err)
	}
	db.readers.open(db)
	return db, nil
}

// remove deletes a database with what SQLite keeps beside it. The write-ahead
// log goes first: one without its database means nothing, one beside another
// database means harm.
func remove(path string) error {
	for _, suffix := range []string{"-wal", "-shm", "-journal", ""} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (db *DB) openWriter(ctx context.Context) (err error) {
	// Created here for its mode: SQLite gives its own files the same.
	f, err := os.OpenFile(db.cfg.Path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return err
	}
	connector, err := sqlite.NewConnector(dsn(db.cfg.Path, writerPragmas))
	if err != nil {
		return err
	}
	db.writer = sql.OpenDB(connector)
	db.writer.SetMaxOpenConns(1)
	defer func() {
		if err != nil {
			err = errors.Join(err, db.closeWriter())
		}
	}()
	if db.conn, err = db.writer.Conn(ctx); err != nil {
		return stale(err)
	}
	db.tx = Tx{conn: db.conn, stmts: map[string]*sql.Stmt{}}
	return stale(db.checkLayout(ctx))
}

// stale tells files to be rebuilt from those that cannot be opened: a full
// disk or a missing right is no reason to delete anything.
func stale(err error) error {
	switch code(err) {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: %w", errStale, err)
	default:
		return err
	}
}

// code returns SQLite's primary result code, 0 for other errors.
func code(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

func (db *DB) checkLayout(ctx context.Context) error {
	var tables int
	if err := db.conn.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema`).Scan(&tables); err != nil {
		return err
	}
	if tables == 0 {
		return db.create(ctx)
	}
	want, have := db.identity(), make([]any, 6)
	refs := make([]any, len(have))
	for i := range have {
		refs[i] = &have[i]
	}
	err := db.conn.QueryRowContext(ctx, `SELECT name, layout, version, schema, ledger, epoch FROM view`).Scan(refs...)
	switch {
	case errors.Is(err, sql.ErrNoRows), code(err) == sqlite3.SQLITE_ERROR:
		return fmt.Errorf("%w: it does not say what it is", errStale)
	case err != nil:
		return err
	}
	for i, what := range []string{"view", "layout", "projection version", "schema", "ledger", "epoch of the ledger"} {
		if have[i] != want[i] {
			return fmt.Errorf("%w: it has another %s", errStale, what)
		}
	}
	return nil
}

// identity is what a file must say of itself to be taken as it is.
func (db *DB) identity() []any {
	sum := sha256.Sum256([]byte(db.cfg.Schema))
	return []any{
		db.cfg.Name, int64(layoutVersion), int64(db.cfg.Version),
		hex.EncodeToString(sum[:]), db.cfg.Of.Ledger.String(), int64(db.cfg.Of.Epoch),
	}
}

// create makes all tables in one transaction: a file has all of them or none.
func (db *DB) create(ctx context.Context) error {
	return db.tx.run(ctx, func() error {
		for _, s := range []string{layout, db.cfg.Schema} {
			if _, err := db.conn.ExecContext(ctx, s); err != nil {
				return err
			}
		}
		_, err := db.conn.ExecContext(ctx, `INSERT INTO view VALUES (1, ?, ?, ?, ?, ?, ?, 0)`, db.identity()...)
		return err
	}, nil)
}

// Name returns the view's name.
func (db *DB) Name() string { return db.cfg.Name }

// Position returns the last position whose rows are in the file.
func (db *DB) Position(ctx context.Context) (events.Position, error) {
	var pos int64
	err := db.QueryRow(ctx, `SELECT position FROM view`).Scan(&pos)
	if err != nil {
		return 0, fmt.Errorf("sqlview: position of %s: %w", db.cfg.Name, err)
	}
	return events.Position(pos), nil
}

// Close ends the view. Queries that run are waited for by nobody: stop asking
// first.
func (db *DB) Close() error {
	db.closing.Do(func() {
		// Readers first, so that the writer is the last to leave and folds the
		// write-ahead log into the file.
		db.closed = errors.Join(db.readers.close(), db.closeWriter())
	})
	return db.closed
}

func (db *DB) closeWriter() error {
	if db.writer == nil {
		return nil
	}
	var errs []error
	errs = append(errs, db.tx.close())
	if db.conn != nil {
		errs = append(errs, db.conn.Close())
	}
	errs = append(errs, db.writer.Close())
	db.conn, db.writer = nil, nil
	return errors.Join(errs...)
}
