package api

import (
	"fmt"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
)

func TestPace(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	p := newPace(3, 2*time.Second, 2, 3)
	p.now = func() time.Time { return now }
	begin := func(org events.OrgID, again time.Duration) func() {
		t.Helper()
		end, wait := p.begin(org)
		if (end != nil) != (again == 0) || wait != again {
			t.Fatalf("%s: to be asked again after %v, want %v", org, wait, again)
		}
		return end
	}
	first := begin("a", 0)
	second := begin("a", 0)
	begin("a", 2*time.Second) // two are under way
	other := begin("b", 0)
	begin("c", 2*time.Second) // three are under way in all
	second()
	second() // ends once
	third := begin("a", 0)
	for _, end := range []func(){first, third, other} {
		end()
	}
	if p.underWay != 0 {
		t.Fatalf("%d are under way", p.underWay)
	}
	begin("a", 2*time.Second) // it has had its three
	now = now.Add(500 * time.Millisecond)
	begin("a", 1500*time.Millisecond)
	now = now.Add(1500 * time.Millisecond)
	begin("a", 0)()
	begin("a", 2*time.Second)
	begin("b", 0)()
	// However long nobody came, there are no more than a burst.
	now = now.Add(time.Hour)
	for range 3 {
		begin("a", 0)()
	}
	begin("a", 2*time.Second)
}

func TestPaceForgets(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	p := newPace(3, time.Second, 2, 1000)
	p.now = func() time.Time { return now }
	var held func()
	for i := range 100 {
		end, _ := p.begin(events.OrgID(fmt.Sprint("org-", i)))
		if i == 50 {
			held = end
			continue
		}
		end()
	}
	now = now.Add(10 * time.Second)
	end, _ := p.begin("another")
	end()
	if len(p.of) != 2 {
		t.Errorf("%d are remembered, want the one that is under way and the last", len(p.of))
	}
	held()
}
