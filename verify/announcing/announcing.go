// Package announcing has a verifier say who it is, how far it has come and that it is
// still there: at its start, every third of the time that an announcement holds, soon
// after it has applied a revocation, and how long ago that was, and at its end. So others can tell by when nobody
// accepts a key any more.
//
// Verdicts wait for the first announcement of a run alone, if whoever makes them says
// so. One that could not be stored is made anew.
package announcing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/projections"
)

const (
	// gather is how long to wait for more of what is to be told soon: revocations
	// come many at a time.
	gather = 10 * time.Millisecond
	// scatter is within how long after that a fleet tells that it has applied a
	// revocation. The broker syncs each announcement: those of a hundred verifiers in a
	// row would have the next revocation wait.
	scatter = 200 * time.Millisecond
	// between is the least time between two announcements, whatever happens: a fleet
	// tells together as often as its size.
	between = 250 * time.Millisecond
	// publishing bounds one attempt, and firstPause and lastPause what is between an
	// attempt that failed and the next.
	publishing = 5 * time.Second
	firstPause = 100 * time.Millisecond
	lastPause  = 3 * time.Second
	// news is how old a revocation may be that is told of soon; what is older comes
	// from a replay.
	news = time.Minute
)

// Config says what is announced, and how.
type Config struct {
	// State returns what the verifier is at. Number, At, Revoked, RevokedAgo, Lease and
	// Ended are the announcer's to set. Required; it is called by one goroutine at a time.
	State func() presence.Announcement
	// Publish stores an announcement. Required; one is under way at a time.
	Publish func(context.Context, presence.Announcement) error
	// Lease is how long an announcement holds. 0 is [presence.DefaultLease].
	Lease time.Duration
	// Logger takes what could not be announced. Nothing is logged without one.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	if c.State == nil {
		faults = append(faults, errors.New("announcing: nothing to announce"))
	}
	if c.Publish == nil {
		faults = append(faults, errors.New("announcing: nowhere to announce it"))
	}
	if c.Lease != 0 && (c.Lease < presence.MinLease || c.Lease > presence.MaxLease) {
		faults = append(faults, fmt.Errorf("announcing: Lease must be between %s and %s", presence.MinLease, presence.MaxLease))
	}
	return errors.Join(faults...)
}

// Stats count announcements.
type Stats struct {
	// Stored are those that were, and Failed are attempts that were not.
	Stored, Failed uint64
}

// Announcer announces one run of a verifier.
type Announcer struct {
	config         Config
	soon           chan struct{}
	stored, failed atomic.Uint64
	applied        atomic.Pointer[applied]

	// What follows belongs to Run, and to End after it.
	number uint64
	last   time.Time // when the last announcement was stored
	pause  time.Duration
	// owed says that something is to be told soon; unstored is the time of the
	// announcement that told it, until another has told that all uses from before are
	// stored.
	owed     bool
	unstored events.Time
}

// applied is a revocation, and when it was applied.
type applied struct {
	position events.Position
	at       time.Time
}

// New returns an announcer that waits for its Run.
func New(c Config) (*Announcer, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Lease == 0 {
		c.Lease = presence.DefaultLease
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Announcer{config: c, soon: make(chan struct{}, 1)}, nil
}

// Soon has the verifier announce itself within [gather] and [scatter], or as soon as
// the last announcement is long enough ago; and once more when all uses from before that
// are stored. It returns at once.
func (a *Announcer) Soon() {
	select {
	case a.soon <- struct{}{}:
	default:
	}
}

// Stats counts, for metrics.
func (a *Announcer) Stats() Stats { return Stats{Stored: a.stored.Load(), Failed: a.failed.Load()} }

// Run announces until the context ends.
func (a *Announcer) Run(ctx context.Context) {
	// The first announcement comes at once, and each sets when the next is due.
	due := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.soon:
			if early := a.earliest(time.Now().Add(gather + rand.N(scatter))); !a.owed && a.pause == 0 && early.Before(due) {
				due = early
				timer.Reset(time.Until(due))
			}
			a.owed = true
			continue
		case <-timer.C:
		}
		due = a.turn(ctx, due)
		timer.Reset(time.Until(due))
	}
}

// earliest is when the next announcement may come that shall at a time.
func (a *Announcer) earliest(at time.Time) time.Time {
	if may := a.last.Add(between); may.After(at) {
		return may
	}
	return at
}

// turn announces what is due, and returns when to look again.
func (a *Announcer) turn(ctx context.Context, due time.Time) time.Time {
	err := a.say(ctx, false)
	if ctx.Err() != nil {
		return due
	}
	if err != nil {
		if a.pause == 0 {
			// Once, and not for as long as the broker is away.
			a.config.Logger.WarnContext(ctx, "the verifier cannot announce itself, and goes on trying", "error", err)
		}
		a.pause = min(max(2*a.pause, firstPause), lastPause)
		return time.Now().Add(a.pause/2 + rand.N(a.pause))
	}
	a.pause = 0
	if a.unstored != 0 {
		return a.last.Add(between)
	}
	every := a.config.Lease / 3
	return a.last.Add(every - rand.N(every/10))
}

// say announces the verifier once.
func (a *Announcer) say(ctx context.Context, ended bool) error {
	ctx, cancel := context.WithTimeout(ctx, publishing)
	defer cancel()
	owed := a.owed
	a.owed = false
	told, now := a.config.State(), time.Now()
	a.number++
	told.At, told.Number, told.Lease, told.Ended = events.TimeOf(now), a.number, a.config.Lease.Milliseconds(), ended
	if revoked := a.applied.Load(); revoked != nil && revoked.position <= told.Applied {
		told.Revoked, told.RevokedAgo = revoked.position, max(now.Sub(revoked.at), 0).Milliseconds()
	}
	if err := a.config.Publish(ctx, told); err != nil {
		a.owed = a.owed || owed
		a.failed.Add(1)
		return err
	}
	a.stored.Add(1)
	a.last = time.Now()
	switch {
	case owed:
		a.unstored = told.At
	case told.StoredThrough > a.unstored:
		a.unstored = 0
	}
	return nil
}

// End announces that the verifier answers no more, after Run has returned. It tries
// until that is stored or ctx ends.
func (a *Announcer) End(ctx context.Context) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := a.say(ctx, true)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("announcing: the end is not announced: %w, after: %w", context.Cause(ctx), err)
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

// View is what a verifier's runner feeds beside its index and after it, so that
// revocations are announced as soon as they are applied. It begins where the index
// does.
func (a *Announcer) View(from events.Position) projections.View {
	return &view{announcer: a, through: from}
}

// view looks for revocations that have just happened.
type view struct {
	announcer *Announcer
	through   events.Position
}

func (v *view) Name() string { return "announcing" }

func (v *view) Position(context.Context) (events.Position, error) { return v.through, nil }

func (v *view) Apply(_ context.Context, facts []events.Recorded) error {
	now := time.Now()
	recent := events.TimeOf(now.Add(-news))
	for _, fact := range slices.Backward(facts) {
		if fact.Subject.Aggregate == events.AggregateRevoked && fact.Stored > recent {
			v.announcer.applied.Store(&applied{fact.Position, now})
			v.announcer.Soon()
			break
		}
	}
	v.through = facts[len(facts)-1].Position
	return nil
}
