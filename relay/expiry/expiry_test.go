package expiry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/relay/expiry"
)

// soon is when something that is due is recorded: the wait of who is alone, and
// what it takes.
const soon = time.Second

// TestOnceAndInTime: whatever may happen to keys, several servers tell of each
// end once, in time, and of what has none never.
func TestOnceAndInTime(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir)
		defer w.hands.stop()
		w.notices("1d", "2d")
		var servers []*server
		for range 3 {
			servers = append(servers, w.server(asIs))
			defer servers[len(servers)-1].stop()
		}
		want := map[events.KeyID][]string{}
		name := map[events.KeyID]string{}
		add := func(what string, lives time.Duration, told ...string) events.KeyID {
			id := w.create(lives)
			want[id], name[id] = told, what
			return id
		}
		add("of five seconds", 5*time.Second, "end")
		add("of an hour", time.Hour, "end")
		add("of a day and more", 26*time.Hour, "1d", "end")
		for n := range 5 {
			add(fmt.Sprint("of more than two days ", n), 50*time.Hour, "2d", "1d", "end")
		}
		add("without an end", 0)
		revoked := add("revoked", 27*time.Hour, "1d")
		off := add("switched off", 28*time.Hour, "1d", "end")
		w.update(off, key.Update{Status: domain.Some(events.StatusInactive)})
		longer := add("moved", 29*time.Hour, "1d", "1d", "end")
		rotated := add("rotated", 40*time.Hour, "end")
		out, err := w.hands.RotateKey(w.ctx, wish(), acme, rotated, commands.RotateKey{Grace: 20 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		want[out.Key.ID], name[out.Key.ID] = []string{"1d", "end"}, "its successor"

		time.Sleep(6 * time.Hour)
		if _, err := w.hands.RevokeKey(w.ctx, wish(), acme, revoked, false); err != nil {
			t.Fatal(err)
		}
		w.update(longer, key.Update{Expiry: domain.Some(key.Expiry{At: events.TimeOf(time.Now().Add(26 * time.Hour))})})
		time.Sleep(50 * time.Hour)

		for id, list := range w.told() {
			w.expect(name[id], list, soon, want[id]...)
			delete(want, id)
		}
		for id, left := range want {
			if len(left) > 0 {
				t.Errorf("%s: nothing, want %v", name[id], left)
			}
		}
		var idle, recorded uint64
		for _, s := range servers {
			stats := s.keeper.Stats()
			idle, recorded = idle+stats.Idle, recorded+stats.Expired+stats.Noticed
			if stats.Failed > 0 {
				t.Errorf("%+v", stats)
			}
		}
		if 2*idle > recorded {
			t.Errorf("%d recorded, and %d tries in vain", recorded, idle)
		}
	})
}

// TestDownOverEnds: what came while nobody ran is recorded by who comes, from
// the longest due on, and notices that were missed are not made up for.
func TestDownOverEnds(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir)
		defer w.hands.stop()
		w.notices("2d", "1d")
		var ids []events.KeyID
		for n := range 100 {
			ids = append(ids, w.create(50*time.Hour+time.Duration(n)*time.Minute))
		}
		left := w.create(120 * time.Hour)
		late := w.create(75 * time.Hour)
		time.Sleep(60 * time.Hour)
		s := w.server(asIs)
		defer s.stop()
		time.Sleep(10 * time.Second)
		all := w.told()
		for _, id := range ids {
			w.expect("a key that ended", all[id], 11*time.Hour, "end")
		}
		if first, last := all[ids[0]][0].at, all[ids[len(ids)-1]][0].at; first > last {
			t.Errorf("what was due first was recorded at %d, what was due last at %d", first, last)
		}
		w.expect("what comes later", all[left], soon)
		w.expect("the nearest that had come", all[late], 10*time.Hour, "1d")
		if got := s.keeper.Stats(); got.Expired != 100 || got.Idle+got.Failed > 0 {
			t.Errorf("%+v", got)
		}
	})
}

// TestOutages: whatever the ledger does not take, or takes without a word, comes
// to one fact when it is back.
func TestOutages(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir)
		defer w.hands.stop()
		var servers []*server
		for range 2 {
			servers = append(servers, w.server(asIs))
			defer servers[len(servers)-1].stop()
		}
		var away, silent []events.KeyID
		for range 20 {
			away = append(away, w.create(time.Hour))
			silent = append(silent, w.create(3*time.Hour))
		}
		time.Sleep(time.Hour - time.Minute)
		w.log.away.Store(true)
		time.Sleep(time.Hour)
		if got := servers[0].keeper.Stats().Failed; got == 0 || got > 8*3600/15*2 {
			t.Errorf("%d tries in an hour's outage", got)
		}
		w.log.away.Store(false)
		time.Sleep(time.Minute)
		all := w.told()
		for _, id := range away {
			w.expect("after the outage", all[id], time.Hour, "end")
		}
		w.log.unknown.Store(9)
		time.Sleep(2 * time.Hour)
		all = w.told()
		for _, id := range silent {
			w.expect("without an answer", all[id], time.Minute, "end")
		}
		// So do revocations, which come after the end too.
		w.log.unknown.Store(9)
		w.must(w.hands.DeleteOrganization(w.ctx, wish(), acme))
		time.Sleep(time.Minute)
		all = w.told()
		for _, id := range silent {
			w.expect("revoked without an answer", all[id][1:], time.Minute, "revoked")
		}
	})
}

