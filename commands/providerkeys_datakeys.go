package commands

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/providerkey"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
)

// dropPatience bounds how long a wish that came to nothing goes on destroying what
// was drawn for it. Whoever looks for data keys that no fact names finds the rest.
const dropPatience = 5 * time.Second

// bound is what a provider key's secret is bound to.
func (k ProviderKey) bound(org events.OrgID) seals.Binding {
	return seals.Binding{Org: org, Provider: k.Provider, Version: k.Version, BaseURL: k.BaseURL}
}

// enclosing draws data keys for one wish, one for each attempt: a secret is bound to
// its version, which another wish may have taken meanwhile.
type enclosing struct {
	s        *Service
	org      events.OrgID
	provider events.ProviderID
	dryRun   bool
	drawn    []events.DataKeyID
	// doubtful says that an attempt that something was drawn for met a conflict: while
	// two brokers lead, what one refuses the other may have stored.
	doubtful bool
}

// decide seals a secret for the version that is next, and decides with it. Nothing is
// drawn for what is refused.
func (b *enclosing) decide(ctx context.Context, k ProviderKey, baseURL string, secret providerkey.Secret,
	decide func(events.SealedSecret) ([]events.Event, error),
) ([]events.Event, error) {
	if _, err := decide(events.SealedSecret{}); err != nil {
		return nil, err
	}
	if b.s.cfg.Envelopes == nil {
		return nil, ErrNoKEK
	}
	sealed, err := b.seal(ctx, seals.Binding{Org: b.org, Provider: b.provider, Version: k.NextVersion(), BaseURL: baseURL}, secret)
	if err != nil {
		return nil, err
	}
	return decide(sealed)
}

// seal encrypts a secret with a data key of its own, which is stored then. A dry run
// stores nothing, and shows that something would be sealed.
func (b *enclosing) seal(ctx context.Context, of seals.Binding, secret providerkey.Secret) (events.SealedSecret, error) {
	if b.dryRun {
		out := events.SealedSecret{Secret: "(sealed)", LastFour: "(sealed)"}
		if _, err := rand.Read(out.DataKey[:]); err != nil {
			return events.SealedSecret{}, fmt.Errorf("commands: draw a data key: %w", err)
		}
		return out, nil
	}
	sealed, err := b.s.cfg.Envelopes.Seal(ctx, of, secret.Reveal(), secret.LastFour())
	if err != nil {
		return events.SealedSecret{}, err
	}
	b.drawn = append(b.drawn, sealed.DataKey)
	return sealed, nil
}

// giveUp destroys what was drawn for a wish that is refused. Where a conflict was met
// the ledger is asked before, and confirms what it says.
func (b *enclosing) giveUp(ctx context.Context, subject events.Subject) {
	if !b.doubtful {
		b.drop(ctx, nil)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropPatience)
	defer cancel()
	began := time.Now()
	_, h, err := b.s.loadProviderKey(ctx, subject)
	if err == nil {
		_, err = b.s.cfg.Log.Confirm(ctx, began)
	}
	if err != nil {
		b.s.cfg.Logger.WarnContext(ctx, "data keys that may be sealed with are left for later", "error", err)
		return
	}
	b.drop(ctx, h)
}

// drop destroys what was drawn and is named by none of the facts. It is called when
// it is known that the attempts it was drawn for recorded nothing, or these.
func (b *enclosing) drop(ctx context.Context, facts history) {
	if len(b.drawn) == 0 {
		return
	}
	used := named(facts)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropPatience)
	defer cancel()
	for _, id := range b.drawn {
		if used[id] {
			continue
		}
		if _, err := b.s.cfg.Envelopes.Destroy(ctx, id); err != nil {
			b.s.cfg.Logger.WarnContext(ctx, "a data key that nothing is sealed with is left for later", "data_key", id.String(), "error", err)
		}
	}
	b.drawn = nil
}

// named are the data keys that facts name: of each the secret was sealed with it once.
func named(facts history) map[events.DataKeyID]bool {
	out := map[events.DataKeyID]bool{}
	for _, f := range facts {
		switch e := f.Event.(type) {
		case events.ProviderKeyAdded:
			out[e.Sealed.DataKey] = true
		case events.ProviderKeyReplaced:
			out[e.Sealed.DataKey] = true
		}
	}
	return out
}

