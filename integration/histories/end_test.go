package histories

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

// ends is the load of organizations that end while keys are created in them.
type ends struct {
	*world
	log    *Log
	mu     sync.Mutex
	issued map[events.OrgID][]string // secrets
	late   int                       // keys that were answered after the end
}

func newEnds(w *world) *ends {
	return &ends{world: w, log: NewLog(), issued: map[events.OrgID][]string{}}
}

func (l *ends) load(ctx context.Context) {
	c := l.client()
	for n := 0; ctx.Err() == nil; n++ {
		org := events.OrgID(fmt.Sprintf("ending-%d", n))
		if err := l.organization(c, org, 0); err != nil {
			l.Errorf("begin %s: %v", org, err)
			return
		}
		l.round(ctx, c, org)
	}
}

// round has keys created on every server until the organization has ended there.
func (l *ends) round(ctx context.Context, c *client, org events.OrgID) {
	var end atomic.Uint64
	var clients sync.WaitGroup
	for _, s := range l.servers {
		mine := l.client()
		clients.Go(func() {
			for range 40 {
				out, err := s.CreateKey(l.ctx, mine.wish(), org, plain())
				if errors.Is(err, domain.ErrEnded) {
					return
				}
				if err == nil {
					secret := out.Secret.Reveal()
					l.mu.Lock()
					l.issued[org] = append(l.issued[org], secret)
					if end.Load() != 0 {
						l.late++
					}
					l.mu.Unlock()
					for _, s := range l.servers {
						l.read(mine, s, org, secret, 0)
						l.read(mine, s, org, secret, events.Position(end.Load()))
					}
				}
				if ctx.Err() != nil {
					return
				}
			}
		})
	}
	for range c.IntN(5) {
		c.rest()
	}
	s := l.servers[c.IntN(len(l.servers))]
	wish, call := c.wish(), l.log.Now()
	for {
		out, err := s.DeleteOrganization(l.ctx, wish, org)
		if err == nil {
			a := l.done(s, out)
			end.Store(uint64(out.Position))
			l.log.Add(c.number, call, Wish{Act: ActEnd, ID: wish.RequestID, Subject: string(org), Server: s.number}, a)
			break
		}
		l.told("end", err, nil)
		c.rest()
	}
	clients.Wait()
	for _, secret := range l.issued[org] {
		for _, s := range l.servers {
			l.read(c, s, org, secret, events.Position(end.Load()))
		}
	}
}

// read asks for a key, and the more so about the end if that is known.
func (l *ends) read(c *client, s *server, org events.OrgID, secret string, end events.Position) {
	call := l.log.Now()
	d := s.Verify(l.ctx, &verify.Question{Secret: secret, AtLeast: end})
	if d.Code == events.CodeNotFound || d.Code == events.CodeStale {
		return // a server that has not come so far
	}
	l.log.Add(c.number, call, Wish{Act: ActRead, Subject: string(org), Server: s.number, AtLeast: end != 0}, Answer{Code: d.Code})
}

func (l *ends) enough() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.issued) >= 3
}

func (l *ends) judge() {
	l.settle(l.log, func(events.Recorded) string { return "" })
	all, ended := l.log.Len()
	l.Logf("ends: %d organizations, %d keys of them were answered after the end, %d operations, %d without an answer", len(l.issued), l.late, all, all-ended)
	for _, s := range l.servers {
		for name, history := range map[string][]operation{
			"at least the end": l.log.Strong(s.number), "plain": l.log.Plain(s.number),
		} {
			if err := Check(End(), history, judging); err != nil {
				l.Errorf("server %d, %s: %v", s.number, name, err)
			}
		}
	}
}
