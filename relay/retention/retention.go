// Package retention drops recorded uses that are older than they are to be kept, and
// has every drop recorded before: an organization's day by day, and the beginning of
// the stream when nothing in it is to be kept any more.
//
// What is old follows from the policies and from what the usage view has read. Every
// server runs a [Keeper], and none of them leads: what is to be dropped is an
// ordinary wish, and the expectation on its subject lets one of them record it. Only
// what the ledger says is dropped goes from views and from the stream, so that
// whoever comes after a crash finishes what was begun.
package retention

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/usage"
	"github.com/keyledger/keyledger/relay"
)

const (
	// DefaultEvery is how often it is looked for what is to be dropped. Uses are kept by
	// whole days, so that a minute is soon.
	DefaultEvery = time.Minute

	// jitter is the longest random wait before something is dropped, so that mostly
	// one server does the work.
	jitter = 2 * time.Second

	// patience bounds the wait for the view to hold what the stream does.
	patience = 10 * time.Second
	look     = 50 * time.Millisecond

	// maxBlocks bounds the blocks that go at once: all of them are read and counted
	// before.
	maxBlocks = 1 << 16
)

// Config says what a keeper works with. All of it but Every is required.
type Config struct {
	// Every is how often it is looked for what is to be dropped. 0 is [DefaultEvery].
	Every time.Duration
	// Usage is what uses are told from.
	Usage *usage.View
	// Ready is closed once Before knows what every organization wants, and this
	// keeper all that was dropped.
	Ready <-chan struct{}
	// Before returns the midnight before which an organization's uses are to be
	// dropped, 0 when all are to be kept.
	Before func(org events.OrgID, now events.Time) events.Time
	// Stale tells whether this server's verdicts are stale or its clock is wrong.
	// Nothing is recorded meanwhile: what is dropped does not come back.
	Stale func() bool
	// Dropped tells what the ledger says was dropped of an organization's uses, with
	// all their counts.
	Dropped func(context.Context, events.OrgID) (usage.DroppedUses, error)
	// DropUses and DropBlocks record a drop, unless it was, and report whether they
	// did.
	DropUses   func(ctx context.Context, org events.OrgID, before events.Time, through events.Position, days []events.UsesDay) (bool, error)
	DropBlocks func(ctx context.Context, stored events.Time, through events.Position, blocks uint64, days []events.UsesDay) (bool, error)
	// Stream is the stream of uses.
	Stream Stream
	// Now is the clock.
	Now func() time.Time
	// Logger takes what operators should know.
	Logger *slog.Logger
}

// Stream is the stream of uses, whose beginning can be removed.
type Stream interface {
	// FirstUses and LastUses are the positions that it begins and ends with.
	FirstUses(context.Context) (events.Position, error)
	LastUses(context.Context) (events.Position, error)
	// DropUses removes the blocks up to a position. It can be repeated.
	DropUses(ctx context.Context, through events.Position) error
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	for what, missing := range map[string]bool{
		"Usage": c.Usage == nil, "Ready": c.Ready == nil, "Before": c.Before == nil, "Stale": c.Stale == nil, "Dropped": c.Dropped == nil,
		"DropUses": c.DropUses == nil, "DropBlocks": c.DropBlocks == nil, "Stream": c.Stream == nil, "Now": c.Now == nil, "Logger": c.Logger == nil,
	} {
		if missing {
			faults = append(faults, errors.New("retention: no "+what))
		}
	}
	if c.Every < 0 {
		faults = append(faults, errors.New("retention: Every is negative"))
	}
	return errors.Join(faults...)
}

// Stats tell how a keeper is doing.
type Stats struct {
	// Uses and Blocks are how often this keeper recorded that uses of an organization,
	// and blocks of the stream, are dropped. Purged is how often it removed blocks,
	// and Failed how often something of that failed.
	Uses, Blocks, Purged, Failed uint64
}

