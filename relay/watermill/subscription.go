package watermill

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

const (
	// pullExpiry is how long the broker keeps a request for more.
	pullExpiry = 30 * time.Second
	// retryFirst and retryMost bound the wait before the broker is asked again.
	retryFirst = 50 * time.Millisecond
	retryMost  = 5 * time.Second
	// flushTimeout bounds the wait for the broker's last word to a subscription.
	flushTimeout = 2 * time.Second
)

// subscription is one member of a group. All of it belongs to the goroutine of
// run.
//
// It asks the broker by itself, and not through nats.go's iterator, for three
// reasons: messages that wait in the iterator cannot be kept alive and would be
// given to another member meanwhile; what was sent and not handed out is given
// back at once when it ends; and the iterator takes an empty message with a
// header named Status for a word of the broker, and drops it or ends.
type subscription struct {
	subscriber *Subscriber
	delivery   Delivery
	source     source
	consumer   string
	log        *slog.Logger
	ctx        context.Context
	out        chan *message.Message

	inbox   string
	arrived chan *nats.Msg
	sub     *nats.Subscription
	status  chan nats.Status
	takers  sync.WaitGroup // calls to Malformed

	// held are the messages that are here and not answered, in the order in which
	// they came. The first one is with the handler, or waits for it.
	held []*held
	// asked counts the messages asked for and not arrived, pulls the requests.
	asked, pulls int
	silence      *time.Timer
	retry        *time.Timer // runs while the broker is not to be asked
	waiting      bool
	wait         time.Duration

	// refused are the messages that will come again, last the furthest one
	// acknowledged: they tell where a consumer without a group goes on.
	refused map[uint64]struct{}
	last    uint64
}

// held is a message that is here.
type held struct {
	reply     string
	sequence  uint64
	delivered uint64
	msg       *message.Message
	reading   *reading
	out       bool // handed out
	cancel    context.CancelFunc
}

func newSubscription(ctx context.Context, s *Subscriber, src source, d Delivery, topic string) *subscription {
	sub := &subscription{
		subscriber: s, delivery: d, source: src, ctx: ctx, consumer: src.consumer.Durable,
		out: make(chan *message.Message), inbox: s.conn.NewInbox(),
		// What is asked for always fits, twice over; the rest is room for the
		// broker's remarks. Were it full, the client would drop messages, and they
		// would come again after AckWait.
		arrived: make(chan *nats.Msg, 2*d.Prefetch+64),
		wait:    retryFirst, refused: map[uint64]struct{}{},
	}
	if sub.ephemeral() {
		sub.named(nuid.Next())
	}
	sub.log = d.Logger.With("topic", topic, "consumer", sub.consumer)
	return sub
}

func (s *subscription) listen() error {
	var err error
	if s.sub, err = s.subscriber.conn.ChanSubscribe(s.inbox+".*", s.arrived); err != nil {
		return fmt.Errorf("watermill: %w", err)
	}
	s.status = s.subscriber.conn.StatusChanged(nats.CONNECTED, nats.CLOSED)
	return nil
}

// renew sees to it that the consumer is there.
func (s *subscription) renew(ctx context.Context) error {
	if !s.ephemeral() || s.pulls == 0 {
		return s.subscriber.ensureConsumer(ctx, s.source, 0)
	}
	if s.there(ctx) {
		return nil
	}
	// One without a group lives on one node. Whether that is gone for good or for
	// a while, another consumer goes on behind what was acknowledged.
	begin := s.last
	if begin != 0 {
		begin++
	}
	for seq := range s.refused {
		begin = min(begin, seq)
	}
	for _, h := range s.held {
		begin = min(begin, h.sequence)
	}
	s.remove()
	s.named(nuid.Next())
	return s.subscriber.ensureConsumer(ctx, s.source, begin)
}

// there reports whether a consumer without a group answers, within a part of the
// time that there is to make another.
func (s *subscription) there(ctx context.Context) bool {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/3)
		defer cancel()
	}
	_, err := s.subscriber.js.Consumer(ctx, s.source.stream, s.consumer)
	return err == nil
}

// named gives a consumer without a group its name.
func (s *subscription) named(id string) {
	s.source.consumer.Name = "kl_" + id
	s.consumer = s.source.consumer.Name
}

func (s *subscription) ephemeral() bool { return s.source.consumer.Durable == "" }

func (s *subscription) patience() time.Duration {
	return s.delivery.Heartbeat*2 + s.delivery.Heartbeat/2
}

