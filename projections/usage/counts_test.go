package usage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/sqlview"
)

func counted(t testing.TB, v *View, f CountFilter) map[string]uint64 {
	t.Helper()
	found := map[string]uint64{}
	last := ""
	for {
		page, next, err := v.Counts(context.Background(), f)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page {
			name := fmt.Sprintf("%020d %02d", c.At, c.Code)
			if name <= last {
				t.Fatalf("%s after %s", name, last)
			}
			last = name
			found[name] = c.Count
		}
		if next == "" {
			return found
		}
		f.Cursor = next
	}
}

// Counts are those of the uses that a reader of the whole stream finds, by every
// unit, and so are the tables beside them.
//
// Breaking it: what a newer minute pushes out of a key's row is not written.
func TestCountsAreThoseOfTheStream(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 9))
	messages := lives(t, r, 800, true)
	v := open(t, filepath.Join(t.TempDir(), "usage.db"))
	for at := 0; at < len(messages); {
		next := min(len(messages), at+1+r.IntN(100))
		apply(t, v, messages[at:next])
		at = next
	}
	list := all(t, messages)
	from, to := list[len(list)/4].At, list[len(list)/2].At
	for unit, length := range map[Unit]events.Time{ByMinute: minute, ByHour: hour, ByDay: 24 * hour} {
		for _, org := range []events.OrgID{"acme", "beta", "gone"} {
			for n := range byte(12) {
				f := CountFilter{Org: org, Unit: unit, Page: sqlview.Page{Limit: 7}}
				if n > 0 {
					f.Key = key(n)
				}
				if n%2 == 0 {
					f.From, f.To = from, to
				}
				if n%3 == 0 {
					f.Code = 4
				}
				want := map[string]uint64{}
				for _, u := range list {
					at := u.At - u.At%length
					if u.Org == org && (n == 0 || u.Key == f.Key) && (f.Code == 0 || u.Code == f.Code) && (n%2 != 0 || at >= from-from%length && at < to) {
						want[fmt.Sprintf("%020d %02d", at, u.Code)]++
					}
				}
				if diff := gocmp.Diff(want, counted(t, v, f)); diff != "" {
					t.Fatalf("%s of %s, key %d: %s", unit, org, n, diff)
				}
			}
		}
	}
	wantTables(t, v, list)
}

// wantTables compares what other views and tools read.
func wantTables(t *testing.T, v *View, list []Use) {
	t.Helper()
	want := map[string]map[string]int64{"permission_use": {}, "denied_source": {}, "key_counts": {}, "org_counts": {}}
	for _, u := range list {
		at, day := int64(u.At-u.At%hour), u.At-u.At%(24*hour)
		want["key_counts"][fmt.Sprintf("%s %s %d %d", u.Org, u.Key, at, u.Code)]++
		want["org_counts"][fmt.Sprintf("%s %d %d", u.Org, at, u.Code)]++
		if u.Code != events.CodeValid {
			kind := ""
			if u.ClientIP != "" {
				kind = string(events.SourceClientIP)
			}
			want["denied_source"][fmt.Sprintf("%s %s %d %d %s %s", u.Org, u.Key, day, u.Code, kind, u.ClientIP)]++
			continue
		}
		for _, name := range []string{"a:read", "a:write", "b:read"} {
			if u.Permission == name || u.Permission == "a:read AND (b:read OR a:read)" && name != "a:write" {
				row := fmt.Sprintf("%s %s %s", u.Org, u.Key, name)
				want["permission_use"][row] = max(want["permission_use"][row], at)
			}
		}
	}
	for table, query := range map[string]string{
		"key_counts":     `SELECT org || ' ' || key || ' ' || hour || ' ' || code, sum(count) FROM key_counts GROUP BY 1`,
		"org_counts":     `SELECT org || ' ' || hour || ' ' || code, count FROM org_counts`,
		"denied_source":  `SELECT org || ' ' || key || ' ' || day || ' ' || code || ' ' || kind || ' ' || source, count FROM denied_source`,
		"permission_use": `SELECT org || ' ' || key || ' ' || permission, at FROM permission_use`,
	} {
		type row struct {
			name  string
			count int64
		}
		got := map[string]int64{}
		rows, err := sqlview.All(t.Context(), v.db, func(s sqlview.Scanner) (r row, err error) { return r, s.Scan(&r.name, &r.count) }, query)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			got[r.name] = r.count
		}
		if table == "denied_source" {
			// Which of them are kept, the tests of sources tell.
			sum := func(m map[string]int64) (n int64) {
				for _, count := range m {
					n += count
				}
				return n
			}
			if sum(got) != sum(want[table]) || len(got) < 100 {
				t.Errorf("%d refusals in %d rows, want %d", sum(got), len(got), sum(want[table]))
			}
			continue
		}
		if diff := gocmp.Diff(want[table], got); diff != "" {
			t.Errorf("%s: %s", table, diff)
		}
	}
}

