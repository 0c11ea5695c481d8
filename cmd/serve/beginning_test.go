package serve

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/memory"
)

// oneLedger is a place that keeps the ledger which was opened there first.
type oneLedger struct {
	log *memory.Ledger
	// opened is called with the ledger when it is first opened.
	opened func(*memory.Ledger)
}

func (o *oneLedger) open(id events.LedgerID) (commands.Log, error) {
	if o.log == nil {
		o.log = memory.New(id)
		if o.opened != nil {
			o.opened(o.log)
		}
	}
	return o.log, nil
}

func (o *oneLedger) identify(ctx context.Context) (events.LedgerID, bool, error) {
	if o.log == nil {
		return events.LedgerID{}, false, nil
	}
	state, err := commands.Installation(ctx, o.log)
	return state.Ledger, state.Exists, err
}

// owners returns the digests of the owner keys in the ledger.
func (o *oneLedger) owners(t *testing.T) []events.DigestValue {
	t.Helper()
	var out []events.DigestValue
	last, err := o.log.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for at := events.Position(1); at <= last; at++ {
		f, err := o.log.At(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := f.Event.(events.KeyCreated); ok {
			out = append(out, e.Digest.Value)
		}
	}
	return out
}

func secretIn(t *testing.T, path string) events.DigestValue {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %o", filepath.Base(path), info.Mode().Perm())
	}
	return events.DigestValue(keystring.Digest(strings.TrimSpace(string(text))))
}

// Wherever a beginning is cut off, the next start ends it with one owner, whose
// key is in the folder.
func TestBeginningIsFinishedWhereverItWasCut(t *testing.T) {
	lost := errors.New("the answer was lost")
	for name, cut := range map[string]func(t *testing.T, dir string, o *oneLedger){
		"not at all": func(*testing.T, string, *oneLedger) {},
		"after the key was written": func(t *testing.T, dir string, _ *oneLedger) {
			if _, err := pendingOwner(filepath.Join(dir, pendingFile)); err != nil {
				t.Fatal(err)
			}
		},
		"the ledger is away": func(t *testing.T, dir string, o *oneLedger) {
			o.opened = func(log *memory.Ledger) { log.FailNext(events.ErrUnavailable, false) }
			if _, err := begin(t.Context(), o, dir, time.Now()); err == nil {
				t.Fatal("began without a ledger")
			}
			*o = oneLedger{}
		},
		"after the facts, before the id": func(t *testing.T, dir string, o *oneLedger) {
			if _, err := begin(t.Context(), o, dir, time.Now()); err != nil {
				t.Fatal(err)
			}
			for from, to := range map[string]string{OwnerFile: pendingFile, ledgerFile: "gone"} {
				if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
					t.Fatal(err)
				}
			}
		},
		"the answer to the facts is lost": func(t *testing.T, _ string, o *oneLedger) {
			o.opened = func(log *memory.Ledger) { log.FailNext(errors.Join(events.ErrOutcomeUnknown, lost), true) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, o := t.TempDir(), &oneLedger{}
			cut(t, dir, o)
			id, err := begin(t.Context(), o, dir, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			owners := o.owners(t)
			if len(owners) != 1 || owners[0] != secretIn(t, filepath.Join(dir, OwnerFile)) {
				t.Errorf("%d owners, of which the key in the folder is none or not the only one", len(owners))
			}
			if _, err := os.Stat(filepath.Join(dir, pendingFile)); err == nil {
				t.Error("the pending key stayed")
			}
			if got, seen, err := begun(dir); err != nil || !seen || got != id {
				t.Errorf("the folder says %s, %t, %v", got, seen, err)
			}
		})
	}
}

// A folder opens the ledger that it began, also when the end of its beginning
// was lost, and no other.
func TestFolderAndLedgerBelongTogether(t *testing.T) {
	cfg := Config{Data: t.TempDir(), Logger: discard}
	reopen := func() (opened, error) {
		broker, err := embedded.Start(t.Context(), embedded.Config{Dir: cfg.Data})
		if err != nil {
			t.Fatal(err)
		}
		defer broker.Shutdown()
		return open(t.Context(), cfg, broker)
	}
	first, err := reopen()
	if err != nil {
		t.Fatal(err)
	}
	owner := secretIn(t, filepath.Join(cfg.Data, OwnerFile))
	again, err := reopen()
	if err != nil || again.positions != first.positions {
		t.Errorf("it was %v and is %v: %v", first.positions, again.positions, err)
	}
	if err := os.Remove(filepath.Join(cfg.Data, ledgerFile)); err != nil {
		t.Fatal(err)
	}
	again, err = reopen()
	if err != nil || again.positions != first.positions || secretIn(t, filepath.Join(cfg.Data, OwnerFile)) != owner {
		t.Errorf("it was %v and is %v: %v", first.positions, again.positions, err)
	}
	if err := writeFile(filepath.Join(cfg.Data, ledgerFile), (events.LedgerID{15: 1}).String()+"\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := reopen(); !errors.Is(err, ErrForeignLedger) {
		t.Errorf("the folder of another ledger: %v", err)
	}
}

func TestVerifierKeepsItsName(t *testing.T) {
	dir := t.TempDir()
	first, err := verifierID(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := verifierID(dir); err != nil || again != first {
		t.Errorf("got %q, then %q (%v)", first, again, err)
	}
	if other, err := verifierID(t.TempDir()); err != nil || other == first {
		t.Errorf("two folders share %q (%v)", other, err)
	}
}

func TestListeningBeyondLoopbackNeedsTLS(t *testing.T) {
	for listen, ok := range map[string]bool{
		"127.0.0.1:0": true, "localhost:0": true, "[::1]:0": true, "0.0.0.0:0": false, ":0": false, "192.0.2.1:0": false,
	} {
		err := Config{Listen: listen, Data: "d", Logger: discard}.Validate()
		if ok != (err == nil) || !ok && !errors.Is(err, ErrInsecure) {
			t.Errorf("%s: %v", listen, err)
		}
	}
}

var discard = slog.New(slog.DiscardHandler)
