package histories

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

// judging is how long a history may take to judge.
const judging = time.Minute

// tracked is a key that clients share.
type tracked struct {
	id     events.KeyID
	secret string
	// answered is the position of the last answered change.
	answered atomic.Uint64
	revoking atomic.Bool
}

func (k *tracked) know(pos events.Position) {
	for had := k.answered.Load(); uint64(pos) > had && !k.answered.CompareAndSwap(had, uint64(pos)); had = k.answered.Load() {
	}
}

// keys is the load of keys as registers.
type keys struct {
	*world
	log     *Log
	slots   [3]atomic.Pointer[tracked]
	mu      sync.Mutex
	all     []*tracked
	stale   atomic.Int64 // questions about a position that did not come in time
	revoked atomic.Int64
}

// grants are the permissions that patches choose among: each patch of a key is
// another one, so that a verdict tells which of them it rests on.
const grants = 500

func grant(n int) string { return fmt.Sprintf("p:%d", n) }

const keysOrg = events.OrgID("keys")

func newKeys(w *world) *keys {
	w.Helper()
	l := &keys{world: w, log: NewLog()}
	c := w.client()
	list := make([]events.CatalogPermission, grants)
	for n := range list {
		list[n] = events.CatalogPermission{Name: grant(n), Access: events.AccessWrite}
	}
	w.must(w.organization(c, keysOrg, 0, list...))
	for i := range l.slots {
		l.slots[i].Store(l.create(c, w.servers[i%len(w.servers)]))
	}
	return l
}

// create begins a key, by as many wishes as it takes: one whose secret was lost
// is of no use to anybody.
func (l *keys) create(c *client, s *server) *tracked {
	for l.ctx.Err() == nil {
		wish := c.wish()
		call := l.log.Now()
		var out commands.KeyOutcome
		err := c.settled(l.ctx, func() (err error) {
			out, err = s.CreateKey(l.ctx, wish, keysOrg, commands.CreateKey{Create: key.Create{
				Permissions: events.Permissions{Level: events.LevelRestricted, Grants: []string{grant(0)}},
				Scope:       events.Scope{AllWorkspaces: true},
			}})
			return err
		})
		if err != nil || out.Secret.IsZero() {
			c.rest()
			continue
		}
		k := &tracked{id: out.Key.ID, secret: out.Secret.Reveal()}
		k.know(out.Position)
		l.mu.Lock()
		l.all = append(l.all, k)
		l.mu.Unlock()
		a := l.done(s, out.Outcome)
		l.log.Add(c.number, call, Wish{Act: ActCreate, ID: wish.RequestID, Subject: k.id.String(), Server: s.number, Grant: grant(0)}, a)
		return k
	}
	return nil
}

// run is one client. Patches are numbered, so that no two of a key set the same.
func (l *keys) run(ctx context.Context, s *server, patches *atomic.Int64) {
	c := l.client()
	for ctx.Err() == nil {
		slot := &l.slots[c.IntN(len(l.slots))]
		k := slot.Load()
		if k == nil {
			return
		}
		switch n := c.IntN(100); {
		case n < 60:
			l.read(c, l.servers[c.IntN(len(l.servers))], k, c.IntN(2) == 0)
		case n < 80:
			w := Wish{Act: ActPatch, Grant: grant(int(patches.Add(1)) % grants)}
			if c.IntN(3) == 0 {
				w.Status = []events.Status{events.StatusActive, events.StatusInactive}[c.IntN(2)]
			}
			l.change(c, s, k, w)
		case n < 97:
			l.change(c, s, k, Wish{Act: ActPatch, Status: []events.Status{events.StatusActive, events.StatusInactive}[c.IntN(2)]})
		default:
			first := k.revoking.CompareAndSwap(false, true)
			l.change(c, s, k, Wish{Act: ActRevoke})
			if first {
				l.revoked.Add(1)
				slot.Store(l.create(c, s))
			}
		}
		c.rest()
	}
}

