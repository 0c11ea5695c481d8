package watermill_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/credentials"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/relay/watermill"
)

// credential is whose consumer a bound follower uses.
var credential = credentials.Grant{Name: "gateway", For: events.CredentialSubscriber}

// walled starts a broker with the ledger's streams, and returns a connection that
// may do everything and one of a subscriber's credential: in an account of its
// own, that reaches one consumer and nothing else.
func walled(t testing.TB) (all, conn *nats.Conn) {
	t.Helper()
	b := listens(t)
	issued, err := credentials.Draw(credential)
	if err != nil {
		t.Fatal(err)
	}
	account, err := b.Authority().Account(credential, issued.Account)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Push(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	return operator(t, b), enter(t, b.Addr().String(), issued.Creds)
}

// enter connects with a credential.
func enter(t testing.TB, url string, creds []byte) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect(url, nats.UserCredentialBytes(creds), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// made is a consumer as it is made for a credential.
func made(t testing.TB, all *nats.Conn, change func(*natsjs.ConsumerConfig)) {
	t.Helper()
	c := natsjs.ConsumerConfig{
		Durable: string(credential.Name), FilterSubject: watermill.Revocations()[0], AckPolicy: natsjs.AckExplicitPolicy,
		AckWait: time.Second, MaxDeliver: -1, MaxAckPending: 3,
		Metadata: map[string]string{watermill.MetadataLedger: ledgerID.String()},
	}
	if change != nil {
		change(&c)
	}
	if _, err := js(t, all).CreateConsumer(t.Context(), jetstream.StreamLedger, c); err != nil {
		t.Fatal(err)
	}
}

func bound(conn *nats.Conn) watermill.FollowerConfig {
	d := swift("")
	d.DoubleAck = true
	return watermill.FollowerConfig{Conn: conn, Consumer: string(credential.Name), Topics: map[string][]string{"r": nil}, Delivery: d}
}

// From an account that imports one consumer and nothing else, messages are
// acknowledged, refused, kept alive and given back, and the consumer tells which
// ledger it reads and how far behind it is.
func TestBound(t *testing.T) {
	t.Parallel() // it takes its time
	all, conn := walled(t)
	made(t, all, nil)
	record(t, all, workspace("acme", "w"), revocation("acme", 1), revocation("acme", 2), revocation("other", 3))
	recordFor(t, rehearsal, all, revocation("acme", 4))
	f := follower(t, bound(conn))
	place := func() watermill.Place {
		t.Helper()
		p, err := f.Place(t.Context(), "r")
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := place(); p != (watermill.Place{Pending: 4}) {
		t.Errorf("before anybody follows the place is %+v", p)
	}
	one := subscribe(t, f, "r")
	m := next(t, one)
	two := subscribe(t, follower(t, bound(conn)), "r")
	select {
	case m := <-two:
		// The fourth: three are in flight at a time, and this one would be sent
		// only once one of them was given up.
		t.Fatalf("message %s was given to another while it was kept alive", m.UUID)
	case <-time.After(2500 * time.Millisecond): // AckWait is a second
	}
	m.Nack()
	delivered := map[string]string{}
	for malformed := 0; len(delivered) < 3 || malformed == 0; {
		select {
		case m = <-one:
		case m = <-two:
		case <-time.After(patience):
			t.Fatalf("only %v came", delivered)
		}
		r, err := watermill.Decode(m)
		if id, ok := r.Subject.Key(); !ok {
			t.Errorf("subject %s", r.Subject)
		} else if id == keyID(4) {
			// Good in every respect, but another ledger's.
			if malformed++; !errors.Is(err, watermill.ErrMalformed) {
				t.Errorf("another ledger's fact: %v", err)
			}
		} else if err != nil {
			t.Error(err)
		} else {
			delivered[id.String()] = m.Metadata.Get(watermill.MetadataDelivered)
		}
		m.Ack()
	}
	if delivered[keyID(1).String()] != "2" || delivered[keyID(2).String()] != "1" || delivered[keyID(3).String()] != "1" {
		t.Errorf("deliveries: %v", delivered)
	}
	eventually(t, "everything is acknowledged", func() bool { return place() == watermill.Place{Acknowledged: 5} })
	if _, err := follower(t, watermill.FollowerConfig{
		Conn: conn, Ledger: ledgerID, Topics: map[string][]string{"r": watermill.Revocations()},
	}).Place(t.Context(), "r"); !errors.Is(err, watermill.ErrNoConsumer) {
		t.Errorf("place of nobody: %v", err)
	}
}

// Plain nats.go works with a credential too, as docs/subscribing.md shows.
func TestBoundPlain(t *testing.T) {
	all, conn := walled(t)
	for _, spec := range credential.Readers(ledgerID) {
		if err := jetstream.EnsureReader(t.Context(), all, spec); err != nil {
			t.Fatal(err)
		}
	}
	record(t, all, revocation("acme", 1), workspace("acme", "w"), revocation("acme", 2))
	c, err := js(t, conn).Consumer(t.Context(), "LEDGER", string(credential.Name))
	if err != nil {
		t.Fatal(err)
	}
	came := make(chan string, 10)
	consuming, err := c.Consume(func(m natsjs.Msg) {
		if err := m.Ack(); err != nil {
			t.Error(err)
		}
		came <- m.Subject()
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 2; n++ {
		select {
		case got := <-came:
			if want := events.RevokedSubject("acme", keyID(n)).String(); got != want {
				t.Errorf("%s came, not %s", got, want)
			}
		case <-time.After(patience):
			t.Fatal("no message came")
		}
	}
	eventually(t, "the consumer knows it", func() bool {
		info, err := c.Info(t.Context())
		return err == nil && info.NumPending == 0 && info.NumAckPending == 0
	})
	consuming.Stop()
	<-consuming.Closed()
}

// A consumer that is not there, or not what it is taken for, is refused with the
// reason.
func TestBoundRefused(t *testing.T) {
	for name, c := range map[string]struct {
		consumer func(*natsjs.ConsumerConfig)
		follower func(*watermill.FollowerConfig)
		want     error
	}{
		"none": {want: watermill.ErrNoConsumer},
		"other subjects": {
			consumer: func(c *natsjs.ConsumerConfig) { c.FilterSubject = "ledger.>" },
			follower: func(c *watermill.FollowerConfig) { c.Topics["r"] = watermill.Revocations() },
			want:     watermill.ErrGroupTaken,
		},
		"without acknowledging": {
			consumer: func(c *natsjs.ConsumerConfig) { c.AckPolicy = natsjs.AckNonePolicy },
			want:     watermill.ErrGroupTaken,
		},
		"another ledger": {
			consumer: func(*natsjs.ConsumerConfig) {},
			follower: func(c *watermill.FollowerConfig) { c.Ledger = rehearsal },
			want:     watermill.ErrGroupTaken,
		},
		"no ledger": {
			consumer: func(c *natsjs.ConsumerConfig) { c.Metadata = nil },
		},
		"no ledger's id": {
			consumer: func(c *natsjs.ConsumerConfig) { c.Metadata[watermill.MetadataLedger] = "x" },
			want:     events.ErrInvalidID,
		},
	} {
		t.Run(name, func(t *testing.T) {
			all, conn := walled(t)
			if c.consumer != nil {
				made(t, all, c.consumer)
			}
			config := bound(conn)
			if c.follower != nil {
				c.follower(&config)
			}
			_, err := follower(t, config).Subscribe(t.Context(), "r")
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("subscribe: %v", err)
			}
		})
	}
}

// A consumer that goes while it is followed comes back for its follower when it
// is made again.
func TestBoundGoes(t *testing.T) {
	all, conn := walled(t)
	made(t, all, nil)
	record(t, all, revocation("acme", 1))
	messages := subscribe(t, follower(t, bound(conn)), "r")
	next(t, messages).Ack()
	if err := js(t, all).DeleteConsumer(t.Context(), jetstream.StreamLedger, string(credential.Name)); err != nil {
		t.Fatal(err)
	}
	made(t, all, nil)
	m := next(t, messages)
	if r, err := watermill.Decode(m); err != nil || r.Position != 1 {
		t.Errorf("came %v, %v", r, err)
	}
	m.Ack()
}
