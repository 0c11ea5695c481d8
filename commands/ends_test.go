package commands_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/events"
)

// tryAll lets all servers try at once, each more than once.
func (w *world) tryAll(id events.KeyID, do func(*server, context.Context, events.OrgID, events.KeyID) (commands.Outcome, error), servers ...*server) {
	w.Helper()
	var wg sync.WaitGroup
	for _, s := range servers {
		for range 3 {
			wg.Go(func() {
				if _, err := do(s, w.ctx, acme, id); err != nil {
					w.Error(err)
				}
			})
		}
	}
	wg.Wait()
}

// rotations are what was told of a key's rotation.
func (w *world) rotations(id events.KeyID) []events.KeyRotationDue {
	w.Helper()
	var out []events.KeyRotationDue
	for _, f := range w.all() {
		e, ok := f.Event.(events.KeyRotationDue)
		if found, _ := f.Subject.Key(); !ok || found != id {
			continue
		}
		if f.Meta.Actor.String() != "system/expiry" || f.Meta.ConfigPosition == 0 || e.DueAt > f.Meta.Time {
			w.Errorf("told by %s under %d at %s of %s", f.Meta.Actor, f.Meta.ConfigPosition, f.Meta.Time, e.DueAt)
		}
		out = append(out, e)
	}
	return out
}

