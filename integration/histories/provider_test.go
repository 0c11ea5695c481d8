package histories

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/providerkey"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/wrapping"
)

// providers is the load of provider keys that are added, replaced, removed and
// resolved, on every server.
type providers struct {
	*world
	log *Log
	// secrets numbers them: no two are the same, so that an answer tells which
	// change it rests on.
	secrets atomic.Int64
	handed  atomic.Int64
	// nothing counts those who asked and were told to ask again.
	nothing atomic.Int64
}

const (
	providersOrg = events.OrgID("providers")
	provider     = events.ProviderOpenAI
)

func newProviders(w *world) *providers {
	w.Helper()
	l := &providers{world: w, log: NewLog()}
	w.must(w.organization(w.client(), providersOrg, 0))
	return l
}

func (l *providers) load(ctx context.Context) {
	var clients sync.WaitGroup
	for _, s := range l.servers {
		for range 2 {
			clients.Go(func() { l.change(ctx, s) })
		}
		for range 3 {
			clients.Go(func() { l.resolve(ctx, s) })
		}
	}
	clients.Wait()
}

// secret is a secret that nobody has had.
func (l *providers) secret() string {
	return fmt.Sprintf("sk-proj-%040dqZ", l.secrets.Add(1))
}

// change is a client that changes the key.
func (l *providers) change(ctx context.Context, s *server) {
	c := l.client()
	for ctx.Err() == nil {
		w := Wish{Subject: string(providersOrg), Server: s.number, Grant: l.secret()}
		wish, secret := c.wish(), providerkey.Conceal(w.Grant)
		var (
			do      func() (commands.ProviderKeyOutcome, error)
			refusal error
		)
		switch n := c.IntN(100); {
		case n < 50:
			w.Act, refusal = ActPatch, domain.ErrNotFound
			do = func() (commands.ProviderKeyOutcome, error) {
				return s.UpdateProviderKey(l.ctx, wish, providersOrg, provider, commands.UpdateProviderKey{Secret: secret})
			}
		case n < 75:
			w.Act, refusal = ActCreate, domain.ErrProviderKeyExists
			do = func() (commands.ProviderKeyOutcome, error) {
				return s.AddProviderKey(l.ctx, wish, providersOrg, commands.AddProviderKey{Provider: provider, Secret: secret})
			}
		default:
			w.Act, w.Grant, refusal = ActRevoke, "", domain.ErrNotFound
			do = func() (commands.ProviderKeyOutcome, error) {
				return s.RemoveProviderKey(l.ctx, wish, providersOrg, provider)
			}
		}
		w.ID = wish.RequestID
		call := l.log.Now()
		var out commands.ProviderKeyOutcome
		err := c.settled(l.ctx, func() (err error) {
			if out, err = do(); errors.Is(err, commands.ErrNotDestroyed) {
				// It is recorded, and not answered.
				err = events.ErrOutcomeUnknown
			}
			return err
		})
		a := Answer{}
		if err == nil {
			a = l.done(s, out.Outcome)
		} else if told, ok := l.told(string(w.Act), err, refusal); ok {
			a = told
		} else {
			return
		}
		l.log.Add(c.number, call, w, a)
		// While it changes at every moment, who asks for it is told to ask again.
		time.Sleep(time.Duration(c.IntN(150)) * time.Millisecond)
	}
}

// resolve is a client that asks for the key.
func (l *providers) resolve(ctx context.Context, s *server) {
	c := l.client()
	for ; ctx.Err() == nil; c.rest() {
		call := l.log.Now()
		got, err := s.ResolveProviderKey(l.ctx, l.owner, providersOrg, provider)
		switch {
		case errors.Is(err, commands.ErrNotOpened), err != nil && !errors.Is(err, events.ErrUnavailable):
			l.Errorf("resolve: %v", err)
			return
		case err != nil:
			l.nothing.Add(1)
			time.Sleep(100 * time.Millisecond) // the ledger has no leader
			continue
		case got.Source == commands.SourceCustomer:
			l.handed.Add(1)
		}
		l.log.Add(c.number, call, Wish{Act: ActRead, Subject: string(providersOrg), Server: s.number}, Answer{Grant: got.Secret.Reveal()})
	}
}

func (l *providers) enough() bool { return l.handed.Load() >= 50 && l.secrets.Load() >= 50 }

func (l *providers) judge() {
	l.settle(l.log, func(f events.Recorded) string {
		if f.Subject.Aggregate == events.AggregateProviderKey {
			return f.Subject.String()
		}
		return ""
	})
	all, ended := l.log.Len()
	l.Logf("provider keys: %d secrets, handed out %d times, told to ask again %d times; %d operations, %d without an answer",
		l.secrets.Load(), l.handed.Load(), l.nothing.Load(), all, all-ended)
	if err := Check(Connection(), l.log.All(), judging); err != nil {
		l.Error(err)
	}
	l.dead()
}

// dead fails unless, when whoever follows the ledger is through, only the secret that
// there is can be opened.
func (l *providers) dead() {
	s := l.servers[0]
	var named []events.DataKeyID
	boxes := map[events.DataKeyID]func() error{}
	opening := seals.NewEnvelopes(wrapping.Ring{Primary: l.kek}, s.ledger, ledgerID)
	note := func(version uint64, sealed events.SealedSecret) {
		named = append(named, sealed.DataKey)
		boxes[sealed.DataKey] = func() error {
			_, err := opening.Open(l.ctx, seals.Binding{Org: providersOrg, Provider: provider, Version: version}, sealed)
			return err
		}
	}
	for _, f := range l.facts() {
		switch e := f.Event.(type) {
		case events.ProviderKeyAdded:
			note(e.Version, e.Sealed)
		case events.ProviderKeyReplaced:
			note(e.Version, e.Sealed)
		default:
		}
	}
	var live events.DataKeyID
	l.until("the last state", func() error {
		k, err := s.ProviderKey(l.ctx, providersOrg, provider)
		if errors.Is(err, domain.ErrNotFound) {
			return nil
		}
		live = k.Sealed.DataKey
		return err
	})
	for _, id := range named {
		if id != live {
			l.until("destroying what is dead", func() error {
				_, err := s.DestroyDataKeys(l.ctx, providersOrg, provider, []events.DataKeyID{id})
				return err
			})
		}
		var err error
		for range 50 {
			if err = boxes[id](); !errors.Is(err, events.ErrUnavailable) {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if id == live && err != nil || id != live && !errors.Is(err, seals.ErrErased) {
			l.Errorf("data key %s, which is the last one: %t: %v", id, id == live, err)
		}
	}
}
