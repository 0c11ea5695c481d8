// Package permission says what a key may do: the grammar of permissions
// ("interview:start") and grants ("interview:*"), the three levels of access,
// the one rule that combines them, and the table that finds the permission a
// request needs from its method and path.
//
// Everything here is a value. Whatever grants denies by its zero value, and a
// string that was never parsed grants nothing either. Errors say where a fault
// is and do not repeat what was given, which may be a key pasted into the wrong
// field; only the errors of NewRouter name routes, which have been parsed.
package permission

import (
	"errors"
	"fmt"
	"strings"
)

const (
	// MaxPartLen is the longest resource or action: the bound of every other
	// id, so that a table or a page has one column width for all.
	MaxPartLen = 63

	// MaxNameLen is the longest permission, resource ":" action.
	MaxNameLen = MaxPartLen + 1 + MaxPartLen
)

var (
	// ErrName says that a string is not a permission.
	ErrName = errors.New("permission: not a permission of the form resource:action")

	// ErrGrant says that a string is neither a permission nor resource:*.
	ErrGrant = errors.New("permission: not a grant of the form resource:action or resource:*")

	// ErrLevel says that a string is not a grant level.
	ErrLevel = errors.New("permission: the level is all, read_only or restricted")

	// ErrAccess says that a string is not an access.
	ErrAccess = errors.New("permission: the access is read or write")
)

// Name is a permission, resource:action, each [a-z0-9][a-z0-9_.-]{0,62}.
type Name string

// ParseName returns s as a Name, or an error that wraps ErrName.
func ParseName(s string) (Name, error) {
	resource, action, ok := strings.Cut(s, ":")
	if !ok {
		return "", fmt.Errorf("%w: there is no ':'", ErrName)
	}
	if fault := partFault(resource); fault != "" {
		return "", fmt.Errorf("%w: the resource %s", ErrName, fault)
	}
	if fault := partFault(action); fault != "" {
		return "", fmt.Errorf("%w: the action %s", ErrName, fault)
	}
	return Name(s), nil
}

// Resource returns what stands before the colon.
func (n Name) Resource() string { r, _, _ := strings.Cut(string(n), ":"); return r }

// Action returns what stands after the colon.
func (n Name) Action() string { _, a, _ := strings.Cut(string(n), ":"); return a }

// valid reports whether ParseName takes n, without making an error.
func (n Name) valid() bool {
	resource, action, _ := strings.Cut(string(n), ":")
	return validPart(resource) && validPart(action)
}

// Grant is a Name, or resource:* for every permission of a resource, also those
// the catalog gains later.
type Grant string

const anyAction = ":*"

// ParseGrant returns s as a Grant, or an error that wraps ErrGrant.
func ParseGrant(s string) (Grant, error) {
	if resource, ok := strings.CutSuffix(s, anyAction); ok {
		if fault := partFault(resource); fault != "" {
			return "", fmt.Errorf("%w: the resource %s", ErrGrant, fault)
		}
		return Grant(s), nil
	}
	if _, err := ParseName(s); err != nil {
		return "", fmt.Errorf("%w: %w", ErrGrant, err)
	}
	return Grant(s), nil
}

// Wildcard reports whether the grant is resource:*.
func (g Grant) Wildcard() bool {
	resource, ok := strings.CutSuffix(string(g), anyAction)
	return ok && validPart(resource)
}

// Resource returns what stands before the colon.
func (g Grant) Resource() string { return Name(g).Resource() }

// Matches reports whether the grant covers a permission. Neither side needs to
// have been parsed: what is not valid neither matches nor is matched.
func (g Grant) Matches(n Name) bool {
	if resource, ok := strings.CutSuffix(string(g), "*"); ok {
		// resource keeps its colon, so that "a:*" does not cover "ab:c". Once n
		// is valid, its one colon is this one, and the resource valid with it.
		return strings.HasSuffix(resource, ":") && strings.HasPrefix(string(n), resource) && n.valid()
	}
	return string(g) == string(n) && n.valid()
}

// Access is what the catalog says a permission does. The zero value is that of
// a permission which is not in the catalog.
type Access string

// The accesses.
const (
	AccessRead  Access = "read"
	AccessWrite Access = "write"
)

// ParseAccess returns s as an Access, or ErrAccess.
func ParseAccess(s string) (Access, error) {
	switch a := Access(s); a {
	case AccessRead, AccessWrite:
		return a, nil
	default:
		return "", ErrAccess
	}
}

// Level is how much of the catalog a key is granted. The zero value is nothing.
type Level string

// The levels.
const (
	LevelAll        Level = "all"        // every permission of the catalog, also later ones
	LevelReadOnly   Level = "read_only"  // every permission that reads, also later ones
	LevelRestricted Level = "restricted" // the listed grants
)

// ParseLevel returns s as a Level, or ErrLevel.
func ParseLevel(s string) (Level, error) {
	switch l := Level(s); l {
	case LevelAll, LevelReadOnly, LevelRestricted:
		return l, nil
	default:
		return "", ErrLevel
	}
}

// Allowed reports whether a key of a level, and for LevelRestricted of these
// grants, may do what name says. access is what the catalog says of name: ""
// when it is not in there, and then no level allows it, LevelAll included.
// Grants do not widen or narrow the other levels. It allocates nothing.
func Allowed(level Level, grants []Grant, name Name, access Access) bool {
	if access != AccessRead && access != AccessWrite {
		return false
	}
	switch level {
	case LevelAll:
		return name.valid()
	case LevelReadOnly:
		return access == AccessRead && name.valid()
	case LevelRestricted:
		for _, g := range grants {
			if g.Matches(name) {
				return true
			}
		}
		return false
	default:
		return false
	}
}

// partFault says what is wrong with a resource or an action, "" when nothing is.
func partFault(p string) string {
	switch {
	case p == "":
		return "is empty"
	case len(p) > MaxPartLen:
		return fmt.Sprintf("has %d characters, at most %d are allowed", len(p), MaxPartLen)
	case !isAlnum(p[0]):
		return "does not start with a-z or 0-9"
	}
	for i := range len(p) {
		if !isPartByte(p[i]) {
			return fmt.Sprintf("has a character, number %d, that is not of a-z, 0-9, '_', '.' and '-'", i+1)
		}
	}
	return ""
}

func validPart(p string) bool {
	if p == "" || len(p) > MaxPartLen || !isAlnum(p[0]) {
		return false
	}
	for i := range len(p) {
		if !isPartByte(p[i]) {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

func isPartByte(c byte) bool { return isAlnum(c) || c == '_' || c == '.' || c == '-' }
