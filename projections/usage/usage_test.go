package usage

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
)

var of = events.Positions{Ledger: events.LedgerID{1}, Epoch: 1}

func key(n byte) events.KeyID { return events.KeyID{6: 0x70, 15: n} }

// stream makes the messages of a stream of uses.
type stream struct {
	t        testing.TB
	enc      *uses.Encoder
	messages []uses.Message
}

func newStream(t testing.TB) *stream {
	t.Helper()
	enc, err := uses.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	return &stream{t: t, enc: enc}
}

func (s *stream) header(boot byte, org events.OrgID) uses.Header {
	return uses.Header{Ledger: of.Ledger, Org: org, Verifier: "edge-1", Boot: uses.BootID{6: 0x70, 15: boot}}
}

func (s *stream) put(m uses.Message, err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	m.Position, m.Stored = events.Position(len(s.messages)+1), 1_000_000
	s.messages = append(s.messages, m)
}

func (s *stream) boot(boot byte, at events.Time) {
	h := s.header(boot, events.System)
	h.Kind, h.From, h.Bound = uses.KindBoot, at, 100
	s.put(s.enc.Mark(h))
}

func (s *stream) end(boot byte, org events.OrgID, last, total, orgs uint64) {
	h := s.header(boot, org)
	h.Kind, h.From, h.Last, h.Total, h.Organizations = uses.KindEnd, 900, last, total, orgs
	s.put(s.enc.Mark(h))
}

