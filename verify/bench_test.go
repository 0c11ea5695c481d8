package verify_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// secretLen is that of a key with the default prefix.
const secretLen = 48

// sampleSize is how many keys are asked about, in random order. Their slots
// are larger than any cache, and their secrets are read in sequence.
const sampleSize = 1 << 21

// load is an index with very many keys, and what it is compared with.
type load struct {
	index    *index.Index
	verifier *verify.Verifier
	keys     int
	orgs     int
	bytes    float64
	position events.Position
	// revisions are those of keys that were changed.
	revisions map[int]events.Revision
	// sample holds secrets one after another, table as many bytes as slots.
	sample []byte
	table  [][8]uint64
}

func appendSecret(b []byte, n uint64) []byte {
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz01"
	end := len(b) + secretLen
	b = append(b, "kl_live_"...)
	for x := n * 0x9e3779b97f4a7c15; len(b) < end; {
		x = (x ^ x>>29) * 0xbf58476d1ce4e5b9
		for y, i := x, 0; i < 10 && len(b) < end; i++ {
			b = append(b, alphabet[y&63])
			y >>= 6
		}
	}
	return b
}

func (l *load) org(n int) events.OrgID { return events.OrgID(fmt.Sprint("org-", n%l.orgs)) }

func (l *load) created(n uint64, orgs []events.OrgID) events.Recorded {
	var buf [secretLen]byte
	k := events.KeyCreated{
		ID: keyID(int(n)), KeyKind: events.KindAPI,
		Digest: events.Digest{Alg: events.SHA256, Value: keystring.Digest(string(appendSecret(buf[:0], n)))},
		Scope:  events.Scope{AllWorkspaces: true},
	}
	// A handful of different grants in each organization.
	switch n / uint64(len(orgs)) % 4 {
	case 0:
		k.Permissions = events.Permissions{Level: events.LevelAll}
	case 1:
		k.Permissions = events.Permissions{Level: events.LevelReadOnly}
	case 2:
		k.Permissions = events.Permissions{Level: events.LevelRestricted, Grants: []string{"doc:*"}}
	case 3:
		k.Permissions = events.Permissions{Level: events.LevelRestricted, Grants: []string{"doc:read"}}
		k.Scope = events.Scope{Workspaces: []events.WorkspaceID{"w1"}}
	}
	l.position++
	return events.Recorded{
		Position: l.position, Subject: events.KeySubject(orgs[n%uint64(len(orgs))], k.ID),
		Event: k, Meta: events.Meta{Revision: 1},
	}
}

