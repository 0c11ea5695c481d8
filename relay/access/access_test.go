package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
)

var ledger = events.LedgerID{1}

// broker takes records, unless it is away.
type broker struct {
	mu      sync.Mutex
	away    error
	tries   int
	byID    map[string]bool
	records []access.Record
}

func (b *broker) PublishAccess(ctx context.Context, list []access.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tries++
	if b.byID == nil {
		b.byID = map[string]bool{}
	}
	for i, m := range list {
		// One that goes away in the middle has stored the first half.
		if b.away != nil && i >= len(list)/2 {
			return b.away
		}
		if b.byID[m.ID] {
			continue
		}
		r, err := access.Decode(ledger, m)
		if err != nil {
			return err
		}
		b.byID[m.ID], b.records = true, append(b.records, r)
	}
	return ctx.Err()
}

func (b *broker) leave(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = err
}

// told is what came of what was told: counts by kind and organization, and how many
// rows and records there are of each minute.
type told struct {
	counts        map[string]uint64
	rows, records map[events.Time]int
	others        uint64
	sources       map[string]uint64
}

func (b *broker) told() told {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := told{map[string]uint64{}, map[events.Time]int{}, map[events.Time]int{}, 0, map[string]uint64{}}
	rows := map[access.Row]bool{}
	for _, r := range b.records {
		out.counts[string(r.Kind)+" "+string(r.Org)] += r.Count
		out.records[r.Minute]++
		out.sources[r.Source] += r.Count
		if !rows[r.Row] {
			rows[r.Row] = true
			out.rows[r.Minute]++
		}
		if r.What == access.Others {
			out.others += r.Count
		}
	}
	return out
}

// list is a copy of the records.
func (b *broker) list() []access.Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.records)
}

func gatherer(t testing.TB, to Sink, log *slog.Logger) *Gatherer {
	t.Helper()
	g, err := New(Config{
		Ledger: ledger, Server: "s-1", Sink: to, Logger: log,
		Tell: func(_ context.Context, day, source string) (string, access.SourceKind) {
			return "label of " + source, access.SourceLabel
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func stop(t testing.TB, g *Gatherer) {
	t.Helper()
	if err := g.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func actor(n byte) events.Actor {
	return events.Actor{Type: events.ActorKey, Org: "acme", Key: events.KeyID{15: n}}
}

func attempt(source string) Entry {
	return Entry{Kind: access.SecretUnknown, Org: events.System, What: "verify", Code: "NOT_FOUND", Source: source}
}

// What is new is stored within a second, and what there is of it by its minute's end;
// nothing is counted twice.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broker{}
		g := gatherer(t, b, nil)
		g.Start()
		// A minute began, and nothing is written at this very instant.
		time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute + 100*time.Millisecond)))
		read := Entry{Kind: access.AuditRead, Org: "acme", Actor: actor(1), Role: events.RoleAuditor, What: "list", RequestID: "r-1"}
		g.Add(read)
		read.RequestID = "r-2"
		g.Add(read)
		g.Add(attempt("192.0.2.1"))
		time.Sleep(1100 * time.Millisecond)
		if n := len(b.list()); n != 2 {
			t.Fatalf("%d records: %+v", n, b.list())
		}
		for _, r := range b.list() {
			want := uint64(1)
			if r.Kind == access.AuditRead {
				want = 2
				if r.RequestID != "r-1" || r.Actor != actor(1) || r.Role != events.RoleAuditor {
					t.Errorf("%+v", r)
				}
			}
			if r.Count != want || r.Minute != access.Minute(r.FirstAt) || r.Boot.IsZero() {
				t.Errorf("%+v", r)
			}
		}
		// Sixty a minute make no sixty records.
		for range 50 {
			g.Add(read)
			time.Sleep(time.Second)
		}
		if n := len(b.list()); n > 3 {
			t.Errorf("%d records", n)
		}
		time.Sleep(time.Minute)
		out := b.told()
		if out.counts["audit.read acme"] != 52 || out.counts["secret.unknown _system"] != 1 || len(b.list()) > 4 {
			t.Errorf("%+v of %d", out, len(b.list()))
		}
		stop(t, g)
		if g.Stats().Taken != 53 || g.Stats().Stored != uint64(len(b.list())) {
			t.Errorf("%+v", g.Stats())
		}
	})
}

