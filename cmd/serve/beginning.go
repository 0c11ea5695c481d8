package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/installation"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
)

var (
	// ErrForeignLedger says that the data folder and the ledger do not belong together.
	ErrForeignLedger = errors.New("serve: the data folder belongs to another ledger")

	// ErrInstallationKey says that the installation key is not there, or is
	// another installation's.
	ErrInstallationKey = errors.New("serve: the installation key")
)

// store is what an opened ledger must be able to do for a beginning.
type store interface {
	commands.Log
	seals.Store
}

// place is where a ledger begins.
type place interface {
	// identify tells which ledger has begun there, if one has.
	identify(ctx context.Context) (events.LedgerID, bool, error)
	// open opens the ledger of an id.
	open(id events.LedgerID) (store, error)
}

// begin begins the ledger, or goes on where a beginning was interrupted: the
// same steps serve both, and each can be repeated. It reports whether the ledger
// that has begun there is the one that this folder began; if it is not, what was
// made ready for it is gone.
//
// Every key is on disk before the ledger knows of it: the installation key and
// the owner's in the folder, the signing and the sealing key among the seals. So
// no crash can lose the one secret that opens the installation, and what the
// ledger says of its signer can always be opened.
func begin(ctx context.Context, at place, f folder, now time.Time) (id events.LedgerID, ours bool, err error) {
	id, exists, err := at.identify(ctx)
	if err != nil {
		return id, false, err
	}
	if !exists {
		// On a conflict or a lost answer the ledger itself says how it began.
		if err := prepareAndAppend(ctx, at, f, now); err != nil && !errors.Is(err, events.ErrConflict) && !errors.Is(err, events.ErrOutcomeUnknown) {
			return id, false, err
		}
		if id, exists, err = at.identify(ctx); err != nil {
			return id, false, err
		}
		if !exists {
			return id, false, fmt.Errorf("%w: the ledger has not begun", events.ErrUnavailable)
		}
	}
	prepared, ours, err := f.pending()
	if err != nil {
		return id, false, err
	}
	if ours = ours && prepared == id; !ours {
		return id, false, f.discard()
	}
	for _, path := range []string{f.installationKey, f.path(OwnerFile), f.path(ledgerFile)} {
		if err := promote(path); err != nil {
			return id, true, err
		}
	}
	return id, true, nil
}

// prepareAndAppend makes the keys and appends the ledger's first facts.
func prepareAndAppend(ctx context.Context, at place, f folder, now time.Time) error {
	if _, err := drawn(f.path(ledgerFile+pendingSuffix), func() ([]byte, error) {
		id, err := uuid.NewV7()
		return []byte(id.String() + "\n"), err
	}); err != nil {
		return fmt.Errorf("serve: draw the ledger's id: %w", err)
	}
	id, _, err := f.pending()
	if err != nil {
		return err
	}
	owner, err := pendingOwner(f.path(OwnerFile + pendingSuffix))
	if err != nil {
		return err
	}
	key, err := f.newInstallationKey()
	if err != nil {
		return err
	}
	log, err := at.open(id)
	if err != nil {
		return err
	}
	keys, err := seals.Make(ctx, log, key, id)
	if err != nil {
		return err
	}
	return commands.Begin(ctx, log, id, owner, installation.Signer{Name: keys.Signer().Name(), VerifierKey: keys.VerifierKey()}, now)
}

// discard removes what was made ready for a ledger that somebody else began.
func (f folder) discard() error {
	var faults []error
	for _, path := range []string{f.path(OwnerFile), f.installationKey, f.path(ledgerFile)} {
		if err := os.Remove(path + pendingSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, fmt.Errorf("serve: discard what was made ready: %w", err))
		}
	}
	return errors.Join(faults...)
}

// pendingOwner reads the key of an interrupted beginning, or draws one.
func pendingOwner(path string) (keystring.Secret, error) {
	text, err := drawn(path, func() ([]byte, error) {
		owner, err := commands.NewOwner()
		return []byte(owner.Reveal() + "\n"), err
	})
	if err != nil {
		return keystring.Secret{}, fmt.Errorf("serve: the owner's key: %w", err)
	}
	return keystring.Conceal(strings.TrimSpace(string(text))), nil
}

// newInstallationKey reads the installation key of a beginning: one that was
// put there before, that of an interrupted beginning, or a new one.
func (f folder) newInstallationKey() (seals.Key, error) {
	text, err := os.ReadFile(f.installationKey)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = drawn(f.installationKey+pendingSuffix, seals.NewKey)
	}
	if err != nil {
		return seals.Key{}, fmt.Errorf("%w: %w", ErrInstallationKey, err)
	}
	return f.parseInstallationKey(text)
}

func (f folder) parseInstallationKey(text []byte) (seals.Key, error) {
	key, err := seals.ParseKey(text)
	if err != nil {
		return seals.Key{}, fmt.Errorf("%w: %s: %w", ErrInstallationKey, f.installationKey, err)
	}
	return key, nil
}

// unseal opens the installation's keys, checks that they are those that the
// ledger speaks of, and writes down what their signatures are checked with.
func (f folder) unseal(ctx context.Context, at seals.Store, id events.LedgerID, state installation.State) (*seals.Keys, error) {
	text, err := os.ReadFile(f.installationKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w is not at %s: copy the one that the installation began with there, or name it with --installation-key", ErrInstallationKey, f.installationKey)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInstallationKey, err)
	}
	key, err := f.parseInstallationKey(text)
	if err != nil {
		return nil, err
	}
	keys, err := seals.Open(ctx, at, key, id)
	if errors.Is(err, seals.ErrWrongKey) {
		return nil, fmt.Errorf("%w %s is another installation's: %w", ErrInstallationKey, f.installationKey, err)
	}
	if err != nil {
		return nil, err
	}
	signer := installation.Signer{Name: keys.Signer().Name(), VerifierKey: keys.VerifierKey()}
	if !slices.Contains(state.Signers, signer) {
		return nil, fmt.Errorf("%w: the signing key among the seals is none that the ledger knows", events.ErrCorrupt)
	}
	return keys, keep(f.path(VerifierKeyFile), []byte(keys.VerifierKey()+"\n"))
}
