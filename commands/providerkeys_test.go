package commands_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/domain/providerkey"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/wrapping"
)

// secretOf is a secret that OpenAI could have given out, one for each n.
func secretOf(n int) providerkey.Secret {
	return providerkey.Conceal(fmt.Sprintf("sk-proj-%040dqZ%02d", n, n%100))
}

// providerWorld is a world with envelopes, and what is stored for them.
type providerWorld struct {
	*world
	vault *vault
	kek   *wrapping.Keyset
	logs  *lines
}

// lines are what servers log.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newProviderWorld(t testing.TB) *providerWorld {
	t.Helper()
	return newProviderWorldOn(t, newWorld(t))
}

func newProviderWorldOn(t testing.TB, below *world) *providerWorld {
	t.Helper()
	store, ok := below.log.(seals.EnvelopeStore)
	if !ok {
		t.Fatal("the ledger has no seals")
	}
	kek, err := wrapping.NewKeyset()
	if err != nil {
		t.Fatal(err)
	}
	return &providerWorld{world: below, vault: &vault{EnvelopeStore: store}, kek: kek, logs: &lines{}}
}

func (w *providerWorld) envelopes() *seals.Envelopes {
	return seals.NewEnvelopes(wrapping.Ring{Primary: w.kek}, w.vault, w.ledger)
}

// opener is a server that opens and seals providers' secrets.
func (w *providerWorld) opener(options ...func(*commands.Config)) *server {
	w.Helper()
	return w.server(append([]func(*commands.Config){labels("an installation"), func(c *commands.Config) {
		c.Envelopes, c.Logger = w.envelopes(), slog.New(slog.NewTextHandler(w.logs, nil))
	}}, options...)...)
}

// admin is an admin of all of acme, resolver one of its resolvers.
var (
	admin    = principal(acme, events.RoleAdmin)
	resolver = principal(acme, events.RoleResolver)
)

func (w *providerWorld) add(s *server, n int) commands.ProviderKeyOutcome {
	w.Helper()
	out, err := s.AddProviderKey(w.ctx, w.by(admin), acme, commands.AddProviderKey{Provider: events.ProviderOpenAI, Secret: secretOf(n)})
	if err != nil {
		w.Fatal(err)
	}
	return out
}

func (w *providerWorld) replace(s *server, n int) commands.ProviderKeyOutcome {
	w.Helper()
	out, err := s.UpdateProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI, commands.UpdateProviderKey{Secret: secretOf(n)})
	if err != nil {
		w.Fatal(err)
	}
	return out
}

// resolves fails unless a server hands out the secret n, or the built-in allocation for
// a reason.
func (w *providerWorld) resolves(s *server, n int, reason commands.BuiltInReason) {
	w.Helper()
	got, err := s.ResolveProviderKey(w.ctx, resolver, acme, events.ProviderOpenAI)
	switch {
	case err != nil:
		w.Errorf("resolve: %v", err)
	case reason != "" && (got.Source != commands.SourceBuiltIn || got.Reason != reason || !got.Secret.IsZero() || got.Version != 0):
		w.Errorf("resolved %+v, want built_in for %s", got, reason)
	case reason == "" && (got.Source != commands.SourceCustomer || !got.Secret.Equal(secretOf(n)) || got.Reason != ""):
		w.Errorf("resolved %+v, want the customer's %d", got, n)
	}
}

