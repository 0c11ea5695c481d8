package access

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
)

func resolve(n byte) Entry {
	return Entry{
		Kind: access.ProviderKeyResolved, Org: "acme", Actor: actor(n), Role: events.RoleResolver, What: "openai",
		Answer: "customer", Version: 3, Source: "192.0.2.1", RequestID: "r-1",
	}
}

// slow is a broker that takes its time, or waits to be let on.
type slow struct {
	broker
	gate chan struct{}
}

func (b *slow) PublishAccess(ctx context.Context, list []access.Message) error {
	select {
	case <-b.gate:
	case <-ctx.Done():
		return errors.Join(events.ErrOutcomeUnknown, ctx.Err())
	}
	return b.broker.PublishAccess(ctx, list)
}

// Each of what is recorded one by one stands alone, however alike they are and
// however many, and nothing that is gathered takes its room.
func TestRecordOneByOne(t *testing.T) {
	b := &broker{}
	g := gatherer(t, b, nil)
	g.Start()
	const callers, each = 8, 200
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range each {
				g.Add(Entry{Kind: access.CommandDenied, Org: "acme", Actor: actor(1), What: "x", Code: "forbidden"})
				if err := g.Record(t.Context(), resolve(1)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	stop(t, g)
	singles, last := map[string]bool{}, map[access.BootID]uint64{}
	for _, r := range b.list() {
		if r.Number <= last[r.Boot] {
			t.Fatalf("record %d of a run comes after %d: a view passes it over", r.Number, last[r.Boot])
		}
		last[r.Boot] = r.Number
		if r.Kind != access.ProviderKeyResolved {
			continue
		}
		if singles[r.Single] || r.Single == "" || r.Count != 1 || r.What != "openai" || r.Answer != "customer" || r.Version != 3 ||
			r.Actor != actor(1) || r.Role != events.RoleResolver || r.Source != "label of 192.0.2.1" || r.RequestID != "r-1" || r.FirstAt != r.LastAt {
			t.Fatalf("%+v", r)
		}
		singles[r.Single] = true
	}
	if len(singles) != callers*each || len(last) != 2 {
		t.Errorf("%d of %d are told, in %d runs", len(singles), callers*each, len(last))
	}
	if s := g.Stats(); s.Singles != callers*each || s.Taken != 2*callers*each || s.Others != 0 {
		t.Errorf("%+v", s)
	}
}

// Nobody is answered before his record is stored, and those who wait share a round.
func TestRecordWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &slow{gate: make(chan struct{})}
		g := gatherer(t, b, nil)
		g.Start()
		var answered atomic.Int64
		var all sync.WaitGroup
		for i := range 1 + 500 {
			all.Go(func() {
				if err := g.Record(t.Context(), resolve(byte(i))); err != nil {
					t.Error(err)
				}
				if n := answered.Add(1); n > int64(len(b.list())) {
					t.Errorf("%d are answered of %d stored", n, len(b.list()))
				}
			})
			if i == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if answered.Load() != 0 {
			t.Errorf("%d are answered before anything is stored", answered.Load())
		}
		b.gate <- struct{}{}
		synctest.Wait()
		if answered.Load() != 1 {
			t.Errorf("%d are answered of one stored", answered.Load())
		}
		close(b.gate)
		all.Wait()
		if b.tries != 2 || len(b.list()) != 501 {
			t.Errorf("%d records in %d rounds", len(b.list()), b.tries)
		}
		stop(t, g)
	})
}

// While the broker is away everybody is refused in time, and what was refused and not
// stored does not come later; whoever still waits when it is back is answered, and
// what it stored half of stands once.
func TestRecordWithoutBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broker{away: events.ErrUnavailable}
		g := gatherer(t, b, nil)
		g.Start()
		began := time.Now()
		err := g.Record(t.Context(), resolve(1))
		if took := time.Since(began); !errors.Is(err, ErrUnrecorded) || !errors.Is(err, events.ErrUnavailable) || took > recordFor {
			t.Errorf("%v after %v", err, took)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Record(short, resolve(2)); !errors.Is(err, ErrUnrecorded) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				if err := g.Record(t.Context(), resolve(byte(10+i))); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Second)
		b.leave(nil)
		all.Wait()
		stop(t, g)
		told := map[events.Actor]int{}
		for _, r := range b.list() {
			told[r.Actor]++
		}
		for i := range 10 {
			if told[actor(byte(10+i))] != 1 {
				t.Errorf("%d records of one", told[actor(byte(10+i))])
			}
		}
		if told[actor(1)]+told[actor(2)] != 0 {
			t.Error("what was refused is told of later")
		}
	})
}

// There is a bound to how many wait, and who is beyond it is told at once.
func TestRecordIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gatherer(t, &slow{gate: make(chan struct{})}, nil)
		g.Start()
		var all sync.WaitGroup
		for range MaxWaiting {
			all.Go(func() {
				if err := g.Record(t.Context(), resolve(1)); !errors.Is(err, ErrUnrecorded) {
					t.Errorf("%v", err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		if err := g.Record(t.Context(), resolve(2)); !errors.Is(err, events.ErrUnavailable) || time.Since(began) != 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		all.Wait()
		stop(t, g)
	})
}

// A stop answers everybody who waits, and takes nobody after.
func TestRecordAndStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gatherer(t, &slow{gate: make(chan struct{})}, nil)
		g.Start()
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if err := g.Record(t.Context(), resolve(1)); !errors.Is(err, ErrUnrecorded) || !errors.Is(err, events.ErrUnavailable) {
					t.Errorf("%v", err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		stop(t, g)
		all.Wait()
		if err := g.Record(t.Context(), resolve(1)); !errors.Is(err, ErrUnrecorded) || time.Since(began) != 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// What is no record is refused for good, and nobody behind it waits for it. Texts of
// any length and bytes make records.
func TestRecordOfNothing(t *testing.T) {
	b := &broker{}
	g := gatherer(t, b, nil)
	g.Start()
	var all sync.WaitGroup
	for i := range 100 {
		e := resolve(byte(i))
		if i%3 == 0 {
			e.What = ""
		}
		all.Go(func() {
			err := g.Record(t.Context(), e)
			if bad := e.What == ""; bad != errors.Is(err, access.ErrMalformed) || bad != errors.Is(err, ErrUnrecorded) || errors.Is(err, events.ErrUnavailable) {
				t.Errorf("%q: %v", e.What, err)
			}
		})
	}
	all.Wait()
	for _, text := range []string{"\xff\xfe", strings.Repeat("ü", 5000), "\x00\n\""} {
		e := resolve(1)
		e.What, e.Code, e.Answer, e.Source, e.RequestID = text, text, text, text, text
		if err := g.Record(t.Context(), e); err != nil {
			t.Error(err)
		}
	}
	stop(t, g)
	if n := len(b.list()); n != 66+3 {
		t.Errorf("%d records", n)
	}
}