// destroyDead destroys what a wish has ended: by its facts, or by those of the one
// before that it repeats.
func (s *Service) destroyDead(ctx context.Context, k ProviderKey, facts history) error {
	var dead []events.DataKeyID
	for _, f := range facts {
		switch e := f.Event.(type) {
		case events.ProviderKeyReplaced:
			dead = append(dead, e.Replaces)
		case events.ProviderKeyRemoved:
			dead = append(dead, e.DataKey)
		}
	}
	if len(facts) == 0 && !k.Connected && !k.Dead.IsZero() {
		// Removed before, by a wish that may not have come to this.
		dead = append(dead, k.Dead)
	}
	if len(dead) > 0 && s.cfg.Envelopes == nil {
		return ErrNoKEK
	}
	for _, id := range dead {
		if _, err := s.cfg.Envelopes.Destroy(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// DestroyDataKeys destroys data keys of a provider key that its own facts say are
// dead: replaced, removed, or of an organization that has ended. It reports whether
// any of them was still there. Any number of servers may do it, at any time; one that
// is still needed, or that no fact of the provider key names, is refused, and nothing
// destroyed then.
func (s *Service) DestroyDataKeys(ctx context.Context, org events.OrgID, id events.ProviderID, ids []events.DataKeyID) (bool, error) {
	if s.cfg.Envelopes == nil {
		return false, ErrNoKEK
	}
	if err := s.confirmed(ctx, "", func() error { return s.refuseAlive(ctx, org, id, ids) }); err != nil {
		return false, err
	}
	destroyed := false
	for _, id := range ids {
		done, err := s.cfg.Envelopes.Destroy(ctx, id)
		if destroyed = destroyed || done; err != nil {
			return destroyed, err
		}
	}
	return destroyed, nil
}

// refuseAlive refuses to destroy data keys that are not known to be dead.
func (s *Service) refuseAlive(ctx context.Context, org events.OrgID, id events.ProviderID, ids []events.DataKeyID) error {
	k, h, err := s.loadProviderKey(ctx, events.ProviderKeySubject(org, id))
	if err != nil {
		return err
	}
	of := named(h)
	if slices.ContainsFunc(ids, func(id events.DataKeyID) bool { return !of[id] }) {
		return domain.Refuse(domain.ErrConflict, "", "no fact of this provider key names such a data key")
	}
	if !k.Connected || !slices.Contains(ids, k.Sealed.DataKey) {
		return nil
	}
	state, _, _, err := s.loadOrganization(ctx, org)
	if err == nil && !state.Ended {
		err = domain.Refuse(domain.ErrConflict, "", "the data key is needed: the provider key is connected")
	}
	return err
}

// Rewrapped tells what became of the data keys of all provider keys.
type Rewrapped struct {
	// Rewrapped were wrapped anew, Current were wrapped by today's key-encryption
	// key, and Failed could not be: they are as they were.
	Rewrapped, Current, Failed int
}

// RewrapProviderKeys wraps all data keys with the key-encryption key of today. No
// fact changes, and each of them opens at every moment. It can be repeated, and after
// a failure has to be.
func (s *Service) RewrapProviderKeys(ctx context.Context, p Principal) (Rewrapped, error) {
	if err := p.authorizeInstallation("rewrapping provider keys"); err != nil {
		return Rewrapped{}, err
	}
	if s.cfg.Envelopes == nil {
		return Rewrapped{}, ErrNoKEK
	}
	keys, err := s.cfg.Envelopes.All(ctx)
	if err != nil {
		return Rewrapped{}, err
	}
	var out Rewrapped
	for _, k := range keys {
		if err := ctx.Err(); err != nil {
			return out, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
		}
		changed, err := false, error(nil)
		if !k.Current {
			changed, err = s.cfg.Envelopes.Rewrap(ctx, k.ID)
		}
		switch {
		case err != nil:
			out.Failed++
			s.cfg.Logger.WarnContext(ctx, "a data key could not be wrapped anew", "data_key", k.ID.String(), "error", err)
		case changed:
			out.Rewrapped++
		default:
			out.Current++
		}
	}
	return out, nil
}
