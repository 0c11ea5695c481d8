package seals_test

import (
	"errors"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/wrapping"
)

const providerSecret = "sk-test-0123456789abcdefghijklmnopqrstuvWXYZ"

var openai = seals.Binding{Org: acme, Provider: events.ProviderOpenAI, Version: 1}

func kek(t testing.TB) *wrapping.Keyset {
	t.Helper()
	k, err := wrapping.NewKeyset()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func enveloped(t testing.TB, e *seals.Envelopes, of seals.Binding) events.SealedSecret {
	t.Helper()
	out, err := e.Seal(t.Context(), of, providerSecret, "WXYZ")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A secret opens on every server that has the key-encryption key, and its last four
// characters apart from it.
func TestEnvelopesOpen(t *testing.T) {
	store, ring := memory.New(ledger), wrapping.Ring{Primary: kek(t)}
	one, two := seals.NewEnvelopes(ring, store, ledger), seals.NewEnvelopes(ring, store, ledger)
	sealed := enveloped(t, one, openai)
	if text, err := two.Open(t.Context(), openai, sealed); err != nil || text != providerSecret {
		t.Error(err)
	}
	if text, err := two.OpenLastFour(t.Context(), openai, sealed); err != nil || text != "WXYZ" {
		t.Errorf("%q, %v", text, err)
	}
	if done, err := one.Destroy(t.Context(), sealed.DataKey); err != nil || !done {
		t.Fatal(done, err)
	}
	if _, err := two.Open(t.Context(), openai, sealed); !errors.Is(err, seals.ErrErased) {
		t.Error(err)
	}
}