// Keeper drops what is old. It is a [projections.View] of the ledger, and remembers
// nothing after a crash.
type Keeper struct {
	cfg  Config
	news chan struct{}
	told chan struct{}

	mu      sync.Mutex
	at      events.Position
	dropped map[events.OrgID]usage.DroppedUses
	stream  events.Position

	uses, blocks, purged, failed atomic.Uint64
}

// New returns a keeper. It does nothing before Run.
func New(cfg Config) (*Keeper, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Every == 0 {
		cfg.Every = DefaultEvery
	}
	return &Keeper{cfg: cfg, news: make(chan struct{}, 1), told: make(chan struct{}), dropped: map[events.OrgID]usage.DroppedUses{}}, nil
}

// Name names the view.
func (k *Keeper) Name() string { return "retention" }

// Position returns the last position applied.
func (k *Keeper) Position(context.Context) (events.Position, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.at, nil
}

// Apply takes in what was dropped. It drops nothing itself.
func (k *Keeper) Apply(_ context.Context, facts []events.Recorded) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	moved := false
	for _, f := range facts {
		e, ok := f.Event.(events.UsesDropped)
		if !ok {
			continue
		}
		moved = true
		if f.Subject == events.StreamRetentionSubject() {
			k.stream = max(k.stream, e.Through)
			continue
		}
		had := k.dropped[f.Subject.Org]
		k.dropped[f.Subject.Org] = usage.DroppedUses{Before: max(had.Before, e.Before), Through: max(had.Through, e.Through)}
	}
	k.at = facts[len(facts)-1].Position
	if moved {
		select {
		case k.news <- struct{}{}:
		default: // it is awake already
		}
	}
	return nil
}

// Told is closed once the usage view was told of all that was dropped before this
// keeper was ready. A view that is rebuilt should not begin earlier: what it then
// meets of that it counts once.
func (k *Keeper) Told() <-chan struct{} { return k.told }

// Stats tells how the keeper is doing.
func (k *Keeper) Stats() Stats {
	return Stats{Uses: k.uses.Load(), Blocks: k.blocks.Load(), Purged: k.purged.Load(), Failed: k.failed.Load()}
}

