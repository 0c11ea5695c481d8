package seals_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
)

// store is where wrapped keys lie, in memory.
type store struct {
	held map[string][]byte
	// fail is asked before something is stored.
	fail func() error
}

func (s *store) Sealed(_ context.Context, name string) ([]byte, bool, error) {
	body, ok := s.held[name]
	return body, ok, nil
}

func (s *store) Seal(_ context.Context, name string, body []byte) error {
	if s.fail != nil {
		if err := s.fail(); err != nil {
			return err
		}
	}
	if _, ok := s.held[name]; ok {
		return events.ErrConflict
	}
	s.held[name] = body
	return nil
}

func newStore() *store { return &store{held: map[string][]byte{}} }

func newKey(t testing.TB) (seals.Key, []byte) {
	t.Helper()
	text, err := seals.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := seals.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key, text
}

var ledger = events.LedgerID{1}

// Every server that has the installation key opens the same keys.
func TestKeysAreTheInstallations(t *testing.T) {
	s := newStore()
	key, text := newKey(t)
	made, err := seals.Make(t.Context(), s, key, ledger)
	if err != nil {
		t.Fatal(err)
	}
	again, err := seals.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, open := range []func(context.Context, seals.Store, seals.Key, events.LedgerID) (*seals.Keys, error){seals.Open, seals.Make} {
		other, err := open(t.Context(), s, again, ledger)
		if err != nil || other.VerifierKey() != made.VerifierKey() || len(s.held) != 2 {
			t.Fatalf("%v, %v, %d are held", other, err, len(s.held))
		}
		signed, err := note.Sign(&note.Note{Text: "a tick\n"}, other.Signer())
		if err != nil {
			t.Fatal(err)
		}
		verifier, err := note.NewVerifier(made.VerifierKey())
		if err != nil {
			t.Fatal(err)
		}
		if n, err := note.Open(signed, note.VerifierList(verifier)); err != nil || len(n.Sigs) != 1 || n.Sigs[0].Name != "keyledger/"+ledger.String() {
			t.Errorf("%v, %v", n, err)
		}
		sealed, err := other.AEAD().Encrypt([]byte("text"), []byte("where"))
		if err != nil {
			t.Fatal(err)
		}
		if text, err := made.AEAD().Decrypt(sealed, []byte("where")); err != nil || string(text) != "text" {
			t.Errorf("%q, %v", text, err)
		}
		if _, err := made.AEAD().Decrypt(sealed, []byte("elsewhere")); err == nil {
			t.Error("a seal opened elsewhere")
		}
	}
}

func TestMakeIsFinishedWhereverItWasCut(t *testing.T) {
	lost := errors.New("lost")
	for held := range 2 {
		s := newStore()
		key, _ := newKey(t)
		s.fail = func() error {
			if len(s.held) == held {
				return lost
			}
			return nil
		}
		if _, err := seals.Make(t.Context(), s, key, ledger); !errors.Is(err, lost) {
			t.Fatal(err)
		}
		if _, err := seals.Open(t.Context(), s, key, ledger); !errors.Is(err, seals.ErrMissing) {
			t.Errorf("with %d of 2: %v", held, err)
		}
		s.fail = nil
		if _, err := seals.Make(t.Context(), s, key, ledger); err != nil {
			t.Error(err)
		}
	}
}

// A wrapped key opens with its own installation key, in its own place, unchanged.
func TestWhatDoesNotOpen(t *testing.T) {
	key, _ := newKey(t)
	other, _ := newKey(t)
	fresh := func() *store {
		s := newStore()
		if _, err := seals.Make(t.Context(), s, key, ledger); err != nil {
			t.Fatal(err)
		}
		return s
	}
	fails := func(what string, s *store, key seals.Key, id events.LedgerID) {
		t.Helper()
		if keys, err := seals.Open(t.Context(), s, key, id); !errors.Is(err, seals.ErrWrongKey) || keys != nil {
			t.Errorf("%s: %v, %v", what, keys, err)
		}
	}
	fails("another installation's key", fresh(), other, ledger)
	signing, sealing := "installation."+ledger.String()+".signing", "installation."+ledger.String()+".sealing"
	swapped := fresh()
	swapped.held[signing], swapped.held[sealing] = swapped.held[sealing], swapped.held[signing]
	fails("each in the other's place", swapped, key, ledger)
	second := events.LedgerID{2}
	moved := fresh()
	for name, body := range moved.held {
		moved.held[strings.Replace(name, ledger.String(), second.String(), 1)] = body
	}
	fails("another ledger's", moved, key, second)
	for _, name := range []string{signing, sealing} {
		s := fresh()
		whole := s.held[name]
		for i := range whole {
			s.held[name] = bytes.Clone(whole)
			s.held[name][i] ^= 1
			fails(fmt.Sprintf("%s with byte %d changed", name, i), s, key, ledger)
		}
	}
}

// What is wrapped can be opened by whoever has the installation key and Tink, for
// its ledger and its purpose.
func TestFormat(t *testing.T) {
	s := newStore()
	key, text := newKey(t)
	made, err := seals.Make(t.Context(), s, key, ledger)
	if err != nil {
		t.Fatal(err)
	}
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	wrapping, err := aead.New(handle)
	if err != nil {
		t.Fatal(err)
	}
	at := func(purpose string) (wrapped, binding []byte) {
		return s.held["installation."+ledger.String()+"."+purpose], []byte("keyledger installation " + purpose + " key\n" + ledger.String() + "\n")
	}
	signing, err := wrapping.Decrypt(at("signing"))
	if err != nil || !strings.HasPrefix(string(signing), "PRIVATE+KEY+keyledger/"+ledger.String()+"+") || !strings.HasSuffix(string(signing), "\n"+made.VerifierKey()+"\n") {
		t.Errorf("the signing key: %v", err)
	}
	wrapped, binding := at("sealing")
	if _, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(wrapped)), wrapping, binding); err != nil {
		t.Errorf("the sealing key: %v", err)
	}
}

func TestKeyFile(t *testing.T) {
	key, text := newKey(t)
	if !bytes.HasSuffix(text, []byte("\n")) {
		t.Error("the file does not end in a line")
	}
	for _, bad := range []string{"", "{}", "words of nobody", string(text[:len(text)/2]), `{"primaryKeyId":1,"key":[]}`} {
		_, err := seals.ParseKey([]byte(bad))
		if !errors.Is(err, seals.ErrKeyFile) || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	keys, err := seals.Make(t.Context(), newStore(), key, ledger)
	if err != nil {
		t.Fatal(err)
	}
	if shown := fmt.Sprintf("%v %+v %s", key, key, keys); shown != "installation key installation key keys of keyledger/"+ledger.String() {
		t.Errorf("shown as %s", shown)
	}
}
