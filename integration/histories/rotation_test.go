package histories

import (
	"context"
	"sync"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// rotations is the load of keys that are rotated on one server while they are
// revoked on another.
type rotations struct {
	*world
	log *Log
	mu  sync.Mutex
	met int // rotations that were refused because the revocation was first
}

const rotationOrg = events.OrgID("rotating")

func newRotations(w *world) *rotations {
	w.Helper()
	w.must(w.organization(w.client(), rotationOrg, 0))
	return &rotations{world: w, log: NewLog()}
}

func (l *rotations) load(ctx context.Context) {
	var rounds sync.WaitGroup
	for i := range 2 {
		rounds.Go(func() {
			a, b := l.client(), l.client()
			for ctx.Err() == nil {
				l.round(ctx, a, b, l.servers[i%len(l.servers)], l.servers[(i+1)%len(l.servers)])
			}
		})
	}
	rounds.Wait()
}

func (l *rotations) round(ctx context.Context, a, b *client, rotating, revoking *server) {
	a.rest()
	created, err := rotating.CreateKey(l.ctx, a.wish(), rotationOrg, plain())
	if err != nil {
		return
	}
	id := created.Key.ID
	wait := time.Duration(a.IntN(1500)) * time.Microsecond
	var both sync.WaitGroup
	both.Go(func() {
		l.one(a, rotating, id, ActRotate, func(w commands.Wish) (commands.KeyOutcome, error) {
			return rotating.RotateKey(l.ctx, w, rotationOrg, id, commands.RotateKey{Grace: time.Hour})
		})
	})
	both.Go(func() {
		time.Sleep(wait)
		l.one(b, revoking, id, ActRevoke, func(w commands.Wish) (commands.KeyOutcome, error) {
			return revoking.RevokeKey(l.ctx, w, rotationOrg, id, false)
		})
	})
	both.Wait()
}

func (l *rotations) one(c *client, s *server, id events.KeyID, act Act, do func(commands.Wish) (commands.KeyOutcome, error)) {
	wish, call := c.wish(), l.log.Now()
	w := Wish{Act: act, ID: wish.RequestID, Subject: id.String(), Server: s.number}
	var out commands.KeyOutcome
	err := c.settled(l.ctx, func() (err error) {
		out, err = do(wish)
		return err
	})
	a, ok := l.done(s, out.Outcome), true
	if err != nil {
		a, ok = l.told(string(act), err, domain.ErrEnded)
	}
	if !ok {
		return
	}
	l.log.Add(c.number, call, w, a)
	if a.Refused {
		l.mu.Lock()
		l.met++
		l.mu.Unlock()
	}
}

func (l *rotations) enough() bool {
	all, _ := l.log.Len()
	l.mu.Lock()
	defer l.mu.Unlock()
	return all >= 40 && l.met > 0
}

func (l *rotations) judge() {
	l.settle(l.log, func(events.Recorded) string { return "" })
	all, ended := l.log.Len()
	l.Logf("rotations: %d operations, %d without an answer, %d met a revocation", all, all-ended, l.met)
	if err := Check(Rotation(), l.log.All(), judging); err != nil {
		l.Error(err)
	}
	revoked := map[events.KeyID]events.Position{}
	rotated := map[events.KeyID]events.KeyID{}
	born := map[events.KeyID]bool{}
	for _, f := range l.facts() {
		id, ok := f.Subject.Key()
		if !ok || f.Subject.Org != rotationOrg {
			continue
		}
		switch e := f.Event.(type) {
		case events.KeyRevoked:
			revoked[id] = f.Position
		case events.KeyRotated:
			rotated[id] = e.Successor
		case events.KeyCreated:
			born[e.ID] = true
			if at := revoked[e.RotatedFrom]; at != 0 {
				l.Errorf("a successor was born at %d, its predecessor was revoked at %d", f.Position, at)
			}
		}
	}
	for id, successor := range rotated {
		if !born[successor] {
			l.Errorf("key %s was rotated to one that there is not", id)
		}
	}
}
