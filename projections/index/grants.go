package index

import (
	"encoding/binary"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
)

const (
	grantBits  = 24
	chunkBits  = 12
	chunkSize  = 1 << chunkBits
	grantLimit = 1 << grantBits
)

// grant is what many keys share: everything about a key that is neither its
// own nor a flag. It is immutable; a key that changes points to another.
type grant struct {
	// What every verdict reads comes first, in one cache line.
	org *organization
	// effective is what the grant amounts to under the organization's catalog,
	// workspaces and profiles of the moment.
	effective atomic.Pointer[effective]
	kind      events.KeyKind
	role      events.Role

	scope       events.Scope
	permissions events.Permissions
	profile     events.ProfileID
	// tuple is the text by which equal grants are found.
	tuple string
}

// effective is immutable. It is of a size that is allocated along cache lines, so
// that all that most verdicts read of it lies in one.
type effective struct {
	permissions nameSet
	// somewhere says that the key may be used at all: a list whose last
	// workspace has gone is nowhere, never everywhere.
	somewhere bool
	// routed and router are of the same catalog as the permissions. One that
	// gives a route to another permission often changes who has it, too.
	routed bool
	router *permission.Router
	// resources are those, as resource:*, of which the permissions are all that
	// the catalog has; nil when there is none.
	resources *nameSet
	profile   *Profile
	// workspaces are those of the list that exist, sorted.
	workspaces []events.WorkspaceID
}

type chunk [chunkSize]atomic.Pointer[grant]

// grants interns grants under ids of 24 bits. Ids whose last key has gone are
// used again; see [Index.Lookup] for why readers cannot be misled by that.
type grants struct {
	chunks [grantLimit / chunkSize]atomic.Pointer[chunk]

	// The writer's. References are not counted in the grants, where every new
	// key would take the cache line away from all readers.
	limit   uint32
	next    uint32
	free    []uint32
	refs    []uint32
	byTuple map[string]uint32
	scratch []byte
}

func newGrants() *grants {
	return &grants{limit: grantLimit, byTuple: map[string]uint32{}}
}

// get returns the grant under an id, nil when there is none by now.
func (g *grants) get(id uint32) *grant {
	c := g.chunks[id>>chunkBits].Load()
	if c == nil {
		return nil
	}
	return c[id&(chunkSize-1)].Load()
}

// intern returns the id of a grant that equals want and takes a reference to
// it. It fails only when all ids are taken.
func (g *grants) intern(want *grant) (uint32, bool) {
	g.scratch = want.appendTuple(g.scratch[:0])
	if id, ok := g.byTuple[string(g.scratch)]; ok {
		g.refs[id]++
		return id, true
	}
	var id uint32
	switch {
	case len(g.free) > 0:
		id = g.free[len(g.free)-1]
		g.free = g.free[:len(g.free)-1]
	case g.next < g.limit:
		id = g.next
		g.next++
		g.refs = append(g.refs, 0)
	default:
		return 0, false
	}
	fresh := want.owned(string(g.scratch))
	c := g.chunks[id>>chunkBits].Load()
	if c == nil {
		c = new(chunk)
		g.chunks[id>>chunkBits].Store(c)
	}
	fresh.org.adopt(fresh)
	c[id&(chunkSize-1)].Store(fresh)
	g.byTuple[fresh.tuple] = id
	g.refs[id] = 1
	return id, true
}

// release gives a reference back. The caller has published a state without it.
func (g *grants) release(id uint32) {
	if g.refs[id]--; g.refs[id] > 0 {
		return
	}
	old := g.get(id)
	old.org.abandon(old)
	delete(g.byTuple, old.tuple)
	g.chunks[id>>chunkBits].Load()[id&(chunkSize-1)].Store(nil)
	g.free = append(g.free, id)
}

// appendTuple writes everything that tells grants apart, each part with its
// length.
func (g *grant) appendTuple(b []byte) []byte {
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendUvarint(b, uint64(g.org.index))
	text(string(g.kind))
	text(string(g.role))
	text(string(g.profile))
	text(string(g.permissions.Level))
	b = binary.AppendUvarint(b, uint64(len(g.permissions.Grants)))
	for _, s := range g.permissions.Grants {
		text(s)
	}
	if g.scope.AllWorkspaces {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	for _, w := range g.scope.Workspaces {
		text(string(w))
	}
	return b
}

// owned copies a grant, texts included, so that it keeps no stored body alive
// and shares nothing with its caller.
func (g *grant) owned(tuple string) *grant {
	fresh := &grant{
		org: g.org, kind: events.KeyKind(strings.Clone(string(g.kind))), role: events.Role(strings.Clone(string(g.role))),
		profile: events.ProfileID(strings.Clone(string(g.profile))), tuple: tuple,
		permissions: events.Permissions{Level: events.Level(strings.Clone(string(g.permissions.Level)))},
		scope:       events.Scope{AllWorkspaces: g.scope.AllWorkspaces},
	}
	for _, s := range g.permissions.Grants {
		fresh.permissions.Grants = append(fresh.permissions.Grants, strings.Clone(s))
	}
	for _, w := range g.scope.Workspaces {
		fresh.scope.Workspaces = append(fresh.scope.Workspaces, events.WorkspaceID(strings.Clone(string(w))))
	}
	return fresh
}

// resolve works out what a grant amounts to now and publishes it.
func (g *grant) resolve() {
	v := g.org.view.Load()
	e := &effective{somewhere: g.scope.AllWorkspaces, routed: v.routed, router: v.router}
	listed := make([]permission.Grant, 0, len(g.permissions.Grants))
	for _, s := range g.permissions.Grants {
		listed = append(listed, permission.Grant(s))
	}
	var allowed []uint32
	missing := make([]int, len(v.catalog.resources))
	for _, p := range v.catalog.permissions {
		if permission.Allowed(permission.Level(g.permissions.Level), listed, p.name, p.access) {
			allowed = append(allowed, p.number)
		} else {
			missing[p.resource]++
		}
	}
	e.permissions = newNameSet(allowed)
	allowed = allowed[:0]
	for i, number := range v.catalog.resources {
		if missing[i] == 0 {
			allowed = append(allowed, number)
		}
	}
	if len(allowed) > 0 {
		whole := newNameSet(allowed)
		e.resources = &whole
	}
	if !g.scope.AllWorkspaces {
		for _, w := range g.scope.Workspaces {
			if v.workspaces.get(w) {
				e.workspaces = append(e.workspaces, w)
			}
		}
		slices.Sort(e.workspaces)
		e.somewhere = len(e.workspaces) > 0
	}
	if g.profile != "" {
		if e.profile = v.profiles.get(g.profile); e.profile == nil {
			e.profile = &Profile{ID: g.profile, Gone: true}
		}
	}
	g.effective.Store(e)
}
