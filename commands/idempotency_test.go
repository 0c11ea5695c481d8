package commands_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/catalog"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/domain/profile"
	"github.com/keyledger/keyledger/domain/workspace"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
)

func TestARepeatedCreateMeetsItsFirstOutcome(t *testing.T) {
	for _, limits := range []events.Limits{{}, {MaxActiveKeys: 1}} {
		t.Run(fmt.Sprint(limits.MaxActiveKeys), func(t *testing.T) {
			w := newWorld(t)
			s := w.server()
			w.acme(s, limits)
			wish := w.repeatable(w.owner, "k1", "body")
			first, err := s.CreateKey(w.ctx, wish, acme, plain())
			if err != nil || first.Secret.IsZero() || first.Replayed || !first.Key.Exists {
				t.Fatalf("%+v, %v", first, err)
			}
			end := w.last()
			for name, server := range map[string]*server{"the same server": s, "another one": w.server()} {
				again, err := server.CreateKey(w.ctx, wish, acme, plain())
				if err != nil || !again.Replayed || !again.Secret.IsZero() || again.Key.ID != first.Key.ID || again.Position < first.Key.Position {
					t.Errorf("%s: %+v, %v", name, again, err)
				}
				other := wish
				other.Body = []byte("another body")
				if _, err := server.CreateKey(w.ctx, other, acme, plain()); !errors.Is(err, commands.ErrIdempotencyKeyReused) {
					t.Errorf("%s, another body: %v", name, err)
				}
			}
			if w.last() != end {
				t.Error("a repetition was appended")
			}
			// What happened to the key since is told as it is.
			if _, err := s.RevokeKey(w.ctx, w.by(w.owner), acme, first.Key.ID, false); err != nil {
				t.Fatal(err)
			}
			if again, err := s.CreateKey(w.ctx, wish, acme, plain()); err != nil || !again.Replayed || !again.Key.Revoked {
				t.Errorf("after its revocation: %+v, %v", again, err)
			}
		})
	}
}

func TestNobodysWishIsTakenForAnothers(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	w.organization(s, "beta", events.Limits{})
	other := principal(events.System, events.RoleOwner)
	other.Actor.Key = events.KeyID{9}
	ids := map[events.KeyID]bool{}
	for name, c := range map[string]struct {
		by    commands.Principal
		org   events.OrgID
		route string
	}{
		"one":                  {w.owner, acme, "POST /keys"},
		"another organization": {w.owner, "beta", "POST /keys"},
		"another actor":        {other, acme, "POST /keys"},
		"another route":        {w.owner, acme, "POST /other"},
		"the tenant's own":     {principal(acme, events.RoleOwner), acme, "POST /keys"},
	} {
		wish := w.repeatable(c.by, "k1", "body")
		wish.Route = c.route
		out, err := s.CreateKey(w.ctx, wish, c.org, plain())
		if err != nil || out.Replayed || out.Secret.IsZero() || ids[out.Key.ID] {
			t.Fatalf("%s: %+v, %v", name, out, err)
		}
		ids[out.Key.ID] = true
	}
	// Nor is a wish about one key taken for a wish about another.
	var keys []events.KeyID
	for id := range ids {
		if slices.Contains(w.born(acme), id) {
			keys = append(keys, id)
		}
	}
	for _, id := range keys[:2] {
		out, err := s.RotateKey(w.ctx, w.repeatable(w.owner, "k2", "body"), acme, id, commands.RotateKey{})
		if err != nil || out.Replayed || out.Key.RotatedFrom != id {
			t.Fatalf("%+v, %v", out, err)
		}
	}
}

// An answer that was lost is not a change that was lost, nor one to be made twice.
func TestALostAnswer(t *testing.T) {
	for _, stored := range []bool{true, false} {
		t.Run(fmt.Sprintf("stored %t", stored), func(t *testing.T) {
			w := newWorld(t)
			s := w.server()
			w.acme(s, events.Limits{MaxActiveKeys: 3})
			wish := w.repeatable(w.owner, "k1", "body")
			w.memory.FailNext(events.ErrOutcomeUnknown, stored)
			if out, err := s.CreateKey(w.ctx, wish, acme, plain()); !errors.Is(err, events.ErrOutcomeUnknown) || !out.Secret.IsZero() {
				t.Fatalf("%+v, %v", out, err)
			}
			out, err := s.CreateKey(w.ctx, wish, acme, plain())
			if err != nil || out.Replayed != stored || out.Secret.IsZero() != stored {
				t.Fatalf("%+v, %v", out, err)
			}
			if got := w.born(acme); len(got) != 1 || got[0] != out.Key.ID {
				t.Errorf("keys %v, answered %s", got, out.Key.ID)
			}
		})
	}
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	w.memory.FailNext(events.ErrUnavailable, false)
	if _, err := s.CreateKey(w.ctx, w.by(w.owner), acme, plain()); !errors.Is(err, events.ErrUnavailable) {
		t.Fatal(err)
	}
}

