package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/batch"
)

const (
	// window is how many messages are on their way at most. Asked for again at
	// half, it keeps a connection of 20 ms busy at 100,000 messages a second.
	window = 4096
	// pullExpiry is how long the broker keeps a request for more.
	pullExpiry = 30 * time.Second
	// idle is after how many heartbeats without a message the tap is asked whether
	// there are none.
	idle = 5
	// retryFirst and retryMost bound the wait before a consumer is made anew. The
	// jitter keeps a fleet that lost its broker from coming back as one.
	retryFirst = 50 * time.Millisecond
	retryMost  = 5 * time.Second
)

// tail reads a stream from a position on, in order. It reads through a consumer
// that keeps no account of what was read, and through a new one whenever the old
// one may have gone: the truth is the last message handed over.
//
// It is not nats.go's ordered consumer because it must tell a gap in the stream,
// which is corruption, from a message lost on the way, which is not; and because
// it hands over what has arrived in slices, without a lock per message.
type tail struct {
	conn      *nats.Conn
	log       *slog.Logger
	heartbeat time.Duration
	// expiry is how long the broker keeps a request for more.
	expiry time.Duration
	// catchUp is how long doubt may last: see [Config.CatchUp].
	catchUp time.Duration
	tap     tap
	// torn is called when deliveries went elsewhere. Nil is nobody.
	torn func(context.Context)
	// keeps says that requests outlive a consumer's life: the next life is answered
	// where they were asked from. line is that place.
	keeps  bool
	line   *line
	stream string
	// expires says that the stream may lose its oldest messages.
	expires bool
	// holes says that it may lose messages anywhere.
	holes bool
	// last is the last message handed over; its body only as long as this tail
	// handed it over itself.
	last events.Position
	body []byte
	hand func([]message) error
}

// tap has the broker hand a stream over, and judges what the messages alone do
// not tell. Errors of its methods end a consumer, as those of [tail.consume] do.
type tap interface {
	// open has a consumer begin where the tail goes on, and refuses a stream that
	// does not reach that far ([errBehind]). The second result is called when the
	// consumer is not needed any more.
	open(ctx context.Context, t *tail) (*consumer, func(), error)

	// misplaced judges a message that is not the one after the last.
	misplaced(ctx context.Context, c *consumer, m arrival) error

	// idle looks for what a consumer keeps back that has brought nothing for long.
	idle(ctx context.Context, c *consumer) error
}

// errAgain ends a consumer without ending the tail. errDoubt asks for the same
// once more, at once. errTorn is of a consumer that has another reader's
// deliveries, or whose deliveries another reader has.
var (
	errAgain = errors.New("jetstream: consumer must be made anew")
	errDoubt = fmt.Errorf("%w: it must show the same again", errAgain)
	errTorn  = fmt.Errorf("%w: not all that it delivered has come here, in one piece", errAgain)
)

// errBehind says that the stream ends before what was seen of it.
var errBehind = fmt.Errorf("%w: stream ends before what was seen of it", events.ErrCorrupt)

// run returns when the context ends, when the stream is corrupt, when hand
// fails, or when the connection was closed for ever.
func (t *tail) run(ctx context.Context) error {
	defer t.hangUp()
	up := t.conn.StatusChanged(nats.CONNECTED)
	defer t.conn.RemoveStatusListener(up)
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
		case t.conn.IsClosed():
			return fmt.Errorf("%w: %w", events.ErrUnavailable, nats.ErrConnectionClosed)
		case errors.Is(err, errBehind), errors.Is(err, ErrStreamMissing):
			if doubtSince.IsZero() {
				doubtSince = time.Now()
			}
			if time.Since(doubtSince) >= t.catchUp {
				return err
			}
		case errors.Is(err, errDoubt):
			continue // a tap doubts a few times in a row
		case errors.Is(err, errAgain), errors.Is(err, events.ErrUnavailable):
			doubtSince = time.Time{}
		default:
			return err
		}
		torn := errors.Is(err, errTorn)
		// Two who share a consumer tear each other's deliveries for as long as they
		// do, and better slowly.
		if t.last != before && !torn {
			wait = retryFirst
		}
		if torn && t.torn != nil {
			t.torn(ctx)
		}
		t.log.WarnContext(ctx, "reader of a stream begins again", "stream", t.stream, "position", uint64(t.last), "cause", err)
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

// line is where a consumer's messages arrive.
type line struct {
	inbox   string
	arrived chan *nats.Msg
	sub     *nats.Subscription
}

// lineRoom is how many windows of messages fit into a line. Messages asked for always
// fit; the rest is room for the broker's remarks, and for what earlier lives asked for.
// Full, the client would drop and count a slow consumer, and the delivery numbers would
// show it.
const lineRoom = 4

