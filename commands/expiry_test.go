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

const day = 24 * time.Hour

// notices sets how long ahead an organization wants notice of a key's end.
func (w *world) notices(s *server, org events.OrgID, list ...events.Period) {
	w.Helper()
	_, err := s.UpdateOrganization(w.ctx, w.by(w.owner), org, organization.Update{ExpiryNotices: domain.Some(list)})
	if err != nil {
		w.Fatal(err)
	}
}

// told are the notices of a key that the ledger holds, by who gave them.
func (w *world) told(id events.KeyID) []events.Period {
	w.Helper()
	var out []events.Period
	for _, f := range w.all() {
		e, ok := f.Event.(events.KeyExpiring)
		if found, _ := f.Subject.Key(); !ok || found != id {
			continue
		}
		if f.Meta.Actor != (events.Actor{Type: events.ActorSystem, Name: "expiry"}) || f.Meta.ConfigPosition == 0 {
			w.Errorf("given by %s under %d", f.Meta.Actor, f.Meta.ConfigPosition)
		}
		out = append(out, e.Notice)
	}
	return out
}

// notify lets all servers try at once.
func (w *world) notify(id events.KeyID, servers ...*server) {
	w.Helper()
	var wg sync.WaitGroup
	for _, s := range servers {
		for range 3 {
			wg.Go(func() {
				if _, err := s.NotifyExpiry(w.ctx, acme, id); err != nil {
					w.Error(err)
				}
			})
		}
	}
	wg.Wait()
}

func (w *world) expectTold(what string, id events.KeyID, want ...events.Period) {
	w.Helper()
	got := w.told(id)
	if len(got) != len(want) {
		w.Fatalf("%s: %v, want %v", what, got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			w.Fatalf("%s: %v, want %v", what, got, want)
		}
	}
}

func TestNotifyExpiry(t *testing.T) {
	w := newWorld(t)
	s, other := w.server(), w.server()
	w.acme(s, events.Limits{})
	w.notices(s, acme, "14d", "1d")
	if err := other.await(w.ctx, w.last()); err != nil {
		t.Fatal(err)
	}
	c := plain()
	c.Expiry.In = "30d"
	long := w.create(s, acme, c).Key.ID
	c.Expiry.In = "7d"
	short := w.create(s, acme, c).Key.ID

	try := func() { w.notify(long, s, other); w.notify(short, s, other) }
	try()
	w.expectTold("before", long)
	w.expectTold("born within the first notice", short)
	w.advance(6*day + time.Minute)
	try()
	w.expectTold("before", long)
	w.expectTold("a day ahead", short, "1d")
	w.advance(11 * day)
	try()
	w.expectTold("14 days ahead", long, "14d")

	// Moved, its notices are due anew, but for those that had come by then.
	extend := func(in events.Period) {
		t.Helper()
		if _, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, long, key.Update{Expiry: domain.Some(key.Expiry{In: in})}); err != nil {
			t.Fatal(err)
		}
	}
	extend("30d")
	try()
	w.expectTold("moved", long, "14d")
	w.advance(17 * day)
	try()
	w.expectTold("14 days ahead again", long, "14d", "14d")
	extend("3d")
	try()
	w.expectTold("moved to soon", long, "14d", "14d")
	w.advance(2*day + time.Minute)
	try()
	w.expectTold("a day ahead", long, "14d", "14d", "1d")

	// The policy holds as it is now, for all keys.
	w.notices(s, acme, "1d", "2d")
	try()
	w.expectTold("what comes before what was given", long, "14d", "14d", "1d")
	w.advance(day)
	try()
	w.expectTold("none after the end", long, "14d", "14d", "1d")
	w.expectTold("none after the end", short, "1d")
}

// Who was told late of an end knows of it: a notice is not made up that a policy
// has got since.
func TestNoticeOfWhatIsKnown(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	w.notices(s, acme, "14d")
	c := plain()
	c.Expiry.In = "30d"
	id := w.create(s, acme, c).Key.ID
	w.advance(20 * day)
	w.notify(id, s)
	w.expectTold("four days late", id, "14d")
	w.notices(s, acme, "14d", "12d", "5d")
	w.notify(id, s)
	w.expectTold("known by then", id, "14d")
	w.advance(6 * day)
	w.notify(id, s)
	w.expectTold("nearer", id, "14d", "5d")
}

