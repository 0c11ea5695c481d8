package seals

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/wrapping"
)

// EnvelopeStore is where wrapped data keys lie, and are destroyed and listed.
type EnvelopeStore interface {
	SubjectStore

	// EachSeal hands over what lies under the names that begin with a prefix and a
	// dot, one by one in the order in which they were stored, until take returns an
	// error, which is returned then. What is stored meanwhile may be handed over.
	EachSeal(ctx context.Context, prefix string, take func(name string, body []byte, stored events.Time) error) error
}

// Binding is what a provider key's secret is bound to: in another's place it does
// not open.
type Binding struct {
	Org      events.OrgID
	Provider events.ProviderID
	Version  uint64
	BaseURL  string
}

// What a box of a provider key holds.
const (
	boxSecret   = "secret"
	boxLastFour = "last four"
)

const (
	// lastFourHeld is how long opened last four characters are kept in memory at
	// most: lists show them, and would unwrap a key for each otherwise.
	lastFourHeld = time.Minute

	// maxLastFour bounds them: some 200 bytes each.
	maxLastFour = 8192

	// maxSettle is how often it is tried to leave a slot as it should be, while
	// others change it at the same time.
	maxSettle = 16
)

// Envelopes encrypts providers' secrets, each with a data key of its own. The data
// keys lie in the store, wrapped by a key-encryption key; destroying one makes the
// secret unreadable wherever its ciphertext is. It may be used concurrently, and by
// several servers on one store.
//
// A data key lies in one of two slots, so that it can be wrapped anew without a
// moment in which none opens: it is stored in the other slot, and then the one before
// is destroyed. A slot of which a data key was destroyed is closed by a tombstone:
// whoever wraps it anew at the same moment cannot put it back.
type Envelopes struct {
	ring   wrapping.Ring
	store  EnvelopeStore
	ledger events.LedgerID
	now    func() time.Time

	mu       sync.Mutex
	lastFour map[lastFourOf]opened
	// forgotten counts what was forgotten: what was opened before is not kept then.
	forgotten uint64
}

// lastFourOf is what was opened, for whom: the same box opens in no other place.
type lastFourOf struct {
	of  Binding
	key events.DataKeyID
	box string
}

type opened struct {
	text string
	at   time.Time
}

// NewEnvelopes returns what encrypts for a ledger. It asks the store nothing.
func NewEnvelopes(ring wrapping.Ring, store EnvelopeStore, ledger events.LedgerID) *Envelopes {
	return &Envelopes{ring: ring, store: store, ledger: ledger, now: time.Now, lastFour: map[lastFourOf]opened{}}
}

// Seal draws a data key, stores it wrapped, and encrypts a secret and its last four
// characters with it. When it returns an error the data key may lie in the store; no
// fact names it, and whoever looks for such ([Envelopes.All]) destroys it.
func (e *Envelopes) Seal(ctx context.Context, of Binding, secret, lastFour string) (events.SealedSecret, error) {
	var out events.SealedSecret
	if _, err := rand.Read(out.DataKey[:]); err != nil {
		return events.SealedSecret{}, fmt.Errorf("seals: draw a data key: %w", err)
	}
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return events.SealedSecret{}, fmt.Errorf("seals: draw a data key: %w", err)
	}
	box, err := aead.New(handle)
	if err != nil {
		return events.SealedSecret{}, fmt.Errorf("seals: draw a data key: %w", err)
	}
	if out.Secret, err = e.encrypt(box, of, out.DataKey, boxSecret, secret); err != nil {
		return events.SealedSecret{}, err
	}
	if out.LastFour, err = e.encrypt(box, of, out.DataKey, boxLastFour, lastFour); err != nil {
		return events.SealedSecret{}, err
	}
	var plain bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewBinaryWriter(&plain)); err != nil {
		return events.SealedSecret{}, fmt.Errorf("seals: draw a data key: %w", err)
	}
	defer clear(plain.Bytes())
	wrapped, err := e.ring.Wrap(ctx, plain.Bytes(), e.keyBinding(out.DataKey))
	if err != nil {
		return events.SealedSecret{}, err
	}
	if err := e.put(ctx, e.slot(out.DataKey, slots[0]), wrapped); err != nil {
		return events.SealedSecret{}, fmt.Errorf("seals: store a data key: %w", err)
	}
	return out, nil
}

// Open opens a secret. The key is fetched and unwrapped each time, and nothing of it
// is kept. [ErrErased] says that the data key is destroyed, [wrapping.ErrWrongKey]
// that it is there and no key-encryption key of this server opens it,
// [events.ErrMalformed] that the secret is not what was sealed for this binding, and
// [events.ErrUnavailable] that nobody tells.
func (e *Envelopes) Open(ctx context.Context, of Binding, sealed events.SealedSecret) (string, error) {
	return e.open(ctx, of, sealed.DataKey, boxSecret, sealed.Secret)
}

