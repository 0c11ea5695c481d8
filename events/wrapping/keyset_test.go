package wrapping_test

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
	"github.com/tink-crypto/tink-go/v2/mac"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/wrapping"
	"github.com/keyledger/keyledger/events/wrapping/wrappingtest"
)

func draw(t testing.TB) *wrapping.Keyset {
	t.Helper()
	k, err := wrapping.NewKeyset()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func read(t testing.TB, k *wrapping.Keyset) *wrapping.Keyset {
	t.Helper()
	text, err := k.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := wrapping.ParseKeyset(text)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func TestKeyset(t *testing.T) {
	wrappingtest.Run(t, func(t *testing.T) wrappingtest.Bench {
		k := draw(t)
		return wrappingtest.Bench{
			Key: k, Foreign: draw(t),
			Rotate: func() wrapping.Key {
				added, id, err := k.Add()
				if err != nil {
					t.Fatal(err)
				}
				promoted, err := added.Promote(id)
				if err != nil {
					t.Fatal(err)
				}
				return read(t, promoted)
			},
		}
	})
}

// A key is added, wraps, and the one before is dropped: whoever reads the keyset in
// between opens all that was wrapped by then.
func TestKeysetRotation(t *testing.T) {
	ctx, purpose := t.Context(), []byte("purpose")
	old := draw(t)
	wrap := func(k *wrapping.Keyset) []byte {
		t.Helper()
		wrapped, err := k.Wrap(ctx, []byte("a key"), purpose)
		if err != nil {
			t.Fatal(err)
		}
		return wrapped
	}
	opens := func(k *wrapping.Keyset, wrapped []byte, want bool) {
		t.Helper()
		plain, err := read(t, k).Unwrap(ctx, wrapped, purpose)
		if want && (err != nil || string(plain) != "a key") || !want && !errors.Is(err, wrapping.ErrWrongKey) {
			t.Errorf("%q, %v; want %t", plain, err, want)
		}
	}
	first := wrap(old)
	added, id, err := old.Add()
	if err != nil {
		t.Fatal(err)
	}
	if keys := old.Keys(); len(keys) != 1 {
		t.Errorf("the one before was changed: %+v", keys)
	}
	keys := added.Keys()
	if len(keys) != 2 || !keys[0].Wraps || keys[1].Wraps || keys[1].ID != id || keys[1].Type != "AesGcmKey" || !keys[1].Enabled {
		t.Errorf("%+v", keys)
	}
	if _, err := added.Drop(keys[0].ID); err == nil {
		t.Error("the key that wraps was dropped")
	}
	promoted, err := added.Promote(id)
	if err != nil {
		t.Fatal(err)
	}
	second := wrap(promoted)
	dropped, err := promoted.Drop(keys[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []*wrapping.Keyset{old, added, promoted} {
		opens(k, first, true)
	}
	for _, k := range []*wrapping.Keyset{added, promoted, dropped} {
		opens(k, second, true)
	}
	opens(dropped, first, false)
	opens(old, second, false)
	for _, unknown := range []func() error{
		func() error { _, err := old.Promote(id); return err },
		func() error { _, err := old.Drop(id); return err },
	} {
		if unknown() == nil {
			t.Error("a key that is not there was changed")
		}
	}
}

// What is no keyset, or none that tells its keys apart, is refused and stands in no
// error.
func TestTextsThatAreNoKeyset(t *testing.T) {
	text := func(template *tinkpb.KeyTemplate) []byte {
		t.Helper()
		handle, err := keyset.NewHandle(template)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&out)); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	for what, text := range map[string][]byte{
		"nothing": nil, "a secret": []byte("sk-proj-0123456789"), "an object": []byte("{}"),
		"a keyset of another kind": text(mac.HMACSHA256Tag128KeyTemplate()),
		"keys that mark nothing":   text(aead.AES256GCMNoPrefixKeyTemplate()),
	} {
		_, err := wrapping.ParseKeyset(text)
		if !errors.Is(err, wrapping.ErrKeyset) || strings.Contains(err.Error(), "sk-") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestKeysetIsNotShown(t *testing.T) {
	k := draw(t)
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if shown := fmt.Sprintf(format, k); shown != "key-encryption keyset" {
			t.Errorf("%s shows %.30s", format, shown)
		}
	}
}

// silent is a key management service that does not answer, or not as it should.
type silent struct {
	name string
	err  error
}

func (s silent) Name() string { return s.name }
func (s silent) Wrap(context.Context, []byte, []byte) ([]byte, error) {
	return []byte("wrapped"), s.err
}
func (s silent) Unwrap(context.Context, []byte, []byte) ([]byte, error) { return nil, s.err }
func (s silent) Current(context.Context, []byte) (bool, error)          { return false, s.err }

// Nobody takes a key that does not answer for one that is wrong.
func TestRingWithOneThatIsSilent(t *testing.T) {
	ctx, away := t.Context(), silent{"keyset", events.ErrUnavailable}
	k := draw(t)
	wrapped, err := wrapping.Ring{Primary: k}.Wrap(ctx, []byte("a key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for what, one := range map[string]struct {
		ring wrapping.Ring
		want error
	}{
		"the right one behind it":  {wrapping.Ring{Primary: away, Others: []wrapping.Key{k}}, nil},
		"a wrong one before it":    {wrapping.Ring{Primary: draw(t), Others: []wrapping.Key{away}}, events.ErrUnavailable},
		"a wrong one behind it":    {wrapping.Ring{Primary: away, Others: []wrapping.Key{draw(t)}}, events.ErrUnavailable},
		"one of another name":      {wrapping.Ring{Primary: silent{"kms", events.ErrUnavailable}}, wrapping.ErrWrongKey},
		"one that fails elsewhere": {wrapping.Ring{Primary: silent{"keyset", errors.New("odd")}}, events.ErrUnavailable},
		"no key":                   {wrapping.Ring{}, wrapping.ErrWrongKey},
	} {
		if _, err := one.ring.Unwrap(ctx, wrapped, nil); !errors.Is(err, one.want) || errors.Is(one.want, wrapping.ErrWrongKey) && errors.Is(err, events.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := (wrapping.Ring{}).Wrap(ctx, nil, nil); !errors.Is(err, wrapping.ErrWrongKey) {
		t.Error(err)
	}
	for _, name := range []string{"", strings.Repeat("n", 256)} {
		if _, err := (wrapping.Ring{Primary: silent{name: name}}).Wrap(ctx, nil, nil); err == nil {
			t.Errorf("a name of %d bytes was taken", len(name))
		}
	}
}
