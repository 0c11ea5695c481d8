package index

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/keyledger/keyledger/events"
)

// Config says how an index is made. Its zero value is fine.
type Config struct {
	// Logger takes facts that could not be applied. Nothing is logged without.
	Logger *slog.Logger
	// Keys is how many keys to make room for at once, at 100 bytes each. With
	// fewer the index has grown early, with more it grows as they come.
	Keys int
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	if c.Keys < 0 {
		return errors.New("index: Keys is negative")
	}
	return nil
}

// ref is a key as the ledger names it. The organization is part of it: whoever
// repeats a key's id in another organization makes another key.
type ref struct {
	org uint32
	id  events.KeyID
}

// grace is both ends of a key that was rotated; its slot holds the first.
type grace struct{ expires, ends uint32 }

// Index is the verification index. Apply has one caller at a time, everything
// else any number.
type Index struct {
	log     *slog.Logger
	table   *table
	grants  *grants
	names   *names
	applied atomic.Uint64
	keys    atomic.Int64
	// shortLong counts those of them whose digest is of that form.
	shortLong atomic.Int64
	// directory finds organizations by id for readers.
	directory atomic.Pointer[overlay[events.OrgID, *organization]]
	problems  problems

	// writing guards what follows, the tables against a second writer, and
	// nothing that readers need.
	writing sync.Mutex
	ids     *ids
	orgs    map[events.OrgID]*organization
	// early holds the flags of keys that something happened to before they
	// were created.
	early map[ref]uint64
	// unreachable are the keys that will never have a slot, with their flags.
	unreachable map[ref]uint64
	graces      map[ref]grace
	// foretold ended before its time: see Foretell.
	foretold map[foretold]struct{}
}

// New returns an index that has seen nothing.
func New(c Config) (*Index, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	x := &Index{
		log: c.Logger, table: newTable(c.Keys), grants: newGrants(), names: newNames(), ids: newIDs(c.Keys),
		orgs: map[events.OrgID]*organization{}, early: map[ref]uint64{},
		unreachable: map[ref]uint64{}, graces: map[ref]grace{},
	}
	if x.log == nil {
		x.log = slog.New(slog.DiscardHandler)
	}
	x.directory.Store(&overlay[events.OrgID, *organization]{})
	return x, nil
}

// Name names the view.
func (x *Index) Name() string { return "index" }

// Position returns the last position applied: 0 after every start, since the
// index lives in memory.
func (x *Index) Position(context.Context) (events.Position, error) { return x.Applied(), nil }

// Applied returns the last position applied, for one atomic load. A look-up
// that begins after it has returned sees every fact up to there.
func (x *Index) Applied() events.Position { return events.Position(x.applied.Load()) }

// Len returns how many keys a digest leads to, those that ended included.
func (x *Index) Len() int { return int(x.keys.Load()) }

// ShortLong reports whether any key was imported under the digest of the part
// behind its last underscore ([events.PrefixShortLong]), so that a secret which
// is not found has to be looked up by that, too. It is one atomic load.
func (x *Index) ShortLong() bool { return x.shortLong.Load() > 0 }

// Apply applies facts in order. Facts up to the position that was applied
// before are passed over: a redelivery is no corruption. The only error is that
// of a context that has ended before anything was applied.
func (x *Index) Apply(ctx context.Context, facts []events.Recorded) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	x.writing.Lock()
	defer x.writing.Unlock()
	last := x.Applied()
	for len(facts) > 0 {
		n := 1
		if facts[0].Position > last {
			n = oneChange(facts)
			x.apply(facts[:n])
			last = facts[n-1].Position
		}
		facts = facts[n:]
	}
	// Only now: a batch that was appended as one is behind a position as one.
	x.applied.Store(uint64(last))
	return nil
}

