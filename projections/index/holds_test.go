package index

import (
	"testing"
	"unsafe"

	"github.com/keyledger/keyledger/events"
)

// TestHolds stops a reader between its steps, where the tests that race only
// get to by luck, and lets the writer go on.
func TestHolds(t *testing.T) {
	restricted := func(grant string) events.Permissions {
		return events.Permissions{Level: events.LevelRestricted, Grants: []string{grant}}
	}
	key := func(n uint64, grant string) events.KeyCreated {
		k := created(n, "")
		k.Permissions = restricted(grant)
		return k
	}
	subject := func(n uint64) events.Subject { return events.KeySubject(acme, created(n, "").ID) }
	begin := func(s *script, n uint64, grant string) { s.add(subject(n), key(n, grant)) }
	for name, c := range map[string]struct {
		change    func(s *script)
		sameState bool
		holds     bool
	}{
		"nothing":     {func(*script) {}, true, true},
		"another key": {func(s *script) { begin(s, 2, "b:b") }, true, true},
		"its state":   {func(s *script) { s.add(subject(1), events.KeyDisabled{}) }, false, false},
		"its id was used for another grant and came back": {func(s *script) {
			regrant := func(n uint64, g string) {
				s.add(subject(n), events.KeyPermissionsChanged{Permissions: restricted(g)})
			}
			begin(s, 2, "b:b")
			regrant(1, "b:b") // 1 leaves its id
			regrant(2, "c:c") // 2 takes it
			regrant(2, "b:b") // and leaves it
			regrant(1, "d:d") // 1 takes it again: the same state, another grant
		}, true, false},
		"its shard grew": {func(s *script) {
			for n := uint64(2); n < 20_000; n++ {
				begin(s, n, "a:a")
			}
		}, true, false},
		"a catalog came and went while it was switched off": {func(s *script) {
			s.add(subject(1), events.KeyDisabled{})
			s.add(events.CatalogSubject(acme), events.CatalogReplaced{Permissions: []events.CatalogPermission{{Name: "a:a"}}})
			s.add(events.CatalogSubject(acme), events.CatalogReplaced{})
			s.add(subject(1), events.KeyEnabled{})
		}, true, false},
		"a workspace": {func(s *script) { s.add(events.WorkspaceSubject(acme, "w"), events.WorkspaceCreated{ID: "w"}) }, true, false},
		"its end":     {func(s *script) { s.add(events.EndSubject(acme), events.OrganizationDeleted{}) }, true, false},
		"the end of another": {func(s *script) {
			s.add(events.OrganizationSubject("other"), events.OrganizationCreated{ID: "other"})
			s.add(events.EndSubject("other"), events.OrganizationDeleted{})
		}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t, Config{})
			x := s.index
			begin(s, 1, "a:a")
			value := created(1, "").Digest.Value
			d := wordsOf(&value)
			hash := x.table.hash(&d)
			slot, state, r := x.table.find(&d, hash)
			g := x.grants.get(grantOf(state))
			hit := Hit{grant: g, standing: g.org.standing.Load(), view: g.org.view.Load(), effective: g.effective.Load()}
			c.change(s)
			if got := x.holds(slot, state, g, hash, r) && hit.current(); got != c.holds {
				t.Errorf("holds: %t", got)
			}
			if got := slot.state() == state; got != c.sameState {
				t.Errorf("the state is the same: %t", got)
			}
			if len(x.Problems()) != 0 {
				t.Error(x.Err())
			}
		})
	}
}

// An object of 128 bytes begins at a cache line, one that is a little longer at
// half of one, and a verdict would often read two.
func TestEffectiveLiesAlongCacheLines(t *testing.T) {
	var e effective
	if size := unsafe.Sizeof(e); size != 128 {
		t.Errorf("%d bytes", size)
	}
	if end := unsafe.Offsetof(e.permissions) + unsafe.Offsetof(e.permissions.many); end > 64 {
		t.Errorf("the set ends at byte %d", end)
	}
}
