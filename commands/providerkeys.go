package commands

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/domain/providerkey"
	"github.com/keyledger/keyledger/events"
)

// ErrNoKEK says that this server has no key-encryption key, so that it neither takes
// providers' secrets nor opens them.
var ErrNoKEK = fmt.Errorf("%w: commands: this server has no key-encryption key for provider keys", events.ErrUnavailable)

// ProviderKey is a provider key as its own facts tell it, with who and when.
type ProviderKey struct {
	providerkey.State
	Org      events.OrgID
	Revision events.Revision
	Position events.Position
	// CreatedAt and CreatedBy are of when the provider was connected, for the last
	// time; ReplacedAt is when its secret was replaced since, if it was.
	CreatedAt  events.Time
	CreatedBy  events.Actor
	ReplacedAt events.Time
}

// apply folds a fact of the key's subject.
func (k ProviderKey) apply(f events.Recorded) ProviderKey {
	if f.Subject.Aggregate != events.AggregateProviderKey {
		return k
	}
	k.State = providerkey.Evolve(k.State, f.Event)
	k.Org, k.Position, k.Revision = f.Subject.Org, f.Position, f.Meta.Revision
	switch f.Event.(type) {
	case events.ProviderKeyAdded:
		k.CreatedAt, k.CreatedBy, k.ReplacedAt = f.Meta.Time, f.Meta.Actor, 0
	case events.ProviderKeyReplaced:
		k.ReplacedAt = f.Meta.Time
	}
	return k
}

// ProviderKeyOutcome tells what a wish did to a provider key.
type ProviderKeyOutcome struct {
	Outcome
	// ProviderKey is the key after it.
	ProviderKey ProviderKey
}

// AddProviderKey is the wish to connect a provider.
type AddProviderKey struct {
	Provider events.ProviderID
	Secret   providerkey.Secret
	Name     string
	// BaseURL is the provider's address, where it has none of its own.
	BaseURL string
	// Force takes a secret of a form that the provider is not known to give out.
	Force bool
}

// UpdateProviderKey is the wish to change a provider key.
type UpdateProviderKey struct {
	Name domain.Optional[string]
	// Secret takes the place of the one before; the zero Secret leaves that.
	Secret providerkey.Secret
	// BaseURL goes with a secret alone: with the one that is kept it would be sent
	// to whatever host an administrator names.
	BaseURL domain.Optional[string]
	// Force is that of [AddProviderKey].
	Force bool
}

// MaySeeProviderKeys tells whether a principal may see what an organization has of
// providers: its owners and admins, who manage all of it.
func (s *Service) MaySeeProviderKeys(p Principal, org events.OrgID) error {
	if err := p.authorizeOrg(org); err != nil {
		return err
	}
	return refuseSystem(org)
}

// MayTestProviderKeys tells whether a principal may have a provider asked about a key
// that is not saved.
func (s *Service) MayTestProviderKeys(ctx context.Context, p Principal, org events.OrgID) error {
	if err := s.MaySeeProviderKeys(p, org); err != nil {
		return err
	}
	return s.confirmed(ctx, org, func() error {
		if err := s.refuseOrg(org); err != nil {
			return err
		}
		return providerkey.RefusePlan(s.plan(org))
	})
}

func refuseSystem(org events.OrgID) error {
	if org == events.System {
		return domain.Refuse(domain.ErrInvalid, "", "the installation's own organization has management keys only")
	}
	return nil
}

// plan is an organization's, as far as this server knows.
func (s *Service) plan(org events.OrgID) events.Plan {
	own, _ := s.cfg.Configuration.standing(org)
	return own.Plan
}

// AddProviderKey connects a provider: its secret is encrypted, and what opens it
// stored, before the fact is recorded.
func (s *Service) AddProviderKey(ctx context.Context, w Wish, org events.OrgID, c AddProviderKey) (ProviderKeyOutcome, error) {
	if err := s.authorizeWithin(ctx, w, org); err != nil {
		return ProviderKeyOutcome{}, err
	}
	if _, err := events.ParseProviderID(string(c.Provider)); err != nil {
		return ProviderKeyOutcome{}, providerkey.RefuseProvider(string(c.Provider))
	}
	if err := refuseHeld(w, c.Secret, c.Name, c.BaseURL); err != nil {
		return ProviderKeyOutcome{}, err
	}
	if err := providerkey.CheckSecret(c.Provider, c.Secret, c.Force); err != nil {
		return ProviderKeyOutcome{}, err
	}
	baseURL, err := provider.BaseURL(c.Provider, c.BaseURL)
	if err != nil {
		return ProviderKeyOutcome{}, err
	}
	return s.changeProviderKey(ctx, w, org, c.Provider, func(ctx context.Context, k ProviderKey, box *enclosing) ([]events.Event, error) {
		return box.decide(ctx, k, baseURL, c.Secret, func(sealed events.SealedSecret) ([]events.Event, error) {
			return providerkey.Decide(k.State, providerkey.Add{
				Plan: s.plan(org), Provider: c.Provider, Name: events.ClearText(c.Name), BaseURL: baseURL, Sealed: sealed,
			})
		})
	})
}

