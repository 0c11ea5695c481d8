package index

import (
	"maps"
	"strings"
	"sync/atomic"

	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
)

// Profile is a named settings document as it comes back with verdicts. It is
// immutable and shared: nobody may write to its settings.
type Profile struct {
	ID       events.ProfileID
	Name     events.Text
	Settings events.Document
	// Gone says that the key names a profile which does not exist any more.
	Gone bool
}

// organization is what the index knows of one organization. It comes into being
// with the first fact that names it, which need not be that of its creation.
type organization struct {
	id    events.OrgID
	index uint32
	// standing is beside the view so that most verdicts need not look into it.
	standing atomic.Uint32
	// clear says that its policy leaves texts as they are.
	clear atomic.Bool
	view  atomic.Pointer[view]

	// The writer's, from here on.
	revision        events.Revision
	catalogRevision events.Revision
	// shortLong counts its keys whose digest is of that form.
	shortLong  int64
	workspaces map[events.WorkspaceID]events.Revision
	profiles   map[events.ProfileID]events.Revision
	// names are the index's.
	names *names
	// grants are those that depend on the catalog, a workspace, a profile.
	grants      map[*grant]struct{}
	byWorkspace map[events.WorkspaceID]map[*grant]struct{}
	byProfile   map[events.ProfileID]map[*grant]struct{}
}

// view is what readers see of an organization: immutable, replaced as a whole.
type view struct {
	catalog catalog
	// routed says that the catalog has routes. router is nil when they make no
	// table, and matches nothing.
	routed     bool
	router     *permission.Router
	workspaces overlay[events.WorkspaceID, bool]
	profiles   overlay[events.ProfileID, *Profile]
}

// catalog is an organization's permissions with the numbers of their names, and
// those of resource:* for the resources that they are of. Each has one at least.
type catalog struct {
	permissions []catalogEntry
	resources   []uint32
	// source is what it was made from, without the descriptions.
	source []events.CatalogPermission
}

type catalogEntry struct {
	name     permission.Name
	access   permission.Access
	number   uint32
	resource uint32 // its place among the resources
}

// catalog numbers the names of a catalog, and owns them from then on.
func (n *names) catalog(entries map[string]events.Access) catalog {
	c := catalog{permissions: make([]catalogEntry, 0, len(entries))}
	places := map[string]uint32{}
	for name, access := range entries {
		resource := permission.Name(name).Resource()
		at, ok := places[resource]
		if !ok {
			at = uint32(len(c.resources))
			places[resource] = at
			c.resources = append(c.resources, n.number(resource+":*"))
		}
		c.permissions = append(c.permissions, catalogEntry{
			name: permission.Name(name), access: permission.Access(access), number: n.number(name), resource: at,
		})
	}
	return c
}

// How an organization stands. Nothing ever takes any of it back.
const (
	standingExists uint32 = 1 << iota
	standingEnded
	// standingClosed says that a fact about it could not be applied.
	standingClosed
)

func newOrganization(id events.OrgID, index uint32, names *names) *organization {
	o := &organization{
		id: events.OrgID(strings.Clone(string(id))), index: index,
		workspaces: map[events.WorkspaceID]events.Revision{}, profiles: map[events.ProfileID]events.Revision{},
		names: names, grants: map[*grant]struct{}{},
		byWorkspace: map[events.WorkspaceID]map[*grant]struct{}{}, byProfile: map[events.ProfileID]map[*grant]struct{}{},
	}
	// The installation's own organization was there before the first fact.
	if id == events.System {
		o.stand(standingExists)
	}
	o.view.Store(&view{})
	return o
}

func (o *organization) stand(flag uint32) { o.standing.Store(o.standing.Load() | flag) }

func (o *organization) exists() bool { return o.standing.Load()&standingExists != 0 }

// change publishes a changed copy of the view.
func (o *organization) change(f func(*view)) {
	v := *o.view.Load()
	f(&v)
	o.view.Store(&v)
}

// adopt takes a new grant in and works it out.
func (o *organization) adopt(g *grant) {
	o.grants[g] = struct{}{}
	for _, w := range g.scope.Workspaces {
		note(o.byWorkspace, w, g)
	}
	if g.profile != "" {
		note(o.byProfile, g.profile, g)
	}
	g.resolve()
}

// abandon forgets a grant that no key has any more.
func (o *organization) abandon(g *grant) {
	delete(o.grants, g)
	for _, w := range g.scope.Workspaces {
		forget(o.byWorkspace, w, g)
	}
	forget(o.byProfile, g.profile, g)
}

func note[K comparable](m map[K]map[*grant]struct{}, k K, g *grant) {
	if m[k] == nil {
		m[k] = map[*grant]struct{}{}
	}
	m[k][g] = struct{}{}
}

func forget[K comparable](m map[K]map[*grant]struct{}, k K, g *grant) {
	if delete(m[k], g); len(m[k]) == 0 {
		delete(m, k)
	}
}

func resolveAll(set map[*grant]struct{}) {
	for g := range set {
		g.resolve()
	}
}

// replaceCatalog reports whether the routes make a table.
func (o *organization) replaceCatalog(entries []events.CatalogPermission) bool {
	accesses := make(map[string]events.Access, len(entries))
	var rules []permission.Rule
	var source []events.CatalogPermission
	n, good := 0, true
	for _, p := range entries {
		name := strings.Clone(p.Name)
		own := events.CatalogPermission{Name: name, Access: events.Access(strings.Clone(string(p.Access)))}
		accesses[name] = own.Access
		for _, text := range p.Routes {
			n++
			own.Routes = append(own.Routes, strings.Clone(text))
			route, err := permission.ParseRoute(text)
			good = good && err == nil
			rules = append(rules, permission.Rule{Route: route, Name: permission.Name(name)})
		}
		source = append(source, own)
	}
	// Without its table an organization's routes match nothing, and what
	// matches nothing is denied.
	var router *permission.Router
	if good && n > 0 {
		r, err := permission.NewRouter(rules)
		if good = err == nil; good {
			router = r
		}
	}
	numbered := o.names.catalog(accesses)
	numbered.source = source
	o.change(func(v *view) { v.catalog, v.routed, v.router = numbered, n > 0, router })
	resolveAll(o.grants)
	return good
}

func (o *organization) setWorkspace(id events.WorkspaceID, exists bool) {
	id = events.WorkspaceID(strings.Clone(string(id)))
	o.change(func(v *view) { v.workspaces = v.workspaces.with(id, exists) })
	resolveAll(o.byWorkspace[id])
}

func (o *organization) setProfile(id events.ProfileID, p *Profile) {
	o.change(func(v *view) { v.profiles = v.profiles.with(id, p) })
	resolveAll(o.byProfile[id])
}

// overlay is an immutable map that is cheap to change a copy of: a large part
// that copies share and a small one that they do not.
type overlay[K comparable, V any] struct {
	base   map[K]V
	recent map[K]V
}

func (o overlay[K, V]) get(k K) V {
	if v, ok := o.recent[k]; ok {
		return v
	}
	return o.base[k]
}

func (o overlay[K, V]) with(k K, v V) overlay[K, V] {
	recent := make(map[K]V, len(o.recent)+1)
	maps.Copy(recent, o.recent)
	recent[k] = v
	// The square root of the whole balances copying the small part each time
	// against copying the large one now and then.
	if n := len(recent); n*n <= len(o.base)+64 {
		return overlay[K, V]{base: o.base, recent: recent}
	}
	base := make(map[K]V, len(o.base)+len(recent))
	maps.Copy(base, o.base)
	maps.Copy(base, recent)
	return overlay[K, V]{base: base}
}
