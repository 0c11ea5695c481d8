package sqlview

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections"
)

// busyPause is waited between tries when someone else holds the file's lock.
const busyPause = time.Second

// Apply applies facts of the ledger, each by a call, and moves the position to
// the last of them, in one transaction. The error of a call comes back with the
// fact it was over ([projections.At]); what came before that fact, and before
// what was appended with it, is applied all the same, so that where a view stops
// does not depend on how the facts were sliced.
func (db *DB) Apply(ctx context.Context, facts []events.Recorded, each func(*Tx, *events.Recorded) error) error {
	return db.ApplySlice(ctx, facts, func(tx *Tx, facts []events.Recorded) error {
		for i := range facts {
			if err := each(tx, &facts[i]); err != nil {
				return projections.At(facts[i], err)
			}
		}
		return nil
	})
}

// ApplySlice is Apply with one call for all facts, which says by
// [projections.At] which one it could not apply. It may be called again with the
// same facts, or with fewer of them.
func (db *DB) ApplySlice(ctx context.Context, facts []events.Recorded, apply func(*Tx, []events.Recorded) error) error {
	err := db.applySlice(ctx, facts, apply)
	var where *projections.FactError
	if !errors.As(err, &where) || where.Position < facts[0].Position {
		return err
	}
	good := int(where.Position - facts[0].Position)
	for good > 0 && !facts[good-1].Last() {
		good--
	}
	return errors.Join(err, db.applySlice(ctx, facts[:good], apply))
}

func (db *DB) applySlice(ctx context.Context, facts []events.Recorded, apply func(*Tx, []events.Recorded) error) error {
	if len(facts) == 0 {
		return nil
	}
	first, last := facts[0].Position, facts[len(facts)-1].Position
	return db.Update(ctx, first-1, last, func(tx *Tx) error { return apply(tx, facts) })
}

// Update changes rows and moves the position from after to last in one
// transaction. It refuses with ErrPosition when the file stands elsewhere.
func (db *DB) Update(ctx context.Context, after, last events.Position, change func(*Tx) error) error {
	if db.broken != nil {
		return db.broken
	}
	for {
		err := db.update(ctx, after, last, change)
		if code(err) != sqlite3.SQLITE_BUSY {
			return err
		}
		db.log.LogAttrs(ctx, slog.LevelWarn, "view's file is locked by another program")
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(busyPause):
		}
	}
}

func (db *DB) update(ctx context.Context, after, last events.Position, change func(*Tx) error) error {
	// A slice takes milliseconds: it is finished rather than interrupted.
	if err := ctx.Err(); err != nil {
		return err
	}
	return db.tx.run(context.WithoutCancel(ctx), func() error {
		if err := change(&db.tx); err != nil {
			return err
		}
		n, err := db.tx.Exec(`UPDATE view SET position = ? WHERE position = ?`, int64(last), int64(after))
		if err == nil && n != 1 {
			err = fmt.Errorf("%w: %s is not at %d", ErrPosition, db.cfg.Name, after)
		}
		return err
	}, &db.broken)
}

// Tx is the transaction that an Update is in. It keeps the statements of all
// transactions prepared: write them as constants, with parameters.
type Tx struct {
	ctx   context.Context
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
}

// Exec runs a statement and returns how many rows it changed.
func (tx *Tx) Exec(query string, args ...any) (int64, error) {
	stmt, err := tx.prepare(query)
	if err != nil {
		return 0, err
	}
	res, err := stmt.ExecContext(tx.ctx, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// QueryRow runs a query for one row and scans it, and reports whether there
// was one.
func (tx *Tx) QueryRow(query string, args []any, dest ...any) (bool, error) {
	stmt, err := tx.prepare(query)
	if err != nil {
		return false, err
	}
	err = stmt.QueryRowContext(tx.ctx, args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

func (tx *Tx) prepare(query string) (*sql.Stmt, error) {
	if stmt, ok := tx.stmts[query]; ok {
		return stmt, nil
	}
	stmt, err := tx.conn.PrepareContext(tx.ctx, query)
	if err != nil {
		return nil, err
	}
	tx.stmts[query] = stmt
	return stmt, nil
}

// run brackets work by a transaction on the connection itself, which prepared
// statements then belong to without being bound to it one by one. A transaction
// that cannot be ended leaves its error in broken.
func (tx *Tx) run(ctx context.Context, work func() error, broken *error) (err error) {
	tx.ctx = ctx
	if _, err := tx.conn.ExecContext(ctx, `BEGIN IMMEDIATE`); err != nil {
		return err
	}
	done := false
	defer func() {
		// Also when work panics: the runner makes an error of it.
		if done {
			return
		}
		if _, end := tx.conn.ExecContext(ctx, `ROLLBACK`); end != nil && broken != nil {
			*broken = fmt.Errorf("sqlview: roll back: %w", end)
		}
	}()
	if err := work(); err != nil {
		return err
	}
	if _, err := tx.conn.ExecContext(ctx, `COMMIT`); err != nil {
		return err
	}
	done = true
	return nil
}

func (tx *Tx) close() error {
	var errs []error
	for _, stmt := range tx.stmts {
		errs = append(errs, stmt.Close())
	}
	tx.stmts = nil
	return errors.Join(errs...)
}