// change asks for a change and records it, and asks the same server right after.
func (l *keys) change(c *client, s *server, k *tracked, w Wish) {
	w.Subject, w.Server = k.id.String(), s.number
	wish := c.wish()
	call := l.log.Now()
	var out commands.KeyOutcome
	err := c.settled(l.ctx, func() (err error) {
		if w.Act == ActRevoke {
			out, err = s.RevokeKey(l.ctx, wish, keysOrg, k.id, false)
			return err
		}
		var u key.Update
		if w.Grant != "" {
			u.Permissions = domain.Some(events.Permissions{Level: events.LevelRestricted, Grants: []string{w.Grant}})
		}
		if w.Status != "" {
			u.Status = domain.Some(w.Status)
		}
		out, err = s.UpdateKey(l.ctx, wish, keysOrg, k.id, u)
		return err
	})
	w.ID = wish.RequestID
	if err != nil {
		if a, ok := l.told(string(w.Act), err, domain.ErrEnded); ok {
			l.log.Add(c.number, call, w, a)
		}
		return
	}
	k.know(out.Position)
	l.log.Add(c.number, call, w, l.done(s, out.Outcome))
	l.read(c, s, k, false)
}

func (l *keys) read(c *client, s *server, k *tracked, atLeast bool) {
	call := l.log.Now()
	q := verify.Question{Secret: k.secret}
	if atLeast {
		q.AtLeast = events.Position(k.answered.Load())
	}
	d := s.Verify(l.ctx, &q)
	if d.Code == events.CodeStale {
		l.stale.Add(1)
		return
	}
	a := Answer{Code: d.Code}
	if len(d.Permissions.Grants) > 0 {
		a.Grant = d.Permissions.Grants[0]
	}
	l.log.Add(c.number, call, Wish{Act: ActRead, Subject: k.id.String(), Server: s.number, AtLeast: atLeast}, a)
}

func (l *keys) enough() bool {
	all, _ := l.log.Len()
	return all >= 400 && l.revoked.Load() >= 3
}

// judge looks at every key once more on every server, at the ledger's end, and
// judges the histories.
func (l *keys) judge() {
	c := l.client()
	var last events.Position
	l.until("the ledger's end", func() (err error) {
		last, err = l.servers[0].ledger.Last(l.ctx)
		return err
	})
	for _, s := range l.servers {
		l.until("questions are answered again", func() error {
			if err := s.memory.WaitFor(l.ctx, last); err != nil {
				return err
			}
			if s.Stale() {
				end, err := s.ledger.Last(l.ctx)
				return fmt.Errorf("server %d is stale: its view is %s at %d, fresh at %s, the ledger's end %d (%w)",
					s.number, s.memory.Status().State, s.Position(), s.memory.Fresh(), end, err)
			}
			return nil
		})
		for _, k := range l.all {
			l.read(c, s, k, true)
		}
	}
	l.settle(l.log, func(f events.Recorded) string {
		if f.Subject.Org == keysOrg && f.Subject.Aggregate == events.AggregateKey {
			return f.Subject.String()
		}
		return ""
	})
	all, ended := l.log.Len()
	l.Logf("%d keys, %d revoked: %d operations, %d without an answer, %d questions STALE", len(l.all), l.revoked.Load(), all, all-ended, l.stale.Load())
	if err := Check(Key(), l.log.Changes(), judging); err != nil {
		l.Error(err)
	}
	for _, s := range l.servers {
		for name, history := range map[string]func(int) []operation{"at least the last answered": l.log.Strong, "plain": l.log.Plain} {
			l.Run(fmt.Sprintf("keys on server %d, %s", s.number, name), func(t *testing.T) {
				t.Parallel()
				if err := Check(Key(), history(s.number), judging); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func (l *keys) load(ctx context.Context) {
	var patches atomic.Int64
	var clients sync.WaitGroup
	for _, s := range l.servers {
		for range 3 {
			clients.Go(func() { l.run(ctx, s, &patches) })
		}
	}
	clients.Wait()
}
