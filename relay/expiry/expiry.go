// Package expiry records in time that keys have ended, and gives notice ahead of
// it where an organization wants some. It tells of keys that have the age at which
// they should be rotated, and revokes those of an organization that has ended.
//
// The ledger itself is the timer. What is due, and when, follows from its facts,
// and stands in the catalog in the order of time; every server runs a [Keeper],
// which sleeps until something is due there, and tries. Nobody holds a lock or
// schedules a message: the expectation on the key's own subject lets one of them
// record it. Each waits a random while first, so that the others mostly find it
// done; who finds that somebody else is at it stands back. Whatever was due while
// no server ran is recorded when one does, from the longest due on.
//
// Verdicts wait for none of this: they deny by the time itself.
package expiry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/relay"
)

const (
	// firstPage is how many keys are asked for at first, page how many after that.
	// Those of one organization are tried at once: what is recorded of them goes to
	// disk as one, and costs the ledger one sync. A few come first, so that whoever
	// is not alone finds that out at the price of them.
	firstPage, page = 8, 32

	// rest is the wait after each organization's keys, or as long as they took:
	// many keys that end in the same second shall not keep the ledger from anything
	// else. That makes a thousand a second, and more, of one organization, and some
	// 70 where each has its own.
	rest = 10 * time.Millisecond

	// jitter is the longest random wait before something that is due is tried.
	jitter = 400 * time.Millisecond

	// crowd is how many keys were recorded by others when a sweep is ended that
	// had no more of its own: somebody else is at it.
	crowd = 8

	// standBack is the first wait of who ended a sweep so, and the longest: as long
	// nothing is recorded when that somebody dies in the middle.
	standBack, longestStandBack = 500 * time.Millisecond, 4 * time.Second

	// settle is how long the catalog may move on before it is asked again.
	settle = 200 * time.Millisecond

	// ask is how often it is looked whether something is due though the catalog has
	// not moved: clocks are set, too.
	ask = 30 * time.Second

	// askAgain is how soon the catalog is asked again when it did not answer.
	askAgain = 2 * time.Second

	// catchUp bounds the wait for the catalog to show what was recorded.
	catchUp = 5 * time.Second

	// firstBackoff and longestBackoff are the waits after the ledger did not take
	// something, longestStale is the longest while this server's verdicts are stale,
	// firstDoubt and longestDoubt those before one key is tried again
	// of which it takes nothing.
	firstBackoff, longestBackoff = 250 * time.Millisecond, 15 * time.Second
	longestStale                 = 2 * time.Second
	firstDoubt, longestDoubt     = time.Second, 5 * time.Minute

	// maxDoubts bounds the keys that are remembered for that. Where there are more,
	// those beyond are tried again in every sweep, and sweeps become rare.
	maxDoubts = 1 << 16
)

// Outcome tells what became of one key.
type Outcome struct {
	// Position is that of the key's last fact.
	Position events.Position
	// Recorded says that it was recorded by this call, and not before.
	Recorded bool
}

// Appender appends what a key's end asks for, if it does, and fails with
// [events.ErrUnavailable] or [events.ErrOutcomeUnknown] where the ledger cannot
// be asked. Anything else that it fails with is about that key.
type Appender func(ctx context.Context, org events.OrgID, key events.KeyID) (Outcome, error)

// Config says what a keeper works with. All of it is required.
type Config struct {
	// Catalog tells what is due.
	Catalog *catalog.Catalog
	// Ready is closed once the catalog has replayed the ledger, Applied tells how
	// far it is, and WaitFor returns when it has applied a position: those of its
	// projections.Runner.
	Ready   <-chan struct{}
	Applied func() events.Position
	WaitFor func(context.Context, events.Position) error
	// Expire records that a key's time has come, Notify gives notice of it.
	// RotationDue records that it should be rotated, and Revoke revokes it, since
	// its organization has ended.
	Expire, Notify, RotationDue, Revoke Appender
	// Stale tells whether this server's own verdicts are stale. Nothing is recorded
	// meanwhile: an end that is recorded is for ever, and what makes verdicts stale
	// may be this machine's clock, which says that ends have come.
	Stale func() bool
	// Logger takes what operators should know.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, errors.New("expiry: "+text))
		}
	}
	fault(c.Catalog == nil, "no Catalog")
	fault(c.Ready == nil || c.Applied == nil || c.WaitFor == nil, "no Ready, Applied or WaitFor")
	fault(c.Expire == nil || c.Notify == nil || c.RotationDue == nil || c.Revoke == nil, "no Expire, Notify, RotationDue or Revoke")
	fault(c.Stale == nil, "no Stale")
	fault(c.Logger == nil, "no Logger")
	return errors.Join(faults...)
}