func (s *subscription) run() {
	progress := time.NewTicker(s.delivery.AckWait / 3)
	defer progress.Stop()
	s.silence, s.retry = time.NewTimer(s.patience()), time.NewTimer(0)
	defer s.silence.Stop()
	defer s.retry.Stop()
	s.waiting = true // the first request goes out with the first tick of retry
	for {
		s.ask()
		first, out := s.present()
		select {
		case out <- first.msg:
			first.out = true
		case <-first.acked():
			s.ack(first)
		case <-first.nacked():
			s.nack(first)
		case m := <-s.arrived:
			s.silence.Reset(s.patience())
			s.take(m)
		case <-progress.C:
			s.alive()
		case <-s.silence.C:
			s.silence.Reset(s.patience())
			if s.asked > 0 {
				s.again(retryFirst, "the broker is silent")
			}
		case status := <-s.status:
			if status == nats.CLOSED {
				s.log.Error("the connection was closed for ever, the subscription ends")
				s.end()
				return
			}
			// Requests went with the old connection, and a consumer may have.
			s.again(0, "connected again")
		case <-s.retry.C:
			s.resume()
		case <-s.ctx.Done():
			s.end()
			return
		case <-s.subscriber.closing:
			s.end()
			return
		}
	}
}

// nobody is in the place of a first message when there is none.
var nobody = &held{}

func (h *held) acked() <-chan struct{} {
	if !h.out {
		return nil
	}
	return h.msg.Acked()
}

func (h *held) nacked() <-chan struct{} {
	if !h.out {
		return nil
	}
	return h.msg.Nacked()
}

// present returns the first message, and where to hand it out if it is not yet.
func (s *subscription) present() (*held, chan<- *message.Message) {
	if len(s.held) == 0 {
		return nobody, nil
	}
	h := s.held[0]
	if h.out {
		return h, nil
	}
	if h.cancel == nil {
		var ctx context.Context
		ctx, h.cancel = context.WithCancel(s.ctx)
		h.msg.SetContext(context.WithValue(ctx, readingKey{}, h.reading))
		if h.reading.fault != nil && s.delivery.Malformed != nil {
			h.out = true
			s.takers.Go(func() { s.malformed(h.msg, h.reading.fault) })
			return h, nil
		}
	}
	return h, s.out
}

// malformed answers a message as the application's own function says.
func (s *subscription) malformed(m *message.Message, fault error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("taking a malformed message panicked", "panic", p, "stack", string(debug.Stack()))
			m.Nack()
		}
	}()
	if err := s.delivery.Malformed(m, fault); err != nil {
		s.log.Warn("malformed message was refused", "error", err)
		m.Nack()
		return
	}
	m.Ack()
}

// take minds what arrived: a message, or a remark of the broker. Messages are
// known by the subject that acknowledges them, which nothing else has.
func (s *subscription) take(m *nats.Msg) {
	at, err := m.Metadata()
	if err != nil {
		s.remark(m)
		return
	}
	s.asked = max(0, s.asked-1)
	s.wait = retryFirst
	seq := at.Sequence.Stream
	for _, h := range s.held {
		if h.sequence == seq {
			// It was thought lost, and is here still: the newer delivery counts.
			h.reply, h.delivered = m.Reply, at.NumDelivered
			return
		}
	}
	msg, read := s.source.read(&s.source, m, at)
	tell(msg, m.Subject, at)
	if read.fault != nil {
		msg.Metadata[MetadataMalformed] = read.fault.Error()
		s.log.Error("message cannot be read in full", "subject", m.Subject, "sequence", seq, "error", read.fault)
	}
	s.held = append(s.held, &held{reply: m.Reply, sequence: seq, delivered: at.NumDelivered, msg: msg, reading: read})
}

// remark minds what the broker says beside messages.
func (s *subscription) remark(m *nats.Msg) {
	code, text := m.Header.Get("Status"), m.Header.Get("Description")
	switch {
	case m.Reply != "" || code == "":
		s.log.Warn("something that is no message of a stream was sent to this subscription")
	case code == "100":
	case code == "404", code == "408", code == "409" && text == "Batch Completed":
		// A request ended with some of it undelivered.
		left, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
		if err != nil {
			left = s.asked
		}
		s.asked = max(0, s.asked-left)
	default:
		// The consumer has gone, its leader moved, or too many ask.
		s.again(s.wait/2+rand.N(s.wait), "the broker says "+code+" "+text)
		s.wait = min(s.wait*2, retryMost)
	}
}

// again stops asking until a wait is over, and begins anew then.
func (s *subscription) again(wait time.Duration, cause string) {
	if s.ctx.Err() == nil {
		s.log.Warn("subscription asks the broker anew", "cause", cause)
	}
	s.asked, s.waiting = 0, true
	s.retry.Reset(wait)
}

// resume asks again, once the consumer is known to be there.
func (s *subscription) resume() {
	if !s.subscriber.conn.IsConnected() {
		return // the connection's next status wakes this up
	}
	if s.pulls > 0 {
		ctx, cancel := context.WithTimeout(s.ctx, min(askTimeout, s.delivery.AckWait/3))
		defer cancel()
		if err := s.renew(ctx); err != nil {
			s.again(s.wait/2+rand.N(s.wait), err.Error())
			s.wait = min(s.wait*2, retryMost)
			return
		}
	}
	s.waiting = false
}

