package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
)

// What a confirmation rests on (nats-server 2.15, raft.go; docs/adr/0014).
const (
	// lease is for how long after a node has answered its leader it surely does not
	// stand for election: that takes it 4 s at the least, and its answer may have
	// been on its way for the rest.
	lease = 3 * time.Second
	// underway is how long an answer may have been on its way where that is not
	// enough.
	underway = 250 * time.Millisecond
	// settled is after how long in office a leader is the only one that takes itself
	// for it: one that hears from nobody finds out within 20 s.
	settled = 25 * time.Second
	// gathering is how long answers are waited for from all who take themselves for
	// the leader.
	gathering = 150 * time.Millisecond
	// confirmEvery is between two looks.
	confirmEvery = 100 * time.Millisecond
)

// Confirm returns where the ledger ends when whatever was read from the leader since
// an instant was read from one that nobody had replaced: one that is cut off from the
// others goes on answering for up to 20 s. No fact that was acknowledged before the
// call stands behind that position. Errors:
//
//   - [events.ErrConflict]: leaders have changed, and what was read may be from
//     the one before; read again, and confirm that.
//   - [events.ErrUnavailable]: it cannot be confirmed now.
//
// With one replica nothing has to be confirmed, and the one node says where the
// ledger ends: other servers may have appended there.
func (l *Ledger) Confirm(ctx context.Context, began time.Time) (events.Position, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	deadline := time.Now().Add(l.config.LoadTimeout)
	for {
		a, err := l.confirming.ask(ctx, l)
		if err != nil {
			return 0, err
		}
		if l.replicas == 1 {
			return events.Position(a.State.Last), nil
		}
		verdict := a.judge(l.replicas, events.Position(l.seen.Load()), a.asked.Sub(began))
		if verdict == standing && !a.settled() {
			verdict = l.confirming.sole(a, began)
		}
		if verdict == standing && l.replies.doubled(began) {
			verdict = replaced // one of two was heard
		}
		switch {
		case verdict == standing:
			return events.Position(a.State.Last), nil
		case verdict == replaced:
			return 0, fmt.Errorf("%w: leaders have changed", events.ErrConflict)
		case verdict == deserted || time.Now().After(deadline):
			return 0, fmt.Errorf("%w: the leader cannot show that it still leads", events.ErrUnavailable)
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: %w", events.ErrUnavailable, ctx.Err())
		case <-time.After(confirmEvery):
		}
	}
}

// verdict is what an announcement shows.
type verdict int

const (
	doubtful verdict = iota // it may show by and by
	standing                // it leads
	replaced                // it leads, and another did a moment ago
	deserted                // it has heard from too few for too long
)

// announcement is what whoever takes itself for the stream's leader says.
type announcement struct {
	Error     *apiError   `json:"error"`
	State     streamState `json:"state"`
	Timestamp time.Time   `json:"ts"`
	Cluster   struct {
		Leader string    `json:"leader"`
		Since  time.Time `json:"leader_since"`
		Peers  []struct {
			// Active is how many nanoseconds ago it was heard, 0 for never.
			Active  int64 `json:"active"`
			Pending bool  `json:"pending"`
		} `json:"replicas"`
	} `json:"cluster"`
	// rivals says that more than one has answered.
	rivals bool
	// asked is when the question was sent, received when the last of the answers
	// had come.
	asked, received time.Time
}

func (a *announcement) settled() bool { return a.Timestamp.Sub(a.Cluster.Since) >= settled }

// judge tells whether its leader led through all of the time since something was
// read, which was so long before the question was sent. Ages are by the leader's own
// clock, as of its answer: however long that is on its way, or lies about here, it
// makes nothing younger.
//
// While every other node has heard from it within the lease, none of them stands
// for election. When some have not, one of them may have won one with the vote of
// a node that this leader hears, since nodes vote whenever they are asked to; so
// then a majority must have answered it after the reading.
func (a *announcement) judge(replicas int, seen events.Position, since time.Duration) verdict {
	if a.rivals || len(a.Cluster.Peers) != replicas-1 || a.Cluster.Leader == "" || a.Cluster.Since.IsZero() || events.Position(a.State.Last) < seen {
		return doubtful
	}
	office := a.Timestamp.Sub(a.Cluster.Since)
	near, now := 1, 1 // itself
	for _, p := range a.Cluster.Peers {
		ago := time.Duration(p.Active)
		// What it heard before it led is no answer to it.
		if p.Pending || ago <= 0 || ago >= office {
			continue
		}
		if ago < lease {
			near++
		}
		if ago+underway < since {
			now++
		}
	}
	switch majority := replicas/2 + 1; {
	case near == replicas, now >= majority:
		return standing
	case near < majority && office > 2*lease: // one that is new may not have heard yet
		return deserted
	default:
		return doubtful
	}
}

