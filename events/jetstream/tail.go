package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/batch"
)

const (
	// window is how many messages are on their way at most. Asked for again at
	// half, it keeps a connection of 20 ms busy at 100,000 messages a second.
	window = 4096
	// pullExpiry is how long the broker keeps a request for more.
	pullExpiry = 30 * time.Second
	// inactive is when the broker forgets a consumer whose follower has gone.
	inactive = time.Minute
	// idle is after how many heartbeats without a message the leader is asked
	// whether there are none. A consumer lives on one replica, which may be far
	// behind and yet say that it is there.
	idle = 5
	// retryFirst and retryMost bound the wait before a consumer is made anew. The
	// jitter keeps a fleet that lost its broker from coming back as one.
	retryFirst = 50 * time.Millisecond
	retryMost  = 5 * time.Second
)

// tail reads a stream from a position on, in order, without a gap. It makes a
// consumer of its own that keeps no state on disk, and a new one whenever the
// old one may have gone: the truth is the last message handed over.
//
// It is not nats.go's ordered consumer because it must tell a gap in the stream,
// which is corruption, from a message lost on the way, which is not; and because
// it hands over what has arrived in slices, without a lock per message.
type tail struct {
	ledger *Ledger
	stream string
	// expires says that the stream may lose its oldest messages.
	expires bool
	// last is the last message handed over; its body only as long as this tail
	// handed it over itself.
	last events.Position
	body []byte
	hand func([]message) error
}

// errAgain ends a consumer without ending the tail.
var errAgain = errors.New("jetstream: consumer must be made anew")

// run returns when the context ends, when the stream is corrupt, when hand
// fails, or when the connection was closed for ever.
func (t *tail) run(ctx context.Context) error {
	conn := t.ledger.conn
	up := conn.StatusChanged(nats.CONNECTED)
	defer conn.RemoveStatusListener(up)
	wait := retryFirst
	var doubtSince time.Time
	for {
		before := t.last
		err := t.consume(ctx)
		var refused *refusal
		switch {
		case errors.As(err, &refused):
			return refused.error
		case ctx.Err() != nil:
			return ctx.Err()
		case conn.IsClosed():
			return fmt.Errorf("%w: %w", events.ErrUnavailable, nats.ErrConnectionClosed)
		case errors.Is(err, errBehind), errors.Is(err, ErrStreamMissing):
			if doubtSince.IsZero() {
				doubtSince = time.Now()
			}
			if t.ledger.replicas == 1 || time.Since(doubtSince) > t.ledger.config.CatchUp {
				return err
			}
		case errors.Is(err, errAgain), errors.Is(err, events.ErrUnavailable):
			doubtSince = time.Time{}
		default:
			return err
		}
		if t.last != before {
			wait = retryFirst
		}
		t.ledger.log.WarnContext(ctx, "reader of a stream begins again", "stream", t.stream, "position", uint64(t.last), "cause", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-up:
			wait = retryFirst
		case <-time.After(wait/2 + rand.N(wait)):
			wait = min(wait*2, retryMost)
		}
	}
}

// errBehind says that the stream ends before what was seen of it.
var errBehind = fmt.Errorf("%w: stream ends before what was seen of it", events.ErrCorrupt)

// consumer is one life of a consumer on the broker.
type consumer struct {
	tail     *tail
	name     string
	inbox    string
	arrived  chan *nats.Msg
	pending  int    // messages asked for and not arrived
	delivery uint64 // the last delivery number seen
	seen     uint64 // the last position seen, handed over or not
	pulls    int
	beats    int // heartbeats since the last message
}

