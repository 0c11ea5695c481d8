package index

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
	"sync/atomic"

	"github.com/keyledger/keyledger/events"
)

const (
	shardBits = 8
	shards    = 1 << shardBits
	homeBits  = 32 - shardBits

	// smallest is the size a shard begins with. Its neighbours begin up to
	// growth times larger and keep that distance, so that shards take turns in
	// growing and the memory a key costs is the same at every number of keys.
	smallest = 32

	// A shard grows by a quarter when four fifths are taken: three probes for
	// a key at worst on average, and never more than 64/0.64 bytes a key.
	growBy             = 4
	loadNum, loadDenom = 4, 5
)

// Words of a slot. Digest and key id are written before the slot is published
// and never change; wordState is what publishes it.
const (
	wordState = 4 // flags 8, grant 24, expiry 32; never 0 in a taken slot
	wordOwner = 5 // organization 32, revision 32
	wordKey   = 6 // and 7
)

// slot is what the index knows of one key, in one cache line.
type slot [8]uint64

// digest is a digest in the words that slots hold.
type digest [4]uint64

func wordsOf(v *events.DigestValue) digest {
	return digest{
		binary.LittleEndian.Uint64(v[0:]), binary.LittleEndian.Uint64(v[8:]),
		binary.LittleEndian.Uint64(v[16:]), binary.LittleEndian.Uint64(v[24:]),
	}
}

func keyWords(id events.KeyID) (uint64, uint64) {
	return binary.LittleEndian.Uint64(id[0:]), binary.LittleEndian.Uint64(id[8:])
}

func (s *slot) state() uint64     { return atomic.LoadUint64(&s[wordState]) }
func (s *slot) setState(w uint64) { atomic.StoreUint64(&s[wordState], w) }
func (s *slot) owner() uint64     { return atomic.LoadUint64(&s[wordOwner]) }
func (s *slot) org() uint32       { return uint32(s.owner() >> 32) }
func (s *slot) revision() uint32  { return uint32(s.owner()) }
func (s *slot) setRevision(rev uint32) {
	atomic.StoreUint64(&s[wordOwner], s.owner()&^uint64(1<<32-1)|uint64(rev))
}

func (s *slot) key() (id events.KeyID) {
	binary.LittleEndian.PutUint64(id[0:], s[wordKey])
	binary.LittleEndian.PutUint64(id[8:], s[wordKey+1])
	return id
}

// is compares whole digests without an early exit.
func (s *slot) is(d *digest) bool {
	return (s[0]^d[0])|(s[1]^d[1])|(s[2]^d[2])|(s[3]^d[3]) == 0
}

// seeds make positions in the tables unpredictable. An administrator of a
// tenant may import digests of his choice, and must not be able to choose ones
// that crowd in one place: unlike the digests of our own keys they need not be
// random, which is why all four words are mixed.
type seeds [6]uint64

func newSeeds() (s seeds) {
	var b [len(s) * 8]byte
	rand.Read(b[:])
	for i := range s {
		s[i] = binary.LittleEndian.Uint64(b[i*8:])
	}
	s[4] |= 1
	s[5] |= 1
	return s
}

// mix is the NH sum of UMAC over the four words, under secret seeds, folded by
// one more multiplication.
func (s *seeds) mix(a, b, c, d uint64) uint64 {
	h1, l1 := bits.Mul64(a+s[0], b+s[1])
	h2, l2 := bits.Mul64(c+s[2], d+s[3])
	lo, carry := bits.Add64(l1, l2, 0)
	hi, _ := bits.Add64(h1, h2, carry)
	h, l := bits.Mul64(lo^s[4], hi^s[5])
	return h ^ l
}

// rows are the slots of a shard at one size. A value is published once and
// replaced for good.
type rows struct{ slots []slot }

// home is the first place to look for a hash. It rises with the hash, so that
// growing walks both sizes from front to back.
func home(hash uint32, size int) int {
	return int(uint64(hash&(1<<homeBits-1)) * uint64(size) >> homeBits)
}

