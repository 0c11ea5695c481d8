package commands

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/domain/configuration"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/events"
)

// Configuration is what organizations are configured as, as far as this server
// has applied the ledger. It is kept by whoever feeds it the ledger's facts, in
// order, and read by commands. A fact records the position it was decided at.
type Configuration struct {
	mu      sync.RWMutex
	orgs    map[events.OrgID]*tenant
	folded  map[events.Subject]folded
	applied events.Position
	faults  int
	// more is closed when more is applied; nil while nobody waits for that.
	more chan struct{}
}

// folded is how far one aggregate is folded, and whether it has ended: an end is
// absorbing, whatever is appended after it.
type folded struct {
	revision events.Revision
	ended    bool
}

// tenant is one organization. Its state is folded in place, and copied before
// that only where a reader holds what would change: a replay, which nobody reads
// along, copies nothing.
type tenant struct {
	state configuration.State
	// held says that the maps of the state were handed out.
	held atomic.Bool
	// changed is the position of the last fact that bears on the state.
	changed events.Position
	// end is the fact that ended the organization.
	end events.EventID
	// unguarded is the position of the last customer's key that was born without
	// a place under the limit: where there was no limit, or where whoever made it
	// did not know of it yet. before is what it was before the last birth, which
	// command birth made.
	unguarded, before events.Position
	birth             events.CommandID
}

// NewConfiguration returns an empty one, at the ledger's beginning.
func NewConfiguration() *Configuration {
	return &Configuration{orgs: map[events.OrgID]*tenant{}, folded: map[events.Subject]folded{}}
}

// Name names it among the followers of the ledger.
func (c *Configuration) Name() string { return "configuration" }

// Position returns the last position applied.
func (c *Configuration) Position(context.Context) (events.Position, error) { return c.position(), nil }

func (c *Configuration) position() events.Position {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.applied
}

// Faults counts facts that were refused because they are not their aggregate's
// next: corruption, or an old fact appended again.
func (c *Configuration) Faults() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.faults
}

// Of returns an organization's configuration, and the position it stood at. It
// is the reader's for as long as it likes, and read-only.
func (c *Configuration) Of(org events.OrgID) (configuration.State, events.Position) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	t := c.orgs[org]
	if t == nil {
		return configuration.State{}, c.applied
	}
	t.held.Store(true)
	return t.state, c.applied
}

// standing is the organization itself, without what is in it.
func (c *Configuration) standing(org events.OrgID) (state organization.State, doubtful bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	t := c.orgs[org]
	if t == nil {
		return organization.State{}, false
	}
	return t.state.Organization, t.state.Doubtful
}

// Sealing reports whether an organization has texts sealed that may name a person.
// Of one that is not known here, or not understood, it does.
func (c *Configuration) Sealing(org events.OrgID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	t := c.orgs[org]
	return t == nil || t.state.Doubtful || t.state.Organization.Policy.Sealing == events.SwitchOn
}

// end returns the fact that ended an organization, if one did, and the position
// that this is known at. An end stays the one it is.
func (c *Configuration) end(org events.OrgID) (events.EventID, events.Position) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if t := c.orgs[org]; t != nil {
		return t.end, c.applied
	}
	return events.EventID{}, c.applied
}

// sizes are how many workspaces and profiles an organization has.
func (c *Configuration) sizes(org events.OrgID) (workspaces, profiles int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if t := c.orgs[org]; t != nil {
		return len(t.state.Workspaces), len(t.state.Profiles)
	}
	return 0, 0
}

// unguarded is the position of the last customer's key of an organization that
// was born without a place under its limit.
func (c *Configuration) unguarded(org events.OrgID) events.Position {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if t := c.orgs[org]; t != nil {
		return t.unguarded
	}
	return 0
}

// catchUp bounds how long a refusal waits until this server knows what the ledger
// held before it. A follower that runs is milliseconds behind.
const catchUp = 2 * time.Second

// reach waits until a position is applied.
func (c *Configuration) reach(ctx context.Context, pos events.Position) error {
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	for {
		more := c.awaiting(pos)
		if more == nil {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return fmt.Errorf("%w: this server's configuration lags behind the ledger: %w", events.ErrUnavailable, ctx.Err())
		}
	}
}

// awaiting returns what is closed when more is applied, or nil when a position is.
func (c *Configuration) awaiting(pos events.Position) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.applied >= pos {
		return nil
	}
	if c.more == nil {
		c.more = make(chan struct{})
	}
	return c.more
}

// changed is the position of the last fact that bears on an organization's
// configuration, its beginning and end among them.
func (c *Configuration) changed(org events.OrgID) events.Position {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if t := c.orgs[org]; t != nil {
		return t.changed
	}
	return 0
}

// Apply folds facts. Facts about keys only move the position, and tell which of
// them were born outside the limit.
func (c *Configuration) Apply(_ context.Context, facts []events.Recorded) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range facts {
		c.applied = f.Position
		switch f.Subject.Aggregate {
		case events.AggregateOrganization, events.AggregateCatalog, events.AggregateWorkspace, events.AggregateProfile:
			c.fold(f)
		case events.AggregateRevoked:
			if f.Subject.ID == events.RevokedAll {
				c.fold(f)
			}
		case events.AggregateKey, events.AggregateQuota:
			c.tenant(f.Subject.Org).born(f)
		default:
		}
	}
	if c.more != nil {
		close(c.more)
		c.more = nil
	}
	return nil
}

func (c *Configuration) tenant(org events.OrgID) *tenant {
	t := c.orgs[org]
	if t == nil {
		t = &tenant{}
		c.orgs[org] = t
	}
	return t
}

// fold applies a fact about the organization or what is in it.
func (c *Configuration) fold(f events.Recorded) {
	t := c.tenant(f.Subject.Org)
	t.changed = f.Position
	was := c.folded[f.Subject]
	_, malformed := f.Event.(events.Malformed)
	switch {
	case malformed:
		c.faults++
	case f.Meta.Revision <= was.revision:
		// An old fact again: it changes nothing.
		c.faults++
		return
	case f.Meta.Revision > was.revision+1:
		c.faults++
		t.state.Doubtful = true
	}
	if !malformed {
		was.revision = f.Meta.Revision
		switch f.Event.(type) {
		case events.WorkspaceDeleted, events.ProfileDeleted:
			was.ended = true
		case events.WorkspaceCreated, events.ProfileCreated:
			if was.ended {
				// An id that is used again would give a key back what it lost.
				c.faults++
				return
			}
		}
		c.folded[f.Subject] = was
	}
	switch f.Subject.Aggregate {
	case events.AggregateWorkspace, events.AggregateProfile:
		if t.held.CompareAndSwap(true, false) {
			t.state.Workspaces, t.state.Profiles = maps.Clone(t.state.Workspaces), maps.Clone(t.state.Profiles)
		}
	default:
	}
	if _, ended := f.Event.(events.OrganizationDeleted); ended {
		t.end = f.Meta.ID
	}
	t.state.Apply(f.Subject, f.Event)
}

// born notes a key that was born, and that it has a place after all, which the
// guard says in a later fact of the same command.
func (t *tenant) born(f events.Recorded) {
	switch e := f.Event.(type) {
	case events.KeyCreated:
		if e.KeyKind == events.KindAPI {
			if f.Meta.Command != t.birth {
				// Of those that one command bears, all have a place or none.
				t.before = t.unguarded
			}
			t.unguarded, t.birth = f.Position, f.Meta.Command
		}
	case events.QuotaChanged:
		if f.Meta.Command == t.birth {
			t.unguarded, t.birth = t.before, events.CommandID{}
		}
	}
}
