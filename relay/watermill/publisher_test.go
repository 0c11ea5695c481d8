package watermill_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/relay/watermill"
)

// A stored message knows its place, and a repeated one that of the first.
func TestPublish(t *testing.T) {
	conn := operator(t, broker(t))
	initialize(t, subscriber(t, conn, swift("g")), "pub")
	p := publisher(t, conn)
	a, b, again := message.NewMessage("a", nil), message.NewMessage("b", nil), message.NewMessage("a", nil)
	if err := p.Publish("pub", a, b, again); err != nil {
		t.Fatal(err)
	}
	for m, want := range map[*message.Message]message.Metadata{
		a:     {watermill.MetadataStream: "pub", watermill.MetadataSequence: "1"},
		b:     {watermill.MetadataStream: "pub", watermill.MetadataSequence: "2"},
		again: {watermill.MetadataStream: "pub", watermill.MetadataSequence: "1", watermill.MetadataDuplicate: "true"},
	} {
		if diff := cmp.Diff(want, m.Metadata); diff != "" {
			t.Error(diff)
		}
	}
}

func TestPublishFails(t *testing.T) {
	conn := operator(t, broker(t))
	s := subscriber(t, conn, swift("g"))
	initialize(t, s, "pub")
	p := publisher(t, conn)
	fails := func(p *watermill.Publisher, topic string, m *message.Message, want error) {
		t.Helper()
		if err := p.Publish(topic, m); !errors.Is(err, want) {
			t.Errorf("publish: %v, want %v", err, want)
		}
	}
	fails(p, "nowhere", message.NewMessage("a", nil), watermill.ErrNoStream)
	fails(p, "pub", message.NewMessage("a\r\nb", nil), watermill.ErrInvalidMessage)
	odd := message.NewMessage("a", nil)
	odd.Metadata["k"] = "\xff\n"
	fails(p, "pub", odd, watermill.ErrInvalidMessage)
	fails(p, "pub", message.NewMessage("a", make([]byte, 2<<20)), watermill.ErrRefused)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	fails(p, "pub", message.NewMessageWithContext(ended, "a", nil), watermill.ErrRefused)

	// Somebody else's stream takes the topic: it would never be read.
	_, err := js(t, conn).CreateStream(t.Context(), natsjs.StreamConfig{Name: "WIDE", Subjects: []string{"wide.>"}})
	if err != nil {
		t.Fatal(err)
	}
	fails(p, "wide.topic", message.NewMessage("a", nil), watermill.ErrRefused)

	// Someone listens and does not answer.
	mute, err := conn.SubscribeSync("mute")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mute.Unsubscribe() }()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	fails(p, "mute", message.NewMessageWithContext(short, "a", nil), watermill.ErrOutcomeUnknown)

	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	fails(p, "pub", message.NewMessage("a", nil), watermill.ErrClosed)
	p = publisher(t, conn)
	conn.Close()
	fails(p, "pub", message.NewMessage("a", nil), watermill.ErrRefused)
}

// Whatever metadata says, it arrives as it was.
func TestMetadata(t *testing.T) {
	conn := operator(t, broker(t))
	s, p := subscriber(t, conn, swift("g")), publisher(t, conn)
	initialize(t, s, "meta")
	messages := subscribe(t, s, "meta")
	names := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
		"Nats-Rollup", "nats-ttl", "Nats-Msg-Id", "Nats-Expected-Stream", "Status", "description", "Keyledger-Metadata", "", "a:b", "x y", "k",
	}))
	values := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", " v ", "two\nlines", "all", "100", "\x7f", "\t"}))
	rapid.Check(t, func(r *rapid.T) {
		sent := message.NewMessage("", []byte(rapid.String().Draw(r, "payload")))
		for name, value := range rapid.MapOfN(names, values, 0, 6).Draw(r, "metadata") {
			sent.Metadata[name] = value
		}
		want := message.Metadata{}
		for name, value := range sent.Metadata {
			want[name] = value
		}
		if err := p.Publish("meta", sent); err != nil {
			r.Fatal(err)
		}
		m := next(t, messages)
		m.Ack()
		for _, told := range []string{
			watermill.MetadataStream, watermill.MetadataSequence, watermill.MetadataStored,
			watermill.MetadataSubject, watermill.MetadataDelivered,
		} {
			if m.Metadata[told] == "" {
				r.Errorf("%s is not told", told)
			}
			delete(m.Metadata, told)
		}
		if diff := cmp.Diff(want, m.Metadata); diff != "" {
			r.Error(diff)
		}
		if string(m.Payload) != string(sent.Payload) {
			r.Errorf("payload is %q", m.Payload)
		}
	})
}
