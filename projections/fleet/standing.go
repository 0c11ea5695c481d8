package fleet

import (
	"slices"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections"
)

// timedFor is how long a revocation is timed, at most.
const timedFor = 5 * time.Minute

// Revocation is the end of a key, or of an organization.
type Revocation struct {
	Org      events.OrgID
	Position events.Position
	// At is the broker's time.
	At events.Time
}

// Standing is where a verifier, in one of its runs, stands with a revocation.
type Standing struct {
	Verifier events.VerifierID
	// Boot and Kind are unknown of one that is silent.
	Boot  uses.BootID
	Kind  presence.Kind
	State State
	// Since is since when one that is not live is not heard of: its last word, or for
	// one that never spoke when its credential was issued.
	Since events.Time
	// Applied says that its verdicts rest on the revocation, AppliedBy since when at
	// the latest. AppliedAt is the same where the announcement before did not say so, or
	// it is the very revocation that is told of, and 0 where neither is.
	Applied              bool
	AppliedBy, AppliedAt events.Time
	// Position is how far it had come by its last word, and HeardAt when that was.
	Position events.Position
	HeardAt  events.Time
	// MaxStaleness is its bound, by its word, or by its credential, or how old what it
	// holds may be for it to start without the broker, if that is longer; with
	// ServesStale it does not keep to it.
	MaxStaleness time.Duration
	ServesStale  bool
	// DeniesBy is when one that has not applied the revocation denies at the latest,
	// since it cannot have been shown anything younger; 0 for one that serves stale.
	DeniesBy events.Time
	// UsesStored says that every use it may have accepted before it applied the
	// revocation is stored.
	UsesStored bool
}

// Standings tell where all verifiers stand that serve the organization of a
// revocation, by name. Those that said that they end are none, unless they may answer
// again without the broker, by what they held then.
func (v *View) Standings(of Revocation, now time.Time) []Standing {
	v.mu.RLock()
	defer v.mu.RUnlock()
	at := v.clock.broker(now)
	var out []Standing
	for _, name := range v.names {
		row, ok := v.row(name, at)
		if !ok || !row.Serves(of.Org) {
			continue
		}
		if row.State == Silent {
			out = append(out, Standing{
				Verifier: name, State: Silent, Since: row.IssuedAt, MaxStaleness: row.MaxStaleness, DeniesBy: of.bound(row.MaxStaleness),
			})
			continue
		}
		x := v.verifiers[name]
		current := x.current(at)
		for _, r := range x.runs {
			answers := x.answers(r, at)
			switch {
			case r.last.Ended:
				if _, held, _ := r.holds(of.Position); r == current && !held && r.last.OfflineStart > 0 {
					out = append(out, of.returns(name, r))
				}
			case r == current || answers || of.concerns(r):
				out = append(out, of.standing(name, r, answers))
			}
		}
	}
	return out
}

// bound is when a verifier denies that has not applied the revocation: what it was
// shown last is older, by the broker's clock, than the revocation.
func (of Revocation) bound(maxStaleness time.Duration) events.Time {
	return of.At.Add(maxStaleness + projections.ClockMargin)
}

// concerns tells whether a run that another has taken the place of, and that did not
// say that it ends, may have been fresh at the revocation without having it.
func (of Revocation) concerns(r *run) bool {
	_, held, _ := r.holds(of.Position)
	lasts := time.Duration(r.last.Lease)*time.Millisecond + r.bound()
	return !held && r.stored.Add(lasts) >= of.At
}

func (of Revocation) standing(name events.VerifierID, r *run, live bool) Standing {
	s := Standing{
		Verifier: name, Boot: r.id, Kind: r.last.Kind, State: Live, Position: r.last.Applied, HeardAt: r.stored,
		MaxStaleness: r.bound(), ServesStale: r.last.ServesStale,
	}
	if !live {
		s.State, s.Since = Lost, r.stored
	}
	first, held, exact := r.holds(of.Position)
	s.Applied = held
	switch {
	case !held && !s.ServesStale:
		s.DeniesBy = of.bound(s.MaxStaleness)
	case held:
		s.AppliedBy, s.MaxStaleness = first.stored, r.maxStaleness()
		if first.revoked >= of.Position {
			s.AppliedBy = min(max(first.since, of.At), first.stored)
		}
		if exact || first.revoked == of.Position {
			s.AppliedAt = s.AppliedBy
		}
		// One clock, the verifier's own, tells both times.
		s.UsesStored = first.at != 0 && r.last.StoredThrough > first.at
	}
	return s
}

// returns is where a run stands that has ended, and whose verifier may answer without
// the broker as soon as it is started again: by a snapshot from before the revocation,
// until that is too old. Nobody would hear of it.
func (of Revocation) returns(name events.VerifierID, r *run) Standing {
	s := of.standing(name, r, false)
	s.State, s.ServesStale = Ended, false
	s.DeniesBy = of.bound(s.MaxStaleness)
	return s
}

// timed is a revocation that is on its way.
type timed struct {
	Revocation
	seen time.Time
}

// Propagated returns how long revocations took that arrived since it was last asked:
// from being stored until the last verifier that is live had applied
// them. At most [maxTimed] are timed at once, so that there are some among many. One
// that has not arrived after five minutes is told with those.
func (v *View) Propagated(now time.Time) []time.Duration {
	v.mu.RLock()
	pending := slices.Clone(v.timed)
	v.mu.RUnlock()
	var took []time.Duration
	done := map[events.Position]bool{}
	for _, t := range pending {
		d, known, over := t.took(v.Standings(t.Revocation, now), now)
		if known {
			took = append(took, d)
		}
		done[t.Position] = over
	}
	v.mu.Lock()
	v.timed = slices.DeleteFunc(v.timed, func(t timed) bool { return done[t.Position] })
	v.mu.Unlock()
	return took
}

// took tells how long the revocation took, if that is known, and whether more will be
// known of it.
func (t timed) took(standings []Standing, now time.Time) (d time.Duration, known, over bool) {
	live, arrived, last := 0, 0, events.Time(0)
	for _, s := range standings {
		if s.State != Live {
			continue
		}
		live++
		if s.Applied {
			arrived++
			last = max(last, s.AppliedAt)
		}
	}
	switch {
	case live > 0 && arrived == live:
		// Who has it since before anything was known tells nothing of how long it took.
		return max(last.Std().Sub(t.At.Std()), 0), last != 0, true
	case now.Sub(t.seen) > timedFor:
		return timedFor, live > 0, true
	default:
		return 0, false, false
	}
}
