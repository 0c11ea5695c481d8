package kms

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/keyledger/keyledger/events/wrapping"
)

// The bounds of the protocol, as Kubernetes holds plugins to them.
const (
	maxKeyID       = 1 << 10
	maxCiphertext  = 1 << 10
	maxAnnotations = 32 << 10
)

// keyBytes is how long a drawn key is: AES-256.
const keyBytes = 32

// format is how an envelope begins.
const format = 1

// envelope is what Wrap gives. It holds all that the plugin wants to see again: after
// the format the key's id, the encrypted key, the number of annotations and these by
// name, each with its length in front; and then what is encrypted here, to which all
// of that is bound.
type envelope struct {
	keyID       string
	key         []byte
	annotations map[string][]byte
	sealed      []byte
}

// valid holds a plugin to the protocol.
func (e envelope) valid() error {
	annotations := 0
	for name, value := range e.annotations {
		annotations += len(name) + len(value)
	}
	switch {
	case e.keyID == "" || len(e.keyID) > maxKeyID:
		return fmt.Errorf("%w: its key's id has %d bytes", ErrPlugin, len(e.keyID))
	case len(e.key) == 0 || len(e.key) > maxCiphertext:
		return fmt.Errorf("%w: a ciphertext of it has %d bytes", ErrPlugin, len(e.key))
	case annotations > maxAnnotations:
		return fmt.Errorf("%w: its annotations have %d bytes", ErrPlugin, annotations)
	}
	return nil
}

// head is all of an envelope but what is encrypted here. It tells its own end, so
// that what follows it cannot be taken for a part of it.
func (e envelope) head() []byte {
	out := []byte{format}
	put := func(b []byte) { out = append(binary.AppendUvarint(out, uint64(len(b))), b...) }
	put([]byte(e.keyID))
	put(e.key)
	out = binary.AppendUvarint(out, uint64(len(e.annotations)))
	for _, name := range slices.Sorted(maps.Keys(e.annotations)) {
		put([]byte(name))
		put(e.annotations[name])
	}
	return out
}

// seal encrypts plain with the drawn key, and returns the whole envelope.
func (e envelope) seal(drawn, plain, bound []byte) ([]byte, error) {
	aead, err := newAEAD(drawn)
	if err != nil {
		return nil, err
	}
	head := e.head()
	return aead.Seal(slices.Clone(head), nil, plain, append(head, bound...)), nil
}

// open decrypts what seal encrypted.
func (e envelope) open(drawn, bound []byte) ([]byte, error) {
	if len(drawn) != keyBytes {
		return nil, wrapping.ErrWrongKey
	}
	aead, err := newAEAD(drawn)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nil, e.sealed, append(e.head(), bound...))
	if err != nil {
		return nil, wrapping.ErrWrongKey
	}
	return plain, nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("kms: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// parse reads an envelope that head wrote, and no other spelling of one.
func parse(b []byte) (envelope, bool) {
	r := reader{rest: b, ok: len(b) > 0 && b[0] == format}
	if !r.ok {
		return envelope{}, false
	}
	r.rest = r.rest[1:]
	e := envelope{keyID: string(r.bytes()), key: r.bytes()}
	n := r.length()
	before := ""
	for i := uint64(0); r.ok && i < n; i++ {
		name, value := string(r.bytes()), r.bytes()
		if r.ok = r.ok && (i == 0 || name > before); !r.ok {
			break
		}
		if e.annotations == nil {
			e.annotations = map[string][]byte{}
		}
		e.annotations[name], before = value, name
	}
	e.sealed = r.rest
	return e, r.ok && e.valid() == nil
}

// reader takes an envelope apart. Once it is not ok it returns nothing more.
type reader struct {
	rest []byte
	ok   bool
}

func (r *reader) length() uint64 {
	n, size := binary.Uvarint(r.rest)
	// A number that could be written shorter would be another spelling.
	if !r.ok || size <= 0 || size != len(binary.AppendUvarint(nil, n)) || n > uint64(len(r.rest)-size) {
		r.ok = false
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) bytes() []byte {
	n := r.length()
	if !r.ok {
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}
