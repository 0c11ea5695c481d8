package continuity

import (
	"cmp"
	"slices"

	"github.com/keyledger/keyledger/events"
)

// Draft is a tick that waits for its signature, and where it belongs.
type Draft struct {
	Tick events.Tick
	// Before is where the last tick stands, which this one expects to be the last,
	// and Revision is the tick's own.
	Before   events.Position
	Revision events.Revision
}

// Continued reports whether the next tick has more to tell.
func (d Draft) Continued() bool { return len(d.Tick.Scopes) == events.MaxTickScopes }

// Next returns the tick that tells what was read so far. Only a reader of the
// whole ledger knows that; it reports whether this is one.
func (v *View) Next(at events.Time) (Draft, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.label != "" {
		return Draft{}, false
	}
	return Draft{
		Tick:   events.Tick{At: at, Through: v.chains.through, Digest: v.chains.ledger.digest, Scopes: v.untold()},
		Before: v.ticks.position, Revision: v.ticks.revision + 1,
	}, true
}

// untold are the scopes that a tick has to tell of. Where they are too many,
// those come first that were not told of for longest.
func (v *View) untold() []events.TickScope {
	type entry struct {
		told events.TickScope
		at   events.Position
	}
	var entries []entry
	now := past{now: &v.chains}
	for label, s := range v.scopes {
		if s.ended {
			continue
		}
		told := events.TickScope{Scope: label}
		if told.Count, told.Digest = now.scope(s.orgs); s.at == 0 || told != s.told {
			entries = append(entries, entry{told, s.at})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.told.Scope, b.told.Scope))
	})
	var scopes []events.TickScope
	for _, e := range entries[:min(len(entries), events.MaxTickScopes)] {
		scopes = append(scopes, e.told)
	}
	slices.SortFunc(scopes, func(a, b events.TickScope) int { return cmp.Compare(a.Scope, b.Scope) })
	return scopes
}

// Ticked tells of ticks what their maker has to know: when, by the broker's time,
// the last one was stored that agreed, zero for never; and whether somebody waits
// for the next one, however much happens in the ledger: a narrowed reader, or
// whoever did not agree with the last.
func (v *View) Ticked() (at events.Time, awaited bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.scopes {
		if !s.ended {
			return v.ticks.stored, true
		}
	}
	return v.ticks.stored, v.err != nil
}
