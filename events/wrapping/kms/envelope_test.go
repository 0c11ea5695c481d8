package kms

import (
	"bytes"
	"testing"
)

// An envelope has one spelling, and what is none is refused without a panic and
// without much memory.
func FuzzParse(f *testing.F) {
	whole := envelope{keyID: "id", key: []byte("key"), annotations: map[string][]byte{"a": []byte("1"), "b": nil}}
	f.Add(append(whole.head(), "sealed"...))
	f.Add([]byte{format})
	f.Add([]byte{format, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, ok := parse(b)
		if !ok {
			return
		}
		if again := append(e.head(), e.sealed...); !bytes.Equal(again, b) {
			t.Errorf("%x is written %x", b, again)
		}
		if err := e.valid(); err != nil {
			t.Error(err)
		}
	})
}