// UpdateProviderKey changes a provider key's name, or replaces its secret. When it is
// answered the secret before opens nowhere any more. With [ErrNotDestroyed] the
// replacement is recorded and in force; to repeat the wish under its idempotency key
// finishes it, and so does whoever follows the ledger.
func (s *Service) UpdateProviderKey(ctx context.Context, w Wish, org events.OrgID, id events.ProviderID, c UpdateProviderKey) (ProviderKeyOutcome, error) {
	if err := s.authorizeWithin(ctx, w, org); err != nil {
		return ProviderKeyOutcome{}, err
	}
	if _, err := events.ParseProviderID(string(id)); err != nil {
		return ProviderKeyOutcome{}, notFound("provider key")
	}
	if err := refuseHeld(w, c.Secret, c.Name.Value, c.BaseURL.Value); err != nil {
		return ProviderKeyOutcome{}, err
	}
	if c.BaseURL.Set && c.Secret.IsZero() {
		return ProviderKeyOutcome{}, domain.Refuse(domain.ErrInvalid, "base_url", "can be changed together with the secret only, which would be sent to another host otherwise")
	}
	if !c.Secret.IsZero() {
		if err := providerkey.CheckSecret(id, c.Secret, c.Force); err != nil {
			return ProviderKeyOutcome{}, err
		}
	}
	if c.BaseURL.Set {
		var err error
		if c.BaseURL.Value, err = provider.BaseURL(id, c.BaseURL.Value); err != nil {
			return ProviderKeyOutcome{}, err
		}
	}
	return s.changeProviderKey(ctx, w, org, id, func(ctx context.Context, k ProviderKey, box *enclosing) ([]events.Event, error) {
		var out []events.Event
		if c.Name.Set || c.Secret.IsZero() {
			rename := providerkey.Rename{Name: events.ClearText(c.Name.Value), Insist: c.Name.Set && w.insists()}
			if !c.Name.Set {
				rename.Name = k.Name
			}
			var err error
			if out, err = providerkey.Decide(k.State, rename); err != nil || c.Secret.IsZero() {
				return out, err
			}
		}
		baseURL := c.BaseURL.Or(k.BaseURL)
		replaced, err := box.decide(ctx, k, baseURL, c.Secret, func(sealed events.SealedSecret) ([]events.Event, error) {
			return providerkey.Decide(k.State, providerkey.Replace{Plan: s.plan(org), BaseURL: baseURL, Sealed: sealed})
		})
		return append(out, replaced...), err
	})
}

// RemoveProviderKey disconnects a provider. When it is answered its secret opens
// nowhere any more: not from the ledger, an export, or a backup. With
// [ErrNotDestroyed] the removal is recorded and in force; to repeat the wish finishes
// it, and so does whoever follows the ledger.
func (s *Service) RemoveProviderKey(ctx context.Context, w Wish, org events.OrgID, id events.ProviderID) (ProviderKeyOutcome, error) {
	if err := s.authorizeWithin(ctx, w, org); err != nil {
		return ProviderKeyOutcome{}, err
	}
	if _, err := events.ParseProviderID(string(id)); err != nil {
		return ProviderKeyOutcome{}, notFound("provider key")
	}
	if s.cfg.Envelopes == nil {
		// It could not be answered as what it is: done for good.
		return ProviderKeyOutcome{}, ErrNoKEK
	}
	return s.changeProviderKey(ctx, w, org, id, func(_ context.Context, k ProviderKey, _ *enclosing) ([]events.Event, error) {
		return providerkey.Decide(k.State, providerkey.Remove{})
	})
}

// RecordProviderTest records what a test of the saved key came to, unless its secret
// was replaced since: of that one there is nothing to tell any more, and the outcome
// has no facts.
func (s *Service) RecordProviderTest(ctx context.Context, w Wish, org events.OrgID, id events.ProviderID, t providerkey.Test) (ProviderKeyOutcome, error) {
	if err := s.authorizeWithin(ctx, w, org); err != nil {
		return ProviderKeyOutcome{}, err
	}
	if _, err := events.ParseProviderID(string(id)); err != nil {
		return ProviderKeyOutcome{}, notFound("provider key")
	}
	return s.changeProviderKey(ctx, w, org, id, func(_ context.Context, k ProviderKey, _ *enclosing) ([]events.Event, error) {
		return providerkey.Decide(k.State, providerkey.NoteTest{Test: t})
	})
}