// stored are the data keys that lie there.
func (w *providerWorld) stored() map[events.DataKeyID]bool {
	w.Helper()
	all, err := w.envelopes().All(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	out := map[events.DataKeyID]bool{}
	for _, k := range all {
		out[k.ID] = true
	}
	return out
}

// lies fails unless just these data keys lie there.
func (w *providerWorld) lies(want ...events.DataKeyID) {
	w.Helper()
	got := w.stored()
	for _, id := range want {
		if !got[id] {
			w.Errorf("data key %s is missing", id)
		}
	}
	if len(got) != len(want) {
		w.Errorf("%d data keys lie there, want %d", len(got), len(want))
	}
}

// opens fails unless a sealed secret of the ledger opens, or is dead for good.
func (w *providerWorld) opens(f events.Recorded, dead bool) {
	w.Helper()
	of := seals.Binding{Org: f.Subject.Org, Provider: events.ProviderID(f.Subject.ID)}
	var sealed events.SealedSecret
	switch e := f.Event.(type) {
	case events.ProviderKeyAdded:
		of.Version, of.BaseURL, sealed = e.Version, e.BaseURL, e.Sealed
	case events.ProviderKeyReplaced:
		of.Version, of.BaseURL, sealed = e.Version, e.BaseURL, e.Sealed
	default:
		w.Fatalf("%T holds no secret", f.Event)
	}
	if _, err := w.envelopes().Open(w.ctx, of, sealed); errors.Is(err, seals.ErrErased) != dead || !dead && err != nil {
		w.Errorf("version %d: %v, want it dead: %t", of.Version, err, dead)
	}
}

// of are the facts of acme's provider key, in order.
func (w *providerWorld) of(id events.ProviderID) (out []events.Recorded) {
	w.Helper()
	for _, f := range w.all() {
		if f.Subject == events.ProviderKeySubject(acme, id) {
			out = append(out, f)
		}
	}
	return out
}

func TestALifeOfAProviderKey(t *testing.T) {
	for name, below := range map[string]func(testing.TB) *world{"memory": newWorld, "jetstream": newWorldOnDisk} {
		t.Run(name, func(t *testing.T) {
			w := newProviderWorldOn(t, below(t))
			s, other := w.opener(), w.opener()
			w.acme(s, events.Limits{})
			w.resolves(other, 0, commands.ReasonNotConnected)

			added, err := s.AddProviderKey(w.ctx, w.by(admin), acme, commands.AddProviderKey{
				Provider: events.ProviderOpenAI, Secret: secretOf(1), Name: "Acme's account",
			})
			if err != nil || !added.Applied || len(added.Facts) != 1 || added.ProviderKey.Version != 1 || added.ProviderKey.Name.Clear != "Acme's account" ||
				added.ProviderKey.CreatedBy != admin.Actor || added.ProviderKey.CreatedAt == 0 || added.Facts[0].Meta.ConfigPosition == 0 {
				t.Fatalf("%+v, %v", added, err)
			}
			w.resolves(s, 1, "")
			w.resolves(other, 1, "")
			w.opens(added.Facts[0], false)

			if _, err := s.AddProviderKey(w.ctx, w.by(admin), acme, commands.AddProviderKey{Provider: events.ProviderOpenAI, Secret: secretOf(2)}); !errors.Is(err, domain.ErrProviderKeyExists) {
				t.Errorf("added twice: %v", err)
			}
			w.lies(added.ProviderKey.Sealed.DataKey)

			replaced, err := other.UpdateProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI, commands.UpdateProviderKey{
				Name: domain.Some("Acme's other account"), Secret: secretOf(2),
			})
			if err != nil || len(replaced.Facts) != 2 || replaced.ProviderKey.Version != 2 || replaced.ProviderKey.ReplacedAt == 0 ||
				replaced.ProviderKey.CreatedAt != added.ProviderKey.CreatedAt || replaced.ProviderKey.Name.Clear != "Acme's other account" {
				t.Fatalf("%+v, %v", replaced, err)
			}
			w.resolves(s, 2, "")
			w.opens(added.Facts[0], true)
			w.lies(replaced.ProviderKey.Sealed.DataKey)

			renamed, err := s.UpdateProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI, commands.UpdateProviderKey{Name: domain.Some("")})
			if err != nil || len(renamed.Facts) != 1 || !renamed.ProviderKey.Name.IsZero() {
				t.Errorf("%+v, %v", renamed, err)
			}
			if same, err := s.UpdateProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI, commands.UpdateProviderKey{}); err != nil || len(same.Facts) != 0 || same.Position != renamed.Position {
				t.Errorf("%+v, %v", same, err)
			}

			removed, err := s.RemoveProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI)
			if err != nil || removed.ProviderKey.Connected || len(removed.Facts) != 1 {
				t.Fatalf("%+v, %v", removed, err)
			}
			w.resolves(s, 0, commands.ReasonNotConnected)
			w.resolves(other, 0, commands.ReasonNotConnected)
			w.opens(replaced.Facts[1], true)
			w.lies()
			if again, err := other.RemoveProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI); err != nil || len(again.Facts) != 0 {
				t.Errorf("removed twice: %+v, %v", again, err)
			}
			if again := w.add(other, 3); again.ProviderKey.Version != 3 {
				t.Errorf("version %d", again.ProviderKey.Version)
			}
			w.resolves(s, 3, "")
			for _, f := range w.all() {
				for n := range 4 {
					if secret := secretOf(n).Reveal(); bytes.Contains(f.Raw, []byte(secret)) || bytes.Contains(f.Raw, []byte(secret[len(secret)-12:])) {
						t.Errorf("a secret stands at %d", f.Position)
					}
				}
			}
			for n := range 4 {
				if strings.Contains(w.logs.String(), secretOf(n).Reveal()) {
					t.Error("a secret was logged")
				}
			}
		})
	}
}

