package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/events/batch"
	"github.com/keyledger/keyledger/events/presence"
)

// ReaderConfig says by which credential to read.
type ReaderConfig struct {
	// Conn is the credential's own connection, as [Config.Conn] is the server's.
	Conn *nats.Conn
	// Name is the credential's.
	Name string
	// Info is what it reads, as [DescribeReader] told, now or at an earlier start.
	Info ReaderInfo
	// Logger hears of reconnects, and of others who read by the same credential.
	// Default: nowhere.
	Logger *slog.Logger
	// LoadTimeout, Heartbeat and CatchUp are those of [Config].
	LoadTimeout, Heartbeat, CatchUp time.Duration
}

// Validate reports every fault at once.
func (c ReaderConfig) Validate() error {
	own := errors.Join()
	if c.Name == "" {
		own = errors.New("jetstream: Name is missing")
	}
	return errors.Join(own, c.ledger().Validate())
}

func (c ReaderConfig) ledger() Config {
	return Config{
		Conn: c.Conn, Ledger: c.Info.Ledger, Replicas: 1, Logger: c.Logger,
		LoadTimeout: c.LoadTimeout, Heartbeat: c.Heartbeat, CatchUp: c.CatchUp,
	}
}

// Reader follows the ledger by a credential, which may ask one consumer for what
// comes next, about itself, and to begin anew at a position, and nothing else. It
// sees everything, or what the credential's subjects show.
//
// Whoever sees everything checks that positions run without a gap. In a part of
// the ledger they only increase: that nothing is missing there is for ticks to
// tell, which count.
//
// A credential is for one reader at a time: two would have some of the messages
// each. That is found out, nothing is missed and nothing comes twice, but both
// begin again and again, the more slowly the longer it lasts; the log says so, and
// [Reader.Shared].
type Reader struct {
	ledger *Ledger
	name   string
	info   ReaderInfo
	mu     sync.Mutex
	// ahead is what Ahead tells, once begun.
	ahead uint64
	begun bool
	// firstTear and lastTear are the ends of the time in which deliveries went
	// elsewhere, again and again.
	firstTear, lastTear time.Time
}

// NewReader returns the reader of a credential. It asks the broker nothing.
func NewReader(config ReaderConfig) (*Reader, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	l, err := New(config.ledger())
	if err != nil {
		return nil, err
	}
	return &Reader{ledger: l, name: config.Name, info: config.Info}, nil
}

// Info returns what it reads.
func (r *Reader) Info() ReaderInfo { return r.info }

// Follow hands the facts that the credential shows after a position to apply, as
// [Ledger.Follow] does. The position is one that a reader of this credential was
// handed, or 0: a fact that was seen and is gone is corruption.
//
// A batch of which the credential shows a part is handed over when its last part
// has come, or any later fact.
//
// It also ends, with [ErrReaderChanged], when the credential has come to show
// something else.
func (r *Reader) Follow(ctx context.Context, after events.Position, apply func([]events.Recorded) error) error {
	var held holder = &batch.Holder{}
	if len(r.info.Subjects) > 0 {
		held = &batch.Partial{}
	}
	return follow(ctx, r.ledger.id, r.tail(StreamLedger, after), held, apply)
}

// FollowUses hands the blocks of uses after a position to apply, as
// [Ledger.FollowUses] does, to a credential that shows them.
func (r *Reader) FollowUses(ctx context.Context, after events.Position, apply func([]events.UsesMessage) error) error {
	return followUses(ctx, r.tail(StreamUses, after), apply)
}

// FollowAccess hands the access records after a position to apply, as
// [Ledger.FollowAccess] does, to a credential that shows them.
func (r *Reader) FollowAccess(ctx context.Context, after events.Position, apply func([]access.Message) error) error {
	return followAccess(ctx, r.tail(StreamAccess, after), apply)
}

// PublishUses stores blocks of uses that a credential's verifier recorded, as
// [Ledger.PublishUses] does.
func (r *Reader) PublishUses(ctx context.Context, blocks []events.UsesMessage) error {
	return r.ledger.PublishUses(ctx, blocks)
}

// PublishPresence stores what a credential's verifier says of itself, as
// [Ledger.PublishPresence] does.
func (r *Reader) PublishPresence(ctx context.Context, m presence.Message) error {
	return r.ledger.PublishPresence(ctx, m)
}

// Last returns the position of the last fact. To a credential that shows a part of
// the ledger it is a position that the last fact shown has at least, and before
// Follow has begun it may be one from before; nothing but the length of the way
// ahead is to be judged by it.
func (r *Reader) Last(ctx context.Context) (events.Position, error) {
	return r.lastOf(ctx, StreamLedger)
}

// Ahead returns how many facts there were to be handed over when Follow first began,
// as the broker said, and whether it has begun. Who is shown a part of the ledger has
// caught up with what there was when he was handed so many.
func (r *Reader) Ahead() (n uint64, begun bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ahead, r.begun
}

// begins notes how many facts are to be handed over, of which the one that was seen
// last is none.
func (r *Reader) begins(pending uint64, last events.Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun {
		return
	}
	if r.ahead, r.begun = pending, true; last > 0 && pending > 0 {
		r.ahead--
	}
}

// LastUses is Last for blocks of uses.
func (r *Reader) LastUses(ctx context.Context) (events.Position, error) {
	return r.lastOf(ctx, StreamUses)
}

func (r *Reader) lastOf(ctx context.Context, stream string) (events.Position, error) {
	info, err := r.ledger.consumerInfo(ctx, stream, r.name)
	return events.Position(info.Delivered.Stream + info.Pending), err
}

