package projections

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/events"
)

// DefaultAskEvery is how often the ledger's head is asked for until it is told.
const DefaultAskEvery = time.Second

// ClockMargin is how far the clocks of this machine and of the broker may be
// apart. A fact from further in the future proves nothing, and one from within it
// counts as one of now: so freshness is overstated by this at most. Machines that
// keep their time by NTP are within a hundredth of it.
const ClockMargin = 5 * time.Second

// aheadAsks is how often a head that lies behind the view is asked for again
// before the view is said to be ahead: a leader that was just deposed answers
// with an old head for some seconds.
const aheadAsks = 10

// tellEvery is how often the log says that the ledger does not answer: it may be for a
// night.
const tellEvery = 10 * time.Second

// Config says what a runner runs.
type Config struct {
	// Source is the ledger. Required.
	Source Source
	// View is what its facts are applied to. Required.
	View View
	// Logger takes what happens to the view. Nothing is logged without one.
	Logger *slog.Logger
	// AskEvery is how often a ledger that does not tell its head is asked again at
	// the start. 0 is [DefaultAskEvery].
	AskEvery time.Duration
	// Filtered says that the source lets only some of the ledger's facts through:
	// positions then increase and may leave others out, and batches of the
	// installation's own organization may come in part. It takes a Proven.
	Filtered bool
	// Proven returns the broker's time up to which the facts applied so far are
	// known to be all there were, zero for not yet; and whether what it returned
	// before still holds. It is asked after every slice. Without one it is the
	// time of the last fact, which holds for whoever sees every position.
	Proven func() (at events.Time, holds bool)
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	if c.Source == nil {
		faults = append(faults, errors.New("projections: no source"))
	}
	if c.View == nil {
		faults = append(faults, errors.New("projections: no view"))
	}
	if c.AskEvery < 0 {
		faults = append(faults, errors.New("projections: AskEvery is negative"))
	}
	if c.Filtered && c.Proven == nil {
		faults = append(faults, errors.New("projections: nothing tells what is missing from a filtered source"))
	}
	return errors.Join(faults...)
}

// State is what a runner is at.
type State int

// What a runner may be at.
const (
	// StateIdle is before Run.
	StateIdle State = iota
	// StateReplaying is before the last position that was known at the start.
	StateReplaying
	// StateLive is after it.
	StateLive
	// StateStopped is after Run, for whatever reason.
	StateStopped
)

func (s State) String() string {
	switch s {
	case StateIdle:
		return "idle"
	case StateReplaying:
		return "replaying"
	case StateLive:
		return "live"
	case StateStopped:
		return "stopped"
	default:
		return "unknown"
	}
}

// Status tells how a view is doing.
type Status struct {
	View  string
	State State
	// Applied is the last position applied.
	Applied events.Position
	// Goal is the head that was known at the start: replay ends there.
	Goal events.Position
	// Err is why the view stopped, nil if it was asked to; FailedAt is where,
	// 0 if it was not over a fact.
	Err      error
	FailedAt events.Position
	// ClockAhead is how far the broker's clock was ahead of this machine's at the
	// last fact, 0 if it was not. Past [ClockMargin] nothing is fresh.
	ClockAhead time.Duration
	// Late is how old the last fact was when it was applied, by this machine's
	// clock: it was on its way for so long, or the clock is ahead of the broker's.
	Late time.Duration
}

// Runner feeds one view with the facts of one ledger.
type Runner struct {
	source   Source
	view     View
	log      *slog.Logger
	askEvery time.Duration
	filtered bool
	proven   func() (events.Time, bool)

	applied atomic.Uint64
	fresh   atomic.Pointer[time.Time]
	ahead   atomic.Int64
	late    atomic.Int64
	waiters waiters
	ready   chan struct{}

	mu       sync.Mutex // guards the following
	state    State
	goal     events.Position
	err      error
	failedAt events.Position
}

