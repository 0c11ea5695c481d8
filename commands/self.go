package commands

import (
	"context"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// RevokeSelf ends the very key that wishes it, of whatever kind and status: whoever
// holds a secret may give it up, and nothing else by this. That the wish comes from
// who holds it is for the caller to have shown; its principal is that key.
//
// An owner's key is not ended so: a copy of it that leaked could lock its owners
// out.
func (s *Service) RevokeSelf(ctx context.Context, w Wish) (KeyOutcome, error) {
	org, id := w.Principal.Org, w.Principal.Actor.Key
	if w.Principal.Actor != (events.Actor{Type: events.ActorKey, Org: org, Key: id}) || id.IsZero() {
		return KeyOutcome{}, forbidden("only a key ends itself")
	}
	o, err := s.order(w, events.RevokedSubject(org, id).String())
	if err != nil {
		return KeyOutcome{}, err
	}
	var k loadedKey
	out, err := s.run(ctx, o, func(ctx context.Context) (attempt, error) {
		if k, err = s.loadToRevoke(ctx, org, id); err != nil {
			return attempt{}, err
		}
		k.ID = id
		a, err := k.attempt(org, o)
		if err != nil || len(a.done) > 0 {
			return a, err
		}
		if !k.Revoked && (w.Principal.Role == events.RoleOwner || k.Role == events.RoleOwner) {
			return a, domain.Refuse(domain.ErrLastOwner, "", "a management key of role owner cannot revoke itself, so that nobody is locked out; let another owner revoke it, or use owner reset")
		}
		a.absorbing = true
		a.config = s.cfg.Configuration.position()
		return a, revoke(&a, org, k)
	})
	if err != nil {
		return KeyOutcome{}, err
	}
	return KeyOutcome{Outcome: out, Key: k.after(out)}, nil
}
