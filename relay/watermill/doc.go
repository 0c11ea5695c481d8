// Package watermill lets a program that is built on Watermill take part: it
// follows the ledger as a Watermill subscriber, above all its revocations, and
// publishes and subscribes to topics of its own on the same NATS JetStream.
//
//	follower, err := watermill.NewFollower(watermill.FollowerConfig{
//		Conn:     conn,
//		Consumer: "subscriber", // the credential's name
//		Topics:   map[string][]string{"revocations": nil},
//	})
//	messages, err := follower.Subscribe(ctx, "revocations")
//	for m := range messages {
//		fact, err := watermill.Decode(m) // an events.Recorded
//		// ...
//		m.Ack()
//	}
//
// There are two kinds of topics, and one subscriber for both:
//
//   - [NewFollower]: a topic is a set of subjects of the ledger's own stream. It
//     is read-only: no stream is created or changed, and nothing is published. A
//     message's payload is the stored CloudEvents document, byte for byte, and
//     its UUID is the fact's id. A subscriber's credential reads by the one
//     consumer that was made for it ([FollowerConfig.Consumer]); in the ledger's
//     own account a follower makes its consumers itself.
//   - [NewSubscriber] with [NewPublisher]: a topic is a stream of its own, which
//     subscribing creates. The ledger's names are refused.
//
// # What is promised
//
// At least once: a message is acknowledged to the broker after its handler
// acknowledged it, and comes again otherwise. Handlers must bear a message
// twice; its UUID, or its sequence, tells.
//
// Order: with [Delivery.MaxInFlight] 1, the default, the members of a group
// handle one message at a time, all in the order of the stream, also when one is
// refused, a member dies, or the connection breaks. With more in flight each
// subscription still hands out one message at a time, in the order of arrival,
// but one that comes again comes late.
//
// Nothing is dropped in silence: a message that cannot be read is logged as an
// error and handed over with what can be read of it (see [MetadataMalformed]), or
// to [Delivery.Malformed]. For a follower that is a body that is no fact, one that
// was made for another subject, and one of another ledger: [Decode] returns
// [events.Malformed] with [ErrMalformed], and [Marshaler] names them "malformed".
// Whether such a fact closes what its subject names, or waits for somebody to
// look, is the handler's to decide; one that only returns the error refuses the
// message, and it comes again until a poison queue takes it.
//
// A filtered follower cannot see a gap in the ledger: it sees what the broker
// has. Whoever must be sure that nothing is missing reads the whole ledger, as
// the verification index does.
//
// This adapter is our own because the one at hand crashes on a repeated header,
// tells a handler neither sequence nor time of a message, and a publisher not
// where its message went.
package watermill
