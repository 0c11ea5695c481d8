package commands_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/wrapping"
)

// Whoever replaces, removes and adds at once, on several servers: each is answered
// what it did, versions are told once, and of all that was drawn nothing is left but
// what opens the last secret.
func TestProviderKeysChangedAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		below  func(testing.TB) *world
		rounds int
	}{"memory": {newWorld, 60}, "jetstream": {newWorldOnDisk, 8}} {
		t.Run(name, func(t *testing.T) {
			w := newProviderWorldOn(t, c.below(t))
			servers := []*server{w.opener(), w.opener(), w.opener()}
			w.acme(servers[0], events.Limits{})
			w.add(servers[0], 0)
			var (
				all     sync.WaitGroup
				number  atomic.Int64
				changes atomic.Int64
			)
			changes.Store(1)
			count := func(facts int, err error, allowed ...error) {
				if err != nil && !slices.ContainsFunc(allowed, func(is error) bool { return errors.Is(err, is) }) {
					t.Error(err)
				}
				changes.Add(int64(facts))
			}
			for _, s := range servers {
				all.Go(func() {
					for range c.rounds {
						out, err := s.UpdateProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI, commands.UpdateProviderKey{Secret: secretOf(int(number.Add(1)))})
						count(len(out.Facts), err, domain.ErrNotFound)
						if err == nil && (len(out.Facts) != 1 || !w.dead(out.Facts[0].Event.(events.ProviderKeyReplaced).Replaces)) {
							t.Errorf("%+v", out)
						}
					}
				})
				all.Go(func() {
					for range c.rounds / 4 {
						out, err := s.RemoveProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI)
						count(len(out.Facts), err)
						again, err := s.AddProviderKey(w.ctx, w.by(admin), acme, commands.AddProviderKey{Provider: events.ProviderOpenAI, Secret: secretOf(int(number.Add(1)))})
						count(len(again.Facts), err, domain.ErrProviderKeyExists)
					}
				})
			}
			all.Wait()
			facts := w.of(events.ProviderOpenAI)
			if int64(len(facts)) != changes.Load() {
				t.Errorf("%d facts, and %d were answered", len(facts), changes.Load())
			}
			var version uint64
			for _, f := range facts {
				switch e := f.Event.(type) {
				case events.ProviderKeyAdded:
					version++
					if e.Version != version {
						t.Errorf("version %d, want %d", e.Version, version)
					}
				case events.ProviderKeyReplaced:
					version++
					if e.Version != version {
						t.Errorf("version %d, want %d", e.Version, version)
					}
				default:
				}
			}
			k, err := servers[0].ProviderKey(w.ctx, acme, events.ProviderOpenAI)
			switch {
			case errors.Is(err, domain.ErrNotFound):
				w.lies()
			case err != nil:
				t.Error(err)
			default:
				w.lies(k.Sealed.DataKey)
			}
		})
	}
}

// dead reports whether a data key is destroyed.
func (w *providerWorld) dead(id events.DataKeyID) bool {
	_, err := w.envelopes().Open(w.ctx, seals.Binding{}, events.SealedSecret{DataKey: id, Secret: "AAAA"})
	return errors.Is(err, seals.ErrErased)
}

