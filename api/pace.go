package api

import (
	"sync"
	"time"

	"github.com/keyledger/keyledger/events"
)

// pace bounds how often, and how many at a time, something is done for each
// organization and in all.
type pace struct {
	// burst is how often an organization may at once, and every how long it gets
	// one more.
	burst int
	every time.Duration
	// atOnce is how many are under way for an organization, and all in all.
	atOnce, all int
	now         func() time.Time

	mu       sync.Mutex // guards all of the following
	of       map[events.OrgID]*allowance
	underWay int
	swept    time.Time
}

// allowance is what an organization has left: full is when it has all of it again.
type allowance struct {
	full     time.Time
	underWay int
}

func newPace(burst int, every time.Duration, atOnce, all int) *pace {
	return &pace{burst: burst, every: every, atOnce: atOnce, all: all, now: time.Now, of: map[events.OrgID]*allowance{}}
}

// begin takes one of an organization's, and returns what ends it. Where there is
// none left, it returns after how long it is worth asking again.
func (p *pace) begin(org events.OrgID) (end func(), again time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	p.sweep(now)
	a := p.of[org]
	if a == nil {
		a = &allowance{full: now}
		p.of[org] = a
	}
	if a.full.Before(now) {
		a.full = now
	}
	if wait := a.full.Add(p.every).Sub(now) - time.Duration(p.burst)*p.every; wait > 0 {
		return nil, wait
	}
	if a.underWay >= p.atOnce || p.underWay >= p.all {
		return nil, p.every
	}
	a.full = a.full.Add(p.every)
	a.underWay++
	p.underWay++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		a.underWay--
		p.underWay--
	}), 0
}

// sweep forgets who has all that it may have, now and then.
func (p *pace) sweep(now time.Time) {
	if now.Sub(p.swept) < time.Duration(p.burst)*p.every {
		return
	}
	p.swept = now
	for org, a := range p.of {
		if a.underWay == 0 && !a.full.After(now) {
			delete(p.of, org)
		}
	}
}
