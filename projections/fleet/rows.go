package fleet

import (
	"slices"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/projections"
)

// State is whether a verifier is heard of.
type State string

// What a verifier may be.
const (
	// Live is heard of within its lease.
	Live State = "live"
	// Lost was heard of, and is not any more.
	Lost State = "lost"
	// Silent has a credential and was never heard of, or not for long.
	Silent State = "silent"
	// Ended said that it ends.
	Ended State = "ended"
)

// States are all of them, in the order in which they are explained.
func States() []State { return []State{Live, Lost, Silent, Ended} }

// Row is a verifier.
type Row struct {
	Name  events.VerifierID
	State State
	// Duplicate says that two programs work under its name.
	Duplicate bool
	// IssuedAt is when its credential was issued, 0 for a server, which has none of
	// the ledger's; RevokedAt when it was taken back.
	IssuedAt, RevokedAt events.Time
	// Organizations are the only ones it serves; none means all.
	Organizations []events.OrgID
	// Said is its last announcement, and HeardAt when it came, by the broker's
	// clock. A silent one has neither.
	Said    presence.Announcement
	HeardAt events.Time
	// MaxStaleness is what it lets its knowledge become, by its word, or by its
	// credential.
	MaxStaleness time.Duration
	// Behind is how many events it had not applied that this server has; of one that
	// reads a part of the ledger it is not Known.
	Behind      uint64
	BehindKnown bool
}

// Serves reports whether it answers for keys of an organization.
func (r *Row) Serves(org events.OrgID) bool { return serves(r.Organizations, org) }

func serves(organizations []events.OrgID, org events.OrgID) bool {
	return len(organizations) == 0 || slices.Contains(organizations, org)
}

// Rows are all verifiers, by name.
func (v *View) Rows(now time.Time) []Row {
	v.mu.RLock()
	defer v.mu.RUnlock()
	at := v.clock.broker(now)
	var rows []Row
	for _, name := range v.names {
		if row, ok := v.row(name, at); ok {
			rows = append(rows, row)
		}
	}
	return rows
}

// row returns a verifier, unless nobody needs to know of it any more.
func (v *View) row(name events.VerifierID, at events.Time) (Row, bool) {
	c, issued := v.credentials[name]
	row := Row{
		Name: name, State: Silent, IssuedAt: c.issued, RevokedAt: c.revoked, Organizations: c.organizations, MaxStaleness: c.maxStaleness,
	}
	x := v.verifiers[name]
	if x == nil || since(x.current(at).stored, at) > Remembered {
		return row, issued && c.revoked == 0
	}
	r := x.current(at)
	row.State, row.Duplicate = Lost, x.duplicate(at)
	switch {
	case r.live(at):
		row.State = Live
	case r.last.Ended:
		row.State = Ended
	}
	row.Said, row.HeardAt, row.MaxStaleness = r.last, r.stored, r.maxStaleness()
	if row.State != Live && row.shutOut(at) {
		return row, false
	}
	if !issued {
		row.Organizations = r.last.Organizations
	}
	if len(row.Organizations) == 0 {
		row.Behind, row.BehindKnown = uint64(v.applied-min(v.applied, r.last.Applied)), true
	}
	return row, true
}

// shutOut reports whether its credential was taken back so long ago that it denies
// everything by now, if it is still there. One that serves stale never does.
func (r *Row) shutOut(at events.Time) bool {
	bound := max(r.MaxStaleness, time.Duration(r.Said.OfflineStart)*time.Millisecond)
	return r.RevokedAt != 0 && !r.Said.ServesStale && since(r.RevokedAt, at) > bound+projections.ClockMargin
}

// Count returns how many verifiers there are of a state, and how stale the stalest
// live one is.
func (v *View) Count(now time.Time) (counts map[State]int, stalest time.Duration) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	at := v.clock.broker(now)
	counts = make(map[State]int)
	for _, name := range v.names {
		row, ok := v.row(name, at)
		if !ok {
			continue
		}
		counts[row.State]++
		if row.State == Live {
			stalest = max(stalest, v.verifiers[name].current(at).staleness(at))
		}
	}
	return counts, stalest
}