// changeProviderKey carries a wish about a provider key out: what is drawn for it is
// stored before the fact, and what the fact ends destroyed after it.
func (s *Service) changeProviderKey(ctx context.Context, w Wish, org events.OrgID, id events.ProviderID,
	decide func(context.Context, ProviderKey, *enclosing) ([]events.Event, error),
) (ProviderKeyOutcome, error) {
	subject := events.ProviderKeySubject(org, id)
	o, err := s.order(w, subject.String())
	if err != nil {
		return ProviderKeyOutcome{}, err
	}
	o.under = org
	box := &enclosing{s: s, org: org, provider: id, dryRun: w.DryRun}
	var k ProviderKey
	out, err := s.settle(ctx, o, func(ctx context.Context) (a attempt, err error) {
		// What a conflict was met with may be stored all the same.
		box.doubtful = len(box.drawn) > 0
		k, a, err = s.attemptProviderKey(ctx, o, subject, func(k ProviderKey) ([]events.Event, error) {
			// It may have ended since the wish came: what is drawn then is for nobody.
			if err := s.refuseOrg(org); err != nil {
				return nil, err
			}
			return decide(ctx, k, box)
		})
		return a, err
	})
	switch {
	case errors.Is(err, events.ErrOutcomeUnknown):
		// What was drawn may be what the ledger names.
		return ProviderKeyOutcome{}, err
	case err != nil:
		box.giveUp(ctx, subject)
		return ProviderKeyOutcome{}, err
	}
	after := ProviderKeyOutcome{Outcome: out, ProviderKey: k.after(out)}
	if w.DryRun {
		return after, nil
	}
	box.drop(ctx, out.Facts)
	if err := s.destroyDead(ctx, after.ProviderKey, out.Facts); err != nil {
		return after, fmt.Errorf("%w: %w", ErrNotDestroyed, err)
	}
	after.Outcome = s.answer(ctx, o, out)
	return after, nil
}

// attemptProviderKey reads a provider key, and decides on it unless the wish was
// fulfilled before.
func (s *Service) attemptProviderKey(ctx context.Context, o order, subject events.Subject, decide func(ProviderKey) ([]events.Event, error)) (ProviderKey, attempt, error) {
	k, h, err := s.loadProviderKey(ctx, subject)
	if err != nil {
		return k, attempt{}, err
	}
	a := attempt{histories: map[events.Subject]history{subject: h}, revision: h.revision(), position: h.last()}
	if a.done, err = h.own(o); err != nil || len(a.done) > 0 {
		return k, a, err
	}
	a.config = s.cfg.Configuration.position()
	facts, err := decide(k)
	for _, e := range facts {
		a.facts = append(a.facts, placed{subject: subject, event: e})
	}
	return k, a, err
}

// after is the key after a wish.
func (k ProviderKey) after(out Outcome) ProviderKey {
	if out.Replayed {
		return k // it was loaded with them
	}
	for _, f := range out.Facts {
		k = k.apply(f)
	}
	return k
}

// loadProviderKey reads and folds a provider key's facts.
func (s *Service) loadProviderKey(ctx context.Context, subject events.Subject) (ProviderKey, history, error) {
	var k ProviderKey
	h, err := s.cfg.Log.Load(ctx, subject, 0)
	if err != nil {
		return k, nil, err
	}
	k, err = k.fold(h)
	return k, h, err
}

// fold folds what was loaded. A fact that is not understood, and says that it
// matters, refuses every decision.
func (k ProviderKey) fold(h history) (ProviderKey, error) {
	for _, f := range h {
		switch f.Event.(type) {
		case events.Unknown, events.Malformed:
			if events.Bears(f.Event) {
				return k, domain.Refuse(domain.ErrConflict, "", "a fact of the provider key is not understood by this version; update the server")
			}
		}
		k = k.apply(f)
	}
	return k, nil
}

// refuseHeld refuses a wish that repeats the secret in a field that is stored, or
// hashed for ever.
func refuseHeld(w Wish, secret providerkey.Secret, name, baseURL string) error {
	spelled := baseURL
	if plain, err := url.PathUnescape(baseURL); err == nil {
		spelled += "\n" + plain
	}
	for field, text := range map[string]string{
		"name": name, "base_url": spelled, "reason": w.Reason, "ticket": w.Ticket, "request id": w.RequestID, "Idempotency-Key": w.IdempotencyKey,
	} {
		if secret.In(text) {
			return domain.Refuse(domain.ErrSecretInField, field, "holds the secret itself, which belongs in no other field")
		}
	}
	return nil
}
