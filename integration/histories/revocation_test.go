package histories

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/events"
)

// A revocation never fails over what others do to the key at the same time, and
// never waits for them: with everybody editing a key, every one of those who
// revoke it is answered that it is revoked, at the first request.
//
// Breaking it: with a revocation that expects the key's last fact and not that there
// is no revocation yet, keys are revoked twice and their histories are corrupt.
func TestRevocationsMeetEdits(t *testing.T) {
	w := oneNode(t)
	w.calm()
	l := newKeys(w)
	const rounds, editors, revokers = 20, 6, 3
	for range rounds {
		c := w.client()
		k := l.create(c, w.servers[0])
		var done atomic.Bool
		var all, revoking sync.WaitGroup
		for n := range editors {
			c := w.client()
			all.Go(func() {
				for i := 0; !done.Load(); i++ {
					_, err := w.servers[n%2].UpdateKey(w.ctx, c.wish(), keysOrg, k.id, key.Update{
						Permissions: domain.Some(events.Permissions{Level: events.LevelRestricted, Grants: []string{grant(1 + (n*50+i)%(grants-1))}}),
					})
					if errors.Is(err, domain.ErrEnded) {
						return
					}
					if err != nil && !errors.Is(err, events.ErrUnavailable) {
						t.Errorf("edit: %v", err)
					}
				}
			})
		}
		for n := range revokers {
			c := w.client()
			revoking.Go(func() {
				c.rest()
				out, err := w.servers[n%2].RevokeKey(w.ctx, c.wish(), keysOrg, k.id, false)
				if err != nil || !out.Key.Revoked {
					t.Errorf("revoke: %v", err)
				}
			})
		}
		revoking.Wait()
		done.Store(true)
		all.Wait()
	}
}
