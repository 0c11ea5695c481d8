// Package whose tells a worker whose key to call an AI provider with, and keeps what
// it was told for a minute at most, so that a call in a row costs no resolve.
//
// It never guesses: while nobody knows whose key to use there is an error, and not
// the platform's key. A customer who brought a key does not want their data to go
// through another account.
package whose

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keyledger/keyledger/api/wire"
)

// Longest is how long an answer may be kept: for as long a key that was removed or
// replaced still counts here.
const Longest = time.Minute

// ErrConfig says that keys cannot be had so.
var ErrConfig = errors.New("whose: invalid configuration")

// Resolver asks a keyledger server. The client of package api/client is one.
type Resolver interface {
	ResolveProviderKey(ctx context.Context, org, provider string) (wire.ResolvedProviderKey, error)
}

// Config says whom to ask, and what to use where a customer has no key.
type Config struct {
	// Resolver asks. Required.
	Resolver Resolver
	// Own are the platform's keys, by provider. A provider that is not in it has
	// none, and is an error where the customer has none either.
	Own map[string]wire.ProviderSecret
	// For is how long an answer is kept: [Longest] unless given, and at most.
	For time.Duration
}

// Key is what to call a provider with. It is not to be stored, logged or passed on.
type Key struct {
	Secret wire.ProviderSecret
	// BaseURL is where to call; empty is where the provider always is.
	BaseURL string
	// Customers says that it is the customer's, and Version which of theirs.
	Customers bool
	Version   uint64
}

// Keys are what was resolved lately. They are safe for concurrent use.
type Keys struct {
	cfg  Config
	mu   sync.Mutex
	held map[place]*answer
}

type place struct{ org, provider string }

// answer is what is known of one place. Whoever holds turn may ask.
type answer struct {
	turn chan struct{}
	key  *Key
	ends *time.Timer
}

// New returns keys that nobody has asked for yet.
func New(cfg Config) (*Keys, error) {
	if cfg.For == 0 {
		cfg.For = Longest
	}
	if cfg.Resolver == nil || cfg.For < 0 || cfg.For > Longest {
		return nil, fmt.Errorf("%w: it needs a Resolver, and For is a minute at most", ErrConfig)
	}
	return &Keys{cfg: cfg, held: map[place]*answer{}}, nil
}

// Key returns what to call a provider with for an organization. However many ask at
// once, one of them resolves.
func (k *Keys) Key(ctx context.Context, org, provider string) (Key, error) {
	a, err := k.take(ctx, place{org, provider})
	if err != nil {
		return Key{}, err
	}
	defer a.release()
	return k.known(ctx, a, org, provider)
}

// Refused is what to call when the provider took a key no more: it forgets that key
// and resolves again. The same key in the answer means that it is the key which fails,
// and that the customer has to know.
func (k *Keys) Refused(ctx context.Context, org, provider string, refused Key) (Key, error) {
	a, err := k.take(ctx, place{org, provider})
	if err != nil {
		return Key{}, err
	}
	defer a.release()
	k.mu.Lock()
	if a.key != nil && *a.key == refused {
		a.key = nil
	}
	k.mu.Unlock()
	return k.known(ctx, a, org, provider)
}

// take waits for the turn at a place.
func (k *Keys) take(ctx context.Context, at place) (*answer, error) {
	k.mu.Lock()
	a := k.held[at]
	if a == nil {
		a = &answer{turn: make(chan struct{}, 1)}
		k.held[at] = a
	}
	k.mu.Unlock()
	select {
	case a.turn <- struct{}{}:
		return a, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *answer) release() { <-a.turn }

// known returns the key that is held, or asks. The caller has the turn.
func (k *Keys) known(ctx context.Context, a *answer, org, provider string) (Key, error) {
	k.mu.Lock()
	held := a.key
	k.mu.Unlock()
	if held != nil {
		return *held, nil
	}
	// What was true when the question was sent is as old as the question.
	asked := time.Now()
	r, err := k.cfg.Resolver.ResolveProviderKey(ctx, org, provider)
	if err != nil {
		return Key{}, fmt.Errorf("whose: resolve: %w", err)
	}
	key := Key{Secret: r.Secret, BaseURL: r.BaseURL, Version: r.Version, Customers: true}
	switch r.Source {
	case "customer":
	case "built_in":
		own, ok := k.cfg.Own[provider]
		if !ok {
			return Key{}, fmt.Errorf("%w: neither the customer nor the platform has a key of the provider", ErrConfig)
		}
		key = Key{Secret: own}
	default:
		return Key{}, fmt.Errorf("whose: the server answers with a source that is not known: %q", r.Source)
	}
	k.hold(a, key, time.Until(asked.Add(k.cfg.For)))
	return key, nil
}

// hold keeps a key until its time is over, asked for or not.
func (k *Keys) hold(a *answer, key Key, left time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if a.ends != nil {
		a.ends.Stop()
	}
	if left <= 0 {
		return
	}
	held := &key
	a.key = held
	a.ends = time.AfterFunc(left, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if a.key == held {
			a.key = nil
		}
	})
}
