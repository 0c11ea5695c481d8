package commands

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/domain/providerkey"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/events/seals"
)

// ErrNotOpened says that a provider is connected and its secret does not open: that
// is never answered with the built-in allocation.
var ErrNotOpened = fmt.Errorf("%w: commands: a provider key's secret does not open", events.ErrUnavailable)

// ProviderSource is whose key of a provider is to be used.
type ProviderSource string

// The sources.
const (
	SourceCustomer ProviderSource = access.AnswerCustomer
	SourceBuiltIn  ProviderSource = access.AnswerBuiltIn
)

// BuiltInReason is why the built-in allocation serves.
type BuiltInReason string

// The reasons.
const (
	// ReasonNotConnected: the organization has no key of the provider.
	ReasonNotConnected BuiltInReason = "not_connected"
	// ReasonPlan: it has one, and a plan that has none.
	ReasonPlan BuiltInReason = "plan"
)

// Resolved is what to call a provider with. The caller records that it was asked for
// before it hands the secret out.
type Resolved struct {
	Source ProviderSource
	// Reason is why it is the built-in one.
	Reason BuiltInReason
	// Version, Secret and BaseURL are the customer's, and Tested the last test of
	// this very secret.
	Version uint64
	Secret  providerkey.Secret
	BaseURL string
	Tested  providerkey.Test
}

// SavedSecret is the secret of a saved key, for a test of it. It never leaves the
// server but to its provider.
type SavedSecret struct {
	Version uint64
	Secret  providerkey.Secret
	BaseURL string
	// Recorded is what an earlier request with the same idempotency key recorded;
	// then there is no secret, and nobody is to be asked again.
	Recorded []events.Recorded
}

// authorizeResolve checks that the principal may be handed providers' secrets.
func (p Principal) authorizeResolve(org events.OrgID) error {
	switch {
	case !p.Reaches(org):
		return notFound("organization")
	case p.Role != events.RoleResolver && p.Role != events.RoleOwner:
		return forbidden("resolving provider keys needs role resolver or owner; the key has role %s", p.Role)
	case !p.Scope.AllWorkspaces:
		return forbidden("provider keys belong to the whole organization; the key's scope is limited to workspaces")
	default:
		return refuseSystem(org)
	}
}

// ResolveProviderKey tells what to call a provider with: the organization's own key,
// or the built-in allocation. What it answers was so at some moment while it was
// asked, on whatever server: never a secret whose removal was answered before, and
// never one that a replacement took away in between.
func (s *Service) ResolveProviderKey(ctx context.Context, p Principal, org events.OrgID, id events.ProviderID) (Resolved, error) {
	if err := p.authorizeResolve(org); err != nil {
		return Resolved{}, err
	}
	if _, err := events.ParseProviderID(string(id)); err != nil {
		return Resolved{}, providerkey.RefuseProvider(string(id))
	}
	var out Resolved
	err := s.opened(ctx, org, id, func(k ProviderKey) (bool, error) {
		out = Resolved{Source: SourceBuiltIn, Reason: ReasonNotConnected}
		own, doubtful := s.cfg.Configuration.standing(org)
		switch {
		case !own.Live():
			return false, notFound("organization")
		case doubtful:
			return false, s.refuseOrg(org)
		case !k.Connected:
			return false, nil
		case !own.Plan.TakesProviderKeys():
			out.Reason = ReasonPlan
			return false, nil
		}
		out = Resolved{Source: SourceCustomer, Version: k.Version, BaseURL: k.BaseURL, Tested: k.Tested}
		return true, nil
	}, func(secret providerkey.Secret) { out.Secret = secret })
	if err != nil {
		return Resolved{}, err
	}
	return out, nil
}

// SecretForTest opens the saved key for a test of it, which is recorded with the same
// wish by [Service.RecordProviderTest].
func (s *Service) SecretForTest(ctx context.Context, w Wish, org events.OrgID, id events.ProviderID) (SavedSecret, error) {
	if err := s.authorizeWithin(ctx, w, org); err != nil {
		return SavedSecret{}, err
	}
	if _, err := events.ParseProviderID(string(id)); err != nil {
		return SavedSecret{}, notFound("provider key")
	}
	subject := events.ProviderKeySubject(org, id)
	o, err := s.order(w, subject.String())
	if err != nil {
		return SavedSecret{}, err
	}
	var out SavedSecret
	if w.IdempotencyKey != "" {
		_, h, err := s.loadProviderKey(ctx, subject)
		if err != nil {
			return SavedSecret{}, err
		}
		if out.Recorded, err = h.own(o); err != nil || len(out.Recorded) > 0 {
			return out, err
		}
	}
	err = s.opened(ctx, org, id, func(k ProviderKey) (bool, error) {
		switch err := s.refuseOrg(org); {
		case err != nil:
			return false, err
		case !k.Connected:
			return false, notFound("provider key")
		}
		out = SavedSecret{Version: k.Version, BaseURL: k.BaseURL}
		return true, providerkey.RefusePlan(s.plan(org))
	}, func(secret providerkey.Secret) { out.Secret = secret })
	if err != nil {
		return SavedSecret{}, err
	}
	return out, nil
}

