package uses

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	"github.com/keyledger/keyledger/events"
)

// Decoder reads blocks. It keeps its buffers between calls, and is for one
// goroutine at a time.
type Decoder struct {
	zstd *zstd.Decoder
	raw  []byte
	rows []uint16
}

// NewDecoder returns a decoder. What one block makes it allocate is bounded, a
// few MiB whatever the block says.
func NewDecoder() (*Decoder, error) {
	z, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(MaxColumns), zstd.WithDecoderMaxWindow(MaxColumns),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("uses: decoder: %w", err)
	}
	return &Decoder{zstd: z}, nil
}

// Decode reads the block that was found under a subject. The error wraps
// [ErrMalformed] for what is no block, and [ErrForeign] for a block that
// belongs under another subject. The uses share no memory with the body; the
// texts of one block share theirs, so clone a text that is kept alone for long.
func (d *Decoder) Decode(subject string, body []byte) (Block, error) {
	h, rest, err := readHeader(subject, body)
	if err != nil {
		return Block{}, err
	}
	b := Block{Header: h}
	if h.Kind != KindUses {
		return b, nil
	}
	b.Uses, err = d.uses(h, rest)
	if err != nil {
		return Block{}, err
	}
	return b, nil
}

// ReadHeader reads who and which numbers alone. It checks the sum over all
// bytes, but not what the columns hold.
func ReadHeader(subject string, body []byte) (Header, error) {
	h, _, err := readHeader(subject, body)
	return h, err
}

func readHeader(subject string, body []byte) (Header, *reader, error) {
	refuse := func(err error) (Header, *reader, error) { return Header{}, nil, err }
	if len(body) > events.MaxFactBytes || len(body) < len(magic)+2+crc32.Size {
		return refuse(fmt.Errorf("%w: %d bytes", ErrMalformed, len(body)))
	}
	content, sum := body[:len(body)-crc32.Size], body[len(body)-crc32.Size:]
	if string(body[:len(magic)]) != magic {
		return refuse(fmt.Errorf("%w: it does not begin as a block", ErrMalformed))
	}
	if body[len(magic)] != version {
		return refuse(fmt.Errorf("%w: version %d of the format is not known", ErrMalformed, body[len(magic)]))
	}
	if crc32.Checksum(content, castagnoli) != binary.BigEndian.Uint32(sum) {
		return refuse(fmt.Errorf("%w: its checksum does not hold", ErrMalformed))
	}
	r := &reader{b: content[len(magic)+1:]}
	h := Header{Kind: Kind(r.byte())}
	copy(h.Ledger[:], r.take(16))
	copy(h.Boot[:], r.take(16))
	h.Org = events.OrgID(r.take(int(r.byte())))
	h.Verifier = events.VerifierID(r.take(int(r.byte())))
	from, span := r.uvarint(math.MaxInt64), r.uvarint(math.MaxInt64)
	if from+span > math.MaxInt64 {
		r.fail("a time beyond time")
	}
	h.From, h.To = events.Time(from), events.Time(from+span)
	h.members(r)
	if r.err == nil {
		if err := h.check(); err != nil {
			r.fail("its ids are none")
		}
	}
	if r.err != nil {
		return refuse(r.err)
	}
	if subject != h.Subject() {
		return refuse(fmt.Errorf("%w: it belongs under %s", ErrForeign, h.Subject()))
	}
	return h, r, nil
}

// members reads what a kind holds, up to the length of the columns.
func (h *Header) members(r *reader) {
	switch h.Kind {
	case KindUses:
		h.First = r.uvarint(maxNumber)
		count := r.uvarint(MaxUses)
		if h.First == 0 || count == 0 {
			r.fail("a block without uses")
			return
		}
		h.Last = h.First + count - 1
		return
	case KindBoot:
		if h.Org != events.System {
			r.fail("a boot mark of an organization")
		}
		h.Bound = r.uvarint(maxNumber)
	case KindEnd:
		h.Last, h.Total, h.Organizations = r.uvarint(maxNumber), r.uvarint(maxNumber), r.uvarint(maxNumber)
		if h.Org != events.System && (h.Total != 0 || h.Organizations != 0) {
			r.fail("totals in an organization")
		}
	default:
		r.fail("its kind is not known")
	}
	if h.From != h.To || len(r.b) != 0 {
		r.fail("a mark that holds more than a mark")
	}
}

// uses reads the columns.
func (d *Decoder) uses(h Header, r *reader) ([]Use, error) {
	size := int(r.uvarint(MaxColumns))
	if r.err != nil {
		return nil, r.err
	}
	if cap(d.raw) < size {
		d.raw = make([]byte, 0, size)
	}
	raw, err := d.zstd.DecodeAll(r.b, d.raw[:0:size])
	if err != nil || len(raw) != size {
		return nil, fmt.Errorf("%w: its columns do not unpack", ErrMalformed)
	}
	c := &columns{reader: reader{b: raw}, list: make([]Use, h.Count())}
	if cap(d.rows) < len(c.list) {
		d.rows = make([]uint16, MaxUses)
	}
	c.rows = d.rows[:len(c.list)]
	c.read(h)
	return c.list, c.err
}

// columns is a block's uses being read.
type columns struct {
	reader
	list []Use
	rows []uint16
}