// oneChange returns how many facts, from the first on, are about one key and
// were appended as one. Of anything else it is one.
func oneChange(facts []events.Recorded) int {
	first := &facts[0]
	if first.Meta.BatchSize == 0 || first.Subject.Aggregate != events.AggregateKey || first.Subject.Org == "" || first.Subject.ID == "" {
		return 1
	}
	for n := 1; n < len(facts); n++ {
		r := &facts[n]
		if r.Subject != first.Subject || r.Position != first.Position+events.Position(n) ||
			r.Meta.BatchSize != first.Meta.BatchSize || r.Meta.BatchIndex != first.Meta.BatchIndex+n {
			return n
		}
	}
	return len(facts)
}

// whole returns a fact that has an event.
func whole(r *events.Recorded) *events.Recorded {
	if r.Event != nil {
		return r
	}
	empty := *r
	empty.Event = events.Malformed{}
	return &empty
}

// apply applies a fact, or several of one key that were appended as one.
func (x *Index) apply(facts []events.Recorded) {
	r := whole(&facts[0])
	s := r.Subject
	if s.Org == "" || s.Aggregate == "" || s.ID == "" {
		x.report(r, TroubleSubject, ClosedNothing)
		return
	}
	org := x.organization(s.Org)
	switch s.Aggregate {
	case events.AggregateKey:
		x.applyKey(org, facts)
	case events.AggregateRevoked:
		x.applyRevoked(org, r)
	case events.AggregateOrganization:
		x.applyOrganization(org, r)
	case events.AggregateWorkspace:
		x.applyWorkspace(org, r)
	case events.AggregateCatalog:
		x.applyCatalog(org, r)
	case events.AggregateProfile:
		x.applyProfile(org, r)
	case events.AggregateQuota, events.AggregateInstallation, events.AggregateCredential, events.AggregateTick,
		events.AggregateSubject, events.AggregateRetention, events.AggregateProviderKey:
		x.applyForeign(org, r, false)
	default:
		x.applyForeign(org, r, true)
	}
}

// applyForeign applies a fact of an aggregate that verdicts do not depend on,
// or, when it is unknown, may depend on.
func (x *Index) applyForeign(org *organization, r *events.Recorded, unknown bool) {
	switch e := r.Event.(type) {
	case events.Malformed:
		if unknown {
			x.closeOrganization(org, r, TroubleMalformed)
		} else {
			x.report(r, TroubleMalformed, ClosedNothing)
		}
	case events.Unknown:
		if e.Bears {
			x.closeOrganization(org, r, TroubleUnknown)
		}
	default:
		if unknown {
			x.closeOrganization(org, r, TroubleMisplaced)
		}
	}
}

// organization returns an organization, known before or not.
func (x *Index) organization(id events.OrgID) *organization {
	if o := x.orgs[id]; o != nil {
		return o
	}
	o := newOrganization(id, uint32(len(x.orgs)), x.names)
	x.orgs[o.id] = o
	next := x.directory.Load().with(o.id, o)
	x.directory.Store(&next)
	return o
}

func (x *Index) closeOrganization(org *organization, r *events.Recorded, t Trouble) {
	x.report(r, t, ClosedOrganization)
	org.stand(standingClosed)
}

// next reports whether a fact about an organization is its subject's next and
// may be applied. It closes the organization if it should be and may not.
func (x *Index) next(org *organization, r *events.Recorded, have events.Revision) bool {
	rev := r.Meta.Revision
	switch e := r.Event.(type) {
	case events.Malformed:
		x.closeOrganization(org, r, TroubleMalformed)
		return false
	case events.Unknown:
		if e.Bears && rev > have {
			x.closeOrganization(org, r, TroubleUnknown)
			return false
		}
	}
	switch {
	case rev <= have:
		x.report(r, TroubleReplayed, ClosedNothing)
		return false
	case rev > have+1:
		x.closeOrganization(org, r, TroubleGap)
		return false
	}
	return true
}

