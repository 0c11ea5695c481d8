package seals

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tink-crypto/tink-go/v2/daead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/keyledger/keyledger/events"
)

// ErrErased says that the key which sealed a text is destroyed, and the text with it.
var ErrErased = errors.New("seals: the text was erased")

// SubjectStore is where the wrapped keys of data subjects lie, and are destroyed.
type SubjectStore interface {
	Store

	// Destroy removes what lies under a name, if that is what is meant, so that its
	// bytes are overwritten where they lay. It reports whether there was anything to
	// remove. It can be repeated, and after every error has to be.
	Destroy(ctx context.Context, name string, meant func(body []byte) bool) (bool, error)
}

// What a sealed text is: one is not taken for the other.
const (
	// TextOfFact is an [events.Text].
	TextOfFact = "text"
	// TextOfUse is a text that came with a use.
	TextOfUse = "use"
)

const (
	// keyIDBytes is how long the name of a data subject's key is. It is drawn at
	// random, so that none is ever that of another.
	keyIDBytes = 16

	// held is how long an opened key is kept in memory at most: by then it is gone
	// from every server, also from one that hears nothing of the ledger.
	held = time.Minute

	// maxHeld bounds the opened keys in memory: three kilobytes each.
	maxHeld = 8192

	// maxDraws is how often a key is looked for and drawn. Whoever loses to another
	// who draws one finds that one, unless it is destroyed just then.
	maxDraws = 8
)

// Subjects seals texts under keys of the data subjects that they tell of, and
// destroys those. A key is drawn when the first text of its subject is sealed, and
// after it was destroyed another is. It may be used concurrently.
//
// A box is of AES-SIV: the same text under the same key is the same box, so that
// what is told again has the same bytes and one source of uses stays one source.
// That two texts of one data subject are the same can be seen.
type Subjects struct {
	keys   *Keys
	store  SubjectStore
	ledger events.LedgerID
	now    func() time.Time

	mu     sync.Mutex
	opened map[owner]*sealer
	// erased are the keys that were erased, by what the ledger says: they are
	// destroyed, or about to be, and nothing is sealed or opened with them.
	erased map[string]struct{}
}

// owner is whose key it is.
type owner struct {
	org     events.OrgID
	subject events.DataSubject
}

// sealer is what was found of a data subject: its key, or none.
type sealer struct {
	owner
	id      string
	box     tink.DeterministicAEAD
	fetched time.Time
}

// NewSubjects returns the data subjects of an installation. It asks the store nothing.
func NewSubjects(keys *Keys, store SubjectStore, ledger events.LedgerID) *Subjects {
	return &Subjects{keys: keys, store: store, ledger: ledger, now: time.Now, opened: map[owner]*sealer{}, erased: map[string]struct{}{}}
}

// Sealer seals texts of one data subject, for as long as one wish takes.
type Sealer struct {
	of   *Subjects
	with *sealer
}

// Sealer returns what seals for a data subject now: the store is asked, and a key
// drawn if there is none. So what begins after an erasure was answered is never
// sealed with what the erasure destroyed.
func (s *Subjects) Sealer(ctx context.Context, org events.OrgID, subject events.DataSubject) (Sealer, error) {
	k, err := s.draw(ctx, owner{org, subject})
	return Sealer{s, k}, err
}

// RecentSealer is [Subjects.Sealer] with a key that may have been fetched a minute
// ago: for what is recorded in passing, which an erasure of just now may meet.
func (s *Subjects) RecentSealer(ctx context.Context, org events.OrgID, subject events.DataSubject) (Sealer, error) {
	if k := s.recent(owner{org, subject}); k != nil && k.box != nil {
		return Sealer{s, k}, nil
	}
	return s.Sealer(ctx, org, subject)
}

