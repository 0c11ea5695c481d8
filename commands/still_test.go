package commands_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
)

var errGone = errors.New("the key has ended")

// Whoever is asked right before an append and says no, appends nothing.
func TestAPrincipalIsAskedBeforeEveryAppend(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	k := w.create(s, acme, plain()).Key
	gone := w.by(w.owner)
	gone.Still = func() error { return errGone }
	for name, wish := range map[string]func() error{
		"create": func() error { _, err := s.CreateKey(w.ctx, gone, acme, plain()); return err },
		"update": func() error {
			_, err := s.UpdateKey(w.ctx, gone, acme, k.ID, key.Update{Status: domain.Some(events.StatusInactive)})
			return err
		},
		"rotate": func() error { _, err := s.RotateKey(w.ctx, gone, acme, k.ID, commands.RotateKey{}); return err },
		"revoke": func() error { _, err := s.RevokeKey(w.ctx, gone, acme, k.ID, true); return err },
		"organization": func() error {
			_, err := s.UpdateOrganization(w.ctx, gone, acme, organization.Update{Name: domain.Some(events.ClearText("X"))})
			return err
		},
		"end": func() error { _, err := s.DeleteOrganization(w.ctx, gone, acme); return err },
	} {
		before := w.last()
		if err := wish(); !errors.Is(err, errGone) {
			t.Errorf("%s: %v", name, err)
		}
		if w.last() != before {
			t.Errorf("%s: it appended all the same", name)
		}
	}
}

// A wish that lost a race decides again, and asks again.
func TestAPrincipalIsAskedAgainOnARetry(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	k := w.create(s, acme, plain()).Key
	var ended atomic.Bool
	log := &between{Ledger: w.memory}
	slow := w.server(func(c *commands.Config) { c.Log = log })
	log.do = func() {
		if _, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, k.ID, key.Update{Name: domain.Some(events.ClearText("faster"))}); err != nil {
			t.Error(err)
		}
		ended.Store(true)
	}
	wish := w.by(w.owner)
	wish.Still = func() error {
		if ended.Load() {
			return errGone
		}
		return nil
	}
	if _, err := slow.UpdateKey(w.ctx, wish, acme, k.ID, key.Update{Name: domain.Some(events.ClearText("slower"))}); !errors.Is(err, errGone) {
		t.Fatal(err)
	}
	if now, err := s.Key(w.ctx, acme, k.ID); err != nil || now.Name.Clear != "faster" {
		t.Errorf("%+v, %v", now.Name, err)
	}
}

// held is a ledger whose first append waits.
type held struct {
	*memory.Ledger
	first         atomic.Bool
	begun, resume chan struct{}
}

func (h *held) Append(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	if h.first.CompareAndSwap(false, true) {
		close(h.begun)
		<-h.resume
	}
	return h.Ledger.Append(ctx, entries)
}

// Who waits in line behind another's publish is asked when the turn has come,
// and the others of the line go out without.
func TestAPrincipalIsAskedAfterTheWaitInLine(t *testing.T) {
	for _, others := range []int{1, 6} {
		w := newWorld(t)
		log := &held{Ledger: w.memory, begun: make(chan struct{}), resume: make(chan struct{})}
		s := w.server()
		w.acme(s, events.Limits{})
		slow := w.server(func(c *commands.Config) { c.Log = log })
		results := make(chan error, others+2)
		create := func(wish commands.Wish) {
			_, err := slow.CreateKey(w.ctx, wish, acme, plain())
			results <- err
		}
		go create(w.by(w.owner))
		<-log.begun
		asked := make(chan struct{}, others+2)
		var ended atomic.Bool
		gone := w.by(w.owner)
		gone.Still = func() error {
			if !ended.Load() {
				t.Error("asked before its turn")
			}
			return errGone
		}
		for i := range others + 1 {
			wish := w.by(w.owner)
			if i == 0 {
				wish = gone
			}
			go func() { asked <- struct{}{}; create(wish) }()
		}
		for range others + 1 {
			<-asked
		}
		ended.Store(true)
		close(log.resume)
		var errs []error
		for range others + 2 {
			errs = append(errs, <-results)
		}
		refused := slices.DeleteFunc(errs, func(err error) bool { return err == nil })
		if len(refused) != 1 || !errors.Is(refused[0], errGone) || len(w.born(acme)) != others+1 {
			t.Errorf("%d others: %v, %d born", others, refused, len(w.born(acme)))
		}
	}
}
