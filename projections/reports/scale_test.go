package reports_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/reports"
)

// many makes a world of so many keys, each with a name, an owner and two
// permissions.
func many(t testing.TB, keys int) *world {
	w := newWorld(t)
	const slice = 2000
	for n := 1; n <= keys; n++ {
		w.create(acme, n, 100+n%300, func(e *events.KeyCreated) {
			e.Permissions = events.Permissions{Level: events.LevelRestricted, Grants: []string{"interview:read", "report:*"}}
			e.Metadata = events.Metadata{"owner": events.ClearText(fmt.Sprintf("team-%d", n%50))}
		})
		if n%slice == 0 || n == keys {
			w.must(w.catalog.Apply(context.Background(), w.facts))
			w.facts = w.facts[:0]
			w.from = events.Position(n)
		}
	}
	return w
}

// TestReportsKeepMemoryFlat reads reports of few and of many keys: what is held in
// between does not grow with them.
func TestReportsKeepMemoryFlat(t *testing.T) {
	const few, much = 500, 3_000
	held := func(keys int) int64 {
		w := many(t, keys)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		rows, most := 0, int64(0)
		err := w.reports.Whole(t.Context(), reports.Question{Report: reports.AccessReview, Org: acme, Within: everywhere, Now: now},
			func(reports.Head) error { return nil },
			func(reports.Row) error {
				if rows++; rows%(keys/4) == 0 {
					runtime.GC()
					runtime.ReadMemStats(&after)
					most = max(most, int64(after.HeapAlloc)-int64(before.HeapAlloc))
				}
				return nil
			})
		if err != nil || rows != keys {
			t.Fatalf("%d rows: %v", rows, err)
		}
		return most
	}
	a, b := held(few), held(much)
	t.Logf("held: %d KiB of %d keys, %d KiB of %d", a>>10, few, b>>10, much)
	if b > a+(1<<20) {
		t.Errorf("%d bytes are held of %d keys, and %d of %d", a, few, b, much)
	}
}

// BenchmarkAccessReview reads a report of 100,000 keys from its first row to its
// last.
func BenchmarkAccessReview(b *testing.B) {
	const keys = 100_000
	w := many(b, keys)
	for _, name := range []reports.Name{reports.AccessReview, reports.Dormant, reports.OverWide, reports.NeverExpires} {
		b.Run(string(name), func(b *testing.B) {
			rows := 0
			for b.Loop() {
				rows = 0
				err := w.reports.Whole(b.Context(), reports.Question{Report: name, Org: acme, Within: everywhere, Now: now, Days: 90},
					func(reports.Head) error { return nil }, func(reports.Row) error { rows++; return nil })
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(keys)*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
		})
	}
}
