// Package providersignals tells of provider keys that are resolved unusually often,
// and of those whose resolves fail again and again.
//
// What there is to tell stands in the records of access, which every server follows,
// and every server runs a [Keeper] that counts them, its own and the others'. Nobody
// holds a lock: what is recorded is decided on the provider key's own facts, so that
// any number of servers and restarts tell of each once. Each waits a random while
// first, so that the others mostly find it done.
//
// A signal is about now: what happened more than an hour ago counts no more. Nobody
// who resolves waits for any of this, and whoever resolves in ways that are to be
// told of cannot make it work without end: after a try a provider key is left alone
// for as long as nothing is told of it again.
package providersignals

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/relay"
)

const (
	// Window is how far back resolves are counted.
	Window = time.Hour

	// late is how old a record that comes may be: by the clocks of two servers, and
	// what it waited for.
	late = 5 * time.Minute

	// jitter is the longest random wait before something new is told, and rest the
	// wait after each, or as long as that took: most of the ledger is left to
	// everybody else.
	jitter = 300 * time.Millisecond
	rest   = 2 * time.Millisecond

	// look is how often it is looked for what was put off and what is over.
	look = time.Second

	// firstBackoff and longestBackoff are the waits after the ledger did not take
	// something, firstDoubt and longestDoubt those before one provider key is tried
	// again of which it takes nothing.
	firstBackoff, longestBackoff = 250 * time.Millisecond, 15 * time.Second
	firstDoubt, longestDoubt     = time.Second, 5 * time.Minute

	// maxCounted bounds the provider keys that are counted at once, which are those
	// that were resolved within some minutes, or failed within the hour: some 32 MB.
	// Of those beyond nothing is told until there is room.
	maxCounted = 1 << 16
)

// Spike is a minute in which a provider key was resolved so often.
type Spike struct {
	Org      events.OrgID
	Provider events.ProviderID
	From     events.Time
	Resolves int
}

// Failing is how often resolves of a provider key failed within an hour.
type Failing struct {
	Org      events.OrgID
	Provider events.ProviderID
	// Since is when the first of them did, Code why the last.
	Since    events.Time
	Failures int
	Code     string
}

// Outcome tells what became of a try.
type Outcome struct {
	// Recorded says that it was recorded by this call, and not before.
	Recorded bool
	// Next is from when on one is told again; 0 is any time.
	Next events.Time
}

// Noter records what is to be told, unless it was, or is not wanted. It fails with
// [events.ErrUnavailable] or [events.ErrOutcomeUnknown] where the ledger cannot be
// asked; anything else that it fails with is about that provider key.
type Noter[T Spike | Failing] func(context.Context, T) (Outcome, error)

// Config says what a keeper works with. All of it is required.
type Config struct {
	// Ledger is the one whose records are counted.
	Ledger events.LedgerID
	// Ready is closed once Threshold knows what every organization wants.
	Ready <-chan struct{}
	// Threshold is how many resolves of one of an organization's provider keys within
	// a minute are to be told, 0 for none.
	Threshold func(events.OrgID) int
	// NoteSpike and NoteFailing record it.
	NoteSpike   Noter[Spike]
	NoteFailing Noter[Failing]
	// Logger takes what operators should know.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	for what, missing := range map[string]bool{
		"Ledger": c.Ledger.IsZero(), "Ready": c.Ready == nil, "Threshold": c.Threshold == nil,
		"NoteSpike": c.NoteSpike == nil, "NoteFailing": c.NoteFailing == nil, "Logger": c.Logger == nil,
	} {
		if missing {
			faults = append(faults, errors.New("providersignals: no "+what))
		}
	}
	return errors.Join(faults...)
}

// Stats tell how a keeper is doing.
type Stats struct {
	// Spikes and Failings were recorded by this keeper. Idle tries found nothing to
	// record, mostly since another server was faster, Failed ones failed, and
	// Dropped records were not counted, because there were too many provider keys.
	Spikes, Failings, Idle, Failed, Dropped uint64
}

