package watermill_test

import (
	"flag"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/relay/watermill"
)

// fullSuite has Watermill's suite send thousands of messages to fifty subscribers,
// as it does by itself. Its short sizes cross every boundary that there is here: a
// hundred messages are asked for in several requests, and are several windows.
var fullSuite = flag.Bool("full-suite", false, "Watermill's suite in full, which takes minutes")

// strict is what the default promises: one message of a group at a time.
func strict() tests.Features {
	return tests.Features{ConsumerGroups: true, GuaranteedOrder: true, Persistent: true, ForceShort: !*fullSuite}
}

// ahead is what is promised when more than one message is in flight.
func ahead() tests.Features {
	return tests.Features{ConsumerGroups: true, Persistent: true, ForceShort: !*fullSuite}
}

// alone is what a subscription without a group promises. Fifty of them, each with
// all messages and none acknowledged, take half a minute and show nothing more.
func alone() tests.Features {
	return tests.Features{Persistent: true, GuaranteedOrder: true, GuaranteedOrderWithSingleSubscriber: true, NewSubscriberReceivesOldMessages: true, ForceShort: true}
}

type constructors struct {
	conn     *nats.Conn
	delivery func(group string) watermill.Delivery
}

func (c constructors) group(t *testing.T, group string) (message.Publisher, message.Subscriber) {
	return publisher(t, c.conn), subscriber(t, c.conn, c.delivery(group))
}

func (c constructors) one(t *testing.T) (message.Publisher, message.Subscriber) {
	return c.group(t, "one")
}

func (c constructors) alone(t *testing.T) (message.Publisher, message.Subscriber) {
	return c.group(t, "")
}

func window(n int, double bool) func(string) watermill.Delivery {
	return func(group string) watermill.Delivery {
		d := swift(group)
		d.MaxInFlight, d.DoubleAck = n, double
		return d
	}
}

// Watermill's universal suite, for each promise that there is.
func TestPubSub(t *testing.T) {
	conn := operator(t, broker(t))
	for name, promise := range map[string]struct {
		features tests.Features
		delivery func(string) watermill.Delivery
	}{
		"strict":    {strict(), window(1, false)},
		"confirmed": {strict(), window(1, true)},
		"ahead":     {ahead(), window(32, false)},
	} {
		t.Run(name, func(t *testing.T) {
			c := constructors{conn, promise.delivery}
			tests.TestPubSub(t, promise.features, c.one, c.group)
		})
	}
	t.Run("alone", func(t *testing.T) {
		c := constructors{conn, window(1, false)}
		tests.TestPubSub(t, alone(), c.alone, c.group)
	})
}
