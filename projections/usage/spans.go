package usage

import (
	"cmp"
	"slices"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// A segment is a run of positions whose blocks share a row, one bit each.
const (
	segmentShift = 6
	segmentMask  = 1<<segmentShift - 1
)

const hour = 60 * minute

// span is which blocks of a segment hold uses of a minute with one verdict, of a
// key or of an organization.
type span struct {
	minute   int64 // since 1970
	code     events.Code
	segment  int64
	bits     uint64
	count    int64
	from, to events.Time
}

// same reports whether two spans are one row.
func (s *span) same(o *span) bool {
	return s.segment == o.segment && s.minute == o.minute && s.code == o.code
}

// newer reports whether a span of the same verdict takes another's place as the
// newest.
func (s *span) newer(o *span) bool {
	return cmp.Or(cmp.Compare(s.minute, o.minute), cmp.Compare(s.segment, o.segment)) > 0
}

// join adds a span of the same row.
func (s *span) join(o *span) {
	if s.count == 0 {
		*s = *o
		return
	}
	s.bits |= o.bits
	s.count += o.count
	s.from, s.to = min(s.from, o.from), max(s.to, o.to)
}

func (s *span) us() (from, to int64) {
	begin := events.Time(s.minute) * minute
	return int64(s.from - begin), int64(s.to - begin)
}

// spans are those that some blocks tell of, the newest last.
type spans []span

// add adds a use.
func (list *spans) add(at events.Time, code events.Code, position events.Position) {
	segment := int64(position >> segmentShift)
	for i := len(*list) - 1; i >= 0; i-- {
		s := &(*list)[i]
		if s.segment != segment {
			break // positions rise
		}
		if begin := events.Time(s.minute) * minute; s.code == code && at >= begin && at < begin+minute {
			s.bits |= 1 << (position & segmentMask)
			s.count++
			s.from, s.to = min(s.from, at), max(s.to, at)
			return
		}
	}
	*list = append(*list, span{
		minute: int64(at / minute), code: code, segment: segment,
		bits: 1 << (position & segmentMask), count: 1, from: at, to: at,
	})
}

// row is a row of the tables of counts.
type row struct {
	no, at int64
	code   events.Code
}

// rows gather what is written to the tables that are keyed by numbers, so that
// each row is written once and in the order of its table.
type rows struct {
	spans []numbered
	hours map[row]int64
}

type numbered struct {
	no int64
	span
}

func (r *rows) addSpan(no int64, s *span) { r.spans = append(r.spans, numbered{no, *s}) }

func (r *rows) addHour(no, at int64, code events.Code, count int64) {
	if r.hours == nil {
		r.hours = make(map[row]int64)
	}
	r.hours[row{no, at, code}] += count
}

// spansSQL and countSQL are what a table of spans, and one of counts, is added to
// with.
func spansSQL(table string) string {
	return `INSERT INTO ` + table + ` AS s VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
		bits = s.bits | excluded.bits, count = s.count + excluded.count,
		from_us = min(s.from_us, excluded.from_us), to_us = max(s.to_us, excluded.to_us)`
}

func countSQL(table string) string {
	return `INSERT INTO ` + table + ` AS c VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = c.count + excluded.count`
}

var (
	keySpansSQL   = spansSQL(`key_blocks`)
	orgSpansSQL   = spansSQL(`org_blocks`)
	keyHoursSQL   = countSQL(`key_hours`)
	orgHoursSQL   = countSQL(`org_hours`)
	orgMinutesSQL = countSQL(`org_minutes`)
)

func (r *rows) writeSpans(tx *sqlview.Tx, query string) error {
	slices.SortFunc(r.spans, func(a, b numbered) int {
		return cmp.Or(cmp.Compare(a.no, b.no), cmp.Compare(a.minute, b.minute), cmp.Compare(a.code, b.code), cmp.Compare(a.segment, b.segment))
	})
	for i := range r.spans {
		s := &r.spans[i]
		from, to := s.us()
		if _, err := tx.Exec(query, s.no, s.minute, int64(s.code), s.segment, int64(s.bits), s.count, from, to); err != nil {
			return err
		}
	}
	return nil
}

func writeCounts(tx *sqlview.Tx, query string, counts map[row]int64) error {
	list := make([]row, 0, len(counts))
	for r := range counts {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.no, b.no), cmp.Compare(a.at, b.at), cmp.Compare(a.code, b.code))
	})
	for _, r := range list {
		if _, err := tx.Exec(query, r.no, r.at, int64(r.code), counts[r]); err != nil {
			return err
		}
	}
	return nil
}

// head is the newest span of a key's VALID uses and the count of their newest
// hour. They stand in the key's own row, which changes anyway, until newer ones
// push them out to their tables: where the newest belongs is known without looking.
type head struct {
	span
	hourCount int64
}

// add takes a span of the key, and gives on what does not stand in its row.
func (h *head) add(no int64, s *span, out *rows) {
	of := s.minute / 60
	if s.code != events.CodeValid {
		out.addSpan(no, s)
		out.addHour(no, of, s.code, s.count)
		return
	}
	// The newest hour is that of the newest minute.
	switch newest := h.minute / 60; {
	case of == newest:
		h.hourCount += s.count
	case of < newest:
		out.addHour(no, of, s.code, s.count)
	default:
		if h.hourCount > 0 {
			out.addHour(no, newest, s.code, h.hourCount)
		}
		h.hourCount = s.count
	}
	switch {
	case h.same(s):
		h.join(s)
	case !s.newer(&h.span):
		out.addSpan(no, s)
	default:
		if h.count > 0 {
			out.addSpan(no, &h.span)
		}
		h.span = *s
	}
}
