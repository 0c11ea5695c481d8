package kms

import (
	"testing"

	"github.com/keyledger/keyledger/events/wrapping"
	"github.com/keyledger/keyledger/events/wrapping/kms"
	"github.com/keyledger/keyledger/events/wrapping/wrappingtest"
)

func open(t *testing.T, k *token) *kms.Key {
	t.Helper()
	key, err := kms.New(kms.Config{Endpoint: k.endpoint(), Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := key.Close(); err != nil {
			t.Error(err)
		}
	})
	return key
}

// A key in a token keeps the contract of every key-encryption key.
func TestAKeyInATokenKeepsTheContract(t *testing.T) {
	wrappingtest.Run(t, func(t *testing.T) wrappingtest.Bench {
		mine, other := newToken(t), newToken(t)
		key := open(t, mine)
		return wrappingtest.Bench{Key: key, Foreign: open(t, other), Rotate: func() wrapping.Key { mine.rotate(); return key }}
	})
}
