package watermill

import (
	"fmt"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/components/cqrs"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/keyledger/keyledger/events"
)

// Decode returns the fact that a follower's message holds, in its place in the
// ledger. Like [events.Decode] it returns something to act on also with an error:
// [events.Malformed].
func Decode(m *message.Message) (events.Recorded, error) {
	r := events.Recorded{Raw: m.Payload}
	var err error
	if r.Subject, err = events.ParseSubject(m.Metadata.Get(MetadataSubject)); err != nil {
		return malformed(r, err)
	}
	seq, err := strconv.ParseUint(m.Metadata.Get(MetadataSequence), 10, 64)
	if err != nil {
		return malformed(r, fmt.Errorf("%w: %s is no number", ErrMalformed, MetadataSequence))
	}
	stored, err := time.Parse(time.RFC3339Nano, m.Metadata.Get(MetadataStored))
	if err != nil {
		return malformed(r, fmt.Errorf("%w: %s is no time", ErrMalformed, MetadataStored))
	}
	r.Position, r.Stored = events.Position(seq), events.TimeOf(stored)
	r.Meta, r.Event, err = events.Decode(r.Subject, m.Payload)
	return r, err
}

func malformed(r events.Recorded, err error) (events.Recorded, error) {
	r.Event = events.Malformed{Reason: err.Error()}
	return r, err
}

// Fact is a fact of one kind in its place in the ledger: what a handler of
// Watermill's cqrs component takes.
//
//	cqrs.NewGroupEventHandler(func(ctx context.Context, f *watermill.Fact[events.KeyRevoked]) error {
//		id, _ := f.Recorded.Subject.Key()
//		return denied.Add(id)
//	})
type Fact[E events.Event] struct {
	Recorded events.Recorded
	// Event is that of Recorded.
	Event E
}

// kind tells the marshaler which facts belong in here.
func (*Fact[E]) kind() events.Kind {
	var zero E
	return zero.Kind()
}

func (f *Fact[E]) set(r events.Recorded) error {
	e, ok := r.Event.(E)
	if !ok {
		return fmt.Errorf("%w: a fact of kind %q is none of kind %q", ErrMalformed, r.Event.Kind(), f.kind())
	}
	f.Recorded, f.Event = r, e
	return nil
}

// Marshaler lets handlers of Watermill's cqrs component take facts as [Fact]. It
// only reads: the ledger is changed by commands alone.
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
	if err != nil {
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

// NameFromMessage returns the kind of a follower's message.
func (Marshaler) NameFromMessage(m *message.Message) string { return m.Metadata.Get(MetadataKind) }
