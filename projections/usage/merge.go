package usage

import (
	"context"
	"encoding/json"
	"maps"
	"math"
	"math/bits"
	"slices"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// merging is a minute of a list on its way. Blocks overlap in time, and so do the
// rows that name them: each is opened when its first use may come next.
type merging struct {
	*lister
	minute int64
	rows   []span
	closed []closedBlock
	met    map[events.Position]struct{}
	// ready are uses of blocks that were opened, in order.
	ready []placed
}

// closedBlock is a block that may hold uses of the minute, not before an edge.
type closedBlock struct {
	edge     events.Time
	position events.Position
	came     uint64
}

// placed is a use with its place.
type placed struct {
	place
	Use
}

// merge takes the uses of a minute from the blocks that rows name.
func (l *lister) merge(ctx context.Context, rows []span) error {
	m := merging{lister: l, minute: rows[0].minute, rows: slices.Clone(rows), met: make(map[events.Position]struct{})}
	// What ends before the page begins was told by the pages before.
	m.rows = slices.DeleteFunc(m.rows, func(s span) bool { return l.order(l.latest(&s), l.start) < 0 })
	slices.SortFunc(m.rows, func(a, b span) int { return l.byTime(l.edge(a.from, a.to), l.edge(b.from, b.to)) })
	for {
		edge, any := m.edge()
		m.take(edge, any)
		if l.until != nil || !any {
			return nil
		}
		if stop := l.stop(edge); l.left <= 0 && l.order(stop, l.start) > 0 {
			l.until = &stop
			return nil
		}
		if err := m.open(ctx, edge); err != nil {
			return err
		}
	}
}

// edge is where in time something begins, by the list's order.
func (l *lister) edge(from, to events.Time) events.Time {
	if l.f.Ascending {
		return from
	}
	return to
}

// latest is the last place by the list's order that a row may tell of.
func (l *lister) latest(s *span) place {
	if l.f.Ascending {
		return place{at: s.to, position: math.MaxInt64, n: math.MaxInt64}
	}
	return place{at: s.from}
}

// stop is the place before which everything was told when nothing that is left
// comes before an edge.
func (l *lister) stop(edge events.Time) place {
	if l.f.Ascending {
		return place{at: edge}
	}
	return place{at: edge, position: math.MaxInt64, n: math.MaxInt64}
}

// byTime compares times by the list's order.
func (l *lister) byTime(a, b events.Time) int { return l.inOrder(int64(a), int64(b)) }

// edge is the first one of what is closed.
func (m *merging) edge() (edge events.Time, any bool) {
	if len(m.rows) > 0 {
		edge, any = m.lister.edge(m.rows[0].from, m.rows[0].to), true
	}
	if len(m.closed) > 0 && (!any || m.byTime(m.closed[0].edge, edge) < 0) {
		edge, any = m.closed[0].edge, true
	}
	return edge, any
}

// take moves to the page what comes before an edge, all that is ready without one.
func (m *merging) take(edge events.Time, any bool) {
	n := 0
	for ; n < len(m.ready); n++ {
		u := &m.ready[n]
		if any && m.byTime(u.at, edge) >= 0 {
			break
		}
		if len(m.out) == m.room {
			until := m.out[m.room-1].place
			m.until = &until
			return
		}
		m.out = append(m.out, *u)
	}
	m.ready = m.ready[n:]
}

// together is how many blocks are fetched at once.
const together = 4

// open opens what begins at an edge: rows, or the next blocks.
func (m *merging) open(ctx context.Context, edge events.Time) error {
	n := 0
	for n < len(m.rows) && n < together && m.byTime(m.lister.edge(m.rows[n].from, m.rows[n].to), edge) <= 0 {
		n++
	}
	if n > 0 {
		rows := m.rows[:n]
		m.rows = m.rows[n:]
		return m.name(ctx, rows)
	}
	n = min(len(m.closed), together)
	blocks := m.closed[:n]
	m.closed = m.closed[n:]
	found, fetched, err := m.v.blocks.get(ctx, blocks)
	if err != nil {
		return err
	}
	m.left -= fetched
	for i, b := range found {
		if b == nil {
			continue // retention took it meanwhile
		}
		if err := m.gather(ctx, b, blocks[i].came); err != nil {
			return err
		}
	}
	slices.SortFunc(m.ready, func(a, b placed) int { return m.order(a.place, b.place) })
	return nil
}

// name finds the blocks that rows name.
func (m *merging) name(ctx context.Context, rows []span) error {
	var positions []int64
	within := make(map[int64]*span)
	for i := range rows {
		s := &rows[i]
		for left := s.bits; left != 0; left &= left - 1 {
			position := s.segment<<segmentShift | int64(bits.TrailingZeros64(left))
			if _, ok := m.met[events.Position(position)]; ok {
				continue
			}
			if w := within[position]; w != nil { // by another verdict
				wider := *w
				wider.from, wider.to = min(w.from, s.from), max(w.to, s.to)
				within[position] = &wider
				continue
			}
			within[position] = s
			positions = append(positions, position)
		}
	}
	list, err := json.Marshal(positions)
	if err != nil {
		return err
	}
	blocks, err := sqlview.All(ctx, m.v.db, func(row sqlview.Scanner) (closedBlock, error) {
		var b closedBlock
		var from, to events.Time
		err := row.Scan(&b.position, &from, &to, &b.came)
		if w := within[int64(b.position)]; w != nil {
			b.edge = m.lister.edge(max(from, w.from), min(to, w.to))
		}
		return b, err
	}, `SELECT position, from_at, to_at, fresh FROM json_each(?) CROSS JOIN blocks ON position = value`, string(list))
	if err != nil {
		return err
	}
	for _, b := range blocks {
		m.met[b.position] = struct{}{}
	}
	m.closed = append(m.closed, blocks...)
	slices.SortFunc(m.closed, func(a, b closedBlock) int { return m.byTime(a.edge, b.edge) })
	return nil
}

// gather makes the uses of a block ready that are of the minute and wanted.
func (m *merging) gather(ctx context.Context, b *storedBlock, came uint64) error {
	var found []placed
	for i := came - min(came, b.First); i < uint64(len(b.Uses)); i++ {
		u := &b.Uses[i]
		p := place{noLater(u.At, b.stored), b.position, i}
		if int64(p.at/minute) != m.minute || p.at < m.f.From || m.f.To != 0 && p.at >= m.f.To || !m.f.wants(u) || m.order(p, m.start) <= 0 {
			continue
		}
		found = append(found, placed{p, b.use(i)})
	}
	found, err := m.visible(ctx, found)
	m.ready = append(m.ready, found...)
	return err
}

// use is one of a block, by its index.
func (b *storedBlock) use(i uint64) Use {
	u := Use{Org: b.Org, Use: b.Uses[i], Stored: b.stored, Verifier: b.Verifier, Boot: b.Boot, Number: b.First + i, Position: b.position}
	u.At = noLater(u.At, u.Stored)
	return u
}

// visible are those uses whose keys may be seen.
func (l *lister) visible(ctx context.Context, list []placed) ([]placed, error) {
	if l.f.Sees == nil {
		return list, nil
	}
	var unknown []events.KeyID
	for i := range list {
		if _, known := l.sees[list[i].Key]; !known {
			l.sees[list[i].Key] = false
			unknown = append(unknown, list[i].Key)
		}
	}
	if len(unknown) > 0 {
		seen, err := l.f.Sees(ctx, unknown)
		if err != nil {
			return nil, err
		}
		maps.Copy(l.sees, seen)
	}
	return slices.DeleteFunc(list, func(u placed) bool { return !l.sees[u.Key] }), nil
}

// page is what was found.
func (l *lister) page() []Use {
	list := make([]Use, len(l.out))
	for i := range l.out {
		list[i] = l.out[i].Use
	}
	return list
}