// While a key is replaced over and over, and wrapped anew, whoever resolves it is
// handed one of its secrets: never an error, never the built-in allocation, and never
// one that was replaced before it was asked.
func TestReplacedWithoutAGap(t *testing.T) {
	for name, c := range map[string]struct {
		below  func(testing.TB) *world
		rounds int
	}{"memory": {newWorld, 60}, "jetstream": {newWorldOnDisk, 15}} {
		t.Run(name, func(t *testing.T) {
			w := newProviderWorldOn(t, c.below(t))
			second, id, err := w.kek.Add()
			if err != nil {
				t.Fatal(err)
			}
			promoted, err := second.Promote(id)
			if err != nil {
				t.Fatal(err)
			}
			// Half of the servers wrap with the next key already.
			ring := func(k wrapping.Key) func(*commands.Config) {
				return func(c *commands.Config) {
					c.Envelopes = seals.NewEnvelopes(wrapping.Ring{Primary: k}, w.vault, w.ledger)
				}
			}
			servers := []*server{w.opener(ring(second)), w.opener(ring(promoted)), w.opener(ring(second))}
			w.acme(servers[0], events.Limits{})
			w.add(servers[0], 1)
			ctx, cancel := context.WithCancel(w.ctx)
			defer cancel()
			var all sync.WaitGroup
			var answered, asked atomic.Uint64
			answered.Store(1)
			for _, s := range servers {
				all.Go(func() {
					for ctx.Err() == nil {
						least := answered.Load()
						got, err := s.ResolveProviderKey(w.ctx, resolver, acme, events.ProviderOpenAI)
						if err != nil || got.Source != commands.SourceCustomer || got.Version < least || !got.Secret.Equal(secretOf(int(got.Version))) {
							t.Errorf("%+v, %v, after version %d was answered", got, err, least)
							return
						}
						asked.Add(1)
					}
				})
			}
			all.Go(func() {
				for ctx.Err() == nil {
					if got, err := servers[1].RewrapProviderKeys(w.ctx, w.owner); err != nil || got.Failed > 0 {
						t.Errorf("%+v, %v", got, err)
						return
					}
				}
			})
			for n := range c.rounds {
				out := w.replace(servers[n%len(servers)], n+2)
				answered.Store(out.ProviderKey.Version)
			}
			cancel()
			all.Wait()
			if asked.Load() == 0 {
				t.Error("nobody asked")
			}
			k, err := servers[0].ProviderKey(w.ctx, acme, events.ProviderOpenAI)
			if err != nil {
				t.Fatal(err)
			}
			w.lies(k.Sealed.DataKey)
		})
	}
}

// A key that is removed while it is wrapped anew stays dead.
func TestRemovedWhileWrappedAnew(t *testing.T) {
	w := newProviderWorld(t)
	second, id, err := w.kek.Add()
	if err != nil {
		t.Fatal(err)
	}
	promoted, err := second.Promote(id)
	if err != nil {
		t.Fatal(err)
	}
	s := w.opener()
	next := w.opener(func(c *commands.Config) {
		c.Envelopes = seals.NewEnvelopes(wrapping.Ring{Primary: promoted}, w.vault, w.ledger)
	})
	w.acme(s, events.Limits{})
	for n := range 60 {
		added := w.add(s, n)
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := next.RewrapProviderKeys(w.ctx, w.owner); err != nil {
				t.Error(err)
			}
		})
		if _, err := s.RemoveProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI); err != nil {
			t.Fatal(err)
		}
		w.opens(added.Facts[0], true)
		all.Wait()
		w.opens(added.Facts[0], true)
	}
	w.lies()
}

// Whoever loses a race has drawn for a version that another took: that data key goes,
// and the wish goes on with the next.
func TestALostRaceDrawsAgain(t *testing.T) {
	w := newProviderWorld(t)
	s := w.opener()
	w.acme(s, events.Limits{})
	w.add(s, 1)
	log := &between{Ledger: w.memory}
	slow := w.opener(func(c *commands.Config) { c.Log = log })
	log.do = func() { w.replace(s, 2) }
	out := w.replace(slow, 3)
	if out.ProviderKey.Version != 3 {
		t.Errorf("version %d", out.ProviderKey.Version)
	}
	w.lies(out.ProviderKey.Sealed.DataKey)
	w.resolves(s, 3, "")
	log.do = func() {
		if _, err := s.RemoveProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI); err != nil {
			t.Error(err)
		}
	}
	if _, err := slow.UpdateProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI, commands.UpdateProviderKey{Secret: secretOf(4)}); !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("%v", err)
	}
	w.lies()
}

