package permission

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// MaxRoutes is the most routes a Router takes: more than fit into the one
	// event that a catalog is. Each new one is compared with all that overlap it,
	// so that the work of building grows with the square at worst; for this many
	// that is a fraction of a second.
	MaxRoutes = 2048

	// MaxPathLen is the longest path a Router looks at; it is also what
	// checking its escapes takes of the stack.
	MaxPathLen = 4096

	// maxFaults is how many conflicts one error names: enough to repair a
	// catalog, not so many that nobody reads them.
	maxFaults = 10
)

// ErrRouteConflict says that two routes of one table ask for a decision that a
// table cannot make: both match one request and neither is the more precise, or
// they are the same.
var ErrRouteConflict = errors.New("permission: conflicting routes")

// Rule says which permission a route needs.
type Rule struct {
	Route Route
	Name  Name
}

// Router finds the permission that a request needs. It guards an upstream that
// reads the same path with rules of its own, so whatever the two could read
// differently matches nothing, and what matches nothing is to be denied.
//
// Precedence. Segment by segment a literal is more precise than {name}, and
// {name} more than {name...}. Of the routes that match a request, the one wins
// that is at least as precise as every other in every segment. Two that overlap
// while each is the more precise somewhere ("/a/{x}" and "/{y}/b") are refused by
// NewRouter unless they need the same permission. Of routes with the same path,
// the one with the request's method wins, then, for HEAD, the one with GET
// (servers answer HEAD by it), then ANY.
//
// The path is matched as it was forwarded, still escaped and without the query.
// No path matches
//
//   - that is longer than MaxPathLen or does not start with '/';
//   - with a character that RFC 3986 does not allow in a path, or with ';', which
//     some servers cut a segment at;
//   - with an empty segment, so with '//' or with '/' at its end, except "/";
//   - with a segment that is '.' or '..', escaped or not;
//   - with an invalid escape, or one of '/', '\', ';', '%' or a control character,
//     or escapes that are not UTF-8;
//   - that ends where the {name...} of a route would begin, and has no route of
//     its own: some servers take it for that route, or redirect to it;
//   - with a segment that equals a literal only once unescaped or in other case
//     where that literal was to be expected: some servers match it, some do not.
//
// Parameters take any other segment. A Router never changes and is safe for
// concurrent use. The zero Router and a nil one match nothing.
type Router struct {
	root  node
	rules []Rule
}

// node is a place in the tree of segments.
type node struct {
	literals map[string]*node // by their folded form
	single   *node
	here     []int // the rules that end here
	rest     []int // the rules that end here with {name...}

	// Of a literal: as the routes spell it, and the rule that did so first.
	spelling string
	speller  int
}

// NewRouter builds the table. Its error wraps ErrRoute or ErrName for a rule
// that was not parsed, and ErrRouteConflict, naming both routes, for every two
// that conflict (the first ten).
func NewRouter(rules []Rule) (*Router, error) {
	if len(rules) > MaxRoutes {
		return nil, fmt.Errorf("%w: %d routes, at most %d are allowed", ErrRoute, len(rules), MaxRoutes)
	}
	b := builder{router: &Router{rules: slices.Clone(rules)}}
	for i, rule := range b.router.rules {
		if rule.Route == (Route{}) {
			return nil, fmt.Errorf("%w: rule %d has none", ErrRoute, i+1)
		}
		if !rule.Name.valid() {
			return nil, fmt.Errorf("%w: in rule %d", ErrName, i+1)
		}
		segments := rule.Route.segments()
		b.compare(&b.router.root, segments, i, equal)
		b.report(i)
		b.insert(segments, i)
		if len(b.faults) >= maxFaults {
			break
		}
	}
	if len(b.faults) > 0 {
		return nil, errors.Join(b.faults...)
	}
	return b.router, nil
}

// builder holds what is only needed while a Router is built.
type builder struct {
	router    *Router
	conflicts []conflict // of the new rule
	faults    []error
}

// conflict is an older rule in the way of the new one.
type conflict struct {
	rule  int
	order order
}

// order tells which of two overlapping routes was the more precise so far; both
// bits are set when each was somewhere.
type order uint8

const (
	equal    order = 0
	newFirst order = 1
	oldFirst order = 2
	crossed        = newFirst | oldFirst
)

