// Package memory is the ledger in memory: the same contract as the one on
// JetStream, held to it by the same suite (events/ledgertest), for tests that
// need a ledger and no broker. It forgets everything when it is dropped.
//
// It is stricter than the broker in one point: a message id that was stored once
// is refused for ever, where the broker forgets it after two minutes and the
// expectations take over.
package memory

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/batch"
)

// Ledger is a ledger in memory. All methods may be called concurrently. What it
// hands out is shared and must not be changed.
type Ledger struct {
	id events.LedgerID

	mu      sync.Mutex
	facts   []events.Recorded
	last    map[string]events.Position
	ids     map[string]struct{}
	uses    []events.UsesMessage
	dropped events.Position // of the blocks of uses, the last that is gone
	useIDs  map[string]struct{}
	seals   map[string]seal
	sealed  uint64        // how many seals were ever stored
	changed chan struct{} // closed and replaced whenever something was stored
	fail    []failure
}

type failure struct {
	err    error
	stored bool
}

// New returns an empty ledger.
func New(id events.LedgerID) *Ledger {
	return &Ledger{
		id: id, last: make(map[string]events.Position), ids: make(map[string]struct{}),
		useIDs: make(map[string]struct{}), seals: make(map[string]seal), changed: make(chan struct{}),
	}
}

// FailNext makes the next Append or PublishUses that nothing else refuses fail
// with err, after storing (an answer that was lost) or before (a broker that is
// not there). Called again, it is the one after that.
func (l *Ledger) FailNext(err error, stored bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = append(l.fail, failure{err, stored})
}

// Plant stores a body under a subject unseen, as whoever holds the broker's
// credentials could.
func (l *Ledger) Plant(subject string, body []byte) events.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.store(subject, batch.Read(l.id, subject, body))
}

// Append stores facts as one, or nothing.
func (l *Ledger) Append(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	parts, err := batch.Prepare(l.id, entries, events.TimeOf(time.Now()))
	if err != nil {
		return nil, err
	}
	return l.storeParts(parts)
}

// storeParts stores what was made ready as one, or nothing.
func (l *Ledger) storeParts(parts []batch.Part) ([]events.Recorded, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range parts {
		if _, ok := l.ids[p.MessageID]; ok {
			return nil, fmt.Errorf("%w: message id was stored before", events.ErrConflict)
		}
		if x := p.Expect; !x.Subject.IsZero() && l.last[x.Subject.String()] != x.Last {
			return nil, fmt.Errorf("%w: last position is %d", events.ErrConflict, l.last[x.Subject.String()])
		}
	}
	fault := l.fault()
	if fault.err != nil && !fault.stored {
		return nil, fault.err
	}
	out := make([]events.Recorded, len(parts))
	for i, p := range parts {
		l.ids[p.MessageID] = struct{}{}
		out[i] = p.Recorded
		out[i].Position = l.store(p.Recorded.Subject.String(), p.Recorded)
	}
	if fault.err != nil {
		return nil, fault.err
	}
	return out, nil
}

func (l *Ledger) fault() failure {
	if len(l.fail) == 0 {
		return failure{}
	}
	f := l.fail[0]
	l.fail = l.fail[1:]
	return f
}

// store appends one fact. The caller holds the lock.
func (l *Ledger) store(subject string, r events.Recorded) events.Position {
	r.Position = events.Position(len(l.facts) + 1)
	r.Stored = events.TimeOf(time.Now())
	l.facts = append(l.facts, r)
	l.last[subject] = r.Position
	l.wake()
	return r.Position
}

func (l *Ledger) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Load returns the facts of one subject after a position, in order.
func (l *Ledger) Load(ctx context.Context, subject events.Subject, after events.Position) ([]events.Recorded, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	if _, err := events.ParseSubject(subject.String()); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []events.Recorded
	// Most are asked about subjects that have nothing, or nothing more.
	if last := l.last[subject.String()]; after < last {
		for i := range l.facts[after:last] {
			if r := &l.facts[int(after)+i]; r.Subject == subject {
				out = append(out, *r)
			}
		}
	}
	if err := batch.CheckRevisions(out, after); err != nil {
		return nil, err
	}
	return out, nil
}

