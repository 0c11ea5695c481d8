package permission

import (
	"errors"
	"fmt"
	"strings"
)

const (
	// MaxRouteLen is the longest route. An API's longest paths have about 200
	// characters; the bound keeps a catalog of many routes within one event.
	MaxRouteLen = 512

	// MaxSegments is the most segments a route has. It bounds the depth of a
	// look-up, which a stranger's request sets off.
	MaxSegments = 32

	// MaxLiteralLen is the longest literal segment. A look-up folds a segment on
	// the stack before it compares, at each depth.
	MaxLiteralLen = 128

	// MaxMethodLen is the longest method; the longest registered one has 17.
	MaxMethodLen = 20

	// AnyMethod stands in a route for every method.
	AnyMethod = "ANY"
)

// ErrRoute says that a string is not a route.
var ErrRoute = errors.New("permission: not a route of the form METHOD /path/{parameter}")

// Route is a method and a pattern of paths, such as
//
//	POST /api/v1/interviews/{id}/complete
//
// The method is in capitals, or ANY. A segment of the path is a literal, or a
// parameter in braces that stands for any one segment; the last may be
// {name...}, which stands for one or more. Literals are letters, digits and
// -._~!$&'()+,=@: as they are, never escaped: an upstream takes %61 and a for
// the same or not, and a table cannot be right about both.
//
// Routes can be compared with ==. The zero Route matches nothing.
type Route struct{ method, path string }

// ParseRoute returns s as a Route, or an error that wraps ErrRoute.
func ParseRoute(s string) (Route, error) {
	if len(s) > MaxRouteLen {
		return Route{}, fmt.Errorf("%w: it has %d characters, at most %d are allowed", ErrRoute, len(s), MaxRouteLen)
	}
	method, path, ok := strings.Cut(s, " ")
	switch {
	case !ok:
		return Route{}, fmt.Errorf("%w: there is no space between method and path", ErrRoute)
	case !validMethod(method):
		return Route{}, fmt.Errorf("%w: the method is 1 to %d capitals, or %s", ErrRoute, MaxMethodLen, AnyMethod)
	case !strings.HasPrefix(path, "/"):
		return Route{}, fmt.Errorf("%w: the path does not start with '/'", ErrRoute)
	}
	r := Route{method, path}
	segments := r.segments()
	if len(segments) > MaxSegments {
		return Route{}, fmt.Errorf("%w: the path has %d segments, at most %d are allowed", ErrRoute, len(segments), MaxSegments)
	}
	seen := make(map[string]bool)
	for i, segment := range segments {
		if fault := segmentFault(segment, i == len(segments)-1); fault != "" {
			return Route{}, fmt.Errorf("%w: segment %d of the path %s", ErrRoute, i+1, fault)
		}
		if name, ok := parameter(segment); ok {
			if seen[name] {
				return Route{}, fmt.Errorf("%w: segment %d repeats the name of a parameter", ErrRoute, i+1)
			}
			seen[name] = true
		}
	}
	return r, nil
}

// Method returns the method, or AnyMethod.
func (r Route) Method() string { return r.method }

// Path returns the pattern of paths.
func (r Route) Path() string { return r.path }

// String returns the route as it was parsed.
func (r Route) String() string {
	if r == (Route{}) {
		return ""
	}
	return r.method + " " + r.path
}

// segments splits the path; "/" has none.
func (r Route) segments() []string {
	if r.path == "/" {
		return nil
	}
	return strings.Split(r.path[1:], "/")
}

// kind is what a segment of a route stands for; the smaller the more precise.
type kind uint8

const (
	literal kind = iota // itself
	single              // {name}: any one segment
	rest                // {name...}: one or more segments
)

// kindOf tells the kind of a segment that segmentFault found nothing wrong with.
func kindOf(segment string) kind {
	switch {
	case segment[0] != '{':
		return literal
	case strings.HasSuffix(segment, "...}"):
		return rest
	default:
		return single
	}
}

// parameter returns the name in {name} or {name...}.
func parameter(segment string) (string, bool) {
	if len(segment) < 2 || segment[0] != '{' || segment[len(segment)-1] != '}' {
		return "", false
	}
	return strings.TrimSuffix(segment[1:len(segment)-1], "..."), true
}

// segmentFault says what is wrong with a segment, "" when nothing is.
func segmentFault(segment string, last bool) string {
	if segment == "" {
		return "is empty: a path has no '//' and no '/' at its end"
	}
	if segment == "." || segment == ".." {
		return "is '.' or '..'"
	}
	if name, ok := parameter(segment); ok {
		switch {
		case !validParameter(name):
			return fmt.Sprintf("names its parameter other than with 1 to %d letters, digits and '_'", MaxPartLen)
		case kindOf(segment) == rest && !last:
			return "is a {name...} but not the last"
		}
		return ""
	}
	if segment[0] == ':' {
		return "starts with ':'; a parameter is written {name}"
	}
	if len(segment) > MaxLiteralLen {
		return fmt.Sprintf("has %d characters, at most %d are allowed", len(segment), MaxLiteralLen)
	}
	for i := range len(segment) {
		switch c := segment[i]; {
		case c == '{' || c == '}':
			return "is a parameter in part; braces enclose a whole segment"
		case c == '*':
			return "has a '*'; write {name} for one segment, {name...} for the rest"
		case c == '%':
			return "has an escape; literals are written as they are"
		case !isLiteralByte(c):
			return fmt.Sprintf("has a character, number %d, that cannot stand in a literal", i+1)
		}
	}
	return ""
}

func validParameter(name string) bool {
	if name == "" || len(name) > MaxPartLen || '0' <= name[0] && name[0] <= '9' {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c != '_' && !isAlnum(lower(c)) {
			return false
		}
	}
	return true
}

// validMethod accepts the methods that servers agree about: "get" is another
// method to one and GET to the next.
func validMethod(m string) bool {
	if m == "" || len(m) > MaxMethodLen || m[0] == '-' {
		return false
	}
	for i := range len(m) {
		if c := m[i]; (c < 'A' || 'Z' < c) && c != '-' {
			return false
		}
	}
	return true
}

// isLiteralByte is pchar of RFC 3986 without '%', '*' and ';'. Some servers cut
// a segment at ';'.
func isLiteralByte(c byte) bool { return literalBytes[c] }

// literalBytes is only read.
var literalBytes = func() (t [256]bool) {
	for c := range t {
		t[c] = isAlnum(lower(byte(c)))
	}
	for _, c := range "-._~!$&'()+,=@:" {
		t[c] = true
	}
	return t
}()
