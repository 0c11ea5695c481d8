package index

import (
	"github.com/keyledger/keyledger/events"
)

// ids finds the hash of a key's digest by its id, for the writer alone. An
// entry holds 32 bits of the id's hash and the 32 bits of the digest's hash:
// the digest's place follows from those at every size of its shard, so that
// nothing here changes when a shard of the table grows, and growing here needs
// nothing but the entries.
type ids struct {
	seeds  seeds
	shards [shards][]uint64
	taken  [shards]int
}

func newIDs(keys int) *ids {
	t := &ids{seeds: newSeeds()}
	for i := range t.shards {
		t.shards[i] = make([]uint64, firstSize(keys, i))
	}
	return t
}

// place returns an id's shard and its tag, which is never 0.
func (t *ids) place(org uint32, id events.KeyID) (shard, tag uint32) {
	hi, lo := keyWords(id)
	h := t.seeds.mix(hi, lo, uint64(org), 0)
	return uint32(h >> (64 - shardBits)), uint32(h) | 1
}

// find returns the key's slot, nil when there is none.
func (t *ids) find(tab *table, org uint32, id events.KeyID) *slot {
	shard, tag := t.place(org, id)
	entries := t.shards[shard]
	for i := tagHome(tag, len(entries)); entries[i] != 0; {
		if uint32(entries[i]>>32) == tag {
			if s := tab.findKey(uint32(entries[i]), org, id); s != nil {
				return s
			}
		}
		if i++; i == len(entries) {
			i = 0
		}
	}
	return nil
}

// insert adds a key that is not there yet.
func (t *ids) insert(org uint32, id events.KeyID, hash uint32) {
	shard, tag := t.place(org, id)
	entries := t.shards[shard]
	if (t.taken[shard]+1)*loadDenom > len(entries)*loadNum {
		grown := make([]uint64, len(entries)+len(entries)/growBy)
		for _, e := range entries {
			if e != 0 {
				put(grown, e)
			}
		}
		entries, t.shards[shard] = grown, grown
	}
	t.taken[shard]++
	put(entries, uint64(tag)<<32|uint64(hash))
}

func put(entries []uint64, e uint64) {
	i := tagHome(uint32(e>>32), len(entries))
	for entries[i] != 0 {
		if i++; i == len(entries) {
			i = 0
		}
	}
	entries[i] = e
}

// tagHome spreads by the upper bits of the tag and leaves the lower ones to
// tell neighbours apart.
func tagHome(tag uint32, size int) int { return int(uint64(tag) * uint64(size) >> 32) }
