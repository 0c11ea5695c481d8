package jetstream

import (
	"context"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
)

// ErrReaderChanged says that what a credential reads by is not what it should be.
var ErrReaderChanged = errors.New("jetstream: reader was changed")

// ErrReadersFull says that a stream takes no more readers: 1,000, unless the broker
// or the stream was told otherwise.
var ErrReadersFull = errors.New("jetstream: the stream takes no more readers")

// The metadata of a reader's consumer.
const (
	metadataLedger = "keyledger_ledger"
	metadataScope  = "keyledger_scope"
	// metadataStaleness is in seconds.
	metadataStaleness = "keyledger_max_staleness"
)

const (
	// maxPull bounds how long a request for messages may be open: one whose client
	// has gone takes messages away from the next.
	maxPull = 30 * time.Second
	// copyHeartbeat is what the broker demands where a copy is fed.
	copyHeartbeat = time.Second
	// copyPending is how many messages are on their way to a copy at most.
	copyPending = 10_000
	// ackWait is when a message that is not acknowledged comes again.
	ackWait = 10 * time.Second
)

// ReaderSpec is what a credential may read. Its holder can neither change it nor
// make another: it only asks for what comes next.
type ReaderSpec struct {
	// Ledger is the ledger it belongs to.
	Ledger events.LedgerID
	// Stream is what it reads: StreamLedger or a mirror of it ([MirrorStream]),
	// StreamUses or StreamAccess.
	Stream string
	// Name is the credential's, and the consumer's.
	Name string
	// Subjects are all that it sees, none for everything.
	Subjects []string
	// Acknowledged readers go on behind what they have acknowledged; the others
	// begin where they want (see [Reader]).
	Acknowledged bool
	// Deliver, if set, makes it one that a copy of the stream elsewhere is fed by: the
	// messages come to that subject, and it is begun anew where the copy ends.
	Deliver string
	// Scope is the label of what it sees in ticks, empty for everything and for
	// those who do not judge how complete it is.
	Scope string
	// MaxStaleness is how old a verifier may let its knowledge become, 0 for the
	// default: who reads a part of the ledger learns of his bound here alone.
	MaxStaleness time.Duration
}

// Validate reports every fault at once.
func (s ReaderSpec) Validate() error {
	var faults []error
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, errors.New("jetstream: reader: "+text))
		}
	}
	fault(s.Ledger.IsZero(), "Ledger is missing")
	root, known := map[string]string{StreamLedger: "ledger.", StreamUses: "uses.", StreamAccess: "access."}[s.Stream]
	if strings.HasPrefix(s.Stream, mirrorPrefix) {
		root, known = "ledger.", true
	}
	fault(!known, "Stream is none that is read")
	fault(s.Name == "" || strings.ContainsAny(s.Name, ".*> \t\r\n/\\"), "Name is none")
	for _, subject := range s.Subjects {
		// One outside the stream would be a reader that sees nothing, for ever.
		fault(!strings.HasPrefix(subject, root), "Subjects are not all of the stream")
	}
	return errors.Join(faults...)
}

// config is the consumer that a spec asks for. Acknowledged or not, it lies on
// disk and on as many nodes as the stream: its place, and that it is there, must
// outlive them.
func (s ReaderSpec) config() natsjs.ConsumerConfig {
	config := natsjs.ConsumerConfig{
		Name: s.Name, Durable: s.Name, DeliverPolicy: natsjs.DeliverAllPolicy, ReplayPolicy: natsjs.ReplayInstantPolicy,
		AckPolicy: natsjs.AckNonePolicy, MaxDeliver: -1, MaxRequestExpires: maxPull,
		FilterSubjects: slices.Sorted(slices.Values(s.Subjects)),
		Metadata:       map[string]string{metadataLedger: s.Ledger.String()},
	}
	if s.Acknowledged {
		config.AckPolicy, config.AckWait = natsjs.AckExplicitPolicy, ackWait
	}
	if s.Deliver != "" {
		config.DeliverSubject, config.AckPolicy, config.FlowControl, config.IdleHeartbeat = s.Deliver, natsjs.AckFlowControlPolicy, true, copyHeartbeat
		config.MaxRequestExpires, config.MaxAckPending = 0, copyPending
	}
	if s.Scope != "" {
		config.Metadata[metadataScope] = s.Scope
	}
	if s.MaxStaleness > 0 {
		config.Metadata[metadataStaleness] = strconv.Itoa(int(s.MaxStaleness / time.Second))
	}
	return config
}

