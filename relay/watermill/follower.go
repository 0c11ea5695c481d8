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
	"github.com/keyledger/keyledger/events/batch"
	"github.com/keyledger/keyledger/events/jetstream"
)

// FollowerConfig says what of the ledger is followed.
type FollowerConfig struct {
	// Conn is the connection. Required; closing the follower leaves it open. It
	// should reconnect for ever (nats.MaxReconnects(-1)).
	Conn *nats.Conn
	// Ledger is the id of the ledger that is followed: a fact that was made for
	// another one, a rehearsal's revocation for instance, is handed over as
	// [events.Malformed]. Required, unless Consumer tells it.
	Ledger events.LedgerID
	// Topics names what is followed: each topic is a set of subjects of the
	// ledger, such as [Revocations] or [Changes] return, none within another.
	// Topics are made of letters, digits, '-' and '_'.
	Topics map[string][]string
	// From is the first position that a new group is given. 0 is the ledger's
	// beginning, which a deny list needs.
	From events.Position
	// Consumer is the durable consumer that was made for this follower by somebody
	// who may, and is used as it is: for a subscriber's credential it has the
	// credential's name. Every subscription is a member of it, so that it takes
	// the place of Group; there is one topic, without subjects or with those that
	// the consumer reads; MaxInFlight, AckWait and From are what it was made with.
	Consumer string
	Delivery
}

// Validate reports every fault at once.
func (c FollowerConfig) Validate() error {
	var faults []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf("watermill: "+format, args...))
		}
	}
	fault(c.Conn == nil, "Conn is missing")
	fault(len(c.Topics) == 0, "Topics is empty")
	for _, topic := range slices.Sorted(maps.Keys(c.Topics)) {
		fault(!token(topic), "topic %q is not made of letters, digits, '-' and '_'", topic)
		fault(len(ConsumerName(c.Group, topic)) > maxTopic, "topic %q and the group's name are too long together", topic)
		fault(len(c.Topics[topic]) == 0 && c.Consumer == "", "topic %q has no subjects", topic)
		for _, subject := range c.Topics[topic] {
			fault(!strings.HasPrefix(subject, "ledger.") || strings.ContainsAny(subject, " \t\r\n"), "topic %q: %q is no subject of the ledger", topic, subject)
		}
	}
	if c.Consumer != "" {
		fault(!token(c.Consumer) || len(c.Consumer) > maxTopic, "Consumer is not made of letters, digits, '-' and '_'")
		fault(len(c.Topics) > 1, "Consumer serves one topic")
		fault(c.Group != "", "Consumer takes the place of Group")
		fault(c.From != 0 || c.MaxInFlight != 0 || c.AckWait != 0, "From, MaxInFlight and AckWait are what Consumer was made with")
	} else {
		fault(c.Ledger == events.LedgerID{}, "Ledger is missing")
	}
	return errors.Join(append(faults, c.faults()...)...)
}

// NewFollower returns a subscriber to topics of the ledger.
func NewFollower(c FollowerConfig) (*Subscriber, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return newSubscriber(c.Conn, c.Delivery, ledger{
		id: c.Ledger, topics: maps.Clone(c.Topics), group: c.Group, from: c.From, consumer: c.Consumer,
	})
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

// ProviderKeys returns the subjects of all that happens to organizations' own keys of
// AI providers, of all organizations when none is named: what is unusual about them,
// too. No fact holds such a key but as ciphertext.
func ProviderKeys(orgs ...events.OrgID) []string {
	return of(orgs, string(events.AggregateProviderKey)+".>")
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
	id       events.LedgerID
	topics   map[string][]string
	group    string
	from     events.Position
	consumer string
}

func (l ledger) prepare(_ context.Context, _ natsjs.JetStream, topic string) error {
	if _, ok := l.topics[topic]; !ok {
		return fmt.Errorf("%w: %q is not among the topics of this follower", ErrInvalidTopic, topic)
	}
	return nil
}

func (l ledger) source(topic string) source {
	src := source{stream: jetstream.StreamLedger, bound: l.consumer != "", ledger: l.id, read: readFact}
	switch {
	case src.bound:
		src.consumer.Durable = l.consumer
	case l.group != "":
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
func readFact(src *source, m *nats.Msg, at *place) (*message.Message, *reading) {
	r := &reading{Recorded: batch.Read(src.ledger, m.Subject, m.Data)}
	r.Position, r.Stored = events.Position(at.Sequence.Stream), events.TimeOf(at.Timestamp)
	out := message.NewMessage(name(at), m.Data)
	out.Metadata[MetadataKind] = string(r.Event.Kind())
	if bad, ok := r.Event.(events.Malformed); ok {
		r.fault = malformed(bad)
	} else {
		out.UUID = r.Meta.ID.String()
	}
	return out, r
}
