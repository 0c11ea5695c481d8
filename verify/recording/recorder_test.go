package recording

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stream keeps blocks as the stream of uses does: one id is stored once.
type stream struct {
	mu     sync.Mutex
	stored []uses.Message
	ids    map[string][]byte

	// before, if set, is asked before anything is stored. When after fails, the
	// first half of the messages is stored all the same.
	before, after func(ctx context.Context) error
}

func (s *stream) ask(before func(ctx context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = before
}

var errSink = errors.New("sink is away")

func (s *stream) PublishUses(ctx context.Context, messages []uses.Message) error {
	s.mu.Lock()
	before := s.before
	s.mu.Unlock()
	if before != nil {
		if err := before(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed error
	if s.after != nil {
		failed = s.after(ctx)
	}
	if failed != nil {
		messages = messages[:(len(messages)+1)/2]
	}
	for _, m := range messages {
		if body, ok := s.ids[m.ID]; ok {
			if !bytes.Equal(body, m.Body) {
				return fmt.Errorf("id %s with other bytes", m.ID)
			}
			continue
		}
		if s.ids == nil {
			s.ids = make(map[string][]byte)
		}
		s.ids[m.ID] = m.Body
		s.stored = append(s.stored, m)
	}
	return failed
}

// audit reads all that was stored and returns the uses with what is wrong.
func (s *stream) audit(t testing.TB) (blocks []uses.Block, list []uses.Use, findings []uses.Finding) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := uses.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	var c uses.Continuity
	for _, m := range s.stored {
		b, err := d.Decode(m.Subject, m.Body)
		if err != nil {
			t.Fatal(err)
		}
		_, f := c.Add(b.Header)
		findings = append(findings, f...)
		blocks = append(blocks, b)
		list = append(list, b.Uses...)
	}
	return blocks, list, append(findings, c.Unended()...)
}

func config(s Sink) Config {
	return Config{Ledger: events.LedgerID{1}, Verifier: "edge-1", Sink: s}
}

func start(t testing.TB, c Config) *Recorder {
	t.Helper()
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return r
}

func stop(t testing.TB, r *Recorder) {
	t.Helper()
	if err := r.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// began is after the times of bubbles and of this run, so that no use comes too late.
const began events.Time = 4_000_000_000_000_000

func use(i uint64) Use {
	u := Use{At: began + events.Time(i), Org: "acme", Code: events.CodeValid, Permission: "interview:start", Workspace: "main"}
	binary.BigEndian.PutUint64(u.Key[8:], i)
	return u
}

func TestValidate(t *testing.T) {
	err := Config{MaxBuffered: -1, FlushEvery: -1, MaxWait: -1}.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"ledger", "verifier", "sink", "MaxBuffered", "FlushEvery", "MaxWait"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing of %s in %q", want, err)
		}
	}
}

// TestNothingIsLost has many goroutines record for many organizations while the
// garbage collector empties the pool again and again.
func TestNothingIsLost(t *testing.T) {
	const goroutines, each, orgs = 32, 3000, 7
	s := &stream{}
	c := config(s)
	c.MaxBuffered, c.FlushEvery, c.MaxWait = 4096, 200*time.Microsecond, time.Minute
	r := start(t, c)
	var wg sync.WaitGroup
	var working atomic.Int32
	working.Store(goroutines)
	for g := range goroutines {
		wg.Go(func() {
			defer working.Add(-1)
			for i := range each {
				u := use(uint64(g*each + i))
				u.Org = events.OrgID(fmt.Sprintf("org-%d", (g+i)%orgs))
				u.Context.RequestID = fmt.Sprintf("%d/%d", g, i)
				if !r.Record(t.Context(), &u) {
					t.Error("refused")
					return
				}
			}
		})
	}
	for working.Load() > 0 {
		runtime.GC()
	}
	wg.Wait()
	stop(t, r)
	blocks, list, findings := s.audit(t)
	if len(findings) > 0 {
		t.Errorf("findings %+v", findings)
	}
	seen := make(map[string]bool, len(list))
	for _, u := range list {
		seen[u.RequestID] = true
	}
	if len(list) != goroutines*each || len(seen) != len(list) {
		t.Errorf("%d uses, %d different, of %d", len(list), len(seen), goroutines*each)
	}
	if last := blocks[len(blocks)-1]; last.Kind != uses.KindEnd || last.Total != goroutines*each || last.Organizations != orgs {
		t.Errorf("ends with %+v", last.Header)
	}
	if got := r.Stats(); got.Recorded != goroutines*each || got.Flushed != got.Recorded || got.Backlog != 0 || got.Refused != 0 || got.Blocks == 0 {
		t.Errorf("%+v", got)
	}
}

// TestWhatIsRecorded looks at one use in full, with texts at and beyond their
// limits.
func TestWhatIsRecorded(t *testing.T) {
	s := &stream{}
	r := start(t, config(s))
	long := strings.Repeat("x", 1000)
	u := use(5)
	u.Permission = "a:b OR " + long
	u.Context = Context{RequestID: long, Method: "PATCH", Path: "/v1/é" + long, ClientIP: "2001:db8::1", UserAgent: long}
	if !r.Record(t.Context(), &u) {
		t.Fatal("refused")
	}
	for _, org := range []events.OrgID{"", "a.b", "UPPER"} {
		bad := use(6)
		bad.Org = org
		if r.Record(t.Context(), &bad) {
			t.Errorf("organization %q accepted", org)
		}
	}
	stop(t, r)
	blocks, list, _ := s.audit(t)
	want := uses.Use{At: u.At, Key: u.Key, Code: u.Code, Permission: u.Permission[:uses.MaxPermission], Workspace: u.Workspace, Context: Context{
		RequestID: long[:uses.MaxRequestID], Method: "PATCH", Path: ("/v1/é" + long)[:uses.MaxPath],
		ClientIP: "2001:db8::1", UserAgent: long[:uses.MaxUserAgent],
	}}
	if len(list) != 1 || list[0] != want {
		t.Errorf("%+v", list)
	}
	if h := blocks[0].Header; h.Kind != uses.KindBoot || h.Bound != DefaultMaxBuffered || h.Boot != r.Boot() || h.From == 0 {
		t.Errorf("begins with %+v", h)
	}
	if b := blocks[1]; b.Org != "acme" || b.Verifier != "edge-1" || b.First != 1 || b.Last != 1 {
		t.Errorf("block %+v", b.Header)
	}
}

func TestRecordsOnlyWhileOpen(t *testing.T) {
	s := &stream{}
	r, err := New(config(s))
	if err != nil {
		t.Fatal(err)
	}
	u := use(1)
	if r.Record(t.Context(), &u) {
		t.Error("recorded before the start")
	}
	// A boot mark that is not stored opens nothing; the next try has its id.
	away := true
	s.after = func(context.Context) error {
		if away {
			return errSink
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := r.Start(ctx); !errors.Is(err, errSink) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("start: %v", err)
	}
	if r.Record(t.Context(), &u) {
		t.Error("recorded before the mark was stored")
	}
	away = false
	if err := r.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(context.Background()); !errors.Is(err, ErrState) {
		t.Errorf("second start: %v", err)
	}
	if !r.Record(t.Context(), &u) {
		t.Error("refused")
	}
	stop(t, r)
	if r.Record(t.Context(), &u) {
		t.Error("recorded after the end")
	}
	stop(t, r)
	if err := r.Start(context.Background()); !errors.Is(err, ErrState) {
		t.Errorf("start after the end: %v", err)
	}
	if _, list, findings := s.audit(t); len(list) != 1 || len(findings) != 0 {
		t.Errorf("%d uses, findings %+v", len(list), findings)
	}
	if got := r.Stats().Refused; got != 3 {
		t.Errorf("%d refused", got)
	}
}

func TestCloseUnstarted(t *testing.T) {
	r, err := New(config(&stream{}))
	if err != nil {
		t.Fatal(err)
	}
	stop(t, r)
	if err := r.Start(context.Background()); !errors.Is(err, ErrState) {
		t.Error(err)
	}
}

// TestFullBuffer fills the buffer while the sink hangs.
func TestFullBuffer(t *testing.T) {
	for _, bound := range []int{1, 3, 100, 5000} {
		t.Run(fmt.Sprint(bound), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stream{}
				c := config(s)
				c.MaxBuffered, c.MaxWait = bound, time.Second
				r := start(t, c)
				gate := make(chan struct{})
				s.ask(func(ctx context.Context) error {
					select {
					case <-gate:
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				})
				n := 0
				for {
					u := use(uint64(n))
					began := time.Now()
					if r.Record(t.Context(), &u) {
						n++
						continue
					}
					if waited := time.Since(began); waited != time.Second {
						t.Errorf("waited %v", waited)
					}
					break
				}
				// What lies half full in a chunk that is being stored is room
				// that counts as taken.
				if n > bound || n < bound/2 {
					t.Errorf("%d uses of %d", n, bound)
				}
				if got := r.Stats(); got.Backlog != uint64(n) || got.Refused != 1 {
					t.Errorf("%+v", got)
				}
				// Who waits is served when room comes.
				time.AfterFunc(time.Second/2, func() { close(gate) })
				u := use(uint64(n))
				if !r.Record(t.Context(), &u) {
					t.Error("refused although room came")
				}
				stop(t, r)
				if _, list, findings := s.audit(t); len(list) != n+1 || len(findings) != 0 {
					t.Errorf("%d uses of %d, findings %+v", len(list), n+1, findings)
				}
			})
		})
	}
}