// OpenLastFour opens the last four characters, as Open does the secret. What was
// opened within the last minute is told again without asking.
func (e *Envelopes) OpenLastFour(ctx context.Context, of Binding, sealed events.SealedSecret) (string, error) {
	key := lastFourOf{of, sealed.DataKey, sealed.LastFour}
	e.mu.Lock()
	held, ok := e.lastFour[key]
	forgotten := e.forgotten
	e.mu.Unlock()
	if ok && e.now().Sub(held.at) < lastFourHeld {
		return held.text, nil
	}
	began := e.now()
	text, err := e.open(ctx, of, sealed.DataKey, boxLastFour, sealed.LastFour)
	if err != nil {
		return "", err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if forgotten != e.forgotten {
		return text, nil
	}
	for other, held := range e.lastFour {
		if len(e.lastFour) < maxLastFour && began.Sub(held.at) < lastFourHeld {
			break // of those that are met first: none is worth more than another
		}
		delete(e.lastFour, other)
	}
	e.lastFour[key] = opened{text, began}
	return text, nil
}

// Forget drops what is held in memory of a data key.
func (e *Envelopes) Forget(id events.DataKeyID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forgotten++
	for key := range e.lastFour {
		if key.key == id {
			delete(e.lastFour, key)
		}
	}
}

func (e *Envelopes) encrypt(box tink.AEAD, of Binding, id events.DataKeyID, what, text string) (string, error) {
	out, err := box.Encrypt([]byte(text), e.boxBinding(of, id, what))
	if err != nil {
		return "", fmt.Errorf("seals: encrypt: %w", err)
	}
	return base64.RawStdEncoding.EncodeToString(out), nil
}

func (e *Envelopes) open(ctx context.Context, of Binding, id events.DataKeyID, what, text string) (string, error) {
	sealed, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if err != nil {
		return "", fmt.Errorf("%w: a sealed secret is none", events.ErrMalformed)
	}
	plain, err := e.dataKey(ctx, id)
	if err != nil {
		return "", err
	}
	defer clear(plain)
	handle, err := insecurecleartextkeyset.Read(keyset.NewBinaryReader(bytes.NewReader(plain)))
	if err != nil {
		return "", fmt.Errorf("%w: a data key is none", events.ErrMalformed)
	}
	box, err := aead.New(handle)
	if err != nil {
		return "", fmt.Errorf("%w: a data key is none", events.ErrMalformed)
	}
	out, err := box.Decrypt(sealed, e.boxBinding(of, id, what))
	if err != nil {
		return "", fmt.Errorf("%w: a sealed secret does not open with its key", events.ErrMalformed)
	}
	defer clear(out)
	return string(out), nil
}

// dataKey fetches a data key and unwraps it.
func (e *Envelopes) dataKey(ctx context.Context, id events.DataKeyID) ([]byte, error) {
	// Nearly always it lies in one of the slots, and stays there: that is one question,
	// or two, and cheap however much else the store holds.
	for _, slot := range slots {
		body, there, err := e.store.Sealed(ctx, e.slot(id, slot))
		if err != nil {
			return nil, err
		}
		if !there || bytes.Equal(body, tombstone) {
			continue
		}
		if plain, err := e.ring.Unwrap(ctx, body, e.keyBinding(id)); err == nil {
			return plain, nil
		}
	}
	// It may have been moved from one to the other in between.
	lying, _, err := e.look(ctx, id)
	if err != nil {
		return nil, err
	}
	if len(lying) == 0 {
		return nil, ErrErased
	}
	return e.unwrap(ctx, id, lying)
}

// unwrap opens the newest of a data key's wrappings that opens.
func (e *Envelopes) unwrap(ctx context.Context, id events.DataKeyID, lying []lies) ([]byte, error) {
	var err error
	for _, l := range slices.Backward(lying) {
		plain, failed := e.ring.Unwrap(ctx, l.body, e.keyBinding(id))
		if failed == nil {
			return plain, nil
		}
		// That nobody could tell of one outweighs that another is foreign.
		if err == nil || errors.Is(failed, events.ErrUnavailable) {
			err = failed
		}
	}
	return nil, fmt.Errorf("seals: data key %s: %w", id, err)
}

// boxBinding is what a secret is bound to.
func (e *Envelopes) boxBinding(of Binding, id events.DataKeyID, what string) []byte {
	return fmt.Appendf(nil, "keyledger provider key %s\n%s\n%s\n%s\n%d\n%s\n%s\n", what, e.ledger, of.Org, of.Provider, of.Version, id, of.BaseURL)
}

// keyBinding is what a wrapped data key is bound to. Whose it is stands in what it
// encrypts: it is wrapped anew by whoever knows no more of it than its id.
func (e *Envelopes) keyBinding(id events.DataKeyID) []byte {
	return fmt.Appendf(nil, "keyledger provider data key\n%s\n%s\n", e.ledger, id)
}

// slots are where a data key may lie.
var slots = [...]string{"a", "b"}

// root begins the names of all data keys.
func (e *Envelopes) root() string { return e.ledger.String() + ".provider" }

func (e *Envelopes) slot(id events.DataKeyID, slot string) string {
	return e.root() + "." + id.String() + "." + slot
}

// parse reads the name of a slot.
func (e *Envelopes) parse(name string) (id events.DataKeyID, slot string, ok bool) {
	rest, ok := strings.CutPrefix(name, e.root()+".")
	text, slot, cut := strings.Cut(rest, ".")
	ok = ok && cut && (slot == slots[0] || slot == slots[1]) && id.UnmarshalText([]byte(text)) == nil
	return id, slot, ok
}