func TestWhoMayWhatOfProviderKeys(t *testing.T) {
	w := newProviderWorld(t)
	s := w.opener()
	w.acme(s, events.Limits{})
	w.organization(s, "beta", events.Limits{})
	w.add(s, 1)
	end := w.last()
	wishes := map[string]func(commands.Principal) error{
		"add": func(p commands.Principal) error {
			_, err := s.AddProviderKey(w.ctx, w.by(p), acme, commands.AddProviderKey{Provider: events.ProviderMistral, Secret: providerkey.Conceal(strings.Repeat("aB3x", 8) + "Q")})
			return err
		},
		"update": func(p commands.Principal) error {
			_, err := s.UpdateProviderKey(w.ctx, w.by(p), acme, events.ProviderOpenAI, commands.UpdateProviderKey{Secret: secretOf(2)})
			return err
		},
		"remove": func(p commands.Principal) error {
			_, err := s.RemoveProviderKey(w.ctx, w.by(p), acme, events.ProviderOpenAI)
			return err
		},
		"test": func(p commands.Principal) error {
			_, err := s.SecretForTest(w.ctx, w.by(p), acme, events.ProviderOpenAI)
			return err
		},
		"record a test": func(p commands.Principal) error {
			_, err := s.RecordProviderTest(w.ctx, w.by(p), acme, events.ProviderOpenAI, providerkey.Test{Version: 1, At: 1, Result: events.ProviderWorks})
			return err
		},
		"look":         func(p commands.Principal) error { return s.MaySeeProviderKeys(p, acme) },
		"test another": func(p commands.Principal) error { return s.MayTestProviderKeys(w.ctx, p, acme) },
	}
	resolve := func(p commands.Principal) error {
		_, err := s.ResolveProviderKey(w.ctx, p, acme, events.ProviderOpenAI)
		return err
	}
	for name, c := range map[string]struct {
		by              commands.Principal
		manage, resolve error
	}{
		"owner":                       {principal(acme, events.RoleOwner), nil, nil},
		"the installation's owner":    {w.owner, nil, nil},
		"the installation's resolver": {principal(events.System, events.RoleResolver), domain.ErrForbidden, nil},
		"admin":                       {admin, nil, domain.ErrForbidden},
		"resolver":                    {resolver, domain.ErrForbidden, nil},
		"member":                      {principal(acme, events.RoleMember), domain.ErrForbidden, domain.ErrForbidden},
		"auditor":                     {principal(acme, events.RoleAuditor), domain.ErrForbidden, domain.ErrForbidden},
		"verifier":                    {principal(acme, events.RoleVerifier), domain.ErrForbidden, domain.ErrForbidden},
		"owner of a workspace":        {principal(acme, events.RoleOwner, "a"), domain.ErrForbidden, domain.ErrForbidden},
		"admin of a workspace":        {principal(acme, events.RoleAdmin, "a"), domain.ErrForbidden, domain.ErrForbidden},
		"resolver of a workspace":     {principal(acme, events.RoleResolver, "a"), domain.ErrForbidden, domain.ErrForbidden},
		"another's owner":             {principal("beta", events.RoleOwner), domain.ErrNotFound, domain.ErrNotFound},
		"another's resolver":          {principal("beta", events.RoleResolver), domain.ErrNotFound, domain.ErrNotFound},
		"nobody":                      {commands.Principal{}, domain.ErrNotFound, domain.ErrNotFound},
	} {
		if err := resolve(c.by); !errors.Is(err, c.resolve) {
			t.Errorf("%s resolves: %v, want %v", name, err, c.resolve)
		}
		if c.manage == nil {
			continue
		}
		for what, wish := range wishes {
			if err := wish(c.by); !errors.Is(err, c.manage) {
				t.Errorf("%s, %s: %v, want %v", name, what, err, c.manage)
			}
		}
	}
	if w.last() != end {
		t.Error("something was recorded")
	}
	for _, what := range []string{"look", "test another", "test", "update", "record a test", "add", "remove"} {
		p := admin
		if what == "update" {
			p = w.owner
		}
		if err := wishes[what](p); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// The installation has none, and nobody asks of what is not there.
	if _, err := s.ResolveProviderKey(w.ctx, w.owner, events.System, events.ProviderOpenAI); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("the installation's: %v", err)
	}
	if err := s.MaySeeProviderKeys(w.owner, events.System); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("the installation's: %v", err)
	}
	if _, err := s.AddProviderKey(w.ctx, w.by(w.owner), events.System, commands.AddProviderKey{Provider: events.ProviderOpenAI, Secret: secretOf(1)}); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("the installation's: %v", err)
	}
	for _, id := range []events.ProviderID{"openia", "", "a.b", "OPENAI"} {
		if _, err := s.ResolveProviderKey(w.ctx, resolver, acme, id); !errors.Is(err, domain.ErrUnknownProvider) {
			t.Errorf("%q: %v", id, err)
		}
		if _, err := s.RemoveProviderKey(w.ctx, w.by(admin), acme, id); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("%q: %v", id, err)
		}
		if _, err := s.ProviderKey(w.ctx, acme, id); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// plan changes acme's plan on one server.
func (w *providerWorld) plan(s *server, plan events.Plan) {
	w.Helper()
	if _, err := s.UpdateOrganization(w.ctx, w.by(w.owner), acme, organization.Update{Plan: domain.Some(plan)}); err != nil {
		w.Fatal(err)
	}
}

func TestPlansGateProviderKeys(t *testing.T) {
	w := newProviderWorld(t)
	s := w.opener()
	w.acme(s, events.Limits{})
	w.plan(s, events.PlanStarter)
	add := commands.AddProviderKey{Provider: events.ProviderOpenAI, Secret: secretOf(1)}
	// Nothing is drawn for what is refused.
	w.vault.failing(nothing("read", "list", "store", "destroy"))
	if _, err := s.AddProviderKey(w.ctx, w.by(admin), acme, add); !errors.Is(err, domain.ErrPlanRequired) || !strings.Contains(err.Error(), "growth") {
		t.Errorf("%v", err)
	}
	w.vault.failing(nil)
	w.lies()
	w.resolves(s, 0, commands.ReasonNotConnected)
	w.plan(s, events.PlanGrowth)
	added := w.add(s, 1)
	w.plan(s, events.PlanStarter)
	// A server that hears of nothing by itself is asked right away.
	w.resolves(w.opener(), 0, commands.ReasonPlan)
	w.resolves(s, 0, commands.ReasonPlan)
	for what, err := range map[string]error{
		"replace": func() error {
			_, err := s.UpdateProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI, commands.UpdateProviderKey{Secret: secretOf(2)})
			return err
		}(),
		"test": func() error {
			_, err := s.SecretForTest(w.ctx, w.by(admin), acme, events.ProviderOpenAI)
			return err
		}(),
		"test another": s.MayTestProviderKeys(w.ctx, admin, acme),
	} {
		if !errors.Is(err, domain.ErrPlanRequired) {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.lies(added.ProviderKey.Sealed.DataKey)
	if _, err := s.UpdateProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI, commands.UpdateProviderKey{Name: domain.Some("kept")}); err != nil {
		t.Errorf("renamed: %v", err)
	}
	w.plan(s, events.PlanEnterprise)
	w.resolves(s, 1, "")
	w.plan(s, events.PlanStarter)
	if _, err := s.RemoveProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI); err != nil {
		t.Errorf("removed: %v", err)
	}
	w.lies()
}

