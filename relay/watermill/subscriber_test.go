package watermill_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/relay/watermill"
)

// patience is for what must happen; it is no measure.
const patience = 20 * time.Second

func next(t testing.TB, messages <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case m, ok := <-messages:
		if !ok {
			t.Fatal("the channel is closed")
		}
		return m
	case <-time.After(patience):
		t.Fatal("no message came")
	}
	return nil
}

func initialize(t testing.TB, s *watermill.Subscriber, topic string) {
	t.Helper()
	if err := s.SubscribeInitialize(topic); err != nil {
		t.Fatal(err)
	}
}

func subscribe(t testing.TB, s *watermill.Subscriber, topic string) <-chan *message.Message {
	t.Helper()
	messages, err := s.Subscribe(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return messages
}

// publish sends messages with the payloads 0, 1, 2, ….
func publish(t testing.TB, conn *nats.Conn, topic string, n int) {
	t.Helper()
	p := publisher(t, conn)
	for i := range n {
		if err := p.Publish(topic, message.NewMessage(wm.NewUUID(), fmt.Append(nil, i))); err != nil {
			t.Fatal(err)
		}
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

// With one message in flight, two members of a group handle all messages in
// order, whatever they refuse.
func TestStrictOrder(t *testing.T) {
	conn := operator(t, broker(t))
	const count = 60
	a, b := subscriber(t, conn, swift("g")), subscriber(t, conn, swift("g"))
	initialize(t, a, "order")
	publish(t, conn, "order", count)
	one, two := subscribe(t, a, "order"), subscribe(t, b, "order")
	var handled []string
	for i := 0; len(handled) < count; i++ {
		var m *message.Message
		select {
		case m = <-one:
		case m = <-two:
		case <-time.After(patience):
			t.Fatalf("%d messages handled, no more came", len(handled))
		}
		if i%3 == 1 {
			m.Nack()
			continue
		}
		handled = append(handled, string(m.Payload))
		m.Ack()
	}
	for i, payload := range handled {
		if payload != fmt.Sprint(i) {
			t.Fatalf("message %s came in place %d", payload, i)
		}
	}
}

// A message that is worked on for longer than AckWait is not given to anyone else,
// and neither are those that wait behind it.
func TestProgress(t *testing.T) {
	t.Parallel() // it takes its time
	conn := operator(t, broker(t))
	d := swift("g")
	d.MaxInFlight, d.AckWait = 10, 2*time.Second
	a, b := subscriber(t, conn, d), subscriber(t, conn, d)
	initialize(t, a, "slow")
	publish(t, conn, "slow", 5)
	one := subscribe(t, a, "slow")
	m := next(t, one)
	two := subscribe(t, b, "slow")
	select {
	case m := <-two:
		t.Fatalf("message %s was given to another member while it was kept alive", m.Payload)
	case <-time.After(2 * d.AckWait):
	}
	m.Ack()
	for i := 1; i < 5; i++ {
		m := next(t, one)
		if got := m.Metadata.Get(watermill.MetadataDelivered); got != "1" || string(m.Payload) != fmt.Sprint(i) {
			t.Errorf("message %s came for the %s. time", m.Payload, got)
		}
		m.Ack()
	}
}

// What is refused comes again after its delay, and tells how often it came.
func TestNackDelay(t *testing.T) {
	conn := operator(t, broker(t))
	var asked []uint64
	d := swift("g")
	d.NackDelay = func(delivered uint64) time.Duration {
		asked = append(asked, delivered)
		return 20 * time.Millisecond
	}
	s := subscriber(t, conn, d)
	initialize(t, s, "again")
	publish(t, conn, "again", 1)
	messages := subscribe(t, s, "again")
	for i := 1; i <= 4; i++ {
		m := next(t, messages)
		if got := m.Metadata.Get(watermill.MetadataDelivered); got != fmt.Sprint(i) {
			t.Errorf("delivery %d says it is number %s", i, got)
		}
		if i < 4 {
			m.Nack()
		} else {
			m.Ack()
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(asked, []uint64{1, 2, 3}) {
		t.Errorf("delays were asked for deliveries %d", asked)
	}
}

// Close waits for the handler that works, gives back at once what was not handed
// out, and hands out nothing more.
func TestCloseWhileHandling(t *testing.T) {
	conn := operator(t, broker(t))
	d := swift("g")
	d.MaxInFlight, d.CloseTimeout = 10, time.Minute
	s := subscriber(t, conn, d)
	initialize(t, s, "close")
	publish(t, conn, "close", 5)
	messages := subscribe(t, s, "close")
	m := next(t, messages)
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	// While the handler works, another member is given the rest.
	other := subscriber(t, conn, d)
	theirs := subscribe(t, other, "close")
	var rest []string
	for range 4 {
		m := next(t, theirs)
		rest = append(rest, string(m.Payload))
		m.Ack()
	}
	slices.Sort(rest)
	if !slices.Equal(rest, []string{"1", "2", "3", "4"}) {
		t.Fatalf("the other member was given %q", rest)
	}
	select {
	case err := <-closed:
		t.Fatalf("close did not wait for the handler: %v", err)
	default:
	}
	if m.Context().Err() != nil {
		t.Error("the handler's context ended before its time")
	}
	m.Ack()
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	if _, open := <-messages; open {
		t.Error("a message was handed out after close")
	}
	if _, err := s.Subscribe(t.Context(), "close"); !errors.Is(err, watermill.ErrClosed) {
		t.Errorf("subscribe after close: %v", err)
	}
	settled(t, conn, "close", "g")
}

// settled waits until the broker knows that a group is done. It has the
// acknowledgements by then, and minds them in its own time.
func settled(t testing.TB, conn *nats.Conn, stream, name string) {
	t.Helper()
	eventually(t, "every message is acknowledged", func() bool {
		info := consumer(t, conn, stream, name)
		return info.NumAckPending == 0 && info.NumPending == 0
	})
}

func consumer(t testing.TB, conn *nats.Conn, stream, name string) *natsjs.ConsumerInfo {
	t.Helper()
	c, err := js(t, conn).Consumer(t.Context(), stream, name)
	if err != nil {
		t.Fatal(err)
	}
	return c.CachedInfo()
}

// A handler that does not answer is not waited for beyond the bound; its context
// ends and its message comes again.
func TestCloseIsBounded(t *testing.T) {
	conn := operator(t, broker(t))
	s := subscriber(t, conn, swift("g"))
	initialize(t, s, "stuck")
	publish(t, conn, "stuck", 1)
	m := next(t, subscribe(t, s, "stuck"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(m.Context().Err(), context.Canceled) {
		t.Error("the handler's context goes on")
	}
	m.Ack() // too late
	again := next(t, subscribe(t, subscriber(t, conn, swift("g")), "stuck"))
	if again.UUID != m.UUID || again.Metadata.Get(watermill.MetadataDelivered) != "2" {
		t.Errorf("message %s came for the %s. time", again.UUID, again.Metadata.Get(watermill.MetadataDelivered))
	}
	again.Ack()
}

// A handler that panics in Watermill's router has refused its message.
func TestHandlerPanics(t *testing.T) {
	conn := operator(t, broker(t))
	s := subscriber(t, conn, swift("g"))
	initialize(t, s, "panic")
	publish(t, conn, "panic", 3)
	var calls atomic.Int32
	done := make(chan string, 10)
	run(t, func(r *message.Router) {
		r.AddConsumerHandler("h", "panic", s, func(m *message.Message) error {
			if calls.Add(1) == 2 {
				panic("a handler's fault")
			}
			done <- string(m.Payload)
			return nil
		})
	})
	for i := range 3 {
		if got := <-done; got != fmt.Sprint(i) {
			t.Errorf("message %s was handled in place %d", got, i)
		}
	}
	if calls.Load() != 4 {
		t.Errorf("%d calls", calls.Load())
	}
}

// run runs a router until the test ends.
func run(t testing.TB, set func(*message.Router)) {
	t.Helper()
	r, err := message.NewRouter(message.RouterConfig{CloseTimeout: patience}, wm.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	set(r)
	ended := make(chan error, 1)
	go func() { ended <- r.Run(context.Background()) }()
	<-r.Running()
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Whatever lies in a stream, the subscriber goes on, and every message reaches
// somebody.
func TestMalformed(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("callback=%t", own), func(t *testing.T) {
			conn := operator(t, broker(t))
			d := swift("g")
			told := make(chan *message.Message, 10)
			refused := 0
			if own {
				d.Malformed = func(m *message.Message, err error) error {
					if !errors.Is(err, watermill.ErrMalformed) {
						t.Errorf("told %v", err)
					}
					switch refused++; refused {
					case 1:
						return errors.New("not now")
					case 2:
						panic("a fault of its own")
					}
					told <- m
					return nil
				}
			}
			s := subscriber(t, conn, d)
			initialize(t, s, "odd")
			raw := func(header nats.Header, body string) {
				t.Helper()
				m := &nats.Msg{Subject: "odd", Header: header, Data: []byte(body)}
				if _, err := js(t, conn).PublishMsg(t.Context(), m); err != nil {
					t.Fatal(err)
				}
			}
			raw(nil, "no header")
			raw(nats.Header{"K": {"one", "two"}}, "a header twice")
			raw(nats.Header{"Keyledger-Metadata": {"{no json"}}, "no json")
			raw(nats.Header{"Status": {"409"}, "Description": {"Consumer Deleted"}}, "")
			raw(nats.Header{"Status": {"100"}}, "")
			raw(nats.Header{"nats_sequence": {"77"}, "nats_malformed": {"no"}, "e": {""}, "bytes": {"\xff\xfe"}}, "posing as the broker")
			messages := subscribe(t, s, "odd")
			var bad, all []string
			for range 6 {
				var m *message.Message
				select {
				case m = <-messages:
				case m = <-told:
				case <-time.After(patience):
					t.Fatalf("only %q came", all)
				}
				all = append(all, m.Metadata.Get(watermill.MetadataSequence)+" "+string(m.Payload))
				if m.UUID != "odd."+m.Metadata.Get(watermill.MetadataSequence) {
					t.Errorf("%s: UUID is %q", m.Payload, m.UUID)
				}
				if _, ok := m.Metadata[watermill.MetadataMalformed]; ok {
					bad = append(bad, string(m.Payload))
				}
				m.Ack()
			}
			want := []string{"1 no header", "2 a header twice", "3 no json", "4 ", "5 ", "6 posing as the broker"}
			if !slices.Equal(all, want) {
				t.Errorf("came %q", all)
			}
			if !slices.Equal(bad, []string{"a header twice", "no json"}) {
				t.Errorf("malformed were %q", bad)
			}
		})
	}
}

// A stranger who guesses the inbox disturbs nobody.
func TestStrayMessage(t *testing.T) {
	conn := operator(t, broker(t))
	var inbox atomic.Value
	watch, err := conn.Subscribe("$JS.API.CONSUMER.MSG.NEXT.stray.g", func(m *nats.Msg) { inbox.Store(m.Reply) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = watch.Unsubscribe() }()
	s := subscriber(t, conn, swift("g"))
	initialize(t, s, "stray")
	messages := subscribe(t, s, "stray")
	eventually(t, "the subscription asks", func() bool { return inbox.Load() != nil })
	for _, m := range []*nats.Msg{
		{Data: []byte("x")},
		{Reply: "$JS.ACK.x", Data: []byte("x")},
		{Reply: "$JS.ACK.a.b.c.d.e.f.g", Data: []byte("x")},
		{Header: nats.Header{"Status": {"409"}, "Description": {"Consumer Deleted"}}},
		{Header: nats.Header{"Status": {"408"}, "Nats-Pending-Messages": {"-9999999999999999999"}}},
	} {
		m.Subject = inbox.Load().(string)
		if err := conn.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, conn, "stray", 3)
	for i := range 3 {
		m := next(t, messages)
		if string(m.Payload) == "x" {
			t.Fatal("a stray message was handed out")
		}
		if string(m.Payload) != fmt.Sprint(i) {
			t.Errorf("message %s came in place %d", m.Payload, i)
		}
		m.Ack()
	}
}

// A consumer that was deleted is made again: a group begins anew, a subscription
// without one goes on where it was.
func TestConsumerDeleted(t *testing.T) {
	for group, from := range map[string]int{"g": 0, "": 2} {
		t.Run("group="+group, func(t *testing.T) {
			conn := operator(t, broker(t))
			s := subscriber(t, conn, swift(group))
			initialize(t, s, "gone")
			publish(t, conn, "gone", 4)
			messages := subscribe(t, s, "gone")
			for range 2 {
				next(t, messages).Ack()
			}
			stream, err := js(t, conn).Stream(t.Context(), "gone")
			if err != nil {
				t.Fatal(err)
			}
			m := next(t, messages)
			for name := range stream.ConsumerNames(t.Context()).Name() {
				if err := stream.DeleteConsumer(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "the consumer is back", func() bool {
				for range stream.ListConsumers(t.Context()).Info() {
					return true
				}
				return false
			})
			m.Ack()
			var payloads []string
			for len(payloads) == 0 || payloads[len(payloads)-1] != "3" {
				m := next(t, messages)
				payloads = append(payloads, string(m.Payload))
				m.Ack()
			}
			// The one that was with the handler may come again, and for the group all.
			if want := []string{"0", "1", "2", "3"}[from:]; !slices.Equal(payloads, want) && !slices.Equal(payloads, without(want, "2")) {
				t.Errorf("came %q", payloads)
			}
		})
	}
}

func without(all []string, one string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == one })
}

// A group belongs to one set of subjects. Its other settings may change.
func TestGroupTaken(t *testing.T) {
	conn := operator(t, broker(t))
	s := subscriber(t, conn, swift("g"))
	initialize(t, s, "taken")
	subscribe(t, s, "taken")
	d := swift("g")
	d.MaxInFlight, d.AckWait = 7, time.Second
	subscribe(t, subscriber(t, conn, d), "taken")
	if c := consumer(t, conn, "taken", "g").Config; c.MaxAckPending != 7 || c.AckWait != time.Second {
		t.Errorf("consumer is %+v", c)
	}
	_, err := js(t, conn).CreateConsumer(t.Context(), "taken", natsjs.ConsumerConfig{Durable: "other", AckPolicy: natsjs.AckAllPolicy})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := subscriber(t, conn, swift("other")).Subscribe(t.Context(), "taken"); !errors.Is(err, watermill.ErrGroupTaken) {
		t.Errorf("subscribe: %v", err)
	}
}

func TestTopics(t *testing.T) {
	conn := operator(t, broker(t))
	s, p := subscriber(t, conn, swift("g")), publisher(t, conn)
	for topic, want := range map[string]error{
		"":                       watermill.ErrInvalidTopic,
		"a b":                    watermill.ErrInvalidTopic,
		"a..b":                   watermill.ErrInvalidTopic,
		"a.*":                    watermill.ErrInvalidTopic,
		">":                      watermill.ErrInvalidTopic,
		"$JS.API.STREAM.DELETE":  watermill.ErrInvalidTopic,
		"a/b":                    watermill.ErrInvalidTopic,
		strings.Repeat("a", 201): watermill.ErrInvalidTopic,
		"LEDGER":                 watermill.ErrReadOnly,
		"ledger.0001.acme.key.x": watermill.ErrReadOnly,
		"uses":                   watermill.ErrReadOnly,
		"Seals.x":                watermill.ErrReadOnly,
	} {
		if err := p.Publish(topic, message.NewMessage("1", nil)); !errors.Is(err, want) {
			t.Errorf("publish to %q: %v", topic, err)
		}
		if _, err := s.Subscribe(t.Context(), topic); !errors.Is(err, want) {
			t.Errorf("subscribe to %q: %v", topic, err)
		}
		if err := s.SubscribeInitialize(topic); !errors.Is(err, want) {
			t.Errorf("initialize %q: %v", topic, err)
		}
	}
	initialize(t, s, "orders.paid")
	initialize(t, s, "orders.paid")
	if err := s.SubscribeInitialize("orders_paid"); !errors.Is(err, watermill.ErrInvalidTopic) {
		t.Errorf("another topic of the same stream: %v", err)
	}
}

func TestValidate(t *testing.T) {
	err := watermill.SubscriberConfig{
		Streams: watermill.Streams{Replicas: 9, MaxAge: time.Second, Duplicates: time.Minute, MaxBytes: -1},
		Delivery: watermill.Delivery{
			Group: "a.b", MaxInFlight: -1, Prefetch: 5000, AckWait: 1, CloseTimeout: -1, Heartbeat: 1,
		},
	}.Validate()
	for _, member := range []string{"Conn", "Replicas", "MaxBytes", "Duplicates", "Group", "MaxInFlight", "Prefetch", "AckWait", "CloseTimeout", "Heartbeat"} {
		if err == nil || !strings.Contains(err.Error(), member) {
			t.Errorf("%s is not told: %v", member, err)
		}
	}
	err = watermill.FollowerConfig{
		Topics: map[string][]string{"a b": {"ledger.>"}, "none": nil, "orders": {"orders.>"}, "bad": watermill.Revocations("No Org")},
	}.Validate()
	for _, text := range []string{"Conn", "Ledger", `"a b"`, `"none"`, `"orders"`, `"bad"`} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s is not told: %v", text, err)
		}
	}
	err = watermill.FollowerConfig{
		Topics: map[string][]string{"a": nil, "b": nil}, Consumer: "a.b", From: 1, Delivery: watermill.Delivery{Group: "g", AckWait: time.Second},
	}.Validate()
	for _, text := range []string{"one topic", "Consumer is not", "place of Group", "From, MaxInFlight and AckWait"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s is not told: %v", text, err)
		}
	}
	if err := (watermill.PublisherConfig{Timeout: -1}).Validate(); err == nil || !strings.Contains(err.Error(), "Conn") || !strings.Contains(err.Error(), "Timeout") {
		t.Errorf("publisher: %v", err)
	}
}
