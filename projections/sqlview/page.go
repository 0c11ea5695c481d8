package sqlview

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"

	"github.com/keyledger/keyledger/events"
)

// ErrBadCursor says that a text is no cursor of this very list.
var ErrBadCursor = errors.New("sqlview: cursor is not one of this list; begin again without it")

// DefaultLimit and MaxLimit bound a page, as the API promises.
const (
	DefaultLimit = 50
	MaxLimit     = 200
)

// Page is the part of a list that is wanted.
type Page struct {
	// Cursor is where the page before ended; empty is the beginning.
	Cursor string
	// Limit is how many are wanted: 0 is DefaultLimit, and none are given
	// beyond MaxLimit.
	Limit int
}

// Rows is how many rows a page has at most.
func (p Page) Rows() int {
	switch {
	case p.Limit <= 0:
		return DefaultLimit
	case p.Limit > MaxLimit:
		return MaxLimit
	default:
		return p.Limit
	}
}

const cursorVersion = 1

// List names a list with everything that shapes it, so that a cursor of one is
// refused by another. Lists run along positions, from which no row ever moves,
// so that what is added meanwhile shifts nothing.
type List [8]byte

// ListOf names the list that is shaped by these texts, in this order.
func ListOf(parts ...string) List {
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return List(h.Sum(nil))
}

// cursor writes where a page of the list ended.
func (l List) cursor(last events.Position) string {
	b := append([]byte{cursorVersion}, l[:]...)
	return base64.RawURLEncoding.EncodeToString(binary.AppendUvarint(b, uint64(last)))
}

// After reads a cursor as the position after which a list of rising positions
// goes on; an empty one is 0.
func (l List) After(cursor string) (int64, error) {
	const head = 1 + len(l)
	if cursor == "" {
		return 0, nil
	}
	if len(cursor) > 64 {
		return 0, ErrBadCursor
	}
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(b) <= head || b[0] != cursorVersion || List(b[1:head]) != l {
		return 0, ErrBadCursor
	}
	pos, n := binary.Uvarint(b[head:])
	// Written again, it must be the same: one place has one cursor.
	if n != len(b)-head || pos == 0 || pos > math.MaxInt64 || l.cursor(events.Position(pos)) != cursor {
		return 0, ErrBadCursor
	}
	return int64(pos), nil
}

// Before reads a cursor as the position before which a list of falling
// positions goes on; an empty one is beyond all.
func (l List) Before(cursor string) (int64, error) {
	if cursor == "" {
		return math.MaxInt64, nil
	}
	return l.After(cursor)
}

// Cut takes the rows of a page off rows that were asked for with one more, and
// returns the cursor of the next page, empty when there is none.
func Cut[T any](l List, p Page, rows []T, position func(T) events.Position) ([]T, string) {
	n := p.Rows()
	if len(rows) <= n {
		return rows, ""
	}
	rows = rows[:n]
	return rows, l.cursor(position(rows[n-1]))
}

// Cursor is where a part of the list ended, for a list that is cut by more than
// the number of its rows.
func (l List) Cursor(last events.Position) string { return l.cursor(last) }