// ask asks for more once half of what may be asked for has come and gone.
func (s *subscription) ask() {
	here := s.asked + len(s.held)
	if s.waiting || here > s.delivery.Prefetch/2 {
		return
	}
	n := s.delivery.Prefetch - here
	s.pulls++
	body := fmt.Appendf(nil, `{"batch":%d,"expires":%d,"idle_heartbeat":%d}`, n, pullExpiry, s.delivery.Heartbeat)
	subject := jetstream.DefaultAPIPrefix + "CONSUMER.MSG.NEXT." + s.source.stream + "." + s.consumer
	if err := s.subscriber.conn.PublishRequest(subject, s.inbox+"."+strconv.Itoa(s.pulls), body); err != nil {
		s.again(retryMost, err.Error())
		return
	}
	s.asked += n
	s.silence.Reset(s.patience())
}

// answer tells the broker about a message. What cannot be told now is lost, and
// the message comes again.
func (s *subscription) answer(h *held, text string) {
	if err := s.subscriber.conn.Publish(h.reply, []byte(text)); err != nil {
		s.log.Warn("broker was not told about a message", "sequence", h.sequence, "error", err)
	}
}

// alive tells the broker that the messages here are not forgotten.
func (s *subscription) alive() {
	for _, h := range s.held {
		s.answer(h, "+WPI")
	}
}

func (s *subscription) ack(h *held) {
	s.drop(h)
	delete(s.refused, h.sequence)
	s.last = max(s.last, h.sequence)
	if !s.delivery.DoubleAck {
		s.answer(h, "+ACK")
		return
	}
	wait := min(askTimeout, s.delivery.AckWait/3)
	if _, err := s.subscriber.conn.Request(h.reply, []byte("+ACK"), wait); err != nil {
		s.log.Warn("acknowledgement was not confirmed, the message may come again", "sequence", h.sequence, "error", err)
	}
}

func (s *subscription) nack(h *held) {
	s.drop(h)
	if s.ephemeral() {
		s.refused[h.sequence] = struct{}{}
	}
	if wait := s.delivery.NackDelay(h.delivered); wait > 0 {
		s.answer(h, fmt.Sprintf(`-NAK {"delay":%d}`, wait))
		return
	}
	s.answer(h, "-NAK")
}

// drop forgets the first message, whose handler is done.
func (s *subscription) drop(h *held) {
	h.cancel()
	s.held[0] = nil
	s.held = s.held[1:]
}

// end gives back what was not handed out, waits for the handler of what was, and
// closes the channel.
func (s *subscription) end() {
	defer close(s.out)
	s.stopListening()
	var first *held
	for _, h := range s.held {
		switch {
		case h.out:
			first = h
		default:
			s.answer(h, "-NAK")
			if h.cancel != nil {
				h.cancel()
			}
		}
	}
	if first != nil {
		s.held = []*held{first}
		s.await(first)
	}
	s.takers.Wait()
	if s.ephemeral() {
		s.remove()
	}
	if conn := s.subscriber.conn; conn.IsConnected() {
		// The answers must not go with a connection that is closed next.
		_ = conn.FlushTimeout(flushTimeout)
	}
}

// stopListening takes what the broker sent before it heard, so that it can be
// given back at once and not after AckWait.
func (s *subscription) stopListening() {
	conn := s.subscriber.conn
	conn.RemoveStatusListener(s.status)
	if err := s.sub.Drain(); err == nil && conn.IsConnected() {
		_ = conn.FlushTimeout(flushTimeout)
	}
	for {
		select {
		case m := <-s.arrived:
			if _, err := m.Metadata(); err == nil {
				s.take(m)
			}
		default:
			return
		}
	}
}

// await waits for a handler's answer, within bounds.
func (s *subscription) await(h *held) {
	progress := time.NewTicker(s.delivery.AckWait / 3)
	defer progress.Stop()
	bound := time.NewTimer(s.delivery.CloseTimeout)
	defer bound.Stop()
	for {
		select {
		case <-h.msg.Acked():
			s.ack(h)
			return
		case <-h.msg.Nacked():
			s.nack(h)
			return
		case <-progress.C:
			s.answer(h, "+WPI")
		case <-bound.C:
			h.cancel()
			s.answer(h, "-NAK")
			s.log.Warn("a handler did not answer in time, its message comes again", "sequence", h.sequence)
			return
		}
	}
}

// remove tells the broker that the consumer is not needed. If it does not hear,
// it finds out by itself.
func (s *subscription) remove() {
	subject := jetstream.DefaultAPIPrefix + "CONSUMER.DELETE." + s.source.stream + "." + s.consumer
	_ = s.subscriber.conn.Publish(subject, nil)
}