// TestSinkFails has the sink fail before and after it stores, half of the time.
func TestSinkFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(3, 4))
		s := &stream{}
		flip := func(context.Context) error {
			if random.IntN(2) == 0 {
				return errSink
			}
			return nil
		}
		s.before, s.after = flip, flip
		r := start(t, config(s))
		const n = 3000
		for i := range n {
			u := use(uint64(i))
			u.Org = events.OrgID(fmt.Sprintf("org-%d", i%5))
			if !r.Record(t.Context(), &u) {
				t.Fatal("refused")
			}
			if i%100 == 0 {
				time.Sleep(3 * time.Millisecond)
			}
		}
		stop(t, r)
		_, list, findings := s.audit(t)
		if len(list) != n || len(findings) != 0 {
			t.Errorf("%d uses of %d, findings %+v", len(list), n, findings)
		}
		if r.Stats().Failures == 0 {
			t.Error("no failures counted")
		}
	})
}

// TestCloseGivesUp closes while the sink is away for good.
func TestCloseGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stream{}
		r := start(t, config(s))
		s.ask(func(context.Context) error { return errSink })
		for i := range 10 {
			u := use(uint64(i))
			if !r.Record(t.Context(), &u) {
				t.Fatal("refused")
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err := r.Close(ctx)
		if !errors.Is(err, ErrUnstored) || !errors.Is(err, errSink) || !strings.Contains(err.Error(), "10 of 10") {
			t.Errorf("%v", err)
		}
		if again := r.Close(context.Background()); again == nil || again.Error() != err.Error() {
			t.Errorf("then %v", again)
		}
		if _, _, findings := s.audit(t); len(findings) != 1 || findings[0].Kind != uses.FindingUnended {
			t.Errorf("%+v", findings)
		}
	})
}

