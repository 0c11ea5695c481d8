package expiry_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/events"
)

// TestRotationIsToldOnce: keys that get old are told of once and in time, by one
// of several servers, and again when a policy makes them old later.
func TestRotationIsToldOnce(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir)
		defer w.hands.stop()
		w.notices("1d")
		for range 2 {
			defer w.server(asIs).stop()
		}
		age := func(p events.Period) {
			w.must(w.hands.UpdateOrganization(w.ctx, wish(), acme, organization.Update{RotationDueAfter: domain.Some(p)}))
		}
		age("2d")
		old, ends, rotated, over := w.create(0), w.create(3*day), w.create(0), w.create(36*time.Hour)
		out, err := w.hands.RotateKey(w.ctx, wish(), acme, rotated, commands.RotateKey{Grace: 5 * day})
		if err != nil {
			t.Fatal(err)
		}
		successor := out.Key.ID
		time.Sleep(36 * time.Hour)
		young := w.create(0)
		time.Sleep(37 * time.Hour)
		all := w.told()
		w.expect("who lives for ever", all[old], soon, "rotate")
		w.expect("together with the notice", all[ends], 2*soon, "rotate", "1d", "end")
		w.expect("over before that", all[over], soon, "1d", "end")
		w.expect("rotated", all[rotated], soon)
		w.expect("its successor", all[successor], soon, "rotate")
		w.expect("young", all[young], soon)
		age("1d")
		time.Sleep(soon)
		age("never")
		time.Sleep(12 * time.Hour)
		all = w.told()
		w.expect("told before", all[old], soon, "rotate")
		w.expect("not young any more", all[young], day, "rotate")
		age("3d")
		time.Sleep(soon)
		w.expect("when it is due again", w.told()[old], day, "rotate", "rotate")
	})
}

// TestKeysOfAnEndedOrganization: each is revoked once, whichever server comes
// first and though one is stopped in the middle.
func TestKeysOfAnEndedOrganization(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir)
		defer w.hands.stop()
		w.log.far = time.Millisecond
		const keys = 1000
		ids := make([]events.KeyID, keys)
		for i := range ids {
			ids[i] = w.create(time.Duration(i%2) * 500 * day)
		}
		gone := w.create(0)
		if _, err := w.hands.RevokeKey(w.ctx, wish(), acme, gone, false); err != nil {
			t.Fatal(err)
		}
		var servers []*server
		for range 3 {
			servers = append(servers, w.server(asIs))
			defer servers[len(servers)-1].stop()
		}
		w.log.far = 10 * time.Millisecond
		w.must(w.hands.DeleteOrganization(w.ctx, wish(), acme))
		time.Sleep(1500 * time.Millisecond)
		servers[0].stop()
		if n := len(w.told()); n < keys/50 || n > keys*3/4 {
			t.Fatalf("%d are revoked when a server is stopped", n)
		}
		time.Sleep(time.Minute)
		all := w.told()
		for _, id := range ids {
			w.expect("a key of it", all[id], time.Minute, "revoked")
		}
		w.expect("a key that was revoked before", all[gone], 0)
		var revoked, idle uint64
		for _, s := range servers {
			stats := s.keeper.Stats()
			revoked, idle = revoked+stats.Revoked, idle+stats.Idle
		}
		// What was recorded by the one that was stopped may not be counted.
		if revoked > keys || revoked < keys-64 || idle > keys/2 {
			t.Errorf("%d were revoked, and %d tried in vain", revoked, idle)
		}
	})
}

// What ends while a great many keys are revoked does not wait for that.
func TestBacklogIsNotWaitedFor(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir)
		defer w.hands.stop()
		w.must(w.hands.CreateOrganization(w.ctx, wish(), organization.Create{ID: "other", Name: events.ClearText("Other")}))
		const keys = 1000
		for range keys {
			w.create(0)
		}
		var elsewhere []events.KeyID
		for n := range 5 {
			elsewhere = append(elsewhere, w.createIn("other", time.Minute+time.Duration(n+1)*time.Second))
		}
		time.Sleep(time.Minute)
		defer w.server(asIs).stop()
		w.log.far = 50 * time.Millisecond
		w.must(w.hands.DeleteOrganization(w.ctx, wish(), acme))
		time.Sleep(7 * time.Second)
		all := w.told()
		for _, id := range elsewhere {
			w.expect("one that ended meanwhile", all[id], 2*soon, "end")
		}
		if n := len(all); n > keys*3/4 {
			t.Errorf("%d were done by then, which is no backlog", n)
		}
		time.Sleep(time.Minute)
		if n := len(w.told()); n != keys+len(elsewhere) {
			t.Errorf("%d were done", n)
		}
	})
}