func TestRepeatedChanges(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	k := w.create(s, acme, plain()).Key
	rotated := w.create(s, acme, plain()).Key
	revoked := w.create(s, acme, plain()).Key
	wish := func(key string) commands.Wish { return w.repeatable(w.owner, key, "body of "+key) }
	doc := events.Document(`{"a":1}`)
	for name, run := range map[string]func() (commands.Outcome, error){
		"catalog": func() (commands.Outcome, error) {
			return s.ReplaceCatalog(w.ctx, wish("catalog"), acme, catalog.Replace{Permissions: []events.CatalogPermission{{Name: "a:b", Access: events.AccessRead}}})
		},
		"profile": func() (commands.Outcome, error) {
			return s.CreateProfile(w.ctx, wish("profile"), acme, profile.Create{ID: "p", Name: events.ClearText("P"), Settings: doc})
		},
		"update": func() (commands.Outcome, error) {
			out, err := s.UpdateKey(w.ctx, wish("update"), acme, k.ID, key.Update{Name: domain.Some(events.ClearText("new"))})
			return out.Outcome, err
		},
		"rotate": func() (commands.Outcome, error) {
			out, err := s.RotateKey(w.ctx, wish("rotate"), acme, rotated.ID, commands.RotateKey{Grace: time.Hour})
			if err == nil && (out.Previous.RotatedTo != out.Key.ID || out.Secret.IsZero() != out.Replayed) {
				err = fmt.Errorf("%+v", out)
			}
			return out.Outcome, err
		},
		"revoke": func() (commands.Outcome, error) {
			out, err := s.RevokeKey(w.ctx, wish("revoke"), acme, revoked.ID, false)
			if err == nil && (!out.Key.Revoked || out.Key.RevocationReason.Clear != "test" || out.Key.RevokedBy != w.owner.Actor) {
				err = fmt.Errorf("%+v", out)
			}
			return out.Outcome, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w.memory.FailNext(events.ErrOutcomeUnknown, true)
			if _, err := run(); !errors.Is(err, events.ErrOutcomeUnknown) {
				t.Fatal(err)
			}
			end := w.last()
			out, err := run()
			if err != nil || !out.Replayed || len(out.Facts) == 0 || w.last() != end {
				t.Fatalf("%+v, %v, ledger ends at %d, was at %d", out, err, w.last(), end)
			}
		})
	}
}

// Two who tell the same wish at once get one key and, between them, one secret.
func TestOneWishToldTwiceAtOnce(t *testing.T) {
	w := newWorld(t)
	servers := []*server{w.server(), w.server()}
	w.acme(servers[0], events.Limits{})
	if err := servers[1].await(w.ctx, w.last()); err != nil {
		t.Fatal(err)
	}
	for round := range 50 {
		wish := w.repeatable(w.owner, fmt.Sprint("k", round), "body")
		var (
			wg      sync.WaitGroup
			mu      sync.Mutex
			ids     = map[events.KeyID]int{}
			secrets int
		)
		for i := range 8 {
			wg.Go(func() {
				out, err := servers[i%2].CreateKey(w.ctx, wish, acme, plain())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				ids[out.Key.ID]++
				if !out.Secret.IsZero() {
					secrets++
				}
			})
		}
		wg.Wait()
		if len(ids) != 1 || secrets != 1 {
			t.Fatalf("round %d: %d keys, %d secrets", round, len(ids), secrets)
		}
	}
	if got := len(w.born(acme)); got != 50 {
		t.Errorf("%d keys were born", got)
	}
}

func TestRefusedIdempotencyKeys(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	wish := w.repeatable(w.owner, string(make([]byte, commands.MaxIdempotencyKey+1)), "body")
	var refusal *domain.Refusal
	if _, err := s.CreateKey(w.ctx, wish, acme, plain()); !errors.As(err, &refusal) || refusal.Field != "Idempotency-Key" {
		t.Error(err)
	}
}

