package index

import "sync"

// pageSlots is how many slots are copied at once: 64 KiB, some ten microseconds.
const pageSlots = 1024

// picture is the table as it was when the picture was begun. The writer goes on
// meanwhile: before it changes a page that was not taken yet, it copies it. A shard
// that grows leaves its old rows behind, which nobody changes any more.
type picture struct {
	rows [shards]*rows

	mu   sync.Mutex
	kept map[page][]slot
	// next is the first page that was not taken yet.
	next page
}

// page is where a page is: the shard above, its number within below.
type page uint64

func pageOf(shard uint32, at int) page { return page(shard)<<32 | page(at/pageSlots) }

func (t *table) freeze() *picture {
	p := &picture{kept: map[page][]slot{}}
	for i := range t.shards {
		p.rows[i] = t.shards[i].Load()
	}
	return p
}

// before is called by the writer before it changes a slot of some rows.
func (p *picture) before(shard uint32, at int, live *rows) {
	which := pageOf(shard, at)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rows[shard] != live || which < p.next || p.kept[which] != nil {
		return
	}
	p.kept[which] = append([]slot(nil), bounds(live.slots, which)...)
}

// bounds are the slots of a page.
func bounds(slots []slot, which page) []slot {
	first := int(uint32(which)) * pageSlots
	return slots[first:min(first+pageSlots, len(slots))]
}

// each hands over all slots as they were, page by page, once.
func (p *picture) each(f func([]slot) error) error {
	room := make([]slot, pageSlots)
	for shard := range p.rows {
		slots := p.rows[shard].slots
		for at := 0; at < len(slots); at += pageSlots {
			if err := f(p.take(pageOf(uint32(shard), at), slots, room)); err != nil {
				return err
			}
		}
		p.done(shard)
	}
	return nil
}

// done lets go of the rows of a shard, which may have grown since.
func (p *picture) done(shard int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rows[shard] = nil
	p.next = pageOf(uint32(shard)+1, 0)
}

func (p *picture) take(which page, slots, room []slot) []slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = which + 1
	if kept := p.kept[which]; kept != nil {
		delete(p.kept, which)
		return kept
	}
	return room[:copy(room, bounds(slots, which))]
}
