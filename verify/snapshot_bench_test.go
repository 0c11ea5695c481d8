package verify_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/continuity"
	"github.com/keyledger/keyledger/projections/section"
	"github.com/keyledger/keyledger/projections/snapshot"
)

// counted returns the count of as many facts as an index has applied.
func (l *load) counted(b *testing.B) *continuity.View {
	b.Helper()
	v, err := continuity.New(continuity.Config{Ledger: events.LedgerID{1}})
	if err != nil {
		b.Fatal(err)
	}
	names := l.names()
	facts := make([]events.Recorded, 0, 4096)
	for at := events.Position(1); at <= l.position; at++ {
		facts = append(facts, events.Recorded{
			Position: at, Subject: events.OrganizationSubject(names[int(at)%len(names)]), Stored: events.Time(at),
			Raw: binary.BigEndian.AppendUint64(nil, uint64(at)),
		})
		if len(facts) == cap(facts) || at == l.position {
			if err := v.Apply(b.Context(), facts); err != nil {
				b.Fatal(err)
			}
			facts = facts[:0]
		}
	}
	return v
}

// snapshots makes one of the index after another, and hashes it, until it is stopped.
func (l *load) snapshots(b *testing.B, stop *atomic.Bool) {
	for !stop.Load() {
		frozen, err := l.index.Freeze()
		if err != nil {
			b.Error(err)
			return
		}
		w := section.NewWriter(sha256.New())
		if err := errors.Join(frozen.Save(w, frozen.Position(), nil), w.Flush()); err != nil {
			b.Error(err)
		}
		frozen.Release()
	}
}

// spent is the time that this process has worked so far, all of its threads: on a
// machine that does other work too, it says more than what passed meanwhile.
func spent(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// work is tail in processor time: what a verdict itself takes while the writer does
// something, on a machine that others keep busy. It does not tell of waiting, which a
// verdict never does; each is longer by the two calls of the system.
func (l *load) work(b *testing.B, write func(stop *atomic.Bool)) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	took := make([]int64, 0, b.N)
	var stop atomic.Bool
	var writer sync.WaitGroup
	if write != nil {
		writer.Go(func() { write(&stop) })
	}
	for n := 0; len(took) < b.N; n++ {
		for text := l.secrets(n); text != "" && len(took) < b.N; text = text[secretLen:] {
			var from, to unix.Timespec
			_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &from)
			l.verdicts(b.Context(), text[:secretLen])
			_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &to)
			took = append(took, to.Nano()-from.Nano())
		}
	}
	stop.Store(true)
	writer.Wait()
	slices.Sort(took)
	for name, q := range map[string]float64{"p50-cpu-ns": 0.5, "p99-cpu-ns": 0.99, "p99.9-cpu-ns": 0.999} {
		b.ReportMetric(float64(took[int(float64(len(took)-1)*q)]), name)
	}
	b.ReportMetric(0, "ns/op")
}

// save saves the index and its count into a folder, on disk, once.
func (l *load) save(b *testing.B, count *continuity.View, path string) {
	folder, err := snapshot.OpenFolder(path)
	if err != nil {
		b.Fatal(err)
	}
	defer folder.Close()
	started, worked := time.Now(), spent(b)
	picture, err := snapshot.Freeze(l.index, count)
	if err != nil {
		b.Fatal(err)
	}
	begun := time.Since(started)
	defer picture.Release()
	written, err := folder.Save(picture, events.TimeOf(started))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(time.Since(started).Seconds(), "save-s")
	b.ReportMetric((spent(b) - worked).Seconds(), "save-cpu-s")
	b.ReportMetric(float64(begun.Microseconds()), "freeze-µs")
	b.ReportMetric(float64(written.Size)/float64(l.keys), "B/key")
	b.ReportMetric(0, "ns/op")
}

// start loads them again, and goes on with what was loaded.
func (l *load) start(b *testing.B, path string) {
	folder, err := snapshot.OpenFolder(path)
	if err != nil {
		b.Fatal(err)
	}
	defer folder.Close()
	l.index, l.verifier = nil, nil
	before := heap()
	started, worked := time.Now(), spent(b)
	loaded, skipped, err := folder.Newest(snapshot.Reader{Ledger: events.LedgerID{1}})
	if err != nil {
		b.Fatal(skipped, err)
	}
	b.ReportMetric(time.Since(started).Seconds(), "load-s")
	b.ReportMetric((spent(b) - worked).Seconds(), "load-cpu-s")
	l.index = loaded.Index
	l.bytes = float64(heap()-before) / float64(l.keys)
	b.ReportMetric(l.bytes, "B/key")
	b.ReportMetric(0, "ns/op")
}

// writer is what may go on beside verdicts.
type writer struct {
	name  string
	write func(stop *atomic.Bool)
}

func (l *load) writers(b *testing.B) []writer {
	snapshots := func(stop *atomic.Bool) { l.snapshots(b, stop) }
	return []writer{
		{"rest", nil},
		{"snapshots", snapshots},
		{"changes", l.change},
		{"snapshots+changes", func(stop *atomic.Bool) {
			var both sync.WaitGroup
			both.Go(func() { snapshots(stop) })
			l.change(stop)
			both.Wait()
		}},
	}
}

// BenchmarkSnapshot tells how long it takes to save an index and its count into a
// folder and to load them again, what that costs a verdict meanwhile and afterwards,
// and how many bytes a key has on disk and in memory.
func BenchmarkSnapshot(b *testing.B) {
	for _, millions := range []int{1, 10} {
		b.Run(fmt.Sprintf("keys=%dM", millions), func(b *testing.B) {
			if testing.Short() && millions > 1 {
				b.Skip("leaves out the large ones")
			}
			l := newLoad(b, millions*1_000_000, 1000)
			count := l.counted(b)
			path := filepath.Join(b.TempDir(), "snapshots")
			b.Run("save", func(b *testing.B) { l.save(b, count, path) })
			for _, w := range l.writers(b) {
				b.Run("tail/"+w.name, func(b *testing.B) { l.tail(b, w.write) })
				b.Run("work/"+w.name, func(b *testing.B) { l.work(b, w.write) })
			}
			b.Run("verdicts/before", func(b *testing.B) { l.compare(b, 1) })
			b.Run("load", func(b *testing.B) { l.start(b, path) })
			l.judge(b)
			b.Run("verdicts/loaded", func(b *testing.B) { l.compare(b, 1) })
		})
	}
}
