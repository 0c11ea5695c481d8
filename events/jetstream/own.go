package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nuid"

	"github.com/keyledger/keyledger/events"
)

// tail returns what follows a stream through consumers that the ledger makes.
func (l *Ledger) tail(stream string, after events.Position) *tail {
	t := &tail{
		conn: l.conn, log: l.log, heartbeat: l.config.Heartbeat, tap: own{l}, expiry: pullExpiry,
		stream: stream, expires: stream != StreamLedger, holes: stream == StreamAccess || stream == StreamPresence, last: after,
	}
	if l.replicas > 1 {
		t.catchUp = l.config.CatchUp
	}
	return t
}

// own is the tap of whoever may make consumers and ask the stream's leader: each
// life of a consumer is a consumer of its own.
type own struct{ ledger *Ledger }

func (o own) open(ctx context.Context, t *tail) (*consumer, func(), error) {
	info, err := o.ledger.info(ctx, t.stream)
	if err != nil {
		return nil, nil, err
	}
	s := info.State
	if events.Position(s.Last) < t.last {
		return nil, nil, fmt.Errorf("%w: it ends at position %d, and %d was seen", errBehind, s.Last, t.last)
	}
	// An empty stream that once held messages shows its first position as the
	// next one.
	if !t.expires && s.Last > uint64(t.last) && s.First > uint64(t.last)+1 {
		return nil, nil, fmt.Errorf("%w: stream %s begins at position %d, and %d comes next", events.ErrCorrupt, t.stream, s.First, t.last+1)
	}
	// After a break it begins with the last message handed over once more: if that
	// is not the same, the stream was cut in the meantime and has grown again.
	start := uint64(t.last) + 1
	if t.body != nil {
		start = uint64(t.last)
	}
	name := "kl_" + nuid.Next()
	if err := o.ledger.createConsumer(ctx, t.stream, name, start); err != nil {
		return nil, nil, err
	}
	return &consumer{name: name, seen: start - 1}, func() { o.ledger.removeConsumer(t.stream, name) }, nil
}

// misplaced asks the stream's leader about a message that a consumer passed over.
// That the leader has it is a fault of this consumer, or of the replica it reads,
// and another is tried; that it does not is corruption, unless it may have expired.
func (o own) misplaced(ctx context.Context, c *consumer, m arrival) error {
	t, want := c.tail, c.seen+1
	if m.seq < want {
		return fmt.Errorf("%w: stream %s went back from position %d to %d", events.ErrCorrupt, t.stream, c.seen, m.seq)
	}
	if t.holes {
		return nil
	}
	_, err := o.ledger.get(ctx, t.stream, getRequest{Seq: want})
	switch {
	case err == nil:
		return fmt.Errorf("%w: position %d was passed over", errAgain, want)
	case !errors.Is(err, errNoMessage):
		return err
	}
	if t.expires {
		info, err := o.ledger.info(ctx, t.stream)
		if err != nil {
			return err
		}
		if info.State.First >= m.seq {
			return nil
		}
		if info.State.First > want {
			return fmt.Errorf("%w: the stream's beginning moved", errAgain)
		}
	}
	return missing(t.stream, want, m.seq)
}

// missing is the corruption of a stream without some of its messages.
func missing(stream string, want, got uint64) error {
	return fmt.Errorf("%w: positions %d to %d of stream %s are missing", events.ErrCorrupt, want, got-1, stream)
}

// idle asks the leader whether a consumer keeps something back: it lives on one
// replica, which may be far behind and yet say that it is there.
func (o own) idle(ctx context.Context, c *consumer) error {
	info, err := o.ledger.info(ctx, c.tail.stream)
	// One that arrived in the meantime shows that it is on its way.
	if err != nil || info.State.Last <= c.seen || len(c.arrived) > 0 {
		return nil
	}
	return fmt.Errorf("%w: its replica is behind: it is at position %d of %d", errAgain, c.seen, info.State.Last)
}

// inactive is when the broker forgets a consumer whose follower has gone.
const inactive = time.Minute

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
