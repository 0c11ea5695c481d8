package apitest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/access"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/usage"
)

// blankFiles are the files of views that have applied nothing, by the view, of a
// ledger that no test has.
type blankFiles struct {
	ledger events.LedgerID
	files  map[string][]byte
}

// blank makes them once: to create their tables takes longer than most tests.
var blank = sync.OnceValues(func() (blankFiles, error) {
	b := blankFiles{ledger: events.LedgerID(uuid.New()), files: map[string][]byte{}}
	dir, err := os.MkdirTemp("", "blank")
	if err != nil {
		return b, err
	}
	return b, errors.Join(b.make(dir), os.RemoveAll(dir))
})

func (b blankFiles) make(dir string) error {
	ctx, of := context.Background(), events.Positions{Ledger: b.ledger, Epoch: 1}
	for name, open := range map[string]func(path string) (io.Closer, error){
		"usage":   func(path string) (io.Closer, error) { return usage.Open(ctx, usage.Config{Path: path, Of: of}) },
		"catalog": func(path string) (io.Closer, error) { return catalog.Open(ctx, catalog.Config{Path: path, Of: of}) },
		"audit":   func(path string) (io.Closer, error) { return audit.Open(ctx, audit.Config{Path: path, Of: of}) },
		"access":  func(path string) (io.Closer, error) { return access.Open(ctx, access.Config{Path: path, Of: of}) },
	} {
		path := filepath.Join(dir, name)
		view, err := open(path)
		if err != nil {
			return err
		}
		if err := view.Close(); err != nil {
			return err
		}
		if b.files[name], err = os.ReadFile(path); err != nil {
			return err
		}
	}
	return nil
}

// viewFiles lays out a folder in which views of a ledger begin, and says where each is.
func viewFiles(t testing.TB, ledger events.LedgerID) func(view string) string {
	t.Helper()
	b, err := blank()
	must(t, err)
	dir := t.TempDir()
	at := func(view string) string { return filepath.Join(dir, view+".db") }
	for view, file := range b.files {
		// Its id, of the same length, is all that such a file has of its ledger; one in
		// which it stood elsewhere would not be opened but made anew.
		file = bytes.ReplaceAll(file, []byte(b.ledger.String()), []byte(ledger.String()))
		must(t, os.WriteFile(at(view), file, 0o600))
	}
	return at
}
