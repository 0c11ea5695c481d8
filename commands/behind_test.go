package commands_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/catalog"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/domain/profile"
	"github.com/keyledger/keyledger/domain/workspace"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
)

// behind is a server that hears of the ledger only when it is fed.
type behind struct {
	*commands.Service
	*memory.Ledger
	w             *world
	configuration *commands.Configuration
	// asked is how often the ledger was asked to confirm, and confirming what
	// happens when it was.
	asked      int
	confirming func()
}

func (b *behind) Confirm(ctx context.Context, began time.Time) (events.Position, error) {
	end, err := b.Ledger.Confirm(ctx, began)
	if b.asked++; b.confirming != nil {
		b.confirming()
	}
	return end, err
}

// feed applies what the ledger holds by now.
func (b *behind) feed() {
	at, _ := b.configuration.Position(b.w.ctx)
	for _, f := range b.w.all()[at:] {
		if err := b.configuration.Apply(b.w.ctx, []events.Recorded{f}); err != nil {
			b.w.Error(err)
		}
	}
}

func (w *world) behind(options ...func(*commands.Config)) *behind {
	w.Helper()
	b := &behind{Ledger: w.memory, w: w, configuration: commands.NewConfiguration()}
	cfg := commands.Config{
		Log: b, Ledger: w.ledger, Configuration: b.configuration, Now: w.now, Logger: slog.New(slog.DiscardHandler),
		Holders: func(context.Context, events.OrgID) ([]events.KeyID, error) { return w.born(acme), nil },
		Await:   func(context.Context, events.Position) error { return nil },
	}
	labels("an installation")(&cfg)
	for _, o := range options {
		o(&cfg)
	}
	var err error
	if b.Service, err = commands.New(cfg); err != nil {
		w.Fatal(err)
	}
	b.feed()
	return b
}

func restricted(grant string) commands.CreateKey {
	c := plain()
	c.Permissions = events.Permissions{Level: events.LevelRestricted, Grants: []string{grant}}
	return c
}

func (w *world) offer(s *server, permissions ...string) {
	w.Helper()
	var c catalog.Replace
	for _, name := range permissions {
		c.Permissions = append(c.Permissions, events.CatalogPermission{Name: name, Access: events.AccessRead})
	}
	if _, err := s.ReplaceCatalog(w.ctx, w.by(w.owner), acme, c); err != nil {
		w.Fatal(err)
	}
}

// change is what one server is told, and wish what the next one is asked for at
// once, which only the change allows.
type change struct {
	limits events.Limits
	before func(w *world, s *server) error
	change func(w *world, s *server) error
	wish   func(w *world, b *behind) error
}

// recorded fails where nothing was.
func recorded(out commands.Outcome, err error) error {
	if err == nil && len(out.Facts) == 0 {
		return errors.New("nothing was recorded")
	}
	return err
}

// profiles creates one of many.
func profiles(at interface {
	CreateProfile(ctx context.Context, w commands.Wish, org events.OrgID, c profile.Create) (commands.Outcome, error)
}, w *world, n int,
) error {
	_, err := at.CreateProfile(w.ctx, w.by(w.owner), acme, profile.Create{
		ID: events.ProfileID(fmt.Sprint("p", n)), Name: events.ClearText("P"), Settings: events.Document("{}"),
	})
	return err
}

// turned switches the signal of new sources.
func turned(to events.Switch) func(*world, *server) error {
	return func(w *world, s *server) error {
		_, err := s.UpdateOrganization(w.ctx, w.by(w.owner), acme, organization.Update{NewSource: domain.Some(to)})
		return err
	}
}

func create(org events.OrgID, c commands.CreateKey) func(*world, *behind) error {
	return func(w *world, b *behind) error {
		_, err := b.CreateKey(w.ctx, w.by(w.owner), org, c)
		return err
	}
}

func puts(permissions ...string) func(*world, *server) error {
	return func(w *world, s *server) error { w.offer(s, permissions...); return nil }
}

// imports wishes for new keys with grants, and fails where one of them is refused.
func imports(dry bool, grants ...string) func(*world, *behind) error {
	return func(w *world, b *behind) error {
		var keys []commands.ImportKey
		for i, g := range grants {
			var digest events.DigestValue
			digest[0], digest[1] = byte(i+1), byte(w.last())
			c := restricted(g).Create
			c.Issued.Digest = events.Digest{Alg: events.SHA256, Value: digest}
			keys = append(keys, commands.ImportKey{Create: c})
		}
		wish := w.by(w.owner)
		wish.DryRun = dry
		out, err := b.ImportKeys(w.ctx, wish, acme, keys)
		for _, k := range out.Keys {
			err = errors.Join(err, k.Err)
		}
		return err
	}
}

