// Package signals tells of keys that are used from where they never were before,
// and of bursts of denials, where organizations want to be told.
//
// What there is to tell stands in the view of uses, which every server has, and
// every server runs a [Keeper] that follows it and tries. Nobody holds a lock: the
// command that records a signal has an id that follows from what it is about, so
// that any number of servers, restarts and rebuilt views record each once. Each
// waits a random while first, so that the others mostly find it done.
//
// A signal is about now: what happened more than a day ago is not told of any more.
// Verdicts wait for none of this, and whoever uses keys in ways that are to be told
// of cannot make it work without end: of each key the view keeps so many sources and
// no more, and after a try for a spike the key is left alone for as long as none is
// told of again.
package signals

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/usage"
	"github.com/keyledger/keyledger/relay"
)

const (
	// look is how often it is looked whether there is news, which costs nothing
	// where there is none.
	look = 200 * time.Millisecond

	// jitter is the longest random wait before something new is tried.
	jitter = 300 * time.Millisecond

	// page is how many positions are asked for at once, together how many keys of
	// one organization are tried at once: what is recorded of them goes to disk as
	// one. rest is the wait after that, or as long as it took: however much there
	// is to tell, most of the ledger is left to everybody else.
	page, together = 8, 32
	rest           = 10 * time.Millisecond

	// recently is how old what is told may be.
	recently = 24 * time.Hour

	// firstBackoff and longestBackoff are the waits after the ledger did not take
	// something, firstDoubt and longestDoubt those before one key is tried again of
	// which it takes nothing.
	firstBackoff, longestBackoff = 250 * time.Millisecond, 15 * time.Second
	firstDoubt, longestDoubt     = time.Second, 5 * time.Minute

	// maxDoubts bounds what is tried again, and maxQuiet the keys that are
	// remembered as told of. Beyond the former nothing is tried again before a
	// restart; beyond the latter the ledger itself is asked once more.
	maxDoubts = 1 << 12
	maxQuiet  = 1 << 16
)

// Outcome tells what became of a try.
type Outcome struct {
	// Recorded says that it was recorded by this call, and not before.
	Recorded bool
	// Next is, of a spike, the first minute of which one is told again; 0 is any.
	Next events.Time
}

// Noter records what is to be told, unless it was, or is not wanted. It fails with
// [events.ErrUnavailable] or [events.ErrOutcomeUnknown] where the ledger cannot be
// asked; anything else that it fails with is about that key.
type Noter[T usage.Source | usage.Denials] func(context.Context, T) (Outcome, error)

// Wanted is what an organization wants to be told. Its zero value is nothing.
type Wanted struct {
	// Sources says that new sources are to be told.
	Sources bool
	// Spike is how many denials within a minute are to be told, 0 for none.
	Spike int
}

// Config says what a keeper works with. All of it is required.
type Config struct {
	// Usage tells what there is to tell.
	Usage *usage.View
	// Ready is closed once Wanted knows what every organization wants.
	Ready  <-chan struct{}
	Wanted func(events.OrgID) Wanted
	// NoteSource and NoteSpike record it.
	NoteSource Noter[usage.Source]
	NoteSpike  Noter[usage.Denials]
	// Logger takes what operators should know.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	for what, missing := range map[string]bool{
		"Usage": c.Usage == nil, "Ready": c.Ready == nil, "Wanted": c.Wanted == nil,
		"NoteSource": c.NoteSource == nil, "NoteSpike": c.NoteSpike == nil, "Logger": c.Logger == nil,
	} {
		if missing {
			faults = append(faults, errors.New("signals: no "+what))
		}
	}
	return errors.Join(faults...)
}

// Stats tell how a keeper is doing.
type Stats struct {
	// Sources and Spikes were recorded by this keeper. Idle tries found nothing to
	// record, mostly since another server was faster, Failed ones failed, and of
	// Dropped ones nothing is tried again.
	Sources, Spikes, Idle, Failed, Dropped uint64
}

// Keeper tells.
type Keeper struct {
	cfg Config
	// These are Run's own: how far was looked, which keys are left alone until which
	// minute, and what is tried again.
	sources, denials events.Position
	quiet            map[name]events.Time
	doubts           []doubt

	recordedSources, recordedSpikes, idle, failed, dropped atomic.Uint64
}

