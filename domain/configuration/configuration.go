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

// State is an organization's configuration. It is read-only once made.
type State struct {
	Organization organization.State
	Catalog      catalog.State
	Workspaces   map[events.WorkspaceID]workspace.State
	Profiles     map[events.ProfileID]profile.State
	// Doubtful says that a fact could not be understood: nothing is decided
	// under this configuration until it is.
	Doubtful bool
}

// Evolve applies a fact that was found under one of the organization's
// subjects. Facts about keys change nothing.
func Evolve(s State, subject events.Subject, e events.Event) State {
	switch subject.Aggregate {
	case events.AggregateOrganization, events.AggregateRevoked:
		if subject.Aggregate == events.AggregateRevoked && subject.ID != events.RevokedAll {
			return s
		}
		s.Organization = organization.Evolve(s.Organization, e)
	case events.AggregateCatalog:
		s.Catalog = catalog.Evolve(s.Catalog, e)
	case events.AggregateWorkspace:
		id := events.WorkspaceID(subject.ID)
		s.Workspaces = with(s.Workspaces, id, workspace.Evolve(s.Workspaces[id], e))
	case events.AggregateProfile:
		id := events.ProfileID(subject.ID)
		s.Profiles = with(s.Profiles, id, profile.Evolve(s.Profiles[id], e))
	default:
		return s
	}
	switch e.(type) {
	case events.Unknown, events.Malformed:
		s.Doubtful = s.Doubtful || events.Bears(e)
	}
	return s
}

func with[K comparable, V any](m map[K]V, k K, v V) map[K]V {
	next := make(map[K]V, len(m)+1)
	maps.Copy(next, m)
	next[k] = v
	return next
}