// table finds slots by digest.
type table struct {
	seeds  seeds
	shards [shards]atomic.Pointer[rows]
	// taken is the writer's, and so is picture: nil as long as none is taken.
	taken   [shards]int
	picture *picture
}

func newTable(keys int) *table {
	t := &table{seeds: newSeeds()}
	for i := range t.shards {
		t.shards[i].Store(&rows{slots: make([]slot, firstSize(keys, i))})
	}
	return t
}

// firstSize is the size shard i begins with when so many keys are expected.
func firstSize(keys, i int) int {
	size := max(smallest, keys/shards*loadDenom/loadNum)
	return size + size*i/(growBy*shards)
}

// hash tells where a digest belongs: 8 bits of shard, 24 of the place within.
func (t *table) hash(d *digest) uint32 {
	return uint32(t.seeds.mix(d[0], d[1], d[2], d[3]) >> 32)
}

// find returns a digest's slot, the state it was found with, and the rows it
// lies in; nil when there is none.
func (t *table) find(d *digest, hash uint32) (*slot, uint64, *rows) {
	r := t.shards[hash>>homeBits].Load()
	slots := r.slots
	for i := home(hash, len(slots)); ; {
		s := &slots[i]
		state := s.state()
		if state == 0 {
			return nil, 0, r
		}
		if s.is(d) {
			return s, state, r
		}
		if i++; i == len(slots) {
			i = 0
		}
	}
}

// current reports whether rows are still those of their shard.
func (t *table) current(hash uint32, r *rows) bool { return t.shards[hash>>homeBits].Load() == r }

// findKey returns the slot of a key whose digest has a hash, to be changed. For the
// writer.
func (t *table) findKey(hash, org uint32, id events.KeyID) *slot {
	hi, lo := keyWords(id)
	rows := t.shards[hash>>homeBits].Load()
	slots := rows.slots
	for i := home(hash, len(slots)); ; {
		s := &slots[i]
		if s.state() == 0 {
			return nil
		}
		if s[wordKey] == hi && s[wordKey+1] == lo && s.org() == org {
			if t.picture != nil {
				t.picture.before(hash>>homeBits, i, rows)
			}
			return s
		}
		if i++; i == len(slots) {
			i = 0
		}
	}
}

// insert publishes a key whose digest is not there yet. For the writer.
func (t *table) insert(d *digest, hash, org, rev uint32, id events.KeyID, state uint64) {
	shard := hash >> homeBits
	rows := t.shards[shard].Load()
	if (t.taken[shard]+1)*loadDenom > len(rows.slots)*loadNum {
		rows = t.grow(shard)
	}
	t.taken[shard]++
	at := vacant(rows.slots, hash)
	if t.picture != nil {
		t.picture.before(shard, at, rows)
	}
	s := &rows.slots[at]
	s[0], s[1], s[2], s[3] = d[0], d[1], d[2], d[3]
	s[wordKey], s[wordKey+1] = keyWords(id)
	atomic.StoreUint64(&s[wordOwner], uint64(org)<<32|uint64(rev))
	s.setState(state) // last: it publishes the others
}

func (t *table) grow(shard uint32) *rows {
	old := t.shards[shard].Load().slots
	slots := make([]slot, len(old)+len(old)/growBy)
	for i := range old {
		from := &old[i]
		if from.state() == 0 {
			continue
		}
		d := digest(from[:4])
		slots[vacant(slots, t.hash(&d))] = *from
	}
	grown := &rows{slots: slots}
	t.shards[shard].Store(grown)
	return grown
}

// vacant returns the first free place for a hash. There always is one.
func vacant(slots []slot, hash uint32) int {
	for i := home(hash, len(slots)); ; {
		if slots[i].state() == 0 {
			return i
		}
		if i++; i == len(slots) {
			i = 0
		}
	}
}
