package usage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
)

// from is a use from a source: an address if it begins with a digit, else a program.
func from(n byte, at events.Time, code events.Code, source string) uses.Use {
	u := use(n, at, code)
	if source != "" && source[0] <= '9' {
		u.ClientIP, u.UserAgent = source, "behind an address"
	} else {
		u.UserAgent = source
	}
	return u
}

// stored puts a block of uses that was stored at a time.
func (s *stream) stored(boot byte, org events.OrgID, at events.Time, first uint64, list ...uses.Use) {
	s.uses(boot, org, first, list...)
	s.messages[len(s.messages)-1].Stored = at
}

func newSources(t testing.TB, v *View, after, through events.Position, since events.Time, limit int) ([]Source, events.Position) {
	t.Helper()
	list, next, err := v.NewSources(context.Background(), after, through, since, limit)
	if err != nil {
		t.Fatal(err)
	}
	return list, next
}

func denialsOf(t testing.TB, v *View, after, through events.Position, since events.Time, limit int) ([]Denials, events.Position) {
	t.Helper()
	list, next, err := v.Denials(context.Background(), after, through, since, limit)
	if err != nil {
		t.Fatal(err)
	}
	return list, next
}

const valid, revoked = events.CodeValid, events.CodeRevoked

func TestNewSources(t *testing.T) {
	s := newStream(t)
	s.boot(1, 100)
	at := 10 * minute
	s.stored(1, "acme", at, 1, from(1, 1*minute, valid, "10.0.0.1"), from(1, 1*minute+1, valid, "10.0.0.1"), from(2, 2*minute, valid, ""))
	s.stored(1, "acme", at, 4, from(1, 3*minute+7, events.CodeInactive, "10.0.0.2"), from(2, 3*minute, valid, "curl"), from(2, 3*minute, valid, "wget"))
	// The first by another kind is none, and neither is one of a key that has ended.
	s.stored(1, "acme", at, 7, from(1, 4*minute, valid, "curl"), from(2, 4*minute, revoked, "evil"), from(2, 4*minute, events.CodeExpired, "bad"))
	// Known ones, another organization's key of that id, a clock that is ahead.
	s.stored(1, "acme", at, 10, from(1, 5*minute, valid, "10.0.0.1"), from(1, 5*minute, valid, "10.0.0.2"), from(2, 99*minute, valid, "ahead"))
	s.stored(1, "beta", at, 1, from(1, 5*minute, valid, "10.0.0.9"))
	for _, together := range []bool{true, false} {
		v := open(t, filepath.Join(t.TempDir(), "usage.db"))
		if together {
			apply(t, v, s.messages)
		} else {
			for _, m := range s.messages {
				apply(t, v, []uses.Message{m})
			}
		}
		last := events.Position(len(s.messages))
		want := []Source{
			{"acme", key(2), events.SourceUserAgent, "wget", 3 * minute, 3 * minute, "edge-1", valid, 3},
			{"acme", key(1), events.SourceClientIP, "10.0.0.2", 3*minute + 7, 5 * minute, "edge-1", events.CodeInactive, 3},
			{"acme", key(2), events.SourceUserAgent, "ahead", at, at, "edge-1", valid, 5},
		}
		got, next := newSources(t, v, 0, last, 0, 10)
		if diff := cmp.Diff(want, got); diff != "" || next != last {
			t.Errorf("together %v: on from %d\n%s", together, next, diff)
		}
		got, next = newSources(t, v, 0, last, 0, 1)
		if diff := cmp.Diff(want[:2], got); diff != "" || next != 3 {
			t.Errorf("a page: on from %d\n%s", next, diff)
		}
		if got, next = newSources(t, v, next, 4, 0, 1); len(got) != 0 || next != 4 {
			t.Errorf("between: %v, on from %d", got, next)
		}
		if got, _ = newSources(t, v, 0, last, 3*minute+1, 10); len(got) != 2 {
			t.Errorf("since: %v", got)
		}
		if v.News() == 0 || v.News() > last {
			t.Errorf("news up to %d", v.News())
		}
	}
}