func (t *tail) consume(ctx context.Context) error {
	conn := t.ledger.conn
	if status := conn.Status(); status != nats.CONNECTED {
		return fmt.Errorf("%w: connection is %s", errAgain, status)
	}
	if err := t.check(ctx); err != nil {
		return err
	}
	c := &consumer{
		tail: t, name: "kl_" + nuid.Next(), inbox: conn.NewInbox(),
		// Messages asked for always fit; the rest is room for the broker's
		// remarks. Full, the client would drop and count a slow consumer, and the
		// delivery numbers would show it.
		arrived: make(chan *nats.Msg, 2*window), seen: t.start() - 1,
	}
	down := conn.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	defer conn.RemoveStatusListener(down)
	sub, err := conn.ChanSubscribe(c.inbox+".*", c.arrived)
	if err != nil {
		return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := t.ledger.createConsumer(ctx, t.stream, c.name, c.seen+1); err != nil {
		return err
	}
	defer t.ledger.removeConsumer(t.stream, c.name)
	return c.read(ctx, down)
}

// check compares the stream's ends with what was seen of it.
func (t *tail) check(ctx context.Context) error {
	info, err := t.ledger.info(ctx, t.stream)
	if err != nil {
		return err
	}
	s := info.State
	if events.Position(s.Last) < t.last {
		return fmt.Errorf("%w: it ends at position %d, and %d was seen", errBehind, s.Last, t.last)
	}
	// An empty stream that once held messages shows its first position as the
	// next one.
	if !t.expires && s.Last > uint64(t.last) && s.First > uint64(t.last)+1 {
		return fmt.Errorf("%w: stream %s begins at position %d, and %d comes next", events.ErrCorrupt, t.stream, s.First, t.last+1)
	}
	return nil
}

type consumerConfig struct {
	Stream string `json:"stream_name"`
	Action string `json:"action"`
	Config struct {
		Name     string   `json:"name"`
		Deliver  string   `json:"deliver_policy"`
		Start    uint64   `json:"opt_start_seq"`
		Subjects []string `json:"filter_subjects,omitempty"`
		Ack      string   `json:"ack_policy"`
		Replay   string   `json:"replay_policy"`
		Inactive int64    `json:"inactive_threshold"` // nanoseconds
		Replicas int      `json:"num_replicas"`
		Memory   bool     `json:"mem_storage"`
	} `json:"config"`
}

// createConsumer makes a consumer that keeps no state on disk and takes no
// acknowledgements, over all subjects unless some are given.
func (l *Ledger) createConsumer(ctx context.Context, stream, name string, start uint64, subjects ...string) error {
	var req consumerConfig
	req.Stream, req.Action = stream, "create"
	req.Config.Name, req.Config.Deliver, req.Config.Ack, req.Config.Replay = name, "by_start_sequence", "none", "instant"
	req.Config.Start, req.Config.Subjects = start, subjects
	req.Config.Inactive, req.Config.Replicas, req.Config.Memory = inactive.Nanoseconds(), 1, true
	var answer struct {
		Error *apiError `json:"error"`
	}
	if err := l.ask(ctx, "$JS.API.CONSUMER.CREATE."+stream+"."+name, req, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return answer.Error.read(stream)
	}
	return nil
}

// removeConsumer tells the broker that a consumer is not needed. If it does not
// hear, it finds out by itself.
func (l *Ledger) removeConsumer(stream, name string) {
	_ = l.conn.Publish("$JS.API.CONSUMER.DELETE."+stream+"."+name, nil)
}

// start is the position to begin at. After a break that is the last message
// handed over once more: if it is not the same, the stream was cut in the
// meantime and has grown again.
func (t *tail) start() uint64 {
	if t.body != nil {
		return uint64(t.last)
	}
	return uint64(t.last) + 1
}

// read hands over what arrives until this consumer has to go.
func (c *consumer) read(ctx context.Context, down <-chan nats.Status) error {
	patience := 2*c.tail.ledger.config.Heartbeat + c.tail.ledger.config.Heartbeat/2
	silence := time.NewTimer(patience)
	defer silence.Stop()
	for {
		if err := c.pull(); err != nil {
			return err
		}
		var m *nats.Msg
		select {
		// What has arrived goes first: silence during a slow hand-over is none.
		case m = <-c.arrived:
		default:
			select {
			case m = <-c.arrived:
			case <-ctx.Done():
				return ctx.Err()
			case status := <-down:
				return fmt.Errorf("%w: connection is %s", errAgain, status)
			case <-silence.C:
				return fmt.Errorf("%w: the broker was silent", errAgain)
			}
		}
		silence.Reset(patience)
		slice, fault := c.gather(ctx, m)
		if err := c.tail.handOver(slice); err != nil {
			return err
		}
		if c.beats >= idle && fault == nil {
			fault = c.behind(ctx)
		}
		if fault != nil {
			return fault
		}
	}
}

// behind asks the leader whether this consumer keeps something back.
func (c *consumer) behind(ctx context.Context) error {
	c.beats = 0
	info, err := c.tail.ledger.info(ctx, c.tail.stream)
	// One that arrived in the meantime shows that it is on its way.
	if err != nil || info.State.Last <= c.seen || len(c.arrived) > 0 {
		return nil
	}
	return fmt.Errorf("%w: its replica is behind: it is at position %d of %d", errAgain, c.seen, info.State.Last)
}

// gather takes a message and those that have arrived behind it, up to a slice.
// With an error come the messages that are good nevertheless.
func (c *consumer) gather(ctx context.Context, m *nats.Msg) ([]message, error) {
	slice := make([]message, 0, min(batch.Slice, len(c.arrived)+1))
	for {
		var err error
		if slice, err = c.take(ctx, m, slice); err != nil || len(slice) == batch.Slice {
			return slice, err
		}
		select {
		case m = <-c.arrived:
		default:
			return slice, nil
		}
	}
}

// take adds a message to the slice, or minds a remark of the broker.
func (c *consumer) take(ctx context.Context, m *nats.Msg, slice []message) ([]message, error) {
	seq, delivery, stored, ok := place(m.Reply)
	if !ok {
		return slice, c.remark(m)
	}
	c.pending--
	c.beats = 0
	if c.delivery++; delivery != c.delivery {
		return slice, fmt.Errorf("%w: a message was lost on the way", errAgain)
	}
	switch want := c.seen + 1; {
	case seq < want:
		return slice, fmt.Errorf("%w: stream %s went back from position %d to %d", events.ErrCorrupt, c.tail.stream, c.seen, seq)
	case seq > want:
		if err := c.gap(ctx, want, seq); err != nil {
			return slice, err
		}
	}
	c.seen = seq
	if seq == uint64(c.tail.last) {
		if !bytes.Equal(m.Data, c.tail.body) {
			return slice, fmt.Errorf("%w: position %d of stream %s is not what it was", events.ErrCorrupt, seq, c.tail.stream)
		}
		return slice, nil
	}
	return append(slice, message{seq: seq, stored: stored, subject: m.Subject, body: m.Data}), nil
}

// gap asks the stream's leader about a message that a consumer passed over. That
// the leader has it is a fault of this consumer, or of the replica it reads, and
// another is tried; that it does not is corruption, unless it may have expired.
func (c *consumer) gap(ctx context.Context, want, got uint64) error {
	t := c.tail
	_, err := t.ledger.get(ctx, t.stream, getRequest{Seq: want})
	switch {
	case err == nil:
		return fmt.Errorf("%w: position %d was passed over", errAgain, want)
	case !errors.Is(err, errNoMessage):
		return err
	}
	if t.expires {
		info, err := t.ledger.info(ctx, t.stream)
		if err != nil {
			return err
		}
		if info.State.First >= got {
			return nil
		}
		if info.State.First > want {
			return fmt.Errorf("%w: the stream's beginning moved", errAgain)
		}
	}
	return fmt.Errorf("%w: positions %d to %d of stream %s are missing", events.ErrCorrupt, want, got-1, t.stream)
}

// refusal keeps the error of whoever is handed messages apart from the tail's
// own, whatever it wraps.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

// handOver hands a slice over and remembers how far it went.
func (t *tail) handOver(slice []message) error {
	if len(slice) == 0 {
		return nil
	}
	if err := t.hand(slice); err != nil {
		return &refusal{err}
	}
	end := slice[len(slice)-1]
	t.last, t.body = events.Position(end.seq), end.body
	if t.body == nil {
		t.body = []byte{}
	}
	return nil
}

// pull asks for more once half of what was asked for has arrived.
func (c *consumer) pull() error {
	if c.pending > window/2 {
		return nil
	}
	n := window - c.pending
	c.pending, c.pulls = window, c.pulls+1
	body := fmt.Appendf(nil, `{"batch":%d,"expires":%d,"idle_heartbeat":%d}`, n, pullExpiry, c.tail.ledger.config.Heartbeat)
	err := c.tail.ledger.conn.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+c.tail.stream+"."+c.name, c.inbox+"."+strconv.Itoa(c.pulls), body)
	if err != nil {
		return fmt.Errorf("%w: %w", errAgain, err)
	}
	return nil
}

