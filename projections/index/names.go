package index

import "sync/atomic"

// names numbers permissions, once and for ever, across organizations: most have
// the same ones, and a verdict then finds the number of the one it is asked
// about in the caches. A number is never used again, so that today's numbers
// read an older set of them as well. What that set means together with routes
// and workspaces is not shown by this: see [Index.Lookup].
type names struct {
	published atomic.Pointer[overlay[string, uint32]]
	last      uint32
}

func newNames() *names {
	n := &names{}
	n.published.Store(&overlay[string, uint32]{})
	return n
}

// number returns a permission's number, which is never 0. For the writer, who
// must own the name.
func (n *names) number(name string) uint32 {
	p := n.published.Load()
	if number := p.get(name); number != 0 {
		return number
	}
	n.last++
	next := p.with(name, n.last)
	n.published.Store(&next)
	return n.last
}

// fewNames is how many numbers lie in a set itself: what most grants have, in
// the cache line that is read anyway.
const fewNames = 11

// nameSet is an immutable set of numbers.
type nameSet struct {
	few [fewNames]uint32
	n   uint32
	// many holds them instead, by open addressing, when they are more. Its size
	// is a power of two and at least twice their number; 0 is no number.
	many []uint32
}

func newNameSet(numbers []uint32) (s nameSet) {
	s.n = uint32(len(numbers))
	if len(numbers) <= fewNames {
		copy(s.few[:], numbers)
		return s
	}
	size := 32
	for size < 2*len(numbers) {
		size *= 2
	}
	s.many = make([]uint32, size)
	for _, number := range numbers {
		i := place(number, size)
		for s.many[i] != 0 {
			i = (i + 1) & (size - 1)
		}
		s.many[i] = number
	}
	return s
}

// place spreads numbers, which are consecutive, over a table: as they come.
func place(number uint32, size int) int { return int(number) & (size - 1) }

func (s *nameSet) has(number uint32) bool {
	if number == 0 {
		return false
	}
	if s.n <= fewNames {
		for _, have := range s.few[:s.n] {
			if have == number {
				return true
			}
		}
		return false
	}
	for i := place(number, len(s.many)); s.many[i] != 0; i = (i + 1) & (len(s.many) - 1) {
		if s.many[i] == number {
			return true
		}
	}
	return false
}