// TestCrash leaves a recorder without closing it: an auditor sees a boot without
// an end, and how many uses may be missing at most.
func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stream{}
		c := config(s)
		c.MaxBuffered = 1000
		r := start(t, c)
		var lost atomic.Bool
		for i := range 50 {
			if i == 30 {
				time.Sleep(time.Second)
				s.ask(func(ctx context.Context) error {
					lost.Store(true)
					<-ctx.Done() // the process dies here
					return ctx.Err()
				})
			}
			u := use(uint64(i))
			if !r.Record(t.Context(), &u) {
				t.Fatal("refused")
			}
		}
		time.Sleep(time.Second)
		if !lost.Load() {
			t.Fatal("nothing was under way")
		}
		_, list, findings := s.audit(t)
		if len(list) != 30 || len(findings) != 1 {
			t.Fatalf("%d uses, findings %+v", len(list), findings)
		}
		if f := findings[0]; f.Kind != uses.FindingUnended || f.Count != 1000 || f.Boot != r.Boot() || f.Verifier != "edge-1" {
			t.Errorf("%+v", f)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := r.Close(ctx); !errors.Is(err, ErrUnstored) {
			t.Error(err)
		}
	})
}

// TestIdleIsIdle asserts that nothing is published while nothing happens.
func TestIdleIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stream{}
		r := start(t, config(s))
		var calls atomic.Int32
		s.ask(func(context.Context) error { calls.Add(1); return nil })
		time.Sleep(time.Hour)
		u := use(1)
		r.Record(t.Context(), &u)
		time.Sleep(time.Hour)
		if calls.Load() != 1 {
			t.Errorf("%d publishes", calls.Load())
		}
		stop(t, r)
	})
}

