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
	"github.com/keyledger/keyledger/domain/installation"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/events/seals"
)

// oneLedger is a place that keeps the ledger which was opened there first.
type oneLedger struct {
	id  events.LedgerID
	log *memory.Ledger
	// opened is called with the ledger when it is first opened.
	opened func(*memory.Ledger)
	seals  map[string][]byte
	// sealed is called before something is sealed, and may refuse it.
	sealed func(name string) error
}

func (o *oneLedger) open(id events.LedgerID) (store, error) {
	if o.log == nil {
		o.id, o.log = id, memory.New(id)
		if o.opened != nil {
			o.opened(o.log)
		}
	}
	return opening{o.log, o, id}, nil
}

// opening is the ledger as somebody opened it who takes it for the one of an id.
type opening struct {
	*memory.Ledger
	*oneLedger
	id events.LedgerID
}

// Append refuses the facts of another ledger as the broker does, which goes by
// what is expected of the subjects alone.
func (o opening) Append(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	if o.id != o.oneLedger.id {
		return nil, events.ErrConflict
	}
	return o.Ledger.Append(ctx, entries)
}

// Sealed and Seal are those of the place, and no ledger's.
func (o opening) Sealed(ctx context.Context, name string) ([]byte, bool, error) {
	return o.oneLedger.Sealed(ctx, name)
}

func (o opening) Seal(ctx context.Context, name string, body []byte) error {
	return o.oneLedger.Seal(ctx, name, body)
}

func (o *oneLedger) Sealed(_ context.Context, name string) ([]byte, bool, error) {
	body, ok := o.seals[name]
	return body, ok, nil
}

func (o *oneLedger) Seal(_ context.Context, name string, body []byte) error {
	if o.sealed != nil {
		if err := o.sealed(name); err != nil {
			return err
		}
	}
	if _, ok := o.seals[name]; ok {
		return events.ErrConflict
	}
	if o.seals == nil {
		o.seals = map[string][]byte{}
	}
	o.seals[name] = body
	return nil
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
// key is in the folder, and with a signer that the folder's installation key opens.
func TestBeginningIsFinishedWhereverItWasCut(t *testing.T) {
	lost := errors.New("the answer was lost")
	rename := func(t *testing.T, f folder, from, to string) {
		if err := os.Rename(f.path(from), f.path(to)); err != nil {
			t.Fatal(err)
		}
	}
	whole := func(t *testing.T, f folder, o *oneLedger) {
		if _, ours, err := begin(t.Context(), o, f, time.Now()); err != nil || !ours {
			t.Fatal(ours, err)
		}
	}
	for name, cut := range map[string]func(t *testing.T, f folder, o *oneLedger){
		"not at all": func(*testing.T, folder, *oneLedger) {},
		"after the owner's key was written": func(t *testing.T, f folder, _ *oneLedger) {
			if _, err := pendingOwner(f.path(OwnerFile + pendingSuffix)); err != nil {
				t.Fatal(err)
			}
		},
		"the installation key was put there before": func(t *testing.T, f folder, _ *oneLedger) {
			if _, err := drawn(f.installationKey, seals.NewKey); err != nil {
				t.Fatal(err)
			}
		},
		"before the second seal": func(t *testing.T, f folder, o *oneLedger) {
			o.sealed = func(string) error {
				if len(o.seals) == 1 {
					return lost
				}
				return nil
			}
			if _, _, err := begin(t.Context(), o, f, time.Now()); !errors.Is(err, lost) {
				t.Fatal(err)
			}
			o.sealed = nil
		},
		"the ledger is away": func(t *testing.T, f folder, o *oneLedger) {
			o.opened = func(log *memory.Ledger) { log.FailNext(events.ErrUnavailable, false) }
			if _, _, err := begin(t.Context(), o, f, time.Now()); !errors.Is(err, events.ErrUnavailable) {
				t.Fatal("began without a ledger", err)
			}
			*o = oneLedger{seals: o.seals}
		},
		"after the facts": func(t *testing.T, f folder, o *oneLedger) {
			whole(t, f, o)
			rename(t, f, InstallationKeyFile, InstallationKeyFile+pendingSuffix)
			rename(t, f, OwnerFile, OwnerFile+pendingSuffix)
			rename(t, f, ledgerFile, ledgerFile+pendingSuffix)
		},
		"between the last files": func(t *testing.T, f folder, o *oneLedger) {
			whole(t, f, o)
			rename(t, f, ledgerFile, ledgerFile+pendingSuffix)
		},
		"the answer to the facts is lost": func(t *testing.T, _ folder, o *oneLedger) {
			o.opened = func(log *memory.Ledger) { log.FailNext(errors.Join(events.ErrOutcomeUnknown, lost), true) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, o := folderOf(t.TempDir(), ""), &oneLedger{}
			cut(t, f, o)
			id, ours, err := begin(t.Context(), o, f, time.Now())
			if err != nil || !ours {
				t.Fatal(ours, err)
			}
			owners := o.owners(t)
			if len(owners) != 1 || owners[0] != secretIn(t, f.path(OwnerFile)) {
				t.Errorf("%d owners, of which the key in the folder is none or not the only one", len(owners))
			}
			if left, err := filepath.Glob(f.path("*" + pendingSuffix)); err != nil || len(left) > 0 {
				t.Errorf("%s stayed (%v)", left, err)
			}
			if got, seen, err := f.begun(); err != nil || !seen || got != id {
				t.Errorf("the folder says %s, %t, %v", got, seen, err)
			}
			opens(t, f, o, id)
		})
	}
}

// opens checks that what the ledger says of its signer is what the folder's
// installation key opens.
func opens(t *testing.T, f folder, o *oneLedger, id events.LedgerID) {
	t.Helper()
	state, err := commands.Installation(t.Context(), o.log)
	if err != nil || len(state.Signers) != 1 {
		t.Fatalf("%+v, %v", state, err)
	}
	keys, err := f.unseal(t.Context(), o, id, state)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(f.path(VerifierKeyFile)); err != nil || strings.TrimSpace(string(text)) != keys.VerifierKey() {
		t.Errorf("the folder's verifier key is %s (%v)", text, err)
	}
	if info, err := os.Stat(f.installationKey); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the installation key's file: %v, %v", info, err)
	}
	// One that the ledger knows nothing of signs for nobody.
	state.Signers = []installation.Signer{{Name: "keyledger/other", VerifierKey: "keyledger/other+0+0"}}
	if _, err := f.unseal(t.Context(), o, id, state); !errors.Is(err, events.ErrCorrupt) {
		t.Errorf("a signer that the ledger does not know: %v", err)
	}
}

