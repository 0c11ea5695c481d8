package uses

import (
	"cmp"
	"slices"

	"github.com/keyledger/keyledger/events"
)

// FindingKind tells findings apart, by the word that stands in reports.
type FindingKind string

// What may be wrong with a stream of uses.
const (
	// FindingMissing: numbers First to Last of an organization are in no block.
	FindingMissing FindingKind = "missing"
	// FindingRepeated: numbers First to Last came again, or after later ones. A
	// publish that is repeated long after its outcome remained unknown does the
	// former, and so does somebody who appends an old block.
	FindingRepeated FindingKind = "repeated"
	// FindingUnmarked: a boot has blocks before its mark, so that nothing bounds
	// what it may have lost.
	FindingUnmarked FindingKind = "unmarked"
	// FindingAfterEnd: numbers First to Last came after the mark that says they
	// do not exist, or a second mark contradicts the first.
	FindingAfterEnd FindingKind = "after_end"
	// FindingTotal: the end of a boot tells of Count uses more (or fewer) than
	// its organizations have, so that those of a whole organization are missing.
	FindingTotal FindingKind = "total"
	// FindingUnended: a boot has no end mark. It still runs, or it crashed and
	// up to Count uses are missing.
	FindingUnended FindingKind = "unended"
)

// Finding is what an auditor must hear of.
type Finding struct {
	Kind     FindingKind
	Verifier events.VerifierID
	Boot     BootID
	// Org is the organization, or _system for what concerns the boot.
	Org events.OrgID
	// First and Last are the numbers concerned, 0 where there are none.
	First, Last uint64
	// Count is how many uses are concerned, at most.
	Count uint64
	// From and To are the times between which they happened, as far as known.
	From, To events.Time
	// Superseded says that the same verifier has booted again since, so that
	// an unended boot does not run any more, unless two share one name.
	Superseded bool
}

// Series is how far the numbers of one organization in one boot have come.
type Series struct {
	Last uint64
	// At is the time of the last use seen.
	At events.Time
	// Ended says that an end mark came, and End the last number it tells of.
	Ended bool
	End   uint64
}

// Boot is how far one run of a verifier has come.
type Boot struct {
	Verifier events.VerifierID
	ID       BootID
	// Marked says that the boot's mark was seen, and Bound what it promises.
	Marked bool
	Bound  uint64
	// Began and Seen are the times of its first and its newest block.
	Began, Seen events.Time
	// Ended says that the last end mark of all, that of _system, was seen.
	Ended      bool
	Superseded bool
	// Series are kept until the boot has ended.
	Series map[events.OrgID]Series
}

// Continuity finds missing uses. It is fed with the headers of all blocks in
// stream order. It keeps a few words for each boot, and for one that has not
// ended for each of its organizations.
//
// It is for one goroutine at a time.
type Continuity struct {
	// Trimmed says that the stream's first blocks have expired: of a boot whose
	// mark was not seen, what lies before the first block seen is not missed.
	Trimmed bool
	// Filtered says that the reader does not see every organization: no mark is
	// missed and no total is checked.
	Filtered bool

	boots map[bootKey]*Boot
	last  map[events.VerifierID]*Boot
}

type bootKey struct {
	verifier events.VerifierID
	boot     BootID
}

// Restore puts back a boot that was read with [Continuity.Boot], in the order
// in which the boots began.
func (c *Continuity) Restore(b Boot) { c.put(&b) }

// Boot returns a boot by its name, to be kept elsewhere.
func (c *Continuity) Boot(verifier events.VerifierID, id BootID) (Boot, bool) {
	b, ok := c.boots[bootKey{verifier, id}]
	if !ok {
		return Boot{}, false
	}
	return *b, true
}

func (c *Continuity) put(b *Boot) {
	if c.boots == nil {
		c.boots = make(map[bootKey]*Boot)
		c.last = make(map[events.VerifierID]*Boot)
	}
	if before := c.last[b.Verifier]; before != nil {
		before.Superseded = true
	}
	c.boots[bootKey{b.Verifier, b.ID}] = b
	c.last[b.Verifier] = b
}

