package watermill

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/keyledger/keyledger/events"
)

// Decode returns the fact that a follower's message holds, in its place in the
// ledger. Like [events.Decode] it returns something to act on also with an error:
// [events.Malformed] in the place of a body that is no fact, or one of another
// ledger, with an error that wraps [ErrMalformed]; and [events.Unknown] without
// an error for a kind that this program does not know.
//
// It reads a message that was stored elsewhere in the meantime too, in a poison
// queue for instance, as long as its metadata went with it.
func Decode(m *message.Message) (events.Recorded, error) {
	if r, ok := m.Context().Value(readingKey{}).(*reading); ok && bytes.Equal(r.Raw, m.Payload) {
		return r.Recorded, r.fault
	}
	r := reading{Recorded: events.Recorded{Raw: m.Payload}}
	refuse := func(reason string) (events.Recorded, error) {
		bad := events.Malformed{Reason: reason}
		r.Event = bad
		return r.Recorded, malformed(bad)
	}
	seq, err := strconv.ParseUint(m.Metadata.Get(MetadataSequence), 10, 64)
	if err != nil {
		return refuse(MetadataSequence + " is no number")
	}
	stored, err := time.Parse(time.RFC3339Nano, m.Metadata.Get(MetadataStored))
	if err != nil {
		return refuse(MetadataStored + " is no time")
	}
	r.Position, r.Stored = events.Position(seq), events.TimeOf(stored)
	if r.Subject, err = events.ParseSubject(m.Metadata.Get(MetadataSubject)); err != nil {
		return refuse(err.Error())
	}
	// Which ledger is followed was known only to the follower.
	if reason, ok := m.Metadata[MetadataMalformed]; ok {
		return refuse(strings.TrimPrefix(reason, ErrMalformed.Error()+": "))
	}
	if r.Meta, r.Event, err = events.Decode(r.Subject, m.Payload); err != nil {
		return refuse(err.Error())
	}
	return r.Recorded, nil
}

// reading is a fact as a follower read it, so that its handlers need not again.
type reading struct {
	events.Recorded
	fault error
}

// readingKey is its place in a message's context.
type readingKey struct{}

func malformed(m events.Malformed) error { return fmt.Errorf("%w: %s", ErrMalformed, m.Reason) }

// Fact is a fact of one kind in its place in the ledger: what a handler of
// Watermill's cqrs component takes.
//
//	cqrs.NewGroupEventHandler(func(ctx context.Context, f *watermill.Fact[events.KeyRevoked]) error {
//		id, _ := f.Recorded.Subject.Key()
//		return denied.Add(id)
//	})
//
// Fact[events.Malformed] takes what could not be read, and Fact[events.Unknown]
// every kind that this program does not know. Handlers of one follower belong
// into one group: processors that subscribe for each handler would share the
// messages of the consumer among handlers, and each would pass over the others'.
type Fact[E events.Event] struct {
	Recorded events.Recorded
	// Event is that of Recorded.
	Event E
}

// kind tells the marshaler which facts belong in here.
func (*Fact[E]) kind() events.Kind {
	var zero E
	return nameOf(zero)
}

// unknown is the name of all kinds that this program does not know.
const unknown events.Kind = "unknown"

func nameOf(e events.Event) events.Kind {
	if _, ok := e.(events.Unknown); ok {
		return unknown
	}
	return e.Kind()
}

func (f *Fact[E]) set(r events.Recorded) error {
	e, ok := r.Event.(E)
	if !ok {
		return fmt.Errorf("%w: a fact of kind %q is none of kind %q", ErrMalformed, nameOf(r.Event), f.kind())
	}
	f.Recorded, f.Event = r, e
	return nil
}

// Marshaler lets handlers of Watermill's cqrs component take facts as [Fact]. It
// only reads: the ledger is changed by commands alone.
//
// Leave AckOnUnknownEvent false: what no handler takes is then an error, as is
// what a handler cannot read, and goes the way of errors (retried, set aside, in
// any case seen). Where it is true, messages without a handler are acknowledged,
// so that there must be one for Fact[events.Malformed].
type Marshaler struct{}

var _ cqrs.CommandEventMarshaler = Marshaler{}

type fact interface {
	kind() events.Kind
	set(events.Recorded) error
}

// Marshal returns [ErrReadOnly].
func (Marshaler) Marshal(any) (*message.Message, error) { return nil, ErrReadOnly }

// Unmarshal reads a follower's message into a *[Fact] of its kind.
func (Marshaler) Unmarshal(m *message.Message, v any) error {
	f, ok := v.(fact)
	if !ok {
		return fmt.Errorf("watermill: handlers take a *Fact, not %T", v)
	}
	r, err := Decode(m)
	if err != nil && f.kind() != nameOf(r.Event) {
		return err
	}
	return f.set(r)
}

// Name returns the kind of a *[Fact], and nothing for anything else.
func (Marshaler) Name(v any) string {
	if f, ok := v.(fact); ok {
		return string(f.kind())
	}
	return ""
}

// NameFromMessage returns the kind of a follower's message: "malformed" when it
// cannot be read, and "unknown" for every kind that this program does not know.
func (Marshaler) NameFromMessage(m *message.Message) string {
	r, _ := Decode(m)
	return string(nameOf(r.Event))
}
