package api

import (
	"context"
	"sync"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/audit"
)

// audience are the streams of events that are open. What happens is read from
// the view once for all of them and handed to those that it concerns: a change
// costs its organization's own followers a line each, and nobody else anything.
type audience struct {
	log     *audit.Log
	waitFor func(context.Context, events.Position) error

	mu sync.Mutex // guards all of the following, also in readings and followers
	// seats counts the open streams, and those of each key.
	seats int
	ofKey map[events.KeyID]int
	// now is the reading that new followers join; nil while nobody follows.
	now *reading
}

// reading is one run of reading the view, from its first follower to its last.
type reading struct {
	stop context.CancelFunc
	done chan struct{}
	// at is how far events were handed out.
	at        events.Position
	followers map[*follower]struct{}
	err       error
}

// follower is a stream's place in a reading.
type follower struct {
	reading *reading
	wants   func(*audit.Event) bool
	// wake holds a token when there is something to take.
	wake chan struct{}
	// waiting is what was handed out and not taken. Of a follower that does not
	// keep up nothing is kept: it missed some, and reads the view itself.
	waiting []audit.Event
	bytes   int
	missed  bool
}

func newAudience(log *audit.Log, waitFor func(context.Context, events.Position) error) *audience {
	return &audience{log: log, waitFor: waitFor, ofKey: map[events.KeyID]int{}}
}

// sit takes a seat for a stream of a key, which leave gives back.
func (a *audience) sit(key events.KeyID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.ofKey[key] >= maxStreamsOfKey:
		return refuse(errTooMany, "", "%d streams are open with this key, which is all it may have; one stream carries all events", maxStreamsOfKey)
	case a.seats >= maxStreams:
		return refuse(events.ErrUnavailable, "", "%d streams are open, which is all this server takes; subscribe to the broker instead", maxStreams)
	}
	a.seats++
	a.ofKey[key]++
	return nil
}

func (a *audience) leave(key events.KeyID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seats--
	if a.ofKey[key]--; a.ofKey[key] == 0 {
		delete(a.ofKey, key)
	}
}

// follow begins to hand out what a stream wants, from the returned position on.
func (a *audience) follow(ctx context.Context, wants func(*audit.Event) bool) (*follower, events.Position, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.now == nil || a.now.err != nil {
		at, err := a.log.Position(ctx)
		if err != nil {
			return nil, 0, err
		}
		// It goes on for others when the one that began it leaves.
		running, stop := context.WithCancel(context.Background())
		a.now = &reading{stop: stop, done: make(chan struct{}), at: at, followers: map[*follower]struct{}{}}
		go a.read(running, a.now)
	}
	f := &follower{reading: a.now, wants: wants, wake: make(chan struct{}, 1)}
	a.now.followers[f] = struct{}{}
	return f, a.now.at, nil
}

// unfollow ends that. The last one ends the reading and waits for its end.
func (a *audience) unfollow(f *follower) {
	r := f.reading
	a.mu.Lock()
	delete(r.followers, f)
	last := len(r.followers) == 0
	if last && a.now == r {
		a.now = nil
	}
	a.mu.Unlock()
	if last {
		r.stop()
		<-r.done
	}
}

// take returns what waits for a follower, and how far that reaches. With missed
// there is nothing: the follower reads up to there by itself.
func (a *audience) take(f *follower) (waiting []audit.Event, at events.Position, missed bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	waiting, missed = f.waiting, f.missed
	f.waiting, f.bytes, f.missed = nil, 0, false
	if len(waiting) == 0 && !missed {
		err = f.reading.err
	}
	return waiting, f.reading.at, missed, err
}

func (a *audience) read(ctx context.Context, r *reading) {
	defer close(r.done)
	err := a.readOn(ctx, r)
	a.mu.Lock()
	defer a.mu.Unlock()
	r.err = err
	for f := range r.followers {
		f.nudge()
	}
}

// readOn hands out what comes, until the context ends or the view does.
func (a *audience) readOn(ctx context.Context, r *reading) error {
	// Only this goroutine moves r.at.
	for at := r.at; ; {
		if err := a.waitFor(ctx, at+1); err != nil {
			return err
		}
		until, err := a.log.Position(ctx)
		if err != nil {
			return err
		}
		f := audit.Filter{AllOrganizations: true, OldestFirst: true, After: at, Until: until, Page: audit.Page{Limit: streamPage}}
		for at < until {
			page, next, err := a.log.Events(ctx, f)
			if err != nil {
				return err
			}
			f.Cursor, at = next, until
			if next != "" {
				at = page[len(page)-1].Position
			}
			a.hand(r, page, at)
		}
	}
}

// hand gives a page to those who want something of it.
func (a *audience) hand(r *reading, page []audit.Event, at events.Position) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.at = at
	for f := range r.followers {
		for i := range page {
			if f.missed || !f.wants(&page[i]) {
				continue
			}
			f.nudge()
			if f.bytes += len(page[i].Raw); len(f.waiting) == maxWaiting || f.bytes > maxWaitingBytes {
				f.waiting, f.bytes, f.missed = nil, 0, true
				break
			}
			f.waiting = append(f.waiting, page[i])
		}
	}
}

func (f *follower) nudge() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}
