package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
)

// MaxWaiting bounds how much waits to be recorded one by one: more than a broker
// stores within the time that anybody waits for it.
const MaxWaiting = 10_000

const (
	// recordFor bounds how long one waits: whoever asked has a limit of his own, and
	// would rather ask again.
	recordFor = 5 * time.Second
	// recordAgain is when it is tried again to store what the sink did not take.
	recordAgain = 50 * time.Millisecond
)

// ErrUnrecorded says that something is not known to be recorded, so that it must
// not be done.
var ErrUnrecorded = errors.New("access: this is not recorded")

// singles are what waits to be recorded one by one. They have a run of their own:
// within one, numbers rise with positions, and nothing here waits for what is
// gathered.
type singles struct {
	boot access.BootID
	news chan struct{}

	mu      sync.Mutex
	waiting []*single
	closed  bool
	number  uint64
}

// single is one of them. Its record is made once and published until it is stored,
// or until nobody waits for it any more.
type single struct {
	entry   Entry
	at      events.Time
	record  access.Message
	outcome chan error
	gone    atomic.Bool
}

func newSingles() (*singles, error) {
	boot, err := uuid.NewV7()
	return &singles{boot: access.BootID(boot), news: make(chan struct{}, 1)}, err
}

// Record stores an entry as a record of its own, and returns nil once that is
// durable: it is never told of as others, however much there is, and takes nobody's
// room. Those who wait at the same time share a round to the broker. Its error wraps
// [ErrUnrecorded], and [events.ErrUnavailable] where to ask again may help; after it
// the entry may be recorded all the same, once.
func (g *Gatherer) Record(ctx context.Context, e Entry) error {
	ctx, cancel := context.WithTimeout(ctx, recordFor)
	defer cancel()
	e.What, e.Code, e.Answer = strings.Clone(fit(e.What, access.MaxWhat)), strings.Clone(fit(e.Code, access.MaxCode)), strings.Clone(fit(e.Answer, access.MaxAnswer))
	e.Source, e.RequestID = strings.Clone(fit(e.Source, maxAddress)), strings.Clone(fit(e.RequestID, events.MaxRequestIDLength))
	s := &single{entry: e, at: events.TimeOf(time.Now()), outcome: make(chan error, 1)}
	if err := g.singles.add(s); err != nil {
		return err
	}
	select {
	case err := <-s.outcome:
		return err
	case <-ctx.Done():
		s.gone.Store(true)
		return fmt.Errorf("%w: %w: %w", ErrUnrecorded, events.ErrUnavailable, ctx.Err())
	}
}

func (q *singles) add(s *single) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return fmt.Errorf("%w: %w: the server is stopping", ErrUnrecorded, events.ErrUnavailable)
	case len(q.waiting) >= MaxWaiting:
		return fmt.Errorf("%w: %w: %d wait already", ErrUnrecorded, events.ErrUnavailable, len(q.waiting))
	}
	q.waiting = append(q.waiting, s)
	select {
	case q.news <- struct{}{}:
	default: // it is awake already
	}
	return nil
}

// take returns the first who wait, and lets go who do not any more.
func (q *singles) take() []*single {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = slices.DeleteFunc(q.waiting, func(s *single) bool { return s.gone.Load() })
	return slices.Clone(q.waiting[:min(len(q.waiting), events.MaxBatch)])
}

// settle answers those who waited first.
func (q *singles) settle(list []*single) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = slices.Delete(q.waiting, 0, len(list))
	for _, s := range list {
		s.outcome <- nil
	}
}

// refuse answers one with an error that asking again does not mend.
func (q *singles) refuse(s *single, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = slices.DeleteFunc(q.waiting, func(w *single) bool { return w == s })
	s.outcome <- fmt.Errorf("%w: %w", ErrUnrecorded, err)
}

// end answers everybody who still waits.
func (q *singles) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, s := range q.waiting {
		s.outcome <- fmt.Errorf("%w: %w: the server is stopping", ErrUnrecorded, events.ErrUnavailable)
	}
	q.waiting = nil
}

// recordSingles stores what is recorded one by one until the context ends.
func (g *Gatherer) recordSingles(ctx context.Context) {
	q, failing := g.singles, false
	defer q.end()
	for ctx.Err() == nil {
		taken := q.take()
		list := g.encodeSingles(ctx, taken)
		if len(list) == 0 {
			if len(taken) > 0 {
				continue // the first was no record
			}
			select {
			case <-q.news:
			case <-ctx.Done():
			}
			continue
		}
		err := g.publishSingles(ctx, list)
		switch {
		case err == nil && failing:
			g.log.Info("what is recorded one by one is stored again")
		case err != nil && !failing && ctx.Err() == nil:
			g.log.Warn("what must be recorded before it is done is refused: it cannot be stored", "error", err)
		}
		if failing = err != nil; !failing {
			q.settle(list)
			continue
		}
		select {
		case <-time.After(recordAgain):
		case <-ctx.Done():
		}
	}
}

// encodeSingles makes the records that are not made yet. What is no record is a
// fault of whoever told it, who is told so; what stands behind it waits a round.
func (g *Gatherer) encodeSingles(ctx context.Context, list []*single) []*single {
	for i, s := range list {
		if s.record.ID != "" {
			continue
		}
		if err := g.encodeSingle(ctx, s); err != nil {
			g.singles.refuse(s, err)
			return list[:i]
		}
	}
	return list
}

func (g *Gatherer) encodeSingle(ctx context.Context, s *single) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	g.singles.number++
	e := &s.entry
	record := access.Record{
		Ledger: g.cfg.Ledger, Server: g.cfg.Server, Boot: g.singles.boot, Number: g.singles.number,
		Row: access.Row{
			Minute: access.Minute(s.at), Kind: e.Kind, Org: e.Org, Actor: e.Actor, Role: e.Role, What: e.What, Code: e.Code,
			Answer: e.Answer, Version: e.Version, Single: id.String(),
		},
		Count: 1, FirstAt: s.at, LastAt: s.at, RequestID: e.RequestID,
	}
	if e.Source != "" {
		record.Source, record.SourceKind = g.tell(ctx, s.at, e.Source)
	}
	s.record, err = access.Encode(&record)
	return err
}

func (g *Gatherer) publishSingles(ctx context.Context, list []*single) error {
	records := make([]access.Message, len(list))
	for i, s := range list {
		records[i] = s.record
	}
	ctx, cancel := context.WithTimeout(ctx, recordFor)
	defer cancel()
	if err := g.cfg.Sink.PublishAccess(ctx, records); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stats.Taken += uint64(len(list))
	g.stats.Stored += uint64(len(list))
	g.stats.Singles += uint64(len(list))
	return nil
}
