package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/ledgertest"
)

// spec is a reader of everything.
func spec(name string, subjects ...string) jetstream.ReaderSpec {
	s := jetstream.ReaderSpec{Ledger: ledgerID, Stream: jetstream.StreamLedger, Name: name, Subjects: subjects}
	if len(subjects) > 0 {
		s.Scope = "scope-" + name
	}
	return s
}

// reader reads by a credential that is made if need be.
func reader(t testing.TB, conn *nats.Conn, s jetstream.ReaderSpec) *jetstream.Reader {
	t.Helper()
	if err := jetstream.EnsureReader(t.Context(), conn, s); err != nil {
		t.Fatal(err)
	}
	return readerOf(t, conn, s.Name)
}

// readerOf reads by a credential over a connection.
func readerOf(t testing.TB, conn *nats.Conn, name string) *jetstream.Reader {
	t.Helper()
	info, err := jetstream.DescribeReader(t.Context(), conn, jetstream.StreamLedger, name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := jetstream.NewReader(jetstream.ReaderConfig{
		Conn: conn, Name: name, Info: info, LoadTimeout: time.Second, Heartbeat: 200 * time.Millisecond, CatchUp: 500 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// open starts a broker where one user may do everything, and another what the
// holder of a credential may: ask consumers that are there for what comes next,
// about themselves, and to begin anew.
func open(t *testing.T) (all, holder func() *nats.Conn) {
	t.Helper()
	allowed := func(verbs ...string) *server.Permissions {
		p := &server.Permissions{Publish: &server.SubjectPermission{}, Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}}}
		for _, verb := range verbs {
			p.Publish.Allow = append(p.Publish.Allow, "$JS.API.CONSUMER."+verb+".*.*")
		}
		return p
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "open", NoSigs: true, NoLog: true, DontListen: true, JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{
			{Username: "all", Password: "all"},
			{Username: "holder", Password: "holder", Permissions: allowed("MSG.NEXT", "INFO", "RESET")},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the broker did not start")
	}
	connect := func(user string) func() *nats.Conn {
		return func() *nats.Conn {
			conn, err := nats.Connect("", nats.InProcessServer(s), nats.UserInfo(user, user), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
				nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.Error(err) }))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(conn.Close)
			return conn
		}
	}
	all, holder = connect("all"), connect("holder")
	if err := jetstream.EnsureStreams(t.Context(), all(), 1); err != nil {
		t.Fatal(err)
	}
	return all, holder
}

// credentialed is a ledger that is followed by credentials, a new one each time.
type credentialed struct {
	*jetstream.Ledger
	t            *testing.T
	conn, holder *nats.Conn
	used         *atomic.Int64
}

func (c credentialed) reader(stream string) *jetstream.Reader {
	s := spec(fmt.Sprintf("reader-%d", c.used.Add(1)))
	if err := jetstream.EnsureReader(c.t.Context(), c.conn, s); err != nil {
		c.t.Fatal(err)
	}
	s.Stream = stream
	if err := jetstream.EnsureReader(c.t.Context(), c.conn, s); err != nil {
		c.t.Fatal(err)
	}
	return readerOf(c.t, c.holder, s.Name)
}

func (c credentialed) Follow(ctx context.Context, after events.Position, apply func([]events.Recorded) error) error {
	return c.reader(jetstream.StreamLedger).Follow(ctx, after, apply)
}

func (c credentialed) FollowUses(ctx context.Context, after events.Position, apply func([]events.UsesMessage) error) error {
	return c.reader(jetstream.StreamUses).FollowUses(ctx, after, apply)
}

func (c credentialed) Last(ctx context.Context) (events.Position, error) {
	return c.reader(jetstream.StreamLedger).Last(ctx)
}

func (c credentialed) LastUses(ctx context.Context) (events.Position, error) {
	return c.reader(jetstream.StreamUses).LastUses(ctx)
}

// What follows, by credentials that show everything.
func TestLedgerByCredential(t *testing.T) {
	all, holder := open(t)
	conn, reading, used := all(), holder(), new(atomic.Int64)
	ledgertest.Run(t, func(t *testing.T) ledgertest.Bench {
		anew(t, conn)
		return ledgertest.Bench{
			Ledger: credentialed{ledger(t, conn), t, conn, reading, used}, ID: ledgerID,
			Plant: func(t testing.TB, subject string, body []byte) { plant(t, conn, subject, body) },
		}
	}, ledgertest.Follows)
}

func TestEnsureReader(t *testing.T) {
	all, holder := open(t)
	conn := all()
	js, err := natsjs.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []jetstream.ReaderSpec{
		spec("everything"), spec("one", "ledger.0001.acme.>"), spec("some", "ledger.0002.b.>", "ledger.0001.acme.>"),
		{Ledger: ledgerID, Stream: jetstream.StreamLedger, Name: "subscriber", Subjects: []string{"ledger.*.*.revoked.>"}, Acknowledged: true},
		{Ledger: ledgerID, Stream: jetstream.StreamUses, Name: "auditor"},
		{Ledger: ledgerID, Stream: jetstream.StreamAccess, Name: "auditor", Subjects: []string{"access.0001.acme.>"}},
	} {
		for range 2 {
			if err := jetstream.EnsureReader(t.Context(), conn, s); err != nil {
				t.Fatalf("%s: %v", s.Name, err)
			}
		}
		info, err := jetstream.DescribeReader(t.Context(), holder(), s.Stream, s.Name)
		slices.Sort(s.Subjects)
		if err != nil || info.Ledger != ledgerID || info.Scope != s.Scope || !slices.Equal(info.Subjects, s.Subjects) {
			t.Fatalf("%s: %+v %v", s.Name, info, err)
		}
		for member, change := range map[string]func(*jetstream.ReaderSpec){
			"filter_subjects": func(s *jetstream.ReaderSpec) {
				s.Subjects = []string{map[string]string{jetstream.StreamLedger: "ledger.0003.>", jetstream.StreamUses: "uses.0003.>", jetstream.StreamAccess: "access.0003.>"}[s.Stream]}
			},
			"ack_policy":       func(s *jetstream.ReaderSpec) { s.Acknowledged = !s.Acknowledged },
			"keyledger_scope":  func(s *jetstream.ReaderSpec) { s.Scope += "x" },
			"keyledger_ledger": func(s *jetstream.ReaderSpec) { s.Ledger = events.LedgerID{7} },
		} {
			other := s
			change(&other)
			if err := jetstream.EnsureReader(t.Context(), conn, other); !errors.Is(err, jetstream.ErrReaderChanged) || !strings.Contains(err.Error(), member) {
				t.Errorf("%s, other %s: %v", s.Name, member, err)
			}
		}
		// What changes what it sees, or that it lasts.
		for member, change := range map[string]func(*natsjs.ConsumerConfig){
			"deliver_policy": func(c *natsjs.ConsumerConfig) { c.DeliverPolicy = natsjs.DeliverNewPolicy },
			"max_deliver":    func(c *natsjs.ConsumerConfig) { c.MaxDeliver = 3; c.AckPolicy = natsjs.AckExplicitPolicy },
			"mem_storage":    func(c *natsjs.ConsumerConfig) { c.MemoryStorage = true },
			"headers_only":   func(c *natsjs.ConsumerConfig) { c.HeadersOnly = true },
			"inactive":       func(c *natsjs.ConsumerConfig) { c.InactiveThreshold = time.Hour },
		} {
			consumer, err := js.Consumer(t.Context(), s.Stream, s.Name)
			if err != nil {
				t.Fatal(err)
			}
			config := consumer.CachedInfo().Config
			for range 2 {
				if err := jetstream.RemoveReader(t.Context(), conn, s.Stream, s.Name); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := jetstream.DescribeReader(t.Context(), conn, s.Stream, s.Name); !errors.Is(err, events.ErrUnavailable) {
				t.Fatalf("describe: %v", err)
			}
			change(&config)
			if _, err := js.CreateConsumer(t.Context(), s.Stream, config); err != nil {
				t.Fatal(err)
			}
			if err := jetstream.EnsureReader(t.Context(), conn, s); !errors.Is(err, jetstream.ErrReaderChanged) || !strings.Contains(err.Error(), member) {
				t.Errorf("%s, other %s: %v", s.Name, member, err)
			}
			if err := jetstream.RemoveReader(t.Context(), conn, s.Stream, s.Name); err != nil {
				t.Fatal(err)
			}
			if err := jetstream.EnsureReader(t.Context(), conn, s); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = errors.Join(
		jetstream.EnsureReader(t.Context(), conn, jetstream.ReaderSpec{Stream: "OTHER", Name: "a.b"}),
		jetstream.EnsureReader(t.Context(), conn, jetstream.ReaderSpec{Ledger: ledgerID, Stream: jetstream.StreamLedger, Name: "a", Subjects: []string{"uses.>"}}),
	)
	for _, member := range []string{"Ledger", "Stream", "Name", "Subjects"} {
		if err == nil || !strings.Contains(err.Error(), member) {
			t.Errorf("%v does not name %s", err, member)
		}
	}
}

// A credential that shows a part hands that over, in order, with batches whole as
// far as they are shown, and begins anew where it is told to.
func TestPartialReader(t *testing.T) {
	all, holder := open(t)
	conn := all()
	l := ledger(t, conn)
	shown := []events.WorkspaceID{"a", "b"}
	var subjects []string
	for _, id := range shown {
		subjects = append(subjects, events.WorkspaceSubject("acme", id).String())
	}
	reader(t, conn, spec("part", subjects...))
	r := readerOf(t, holder(), "part")
	write := func(ids ...events.WorkspaceID) {
		t.Helper()
		var wish []events.Entry
		for _, id := range ids {
			e := entry(id)
			e.Expect = events.Expectation{}
			wish = append(wish, e)
		}
		if _, err := l.Append(t.Context(), wish); err != nil {
			t.Fatal(err)
		}
	}
	write("x")           // 1
	write("a", "x", "b") // 2 to 4, of which the 3rd is not shown
	write("y")           // 5
	write("x", "b", "y") // 6 to 8, of which the last is not shown
	write("a")           // 9
	write("y")           // 10
	for after, want := range map[events.Position][][]events.Position{
		0: {{2, 4}, {7}, {9}}, 2: {{4}, {7}, {9}}, 4: {{7}, {9}}, 7: {{9}},
	} {
		var got [][]events.Position
		err := r.Follow(t.Context(), after, func(facts []events.Recorded) error {
			var slice []events.Position
			for _, f := range facts {
				slice = append(slice, f.Position)
			}
			// How much has arrived at once is nothing to go by.
			for len(slice) > 0 {
				n := min(len(want[len(got)]), len(slice))
				got, slice = append(got, slice[:n:n]), slice[n:]
			}
			if len(got) == len(want) {
				return errEnough
			}
			return nil
		})
		if !errors.Is(err, errEnough) || !reflect.DeepEqual(got, want) {
			t.Fatalf("after %d: %v, %v", after, got, err)
		}
	}
	if last, err := r.Last(t.Context()); err != nil || last < 9 || last > 10 {
		t.Fatalf("last is %d: %v", last, err)
	}
	// It comes to show something else.
	if err := jetstream.RemoveReader(t.Context(), conn, jetstream.StreamLedger, "part"); err != nil {
		t.Fatal(err)
	}
	reader(t, conn, spec("part", subjects[0]))
	if err := r.Follow(t.Context(), 0, func([]events.Recorded) error { return nil }); !errors.Is(err, jetstream.ErrReaderChanged) {
		t.Fatalf("follow: %v", err)
	}
}

// remake makes the ledger's stream anew, empty.
func remake(t *testing.T, conn *nats.Conn, change func(*natsjs.StreamConfig)) {
	t.Helper()
	js, err := natsjs.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), jetstream.StreamLedger)
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	change(&config)
	if err := js.DeleteStream(t.Context(), jetstream.StreamLedger); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
}

// A message that went missing is found out by a reader, wherever it begins.
func TestReaderGap(t *testing.T) {
	for _, missing := range []uint64{1, 3, 5} {
		all, holder := open(t)
		conn := all()
		remake(t, conn, func(c *natsjs.StreamConfig) { c.DenyDelete = false })
		l := ledger(t, conn)
		wish := entries(6)
		for i := range wish {
			if _, err := l.Append(t.Context(), wish[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
		js, err := natsjs.New(conn)
		if err != nil {
			t.Fatal(err)
		}
		s, err := js.Stream(t.Context(), jetstream.StreamLedger)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteMsg(t.Context(), missing); err != nil {
			t.Fatal(err)
		}
		reader(t, conn, spec("r"))
		r := readerOf(t, holder(), "r")
		// It was handed over before, likewise.
		for after := range events.Position(missing + 1) {
			seen := after
			err := r.Follow(t.Context(), after, func(slice []events.Recorded) error {
				seen = slice[len(slice)-1].Position
				return nil
			})
			if !errors.Is(err, events.ErrCorrupt) || seen > max(after, events.Position(missing)-1) {
				t.Fatalf("without %d, after %d: %v at %d", missing, after, err, seen)
			}
		}
	}
}

// A stream that was made anew under a reader is found out.
func TestReaderOfStreamMadeAnew(t *testing.T) {
	for name, facts := range map[string]int{"gone": -1, "shorter": 2, "as long": 3, "longer": 9} {
		for _, subjects := range [][]string{nil, {"ledger.>"}} {
			t.Run(fmt.Sprintf("%s %s", name, subjects), func(t *testing.T) {
				all, holder := open(t)
				conn := all()
				l := ledger(t, conn)
				if _, err := l.Append(t.Context(), entries(3)); err != nil {
					t.Fatal(err)
				}
				reader(t, conn, spec("r", subjects...))
				changed := false
				err := readerOf(t, holder(), "r").Follow(t.Context(), 0, func([]events.Recorded) error {
					if changed {
						return errors.New("went on with another stream")
					}
					changed = true
					if facts < 0 {
						js, err := natsjs.New(conn)
						return errors.Join(err, js.DeleteStream(t.Context(), jetstream.StreamLedger))
					}
					remake(t, conn, func(*natsjs.StreamConfig) {})
					if _, err := l.Append(t.Context(), entries(facts)); err != nil {
						return err
					}
					return jetstream.EnsureReader(t.Context(), conn, spec("r", subjects...))
				})
				if !errors.Is(err, events.ErrCorrupt) || !changed {
					t.Fatalf("follow: %v", err)
				}
			})
		}
	}
}

// A reader outlives lost lines, lost consumers, and whoever takes deliveries away
// from it: nothing is missed and nothing comes twice, of everything or of a part.
func TestReaderOutlives(t *testing.T) {
	t.Parallel()
	steal := func(t *testing.T, conn *nats.Conn, start int) {
		// Another of the credential begins anew and takes two.
		if start > 0 {
			if _, err := conn.Request("$JS.API.CONSUMER.RESET.LEDGER.r", fmt.Appendf(nil, `{"seq":%d}`, start), time.Second); err != nil {
				t.Error(err)
			}
		}
		sub, err := conn.SubscribeSync(conn.NewInbox())
		if err != nil {
			t.Error(err)
			return
		}
		if err := conn.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.LEDGER.r", sub.Subject, []byte("2")); err != nil {
			t.Error(err)
		}
	}
	for name, disturb := range map[string]func(t *testing.T, conn, holder *nats.Conn, at int){
		"cut lines": func(t *testing.T, _, holder *nats.Conn, _ int) {
			if err := holder.ForceReconnect(); err != nil {
				t.Error(err)
			}
		},
		"a lost consumer": func(t *testing.T, conn, _ *nats.Conn, _ int) {
			if err := jetstream.RemoveReader(t.Context(), conn, jetstream.StreamLedger, "r"); err != nil {
				t.Error(err)
			}
			time.Sleep(100 * time.Millisecond)
		},
		"stolen deliveries":  func(t *testing.T, conn, _ *nats.Conn, _ int) { steal(t, conn, 0) },
		"begun anew before":  func(t *testing.T, conn, _ *nats.Conn, at int) { steal(t, conn, max(1, at-3)) },
		"begun anew beyond":  func(t *testing.T, conn, _ *nats.Conn, at int) { steal(t, conn, at+2) },
		"begun anew far off": func(t *testing.T, conn, _ *nats.Conn, at int) { steal(t, conn, at+1_000) },
	} {
		for _, subjects := range [][]string{nil, {"ledger.*.acme.workspace.*"}} {
			t.Run(fmt.Sprintf("%s %s", name, subjects), func(t *testing.T) {
				all, holder := open(t)
				conn, reading := all(), holder()
				l, facts := ledger(t, conn), 60
				ensure := func() { reader(t, conn, spec("r", subjects...)) }
				ensure()
				var writing sync.WaitGroup
				writing.Go(func() {
					wish := entries(facts)
					for i := 0; i < facts; i += 3 {
						if _, err := l.Append(t.Context(), wish[i:i+3]); err != nil {
							t.Error(err)
							return
						}
						if i%15 == 6 {
							disturb(t, conn, reading, i+3)
							ensure()
						}
					}
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				seen := events.Position(0)
				err := readerOf(t, reading, "r").Follow(ctx, 0, func(slice []events.Recorded) error {
					for _, r := range slice {
						if seen++; r.Position != seen {
							return fmt.Errorf("position %d after %d", r.Position, seen-1)
						}
					}
					if seen == events.Position(facts) {
						return errEnough
					}
					return nil
				})
				writing.Wait()
				if !errors.Is(err, errEnough) {
					t.Fatalf("follow: %v at %d", err, seen)
				}
			})
		}
	}
}

// Whoever has the consumer begin far off before it delivers anything is found out, too.
func TestReaderBegunAnewBeforeItDelivers(t *testing.T) {
	t.Parallel()
	all, holder := open(t)
	conn, facts := all(), 30
	l := ledger(t, conn)
	reader(t, conn, spec("r"))
	thief := all()
	reset, times := "$JS.API.CONSUMER.RESET.LEDGER.r", 0
	heard, err := thief.Subscribe(reset, func(m *nats.Msg) {
		if times++; times%2 == 1 && times < 10 { // every other one is its own
			_ = thief.PublishRequest(reset, thief.NewInbox(), []byte(`{"seq":1000}`))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = heard.Unsubscribe() }()
	if err := thief.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), entries(facts)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	seen := events.Position(0)
	err = readerOf(t, holder(), "r").Follow(ctx, 0, func(slice []events.Recorded) error {
		if seen += events.Position(len(slice)); seen == events.Position(facts) {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("follow: %v at %d", err, seen)
	}
}

// Two readers of one credential each get all there is, once, in order: of everything,
// or of a part.
func TestReadersOfOneCredential(t *testing.T) {
	t.Parallel()
	all, holder := open(t)
	conn := all()
	l, facts := ledger(t, conn), 60
	var reading sync.WaitGroup
	for name, subjects := range map[string][]string{"all": nil, "part": {"ledger.>"}} {
		reader(t, conn, spec(name, subjects...))
		for range 2 {
			r := readerOf(t, holder(), name)
			reading.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				seen := events.Position(0)
				err := r.Follow(ctx, 0, func(slice []events.Recorded) error {
					for _, f := range slice {
						if seen++; f.Position != seen {
							return fmt.Errorf("position %d after %d", f.Position, seen-1)
						}
					}
					if seen == events.Position(facts) {
						return errEnough
					}
					return nil
				})
				if !errors.Is(err, errEnough) {
					t.Errorf("%s: follow: %v at %d", name, err, seen)
				}
			})
		}
	}
	wish := entries(facts)
	for i := range wish {
		if _, err := l.Append(t.Context(), wish[i:i+1]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	reading.Wait()
}
