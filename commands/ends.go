package commands

import (
	"context"

	"github.com/keyledger/keyledger/domain/configuration"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/events"
)

// What follows from the ledger by itself, as time passes or an organization ends,
// is this program's own wish. Any number of servers may try; one of them records
// it. None waits for this server's index: what bears on verdicts denies already.

// byItself is such a wish.
func byItself(reason string) Wish {
	return Wish{Principal: Principal{Actor: events.Actor{Type: events.ActorSystem, Name: "expiry"}}, Reason: reason}
}

// ExpireKey records that a key's time has come, if it has. Verdicts deny by the
// time itself, the fact is for those who read and subscribe.
func (s *Service) ExpireKey(ctx context.Context, org events.OrgID, id events.KeyID) (Outcome, error) {
	return s.approach(ctx, org, id, func(_ Key, config configuration.State, now events.Time) key.Command {
		return key.Expire{Now: now, Config: config}
	})
}

// NotifyExpiry gives notice of a key's end, if the organization's policy wants
// one that has come and was not given.
func (s *Service) NotifyExpiry(ctx context.Context, org events.OrgID, id events.KeyID) (Outcome, error) {
	return s.approach(ctx, org, id, func(k Key, config configuration.State, now events.Time) key.Command {
		return key.Notify{Now: now, Config: config, Since: k.NoticedAt}
	})
}

// NoteRotation records that a key has the age at which the organization's policy
// wants it rotated, if it has and that was not told.
func (s *Service) NoteRotation(ctx context.Context, org events.OrgID, id events.KeyID) (Outcome, error) {
	return s.approach(ctx, org, id, func(_ Key, config configuration.State, now events.Time) key.Command {
		return key.NoteRotation{Now: now, Config: config}
	})
}

// approach carries out what a key's passing time asks for.
func (s *Service) approach(ctx context.Context, org events.OrgID, id events.KeyID, command func(Key, configuration.State, events.Time) key.Command) (Outcome, error) {
	o, err := s.order(byItself(""), "")
	if err != nil {
		return Outcome{}, err
	}
	out, _, err := s.note(ctx, o, org, id, func(k Key, config configuration.State) key.Command { return command(k, config, o.now) })
	return out, err
}

// deletedReason is why a key is revoked that its organization's end has denied.
const deletedReason = "the organization was deleted"

// EndKey revokes a key of an organization that has ended, for those who read the
// key's own events: the one fact that ended the organization denies all its keys.
// It needs none of the key's own facts but that there is one, so that a hole in
// them is no hindrance.
func (s *Service) EndKey(ctx context.Context, org events.OrgID, id events.KeyID) (Outcome, error) {
	o, err := s.order(byItself(deletedReason), "")
	if err != nil {
		return Outcome{}, err
	}
	o.under = org
	return s.settle(ctx, o, func(ctx context.Context) (attempt, error) {
		k, last, err := s.loadRevocation(ctx, org, id)
		if err != nil {
			return attempt{}, err
		}
		k.ID = id
		a, err := k.attempt(org, o)
		if err != nil || len(a.done) > 0 {
			return a, err
		}
		a.position = max(a.position, last)
		a.absorbing = true
		if a.cause, a.config = s.cfg.Configuration.end(org); a.cause.IsZero() {
			return a, nil
		}
		return a, revoke(&a, org, k)
	})
}