// A flood from different sources is told in a bounded number of rows, less and less
// as it goes on, and counted to the last. Nobody else's rows are in it.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broker{}
		g := gatherer(t, b, nil)
		g.Start()
		const minutes, each = 10, 3000
		for minute := range minutes {
			time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)))
			for i := range each {
				g.Add(attempt(fmt.Sprintf("2001:db8::%x:%x", minute, i)))
				login := attempt(fmt.Sprintf("2001:db8:1::%x:%x", minute, i))
				login.Kind, login.Code, login.What = access.LoginFailed, "MALFORMED", fmt.Sprint("GET /", i)
				g.Add(login)
				if i%100 == 0 {
					time.Sleep(time.Second)
					g.Add(Entry{Kind: access.AuditRead, Org: "acme", Actor: actor(byte(i / 100)), What: "list"})
				}
			}
		}
		stop(t, g)
		out := b.told()
		if out.counts["secret.unknown _system"] != minutes*each || out.counts["login.failed _system"] != minutes*each || out.counts["audit.read acme"] != minutes*each/100 {
			t.Errorf("%v", out.counts)
		}
		if out.others == 0 {
			t.Error("all is told apart")
		}
		// 30 of audit.read, each told apart, and the two floods.
		first, last := events.Time(0), events.Time(0)
		for minute, rows := range out.rows {
			if rows > 30+2*(MaxStrangersOfKind+1) || out.records[minute] > 3*rows {
				t.Errorf("%d rows, %d records", rows, out.records[minute])
			}
			if first == 0 || minute < first {
				first = minute
			}
			last = max(last, minute)
		}
		if out.rows[first] < 30+2*MaxStrangersOfKind || out.rows[last] > 30+4 {
			t.Errorf("%d rows at first, %d at last", out.rows[first], out.rows[last])
		}
		if s := g.Stats(); s.Held != 0 || s.Others != out.others {
			t.Errorf("%+v", s)
		}
	})
}

// After a flood there is as much room as before.
func TestRoomComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broker{}
		g := gatherer(t, b, nil)
		g.Start()
		for range 8 {
			time.Sleep(time.Minute)
			for i := range 100 {
				g.Add(attempt(fmt.Sprint("192.0.2.", i)))
			}
		}
		time.Sleep(10 * time.Minute)
		before := b.told().others
		for i := range MaxStrangersOfKind {
			g.Add(attempt(fmt.Sprint("198.51.100.", i)))
		}
		stop(t, g)
		if after := b.told().others; after != before || before == 0 {
			t.Errorf("%d others before, %d after", before, after)
		}
		if len(g.lanes) > 1 {
			t.Errorf("%d lanes are remembered", len(g.lanes))
		}
	})
}

// No organization, kind, known actor or stranger takes all of the room there is.
func TestRoomForEverybody(t *testing.T) {
	b := &broker{}
	g := gatherer(t, b, nil)
	for org := range 50 {
		name := events.OrgID(fmt.Sprint("org-", org))
		for i := range 500 {
			e := attempt(fmt.Sprint("192.0.2.", i))
			e.Org = name
			g.Add(e)
			g.Add(Entry{Kind: access.CommandDenied, Org: name, Actor: events.Actor{Type: events.ActorKey, Org: name, Key: events.KeyID{byte(i), byte(i >> 8)}}, What: "x", Code: "forbidden"})
		}
	}
	stop(t, g)
	out := b.told()
	apart := 0
	for _, r := range b.list() {
		if r.What != access.Others {
			apart++
		}
	}
	// Some minute may have ended meanwhile.
	if apart > MaxRows*len(out.rows) || apart < MaxRows/2 {
		t.Errorf("%d rows are told apart", apart)
	}
	for org := range 50 {
		for _, kind := range []string{"secret.unknown", "command.denied"} {
			if n := out.counts[fmt.Sprint(kind, " org-", org)]; n != 500 {
				t.Errorf("%s of org-%d: %d", kind, org, n)
			}
		}
	}
}

// Whatever one organization's own actors do, of every kind, leaves the others' apart.
func TestRoomOfOneOrganization(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broker{}
		g := gatherer(t, b, nil)
		for i := range 500 {
			for _, kind := range access.Kinds() {
				g.Add(Entry{Kind: kind, Org: "acme", Actor: actor(1), What: "x", Source: fmt.Sprint("2001:db8::", i)})
			}
		}
		g.Add(Entry{Kind: access.AuditExported, Org: "globex", Actor: actor(2), What: "export"})
		stop(t, g)
		for _, r := range b.records {
			if r.Org == "globex" && r.What == "export" && r.Actor == actor(2) {
				return
			}
		}
		t.Error("what another organization's actor did is not told apart")
	})
}

// A broker that is away blocks nobody. What could not be stored is, when it is back,
// also what it stored half of: once.
func TestBrokerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		b := &broker{}
		g := gatherer(t, b, slog.New(slog.NewTextHandler(&said, nil)))
		g.Start()
		g.Add(attempt("192.0.2.1"))
		time.Sleep(2 * time.Second)
		b.leave(events.ErrUnavailable)
		began := time.Now()
		for i := range 1000 {
			g.Add(Entry{Kind: access.AuditRead, Org: "acme", Actor: actor(byte(i % 100)), What: "list"})
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v of a clock that goes on when all wait", took)
		}
		time.Sleep(10 * time.Minute)
		g.Add(attempt("192.0.2.2"))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := strings.Count(said.String(), "cannot be stored"); n != 1 {
			t.Errorf("it was said %d times", n)
		}
		b.leave(nil)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		out := b.told()
		if out.counts["audit.read acme"] != 1000 || out.counts["secret.unknown _system"] != 2 || !strings.Contains(said.String(), "stored again") {
			t.Errorf("%v", out.counts)
		}
		stop(t, g)
	})
}