// readerFree is what a reader's consumer may have otherwise than it was made:
// what the broker adds and what an operator may tune without changing what is seen.
var readerFree = []string{"description", "metadata", "max_waiting", "max_ack_pending", "ack_wait", "max_batch"}

// EnsureReader makes the consumer that a credential reads by, over a connection
// that works with the ledger. Called again it does nothing; one that is there and
// differs is [ErrReaderChanged], which names the members, and a stream that takes no
// more of them is [ErrReadersFull]. Other errors are those of reading.
func EnsureReader(ctx context.Context, conn *nats.Conn, s ReaderSpec) error {
	if err := s.Validate(); err != nil {
		return err
	}
	l := readOnly(conn)
	info, err := l.consumerInfo(ctx, s.Stream, s.Name)
	if errors.Is(err, errNoConsumer) {
		if err := l.makeReader(ctx, s); err != nil {
			return err
		}
		info, err = l.consumerInfo(ctx, s.Stream, s.Name)
	}
	if err != nil {
		return err
	}
	return s.compare(info.Config)
}

func (l *Ledger) makeReader(ctx context.Context, s ReaderSpec) error {
	request := struct {
		Stream string                `json:"stream_name"`
		Action string                `json:"action"`
		Config natsjs.ConsumerConfig `json:"config"`
	}{s.Stream, "create", s.config()}
	// The configuration's own encoding is that of package encoding/json.
	body, err := stdjson.Marshal(request)
	if err != nil {
		return fmt.Errorf("jetstream: encode consumer: %w", err)
	}
	var answer struct {
		Error *apiError `json:"error"`
	}
	if err := l.askRaw(ctx, "$JS.API.CONSUMER.CREATE."+s.Stream+"."+s.Name, body, &answer); err != nil {
		return err
	}
	if answer.Error != nil && answer.Error.Code == codeReadersFull {
		return fmt.Errorf("%w: %s", ErrReadersFull, s.Stream)
	}
	// One that somebody else has made meanwhile is compared like any other.
	if answer.Error != nil && answer.Error.Code != codeConsumerExists {
		return answer.Error.read(s.Stream)
	}
	return nil
}

// compare tells every member in which a reader's consumer is not as it should be.
func (s ReaderSpec) compare(live rawConfig) error {
	want, err := raw(s.config())
	if err != nil {
		return err
	}
	seen, metadata, err := describe(live)
	if err != nil {
		return fmt.Errorf("%w: %s on %s: %w", ErrReaderChanged, s.Name, s.Stream, err)
	}
	// The broker may write a single subject down in another member than several.
	live = maps.Clone(live)
	delete(live, "filter_subject")
	if live["filter_subjects"], err = json.Marshal(seen); err != nil {
		return fmt.Errorf("jetstream: encode consumer: %w", err)
	}
	changed := differences(want, live, readerFree)
	wants := s.config().Metadata
	for _, m := range []string{metadataLedger, metadataScope} {
		if metadata[m] != wants[m] {
			changed = append(changed, fmt.Sprintf("metadata %s is %q instead of %q", m, metadata[m], wants[m]))
		}
	}
	if len(changed) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s on %s: %s", ErrReaderChanged, s.Name, s.Stream, strings.Join(changed, ", "))
}

// RemoveReader takes away what a credential reads by. Where it is not, there is
// nothing to do.
func RemoveReader(ctx context.Context, conn *nats.Conn, stream, name string) error {
	var answer struct {
		Error *apiError `json:"error"`
	}
	if err := readOnly(conn).ask(ctx, "$JS.API.CONSUMER.DELETE."+stream+"."+name, nil, &answer); err != nil {
		return err
	}
	if answer.Error != nil && answer.Error.Code != codeConsumerNotFound {
		return answer.Error.read(stream)
	}
	return nil
}

// ReaderInfo is what a credential's reader is told of itself.
type ReaderInfo struct {
	// Ledger is the ledger it reads.
	Ledger events.LedgerID
	// Subjects are all that it sees, sorted, none for everything.
	Subjects []string
	// Scope is their label in ticks.
	Scope string
	// MaxStaleness is the bound that a verifier's credential was issued with, 0 if
	// none is told.
	MaxStaleness time.Duration
}

