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

// keptStatements is how many queries a pool keeps prepared: more than a view asks,
// but for lists by rare filters, which are prepared whenever they are asked. To
// prepare a query takes longer than to run most of them.
const keptStatements = 32

// Query runs a query beside the writer. Rows left open keep one of a few
// connections: close them before asking again.
func (db *DB) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	pool := db.readers.pool()
	if stmt := pool.prepared(ctx, query); stmt != nil {
		return stmt.QueryContext(ctx, args...)
	}
	return pool.QueryContext(ctx, query, args...)
}

// QueryRow runs a query for one row.
func (db *DB) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	pool := db.readers.pool()
	if stmt := pool.prepared(ctx, query); stmt != nil {
		return stmt.QueryRowContext(ctx, args...)
	}
	return pool.QueryRowContext(ctx, query, args...)
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

	mu    sync.RWMutex
	stmts map[string]*sql.Stmt // end with the pool
}

// prepared returns a query's statement. There is none of a query that fails, which
// says so when it is run, and of one too many.
func (p *readerPool) prepared(ctx context.Context, query string) *sql.Stmt {
	p.mu.RLock()
	stmt, full := p.stmts[query], len(p.stmts) >= keptStatements
	p.mu.RUnlock()
	if stmt != nil || full {
		return stmt
	}
	stmt, err := p.PrepareContext(ctx, query)
	if err != nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stmts[query] != nil {
		// Somebody else was faster. Both are the same, and this one is idle.
		_ = stmt.Close()
		return p.stmts[query]
	}
	p.stmts[query] = stmt
	return stmt
}

func (r *readers) open(db *DB) {
	r.db = db
	r.current.Store(r.newPool())
	r.looked.Store(time.Now().UnixNano())
}

func (r *readers) newPool() *readerPool {
	cfg := r.db.cfg
	p := &readerPool{stmts: map[string]*sql.Stmt{}}
	c := &readerConnector{pool: p, attach: cfg.Attach, dsn: dsn(cfg.Path, readerPragmas)}
	if a := cfg.Attach; a != nil {
		p.attached = fileAt(a.Path)
	}
	p.DB = sql.OpenDB(c)
	p.SetMaxOpenConns(cfg.Readers)
	p.SetMaxIdleConns(cfg.Readers)
	return p
}

func (r *readers) pool() *readerPool {
	p := r.current.Load()
	a := r.db.cfg.Attach
	if a == nil {
		return p
	}
	now, looked := time.Now().UnixNano(), r.looked.Load()
	if now-looked < int64(attachEvery) || !r.looked.CompareAndSwap(looked, now) {
		return p
	}
	found := fileAt(a.Path)
	same := (found == nil) == (p.attached == nil) && (found == nil || os.SameFile(found, p.attached))
	if same && (found == nil || !p.standIn.Load()) {
		return p
	}
	next := r.newPool()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current.Store(next)
	// Not closed: someone may be about to use it. Its connections go as soon
	// as they are idle.
	p.SetMaxIdleConns(-1)
	r.left = append(r.left, p.DB)
	return next
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