// compare walks to all rules below n that overlap the new one, of which segments
// are left.
func (b *builder) compare(n *node, segments []string, rule int, o order) {
	if len(segments) == 0 {
		b.judge(n.here, rule, o)
		return
	}
	segment := segments[0]
	switch kindOf(segment) {
	case literal:
		if child := n.literals[fold(segment)]; child != nil {
			b.compare(child, segments[1:], rule, o)
		}
		if n.single != nil {
			b.compare(n.single, segments[1:], rule, o|newFirst)
		}
		b.judge(n.rest, rule, o|newFirst)
	case single:
		for _, child := range n.literals {
			b.compare(child, segments[1:], rule, o|oldFirst)
		}
		if n.single != nil {
			b.compare(n.single, segments[1:], rule, o)
		}
		b.judge(n.rest, rule, o|newFirst)
	case rest:
		b.judge(n.rest, rule, o)
		b.judgeBelow(n, rule, o|oldFirst)
	}
}

// judgeBelow judges all rules with more segments than lead to n.
func (b *builder) judgeBelow(n *node, rule int, o order) {
	children := make([]*node, 0, len(n.literals)+1)
	for _, child := range n.literals {
		children = append(children, child)
	}
	if n.single != nil {
		children = append(children, n.single)
	}
	for _, child := range children {
		b.judge(child.here, rule, o)
		b.judge(child.rest, rule, o)
		b.judgeBelow(child, rule, o)
	}
}

// judge notes which rules, of those that overlap the new one's path, are in its
// way.
func (b *builder) judge(old []int, rule int, o order) {
	for _, i := range old {
		was, is := b.router.rules[i], b.router.rules[rule]
		if o == equal && was.Route.method == is.Route.method ||
			o == crossed && was.Name != is.Name && methodsOverlap(was.Route.method, is.Route.method) {
			b.conflicts = append(b.conflicts, conflict{i, o})
		}
	}
}

// report turns the conflicts of the new rule into faults, in the order of the
// rules and not of the walk, which goes through maps.
func (b *builder) report(rule int) {
	slices.SortFunc(b.conflicts, func(a, b conflict) int { return cmp.Compare(a.rule, b.rule) })
	for _, c := range b.conflicts {
		why := "match the same requests"
		if c.order == crossed {
			why = "both match " + witness(b.router.rules[c.rule].Route, b.router.rules[rule].Route) + " and neither is the more precise"
		}
		b.fault(c.rule, rule, why)
	}
	b.conflicts = b.conflicts[:0]
}

func (b *builder) fault(i, j int, why string) {
	if len(b.faults) < maxFaults {
		b.faults = append(b.faults, fmt.Errorf("%w: %q and %q %s", ErrRouteConflict, b.router.rules[i].Route, b.router.rules[j].Route, why))
	}
}

func (b *builder) insert(segments []string, rule int) {
	n := &b.router.root
	for _, segment := range segments {
		switch kindOf(segment) {
		case literal:
			key := fold(segment)
			child := n.literals[key]
			if child == nil {
				child = &node{spelling: segment, speller: rule}
				if n.literals == nil {
					n.literals = make(map[string]*node)
				}
				n.literals[key] = child
			}
			if child.spelling != segment {
				b.fault(child.speller, rule, "spell a segment in different case, which is the same to some servers")
			}
			n = child
		case single:
			if n.single == nil {
				n.single = &node{}
			}
			n = n.single
		case rest:
			n.rest = append(n.rest, rule)
			return
		}
	}
	n.here = append(n.here, rule)
}

func methodsOverlap(a, b string) bool {
	return a == b || a == AnyMethod || b == AnyMethod || a == "GET" && b == "HEAD" || a == "HEAD" && b == "GET"
}

// witness returns a path that two overlapping routes both match.
func witness(a, b Route) string {
	as, bs := a.segments(), b.segments()
	var path strings.Builder
	for i := range max(len(as), len(bs)) {
		segment := "x"
		for _, s := range [][]string{as, bs} {
			if i < len(s) && kindOf(s[i]) == literal {
				segment = s[i]
			}
		}
		path.WriteString("/" + segment)
	}
	return path.String()
}

