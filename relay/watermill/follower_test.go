package watermill_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/relay/watermill"
)

func keyID(n int) events.KeyID {
	return events.KeyID(uuid.NewSHA1(uuid.Nil, fmt.Append(nil, n)))
}

// entry is an event to be appended alone, as the first on its subject.
func entry(s events.Subject, e events.Event) events.Entry {
	return events.Entry{Subject: s, Event: e, Meta: events.Meta{
		ID: events.EventID(uuid.Must(uuid.NewV7())), Ledger: ledgerID, Time: events.TimeOf(time.Now()), Revision: 1,
		Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(uuid.New()),
	}}
}

func revocation(org events.OrgID, n int) events.Entry {
	return entry(events.RevokedSubject(org, keyID(n)), events.KeyRevoked{})
}

func workspace(org events.OrgID, id events.WorkspaceID) events.Entry {
	return entry(events.WorkspaceSubject(org, id), events.WorkspaceCreated{ID: id, Name: events.ClearText("w")})
}

func record(t testing.TB, conn *nats.Conn, entries ...events.Entry) []events.Recorded {
	t.Helper()
	return recordFor(t, ledgerID, conn, entries...)
}

// rehearsal is another ledger.
var rehearsal = events.LedgerID(uuid.MustParse("0198c0de-0000-7000-8000-00000000002d"))