// Add takes the next block of the stream. It answers which of its uses are new,
// as the number of the first of them, or 0 when none is; and what is wrong.
func (c *Continuity) Add(h Header) (fresh uint64, findings []Finding) {
	b := c.boots[bootKey{h.Verifier, h.Boot}]
	if b == nil {
		b = &Boot{Verifier: h.Verifier, ID: h.Boot, Began: h.From, Series: make(map[events.OrgID]Series)}
		c.put(b)
		if h.Kind != KindBoot && !c.Trimmed && !c.Filtered {
			findings = append(findings, b.finding(FindingUnmarked, h))
		}
	}
	b.Seen = max(b.Seen, h.To)
	switch h.Kind {
	case KindBoot:
		b.Marked, b.Bound = true, h.Bound
	case KindUses:
		var more []Finding
		fresh, more = c.uses(b, h)
		findings = append(findings, more...)
	case KindEnd:
		findings = append(findings, c.end(b, h)...)
	}
	return fresh, findings
}

func (b *Boot) finding(kind FindingKind, h Header) Finding {
	return Finding{Kind: kind, Verifier: h.Verifier, Boot: h.Boot, Org: h.Org, From: h.From, To: h.To, Superseded: b.Superseded}
}

func (c *Continuity) uses(b *Boot, h Header) (fresh uint64, findings []Finding) {
	find := func(kind FindingKind, first, last uint64, from, to events.Time) {
		f := b.finding(kind, h)
		f.First, f.Last, f.Count, f.From, f.To = first, last, last-first+1, from, to
		findings = append(findings, f)
	}
	s, known := b.Series[h.Org]
	if b.Ended || s.Ended && h.Last > s.End {
		find(FindingAfterEnd, h.First, h.Last, h.From, h.To)
		return 0, findings
	}
	if !known && c.Trimmed && !b.Marked {
		s.Last = h.First - 1
	}
	if h.First > s.Last+1 {
		since := s.At
		if since == 0 {
			since = b.Began
		}
		find(FindingMissing, s.Last+1, h.First-1, since, h.From)
	}
	if h.First <= s.Last {
		find(FindingRepeated, h.First, min(h.Last, s.Last), h.From, h.To)
	}
	if h.Last <= s.Last {
		return 0, findings
	}
	fresh = max(h.First, s.Last+1)
	s.Last, s.At = h.Last, max(s.At, h.To)
	b.Series[h.Org] = s
	return fresh, findings
}

func (c *Continuity) end(b *Boot, h Header) (findings []Finding) {
	s, known := b.Series[h.Org]
	switch {
	case b.Ended:
		// The marks of a boot repeated as a whole, after its memory was freed.
		return nil
	case s.Ended && s.End != h.Last, h.Last < s.Last:
		f := b.finding(FindingAfterEnd, h)
		f.First, f.Last = h.Last+1, max(s.Last, s.End)
		f.Count = max(f.Last, h.Last) - min(f.Last, h.Last)
		findings = append(findings, f)
	case h.Last > s.Last && (known || b.Marked || !c.Trimmed):
		f := b.finding(FindingMissing, h)
		f.First, f.Last, f.Count, f.From = s.Last+1, h.Last, h.Last-s.Last, max(s.At, b.Began)
		findings = append(findings, f)
	}
	s.Ended, s.End, s.Last = true, h.Last, max(s.Last, h.Last)
	b.Series[h.Org] = s
	if h.Org != events.System {
		return findings
	}
	b.Ended = true
	if !c.Filtered && (b.Marked || !c.Trimmed) {
		var total, orgs uint64
		for _, s := range b.Series {
			total += s.Last
			if s.Last > 0 {
				orgs++
			}
		}
		if total != h.Total || orgs != h.Organizations {
			f := b.finding(FindingTotal, h)
			f.Count = max(total, h.Total) - min(total, h.Total)
			findings = append(findings, f)
		}
	}
	b.Series = nil
	return findings
}

// Unended returns a finding for every boot that has no end mark yet, oldest
// first. Those that are not superseded may well be running.
func (c *Continuity) Unended() []Finding {
	var list []Finding
	for _, b := range c.boots {
		if !b.Ended {
			list = append(list, Finding{
				Kind: FindingUnended, Verifier: b.Verifier, Boot: b.ID, Org: events.System,
				Count: b.Bound, From: b.Began, To: b.Seen, Superseded: b.Superseded,
			})
		}
	}
	slices.SortFunc(list, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.Verifier, b.Verifier), slices.Compare(a.Boot[:], b.Boot[:]))
	})
	return list
}