// Match returns the permission that a request needs, or false when no route of
// the table is it beyond doubt. path is the escaped path without the query. It
// allocates nothing.
func (r *Router) Match(method, path string) (Name, bool) {
	if r == nil || !validMethod(method) || !plainPath(path) {
		return "", false
	}
	rule := r.find(&r.root, method, path[1:])
	if rule < 0 {
		return "", false
	}
	return r.rules[rule].Name, true
}

const (
	noRule   = -1 // look on
	doubtful = -2 // stop: the upstream may see another route here
)

// find returns the most precise rule below n for the segments left, the more
// precise branch first, or noRule or doubtful. It visits a node at most once.
func (r *Router) find(n *node, method, left string) int {
	if left == "" {
		rule := r.byMethod(n.here, method)
		if rule == noRule && r.byMethod(n.rest, method) != noRule {
			return doubtful
		}
		return rule
	}
	segment, tail, _ := strings.Cut(left, "/")
	if len(n.literals) > 0 {
		var buf [MaxLiteralLen]byte
		if folded, ok := unescapeFold(buf[:], segment); ok {
			if child := n.literals[string(folded)]; child != nil {
				if child.spelling != segment {
					return doubtful
				}
				if rule := r.find(child, method, tail); rule != noRule {
					return rule
				}
			}
		}
	}
	if n.single != nil {
		if rule := r.find(n.single, method, tail); rule != noRule {
			return rule
		}
	}
	return r.byMethod(n.rest, method)
}

// byMethod picks among rules with the same path.
func (r *Router) byMethod(rules []int, method string) int {
	get, fallback := noRule, noRule
	for _, i := range rules {
		switch m := r.rules[i].Route.method; {
		case m == method:
			return i
		case m == "GET" && method == "HEAD":
			get = i
		case m == AnyMethod:
			fallback = i
		}
	}
	if get != noRule {
		return get
	}
	return fallback
}

// plainPath reports whether every server reads the path's segments alike.
func plainPath(path string) bool {
	if path == "" || path[0] != '/' || len(path) > MaxPathLen {
		return false
	}
	escaped := false
	for i := 1; i < len(path); i++ {
		switch c := path[i]; {
		case c == '%':
			escaped = true
		case c != '/' && c != '*' && !isLiteralByte(c):
			return false
		}
	}
	if escaped {
		return plainEscaped(path)
	}
	return plainSegments(path)
}

// plainEscaped is plainPath for a path with escapes. No escape it accepts makes
// a '/', so that the segments of the unescaped path are those of the path.
func plainEscaped(path string) bool {
	var buf [MaxPathLen]byte
	n := 0
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' {
			var ok bool
			if c, ok = unescape(path[i:]); !ok || c < ' ' || c == 0x7f || strings.IndexByte(`/\;%`, c) >= 0 {
				return false
			}
			i += 2
		}
		buf[n] = c
		n++
	}
	return utf8.Valid(buf[:n]) && plainSegments(buf[:n])
}

// plainSegments reports whether no segment is empty, '.' or '..'.
func plainSegments[T string | []byte](path T) bool {
	if len(path) == 1 {
		return true
	}
	start := 1
	for i := 1; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		switch n := i - start; {
		case n == 0:
			return false
		case n == 1 && path[start] == '.':
			return false
		case n == 2 && path[start] == '.' && path[start+1] == '.':
			return false
		}
		start = i + 1
	}
	return true
}

// fold is what a literal is found by: ASCII lower case.
func fold(literal string) string { return strings.ToLower(literal) }

// unescapeFold writes a segment unescaped and folded to buf; false when it is
// longer than any literal.
func unescapeFold(buf []byte, segment string) ([]byte, bool) {
	n := 0
	for i := 0; i < len(segment); i++ {
		if n == len(buf) {
			return nil, false
		}
		c := segment[i]
		if c == '%' {
			c, _ = unescape(segment[i:]) // plainPath has seen to it
			i += 2
		}
		buf[n] = lower(c)
		n++
	}
	return buf[:n], true
}

// unescape returns the byte of the escape that s starts with.
func unescape(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	hi, lo := hexDigit(s[1]), hexDigit(s[2])
	return hi<<4 | lo, hi < 16 && lo < 16
}

func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	default:
		return 0xff
	}
}
