// Package seals keeps the keys of an installation itself: the one it signs its
// ticks and checkpoints with, the keyset that it seals with, and the one that it
// labels with what must not stand in the ledger in clear. They belong to
// the installation and not to a server's folder, so they lie where every server
// finds them, each wrapped with the installation key. That one key is a file that
// every server is given; it is the only secret that has to be kept beside the
// broker's files, and without it they open nothing.
//
// Each wrapped key is bound to its ledger and its purpose: put in another's
// place, it does not open.
package seals

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"github.com/tink-crypto/tink-go/v2/tink"
	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/events"
)

var (
	// ErrKeyFile says that a text is no installation key.
	ErrKeyFile = errors.New("seals: this is no installation key")

	// ErrWrongKey says that the installation key does not open what is there: it
	// is another installation's, or what is there was damaged.
	ErrWrongKey = errors.New("seals: the installation key does not open this installation's keys")

	// ErrMissing says that there are no keys to open.
	ErrMissing = errors.New("seals: this installation's keys are missing")
)

// Store is where wrapped keys lie.
type Store interface {
	// Sealed returns what lies under a name, and whether anything does.
	Sealed(ctx context.Context, name string) ([]byte, bool, error)

	// Seal stores under a name that nothing lies under. Where something does,
	// and of two who do it at once for one of them, it is [events.ErrConflict];
	// after [events.ErrOutcomeUnknown] only looking tells.
	Seal(ctx context.Context, name string, body []byte) error
}

// Key is an installation key. It wraps the others.
type Key struct{ aead tink.AEAD }

// NewKey draws an installation key and returns it as the text of its file, a
// Tink keyset in JSON.
func NewKey() ([]byte, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("seals: draw an installation key: %w", err)
	}
	var text bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&text)); err != nil {
		return nil, fmt.Errorf("seals: write an installation key: %w", err)
	}
	return append(text.Bytes(), '\n'), nil
}

// ParseKey reads an installation key. What it was given stands in no error.
func ParseKey(text []byte) (Key, error) {
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(text)))
	if err != nil {
		return Key{}, ErrKeyFile
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return Key{}, ErrKeyFile
	}
	return Key{primitive}, nil
}

// String keeps the key out of logs.
func (Key) String() string { return "installation key" }

// Keys are an installation's keys, opened. They may be used concurrently.
type Keys struct {
	signer   note.Signer
	verifier note.Verifier
	vkey     string
	sealing  tink.AEAD
	labeling *prf.Set
}

// Signer signs for the installation, as a C2SP signed note does.
func (k *Keys) Signer() note.Signer { return k.signer }

// Verifier checks what Signer has signed.
func (k *Keys) Verifier() note.Verifier { return k.verifier }

// VerifierKey is what everybody checks signatures with: `<name>+<hash>+<key>`.
func (k *Keys) VerifierKey() string { return k.vkey }

// AEAD seals for the installation. Its associated data must name what is sealed
// and where it belongs.
func (k *Keys) AEAD() tink.AEAD { return k.sealing }

// LabelBytes is how long a label is.
const LabelBytes = 32

// Label returns what stands for some parts, in their order, and tells nothing of
// them to whoever has not the installation's key: an HMAC-SHA-256. Whatever their
// bytes are, other parts have another label.
func (k *Keys) Label(parts ...string) ([LabelBytes]byte, error) {
	var text []byte
	for _, part := range parts {
		text = binary.BigEndian.AppendUint32(text, uint32(len(part)))
		text = append(text, part...)
	}
	var label [LabelBytes]byte
	out, err := k.labeling.ComputePrimaryPRF(text, LabelBytes)
	if err != nil {
		return label, fmt.Errorf("seals: label: %w", err)
	}
	copy(label[:], out)
	return label, nil
}

// String keeps the keys out of logs.
func (k *Keys) String() string { return "keys of " + k.signer.Name() }

// The purposes of an installation's keys.
const (
	purposeSigning = "signing"
	purposeSealing = "sealing"
	purposeLabels  = "labels"
)

// name is where the key of a purpose lies. The ledger's id is part of it, so that
// of two who begin one cluster at once neither finds the other's keys in its way,
// and the ledger alone decides whose count.
func name(ledger events.LedgerID, purpose string) string {
	return "installation." + ledger.String() + "." + purpose
}

// binding is what a wrapped key is bound to.
func binding(ledger events.LedgerID, purpose string) []byte {
	return []byte("keyledger installation " + purpose + " key\n" + ledger.String() + "\n")
}

// Make opens the keys of a ledger that is about to begin, and makes those that
// are not there yet. It can be repeated, wherever it was cut off.
func Make(ctx context.Context, store Store, key Key, ledger events.LedgerID) (*Keys, error) {
	if err := ensure(ctx, store, ledger, purposeSigning, func() ([]byte, error) { return drawSigning(key, ledger) }); err != nil {
		return nil, err
	}
	if err := ensure(ctx, store, ledger, purposeSealing, func() ([]byte, error) {
		return drawKeyset(key, ledger, purposeSealing, aead.AES256GCMKeyTemplate())
	}); err != nil {
		return nil, err
	}
	return Open(ctx, store, key, ledger)
}