// Stats tell how a keeper is doing.
type Stats struct {
	// Expired, Noticed, RotationDue and Revoked were recorded by this keeper. Idle
	// tries found nothing to record, mostly since another server was faster, and
	// Failed ones failed.
	Expired, Noticed, RotationDue, Revoked, Idle, Failed uint64
}

// Keeper records what is due.
type Keeper struct {
	cfg Config
	// doubts are the keys of which nothing is recorded though it is due, sweeps
	// counts how often all that is due was gone through. They are Run's own.
	doubts map[catalog.Due]doubt
	sweeps int

	expired, noticed, rotationDue, revoked, idle, failed atomic.Uint64
}

// doubt is when a key is tried again, how long it was waited for that, and in
// which sweep the key was due last.
type doubt struct {
	until time.Time
	wait  time.Duration
	sweep int
}

// New returns a keeper that waits for its Run.
func New(cfg Config) (*Keeper, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Keeper{cfg: cfg, doubts: map[catalog.Due]doubt{}}, nil
}

// Stats tells how the keeper is doing.
func (k *Keeper) Stats() Stats {
	return Stats{
		Expired: k.expired.Load(), Noticed: k.noticed.Load(), RotationDue: k.rotationDue.Load(), Revoked: k.revoked.Load(),
		Idle: k.idle.Load(), Failed: k.failed.Load(),
	}
}

// Run records what is due until the context ends.
func (k *Keeper) Run(ctx context.Context) {
	select {
	case <-k.cfg.Ready:
	case <-ctx.Done():
		return
	}
	backoff, back := firstBackoff, standBack
	for k.untilDue(ctx) {
		if !relay.Pause(ctx, rand.N(jitter)) {
			return
		}
		shared, err := k.sweep(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			level, longest := slog.LevelWarn, longestBackoff
			if errors.Is(err, errStale) {
				// To look costs nothing, and it is mostly over soon.
				longest = longestStale
				if backoff != firstBackoff {
					level = slog.LevelDebug
				}
			}
			k.cfg.Logger.Log(ctx, level, "what is due of keys cannot be recorded now", "error", err, "again_in", backoff)
			relay.Pause(ctx, backoff/2+rand.N(backoff))
			backoff, back = min(2*backoff, longest), standBack
		case shared:
			relay.Pause(ctx, back/2+rand.N(back))
			backoff, back = firstBackoff, min(2*back, longestStandBack)
		default:
			backoff, back = firstBackoff, standBack
		}
	}
}

// untilDue waits until something is due, and returns false when the context ends.
func (k *Keeper) untilDue(ctx context.Context) bool {
	var (
		next  time.Time
		known events.Position // what was applied when next was asked for
	)
	for ctx.Err() == nil {
		// In this order: what is applied after it wakes.
		applied := k.cfg.Applied()
		if known == 0 || applied != known || len(k.doubts) > 0 {
			var err error
			if next, err = k.next(ctx); err != nil {
				if ctx.Err() == nil {
					k.cfg.Logger.WarnContext(ctx, "the catalog does not tell what is due", "error", err)
				}
				known = 0
				relay.Pause(ctx, askAgain)
				continue
			}
			known = applied
		}
		now := time.Now()
		if !next.IsZero() && !next.After(now) {
			return true
		}
		wait := ask
		if !next.IsZero() {
			wait = min(wait, next.Sub(now))
		}
		moved, cancel := context.WithTimeout(ctx, wait)
		stopped := k.cfg.WaitFor(moved, applied+1)
		if moved.Err() == nil {
			if stopped != nil {
				// The catalog has stopped, and says so itself.
				relay.Pause(moved, ask)
			}
			relay.Pause(moved, settle)
		}
		cancel()
	}
	return false
}

