package commands_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
)

func (w *sealedWorld) erase(s sealer, subject events.DataSubject) commands.Erased {
	w.Helper()
	out, err := s.EraseSubject(w.ctx, w.by(w.owner), acme, subject)
	if err != nil {
		w.Fatal(err)
	}
	return out
}

func (w *sealedWorld) readsAs(s sealer, id events.KeyID, want string) {
	w.Helper()
	k, err := s.Key(w.ctx, acme, id)
	if err != nil {
		w.Fatal(err)
	}
	if got := w.shown(s, k.Name); got != want {
		w.Errorf("the key is called %q, want %q", got, want)
	}
}

// erasures are the facts that a subject was erased.
func (w *sealedWorld) erasures(subject events.DataSubject) (out []events.SubjectErased) {
	w.Helper()
	for _, f := range w.all() {
		if e, ok := f.Event.(events.SubjectErased); ok && f.Subject == events.ErasureSubject(acme, subject) {
			out = append(out, e)
		}
	}
	return out
}

// Erased is erased: for everybody, on every server, and what is sealed afterwards is
// another matter.
func TestErase(t *testing.T) {
	w := newSealedWorld(t)
	s := w.sealer()
	w.begin(s)
	made, other := w.create(s.server, acme, personal(person)), w.create(s.server, acme, personal("user-2"))
	id, first := made.Key.ID, made.Key.Name.Sealed.Key
	out := w.erase(s, person)
	if len(out.Keys) != 1 || out.Keys[0] != first || !out.Applied || out.Facts[0].Event.Kind() != events.KindSubjectErased {
		t.Errorf("%+v", out)
	}
	for _, server := range []sealer{s, w.sealer()} {
		w.readsAs(server, id, "(erased)")
		w.readsAs(server, other.Key.ID, "Alice Clear-Name")
	}
	// It is not erased twice.
	if again := w.erase(s, person); len(again.Facts) != 0 || len(again.Keys) != 0 || again.Position != out.Position {
		t.Errorf("again: %+v", again)
	}
	// The key lives on, and so does what was erased of it.
	rotated, err := s.RotateKey(w.ctx, w.by(w.owner), acme, id, commands.RotateKey{Grace: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	w.readsAs(s, rotated.Key.ID, "(erased)")
	if _, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, rotated.Key.ID, key.Update{
		Name: domain.Some(events.ClearText("Somebody else")), Metadata: domain.Some(events.Metadata{"mail": {}}),
	}); err != nil {
		t.Fatal(err)
	}
	w.readsAs(s, rotated.Key.ID, "Somebody else")
	w.readsAs(s, id, "(erased)")
	k, err := s.Key(w.ctx, acme, rotated.Key.ID)
	if err != nil || k.Name.Sealed.Key == first || len(k.Metadata) != 1 || w.shown(s, k.Metadata["desk"]) != "(erased)" {
		t.Errorf("%+v, %v", k.Metadata, err)
	}
	if next := w.erase(s, person); len(next.Keys) != 1 || next.Keys[0] == first {
		t.Errorf("the second time: %+v", next)
	}
	w.readsAs(s, rotated.Key.ID, "(erased)")
	if n := len(w.erasures(person)); n != 2 {
		t.Errorf("%d facts tell of it", n)
	}
}

// Who may, of what, and what is refused; a dry run does nothing.
func TestWhoErases(t *testing.T) {
	w := newSealedWorld(t)
	s := w.sealer()
	w.begin(s)
	made := w.create(s.server, acme, personal(person))
	for _, one := range []struct {
		who     commands.Principal
		subject events.DataSubject
		want    error
	}{
		{principal(acme, events.RoleMember), person, domain.ErrForbidden},
		{principal(acme, events.RoleAuditor), person, domain.ErrForbidden},
		{principal(acme, events.RoleAdmin, "a"), person, domain.ErrForbidden},
		{principal("globex", events.RoleOwner), person, domain.ErrNotFound},
		{commands.Principal{}, person, domain.ErrNotFound},
		{w.owner, "never-heard-of", domain.ErrNotFound},
		{w.owner, "Not a pseudonym", domain.ErrInvalid},
		{w.owner, "", domain.ErrInvalid},
	} {
		if _, err := s.EraseSubject(w.ctx, w.by(one.who), acme, one.subject); !errors.Is(err, one.want) {
			t.Errorf("%s %q: %v, want %v", one.who.Role, one.subject, err, one.want)
		}
	}
	// Another organization's subject of that name is another.
	if _, err := s.EraseSubject(w.ctx, w.by(w.owner), "globex", person); !errors.Is(err, domain.ErrNotFound) {
		t.Error(err)
	}
	dry := w.by(w.owner)
	dry.DryRun = true
	before := w.last()
	if out, err := s.EraseSubject(w.ctx, dry, acme, person); err != nil || len(out.Facts) != 1 || w.last() != before {
		t.Errorf("%+v, %v", out, err)
	}
	w.readsAs(s, made.Key.ID, "Alice Clear-Name")
	if _, err := s.EraseSubject(w.ctx, w.by(principal(acme, events.RoleAdmin)), acme, person); err != nil {
		t.Error(err)
	}
	w.readsAs(s, made.Key.ID, "(erased)")
}

// A person can be erased whose organization has ended.
func TestEraseAfterTheEnd(t *testing.T) {
	w := newSealedWorld(t)
	s := w.sealer()
	w.begin(s)
	made := w.create(s.server, acme, personal(person))
	if _, err := s.DeleteOrganization(w.ctx, w.by(w.owner), acme); err != nil {
		t.Fatal(err)
	}
	w.erase(s, person)
	w.readsAs(s, made.Key.ID, "(erased)")
}

// Told again under an idempotency key the wish meets its outcome, and does not touch
// what was sealed since.
func TestEraseIsToldAgain(t *testing.T) {
	w := newSealedWorld(t)
	s := w.sealer()
	w.begin(s)
	w.create(s.server, acme, personal(person))
	erase := func() commands.Erased {
		out, err := s.EraseSubject(w.ctx, w.repeatable(w.owner, "e", "{}"), acme, person)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first := erase()
	next := w.create(s.server, acme, personal(person))
	again := erase()
	if !again.Replayed || len(again.Keys) != 1 || again.Keys[0] != first.Keys[0] || again.Position != first.Position {
		t.Errorf("%+v, then %+v", first, again)
	}
	w.readsAs(s, next.Key.ID, "Alice Clear-Name")
}

// The server dies between the fact and the key's end, or does not hear of that: the
// fact stands, and whoever comes next finishes it.
func TestEraseIsFinished(t *testing.T) {
	died := errors.New("died")
	for name, fault := range map[string]func(w *sealedWorld, hit func() error){
		"died before the key was destroyed": func(w *sealedWorld, hit func() error) {
			w.vault.failing(func(what string) error {
				if what == "destroy" {
					return hit()
				}
				return nil
			})
		},
		"the answer was lost": func(w *sealedWorld, hit func() error) {
			w.vault.losing(func(string) error { return hit() })
		},
	} {
		for after, finish := range map[string]func(*sealedWorld, sealer) error{
			"told again": func(w *sealedWorld, s sealer) error {
				_, err := s.EraseSubject(w.ctx, w.by(w.owner), acme, person)
				return err
			},
			"told again under its key": func(w *sealedWorld, s sealer) error {
				out, err := s.EraseSubject(w.ctx, w.repeatable(w.owner, "e", "{}"), acme, person)
				if err == nil && (!out.Replayed || len(out.Keys) != 1) {
					err = fmt.Errorf("it was %+v", out)
				}
				return err
			},
			"followed": func(w *sealedWorld, s sealer) error {
				for _, e := range w.erasures(person) {
					if _, err := s.FinishErasure(w.ctx, acme, person, e.Keys); err != nil {
						return err
					}
				}
				return nil
			},
			"sealed again": func(w *sealedWorld, s sealer) error {
				// Who follows has heard of the fact.
				s.subjects.Forget(acme, person, w.erasures(person)[0].Keys)
				_, err := s.CreateKey(w.ctx, w.by(w.owner), acme, personal(person))
				return err
			},
		} {
			t.Run(name+", "+after, func(t *testing.T) {
				w := newSealedWorld(t)
				s := w.sealer()
				w.begin(s)
				made := w.create(s.server, acme, personal(person))
				fault(w, func() error { return fmt.Errorf("%w: %w", events.ErrUnavailable, died) })
				if _, err := s.EraseSubject(w.ctx, w.repeatable(w.owner, "e", "{}"), acme, person); !errors.Is(err, commands.ErrNotDestroyed) || !errors.Is(err, died) {
					t.Fatal(err)
				}
				w.vault.failing(nil)
				w.vault.losing(nil)
				if n := len(w.erasures(person)); n != 1 {
					t.Fatalf("%d facts tell of it", n)
				}
				next := w.sealer()
				if err := finish(w, next); err != nil {
					t.Fatal(err)
				}
				if held, err := next.subjects.Held(w.ctx, acme, person); err != nil || held == made.Key.Name.Sealed.Key {
					t.Errorf("%q is held, %v", held, err)
				}
				w.readsAs(next, made.Key.ID, "(erased)")
				if n := len(w.erasures(person)); n != 1 {
					t.Errorf("%d facts tell of it", n)
				}
			})
		}
	}
}

// Whatever is not recorded destroys nothing.
func TestNothingIsDestroyedUnrecorded(t *testing.T) {
	for name, stored := range map[string]bool{"refused": false, "with its answer lost": true} {
		t.Run(name, func(t *testing.T) {
			w := newSealedWorld(t)
			s := w.sealer()
			w.begin(s)
			made := w.create(s.server, acme, personal(person))
			fault := events.ErrUnavailable
			if stored {
				fault = events.ErrOutcomeUnknown
			}
			w.memory.FailNext(fault, stored)
			if _, err := s.EraseSubject(w.ctx, w.by(w.owner), acme, person); !errors.Is(err, fault) {
				t.Fatal(err)
			}
			w.readsAs(s, made.Key.ID, "Alice Clear-Name")
			w.erase(s, person)
			w.readsAs(s, made.Key.ID, "(erased)")
			if n := len(w.erasures(person)); n != 1 {
				t.Errorf("%d facts tell of it", n)
			}
		})
	}
}

// Of any number who erase at once one records it, and all are answered when the key
// is gone.
func TestErasedAtOnce(t *testing.T) {
	w := newSealedWorld(t)
	first := w.sealer()
	w.begin(first)
	servers := []sealer{first, w.sealer(), w.sealer(), w.sealer()}
	for round := range 20 {
		subject := events.DataSubject(fmt.Sprintf("user-%d", round))
		made := w.create(first.server, acme, personal(subject))
		var (
			all      sync.WaitGroup
			recorded atomic.Int32
		)
		for _, s := range servers {
			all.Go(func() {
				out, err := s.EraseSubject(w.ctx, w.by(w.owner), acme, subject)
				if err != nil {
					t.Error(err)
					return
				}
				recorded.Add(int32(len(out.Facts)))
				if held, err := s.subjects.Held(w.ctx, acme, subject); err != nil || held != "" {
					t.Errorf("%q is held, %v", held, err)
				}
			})
		}
		all.Wait()
		if n := len(w.erasures(subject)); n != 1 || recorded.Load() != 1 {
			t.Errorf("%d facts tell of it, %d said that they recorded it", n, recorded.Load())
		}
		w.readsAs(first, made.Key.ID, "(erased)")
	}
}

// Keys are begun while their subject is erased, on servers that hear of it late.
// What was answered before the erasure began is erased when that is answered; what
// begins after it was answered can be read; and no key that sealed anything is left
// unnamed by a fact, unless it is the one there is.
func TestErasedWhileKeysBegin(t *testing.T) {
	w := newSealedWorld(t)
	first := w.sealer()
	w.begin(first)
	servers := []sealer{first, w.sealer(), w.sealer()}
	for range 30 {
		before := w.create(servers[1].server, acme, personal(person))
		var all sync.WaitGroup
		for _, s := range servers {
			all.Go(func() {
				for range 3 {
					if _, err := s.CreateKey(w.ctx, w.by(w.owner), acme, personal(person)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		w.erase(first, person)
		after, err := servers[2].CreateKey(w.ctx, w.by(w.owner), acme, personal(person))
		if err != nil {
			t.Fatal(err)
		}
		w.readsAs(first, before.Key.ID, "(erased)")
		w.readsAs(first, after.Key.ID, "Alice Clear-Name")
		all.Wait()
	}
	named := map[string]bool{}
	for _, e := range w.erasures(person) {
		for _, id := range e.Keys {
			named[id] = true
		}
	}
	held, err := first.subjects.Held(w.ctx, acme, person)
	if err != nil || named[held] {
		t.Fatalf("%q is held, %v", held, err)
	}
	for _, f := range w.all() {
		created, ok := f.Event.(events.KeyCreated)
		if !ok || created.DataSubject != person {
			continue
		}
		sealed := created.Name.Sealed
		_, err := first.subjects.Open(context.Background(), acme, sealed, seals.TextOfFact)
		if erased := errors.Is(err, seals.ErrErased); sealed.Key != held && !named[sealed.Key] || erased != named[sealed.Key] {
			t.Errorf("%s was sealed with %s: erased %t, %v", created.ID, sealed.Key, named[sealed.Key], err)
		}
	}
}
