package histories

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/keyledger/keyledger/events"
)

// Act is what a client does.
type Act string

// What clients do.
const (
	ActCreate Act = "create"
	ActPatch  Act = "patch"
	ActRotate Act = "rotate"
	ActRevoke Act = "revoke"
	ActEnd    Act = "end" // of the organization
	ActRead   Act = "read"
)

// Wish is what an operation is about.
type Wish struct {
	Act Act
	// ID is the request's, empty for questions. The facts it brought about bear it.
	ID string
	// Subject is the key or organization it is about: histories of different
	// subjects are judged apart.
	Subject string
	// Server is who was asked.
	Server int
	// AtLeast says of a question that it named the last answered change.
	AtLeast bool
	// Grant and Status are what a patch sets, empty for what it leaves.
	Grant  string
	Status events.Status
}

// Answer is what its client was told.
type Answer struct {
	// Unknown says that there was no answer, or one that does not tell.
	Unknown bool
	// Nothing says that the answer was that nothing happened.
	Nothing bool
	// Why is what was told instead of an outcome.
	Why string
	// Refused says that the state of things did not allow it.
	Refused bool
	// Unchanged says that all was so already.
	Unchanged bool
	// Position is that of a fact it appended; settled, that of its last one in a
	// chain, and After that of the fact which was the chain's last before.
	Position, After events.Position
	// Lagging says that the server answered before its own index had come so
	// far, which it does after waiting for some seconds.
	Lagging bool
	// Code and Grant are what a question was answered.
	Code  events.Code
	Grant string
}

// operation is one of a history.
type operation = porcupine.Operation

// forever is the end of an operation that has none.
const forever = math.MaxInt64

// Log records operations. It is safe for concurrent use.
type Log struct {
	begun time.Time
	mu    sync.Mutex
	ops   []operation
}

// NewLog returns an empty log whose time begins now.
func NewLog() *Log { return &Log{begun: time.Now()} }

// Now is the instant to begin an operation with.
func (l *Log) Now() int64 { return time.Since(l.begun).Nanoseconds() }