func (x *Index) applyOrganization(org *organization, r *events.Recorded) {
	if !x.next(org, r, org.revision) {
		return
	}
	org.revision = r.Meta.Revision
	exists := org.exists()
	switch e := r.Event.(type) {
	case events.OrganizationCreated:
		// Only the first fact creates; that of the installation's own
		// organization, too, which was there before it.
		if r.Meta.Revision != 1 || e.ID != org.id {
			x.closeOrganization(org, r, TroubleMisplaced)
			return
		}
		org.clear.Store(e.Policy.Sealing != events.SwitchOn)
		org.stand(standingExists)
	case events.OrganizationPolicyChanged:
		if !exists {
			x.closeOrganization(org, r, TroubleMisplaced)
			return
		}
		org.clear.Store(e.Policy.Sealing != events.SwitchOn)
	case events.OrganizationRenamed, events.OrganizationPlanChanged, events.OrganizationLimitsChanged, events.Unknown:
		if !exists {
			x.closeOrganization(org, r, TroubleMisplaced)
		}
	default:
		x.closeOrganization(org, r, TroubleMisplaced)
	}
}

func (x *Index) applyWorkspace(org *organization, r *events.Recorded) {
	id := events.WorkspaceID(r.Subject.ID)
	if !x.next(org, r, org.workspaces[id]) {
		return
	}
	org.workspaces[events.WorkspaceID(strings.Clone(r.Subject.ID))] = r.Meta.Revision
	exists := org.view.Load().workspaces.get(id)
	switch e := r.Event.(type) {
	case events.WorkspaceCreated:
		// Ids are never used again, so that only the first fact creates.
		if r.Meta.Revision != 1 || e.ID != id {
			x.closeOrganization(org, r, TroubleMisplaced)
			return
		}
		org.setWorkspace(id, true)
	case events.WorkspaceDeleted:
		if !exists {
			x.closeOrganization(org, r, TroubleMisplaced)
			return
		}
		org.setWorkspace(id, false)
	case events.WorkspaceRenamed, events.Unknown:
		if !exists {
			x.closeOrganization(org, r, TroubleMisplaced)
		}
	default:
		x.closeOrganization(org, r, TroubleMisplaced)
	}
}

func (x *Index) applyCatalog(org *organization, r *events.Recorded) {
	if r.Subject.ID != events.CatalogPermissions {
		x.applyForeign(org, r, true)
		return
	}
	if !x.next(org, r, org.catalogRevision) {
		return
	}
	org.catalogRevision = r.Meta.Revision
	switch e := r.Event.(type) {
	case events.CatalogReplaced:
		if !org.replaceCatalog(e.Permissions) {
			x.report(r, TroubleRoutes, ClosedNothing)
		}
	case events.Unknown:
	default:
		x.closeOrganization(org, r, TroubleMisplaced)
	}
}

func (x *Index) applyProfile(org *organization, r *events.Recorded) {
	id := events.ProfileID(r.Subject.ID)
	if !x.next(org, r, org.profiles[id]) {
		return
	}
	id = events.ProfileID(strings.Clone(r.Subject.ID))
	org.profiles[id] = r.Meta.Revision
	old := org.view.Load().profiles.get(id)
	if e, ok := r.Event.(events.ProfileCreated); ok && r.Meta.Revision == 1 && e.ID == id {
		org.setProfile(id, &Profile{ID: id, Name: e.Name, Settings: e.Settings.Clone()})
		return
	}
	if old == nil {
		x.closeOrganization(org, r, TroubleMisplaced)
		return
	}
	switch e := r.Event.(type) {
	case events.ProfileRenamed:
		org.setProfile(id, &Profile{ID: id, Name: e.Name, Settings: old.Settings})
	case events.ProfileSettingsChanged:
		org.setProfile(id, &Profile{ID: id, Name: old.Name, Settings: e.Settings.Clone()})
	case events.ProfileDeleted:
		org.setProfile(id, nil)
	case events.Unknown:
	default:
		x.closeOrganization(org, r, TroubleMisplaced)
	}
}
