package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/batch"
)

const (
	// single is up to how many facts are read one by one, before a consumer is
	// made for the rest of a history: that costs the broker about ten reads, twice
	// as much on a cluster, where it goes through a quorum.
	single = 16
	// sweepPatience is how long a consumer may bring nothing. What it has brought
	// by then is kept, and the rest read one by one.
	sweepPatience = time.Second
)

// Load returns the facts of one subject after a position, in order, for a
// decision. The stream's leader says where they end (a direct get may be answered
// by a follower that lags behind the caller's own last append), and is asked for
// each of them unless the history is a long one.
//
// A history that is not whole wraps [events.ErrCorrupt]. A fact of a kind that
// this program does not know, or a body that is none, is returned as it is: the
// caller refuses to decide on it.
func (l *Ledger) Load(ctx context.Context, subject events.Subject, after events.Position) ([]events.Recorded, error) {
	if _, err := events.ParseSubject(subject.String()); err != nil {
		return nil, err
	}
	name := subject.String()
	facts, ended, err := l.readEach(ctx, name, nil, after, single)
	if err == nil && !ended {
		facts = l.sweep(ctx, name, facts)
		facts, _, err = l.readEach(ctx, name, facts, after, 0)
	}
	if err != nil {
		return nil, err
	}
	if err := batch.CheckRevisions(facts, after); err != nil {
		return nil, err
	}
	return facts, nil
}

// readEach asks the stream's leader for what follows, fact by fact, until it says
// that nothing does, or there are so many; 0 is no bound.
func (l *Ledger) readEach(ctx context.Context, name string, facts []events.Recorded, after events.Position, most int) (_ []events.Recorded, ended bool, _ error) {
	if n := len(facts); n > 0 {
		after = facts[n-1].Position
	}
	for most == 0 || len(facts) < most {
		next := uint64(after) + 1
		m, err := l.get(ctx, StreamLedger, getRequest{Seq: next, Next: name})
		if errors.Is(err, errNoMessage) {
			return facts, true, nil
		}
		if err != nil {
			return nil, false, err
		}
		if m.subject != name || m.seq < next {
			return nil, false, fmt.Errorf("%w: position %d was answered when %d or later on %s was asked for", events.ErrCorrupt, m.seq, next, name)
		}
		facts = append(facts, m.decode(l.id))
		after = events.Position(m.seq)
	}
	return facts, false, nil
}

// sweep reads what follows the beginning of a long history through a consumer of
// its own: thousands of facts in one go. Only speed rests on it. A replica that
// lags, or misses something, may feed the consumer; so it stops at the first fact
// that is not the next revision, keeps what came before, and leaves it to the
// leader to say what follows that. The same goes for whatever else fails.
func (l *Ledger) sweep(ctx context.Context, name string, facts []events.Recorded) []events.Recorded {
	begin := facts[len(facts)-1]
	end, err := l.get(ctx, StreamLedger, getRequest{Last: name})
	if err != nil || end.seq <= uint64(begin.Position) {
		return facts
	}
	arrived := make(chan *nats.Msg, 2*window)
	inbox, id := l.conn.NewInbox(), "kl_"+nuid.Next()
	sub, err := l.conn.ChanSubscribe(inbox, arrived)
	if err != nil {
		return facts
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := l.createConsumer(ctx, StreamLedger, id, uint64(begin.Position)+1, name); err != nil {
		return facts
	}
	defer l.removeConsumer(StreamLedger, id)
	ask := func() error {
		body := fmt.Appendf(nil, `{"batch":%d,"expires":%d}`, window, pullExpiry)
		return l.conn.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+StreamLedger+"."+id, inbox, body)
	}
	silence := time.NewTimer(sweepPatience)
	defer silence.Stop()
	for taken := 0; facts[len(facts)-1].Position < events.Position(end.seq); taken++ {
		if taken%window == 0 && ask() != nil {
			return facts
		}
		select {
		case m := <-arrived:
			silence.Reset(sweepPatience)
			r, ok := l.follows(m, name, facts[len(facts)-1])
			if !ok {
				return facts
			}
			facts = append(facts, r)
		case <-silence.C:
			return facts
		case <-ctx.Done():
			return facts
		}
	}
	return facts
}

// follows returns the fact of a message that a consumer brought, and whether it
// is the next revision after another.
func (l *Ledger) follows(m *nats.Msg, name string, last events.Recorded) (events.Recorded, bool) {
	at, ok := placeOf(m.Reply)
	if !ok || m.Subject != name || at.seq <= uint64(last.Position) {
		return events.Recorded{}, false
	}
	r := message{seq: at.seq, stored: at.stored, subject: m.Subject, body: m.Data}.decode(l.id)
	_, bad := r.Event.(events.Malformed)
	return r, !bad && last.Meta.Revision != 0 && r.Meta.Revision == last.Meta.Revision+1
}
