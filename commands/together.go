package commands

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/keyledger/keyledger/events"
)

// minTogether is from how many waiting facts on one publish of all is cheaper
// than one of each: a batch costs the broker about as much as that many single
// facts, whatever it holds.
const minTogether = 4

// maxTogether bounds how many organizations publish together at once: the broker
// keeps 50 batches of a stream open, and there are other servers.
const maxTogether = 8

// together appends single facts of one organization that many callers wish for
// at once. A fact alone costs one sync of the disk, under the stream's lock, so
// what arrives while a publish is under way waits and goes out with the next,
// all of it at the price of one. Nobody waits for company: who comes alone
// publishes at once.
//
// The facts stand alone for whoever reads them, and each wish has its own
// outcome: a conflict of one does not touch the others.
//
// There is no goroutine behind it. Of those who wait, one publishes for all and
// hands the turn to the next.
type together struct {
	log   Appender
	slots chan struct{}

	mu    sync.Mutex
	lines map[events.OrgID]*line
}

func newTogether(log Appender) *together {
	return &together{log: log, slots: make(chan struct{}, maxTogether), lines: map[events.OrgID]*line{}}
}

// line is who waits while somebody of the organization publishes. It is there as
// long as somebody does.
type line struct{ waiting []*seat }

// seat is a fact that waits, and its outcome.
type seat struct {
	entry events.Entry
	// still reports why it may not be appended after all, if it may not: the
	// wait in line may be long.
	still func() error
	// turn tells true when it is this caller's turn to publish, and false when
	// the outcome stands below.
	turn  chan bool
	leads bool
	facts []events.Recorded
	err   error
}

// append appends one fact, unless still has an error by then. It answers what
// [Appender.Append] would, or that error.
func (t *together) append(ctx context.Context, entry events.Entry, still func() error) ([]events.Recorded, error) {
	org := entry.Subject.Org
	s := &seat{entry: entry, still: still, turn: make(chan bool, 1), err: events.ErrOutcomeUnknown}
	t.mu.Lock()
	if l := t.lines[org]; l != nil {
		l.waiting = append(l.waiting, s)
		t.mu.Unlock()
		switch lead, err := t.wait(ctx, org, s); {
		case err != nil:
			return nil, err
		case !lead:
			return s.facts, s.err
		}
	} else {
		t.lines[org] = &line{waiting: []*seat{s}}
		t.mu.Unlock()
	}
	defer t.next(org)
	t.publish(ctx, t.take(org))
	return s.facts, s.err
}

// wait returns when it is the caller's turn to publish, or when somebody has
// published for it.
func (t *together) wait(ctx context.Context, org events.OrgID, s *seat) (lead bool, err error) {
	select {
	case lead = <-s.turn:
		return lead, nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lines[org]
	switch {
	case s.leads:
		// The others rely on it. Its own fact goes out with theirs.
		return <-s.turn, nil
	case l != nil && slices.Contains(l.waiting, s):
		l.waiting = slices.DeleteFunc(l.waiting, func(o *seat) bool { return o == s })
		return false, fmt.Errorf("%w: %w", events.ErrUnavailable, ctx.Err())
	default:
		// It is being published.
		return false, fmt.Errorf("%w: %w", events.ErrOutcomeUnknown, ctx.Err())
	}
}

// take takes those who go out now: as many as fit, each subject and each command
// once. Whoever tells the same wish twice at once meets it in the next round.
func (t *together) take(org events.OrgID) []*seat {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lines[org]
	var group, rest []*seat
	subjects := make(map[events.Subject]bool, len(l.waiting))
	commands := make(map[events.CommandID]bool, len(l.waiting))
	for _, s := range l.waiting {
		if len(group) == events.MaxBatch || subjects[s.entry.Subject] || commands[s.entry.Meta.Command] {
			rest = append(rest, s)
			continue
		}
		subjects[s.entry.Subject], commands[s.entry.Meta.Command] = true, true
		group = append(group, s)
	}
	l.waiting = rest
	return group
}

// publish appends a group, the first of which is the caller's own, and tells the
// others.
func (t *together) publish(ctx context.Context, group []*seat) {
	defer func() {
		for _, s := range group[1:] {
			s.turn <- false
		}
	}()
	if len(group) > 1 {
		// Others must not lose their facts to the end of this caller's patience.
		// The log bounds the time of an append by itself.
		ctx = context.WithoutCancel(ctx)
	}
	alone := group
	if len(group) >= minTogether {
		alone = t.publishEach(ctx, group)
	}
	for _, s := range alone {
		if s.err = s.still(); s.err == nil {
			s.facts, s.err = t.log.Append(ctx, []events.Entry{s.entry})
		}
	}
}

// admitted leaves those out who may not go on by now.
func admitted(group []*seat) []*seat {
	out := make([]*seat, 0, len(group))
	for _, s := range group {
		if err := s.still(); err != nil {
			s.err = err
			continue
		}
		out = append(out, s)
	}
	return out
}

// publishEach appends a group at once. It returns those who must go by
// themselves: all of them, when nothing was stored because one conflicts or is
// refused, so that nobody pays for another's.
func (t *together) publishEach(ctx context.Context, group []*seat) []*seat {
	t.slots <- struct{}{}
	defer func() { <-t.slots }()
	group = admitted(group)
	if len(group) < minTogether {
		return group
	}
	entries := make([]events.Entry, len(group))
	for i, s := range group {
		entries[i] = s.entry
	}
	facts, err := t.log.AppendEach(ctx, entries)
	if err != nil && !errors.Is(err, events.ErrUnavailable) && !errors.Is(err, events.ErrOutcomeUnknown) {
		return group
	}
	for i, s := range group {
		if s.err = err; err == nil {
			s.facts = facts[i : i+1 : i+1]
		}
	}
	return nil
}

// next hands the turn on.
func (t *together) next(org events.OrgID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.lines[org]
	if len(l.waiting) == 0 {
		delete(t.lines, org)
		return
	}
	l.waiting[0].leads = true
	l.waiting[0].turn <- true
}