// TestStaleServersRecordNothing: what is for ever is not left to a server whose
// clock or knowledge is not good enough for a verdict.
func TestStaleServersRecordNothing(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir)
		defer w.hands.stop()
		var stale atomic.Bool
		stale.Store(true)
		s := w.server(func(c *expiry.Config) { c.Stale = stale.Load })
		defer s.stop()
		id := w.create(time.Hour)
		time.Sleep(2 * time.Hour)
		if got := s.keeper.Stats(); got != (expiry.Stats{}) || len(w.told()) > 0 {
			t.Errorf("%+v, recorded %v", got, w.told())
		}
		early := w.server(func(c *expiry.Config) { c.Ready = make(chan struct{}) })
		defer early.stop()
		time.Sleep(time.Hour)
		if got := early.keeper.Stats(); got != (expiry.Stats{}) {
			t.Errorf("without knowing what is recorded: %+v", got)
		}
		stale.Store(false)
		time.Sleep(time.Minute)
		w.expect("fresh again", w.told()[id], 3*time.Hour, "end")
	})
}

// TestOneKeyKeepsNoneOther: what cannot be recorded is tried now and then, and
// keeps nothing else from being so in time.
func TestOneKeyKeepsNoneOther(t *testing.T) {
	const many = 20
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir)
		defer w.hands.stop()
		bad := map[events.KeyID]bool{}
		for range many {
			bad[w.create(time.Hour)] = true
		}
		var mu sync.Mutex
		tries := 0
		s := w.server(func(c *expiry.Config) {
			expire := c.Expire
			c.Expire = func(ctx context.Context, org events.OrgID, id events.KeyID) (expiry.Outcome, error) {
				if bad[id] {
					mu.Lock()
					defer mu.Unlock()
					if tries++; tries%2 == 0 {
						return expiry.Outcome{}, nil
					}
					return expiry.Outcome{}, errors.New("a fact that nobody understands")
				}
				return expire(ctx, org, id)
			}
		})
		defer s.stop()
		var good []events.KeyID
		for n := range 10 {
			good = append(good, w.create(time.Hour+time.Duration(n)*17*time.Minute))
		}
		time.Sleep(4 * time.Hour)
		all := w.told()
		for _, id := range good {
			w.expect("another", all[id], 2*soon, "end")
		}
		s.stop() // It may be trying at this very instant.
		// A second of doubt first, five minutes at last.
		if most := many * (12 + 3*60/5*2); tries < many*20 || tries > most {
			t.Errorf("%d tries of %d keys in three hours, at most %d were to be", tries, many, most)
		}
	})
}

// TestManyAtOnce: several servers share many keys that end in the same
// second, mostly by standing back.
func TestManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir)
		defer w.hands.stop()
		const keys = 600
		end := time.Now().Add(time.Hour)
		for range keys {
			w.create(time.Until(end))
		}
		var servers []*server
		for range 3 {
			servers = append(servers, w.server(asIs))
			defer servers[len(servers)-1].stop()
		}
		time.Sleep(time.Until(end) + 10*time.Second)
		all := w.told()
		if len(all) != keys {
			t.Errorf("%d of %d keys", len(all), keys)
		}
		for _, list := range all {
			w.expect("each", list, 10*time.Second, "end")
		}
		var idle uint64
		for _, s := range servers {
			idle += s.keeper.Stats().Idle
		}
		if idle > keys/4 {
			t.Errorf("%d tries in vain", idle)
		}
	})
}

func TestConfigTellsEveryFault(t *testing.T) {
	_, err := expiry.New(expiry.Config{})
	if err == nil {
		t.Fatal("nothing was wrong")
	}
	for _, part := range []string{"Catalog", "Ready", "Expire", "Stale", "Logger"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("nothing of %s in %v", part, err)
		}
	}
}

// However many keys are in doubt, the others' ends are recorded, and what is due
// no more is not doubted any more.
func TestDoubtsHoldUpNobody(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir)
		defer w.hands.stop()
		keys := 0
		for ; keys < 200; keys++ {
			w.create(5 * time.Second)
		}
		w.hands.keeper.DoubtAll()
		ctx, cancel := context.WithCancel(w.ctx)
		var running sync.WaitGroup
		running.Go(func() { w.hands.keeper.Run(ctx) })
		time.Sleep(time.Minute)
		cancel()
		running.Wait()
		if told := w.told(); len(told) != keys {
			t.Errorf("of %d keys the ends of %d are recorded", keys, len(told))
		}
		if n := w.hands.keeper.Doubts(); n != 0 {
			t.Errorf("%d are in doubt", n)
		}
	})
}
