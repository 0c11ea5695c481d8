package commands_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/events"
)

func TestALimitIsExactUnderConcurrency(t *testing.T) {
	for _, n := range []int{1, 2} {
		t.Run(fmt.Sprint(n, " servers"), func(t *testing.T) {
			w := newWorld(t)
			servers := make([]*server, n)
			for i := range servers {
				servers[i] = w.server()
			}
			w.acme(servers[0], events.Limits{MaxActiveKeys: 10})
			for _, s := range servers {
				if err := s.await(w.ctx, w.last()); err != nil {
					t.Fatal(err)
				}
			}
			var (
				wg            sync.WaitGroup
				made, refused atomic.Int32
			)
			for i := range 64 {
				wg.Go(func() {
					_, err := servers[i%n].CreateKey(w.ctx, w.by(w.owner), acme, plain())
					for errors.Is(err, events.ErrUnavailable) {
						// It lost too often against the other server, and says that a retry is safe.
						_, err = servers[i%n].CreateKey(w.ctx, w.by(w.owner), acme, plain())
					}
					switch {
					case err == nil:
						made.Add(1)
					case errors.Is(err, domain.ErrKeyLimitReached):
						refused.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if made.Load() != 10 || refused.Load() != 54 || len(w.born(acme)) != 10 {
				t.Errorf("%d made, %d refused, %d in the ledger", made.Load(), refused.Load(), len(w.born(acme)))
			}
			checkQuota(t, w, 10)
		})
	}
}

// checkQuota holds every fact of the guard to the limit and to the keys there were.
func checkQuota(t *testing.T, w *world, limit int) {
	t.Helper()
	born := map[events.KeyID]bool{}
	for _, f := range w.all() {
		switch e := f.Event.(type) {
		case events.KeyCreated:
			born[e.ID] = true
		case events.QuotaChanged:
			if len(e.Holders) > limit || e.Limit != limit {
				t.Fatalf("position %d: %d hold %d of %d places", f.Position, len(e.Holders), e.Limit, limit)
			}
			for i, id := range e.Holders {
				if slices.Contains(e.Holders[:i], id) {
					t.Fatalf("position %d: %s holds two places", f.Position, id)
				}
			}
		}
	}
}

func TestAFullLimitLetsInWhoReplacesTheEnded(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{MaxActiveKeys: 2})
	full := func() {
		t.Helper()
		if _, err := s.CreateKey(w.ctx, w.by(w.owner), acme, plain()); !errors.Is(err, domain.ErrKeyLimitReached) {
			t.Fatalf("a place too many: %v", err)
		}
	}
	first := w.create(s, acme, plain()).Key
	c := plain()
	c.Expiry.In = "7d"
	w.create(s, acme, c)
	full()
	// Management keys take no place.
	w.create(s, acme, management(events.RoleMember))
	// Switched off is not given up.
	if _, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, first.ID, key.Update{Status: domain.Some(events.StatusInactive)}); err != nil {
		t.Fatal(err)
	}
	full()
	if _, err := s.RevokeKey(w.ctx, w.by(w.owner), acme, first.ID, false); err != nil {
		t.Fatal(err)
	}
	w.create(s, acme, plain())
	full()
	w.advance(8 * 24 * time.Hour)
	w.create(s, acme, plain())
	full()
	checkQuota(t, w, 2)
}

// The view of holders only says where to look: without it the rule is the same.
func TestEndedHoldersAreFoundWithoutAView(t *testing.T) {
	for name, holders := range map[string][]events.KeyID{"fails": nil, "lists none": {}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.server()
			w.acme(s, events.Limits{MaxActiveKeys: 2})
			first := w.create(s, acme, plain()).Key
			w.create(s, acme, plain())
			blind := w.server(func(c *commands.Config) {
				c.Holders = fixedHolders(holders)
			})
			if _, err := blind.CreateKey(w.ctx, w.by(w.owner), acme, plain()); !errors.Is(err, domain.ErrKeyLimitReached) {
				t.Fatal(err)
			}
			if _, err := blind.RevokeKey(w.ctx, w.by(w.owner), acme, first.ID, false); err != nil {
				t.Fatal(err)
			}
			w.create(blind, acme, plain())
			checkQuota(t, w, 2)
		})
	}
}