// Where refused uses came from is told of the sources that are kept.
func TestRefusalsBySource(t *testing.T) {
	s := newStream(t)
	s.boot(1, 100)
	var list []uses.Use
	for i := range 2 * MaxSources {
		list = append(list, from(1, events.Time(i), revoked, fmt.Sprintf("10.0.0.%d", i)))
	}
	list = append(list, from(1, 200, revoked, "10.0.0.1"), use(1, 201, revoked), from(1, 202, valid, "10.0.0.1"))
	list[len(list)-2].UserAgent = ""
	s.uses(1, "acme", 1, list...)
	for _, together := range []bool{true, false} {
		v := open(t, filepath.Join(t.TempDir(), "usage.db"))
		if together {
			apply(t, v, s.messages)
		} else {
			apply(t, v, s.messages[:1])
			apply(t, v, s.messages[1:])
		}
		rows, err := sqlview.All(t.Context(), v.db, func(s sqlview.Scanner) (n int, err error) { return n, s.Scan(&n) },
			`SELECT count FROM denied_source ORDER BY source`)
		if err != nil {
			t.Fatal(err)
		}
		want := append([]int{MaxSources + 1, 1, 2}, slices.Repeat([]int{1}, MaxSources-2)...)
		if !slices.Equal(rows, want) {
			t.Errorf("together %v: %v, want %v", together, rows, want)
		}
	}
}

// A long life, cut into any slices, with the file opened anew and everything that
// is remembered forgotten in between, gives the same rows.
func TestRebuildOfALife(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 6))
	messages := lives(t, r, 400, true)
	var want [32]byte
	for round := range 3 {
		path := filepath.Join(t.TempDir(), "usage.db")
		v := open(t, path)
		for at := 0; at < len(messages); {
			next := len(messages)
			if round > 0 {
				next = min(next, at+1+r.IntN(60))
			}
			apply(t, v, messages[at:next])
			at = next
			switch r.IntN(6) {
			case 0:
				if err := v.Close(); err != nil {
					t.Fatal(err)
				}
				v = open(t, path)
			case 1:
				clear(v.known.keys)
				v.known.size = 0
			}
		}
		_, sum, err := v.Digest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			want = sum
		} else if sum != want {
			t.Errorf("round %d: other rows", round)
		}
	}
}

// What is found is listed by its pages, with boots without an end in their place,
// and to an organization what concerns it.
func TestIncomplete(t *testing.T) {
	v := open(t, filepath.Join(t.TempDir(), "usage.db"))
	apply(t, v, busy(t))
	kinds := func(org events.OrgID) (list []string) {
		f := FindingFilter{Org: org, Page: sqlview.Page{Limit: 1}}
		for {
			page, next, err := v.Incomplete(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for _, found := range page {
				list = append(list, fmt.Sprintf("%d %s %s %v", found.Position, found.Kind, found.Org, found.Superseded))
			}
			if next == "" {
				return list
			}
			f.Cursor = next
		}
	}
	every := []string{
		"3 missing acme false", "5 repeated acme false", "8 total _system false", "9 unended _system true",
		"11 unended _system false", "12 missing acme false",
	}
	if diff := gocmp.Diff(every, kinds("")); diff != "" {
		t.Error(diff)
	}
	if diff := gocmp.Diff(every, kinds("acme")); diff != "" {
		t.Error(diff)
	}
	// Boots 2 and 3 have no use of beta, as far as anybody knows: what they lost may
	// have been all of it. Their verifier had some before.
	beta := []string{"8 total _system false", "9 unended _system true", "11 unended _system false"}
	if diff := gocmp.Diff(beta, kinds("beta")); diff != "" {
		t.Error(diff)
	}
	if got := kinds("gamma"); len(got) != 0 {
		t.Errorf("%v concern others", got)
	}
}
