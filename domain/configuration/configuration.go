// Package configuration folds what an organization is configured as: the
// organization itself, its catalog, workspaces and profiles, each by the rules
// of its own package. Keys are decided under one such state, and record the
// position at which it stood.
package configuration

import (
	"maps"

	"github.com/keyledger/keyledger/domain/catalog"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/domain/profile"
	"github.com/keyledger/keyledger/domain/workspace"
	"github.com/keyledger/keyledger/events"
)

// State is an organization's configuration.
type State struct {
	Organization organization.State
	Catalog      catalog.State
	// Workspaces and Profiles are those that live: what has ended is as good as
	// never there to whoever decides over keys, and there is no end of it.
	Workspaces map[events.WorkspaceID]workspace.State
	Profiles   map[events.ProfileID]profile.State
	// Doubtful says that a fact could not be understood: nothing is decided
	// under this configuration until it is.
	Doubtful bool
}

// Evolve applies a fact that was found under one of the organization's
// subjects, and leaves what it was given as it is. Facts about keys change
// nothing.
func Evolve(s State, subject events.Subject, e events.Event) State {
	switch subject.Aggregate {
	case events.AggregateWorkspace:
		s.Workspaces = maps.Clone(s.Workspaces)
	case events.AggregateProfile:
		s.Profiles = maps.Clone(s.Profiles)
	default:
	}
	s.Apply(subject, e)
	return s
}

// Apply is Evolve in place, for a state that nobody else reads: a replay of many
// workspaces must not copy them all for each.
func (s *State) Apply(subject events.Subject, e events.Event) {
	switch subject.Aggregate {
	case events.AggregateOrganization, events.AggregateRevoked:
		if subject.Aggregate == events.AggregateRevoked && subject.ID != events.RevokedAll {
			return
		}
		s.Organization = organization.Evolve(s.Organization, e)
	case events.AggregateCatalog:
		s.Catalog = catalog.Evolve(s.Catalog, e)
	case events.AggregateWorkspace:
		id := events.WorkspaceID(subject.ID)
		next := workspace.Evolve(s.Workspaces[id], e)
		put(&s.Workspaces, id, next, next.Live())
	case events.AggregateProfile:
		id := events.ProfileID(subject.ID)
		next := profile.Evolve(s.Profiles[id], e)
		put(&s.Profiles, id, next, next.Live())
	default:
		return
	}
	switch e.(type) {
	case events.Unknown, events.Malformed:
		s.Doubtful = s.Doubtful || events.Bears(e)
	}
}

func put[K comparable, V any](m *map[K]V, k K, v V, lives bool) {
	if !lives {
		delete(*m, k)
		return
	}
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[k] = v
}
