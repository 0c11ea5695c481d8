package whose_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/examples/byok/whose"
)

// ledger answers as a server does, and counts how often it was asked.
type ledger struct {
	mu      sync.Mutex
	answers map[string]wire.ResolvedProviderKey
	err     error
	takes   time.Duration
	asked   atomic.Int64
}

func (l *ledger) ResolveProviderKey(_ context.Context, org, provider string) (wire.ResolvedProviderKey, error) {
	l.asked.Add(1)
	time.Sleep(l.takes)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return wire.ResolvedProviderKey{}, l.err
	}
	if r, ok := l.answers[org+"/"+provider]; ok {
		return r, nil
	}
	return wire.ResolvedProviderKey{Provider: provider, Source: "built_in", Reason: "not_connected"}, nil
}

func (l *ledger) set(at string, version uint64, secret wire.ProviderSecret) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers = map[string]wire.ResolvedProviderKey{at: {Source: "customer", Version: version, Secret: secret}}
}

func (l *ledger) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

const ours = wire.ProviderSecret("sk-the-platforms-own-key")

func keysOf(t *testing.T, l *ledger) *whose.Keys {
	t.Helper()
	keys, err := whose.New(whose.Config{Resolver: l, Own: map[string]wire.ProviderSecret{"openai": ours}})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func mustKey(t *testing.T, keys *whose.Keys, org string) whose.Key {
	t.Helper()
	key, err := keys.Key(t.Context(), org, "openai")
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A key is the customer's where they have one, the platform's where not, and is asked
// for once a minute.
func TestKeyIsKeptForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		l.set("acme/openai", 1, "sk-of-acme-one")
		keys := keysOf(t, &l)
		for range 3 {
			if key := mustKey(t, keys, "acme"); !key.Customers || key.Version != 1 || key.Secret != "sk-of-acme-one" {
				t.Errorf("got %v, version %d", key, key.Version)
			}
		}
		if key := mustKey(t, keys, "other"); key.Customers || key.Secret != ours {
			t.Errorf("got %v", key)
		}
		l.set("acme/openai", 2, "sk-of-acme-two")
		time.Sleep(whose.Longest - time.Nanosecond)
		if key := mustKey(t, keys, "acme"); key.Version != 1 {
			t.Errorf("got version %d before the minute was over", key.Version)
		}
		if got := l.asked.Load(); got != 2 {
			t.Errorf("asked %d times, want once for each organization", got)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if key := mustKey(t, keys, "acme"); key.Version != 2 {
			t.Errorf("got version %d after the minute", key.Version)
		}
	})
}

// The minute counts from when the question was sent: a slow answer is old already.
func TestSlowAnswerIsKeptForLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ledger{takes: 40 * time.Second}
		keys := keysOf(t, &l)
		mustKey(t, keys, "acme")
		time.Sleep(20 * time.Second)
		synctest.Wait()
		mustKey(t, keys, "acme")
		if got := l.asked.Load(); got != 2 {
			t.Errorf("asked %d times", got)
		}
	})
}

// While nobody knows whose key to use there is none, not the platform's either.
func TestErrorIsNoBuiltIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		away := errors.New("503")
		l.fail(away)
		keys := keysOf(t, &l)
		if key, err := keys.Key(t.Context(), "acme", "openai"); !errors.Is(err, away) || key != (whose.Key{}) {
			t.Errorf("got %v, %v", key, err)
		}
		l.fail(nil)
		mustKey(t, keys, "acme")
		if _, err := keys.Key(t.Context(), "acme", "mistral"); !errors.Is(err, whose.ErrConfig) {
			t.Errorf("got %v for a provider that the platform has no key of", err)
		}
	})
}

// What the provider refused is resolved again: a replaced key is another one, and one
// that fails is the same.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l ledger
		l.set("acme/openai", 1, "sk-of-acme-one")
		keys := keysOf(t, &l)
		old := mustKey(t, keys, "acme")
		if key, err := keys.Refused(t.Context(), "acme", "openai", old); err != nil || key != old {
			t.Errorf("got %v, %v", key, err)
		}
		l.set("acme/openai", 2, "sk-of-acme-two")
		next, err := keys.Refused(t.Context(), "acme", "openai", old)
		if err != nil || next.Version != 2 {
			t.Errorf("got version %d, %v", next.Version, err)
		}
		// Others that were refused the old key meanwhile do not ask once more.
		asked := l.asked.Load()
		if key, err := keys.Refused(t.Context(), "acme", "openai", old); err != nil || key != next || l.asked.Load() != asked {
			t.Errorf("got %v, %v, asked %d times more", key, err, l.asked.Load()-asked)
		}
	})
}

// However many ask at once, one resolves; who has no time to wait does not.
func TestOneAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ledger{takes: time.Second}
		keys := keysOf(t, &l)
		var asking sync.WaitGroup
		for range 50 {
			asking.Go(func() { mustKey(t, keys, "acme") })
		}
		hurried, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		synctest.Wait()
		if _, err := keys.Key(hurried, "acme", "openai"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		asking.Wait()
		if got := l.asked.Load(); got != 1 {
			t.Errorf("asked %d times", got)
		}
	})
}

func TestNothingPrintsASecret(t *testing.T) {
	key := whose.Key{Secret: "sk-of-acme-one", Customers: true}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if text := fmt.Sprintf(verb, key); strings.Contains(text, "acme") {
			t.Errorf("%s: %s", verb, text)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, cfg := range []whose.Config{{}, {Resolver: &ledger{}, For: whose.Longest + 1}, {Resolver: &ledger{}, For: -1}} {
		if _, err := whose.New(cfg); !errors.Is(err, whose.ErrConfig) {
			t.Errorf("got %v", err)
		}
	}
}