// At returns the fact at a position.
func (l *Ledger) At(ctx context.Context, pos events.Position) (events.Recorded, error) {
	if err := ctx.Err(); err != nil {
		return events.Recorded{}, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if pos == 0 || pos > events.Position(len(l.facts)) {
		return events.Recorded{}, fmt.Errorf("%w: no fact stands at position %d", events.ErrInvalidPosition, pos)
	}
	return l.facts[pos-1], nil
}

// Last returns the position of the last fact, 0 if there is none.
func (l *Ledger) Last(ctx context.Context) (events.Position, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return events.Position(len(l.facts)), nil
}

// Follow hands every fact after a position to apply, in order and without a gap,
// until the context ends or apply fails. A batch is never split.
func (l *Ledger) Follow(ctx context.Context, after events.Position, apply func([]events.Recorded) error) error {
	var holder batch.Holder
	return follow(ctx, l, after, func() ([]events.Recorded, events.Position) { return l.facts, 0 }, func(facts []events.Recorded) error {
		whole, err := holder.Add(facts)
		if err != nil {
			return err
		}
		return batch.Each(whole, apply)
	})
}

// FollowUses hands every block of uses after a position to apply, from the first
// that is still there.
func (l *Ledger) FollowUses(ctx context.Context, after events.Position, apply func([]events.UsesMessage) error) error {
	return follow(ctx, l, after, func() ([]events.UsesMessage, events.Position) { return l.uses, l.dropped }, apply)
}

func follow[T any](ctx context.Context, l *Ledger, after events.Position, all func() ([]T, events.Position), hand func([]T) error) error {
	for first := true; ; first = false {
		if err := ctx.Err(); err != nil {
			return err
		}
		l.mu.Lock()
		held, gone := all()
		changed := l.changed
		l.mu.Unlock()
		after = max(after, gone)
		if first && after > events.Position(len(held)) {
			return fmt.Errorf("%w: it ends at position %d, and %d was seen", events.ErrCorrupt, len(held), after)
		}
		// What was stored never changes, so it is read without the lock.
		if end := min(int(after)+batch.Slice, len(held)); end > int(after) {
			if err := hand(held[after:end:end]); err != nil {
				return err
			}
			after = events.Position(end)
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// PublishUses stores blocks of uses. A block that was stored before is not
// stored again, and that is no error.
func (l *Ledger) PublishUses(ctx context.Context, blocks []events.UsesMessage) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	if err := batch.CheckUses(blocks); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	fault := l.fault()
	if fault.err != nil && !fault.stored {
		return fault.err
	}
	for _, b := range blocks {
		if _, ok := l.useIDs[b.ID]; ok {
			continue
		}
		l.useIDs[b.ID] = struct{}{}
		l.uses = append(l.uses, events.UsesMessage{
			Position: events.Position(len(l.uses) + 1), Subject: b.Subject,
			Body: append([]byte(nil), b.Body...), Stored: events.TimeOf(time.Now()),
		})
	}
	l.wake()
	return fault.err
}

// LastUses returns the position of the last block of uses, 0 if there is none.
func (l *Ledger) LastUses(ctx context.Context) (events.Position, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return events.Position(len(l.uses)), nil
}

// UsesAt returns the block of uses at a position.
func (l *Ledger) UsesAt(ctx context.Context, pos events.Position) (events.UsesMessage, error) {
	if err := ctx.Err(); err != nil {
		return events.UsesMessage{}, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if pos <= l.dropped || pos > events.Position(len(l.uses)) {
		return events.UsesMessage{}, fmt.Errorf("%w: no block of uses stands at position %d", events.ErrInvalidPosition, pos)
	}
	return l.uses[pos-1], nil
}

// FirstUses returns the position that the blocks of uses begin with.
func (l *Ledger) FirstUses(ctx context.Context) (events.Position, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped + 1, nil
}

// DropUses removes the blocks of uses up to a position.
func (l *Ledger) DropUses(ctx context.Context, through events.Position) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if through > events.Position(len(l.uses)) {
		return fmt.Errorf("%w: no block of uses stands at position %d", events.ErrInvalidPosition, through)
	}
	l.dropped = max(l.dropped, through)
	return nil
}