// DescribeReader asks what a credential reads, over the credential's own
// connection. That there is nothing to read by is [events.ErrUnavailable].
func DescribeReader(ctx context.Context, conn *nats.Conn, stream, name string) (ReaderInfo, error) {
	info, err := readOnly(conn).consumerInfo(ctx, stream, name)
	if err != nil {
		return ReaderInfo{}, err
	}
	return info.describe()
}

// readOnly is what asks the broker without being any ledger's.
func readOnly(conn *nats.Conn) *Ledger {
	return &Ledger{conn: conn, config: Config{LoadTimeout: 5 * time.Second}}
}

var errNoConsumer = errors.New("jetstream: consumer not found")

// consumerInfo is what is needed of a consumer's state.
type consumerInfo struct {
	Error     *apiError `json:"error"`
	Config    rawConfig `json:"config"`
	Delivered struct {
		Consumer uint64 `json:"consumer_seq"`
		Stream   uint64 `json:"stream_seq"`
	} `json:"delivered"`
	Pending uint64 `json:"num_pending"`
	// Reset is where it begins anew, in the answer to that.
	Reset uint64 `json:"reset_seq"`
}

func (l *Ledger) consumerInfo(ctx context.Context, stream, name string) (consumerInfo, error) {
	var info consumerInfo
	if err := l.ask(ctx, "$JS.API.CONSUMER.INFO."+stream+"."+name, nil, &info); err != nil {
		return info, err
	}
	return info, info.refused(stream, name)
}

func (i consumerInfo) refused(stream, name string) error {
	switch {
	case i.Error == nil:
		return nil
	case i.Error.Code == codeConsumerNotFound:
		return fmt.Errorf("%w: %w: %s", events.ErrUnavailable, errNoConsumer, name)
	default:
		return i.Error.read(stream)
	}
}

// describe reads what a consumer's configuration says of its reader.
func (i consumerInfo) describe() (ReaderInfo, error) {
	subjects, metadata, err := describe(i.Config)
	if err != nil {
		return ReaderInfo{}, fmt.Errorf("%w: it does not say what it reads: %w", ErrReaderChanged, err)
	}
	id, err := events.ParseLedgerID(metadata[metadataLedger])
	if err != nil {
		return ReaderInfo{}, fmt.Errorf("%w: it does not say what it reads: %w", ErrReaderChanged, err)
	}
	info := ReaderInfo{Ledger: id, Subjects: subjects, Scope: metadata[metadataScope]}
	if text, told := metadata[metadataStaleness]; told {
		seconds, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return ReaderInfo{}, fmt.Errorf("%w: its bound cannot be read", ErrReaderChanged)
		}
		info.MaxStaleness = time.Duration(seconds) * time.Second
	}
	return info, nil
}

// describe returns a consumer's subjects, sorted, and its metadata.
func describe(config rawConfig) (subjects []string, metadata map[string]string, err error) {
	single := ""
	for member, into := range map[string]any{"metadata": &metadata, "filter_subject": &single, "filter_subjects": &subjects} {
		if text, ok := config[member]; ok {
			if err := json.Unmarshal(text, into); err != nil {
				return nil, nil, fmt.Errorf("%s cannot be read: %w", member, err)
			}
		}
	}
	if single != "" {
		subjects = append(subjects, single)
	}
	slices.Sort(subjects)
	return subjects, metadata, nil
}

// raw is a configuration member by member.
func raw(config any) (rawConfig, error) {
	// The configuration's own encoding is that of package encoding/json.
	text, err := stdjson.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("jetstream: encode configuration: %w", err)
	}
	var members rawConfig
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, fmt.Errorf("jetstream: encode configuration: %w", err)
	}
	return members, nil
}

// differences tells every member in which a live configuration is not the wanted
// one, but for those that are free. Members that are absent on one side are zero
// on that side.
func differences(want, live rawConfig, free []string) []string {
	members := maps.Clone(want)
	maps.Copy(members, live)
	var changed []string
	for _, m := range slices.Sorted(maps.Keys(members)) {
		if slices.Contains(free, m) || same(want[m], live[m]) {
			continue
		}
		changed = append(changed, fmt.Sprintf("%s is %s instead of %s", m, shown(live[m]), shown(want[m])))
	}
	return changed
}
