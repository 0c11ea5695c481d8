package sqlview

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections"
)

const testSchema = `CREATE TABLE row (position INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT`

func config(path string) Config {
	return Config{Path: path, Name: "test", Version: 1, Schema: testSchema, Of: events.Positions{Ledger: events.LedgerID{1}, Epoch: 1}}
}

func open(t *testing.T, c Config) *DB {
	t.Helper()
	db, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func facts(from, to events.Position) []events.Recorded {
	var out []events.Recorded
	for pos := from; pos <= to; pos++ {
		out = append(out, events.Recorded{Position: pos, Subject: events.OrganizationSubject("acme")})
	}
	return out
}

func insert(tx *Tx, f *events.Recorded) error {
	_, err := tx.Exec(`INSERT INTO row VALUES (?, ?)`, int64(f.Position), fmt.Sprintf("row %d", f.Position))
	return err
}

func state(t *testing.T, db *DB) (rows int, pos events.Position) {
	t.Helper()
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM row`).Scan(&rows); err != nil {
		t.Fatal(err)
	}
	pos, err := db.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return rows, pos
}

func wantState(t *testing.T, db *DB, rows int, pos events.Position) {
	t.Helper()
	if r, p := state(t, db); r != rows || p != pos {
		t.Fatalf("%d rows at position %d, want %d at %d", r, p, rows, pos)
	}
}

func TestRowsAndPositionGoTogether(t *testing.T) {
	db := open(t, config(filepath.Join(t.TempDir(), "x.db")))
	if err := db.Apply(t.Context(), facts(1, 5), insert); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	err := db.Apply(t.Context(), facts(6, 9), func(tx *Tx, f *events.Recorded) error {
		if f.Position == 8 {
			return broken
		}
		return insert(tx, f)
	})
	var where *projections.FactError
	if !errors.Is(err, broken) || !errors.As(err, &where) || where.Position != 8 {
		t.Fatalf("got %v", err)
	}
	// What came before the fact is there, of what was appended with it nothing.
	wantState(t, db, 7, 7)
	batch := facts(8, 11)
	for i := 1; i < 4; i++ {
		batch[i].Meta.BatchIndex, batch[i].Meta.BatchSize = i, 3
	}
	if err := db.Apply(t.Context(), batch, func(tx *Tx, f *events.Recorded) error {
		if f.Position == 11 {
			return broken
		}
		return insert(tx, f)
	}); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	wantState(t, db, 8, 8)
	for _, wrong := range [][]events.Recorded{facts(8, 9), facts(10, 11), facts(1, 5)} {
		if err := db.Apply(t.Context(), wrong, func(*Tx, *events.Recorded) error { return nil }); !errors.Is(err, ErrPosition) {
			t.Fatalf("facts from %d: %v", wrong[0].Position, err)
		}
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("panic was swallowed")
			}
		}()
		_ = db.Apply(t.Context(), facts(9, 9), func(tx *Tx, f *events.Recorded) error {
			if err := insert(tx, f); err != nil {
				t.Error(err)
			}
			panic("no")
		})
	}()
	if err := db.Apply(t.Context(), facts(9, 9), insert); err != nil {
		t.Fatalf("after a panic: %v", err)
	}
	wantState(t, db, 9, 9)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Apply(cancelled, facts(10, 10), insert); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if err := db.Apply(t.Context(), nil, insert); err != nil {
		t.Fatal(err)
	}
}

// copyFiles takes what a killed process would leave behind.
func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal"} {
		in, err := os.Open(from + suffix)
		if err != nil {
			t.Fatal(err)
		}
		out, err := os.Create(to + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(out, in); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(in.Close(), out.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKilledAtAnyPointResumesExactlyOnce(t *testing.T) {
	dir := t.TempDir()
	whole := config(filepath.Join(dir, "whole.db"))
	db := open(t, whole)
	// A cache so small that the transaction spills into the log before its end.
	if _, err := db.conn.ExecContext(t.Context(), `PRAGMA cache_size = 5`); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 3000)
	spill := func(tx *Tx, f *events.Recorded) error {
		_, err := tx.Exec(`INSERT INTO row VALUES (?, ?)`, int64(f.Position), large)
		return err
	}
	var copies []string
	for slice := range events.Position(3) {
		if err := db.Apply(t.Context(), facts(slice*200+1, slice*200+200), func(tx *Tx, f *events.Recorded) error {
			if f.Position%67 == 0 {
				path := filepath.Join(dir, fmt.Sprintf("killed-%d.db", f.Position))
				copyFiles(t, whole.Path, path)
				copies = append(copies, path)
			}
			return spill(tx, f)
		}); err != nil {
			t.Fatal(err)
		}
	}
	wantPos, want, err := db.Digest(t.Context(), `SELECT * FROM row ORDER BY position`)
	if err != nil {
		t.Fatal(err)
	}
	if len(copies) < 8 {
		t.Fatalf("only %d copies", len(copies))
	}
	for _, path := range copies {
		again := open(t, config(path))
		rows, pos := state(t, again)
		if rows != int(pos) || pos%200 != 0 {
			t.Fatalf("%s: %d rows at position %d", path, rows, pos)
		}
		if err := again.Apply(t.Context(), facts(pos+1, 600), spill); err != nil {
			t.Fatal(err)
		}
		gotPos, got, err := again.Digest(t.Context(), `SELECT * FROM row ORDER BY position`)
		if err != nil || gotPos != wantPos || got != want {
			t.Fatalf("%s: other rows than those of a process that was not killed: %v", path, err)
		}
	}
}

func TestFileOfAnotherViewIsRebuilt(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, c *Config){
		"name":     func(_ *testing.T, c *Config) { c.Name = "other" },
		"version":  func(_ *testing.T, c *Config) { c.Version++ },
		"schema":   func(_ *testing.T, c *Config) { c.Schema += `; CREATE TABLE more (x INTEGER) STRICT` },
		"ledger":   func(_ *testing.T, c *Config) { c.Of.Ledger[3]++ },
		"epoch":    func(_ *testing.T, c *Config) { c.Of.Epoch++ },
		"no SQL":   func(t *testing.T, c *Config) { write(t, c.Path, strings.Repeat("this is no database ", 1000)) },
		"foreign":  func(t *testing.T, c *Config) { foreign(t, c.Path) },
		"zeroed":   func(t *testing.T, c *Config) { write(t, c.Path, strings.Repeat("\x00", 8192)) },
		"half way": func(t *testing.T, c *Config) { truncate(t, c.Path) },
	} {
		t.Run(name, func(t *testing.T) {
			c := config(filepath.Join(t.TempDir(), "x.db"))
			db := open(t, c)
			if err := db.Apply(t.Context(), facts(1, 500), insert); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			same := open(t, c)
			wantState(t, same, 500, 500)
			if err := same.Close(); err != nil {
				t.Fatal(err)
			}
			change(t, &c)
			var log strings.Builder
			c.Logger = slog.New(slog.NewTextHandler(&log, nil))
			wantState(t, open(t, c), 0, 0)
			if !strings.Contains(log.String(), "rebuilt") {
				t.Fatalf("nobody was told: %q", log.String())
			}
		})
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, path string) {
	t.Helper()
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
}

func foreign(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", fileURI(path))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`CREATE TABLE theirs (x)`); err != nil {
		t.Fatal(err)
	}
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	write(t, path, "")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	db := open(t, config(path))
	if err := db.Apply(t.Context(), facts(1, 5), insert); err != nil {
		t.Fatal(err)
	}
	wantState(t, db, 5, 5)
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%q: %v %v", suffix, info.Mode(), err)
		}
	}
}

func TestSettings(t *testing.T) {
	db := open(t, config(filepath.Join(t.TempDir(), "x.db")))
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "1", "secure_delete": "1", "busy_timeout": "5000"} {
		var got string
		if err := db.conn.QueryRowContext(t.Context(), `PRAGMA `+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, want %s: %v", pragma, got, want, err)
		}
	}
}

func TestReadersCannotWrite(t *testing.T) {
	db := open(t, config(filepath.Join(t.TempDir(), "x.db")))
	for _, q := range []string{`INSERT INTO row VALUES (1, '')`, `UPDATE view SET position = 9`, `DROP TABLE row`} {
		rows, err := db.Query(t.Context(), q)
		if err == nil {
			for rows.Next() {
			}
			err = errors.Join(rows.Err(), rows.Close())
		}
		if err == nil {
			t.Errorf("%s was done", q)
		}
	}
	wantState(t, db, 0, 0)
}

func TestReadersDoNotWaitForTheWriter(t *testing.T) {
	db := open(t, config(filepath.Join(t.TempDir(), "x.db")))
	if err := db.Apply(t.Context(), facts(1, 3), func(tx *Tx, f *events.Recorded) error {
		if err := insert(tx, f); err != nil {
			return err
		}
		wantState(t, db, 0, 0)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	for range 16 {
		reading.Go(func() {
			for range 50 {
				var rows, pos int
				if err := db.Snapshot(t.Context(), func(tx *sql.Tx) error {
					return errors.Join(tx.QueryRow(`SELECT count(*) FROM row`).Scan(&rows), tx.QueryRow(`SELECT position FROM view`).Scan(&pos))
				}); err != nil || rows != pos {
					t.Errorf("%d rows at position %d: %v", rows, pos, err)
				}
			}
		})
	}
	for pos := events.Position(4); pos <= 200; pos++ {
		if err := db.Apply(t.Context(), facts(pos, pos), insert); err != nil {
			t.Fatal(err)
		}
	}
	reading.Wait()
}

func TestSecondWriterIsRefused(t *testing.T) {
	c := config(filepath.Join(t.TempDir(), "x.db"))
	a, b := open(t, c), open(t, c)
	if err := a.Apply(t.Context(), facts(1, 2), insert); err != nil {
		t.Fatal(err)
	}
	if err := b.Apply(t.Context(), facts(1, 2), func(*Tx, *events.Recorded) error { return nil }); !errors.Is(err, ErrPosition) {
		t.Fatalf("got %v", err)
	}
}

func TestAttachedFileIsFoundWhenItComesAndWhenItChanges(t *testing.T) {
	dir := t.TempDir()
	c := config(filepath.Join(dir, "x.db"))
	c.Attach = &Attachment{
		Path: filepath.Join(dir, "it's a 100% other #file?.db"), Schema: "other",
		StandIn: `CREATE TABLE other.row (position INTEGER)`, Probe: `SELECT position FROM other.row LIMIT 0`,
	}
	db := open(t, c)
	other := config(c.Attach.Path)
	other.Name = "other"
	check := func(want int) {
		t.Helper()
		db.readers.looked.Store(0) // as if the time had passed
		var got int
		if err := db.QueryRow(t.Context(), `SELECT count(*) FROM other.row`).Scan(&got); err != nil || got != want {
			t.Fatalf("%d rows, want %d: %v", got, want, err)
		}
	}
	check(0)
	foreign(t, touch(t, c.Attach.Path)) // a file without what is asked for
	check(0)
	if err := os.Remove(c.Attach.Path); err != nil {
		t.Fatal(err)
	}
	for _, n := range []events.Position{3, 5} {
		view := open(t, other)
		check(0)
		if err := view.Apply(t.Context(), facts(1, n), insert); err != nil {
			t.Fatal(err)
		}
		check(int(n))
		rows, err := db.Query(t.Context(), `SELECT position FROM other.row`)
		if err != nil || !rows.Next() {
			t.Fatal(err)
		}
		if err := view.Close(); err != nil {
			t.Fatal(err)
		}
		if n == 3 {
			// Rebuilt, while a query still reads.
			other.Version++
			rebuilt := open(t, other)
			check(0)
			if err := rebuilt.Close(); err != nil {
				t.Fatal(err)
			}
		}
		left := 1
		for rows.Next() {
			left++
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil || left != int(n) {
			t.Fatalf("read %d of %d rows: %v", left, n, err)
		}
	}
	if _, err := db.Query(t.Context(), `INSERT INTO other.row VALUES (9)`); err == nil {
		t.Fatal("wrote to another view's file")
	}
}

func touch(t *testing.T, path string) string {
	t.Helper()
	write(t, path, "")
	return path
}

func TestConfigTellsEveryFault(t *testing.T) {
	err := Config{Readers: -1, Attach: &Attachment{}}.Validate()
	if joined, ok := err.(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) != 6 {
		t.Fatalf("got %v", err)
	}
}

// A reader of a file that was rebuilt under it still knows the write-ahead log
// by its name, and must not take the new one along when it goes.
func TestLeavingReaderSparesTheNewLog(t *testing.T) {
	dir := t.TempDir()
	c := config(filepath.Join(dir, "x.db"))
	other := config(filepath.Join(dir, "other.db"))
	c.Attach = &Attachment{
		Path: other.Path, Schema: "other", StandIn: `CREATE TABLE other.row (position INTEGER)`, Probe: `SELECT position FROM other.row LIMIT 0`,
	}
	old := open(t, other)
	if err := old.Apply(t.Context(), facts(1, 3), insert); err != nil {
		t.Fatal(err)
	}
	db := open(t, c)
	rows, err := db.Query(t.Context(), `SELECT position FROM other.row`)
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	other.Version++
	rebuilt := open(t, other)
	if err := rebuilt.Apply(t.Context(), facts(1, 5), insert); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(other.Path + "-wal")
	if err != nil || before.Size() == 0 {
		t.Fatal(before, err)
	}
	if err := errors.Join(rows.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(other.Path + "-wal")
	if err != nil || !os.SameFile(before, after) {
		t.Fatalf("the new log is gone: %v", err)
	}
	wantState(t, rebuilt, 5, 5)
}

func TestAttachedFileOfAViewThatWasKilled(t *testing.T) {
	dir := t.TempDir()
	other := config(filepath.Join(dir, "other.db"))
	view := open(t, other)
	if err := view.Apply(t.Context(), facts(1, 3), insert); err != nil {
		t.Fatal(err)
	}
	c := config(filepath.Join(dir, "x.db"))
	c.Attach = &Attachment{
		Path: filepath.Join(dir, "killed.db"), Schema: "other",
		StandIn: `CREATE TABLE other.row (position INTEGER)`, Probe: `SELECT position FROM other.row LIMIT 0`,
	}
	copyFiles(t, other.Path, c.Attach.Path)
	var got int
	if err := open(t, c).QueryRow(t.Context(), `SELECT count(*) FROM other.row`).Scan(&got); err != nil || got != 3 {
		t.Fatalf("%d rows, want 3: %v", got, err)
	}
}
