package deny

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/embedded"
	"github.com/keyledger/keyledger/events/jetstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is for what must happen; it is no measure.
const patience = 30 * time.Second

// consumer is the name of the subscriber's credential.
const consumer = "gateway"

var ledgerID = events.LedgerID(uuid.MustParse("0198c0de-0000-7000-8000-00000000001d"))

func keyID(n int) events.KeyID { return events.KeyID(uuid.NewSHA1(uuid.Nil, fmt.Append(nil, n))) }

// world is a broker with a ledger and a subscriber's credential, which can be
// stopped and started again.
type world struct {
	t      testing.TB
	dir    string
	port   int
	broker *embedded.Broker
	creds  []byte
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	w.start()
	t.Cleanup(func() { w.broker.Shutdown() })
	w.port = w.broker.Addr().(*net.TCPAddr).Port
	if err := w.broker.Setup(t.Context(), func(conn *nats.Conn) error { return jetstream.EnsureStreams(t.Context(), conn, 1) }); err != nil {
		t.Fatal(err)
	}
	grant := credentials.Grant{Name: consumer, For: events.CredentialSubscriber}
	issued, err := credentials.Draw(grant)
	if err != nil {
		t.Fatal(err)
	}
	account, err := w.broker.Authority().Account(grant, issued.Account)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.broker.Push(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	w.creds = issued.Creds
	for _, spec := range grant.Readers(ledgerID) {
		if err := jetstream.EnsureReader(t.Context(), w.broker.Conn(), spec); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// throwOut revokes the credential at the broker.
func (w *world) throwOut() {
	w.t.Helper()
	held, err := credentials.Holder(w.creds)
	if err != nil {
		w.t.Fatal(err)
	}
	account, err := w.broker.Authority().Revoked(consumer, held.Account)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.broker.Push(w.t.Context(), account); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) start() {
	w.t.Helper()
	var err error
	w.broker, err = embedded.Start(w.t.Context(), embedded.Config{Dir: w.dir, Listen: fmt.Sprintf("127.0.0.1:%d", w.port)})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) restart() {
	w.t.Helper()
	w.broker.Shutdown()
	w.start()
}

// dial connects as the subscriber.
func (w *world) dial() *nats.Conn {
	w.t.Helper()
	conn, err := nats.Connect(w.broker.Addr().String(), nats.UserCredentialBytes(w.creds), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(conn.Close)
	return conn
}

// js works with the streams as the server does.
func (w *world) js() natsjs.JetStream {
	w.t.Helper()
	js, err := natsjs.New(w.broker.Conn())
	if err != nil {
		w.t.Fatal(err)
	}
	return js
}

// consumerInfo is the broker's word about the credential's consumer.
func (w *world) consumerInfo() *natsjs.ConsumerInfo {
	w.t.Helper()
	c, err := w.js().Consumer(w.t.Context(), jetstream.StreamLedger, consumer)
	if err != nil {
		w.t.Fatal(err)
	}
	return c.CachedInfo()
}

// record appends facts, each alone and as the first on its subject.
func (w *world) record(ledger events.LedgerID, facts map[events.Subject]events.Event) {
	w.t.Helper()
	l, err := jetstream.New(jetstream.Config{Conn: w.broker.Conn(), Ledger: ledger, Replicas: 1})
	if err != nil {
		w.t.Fatal(err)
	}
	var batch []events.Entry
	flush := func() {
		if len(batch) == 0 {
			return
		}
		if _, err := l.Append(w.t.Context(), batch); err != nil {
			w.t.Fatal(err)
		}
		batch = nil
	}
	for s, e := range facts {
		entry := events.Entry{Subject: s, Event: e, Meta: events.Meta{
			ID: events.EventID(uuid.Must(uuid.NewV7())), Ledger: ledger, Time: events.TimeOf(time.Now()), Revision: 1,
			Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(uuid.New()),
		}}
		if len(batch) == events.MaxBatch || len(batch) > 0 && batch[0].Subject.Org != s.Org {
			flush()
		}
		batch = append(batch, entry)
	}
	flush()
}

// revoke records the revocations of keys.
func (w *world) revoke(org events.OrgID, from, to int) {
	w.t.Helper()
	facts := map[events.Subject]events.Event{}
	for n := from; n < to; n++ {
		facts[events.RevokedSubject(org, keyID(n))] = events.KeyRevoked{}
	}
	w.record(ledgerID, facts)
}

// plant stores a body as it is.
func (w *world) plant(subject, body string) {
	w.t.Helper()
	if _, err := w.js().Publish(w.t.Context(), subject, []byte(body)); err != nil {
		w.t.Fatal(err)
	}
}

// service is one run of the service on a file.
type service struct {
	*Follower
	t    testing.TB
	list *List
	stop func()
}

// serve runs the service until it is stopped.
func (w *world) serve(file string) *service {
	w.t.Helper()
	list, err := Open(file)
	if err != nil {
		w.t.Fatal(err)
	}
	conn := w.dial()
	f, err := NewFollower(Config{Conn: conn, Consumer: consumer, List: list, Patience: 200 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	s := &service{Follower: f, t: w.t, list: list}
	var once bool
	s.stop = func() {
		if once {
			return
		}
		once = true
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
		conn.Close()
		_ = list.Close() // tests close its files as well
	}
	w.t.Cleanup(s.stop)
	return s
}

// upToDate waits until the service knows that it has everything that was stored
// before the call.
func (s *service) upToDate() {
	s.t.Helper()
	since := time.Now()
	eventually(s.t, "the list is up to date", func() bool {
		at, _ := s.Current()
		return at.After(since)
	})
}

func (s *service) want(org events.OrgID, n int, denied bool) {
	s.t.Helper()
	if _, got := s.list.Denied(org, keyID(n)); got != denied {
		s.t.Errorf("key %d of %s is denied: %t", n, org, got)
	}
}

func (s *service) wantSize(denied, aside int) {
	s.t.Helper()
	if d, a := s.list.Size(); d != denied || a != aside {
		s.t.Errorf("%d are denied and %d were set aside, not %d and %d", d, a, denied, aside)
	}
}

// eventually waits for what must come true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func lines(t testing.TB, file string) int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range b {
		if c == '\n' {
			n++
		}
	}
	return n
}