func TestAnEndedOrganizationResolvesNothing(t *testing.T) {
	w := newProviderWorld(t)
	s, other := w.opener(), w.opener()
	w.acme(s, events.Limits{})
	added := w.add(s, 1)
	key := []events.DataKeyID{added.ProviderKey.Sealed.DataKey}
	if _, err := s.DestroyDataKeys(w.ctx, acme, events.ProviderOpenAI, key); !errors.Is(err, domain.ErrConflict) {
		t.Errorf("a data key that is needed: %v", err)
	}
	if _, err := s.DeleteOrganization(w.ctx, w.by(w.owner), acme); err != nil {
		t.Fatal(err)
	}
	for _, server := range []*server{s, other} {
		if _, err := server.ResolveProviderKey(w.ctx, w.owner, acme, events.ProviderOpenAI); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("%v", err)
		}
	}
	if _, err := s.ResolveProviderKey(w.ctx, w.owner, "gone", events.ProviderOpenAI); !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if done, err := other.DestroyDataKeys(w.ctx, acme, events.ProviderOpenAI, key); err != nil || !done {
		t.Errorf("%t, %v", done, err)
	}
	w.lies()
	w.opens(added.Facts[0], true)
}

func TestProviderKeysAreCheckedFirst(t *testing.T) {
	w := newProviderWorld(t)
	s := w.opener()
	w.acme(s, events.Limits{})
	end := w.last()
	secret := secretOf(1)
	for name, c := range map[string]struct {
		wish func(*commands.Wish)
		add  func(*commands.AddProviderKey)
		is   error
	}{
		"none":                   {nil, func(c *commands.AddProviderKey) { c.Secret = providerkey.Secret{} }, domain.ErrInvalid},
		"spaces":                 {nil, func(c *commands.AddProviderKey) { c.Secret = providerkey.Conceal(" " + secret.Reveal()) }, domain.ErrProviderKeyMalformed},
		"unknown provider":       {nil, func(c *commands.AddProviderKey) { c.Provider = "openia" }, domain.ErrUnknownProvider},
		"base URL":               {nil, func(c *commands.AddProviderKey) { c.BaseURL = "https://example.com" }, provider.ErrBaseURLForbidden},
		"no base URL":            {nil, func(c *commands.AddProviderKey) { c.Provider = events.ProviderOpenAICompatible }, provider.ErrBaseURLRequired},
		"secret as name":         {nil, func(c *commands.AddProviderKey) { c.Name = "key " + secret.Reveal() }, domain.ErrSecretInField},
		"secret in base URL":     {nil, func(c *commands.AddProviderKey) { c.BaseURL = "https://example.com/%73" + secret.Reveal()[1:] }, domain.ErrSecretInField},
		"secret as reason":       {func(w *commands.Wish) { w.Reason = "because " + strings.ToUpper(secret.Reveal()) }, nil, domain.ErrSecretInField},
		"secret as ticket":       {func(w *commands.Wish) { w.Ticket = secret.Reveal() }, nil, domain.ErrSecretInField},
		"secret as request id":   {func(w *commands.Wish) { w.RequestID = secret.Reveal() }, nil, domain.ErrSecretInField},
		"secret as idempotency":  {func(w *commands.Wish) { w.IdempotencyKey = secret.Reveal() }, nil, domain.ErrSecretInField},
		"name too long":          {nil, func(c *commands.AddProviderKey) { c.Name = strings.Repeat("x", events.MaxNameLength+1) }, domain.ErrInvalid},
		"our own key for a name": {nil, func(c *commands.AddProviderKey) { c.Name = ourKey(t) }, domain.ErrSecretInField},
	} {
		wish, add := w.by(admin), commands.AddProviderKey{Provider: events.ProviderOpenAI, Secret: secret}
		if c.wish != nil {
			c.wish(&wish)
		}
		if c.add != nil {
			c.add(&add)
		}
		_, err := s.AddProviderKey(w.ctx, wish, acme, add)
		if !errors.Is(err, c.is) || strings.Contains(strings.ToLower(err.Error()), strings.ToLower(secret.Reveal()[4:])) {
			t.Errorf("%s: %v, want %v", name, err, c.is)
		}
	}
	// Nor does another provider's key stand in a field, nor in one of anything else.
	other := "sk-ant-api03-" + strings.Repeat("aB3x", 20) + "AA"
	for name, wish := range map[string]func() error{
		"of a provider key": func() error {
			_, err := s.AddProviderKey(w.ctx, w.by(admin), acme, commands.AddProviderKey{Provider: events.ProviderOpenAI, Secret: secret, Name: other})
			return err
		},
		"of a key": func() error {
			c := plain()
			c.Name = events.ClearText(other)
			_, err := s.CreateKey(w.ctx, w.by(admin), acme, c)
			return err
		},
		"as a reason": func() error {
			wish := w.by(admin)
			wish.Reason = "instead of " + other
			_, err := s.UpdateOrganization(w.ctx, wish, acme, organization.Update{Name: domain.Some(events.ClearText("A"))})
			return err
		},
	} {
		if err := wish(); !errors.Is(err, domain.ErrSecretInField) || strings.Contains(err.Error(), "api03") {
			t.Errorf("another provider's key %s: %v", name, err)
		}
	}
	var malformed *providerkey.Malformed
	_, err := s.AddProviderKey(w.ctx, w.by(admin), acme, commands.AddProviderKey{Provider: events.ProviderAnthropic, Secret: secret, Force: true})
	if !errors.As(err, &malformed) || malformed.Problem != provider.OtherProvider || malformed.LooksLike != "openai" {
		t.Errorf("%v", err)
	}
	if w.last() != end {
		t.Error("something was recorded")
	}
	w.lies()
	// A base URL belongs with a secret.
	compatible := commands.AddProviderKey{Provider: events.ProviderOpenAICompatible, Secret: secret, BaseURL: "https://LLM.example.com:443/v1/"}
	if out, err := s.AddProviderKey(w.ctx, w.by(admin), acme, compatible); err != nil || out.ProviderKey.BaseURL != "https://llm.example.com/v1" {
		t.Fatalf("%+v, %v", out.ProviderKey, err)
	}
	update := func(c commands.UpdateProviderKey) (commands.ProviderKeyOutcome, error) {
		return s.UpdateProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAICompatible, c)
	}
	if _, err := update(commands.UpdateProviderKey{BaseURL: domain.Some("https://evil.example.com")}); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("the address alone: %v", err)
	}
	if _, err := update(commands.UpdateProviderKey{Secret: secretOf(2), BaseURL: domain.Some("")}); !errors.Is(err, provider.ErrBaseURLRequired) {
		t.Errorf("no address: %v", err)
	}
	if out, err := update(commands.UpdateProviderKey{Secret: secretOf(2)}); err != nil || out.ProviderKey.BaseURL != "https://llm.example.com/v1" {
		t.Errorf("the address is kept: %+v, %v", out.ProviderKey, err)
	}
	if out, err := update(commands.UpdateProviderKey{Secret: secretOf(3), BaseURL: domain.Some("https://other.example.com")}); err != nil || out.ProviderKey.BaseURL != "https://other.example.com" {
		t.Errorf("another address: %+v, %v", out.ProviderKey, err)
	}
	got, err := s.ResolveProviderKey(w.ctx, resolver, acme, events.ProviderOpenAICompatible)
	if err != nil || !got.Secret.Equal(secretOf(3)) || got.BaseURL != "https://other.example.com" || got.Version != 3 {
		t.Errorf("%+v, %v", got, err)
	}
}

