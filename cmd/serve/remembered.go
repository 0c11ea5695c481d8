package serve

import (
	"sync"
	"time"
)

// remembers is how long a figure is good that was asked for elsewhere.
const remembers = time.Second

// remembered is a figure that is asked for once a second at most, however often
// it is wanted.
type remembered struct {
	ask func() (uint64, error)

	mu    sync.Mutex
	at    time.Time
	value uint64
	err   error
}

// get returns the figure. Those who want it while it is asked for wait for the
// same answer.
func (r *remembered) get() (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at.IsZero() || time.Since(r.at) >= remembers {
		r.value, r.err = r.ask()
		r.at = time.Now()
	}
	return r.value, r.err
}
