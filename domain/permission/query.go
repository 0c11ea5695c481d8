package permission

import (
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"strings"
)

const (
	// MaxQueryLen bounds a query's text in bytes: it stands in the recorded use
	// of every key that it is asked about, and in a gateway's header.
	MaxQueryLen = 512

	// MaxQueryNames bounds the names of a query. Each costs a verdict a look-up,
	// and is one bit of a word while the query is parsed; resource:* stands for
	// any number.
	MaxQueryNames = 32

	// MaxQueryDepth bounds how deep parentheses nest, and so the stack that
	// parsing takes. AND within OR within AND needs two.
	MaxQueryDepth = 8
)

// ErrQuery says that a text is not a query; every [QueryError] wraps it.
var ErrQuery = errors.New("permission: not a query such as interview:read AND (interview:start OR report:*)")

// QueryError says where a query is at fault and what to do. It repeats nothing
// of the text.
type QueryError struct {
	// At is the byte at fault, counted from 1; one beyond the last where
	// something is missing at the end.
	At int
	// Fault is a sentence about it.
	Fault string
}

// Detail tells both.
func (e *QueryError) Detail() string { return fmt.Sprintf("at byte %d: %s", e.At, e.Fault) }

func (e *QueryError) Error() string { return ErrQuery.Error() + ": " + e.Detail() }
func (e *QueryError) Unwrap() error { return ErrQuery }

// Query asks for several permissions at once:
//
//	query = all *( OR all )
//	all   = one *( AND one )
//	one   = resource:action / resource:* / "(" query ")"
//
// AND binds tighter than OR. Both are written in either case, and white space
// (space, tab, line end) may stand between any two words and parentheses.
// There is no NOT: a key that is allowed more never answers less. resource:*
// asks for all that there is of a resource; see [Query.Holds].
//
// A query is a value that holds its text and no other memory. Its zero value
// never holds.
type Query struct {
	text  string
	terms [MaxQueryNames]term
	n     uint8
}

// term is one name, and which to look at next when it is allowed or is not: a
// query reads from left to right and stops as soon as it is decided.
type term struct {
	from, to uint16
	yes, no  uint8
}

// Where a query ends. No term leads back to the first, so that 0 is free.
const (
	denied  = 0
	granted = MaxQueryNames
)

// MayBeQuery reports whether a text could be a query and is no single name: a
// name has no white space, parenthesis or '*'.
func MayBeQuery(text string) bool {
	for i := range len(text) {
		switch text[i] {
		case ' ', '(', ')', '*', '\t', '\n', '\r':
			return true
		}
	}
	return false
}

// ParseQuery reads a query, or a single name or grant, which is a query too. Its
// error is a [*QueryError]. It allocates nothing but that.
func ParseQuery(text string) (Query, error) {
	if len(text) > MaxQueryLen {
		return Query{}, &QueryError{MaxQueryLen + 1, fmt.Sprintf("a query has at most %d bytes, and this has %d", MaxQueryLen, len(text))}
	}
	p := parser{q: Query{text: text}}
	p.next()
	whole := p.anyOf(0)
	if p.fault == nil && p.kind != tokenEnd {
		p.unexpected()
	}
	if p.fault != nil {
		return Query{}, p.fault
	}
	p.leadYes(whole.yes, granted)
	p.leadNo(whole.no, denied)
	return p.q, nil
}

// Text returns the query as it was written.
func (q *Query) Text() string { return q.text }

// Names returns the names and grants that the query asks about, from left to right.
func (q *Query) Names() iter.Seq[Grant] {
	return func(yield func(Grant) bool) {
		for _, t := range q.terms[:q.n] {
			if !yield(Grant(q.text[t.from:t.to])) {
				return
			}
		}
	}
}

// Clone returns the query with a text of its own, for who parsed it in memory
// that is used again.
func (q *Query) Clone() Query {
	c := *q
	c.text = strings.Clone(q.text)
	return c
}

// Holds evaluates the query. allows tells of a grant that is a name whether the
// key is allowed it, and of resource:* whether it is allowed every permission
// that there is of the resource, which must be one at least. It is asked from
// left to right until the answer is known. Nothing is allocated.
func (q *Query) Holds(allows func(Grant) bool) bool {
	if q.n == 0 {
		return false
	}
	for i := uint8(0); ; {
		t := &q.terms[i]
		if i = t.no; allows(Grant(q.text[t.from:t.to])) {
			i = t.yes
		}
		switch i {
		case granted:
			return true
		case denied:
			return false
		}
	}
}

type token int

const (
	tokenEnd token = iota
	tokenWord
	tokenAnd
	tokenOr
	tokenOpen
	tokenClose
)

// parser makes a query of its text, by recursive descent. After a fault every
// token is the end.
type parser struct {
	q     Query
	fault *QueryError
	// The token that comes next.
	kind     token
	from, to int
}