// next is when there is something to try.
func (k *Keeper) next(ctx context.Context) (time.Time, error) {
	if len(k.doubts) == 0 {
		at, err := k.cfg.Catalog.Next(ctx)
		return at.Std(), err
	}
	// What is in doubt stands at the front. Behind it is what comes next.
	now := time.Now()
	var next time.Time
	for _, d := range k.doubts {
		if next.IsZero() || d.until.Before(next) {
			next = d.until
		}
	}
	for after := (catalog.Due{}); ; {
		list, err := k.cfg.Catalog.Due(ctx, events.TimeOf(now.Add(ask)), after, page)
		if err != nil || len(list) == 0 {
			return next, err
		}
		for _, d := range list {
			if _, doubted := k.doubts[d]; doubted {
				continue
			}
			if at := d.At.Std(); at.Before(next) {
				next = at
			}
			return next, nil
		}
		after = list[len(list)-1]
	}
}

// tally counts what became of the keys of a sweep: recorded here, or lost to
// somebody else.
type tally struct{ recorded, lost int }

// crowded reports whether somebody else is going through the same keys. Who has
// done much of it already goes on beside somebody who has just come.
func (t tally) crowded() bool { return t.lost >= crowd && 3*t.lost >= t.recorded }

// sweep goes through all that is due once, from the longest due on. What comes
// meanwhile does not wait behind that: an organization may end with a great many
// keys, or a policy make all of them due at once. It reports whether it stopped
// since somebody else is at it.
func (k *Keeper) sweep(ctx context.Context) (shared bool, err error) {
	var t tally
	size := firstPage
	fresh := catalog.Due{At: events.TimeOf(time.Now())}
	for after := (catalog.Due{}); ; size = min(2*size, page) {
		now, applied := time.Now(), k.cfg.Applied()
		list, err := k.cfg.Catalog.Due(ctx, events.TimeOf(now), after, size)
		if err != nil {
			return false, err
		}
		if len(list) == size && list[size-1].At < fresh.At {
			came, err := k.cfg.Catalog.Due(ctx, events.TimeOf(now), fresh, size)
			if err != nil {
				return false, err
			}
			if len(came) > 0 {
				fresh = came[len(came)-1]
				if err := k.record(ctx, k.undoubted(came, now), applied, &t); err != nil || t.crowded() {
					return err == nil, err
				}
			}
		}
		if len(list) == 0 {
			if k.forget(); len(k.doubts) >= maxDoubts {
				// Those beyond would be tried again at once.
				return false, fmt.Errorf("expiry: nothing is recorded of %d keys or more though it is due", maxDoubts)
			}
			return false, nil
		}
		after = list[len(list)-1]
		if err := k.record(ctx, k.undoubted(list, now), applied, &t); err != nil || t.crowded() {
			return err == nil, err
		}
	}
}

// undoubted leaves out what is not to be tried yet.
func (k *Keeper) undoubted(list []catalog.Due, now time.Time) []catalog.Due {
	out := list[:0]
	for _, d := range list {
		doubt, doubted := k.doubts[d]
		if doubted {
			doubt.sweep = k.sweeps
			k.doubts[d] = doubt
		}
		if !doubt.until.After(now) {
			out = append(out, d)
		}
	}
	return out
}

// forget ends a sweep: what it did not meet is due no more.
func (k *Keeper) forget() {
	for d, doubt := range k.doubts {
		if doubt.sweep != k.sweeps {
			delete(k.doubts, d)
		}
	}
	k.sweeps++
}

// tried is what became of one key.
type tried struct {
	due     catalog.Due
	outcome Outcome
	err     error
}

// lost reports whether somebody else did it, after what the list of what is due
// was made of.
func (t tried) lost(applied events.Position) bool {
	return t.err == nil && !t.outcome.Recorded && t.outcome.Position > applied
}