// recordFor appends facts of a ledger, whichever's the stream is.
func recordFor(t testing.TB, id events.LedgerID, conn *nats.Conn, entries ...events.Entry) []events.Recorded {
	t.Helper()
	l, err := jetstream.New(jetstream.Config{Conn: conn, Ledger: id, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	var facts []events.Recorded
	for _, e := range entries {
		e.Meta.Ledger = id
		stored, err := l.Append(t.Context(), []events.Entry{e})
		if err != nil {
			t.Fatal(err)
		}
		facts = append(facts, stored...)
	}
	return facts
}

func follower(t testing.TB, c watermill.FollowerConfig) *watermill.Subscriber {
	t.Helper()
	s, err := watermill.NewFollower(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// A follower is given the facts it asked for and no others, as they are stored.
func TestFollow(t *testing.T) {
	b := broker(t)
	conn := operator(t, b)
	facts := record(t, b.Conn(),
		workspace("acme", "w"), revocation("acme", 1), revocation("other", 2), workspace("other", "w"),
		entry(events.EndSubject("acme"), events.OrganizationDeleted{}),
	)
	follow := func(group string, from events.Position, subjects ...string) <-chan *message.Message {
		f := follower(t, watermill.FollowerConfig{
			Conn: conn, Ledger: ledgerID, Topics: map[string][]string{"t": subjects}, From: from, Delivery: swift(group),
		})
		initialize(t, f, "t")
		if err := f.SubscribeInitialize("ledger"); !errors.Is(err, watermill.ErrInvalidTopic) {
			t.Errorf("an unknown topic: %v", err)
		}
		return subscribe(t, f, "t")
	}
	for name, c := range map[string]struct {
		messages <-chan *message.Message
		want     []events.Position
	}{
		"all":       {follow("all", 0, watermill.Changes()...), []events.Position{1, 2, 3, 4, 5}},
		"revoked":   {follow("revoked", 0, watermill.Revocations()...), []events.Position{2, 3, 5}},
		"acme":      {follow("acme", 0, watermill.Changes("acme")...), []events.Position{1, 2, 5}},
		"two":       {follow("two", 0, watermill.Revocations("acme", "other")...), []events.Position{2, 3, 5}},
		"later":     {follow("later", 3, watermill.Changes()...), []events.Position{3, 4, 5}},
		"ephemeral": {follow("", 4, watermill.Changes()...), []events.Position{4, 5}},
	} {
		for _, pos := range c.want {
			m, want := next(t, c.messages), facts[pos-1]
			got, err := watermill.Decode(m)
			if err != nil || got.Position != pos || got.Subject != want.Subject || got.Meta != want.Meta || got.Event != want.Event || got.Stored.IsZero() {
				t.Errorf("%s: decoded %+v, %v", name, got, err)
			}
			if !bytes.Equal(m.Payload, want.Raw) || m.UUID != want.Meta.ID.String() || m.Metadata.Get(watermill.MetadataKind) != string(want.Event.Kind()) {
				t.Errorf("%s: message %s %v", name, m.UUID, m.Metadata)
			}
			m.Ack()
		}
	}
	record(t, b.Conn(), revocation("acme", 3))
}

// What is no fact, or none of this ledger, is not dropped and ends nothing; neither
// does a kind that comes later.
func TestFollowMalformed(t *testing.T) {
	b := broker(t)
	conn := operator(t, b)
	good := record(t, b.Conn(), revocation("acme", 1))[0]
	later := bytes.ReplaceAll(good.Raw, []byte("key.revoked.v1"), []byte("malformed"))
	for _, m := range []*nats.Msg{
		{Subject: good.Subject.String(), Data: []byte("no fact")},
		{Subject: events.RevokedSubject("acme", keyID(2)).String(), Data: good.Raw},
		{Subject: "ledger.0000.acme.revoked.x", Data: good.Raw},
		{Subject: good.Subject.String(), Header: nats.Header{"Status": {"404"}}},
		{Subject: good.Subject.String(), Data: later},
		{Subject: good.Subject.String(), Data: good.Raw, Header: nats.Header{"nats_malformed": {"no"}, "keyledger_kind": {"x"}}},
	} {
		if _, err := js(t, conn).PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	recordFor(t, rehearsal, b.Conn(), revocation("acme", 3))
	record(t, b.Conn(), revocation("acme", 4))
	messages := subscribe(t, follower(t, watermill.FollowerConfig{
		Conn: conn, Ledger: ledgerID, Topics: map[string][]string{"r": watermill.Revocations()}, Delivery: swift("g"),
	}), "r")
	for _, want := range []string{
		"key.revoked.v1", "malformed", "malformed", "malformed", "malformed", "unknown", "key.revoked.v1", "malformed", "key.revoked.v1",
	} {
		m := next(t, messages)
		// The same is told of a message that was stored elsewhere and came back.
		for _, m := range []*message.Message{m, m.Copy()} {
			r, err := watermill.Decode(m)
			_, bad := m.Metadata[watermill.MetadataMalformed]
			_, malformed := r.Event.(events.Malformed)
			if broken := want == "malformed"; bad != broken || errors.Is(err, watermill.ErrMalformed) != broken || malformed != broken {
				t.Errorf("position %d: %v, %v, %v", r.Position, m.Metadata, r.Event, err)
			}
			if got := (watermill.Marshaler{}).NameFromMessage(m); got != want {
				t.Errorf("position %d has the name %s, not %s", r.Position, got, want)
			}
			if got := m.Metadata.Get(watermill.MetadataSequence); got != fmt.Sprint(r.Position) {
				t.Errorf("sequence %s, position %d", got, r.Position)
			}
		}
		m.Ack()
	}
}

// denied is a deny list as a service keeps it.
type denied struct {
	mu   sync.Mutex
	keys map[events.KeyID]events.Position
	orgs map[events.OrgID]bool
}

func (d *denied) has(org events.OrgID, id events.KeyID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, revoked := d.keys[id]
	return revoked || d.orgs[org]
}

// Watermill's router and cqrs keep a deny list of revoked keys, one handler for
// each kind of fact.
func TestDenyList(t *testing.T) {
	b := broker(t)
	conn := operator(t, b)
	record(t, b.Conn(), workspace("acme", "w"), revocation("acme", 1))
	list := &denied{keys: map[events.KeyID]events.Position{}, orgs: map[events.OrgID]bool{}}
	var failures int
	run(t, func(r *message.Router) {
		processor, err := cqrs.NewEventGroupProcessorWithConfig(r, cqrs.EventGroupProcessorConfig{
			GenerateSubscribeTopic: func(p cqrs.EventGroupProcessorGenerateSubscribeTopicParams) (string, error) {
				return p.EventGroupName, nil
			},
			SubscriberConstructor: func(cqrs.EventGroupProcessorSubscriberConstructorParams) (message.Subscriber, error) {
				return watermill.NewFollower(watermill.FollowerConfig{
					Conn: conn, Ledger: ledgerID, Topics: map[string][]string{"changes": watermill.Changes("acme", "other")}, Delivery: swift("deny-list"),
				})
			},
			AckOnUnknownEvent: true,
			Marshaler:         watermill.Marshaler{},
			Logger:            wm.NopLogger{},
		})
		if err != nil {
			t.Fatal(err)
		}
		err = processor.AddHandlersGroup(
			"changes",
			cqrs.NewGroupEventHandler(func(_ context.Context, f *watermill.Fact[events.KeyRevoked]) error {
				if failures++; failures == 1 {
					return errors.New("the list is not there yet")
				}
				id, ok := f.Recorded.Subject.Key()
				if !ok || f.Recorded.Position == 0 {
					return errors.New("no key")
				}
				list.mu.Lock()
				defer list.mu.Unlock()
				list.keys[id] = f.Recorded.Position
				return nil
			}),
			cqrs.NewGroupEventHandler(func(_ context.Context, f *watermill.Fact[events.OrganizationDeleted]) error {
				list.mu.Lock()
				defer list.mu.Unlock()
				list.orgs[f.Recorded.Subject.Org] = true
				return nil
			}),
		)
		if err != nil {
			t.Fatal(err)
		}
	})
	record(t, b.Conn(), revocation("acme", 2), entry(events.EndSubject("other"), events.OrganizationDeleted{}))
	eventually(t, "the list is complete", func() bool {
		return list.has("acme", keyID(1)) && list.has("acme", keyID(2)) && list.has("other", keyID(9))
	})
	if list.has("acme", keyID(3)) {
		t.Error("a key that is not revoked is on the list")
	}
}

func TestMarshaler(t *testing.T) {
	var m watermill.Marshaler
	if _, err := m.Marshal(events.KeyRevoked{}); !errors.Is(err, watermill.ErrReadOnly) {
		t.Errorf("marshal: %v", err)
	}
	if got := m.Name(&watermill.Fact[events.KeyRevoked]{}); got != string(events.KindKeyRevoked) {
		t.Errorf("name is %q", got)
	}
	if err := m.Unmarshal(message.NewMessage("", nil), &watermill.Fact[events.Malformed]{}); err != nil {
		t.Errorf("a handler of what is malformed is not given it: %v", err)
	}
	if got := m.Name(&events.KeyRevoked{}); got != "" {
		t.Errorf("name of another type is %q", got)
	}
	if err := m.Unmarshal(message.NewMessage("", nil), &events.KeyRevoked{}); err == nil {
		t.Error("another type was filled")
	}
	if err := m.Unmarshal(message.NewMessage("", nil), &watermill.Fact[events.KeyRevoked]{}); !errors.Is(err, watermill.ErrMalformed) {
		t.Errorf("a message of nowhere: %v", err)
	}
}

// A broker that listens, with a user who may do everything and one who may do what
// a follower does, and no more.
func listening(t testing.TB, dir string, port int, follows ...string) *server.Server {
	t.Helper()
	account := server.NewAccount("A")
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true, Accounts: []*server.Account{account},
		Users: []*server.User{
			{Username: "all", Password: "all", Account: account},
			{Username: "follower", Password: "follower", Account: account, Permissions: &server.Permissions{
				Publish:   &server.SubjectPermission{Allow: follows},
				Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX_follower.>"}},
			}},
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
	if !s.ReadyForConnections(patience) {
		t.Fatal("the broker does not start")
	}
	if a, err := s.LookupAccount("A"); err != nil {
		t.Fatal(err)
	} else if err := a.EnableJetStream(nil, nil); err != nil {
		t.Fatal(err)
	}
	return s
}

func dial(t testing.TB, s *server.Server, user string, options ...nats.Option) *nats.Conn {
	t.Helper()
	options = append([]nats.Option{nats.UserInfo(user, user), nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond)}, options...)
	conn, err := nats.Connect(s.ClientURL(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// These are the permissions that a follower in the ledger's own account needs.
func TestFollowerPermissions(t *testing.T) {
	revoked := watermill.Revocations("acme")
	name := watermill.ConsumerName("g", "r")
	s := listening(t, t.TempDir(), server.RANDOM_PORT,
		"$JS.API.CONSUMER.CREATE.LEDGER."+name+"."+revoked[0], "$JS.API.CONSUMER.MSG.NEXT.LEDGER."+name, "$JS.ACK.LEDGER."+name+".>")
	all := dial(t, s, "all")
	if err := jetstream.EnsureStreams(t.Context(), all, 1); err != nil {
		t.Fatal(err)
	}
	record(t, all, revocation("acme", 1), revocation("acme", 2))
	var denied complaints
	conn := dial(t, s, "follower", nats.CustomInboxPrefix("_INBOX_follower"), denied.collect())
	f := follower(t, watermill.FollowerConfig{Conn: conn, Ledger: ledgerID, Topics: map[string][]string{"r": revoked}, Delivery: swift("g")})
	messages := subscribe(t, f, "r")
	for range 2 {
		next(t, messages).Ack()
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	settled(t, all, "LEDGER", name)
	denied.none(t)
}

// complaints are what a broker denied a connection.
type complaints struct {
	mu   sync.Mutex
	said []string
}

func (c *complaints) collect() nats.Option {
	return nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.said = append(c.said, err.Error())
	})
}

func (c *complaints) none(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.said) > 0 {
		t.Errorf("was denied: %s", strings.Join(c.said, "; "))
	}
}

// A follower changes nothing of the stream it reads.
func TestFollowerLeavesTheStream(t *testing.T) {
	s := listening(t, t.TempDir(), server.RANDOM_PORT)
	conn := dial(t, s, "all")
	f := follower(t, watermill.FollowerConfig{Conn: conn, Ledger: ledgerID, Topics: map[string][]string{"r": watermill.Revocations()}, Delivery: swift("g")})
	if _, err := f.Subscribe(t.Context(), "r"); !errors.Is(err, watermill.ErrNoStream) {
		t.Fatalf("subscribe without a ledger: %v", err)
	}
	if names := slices.Collect(chanSeq(js(t, conn).StreamNames(t.Context()).Name())); len(names) != 0 {
		t.Fatalf("streams were made: %q", names)
	}
}

func chanSeq[T any](c <-chan T) func(func(T) bool) {
	return func(yield func(T) bool) {
		for v := range c {
			if !yield(v) {
				return
			}
		}
	}
}
