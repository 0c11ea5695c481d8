package serve

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
)

// begunFolder is one in which a server began a ledger, and was stopped.
func begunFolder(t *testing.T) Config {
	t.Helper()
	cfg := Config{Data: t.TempDir(), Logger: discard}
	b, err := startBroker(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.stop()
	o, err := open(t.Context(), cfg, b)
	if err != nil {
		t.Fatal(err)
	}
	o.close()
	return cfg
}

// Wherever a reset is cut off, the next one ends it with one new owner, whose key
// is in the folder.
func TestOwnerReset(t *testing.T) {
	t.Parallel()
	server := begunFolder(t)
	cfg := OwnerConfig{Data: server.Data, Logger: discard, Reason: "lost"}
	owner := filepath.Join(cfg.Data, OwnerFile)
	first := secretIn(t, owner)

	reset, err := ResetOwner(t.Context(), cfg)
	if err != nil || len(reset.Revoked) != 0 || reset.Path != owner {
		t.Fatalf("%+v, %v", reset, err)
	}
	second := secretIn(t, owner)
	if second == first || secretIn(t, reset.Kept) != first || !strings.HasPrefix(reset.Kept, owner+".old-") {
		t.Errorf("the key that was there is in %q", reset.Kept)
	}
	// Cut off before the key was put in its place.
	if err := os.Rename(owner, owner+pendingSuffix); err != nil {
		t.Fatal(err)
	}
	again, err := ResetOwner(t.Context(), cfg)
	if err != nil || again.Owner != reset.Owner || secretIn(t, owner) != second {
		t.Errorf("%+v, %v", again, err)
	}
	// Cut off before the ledger knew of the key.
	third, err := pendingOwner(owner + pendingSuffix)
	if err != nil {
		t.Fatal(err)
	}
	cfg.RevokeOthers, cfg.Out = true, ""
	last, err := ResetOwner(t.Context(), cfg)
	if err != nil || len(last.Revoked) != 2 || secretIn(t, owner) != events.DigestValue(keystring.Digest(third.Reveal())) {
		t.Errorf("%+v, %v", last, err)
	}
	if left, err := filepath.Glob(filepath.Join(cfg.Data, "*"+pendingSuffix)); err != nil || len(left) > 0 {
		t.Errorf("%s stayed (%v)", left, err)
	}
}

// A key that others could have put in the way of an interrupted reset's does not
// become the owner's.
func TestOwnerResetTakesNobodyElsesKey(t *testing.T) {
	t.Parallel()
	server := begunFolder(t)
	cfg := OwnerConfig{Data: server.Data, Logger: discard, Reason: "lost", Out: filepath.Join(t.TempDir(), OwnerFile)}
	pending := cfg.Out + pendingSuffix
	if _, err := pendingOwner(pending); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(pending, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ResetOwner(t.Context(), cfg); !errors.Is(err, credentials.ErrNotOwn) {
		t.Errorf("reset: %v", err)
	}
	if err := os.Remove(pending); err != nil {
		t.Fatal(err)
	}
	if _, err := ResetOwner(t.Context(), cfg); err != nil {
		t.Error(err)
	}
}

func TestOwnerResetTakesAStoppedServersFolder(t *testing.T) {
	t.Parallel()
	server := begunFolder(t)
	cfg := OwnerConfig{Data: server.Data, Logger: discard, Reason: "lost"}
	b, err := startBroker(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ResetOwner(t.Context(), cfg)
	b.stop()
	if !errors.Is(err, embedded.ErrLocked) {
		t.Errorf("beside a server: %v", err)
	}
	empty := OwnerConfig{Data: t.TempDir(), Logger: discard, Reason: "lost"}
	if _, err := ResetOwner(t.Context(), empty); !errors.Is(err, ErrNotBegun) {
		t.Errorf("in an empty folder: %v", err)
	}
	if left, err := os.ReadDir(empty.Data); err != nil || len(left) > 0 {
		t.Errorf("the empty folder holds %v (%v)", left, err)
	}
	empty.Reason, empty.Data = "", ""
	if err := empty.Validate(); err == nil || !strings.Contains(err.Error(), "--reason") || !strings.Contains(err.Error(), "--data") {
		t.Error(err)
	}
}
