package sqlview

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"
)

// attachEvery is how often it is looked whether the attached file is still the
// one that queries read.
const attachEvery = time.Second

// Query runs a query beside the writer. Rows left open keep one of a few
// connections: close them before asking again.
func (db *DB) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return db.readers.pool().QueryContext(ctx, query, args...)
}

// QueryRow runs a query for one row.
func (db *DB) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	return db.readers.pool().QueryRowContext(ctx, query, args...)
}

// Snapshot runs several queries over one state of the file.
func (db *DB) Snapshot(ctx context.Context, read func(*sql.Tx) error) error {
	tx, err := db.readers.pool().BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	// There is nothing to commit.
	return errors.Join(read(tx), tx.Rollback())
}

// readers is the pool of queries, exchanged for another one whenever the
// attached file is.
type readers struct {
	db      *DB
	current atomic.Pointer[readerPool]
	looked  atomic.Int64 // when the attached file was last looked at

	mu   sync.Mutex
	left []*sql.DB // pools that were exchanged
}

type readerPool struct {
	*sql.DB
	attached os.FileInfo // the file at the time, nil if there was none
	standIn  atomic.Bool // some connection found the file unfit
}

func (r *readers) open(db *DB) {
	r.db = db
	r.current.Store(r.newPool())
	r.looked.Store(time.Now().UnixNano())
}

func (r *readers) newPool() *readerPool {
	cfg := r.db.cfg
	p := &readerPool{}
	c := &readerConnector{pool: p, attach: cfg.Attach, dsn: dsn(cfg.Path, readerPragmas)}
	if a := cfg.Attach; a != nil {
		p.attached = fileAt(a.Path)
	}
	p.DB = sql.OpenDB(c)
	p.SetMaxOpenConns(cfg.Readers)
	p.SetMaxIdleConns(cfg.Readers)
	return p
}

func (r *readers) pool() *sql.DB {
	p := r.current.Load()
	a := r.db.cfg.Attach
	if a == nil {
		return p.DB
	}
	now, looked := time.Now().UnixNano(), r.looked.Load()
	if now-looked < int64(attachEvery) || !r.looked.CompareAndSwap(looked, now) {
		return p.DB
	}
	found := fileAt(a.Path)
	same := (found == nil) == (p.attached == nil) && (found == nil || os.SameFile(found, p.attached))
	if same && (found == nil || !p.standIn.Load()) {
		return p.DB
	}
	next := r.newPool()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current.Store(next)
	// Not closed: someone may be about to use it. Its connections go as soon
	// as they are idle.
	p.SetMaxIdleConns(-1)
	r.left = append(r.left, p.DB)
	return next.DB
}

func (r *readers) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := []error{r.current.Load().Close()}
	for _, p := range r.left {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

func fileAt(path string) os.FileInfo {
	info, err := os.Stat(path)
	if err != nil || info.Size() == 0 {
		return nil
	}
	return info
}

// readerConnector opens connections that see the attached file and cannot
// write to anything.
type readerConnector struct {
	pool   *readerPool
	attach *Attachment
	dsn    string
}

func (c *readerConnector) Driver() driver.Driver { return &sqlite.Driver{} }

func (c *readerConnector) Connect(ctx context.Context) (driver.Conn, error) {
	base, err := sqlite.NewConnector(c.dsn)
	if err != nil {
		return nil, err
	}
	conn, err := base.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.prepare(ctx, conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

func (c *readerConnector) prepare(ctx context.Context, conn driver.Conn) error {
	execer, ok := conn.(driver.ExecerContext)
	if !ok {
		return errors.New("sqlview: driver does not execute statements")
	}
	exec := func(query string) error {
		_, err := execer.ExecContext(ctx, query, nil)
		return err
	}
	if a := c.attach; a != nil {
		if c.pool.attached == nil || attachFile(exec, a) != nil {
			if c.pool.attached != nil {
				c.pool.standIn.Store(true)
			}
			if err := exec(`ATTACH ':memory:' AS ` + a.Schema); err != nil {
				return fmt.Errorf("sqlview: attach a stand-in: %w", err)
			}
			if err := exec(a.StandIn); err != nil {
				return fmt.Errorf("sqlview: create a stand-in: %w", err)
			}
		}
	}
	return exec(`PRAGMA query_only = 1`)
}

// attachFile attaches the file for reading alone, since it is another view's, and
// leaves nothing attached when it fails.
func attachFile(exec func(string) error, a *Attachment) error {
	uri := strings.ReplaceAll(fileURI(a.Path), "'", "''") + "?mode=ro"
	if err := exec(`ATTACH '` + uri + `' AS ` + a.Schema); err != nil {
		return err
	}
	if err := exec(a.Probe); err != nil {
		return errors.Join(err, exec(`DETACH `+a.Schema))
	}
	return nil
}