// NewRunner returns a runner that waits for its Run.
func NewRunner(c Config) (*Runner, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	r := &Runner{
		source: c.Source, view: c.View, log: c.Logger, askEvery: c.AskEvery,
		filtered: c.Filtered, proven: c.Proven, ready: make(chan struct{}),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.log = r.log.With("view", r.view.Name())
	if r.askEvery == 0 {
		r.askEvery = DefaultAskEvery
	}
	r.waiters.init()
	return r, nil
}

// Run replays what the view has not seen and then follows the ledger until the
// context ends; it returns nil then. Any other return means that the view has
// stopped for good and tells why, and so does Status from then on. A stopped
// view is no reason to stop others: see [RunAll].
func (r *Runner) Run(ctx context.Context) error {
	if !r.begin() {
		return ErrUsed
	}
	ctx, cancel := context.WithCancel(ctx)
	err := r.run(ctx)
	if wasAsked(ctx, err) {
		err = nil
	}
	cancel()
	r.end(err)
	return err
}

// wasAsked reports whether a run ended because its context did. A fault that
// came to light at that very moment stays a fault.
func wasAsked(ctx context.Context, err error) bool {
	var where *FactError
	fault := errors.Is(err, events.ErrCorrupt) || errors.As(err, &where) && !errors.Is(err, ctx.Err())
	return ctx.Err() != nil && !fault
}

func (r *Runner) run(ctx context.Context) error {
	start, err := r.view.Position(ctx)
	if err != nil {
		return fmt.Errorf("projections: position of view %s: %w", r.view.Name(), err)
	}
	r.applied.Store(uint64(start))
	goal, err := r.head(ctx, start)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.goal = goal
	r.mu.Unlock()
	r.log.LogAttrs(ctx, slog.LevelInfo, "replay begins",
		slog.Uint64("after", uint64(start)), slog.Uint64("goal", uint64(goal)))

	f := &feed{runner: r, goal: goal, next: start + 1}
	f.arrived(ctx)
	err = r.source.Follow(ctx, start, func(facts []events.Recorded) error { return f.apply(ctx, facts) })
	if err == nil && ctx.Err() == nil {
		err = errors.New("projections: source ended without a reason")
	}
	return err
}

// head returns the ledger's last position. It waits for a ledger that does not
// answer, since nothing can be replayed before it does.
func (r *Runner) head(ctx context.Context, applied events.Position) (events.Position, error) {
	behind := 0
	var told time.Time
	for {
		head, err := r.source.Last(ctx)
		switch {
		case err == nil && head >= applied:
			return head, nil
		case err == nil:
			if behind++; behind == aheadAsks {
				return 0, fmt.Errorf("%w: view %s is at %d, the ledger ends at %d", ErrAhead, r.view.Name(), applied, head)
			}
		case errors.Is(err, events.ErrCorrupt):
			return 0, err
		case time.Since(told) >= tellEvery:
			told = time.Now()
			r.log.LogAttrs(ctx, slog.LevelWarn, "ledger does not tell its last position", slog.Any("error", err))
		}
		if !pause(ctx, r.askEvery) {
			return 0, ctx.Err()
		}
	}
}

// prove notes what facts prove once they are applied. Only what went through the
// ledger itself proves anything: a leader that was cut off goes on announcing an
// old head for seconds.
func (r *Runner) prove(ctx context.Context, last *events.Recorded) {
	now := time.Now()
	r.late.Store(int64(max(now.Sub(last.Stored.Std()), 0)))
	at, holds := last.Stored, true
	if r.proven != nil {
		at, holds = r.proven()
	}
	if !holds {
		r.fresh.Store(nil)
		return
	}
	instant, ahead := Instant(at, now)
	if was := time.Duration(r.ahead.Swap(int64(ahead))); (was > ClockMargin) != (ahead > ClockMargin) {
		r.log.LogAttrs(ctx, slog.LevelWarn, "the broker's clock: what is stored is fresh only within the margin",
			slog.Duration("ahead", ahead), slog.Duration("margin", ClockMargin))
	}
	if known := r.fresh.Load(); !instant.IsZero() && (known == nil || instant.After(*known)) {
		r.fresh.Store(&instant)
	}
}

// Instant is the instant of this machine's at which the broker's clock told a
// time, so that a clock that is set later does not move it; and how far that
// clock is ahead. It is now at the latest, and the zero time for a time beyond
// [ClockMargin], as for none.
func Instant(at events.Time, now time.Time) (instant time.Time, ahead time.Duration) {
	if at.IsZero() {
		return time.Time{}, 0
	}
	switch ahead = at.Std().Sub(now); {
	case ahead > ClockMargin:
		return time.Time{}, ahead
	case ahead > 0:
		return now, ahead
	default:
		return now.Add(ahead), 0
	}
}

// feed is the way of the facts into the view; only Follow's goroutine uses it.
type feed struct {
	runner *Runner
	goal   events.Position
	next   events.Position
	live   bool
}

func (f *feed) apply(ctx context.Context, facts []events.Recorded) error {
	if len(facts) == 0 {
		return nil
	}
	want := f.next
	for i := range facts {
		if at := facts[i].Position; at < want || at > want && !f.runner.filtered {
			return At(facts[i], fmt.Errorf("%w: expected %d", ErrOutOfOrder, want))
		}
		want = facts[i].Position + 1
	}
	last := facts[len(facts)-1]
	if !last.Last() && (!f.runner.filtered || last.Subject.Org != events.System) {
		return At(last, fmt.Errorf("%w: facts that were appended as one came apart", ErrOutOfOrder))
	}
	if err := f.runner.applyView(ctx, facts); err != nil {
		// What came before the fact it stopped at may well be applied.
		if at, posErr := f.runner.view.Position(ctx); posErr == nil && at >= f.next && at < last.Position {
			f.reached(ctx, at)
		}
		return err
	}
	f.runner.prove(ctx, &last)
	f.reached(ctx, last.Position)
	return nil
}

func (f *feed) reached(ctx context.Context, pos events.Position) {
	f.next = pos + 1
	f.runner.applied.Store(uint64(pos))
	// Whoever waits for the last fact of the replay finds the view live.
	f.arrived(ctx)
	f.runner.waiters.reached(pos)
}

// arrived notes the end of the replay.
func (f *feed) arrived(ctx context.Context) {
	if f.live || f.next <= f.goal {
		return
	}
	f.live = true
	r := f.runner
	r.mu.Lock()
	r.state = StateLive
	r.mu.Unlock()
	close(r.ready)
	r.log.LogAttrs(ctx, slog.LevelInfo, "replay is over", slog.Uint64("applied", uint64(r.Applied())))
}

// applyView turns a panic into an error: a fact that panics once would do so
// after every restart.
func (r *Runner) applyView(ctx context.Context, facts []events.Recorded) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v\n%s", ErrPanicked, p, debug.Stack())
		}
		var where *FactError
		if err != nil && !errors.As(err, &where) {
			err = At(facts[0], err)
		}
	}()
	return r.view.Apply(ctx, facts)
}

