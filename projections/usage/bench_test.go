package usage

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// BenchmarkUses asks for pages of single uses out of a million, of 100,000 keys of
// one organization, in small blocks as a busy verifier writes them: 80 a second.
// The slowest of a hundred is told beside the mean.
func BenchmarkUses(b *testing.B) {
	const blocks, each, keys = 5000, 200, 100_000
	r := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(r, 1.1, 1, keys-1)
	name := func(k uint64) events.KeyID {
		return events.KeyID{6: 0x70, 13: byte(k >> 16), 14: byte(k >> 8), 15: byte(k)}
	}
	s := newStream(b)
	begin := 500 * hour
	s.boot(1, begin)
	var seen []uint64
	for i := range blocks {
		list := make([]uses.Use, each)
		for j := range list {
			k := zipf.Uint64()
			if j == 0 {
				seen = append(seen, k)
			}
			list[j] = use(0, begin+events.Time(i*each+j)*62, events.CodeValid)
			if r.IntN(20) == 0 {
				list[j].Code = events.CodeExpired
			}
			list[j].Key = name(k)
		}
		s.uses(1, "acme", uint64(i*each+1), list...)
		s.messages[len(s.messages)-1].Stored = list[each-1].At + 5000
	}
	end := begin + blocks*each*62
	v := openWith(b, filepath.Join(b.TempDir(), "usage.db"), &held{messages: s.messages})
	for part := range slices.Chunk(s.messages, 256) {
		apply(b, v, part)
	}
	moment := func() events.Time { return begin + events.Time(r.Int64N(int64(end-begin))) }
	for _, question := range []struct {
		name string
		ask  func() error
	}{
		{"key", func() error { return page(v, Filter{Org: "acme", Key: name(seen[r.IntN(len(seen))])}) }},
		{"busiest key", func() error { return page(v, Filter{Org: "acme", Key: name(0), To: moment()}) }},
		{"key and verdict", func() error {
			return page(v, Filter{Org: "acme", Key: name(seen[r.IntN(len(seen))]), Code: events.CodeExpired})
		}},
		{"time", func() error { return page(v, Filter{Org: "acme", To: moment()}) }},
		{"time and verdict", func() error { return page(v, Filter{Org: "acme", To: moment(), Code: events.CodeExpired}) }},
		{"hours of a key", func() error {
			_, _, err := v.Counts(b.Context(), CountFilter{Org: "acme", Key: name(seen[r.IntN(len(seen))]), Unit: ByHour})
			return err
		}},
		{"minutes of an organization", func() error {
			_, _, err := v.Counts(b.Context(), CountFilter{Org: "acme", Unit: ByMinute})
			return err
		}},
	} {
		b.Run(question.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if err := question.ask(); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs/op")
		})
	}
}

func page(v *View, f Filter) error {
	f.Page = sqlview.Page{Limit: 50}
	_, _, err := v.Uses(context.Background(), f)
	return err
}
