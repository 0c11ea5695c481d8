package fleet

import (
	"time"

	"github.com/keyledger/keyledger/events"
)

// window is how long the announcements are looked back on that tell the broker's
// time: longer than between two of this server's own.
const window = 20 * time.Second

// clock tells the broker's time: by the announcements that took the least time to get
// here, and not by the clock of this machine, which may be wrong or be set.
type clock struct {
	// began is read once; what has passed since no clock that is set changes.
	began time.Time
	// lag is the least that this machine's time was ahead of the broker's when an
	// announcement came, in this window; before is that of the one before it.
	lag, before time.Duration
	since       time.Time
}

// unset is this machine's time as if nobody had set its clock since the start.
func (c *clock) unset(now time.Time) time.Time { return c.began.Add(now.Sub(c.began)) }

// hear notes an announcement that has just come.
func (c *clock) hear(stored events.Time, now time.Time) {
	lag := c.unset(now).Sub(stored.Std())
	switch {
	case c.since.IsZero():
		c.lag, c.before, c.since = lag, lag, now
	case now.Sub(c.since) > window:
		c.lag, c.before, c.since = lag, c.lag, now
	default:
		c.lag = min(c.lag, lag)
	}
}

// broker is the broker's time. Before anything was heard it is this machine's.
func (c *clock) broker(now time.Time) events.Time {
	return events.TimeOf(c.unset(now).Add(-min(c.lag, c.before)))
}

// since is how long ago something was stored, by the broker's time.
func since(stored, at events.Time) time.Duration { return at.Std().Sub(stored.Std()) }
