package commands

import (
	"context"
	"sync"

	"github.com/keyledger/keyledger/domain/configuration"
	"github.com/keyledger/keyledger/events"
)

// Configuration is what organizations are configured as, as far as this server
// has applied the ledger. It is kept by whoever feeds it the ledger's facts, in
// order, and read by commands. A fact records the position it was decided at.
type Configuration struct {
	mu        sync.RWMutex
	orgs      map[events.OrgID]configuration.State
	revisions map[events.Subject]events.Revision
	applied   events.Position
	faults    int
}

// NewConfiguration returns an empty one, at the ledger's beginning.
func NewConfiguration() *Configuration {
	return &Configuration{
		orgs:      map[events.OrgID]configuration.State{},
		revisions: map[events.Subject]events.Revision{},
	}
}

// Name names it among the followers of the ledger.
func (c *Configuration) Name() string { return "configuration" }

// Position returns the last position applied.
func (c *Configuration) Position(context.Context) (events.Position, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.applied, nil
}

// Faults counts facts that were refused because they are not their aggregate's
// next: corruption, or an old fact appended again.
func (c *Configuration) Faults() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.faults
}

// Of returns an organization's configuration, and the position it stood at.
func (c *Configuration) Of(org events.OrgID) (configuration.State, events.Position) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.orgs[org], c.applied
}

// Apply folds facts. Facts about keys only move the position.
func (c *Configuration) Apply(_ context.Context, facts []events.Recorded) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range facts {
		c.applied = f.Position
		switch f.Subject.Aggregate {
		case events.AggregateOrganization, events.AggregateCatalog, events.AggregateWorkspace, events.AggregateProfile:
		case events.AggregateRevoked:
			if f.Subject.ID != events.RevokedAll {
				continue
			}
		default:
			continue
		}
		state := c.orgs[f.Subject.Org]
		last := c.revisions[f.Subject]
		malformed := false
		if _, ok := f.Event.(events.Malformed); ok {
			malformed = true
		}
		switch {
		case malformed:
			c.faults++
		case f.Meta.Revision <= last:
			// An old fact again: it changes nothing.
			c.faults++
			continue
		case f.Meta.Revision > last+1:
			c.faults++
			state.Doubtful = true
		}
		if !malformed {
			c.revisions[f.Subject] = f.Meta.Revision
		}
		c.orgs[f.Subject.Org] = configuration.Evolve(state, f.Subject, f.Event)
	}
	return nil
}
