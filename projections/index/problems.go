package index

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/keyledger/keyledger/events"
)

// Trouble names what was wrong with a fact.
type Trouble int

// What may be wrong with a fact.
const (
	// TroubleReplayed is a fact whose revision its subject has had: an old one
	// was appended again, or the ledger was written to by something else. It
	// changes nothing.
	TroubleReplayed Trouble = iota
	// TroubleGap is a fact further ahead than the next revision.
	TroubleGap
	// TroubleMalformed is a stored body that is no fact.
	TroubleMalformed
	// TroubleMisplaced is a fact that says of itself that it belongs elsewhere,
	// or that cannot follow on what happened before.
	TroubleMisplaced
	// TroubleSubject is a fact under no subject of this ledger.
	TroubleSubject
	// TroubleUnknown is a fact that bears on verdicts and was written by a
	// later version of this program.
	TroubleUnknown
	// TroubleRoutes is a catalog whose routes make no table. Its permissions
	// hold, its routes match nothing.
	TroubleRoutes
	// TroubleFull is a key for which there is no room: the index holds
	// 16,777,216 different grants.
	TroubleFull

	troubles
)

func (t Trouble) String() string {
	switch t {
	case TroubleReplayed:
		return "replayed"
	case TroubleGap:
		return "gap"
	case TroubleMalformed:
		return "malformed"
	case TroubleMisplaced:
		return "misplaced"
	case TroubleSubject:
		return "subject"
	case TroubleUnknown:
		return "unknown"
	case TroubleRoutes:
		return "routes"
	case TroubleFull:
		return "full"
	default:
		return "other"
	}
}

// Troubles returns every trouble there is.
func Troubles() []Trouble {
	all := make([]Trouble, troubles)
	for i := range all {
		all[i] = Trouble(i)
	}
	return all
}

// corrupts reports whether the ledger is to blame, and not this program.
func (t Trouble) corrupts() bool {
	switch t {
	case TroubleUnknown, TroubleRoutes, TroubleFull:
		return false
	default:
		return true
	}
}

// Closed says what a problem closed until the index is built anew.
type Closed int

// What a problem may close.
const (
	ClosedNothing Closed = iota
	ClosedKey
	ClosedOrganization
)

func (c Closed) String() string {
	switch c {
	case ClosedKey:
		return "key"
	case ClosedOrganization:
		return "organization"
	default:
		return "nothing"
	}
}

// Problem is a fact that could not be applied.
type Problem struct {
	Position events.Position
	Subject  events.Subject
	Kind     events.Kind
	Trouble  Trouble
	Closed   Closed
}

// Count returns how many facts could not be applied for a trouble. Unlike Stats
// it waits for nothing.
func (x *Index) Count(t Trouble) uint64 {
	p := &x.problems
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[t]
}

const (
	// keptProblems bounds Problems: enough to see what happened, while all are
	// counted and the ledger holds them anyway.
	keptProblems = 256

	// loudProblems of a trouble are logged one by one, then each power of two:
	// whoever can append must not be able to fill the disk with log lines.
	loudProblems = 16
)

// ErrNotApplied says that the index met facts which it could not apply.
var ErrNotApplied = errors.New("index: facts could not be applied")

type problems struct {
	mu     sync.Mutex
	counts [troubles]uint64
	first  [troubles]Problem
	kept   []Problem
	next   int // where the oldest of kept lies once it is full
}

func (x *Index) report(r *events.Recorded, trouble Trouble, closed Closed) {
	p := Problem{Position: r.Position, Subject: r.Subject, Trouble: trouble, Closed: closed}
	if r.Event != nil {
		p.Kind = r.Event.Kind()
	}
	n := x.problems.add(p)
	if n > loudProblems && n&(n-1) != 0 {
		return
	}
	x.log.LogAttrs(context.Background(), slog.LevelError, "fact could not be applied",
		slog.String("trouble", trouble.String()), slog.String("closed", closed.String()),
		slog.Uint64("position", uint64(p.Position)), slog.String("subject", p.Subject.String()),
		slog.String("kind", string(p.Kind)), slog.Uint64("so_far", n))
}

func (p *problems) add(problem Problem) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := problem.Trouble
	if p.counts[t]++; p.counts[t] == 1 {
		p.first[t] = problem
	}
	if len(p.kept) < keptProblems {
		p.kept = append(p.kept, problem)
	} else {
		p.kept[p.next] = problem
		p.next = (p.next + 1) % keptProblems
	}
	return p.counts[t]
}

// Problems returns the last 256 facts that could not be applied, oldest first.
func (x *Index) Problems() []Problem {
	p := &x.problems
	p.mu.Lock()
	defer p.mu.Unlock()
	return append(append([]Problem(nil), p.kept[p.next:]...), p.kept[:p.next]...)
}

// Stats are figures for metrics.
type Stats struct {
	// Keys is how many keys a digest leads to.
	Keys int
	// Slots is how many there is room for without growing.
	Slots int
	// Grants is how many different grants they share, Organizations how many
	// there were.
	Grants, Organizations int
	// Unreachable keys have a digest that belonged to an earlier key, or found
	// no room.
	Unreachable int
	// Troubles counts the facts that could not be applied, by what was wrong.
	Troubles map[Trouble]uint64
}

// Stats returns figures for metrics. It waits for a running Apply.
func (x *Index) Stats() Stats {
	x.writing.Lock()
	defer x.writing.Unlock()
	s := Stats{
		Keys: x.Len(), Grants: len(x.grants.byTuple), Organizations: len(x.orgs),
		Unreachable: len(x.unreachable), Troubles: map[Trouble]uint64{},
	}
	for i := range x.table.shards {
		s.Slots += len(x.table.shards[i].Load().slots)
	}
	p := &x.problems
	p.mu.Lock()
	defer p.mu.Unlock()
	for t, n := range p.counts {
		if n > 0 {
			s.Troubles[Trouble(t)] = n
		}
	}
	return s
}

// Err returns nil as long as every fact could be applied. Otherwise it tells
// the first of each trouble; it wraps [ErrNotApplied], and [events.ErrCorrupt]
// when the ledger holds what it must not. It never turns back to nil.
func (x *Index) Err() error {
	p := &x.problems
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	corrupt := false
	for t, n := range p.counts {
		if n == 0 {
			continue
		}
		f := p.first[t]
		corrupt = corrupt || f.Trouble.corrupts()
		errs = append(errs, fmt.Errorf("%s: %d, the first at position %d on %q", f.Trouble, n, f.Position, f.Subject))
	}
	switch {
	case len(errs) == 0:
		return nil
	case corrupt:
		return fmt.Errorf("%w: %w: %w", ErrNotApplied, events.ErrCorrupt, errors.Join(errs...))
	default:
		return fmt.Errorf("%w: %w", ErrNotApplied, errors.Join(errs...))
	}
}
