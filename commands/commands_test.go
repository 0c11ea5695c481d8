package commands_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/catalog"
	"github.com/keyledger/keyledger/domain/installation"
	"github.com/keyledger/keyledger/domain/key"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/domain/profile"
	"github.com/keyledger/keyledger/domain/workspace"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
)

func TestBeginsOnce(t *testing.T) {
	ledger := events.LedgerID{7}
	log := memory.New(ledger)
	if state, err := commands.Installation(t.Context(), log); err != nil || state.Exists {
		t.Fatalf("%+v, %v", state, err)
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		begun int
	)
	for range 8 {
		wg.Go(func() {
			secret, err := commands.NewOwner()
			if err == nil {
				err = commands.Begin(t.Context(), log, ledger, secret, installation.Signer{Name: "log", VerifierKey: "log+0+0"}, time.Now())
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				begun++
			case !errors.Is(err, events.ErrConflict):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	last, err := log.Last(t.Context())
	if err != nil || begun != 1 || last != 4 {
		t.Fatalf("%d began it, %d facts, %v", begun, last, err)
	}
	state, err := commands.Installation(t.Context(), log)
	if err != nil || state.Ledger != ledger || !state.Exists || len(state.Signers) != 1 {
		t.Fatalf("%+v, %v", state, err)
	}
	if err := commands.Begin(t.Context(), log, ledger, keystring.Conceal("no key"), installation.Signer{Name: "log", VerifierKey: "log+0+0"}, time.Now()); !errors.Is(err, domain.ErrInvalid) || strings.Contains(err.Error(), "no key") {
		t.Error(err)
	}
}

// Whatever field a key is pasted into, it does not get in, and is not repeated.
func TestSecretsGetInNowhere(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{MaxActiveKeys: 10})
	other := w.create(s, acme, plain())
	secret := other.Secret.Reveal()
	text := events.ClearText("it is " + secret + " indeed")
	k := other.Key.ID
	create := func(change func(*commands.CreateKey)) func() error {
		return func() error {
			c := plain()
			change(&c)
			_, err := s.CreateKey(w.ctx, w.by(w.owner), acme, c)
			return err
		}
	}
	update := func(u key.Update) func() error {
		return func() error {
			_, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, k, u)
			return err
		}
	}
	reason, request := w.by(w.owner), w.by(w.owner)
	reason.Reason, request.RequestID = text.Clear, secret
	for what, do := range map[string]func() error{
		"name":           create(func(c *commands.CreateKey) { c.Name = text }),
		"external id":    create(func(c *commands.CreateKey) { c.ExternalID = text }),
		"metadata":       create(func(c *commands.CreateKey) { c.Metadata = events.Metadata{"a": text} }),
		"metadata's key": create(func(c *commands.CreateKey) { c.Metadata = events.Metadata{secret: events.ClearText("a")} }),
		"prefix":         create(func(c *commands.CreateKey) { c.Prefix = secret }),
		"profile":        create(func(c *commands.CreateKey) { c.Profile = events.ProfileID(secret) }),
		"workspace": create(func(c *commands.CreateKey) {
			c.Scope = events.Scope{Workspaces: []events.WorkspaceID{events.WorkspaceID(secret)}}
		}),
		"grant": create(func(c *commands.CreateKey) {
			c.Permissions = events.Permissions{Level: events.LevelRestricted, Grants: []string{secret}}
		}),
		"level":        create(func(c *commands.CreateKey) { c.Permissions.Level = events.Level(secret) }),
		"kind":         create(func(c *commands.CreateKey) { c.Kind = events.KeyKind(secret) }),
		"role":         create(func(c *commands.CreateKey) { c.Kind, c.Role = events.KindManagement, events.Role(secret) }),
		"expires in":   create(func(c *commands.CreateKey) { c.Expiry.In = events.Period(secret) }),
		"new name":     update(key.Update{Name: domain.Some(text)}),
		"new metadata": update(key.Update{Metadata: domain.Some(events.Metadata{"a": text})}),
		"new status":   update(key.Update{Status: domain.Some(events.Status(secret))}),
		"reason":       func() error { _, err := s.RevokeKey(w.ctx, reason, acme, k, false); return err },
		"request id":   func() error { _, err := s.RevokeKey(w.ctx, request, acme, k, false); return err },
		"organization": func() error {
			_, err := s.UpdateOrganization(w.ctx, w.by(w.owner), acme, organization.Update{Name: domain.Some(text)})
			return err
		},
		"its id": func() error {
			_, err := s.CreateOrganization(w.ctx, w.by(w.owner), organization.Create{ID: events.OrgID(secret), Name: name})
			return err
		},
		"its prefix": func() error {
			_, err := s.UpdateOrganization(w.ctx, w.by(w.owner), acme, organization.Update{Policy: domain.Some(events.Policy{DefaultPrefix: secret})})
			return err
		},
		"workspace's name": func() error {
			_, err := s.CreateWorkspace(w.ctx, w.by(w.owner), acme, workspace.Create{ID: "w", Name: text})
			return err
		},
		"workspace's id": func() error {
			_, err := s.CreateWorkspace(w.ctx, w.by(w.owner), acme, workspace.Create{ID: events.WorkspaceID(secret), Name: name})
			return err
		},
		"workspace to rename": func() error {
			_, err := s.UpdateWorkspace(w.ctx, w.by(w.owner), acme, events.WorkspaceID(secret), workspace.Update{Name: domain.Some(name)})
			return err
		},
		"settings": func() error {
			_, err := s.CreateProfile(w.ctx, w.by(w.owner), acme, profile.Create{ID: "p", Name: name, Settings: events.Document(`{"a":{"b":["` + secret + `"]}}`)})
			return err
		},
		"settings, escaped": func() error {
			doc := `{"a":"` + strings.Replace(secret, "_", "\\u005F", 2) + `"}`
			_, err := s.CreateProfile(w.ctx, w.by(w.owner), acme, profile.Create{ID: "p", Name: name, Settings: events.Document(doc)})
			return err
		},
		"description": func() error {
			_, err := s.ReplaceCatalog(w.ctx, w.by(w.owner), acme, catalog.Replace{Permissions: []events.CatalogPermission{{Name: "a:b", Access: events.AccessRead, Description: text.Clear}}})
			return err
		},
		"route": func() error {
			_, err := s.ReplaceCatalog(w.ctx, w.by(w.owner), acme, catalog.Replace{Permissions: []events.CatalogPermission{{Name: "a:b", Access: events.AccessRead, Routes: []string{"GET /" + secret}}}})
			return err
		},
		"organization to change": func() error {
			_, err := s.UpdateOrganization(w.ctx, w.by(w.owner), events.OrgID(secret), organization.Update{Name: domain.Some(name)})
			return err
		},
	} {
		before := w.last()
		err := do()
		if !errors.Is(err, domain.ErrInvalid) && !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the refusal repeats it", what)
		}
		if w.last() != before {
			t.Errorf("%s: something was appended", what)
		}
	}
	for _, f := range w.all() {
		if keystring.Contains(string(f.Raw)) {
			t.Errorf("position %d holds a key", f.Position)
		}
	}
}

func TestRefusedEnvelopes(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	before := w.last()
	for field, wish := range map[string]commands.Wish{
		"reason":     {Principal: w.owner, Reason: strings.Repeat("x", events.MaxReasonLength+1)},
		"request id": {Principal: w.owner, RequestID: "a\nb"},
	} {
		var refusal *domain.Refusal
		if _, err := s.CreateKey(w.ctx, wish, acme, plain()); !errors.As(err, &refusal) || refusal.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if w.last() != before {
		t.Error("something was appended")
	}
}

func TestIfMatch(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	k := w.create(s, acme, plain()).Key
	at := func(r events.Revision) commands.Wish {
		wish := w.by(w.owner)
		wish.IfMatch = r
		return wish
	}
	out, err := s.UpdateKey(w.ctx, at(k.Revision), acme, k.ID, key.Update{Name: domain.Some(events.ClearText("b")), Status: domain.Some(events.StatusInactive)})
	if err != nil || out.Key.Revision != k.Revision+2 || out.Key.Name.Clear != "b" || out.Key.Position != out.Position {
		t.Fatalf("%+v, %v", out, err)
	}
	before := w.last()
	if _, err := s.UpdateKey(w.ctx, at(k.Revision), acme, k.ID, key.Update{Name: domain.Some(events.ClearText("c"))}); !errors.Is(err, domain.ErrStale) {
		t.Error(err)
	}
	if _, err := s.RotateKey(w.ctx, at(k.Revision), acme, k.ID, commands.RotateKey{}); !errors.Is(err, domain.ErrStale) {
		t.Error(err)
	}
	if _, err := s.UpdateOrganization(w.ctx, at(9), acme, organization.Update{Name: domain.Some(name)}); !errors.Is(err, domain.ErrStale) {
		t.Error(err)
	}
	if w.last() != before {
		t.Error("something was appended")
	}
	// A revocation is not to be held up.
	revoked, err := s.RevokeKey(w.ctx, at(k.Revision), acme, k.ID, false)
	if err != nil || revoked.Key.Revision != out.Key.Revision+1 {
		t.Errorf("%+v, %v", revoked, err)
	}
	if read, err := s.Key(w.ctx, acme, k.ID); err != nil || !read.Equal(revoked.Key.State) || read.Revision != revoked.Key.Revision {
		t.Errorf("%+v, %v", read, err)
	}
	if _, err := s.DeleteOrganization(w.ctx, at(99), acme); err != nil {
		t.Error(err)
	}
}

func TestDryRunsAppendNothing(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{MaxActiveKeys: 1})
	k := w.create(s, acme, plain()).Key
	dry := w.repeatable(w.owner, "dry", "body")
	dry.DryRun = true
	before := w.last()
	out, err := s.UpdateKey(w.ctx, dry, acme, k.ID, key.Update{Name: domain.Some(name)})
	if err != nil || len(out.Facts) != 1 || out.Key.Name != name || out.Facts[0].Position != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	rotated, err := s.RotateKey(w.ctx, dry, acme, k.ID, commands.RotateKey{Grace: time.Hour})
	if err != nil || len(rotated.Facts) != 2 || !rotated.Secret.IsZero() || rotated.Previous.RotatedTo != rotated.Key.ID {
		t.Errorf("%+v, %v", rotated, err)
	}
	if out, err = s.RevokeKey(w.ctx, dry, acme, k.ID, true); err != nil || len(out.Facts) != 1 || !out.Key.Revoked {
		t.Errorf("%+v, %v", out, err)
	}
	// What would be refused is refused.
	if _, err := s.CreateKey(w.ctx, dry, acme, plain()); !errors.Is(err, domain.ErrKeyLimitReached) {
		t.Error(err)
	}
	if out, err = s.CreateKey(w.ctx, dry, acme, management(events.RoleMember)); err != nil || len(out.Facts) != 1 || !out.Secret.IsZero() || !out.Key.Exists {
		t.Errorf("%+v, %v", out, err)
	}
	if _, err := s.DeleteOrganization(w.ctx, dry, acme); err != nil {
		t.Error(err)
	}
	if w.last() != before {
		t.Error("a dry run was appended")
	}
	// And it is no first outcome of the wish that follows it.
	dry.DryRun = false
	if out, err := s.UpdateKey(w.ctx, dry, acme, k.ID, key.Update{Name: domain.Some(name)}); err != nil || out.Replayed || w.last() != before+1 {
		t.Errorf("%+v, %v", out, err)
	}
}

// Edits that run all the time do not hold a revocation up, nor does it lose one.
func TestRevocationsAmongEdits(t *testing.T) {
	w := newWorld(t)
	log := &counting{Ledger: w.memory}
	s := w.server(func(c *commands.Config) { c.Log = log })
	w.acme(s, events.Limits{})
	k := w.create(s, acme, plain()).Key
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				_, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, k.ID, key.Update{Name: domain.Some(events.ClearText(strings.Repeat("x", 1+(n*4+i)%100)))})
				if err != nil && !errors.Is(err, domain.ErrEnded) && !errors.Is(err, events.ErrUnavailable) {
					t.Error(err)
				}
			}
		})
	}
	time.Sleep(5 * time.Millisecond)
	out, err := s.RevokeKey(w.ctx, w.by(w.owner), acme, k.ID, false)
	close(stop)
	wg.Wait()
	if err != nil || !out.Key.Revoked {
		t.Fatalf("%+v, %v", out, err)
	}
	if log.revocations != 1 {
		t.Errorf("it took %d attempts", log.revocations)
	}
}

