package uses

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"math"
	"math/bits"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	"github.com/keyledger/keyledger/events"
)

const (
	magic   = "KLU"
	version = 1

	// headRoom bounds everything of a block but its compressed columns.
	headRoom = 256

	// firstGuess is how many plain uses surely fit a block; the encoder learns
	// from there.
	firstGuess = 4096

	// manyUses is from where on further frames save more than they take.
	manyUses = 128
)

// The dictionaries of texts, in the order in which they are written.
const (
	columnPermission = iota
	columnWorkspace
	columnMethod
	columnPath
	columnClientIP
	columnUserAgent
	textColumns
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encoder packs uses into blocks. It keeps its tables between calls, and is for
// one goroutine at a time.
type Encoder struct {
	zstd *zstd.Encoder
	fit  int // how many uses are tried for one block
	use  Use // the one being packed

	keys    keyTable
	texts   [textColumns]dictionary
	times   []byte
	codes   []byte
	idSizes []byte
	ids     []byte
	raw     []byte
	packed  []byte
}

// dictionary numbers the distinct texts of one column from 1; 0 is none.
type dictionary struct {
	index map[string]uint16
	list  []byte
	rows  []uint16 // none before the first text that is not empty

	// recent holds texts met lately, each where recentSlot puts it: most
	// columns have few, and the index takes three times as long.
	recent [recentTexts]struct {
		text   string
		number uint16
	}
}

const recentTexts = 64

// recentSlot tells apart what differs in length, ends or middle.
func recentSlot(s string) int {
	n := len(s)
	return (n + int(s[0]) + 7*int(s[n/2]) + 31*int(s[n-1])) % recentTexts
}

// keyTable numbers the distinct keys from 0. It is open addressing over their
// list, which takes a third of the time that a map does.
type keyTable struct {
	seed  maphash.Seed
	slots []uint16 // number + 1, a power of two of them, at most half in use
	list  []byte
	rows  []uint16
}

// NewEncoder returns an encoder.
func NewEncoder() (*Encoder, error) {
	z, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(MaxColumns), zstd.WithLowerEncoderMem(true),
		zstd.WithAllLitEntropyCompression(true))
	if err != nil {
		return nil, fmt.Errorf("uses: encoder: %w", err)
	}
	e := &Encoder{zstd: z, fit: firstGuess, keys: keyTable{seed: maphash.MakeSeed()}}
	for i := range e.texts {
		e.texts[i].index = make(map[string]uint16)
	}
	return e, nil
}

// Encode packs uses into as few blocks as they need, and sorts them by time for
// it. The header names the ledger, organization, verifier and boot and, in
// First, the number of the first use; the rest of it is ignored. A time before
// 1970 is written as 1970.
func (e *Encoder) Encode(h Header, list []Use) ([]Message, error) {
	byTime := func(a, b Use) int { return cmp.Compare(a.At, b.At) }
	if !slices.IsSortedFunc(list, byTime) {
		slices.SortStableFunc(list, byTime)
	}
	return e.EncodeSorted(h, len(list), func(i int, u *Use) { *u = list[i] })
}

// EncodeSorted is Encode for n uses that are not at hand as a slice: use puts
// the use at index i, from 0, in *u, and may be asked for one more than once.
// Their times must not decrease.
func (e *Encoder) EncodeSorted(h Header, n int, use func(i int, u *Use)) ([]Message, error) {
	h.Kind, h.Bound, h.Total, h.Organizations = KindUses, 0, 0, 0
	if err := h.check(); err != nil {
		return nil, err
	}
	if h.First == 0 || h.First > maxNumber {
		return nil, fmt.Errorf("%w: uses are numbered from 1, up to 2^62", ErrInvalid)
	}
	var out []Message
	for done := 0; done < n; {
		m, packed, err := e.block(h, done, n, use)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
		h.First += uint64(packed)
		done += packed
	}
	return out, nil
}

// Mark writes a boot or an end mark.
func (e *Encoder) Mark(h Header) (Message, error) {
	if err := h.check(); err != nil {
		return Message{}, err
	}
	if max(h.Bound, h.Last, h.Total, h.Organizations) > maxNumber {
		return Message{}, fmt.Errorf("%w: a count beyond 2^62", ErrInvalid)
	}
	h.From = max(h.From, 0)
	h.To = h.From
	b := h.append(nil)
	switch h.Kind {
	case KindBoot:
		if h.Org != events.System {
			return Message{}, fmt.Errorf("%w: a boot mark stands in %s", ErrInvalid, events.System)
		}
		b = binary.AppendUvarint(b, h.Bound)
	case KindEnd:
		if h.Org != events.System && (h.Total != 0 || h.Organizations != 0) {
			return Message{}, fmt.Errorf("%w: totals stand in %s", ErrInvalid, events.System)
		}
		b = binary.AppendUvarint(b, h.Last)
		b = binary.AppendUvarint(b, h.Total)
		b = binary.AppendUvarint(b, h.Organizations)
	default:
		return Message{}, fmt.Errorf("%w: kind %d is no mark", ErrInvalid, h.Kind)
	}
	return h.message(b), nil
}

