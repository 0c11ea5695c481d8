package sqlview

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/keyledger/keyledger/events"
)

// TestJoined reads two views in the state in which each was first looked at, and
// writes to neither.
func TestJoined(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first 'it's.db"), filepath.Join(dir, "second.db")
	a, b := open(t, config(first)), open(t, config(second))
	for _, db := range []*DB{a, b} {
		if err := db.Apply(ctx, facts(1, 3), insert); err != nil {
			t.Fatal(err)
		}
	}
	j, err := Join(ctx, first, 2, Beside{Schema: "beside", Path: second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	const both = `SELECT (SELECT count(*) FROM main.row), (SELECT count(*) FROM beside.row)`
	err = j.Snapshot(ctx, func(tx *sql.Tx) error {
		for _, schema := range []string{"main", "beside"} {
			if pos, err := PositionIn(ctx, tx, schema); err != nil || pos != 3 {
				t.Errorf("%s stands at %d: %v", schema, pos, err)
			}
		}
		for _, db := range []*DB{a, b} {
			if err := db.Apply(ctx, facts(4, 5), insert); err != nil {
				t.Error(err)
			}
		}
		var n, m int
		if err := tx.QueryRowContext(ctx, both).Scan(&n, &m); err != nil || n != 3 || m != 3 {
			t.Errorf("%d and %d rows in the snapshot: %v", n, m, err)
		}
		for _, write := range []string{`DELETE FROM main.row`, `DELETE FROM beside.row`} {
			if _, err := tx.ExecContext(ctx, write); err == nil {
				t.Errorf("%s was done", write)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = j.Snapshot(ctx, func(tx *sql.Tx) error {
		var n, m int
		if err := tx.QueryRowContext(ctx, both).Scan(&n, &m); err != nil || n != 5 || m != 5 {
			t.Errorf("%d and %d rows afterwards: %v", n, m, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantState(t, a, 5, 5)
}

// TestJoinedReadersAreBounded lets whoever comes when all readers are busy wait, and
// then go.
func TestJoinedReadersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "x.db")
		open(t, config(path))
		j, err := Join(t.Context(), path, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := j.Close(); err != nil {
				t.Error(err)
			}
		}()
		err = j.Snapshot(t.Context(), func(*sql.Tx) error {
			if err := j.Snapshot(t.Context(), func(*sql.Tx) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the second of one reader: %v", err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestJoinNeedsTheFiles(t *testing.T) {
	dir := t.TempDir()
	open(t, config(filepath.Join(dir, "here.db")))
	if j, err := Join(t.Context(), filepath.Join(dir, "here.db"), 0, Beside{Schema: "beside", Path: filepath.Join(dir, "gone.db")}); err == nil {
		t.Error("joined what is not there", j.Close())
	}
}

func TestListCursor(t *testing.T) {
	l := ListOf("a")
	if at, err := l.After(l.Cursor(events.Position(7))); err != nil || at != 7 {
		t.Error(at, err)
	}
}