// ensureLabels stores a key for labels where none lies. Installations began
// without one.
func ensureLabels(ctx context.Context, store Store, key Key, ledger events.LedgerID) error {
	return ensure(ctx, store, ledger, purposeLabels, func() ([]byte, error) {
		return drawKeyset(key, ledger, purposeLabels, prf.HMACSHA256PRFKeyTemplate())
	})
}

// ensure stores a key where none lies.
func ensure(ctx context.Context, store Store, ledger events.LedgerID, purpose string, draw func() ([]byte, error)) error {
	_, there, err := store.Sealed(ctx, name(ledger, purpose))
	if err != nil || there {
		return err
	}
	wrapped, err := draw()
	if err != nil {
		return err
	}
	// What an earlier attempt left on its way serves as well.
	if err := store.Seal(ctx, name(ledger, purpose), wrapped); err != nil && !errors.Is(err, events.ErrConflict) {
		return err
	}
	return nil
}

// drawSigning draws a signing key and wraps it: the private key and the public
// one, a line each.
func drawSigning(key Key, ledger events.LedgerID) ([]byte, error) {
	private, public, err := note.GenerateKey(rand.Reader, "keyledger/"+ledger.String())
	if err != nil {
		return nil, fmt.Errorf("seals: draw a signing key: %w", err)
	}
	wrapped, err := key.aead.Encrypt([]byte(private+"\n"+public+"\n"), binding(ledger, purposeSigning))
	if err != nil {
		return nil, fmt.Errorf("seals: wrap the signing key: %w", err)
	}
	return wrapped, nil
}

// drawKeyset draws a keyset and wraps it.
func drawKeyset(key Key, ledger events.LedgerID, purpose string, template *tinkpb.KeyTemplate) ([]byte, error) {
	handle, err := keyset.NewHandle(template)
	if err != nil {
		return nil, fmt.Errorf("seals: draw the %s key: %w", purpose, err)
	}
	var wrapped bytes.Buffer
	if err := handle.WriteWithAssociatedData(keyset.NewBinaryWriter(&wrapped), key.aead, binding(ledger, purpose)); err != nil {
		return nil, fmt.Errorf("seals: wrap the %s key: %w", purpose, err)
	}
	return wrapped.Bytes(), nil
}

// Open opens the keys of a ledger that has begun. It makes none of those that it
// began with: [ErrMissing] and [ErrWrongKey] are alarms. The one for labels is made
// where there is none, once the others have opened: a ledger may have begun before
// there were labels, and what one stands for shows nowhere but in being the same.
func Open(ctx context.Context, store Store, key Key, ledger events.LedgerID) (*Keys, error) {
	k := &Keys{}
	for _, one := range []struct {
		purpose string
		open    func(Key, events.LedgerID, []byte) error
	}{{purposeSigning, k.openSigning}, {purposeSealing, k.openSealing}, {purposeLabels, k.openLabels}} {
		if one.purpose == purposeLabels {
			if err := ensureLabels(ctx, store, key, ledger); err != nil {
				return nil, err
			}
		}
		wrapped, there, err := store.Sealed(ctx, name(ledger, one.purpose))
		if err != nil {
			return nil, err
		}
		if !there {
			return nil, fmt.Errorf("%w: the %s key of ledger %s", ErrMissing, one.purpose, ledger)
		}
		// What went wrong inside says nothing more, and might say too much.
		if err := one.open(key, ledger, wrapped); err != nil {
			return nil, fmt.Errorf("%w: the %s key of ledger %s", ErrWrongKey, one.purpose, ledger)
		}
	}
	return k, nil
}

func (k *Keys) openSigning(key Key, ledger events.LedgerID, wrapped []byte) error {
	text, err := key.aead.Decrypt(wrapped, binding(ledger, purposeSigning))
	if err != nil {
		return err
	}
	private, public, _ := strings.Cut(strings.TrimSuffix(string(text), "\n"), "\n")
	if k.signer, err = note.NewSigner(private); err != nil {
		return err
	}
	k.vkey = public
	k.verifier, err = note.NewVerifier(public)
	return err
}

func (k *Keys) openSealing(key Key, ledger events.LedgerID, wrapped []byte) error {
	handle, err := openKeyset(key, ledger, purposeSealing, wrapped)
	if err != nil {
		return err
	}
	k.sealing, err = aead.New(handle)
	return err
}

func (k *Keys) openLabels(key Key, ledger events.LedgerID, wrapped []byte) error {
	handle, err := openKeyset(key, ledger, purposeLabels, wrapped)
	if err != nil {
		return err
	}
	k.labeling, err = prf.NewPRFSet(handle)
	return err
}

func openKeyset(key Key, ledger events.LedgerID, purpose string, wrapped []byte) (*keyset.Handle, error) {
	return keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(wrapped)), key.aead, binding(ledger, purpose))
}
