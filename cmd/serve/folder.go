package serve

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
)

// The files of a data folder beside the broker's and the views'.
const (
	// ledgerFile holds the ledger's id. Once it is there a missing stream is an
	// alarm, never a beginning.
	ledgerFile = "ledger.id"
	// OwnerFile holds the owner's key, mode 0600.
	OwnerFile = "owner.key"
	// InstallationKeyFile holds the key that opens the installation's own.
	InstallationKeyFile = "installation.key"
	// VerifierKeyFile holds what the installation's signatures are checked with.
	VerifierKeyFile = "log.vkey"
	// CredentialsFolder holds what sidecars, subscribers and auditors come in with
	// at the embedded broker.
	CredentialsFolder = "creds"
	// verifierFile holds the id under which this server records uses.
	verifierFile = "verifier.id"
	// pendingSuffix marks what counts only once the ledger has begun with it.
	pendingSuffix = ".pending"
)

// folder is where a server keeps what is its own.
type folder struct {
	dir string
	// installationKey is the path of that file, which may lie elsewhere.
	installationKey string
}

func folderOf(dir, installationKey string) folder {
	f := folder{dir: dir, installationKey: installationKey}
	if f.installationKey == "" {
		f.installationKey = f.path(InstallationKeyFile)
	}
	return f
}

func (f folder) path(name string) string { return filepath.Join(f.dir, name) }

// begun reports whether the folder has seen its ledger's beginning.
func (f folder) begun() (events.LedgerID, bool, error) { return f.ledgerID(ledgerFile) }

// pending is the id that a beginning is under way with.
func (f folder) pending() (events.LedgerID, bool, error) {
	return f.ledgerID(ledgerFile + pendingSuffix)
}

func (f folder) ledgerID(name string) (events.LedgerID, bool, error) {
	text, err := os.ReadFile(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return events.LedgerID{}, false, nil
	}
	if err != nil {
		return events.LedgerID{}, false, fmt.Errorf("serve: read the ledger's id: %w", err)
	}
	id, err := events.ParseLedgerID(strings.TrimSpace(string(text)))
	if err != nil {
		return events.LedgerID{}, false, fmt.Errorf("serve: %s: %w", name, err)
	}
	return id, true, nil
}

// drawn reads a file, and writes it with what draw returns where there is none. One
// that is pending must be this user's own: a secret that somebody else has put
// there would open what is about to begin.
func drawn(path string, draw func() ([]byte, error)) ([]byte, error) {
	read := os.ReadFile
	if strings.HasSuffix(path, pendingSuffix) {
		read = credentials.ReadOwn
	}
	text, err := read(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return text, err
	}
	if text, err = draw(); err != nil {
		return nil, err
	}
	return text, credentials.WriteFile(path, text)
}

// keep writes a file unless that is what it holds.
func keep(path string, content []byte) error {
	if text, err := os.ReadFile(path); err == nil && bytes.Equal(text, content) {
		return nil
	}
	return credentials.WriteFile(path, content)
}

// promote makes what was pending count. It can be repeated.
func promote(path string) error {
	if err := os.Rename(path+pendingSuffix, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("serve: keep %s: %w", filepath.Base(path), err)
	}
	return credentials.SyncDir(filepath.Dir(path))
}

// verifierID reads the id under which this server records uses, or draws one.
// It stays the same over restarts, and no two servers share it.
func (f folder) verifierID() (events.VerifierID, error) {
	text, err := drawn(f.path(verifierFile), func() ([]byte, error) {
		id, err := uuid.NewRandom()
		return []byte(events.ServerVerifierPrefix + id.String()[:8] + "\n"), err
	})
	if err != nil {
		return "", fmt.Errorf("serve: the verifier's id: %w", err)
	}
	return events.ParseVerifierID(strings.TrimSpace(string(text)))
}