// confirming is what confirmations share.
type confirming struct {
	mu sync.Mutex
	// next is the round that has not begun: whoever comes while one is under way
	// needs one that begins later.
	next *round
	// turn is held by whoever asks for all.
	turn chan struct{}
	// leader, in office since an instant, was the only one who answered at another.
	leader string
	since  time.Time
	alone  time.Time
}

type round struct {
	done chan struct{}
	said announcement
	err  error
}

// sole tells whether a leader new in office was the only one that answered before
// something was read, and is now.
func (c *confirming) sole(a announcement, began time.Time) verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leader != a.Cluster.Leader || !c.since.Equal(a.Cluster.Since) {
		c.leader, c.since, c.alone = a.Cluster.Leader, a.Cluster.Since, a.received
	}
	if c.alone.After(began) {
		return replaced
	}
	return standing
}

// ask returns an announcement that was asked for after the call. All who wait for
// one at a time get the same.
func (c *confirming) ask(ctx context.Context, l *Ledger) (announcement, error) {
	c.mu.Lock()
	if c.turn == nil {
		c.turn = make(chan struct{}, 1)
	}
	if c.next == nil {
		c.next = &round{done: make(chan struct{})}
	}
	r, turn := c.next, c.turn
	c.mu.Unlock()
	select {
	case <-r.done:
		return r.said, r.err
	case <-ctx.Done():
		return announcement{}, fmt.Errorf("%w: %w", events.ErrUnavailable, ctx.Err())
	case turn <- struct{}{}:
	}
	defer func() { <-turn }()
	c.mu.Lock()
	mine := c.next == r
	if mine {
		c.next = nil
	}
	c.mu.Unlock()
	if mine {
		// Others must not lose theirs to the end of this caller's patience.
		r.said, r.err = l.announced(context.WithoutCancel(ctx))
		if r.err == nil && r.said.rivals {
			c.mu.Lock()
			c.leader = ""
			c.mu.Unlock()
		}
		close(r.done)
	}
	<-r.done
	return r.said, r.err
}

// announced asks who leads. While leaders are new in office it waits for all who
// may say that they do.
func (l *Ledger) announced(ctx context.Context) (announcement, error) {
	ctx, cancel := context.WithTimeout(ctx, l.config.LoadTimeout)
	defer cancel()
	inbox := l.conn.NewInbox()
	answers := make(chan *nats.Msg, 8)
	sub, err := l.conn.ChanSubscribe(inbox, answers)
	if err != nil {
		return announcement{}, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	asked := time.Now()
	if err := l.conn.PublishRequest("$JS.API.STREAM.INFO."+StreamLedger, inbox, nil); err != nil {
		return announcement{}, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	var first announcement
	var rest <-chan time.Time
	for {
		select {
		case m := <-answers:
			a, err := announcementOf(m)
			if err != nil {
				return a, err
			}
			if rest != nil {
				first.rivals, first.received = true, time.Now()
				return first, nil
			}
			first = a
			if first.asked = asked; a.settled() || l.replicas == 1 {
				first.received = time.Now()
				return first, nil
			}
			rest = time.After(gathering)
		case <-rest:
			first.received = time.Now()
			return first, nil
		case <-ctx.Done():
			return announcement{}, fmt.Errorf("%w: nobody says that it leads: %w", events.ErrUnavailable, ctx.Err())
		}
	}
}

func announcementOf(m *nats.Msg) (announcement, error) {
	var a announcement
	switch {
	case len(m.Data) == 0 && m.Header.Get("Status") == "503":
		return a, fmt.Errorf("%w: %w", events.ErrUnavailable, nats.ErrNoResponders)
	case json.Unmarshal(m.Data, &a) != nil:
		return a, fmt.Errorf("%w: unreadable answer to who leads", events.ErrUnavailable)
	case a.Error != nil:
		if err := a.Error.read(StreamLedger); !errors.Is(err, ErrStreamMissing) {
			return a, err
		}
		// A node that has not caught up says so of any stream.
		return a, fmt.Errorf("%w: %w", events.ErrUnavailable, a.Error)
	}
	return a, nil
}

// furthest is the last position that a ledger has seen by whatever way.
type furthest struct{ atomic.Uint64 }

func (f *furthest) reach(pos uint64) {
	for had := f.Load(); pos > had && !f.CompareAndSwap(had, pos); had = f.Load() {
	}
}