// Add records an operation that began at an instant and ends now, if it ends.
func (l *Log) Add(client int, call int64, w Wish, a Answer) {
	op := operation{ClientId: client, Input: w, Call: call, Output: a, Return: forever}
	if !a.Unknown && !a.Nothing {
		op.Return = l.Now()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops = append(l.ops, op)
}

// Len returns how many operations were recorded, and how many of them ended.
func (l *Log) Len() (all, ended int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, op := range l.ops {
		if op.Return != forever {
			ended++
		}
	}
	return len(l.ops), ended
}

// Settle compares what clients were told with the ledger. What was answered is
// there, once; what was said not to have happened is not; what had no answer is
// there or not, and is from now on an operation that happened, or none.
//
// The facts of a request stand in a chain, which is named by chain, empty for those
// in none; each was decided on the one before. So the order of changes is known,
// which makes histories of thousands of operations quick to judge.
func (l *Log) Settle(ledger []events.Recorded, chain func(events.Recorded) string) error {
	type place struct {
		facts       []events.Position
		last, after events.Position
	}
	places, ends := map[string]place{}, map[string]events.Position{}
	for _, f := range ledger {
		id := f.Meta.RequestID
		if id == "" {
			continue
		}
		p := places[id]
		if name := chain(f); name != "" {
			if p.last == 0 {
				p.after = ends[name]
			}
			ends[name], p.last = f.Position, f.Position
		}
		p.facts = append(p.facts, f.Position)
		places[id] = p
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var faults []error
	settled := l.ops[:0]
	for _, op := range l.ops {
		w, a := op.Input.(Wish), op.Output.(Answer)
		p, there := places[w.ID]
		switch {
		case w.Act == ActRead || a.Refused:
		case a.Nothing || a.Unchanged:
			if there {
				faults = append(faults, fmt.Errorf("histories: in the ledger at %d: %s", p.facts, describe(w, a)))
			}
			if a.Nothing {
				continue
			}
		case !there && a.Unknown:
			continue
		case !there, !a.Unknown && !slices.Contains(p.facts, a.Position):
			faults = append(faults, fmt.Errorf("histories: not in the ledger, but at %d: %s", p.facts, describe(w, a)))
		default:
			a.Unknown, a.Position, a.After = false, cmp.Or(p.last, p.facts[len(p.facts)-1]), p.after
			op.Output = a
		}
		settled = append(settled, op)
	}
	l.ops = settled
	return errors.Join(faults...)
}

// All is the history of all operations as they were.
func (l *Log) All() []operation {
	return l.pick(func(*operation, Wish, Answer) bool { return true })
}

// Changes is the history of all that was not a question.
func (l *Log) Changes() []operation {
	return l.pick(func(_ *operation, w Wish, _ Answer) bool { return w.Act != ActRead })
}

// Strong is the history of one server's questions that named the last answered
// change, with all changes. That somebody was refused is no answered change: it
// tells of one that may have no answer yet, and which no question can name.
func (l *Log) Strong(server int) []operation {
	return l.pick(func(_ *operation, w Wish, a Answer) bool {
		return w.Act != ActRead && !a.Refused || w.AtLeast && w.Server == server
	})
}

// Plain is the history of all of one server's questions, with the changes that
// others answered taking place at any time after their beginning. That others had
// nothing to do, or anybody was refused, was decided on the ledger itself and tells
// nothing of what this server's index holds.
func (l *Log) Plain(server int) []operation {
	return l.pick(func(op *operation, w Wish, a Answer) bool {
		switch {
		case w.Server == server && !a.Lagging:
			return w.Act == ActRead || !a.Refused
		case w.Act == ActRead || a.Refused || a.Unchanged:
			return false
		default:
			op.Return = forever
			return true
		}
	})
}

func (l *Log) pick(keep func(*operation, Wish, Answer) bool) []operation {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []operation
	for _, op := range l.ops {
		if keep(&op, op.Input.(Wish), op.Output.(Answer)) {
			out = append(out, op)
		}
	}
	return out
}

// bySubject parts a history.
func bySubject(ops []operation) [][]operation {
	parts := map[string][]operation{}
	for _, op := range ops {
		subject := op.Input.(Wish).Subject
		parts[subject] = append(parts[subject], op)
	}
	out := make([][]operation, 0, len(parts))
	for _, part := range parts {
		out = append(out, part)
	}
	return out
}

// Check returns nil when a history could have been. The error tells the history
// of a subject that could not. It gives up after a time: a history that takes
// longer than seconds to judge proves nothing, and is an error too.
func Check(model porcupine.Model, ops []operation, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for _, part := range bySubject(ops) {
		result, info := porcupine.CheckOperationsVerbose(model, part, max(time.Until(deadline), time.Nanosecond))
		switch result {
		case porcupine.Ok:
		case porcupine.Illegal:
			return fmt.Errorf("histories: no order of these operations explains what was seen:\n%s", Text(stuck(part, info)))
		default:
			return fmt.Errorf("histories: not decided within %s: %d operations about %s", patience, len(part), part[0].Input.(Wish).Subject)
		}
	}
	return nil
}

// stuck is what a reader needs of a history that could not have been: the last
// operations of the longest order that explains its beginning, and those, after
// them, that none explains.
func stuck(ops []operation, info porcupine.LinearizationInfo) []operation {
	const before, after = 20, 10
	var longest []operation
	for _, orders := range info.PartialLinearizationsOperations() {
		for _, order := range orders {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	explained := make(map[string]bool, len(longest))
	for _, op := range longest {
		explained[fmt.Sprint(op)] = true
	}
	rest := slices.DeleteFunc(slices.Clone(ops), func(op operation) bool { return explained[fmt.Sprint(op)] })
	slices.SortFunc(rest, func(a, b operation) int { return cmp.Compare(a.Return, b.Return) })
	return append(longest[max(0, len(longest)-before):], rest[:min(len(rest), after)]...)
}

// Text writes a history down, a line for each operation, in the order of their
// beginnings.
func Text(ops []operation) string {
	ops = slices.Clone(ops)
	slices.SortFunc(ops, func(a, b operation) int { return cmp.Compare(a.Call, b.Call) })
	var b strings.Builder
	for _, op := range ops {
		end := "        …"
		if op.Return != forever {
			end = fmt.Sprintf("%9.3f", float64(op.Return)/1e6)
		}
		fmt.Fprintf(&b, "%9.3f to %s ms  client %d  %s\n", float64(op.Call)/1e6, end, op.ClientId, describe(op.Input, op.Output))
	}
	return b.String()
}

func describe(input, output any) string {
	w, a := input.(Wish), output.(Answer)
	text := fmt.Sprintf("server %d: %s", w.Server, w.Act)
	for _, part := range []string{w.Grant, string(w.Status)} {
		if part != "" {
			text += " " + part
		}
	}
	if w.AtLeast {
		text += " at least the last answered"
	}
	switch {
	case a.Unknown:
		return text + " -> unknown"
	case a.Nothing:
		return text + " -> nothing happened: " + a.Why
	case a.Refused:
		return text + " -> refused"
	case a.Unchanged:
		return text + " -> was so already"
	case w.Act == ActRead:
		return text + " -> " + a.Code.String() + " " + a.Grant
	default:
		return fmt.Sprintf("%s -> done at %d", text, a.Position)
	}
}
