package wrapping

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// keysetName is the name of all keysets: which of their keys has wrapped something,
// it tells itself.
const keysetName = "keyset"

// Keyset is a keyset of key-encryption keys in memory: one wraps, all open.
type Keyset struct {
	handle *keyset.Handle
	aead   tink.AEAD
}

// KeyInfo is what may be told of one key of a [Keyset].
type KeyInfo struct {
	// ID is the number by which Tink tells the keys of a keyset apart.
	ID uint32
	// Type is what kind of key it is, such as AesGcmKey.
	Type string
	// Wraps says that it is the one that wraps; each that is enabled opens.
	Wraps, Enabled bool
}

// NewKeyset draws a keyset of one key, for AES-256-GCM.
func NewKeyset() (*Keyset, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("wrapping: draw a key-encryption key: %w", err)
	}
	return fromHandle(handle)
}

// ParseKeyset reads a keyset in Tink's JSON, in clear. What it was given stands in
// no error.
func ParseKeyset(text []byte) (*Keyset, error) {
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(text)))
	if err != nil {
		return nil, ErrKeyset
	}
	return fromHandle(handle)
}

func fromHandle(handle *keyset.Handle) (*Keyset, error) {
	primitive, err := aead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("%w: it must hold keys for authenticated encryption (AEAD), and say which of them wraps", ErrKeyset)
	}
	for _, k := range handle.KeysetInfo().GetKeyInfo() {
		if k.GetOutputPrefixType() != tinkpb.OutputPrefixType_TINK {
			return nil, fmt.Errorf("%w: key %d does not mark what it wraps; its output prefix must be TINK", ErrKeyset, k.GetKeyId())
		}
	}
	return &Keyset{handle, primitive}, nil
}

// Marshal writes the keyset as ParseKeyset reads it: with its keys in clear.
func (k *Keyset) Marshal() ([]byte, error) {
	var text bytes.Buffer
	if err := insecurecleartextkeyset.Write(k.handle, keyset.NewJSONWriter(&text)); err != nil {
		return nil, fmt.Errorf("wrapping: write a keyset: %w", err)
	}
	return append(text.Bytes(), '\n'), nil
}

// Keys tells of each key, in the order in which they were added.
func (k *Keyset) Keys() []KeyInfo {
	info := k.handle.KeysetInfo()
	var out []KeyInfo
	for _, one := range info.GetKeyInfo() {
		out = append(out, KeyInfo{
			ID: one.GetKeyId(), Type: typeName(one.GetTypeUrl()),
			Wraps: one.GetKeyId() == info.GetPrimaryKeyId(), Enabled: one.GetStatus() == tinkpb.KeyStatusType_ENABLED,
		})
	}
	return out
}

// typeName is the last part of a type's URL.
func typeName(url string) string {
	for i := len(url) - 1; i >= 0; i-- {
		if url[i] == '.' || url[i] == '/' {
			return url[i+1:]
		}
	}
	return url
}

// Add returns the keyset with a new key that opens and does not wrap, and its id.
func (k *Keyset) Add() (*Keyset, uint32, error) {
	var id uint32
	next, err := k.changed(func(m *keyset.Manager) error {
		var err error
		id, err = m.Add(aead.AES256GCMKeyTemplate())
		return err
	})
	return next, id, err
}

// Promote returns the keyset with another of its keys as the one that wraps.
func (k *Keyset) Promote(id uint32) (*Keyset, error) {
	return k.changed(func(m *keyset.Manager) error { return m.SetPrimary(id) })
}

// Drop returns the keyset without a key. The one that wraps cannot be dropped.
func (k *Keyset) Drop(id uint32) (*Keyset, error) {
	return k.changed(func(m *keyset.Manager) error { return m.Delete(id) })
}

func (k *Keyset) changed(change func(*keyset.Manager) error) (*Keyset, error) {
	manager := keyset.NewManagerFromHandle(k.handle)
	if err := change(manager); err != nil {
		return nil, fmt.Errorf("wrapping: change a keyset: %w", err)
	}
	handle, err := manager.Handle()
	if err != nil {
		return nil, fmt.Errorf("wrapping: change a keyset: %w", err)
	}
	return fromHandle(handle)
}

// Name is the same for all keysets.
func (k *Keyset) Name() string { return keysetName }

// Wrap wraps with the keyset's primary key.
func (k *Keyset) Wrap(_ context.Context, plain, bound []byte) ([]byte, error) {
	wrapped, err := k.aead.Encrypt(plain, bound)
	if err != nil {
		return nil, fmt.Errorf("wrapping: wrap: %w", err)
	}
	return wrapped, nil
}

// Unwrap opens what any key of the keyset has wrapped.
func (k *Keyset) Unwrap(_ context.Context, wrapped, bound []byte) ([]byte, error) {
	plain, err := k.aead.Decrypt(wrapped, bound)
	if err != nil {
		// What went wrong inside says nothing more, and might say too much.
		return nil, ErrWrongKey
	}
	return plain, nil
}

// Current reports whether the primary key has wrapped this: what Tink encrypts begins
// with the byte 1 and the key's id.
func (k *Keyset) Current(_ context.Context, wrapped []byte) (bool, error) {
	return len(wrapped) > 5 && wrapped[0] == 1 &&
		binary.BigEndian.Uint32(wrapped[1:5]) == k.handle.KeysetInfo().GetPrimaryKeyId(), nil
}

// String keeps the keys out of logs, and GoString too.
func (k *Keyset) String() string { return "key-encryption keyset" }

// GoString is String.
func (k *Keyset) GoString() string { return k.String() }
