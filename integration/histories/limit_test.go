package histories

import (
	"context"
	"sync"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/events"
)

// limit is the load of an organization that may have few keys.
type limit struct {
	*world
	log *Log
}

const (
	limitOrg = events.OrgID("limited")
	places   = 4
)

func newLimit(w *world) *limit {
	w.Helper()
	w.must(w.organization(w.client(), limitOrg, places))
	return &limit{world: w, log: NewLog()}
}

// plain is a customer's key that nothing is wrong with.
func plain() commands.CreateKey {
	return commands.CreateKey{Create: key.Create{
		Permissions: events.Permissions{Level: events.LevelAll}, Scope: events.Scope{AllWorkspaces: true},
	}}
}

func (l *limit) load(ctx context.Context) {
	var clients sync.WaitGroup
	for _, s := range l.servers {
		for range 3 {
			clients.Go(func() { l.run(ctx, l.client(), s) })
		}
	}
	clients.Wait()
}

// run is one client, who creates keys and gives each up again after a while.
func (l *limit) run(ctx context.Context, c *client, s *server) {
	var mine []events.KeyID
	for ctx.Err() == nil {
		c.rest()
		if len(mine) > 0 && c.IntN(2) == 0 {
			l.revoke(c, s, mine[0])
			mine = mine[1:]
			continue
		}
		wish := c.wish()
		call := l.log.Now()
		var out commands.KeyOutcome
		err := c.settled(l.ctx, func() (err error) {
			out, err = s.CreateKey(l.ctx, wish, limitOrg, plain())
			return err
		})
		w := Wish{Act: ActCreate, ID: wish.RequestID, Subject: string(limitOrg), Server: s.number}
		if err == nil {
			l.log.Add(c.number, call, w, l.done(s, out.Outcome))
			mine = append(mine, out.Key.ID)
		} else if a, ok := l.told("create", err, domain.ErrKeyLimitReached); ok {
			l.log.Add(c.number, call, w, a)
		}
	}
}

// revoke ends a key and does not rest before it knows: a key that nobody knows of
// would hold its place for good.
func (l *limit) revoke(c *client, s *server, id events.KeyID) {
	wish, call := c.wish(), l.log.Now()
	for l.ctx.Err() == nil {
		out, err := s.RevokeKey(l.ctx, wish, limitOrg, id, false)
		if err == nil {
			l.log.Add(c.number, call, Wish{Act: ActRevoke, ID: wish.RequestID, Subject: string(limitOrg), Server: s.number}, l.done(s, out.Outcome))
			return
		}
		l.told("revoke", err, nil)
		c.rest()
	}
}

func (l *limit) enough() bool {
	all, _ := l.log.Len()
	return all >= 60
}

func (l *limit) judge() {
	if most := l.verdicts(); most != places {
		l.Errorf("at most %d keys held a place at once, of %d", most, places)
	}
}

// verdicts judges what clients were told, and returns how many keys held a place
// at once at most.
func (l *limit) verdicts() int {
	l.Helper()
	l.settle(l.log, func(f events.Recorded) string {
		if _, ok := f.Event.(events.KeyCreated); ok && f.Subject.Org == limitOrg {
			return "creates"
		}
		return ""
	})
	all, ended := l.log.Len()
	l.Logf("limit: %d operations, %d without an answer", all, all-ended)
	if err := Check(Limit(places), l.log.All(), judging); err != nil {
		l.Error(err)
	}
	// The ledger itself tells whether it was ever exceeded.
	states := map[events.KeyID]key.State{}
	held, most := map[events.KeyID]bool{}, 0
	for _, f := range l.facts() {
		id, ok := f.Subject.Key()
		if !ok || f.Subject.Org != limitOrg {
			continue
		}
		states[id] = key.Evolve(states[id], f.Event)
		if states[id].HoldsPlace(events.TimeOf(time.Now())) {
			held[id] = true
		} else {
			delete(held, id)
		}
		most = max(most, len(held))
	}
	if most > places {
		l.Errorf("%d keys held a place at once, of %d", most, places)
	}
	return most
}