// Of a key so many sources are kept and no more, however many there are, and those
// go on to be known.
func TestSourcesAreBounded(t *testing.T) {
	s := newStream(t)
	s.boot(1, 100)
	var list []uses.Use
	for i := range 3000 {
		list = append(list, from(1, events.Time(i), valid, fmt.Sprintf("10.0.%d.%d", i/256, i%256)))
	}
	s.uses(1, "acme", 1, list...)
	s.stored(1, "acme", 90*minute, 3001, from(1, 70*minute, valid, "10.0.0.33"), from(1, 70*minute, valid, "10.0.0.34"))
	path := filepath.Join(t.TempDir(), "usage.db")
	v := open(t, path)
	apply(t, v, s.messages[:2])
	if len(v.known.keys[keyName{"acme", key(1)}].sources) != MaxSources {
		t.Errorf("%d are remembered", len(v.known.keys[keyName{"acme", key(1)}].sources))
	}
	again := open(t, path)
	apply(t, again, s.messages)
	got, _ := newSources(t, again, 0, 3, 0, 10)
	if len(got) != MaxSources-1 || MaxSources <= events.MaxNewSources {
		t.Fatalf("%d sources", len(got))
	}
	for i, src := range got {
		if want := fmt.Sprintf("10.0.0.%d", i+1); src.Source != want || (src.LastAt == 70*minute) != (want == "10.0.0.33") {
			t.Errorf("%+v, want %s", src, want)
		}
	}
}

// What is remembered is bounded, too, and forgotten without harm.
func TestMemoryIsBounded(t *testing.T) {
	m := newKnown()
	for i := range maxKnown {
		name := keyName{"acme", events.KeyID{0: byte(i >> 16), 1: byte(i >> 8), 2: byte(i)}}
		m.keys[name] = &keyMemory{sources: make(sources, 2)}
		m.size += m.keys[name].size()
		m.shrink()
	}
	count := 0
	for _, k := range m.keys {
		count += k.size()
	}
	if count != m.size || count > maxKnown || len(m.keys) == 0 {
		t.Errorf("%d are counted, %d are there", m.size, count)
	}
}

func TestDenials(t *testing.T) {
	s := newStream(t)
	s.boot(1, 100)
	no, gone := events.CodeInsufficientPermissions, events.CodeOutOfScope
	t0 := 1000 * minute
	s.stored(1, "acme", t0+2*minute, 1, use(1, t0, no), use(1, t0+minute-1, gone), use(1, t0+minute, revoked), use(1, t0+minute, valid),
		use(2, t0, events.CodeExpired), use(2, t0, events.CodeInactive), use(2, t0, events.CodeStale), use(2, t0, events.CodeUnavailable))
	s.stored(1, "acme", t0+3*minute, 1, use(1, t0, no)) // again
	s.stored(1, "acme", t0+3*minute, 9, use(1, t0, no), use(1, t0+minute, no), use(1, t0+99*minute, no))
	v := open(t, filepath.Join(t.TempDir(), "usage.db"))
	apply(t, v, s.messages)
	list := []Denials{
		{"acme", key(2), t0, 2, 2}, {"acme", key(1), t0, 3, 4}, {"acme", key(1), t0 + minute, 2, 4},
	}
	got, next := denialsOf(t, v, 0, 4, 0, 10)
	if diff := cmp.Diff(list, got); diff != "" || next != 4 {
		t.Errorf("on from %d\n%s", next, diff)
	}
	if got, next = denialsOf(t, v, 0, 4, 0, 1); len(got) != 1 || next != 2 {
		t.Errorf("a page: %v, on from %d", got, next)
	}
	if got, _ = denialsOf(t, v, 2, 4, 0, 10); len(got) != 2 {
		t.Errorf("later: %v", got)
	}
	if got, _ = denialsOf(t, v, 0, 4, t0+1, 10); len(got) != 1 {
		t.Errorf("since: %v", got)
	}
}