// part is what was made of a part of a query: the terms, a bit each, whose
// answer yes or no decides it and leads out of it.
type part struct{ yes, no uint32 }

// anyOf reads a query, within so many parentheses.
func (p *parser) anyOf(depth int) part {
	whole := p.allOf(depth)
	for p.kind == tokenOr {
		p.next()
		p.leadNo(whole.no, p.q.n)
		more := p.allOf(depth)
		whole = part{whole.yes | more.yes, more.no}
	}
	return whole
}

func (p *parser) allOf(depth int) part {
	whole := p.one(depth)
	for p.kind == tokenAnd {
		p.next()
		p.leadYes(whole.yes, p.q.n)
		more := p.one(depth)
		whole = part{more.yes, whole.no | more.no}
	}
	return whole
}

func (p *parser) one(depth int) part {
	switch p.kind {
	case tokenWord:
		return p.name()
	case tokenOpen:
		return p.group(depth + 1)
	case tokenAnd, tokenOr, tokenClose:
		p.failf(p.from, "a permission is missing before this")
	default:
		p.failf(p.from, "a permission is missing here")
	}
	return part{}
}

func (p *parser) group(depth int) part {
	open := p.from
	if depth > MaxQueryDepth {
		p.failf(open, "parentheses nest deeper than %d", MaxQueryDepth)
		return part{}
	}
	p.next()
	whole := p.anyOf(depth)
	switch {
	case p.fault != nil:
	case p.kind == tokenClose:
		p.next()
	case p.kind == tokenEnd:
		p.failf(open, "this '(' is never closed")
	default:
		p.unexpected()
	}
	return whole
}

func (p *parser) name() part {
	if fault := queryNameFault(p.q.text[p.from:p.to]); fault != "" {
		p.failf(p.from, "%s", fault)
		return part{}
	}
	if p.q.n == MaxQueryNames {
		p.failf(p.from, "a query names at most %d permissions; resource:* stands for all of a resource", MaxQueryNames)
		return part{}
	}
	bit := uint32(1) << p.q.n
	p.q.terms[p.q.n] = term{from: uint16(p.from), to: uint16(p.to)}
	p.q.n++
	p.next()
	return part{bit, bit}
}

// unexpected tells of a token that stands where a query may only go on or end.
func (p *parser) unexpected() {
	if p.kind == tokenClose {
		p.failf(p.from, "this ')' closes nothing")
		return
	}
	p.failf(p.from, "AND or OR is missing before this")
}

// leadYes lets the answer yes of some terms lead to another.
func (p *parser) leadYes(terms uint32, to uint8) {
	for ; terms != 0; terms &= terms - 1 {
		p.q.terms[bits.TrailingZeros32(terms)].yes = to
	}
}

func (p *parser) leadNo(terms uint32, to uint8) {
	for ; terms != 0; terms &= terms - 1 {
		p.q.terms[bits.TrailingZeros32(terms)].no = to
	}
}

func (p *parser) failf(at int, format string, args ...any) {
	if p.fault == nil {
		p.fault = &QueryError{at + 1, fmt.Sprintf(format, args...)}
	}
	p.kind = tokenEnd
}

// next reads the next token.
func (p *parser) next() {
	text := p.q.text
	at := p.to
	for at < len(text) && isSpace(text[at]) {
		at++
	}
	p.from, p.to = at, at+1
	switch {
	case at == len(text):
		p.kind, p.to = tokenEnd, at
		return
	case text[at] == '(':
		p.kind = tokenOpen
		return
	case text[at] == ')':
		p.kind = tokenClose
		return
	}
	for p.to < len(text) && text[p.to] != '(' && text[p.to] != ')' && !isSpace(text[p.to]) {
		p.to++
	}
	switch word := text[p.from:p.to]; {
	case strings.EqualFold(word, "AND"):
		p.kind = tokenAnd
	case strings.EqualFold(word, "OR"):
		p.kind = tokenOr
	default:
		p.kind = tokenWord
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// queryNameFault says what is wrong with a name of a query, "" when nothing is.
func queryNameFault(word string) string {
	if Grant(word).Wildcard() || Name(word).valid() {
		return ""
	}
	resource, action, ok := strings.Cut(word, ":")
	switch {
	case strings.ContainsAny(word, "&|,;+"):
		return "permissions are joined by AND and OR alone"
	case strings.EqualFold(word, "NOT") || word[0] == '!':
		return "there is no NOT: a query says what the key must be allowed"
	case strings.Contains(word, "*") && (resource == "*" || action != "*"):
		return "'*' stands for all actions of one resource, as in interview:*"
	case !ok:
		return "this is not of the form resource:action or resource:*"
	}
	if fault := partFault(resource); fault != "" {
		return "the resource " + fault
	}
	return "the action " + partFault(action)
}