// A rotated key ends with its grace, and is told of like any other.
func TestExpiryOfARotatedKey(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	w.notices(s, acme, "1d")
	c := plain()
	c.Expiry.In = "30d"
	old := w.create(s, acme, c).Key.ID
	out, err := s.RotateKey(w.ctx, w.by(w.owner), acme, old, commands.RotateKey{Grace: 3 * day})
	if err != nil {
		t.Fatal(err)
	}
	w.advance(2*day + time.Minute)
	w.notify(old, s)
	w.notify(out.Key.ID, s)
	w.expectTold("a day ahead of the grace's end", old, "1d")
	w.expectTold("its successor lives on", out.Key.ID)
	w.advance(day)
	for _, id := range []events.KeyID{old, out.Key.ID} {
		expired, err := s.ExpireKey(w.ctx, acme, id)
		if err != nil || len(expired.Facts) == 1 != (id == old) {
			t.Fatalf("%+v, %v", expired, err)
		}
		if id == old && expired.Facts[0].Event != (events.KeyExpired{ExpiredAt: out.Previous.GraceEndsAt}) {
			t.Errorf("%+v", expired.Facts[0].Event)
		}
	}
}

// What has ended otherwise has nothing to tell.
func TestNoExpiryOfWhatHasEnded(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	w.notices(s, acme, "1d")
	c := plain()
	c.Expiry.In = "2d"
	revoked, left := w.create(s, acme, c).Key.ID, w.create(s, acme, c).Key.ID
	if _, err := s.RevokeKey(w.ctx, w.by(w.owner), acme, revoked, false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DeleteOrganization(w.ctx, w.by(w.owner), acme); err != nil {
		t.Fatal(err)
	}
	before := w.last()
	for range 2 {
		w.advance(day + time.Minute)
		for _, id := range []events.KeyID{revoked, left} {
			for _, do := range []func(context.Context, events.OrgID, events.KeyID) (commands.Outcome, error){s.NotifyExpiry, s.ExpireKey} {
				if out, err := do(w.ctx, acme, id); err != nil || len(out.Facts) != 0 {
					t.Errorf("%+v, %v", out, err)
				}
			}
		}
	}
	if w.last() != before {
		t.Error("something was appended")
	}
}

// A change of a key that was asked for in time, and is decided when the time has
// come, does not bring it back: whatever was in its way took too long.
func TestAnEndIsNotMovedAfterIt(t *testing.T) {
	w := newWorld(t)
	log := &between{Ledger: w.memory}
	w.log = log
	s := w.server()
	w.acme(s, events.Limits{})
	c := plain()
	c.Expiry.In = "1d"
	k := w.create(s, acme, c).Key
	log.do = func() {
		// Somebody else was faster, and it took a day.
		if _, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, k.ID, key.Update{Name: domain.Some(name)}); err != nil {
			t.Error(err)
		}
		w.advance(day)
	}
	_, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, k.ID, key.Update{Expiry: domain.Some(key.Expiry{In: "30d"})})
	if !errors.Is(err, domain.ErrEnded) {
		t.Fatal(err)
	}
	got, err := s.Key(w.ctx, acme, k.ID)
	if err != nil || got.Status(events.TimeOf(w.now())) != events.StatusExpired || got.ExpiresAt != k.ExpiresAt {
		t.Errorf("%+v, %v", got, err)
	}
}

// Between an end and its record there is one append, of either.
func TestExtensionAgainstExpiry(t *testing.T) {
	for _, extendedFirst := range []bool{true, false} {
		w := newWorld(t)
		log := &between{Ledger: w.memory}
		w.log = log
		s := w.server()
		w.acme(s, events.Limits{})
		c := plain()
		c.Expiry.In = "1d"
		k := w.create(s, acme, c).Key
		w.advance(day - time.Minute)
		extend := func() error {
			_, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, k.ID, key.Update{Expiry: domain.Some(key.Expiry{In: "30d"})})
			return err
		}
		if extendedFirst {
			// It was sent before the end, and stored after it.
			log.do = func() { w.advance(2 * time.Minute) }
			if err := extend(); err != nil {
				t.Fatal(err)
			}
			if out, err := s.ExpireKey(w.ctx, acme, k.ID); err != nil || len(out.Facts) != 0 {
				t.Errorf("an end that was moved came: %+v, %v", out, err)
			}
			continue
		}
		log.do = func() {
			w.advance(2 * time.Minute)
			if out, err := s.ExpireKey(w.ctx, acme, k.ID); err != nil || len(out.Facts) != 1 {
				t.Errorf("%+v, %v", out, err)
			}
		}
		if err := extend(); !errors.Is(err, domain.ErrEnded) {
			t.Errorf("extended after its expiry was recorded: %v", err)
		}
	}
}
