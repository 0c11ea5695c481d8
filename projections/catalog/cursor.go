package catalog

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"

	"github.com/keyledger/keyledger/events"
)

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

func (p Page) limit() int {
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

// list names a list with everything that shapes it, so that a cursor of one is
// refused by another.
type list [8]byte

func listOf(parts ...string) list {
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return list(h.Sum(nil))
}

// cursor writes where a page of the list ended: after the row that was created
// at a position. Rows are listed from the newest on, so that what is added
// meanwhile shifts nothing.
func (l list) cursor(after events.Position) string {
	b := append([]byte{cursorVersion}, l[:]...)
	return base64.RawURLEncoding.EncodeToString(binary.AppendUvarint(b, uint64(after)))
}

// before reads a cursor as the position that the next page lies before.
func (l list) before(cursor string) (int64, error) {
	const head = 1 + len(l)
	if cursor == "" {
		return 1<<63 - 1, nil
	}
	if len(cursor) > 64 {
		return 0, ErrBadCursor
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(b) <= head || b[0] != cursorVersion || list(b[1:head]) != l {
		return 0, ErrBadCursor
	}
	pos, n := binary.Uvarint(b[head:])
	if n != len(b)-head || pos == 0 || pos > 1<<62 || l.cursor(events.Position(pos)) != cursor {
		return 0, ErrBadCursor
	}
	return int64(pos), nil
}

// page cuts rows that were asked for with one too many, and returns the cursor
// of the next page, empty when there is none.
func page[T any](l list, rows []T, limit int, created func(T) events.Position) ([]T, string) {
	if len(rows) <= limit {
		return rows, ""
	}
	rows = rows[:limit]
	return rows, l.cursor(created(rows[limit-1]))
}
