package fleet

import (
	"errors"
	"log/slog"
	"slices"
	"sort"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/events/uses"
)

// complainEvery keeps a verifier that says nonsense from filling the log.
const complainEvery = time.Minute

var errMany = errors.New("fleet: there are too many verifiers")

// verifier is what was heard of one name: its runs, in the order in which they were
// first heard of.
type verifier struct {
	runs []*run
}

// run is one run of a verifier's program.
type run struct {
	id   uses.BootID
	last presence.Announcement
	// stored is when the last announcement was, by the broker's clock, and position
	// where it stands; first and began are those of the first one.
	stored   events.Time
	position events.Position
	first    events.Time
	began    events.Position
	steps    []step
}

// step says that a run was first known to hold a position.
type step struct {
	applied events.Position
	// stored is when, by the broker's clock, at by the verifier's own.
	stored, at events.Time
	// revoked is the last revocation that it held then, and since is by when it did, by
	// the broker's clock: as long before the announcement was stored as it says, so that
	// no clock but that is asked, and all that took the announcement time is added.
	revoked events.Position
	since   events.Time
}

// Hear takes announcements in, in the order of their stream. What is none is counted
// and passed over: whoever speaks nonsense speaks for nobody else.
func (v *View) Hear(list []presence.Message) {
	now := time.Now()
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, m := range list {
		err := v.hear(m, now)
		if err == nil {
			continue
		}
		v.faults++
		if now.Sub(v.complained) > complainEvery {
			v.complained = now
			v.log.Warn("an announcement is none", slog.Any("error", err), slog.Uint64("position", uint64(m.Position)))
		}
	}
	close(v.changed)
	v.changed = make(chan struct{})
}

func (v *View) hear(m presence.Message, now time.Time) error {
	a, err := presence.Decode(v.cfg.Ledger, m)
	if err != nil {
		return err
	}
	v.clock.hear(m.Stored, now)
	known := v.verifiers[a.Verifier]
	if known == nil {
		if len(v.verifiers) >= MaxVerifiers {
			return errMany
		}
		known = &verifier{}
		v.verifiers[a.Verifier] = known
		v.name(a.Verifier)
	}
	r := known.run(a.Boot)
	if r == nil {
		r = &run{id: a.Boot, began: m.Position, first: m.Stored}
		known.runs = append(known.runs, r)
		if len(known.runs) > maxRuns {
			known.runs = slices.Delete(known.runs, 0, len(known.runs)-maxRuns)
		}
	} else if a.Number <= r.last.Number {
		// It was stored twice.
		return nil
	}
	r.last, r.stored, r.position = a, m.Stored, m.Position
	v.step(r)
	return nil
}

// step notes what a run holds by its last announcement.
func (v *View) step(r *run) {
	next := step{
		applied: r.last.Applied, stored: r.stored, at: r.last.At,
		revoked: r.last.Revoked, since: r.stored.Add(-time.Duration(r.last.RevokedAgo) * time.Millisecond),
	}
	n := len(r.steps)
	if n == 0 {
		r.steps = append(r.steps, next)
		return
	}
	if next.applied <= r.steps[n-1].applied {
		return
	}
	if n > 1 && !v.asks(r.steps[n-2].applied, r.steps[n-1].applied) {
		r.steps[n-1] = next
		return
	}
	if n == maxSteps {
		r.steps = slices.Delete(r.steps, 0, maxSteps/2)
	}
	r.steps = append(r.steps, next)
}

// holds finds the announcement by which a run first was known to hold a position.
// exact says that it did not hold it by the one before.
func (r *run) holds(pos events.Position) (s step, held, exact bool) {
	i := sort.Search(len(r.steps), func(i int) bool { return r.steps[i].applied >= pos })
	if i == len(r.steps) {
		return step{}, false, false
	}
	return r.steps[i], true, i > 0
}

func (r *run) live(at events.Time) bool {
	return !r.last.Ended && since(r.stored, at) <= time.Duration(r.last.Lease)*time.Millisecond
}

func (r *run) staleness(at events.Time) time.Duration {
	if r.last.Staleness < 0 {
		// Never in this run.
		return since(r.first, at)
	}
	return time.Duration(r.last.Staleness)*time.Millisecond + since(r.stored, at)
}

func (r *run) maxStaleness() time.Duration {
	return time.Duration(r.last.MaxStaleness) * time.Millisecond
}

// bound is how old what it holds may be for it to answer, however it was started.
func (r *run) bound() time.Duration {
	return max(r.maxStaleness(), time.Duration(r.last.OfflineStart)*time.Millisecond)
}

func (x *verifier) run(id uses.BootID) *run {
	for _, r := range x.runs {
		if r.id == id {
			return r
		}
	}
	return nil
}

// current is the run that answers: the youngest that is live, else the one that was
// heard last.
func (x *verifier) current(at events.Time) *run {
	var last *run
	for _, r := range slices.Backward(x.runs) {
		if r.live(at) {
			return r
		}
		if last == nil || r.position > last.position {
			last = r
		}
	}
	return last
}

// answers reports whether a run is live, and no younger one has taken its place: once
// that has spoken, the older one must speak again to be believed to be there.
func (x *verifier) answers(r *run, at events.Time) bool {
	return r.live(at) && !slices.ContainsFunc(x.runs, func(o *run) bool { return o.began > r.position && o.live(at) })
}

// duplicate reports whether two runs announce themselves by turns: two programs work
// under one name. One that took the place of another that broke off does not.
func (x *verifier) duplicate(at events.Time) bool {
	n := 0
	for _, r := range x.runs {
		if x.answers(r, at) {
			n++
		}
	}
	return n > 1
}