func TestNoteRotation(t *testing.T) {
	w := newWorld(t)
	s, other := w.server(), w.server()
	w.acme(s, events.Limits{})
	policy := func(age events.Period) {
		t.Helper()
		if _, err := s.UpdateOrganization(w.ctx, w.by(w.owner), acme, organization.Update{RotationDueAfter: domain.Some(age)}); err != nil {
			t.Fatal(err)
		}
		if err := other.await(w.ctx, w.last()); err != nil {
			t.Fatal(err)
		}
	}
	ends := plain()
	ends.Expiry.In = "60d"
	keys := map[string]events.KeyID{
		"plain": w.create(s, acme, plain()).Key.ID, "off": w.create(s, acme, plain()).Key.ID, "manages": w.create(s, acme, management(events.RoleMember)).Key.ID,
		"rotated": w.create(s, acme, plain()).Key.ID, "revoked": w.create(s, acme, plain()).Key.ID, "ends": w.create(s, acme, ends).Key.ID,
	}
	if _, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, keys["off"], key.Update{Status: domain.Some(events.StatusInactive)}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RotateKey(w.ctx, w.by(w.owner), acme, keys["rotated"], commands.RotateKey{Grace: 200 * day}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RevokeKey(w.ctx, w.by(w.owner), acme, keys["revoked"], false); err != nil {
		t.Fatal(err)
	}
	expect := func(when string, want map[string][]events.Period) {
		t.Helper()
		for name, id := range keys {
			w.tryAll(id, func(s *server, ctx context.Context, org events.OrgID, id events.KeyID) (commands.Outcome, error) {
				return s.NoteRotation(ctx, org, id)
			}, s, other)
			var got []events.Period
			for _, e := range w.rotations(id) {
				got = append(got, e.After)
			}
			if len(got) != len(want[name]) {
				t.Fatalf("%s, %s: %v, want %v", when, name, got, want[name])
			}
			for i := range got {
				if got[i] != want[name][i] {
					t.Fatalf("%s, %s: %v, want %v", when, name, got, want[name])
				}
			}
		}
	}
	told := func(ages ...events.Period) map[string][]events.Period {
		return map[string][]events.Period{"plain": ages, "off": ages, "manages": ages}
	}
	expect("at first", nil)
	w.advance(90*day - time.Minute)
	expect("right before", nil)
	w.advance(time.Minute + time.Second)
	expect("after 90 days, which nobody set", told("90d"))
	policy("30d")
	expect("earlier than was told", told("90d"))
	policy("3mo")
	expect("later, and not yet", told("90d"))
	w.advance(4 * day)
	expect("later", told("90d", "3mo"))
	policy("never")
	w.advance(400 * day)
	expect("never", told("90d", "3mo"))
}

// holed is a ledger with a hole in the histories of keys, where revoking one takes
// a while.
type holed struct {
	*between
	holes map[events.Subject]bool
	each  [][]events.Entry
	mu    sync.Mutex
}

func (h *holed) Load(ctx context.Context, s events.Subject, after events.Position) ([]events.Recorded, error) {
	if h.holes[s] {
		return nil, events.ErrCorrupt
	}
	return h.between.Load(ctx, s, after)
}

// Append takes as long as others need to come.
func (h *holed) Append(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	if entries[0].Event.Kind() == events.KindKeyRevoked {
		time.Sleep(5 * time.Millisecond)
	}
	return h.between.Append(ctx, entries)
}

func (h *holed) AppendEach(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	h.mu.Lock()
	h.each = append(h.each, entries)
	h.mu.Unlock()
	return h.between.AppendEach(ctx, entries)
}

// TestEndKey: what an organization's end denies is revoked key by key, once,
// whoever tries, and whatever else happens to the key.
func TestEndKey(t *testing.T) {
	w := newWorld(t)
	log := &holed{between: &between{Ledger: w.memory}, holes: map[events.Subject]bool{}}
	w.log = log
	s, other := w.server(), w.server()
	w.acme(s, events.Limits{})
	end := func(s *server, ctx context.Context, org events.OrgID, id events.KeyID) (commands.Outcome, error) {
		return s.EndKey(ctx, org, id)
	}
	for range 40 {
		w.create(s, acme, plain())
	}
	short := plain()
	short.Expiry.In = "1d"
	expired := w.create(s, acme, short).Key.ID
	manager := w.create(s, acme, management(events.RoleAdmin)).Key.ID
	revoked, torn := w.create(s, acme, plain()).Key.ID, w.create(s, acme, plain()).Key.ID
	if _, err := s.RevokeKey(w.ctx, w.by(w.owner), acme, revoked, false); err != nil {
		t.Fatal(err)
	}
	log.holes[events.KeySubject(acme, torn)] = true
	w.advance(2 * day)
	if _, err := s.ExpireKey(w.ctx, acme, expired); err != nil {
		t.Fatal(err)
	}
	before := w.last()
	for _, id := range []events.KeyID{expired, manager, torn, revoked} {
		w.tryAll(id, end, s, other)
	}
	if w.last() != before {
		t.Fatal("a key was revoked of an organization that lives")
	}
	if _, err := s.EndKey(w.ctx, acme, events.KeyID{1}); !errors.Is(err, domain.ErrNotFound) && err != nil {
		t.Fatal(err)
	}

	// The last is decided before the end and stored after it.
	var deleted commands.Outcome
	log.do = func() {
		var err error
		if deleted, err = other.DeleteOrganization(w.ctx, w.by(w.owner), acme); err != nil {
			t.Error(err)
		}
	}
	late := w.create(s, acme, plain()).Key.ID
	for _, s := range []*server{s, other} {
		if err := s.await(w.ctx, w.last()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.EndKey(w.ctx, acme, events.KeyID{1}); !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("a key that is not there: %v", err)
	}
	var wg sync.WaitGroup
	for _, id := range w.born(acme) {
		wg.Go(func() { w.tryAll(id, end, s, other) })
	}
	wg.Wait()

	times := map[events.KeyID]int{}
	for _, f := range w.all() {
		if _, ok := f.Event.(events.KeyRevoked); !ok {
			continue
		}
		id, _ := f.Subject.Key()
		times[id]++
		if id == revoked {
			continue
		}
		if f.Meta.Actor.String() != "system/expiry" || f.Meta.Reason.Clear != "the organization was deleted" ||
			f.Meta.Causation != deleted.Facts[0].Meta.ID || f.Meta.ConfigPosition < deleted.Position || f.Meta.Revision != 1 {
			t.Errorf("%+v", f.Meta)
		}
	}
	for _, id := range w.born(acme) {
		if times[id] != 1 {
			t.Errorf("%s was revoked %d times (expired %s, torn %s, late %s)", id, times[id], expired, torn, late)
		}
	}
	together := 0
	for _, entries := range log.each {
		kinds := map[bool]int{}
		for _, e := range entries {
			kinds[e.Event.Kind() == events.KindKeyRevoked]++
		}
		if len(kinds) != 1 {
			t.Errorf("revocations went out with something else: %v", kinds)
		}
		together += kinds[true]
	}
	if together == 0 {
		t.Error("each went out by itself")
	}
}

// A revocation by somebody waits for none that follow from an organization's end.
func TestNobodyWaitsForTheEnds(t *testing.T) {
	w := newWorld(t)
	log := &holed{between: &between{Ledger: w.memory}}
	w.log = log
	s := w.server()
	w.acme(s, events.Limits{})
	var wg sync.WaitGroup
	for range 20 {
		id := w.create(s, acme, plain()).Key.ID
		wg.Go(func() {
			if _, err := s.RevokeKey(w.ctx, w.by(w.owner), acme, id, false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, entries := range log.each {
		if entries[0].Event.Kind() == events.KindKeyRevoked {
			t.Fatal("revocations by people went out together")
		}
	}
}
