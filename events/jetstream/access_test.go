package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/events/jetstream"
)

var boot = access.BootID{1}

// recorded are records of an organization, by their numbers.
func recorded(t testing.TB, org events.OrgID, first, last uint64) []access.Message {
	t.Helper()
	var out []access.Message
	for n := first; n <= last; n++ {
		m, err := access.Encode(&access.Record{
			Ledger: ledgerID, Server: "s-1", Boot: boot, Number: n, Count: 1, FirstAt: 1, LastAt: 2,
			Row: access.Row{Minute: 60_000_000, Kind: access.LoginFailed, Org: org, What: "GET /"},
		})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

// followed follows access records until so many have come, and returns their
// organizations and numbers.
func followed(t testing.TB, follow func(context.Context, events.Position, func([]access.Message) error) error, after events.Position, want int) (seen []string, last events.Position) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := errors.New("enough")
	err := follow(ctx, after, func(list []access.Message) error {
		for _, m := range list {
			r, err := access.Decode(ledgerID, m)
			if err != nil {
				return err
			}
			seen, last = append(seen, fmt.Sprintf("%s %d", r.Org, r.Number)), m.Position
		}
		if len(seen) >= want {
			return done
		}
		return nil
	})
	if !errors.Is(err, done) || len(seen) != want {
		t.Fatalf("%d of %d came: %v", len(seen), want, err)
	}
	return seen, last
}

func TestAccess(t *testing.T) {
	b := begin(t, t.TempDir())
	l := ledger(t, b.Conn())
	all := append(recorded(t, "acme", 1, 1300), recorded(t, "globex", 1301, 1302)...)
	// What was stored before is not stored again, alone or among others. Among many
	// each is then stored by itself, so that those who repeat are few.
	for _, part := range [][]access.Message{all[:1], all[:3], all[:40], all[40:1200], all[1190:], all[1299:]} {
		if err := l.PublishAccess(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	if last, err := l.LastAccess(t.Context()); err != nil || last != 1302 {
		t.Fatalf("it ends at %d, %v", last, err)
	}
	seen, last := followed(t, l.FollowAccess, 0, 1302)
	if seen[0] != "acme 1" || seen[1301] != "globex 1302" || last != 1302 {
		t.Errorf("%s … %s", seen[0], seen[1301])
	}
	if seen, _ := followed(t, l.FollowAccess, 1300, 2); seen[0] != "globex 1301" {
		t.Errorf("%v", seen)
	}
}

// Whoever causes more records than there is room for pushes only their own out, and
// whoever follows goes on behind them, wherever they were.
func TestAccessPushesOutItsOwn(t *testing.T) {
	b := begin(t, t.TempDir())
	l := ledger(t, b.Conn())
	operate(t, b, func(js natsjs.JetStream) error {
		config := live(t, b, jetstream.StreamAccess)
		config.MaxMsgsPerSubject = 10
		_, err := js.UpdateStream(t.Context(), config)
		return err
	})
	publish := func(list []access.Message) {
		t.Helper()
		if err := l.PublishAccess(t.Context(), list); err != nil {
			t.Fatal(err)
		}
	}
	publish(recorded(t, "globex", 1, 5))
	publish(recorded(t, "acme", 6, 10))
	_, met := followed(t, l.FollowAccess, 0, 10)
	publish(recorded(t, "acme", 11, 500))
	publish(recorded(t, "globex", 501, 502))
	want := []string{"globex 1", "globex 2", "globex 3", "globex 4", "globex 5"}
	for n := 491; n <= 500; n++ {
		want = append(want, fmt.Sprint("acme ", n))
	}
	want = append(want, "globex 501", "globex 502")
	if seen, _ := followed(t, l.FollowAccess, 0, len(want)); !slices.Equal(seen, want) {
		t.Errorf("%v", seen)
	}
	// Who had come to one that has gone since goes on as well.
	if seen, _ := followed(t, l.FollowAccess, met, 12); !slices.Equal(seen, want[5:]) {
		t.Errorf("%v", seen)
	}
	if err := l.CheckStreams(t.Context()); err != nil {
		t.Error(err)
	}
}

// A credential shows them in the same way, all or an organization's.
func TestAccessByCredential(t *testing.T) {
	all, holder := open(t)
	conn := all()
	js, err := natsjs.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), jetstream.StreamAccess)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.MaxMsgsPerSubject = 2
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	l := ledger(t, conn)
	publish := func(list []access.Message) {
		t.Helper()
		if err := l.PublishAccess(t.Context(), list); err != nil {
			t.Fatal(err)
		}
	}
	publish(recorded(t, "globex", 1, 2))
	publish(recorded(t, "acme", 3, 9))
	readers := map[string]*jetstream.Reader{}
	met := map[string]events.Position{}
	for name, subjects := range map[string][]string{"all": nil, "globex": {access.Subject("globex", ">")}} {
		s := spec(name)
		for range 2 {
			if err := jetstream.EnsureReader(t.Context(), conn, s); err != nil {
				t.Fatal(err)
			}
			s.Stream, s.Subjects = jetstream.StreamAccess, subjects
		}
		readers[name] = readerOf(t, holder(), name)
		want := []string{"globex 1", "globex 2", "acme 8", "acme 9"}
		if subjects != nil {
			want = want[:2]
		}
		var seen []string
		if seen, met[name] = followed(t, readers[name].FollowAccess, 0, len(want)); !slices.Equal(seen, want) {
			t.Errorf("%s: %v", name, seen)
		}
	}
	// The last one that the narrow credential saw goes.
	publish(recorded(t, "globex", 10, 12))
	for name, r := range readers {
		if seen, _ := followed(t, r.FollowAccess, met[name], 2); !slices.Equal(seen, []string{"globex 11", "globex 12"}) {
			t.Errorf("%s, later: %v", name, seen)
		}
	}
}

// A stream that ends before what was seen of it has lost records at its end, where
// none go by themselves.
func TestAccessThatWasSeenAndIsGone(t *testing.T) {
	b := begin(t, t.TempDir())
	l := ledger(t, b.Conn())
	if err := l.PublishAccess(t.Context(), recorded(t, "acme", 1, 3)); err != nil {
		t.Fatal(err)
	}
	err := l.FollowAccess(t.Context(), 4, func([]access.Message) error { return nil })
	if !errors.Is(err, events.ErrCorrupt) {
		t.Errorf("%v", err)
	}
}

func TestAccessRetention(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir())
	l := ledger(t, b.Conn())
	if keep, err := l.AccessRetention(t.Context()); err != nil || keep != jetstream.DefaultAccessRetention {
		t.Fatalf("%v, %v", keep, err)
	}
	// Who works with the ledger does not say how long, and deletes none of them.
	if err := jetstream.SetAccessRetention(short(t), b.Conn(), time.Hour); err == nil {
		t.Error("a server shortened the retention")
	}
	for _, subject := range []string{"STREAM.PURGE.ACCESS", "STREAM.MSG.DELETE.ACCESS", "STREAM.DELETE.ACCESS"} {
		if m, err := b.Conn().RequestWithContext(short(t), "$JS.API."+subject, []byte(`{"seq":1}`)); err == nil {
			t.Errorf("%s: %s", subject, m.Data)
		}
	}
	for _, keep := range []time.Duration{90 * 24 * time.Hour, 0, 0} {
		if err := b.Setup(t.Context(), func(conn *nats.Conn) error { return jetstream.SetAccessRetention(t.Context(), conn, keep) }); err != nil {
			t.Fatal(err)
		}
		if got, err := l.AccessRetention(t.Context()); err != nil || got != keep {
			t.Errorf("%v, %v", got, err)
		}
		if err := l.CheckStreams(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// short is a context that ends soon: a broker does not answer what it does not allow.
func short(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}