// Seal seals a text of the data subject.
func (s Sealer) Seal(what, text string) (events.Sealed, error) {
	box, err := s.with.box.EncryptDeterministically([]byte(text), s.of.binding(s.with.owner, s.with.id, "seals "+what))
	if err != nil {
		return events.Sealed{}, fmt.Errorf("seals: seal: %w", err)
	}
	return events.Sealed{Subject: string(s.with.subject), Key: s.with.id, Box: base64.RawStdEncoding.EncodeToString(box)}, nil
}

// Seal seals one text under the key that a data subject has now; see [Subjects.Sealer].
func (s *Subjects) Seal(ctx context.Context, org events.OrgID, subject events.DataSubject, what, text string) (events.Sealed, error) {
	sealer, err := s.Sealer(ctx, org, subject)
	if err != nil {
		return events.Sealed{}, err
	}
	return sealer.Seal(what, text)
}

// Open opens what was sealed for an organization. It is [ErrErased] once the key
// is destroyed, and [events.ErrUnavailable] when nobody tells.
func (s *Subjects) Open(ctx context.Context, org events.OrgID, sealed events.Sealed, what string) (string, error) {
	of := owner{org, events.DataSubject(sealed.Subject)}
	if s.isErased(sealed.Key) {
		return "", ErrErased
	}
	k := s.recent(of)
	// A key that is not the one may be older, or younger, than what it sealed.
	if k == nil || k.id != sealed.Key {
		var err error
		if k, err = s.fetch(ctx, of); err != nil {
			return "", err
		}
	}
	if k.id != sealed.Key {
		return "", ErrErased
	}
	box, err := base64.RawStdEncoding.Strict().DecodeString(sealed.Box)
	if err != nil {
		return "", fmt.Errorf("%w: a sealed text is none", events.ErrMalformed)
	}
	text, err := k.box.DecryptDeterministically(box, s.binding(of, k.id, "seals "+what))
	if err != nil {
		return "", fmt.Errorf("%w: a sealed text does not open with its key", events.ErrMalformed)
	}
	return string(text), nil
}

// Held returns the name of the key that a data subject has now, if it has one.
func (s *Subjects) Held(ctx context.Context, org events.OrgID, subject events.DataSubject) (string, error) {
	k, err := s.fetch(ctx, owner{org, subject})
	if err != nil {
		return "", err
	}
	return k.id, nil
}

// Destroy destroys the key that a data subject has now, if it is one of those,
// which the ledger says are erased. It reports whether there was one to destroy.
func (s *Subjects) Destroy(ctx context.Context, org events.OrgID, subject events.DataSubject, keys []string) (bool, error) {
	name, err := s.name(owner{org, subject})
	if err != nil {
		return false, err
	}
	s.Forget(org, subject, keys)
	return s.store.Destroy(ctx, name, func(body []byte) bool {
		return len(body) > keyIDBytes && slices.Contains(keys, hex.EncodeToString(body[:keyIDBytes]))
	})
}

// Forget takes keys of a data subject for erased, and drops what is held of them:
// nothing in this process seals or opens with them from then on.
func (s *Subjects) Forget(org events.OrgID, subject events.DataSubject, keys []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.opened, owner{org, subject})
	for _, id := range keys {
		s.erased[id] = struct{}{}
	}
}

func (s *Subjects) isErased(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, erased := s.erased[id]
	return erased
}

// recent returns what was found of a data subject within the last minute.
func (s *Subjects) recent(of owner) *sealer {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.opened[of]
	if k == nil || s.now().Sub(k.fetched) >= held {
		return nil
	}
	return k
}

// keep remembers what was found of a data subject, unless it was erased meanwhile.
func (s *Subjects) keep(k *sealer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, erased := s.erased[k.id]; erased {
		return
	}
	if _, there := s.opened[k.owner]; !there && len(s.opened) >= maxHeld {
		for of, other := range s.opened {
			if delete(s.opened, of); s.now().Sub(other.fetched) < held {
				break // the first that is met: none is worth more than another
			}
		}
	}
	s.opened[k.owner] = k
}

