// Package ticks shows everybody who reads the ledger that he is not cut off from
// it, when nothing else does: where nothing was appended for a while, it appends
// a tick, which says how much there is and of which bytes.
//
// Every server runs a [Ticker]. They need no leader among themselves: each waits
// a random while longer than it has to, the first to append is met by the others'
// expectations, and what it appended is all they wanted. Where the ledger takes
// no ticks they stop, and everybody finds out by himself that his knowledge ages.
package ticks

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/continuity"
	"github.com/keyledger/keyledger/relay"
)

const (
	// ticksPerBound is how many ticks go into the smallest max_staleness: one may
	// be lost, and an election may take its time, before somebody is stale.
	ticksPerBound = 3

	// MinInterval bounds how often ticks come, whatever verifiers ask for: a tick
	// costs the ledger a kilobyte for ever. So it meets [events.MinStaleness].
	MinInterval = events.MinStaleness / ticksPerBound

	// retryFirst is the wait after a tick that was not appended. It doubles, up to
	// the interval.
	retryFirst = time.Second

	// maxSeries bounds the ticks of one turn: the scopes of some ten thousand
	// verifiers.
	maxSeries = 32

	// startJitter spreads the first ticks of servers that are started as one.
	startJitter = 50 * time.Millisecond
)

// Appender appends a tick behind the last one, as the next revision, or fails
// with [events.ErrConflict] where another stands there by now.
type Appender interface {
	Tick(ctx context.Context, t events.Tick, before events.Position, revision events.Revision) (events.Recorded, error)
}

// AppenderFunc is an [Appender] that is a function.
type AppenderFunc func(ctx context.Context, t events.Tick, before events.Position, revision events.Revision) (events.Recorded, error)

// Tick calls the function.
func (f AppenderFunc) Tick(ctx context.Context, t events.Tick, before events.Position, revision events.Revision) (events.Recorded, error) {
	return f(ctx, t, before, revision)
}

// Config says what ticks are made of.
type Config struct {
	// Continuity counts the whole ledger. Required.
	Continuity *continuity.View
	// Ready is closed once Continuity has replayed the ledger, Fresh tells how
	// fresh that is, and WaitFor returns when it has applied a position: those of
	// its [projections.Runner]. Required.
	Ready   <-chan struct{}
	Fresh   func() time.Time
	WaitFor func(context.Context, events.Position) error
	// Signer signs for the installation. Required.
	Signer note.Signer
	// Appender appends. Required.
	Appender Appender
	// MaxStaleness is what this server itself, and every verifier that was let in
	// without a bound of its own, allows its knowledge. Required.
	MaxStaleness time.Duration
	// Logger takes what happens to ticks. Nothing is logged without one.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, errors.New("ticks: "+text))
		}
	}
	fault(c.Continuity == nil, "no continuity")
	fault(c.Ready == nil || c.Fresh == nil || c.WaitFor == nil, "no runner")
	fault(c.Signer == nil, "no signer")
	fault(c.Appender == nil, "no appender")
	fault(c.MaxStaleness <= 0, "no MaxStaleness")
	return errors.Join(faults...)
}

// Stats tell how a ticker is doing.
type Stats struct {
	// Appended are its own ticks, Lost those that another server was faster with,
	// Failed those that the ledger did not take, or did not say so.
	Appended, Lost, Failed uint64
	// Clock is how far the broker's clock was ahead of this machine's, negative
	// for behind, at the last own tick; 0 where the time that it took to append
	// leaves it open.
	Clock time.Duration
}

// Ticker appends ticks when they are due.
type Ticker struct {
	config Config
	log    *slog.Logger

	appended, lost, failed atomic.Uint64
	clock                  atomic.Int64
}

// New returns a ticker that waits for its Run.
func New(c Config) (*Ticker, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Ticker{config: c, log: c.Logger}, nil
}

// Stats tells how the ticker is doing.
func (t *Ticker) Stats() Stats {
	return Stats{Appended: t.appended.Load(), Lost: t.lost.Load(), Failed: t.failed.Load(), Clock: time.Duration(t.clock.Load())}
}