// listen returns the line of a life. What an earlier life has left there is of no use.
func (t *tail) listen() (*line, error) {
	if l := t.line; l != nil {
		for {
			select {
			case <-l.arrived:
				continue
			default:
				return l, nil
			}
		}
	}
	l := &line{inbox: t.conn.NewInbox(), arrived: make(chan *nats.Msg, lineRoom*window)}
	var err error
	if l.sub, err = t.conn.ChanSubscribe(l.inbox+".*", l.arrived); err != nil {
		return nil, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	t.line = l
	return l, nil
}

// hangUp ends the line, if there is one.
func (t *tail) hangUp() {
	if t.line != nil {
		_ = t.line.sub.Unsubscribe()
		t.line = nil
	}
}

// consumer is one life of a consumer on the broker.
type consumer struct {
	*line
	tail     *tail
	name     string
	began    time.Time
	pending  int    // messages asked for and not arrived
	delivery uint64 // the last delivery number seen
	seen     uint64 // the last position seen, handed over or not
	ahead    uint64 // messages behind that, as the broker said then
	pulls    int
	beats    int // heartbeats since the last message
}

// arrival is a message that has come, and what the broker says of it.
type arrival struct {
	*nats.Msg
	place
}

func (t *tail) consume(ctx context.Context) error {
	if status := t.conn.Status(); status != nats.CONNECTED {
		return fmt.Errorf("%w: connection is %s", errAgain, status)
	}
	down := t.conn.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	defer t.conn.RemoveStatusListener(down)
	// Before the consumer begins: where an earlier life's requests are still open, it
	// delivers at once.
	l, err := t.listen()
	if err != nil {
		return err
	}
	if !t.keeps {
		defer t.hangUp()
	}
	c, done, err := t.tap.open(ctx, t)
	if err != nil {
		return err
	}
	defer done()
	c.tail, c.line, c.began = t, l, time.Now()
	return c.read(ctx, down)
}

// read hands over what arrives until this consumer has to go.
func (c *consumer) read(ctx context.Context, down <-chan nats.Status) error {
	patience := 2*c.tail.heartbeat + c.tail.heartbeat/2
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
			c.beats = 0
			fault = c.tail.tap.idle(ctx, c)
		}
		if fault != nil {
			return fault
		}
	}
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
	at, ok := placeOf(m.Reply)
	if !ok {
		return slice, c.remark(m)
	}
	if at.delivery != 1 && c.unbegun() {
		return slice, nil
	}
	c.pending--
	c.beats = 0
	if c.delivery++; at.delivery != c.delivery {
		return slice, fmt.Errorf("%w: delivery %d came when %d was next", errTorn, at.delivery, c.delivery)
	}
	if at.seq != c.seen+1 {
		if err := c.tail.tap.misplaced(ctx, c, arrival{m, at}); err != nil {
			return slice, err
		}
	}
	c.seen, c.ahead = at.seq, at.pending
	if at.seq == uint64(c.tail.last) {
		// A tail that has begun there itself does not know what it should be.
		if c.tail.body != nil && !bytes.Equal(m.Data, c.tail.body) {
			return slice, fmt.Errorf("%w: position %d of stream %s is not what it was", events.ErrCorrupt, at.seq, c.tail.stream)
		}
		return slice, nil
	}
	return append(slice, message{seq: at.seq, stored: at.stored, subject: m.Subject, body: m.Data}), nil
}

// unbegun reports whether what comes may be of the life before: nothing of this one
// has come, and it is young.
func (c *consumer) unbegun() bool {
	return c.tail.keeps && c.delivery == 0 && time.Since(c.began) < c.tail.heartbeat
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
	body := fmt.Appendf(nil, `{"batch":%d,"expires":%d,"idle_heartbeat":%d}`, n, c.tail.expiry, c.tail.heartbeat)
	err := c.tail.conn.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+c.tail.stream+"."+c.name, c.inbox+"."+strconv.Itoa(c.pulls), body)
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
		// It follows all that was delivered before it.
		if c.unbegun() {
			return nil
		}
		if n, err := strconv.ParseUint(m.Header.Get("Nats-Last-Consumer"), 10, 64); err == nil && n != c.delivery {
			return fmt.Errorf("%w: %d were delivered, %d have come", errTorn, n, c.delivery)
		}
		// Whoever had it begin elsewhere before it delivered anything does not show in
		// that number. It has nothing to say of itself while messages are ahead.
		if c.tail.keeps && c.delivery == 0 && c.ahead > 0 {
			return fmt.Errorf("%w: of %d messages ahead none comes", errAgain, c.ahead)
		}
		return nil
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

// place is where a message stands.
type place struct {
	seq, delivery uint64
	stored        events.Time
	// pending is how many messages come behind it, for its consumer.
	pending uint64
}

// placeOf reads where a message stands from the subject that would acknowledge it:
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
//	$JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>[.<random>]
func placeOf(reply string) (place, bool) {
	rest, ok := strings.CutPrefix(reply, "$JS.ACK.")
	if !ok {
		return place{}, false
	}
	skip := 3
	if strings.Count(rest, ".") > 6 {
		skip = 5
	}
	for range skip {
		_, rest, _ = strings.Cut(rest, ".")
	}
	numbers := [4]uint64{}
	for i := range numbers {
		var digits string
		digits, rest, ok = strings.Cut(rest, ".")
		if !ok && (i < len(numbers)-1 || digits == "") {
			return place{}, false
		}
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil {
			return place{}, false
		}
		numbers[i] = n
	}
	return place{seq: numbers[0], delivery: numbers[1], stored: events.Time(numbers[2] / 1000), pending: numbers[3]}, true
}