func TestRotationUnderALimit(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{MaxActiveKeys: 2})
	w.create(s, acme, plain())
	k := w.create(s, acme, plain()).Key
	out, err := s.RotateKey(w.ctx, w.by(w.owner), acme, k.ID, commands.RotateKey{Grace: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if out.Previous.HoldsPlace(events.TimeOf(w.now())) || !out.Key.HoldsPlace(events.TimeOf(w.now())) {
		t.Error("the predecessor holds a place, or its successor none")
	}
	if out.Previous.Status(events.TimeOf(w.now())) != events.StatusActive || out.Secret.IsZero() || out.Key.RotatedFrom != k.ID {
		t.Errorf("%+v", out)
	}
	if _, err := s.CreateKey(w.ctx, w.by(w.owner), acme, plain()); !errors.Is(err, domain.ErrKeyLimitReached) {
		t.Fatal(err)
	}
	// Neither a lowered limit nor a successor of a successor is in the way.
	if _, err := s.UpdateOrganization(w.ctx, w.by(w.owner), acme, organization.Update{Limits: domain.Some(events.Limits{MaxActiveKeys: 1})}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RotateKey(w.ctx, w.by(w.owner), acme, out.Key.ID, commands.RotateKey{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RotateKey(w.ctx, w.by(w.owner), acme, k.ID, commands.RotateKey{}); !errors.Is(err, domain.ErrAlreadyRotated) {
		t.Fatal(err)
	}
}

// A limit that is set later counts the keys that are there.
func TestALimitThatIsSetLater(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	first := w.create(s, acme, plain()).Key
	w.create(s, acme, plain())
	limit := func(n int) {
		t.Helper()
		if _, err := s.UpdateOrganization(w.ctx, w.by(w.owner), acme, organization.Update{Limits: domain.Some(events.Limits{MaxActiveKeys: n})}); err != nil {
			t.Fatal(err)
		}
	}
	refused := func() {
		t.Helper()
		if _, err := s.CreateKey(w.ctx, w.by(w.owner), acme, plain()); !errors.Is(err, domain.ErrKeyLimitReached) {
			t.Fatal(err)
		}
	}
	limit(2)
	refused()
	limit(3)
	w.create(s, acme, plain())
	refused()
	limit(0)
	w.create(s, acme, plain())
	limit(4)
	refused()
	if _, err := s.RevokeKey(w.ctx, w.by(w.owner), acme, first.ID, false); err != nil {
		t.Fatal(err)
	}
	w.create(s, acme, plain())
	refused()
}

// A key that was made by whoever did not know of the limit yet counts like every
// other, from when it is there.
func TestAKeyBornWhileALimitIsSetCounts(t *testing.T) {
	set := func(w *world, s *server, n int) {
		t.Helper()
		if _, err := s.UpdateOrganization(w.ctx, w.by(w.owner), acme, organization.Update{MaxActiveKeys: domain.Some(n)}); err != nil {
			t.Error(err)
		}
	}
	check := func(t *testing.T, w *world, s *server, limit int) {
		t.Helper()
		if err := s.await(w.ctx, w.last()); err != nil {
			t.Fatal(err)
		}
		for len(s.holders(acme, w.now())) < limit {
			w.create(s, acme, plain())
		}
		keys := s.holders(acme, w.now())
		if len(keys) != limit {
			t.Fatalf("%d keys under a limit of %d", len(keys), limit)
		}
		if _, err := s.CreateKey(w.ctx, w.by(w.owner), acme, plain()); !errors.Is(err, domain.ErrKeyLimitReached) {
			t.Fatalf("a place too many: %v", err)
		}
		// Whichever of them goes, its place is free, and only that.
		for _, id := range keys {
			if _, err := s.RevokeKey(w.ctx, w.by(w.owner), acme, id, false); err != nil {
				t.Fatal(err)
			}
			w.create(s, acme, plain())
			if _, err := s.CreateKey(w.ctx, w.by(w.owner), acme, plain()); !errors.Is(err, domain.ErrKeyLimitReached) {
				t.Fatalf("a place too many: %v", err)
			}
		}
	}
	t.Run("after the limit", func(t *testing.T) {
		w := newWorld(t)
		s := w.server()
		w.acme(s, events.Limits{})
		w.create(s, acme, plain())
		log := &between{Ledger: w.memory}
		slow := w.server(func(c *commands.Config) { c.Log = log })
		log.do = func() { set(w, s, 3) }
		w.create(slow, acme, plain())
		check(t, w, s, 3)
	})
	t.Run("while the holders are listed", func(t *testing.T) {
		w := newWorld(t)
		s := w.server()
		w.acme(s, events.Limits{})
		w.create(s, acme, plain())
		other := w.server(func(c *commands.Config) {
			holders := c.Holders
			first := true
			c.Holders = func(ctx context.Context, org events.OrgID) ([]events.KeyID, error) {
				out, err := holders(ctx, org)
				if first {
					first = false
					w.create(s, acme, plain())
				}
				return out, err
			}
		})
		set(w, other, 3)
		check(t, w, s, 3)
	})
	t.Run("before a rotation", func(t *testing.T) {
		w := newWorld(t)
		s := w.server()
		w.acme(s, events.Limits{})
		k := w.create(s, acme, plain()).Key
		log := &between{Ledger: w.memory}
		slow := w.server(func(c *commands.Config) { c.Log = log })
		log.do = func() { set(w, s, 2) }
		w.create(slow, acme, plain())
		if err := s.await(w.ctx, w.last()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.RotateKey(w.ctx, w.by(w.owner), acme, k.ID, commands.RotateKey{}); err != nil {
			t.Fatal(err)
		}
		check(t, w, s, 2)
	})
	t.Run("with nobody to tell", func(t *testing.T) {
		w := newWorld(t)
		s := w.server()
		w.acme(s, events.Limits{})
		log := &between{Ledger: w.memory}
		slow := w.server(func(c *commands.Config) { c.Log = log })
		log.do = func() { set(w, s, 2) }
		w.create(slow, acme, plain())
		blind := w.server(func(c *commands.Config) { c.Holders = fixedHolders(nil) })
		if _, err := blind.CreateKey(w.ctx, w.by(w.owner), acme, plain()); !errors.Is(err, events.ErrUnavailable) {
			t.Fatalf("it guessed: %v", err)
		}
	})
}

// Whoever sees a part of the keys is not told how many there are.
func TestAFullLimitTellsNobodyWhatTheyMayNotSee(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{MaxActiveKeys: 7})
	for range 7 {
		w.create(s, acme, plain())
	}
	for name, p := range map[string]commands.Principal{"all": w.owner, "scoped": principal(acme, events.RoleAdmin, "a")} {
		_, err := s.CreateKey(w.ctx, w.by(p), acme, plain("a"))
		if !errors.Is(err, domain.ErrKeyLimitReached) || strings.Contains(err.Error(), "7") != (name == "all") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// However they race: no successor is born after its predecessor's revocation.
func TestRotateAgainstRevoke(t *testing.T) {
	w := newWorld(t)
	servers := []*server{w.server(), w.server()}
	w.acme(servers[0], events.Limits{MaxActiveKeys: 1000})
	if err := servers[1].await(w.ctx, w.last()); err != nil {
		t.Fatal(err)
	}
	rotated, cascaded := 0, 0
	for round := range 120 {
		k := w.create(servers[0], acme, plain()).Key
		cascade := round%2 == 0
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := servers[0].RotateKey(w.ctx, w.by(w.owner), acme, k.ID, commands.RotateKey{Grace: time.Hour})
			if err != nil && !errors.Is(err, domain.ErrEnded) {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if out, err := servers[1].RevokeKey(w.ctx, w.by(w.owner), acme, k.ID, cascade); err != nil || !out.Key.Revoked {
				t.Errorf("%+v, %v", out.Key, err)
			}
		})
		wg.Wait()
		old, err := servers[0].Key(w.ctx, acme, k.ID)
		if err != nil || !old.Revoked {
			t.Fatalf("%+v, %v", old, err)
		}
		if old.RotatedTo.IsZero() {
			continue
		}
		rotated++
		next, err := servers[0].Key(w.ctx, acme, old.RotatedTo)
		if err != nil {
			t.Fatal(err)
		}
		if cascade {
			cascaded++
			if !next.Revoked {
				t.Fatalf("round %d: a successor outlives a cascade", round)
			}
		}
	}
	revoked := map[events.KeyID]events.Position{}
	for _, f := range w.all() {
		id, _ := f.Subject.Key()
		switch e := f.Event.(type) {
		case events.KeyRevoked:
			revoked[id] = f.Position
		case events.KeyCreated:
			if at, ok := revoked[e.RotatedFrom]; ok && !e.RotatedFrom.IsZero() {
				t.Fatalf("position %d: a successor of a key that was revoked at %d", f.Position, at)
			}
		}
	}
	t.Logf("%d rotations came first, %d of them were cascaded onto", rotated, cascaded)
}

// A cascade meets a successor that is born between its look and its revocation.
func TestCascadeOntoASuccessorBornMeanwhile(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	k := w.create(s, acme, plain()).Key
	log := &between{Ledger: w.memory}
	slow := w.server(func(c *commands.Config) { c.Log = log })
	log.do = func() {
		if _, err := s.RotateKey(w.ctx, w.by(w.owner), acme, k.ID, commands.RotateKey{Grace: time.Hour}); err != nil {
			t.Error(err)
		}
	}
	out, err := slow.RevokeKey(w.ctx, w.by(w.owner), acme, k.ID, true)
	if err != nil || len(out.Facts) != 2 {
		t.Fatalf("%+v, %v", out, err)
	}
	old, err := s.Key(w.ctx, acme, k.ID)
	if err != nil || old.RotatedTo.IsZero() {
		t.Fatalf("%+v, %v", old, err)
	}
	if next, err := s.Key(w.ctx, acme, old.RotatedTo); err != nil || !next.Revoked {
		t.Fatalf("%+v, %v", next, err)
	}
}

func TestCascadeFollowsAllSuccessors(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	ids := []events.KeyID{w.create(s, acme, plain()).Key.ID}
	for range 4 {
		out, err := s.RotateKey(w.ctx, w.by(w.owner), acme, ids[len(ids)-1], commands.RotateKey{Grace: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, out.Key.ID)
	}
	// The second alone: its successors live on.
	if _, err := s.RevokeKey(w.ctx, w.by(w.owner), acme, ids[1], false); err != nil {
		t.Fatal(err)
	}
	if k, err := s.Key(w.ctx, acme, ids[2]); err != nil || k.Revoked {
		t.Fatalf("%+v, %v", k, err)
	}
	out, err := s.RevokeKey(w.ctx, w.by(w.owner), acme, ids[0], true)
	if err != nil || len(out.Facts) != 4 {
		t.Fatalf("%+v, %v", out, err)
	}
	for _, id := range ids {
		if k, err := s.Key(w.ctx, acme, id); err != nil || !k.Revoked {
			t.Errorf("%+v, %v", k, err)
		}
	}
	if again, err := s.RevokeKey(w.ctx, w.by(w.owner), acme, ids[0], true); err != nil || len(again.Facts) != 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
}
