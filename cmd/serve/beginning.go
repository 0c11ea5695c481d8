package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
)

// The files of a data folder beside the broker's and the views'.
const (
	// ledgerFile holds the ledger's id. Once it is there a missing stream is an
	// alarm, never a beginning.
	ledgerFile = "ledger.id"
	// OwnerFile holds the owner's key, mode 0600.
	OwnerFile = "owner.key"
	// pendingFile holds the owner's key until the ledger has begun.
	pendingFile = "owner.key.pending"
	// verifierFile holds the id under which this server records uses.
	verifierFile = "verifier.id"
)

// ErrForeignLedger says that the data folder and the ledger do not belong together.
var ErrForeignLedger = errors.New("serve: the data folder belongs to another ledger")

// begun reports whether the folder has seen its ledger's beginning.
func begun(dir string) (events.LedgerID, bool, error) {
	text, err := os.ReadFile(filepath.Join(dir, ledgerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return events.LedgerID{}, false, nil
	}
	if err != nil {
		return events.LedgerID{}, false, fmt.Errorf("serve: read the ledger's id: %w", err)
	}
	id, err := events.ParseLedgerID(strings.TrimSpace(string(text)))
	if err != nil {
		return events.LedgerID{}, false, fmt.Errorf("serve: %s: %w", ledgerFile, err)
	}
	return id, true, nil
}

// place is where a ledger begins.
type place interface {
	// identify tells which ledger has begun there, if one has.
	identify(ctx context.Context) (events.LedgerID, bool, error)
	// open opens the ledger of an id.
	open(id events.LedgerID) (commands.Log, error)
}

// begin begins the ledger, or goes on where a beginning was interrupted: the
// same steps serve both, and each can be repeated. The owner's key is on disk
// before its digest is in the ledger, so that no crash can lose the one secret
// that opens the installation.
func begin(ctx context.Context, at place, dir string, now time.Time) (events.LedgerID, error) {
	id, exists, err := at.identify(ctx)
	if err != nil {
		return events.LedgerID{}, err
	}
	pending := filepath.Join(dir, pendingFile)
	if !exists {
		owner, err := pendingOwner(pending)
		if err != nil {
			return events.LedgerID{}, err
		}
		// On a conflict or a lost answer the ledger itself says how it began.
		if err := appendBeginning(ctx, at, owner, now); err != nil &&
			!errors.Is(err, events.ErrConflict) && !errors.Is(err, events.ErrOutcomeUnknown) {
			return events.LedgerID{}, err
		}
		if id, exists, err = at.identify(ctx); err != nil {
			return events.LedgerID{}, err
		}
		if !exists {
			return events.LedgerID{}, fmt.Errorf("%w: the ledger has not begun", events.ErrUnavailable)
		}
	}
	if err := os.Rename(pending, filepath.Join(dir, OwnerFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return events.LedgerID{}, fmt.Errorf("serve: keep the owner's key: %w", err)
	}
	return id, writeFile(filepath.Join(dir, ledgerFile), id.String()+"\n")
}

// appendBeginning draws the ledger's id and appends its first facts.
func appendBeginning(ctx context.Context, at place, owner keystring.Secret, now time.Time) error {
	drawn, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("serve: draw the ledger's id: %w", err)
	}
	log, err := at.open(events.LedgerID(drawn))
	if err != nil {
		return err
	}
	return commands.Begin(ctx, log, events.LedgerID(drawn), owner, now)
}

// pendingOwner reads the key of an interrupted beginning, or draws one.
func pendingOwner(path string) (keystring.Secret, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		return keystring.Conceal(strings.TrimSpace(string(text))), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return keystring.Secret{}, fmt.Errorf("serve: read the owner's key: %w", err)
	}
	owner, err := commands.NewOwner()
	if err != nil {
		return keystring.Secret{}, err
	}
	return owner, writeFile(path, owner.Reveal()+"\n")
}

// verifierID reads the id under which this server records uses, or draws one.
// It stays the same over restarts, and no two servers share it.
func verifierID(dir string) (events.VerifierID, error) {
	path := filepath.Join(dir, verifierFile)
	text, err := os.ReadFile(path)
	if err == nil {
		return events.ParseVerifierID(strings.TrimSpace(string(text)))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("serve: read the verifier's id: %w", err)
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return "", fmt.Errorf("serve: draw the verifier's id: %w", err)
	}
	name := "server-" + id.String()[:8]
	return events.VerifierID(name), writeFile(path, name+"\n")
}

// writeFile puts a whole file in its place, readable by its owner alone and on
// disk when it returns.
func writeFile(path, content string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("serve: write %s: %w", filepath.Base(path), err)
	}
	_, err = f.WriteString(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("serve: write %s: %w", filepath.Base(path), err), os.Remove(f.Name()))
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