func (r *Reader) tail(stream string, after events.Position) *tail {
	t := r.ledger.tail(stream, after)
	// On how many nodes the stream is, is not for it to know.
	t.expiry, t.catchUp = max(readerPull, 3*t.heartbeat), r.ledger.config.CatchUp
	// Across accounts the broker does not see that nobody is there any more to take
	// what was asked for, and gives it to the oldest request that is open. So that
	// one must be this reader's own as long as it lives.
	t.keeps = true
	tap := &bound{reader: r}
	t.tap, t.torn = tap, func(ctx context.Context) {
		tap.doubt.times = 0
		r.torn(ctx, stream)
	}
	return t
}

const (
	// readerPull is how long the broker keeps a reader's request for more: those of a
	// reader that died take from the next one, who is as stale as that meanwhile.
	readerPull = 3 * time.Second
	// calm is after how long without a torn delivery the next one is a new matter.
	calm = time.Minute
	// dead is for how long a reader that has gone may take deliveries away.
	dead = maxPull
)

// Shared reports whether another reader uses the credential now: deliveries have
// gone elsewhere for longer than one that has gone could have them.
func (r *Reader) Shared() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.shared()
}

func (r *Reader) shared() bool {
	return r.lastTear.Sub(r.firstTear) > dead && time.Since(r.lastTear) < calm
}

// torn notes that deliveries have gone elsewhere.
func (r *Reader) torn(ctx context.Context, stream string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Sub(r.lastTear) > calm {
		r.firstTear = now
	}
	r.lastTear = now
	if r.shared() {
		r.ledger.log.ErrorContext(ctx, "another reader uses this credential: each needs one of its own", "credential", r.name, "stream", stream)
	}
}

// bound is the tap of a reader: its lives are those of one consumer, which begins
// anew. It begins with the last message seen, so that a stream that was cut, or
// made anew, is found out.
type bound struct {
	reader *Reader
	// doubt is what was passed over, and how often in a row.
	doubt struct {
		want, got uint64
		times     int
	}
}

// seenAgain is how often in a row it must be met that messages are passed over
// before it is believed.
const seenAgain = 3

func (b *bound) open(ctx context.Context, t *tail) (*consumer, func(), error) {
	r := b.reader
	// A consumer that is not there does not refuse to begin anew: it says nothing.
	info, err := r.ledger.consumerInfo(ctx, t.stream, r.name)
	if err != nil {
		return nil, nil, err
	}
	if t.stream == StreamLedger {
		if err := b.unchanged(info); err != nil {
			return nil, nil, err
		}
	}
	start := max(uint64(t.last), 1)
	request, err := json.Marshal(struct {
		Seq uint64 `json:"seq"`
	}{start})
	if err != nil {
		return nil, nil, fmt.Errorf("jetstream: encode request: %w", err)
	}
	info = consumerInfo{}
	if err := r.ledger.askRaw(ctx, "$JS.API.CONSUMER.RESET."+t.stream+"."+r.name, request, &info); err != nil {
		return nil, nil, err
	}
	if err := info.refused(t.stream, r.name); err != nil {
		return nil, nil, err
	}
	if info.Reset != start || info.Delivered.Consumer != 0 || info.Delivered.Stream != start-1 {
		return nil, nil, fmt.Errorf("%w: it did not stay where it was told to begin", errTorn)
	}
	// What was handed over stands there, unless it was of another credential's, or
	// may have expired.
	if info.Pending == 0 && t.last > 0 && !t.expires && (t.body != nil || len(r.info.Subjects) == 0) {
		return nil, nil, fmt.Errorf("%w: nothing stands at position %d or after it", errBehind, t.last)
	}
	if t.stream == StreamLedger {
		r.begins(info.Pending, t.last)
	}
	return &consumer{name: r.name, seen: start - 1, ahead: info.Pending}, func() {}, nil
}

// unchanged compares what the credential shows with what it showed.
func (b *bound) unchanged(info consumerInfo) error {
	now, err := info.describe()
	if err != nil {
		return err
	}
	was := b.reader.info
	if now.Ledger != was.Ledger || now.Scope != was.Scope || !slices.Equal(now.Subjects, slices.Sorted(slices.Values(was.Subjects))) {
		return fmt.Errorf("%w: %s shows %q of ledger %s, and showed %q of %s", ErrReaderChanged, b.reader.name, now.Subjects, now.Ledger, was.Subjects, was.Ledger)
	}
	return nil
}

// misplaced judges a position that is not the next one by how many messages the
// broker says are ahead. Where one message has come and that number has gone down
// by one, nothing lies between the two; else somebody else had the consumer begin
// where it wants.
//
// New messages may hide that others were passed over, so long as the numbers of
// deliveries do not show it: whoever had it begin elsewhere also took the first, or
// none yet. There it counts only what comes again and again.
func (b *bound) misplaced(_ context.Context, c *consumer, m arrival) error {
	t, want := c.tail, c.seen+1
	if t.holes && m.seq >= want {
		return nil
	}
	if m.seq < want || m.pending+1 < c.ahead {
		return fmt.Errorf("%w: position %d came when %d was next", errTorn, m.seq, want)
	}
	first, part := c.delivery == 1, t.stream == StreamLedger && len(b.reader.info.Subjects) > 0
	if part && c.delivery > 2 {
		return nil // others' facts lie between
	}
	if d := &b.doubt; d.want == want && d.got == m.seq {
		d.times++
	} else {
		d.want, d.got, d.times = want, m.seq, 1
	}
	switch {
	case b.doubt.times < seenAgain:
		return fmt.Errorf("%w: position %d was passed over", errDoubt, want)
	case part && (!first || t.body == nil), t.expires && first:
		return nil
	default:
		return missing(t.stream, want, m.seq)
	}
}

// idle has nobody to ask. Ticks show a reader whose consumer's node is behind.
func (b *bound) idle(context.Context, *consumer) error { return nil }