// name names a key.
type name struct {
	org events.OrgID
	key events.KeyID
}

// task is one thing to tell: a source or a spike.
type task struct {
	name
	source *usage.Source
	spike  *usage.Denials
}

// doubt is a task that failed, when it is tried again, and how long that is waited
// for.
type doubt struct {
	task
	until time.Time
	wait  time.Duration
}

// New returns a keeper that waits for its Run.
func New(cfg Config) (*Keeper, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Keeper{cfg: cfg, quiet: map[name]events.Time{}}, nil
}

// Stats tells how the keeper is doing.
func (k *Keeper) Stats() Stats {
	return Stats{
		Sources: k.recordedSources.Load(), Spikes: k.recordedSpikes.Load(),
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
	backoff := firstBackoff
	// At a start everything is new.
	for looked := false; ctx.Err() == nil; {
		if looked && k.cfg.Usage.News() <= min(k.sources, k.denials) && !k.due(time.Now()) {
			relay.Pause(ctx, look)
			continue
		}
		if !relay.Pause(ctx, rand.N(jitter)) {
			return
		}
		switch err := k.once(ctx); {
		case ctx.Err() != nil:
			return
		case err != nil:
			k.cfg.Logger.WarnContext(ctx, "what is to be told of keys cannot be recorded now", "error", err, "again_in", backoff)
			relay.Pause(ctx, backoff/2+rand.N(backoff))
			backoff = min(2*backoff, longestBackoff)
		default:
			looked, backoff = true, firstBackoff
		}
	}
}

// once tells all that there is by now. Where it fails it goes on from there.
func (k *Keeper) once(ctx context.Context) error {
	through, err := k.cfg.Usage.Position(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	since := events.TimeOf(now.Add(-recently))
	for ctx.Err() == nil && k.sources < through {
		list, next, err := k.cfg.Usage.NewSources(ctx, k.sources, through, since, page)
		if err == nil {
			err = k.tell(ctx, k.wantedSources(list))
		}
		if err != nil {
			return err
		}
		k.sources = next
	}
	for ctx.Err() == nil && k.denials < through {
		list, next, err := k.cfg.Usage.Denials(ctx, k.denials, through, since, page)
		if err == nil {
			err = k.tell(ctx, k.wantedSpikes(list))
		}
		if err != nil {
			return err
		}
		k.denials = next
	}
	k.forget(since)
	return k.again(ctx, now)
}

func (k *Keeper) wantedSources(list []usage.Source) []task {
	var out []task
	for i := range list {
		if s := &list[i]; k.cfg.Wanted(s.Org).Sources {
			out = append(out, task{name: name{s.Org, s.Key}, source: s})
		}
	}
	return out
}

func (k *Keeper) wantedSpikes(list []usage.Denials) []task {
	var out []task
	for i := range list {
		d := &list[i]
		n := name{d.Org, d.Key}
		if wanted := k.cfg.Wanted(d.Org).Spike; wanted != 0 && d.Count >= wanted && d.From >= k.quiet[n] {
			out = append(out, task{name: n, spike: d})
		}
	}
	return out
}

// tell tries tasks, those of one organization together and those of one key one
// after the other. It ends where the ledger cannot be asked.
func (k *Keeper) tell(ctx context.Context, tasks []task) error {
	slices.SortStableFunc(tasks, func(a, b task) int { return cmp.Compare(a.org, b.org) })
	for len(tasks) > 0 && ctx.Err() == nil {
		keys, n := map[events.KeyID][]task{}, 0
		for n < len(tasks) && tasks[n].org == tasks[0].org && (len(keys) < together || keys[tasks[n].key] != nil) {
			keys[tasks[n].key] = append(keys[tasks[n].key], tasks[n])
			n++
		}
		began := time.Now()
		if err := k.tryTogether(ctx, keys); err != nil {
			return err
		}
		tasks = tasks[n:]
		relay.Pause(ctx, max(rest, time.Since(began)))
	}
	return ctx.Err()
}

// tried is what became of a task.
type tried struct {
	task
	Outcome
	err error
}

// tryTogether tries the tasks of some keys, and notes what became of them.
func (k *Keeper) tryTogether(ctx context.Context, keys map[events.KeyID][]task) error {
	results := make(chan []tried, len(keys))
	var wg sync.WaitGroup
	for _, tasks := range keys {
		wg.Go(func() { results <- k.tryInTurn(ctx, tasks) })
	}
	wg.Wait()
	close(results)
	var away error
	for list := range results {
		for _, t := range list {
			switch {
			case t.err != nil && relay.Outage(t.err):
				away = t.err
			case t.err != nil:
				k.cfg.Logger.WarnContext(ctx, "what was seen of a key cannot be recorded", "organization", string(t.org), "key", t.key.String(), "error", t.err)
				k.doubt(doubt{task: t.task, wait: firstDoubt})
			case t.spike != nil:
				k.silence(t)
			}
		}
	}
	return away
}

func (k *Keeper) tryInTurn(ctx context.Context, tasks []task) []tried {
	out := make([]tried, 0, len(tasks))
	var next events.Time
	for _, t := range tasks {
		if t.spike != nil && t.spike.From < next {
			continue
		}
		r := k.try(ctx, t)
		if out, next = append(out, r), r.Next; r.err != nil && relay.Outage(r.err) {
			break
		}
	}
	return out
}

func (k *Keeper) try(ctx context.Context, t task) tried {
	r, recorded := tried{task: t}, &k.recordedSpikes
	if t.source != nil {
		recorded = &k.recordedSources
		r.Outcome, r.err = k.cfg.NoteSource(ctx, *t.source)
	} else {
		r.Outcome, r.err = k.cfg.NoteSpike(ctx, *t.spike)
	}
	switch {
	case r.err != nil:
		k.failed.Add(1)
	case r.Recorded:
		recorded.Add(1)
	default:
		k.idle.Add(1)
	}
	return r
}

// silence leaves a key alone for as long as no spike is told of it, or for an hour
// where that is for another reason: a policy that has just changed, or what cannot
// be understood.
func (k *Keeper) silence(t tried) {
	next := t.Next
	if next <= t.spike.From {
		next = t.spike.From.Add(events.SpikeEvery)
	}
	if len(k.quiet) < maxQuiet || k.quiet[t.name] != 0 {
		k.quiet[t.name] = max(next, k.quiet[t.name])
	}
}

// forget forgets who was to be left alone until a time that nobody looks at any
// more, when there are many.
func (k *Keeper) forget(since events.Time) {
	if len(k.quiet) < maxQuiet/2 {
		return
	}
	for n, until := range k.quiet {
		if until < since {
			delete(k.quiet, n)
		}
	}
}

// doubt puts a task off.
func (k *Keeper) doubt(d doubt) {
	if len(k.doubts) >= maxDoubts {
		k.dropped.Add(1)
		return
	}
	d.until = time.Now().Add(d.wait)
	k.doubts = append(k.doubts, d)
}

// due reports whether something that was put off is to be tried.
func (k *Keeper) due(now time.Time) bool {
	return slices.ContainsFunc(k.doubts, func(d doubt) bool { return !d.until.After(now) })
}

// again tries what was put off, as long as it is worth telling.
func (k *Keeper) again(ctx context.Context, now time.Time) error {
	since := events.TimeOf(now.Add(-recently))
	due := k.doubts
	k.doubts = nil
	for i, d := range due {
		switch {
		case d.until.After(now):
			k.doubts = append(k.doubts, d)
			continue
		case d.source != nil && d.source.FirstAt < since, d.spike != nil && d.spike.From < since:
			k.dropped.Add(1)
			continue
		}
		switch r := k.try(ctx, d.task); {
		case r.err != nil && relay.Outage(r.err):
			k.doubts = append(k.doubts, due[i:]...)
			return r.err
		case r.err != nil:
			d.wait = min(2*d.wait, longestDoubt)
			k.doubt(d)
		case d.spike != nil:
			k.silence(r)
		}
	}
	return nil
}
