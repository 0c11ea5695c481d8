package commands_test

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
)

// BenchmarkCreate is what a command costs above the ledger: in memory, so that
// nothing of it is the disk's.
func BenchmarkCreate(b *testing.B) {
	for _, callers := range []int{1, 256} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) { creates(b, newWorld(b), callers, events.Limits{}) })
	}
}

// BenchmarkCreateOnDisk is what an organization gets from an embedded broker
// that syncs before it answers.
func BenchmarkCreateOnDisk(b *testing.B) {
	for _, callers := range []int{1, 4, 64, 256} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) { creates(b, newWorldOnDisk(b), callers, events.Limits{}) })
	}
}

func newWorldOnDisk(t testing.TB) *world {
	t.Helper()
	broker, err := embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Shutdown)
	if err := broker.Setup(t.Context(), func(conn *nats.Conn) error { return jetstream.EnsureStreams(t.Context(), conn, 1) }); err != nil {
		t.Fatal(err)
	}
	id := events.LedgerID{1}
	log, err := jetstream.New(jetstream.Config{Conn: broker.Conn(), Ledger: id, Replicas: 1, Heartbeat: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return newWorldOn(t, log, id)
}

// creates has so many callers create keys of one organization.
func creates(b *testing.B, w *world, callers int, limits events.Limits) {
	b.Helper()
	s := w.server()
	w.acme(s, limits)
	b.SetParallelism((callers + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	b.ReportAllocs()
	b.ResetTimer()
	if callers == 1 {
		for range b.N {
			w.create(s, acme, plain())
		}
	} else {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := s.CreateKey(w.ctx, w.by(w.owner), acme, plain()); err != nil {
					b.Error(err)
				}
			}
		})
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
}

// BenchmarkResolve is what it takes to be handed a provider's secret: in memory, and
// from an embedded broker, in turns with the three questions to the broker that are in
// it and nothing else.
func BenchmarkResolve(b *testing.B) {
	for name, below := range map[string]func(testing.TB) *world{"memory": newWorld, "disk": newWorldOnDisk} {
		b.Run(name, func(b *testing.B) {
			w := newProviderWorldOn(b, below(b))
			s := w.opener()
			w.acme(s, events.Limits{})
			last := w.add(s, 1).Position
			var seal string
			if err := w.vault.EachSeal(w.ctx, w.ledger.String()+".provider", func(name string, _ []byte, _ events.Time) error {
				seal = name
				return nil
			}); err != nil || seal == "" {
				b.Fatalf("no data key: %v", err)
			}
			var resolving, reading time.Duration
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				began := time.Now()
				w.resolves(s, 1, "")
				resolving += time.Since(began)
				began = time.Now()
				_, loaded := w.log.Load(w.ctx, events.ProviderKeySubject(acme, events.ProviderOpenAI), last)
				_, _, sealed := w.vault.Sealed(w.ctx, seal)
				_, confirmed := w.log.Confirm(w.ctx, began)
				reading += time.Since(began)
				if err := errors.Join(loaded, sealed, confirmed); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(resolving.Nanoseconds())/float64(b.N), "ns/resolve")
			b.ReportMetric(resolving.Seconds()/reading.Seconds(), "ratio")
		})
	}
}

// BenchmarkSealedCreateOnDisk is what it costs to have the texts of a new key
// sealed, each for a data subject of its own: the time for it in clear, in that for
// it sealed. With one subject for all of them no key has to be drawn.
func BenchmarkSealedCreateOnDisk(b *testing.B) {
	for _, callers := range []int{1, 64} {
		for name, subject := range map[string]events.DataSubject{"own": "", "one": person} {
			b.Run(fmt.Sprintf("callers=%d/subject=%s", callers, name), func(b *testing.B) {
				w := newSealedWorldOn(b, newWorldOnDisk(b))
				s := w.sealer()
				w.begin(s)
				w.organization(s.server, "open", events.Limits{})
				spent := map[events.OrgID]time.Duration{}
				for _, org := range []events.OrgID{"open", acme} {
					var all sync.WaitGroup
					began := time.Now()
					for range callers {
						all.Go(func() {
							for range (b.N + callers - 1) / callers {
								if _, err := s.CreateKey(w.ctx, w.by(w.owner), org, personal(subject)); err != nil {
									b.Error(err)
								}
							}
						})
					}
					all.Wait()
					spent[org] = time.Since(began)
				}
				b.ReportMetric(float64(b.N)/spent[acme].Seconds(), "sealed/s")
				b.ReportMetric(spent["open"].Seconds()/spent[acme].Seconds(), "ratio")
			})
		}
	}
}

// BenchmarkImportOnDisk is what an import gets from the same broker, beside what
// the ledger makes of batches of the same events by themselves.
func BenchmarkImportOnDisk(b *testing.B) {
	w := newWorldOnDisk(b)
	s := w.server()
	w.acme(s, events.Limits{})
	w.organization(s, "raw", events.Limits{})
	var imported, raw time.Duration
	for n := range b.N {
		keys := foreigners(n*events.MaxImport, (n+1)*events.MaxImport)
		begin := time.Now()
		out := w.imports(s, keys)
		imported += time.Since(begin)
		entries := make([]events.Entry, len(out.Facts))
		for i, f := range out.Facts {
			e := f.Event.(events.KeyCreated)
			f.Meta.BatchIndex, f.Meta.BatchSize = 0, 0
			entries[i] = events.Entry{
				Subject: events.KeySubject("raw", e.ID), Event: e, Meta: f.Meta, Expect: events.Expect(events.KeySubject("raw", e.ID), 0),
			}
			entries[i].Meta.Command[15] ^= 1
		}
		begin = time.Now()
		if _, err := w.log.Append(w.ctx, entries); err != nil {
			b.Fatal(err)
		}
		raw += time.Since(begin)
	}
	keys := float64(b.N * events.MaxImport)
	b.ReportMetric(keys/imported.Seconds(), "imports/s")
	b.ReportMetric(keys/raw.Seconds(), "appends/s")
	b.ReportMetric(raw.Seconds()/imported.Seconds(), "ratio")
}