func (l *load) names() []events.OrgID {
	out := make([]events.OrgID, l.orgs)
	for i := range out {
		out[i] = l.org(i)
	}
	return out
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func newLoad(b *testing.B, keys, orgs int) *load {
	b.Helper()
	l := &load{index: newIndex(b, 0), keys: keys, orgs: orgs, revisions: map[int]events.Revision{}}
	before := heap()
	facts := newLedger(l.index)
	for n := range orgs {
		facts.begin(l.org(n))
	}
	l.position = facts.position
	started := time.Now()
	names := l.names()
	batch := make([]events.Recorded, 0, 4096)
	for n := range keys {
		if batch = append(batch, l.created(uint64(n), names)); len(batch) == cap(batch) || n == keys-1 {
			if err := l.index.Apply(b.Context(), batch); err != nil {
				b.Fatal(err)
			}
			batch = batch[:0]
		}
	}
	facts, batch = nil, nil
	applied := time.Since(started)
	l.bytes = float64(heap()-before) / float64(keys)
	b.Logf("%d keys in %s, %.1f bytes a key", keys, applied.Round(time.Millisecond), l.bytes)
	if err := l.index.Err(); err != nil || l.index.Len() != keys {
		b.Fatal(err, l.index.Len())
	}

	order := rand.New(rand.NewPCG(1, 2))
	l.sample = make([]byte, 0, sampleSize*secretLen)
	for range sampleSize {
		l.sample = appendSecret(l.sample, order.Uint64N(uint64(keys)))
	}
	l.table = make([][8]uint64, l.index.Stats().Slots)
	for i := range l.table {
		l.table[i][0] = uint64(i)
	}
	l.judge(b)
	return l
}

// judge makes what gives verdicts from the index.
func (l *load) judge(b *testing.B) {
	b.Helper()
	l.verifier = newVerifier(b, verify.Config{Index: l.index, Recorder: newRecorder(b, drain{}, recording.Config{MaxBuffered: 1 << 18, MaxWait: time.Second})})
}

// baseline is the least that a table of digests can cost.
func (l *load) baseline(secrets string) (sum uint64) {
	size := uint64(len(l.table))
	for ; secrets != ""; secrets = secrets[secretLen:] {
		d := keystring.Digest(secrets[:secretLen])
		h := uint64(d[0])<<24 | uint64(d[1])<<16 | uint64(d[2])<<8 | uint64(d[3])
		sum += l.table[h*size>>32][0]
	}
	return sum
}

// verdicts is what is compared with it: whole verdicts, with their uses
// recorded.
func (l *load) verdicts(ctx context.Context, secrets string) (valid uint64) {
	for ; secrets != ""; secrets = secrets[secretLen:] {
		d := l.verifier.Verify(ctx, &verify.Question{Secret: secrets[:secretLen], Permission: "doc:read", Context: recording.Context{RequestID: "r-1"}})
		if d.Valid() {
			valid++
		}
	}
	return valid
}

const block = 4096

// secrets returns the secrets of the n-th block of the sample.
func (l *load) secrets(n int) string {
	at := n * block * secretLen % len(l.sample)
	return string(l.sample[at : at+block*secretLen])
}

// compare takes turns between the two, so that whatever else the machine does
// meets both, and reports their ratio. Workers each do as much as one alone.
func (l *load) compare(b *testing.B, workers int) {
	var base, verdict time.Duration
	var sink, valid atomic.Uint64
	each := func(turn int, f func(string) uint64, into *atomic.Uint64) time.Duration {
		var group sync.WaitGroup
		texts := make([]string, workers)
		for w := range workers {
			texts[w] = l.secrets(turn*workers + w)
		}
		started := time.Now()
		for w := range workers {
			group.Go(func() { into.Add(f(texts[w])) })
		}
		group.Wait()
		return time.Since(started)
	}
	turns := 0
	for done := 0; done < b.N; done += 2 * block * workers {
		base += each(2*turns, l.baseline, &sink)
		verdict += each(2*turns+1, func(s string) uint64 { return l.verdicts(b.Context(), s) }, &valid)
		turns++
	}
	n := float64(turns * block * workers)
	if valid.Load() != uint64(n) {
		b.Fatalf("%d of %.0f verdicts are VALID", valid.Load(), n)
	}
	b.ReportMetric(float64(base)/n, "baseline-ns")
	b.ReportMetric(float64(verdict)/n, "verdict-ns")
	b.ReportMetric(float64(verdict)/float64(base), "ratio")
	b.ReportMetric(l.bytes, "B/key")
	b.ReportMetric(0, "ns/op") // a mixture, and of no meaning
}

// tail measures single verdicts while the writer does something.
func (l *load) tail(b *testing.B, write func(stop *atomic.Bool)) {
	took := make([]uint32, 0, b.N)
	var stop atomic.Bool
	var writer sync.WaitGroup
	if write != nil {
		writer.Go(func() { write(&stop) })
	}
	for n := 0; len(took) < b.N; n++ {
		for text := l.secrets(n); text != "" && len(took) < b.N; text = text[secretLen:] {
			started := time.Now()
			l.verdicts(b.Context(), text[:secretLen])
			took = append(took, uint32(time.Since(started)))
		}
	}
	stop.Store(true)
	writer.Wait()
	slices.Sort(took)
	at := func(q float64) float64 { return float64(took[int(float64(len(took)-1)*q)]) }
	b.ReportMetric(at(0.5), "p50-ns")
	b.ReportMetric(at(0.99), "p99-ns")
	b.ReportMetric(at(0.999), "p99.9-ns")
	b.ReportMetric(0, "ns/op")
}

// insertRate is what a busy ledger appends in a second, several times over.
const insertRate = 20_000

// insert adds keys, and with them growth, at insertRate.
func (l *load) insert(stop *atomic.Bool) {
	names := l.names()
	for !stop.Load() {
		for range insertRate / 1000 {
			l.more(names)
		}
		time.Sleep(time.Millisecond)
	}
}

// replay adds keys as fast as it can, as a verifier that has fallen behind.
func (l *load) replay(stop *atomic.Bool) {
	for names := l.names(); !stop.Load(); {
		l.more(names)
	}
}

func (l *load) more(names []events.OrgID) {
	r := l.created(uint64(l.position)+1<<40, names)
	if err := l.index.Apply(context.Background(), []events.Recorded{r}); err != nil {
		panic(err)
	}
}

// change changes keys that are there, at insertRate.
func (l *load) change(stop *atomic.Bool) {
	revisions := l.revisions
	names := l.names()
	for i := 0; !stop.Load(); i++ {
		if i%(insertRate/1000) == 0 {
			time.Sleep(time.Millisecond)
		}
		n := i * 7919 % min(l.keys, 100_000)
		if revisions[n] == 0 {
			revisions[n] = 1
		}
		revisions[n]++
		l.position++
		r := events.Recorded{
			Position: l.position, Subject: events.KeySubject(names[n%len(names)], keyID(n)), Event: events.KeyRenamed{},
			Meta: events.Meta{Revision: revisions[n]},
		}
		if revisions[n] < 50 {
			r.Event = events.KeyExpiryChanged{ExpiresAt: 4_000_000_000 * second}
		}
		if err := l.index.Apply(context.Background(), []events.Recorded{r}); err != nil {
			return
		}
	}
}

// BenchmarkVerdict compares whole verdicts, uses recorded, with SHA-256 of the
// key and one random read of a table as large, in turns. The one with 10 million
// keys takes 3 GB and most of a minute to set up; -short leaves it out.
func BenchmarkVerdict(b *testing.B) {
	for _, c := range []struct{ millions, orgs int }{{1, 1}, {1, 1000}, {10, 1}, {10, 1000}} {
		b.Run(fmt.Sprintf("keys=%dM/orgs=%d", c.millions, c.orgs), func(b *testing.B) {
			if testing.Short() && c.millions > 1 {
				b.Skip("leaves out the large ones")
			}
			l := newLoad(b, c.millions*1_000_000, c.orgs)
			b.Run("alone", func(b *testing.B) { l.compare(b, 1) })
			b.Run("parallel", func(b *testing.B) { l.compare(b, runtime.GOMAXPROCS(0)) })
			b.Run("tail/rest", func(b *testing.B) { l.tail(b, nil) })
			b.Run("tail/changes", func(b *testing.B) { l.tail(b, l.change) })
			b.Run("tail/inserts", func(b *testing.B) { l.tail(b, l.insert) })
			b.Run("tail/replay", func(b *testing.B) { l.tail(b, l.replay) })
		})
	}
}
