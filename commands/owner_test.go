package commands_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/domain/period"
	"github.com/keyledger/keyledger/events"
)

// installationKeys lists the installation's own keys, those that begin later too.
func (s *server) installationKeys(context.Context) ([]events.KeyID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []events.KeyID
	for id := range s.keys[events.System] {
		out = append(out, id)
	}
	return out, nil
}

func (w *world) newOwner() keystring.Secret {
	w.Helper()
	secret, err := commands.NewOwner()
	if err != nil {
		w.Fatal(err)
	}
	return secret
}

func (w *world) managementKey(s *server, role events.Role) events.KeyID {
	w.Helper()
	out, err := s.CreateKey(w.ctx, w.by(w.owner), events.System, commands.CreateKey{Create: key.Create{
		Kind: events.KindManagement, Role: role, Scope: events.Scope{AllWorkspaces: true}, Expiry: key.Expiry{In: period.Never},
	}})
	if err != nil {
		w.Fatal(err)
	}
	return out.Key.ID
}

func TestOwnerReset(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	before, _ := s.installationKeys(w.ctx)
	other, auditor := w.managementKey(s, events.RoleOwner), w.managementKey(s, events.RoleAuditor)
	reset := commands.OwnerReset{Owner: w.newOwner(), Reason: "lost", Keys: s.installationKeys}

	// Alone it revokes nobody; told again, it makes no second key.
	first, err := s.ResetOwner(w.ctx, reset)
	if err != nil || len(first.Revoked) != 0 {
		t.Fatal(first, err)
	}
	reset.RevokeOthers, reset.Reason = true, "leaked"
	again, err := s.ResetOwner(w.ctx, reset)
	if err != nil || again.Owner != first.Owner {
		t.Fatal(again, err)
	}
	if want := append(before, other); len(again.Revoked) != 2 || !slices.Contains(again.Revoked, want[0]) || !slices.Contains(again.Revoked, want[1]) {
		t.Errorf("revoked %v, want %v", again.Revoked, want)
	}
	for id, revoked := range map[events.KeyID]bool{first.Owner: false, auditor: false, other: true, before[0]: true} {
		k, err := s.Key(w.ctx, events.System, id)
		if err != nil || k.Revoked != revoked {
			t.Errorf("%s: revoked %t, want %t (%v)", k.Role, k.Revoked, revoked, err)
		}
	}
	k, err := s.Key(w.ctx, events.System, first.Owner)
	if err != nil || k.Role != events.RoleOwner || k.CreatedBy != (events.Actor{Type: events.ActorSystem, Name: "operator"}) ||
		k.Digest.Value != events.DigestValue(keystring.Digest(reset.Owner.Reveal())) {
		t.Errorf("%+v, %v", k, err)
	}
	if k, err := s.Key(w.ctx, events.System, other); err != nil || k.RevocationReason != events.ClearText("leaked") || k.RevokedBy.Name != "operator" {
		t.Errorf("%+v, %v", k, err)
	}
	third, err := s.ResetOwner(w.ctx, reset)
	if err != nil || len(third.Revoked) != 0 || third.Owner != first.Owner {
		t.Error(third, err)
	}
}

// However many make the same key, there is one; and where several end each
// other's, one is left, or somebody is told that none is.
func TestOwnersResetAtOnce(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	same := w.newOwner()
	var wg sync.WaitGroup
	ids := make([]events.KeyID, 8)
	for i := range ids {
		wg.Go(func() {
			out, err := w.server().ResetOwner(w.ctx, commands.OwnerReset{Owner: same, Keys: s.installationKeys})
			if ids[i] = out.Owner; err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(slices.Compact(ids)) != 1 {
		t.Errorf("one key became %v", ids)
	}
	errs, made := make([]error, 4), make([]events.KeyID, 4)
	for i := range errs {
		secret := w.newOwner()
		wg.Go(func() {
			var out commands.OwnerResetOutcome
			out, errs[i] = w.server().ResetOwner(w.ctx, commands.OwnerReset{Owner: secret, RevokeOthers: true, Keys: s.installationKeys})
			made[i] = out.Owner
		})
	}
	wg.Wait()
	// Whoever ended the last of them ended it before it looked at its own.
	live, told := 0, 0
	for i, err := range errs {
		if k, err := s.Key(w.ctx, events.System, made[i]); err != nil {
			t.Error(err)
		} else if !k.Revoked {
			live++
		}
		if errors.Is(err, commands.ErrOwnerRevoked) {
			told++
		} else if err != nil {
			t.Error(err)
		}
	}
	if live == 0 && told == 0 {
		t.Error("nobody is left, and nobody was told")
	}
}

// A key that was revoked while the others were is no way in, and is not told as one.
func TestOwnerRevokedMeanwhile(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	reset := commands.OwnerReset{Owner: w.newOwner(), Reason: "lost", Keys: s.installationKeys}
	made, err := s.ResetOwner(w.ctx, reset)
	if err != nil {
		t.Fatal(err)
	}
	reset.RevokeOthers = true
	reset.Keys = func(ctx context.Context) ([]events.KeyID, error) {
		_, err := s.RevokeKey(ctx, w.by(w.owner), events.System, made.Owner, false)
		return nil, err
	}
	if _, err := s.ResetOwner(w.ctx, reset); !errors.Is(err, commands.ErrOwnerRevoked) {
		t.Error(err)
	}
}

func TestOwnerResetRefusesWhatIsNoKey(t *testing.T) {
	w := newWorld(t)
	if _, err := w.server().ResetOwner(w.ctx, commands.OwnerReset{Owner: keystring.Conceal("no key")}); err == nil {
		t.Error("that was no key")
	}
}

// Whoever runs the installation gets in again, whatever its limit and policy say of
// keys: somebody may have set them to keep everybody out.
func TestOwnerResetYieldsToNoPolicy(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	if _, err := s.UpdateOrganization(w.ctx, w.by(w.owner), events.System, organization.Update{
		MaxKeyLifetime: domain.Some(events.Period("1d")),
		Policy:         domain.Some(events.Policy{ExpiryRequired: true, ExpiryChoices: []events.Period{"1d"}, NameRequired: true}),
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateKey(w.ctx, w.by(w.owner), events.System, commands.CreateKey{Create: key.Create{
		Kind: events.KindManagement, Role: events.RoleOwner, Name: events.ClearText("a"), Scope: events.Scope{AllWorkspaces: true}, Expiry: key.Expiry{In: "1y"},
	}}); !errors.Is(err, domain.ErrLifetimeTooLong) {
		t.Fatalf("the limit does not bind: %v", err)
	}
	out, err := s.ResetOwner(w.ctx, commands.OwnerReset{Owner: w.newOwner(), Reason: "locked out", Keys: s.installationKeys})
	if err != nil {
		t.Fatal(err)
	}
	if k, err := s.Key(w.ctx, events.System, out.Owner); err != nil || k.ExpiresAt != 0 || k.Role != events.RoleOwner {
		t.Errorf("%+v, %v", k.State, err)
	}
}
