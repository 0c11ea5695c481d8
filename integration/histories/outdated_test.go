package histories

import (
	"errors"
	"testing"
	"time"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/clustertest"
	"github.com/keyledger/keyledger/events/jetstream"
)

// A server on the side of a leader that is cut off refuses nobody by what was: not
// for a limit where a place has come free, not as unknown what there is, and it
// does not say that nothing had to change where that is no longer so.
//
// Breaking it: refusals that leave without the leader's confirmation are told here
// by the second, and the limit's model finds them.
func TestServerBesideOutdatedLeader(t *testing.T) {
	c := clustertest.Start(t)
	c.Begin()
	first := c.First()
	w := newWorld(t, clustertest.Nodes, c.Connect(first), c.Connect((first+1)%clustertest.Nodes))
	w.calm()
	l := newLimit(w)
	old, current := w.servers[0], w.servers[1]
	client := w.client()
	var held []events.KeyID
	for len(held) < places {
		if id := l.create(client, current); !id.IsZero() {
			held = append(held, id)
		}
	}
	c.Outdate(jetstream.StreamLedger, first)
	// One is renamed, so that what was so already is not so any more.
	named := func(name string) key.Update { return key.Update{Name: domain.Some(events.ClearText(name))} }
	w.until("a change of a key", func() error {
		_, err := current.UpdateKey(w.ctx, client.wish(), limitOrg, held[1], named("new"))
		return err
	})
	l.revoke(client, current, held[0])
	asked, outdated, renamed := 0, 0, false
	ask := func() {
		asked++
		l.create(client, old)
		// Without an idempotency key it insists on nothing.
		wish := client.wish()
		wish.IdempotencyKey = ""
		out, err := old.UpdateKey(w.ctx, wish, limitOrg, held[1], named(""))
		if err == nil && len(out.Facts) == 0 && !renamed {
			t.Error("it had no name already, says an outdated leader")
		}
		renamed = renamed || err == nil || errors.Is(err, events.ErrOutcomeUnknown)
		if _, found, err := old.ledger.Latest(w.ctx, events.RevokedSubject(limitOrg, held[0])); err == nil && !found {
			outdated++
		}
	}
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		ask()
	}
	c.Heal(first)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		ask()
	}
	w.until("the old leader's side to be well again", func() error {
		_, err := old.Key(w.ctx, limitOrg, held[1])
		return err
	})
	t.Logf("asked %d times, %d times beside an outdated leader", asked, outdated)
	if outdated == 0 {
		t.Error("the leader noticed before the others had another: this shows nothing")
	}
	l.verdicts()
}

// create begins a key and returns its id, if it is known to be there.
func (l *limit) create(c *client, s *server) events.KeyID {
	wish, call := c.wish(), l.log.Now()
	out, err := s.CreateKey(l.ctx, wish, limitOrg, plain())
	w := Wish{Act: ActCreate, ID: wish.RequestID, Subject: string(limitOrg), Server: s.number}
	if err == nil {
		l.log.Add(c.number, call, w, l.done(s, out.Outcome))
		return out.Key.ID
	}
	if a, ok := l.told("create", err, domain.ErrKeyLimitReached); ok {
		l.log.Add(c.number, call, w, a)
	}
	if errors.Is(err, events.ErrOutcomeUnknown) {
		c.rest()
	}
	return events.KeyID{}
}