// discard is a sink that takes everything and counts it.
type discard struct{ uses, bytes atomic.Uint64 }

func (d *discard) PublishUses(_ context.Context, messages []uses.Message) error {
	for _, m := range messages {
		h, err := uses.ReadHeader(m.Subject, m.Body)
		if err != nil {
			return err
		}
		d.uses.Add(h.Count())
		d.bytes.Add(uint64(len(m.Body)))
	}
	return nil
}

func TestRecordAllocatesNothing(t *testing.T) {
	c := config(&discard{})
	c.MaxBuffered, c.FlushEvery = 1<<17, time.Hour
	r := start(t, c)
	defer stop(t, r)
	u := use(1)
	u.Context = Context{RequestID: "req-1", Method: "GET", Path: "/v1/things/1", ClientIP: "192.0.2.1", UserAgent: "curl/8"}
	if n := testing.AllocsPerRun(10_000, func() {
		if !r.Record(t.Context(), &u) {
			t.Error("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkRecord shows what a use costs the verdict, while blocks are packed
// and thrown away beside it, and what it takes in the stream.
func BenchmarkRecord(b *testing.B) {
	keys := make([]Use, 1<<16)
	random := rand.New(rand.NewPCG(1, 1))
	zipf := rand.NewZipf(random, 1.1, 1, 99_999)
	for i := range keys {
		id := rand.New(rand.NewPCG(zipf.Uint64(), 1))
		keys[i] = use(0)
		binary.BigEndian.PutUint64(keys[i].Key[:], id.Uint64())
		binary.BigEndian.PutUint64(keys[i].Key[8:], id.Uint64())
	}
	for _, full := range []bool{false, true} {
		name := "plain"
		if full {
			name = "context"
		}
		run := func(b *testing.B, goroutines int) {
			sink := &discard{}
			c := config(sink)
			c.MaxBuffered, c.MaxWait = 1<<18, time.Minute
			r := start(b, c)
			var lane atomic.Uint64
			b.SetParallelism(1)
			work := func(more func() bool) {
				i := lane.Add(1) << 12
				at := uint64(time.Now().UnixMicro())
				for more() {
					i++
					u := keys[i%uint64(len(keys))]
					u.At = events.Time(at + i)
					if full {
						u.Context = Context{Method: "GET", Path: "/v1/interviews", UserAgent: "client/1.2"}
					}
					if !r.Record(b.Context(), &u) {
						b.Error("refused")
						return
					}
				}
			}
			if goroutines == 1 {
				n := 0
				work(func() bool { n++; return n <= b.N })
			} else {
				b.RunParallel(func(pb *testing.PB) { work(pb.Next) })
			}
			b.StopTimer()
			stop(b, r)
			b.ReportMetric(float64(sink.bytes.Load())/float64(max(1, sink.uses.Load())), "B/use")
		}
		b.Run(name+"/one", func(b *testing.B) { run(b, 1) })
		b.Run(name+"/parallel", func(b *testing.B) { run(b, 0) })
	}
	// The verdict's share alone: nothing is packed while it is measured.
	b.Run("share", func(b *testing.B) {
		r := start(b, config(&discard{}))
		defer func() {
			if err := r.Close(context.Background()); !errors.Is(err, ErrUnstored) {
				b.Error("nothing was thrown away")
			}
		}()
		u := use(1)
		b.ReportAllocs()
		for b.Loop() {
			buf := r.acquire()
			if r.add(buf, &u) == full {
				b.Fatal("full")
			}
			if len(buf.full) > 0 { // write to the same few chunks again
				r.free.give(buf.full)
				buf.full = buf.full[:0]
			}
			buf.mu.Unlock()
			r.pool.Put(buf)
		}
	})
}