// Minutes go when they are old by the stream's own time, those with few denials
// sooner, and what comes late is not counted.
func TestDenialsAreForgotten(t *testing.T) {
	s := newStream(t)
	s.boot(1, 100)
	t0, no := 10_000*minute, events.CodeInsufficientPermissions
	many := slices.Repeat([]uses.Use{use(1, t0, no)}, events.DefaultDenialsPerMinute)
	s.stored(1, "acme", t0, 1, append(many, use(2, t0, no), use(2, t0, no))...)
	v := open(t, filepath.Join(t.TempDir(), "usage.db"))
	left := func(want int) {
		t.Helper()
		apply(t, v, s.messages)
		if got, _ := denialsOf(t, v, 0, 99, 0, 99); len(got) != want {
			t.Errorf("%v, want %d", got, want)
		}
	}
	left(2)
	s.stored(1, "acme", t0+60*minute, 23, use(2, t0, no))
	left(2)
	s.stored(1, "acme", t0+61*minute, 24, use(2, t0, no), use(2, t0, no))
	left(1)
	s.stored(1, "acme", t0+24*60*minute, 26, use(3, t0, no), use(3, t0, no))
	left(1)
	s.stored(1, "acme", t0+24*60*minute+minute, 28, use(3, t0, valid))
	left(0)
}

// wild is a stream in which keys are used from everywhere, denied, told of late and
// again.
func wild(t testing.TB, r *rand.Rand) []uses.Message {
	s := newStream(t)
	s.boot(1, 100)
	codes := []events.Code{valid, valid, valid, revoked, events.CodeInsufficientPermissions, events.CodeExpired}
	now, next := 5000*minute, uint64(1)
	for range 150 {
		now += events.Time(r.IntN(30)) * minute / 2
		if r.IntN(15) == 0 && next > 1 { // again
			m := s.messages[1+r.IntN(len(s.messages)-1)]
			m.Stored = now
			s.put(m, nil)
			s.messages[len(s.messages)-1].Stored = now
			continue
		}
		var list []uses.Use
		for range 1 + r.IntN(40) {
			at := now - events.Time(r.IntN(3))*minute
			if r.IntN(20) == 0 {
				at = now - events.Time(r.IntN(100))*minute
			}
			source := []string{"", "curl", "10.0.0.1", fmt.Sprintf("10.0.0.%d", r.IntN(60)), fmt.Sprint("program ", r.IntN(30))}[r.IntN(5)]
			list = append(list, from(byte(r.IntN(4)), at, codes[r.IntN(len(codes))], source))
		}
		slices.SortFunc(list, func(a, b uses.Use) int { return int(a.At - b.At) })
		s.stored(1, "acme", now, next, list...)
		next += uint64(len(list))
	}
	return s.messages
}

// However a stream is sliced, whatever comes again, and however often the file is
// opened, it holds the same.
func TestRebuildOfSources(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 9))
	messages := wild(t, r)
	rows := func(v *View) (n [3]int) {
		for i, table := range []string{"source", "denials", "source WHERE news"} {
			if err := v.db.QueryRow(context.Background(), `SELECT count(*) FROM `+table).Scan(&n[i]); err != nil {
				t.Fatal(err)
			}
		}
		return n
	}
	var want [32]byte
	for round := range 5 {
		path := filepath.Join(t.TempDir(), "usage.db")
		v := open(t, path)
		for at := 0; at < len(messages); {
			next := len(messages)
			if round > 0 {
				next = min(next, at+1+r.IntN(40))
			}
			apply(t, v, messages[max(0, at-r.IntN(3)):next])
			if at = next; r.IntN(3) == 0 {
				v = open(t, path)
			}
			if r.IntN(3) == 0 {
				clear(v.memoryKeys())
			}
		}
		_, sum, err := v.Digest(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			want = sum
			if n := rows(v); n[0] < 100 || n[1] < 10 || n[2] < 50 {
				t.Fatalf("there is little to compare: %d", n)
			}
		}
		if sum != want {
			t.Errorf("round %d: other rows, %v", round, rows(v))
		}
	}
}

// memoryKeys is what is remembered, to be forgotten.
func (v *View) memoryKeys() map[keyName]*keyMemory {
	if v.known == nil {
		return nil
	}
	return v.known.keys
}