// remark minds what the broker says beside messages.
func (c *consumer) remark(m *nats.Msg) error {
	status, text := m.Header.Get("Status"), m.Header.Get("Description")
	switch {
	case status == "100":
		c.beats++
		return nil // a heartbeat
	case status == "404", status == "408", status == "409" && text == "Batch Completed":
		// A request for more ended with some of it undelivered.
		left, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
		if err != nil {
			left = c.pending
		}
		c.pending = max(0, c.pending-left)
		return nil
	default:
		// The consumer's server went, its leader moved, or it was deleted.
		return fmt.Errorf("%w: the broker says %s %s", errAgain, status, text)
	}
}

// place reads where a message stands from the subject that would acknowledge it:
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
//	$JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>[.<random>]
func place(reply string) (seq, delivery uint64, stored events.Time, ok bool) {
	rest, ok := strings.CutPrefix(reply, "$JS.ACK.")
	if !ok {
		return 0, 0, 0, false
	}
	skip := 3
	if strings.Count(rest, ".") > 6 {
		skip = 5
	}
	for range skip {
		_, rest, _ = strings.Cut(rest, ".")
	}
	numbers := [3]uint64{}
	for i := range numbers {
		var digits string
		digits, rest, ok = strings.Cut(rest, ".")
		if !ok {
			return 0, 0, 0, false
		}
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil {
			return 0, 0, 0, false
		}
		numbers[i] = n
	}
	return numbers[0], numbers[1], events.Time(numbers[2] / 1000), true
}