func (s *stream) uses(boot byte, org events.OrgID, first uint64, list ...uses.Use) {
	h := s.header(boot, org)
	h.First = first
	blocks, err := s.enc.Encode(h, list)
	if err == nil && len(blocks) != 1 {
		err = errors.New("more than one block")
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.put(blocks[0], nil)
}

func use(n byte, at events.Time, code events.Code) uses.Use {
	return uses.Use{At: at, Key: key(n), Code: code, Permission: "thing:read", Workspace: "main"}
}

func open(t testing.TB, path string) *View {
	t.Helper()
	v, err := Open(context.Background(), Config{Path: path, Of: of})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

func apply(t testing.TB, v *View, blocks []uses.Message) {
	t.Helper()
	if err := v.Apply(context.Background(), blocks); err != nil {
		t.Fatal(err)
	}
}

func lastUsed(t testing.TB, v *View, org events.OrgID, keys ...events.KeyID) map[events.KeyID]LastUse {
	t.Helper()
	got, err := v.LastUsed(context.Background(), org, keys)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func findings(t testing.TB, v *View) []Finding {
	t.Helper()
	list, err := v.Findings(context.Background(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestValidate(t *testing.T) {
	err := Config{}.Validate()
	if err == nil || !strings.Contains(err.Error(), "path") || !strings.Contains(err.Error(), "ledger") {
		t.Error(err)
	}
}

func TestLastUsed(t *testing.T) {
	s := newStream(t)
	s.boot(1, 100)
	read := use(1, 200, events.CodeValid)
	write := use(1, 250, events.CodeValid)
	write.Permission, write.Workspace = "thing:write", "side"
	late := use(1, 210, events.CodeValid) // flushed later, used earlier
	denied := use(1, 300, events.CodeInsufficientPermissions)
	s.uses(1, "acme", 1, read, write, denied, use(2, 220, events.CodeRevoked))
	s.uses(1, "acme", 5, late, use(2, 205, events.CodeExpired))
	s.uses(1, "beta", 1, use(1, 500, events.CodeValid))
	// This verifier's clock runs ahead of the broker's.
	s.uses(1, "acme", 7, use(3, 2_000_000, events.CodeValid))

	for _, together := range []bool{true, false} {
		v := open(t, filepath.Join(t.TempDir(), "usage.db"))
		if together {
			apply(t, v, s.messages)
		} else {
			for _, m := range s.messages {
				apply(t, v, []uses.Message{m})
			}
		}
		want := map[events.KeyID]LastUse{
			key(1): {Key: key(1), At: 250, Permission: "thing:write", Workspace: "side", SeenAt: 300, SeenCode: events.CodeInsufficientPermissions},
			key(2): {Key: key(2), SeenAt: 220, SeenCode: events.CodeRevoked},
			key(3): {Key: key(3), At: 1_000_000, Permission: "thing:read", Workspace: "main", SeenAt: 1_000_000, SeenCode: events.CodeValid},
		}
		if diff := cmp.Diff(want, lastUsed(t, v, "acme", key(1), key(2), key(3), key(4))); diff != "" {
			t.Errorf("together %v: %s", together, diff)
		}
		if got := lastUsed(t, v, "beta", key(1)); len(got) != 1 || got[key(1)].At != 500 {
			t.Errorf("together %v: %+v", together, got)
		}
		if got := lastUsed(t, v, "acme"); len(got) != 0 {
			t.Errorf("of no keys: %+v", got)
		}
		if got := findings(t, v); len(got) != 0 {
			t.Errorf("findings %+v", got)
		}
	}
}

// busy is a stream in which everything happens.
func busy(t testing.TB) []uses.Message {
	s := newStream(t)
	s.boot(1, 100)
	s.uses(1, "acme", 1, use(1, 110, events.CodeValid), use(2, 120, events.CodeValid))
	s.uses(1, "acme", 5, use(1, 130, events.CodeValid)) // 3 and 4 are missing
	s.uses(1, "beta", 1, use(7, 140, events.CodeValid))
	s.uses(1, "acme", 1, use(1, 110, events.CodeValid), use(2, 120, events.CodeValid)) // again
	s.end(1, "acme", 5, 0, 0)
	s.end(1, "beta", 1, 0, 0)
	s.end(1, events.System, 0, 9, 3) // a third organization has gone
	s.boot(2, 200)
	s.uses(2, "acme", 1, use(3, 210, events.CodeRevoked))
	s.boot(3, 300) // 2 crashed
	s.uses(3, "acme", 2, use(3, 310, events.CodeValid))
	return s.messages
}

func TestFindings(t *testing.T) {
	v := open(t, filepath.Join(t.TempDir(), "usage.db"))
	apply(t, v, busy(t))
	boot := func(n byte) uses.BootID { return uses.BootID{6: 0x70, 15: n} }
	want := []Finding{
		{3, uses.Finding{Kind: uses.FindingMissing, Verifier: "edge-1", Boot: boot(1), Org: "acme", First: 3, Last: 4, Count: 2, From: 120, To: 130}, false},
		{5, uses.Finding{Kind: uses.FindingRepeated, Verifier: "edge-1", Boot: boot(1), Org: "acme", First: 1, Last: 2, Count: 2, From: 110, To: 120}, false},
		{8, uses.Finding{Kind: uses.FindingTotal, Verifier: "edge-1", Boot: boot(1), Org: events.System, Count: 3, From: 900, To: 900}, false},
		{12, uses.Finding{Kind: uses.FindingMissing, Verifier: "edge-1", Boot: boot(3), Org: "acme", First: 1, Last: 1, Count: 1, From: 300, To: 310}, false},
	}
	if diff := cmp.Diff(want, findings(t, v)); diff != "" {
		t.Error(diff)
	}
	page, err := v.Findings(context.Background(), 3, 2)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want[1:3], page); diff != "" {
		t.Error(diff)
	}
	unended, err := v.Unended(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]uses.Finding{
		{Kind: uses.FindingUnended, Verifier: "edge-1", Boot: boot(2), Org: events.System, Count: 100, From: 200, To: 210, Superseded: true},
		{Kind: uses.FindingUnended, Verifier: "edge-1", Boot: boot(3), Org: events.System, Count: 100, From: 300, To: 310},
	}, unended); diff != "" {
		t.Error(diff)
	}
}

// TestRebuild cuts the same stream into any slices, opens the file again
// between them, gives some of it twice, and has the same rows every time.
func TestRebuild(t *testing.T) {
	messages := busy(t)
	digest := func(v *View) [32]byte {
		t.Helper()
		pos, sum, err := v.Digest(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if int(pos) != len(messages) {
			t.Fatalf("at %d", pos)
		}
		return sum
	}
	whole := open(t, filepath.Join(t.TempDir(), "usage.db"))
	apply(t, whole, messages)
	want := digest(whole)
	r := rand.New(rand.NewPCG(5, 6))
	for range 5 {
		path := filepath.Join(t.TempDir(), "usage.db")
		for at := 0; at < len(messages); {
			v, err := Open(context.Background(), Config{Path: path, Of: of})
			if err != nil {
				t.Fatal(err)
			}
			pos, err := v.Position(context.Background())
			if err != nil || int(pos) != at {
				t.Fatalf("at %d, not %d: %v", pos, at, err)
			}
			next := min(len(messages), at+1+r.IntN(4))
			apply(t, v, messages[max(0, at-r.IntN(3)):next])
			apply(t, v, messages[:next]) // nothing of it is new
			at = next
			if at == len(messages) && digest(v) != want {
				t.Error("other rows")
			}
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What is no block of this ledger, which whoever is let in as a verifier can put
// under its own name, is a finding, and stops nobody else's.
func TestUnreadable(t *testing.T) {
	messages := busy(t)
	for name, change := range map[string]func(*uses.Message){
		"damaged":             func(m *uses.Message) { m.Body = append([]byte(nil), m.Body...); m.Body[30] ^= 1 },
		"moved":               func(m *uses.Message) { m.Subject = events.UsesSubject("acme", "edge-1") },
		"of another ledger":   func(m *uses.Message) { *m = otherLedger(t, *m) },
		"empty":               func(m *uses.Message) { m.Body = nil },
		"a later format's":    func(m *uses.Message) { m.Body = append([]byte("KLU\x02"), m.Body[4:]...) },
		"somebody else's own": func(m *uses.Message) { m.Body = []byte(`{"hello":"world"}`) },
		"under no subject":    func(m *uses.Message) { m.Subject = "uses.0000.NOBODY.edge-1" },
		"under a short one":   func(m *uses.Message) { m.Subject = "uses.edge-1" },
	} {
		t.Run(name, func(t *testing.T) {
			v := open(t, filepath.Join(t.TempDir(), "usage.db"))
			bad := slices.Clone(messages[:4])
			change(&bad[3])
			apply(t, v, bad)
			apply(t, v, messages[4:])
			if pos, err := v.Position(context.Background()); int(pos) != len(messages) || err != nil {
				t.Errorf("at %d: %v", pos, err)
			}
			got := slices.DeleteFunc(findings(t, v), func(f Finding) bool { return f.Position != 4 })
			if len(got) != 1 || got[0].Kind != FindingUnreadable || got[0].From != bad[3].Stored {
				t.Fatalf("%+v", got)
			}
			want := map[string]Finding{
				"moved": {Finding: uses.Finding{Org: "acme", Verifier: "edge-1"}}, "of another ledger": {Finding: uses.Finding{Org: "acme", Verifier: "edge-1"}},
				"under no subject": {Finding: uses.Finding{Org: events.System, Verifier: "edge-1"}}, "under a short one": {Finding: uses.Finding{Org: events.System}},
			}
			w, ok := want[name]
			if !ok {
				w = Finding{Finding: uses.Finding{Org: "beta", Verifier: "edge-1"}}
			}
			if got[0].Org != w.Org || got[0].Verifier != w.Verifier {
				t.Errorf("of %q by %q", got[0].Org, got[0].Verifier)
			}
			// What comes behind it counts.
			if got := lastUsed(t, v, "acme", key(3)); len(got) != 1 {
				t.Errorf("last used: %+v", got)
			}
		})
	}
}

// TestStops gives blocks out of order, and sees the view stay where it was.
func TestStops(t *testing.T) {
	messages := busy(t)
	v := open(t, filepath.Join(t.TempDir(), "usage.db"))
	apply(t, v, messages[:2])
	bad := slices.Clone(messages[2:4])
	bad[1].Position = 2
	for range 2 {
		err := v.Apply(context.Background(), bad)
		if !errors.Is(err, ErrBlock) || !errors.Is(err, events.ErrCorrupt) || !strings.Contains(err.Error(), "position ") {
			t.Fatal(err)
		}
	}
	if pos, err := v.Position(context.Background()); pos != 2 || err != nil {
		t.Errorf("at %d: %v", pos, err)
	}
	// What was counted for the slice that failed is not counted twice.
	apply(t, v, messages[2:4])
	if got := findings(t, v); len(got) != 1 || got[0].Kind != uses.FindingMissing {
		t.Errorf("%+v", got)
	}
}

func otherLedger(t *testing.T, m uses.Message) uses.Message {
	s := newStream(t)
	h := s.header(1, "acme")
	h.Ledger, h.First = events.LedgerID{9}, 5
	blocks, err := s.enc.Encode(h, []uses.Use{use(1, 130, events.CodeValid)})
	if err != nil {
		t.Fatal(err)
	}
	blocks[0].Position = m.Position
	return blocks[0]
}

// TestTrimmed begins where old blocks have expired.
func TestTrimmed(t *testing.T) {
	messages := busy(t)
	path := filepath.Join(t.TempDir(), "usage.db")
	v := open(t, path)
	apply(t, v, messages[2:3]) // a boot's middle: nothing is missed
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	v = open(t, path)
	apply(t, v, messages[3:4])
	if got := findings(t, v); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	apply(t, v, messages[8:]) // expired while nobody looked
	got := findings(t, v)
	if len(got) == 0 || got[0].Kind != FindingGap || got[0].First != 5 || got[0].Last != 8 || got[0].Position != 9 {
		t.Errorf("%+v", got)
	}
}

// TestAttach reads the file as another view does, and as an auditor may.
func TestAttach(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.db")
	v := open(t, path)
	apply(t, v, busy(t))
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(`ATTACH 'file:` + path + `?mode=ro' AS usage`); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]any{
		`SELECT at FROM usage.last_used WHERE org = 'acme' AND key = '` + key(1).String() + `'`: int64(130),
		`SELECT count(*) FROM usage.last_used WHERE at IS NULL`:                                 int64(0),
		`SELECT seen_at FROM usage.last_used WHERE org = 'beta'`:                                int64(140),
		`SELECT count(*) FROM usage.findings`:                                                   int64(4),
		`SELECT count(*) FROM usage.unended WHERE superseded`:                                   int64(1),
	} {
		var got any
		if err := db.QueryRow(query).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: %s", query, diff)
		}
	}
}

// BenchmarkApply gives slices of blocks as a busy verifier writes them: without
// anything of where the uses come from, with a source for each key, and with
// every tenth use denied.
func BenchmarkApply(b *testing.B) {
	for name, dress := range map[string]func(*uses.Use, int){
		"plain":   func(*uses.Use, int) {},
		"sources": func(u *uses.Use, _ int) { u.UserAgent = "worker/1.4 (linux; key " + u.Key.String()[33:] + ")" },
		"denials": func(u *uses.Use, n int) {
			if n%10 == 0 {
				u.Code = events.CodeInsufficientPermissions
			}
		},
	} {
		b.Run(name, func(b *testing.B) { benchmarkApply(b, dress) })
	}
}

func benchmarkApply(b *testing.B, dress func(*uses.Use, int)) {
	s := newStream(b)
	s.boot(1, 100)
	r := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(r, 1.1, 1, 99_999)
	const blocks, each = 16, 4096
	v := open(b, filepath.Join(b.TempDir(), "usage.db"))
	rounds := 0
	slice := func() []uses.Message {
		from := len(s.messages)
		for i := range blocks {
			first := (rounds*blocks + i) * each
			list := make([]uses.Use, each)
			for j := range list {
				k := zipf.Uint64()
				list[j] = use(0, events.Time((first+j)*50), events.CodeValid) // 20,000 a second
				list[j].Key[13], list[j].Key[14], list[j].Key[15] = byte(k>>16), byte(k>>8), byte(k)
				dress(&list[j], j)
			}
			s.uses(1, "acme", uint64(first+1), list...)
			s.messages[len(s.messages)-1].Stored = list[each-1].At
		}
		rounds++
		return s.messages[from:]
	}
	apply(b, v, s.messages)
	for b.Loop() {
		b.StopTimer()
		next := slice()
		b.StartTimer()
		apply(b, v, next)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*blocks*each), "ns/use")
}
