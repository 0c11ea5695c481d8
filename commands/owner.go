package commands

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/period"
	"github.com/keyledger/keyledger/events"
)

// maxSweeps bounds how often the owners that there are by now are looked for.
// Whoever still makes new ones while they are revoked holds a server, and not a
// key.
const maxSweeps = 10

// OwnerReset is the wish of whoever runs the broker for a new owner of the
// installation. No key is asked for: it is how one gets back in who has none.
type OwnerReset struct {
	// Owner is the new key, as [NewOwner] drew it. The caller keeps it safe before
	// it wishes: a repetition with the same one goes on where it was.
	Owner  keystring.Secret
	Reason string
	// RevokeOthers revokes every other owner's key of the installation.
	RevokeOthers bool
	// Keys lists the installation's own keys, as of when it is called or later.
	Keys func(ctx context.Context) ([]events.KeyID, error)
}

// OwnerResetOutcome tells what became of it.
type OwnerResetOutcome struct {
	Owner events.KeyID
	// Revoked are those that this wish revoked.
	Revoked []events.KeyID
}

// ErrOwnerRevoked says that the new owner's key has been revoked since it was made.
var ErrOwnerRevoked = fmt.Errorf("%w: the new owner's key has been revoked since", domain.ErrConflict)

// ResetOwner gives the installation a new owner's key. The id of the key is
// derived from its digest: made ready once, it is made once, however often and by
// however many it is wished for.
func (s *Service) ResetOwner(ctx context.Context, r OwnerReset) (OwnerResetOutcome, error) {
	issued, err := issuedTo(r.Owner)
	if err != nil {
		return OwnerResetOutcome{}, err
	}
	w := Wish{
		Principal: Principal{
			Actor: events.Actor{Type: events.ActorSystem, Name: "operator"},
			Org:   events.System, Role: events.RoleOwner, Scope: events.Scope{AllWorkspaces: true},
		},
		Reason: r.Reason, Route: "owner reset", IdempotencyKey: hex.EncodeToString(issued.Digest.Value[:]),
	}
	o, err := s.order(w, string(events.System))
	if err != nil {
		return OwnerResetOutcome{}, err
	}
	if issued.ID, err = o.newKeyID(); err != nil {
		return OwnerResetOutcome{}, err
	}
	if _, err := s.settle(ctx, o, s.create(w, events.System, issued.ID, o, CreateKey{Create: key.Create{
		Issued: issued, Kind: events.KindManagement, Role: events.RoleOwner,
		Name: events.ClearText("owner"), Scope: events.Scope{AllWorkspaces: true}, Expiry: key.Expiry{In: period.Never}, Sovereign: true,
	}})); err != nil {
		return OwnerResetOutcome{}, err
	}
	out := OwnerResetOutcome{Owner: issued.ID}
	w.IdempotencyKey = ""
	if r.RevokeOthers {
		if out.Revoked, err = s.revokeOwners(ctx, w, issued.ID, r.Keys); err != nil {
			return out, err
		}
	}
	// Of two who revoke each other's, both are told.
	made, err := s.loadKey(ctx, events.System, issued.ID)
	if err == nil && made.Revoked {
		err = ErrOwnerRevoked
	}
	return out, err
}

// revokeOwners revokes all owners but one. A key that cannot be revoked keeps
// none of the others from it.
func (s *Service) revokeOwners(ctx context.Context, w Wish, but events.KeyID, list func(context.Context) ([]events.KeyID, error)) ([]events.KeyID, error) {
	var revoked []events.KeyID
	for range maxSweeps {
		ids, err := list(ctx)
		if err != nil {
			return revoked, err
		}
		found, faults := 0, []error(nil)
		for _, id := range ids {
			if id == but {
				continue
			}
			done, err := s.revokeOwner(ctx, w, id)
			if err != nil {
				faults = append(faults, fmt.Errorf("key %s: %w", id, err))
			}
			if done {
				found++
				revoked = append(revoked, id)
			}
		}
		if found == 0 || len(faults) > 0 {
			return revoked, errors.Join(faults...)
		}
	}
	return revoked, fmt.Errorf("%w: new owners appear as fast as they are revoked; stop the servers first", domain.ErrConflict)
}

// revokeOwner revokes a key that is an owner's, unless it is revoked.
func (s *Service) revokeOwner(ctx context.Context, w Wish, id events.KeyID) (bool, error) {
	k, err := s.loadKey(ctx, events.System, id)
	if err != nil || k.Revoked || k.Role != events.RoleOwner {
		return false, err
	}
	_, err = s.RevokeKey(ctx, w, events.System, id, false)
	return err == nil, err
}