// Keeper tells. Apply may be called beside Run.
type Keeper struct {
	cfg  Config
	news chan struct{}

	mu     sync.Mutex
	boots  map[access.BootID]boot
	counts map[name]*counts
	// due are those of which there may be something to tell, and from when on it may
	// be tried.
	due map[name]time.Time

	spikes, failings, idle, failed, dropped atomic.Uint64
}

// New returns a keeper that waits for its Run.
func New(cfg Config) (*Keeper, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Keeper{
		cfg: cfg, news: make(chan struct{}, 1), boots: map[access.BootID]boot{}, counts: map[name]*counts{}, due: map[name]time.Time{},
	}, nil
}

// Stats tells how the keeper is doing.
func (k *Keeper) Stats() Stats {
	return Stats{
		Spikes: k.spikes.Load(), Failings: k.failings.Load(),
		Idle: k.idle.Load(), Failed: k.failed.Load(), Dropped: k.dropped.Load(),
	}
}

// Run tells what there is until the context ends.
func (k *Keeper) Run(ctx context.Context) {
	select {
	case <-k.cfg.Ready:
	case <-ctx.Done():
		return
	}
	backoff, forgot := firstBackoff, time.Now()
	for k.await(ctx) && relay.Pause(ctx, rand.N(jitter)) {
		now := time.Now()
		err := k.tellAll(ctx, now)
		if err == nil && now.Sub(forgot) >= time.Minute {
			k.forget(now)
			forgot = now
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			k.cfg.Logger.WarnContext(ctx, "what is to be told of provider keys cannot be recorded now", "error", err, "again_in", backoff)
			relay.Pause(ctx, backoff/2+rand.N(backoff))
			backoff = min(2*backoff, longestBackoff)
		default:
			backoff = firstBackoff
		}
	}
}

// await waits until there may be something to do, and reports whether to do it.
func (k *Keeper) await(ctx context.Context) bool {
	t := time.NewTimer(look)
	defer t.Stop()
	select {
	case <-k.news:
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// tellAll tells what there is of all provider keys whose time has come. It ends where
// the ledger cannot be asked.
func (k *Keeper) tellAll(ctx context.Context, now time.Time) error {
	names := k.take(now)
	for i, n := range names {
		began := time.Now()
		tried, err := k.tell(ctx, n)
		switch {
		case err != nil && relay.Outage(err):
			k.putBack(names[i:])
			return err
		case err != nil:
			k.doubt(ctx, n, err)
		}
		if tried && !relay.Pause(ctx, max(rest, time.Since(began))) {
			return ctx.Err()
		}
	}
	return nil
}

// tell tells what there is of a provider key, and reports whether it asked the ledger.
func (k *Keeper) tell(ctx context.Context, n name) (tried bool, err error) {
	spikes, failing := k.candidates(n, k.cfg.Threshold(n.org))
	var quiet events.Time
	for _, s := range spikes {
		if s.From < quiet {
			continue
		}
		out, err := k.cfg.NoteSpike(ctx, s)
		k.count(out, err, &k.spikes)
		if err != nil {
			return true, err
		}
		quiet = k.silence(n, s.From, out.Next, func(c *counts) *events.Time { return &c.nextSpike })
	}
	if failing == nil {
		return len(spikes) > 0, nil
	}
	out, err := k.cfg.NoteFailing(ctx, *failing)
	k.count(out, err, &k.failings)
	if err == nil {
		k.silence(n, failing.Since, out.Next, func(c *counts) *events.Time { return &c.nextFailing })
	}
	return true, err
}

func (k *Keeper) count(out Outcome, err error, recorded *atomic.Uint64) {
	switch {
	case err != nil:
		k.failed.Add(1)
	case out.Recorded:
		recorded.Add(1)
	default:
		k.idle.Add(1)
	}
}
