package api

import (
	"context"
	"sync"
	"time"

	"github.com/keyledger/keyledger/events"
)

const (
	// maxReportsOfOrg is how many whole reports the keys of one organization are
	// sent at a time. Each holds one of the few readers for as long as its client
	// takes: nobody who is slow, or pretends to be, may hold all of them.
	maxReportsOfOrg = 2

	// maxPastsOfOrg is how many lists of who could do something are made at a time
	// for the keys of one organization: fewer than there is room for.
	maxPastsOfOrg = maxPasts - 1

	// seatWait is how long one more waits.
	seatWait = 10 * time.Second
)

// seats are places that every organization has as many of, whoever else is there.
type seats struct {
	most int
	// what says what they are for, in a refusal.
	what string

	mu    sync.Mutex // guards all of the following
	taken map[events.OrgID]int
	// freed is closed when one gets free, and another takes its place.
	freed chan struct{}
}

func newSeats(most int, what string) *seats {
	return &seats{most: most, what: what, taken: map[events.OrgID]int{}, freed: make(chan struct{})}
}

// sit waits for a place of an organization and returns what gives it back.
func (s *seats) sit(ctx context.Context, org events.OrgID) (leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, seatWait)
	defer cancel()
	for {
		s.mu.Lock()
		if s.taken[org] < s.most {
			s.taken[org]++
			s.mu.Unlock()
			return func() { s.leave(org) }, nil
		}
		freed := s.freed
		s.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, refuse(events.ErrUnavailable, "", "%d %s for keys of this organization, which is all that it may have at a time; try again", s.most, s.what)
		}
	}
}

func (s *seats) leave(org events.OrgID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[org]--; s.taken[org] == 0 {
		delete(s.taken, org)
	}
	close(s.freed)
	s.freed = make(chan struct{})
}
