package index

import (
	"context"
	"encoding/binary"
	"testing"

	"github.com/keyledger/keyledger/events"
)

// TestHolds stops a reader between its steps, where the tests that race only
// get to by luck, and lets the writer go on.
func TestHolds(t *testing.T) {
	org := events.OrgID("acme")
	created := func(n uint64, grant string) events.KeyCreated {
		k := events.KeyCreated{Permissions: events.Permissions{Level: events.LevelRestricted, Grants: []string{grant}}}
		binary.BigEndian.PutUint64(k.ID[8:], n)
		k.Digest.Alg = events.SHA256
		binary.BigEndian.PutUint64(k.Digest.Value[:], n)
		return k
	}
	for name, c := range map[string]struct {
		change func(add func(n uint64, e events.Event))
		holds  bool
	}{
		"nothing":     {func(func(uint64, events.Event)) {}, true},
		"another key": {func(add func(uint64, events.Event)) { add(2, created(2, "b:b")) }, true},
		"its state":   {func(add func(uint64, events.Event)) { add(1, events.KeyDisabled{}) }, false},
		"its id was used for another grant and came back": {func(add func(uint64, events.Event)) {
			regrant := func(n uint64, g string) {
				add(n, events.KeyPermissionsChanged{Permissions: events.Permissions{Level: events.LevelRestricted, Grants: []string{g}}})
			}
			add(2, created(2, "b:b"))
			regrant(1, "b:b") // 1 leaves its id
			regrant(2, "c:c") // 2 takes it
			regrant(2, "b:b") // and leaves it
			regrant(1, "d:d") // 1 takes it again: the same state, another grant
		}, false},
		"its shard grew": {func(add func(uint64, events.Event)) {
			for n := uint64(2); n < 20_000; n++ {
				add(n, created(n, "a:a"))
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			x, err := New(Config{})
			if err != nil {
				t.Fatal(err)
			}
			revisions := map[uint64]events.Revision{}
			add := func(n uint64, e events.Event) {
				revisions[n]++
				r := events.Recorded{
					Position: x.Applied() + 1, Subject: events.KeySubject(org, created(n, "").ID),
					Event: e, Meta: events.Meta{Revision: revisions[n]},
				}
				if err := x.Apply(context.Background(), []events.Recorded{r}); err != nil {
					t.Fatal(err)
				}
			}
			first := created(1, "a:a")
			add(1, first)
			d := wordsOf(&first.Digest.Value)
			hash := x.table.hash(&d)
			s, state, r := x.table.find(&d, hash)
			g := x.grants.get(grantOf(state))
			c.change(add)
			if got := x.holds(s, state, g, hash, r); got != c.holds {
				t.Errorf("holds: %t", got)
			}
			if !c.holds && name != "its shard grew" && name != "its state" && s.state() != state {
				t.Error("the state was to be the same")
			}
			if len(x.Problems()) != 0 {
				t.Error(x.Err())
			}
		})
	}
}
