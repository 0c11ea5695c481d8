package watermill

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
)

// FollowerConfig says what of the ledger is followed.
type FollowerConfig struct {
	// Conn is the connection. Required; closing the follower leaves it open. It
	// should reconnect for ever (nats.MaxReconnects(-1)).
	Conn *nats.Conn
	// Topics names what is followed: each topic is a set of subjects of the
	// ledger, such as [Revocations] or [Changes] return, none within another.
	// Topics are made of letters, digits, '-' and '_'.
	Topics map[string][]string
	// From is the first position that a new group is given. 0 is the ledger's
	// beginning, which a deny list needs.
	From events.Position
	// Bound says that the consumer [ConsumerName] was made for this follower by
	// somebody who may, and is used as it is: MaxInFlight, AckWait and From are
	// then to be what it was made with. It needs a Group.
	Bound bool
	Delivery
}

// Validate reports every fault at once.
func (c FollowerConfig) Validate() error {
	var faults []error
	if c.Conn == nil {
		faults = append(faults, errors.New("watermill: Conn is missing"))
	}
	if len(c.Topics) == 0 {
		faults = append(faults, errors.New("watermill: Topics is empty"))
	}
	for _, topic := range slices.Sorted(maps.Keys(c.Topics)) {
		if !token(topic) {
			faults = append(faults, fmt.Errorf("watermill: topic %q is not made of letters, digits, '-' and '_'", topic))
		}
		if len(ConsumerName(c.Group, topic)) > maxTopic {
			faults = append(faults, fmt.Errorf("watermill: topic %q and the group's name are too long together", topic))
		}
		if len(c.Topics[topic]) == 0 {
			faults = append(faults, fmt.Errorf("watermill: topic %q has no subjects", topic))
		}
		for _, subject := range c.Topics[topic] {
			if !strings.HasPrefix(subject, "ledger.") || strings.ContainsAny(subject, " \t\r\n") {
				faults = append(faults, fmt.Errorf("watermill: topic %q: %q is no subject of the ledger", topic, subject))
			}
		}
	}
	if c.Bound && c.Group == "" {
		faults = append(faults, errors.New("watermill: Bound needs a Group"))
	}
	return errors.Join(append(faults, c.faults()...)...)
}

// NewFollower returns a subscriber to topics of the ledger.
func NewFollower(c FollowerConfig) (*Subscriber, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	followed := maps.Clone(c.Topics)
	return newSubscriber(c.Conn, c.Delivery, ledger{followed, c.Group, c.From, c.Bound})
}

// ConsumerName is the durable consumer on the ledger's stream that a group
// follows a topic with.
func ConsumerName(group, topic string) string { return group + "_" + topic }

// Revocations returns the subjects of the revocations of organizations, and of
// their ends; of all organizations when none is named. An id that cannot be is
// refused by Validate.
func Revocations(orgs ...events.OrgID) []string {
	return of(orgs, string(events.AggregateRevoked)+".>")
}

// Changes returns the subjects of all facts of organizations; of all of them,
// and of the installation, when none is named. What was appended as one arrives
// as one message after another.
func Changes(orgs ...events.OrgID) []string { return of(orgs, ">") }

func of(orgs []events.OrgID, rest string) []string {
	if len(orgs) == 0 {
		if rest == ">" {
			return []string{"ledger.>"}
		}
		return []string{"ledger.*.*." + rest}
	}
	subjects := make([]string, len(orgs))
	for i, org := range orgs {
		if _, err := events.ParseOrgID(string(org)); err != nil {
			subjects[i] = fmt.Sprintf("not an organization: %q", org)
			continue
		}
		end := events.EndSubject(org).String()
		subjects[i] = strings.TrimSuffix(end, string(events.AggregateRevoked)+"."+events.RevokedAll) + rest
	}
	return subjects
}

// ledger are topics of the ledger.
type ledger struct {
	topics map[string][]string
	group  string
	from   events.Position
	bound  bool
}

func (l ledger) prepare(_ context.Context, _ natsjs.JetStream, topic string) error {
	if _, ok := l.topics[topic]; !ok {
		return fmt.Errorf("%w: %q is not among the topics of this follower", ErrInvalidTopic, topic)
	}
	return nil
}

func (l ledger) source(topic string) source {
	src := source{stream: jetstream.StreamLedger, bound: l.bound, read: readFact}
	if l.group != "" {
		src.consumer.Durable = ConsumerName(l.group, topic)
	}
	// One subject goes into the request's own subject, where permissions see it.
	if subjects := l.topics[topic]; len(subjects) == 1 {
		src.consumer.FilterSubject = subjects[0]
	} else {
		src.consumer.FilterSubjects = subjects
	}
	if l.from > 1 {
		src.consumer.DeliverPolicy, src.consumer.OptStartSeq = natsjs.DeliverByStartSequencePolicy, uint64(l.from)
	}
	return src
}

// readFact makes a message of a fact. Headers mean nothing in the ledger and are
// left out.
func readFact(m *nats.Msg, at *place) (*message.Message, error) {
	out := message.NewMessage(name(at), m.Data)
	subject, err := events.ParseSubject(m.Subject)
	if err != nil {
		return out, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	meta, event, err := events.Decode(subject, m.Data)
	out.Metadata[MetadataKind] = string(event.Kind())
	if err != nil {
		return out, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	out.UUID = meta.ID.String()
	return out, nil
}
