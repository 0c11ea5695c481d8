package index

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keyledger/keyledger/events"
)

// LongestProbe returns the longest run of taken slots of every shard.
func (x *Index) LongestProbe() [shards]int {
	var out [shards]int
	for i := range x.table.shards {
		run := 0
		for j := range x.table.shards[i].Load().slots {
			if run++; x.table.shards[i].Load().slots[j].state() == 0 {
				run = 0
			}
			out[i] = max(out[i], run)
		}
	}
	return out
}

// LimitGrants lowers the number of grants there is room for.
func (x *Index) LimitGrants(n uint32) { x.grants.limit = n }

// Dump tells everything that the index holds, in one order, however it came by it.
func (x *Index) Dump() string {
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	orgs := map[uint32]events.OrgID{}
	for id, o := range x.orgs {
		orgs[o.index] = id
		v := o.view.Load()
		say("org %q %b %t %d %d %d routed %t %t", id, o.standing.Load(), o.clear.Load(), o.revision, o.catalogRevision, o.shortLong, v.routed, v.router != nil)
		for _, p := range v.catalog.permissions {
			say("catalog %q %s %s", id, p.name, p.access)
		}
		for w, rev := range o.workspaces {
			say("workspace %q %q %d %t", id, w, rev, v.workspaces.get(w))
		}
		for p, rev := range o.profiles {
			say("profile %q %q %d %+v", id, p, rev, v.profiles.get(p))
		}
		say("grants %q %d %d %d", id, len(o.grants), len(o.byWorkspace), len(o.byProfile))
	}
	flags := func(what string, of map[ref]uint64) {
		for k, f := range of {
			say("%s %q %s %x", what, orgs[k.org], k.id, f)
		}
	}
	flags("early", x.early)
	flags("unreachable", x.unreachable)
	for k, g := range x.graces {
		say("grace %q %s %+v", orgs[k.org], k.id, g)
	}
	for i := range x.table.shards {
		for j := range x.table.shards[i].Load().slots {
			s := &x.table.shards[i].Load().slots[j]
			state := s.state()
			if state == 0 {
				continue
			}
			g := x.grants.get(grantOf(state))
			found := x.ids.find(x.table, s.org(), s.key()) == s
			say("key %q %s %x %x %d %d %t %s %s %+v %+v %s refs %d", orgs[s.org()], s.key(), s[:4], state>>flagShift, expiryOf(state), s.revision(),
				found, g.kind, g.role, g.permissions, g.scope, g.profile, x.grants.refs[grantOf(state)])
		}
	}
	slices.Sort(lines)
	return fmt.Sprintf("applied %d keys %d short %d names %d\n%s", x.Applied(), x.Len(), x.shortLong.Load(), len(x.grants.byTuple), strings.Join(lines, "\n"))
}

// InOrder makes the order of keys the same in every run.
func (x *Index) InOrder() { x.table.seeds = seeds{4: 1, 5: 1} }