// fetch asks the store for a data subject's key.
func (s *Subjects) fetch(ctx context.Context, of owner) (*sealer, error) {
	name, err := s.name(of)
	if err != nil {
		return nil, err
	}
	k := &sealer{owner: of, fetched: s.now()}
	body, there, err := s.store.Sealed(ctx, name)
	if err != nil {
		return nil, err
	}
	if there {
		if err := s.unwrap(k, body); err != nil {
			return nil, err
		}
	}
	s.keep(k)
	return k, nil
}

// draw returns a data subject's key, and makes one where there is none.
func (s *Subjects) draw(ctx context.Context, of owner) (*sealer, error) {
	name, err := s.name(of)
	if err != nil {
		return nil, err
	}
	var lost error
	for range maxDraws {
		k, err := s.fetch(ctx, of)
		if err != nil || k.box != nil && !s.isErased(k.id) {
			return k, err
		}
		if k.box != nil {
			// Whoever erased it did not come to destroy it.
			if _, err := s.Destroy(ctx, of.org, of.subject, []string{k.id}); err != nil {
				return nil, err
			}
		}
		wrapped, err := s.wrap(of)
		if err != nil {
			return nil, err
		}
		// Whatever became of it, the store has the word: it may be another's that
		// lies there by now.
		lost = s.store.Seal(ctx, name, wrapped)
		if lost != nil && !errors.Is(lost, events.ErrConflict) && !errors.Is(lost, events.ErrOutcomeUnknown) {
			return nil, lost
		}
	}
	return nil, fmt.Errorf("%w: no key for a data subject: %w", events.ErrUnavailable, lost)
}

// wrap draws a key: its name, and the keyset wrapped by the installation's.
func (s *Subjects) wrap(of owner) ([]byte, error) {
	id := make([]byte, keyIDBytes)
	if _, err := rand.Read(id); err != nil {
		return nil, fmt.Errorf("seals: draw a data subject's key: %w", err)
	}
	handle, err := keyset.NewHandle(daead.AESSIVKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("seals: draw a data subject's key: %w", err)
	}
	out := bytes.NewBuffer(id)
	if err := handle.WriteWithAssociatedData(keyset.NewBinaryWriter(out), s.keys.sealing, s.binding(of, hex.EncodeToString(id), "key")); err != nil {
		return nil, fmt.Errorf("seals: wrap a data subject's key: %w", err)
	}
	return out.Bytes(), nil
}

// unwrap opens what wrap made.
func (s *Subjects) unwrap(k *sealer, body []byte) error {
	wrong := fmt.Errorf("%w: a data subject's key of organization %s", ErrWrongKey, k.org)
	if len(body) <= keyIDBytes {
		return wrong
	}
	id := hex.EncodeToString(body[:keyIDBytes])
	handle, err := keyset.ReadWithAssociatedData(keyset.NewBinaryReader(bytes.NewReader(body[keyIDBytes:])), s.keys.sealing, s.binding(k.owner, id, "key"))
	if err != nil {
		return wrong
	}
	if k.box, err = daead.New(handle); err != nil {
		return wrong
	}
	k.id = id
	return nil
}

// binding is what a data subject's key, and what it seals, is bound to.
func (s *Subjects) binding(of owner, key, what string) []byte {
	return fmt.Appendf(nil, "keyledger data subject %s\n%s\n%s\n%s\n%s\n", what, s.ledger, of.org, of.subject, key)
}

// name is where a data subject's key lies. It tells nothing of whose it is to
// whoever has the broker's files alone.
func (s *Subjects) name(of owner) (string, error) {
	label, err := s.keys.Label("data subject", string(of.org), string(of.subject))
	if err != nil {
		return "", err
	}
	return s.ledger.String() + ".subject." + hex.EncodeToString(label[:16]), nil
}