func (r *Runner) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != StateIdle {
		return false
	}
	r.state = StateReplaying
	return true
}

func (r *Runner) end(err error) {
	// Whatever was proven, a view that does not move holds less and less. Nobody
	// asks any more, so that this is the last word.
	r.fresh.Store(nil)
	var where *FactError
	errors.As(err, &where)
	r.mu.Lock()
	r.state, r.err = StateStopped, err
	if where != nil {
		r.failedAt = where.Position
	}
	r.mu.Unlock()
	stopped := ErrStopped
	if err != nil {
		stopped = fmt.Errorf("%w: %s: %w", ErrStopped, r.view.Name(), err)
		r.log.Error("view has stopped", slog.Any("error", err), slog.Uint64("applied", uint64(r.Applied())))
	}
	r.waiters.stop(stopped)
}

// Applied returns the last position applied.
func (r *Runner) Applied() events.Position { return events.Position(r.applied.Load()) }

// WaitFor returns nil as soon as the view has applied a position; at once, for
// the price of one atomic load, when it has already. It returns ErrStopped when
// it never will, or the context's error.
func (r *Runner) WaitFor(ctx context.Context, pos events.Position) error {
	if r.Applied() >= pos {
		return nil
	}
	return r.waiters.wait(ctx, pos, r.Applied)
}

// Ready is closed once the view has applied everything that the ledger held
// when Run began.
func (r *Runner) Ready() <-chan struct{} { return r.ready }

// Lag returns how many facts the view is behind the ledger's head as it is now.
func (r *Runner) Lag(ctx context.Context) (uint64, error) {
	head, err := r.source.Last(ctx)
	if err != nil {
		return 0, fmt.Errorf("projections: lag of view %s: %w", r.view.Name(), err)
	}
	if applied := r.Applied(); applied < head {
		return uint64(head - applied), nil
	}
	return 0, nil
}

// Fresh returns the latest instant at which nothing existed that the view does
// not hold by now, as facts and ticks show that came through the view's own
// source; nobody's word counts. It rests on the broker's clock, within
// [ClockMargin]. It is the zero time before the first proof and before [Runner.Ready],
// however young what was replayed so far may be: what was answered before a restart
// holds after it. It is so, too, while what was read is in doubt, and once the view
// has stopped.
func (r *Runner) Fresh() time.Time {
	select {
	case <-r.ready:
	default:
		return time.Time{}
	}
	if t := r.fresh.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// Status tells how the view is doing.
func (r *Runner) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Status{
		View: r.view.Name(), State: r.state, Applied: r.Applied(), Goal: r.goal,
		Err: r.err, FailedAt: r.failedAt, ClockAhead: time.Duration(r.ahead.Load()), Late: time.Duration(r.late.Load()),
	}
}

// RunAll runs runners beside each other until the context ends, and returns
// what stopped any of them before. One that stops leaves the others running.
func RunAll(ctx context.Context, runners ...*Runner) error {
	errs := make([]error, len(runners))
	var running sync.WaitGroup
	for i, r := range runners {
		running.Go(func() { errs[i] = r.Run(ctx) })
	}
	running.Wait()
	return errors.Join(errs...)
}

// pause reports whether it was allowed to last.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