// Run appends ticks until the context ends.
func (t *Ticker) Run(ctx context.Context) {
	select {
	case <-t.config.Ready:
	case <-ctx.Done():
		return
	}
	jitter, retry := startJitter, retryFirst
	var own time.Time // when the last own tick was appended
	for {
		due := t.due(time.Now(), own)
		switch {
		case due > 0:
			// Whoever is let in with a smaller bound is heard within the smallest
			// interval.
			jitter = t.Interval() / 10
			if !relay.Pause(ctx, min(due, MinInterval)) {
				return
			}
			continue
		case !relay.Pause(ctx, rand.N(jitter)):
			return
		case t.due(time.Now(), own) > 0:
			continue // another server was faster
		}
		pause := MinInterval
		switch err := t.series(ctx); {
		case err == nil:
			own, retry = time.Now(), retryFirst
		case errors.Is(err, events.ErrConflict):
			t.lost.Add(1)
		default:
			pause, retry = min(retry, t.Interval()), min(2*retry, t.Interval())
			if ctx.Err() == nil {
				t.failed.Add(1)
				t.log.WarnContext(ctx, "tick was not appended", "error", err)
			}
		}
		if !relay.Pause(ctx, pause) {
			return
		}
	}
}

// Interval is how long the ledger is left without a tick.
func (t *Ticker) Interval() time.Duration {
	bound := t.config.MaxStaleness
	if smallest := t.config.Continuity.MaxStaleness(); smallest > 0 {
		bound = min(bound, smallest)
	}
	return max(bound/ticksPerBound, MinInterval)
}

// due is in how long the next tick is due, 0 or less for now. Any fact is as good
// as a tick for whoever sees all of them; where somebody waits for ticks, only
// those that agreed count. However old all of it seems, by a clock that is wrong
// as by a reader that is behind, a server's own ticks are an interval apart.
func (t *Ticker) due(now, own time.Time) time.Duration {
	last := t.config.Fresh()
	if at, awaited := t.config.Continuity.Ticked(); awaited {
		if ticked, _ := projections.Instant(at, now); ticked.Before(last) {
			last = ticked
		}
	}
	if last.Before(own) {
		last = own
	}
	if last.IsZero() {
		return 0
	}
	return last.Add(t.Interval()).Sub(now)
}

// series appends the tick that is due, and those that it is continued by.
func (t *Ticker) series(ctx context.Context) error {
	for range maxSeries {
		if more, err := t.append(ctx); err != nil || !more {
			return err
		}
	}
	return nil
}

// append appends one tick, and reports whether it is to be continued. Where it
// fails, stored or not, the next tick says what this one would have said.
func (t *Ticker) append(ctx context.Context) (more bool, err error) {
	before := time.Now()
	draft, whole := t.config.Continuity.Next(events.TimeOf(before))
	if !whole {
		return false, errors.New("ticks: who sees a part of the ledger cannot count it")
	}
	if draft.Tick.Signature, err = relay.SignatureLine(t.config.Signer, draft.Tick.Text(t.config.Continuity.Ledger())); err != nil {
		return false, err
	}
	// An answer may be lost with the broker's leader, and waiting for it longer than
	// an interval would take the time of the tick after it, too.
	asking, enough := context.WithTimeout(ctx, t.Interval())
	defer enough()
	stored, err := t.config.Appender.Tick(asking, draft.Tick, draft.Before, draft.Revision)
	if err != nil {
		return false, err
	}
	t.appended.Add(1)
	answered := time.Now()
	seen, cancel := context.WithTimeout(ctx, t.Interval())
	defer cancel()
	if err := t.config.WaitFor(seen, stored.Position); err != nil {
		if ctx.Err() == nil {
			t.log.WarnContext(ctx, "own tick does not come back", "position", uint64(stored.Position), "error", err)
		}
		return false, nil
	}
	t.compare(ctx, before, answered)
	return draft.Continued(), nil
}

// compare notes how far the broker's clock is off: a tick was stored between its
// sending and its answer.
func (t *Ticker) compare(ctx context.Context, sent, answered time.Time) {
	at, _ := t.config.Continuity.Ticked()
	if at.IsZero() {
		return
	}
	off := time.Duration(0)
	switch stored := at.Std(); {
	case stored.After(answered):
		off = stored.Sub(answered)
	case stored.Before(sent.Truncate(time.Microsecond)):
		off = stored.Sub(sent)
	}
	was := time.Duration(t.clock.Swap(int64(off)))
	if (was.Abs() > projections.ClockMargin) != (off.Abs() > projections.ClockMargin) {
		t.log.WarnContext(ctx, "the broker's clock and this machine's: freshness rests on both", "ahead", off, "margin", projections.ClockMargin)
	}
}