// ourKey is a key of this ledger.
func ourKey(t *testing.T) string {
	t.Helper()
	secret, err := commands.NewOwner()
	if err != nil {
		t.Fatal(err)
	}
	return secret.Reveal()
}

func TestADryRunStoresNothing(t *testing.T) {
	w := newProviderWorld(t)
	s := w.opener()
	w.acme(s, events.Limits{})
	dry := w.by(admin)
	dry.DryRun = true
	out, err := s.AddProviderKey(w.ctx, dry, acme, commands.AddProviderKey{Provider: events.ProviderOpenAI, Secret: secretOf(1)})
	if err != nil || len(out.Facts) != 1 || out.ProviderKey.Version != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	w.lies()
	w.resolves(s, 0, commands.ReasonNotConnected)
	added := w.add(s, 1)
	for name, wish := range map[string]func() (commands.ProviderKeyOutcome, error){
		"replace": func() (commands.ProviderKeyOutcome, error) {
			return s.UpdateProviderKey(w.ctx, dry, acme, events.ProviderOpenAI, commands.UpdateProviderKey{Secret: secretOf(2)})
		},
		"remove": func() (commands.ProviderKeyOutcome, error) {
			return s.RemoveProviderKey(w.ctx, dry, acme, events.ProviderOpenAI)
		},
	} {
		if out, err := wish(); err != nil || len(out.Facts) != 1 {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
		w.lies(added.ProviderKey.Sealed.DataKey)
		w.resolves(s, 1, "")
	}
}

func TestRepeatedWishesOfProviderKeys(t *testing.T) {
	w := newProviderWorld(t)
	s, other := w.opener(), w.opener()
	w.acme(s, events.Limits{})
	add := commands.AddProviderKey{Provider: events.ProviderOpenAI, Secret: secretOf(1)}
	first, err := s.AddProviderKey(w.ctx, w.repeatable(admin, "k1", "one"), acme, add)
	if err != nil {
		t.Fatal(err)
	}
	again, err := other.AddProviderKey(w.ctx, w.repeatable(admin, "k1", "one"), acme, add)
	if err != nil || !again.Replayed || again.ProviderKey.Sealed != first.ProviderKey.Sealed {
		t.Errorf("%+v, %v", again, err)
	}
	if _, err := other.AddProviderKey(w.ctx, w.repeatable(admin, "k1", "two"), acme, add); !errors.Is(err, commands.ErrIdempotencyKeyReused) {
		t.Errorf("%v", err)
	}
	w.lies(first.ProviderKey.Sealed.DataKey)
	update := commands.UpdateProviderKey{Secret: secretOf(2)}
	replaced, err := s.UpdateProviderKey(w.ctx, w.repeatable(admin, "k2", "two"), acme, events.ProviderOpenAI, update)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := other.UpdateProviderKey(w.ctx, w.repeatable(admin, "k2", "two"), acme, events.ProviderOpenAI, update); err != nil || !again.Replayed {
		t.Errorf("%+v, %v", again, err)
	}
	w.lies(replaced.ProviderKey.Sealed.DataKey)
	// A test that was recorded is not asked for again.
	wish := w.repeatable(admin, "k3", "test")
	saved, err := s.SecretForTest(w.ctx, wish, acme, events.ProviderOpenAI)
	if err != nil || !saved.Secret.Equal(secretOf(2)) || saved.Version != 2 || saved.Recorded != nil {
		t.Fatalf("%+v, %v", saved, err)
	}
	tested, err := s.RecordProviderTest(w.ctx, wish, acme, events.ProviderOpenAI, providerkey.Test{Version: 2, At: 7, Result: events.ProviderMissingModels, MissingModels: []string{"gpt-4o"}})
	if err != nil || tested.ProviderKey.Tested.Result != events.ProviderMissingModels {
		t.Fatalf("%+v, %v", tested, err)
	}
	saved, err = other.SecretForTest(w.ctx, wish, acme, events.ProviderOpenAI)
	if err != nil || len(saved.Recorded) != 1 || !saved.Secret.IsZero() {
		t.Errorf("%+v, %v", saved, err)
	}
	got, err := other.ResolveProviderKey(w.ctx, resolver, acme, events.ProviderOpenAI)
	if err != nil || got.Tested.Result != events.ProviderMissingModels || got.Tested.At != 7 {
		t.Errorf("%+v, %v", got, err)
	}
	// A revision that is not the current one changes nothing.
	stale := w.by(admin)
	stale.IfMatch = 1
	if _, err := s.UpdateProviderKey(w.ctx, stale, acme, events.ProviderOpenAI, commands.UpdateProviderKey{Secret: secretOf(4)}); !errors.Is(err, domain.ErrStale) {
		t.Errorf("%v", err)
	}
	w.lies(replaced.ProviderKey.Sealed.DataKey)
}

// What was drawn and is not recorded is destroyed, and what may be recorded is not.
func TestWhatIsNotRecordedIsDestroyed(t *testing.T) {
	for name, c := range map[string]struct {
		fault  error
		stored bool
	}{
		"refused":           {events.ErrUnavailable, false},
		"lost before":       {events.ErrOutcomeUnknown, false},
		"lost after":        {events.ErrOutcomeUnknown, true},
		"no longer allowed": {errGone, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newProviderWorld(t)
			s := w.opener()
			w.acme(s, events.Limits{})
			wish := w.repeatable(admin, "k", "b")
			if errors.Is(c.fault, errGone) {
				wish.Still = func() error { return errGone }
			} else {
				w.memory.FailNext(c.fault, c.stored)
			}
			add := commands.AddProviderKey{Provider: events.ProviderOpenAI, Secret: secretOf(1)}
			if _, err := s.AddProviderKey(w.ctx, wish, acme, add); !errors.Is(err, c.fault) {
				t.Fatal(err)
			}
			want := 0
			if errors.Is(c.fault, events.ErrOutcomeUnknown) {
				want = 1
			}
			if got := w.stored(); len(got) != want {
				t.Errorf("%d data keys lie there, want %d", len(got), want)
			}
			wish.Still = nil
			out, err := s.AddProviderKey(w.ctx, wish, acme, add)
			if err != nil || out.Replayed != c.stored {
				t.Fatalf("%+v, %v", out, err)
			}
			w.resolves(s, 1, "")
			if n := len(w.of(events.ProviderOpenAI)); n != 1 {
				t.Errorf("%d facts", n)
			}
		})
	}
}