func TestTheEndOfAnOrganization(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	k := w.create(s, acme, plain()).Key
	out, err := s.DeleteOrganization(w.ctx, w.by(w.owner), acme)
	if err != nil || len(out.Facts) != 1 || out.Facts[0].Subject != events.EndSubject(acme) {
		t.Fatalf("%+v, %v", out, err)
	}
	if again, err := s.DeleteOrganization(w.ctx, w.by(w.owner), acme); err != nil || len(again.Facts) != 0 {
		t.Errorf("%+v, %v", again, err)
	}
	before := w.last()
	for what, do := range map[string]func() error{
		"key": func() error { _, err := s.CreateKey(w.ctx, w.by(w.owner), acme, plain()); return err },
		"update": func() error {
			_, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, k.ID, key.Update{Name: domain.Some(name)})
			return err
		},
		"rotate": func() error {
			_, err := s.RotateKey(w.ctx, w.by(w.owner), acme, k.ID, commands.RotateKey{})
			return err
		},
		"workspace": func() error {
			_, err := s.CreateWorkspace(w.ctx, w.by(w.owner), acme, workspace.Create{ID: "c", Name: name})
			return err
		},
		"catalog": func() error { _, err := s.ReplaceCatalog(w.ctx, w.by(w.owner), acme, catalog.Replace{}); return err },
		"rename": func() error {
			_, err := s.UpdateOrganization(w.ctx, w.by(w.owner), acme, organization.Update{Name: domain.Some(name)})
			return err
		},
		"again": func() error {
			_, err := s.CreateOrganization(w.ctx, w.by(w.owner), organization.Create{ID: acme, Name: name})
			return err
		},
	} {
		if err := do(); !errors.Is(err, domain.ErrEnded) && !errors.Is(err, domain.ErrExists) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if w.last() != before {
		t.Error("something was appended")
	}
	// A key can be revoked whatever has ended around it.
	if _, err := s.RevokeKey(w.ctx, w.by(w.owner), acme, k.ID, false); err != nil {
		t.Error(err)
	}
}