func changes() map[string]change {
	beta := events.OrgID("beta")
	begins := func(w *world, s *server) error { w.organization(s, beta, events.Limits{}); return nil }
	profiled := plain()
	profiled.Profile = "mobile"
	return map[string]change{
		"an organization, a key": {change: begins, wish: create(beta, plain())},
		"an organization, a workspace": {change: begins, wish: func(w *world, b *behind) error {
			_, err := b.CreateWorkspace(w.ctx, w.by(w.owner), beta, workspace.Create{ID: "c", Name: events.ClearText("C")})
			return err
		}},
		"an organization, a catalog": {change: begins, wish: func(w *world, b *behind) error {
			_, err := b.ReplaceCatalog(w.ctx, w.by(w.owner), beta, catalog.Replace{})
			return err
		}},
		"a catalog": {change: puts("a:x", "b:x"), wish: create(acme, restricted("b:x"))},
		"a catalog, a dry run": {change: puts("a:x", "b:x"), wish: func(w *world, b *behind) error {
			wish := w.by(w.owner)
			wish.DryRun = true
			_, err := b.CreateKey(w.ctx, wish, acme, restricted("b:x"))
			return err
		}},
		"a catalog, an update": {change: puts("a:x", "b:x"), wish: func(w *world, b *behind) error {
			_, err := b.UpdateKey(w.ctx, w.by(w.owner), acme, w.born(acme)[0], key.Update{Permissions: domain.Some(restricted("b:x").Permissions)})
			return err
		}},
		"a catalog, an import":                  {change: puts("a:x", "b:x"), wish: imports(false, "b:x")},
		"a catalog, an import beside another":   {change: puts("a:x", "b:x"), wish: imports(false, "a:x", "b:x")},
		"a catalog, an import tried":            {change: puts("a:x", "b:x"), wish: imports(true, "b:x")},
		"a catalog, an import tried beside one": {change: puts("a:x", "b:x"), wish: imports(true, "a:x", "b:x")},
		"an end, a key's": {change: func(w *world, s *server) error {
			_, err := s.DeleteOrganization(w.ctx, w.by(w.owner), acme)
			return err
		}, wish: func(w *world, b *behind) error { return recorded(b.EndKey(w.ctx, acme, w.born(acme)[0])) }},
		"a policy of rotation": {change: func(w *world, s *server) error {
			_, err := s.UpdateOrganization(w.ctx, w.by(w.owner), acme, organization.Update{RotationDueAfter: domain.Some(events.Period("1d"))})
			w.advance(48 * time.Hour)
			return err
		}, wish: func(w *world, b *behind) error { return recorded(b.NoteRotation(w.ctx, acme, w.born(acme)[0])) }},
		"a policy of sources": {before: turned(events.SwitchOff), change: turned(events.SwitchOn), wish: func(w *world, b *behind) error {
			return recorded(b.NoteSource(w.ctx, acme, w.born(acme)[0], seen("192.0.2.1")))
		}},
		"room for a profile": {
			before: func(w *world, s *server) error {
				for i := range events.MaxProfiles {
					if err := profiles(s, w, i); err != nil {
						return err
					}
				}
				return nil
			},
			change: func(w *world, s *server) error {
				_, err := s.DeleteProfile(w.ctx, w.by(w.owner), acme, "p0")
				return err
			},
			wish: func(w *world, b *behind) error { return profiles(b, w, events.MaxProfiles) },
		},
		"a workspace": {change: func(w *world, s *server) error {
			_, err := s.CreateWorkspace(w.ctx, w.by(w.owner), acme, workspace.Create{ID: "c", Name: events.ClearText("C")})
			return err
		}, wish: create(acme, plain("c"))},
		"a profile": {change: func(w *world, s *server) error {
			_, err := s.CreateProfile(w.ctx, w.by(w.owner), acme, profile.Create{ID: "mobile", Name: events.ClearText("M"), Settings: events.Document("{}")})
			return err
		}, wish: create(acme, profiled)},
		"a longer lifetime": {limits: events.Limits{MaxKeyLifetime: "7d"}, change: func(w *world, s *server) error {
			_, err := s.UpdateOrganization(w.ctx, w.by(w.owner), acme, organization.Update{MaxKeyLifetime: domain.Some(events.Period("90d"))})
			return err
		}, wish: func(w *world, b *behind) error {
			_, err := b.RotateKey(w.ctx, w.by(w.owner), acme, w.born(acme)[0], commands.RotateKey{Expiry: key.Expiry{In: "30d"}})
			return err
		}},
		"a higher limit": {limits: events.Limits{MaxActiveKeys: 1}, change: func(w *world, s *server) error {
			_, err := s.UpdateOrganization(w.ctx, w.by(w.owner), acme, organization.Update{MaxActiveKeys: domain.Some(2)})
			return err
		}, wish: create(acme, plain())},
	}
}