// Of two who begin one ledger, the one that comes second keeps nothing of what
// it had made ready.
func TestSecondToBeginKeepsNothing(t *testing.T) {
	first, second, o := folderOf(t.TempDir(), ""), folderOf(t.TempDir(), ""), &oneLedger{}
	// The first one is faster than the second between its look and its facts.
	o.sealed = func(string) error {
		o.sealed, o.log = nil, nil
		_, _, err := begin(t.Context(), o, first, time.Now())
		return err
	}
	id, ours, err := begin(t.Context(), o, second, time.Now())
	if err != nil || ours {
		t.Fatal(ours, err)
	}
	if got, _, err := first.begun(); err != nil || got != id {
		t.Errorf("the ledger is %s, the first began %s (%v)", id, got, err)
	}
	left, err := os.ReadDir(second.dir)
	if err != nil || len(left) > 0 {
		t.Errorf("the second keeps %v (%v)", left, err)
	}
	if owners := o.owners(t); len(owners) != 1 || owners[0] != secretIn(t, first.path(OwnerFile)) {
		t.Errorf("%d owners, or not the first's", len(owners))
	}
	opens(t, first, o, id)
}

// A folder opens the ledger that it began, also when the end of its beginning
// was lost, and no other.
func TestFolderAndLedgerBelongTogether(t *testing.T) {
	t.Parallel()
	cfg := Config{Data: t.TempDir(), Logger: discard}
	reopen := func() (opened, error) {
		broker, err := startBroker(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer broker.stop()
		o, err := open(t.Context(), cfg, broker)
		o.close()
		return o, err
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
	if err := credentials.WriteFile(filepath.Join(cfg.Data, ledgerFile), []byte((events.LedgerID{15: 1}).String()+"\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := reopen(); !errors.Is(err, ErrForeignLedger) {
		t.Errorf("the folder of another ledger: %v", err)
	}
}

func TestVerifierKeepsItsName(t *testing.T) {
	dir := folderOf(t.TempDir(), "")
	first, err := dir.verifierID()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := dir.verifierID(); err != nil || again != first {
		t.Errorf("got %q, then %q (%v)", first, again, err)
	}
	if other, err := folderOf(t.TempDir(), "").verifierID(); err != nil || other == first {
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
