package usage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// held is a stream that is read block by block, from a position on.
type held struct {
	messages []uses.Message
	begins   events.Position
	fetched  atomic.Int64
}

func (h *held) UsesAt(_ context.Context, pos events.Position) (events.UsesMessage, error) {
	h.fetched.Add(1)
	if pos < h.begins || pos == 0 || int(pos) > len(h.messages) {
		return events.UsesMessage{}, events.ErrInvalidPosition
	}
	return h.messages[pos-1], nil
}

func openWith(t testing.TB, path string, source BlockReader) *View {
	t.Helper()
	v, err := Open(context.Background(), Config{Path: path, Of: of, Blocks: source})
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

// life makes a stream of some hours in which several verifiers of several
// organizations come and go, are late, fail for a while, repeat what they sent, and
// have clocks that are ahead.
func life(t testing.TB, r *rand.Rand, blocks int) []uses.Message { return lives(t, r, blocks, false) }

// lives is a life in which blocks may overlap, too.
func lives(t testing.TB, r *rand.Rand, blocks int, overlap bool) []uses.Message {
	s := newStream(t)
	type verifier struct {
		boot  byte
		next  map[events.OrgID]uint64
		late  events.Time
		again []uses.Message
	}
	verifiers := make([]*verifier, 3)
	boots := byte(0)
	now := 500 * hour
	for len(s.messages) < blocks {
		i := r.IntN(len(verifiers))
		v := verifiers[i]
		switch {
		case v == nil || r.IntN(60) == 0:
			boots++
			verifiers[i] = &verifier{boot: boots, next: map[events.OrgID]uint64{}, late: events.Time(r.IntN(2)) * events.Time(r.IntN(30)) * minute}
			s.boot(boots, now)
			s.messages[len(s.messages)-1].Stored = now
			continue
		case len(v.again) > 0 && r.IntN(20) == 0:
			m := v.again[r.IntN(len(v.again))]
			s.put(m, nil)
			s.messages[len(s.messages)-1].Stored = now
			continue
		}
		org := []events.OrgID{"acme", "acme", "beta"}[r.IntN(3)]
		var list []uses.Use
		at := now - v.late
		for range 1 + r.IntN(1+r.IntN(40)) {
			u := use(byte(1+min(r.IntN(9), r.IntN(9))), at, []events.Code{1, 1, 1, 1, 1, 4, 7}[r.IntN(7)])
			u.Permission = []string{"", "a:read", "a:write", "a:read AND (b:read OR a:read)"}[r.IntN(4)]
			u.Workspace = []string{"", "main", "side"}[r.IntN(3)]
			u.RequestID = fmt.Sprint("r", r.IntN(1000))
			if r.IntN(4) == 0 {
				u.ClientIP = fmt.Sprint("10.0.0.", r.IntN(50))
			}
			list = append(list, u)
			if r.IntN(3) > 0 {
				at += events.Time(r.IntN(20_000_000))
			}
		}
		v.next[org]++
		if r.IntN(30) == 0 {
			v.next[org] += 5 // lost
		}
		if overlap && v.next[org] > 4 && r.IntN(20) == 0 {
			v.next[org] -= 3 // some of them came before
		}
		now = max(now, at-minute/2) // its clock may be ahead
		s.uses(v.boot, org, v.next[org], list...)
		s.messages[len(s.messages)-1].Stored = now
		v.again = append(v.again, s.messages[len(s.messages)-1])
		v.next[org] += uint64(len(list)) - 1
		now += events.Time(r.IntN(40_000_000))
	}
	return s.messages
}

// all is every use of a stream that came for the first time, in the order of a list:
// what the view shall find, without it.
func all(t testing.TB, messages []uses.Message) []Use {
	dec, err := uses.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	var seen uses.Continuity
	var list []Use
	for _, m := range messages {
		b, err := dec.Decode(m.Subject, m.Body)
		if err != nil {
			t.Fatal(err)
		}
		fresh, _ := seen.Add(b.Header)
		for i, u := range b.Uses {
			if number := b.First + uint64(i); fresh > 0 && number >= fresh {
				u.At = min(u.At, m.Stored)
				list = append(list, Use{b.Org, u, m.Stored, b.Verifier, b.Boot, number, m.Position})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b Use) int { return cmp.Compare(a.At, b.At) })
	return list
}

// listed reads a whole list by its pages.
func listed(t testing.TB, v *View, f Filter) []Use {
	t.Helper()
	var list []Use
	for range 10_000 {
		page, next, err := v.Uses(context.Background(), f)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, page...)
		if len(page) > f.Rows() {
			t.Fatalf("a page of %d", len(page))
		}
		if next == "" {
			return list
		}
		f.Cursor = next
	}
	t.Fatal("a list without an end")
	return nil
}

// Every list is what a reader of the whole stream finds, whatever is asked for.
//
// Breaking it: an index without the uses that came late, a merge that takes a block
// before another one that begins earlier.
func TestUsesAreThoseOfTheStream(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	messages := lives(t, r, 1000, true)
	source := &held{messages: messages}
	v := openWith(t, filepath.Join(t.TempDir(), "usage.db"), source)
	for at := 0; at < len(messages); {
		next := min(len(messages), at+1+r.IntN(200))
		apply(t, v, messages[at:next])
		at = next
	}
	want := all(t, messages)
	if len(want) < 4000 {
		t.Fatalf("%d uses prove little", len(want))
	}
	first, last := want[0].At, want[len(want)-1].At
	for round := range 50 {
		f := Filter{Org: "acme", Ascending: r.IntN(2) == 0, Page: sqlview.Page{Limit: 1 + r.IntN(200)}}
		if r.IntN(4) == 0 {
			f.Org = "beta"
		}
		if r.IntN(3) > 0 {
			f.Key = key(byte(1 + r.IntN(10)))
		}
		if r.IntN(2) == 0 {
			f.From = first + events.Time(r.Int64N(int64(last-first)))
		}
		if r.IntN(2) == 0 {
			f.To = first + events.Time(r.Int64N(int64(last-first)))
		}
		if r.IntN(4) == 0 {
			f.Code = []events.Code{1, 4, 7, 5}[r.IntN(4)]
		}
		if r.IntN(4) == 0 {
			f.Permission = []string{"a:read", "b:read", "a:re"}[r.IntN(3)]
		}
		if r.IntN(4) == 0 {
			f.Workspace = "side"
		}
		if r.IntN(4) == 0 {
			f.Sees = func(_ context.Context, keys []events.KeyID) (map[events.KeyID]bool, error) {
				seen := map[events.KeyID]bool{}
				for _, k := range keys {
					seen[k] = k[15]%2 == 0
				}
				return seen, nil
			}
		}
		expected := slices.DeleteFunc(slices.Clone(want), func(u Use) bool {
			asked := f.Permission == "" || u.Permission == f.Permission ||
				strings.HasPrefix(u.Permission, "a:read AND") && (f.Permission == "a:read" || f.Permission == "b:read")
			return u.Org != f.Org || !f.Key.IsZero() && u.Key != f.Key || u.At < f.From || f.To != 0 && u.At >= f.To ||
				f.Code != 0 && u.Code != f.Code || !asked || f.Workspace != "" && u.Workspace != f.Workspace ||
				f.Sees != nil && u.Key[15]%2 != 0
		})
		if !f.Ascending {
			slices.Reverse(expected)
		}
		if diff := gocmp.Diff(expected, listed(t, v, f), gocmp.Comparer(func(a, b []Use) bool { return slices.Equal(a, b) })); diff != "" {
			t.Fatalf("round %d, %+v: %s", round, f, diff)
		}
	}
	t.Logf("%d uses in %d blocks, %d fetched", len(want), len(messages), source.fetched.Load())
}

func TestCursorsOfOtherListsAreRefused(t *testing.T) {
	v := openWith(t, filepath.Join(t.TempDir(), "usage.db"), &held{messages: life(t, rand.New(rand.NewPCG(1, 1)), 50)})
	apply(t, v, v.cfg.Blocks.(*held).messages)
	f := Filter{Org: "acme", Page: sqlview.Page{Limit: 1}}
	_, next, err := v.Uses(t.Context(), f)
	if err != nil || next == "" {
		t.Fatal(next, err)
	}
	for _, cursor := range []string{"x", next + "A", strings.ToLower(next), strings.Repeat("A", 100)} {
		f.Cursor = cursor
		if _, _, err := v.Uses(t.Context(), f); !errors.Is(err, ErrBadCursor) {
			t.Errorf("%q: %v", cursor, err)
		}
	}
	f.Cursor, f.Ascending = next, true
	if _, _, err := v.Uses(t.Context(), f); !errors.Is(err, ErrBadCursor) {
		t.Error(err)
	}
}
