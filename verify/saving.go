package verify

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/snapshot"
)

// saved is what is known of the client's own snapshots.
type saved struct {
	mu       sync.Mutex
	position events.Position
	at       time.Time
	failures uint64
	err      error
}

func (s *saved) note(at time.Time, w snapshot.Written, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err = err; err != nil {
		s.failures++
		return
	}
	s.position, s.at = w.Position, at
}

// save saves snapshots into the folder until the context ends.
func (c *Client) save(ctx context.Context, e *engine) {
	if c.folder == nil || c.o.snapshotEvery == 0 {
		return
	}
	for {
		// Not all of a fleet at once, nor always together with something else.
		wait := c.o.snapshotEvery - c.o.snapshotEvery/10 + rand.N(c.o.snapshotEvery/5+1)
		select {
		case <-time.After(wait):
			c.saveOnce(ctx, e)
		case <-ctx.Done():
			return
		}
	}
}

// saveOnce saves a snapshot, if there is anything new to save. That it could not be is
// logged: verdicts do not depend on it.
func (c *Client) saveOnce(ctx context.Context, e *engine) {
	if c.folder == nil || !e.proved.Load() || e.index.Applied() <= max(e.saved.last(), e.position) {
		return
	}
	now := time.Now()
	var picture *snapshot.Picture
	var err error
	e.barrier.Between(func() { picture, err = snapshot.Freeze(e.index, e.continuity) })
	var written snapshot.Written
	if err == nil {
		written, err = c.folder.Save(picture, events.TimeOf(now))
		picture.Release()
	}
	e.saved.note(now, written, err)
	if err != nil {
		c.o.log.ErrorContext(ctx, "no snapshot is saved", "error", err)
		return
	}
	e.endings.saved(written.Position)
	c.o.log.InfoContext(ctx, "snapshot is saved", "position", uint64(written.Position), "bytes", written.Size)
}

func (s *saved) last() events.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.position
}

// offline is a start without the broker. Nil is none.
type offline struct {
	// held is the instant, of this machine's, up to which the snapshot held
	// everything; zero if that lies in the future, so that nobody knows.
	held time.Time
	max  time.Duration
}

// newOffline begins one from a snapshot that held everything up to a time of the
// broker's.
func newOffline(stored events.Time, longest time.Duration, now time.Time) *offline {
	held, _ := projections.Instant(stored, now)
	return &offline{held, longest}
}

// serves reports whether the snapshot is young enough. No clock that is set back makes
// it younger.
func (o *offline) serves(now time.Time) bool {
	if o == nil || o.held.IsZero() {
		return false
	}
	return staleness(now.Sub(o.held), now.Round(0).Sub(o.held.Round(0))) <= o.max
}
