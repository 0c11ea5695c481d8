package usage

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// ErrBadCursor says that a text is no cursor of this very list.
var ErrBadCursor = sqlview.ErrBadCursor

// errNoBlocks says that the view was opened without what single uses are read by.
var errNoBlocks = errors.New("usage: nothing to read single blocks from")

// maxOpened bounds how many blocks are fetched for one page, so that a filter that
// little matches costs no more than a second: the page then ends early, and its
// cursor goes on from there.
const maxOpened = 512

// Use is one recorded use, and where it stands.
type Use struct {
	Org events.OrgID
	uses.Use
	// At of the use is when it happened by the verifier's clock, but not after
	// Stored, which is the broker's.
	Stored   events.Time
	Verifier events.VerifierID
	Boot     uses.BootID
	// Number is its number in the organization and boot.
	Number uint64
	// Position is that of its block.
	Position events.Position
}

// Filter says which uses are wanted.
type Filter struct {
	Org events.OrgID
	// Key wants those of one key, of all unless set.
	Key events.KeyID
	// From and To want those from an instant on, and before one.
	From, To events.Time
	// Code wants those of a verdict.
	Code events.Code
	// Permission wants those that asked for it, alone or in a query, and Workspace
	// those that asked for that one.
	Permission, Workspace string
	// Ascending gives the oldest first, and not the newest.
	Ascending bool
	// Sees tells which of some keys may be seen. All may without one.
	Sees func(context.Context, []events.KeyID) (map[events.KeyID]bool, error)
	sqlview.Page
}

// list names the list that a filter makes.
func (f *Filter) list() sqlview.List {
	return sqlview.ListOf("uses", string(f.Org), f.Key.String(), strconv.FormatInt(int64(f.From), 10), strconv.FormatInt(int64(f.To), 10),
		f.Code.String(), f.Permission, f.Workspace, strconv.FormatBool(f.Ascending))
}

// wants reports whether a use is wanted. Its time is looked at elsewhere.
func (f *Filter) wants(u *uses.Use) bool {
	return (f.Key.IsZero() || u.Key == f.Key) && (f.Code == events.CodeNone || u.Code == f.Code) &&
		(f.Workspace == "" || u.Workspace == f.Workspace) && (f.Permission == "" || asksFor(u.Permission, f.Permission))
}

// asksFor reports whether a permission that was asked for, or a query of several,
// names one.
func asksFor(text, name string) bool {
	return text == name || strings.Contains(text, name) && slices.Contains(namesOf(text), name)
}

// place is where a use stands in a list: uses are ordered by time, and those of one
// time by where they are stored.
type place struct {
	at       events.Time
	position events.Position
	n        uint64
}

func (p place) compare(o place) int {
	return cmp.Or(cmp.Compare(p.at, o.at), cmp.Compare(p.position, o.position), cmp.Compare(p.n, o.n))
}

// cursorOf is the cursor of a place, empty for none.
func (p *place) cursorOf(l sqlview.List) string {
	if p == nil {
		return ""
	}
	return p.cursor(l)
}

// cursor writes the place after which the next page begins.
func (p place) cursor(l sqlview.List) string {
	b := append([]byte{cursorVersion}, l[:]...)
	b = binary.AppendUvarint(b, uint64(p.at))
	b = binary.AppendUvarint(b, uint64(p.position))
	return base64.RawURLEncoding.EncodeToString(binary.AppendUvarint(b, p.n))
}

const cursorVersion = 1

// placeOf reads a cursor.
func placeOf(l sqlview.List, text string) (place, error) {
	if len(text) > 64 {
		return place{}, ErrBadCursor
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) < 1+len(l) || b[0] != cursorVersion || sqlview.List(b[1:1+len(l)]) != l {
		return place{}, ErrBadCursor
	}
	b = b[1+len(l):]
	var numbers [3]uint64
	for i := range numbers {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > math.MaxInt64 {
			return place{}, ErrBadCursor
		}
		numbers[i], b = v, b[n:]
	}
	p := place{events.Time(numbers[0]), events.Position(numbers[1]), numbers[2]}
	// Written again, it must be the same: one place has one cursor.
	if len(b) != 0 || p.cursor(l) != text {
		return place{}, ErrBadCursor
	}
	return p, nil
}

// Uses lists single uses in the order of their times, and returns the cursor of the
// next page. It fetches the blocks that hold them, and no others; a page may hold
// fewer than there is room for and still not be the last.
//
// A block that came again tells nothing twice, and what came after its boot's end
// is left out: the findings tell of both.
func (v *View) Uses(ctx context.Context, f Filter) ([]Use, string, error) {
	if v.blocks == nil {
		return nil, "", errNoBlocks
	}
	l := lister{v: v, f: f, name: f.list(), room: f.Rows(), sees: make(map[events.KeyID]bool), left: maxOpened}
	if err := l.begin(); err != nil {
		return nil, "", err
	}
	if err := l.find(ctx); err != nil {
		return nil, "", fmt.Errorf("usage: list uses: %w", err)
	}
	for !l.done {
		units, err := l.next(ctx)
		for err == nil && len(units) > 0 && l.until == nil {
			n := 1
			for n < len(units) && units[n].minute == units[0].minute {
				n++
			}
			err = l.merge(ctx, units[:n])
			units = units[n:]
		}
		if err != nil {
			return nil, "", fmt.Errorf("usage: list uses: %w", err)
		}
		l.done = l.done || l.until != nil
	}
	return l.page(), l.until.cursorOf(l.name), nil
}