// A wish that changed nothing is a wish all the same: its repetition acts no
// second time, whatever somebody else did in between.
func TestAWishThatChangedNothingDoesNotActLater(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{MaxActiveKeys: 5})
	if _, err := s.CreateProfile(w.ctx, w.by(w.owner), acme, profile.Create{ID: "p", Name: events.ClearText("P")}); err != nil {
		t.Fatal(err)
	}
	k := w.create(s, acme, plain()).Key
	status := func(wish commands.Wish, to events.Status) (commands.Outcome, error) {
		out, err := s.UpdateKey(w.ctx, wish, acme, k.ID, key.Update{Status: domain.Some(to)})
		return out.Outcome, err
	}
	name := func(text string) domain.Optional[events.Text] { return domain.Some(events.ClearText(text)) }
	read := []events.CatalogPermission{{Name: "a:b", Access: events.AccessRead}}
	for what, c := range map[string]struct {
		wish, other func(commands.Wish) (commands.Outcome, error)
	}{
		"key": {
			func(wish commands.Wish) (commands.Outcome, error) { return status(wish, events.StatusActive) },
			func(wish commands.Wish) (commands.Outcome, error) { return status(wish, events.StatusInactive) },
		},
		"organization": {
			func(wish commands.Wish) (commands.Outcome, error) {
				return s.UpdateOrganization(w.ctx, wish, acme, organization.Update{MaxActiveKeys: domain.Some(5)})
			},
			func(wish commands.Wish) (commands.Outcome, error) {
				return s.UpdateOrganization(w.ctx, wish, acme, organization.Update{MaxActiveKeys: domain.Some(4)})
			},
		},
		"workspace": {
			func(wish commands.Wish) (commands.Outcome, error) {
				return s.UpdateWorkspace(w.ctx, wish, acme, "a", workspace.Update{Name: name("A workspace")})
			},
			func(wish commands.Wish) (commands.Outcome, error) {
				return s.UpdateWorkspace(w.ctx, wish, acme, "a", workspace.Update{Name: name("Another")})
			},
		},
		"profile": {
			func(wish commands.Wish) (commands.Outcome, error) {
				return s.UpdateProfile(w.ctx, wish, acme, "p", profile.Update{Name: name("P")})
			},
			func(wish commands.Wish) (commands.Outcome, error) {
				return s.UpdateProfile(w.ctx, wish, acme, "p", profile.Update{Name: name("Q")})
			},
		},
		"catalog": {
			func(wish commands.Wish) (commands.Outcome, error) {
				return s.ReplaceCatalog(w.ctx, wish, acme, catalog.Replace{})
			},
			func(wish commands.Wish) (commands.Outcome, error) {
				return s.ReplaceCatalog(w.ctx, wish, acme, catalog.Replace{Permissions: read})
			},
		},
	} {
		t.Run(what, func(t *testing.T) {
			if out, err := c.wish(w.by(w.owner)); err != nil || len(out.Facts) != 0 {
				t.Fatalf("not a wish that changes nothing: %+v, %v", out, err)
			}
			wish := w.repeatable(w.owner, "zz", what)
			first, err := c.wish(wish)
			if err != nil || len(first.Facts) == 0 || first.Replayed {
				t.Fatalf("it left no trace: %+v, %v", first, err)
			}
			if out, err := c.other(w.by(w.owner)); err != nil || len(out.Facts) == 0 {
				t.Fatalf("%+v, %v", out, err)
			}
			end := w.last()
			again, err := c.wish(wish)
			if err != nil || !again.Replayed || w.last() != end || again.Facts[0].Position != first.Facts[0].Position {
				t.Errorf("the repetition acted: %+v, %v", again, err)
			}
		})
	}
}

// doubtful stores a batch and answers with a conflict, as of two brokers that both
// lead for a moment one may, and then cannot be read.
type doubtful struct {
	*memory.Ledger
	met bool
}

func (d *doubtful) Append(ctx context.Context, entries []events.Entry) ([]events.Recorded, error) {
	if _, err := d.Ledger.Append(ctx, entries); err != nil {
		return nil, err
	}
	d.met = true
	return nil, events.ErrConflict
}

func (d *doubtful) Load(ctx context.Context, subject events.Subject, after events.Position) ([]events.Recorded, error) {
	if d.met {
		return nil, events.ErrUnavailable
	}
	return d.Ledger.Load(ctx, subject, after)
}

// Nobody is told that nothing happened on the word of a conflict alone.
func TestConflictThatCannotBeLookedInto(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	k := w.create(s, acme, plain())
	doubt := w.server(func(c *commands.Config) { c.Log = &doubtful{Ledger: w.memory} })
	if _, err := doubt.RevokeKey(w.ctx, w.by(w.owner), acme, k.Key.ID, false); !errors.Is(err, events.ErrOutcomeUnknown) || errors.Is(err, events.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, events.ErrOutcomeUnknown)
	}
}

// While two brokers lead, what is stored may be answered with a conflict. The call
// meets its own key then, and is the only one that will ever know its secret.
func TestStoredAndAnsweredWithAConflict(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	for _, repeat := range []string{"", "once"} {
		wish := w.by(w.owner)
		if repeat != "" {
			wish = w.repeatable(w.owner, repeat, "body")
		}
		w.memory.FailNext(events.ErrConflict, true)
		made, err := s.CreateKey(w.ctx, wish, acme, plain())
		if err != nil || made.Replayed || made.Key.Digest.Value != events.DigestValue(keystring.Digest(made.Secret.Reveal())) {
			t.Fatalf("created: %+v, %v", made, err)
		}
		wish = w.by(w.owner)
		if repeat != "" {
			wish = w.repeatable(w.owner, repeat+" more", "body")
		}
		w.memory.FailNext(events.ErrConflict, true)
		next, err := s.RotateKey(w.ctx, wish, acme, made.Key.ID, commands.RotateKey{Grace: time.Hour})
		if err != nil || next.Replayed || next.Key.RotatedFrom != made.Key.ID || next.Key.Digest.Value != events.DigestValue(keystring.Digest(next.Secret.Reveal())) {
			t.Fatalf("rotated: %+v, %v", next, err)
		}
		if repeat == "" {
			continue
		}
		again, err := s.RotateKey(w.ctx, wish, acme, made.Key.ID, commands.RotateKey{Grace: time.Hour})
		if err != nil || !again.Replayed || !again.Secret.IsZero() || again.Key.ID != next.Key.ID {
			t.Fatalf("told again: %+v, %v", again, err)
		}
	}
}
