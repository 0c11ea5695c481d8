package continuity

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/keyledger/keyledger/events"
)

// remembered is how many facts a tick may be older than the ledger's end and can
// still be checked: a tick is counted, appended and met by facts that were faster,
// some milliseconds' worth, or an election's.
const remembered = 1 << 15

// chain is how much there was, and of which bytes.
type chain struct {
	count  uint64
	digest events.DigestValue
	// last is where the last fact stands.
	last events.Position
}

// add makes the chain longer by a fact.
func (c *chain) add(pos events.Position, sum *[sha256.Size]byte) {
	var b [2*sha256.Size + 8]byte
	copy(b[:], c.digest[:])
	binary.BigEndian.PutUint64(b[sha256.Size:], uint64(pos))
	copy(b[sha256.Size+8:], sum[:])
	c.digest = sha256.Sum256(b[:])
	c.count++
	c.last = pos
}

// chains are those of the whole ledger and of every organization, and what they
// were over the last facts.
type chains struct {
	through events.Position
	ledger  chain
	orgs    map[events.OrgID]*chain
	// org and latest save the look-up: facts of an organization come together.
	org    events.OrgID
	latest *chain

	// steps is a ring: the newest stands before next, the one before it further
	// back, and dropped is the last position that it has forgotten, or that a
	// snapshot was of; droppedAt is the broker's time of that.
	steps     []step
	next      int
	dropped   events.Position
	droppedAt events.Time
}

// step is what a fact changed.
type step struct {
	pos    events.Position
	stored events.Time
	ledger chain
	// of is the organization's chain, nil for a fact that is no organization's.
	of  *chain
	org chain
}

func newChains() chains { return chains{orgs: make(map[events.OrgID]*chain)} }

// of returns an organization's chain.
func (c *chains) of(org events.OrgID) *chain {
	if c.latest != nil && c.org == org {
		return c.latest
	}
	found := c.orgs[org]
	if found == nil {
		found = &chain{}
		c.orgs[org] = found
	}
	c.org, c.latest = org, found
	return found
}

// add counts a fact. Without whole the ledger's own chain is left alone: who sees
// a part of the ledger has none.
func (c *chains) add(f *events.Recorded, whole, own bool) {
	sum := sha256.Sum256(f.Raw)
	s := step{pos: f.Position, stored: f.Stored, ledger: c.ledger}
	if whole {
		c.ledger.add(f.Position, &sum)
	}
	if own {
		s.of = c.of(f.Subject.Org)
		s.org = *s.of
		s.of.add(f.Position, &sum)
	}
	c.through = f.Position
	if len(c.steps) < remembered {
		c.steps = append(c.steps, s)
		return
	}
	c.dropped, c.droppedAt = c.steps[c.next].pos, c.steps[c.next].stored
	c.steps[c.next] = s
	c.next = (c.next + 1) % remembered
}

// past is what the chains were at a position.
type past struct {
	now    *chains
	ledger chain
	orgs   map[*chain]chain
	// stored is the broker's time of the last fact there, zero if that is
	// forgotten.
	stored events.Time
}

// at goes back to a position, and reports whether it is remembered.
func (c *chains) at(pos events.Position) (past, bool) {
	p := past{now: c, ledger: c.ledger, stored: c.droppedAt}
	if pos < c.dropped {
		return p, false
	}
	for i := range c.steps {
		s := &c.steps[(c.next-1-i+2*len(c.steps))%len(c.steps)]
		if s.pos <= pos {
			p.stored = s.stored
			break
		}
		p.ledger = s.ledger
		if s.of != nil {
			if p.orgs == nil {
				p.orgs = make(map[*chain]chain)
			}
			p.orgs[s.of] = s.org
		}
	}
	return p, true
}

// scope is what there was of some organizations, in their order.
func (p *past) scope(orgs []events.OrgID) (count uint64, digest events.DigestValue) {
	b := make([]byte, 0, 8*sha256.Size)
	for _, org := range orgs {
		var of chain
		if now := p.now.orgs[org]; now != nil {
			of = *now
			if then, changed := p.orgs[now]; changed {
				of = then
			}
		}
		count += of.count
		b = append(b, of.digest[:]...)
	}
	return count, sha256.Sum256(b)
}
