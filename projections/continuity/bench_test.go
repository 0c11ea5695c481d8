package continuity_test

import (
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/continuity"
	"github.com/keyledger/keyledger/projections/index"
)

// keys returns a batch of keys of one organization.
func keys(b *testing.B, id events.LedgerID, org events.OrgID) []events.Entry {
	b.Helper()
	out := make([]events.Entry, events.MaxBatch)
	for i := range out {
		key := events.KeyID(newID(b))
		var digest events.DigestValue
		if _, err := rand.Read(digest[:]); err != nil {
			b.Fatal(err)
		}
		now := events.TimeOf(time.Now())
		out[i] = events.Entry{
			Subject: events.KeySubject(org, key),
			Event: events.KeyCreated{
				ID: key, KeyKind: events.KindAPI, Name: events.ClearText("a key of an ordinary length"), Prefix: "kl_live", LastFour: "a1B2",
				Digest: events.Digest{Alg: events.SHA256, Value: digest}, Permissions: events.Permissions{Level: events.LevelAll},
				Scope: events.Scope{AllWorkspaces: true}, CreatedAt: now,
			},
			Meta: events.Meta{
				ID: events.EventID(newID(b)), Ledger: id, Time: now, Revision: 1,
				Actor: events.Actor{Type: events.ActorKey, Org: events.System, Key: key}, Role: events.RoleOwner, Scope: "*", Command: events.CommandID(newID(b)),
			},
		}
	}
	return out
}

var errEnough = errors.New("enough")

// BenchmarkReplay replays a ledger from an embedded broker into the verification
// index, in turns with and without counting: what it costs to be able to tell.
func BenchmarkReplay(b *testing.B) {
	const facts = 100_000
	broker, err := embedded.Start(b.Context(), embedded.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(broker.Shutdown)
	if err := broker.Setup(b.Context(), func(c *nats.Conn) error { return jetstream.EnsureStreams(b.Context(), c, 1) }); err != nil {
		b.Fatal(err)
	}
	conn, err := broker.Connect(b.Context(), "benchmark")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(conn.Close)
	id := events.LedgerID(uuid.New())
	ledger, err := jetstream.New(jetstream.Config{Conn: conn, Ledger: id, Replicas: 1})
	if err != nil {
		b.Fatal(err)
	}
	size := 0
	for i := 0; i < facts; i += events.MaxBatch {
		stored, err := ledger.AppendEach(b.Context(), keys(b, id, events.OrgID([]string{"acme", "globex", "initech"}[i/events.MaxBatch%3])))
		if err != nil {
			b.Fatal(err)
		}
		size = len(stored[0].Raw)
	}
	replay := func(count bool) time.Duration {
		x, err := index.New(index.Config{})
		if err != nil {
			b.Fatal(err)
		}
		views := []projections.View{x}
		if count {
			v, err := continuity.New(continuity.Config{Ledger: id})
			if err != nil {
				b.Fatal(err)
			}
			views = []projections.View{v, x}
		}
		view := projections.Together("both", views...)
		if _, err := view.Position(b.Context()); err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		err = ledger.Follow(b.Context(), 0, func(slice []events.Recorded) error {
			if err := view.Apply(b.Context(), slice); err != nil {
				return err
			}
			if slice[len(slice)-1].Position == facts {
				return errEnough
			}
			return nil
		})
		if !errors.Is(err, errEnough) {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	var with, without time.Duration
	for turn := 0; b.Loop(); turn++ {
		// Whoever goes second finds the broker's cache warm.
		first := turn%2 == 0
		for _, count := range []bool{first, !first} {
			if took := replay(count); count {
				with += took
			} else {
				without += took
			}
		}
	}
	total := float64(facts * b.N)
	b.ReportMetric(total/with.Seconds(), "facts/s")
	b.ReportMetric(total/without.Seconds(), "uncounted/s")
	b.ReportMetric(without.Seconds()/with.Seconds(), "of-uncounted")
	b.ReportMetric(float64(size), "bytes/fact")
	b.ReportMetric(0, "ns/op")
}