// A server that stops at any of its writes, and whose wish is then told again, leaves a
// provider key that works, and nothing behind but what whoever looks for data keys
// that no fact names will find.
func TestAProviderKeyAfterAStop(t *testing.T) {
	died := errors.New("died")
	wishes := map[string]func(*providerWorld, *server, commands.Wish) error{
		"add": func(w *providerWorld, s *server, wish commands.Wish) error {
			_, err := s.AddProviderKey(w.ctx, wish, acme, commands.AddProviderKey{Provider: events.ProviderOpenAI, Secret: secretOf(2)})
			return err
		},
		"replace": func(w *providerWorld, s *server, wish commands.Wish) error {
			_, err := s.UpdateProviderKey(w.ctx, wish, acme, events.ProviderOpenAI, commands.UpdateProviderKey{Secret: secretOf(2)})
			return err
		},
	}
	for name, wish := range wishes {
		// Which of the store's questions is the last one, for as long as there are any.
		whole := false
		for stop, more := 1, true; more; stop++ {
			more = t.Run(fmt.Sprint(name, " stops at ", stop), func(t *testing.T) {
				w := newProviderWorld(t)
				s := w.opener()
				w.acme(s, events.Limits{})
				if name == "replace" {
					w.add(s, 1)
				}
				asked := 0
				w.vault.failing(func(string) error {
					if asked++; asked >= stop {
						return died
					}
					return nil
				})
				said := w.repeatable(admin, "k", "b")
				err := wish(w, s, said)
				w.vault.failing(nil)
				if whole = err == nil; whole && stop == 1 {
					t.Fatal("nothing was asked")
				}
				if err := wish(w, w.opener(), said); err != nil {
					t.Fatal(err)
				}
				w.resolves(s, 2, "")
				facts := w.of(events.ProviderOpenAI)
				for i, f := range facts {
					w.opens(f, i < len(facts)-1)
				}
			}) && !whole
		}
	}
}

// twoLead is a ledger while two brokers lead: one stores what the other answers with a
// conflict, and then a read is answered by the one that has not stored it.
type twoLead struct {
	*memory.Ledger
	// next is done when that happens to the next append, once.
	next func(*twoLead)
	// behind hides the last fact from that many reads.
	behind int
}

func (l *twoLead) Append(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	out, err := l.Ledger.Append(ctx, entries)
	if next := l.next; next != nil && err == nil {
		l.next = nil
		next(l)
		return nil, events.ErrConflict
	}
	return out, err
}

func (l *twoLead) Load(ctx context.Context, subject events.Subject, after events.Position) ([]events.Recorded, error) {
	facts, err := l.Ledger.Load(ctx, subject, after)
	if l.behind > 0 && len(facts) > 0 {
		l.behind--
		facts = facts[:len(facts)-1]
	}
	return facts, err
}

// What is stored and answered with a conflict opens all the same: nothing that was drawn
// for it goes before the ledger has said which of it is named.
func TestAProviderKeyStoredAndAnsweredWithAConflict(t *testing.T) {
	w := newProviderWorld(t)
	s := w.opener()
	w.acme(s, events.Limits{})
	log := &twoLead{Ledger: w.memory}
	two := w.opener(func(c *commands.Config) { c.Log = log })
	log.next = func(l *twoLead) { l.behind = 1 }
	added := w.add(two, 1)
	w.resolves(s, 1, "")
	w.lies(added.ProviderKey.Sealed.DataKey)

	log.next = func(l *twoLead) { l.behind = 1 }
	replaced := w.replace(two, 2)
	w.resolves(s, 2, "")
	w.lies(replaced.ProviderKey.Sealed.DataKey)

	// Nobody waits for it any more: whether it was stored, nobody has looked.
	ctx, cancel := context.WithCancel(w.ctx)
	log.next = func(*twoLead) { cancel() }
	_, err := two.UpdateProviderKey(ctx, w.by(admin), acme, events.ProviderOpenAI, commands.UpdateProviderKey{Secret: secretOf(3)})
	if !errors.Is(err, events.ErrOutcomeUnknown) || errors.Is(err, events.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, events.ErrOutcomeUnknown)
	}
	w.resolves(s, 3, "")
}
