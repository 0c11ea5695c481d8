package sqlview

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"modernc.org/sqlite"

	"github.com/keyledger/keyledger/events"
)

// Beside is a view's file that is read together with another one's: queries
// reach its tables under a schema's name.
type Beside struct{ Schema, Path string }

// Joined reads the files of several views together and writes to none of them. It
// has readers of its own, so that whoever reads for long keeps nobody waiting who
// asks a view itself.
type Joined struct{ pool *sql.DB }

// Join opens a view's file with others beside it. Their views must be open, and
// outlive this. readers bounds the queries that run beside each other; 0 is
// [DefaultReaders].
func Join(ctx context.Context, path string, readers int, beside ...Beside) (*Joined, error) {
	if readers == 0 {
		readers = DefaultReaders
	}
	c := &joinedConnector{}
	var err error
	if c.path, err = filepath.Abs(path); err != nil {
		return nil, fmt.Errorf("sqlview: join: %w", err)
	}
	for _, b := range beside {
		if b.Path, err = filepath.Abs(b.Path); err != nil {
			return nil, fmt.Errorf("sqlview: join: %w", err)
		}
		c.beside = append(c.beside, b)
	}
	j := &Joined{pool: sql.OpenDB(c)}
	j.pool.SetMaxOpenConns(readers)
	j.pool.SetMaxIdleConns(readers)
	if err := j.pool.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("sqlview: join: %w", err), j.pool.Close())
	}
	return j, nil
}

// joinWait bounds how long a snapshot waits for one of the readers: whoever gets
// none is better told to ask again.
const joinWait = 10 * time.Second

// Snapshot runs queries over one state of each file. It is that of the first
// query that reads the file: ask for the positions first ([PositionIn]), and all
// that follows stands there. While it lasts, the files' write-ahead logs are not
// cut back.
func (j *Joined) Snapshot(ctx context.Context, read func(*sql.Tx) error) error {
	waiting, cancel := context.WithTimeout(ctx, joinWait)
	conn, err := j.pool.Conn(waiting)
	cancel()
	if err != nil {
		return fmt.Errorf("sqlview: all readers are busy: %w", err)
	}
	defer conn.Close()
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	// There is nothing to commit.
	return errors.Join(read(tx), tx.Rollback())
}

// Close ends it. Queries that run are waited for by nobody.
func (j *Joined) Close() error { return j.pool.Close() }

// PositionIn returns where the view of a schema stands in a snapshot; the file
// that others are beside of is the schema main.
func PositionIn(ctx context.Context, tx *sql.Tx, schema string) (events.Position, error) {
	var pos int64
	if err := tx.QueryRowContext(ctx, `SELECT position FROM `+schema+`.view`).Scan(&pos); err != nil {
		return 0, fmt.Errorf("sqlview: position of %s: %w", schema, err)
	}
	return events.Position(pos), nil
}

// joinedConnector opens connections that see all the files and cannot write.
type joinedConnector struct {
	path   string
	beside []Beside
}

func (c *joinedConnector) Driver() driver.Driver { return &sqlite.Driver{} }

func (c *joinedConnector) Connect(ctx context.Context) (driver.Conn, error) {
	base, err := sqlite.NewConnector(dsn(c.path, readerPragmas))
	if err != nil {
		return nil, err
	}
	conn, err := base.Connect(ctx)
	if err != nil {
		return nil, err
	}
	execer, ok := conn.(driver.ExecerContext)
	if !ok {
		return nil, errors.Join(errors.New("sqlview: driver does not execute statements"), conn.Close())
	}
	exec := func(query string) error {
		_, err := execer.ExecContext(ctx, query, nil)
		return err
	}
	for _, b := range c.beside {
		if err := attachFile(exec, &Attachment{Path: b.Path, Schema: b.Schema, Probe: `SELECT position FROM ` + b.Schema + `.view LIMIT 0`}); err != nil {
			return nil, errors.Join(fmt.Errorf("sqlview: attach %s: %w", b.Schema, err), conn.Close())
		}
	}
	if err := exec(`PRAGMA query_only = 1`); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}
