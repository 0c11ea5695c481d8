// Package catalog decides over an organization's permission catalog: which
// permissions exist, whether each reads or writes, and which routes of the
// organization's own API ask for it.
package catalog

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
)

// State is a catalog as its facts tell it. It is read-only once made.
type State struct {
	Permissions []events.CatalogPermission
	byName      map[string]events.Access
}

// Access says what a permission does; empty means that the catalog does not
// have it.
func (s State) Access(name string) events.Access { return s.byName[name] }

// Names are the catalog's permissions, sorted.
func (s State) Names() []string {
	out := make([]string, 0, len(s.Permissions))
	for _, p := range s.Permissions {
		out = append(out, p.Name)
	}
	return out
}

// CheckGrants refuses grants that the catalog does not have, with the nearest
// name that it has, and returns them sorted and without repetition.
func (s State) CheckGrants(field string, grants []string) ([]string, error) {
	if len(grants) == 0 {
		return nil, domain.Refuse(domain.ErrInvalid, field, "restricted permissions need at least one grant")
	}
	if len(grants) > events.MaxGrants {
		return nil, domain.Refuse(domain.ErrInvalid, field, "holds %d grants, at most %d are allowed; resource:* grants a whole resource", len(grants), events.MaxGrants)
	}
	for _, text := range grants {
		g, err := permission.ParseGrant(text)
		if err != nil {
			return nil, domain.Refuse(domain.ErrInvalid, field, "a grant must be resource:action or resource:*")
		}
		if !slices.ContainsFunc(s.Permissions, func(p events.CatalogPermission) bool { return g.Matches(permission.Name(p.Name)) }) {
			return nil, domain.Refuse(domain.ErrUnknownPermission, field, "%s", s.unknown(text))
		}
	}
	out := slices.Clone(grants)
	slices.Sort(out)
	return slices.Compact(out), nil
}

func (s State) unknown(text string) string {
	if len(s.Permissions) == 0 {
		return fmt.Sprintf("%q is not in the organization's permission catalog, which is empty; put the catalog first", text)
	}
	if near, ok := permission.Nearest(text, s.Names()); ok {
		return fmt.Sprintf("%q is not in the organization's permission catalog; did you mean %q?", text, near)
	}
	return fmt.Sprintf("%q is not in the organization's permission catalog", text)
}

// Command is a wish about a catalog: [Replace].
type Command interface{ command() }

// Replace puts a whole catalog in the place of the one before.
type Replace struct {
	Permissions []events.CatalogPermission
	// Insist gives the fact though the catalog is the same already: a wish that
	// shall be met again has to be recorded.
	Insist bool
}

func (Replace) command() {}

// Decide turns a wish into facts. A wish that changes nothing gives none, unless
// it insists.
func Decide(s State, c Command) ([]events.Event, error) {
	replace, ok := c.(Replace)
	if !ok {
		return nil, domain.Refuse(domain.ErrInvalid, "", "unknown command")
	}
	if len(replace.Permissions) > events.MaxCatalogPermissions {
		return nil, domain.Refuse(domain.ErrInvalid, "permissions", "holds %d permissions, at most %d are allowed", len(replace.Permissions), events.MaxCatalogPermissions)
	}
	next := make([]events.CatalogPermission, 0, len(replace.Permissions))
	var routes []permission.Rule
	for i, p := range replace.Permissions {
		field := fmt.Sprintf("permissions[%d]", i)
		parsed, err := checkPermission(field, p)
		if err != nil {
			return nil, err
		}
		routes = append(routes, parsed...)
		if len(p.Routes) == 0 {
			p.Routes = nil
		}
		next = append(next, p)
	}
	slices.SortStableFunc(next, func(a, b events.CatalogPermission) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(next); i++ {
		if next[i].Name == next[i-1].Name {
			return nil, domain.Refuse(domain.ErrInvalid, "permissions", "%q stands twice", next[i].Name)
		}
	}
	if _, err := permission.NewRouter(routes); err != nil {
		// It names routes; a key may have been pasted into one.
		return nil, domain.Refuse(domain.ErrInvalid, "permissions", "%s", keystring.Redact(err.Error()))
	}
	if !replace.Insist && slices.EqualFunc(next, s.Permissions, samePermission) {
		return nil, nil
	}
	return []events.Event{events.CatalogReplaced{Permissions: next}}, nil
}

func checkPermission(field string, p events.CatalogPermission) ([]permission.Rule, error) {
	name, err := permission.ParseName(p.Name)
	if err != nil {
		return nil, domain.Refuse(domain.ErrInvalid, field+".name", "must be resource:action, each of a-z, 0-9, '_', '.' and '-', such as interview:start")
	}
	if p.Access != events.AccessRead && p.Access != events.AccessWrite {
		return nil, domain.Refuse(domain.ErrInvalid, field+".access", "must be read or write")
	}
	if err := domain.CheckText(field+".description", p.Description, events.MaxDescriptionLength); err != nil {
		return nil, err
	}
	if len(p.Routes) > events.MaxPermissionRoutes {
		return nil, domain.Refuse(domain.ErrInvalid, field+".routes", "holds %d routes, at most %d are allowed", len(p.Routes), events.MaxPermissionRoutes)
	}
	var routes []permission.Rule
	for j, text := range p.Routes {
		r, err := permission.ParseRoute(text)
		if err != nil {
			return nil, domain.Refuse(domain.ErrInvalid, fmt.Sprintf("%s.routes[%d]", field, j), "must be a method and a path, such as \"POST /api/v1/interviews/{id}/complete\"")
		}
		routes = append(routes, permission.Rule{Route: r, Name: name})
	}
	return routes, nil
}

func samePermission(a, b events.CatalogPermission) bool {
	return a.Name == b.Name && a.Access == b.Access && a.Description == b.Description && slices.Equal(a.Routes, b.Routes)
}

// Evolve applies a fact.
func Evolve(s State, e events.Event) State {
	replaced, ok := e.(events.CatalogReplaced)
	if !ok {
		return s
	}
	s = State{Permissions: replaced.Permissions, byName: make(map[string]events.Access, len(replaced.Permissions))}
	for _, p := range replaced.Permissions {
		s.byName[p.Name] = p.Access
	}
	return s
}