func TestIdsAreNeverUsedAgain(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	if _, err := s.DeleteWorkspace(w.ctx, w.by(w.owner), acme, "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateWorkspace(w.ctx, w.by(w.owner), acme, workspace.Create{ID: "a", Name: name}); !errors.Is(err, domain.ErrExists) {
		t.Error(err)
	}
	if _, err := s.CreateKey(w.ctx, w.by(w.owner), acme, plain("a")); !errors.Is(err, domain.ErrUnknownWorkspace) {
		t.Error(err)
	}
	if _, err := s.CreateProfile(w.ctx, w.by(w.owner), acme, profile.Create{ID: "p", Name: name}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DeleteProfile(w.ctx, w.by(w.owner), acme, "p"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateProfile(w.ctx, w.by(w.owner), acme, profile.Create{ID: "p", Name: name}); !errors.Is(err, domain.ErrExists) {
		t.Error(err)
	}
	if _, err := s.UpdateProfile(w.ctx, w.by(w.owner), acme, "q", profile.Update{}); !errors.Is(err, domain.ErrNotFound) {
		t.Error(err)
	}
}

func TestExpireKey(t *testing.T) {
	w := newWorld(t)
	s, other := w.server(), w.server()
	w.acme(s, events.Limits{})
	c := plain()
	c.Expiry.In = "1d"
	k := w.create(s, acme, c).Key
	if out, err := s.ExpireKey(w.ctx, acme, k.ID); err != nil || len(out.Facts) != 0 {
		t.Fatalf("%+v, %v", out, err)
	}
	w.advance(25 * time.Hour)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if _, err := []*server{s, other}[i%2].ExpireKey(w.ctx, acme, k.ID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	for _, f := range w.all() {
		if e, ok := f.Event.(events.KeyExpired); ok {
			if n++; e.ExpiredAt != k.ExpiresAt || f.Meta.Actor.Type != events.ActorSystem {
				t.Errorf("%+v", f)
			}
		}
	}
	if n != 1 {
		t.Errorf("expired %d times", n)
	}
	if _, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, k.ID, key.Update{Expiry: domain.Some(key.Expiry{})}); !errors.Is(err, domain.ErrEnded) {
		t.Error(err)
	}
}

// What is not understood can be revoked, by who may touch every key, and nothing else.
func TestADoubtfulKeyCanBeRevoked(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	known, torn := w.create(s, acme, plain()).Key.ID, w.create(s, acme, plain()).Key.ID
	strange := events.KeyID{5}
	for id, body := range map[events.KeyID][]byte{
		known: []byte(`{"what":"is this?"}`), strange: []byte(`{"what":"is this?"}`), torn: w.farAhead(torn),
	} {
		w.memory.Plant(events.KeySubject(acme, id).String(), body)
		if _, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, id, key.Update{Name: domain.Some(name)}); err == nil {
			t.Error("it was edited")
		}
		if _, err := s.RevokeKey(w.ctx, w.by(principal(acme, events.RoleMember)), acme, id, false); !errors.Is(err, domain.ErrForbidden) {
			t.Error(err)
		}
		if _, err := s.RevokeKey(w.ctx, w.by(principal(acme, events.RoleAdmin, "a")), acme, id, false); !errors.Is(err, domain.ErrNotFound) {
			t.Error(err)
		}
		out, err := s.RevokeKey(w.ctx, w.by(principal(acme, events.RoleOwner)), acme, id, true)
		if err != nil || len(out.Facts) != 1 || !out.Key.Revoked {
			t.Errorf("%+v, %v", out, err)
		}
	}
}

// farAhead is a fact of a key between which and the one before others are missing.
func (w *world) farAhead(id events.KeyID) []byte {
	w.Helper()
	meta := w.all()[0].Meta
	meta.Revision, meta.BatchIndex, meta.BatchSize = 9, 0, 0
	body, err := events.Encode(events.KeySubject(acme, id), events.KeyDisabled{}, meta)
	if err != nil {
		w.Fatal(err)
	}
	return body
}

func TestASwitchedOffKeyIsRotatedSwitchedOff(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{MaxActiveKeys: 1})
	k := w.create(s, acme, plain()).Key
	if _, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, k.ID, key.Update{Status: domain.Some(events.StatusInactive)}); err != nil {
		t.Fatal(err)
	}
	out, err := s.RotateKey(w.ctx, w.by(w.owner), acme, k.ID, commands.RotateKey{})
	if err != nil || !out.Key.Disabled || out.Key.Revision != 2 {
		t.Fatalf("%+v, %v", out, err)
	}
	on, err := s.UpdateKey(w.ctx, w.by(w.owner), acme, out.Key.ID, key.Update{Status: domain.Some(events.StatusActive)})
	if err != nil || on.Key.Disabled {
		t.Fatalf("%+v, %v", on, err)
	}
}

