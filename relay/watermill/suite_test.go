package watermill_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/relay/watermill"
)

// strict is what the default promises: one message of a group at a time.
var strict = tests.Features{ConsumerGroups: true, GuaranteedOrder: true, Persistent: true}

// ahead is what is promised when more than one message is in flight.
var ahead = tests.Features{ConsumerGroups: true, Persistent: true}

// alone is what a subscription without a group promises. Fifty of them, each with
// all messages and none acknowledged, take half a minute and show nothing more.
var alone = tests.Features{Persistent: true, GuaranteedOrder: true, GuaranteedOrderWithSingleSubscriber: true, NewSubscriberReceivesOldMessages: true, ForceShort: true}

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
	t.Run("strict", func(t *testing.T) {
		c := constructors{conn, window(1, true)}
		tests.TestPubSub(t, strict, c.one, c.group)
	})
	t.Run("ahead", func(t *testing.T) {
		c := constructors{conn, window(100, false)}
		tests.TestPubSub(t, ahead, c.one, c.group)
	})
	t.Run("alone", func(t *testing.T) {
		c := constructors{conn, window(1, false)}
		tests.TestPubSub(t, alone, c.alone, c.group)
	})
}

// The same, several times side by side.
func TestPubSubStress(t *testing.T) {
	t.Setenv("STRESS_TEST_COUNT", "4")
	c := constructors{operator(t, broker(t)), window(1, false)}
	tests.TestPubSubStressTest(t, strict, c.one, c.group)
}