func (c *columns) read(h Header) {
	keys := c.take(16 * int(c.uvarint(uint64(len(c.list)))))
	var texts [textColumns][]string
	for i := range texts {
		texts[i] = c.dictionary(textLimits[i], mayBeSealed[i])
	}
	c.times(h)
	c.indexes(len(keys)/16, 0)
	if c.err != nil {
		return
	}
	seen := make(map[events.KeyID]struct{}, len(keys)/16)
	for k := keys; len(k) > 0; k = k[16:] {
		seen[events.KeyID(k)] = struct{}{}
	}
	if len(seen) != len(keys)/16 {
		c.fail("a key that stands twice in the dictionary")
	}
	for i := range c.list {
		c.list[i].Key = events.KeyID(keys[16*int(c.rows[i]):])
	}
	for i, code := range c.take(len(c.list)) {
		c.list[i].Code = events.Code(code)
	}
	for i := range texts {
		c.text(i, texts[i])
	}
	c.requestIDs()
	if c.err == nil && len(c.b) != 0 {
		c.fail("bytes behind the columns")
	}
}

// textLimits are the longest texts in clear, by column.
var textLimits = [textColumns]int{
	columnPermission: MaxPermission, columnWorkspace: MaxWorkspace, columnMethod: MaxMethod,
	columnPath: MaxPath, columnClientIP: MaxClientIP, columnUserAgent: MaxUserAgent,
}

// mayBeSealed are the columns whose texts may stand sealed.
var mayBeSealed = [textColumns]bool{columnPath: true, columnClientIP: true, columnUserAgent: true}

// field is where a text of a column belongs in a use.
func (u *Use) field(column int) *string {
	switch column {
	case columnPermission:
		return &u.Permission
	case columnWorkspace:
		return &u.Workspace
	case columnMethod:
		return &u.Method
	case columnPath:
		return &u.Path
	case columnClientIP:
		return &u.ClientIP
	default:
		return &u.UserAgent
	}
}

func (c *columns) dictionary(limit int, sealable bool) []string {
	longest := limit
	if sealable {
		longest = MaxSealed
	}
	n := int(c.uvarint(uint64(len(c.list))))
	if n == 0 || n > len(c.b)/2 { // an entry takes two bytes at least
		if n > 0 {
			c.fail("a dictionary that is cut off")
		}
		return nil
	}
	list := make([]string, n)
	seen := make(map[string]struct{}, n)
	for i := range list {
		size := int(c.uvarint(uint64(longest)))
		s := string(c.take(size))
		if size == 0 || !utf8.ValidString(s) {
			c.fail("a text that is none")
		}
		if size > limitOf(s, limit, longest) {
			c.fail("a text beyond its limit")
		}
		if c.err != nil {
			return nil
		}
		list[i] = s
		seen[s] = struct{}{}
	}
	if len(seen) != n {
		c.fail("a text that stands twice in a dictionary")
	}
	return list
}

func (c *columns) times(h Header) {
	at := h.From
	for i := range c.list {
		d := c.uvarint(uint64(h.To - at))
		if i == 0 && d != 0 {
			c.fail("a first use after the block's time")
		}
		at += events.Time(d)
		c.list[i].At = at
		if c.err != nil {
			return
		}
	}
	if at != h.To {
		c.fail("a last use before the block's time")
	}
}

// indexes reads rows into a dictionary of n entries that are counted from base,
// and checks that they were counted in the order in which they are met.
func (c *columns) indexes(n, base int) {
	low := c.take(len(c.rows))
	var high []byte
	if n-1+base > math.MaxUint8 {
		high = c.take(len(c.rows))
	}
	if c.err != nil {
		return
	}
	met := base
	for i := range c.rows {
		row := int(low[i])
		if high != nil {
			row |= int(high[i]) << 8
		}
		if row > met || row >= n+base {
			c.fail("an index beyond its dictionary")
			return
		}
		if row == met {
			met++
		}
		c.rows[i] = uint16(row)
	}
	if met != n+base {
		c.fail("an entry of a dictionary that no use has")
	}
}

func (c *columns) text(column int, list []string) {
	if len(list) == 0 || c.err != nil {
		return
	}
	c.indexes(len(list), 1)
	if c.err != nil {
		return
	}
	for i := range c.list {
		if row := c.rows[i]; row > 0 {
			*c.list[i].field(column) = list[row-1]
		}
	}
}

func (c *columns) requestIDs() {
	total := int(c.uvarint(uint64(len(c.list)) * MaxSealedRequestID))
	if total == 0 || c.err != nil {
		return
	}
	sizes := c.take(len(c.list))
	all := string(c.take(total))
	for i, size := range sizes {
		if int(size) > len(all) {
			c.fail("a request id that is cut off")
			return
		}
		id := all[:size]
		if len(id) > limitOf(id, MaxRequestID, MaxSealedRequestID) {
			c.fail("a request id beyond its limit")
			return
		}
		if !utf8.ValidString(id) {
			c.fail("a request id that is no text")
			return
		}
		c.list[i].RequestID, all = id, all[size:]
	}
	if all != "" {
		c.fail("bytes behind the request ids")
	}
}

// reader takes a body apart. After its first error it returns zero values.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(why string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, why)
	}
}

func (r *reader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.b) {
		r.fail("it is cut off")
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

// uvarint reads a number in its shortest form.
func (r *reader) uvarint(largest uint64) uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > largest || n > 1 && r.b[n-1] == 0 {
		r.fail("a number that is cut off, too large or not in its shortest form")
		return 0
	}
	r.b = r.b[n:]
	return v
}
