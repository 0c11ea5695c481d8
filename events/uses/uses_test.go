package uses

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/events"
)

var update = flag.Bool("update", false, "write the golden blocks that are not there yet")

func header() Header {
	return Header{
		Ledger: events.LedgerID{0: 1, 6: 0x70, 15: 9}, Org: "acme", Verifier: "edge-1",
		Boot: BootID{0: 2, 6: 0x70, 15: 7}, First: 1,
	}
}

func encoder(t testing.TB) *Encoder {
	t.Helper()
	e, err := NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func decoder(t testing.TB) *Decoder {
	t.Helper()
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func encode(t testing.TB, h Header, list []Use) []Message {
	t.Helper()
	out, err := encoder(t).Encode(h, list)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// decodeAll reads blocks that must follow one another without a gap.
func decodeAll(t testing.TB, first uint64, messages []Message) []Use {
	t.Helper()
	d := decoder(t)
	var all []Use
	for _, m := range messages {
		if len(m.Body) > events.MaxFactBytes {
			t.Fatalf("a block of %d bytes", len(m.Body))
		}
		b, err := d.Decode(m.Subject, m.Body)
		if err != nil {
			t.Fatal(err)
		}
		if b.First != first || b.Count() != uint64(len(b.Uses)) {
			t.Fatalf("block says %d to %d and holds %d uses; wanted from %d", b.First, b.Last, len(b.Uses), first)
		}
		first = b.Last + 1
		all = append(all, b.Uses...)
	}
	return all
}

func sample() []Use {
	ctx := Context{RequestID: "req-1", Method: "GET", Path: "/v1/things", ClientIP: "192.0.2.7", UserAgent: "curl/8"}
	return []Use{
		{At: 1_790_000_000_000_000, Key: events.KeyID{15: 1}, Code: events.CodeValid, Permission: "thing:read", Workspace: "main", Context: ctx},
		{At: 1_790_000_000_000_004, Key: events.KeyID{15: 2}, Code: events.CodeRevoked},
		{At: 1_790_000_000_001_000, Key: events.KeyID{15: 1}, Code: events.CodeInsufficientPermissions, Permission: "thing:delete", Workspace: "main"},
		{At: 1_790_000_000_001_000, Key: events.KeyID{15: 1}, Code: events.Code(77), Permission: "thing:read", Context: Context{RequestID: "ü"}},
	}
}

func marks(t testing.TB) []Message {
	t.Helper()
	boot, system, end := header(), header(), header()
	boot.Kind, boot.Org, boot.From, boot.Bound, boot.First = KindBoot, events.System, 1_790_000_000_000_000, 65_536, 0
	end.Kind, end.From, end.Last, end.First = KindEnd, 1_790_000_000_000_000, 4, 0
	system.Kind, system.Org, system.From, system.First = KindEnd, events.System, 1_790_000_000_000_000, 0
	system.Total, system.Organizations = 4, 1
	var out []Message
	e := encoder(t)
	for _, h := range []Header{boot, end, system} {
		m, err := e.Mark(h)
		if err != nil {
			t.Fatal(err)
		}
		h.To = h.From
		got, err := decoder(t).Decode(m.Subject, m.Body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(Block{Header: h}, got); diff != "" {
			t.Error(diff)
		}
		out = append(out, m)
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	want := sample()
	got := decodeAll(t, 1, encode(t, header(), slices.Clone(want)))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMarks(t *testing.T) {
	ids := map[string]bool{}
	for _, m := range append(marks(t), encode(t, header(), sample())...) {
		if ids[m.ID] {
			t.Errorf("message id %s twice", m.ID)
		}
		ids[m.ID] = true
	}
}

// TestAnyUses packs whatever there may be, in any order and number.
func TestAnyUses(t *testing.T) {
	e, d := encoder(t), decoder(t)
	text := func(n int) *rapid.Generator[string] { return rapid.StringN(0, n/4, n) }
	use := rapid.Custom(func(t *rapid.T) Use {
		return Use{
			At:         events.Time(rapid.Int64Range(0, 1<<52).Draw(t, "at")),
			Key:        events.KeyID{0: rapid.Byte().Draw(t, "key"), 9: rapid.Byte().Draw(t, "key")},
			Code:       events.Code(rapid.Byte().Draw(t, "code")),
			Permission: text(MaxPermission).Draw(t, "permission"), Workspace: text(MaxWorkspace).Draw(t, "workspace"),
			Context: Context{
				RequestID: text(MaxRequestID).Draw(t, "request"), Method: text(MaxMethod).Draw(t, "method"),
				Path: text(MaxPath).Draw(t, "path"), ClientIP: text(MaxClientIP).Draw(t, "ip"), UserAgent: text(MaxUserAgent).Draw(t, "agent"),
			},
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(use, 1, 40).Draw(t, "uses")
		want = slices.Repeat(want, rapid.IntRange(1, 30).Draw(t, "times"))
		h := header()
		h.First = rapid.Uint64Range(1, 1<<40).Draw(t, "first")
		messages, err := e.Encode(h, slices.Clone(want))
		if err != nil {
			t.Fatal(err)
		}
		slices.SortStableFunc(want, func(a, b Use) int { return int(max(-1, min(1, a.At-b.At))) })
		var got []Use
		for _, m := range messages {
			b, err := d.Decode(m.Subject, m.Body)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, b.Uses...)
		}
		// The difference of thousands of uses takes long to look for.
		if !slices.Equal(want, got) {
			t.Fatal(cmp.Diff(want, got))
		}
	})
}

// TestSplit packs more than one block holds, of uses that hardly compress.
func TestSplit(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	noise := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = 32 + byte(r.IntN(95))
		}
		return string(b)
	}
	for _, tt := range []struct {
		name string
		n    int
		id   int
	}{{"plain", 40_000, 0}, {"with request ids", 5000, MaxRequestID}} {
		t.Run(tt.name, func(t *testing.T) {
			want := make([]Use, tt.n)
			for i := range want {
				want[i] = Use{At: events.Time(i * 10), Code: events.CodeValid, Context: Context{RequestID: noise(tt.id)}}
				binary.BigEndian.PutUint64(want[i].Key[:], r.Uint64())
			}
			messages := encode(t, header(), slices.Clone(want))
			if len(messages) < 3 {
				t.Errorf("%d blocks", len(messages))
			}
			if got := decodeAll(t, 1, messages); !slices.Equal(want, got) {
				diff := cmp.Diff(want, got)
				t.Error(diff[:min(len(diff), 2000)])
			}
		})
	}
	t.Run("what compresses to nothing", func(t *testing.T) {
		u := Use{At: 1, Context: Context{Path: strings.Repeat("a", MaxPath)}}
		if got := len(decodeAll(t, 1, encode(t, header(), slices.Repeat([]Use{u}, 3*MaxUses)))); got != 3*MaxUses {
			t.Errorf("%d uses", got)
		}
	})
	t.Run("the largest use", func(t *testing.T) {
		u := Use{Permission: noise(1000), Workspace: noise(1000), Context: Context{
			RequestID: noise(1000), Method: noise(1000), Path: noise(1000), ClientIP: noise(1000), UserAgent: noise(1000),
		}}
		got := decodeAll(t, 1, encode(t, header(), []Use{u}))
		for i, limit := range textLimits {
			if s := *got[0].field(i); s != (*u.field(i))[:limit] {
				t.Errorf("column %d: %d bytes", i, len(s))
			}
		}
	})
}

func TestTextsAreMadeSound(t *testing.T) {
	got := decodeAll(t, 1, encode(t, header(), []Use{{
		At: -5, Permission: strings.Repeat("é", 300) + "x", Workspace: "a\xff\xfeb", Context: Context{RequestID: "\xc3", Method: "x" + strings.Repeat("€", 10)},
	}}))
	want := Use{Permission: strings.Repeat("é", MaxPermission/2), Workspace: "a?b", Context: Context{RequestID: "?", Method: "x" + strings.Repeat("€", 5)}}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Error(diff)
	}
}

func TestInvalidHeaders(t *testing.T) {
	e := encoder(t)
	for name, change := range map[string]func(*Header){
		"organization": func(h *Header) { h.Org = "a.b" },
		"verifier":     func(h *Header) { h.Verifier = "" },
		"ledger":       func(h *Header) { h.Ledger = events.LedgerID{} },
		"boot":         func(h *Header) { h.Boot = BootID{} },
		"first":        func(h *Header) { h.First = 0 },
	} {
		h := header()
		change(&h)
		if _, err := e.Encode(h, sample()); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := header()
	if _, err := e.EncodeSorted(h, 2, func(i int, u *Use) { u.At = events.Time(10 - i) }); !errors.Is(err, ErrInvalid) {
		t.Errorf("times that decrease: %v", err)
	}
	for name, h := range map[string]Header{
		"boot mark of an organization": {Kind: KindBoot},
		"totals in an organization":    {Kind: KindEnd, Total: 1},
		"no mark":                      {Kind: KindUses},
	} {
		full := header()
		full.Kind, full.Total = h.Kind, h.Total
		if _, err := e.Mark(full); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDamage flips every bit of a block, and cuts it everywhere.
func TestDamage(t *testing.T) {
	d := decoder(t)
	for _, m := range append(marks(t), encode(t, header(), sample())...) {
		for i := range m.Body {
			if _, err := d.Decode(m.Subject, m.Body[:i]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("cut at %d: %v", i, err)
			}
			for bit := range 8 {
				body := bytes.Clone(m.Body)
				body[i] ^= 1 << bit
				if _, err := d.Decode(m.Subject, body); !errors.Is(err, ErrMalformed) || !errors.Is(err, events.ErrMalformed) {
					t.Fatalf("bit %d of byte %d: %v", bit, i, err)
				}
			}
		}
	}
}

func TestMoved(t *testing.T) {
	m := encode(t, header(), sample())[0]
	for _, subject := range []string{"", events.UsesSubject("other", "edge-1"), events.UsesSubject("acme", "edge-2")} {
		if _, err := decoder(t).Decode(subject, m.Body); !errors.Is(err, ErrForeign) || !errors.Is(err, events.ErrCorrupt) {
			t.Errorf("under %q: %v", subject, err)
		}
	}
}

// TestLies gives blocks whose checksum holds and whose content does not.
func TestLies(t *testing.T) {
	m := encode(t, header(), sample())[0]
	head := header()
	head.Kind, head.From, head.To = KindUses, sample()[0].At, sample()[3].At
	fixed := head.append(nil)
	_, rest, err := readHeader(m.Subject, m.Body)
	if err != nil {
		t.Fatal(err)
	}
	rest.uvarint(MaxColumns)
	raw, err := decoder(t).zstd.DecodeAll(rest.b, make([]byte, 0, MaxColumns))
	if err != nil {
		t.Fatal(err)
	}
	e := encoder(t)
	pack := func(head []byte, first, count, size uint64, raw []byte) []byte {
		b := binary.AppendUvarint(bytes.Clone(head), first)
		b = binary.AppendUvarint(b, count)
		b = binary.AppendUvarint(b, size)
		b = e.zstd.EncodeAll(raw, b)
		return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	}
	n := uint64(len(raw))
	if _, err := decoder(t).Decode(m.Subject, pack(fixed, 1, 4, n, raw)); err != nil {
		t.Fatal(err)
	}
	cases := map[string][]byte{
		"no number":            pack(fixed, 0, 4, n, raw),
		"no uses":              pack(fixed, 1, 0, n, raw),
		"too many uses":        pack(fixed, 1, MaxUses+1, n, raw),
		"more uses":            pack(fixed, 1, 5, n, raw),
		"fewer uses":           pack(fixed, 1, 3, n, raw),
		"shorter columns":      pack(fixed, 1, 4, n-1, raw),
		"longer columns":       pack(fixed, 1, 4, n+1, raw),
		"columns beyond limit": pack(fixed, 1, 4, 1<<40, raw),
		"a bomb":               pack(fixed, 1, 4, MaxColumns, make([]byte, 64<<20)),
		"bytes behind":         pack(fixed, 1, 4, n+1, append(bytes.Clone(raw), 0)),
		"unknown kind":         pack(slices.Replace(bytes.Clone(fixed), 4, 5, 9), 1, 4, n, raw),
	}
	// Every change of a byte of the columns is refused or changes what is read.
	want, d := decodeAll(t, 1, []Message{m}), decoder(t)
	for i := range raw {
		changed := bytes.Clone(raw)
		changed[i] ^= 0x41
		got, err := d.Decode(m.Subject, pack(fixed, 1, 4, n, changed))
		if err == nil && cmp.Equal(got.Uses, want) {
			t.Errorf("byte %d of the columns means nothing", i)
		}
	}
	for name, body := range cases {
		if _, err := decoder(t).Decode(m.Subject, body); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestGolden reads the blocks of every version that was ever written. They are
// only ever added.
func TestGolden(t *testing.T) {
	blocks := append(encode(t, header(), sample()), marks(t)...)
	for i, name := range []string{"v1-uses", "v1-boot", "v1-end", "v1-end-system"} {
		path := filepath.Join("testdata", name+".block")
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && *update {
			if err := os.WriteFile(path, blocks[i].Body, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decoder(t).Decode(blocks[i].Subject, body)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want, err := decoder(t).Decode(blocks[i].Subject, blocks[i].Body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// FuzzDecode gives any bytes. What is read must be what would be written.
func FuzzDecode(f *testing.F) {
	for _, m := range append(marks(f), encode(f, header(), sample())...) {
		f.Add(m.Subject, m.Body)
	}
	d, e := decoder(f), encoder(f)
	f.Fuzz(func(t *testing.T, subject string, body []byte) {
		if len(body) > 8 { // let the fuzzer past the sum
			content := body[:len(body)-4]
			body = binary.BigEndian.AppendUint32(bytes.Clone(content), crc32.Checksum(content, castagnoli))
		}
		b, err := d.Decode(subject, body)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrForeign) {
				t.Fatal(err)
			}
			return
		}
		if b.Kind != KindUses {
			return
		}
		again, err := e.Encode(b.Header, slices.Clone(b.Uses))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(b.Uses, decodeAll(t, b.First, again)); diff != "" {
			t.Fatal(diff)
		}
	})
}

func columnsOf(t testing.TB, e *Encoder, list []Use) int {
	n, _, _, err := e.columns(0, len(list), func(i int, u *Use) { *u = list[i] })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// FuzzColumns gives any columns, for which a packed fuzz input is too opaque.
func FuzzColumns(f *testing.F) {
	e := encoder(f)
	columnsOf(f, e, sample())
	f.Add(uint16(4), bytes.Clone(e.raw))
	f.Fuzz(func(t *testing.T, count uint16, raw []byte) {
		n := int(count)%MaxUses + 1
		h := header()
		h.Kind, h.Last, h.From, h.To = KindUses, uint64(n), sample()[0].At, sample()[3].At
		c := &columns{reader: reader{b: raw}, list: make([]Use, n), rows: make([]uint16, n)}
		c.read(h)
		if c.err != nil {
			return
		}
		if got := columnsOf(t, e, c.list); got != n || !bytes.Equal(e.raw, raw) {
			t.Fatalf("columns that would not be written like that: %d uses, %d bytes for %d", got, len(e.raw), len(raw))
		}
	})
}

// traffic makes uses of Zipf-distributed keys as a busy verifier sees them.
func traffic(n int, ids string) []Use {
	r := rand.New(rand.NewPCG(7, 7))
	zipf := rand.NewZipf(r, 1.1, 1, 99_999)
	permissions := []string{"interview:start", "interview:read", "report:read", "report:export", "member:read"}
	list := make([]Use, n)
	at := events.Time(1_790_000_000_000_000)
	for i := range list {
		at += events.Time(r.IntN(200))
		u := &list[i]
		key := rand.New(rand.NewPCG(zipf.Uint64(), 1))
		binary.BigEndian.PutUint64(u.Key[:], 0x0190_0000_0000_7000|key.Uint64()>>20<<16)
		binary.BigEndian.PutUint64(u.Key[8:], key.Uint64())
		u.At, u.Code = at, events.CodeValid
		u.Permission = permissions[r.IntN(len(permissions))]
		u.Workspace = fmt.Sprintf("workspace-%d", key.IntN(4))
		if ids != "" {
			u.RequestID = fmt.Sprintf(ids, r.Uint64())
		}
		if r.IntN(50) == 0 {
			u.Code = events.CodeInsufficientPermissions
		}
	}
	return list
}

// TestBytesPerUse holds plain uses to what the format promises.
func TestBytesPerUse(t *testing.T) {
	for _, tt := range []struct {
		n    int
		ids  string
		most float64
	}{{4096, "", 10}, {1024, "", 12}, {256, "", 15}, {1, "", 150}, {4096, "%016x", 19}} {
		size := 0
		for _, m := range encode(t, header(), traffic(tt.n, tt.ids)) {
			size += len(m.Body)
		}
		if got := float64(size) / float64(tt.n); got > tt.most {
			t.Errorf("%d uses, ids %q: %.1f bytes a use, more than %.0f", tt.n, tt.ids, got, tt.most)
		}
	}
}

// BenchmarkEncode shows what a use costs. Bytes a use are those of the block;
// the broker adds about 200 to each block.
func BenchmarkEncode(b *testing.B) {
	for _, ids := range []string{"", "%016x"} {
		for _, n := range []int{1, 16, 256, 1024, 4096, 8192} {
			b.Run(fmt.Sprintf("uses=%d/request-ids=%v", n, ids != ""), func(b *testing.B) {
				list, e := traffic(n, ids), encoder(b)
				size := 0
				for b.Loop() {
					messages, err := e.Encode(header(), list)
					if err != nil {
						b.Fatal(err)
					}
					size = 0
					for _, m := range messages {
						size += len(m.Body)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/use")
				b.ReportMetric(float64(size)/float64(n), "B/use")
			})
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	m, d := encode(b, header(), traffic(4096, ""))[0], decoder(b)
	for b.Loop() {
		if _, err := d.Decode(m.Subject, m.Body); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*4096), "ns/use")
}