// record tries keys, and waits until the catalog shows what it came to: what is
// asked for next is what is left.
func (k *Keeper) record(ctx context.Context, list []catalog.Due, applied events.Position, t *tally) error {
	var (
		last events.Position
		err  error
	)
	for _, r := range k.tryAll(ctx, list, applied, t) {
		last = max(last, r.outcome.Position)
		switch {
		case r.err != nil && outage(r.err):
			err = r.err
		case r.err != nil:
			k.cfg.Logger.WarnContext(ctx, "what is due of a key cannot be recorded", "organization", string(r.due.Org), "key", r.due.Key.String(), "error", r.err)
			k.doubt(r.due)
		case r.outcome.Recorded || r.lost(applied):
			delete(k.doubts, r.due)
		default:
			// The catalog and the key's own facts disagree, or the policy did not
			// come to both yet.
			k.doubt(r.due)
		}
	}
	waiting, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	if last > 0 {
		err = errors.Join(err, k.cfg.WaitFor(waiting, last))
	}
	return err
}

// doubt puts off the next try of a key. What was tried together is tried together
// again.
func (k *Keeper) doubt(d catalog.Due) {
	had, doubted := k.doubts[d]
	if !doubted && len(k.doubts) >= maxDoubts {
		return
	}
	wait := min(max(firstDoubt, 2*had.wait), longestDoubt)
	k.doubts[d] = doubt{until: time.Now().Add(wait), wait: wait, sweep: k.sweeps}
}

// tryAll tries keys until all are tried, somebody else is at it, or the ledger
// cannot be asked.
func (k *Keeper) tryAll(ctx context.Context, list []catalog.Due, applied events.Position, t *tally) []tried {
	var results []tried
	for len(list) > 0 && ctx.Err() == nil {
		if k.cfg.Stale() {
			return append(results, tried{due: list[0], err: errStale})
		}
		var of, others []catalog.Due
		for _, d := range list {
			if d.Org == list[0].Org {
				of = append(of, d)
			} else {
				others = append(others, d)
			}
		}
		began := time.Now()
		out := k.tryTogether(ctx, of)
		results, list = append(results, out...), others
		for _, r := range out {
			switch {
			case r.err != nil && outage(r.err):
				return results
			case r.outcome.Recorded:
				t.recorded++
			case r.lost(applied):
				t.lost++
			}
		}
		if t.crowded() {
			return results
		}
		relay.Pause(ctx, max(rest, time.Since(began)))
	}
	return results
}

// tryTogether tries keys of one organization at once.
func (k *Keeper) tryTogether(ctx context.Context, list []catalog.Due) []tried {
	out := make([]tried, len(list))
	var wg sync.WaitGroup
	for i, d := range list {
		wg.Go(func() { out[i] = k.try(ctx, d) })
	}
	wg.Wait()
	return out
}

func (k *Keeper) try(ctx context.Context, d catalog.Due) tried {
	do, recorded := k.asked(d)
	outcome, err := do(ctx, d.Org, d.Key)
	switch {
	case err != nil:
		k.failed.Add(1)
	case outcome.Recorded:
		recorded.Add(1)
	default:
		k.idle.Add(1)
	}
	return tried{d, outcome, err}
}

// asked is what a key asks for, and what counts it.
func (k *Keeper) asked(d catalog.Due) (Appender, *atomic.Uint64) {
	switch d.Ask(events.TimeOf(time.Now())) {
	case catalog.AskExpiry:
		return k.cfg.Expire, &k.expired
	case catalog.AskRotationDue:
		return k.cfg.RotationDue, &k.rotationDue
	case catalog.AskRevocation:
		return k.cfg.Revoke, &k.revoked
	default:
		return k.cfg.Notify, &k.noticed
	}
}

// errStale says that this server knows too little, or its clock is wrong.
var errStale = errors.New("expiry: this server's verdicts are stale")

// outage reports whether it is the ledger or this server that failed, and not one
// key.
func outage(err error) bool {
	return errors.Is(err, errStale) || relay.Outage(err)
}