// lister makes one page.
type lister struct {
	v    *View
	f    Filter
	name sqlview.List
	room int
	out  []placed
	// start is where the page begins: before every place of it.
	start place
	// until is where the page ends, nil when the list does.
	until *place
	sees  map[events.KeyID]bool
	// left is how many blocks may still be fetched.
	left int
	done bool

	// no and table are what the blocks are found by, head the row that is not in
	// the table, and at the minute from which on they are not yet.
	no    int64
	table string
	head  *span
	at    int64
}

// order compares places by the list's order.
func (l *lister) order(a, b place) int {
	if l.f.Ascending {
		return a.compare(b)
	}
	return b.compare(a)
}

// begin reads the cursor, and where the list begins without one.
func (l *lister) begin() error {
	switch {
	case l.f.Cursor != "":
		p, err := placeOf(l.name, l.f.Cursor)
		if err != nil {
			return err
		}
		l.start = p
	case l.f.Ascending:
		l.start = place{at: l.f.From}
	default:
		l.start = place{at: math.MaxInt64, position: math.MaxInt64, n: math.MaxInt64}
	}
	if l.f.To != 0 && !l.f.Ascending {
		// Nothing at To itself any more.
		if last := (place{at: l.f.To}); l.order(last, l.start) > 0 {
			l.start = last
		}
	}
	l.at = int64(l.start.at / minute)
	return nil
}

// find finds the number of the key or organization.
func (l *lister) find(ctx context.Context) error {
	var dropped events.Time
	row := l.v.db.QueryRow(ctx, `SELECT no, dropped_before FROM orgs WHERE org = ?`, string(l.f.Org))
	err := row.Scan(&l.no, &dropped)
	l.table = `org_blocks`
	if err == nil && !l.f.Key.IsZero() {
		l.table = `key_blocks`
		h := span{code: events.CodeValid}
		var bits int64
		row := l.v.db.QueryRow(ctx, `SELECT no, minute, segment, bits, count, from_us, to_us FROM last_used WHERE org = ? AND key = ?`,
			string(l.f.Org), l.f.Key.String())
		err = row.Scan(&l.no, &h.minute, &h.segment, &bits, &h.count, &h.from, &h.to)
		h.bits = uint64(bits)
		h.placed()
		if h.count > 0 && (l.f.Code == events.CodeNone || l.f.Code == h.code) {
			l.head = &h
		}
	}
	if errors.Is(err, sql.ErrNoRows) {
		l.done = true
		return nil
	}
	l.f.From = max(l.f.From, dropped)
	return err
}

// placed turns times within the minute, as they stand in a row, to times.
func (s *span) placed() {
	begin := events.Time(s.minute) * minute
	s.from, s.to = begin+s.from, begin+s.to
}

// maxUnits is how many rows are read at once.
const maxUnits = 256

// next returns the next rows that name blocks, whole minutes in the list's order.
func (l *lister) next(ctx context.Context) ([]span, error) {
	low, high := int64(l.f.From/minute), int64(math.MaxInt64)
	if l.f.To != 0 {
		high = int64((l.f.To - 1) / minute)
	}
	direction := `DESC`
	if l.f.Ascending {
		low, direction = max(low, l.at), `ASC`
	} else {
		high = min(high, l.at)
	}
	read := func(low, high int64, limit int) ([]span, error) {
		var w sqlview.Where
		w.AndBind(`no = `, l.no)
		w.AndBind(`minute >= `, low)
		w.AndBind(`minute <= `, high)
		if l.f.Code != events.CodeNone {
			w.AndBind(`code = `, int(l.f.Code))
		}
		return sqlview.All(ctx, l.v.db, scanSpan, `SELECT minute, code, segment, bits, count, from_us, to_us FROM `+l.table+` `+
			w.String()+` ORDER BY minute `+direction+` LIMIT `+w.Bind(limit), w.Args()...)
	}
	units, err := read(low, high, maxUnits)
	if err != nil {
		return nil, err
	}
	if l.done = len(units) < maxUnits; !l.done {
		// The last minute may not be whole.
		l.at = units[len(units)-1].minute
		units = slices.DeleteFunc(units, func(s span) bool { return s.minute == l.at })
		if len(units) == 0 {
			if units, err = read(l.at, l.at, -1); err != nil {
				return nil, err
			}
			if l.f.Ascending {
				l.at++
			} else {
				l.at--
			}
		}
	}
	if h := l.head; h != nil && h.minute >= low && h.minute <= high && (l.done || l.inOrder(h.minute, l.at) < 0) {
		units, l.head = append(units, *h), nil
		slices.SortStableFunc(units, func(a, b span) int { return l.inOrder(a.minute, b.minute) })
	}
	return units, nil
}

// inOrder compares minutes by the list's order.
func (l *lister) inOrder(a, b int64) int {
	if l.f.Ascending {
		return cmp.Compare(a, b)
	}
	return cmp.Compare(b, a)
}

func scanSpan(row sqlview.Scanner) (span, error) {
	var s span
	var bits int64
	err := row.Scan(&s.minute, &s.code, &s.segment, &bits, &s.count, &s.from, &s.to)
	s.bits = uint64(bits)
	s.placed()
	return s, err
}
