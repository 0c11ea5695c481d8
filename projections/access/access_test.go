package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/projections/sqlview"
)

const (
	minute = events.Time(time.Minute / time.Microsecond)
	day    = 24 * 60 * minute
)

var of = events.Positions{Ledger: events.LedgerID{1}, Epoch: 1}

// stream is a stream of access records.
type stream struct {
	t       testing.TB
	numbers map[access.BootID]uint64
	list    []access.Message
}

func newStream(t testing.TB) *stream { return &stream{t: t, numbers: map[access.BootID]uint64{}} }

// put adds what a server wrote in its run.
func (s *stream) put(boot byte, at events.Time, count uint64, row access.Row) access.Message {
	s.t.Helper()
	id := access.BootID{boot}
	s.numbers[id]++
	row.Minute = access.Minute(at)
	m, err := access.Encode(&access.Record{
		Ledger: of.Ledger, Server: events.VerifierID(fmt.Sprint("s-", boot%2)), Boot: id, Number: s.numbers[id],
		Row: row, Count: count, FirstAt: at, LastAt: at + 1, RequestID: fmt.Sprint("r-", len(s.list)),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return s.again(m, at)
}

// again adds a message, as it was or for the second time.
func (s *stream) again(m access.Message, at events.Time) access.Message {
	m.Position, m.Stored = events.Position(len(s.list)+1), at
	s.list = append(s.list, m)
	return m
}

func denied(org events.OrgID, key byte) access.Row {
	return access.Row{
		Kind: access.CommandDenied, Org: org, Actor: events.Actor{Type: events.ActorKey, Org: org, Key: events.KeyID{15: key}},
		Role: events.RoleAdmin, What: "create-key", Code: "forbidden",
	}
}

func unknown(source string) access.Row {
	return access.Row{Kind: access.SecretUnknown, Org: events.System, What: "verify", Code: "NOT_FOUND", Source: source, SourceKind: access.SourceLabel}
}

func resolved(org events.OrgID, provider string, version uint64, single string) access.Row {
	row := access.Row{
		Kind: access.ProviderKeyResolved, Org: org, Actor: events.Actor{Type: events.ActorKey, Org: org, Key: events.KeyID{15: 7}},
		Role: events.RoleResolver, What: provider, Answer: access.AnswerBuiltIn, Single: single,
	}
	if version != 0 {
		row.Answer, row.Version = access.AnswerCustomer, version
	}
	return row
}

// refused is a resolve that nothing came of.
func refused(org events.OrgID, provider string) access.Row {
	row := resolved(org, provider, 0, "")
	row.Answer, row.Code = "", "forbidden"
	return row
}

func open(t testing.TB, path string, change ...func(*Config)) *View {
	t.Helper()
	c := Config{Path: path, Of: of}
	for _, f := range change {
		f(&c)
	}
	v, err := Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

func file(t testing.TB) string { return filepath.Join(t.TempDir(), "access.db") }

func apply(t testing.TB, v *View, list []access.Message) {
	t.Helper()
	if err := v.Apply(t.Context(), list); err != nil {
		t.Fatal(err)
	}
}

func rows(t testing.TB, v *View, f Filter) []Row {
	t.Helper()
	list, next, err := v.Rows(t.Context(), f)
	if err != nil || next != "" {
		t.Fatal(next, err)
	}
	return list
}

// What is told of a row in several records is one row; what is told twice counts once.
func TestAddsUp(t *testing.T) {
	s := newStream(t)
	first := s.put(1, 10*minute, 2, denied("acme", 1))
	s.put(1, 10*minute+5, 3, denied("acme", 1))
	s.again(first, 11*minute)
	s.put(1, 11*minute, 1, denied("acme", 1))
	s.put(2, 10*minute+7, 1, denied("acme", 1)) // another server
	s.put(1, 10*minute, 1, denied("acme", 2))
	s.put(3, 10*minute+9, 4, denied("acme", 1)) // the same one after it was started again
	s.again(s.list[1], 12*minute)
	v := open(t, file(t))
	apply(t, v, s.list)
	apply(t, v, s.list[2:])
	got := rows(t, v, Filter{Org: "acme"})
	var told []string
	for _, r := range got {
		told = append(told, fmt.Sprintf("%d %s %d %d: %d, %d to %d, %s", r.Position, r.Server, r.Minute/minute, r.Actor.Key[15], r.Count, r.FirstAt-r.Minute, r.LastAt-r.Minute, r.RequestID))
	}
	want := []string{
		"6 s-1 10 2: 1, 0 to 1, r-5", "5 s-0 10 1: 1, 7 to 8, r-4", "4 s-1 11 1: 1, 0 to 1, r-3", "1 s-1 10 1: 9, 0 to 10, r-0",
	}
	if !slices.Equal(told, want) {
		t.Errorf("%s", strings.Join(told, "\n"))
	}
	r := got[3]
	if r.Kind != access.CommandDenied || r.Org != "acme" || r.Role != events.RoleAdmin || r.What != "create-key" || r.Code != "forbidden" || r.Source != "" || r.SourceKind != "" {
		t.Errorf("%+v", r)
	}
	if pos, err := v.Position(t.Context()); err != nil || pos != 8 {
		t.Errorf("%d, %v", pos, err)
	}
	var counted int
	if err := v.db.QueryRow(t.Context(), `SELECT sum(rows) FROM lane`).Scan(&counted); err != nil || counted != len(got) {
		t.Errorf("%d rows are counted: %v", counted, err)
	}
}

func TestFilters(t *testing.T) {
	s := newStream(t)
	for i := range 40 {
		at := events.Time(100+i/2) * minute
		s.put(1, at, 1, denied([]events.OrgID{"acme", "globex"}[i%2], byte(i%3)))
		s.put(1, at, 1, unknown(fmt.Sprint(i)))
		s.put(1, at, 1, resolved([]events.OrgID{"initech", "hooli"}[i%2], []string{"openai", "google", "cohere"}[i%3], 1, fmt.Sprint(i)))
	}
	v := open(t, file(t))
	apply(t, v, s.list)
	for _, c := range []struct {
		name string
		Filter
		want int
	}{
		{"nothing", Filter{}, 0},
		{"acme", Filter{Org: "acme"}, 20},
		{"globex", Filter{Org: "globex"}, 20},
		{"system", Filter{Org: events.System}, 40},
		{"all", Filter{AllOrganizations: true}, 120},
		{"of a provider", Filter{Org: "initech", Kind: access.ProviderKeyResolved, What: "openai"}, 7},
		{"of another provider", Filter{Org: "hooli", Kind: access.ProviderKeyResolved, What: "google"}, 7},
		{"of no provider", Filter{Org: "initech", Kind: access.ProviderKeyResolved, What: "mistral"}, 0},
		{"of a provider in time", Filter{Org: "initech", What: "openai", From: 110 * minute}, 3},
		{"kind", Filter{Org: "acme", Kind: access.SecretUnknown}, 0},
		{"kind of all", Filter{AllOrganizations: true, Kind: access.SecretUnknown}, 40},
		{"actor", Filter{Org: "acme", Actor: denied("acme", 1).Actor}, 6},
		{"another's actor", Filter{Org: "acme", Actor: denied("globex", 1).Actor}, 0},
		{"from", Filter{Org: "acme", From: 110 * minute}, 10},
		{"to", Filter{Org: "acme", To: 110 * minute}, 10},
		{"between", Filter{Org: "acme", From: 105 * minute, To: 107 * minute}, 2},
		{"never", Filter{Org: "acme", From: 1000 * minute}, 0},
	} {
		c.Limit = 200
		all := rows(t, v, c.Filter)
		if len(all) != c.want {
			t.Errorf("%s: %d rows, want %d", c.name, len(all), c.want)
		}
		var paged []Row
		for c.Limit = 3; ; {
			page, next, err := v.Rows(t.Context(), c.Filter)
			if err != nil {
				t.Fatal(err)
			}
			paged = append(paged, page...)
			if c.Cursor = next; next == "" {
				break
			}
		}
		if !slices.Equal(all, paged) {
			t.Errorf("%s: page by page there are %d", c.name, len(paged))
		}
	}
	_, next, err := v.Rows(t.Context(), Filter{Org: "acme", Page: Page{Limit: 1}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []Filter{{Org: "globex"}, {Org: "acme", What: "create-key"}} {
		f.Cursor = next
		if _, _, err := v.Rows(t.Context(), f); !errors.Is(err, sqlview.ErrBadCursor) {
			t.Errorf("another list's cursor: %v", err)
		}
	}
}

// What is recorded one by one is a row each, also where nothing else tells two of
// them apart; what tells of another answer or version is another row.
func TestOneByOne(t *testing.T) {
	s := newStream(t)
	for i := range 3 {
		s.put(1, 10*minute, 1, resolved("acme", "openai", 2, fmt.Sprint("r", i)))
	}
	s.again(s.list[1], 10*minute) // stored twice
	s.put(1, 10*minute, 2, refused("acme", "openai"))
	s.put(1, 10*minute, 3, refused("acme", "openai"))
	other := refused("acme", "openai")
	other.Version = 3
	s.put(1, 10*minute, 1, other)
	v := open(t, file(t))
	apply(t, v, s.list)
	var told []string
	for _, r := range rows(t, v, Filter{Org: "acme", Kind: access.ProviderKeyResolved}) {
		told = append(told, fmt.Sprintf("%d: %s %s %d %q %d", r.Position, r.Single, r.Answer, r.Version, r.Code, r.Count))
	}
	want := []string{
		`7:   3 "forbidden" 1`, `5:   0 "forbidden" 5`, `3: r2 customer 2 "" 1`, `2: r1 customer 2 "" 1`, `1: r0 customer 2 "" 1`,
	}
	if !slices.Equal(told, want) {
		t.Errorf("%s", strings.Join(told, "\n"))
	}
}

// A customer's key was handed out last when it was: neither when the built-in
// allocation served instead, nor when somebody was refused, nor another's.
func TestLastResolved(t *testing.T) {
	s := newStream(t)
	last := func(v *View, provider events.ProviderID) events.Time {
		t.Helper()
		at, err := v.LastResolved(t.Context(), "acme", provider)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	v := open(t, file(t))
	if at := last(v, events.ProviderOpenAI); at != 0 {
		t.Errorf("of an empty file: %d", at)
	}
	s.put(1, 20*minute, 1, resolved("acme", "openai", 1, "a"))
	s.put(2, 10*minute, 1, resolved("acme", "openai", 1, "b")) // came late
	s.put(1, 30*minute, 1, resolved("acme", "openai", 0, "c"))
	s.put(1, 40*minute, 1, refused("acme", "openai"))
	s.put(1, 50*minute, 1, resolved("globex", "openai", 1, "d"))
	s.put(1, 60*minute, 1, resolved("acme", "google", 0, "e"))
	apply(t, v, s.list)
	if at := last(v, events.ProviderOpenAI); at != 20*minute+1 {
		t.Errorf("%d", at)
	}
	if at := last(v, events.ProviderGoogle); at != 0 {
		t.Errorf("of one that was never handed out: %d", at)
	}
}

// Each kind of each organization keeps its latest, whatever the others do.
func TestKeepsTheLatestOfEach(t *testing.T) {
	s := newStream(t)
	for i := range 50 {
		s.put(1, events.Time(100+i)*minute, 1, denied("acme", 1))
	}
	for i := range 1000 {
		s.put(1, 1000*minute, 1, unknown(fmt.Sprint(i)))
	}
	v := open(t, file(t), func(c *Config) { c.MaxOfKind = 300 })
	apply(t, v, s.list)
	if n := len(rows(t, v, Filter{Org: "acme", Page: Page{Limit: 200}})); n != 50 {
		t.Errorf("%d of acme are left", n)
	}
	var count, oldest int
	if err := v.db.QueryRow(t.Context(), `SELECT count(*), min(position) FROM access WHERE org = '_system'`).Scan(&count, &oldest); err != nil {
		t.Fatal(err)
	}
	if count < 300 || count > 303 || oldest != len(s.list)-count+1 {
		t.Errorf("%d are left, from %d on", count, oldest)
	}
}

// Rows go when they are old by the stream's own time.
func TestRetention(t *testing.T) {
	s := newStream(t)
	for i := range 20 {
		s.put(1, events.Time(i)*day+minute, 1, denied("acme", 1))
	}
	s.put(9, minute, 1, unknown("late"))
	v := open(t, file(t), func(c *Config) { c.Keep = 7 * 24 * time.Hour })
	apply(t, v, s.list[:20])
	got := rows(t, v, Filter{Org: "acme"})
	if len(got) != 8 || got[7].Minute != 12*day+minute {
		t.Errorf("%d rows are left, the oldest of %d", len(got), got[len(got)-1].Minute/day)
	}
	// What comes late goes with the next hour.
	apply(t, v, s.list)
	s.put(1, 20*day, 1, denied("acme", 1))
	apply(t, v, s.list)
	if n := len(rows(t, v, Filter{Org: events.System})); n != 0 {
		t.Errorf("%d", n)
	}
	var boots, lanes int
	if err := v.db.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM boots), (SELECT sum(rows) FROM lane)`).Scan(&boots, &lanes); err != nil {
		t.Fatal(err)
	}
	if boots != 1 || lanes != 8 {
		t.Errorf("%d boots, %d rows are counted", boots, lanes)
	}
}

// What cannot be read is passed over: a later version's kinds among them.
func TestUnreadable(t *testing.T) {
	s := newStream(t)
	s.put(1, minute, 1, denied("acme", 1))
	later := s.list[0]
	later.Body = bytes.Replace(later.Body, []byte("command.denied"), []byte("command.eaten"), 1)
	s.again(later, minute)
	moved := s.list[0]
	moved.Subject = access.Subject("globex", access.CommandDenied)
	s.again(moved, minute)
	s.put(1, minute, 1, denied("acme", 1))
	var said bytes.Buffer
	v := open(t, file(t), func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&said, nil)) })
	apply(t, v, s.list)
	if got := rows(t, v, Filter{AllOrganizations: true}); len(got) != 1 || got[0].Count != 2 || v.Unreadable() != 2 {
		t.Errorf("%+v, %d unreadable", got, v.Unreadable())
	}
	if strings.Count(said.String(), "level=WARN") != 2 {
		t.Error(said.String())
	}
}

// However a stream is sliced, whatever comes again, and however often the file is
// opened, it holds the same.
func TestRebuild(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 5))
	s := newStream(t)
	at := 1000 * minute
	for range 1500 {
		at += events.Time(r.IntN(int(20 * minute)))
		if len(s.list) > 0 && r.IntN(10) == 0 {
			s.again(s.list[r.IntN(len(s.list))], at)
			continue
		}
		row := denied([]events.OrgID{"acme", "globex"}[r.IntN(2)], byte(r.IntN(2)))
		count := uint64(1 + r.IntN(5))
		switch r.IntN(3) {
		case 0:
			row = unknown(fmt.Sprint(r.IntN(20)))
		case 1:
			row, count = resolved("acme", "openai", uint64(r.IntN(3)), fmt.Sprint(len(s.list))), 1
		}
		s.put(byte(1+r.IntN(4)), at-events.Time(r.IntN(3))*minute, count, row)
		s.list[len(s.list)-1].Stored = at
	}
	small := func(c *Config) { c.MaxOfKind, c.Keep = 200, 5*24*time.Hour }
	digest := func(v *View) [32]byte {
		t.Helper()
		pos, sum, err := v.Digest(t.Context())
		if err != nil || pos != events.Position(len(s.list)) {
			t.Fatal(uint64(pos), len(s.list), err)
		}
		return sum
	}
	live := open(t, file(t), small)
	apply(t, live, s.list)
	want := digest(live)
	if some, _, err := live.Rows(t.Context(), Filter{AllOrganizations: true, Page: Page{Limit: 200}}); err != nil || len(some) < 200 {
		t.Fatalf("%d rows are little to compare (%v)", len(some), err)
	}
	for range 2 {
		path := file(t)
		v := open(t, path, small)
		for from := 0; from < len(s.list); {
			next := min(len(s.list), from+1+r.IntN(60))
			apply(t, v, s.list[max(0, from-r.IntN(3)):next])
			if from = next; r.IntN(5) == 0 {
				if err := v.Close(); err != nil {
					t.Fatal(err)
				}
				v = open(t, path, small)
			}
		}
		if digest(v) != want {
			t.Error("other rows")
		}
	}
}

func TestConfig(t *testing.T) {
	err := Config{Keep: -1, MaxOfKind: -1}.Validate()
	for _, text := range []string{"no path", "no ledger", "Keep", "MaxOfKind"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v does not say %s", err, text)
		}
	}
}

func BenchmarkApply(b *testing.B) {
	s := newStream(b)
	for i := range 1000 {
		s.put(1, minute, 1, unknown(fmt.Sprint(i)))
	}
	for b.Loop() {
		b.StopTimer()
		v := open(b, file(b))
		b.StartTimer()
		apply(b, v, s.list)
	}
	b.ReportMetric(float64(len(s.list)*b.N)/b.Elapsed().Seconds(), "records/s")
}