// Where what opens the secret before cannot be destroyed, the replacement or removal
// is in force and the answer says so; to tell the wish again finishes it.
func TestNotDestroyedIsNotAnswered(t *testing.T) {
	wishes := map[string]func(*providerWorld, *server, commands.Wish) error{
		"replace": func(w *providerWorld, s *server, wish commands.Wish) error {
			_, err := s.UpdateProviderKey(w.ctx, wish, acme, events.ProviderOpenAI, commands.UpdateProviderKey{Secret: secretOf(2)})
			return err
		},
		"remove": func(w *providerWorld, s *server, wish commands.Wish) error {
			_, err := s.RemoveProviderKey(w.ctx, wish, acme, events.ProviderOpenAI)
			return err
		},
	}
	for name, wish := range wishes {
		for _, key := range []string{"k", ""} {
			if key == "" && name == "replace" {
				continue // another replacement is another wish
			}
			t.Run(fmt.Sprint(name, " ", key), func(t *testing.T) {
				w := newProviderWorld(t)
				s := w.opener()
				w.acme(s, events.Limits{})
				added := w.add(s, 1)
				w.vault.failing(nothing("destroy"))
				said := w.repeatable(admin, key, "b")
				if err := wish(w, s, said); !errors.Is(err, commands.ErrNotDestroyed) {
					t.Fatal(err)
				}
				if name == "remove" {
					w.resolves(s, 0, commands.ReasonNotConnected)
				} else {
					w.resolves(s, 2, "")
				}
				w.opens(added.Facts[0], false)
				if err := wish(w, w.opener(), said); !errors.Is(err, commands.ErrNotDestroyed) {
					t.Errorf("again: %v", err)
				}
				w.vault.failing(nil)
				if err := wish(w, w.opener(), said); err != nil {
					t.Error(err)
				}
				w.opens(added.Facts[0], true)
				if n := len(w.of(events.ProviderOpenAI)); n != 2 {
					t.Errorf("%d facts", n)
				}
			})
		}
	}
}

// A server that dies after the fact leaves the rest to whoever follows the ledger.
func TestDataKeysAreDestroyedByWhoFollows(t *testing.T) {
	w := newProviderWorld(t)
	s := w.opener()
	w.acme(s, events.Limits{})
	added := w.add(s, 1)
	first := added.ProviderKey.Sealed.DataKey
	w.vault.failing(nothing("destroy"))
	if _, err := s.UpdateProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI, commands.UpdateProviderKey{Secret: secretOf(2)}); !errors.Is(err, commands.ErrNotDestroyed) {
		t.Fatal(err)
	}
	w.vault.failing(nil)
	follower := w.opener()
	k, err := follower.ProviderKey(w.ctx, acme, events.ProviderOpenAI)
	if err != nil || k.Dead != first || k.Version != 2 {
		t.Fatalf("%+v, %v", k, err)
	}
	second := k.Sealed.DataKey
	for name, ids := range map[string][]events.DataKeyID{"one that is needed": {first, second}, "one that nobody named": {first, {9}}} {
		if done, err := follower.DestroyDataKeys(w.ctx, acme, events.ProviderOpenAI, ids); !errors.Is(err, domain.ErrConflict) || done {
			t.Errorf("%s: %t, %v", name, done, err)
		}
		w.lies(first, second)
	}
	for _, want := range []bool{true, false} {
		if done, err := follower.DestroyDataKeys(w.ctx, acme, events.ProviderOpenAI, []events.DataKeyID{first}); err != nil || done != want {
			t.Errorf("%t, %v", done, err)
		}
	}
	w.lies(second)
	w.opens(added.Facts[0], true)
	w.resolves(s, 2, "")
}