func (h Header) message(body []byte) Message {
	body = binary.BigEndian.AppendUint32(body, crc32.Checksum(body, castagnoli))
	return Message{Subject: h.Subject(), ID: h.id(), Body: body}
}

// check refuses what could not be read back.
func (h Header) check() error {
	if _, err := events.ParseOrgID(string(h.Org)); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if _, err := events.ParseVerifierID(string(h.Verifier)); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if h.Ledger.IsZero() || h.Boot.IsZero() {
		return fmt.Errorf("%w: ledger and boot are needed", ErrInvalid)
	}
	return nil
}

func (h Header) append(b []byte) []byte {
	b = append(b, magic...)
	b = append(b, version, byte(h.Kind))
	b = append(b, h.Ledger[:]...)
	b = append(b, h.Boot[:]...)
	b = append(b, byte(len(h.Org)))
	b = append(b, h.Org...)
	b = append(b, byte(len(h.Verifier)))
	b = append(b, h.Verifier...)
	b = binary.AppendUvarint(b, uint64(h.From))
	return binary.AppendUvarint(b, uint64(h.To-h.From))
}

// block packs as many of the uses from an index on as fit one block, and says
// how many.
func (e *Encoder) block(h Header, from, to int, use func(int, *Use)) (Message, int, error) {
	limit := min(to-from, e.fit, MaxUses)
	for {
		var n int
		var err error
		if n, h.From, h.To, err = e.columns(from, limit, use); err != nil {
			return Message{}, 0, err
		}
		e.pack(n)
		size := len(e.packed) + headRoom
		if size > events.MaxFactBytes {
			if n == 1 {
				return Message{}, 0, fmt.Errorf("uses: one use of %d bytes: %w", size, events.ErrTooLarge)
			}
			// A tenth less than what would fit if all uses were alike.
			limit = max(1, min(n-1, n*events.MaxFactBytes/size*9/10))
			e.fit = limit
			continue
		}
		if n == e.fit {
			e.fit = min(MaxUses, max(n, n*events.MaxFactBytes/size*9/10))
		}
		h.Last = h.First + uint64(n) - 1
		b := h.append(make([]byte, 0, size))
		b = binary.AppendUvarint(b, h.First)
		b = binary.AppendUvarint(b, uint64(n))
		b = binary.AppendUvarint(b, uint64(len(e.raw)))
		return h.message(append(b, e.packed...)), n, nil
	}
}

// pack compresses the columns. The keys, which are random bytes, and the request
// ids, which are often digits, get frames of their own when they are many: one
// frame has one code for all its bytes, and it would fit none of them.
func (e *Encoder) pack(n int) {
	e.packed = e.packed[:0]
	rest := e.raw
	if n >= manyUses {
		rest = e.frame(rest, len(e.keys.list))
		rest = e.frame(rest, len(rest)-len(e.ids))
	}
	e.frame(rest, len(rest))
}

func (e *Encoder) frame(raw []byte, n int) (rest []byte) {
	if n > 0 {
		e.packed = e.zstd.EncodeAll(raw[:n], e.packed)
	}
	return raw[n:]
}

// columns writes the columns of up to n uses from an index on, of as many as
// stay within MaxColumns, and says how many and from when to when they are.
func (e *Encoder) columns(from, n int, use func(int, *Use)) (done int, first, last events.Time, err error) {
	e.reset(n)
	for i := range n {
		if i%sizeEvery == 0 && e.size(i)+sizeEvery*maxUseColumns > MaxColumns {
			break
		}
		u := &e.use
		use(from+i, u)
		at := max(u.At, 0)
		if i == 0 {
			first, last = at, at
		}
		if at < last {
			return 0, 0, 0, fmt.Errorf("%w: uses that are not in the order of their times", ErrInvalid)
		}
		e.times = binary.AppendUvarint(e.times, uint64(at-last))
		last = at
		e.keys.add(u.Key)
		e.codes = append(e.codes, byte(u.Code))
		e.texts[columnPermission].add(i, u.Permission, MaxPermission)
		e.texts[columnWorkspace].add(i, u.Workspace, MaxWorkspace)
		e.texts[columnMethod].add(i, u.Method, MaxMethod)
		e.texts[columnPath].add(i, u.Path, limitOf(u.Path, MaxPath, MaxSealed))
		e.texts[columnClientIP].add(i, u.ClientIP, limitOf(u.ClientIP, MaxClientIP, MaxSealed))
		e.texts[columnUserAgent].add(i, u.UserAgent, limitOf(u.UserAgent, MaxUserAgent, MaxSealed))
		id := clean(u.RequestID, limitOf(u.RequestID, MaxRequestID, MaxSealedRequestID))
		e.idSizes = append(e.idSizes, byte(len(id)))
		e.ids = append(e.ids, id...)
		done++
	}
	e.assemble()
	return done, first, last, nil
}