// What one server has answered, the next one does not refuse for want of it.
func TestNoRefusalRestsOnOldConfiguration(t *testing.T) {
	for name, c := range changes() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.server()
			w.acme(s, c.limits)
			w.offer(s, "a:x")
			w.create(s, acme, plain())
			if c.before != nil {
				if err := c.before(w, s); err != nil {
					t.Fatal(err)
				}
			}
			b := w.behind()
			if err := c.wish(w, b); err == nil {
				t.Fatal("it is not refused before the change: this shows nothing")
			}
			if b.asked != 1 {
				t.Errorf("a refusal asked the ledger %d times", b.asked)
			}
			if err := c.change(w, s); err != nil {
				t.Fatal(err)
			}
			var feeding sync.WaitGroup
			b.confirming = func() { feeding.Go(b.feed) }
			defer feeding.Wait()
			if err := c.wish(w, b); err != nil {
				t.Error(err)
			}
		})
	}
}

// A refusal that nothing new bears on leaves as it is: what is new about another
// organization, or about keys, is waited for and not decided on again.
func TestARefusalStandsThatNothingNewBearsOn(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	b := w.behind()
	w.organization(s, "beta", events.Limits{})
	w.create(s, acme, plain())
	var feeding sync.WaitGroup
	b.confirming = func() { feeding.Go(b.feed) }
	_, err := b.CreateKey(w.ctx, w.by(w.owner), acme, restricted("a:x"))
	feeding.Wait()
	if !errors.Is(err, domain.ErrUnknownPermission) || b.asked != 1 {
		t.Errorf("asked %d times: %v", b.asked, err)
	}
}

// A server that does not catch up says that it cannot tell. What rests on no
// configuration it tells all the same, and what succeeds asks nobody.
func TestAServerThatStaysBehindCannotTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.server()
		w.acme(s, events.Limits{})
		k := w.create(s, acme, plain()).Key
		b := w.behind()
		w.offer(s, "a:x")
		for _, grants := range [][]string{{"a:x"}, {"b:x"}} {
			if err := imports(false, grants...)(w, b); !errors.Is(err, events.ErrUnavailable) {
				t.Errorf("an import: %v", err)
			}
			if err := create(acme, restricted(grants[0]))(w, b); !errors.Is(err, events.ErrUnavailable) {
				t.Errorf("a create: %v", err)
			}
		}
		if err := create("nobody", plain())(w, b); !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("a create for nobody: %v", err)
		}
		impatient, cancel := context.WithCancel(w.ctx)
		b.confirming = cancel
		if _, err := b.CreateKey(impatient, w.by(w.owner), acme, restricted("a:x")); !errors.Is(err, context.Canceled) || !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("without patience: %v", err)
		}

		b.asked, b.confirming = 0, nil
		c := plain()
		c.Permissions.Level = "most"
		if err := create(acme, c)(w, b); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("what makes no sense: %v", err)
		}
		if err := create(acme, plain())(w, b); err != nil {
			t.Errorf("a success: %v", err)
		}
		if b.asked != 0 {
			t.Errorf("asked %d times", b.asked)
		}
		for range 2 {
			if _, err := b.RevokeKey(w.ctx, w.by(w.owner), acme, k.ID, false); err != nil {
				t.Errorf("a revocation: %v", err)
			}
		}
		if _, err := b.RevokeKey(w.ctx, w.by(w.owner), acme, events.KeyID{9}, false); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("a revocation of nothing: %v", err)
		}
		if _, err := b.CreateOrganization(w.ctx, w.by(w.owner), organization.Create{ID: acme, Name: events.ClearText("A")}); !errors.Is(err, domain.ErrExists) {
			t.Errorf("an organization that is there: %v", err)
		}
	})
}