// Run drops what is old until the context ends.
func (k *Keeper) Run(ctx context.Context) {
	select {
	case <-k.cfg.Ready:
	case <-ctx.Done():
		return
	}
	told := false
	for ctx.Err() == nil {
		err := k.tell(ctx)
		if err == nil && !told {
			told = true
			close(k.told)
		}
		if err == nil {
			err = errors.Join(k.purge(ctx), k.drop(ctx))
		}
		if err != nil && ctx.Err() == nil {
			k.failed.Add(1)
			k.cfg.Logger.WarnContext(ctx, "recorded uses that are old cannot be dropped now; it is tried again", "error", err)
		}
		wait := k.cfg.Every - rand.N(k.cfg.Every/8)
		if !told {
			wait = patience / 10
		}
		select {
		case <-k.news:
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// known is what the ledger says was dropped.
func (k *Keeper) known() (map[events.OrgID]usage.DroppedUses, events.Position) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.dropped), k.stream
}

// tell has the view forget what the ledger says was dropped.
func (k *Keeper) tell(ctx context.Context) error {
	dropped, stream := k.known()
	kept, err := k.cfg.Usage.Kept(ctx)
	if err != nil {
		return err
	}
	for _, had := range kept {
		if d := dropped[had.Org]; d.Before <= had.Before && d.Through <= had.Through {
			delete(dropped, had.Org)
		}
	}
	news := usage.Dropped{Orgs: map[events.OrgID]usage.DroppedUses{}, Through: stream}
	for org, d := range dropped {
		whole, err := k.cfg.Usage.Whole(ctx, d.Through)
		if err == nil && !whole {
			d, err = k.cfg.Dropped(ctx, org)
		}
		if err != nil {
			return err
		}
		news.Orgs[org] = d
	}
	known, err := k.cfg.Usage.DroppedThrough(ctx)
	if err != nil {
		return err
	}
	if len(news.Orgs) == 0 && known >= stream {
		return nil
	}
	return k.cfg.Usage.Drop(ctx, news)
}

// purge removes what the ledger says the stream has dropped, whoever began with it.
func (k *Keeper) purge(ctx context.Context) error {
	_, through := k.known()
	if through == 0 {
		return nil
	}
	first, err := k.cfg.Stream.FirstUses(ctx)
	if err != nil || first > through {
		return err
	}
	if err := k.cfg.Stream.DropUses(ctx, through); err != nil {
		return err
	}
	k.purged.Add(1)
	return nil
}

// drop has dropped what is to be dropped by now.
func (k *Keeper) drop(ctx context.Context) error {
	if behind, err := k.behind(ctx); behind || err != nil {
		return err
	}
	due, err := k.due(ctx)
	if err != nil {
		return err
	}
	first, err := k.cfg.Stream.FirstUses(ctx)
	if err != nil {
		return err
	}
	_, stream := k.known()
	past, err := k.cfg.Usage.PastThrough(ctx, first, maxBlocks)
	if err != nil || len(due) == 0 && past <= stream {
		return err
	}
	if !relay.Pause(ctx, rand.N(jitter)) || k.cfg.Stale() {
		return nil
	}
	if err := k.dropUses(ctx); err != nil {
		return err
	}
	return k.dropBlocks(ctx)
}

// due are the organizations that have uses which are too old, and from when on
// theirs are to be kept.
func (k *Keeper) due(ctx context.Context) (map[events.OrgID]events.Time, error) {
	kept, err := k.cfg.Usage.Kept(ctx)
	if err != nil {
		return nil, err
	}
	dropped, _ := k.known()
	due := map[events.OrgID]events.Time{}
	now := events.TimeOf(k.cfg.Now())
	for _, o := range kept {
		before := k.cfg.Before(o.Org, now)
		if o.Oldest != 0 && o.Oldest < before && before > dropped[o.Org].Before {
			due[o.Org] = before
		}
	}
	return due, nil
}

// dropUses records what is dropped of organizations.
func (k *Keeper) dropUses(ctx context.Context) error {
	due, err := k.due(ctx) // somebody else may have been faster
	if err != nil || len(due) == 0 {
		return err
	}
	var faults []error
	for org, before := range due {
		days, through, err := k.cfg.Usage.DaysBefore(ctx, org, before)
		if err != nil || len(days) == 0 {
			faults = append(faults, err)
			continue
		}
		recorded, err := k.cfg.DropUses(ctx, org, before, through, days)
		if recorded {
			k.uses.Add(1)
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// behind reports whether the view has not read what the stream holds, after it was
// waited for. What it does not know yet would be counted late, if it is rebuilt a
// great deal of it.
func (k *Keeper) behind(ctx context.Context) (bool, error) {
	last, err := k.cfg.Stream.LastUses(ctx)
	if err != nil {
		return false, err
	}
	for deadline := time.Now().Add(patience); ; {
		at, err := k.cfg.Usage.Position(ctx)
		if err != nil || at >= last {
			return false, err
		}
		if time.Now().After(deadline) || !relay.Pause(ctx, look) {
			return true, nil
		}
	}
}

// dropBlocks records that the stream begins later. What it says is done when it is
// heard of.
func (k *Keeper) dropBlocks(ctx context.Context) error {
	first, err := k.cfg.Stream.FirstUses(ctx)
	if err != nil {
		return err
	}
	_, stream := k.known()
	if through, err := k.cfg.Usage.PastThrough(ctx, first, maxBlocks); err != nil || through <= stream {
		return err
	}
	past, err := k.cfg.Usage.Past(ctx, first, maxBlocks)
	if err != nil || past.Through < first {
		return err
	}
	recorded, err := k.cfg.DropBlocks(ctx, past.Stored, past.Through, uint64(past.Through-first+1), past.Days)
	if recorded {
		k.blocks.Add(1)
	}
	return err
}