// A provider that is connected is never answered with the built-in allocation, however
// its secret fails to open.
func TestNeverInSilence(t *testing.T) {
	w := newProviderWorld(t)
	s := w.opener()
	w.acme(s, events.Limits{})
	added := w.add(s, 1)
	refused := func(name string, s *server, is error) {
		t.Helper()
		got, err := s.ResolveProviderKey(w.ctx, resolver, acme, events.ProviderOpenAI)
		if !errors.Is(err, is) || !errors.Is(err, events.ErrUnavailable) || got.Source != "" || !got.Secret.IsZero() {
			t.Errorf("%s: %+v, %v, want %v", name, got, err, is)
		}
		if _, err := s.SecretForTest(w.ctx, w.by(admin), acme, events.ProviderOpenAI); !errors.Is(err, is) {
			t.Errorf("%s, for a test: %v, want %v", name, err, is)
		}
	}
	blind := w.server()
	refused("no key-encryption key", blind, commands.ErrNoKEK)
	foreign, err := wrapping.NewKeyset()
	if err != nil {
		t.Fatal(err)
	}
	refused("another key-encryption key", w.opener(func(c *commands.Config) {
		c.Envelopes = seals.NewEnvelopes(wrapping.Ring{Primary: foreign}, w.vault, w.ledger)
	}), commands.ErrNotOpened)
	w.vault.failing(nothing("list", "read"))
	refused("nobody tells", s, events.ErrUnavailable)
	w.vault.failing(nil)
	w.resolves(s, 1, "")
	if _, err := w.envelopes().Destroy(w.ctx, added.ProviderKey.Sealed.DataKey); err != nil {
		t.Fatal(err)
	}
	refused("destroyed by somebody", s, commands.ErrNotOpened)
	// It can be mended, and removed.
	w.replace(s, 2)
	w.resolves(s, 2, "")
	// A server that has no key takes none, and says that it cannot remove one.
	for name, wish := range map[string]func() error{
		"add": func() error {
			_, err := blind.AddProviderKey(w.ctx, w.by(admin), acme, commands.AddProviderKey{Provider: events.ProviderCohere, Secret: providerkey.Conceal(strings.Repeat("aB3x", 10) + "Q")})
			return err
		},
		"replace": func() error {
			_, err := blind.UpdateProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI, commands.UpdateProviderKey{Secret: secretOf(3)})
			return err
		},
		"remove": func() error {
			_, err := blind.RemoveProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI)
			return err
		},
		"rewrap": func() error { _, err := blind.RewrapProviderKeys(w.ctx, w.owner); return err },
		"destroy": func() error {
			_, err := blind.DestroyDataKeys(w.ctx, acme, events.ProviderOpenAI, []events.DataKeyID{added.ProviderKey.Sealed.DataKey})
			return err
		},
	} {
		if err := wish(); !errors.Is(err, commands.ErrNoKEK) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := blind.UpdateProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI, commands.UpdateProviderKey{Name: domain.Some("N")}); err != nil {
		t.Errorf("rename: %v", err)
	}
	w.resolves(s, 2, "")
}