const (
	// maxUseColumns is what one use may add to the columns: a new entry in
	// every dictionary, its rows and a request id.
	maxUseColumns = 16 + 2 + 10 + 1 + MaxSealedRequestID + 1 +
		MaxPermission + MaxWorkspace + MaxMethod + 3*MaxSealed + 6*(2+2)

	// sizeEvery is after how many uses the size of the columns is looked at.
	sizeEvery = 64

	// maxCounts is what the counts of dictionaries and ids take.
	maxCounts = 8 * 4
)

// size bounds the length of the columns of the first n uses from above.
func (e *Encoder) size(n int) int {
	size := maxCounts + len(e.keys.list) + len(e.times) + len(e.ids) + n*(2+1+1+2*textColumns)
	for i := range e.texts {
		size += len(e.texts[i].list)
	}
	return size
}

func (e *Encoder) reset(n int) {
	e.keys.reset(n)
	e.times, e.codes, e.idSizes, e.ids, e.raw = e.times[:0], e.codes[:0], e.idSizes[:0], e.ids[:0], e.raw[:0]
	for i := range e.texts {
		d := &e.texts[i]
		clear(d.index)
		clear(d.recent[:])
		d.list, d.rows = d.list[:0], d.rows[:0]
	}
}

func (t *keyTable) reset(n int) {
	slots := 1 << bits.Len(uint(2*n))
	t.slots = slices.Grow(t.slots[:0], slots)[:slots]
	clear(t.slots)
	t.list, t.rows = t.list[:0], t.rows[:0]
}

// count is how many distinct keys there are.
func (t *keyTable) count() int { return len(t.list) / 16 }

func (t *keyTable) add(id events.KeyID) {
	mask := uint64(len(t.slots) - 1)
	for at := maphash.Bytes(t.seed, id[:]); ; at++ {
		slot := &t.slots[at&mask]
		if *slot == 0 {
			*slot = uint16(t.count() + 1)
			t.list = append(t.list, id[:]...)
		} else if n := int(*slot-1) * 16; events.KeyID(t.list[n:n+16]) != id {
			continue
		}
		t.rows = append(t.rows, *slot-1)
		return
	}
}

// add adds the text of use i.
func (d *dictionary) add(i int, s string, limit int) {
	if s == "" {
		if len(d.index) > 0 {
			d.rows = append(d.rows, 0)
		}
		return
	}
	if len(d.index) == 0 {
		// Of a column without any text no rows are written.
		d.rows = slices.Grow(d.rows, i)[:i]
		clear(d.rows)
	}
	r := &d.recent[recentSlot(s)]
	if r.text != s {
		r.text, r.number = s, d.number(s, limit)
	}
	d.rows = append(d.rows, r.number)
}

func (d *dictionary) number(s string, limit int) uint16 {
	if n, ok := d.index[s]; ok {
		return n
	}
	s = clean(s, limit)
	if n, ok := d.index[s]; ok {
		return n
	}
	n := uint16(len(d.index) + 1)
	d.index[s] = n
	d.list = binary.AppendUvarint(d.list, uint64(len(s)))
	d.list = append(d.list, s...)
	return n
}

// Cut returns what is kept of a text under one of this package's limits.
func Cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	cut := limit
	for cut > limit-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}

// clean cuts a text and makes it UTF-8 without ever making it longer.
func clean(s string, limit int) string {
	s = Cut(s, limit)
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "?")
}

// assemble puts the columns behind one another.
func (e *Encoder) assemble() {
	raw := binary.AppendUvarint(e.raw, uint64(e.keys.count()))
	raw = append(raw, e.keys.list...)
	for i := range e.texts {
		raw = binary.AppendUvarint(raw, uint64(len(e.texts[i].index)))
		raw = append(raw, e.texts[i].list...)
	}
	raw = append(raw, e.times...)
	raw = appendRows(raw, e.keys.rows, e.keys.count()-1)
	raw = append(raw, e.codes...)
	for i := range e.texts {
		if d := &e.texts[i]; len(d.index) > 0 {
			raw = appendRows(raw, d.rows, len(d.index))
		}
	}
	raw = binary.AppendUvarint(raw, uint64(len(e.ids)))
	if len(e.ids) > 0 {
		raw = append(raw, e.idSizes...)
		raw = append(raw, e.ids...)
	}
	e.raw = raw
}

// appendRows writes the low bytes of all rows and, if there may be any, their
// high bytes: bytes of one meaning side by side compress better.
func appendRows(b []byte, rows []uint16, largest int) []byte {
	for _, r := range rows {
		b = append(b, byte(r))
	}
	if largest > math.MaxUint8 {
		for _, r := range rows {
			b = append(b, byte(r>>8))
		}
	}
	return b
}