// While it is away for long, memory is bounded and every count kept.
func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broker{away: events.ErrUnavailable}
		g := gatherer(t, b, nil)
		g.Start()
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		sum := uint64(0)
		// A day of as many known actors and strangers as there may be.
		for minute := range 24 * 60 {
			time.Sleep(time.Minute)
			for i := range 250 {
				g.Add(attempt(fmt.Sprint(minute, i)))
				g.Add(Entry{Kind: access.AuditRead, Org: "acme", Actor: actor(byte(i)), What: fmt.Sprint(minute)})
			}
			sum += 250
		}
		if held := g.Stats().Held; held > MaxHeld+MaxRows+100 || held < MaxHeld {
			t.Errorf("%d rows are held", held)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grew := int64(after.HeapAlloc) - int64(before.HeapAlloc); grew > 20<<20 {
			t.Errorf("the heap grew by %d MB", grew>>20)
		}
		b.leave(nil)
		stop(t, g)
		out := b.told()
		if out.counts["secret.unknown _system"] != sum || out.counts["audit.read acme"] != sum {
			t.Errorf("%v, want %d", out.counts, sum)
		}
		if n := len(b.list()); n > MaxHeld+MaxRows+1000 {
			t.Errorf("%d records", n)
		}
	})
}

// A stop that cannot store what is left says so, and does not wait for ever.
func TestStopWithoutBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gatherer(t, &broker{away: events.ErrUnavailable}, nil)
		g.Start()
		g.Add(attempt("192.0.2.1"))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := g.Close(ctx); !errors.Is(err, ErrUnstored) || !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("%v", err)
		}
	})
}

// Texts of any length and bytes make records that can be stored: nobody hides by
// sending some that cannot.
func TestAnyText(t *testing.T) {
	b := &broker{}
	g := gatherer(t, b, nil)
	for _, text := range []string{"", "\xff\xfe", strings.Repeat("\xff", 5000), strings.Repeat("ü", 5000), "\x00\n\"", strings.Repeat("x", 5000)} {
		g.Add(Entry{Kind: access.LoginFailed, Org: events.System, What: "w" + text, Code: text, Source: text, RequestID: text})
	}
	stop(t, g)
	if n := b.told().counts["login.failed _system"]; n != 6 {
		t.Errorf("%d of 6", n)
	}
}

// What it is told of may lie in a buffer that is used again.
func TestTextsAreCopied(t *testing.T) {
	b := &broker{}
	g := gatherer(t, b, nil)
	buffer := []byte("192.0.2.1 r-1")
	text := unsafe.String(unsafe.SliceData(buffer), len(buffer))
	g.Add(Entry{Kind: access.SecretUnknown, Org: events.System, What: "verify", Source: text[:9], RequestID: text[10:]})
	for i := range buffer {
		buffer[i] = '#'
	}
	g.Add(attempt("192.0.2.1"))
	stop(t, g)
	for _, r := range b.list() {
		if strings.Contains(r.Source+r.RequestID, "#") {
			t.Errorf("%+v", r)
		}
	}
}

// What strangers cause most costs nothing but time.
func TestNoAllocation(t *testing.T) {
	g := gatherer(t, &broker{}, nil)
	e := attempt("192.0.2.1")
	g.Add(e)
	over := attempt("192.0.2.99")
	for i := range 2 * MaxStrangersOfKind {
		g.Add(attempt(fmt.Sprint("198.51.100.", i)))
	}
	if n := testing.AllocsPerRun(1000, func() { g.Add(e); g.Add(over) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestConcurrent(t *testing.T) {
	b := &broker{}
	g, err := New(Config{
		Ledger: ledger, Server: "s-1", Sink: b, FlushEvery: time.Millisecond,
		Tell: func(context.Context, string, string) (string, access.SourceKind) { return "x", access.SourceLabel },
	})
	if err != nil {
		t.Fatal(err)
	}
	g.Start()
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for i := range 5000 {
				g.Add(attempt(fmt.Sprint(n, i%100)))
			}
		})
	}
	all.Wait()
	stop(t, g)
	if n := b.told().counts["secret.unknown _system"]; n != 40_000 {
		t.Errorf("%d", n)
	}
}

func TestConfig(t *testing.T) {
	err := Config{Server: "S", FlushEvery: -1}.Validate()
	for _, text := range []string{"no ledger", "server", "no sink", "nothing tells", "FlushEvery"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v does not say %s", err, text)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	g := gatherer(b, &broker{}, nil)
	e := attempt("192.0.2.1")
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			g.Add(e)
		}
	})
}