// A server's index that lags does not take back what is recorded.
func TestAnIndexThatLags(t *testing.T) {
	w := newWorld(t)
	w.acme(w.server(), events.Limits{})
	s := w.server(func(c *commands.Config) {
		c.Await = func(context.Context, events.Position) error { return context.DeadlineExceeded }
	})
	if out, err := s.CreateKey(w.ctx, w.by(w.owner), acme, plain()); err != nil || out.Secret.IsZero() {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestConfigTellsEveryFaultAtOnce(t *testing.T) {
	err := commands.Config{}.Validate()
	for _, what := range []string{"Log", "Ledger", "Configuration", "Holders", "Await", "Logger"} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v does not name %s", err, what)
		}
	}
	if _, err := commands.New(commands.Config{}); err == nil {
		t.Error("a service of nothing")
	}
}

// The configuration takes each fact of an aggregate once and in order.
func TestConfigurationRefusesOldFacts(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	if _, err := s.UpdateWorkspace(w.ctx, w.by(w.owner), acme, "a", workspace.Update{Name: domain.Some(events.ClearText("new"))}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DeleteWorkspace(w.ctx, w.by(w.owner), acme, "a"); err != nil {
		t.Fatal(err)
	}
	facts := w.all()
	c := commands.NewConfiguration()
	if err := c.Apply(w.ctx, facts); err != nil {
		t.Fatal(err)
	}
	state, pos := c.Of(acme)
	if c.Faults() != 0 || pos != w.last() || state.Workspaces["a"].Live() || !state.Workspaces["b"].Live() {
		t.Fatalf("%d faults, %+v", c.Faults(), state)
	}
	if err := c.Apply(w.ctx, facts); err != nil {
		t.Fatal(err)
	}
	if again, _ := c.Of(acme); c.Faults() == 0 || again.Doubtful || again.Workspaces["a"].Live() || len(again.Workspaces) != 1 {
		t.Errorf("%d faults, %+v", c.Faults(), again)
	}
	// A fact that is missing leaves a doubt under which nothing is decided.
	c = commands.NewConfiguration()
	for _, f := range facts {
		if f.Event.Kind() != events.KindWorkspaceRenamed {
			if err := c.Apply(w.ctx, []events.Recorded{f}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if state, _ := c.Of(acme); !state.Doubtful || c.Faults() == 0 {
		t.Errorf("%d faults, %+v", c.Faults(), state)
	}
}