// opened looks at a provider key and opens its secret if that is what look wants. What
// look was shown is confirmed by the ledger before any of it leaves here, and so is
// what it says itself: both are asked again until they rest on the same facts.
func (s *Service) opened(ctx context.Context, org events.OrgID, id events.ProviderID,
	look func(ProviderKey) (open bool, err error), take func(providerkey.Secret),
) error {
	subject := events.ProviderKeySubject(org, id)
	var erased events.Position
	backoff := firstBackoff
	for n := 1; ; n++ {
		from := s.basis(org)
		k, err := s.providerKeyNow(ctx, subject)
		open := false
		if err == nil {
			open, err = look(k)
		}
		gone := false
		if err == nil && open {
			var secret providerkey.Secret
			secret, err = s.open(ctx, org, k)
			gone = errors.Is(err, seals.ErrErased)
			if gone {
				err = nil
			}
			take(secret)
		}
		if err = s.confirm(ctx, from, err); err == nil && gone {
			// Replaced or removed since it was looked at, or it has no key to open it.
			if err = events.ErrConflict; erased == k.Position {
				err = fmt.Errorf("%w: the data key of %s, version %d, is missing", ErrNotOpened, provider.NameOf(string(id)), k.Version)
				s.cfg.Logger.ErrorContext(ctx, "a provider key is connected and its data key destroyed", "organization", string(org), "provider", string(id))
			}
			erased = k.Position
		}
		switch {
		case !errors.Is(err, events.ErrConflict):
			return err
		case n == maxAttempts:
			return fmt.Errorf("%w: gave up after %d attempts", events.ErrUnavailable, n)
		}
		if err := sleep(ctx, backoff); err != nil {
			return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// open opens a provider key's secret. [seals.ErrErased] says that what opens it is
// destroyed; any other fault is that it cannot be told now.
func (s *Service) open(ctx context.Context, org events.OrgID, k ProviderKey) (providerkey.Secret, error) {
	if s.cfg.Envelopes == nil {
		return providerkey.Secret{}, ErrNoKEK
	}
	switch secret, err := s.cfg.Envelopes.Open(ctx, k.bound(org), k.Sealed); {
	case err == nil:
		return providerkey.Conceal(secret), nil
	case errors.Is(err, seals.ErrErased), errors.Is(err, events.ErrUnavailable):
		return providerkey.Secret{}, err
	default:
		s.cfg.Logger.ErrorContext(ctx, "a provider key's secret does not open", "organization", string(org), "provider", string(k.Provider), "version", k.Version, "error", err)
		return providerkey.Secret{}, fmt.Errorf("%w: %w", ErrNotOpened, err)
	}
}

// ProviderKey reads a provider key from its own facts, as they are now. One that was
// removed is not there.
func (s *Service) ProviderKey(ctx context.Context, org events.OrgID, id events.ProviderID) (ProviderKey, error) {
	if _, err := events.ParseProviderID(string(id)); err != nil {
		return ProviderKey{}, notFound("provider key")
	}
	var k ProviderKey
	err := s.confirmed(ctx, "", func() (err error) {
		if k, err = s.providerKeyNow(ctx, events.ProviderKeySubject(org, id)); err == nil && !k.Connected {
			err = notFound("provider key")
		}
		return err
	})
	return k, err
}

// maxFolded bounds the provider keys that are kept folded: some kilobytes each.
const maxFolded = 4096

// foldedKeys are provider keys as they were when they were last asked for. The tests
// of a key may be many, and each resolve would read them all.
type foldedKeys struct {
	mu   sync.Mutex
	keys map[events.Subject]ProviderKey
}

func (f *foldedKeys) get(subject events.Subject) ProviderKey {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keys[subject]
}

// keep keeps a key, unless a later state of it is kept.
func (f *foldedKeys) keep(subject events.Subject, k ProviderKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys == nil {
		f.keys = map[events.Subject]ProviderKey{}
	}
	had, there := f.keys[subject]
	if had.Position >= k.Position {
		return
	}
	if !there && len(f.keys) >= maxFolded {
		for other := range f.keys {
			delete(f.keys, other)
			break // none is worth more than another
		}
	}
	f.keys[subject] = k
}

// providerKeyNow reads what is newer than what is kept, and folds it.
func (s *Service) providerKeyNow(ctx context.Context, subject events.Subject) (ProviderKey, error) {
	k := s.folded.get(subject)
	h, err := s.cfg.Log.Load(ctx, subject, k.Position)
	if err != nil {
		return ProviderKey{}, err
	}
	if k, err = k.fold(h); err != nil {
		return ProviderKey{}, err
	}
	s.folded.keep(subject, k)
	return k, nil
}
