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
	"github.com/tink-crypto/tink-go/v2/prf"
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
		if err != nil || other.VerifierKey() != made.VerifierKey() || len(s.held) != 3 {
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
		if label(t, other, "of", "a key") != label(t, made, "of", "a key") {
			t.Error("the same parts have another label")
		}
	}
}

func label(t testing.TB, k *seals.Keys, parts ...string) [seals.LabelBytes]byte {
	t.Helper()
	l, err := k.Label(parts...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Other parts have another label, however their bytes fall, and so does another
// installation.
func TestLabels(t *testing.T) {
	key, _ := newKey(t)
	one, err := seals.Make(t.Context(), newStore(), key, ledger)
	if err != nil {
		t.Fatal(err)
	}
	two, err := seals.Make(t.Context(), newStore(), key, ledger)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[seals.LabelBytes]byte]string{}
	for _, parts := range [][]string{{}, {""}, {"", ""}, {"ab"}, {"a", "b"}, {"", "ab"}, {"ab", ""}, {"b", "a"}, {"\x00\x00\x00\x01a"}} {
		for name, k := range map[string]*seals.Keys{"one": one, "two": two} {
			l, what := label(t, k, parts...), fmt.Sprintf("%s %q", name, parts)
			if other, ok := seen[l]; ok {
				t.Errorf("%s has the label of %s", what, other)
			}
			seen[l] = what
		}
	}
}

// A ledger that began before there were labels gets a key for them, and only from
// who opens its other keys; of two who do it at once for one.
func TestLabelsOfAnOldLedger(t *testing.T) {
	s := newStore()
	key, _ := newKey(t)
	if _, err := seals.Make(t.Context(), s, key, ledger); err != nil {
		t.Fatal(err)
	}
	labels := "installation." + ledger.String() + ".labels"
	first := s.held[labels]
	delete(s.held, labels)
	stranger, _ := newKey(t)
	if _, err := seals.Open(t.Context(), s, stranger, ledger); !errors.Is(err, seals.ErrWrongKey) || len(s.held) != 2 {
		t.Fatalf("%v, %d are held", err, len(s.held))
	}
	var raced *seals.Keys
	s.fail = func() (err error) {
		s.fail = nil
		raced, err = seals.Open(t.Context(), s, key, ledger)
		return err
	}
	opened, err := seals.Open(t.Context(), s, key, ledger)
	if err != nil || len(s.held) != 3 || bytes.Equal(s.held[labels], first) {
		t.Fatalf("%v, %d are held", err, len(s.held))
	}
	if label(t, opened, "x") != label(t, raced, "x") {
		t.Error("two who opened at once label otherwise")
	}
}

func TestMakeIsFinishedWhereverItWasCut(t *testing.T) {
	lost := errors.New("lost")
	for held := range 3 {
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
		want := seals.ErrMissing
		if held == 2 {
			want = lost // the third is made by whoever opens
		}
		if _, err := seals.Open(t.Context(), s, key, ledger); !errors.Is(err, want) {
			t.Errorf("with %d of 3: %v", held, err)
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
	labels := "installation." + ledger.String() + ".labels"
	for _, pair := range [][2]string{{signing, sealing}, {sealing, labels}, {labels, signing}} {
		swapped := fresh()
		swapped.held[pair[0]], swapped.held[pair[1]] = swapped.held[pair[1]], swapped.held[pair[0]]
		fails("each in the other's place", swapped, key, ledger)
	}
	second := events.LedgerID{2}
	moved := fresh()
	for name, body := range moved.held {
		moved.held[strings.Replace(name, ledger.String(), second.String(), 1)] = body
	}
	fails("another ledger's", moved, key, second)
	for _, name := range []string{signing, sealing, labels} {
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
	wrapped, binding = at("labels")
	labels, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(wrapped)), wrapping, binding)
	if err != nil {
		t.Fatalf("the key for labels: %v", err)
	}
	set, err := prf.NewPRFSet(labels)
	if err != nil {
		t.Fatal(err)
	}
	out, err := set.ComputePrimaryPRF([]byte("\x00\x00\x00\x01a\x00\x00\x00\x02bc"), seals.LabelBytes)
	if err != nil || [seals.LabelBytes]byte(out) != label(t, made, "a", "bc") {
		t.Errorf("a label: %x, %v", out, err)
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