// A secret that is put in another's place does not open there.
func TestASecretOpensInItsPlaceAlone(t *testing.T) {
	w := newProviderWorld(t)
	s := w.opener()
	w.acme(s, events.Limits{})
	w.organization(s, "beta", events.Limits{})
	added := w.add(s, 1)
	f := added.Facts[0]
	stolen := f.Event
	meta := f.Meta
	meta.ID, meta.Command = events.EventID{1}, events.CommandID{1}
	if _, err := w.log.Append(w.ctx, []events.Entry{{Subject: events.ProviderKeySubject("beta", events.ProviderOpenAI), Event: stolen, Meta: meta}}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.ResolveProviderKey(w.ctx, principal("beta", events.RoleOwner), "beta", events.ProviderOpenAI); !errors.Is(err, commands.ErrNotOpened) {
		t.Errorf("%+v, %v", got, err)
	}
	w.resolves(s, 1, "")
}

func TestRewrapProviderKeys(t *testing.T) {
	w := newProviderWorld(t)
	s := w.opener()
	w.acme(s, events.Limits{})
	added := w.add(s, 1)
	end := w.last()
	if _, err := s.RewrapProviderKeys(w.ctx, admin); !errors.Is(err, domain.ErrForbidden) {
		t.Errorf("%v", err)
	}
	if got, err := s.RewrapProviderKeys(w.ctx, w.owner); err != nil || got != (commands.Rewrapped{Current: 1}) {
		t.Errorf("%+v, %v", got, err)
	}
	next, id, err := w.kek.Add()
	if err != nil {
		t.Fatal(err)
	}
	promoted, err := next.Promote(id)
	if err != nil {
		t.Fatal(err)
	}
	rotated := w.opener(func(c *commands.Config) {
		c.Envelopes = seals.NewEnvelopes(wrapping.Ring{Primary: promoted}, w.vault, w.ledger)
	})
	w.vault.failing(nothing("store"))
	if got, err := rotated.RewrapProviderKeys(w.ctx, w.owner); err != nil || got != (commands.Rewrapped{Failed: 1}) {
		t.Errorf("%+v, %v", got, err)
	}
	w.vault.failing(nil)
	for _, want := range []commands.Rewrapped{{Rewrapped: 1}, {Current: 1}} {
		if got, err := rotated.RewrapProviderKeys(w.ctx, w.owner); err != nil || got != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	w.resolves(rotated, 1, "")
	if w.last() != end {
		t.Error("a fact was recorded")
	}
	// The key before opens nothing any more, and what is removed is dead.
	if _, err := w.envelopes().Open(w.ctx, seals.Binding{Org: acme, Provider: events.ProviderOpenAI, Version: 1}, added.ProviderKey.Sealed); !errors.Is(err, wrapping.ErrWrongKey) {
		t.Errorf("%v", err)
	}
	if _, err := rotated.RemoveProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI); err != nil {
		t.Fatal(err)
	}
	w.lies()
}

func TestProviderKeyNamesAreSealed(t *testing.T) {
	sealed := newSealedWorld(t)
	w := &providerWorld{world: sealed.world, vault: sealed.vault, logs: &lines{}}
	var err error
	if w.kek, err = wrapping.NewKeyset(); err != nil {
		t.Fatal(err)
	}
	s := sealed.sealer(func(c *commands.Config) { c.Envelopes = w.envelopes() })
	sealed.begin(s)
	add := commands.AddProviderKey{Provider: events.ProviderOpenAI, Secret: secretOf(1), Name: "Alice Clear-Name's key"}
	out, err := s.AddProviderKey(w.ctx, w.by(admin), acme, add)
	if err != nil || out.ProviderKey.Name.Sealed.IsZero() || bytes.Contains(out.Facts[0].Raw, []byte("Clear-Name")) {
		t.Fatalf("%+v, %v", out.ProviderKey.Name, err)
	}
	if out, err = s.UpdateProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI, commands.UpdateProviderKey{Name: domain.Some("Bob Clear-Name's")}); err != nil || out.ProviderKey.Name.Sealed.IsZero() {
		t.Fatalf("%+v, %v", out.ProviderKey.Name, err)
	}
	if got := sealed.shown(s, out.ProviderKey.Name); got != "Bob Clear-Name's" {
		t.Errorf("%q", got)
	}
}

// A server that has not heard of a downgrade, or of an organization's end, hands
// nothing out.
func TestAServerThatIsBehindHandsNothingOut(t *testing.T) {
	w := newProviderWorld(t)
	s := w.opener()
	w.acme(s, events.Limits{})
	w.add(s, 1)
	b := w.behind(func(c *commands.Config) { c.Envelopes = w.envelopes() })
	if got, err := b.ResolveProviderKey(w.ctx, resolver, acme, events.ProviderOpenAI); err != nil || !got.Secret.Equal(secretOf(1)) {
		t.Fatalf("%+v, %v", got, err)
	}
	w.plan(s, events.PlanStarter)
	ctx, cancel := context.WithTimeout(w.ctx, 50*time.Millisecond)
	defer cancel()
	if got, err := b.ResolveProviderKey(ctx, resolver, acme, events.ProviderOpenAI); !errors.Is(err, events.ErrUnavailable) {
		t.Errorf("%+v, %v", got, err)
	}
	// As soon as it hears of it, it answers by it.
	b.confirming = b.feed
	if got, err := b.ResolveProviderKey(w.ctx, resolver, acme, events.ProviderOpenAI); err != nil || got.Reason != commands.ReasonPlan {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := s.DeleteOrganization(w.ctx, w.by(w.owner), acme); err != nil {
		t.Fatal(err)
	}
	if got, err := b.ResolveProviderKey(w.ctx, w.owner, acme, events.ProviderOpenAI); !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("%+v, %v", got, err)
	}
}

// outdated is a ledger whose reads may come from a leader that others have replaced.
type outdated struct {
	*memory.Ledger
	mu sync.Mutex
	// until hides what was appended after a position, as the leader before does.
	until events.Position
	// refused is how often it was not confirmed.
	refused int
}

func (o *outdated) Load(ctx context.Context, subject events.Subject, after events.Position) ([]events.Recorded, error) {
	facts, err := o.Ledger.Load(ctx, subject, after)
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, f := range facts {
		if o.until != 0 && f.Position > o.until {
			return facts[:i], err
		}
	}
	return facts, err
}

func (o *outdated) Confirm(ctx context.Context, began time.Time) (events.Position, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.until != 0 {
		o.until = 0
		o.refused++
		return 0, events.ErrConflict
	}
	return o.Ledger.Confirm(ctx, began)
}

// What a leader says that others have replaced is not handed out.
func TestNoRemovedKeyFromAnOutdatedLeader(t *testing.T) {
	for _, warm := range []bool{true, false} {
		t.Run(fmt.Sprint("kept ", warm), func(t *testing.T) {
			w := newProviderWorld(t)
			s := w.opener()
			w.acme(s, events.Limits{})
			w.add(s, 1)
			log := &outdated{Ledger: w.memory}
			late := w.opener(func(c *commands.Config) { c.Log = log })
			if warm {
				w.resolves(late, 1, "")
			}
			at := w.last()
			w.vault.failing(nothing("destroy"))
			if _, err := s.RemoveProviderKey(w.ctx, w.by(admin), acme, events.ProviderOpenAI); !errors.Is(err, commands.ErrNotDestroyed) {
				t.Fatal(err)
			}
			log.mu.Lock()
			log.until = at
			log.mu.Unlock()
			w.resolves(late, 0, commands.ReasonNotConnected)
			log.mu.Lock()
			defer log.mu.Unlock()
			if log.refused != 1 {
				t.Errorf("asked %d times", log.refused)
			}
		})
	}
}
