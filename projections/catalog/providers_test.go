package catalog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/catalog"
)

func dataKey(n int) events.DataKeyID { return events.DataKeyID{1, 15: byte(n)} }

func sealedSecret(n int) events.SealedSecret {
	return events.SealedSecret{DataKey: dataKey(n), Secret: fmt.Sprint("ciphertext ", n), LastFour: fmt.Sprint("four ", n)}
}

// shown is a sealed secret as the catalog has it.
func shown(n int) events.SealedSecret {
	s := sealedSecret(n)
	s.Secret = ""
	return s
}

func TestProviderKeyThroughItsLife(t *testing.T) {
	ctx := t.Context()
	h := newHistory()
	h.add(events.OrganizationSubject(acme), events.OrganizationCreated{ID: acme, Plan: events.PlanGrowth})
	s := events.ProviderKeySubject(acme, events.ProviderAzureOpenAI)
	c := open(t, dbPath(t))
	at := func(pos int) events.Time { return h.facts[pos-1].Meta.Time }
	want := catalog.ProviderKey{}
	step := func(e events.Event, change func(k *catalog.ProviderKey)) {
		t.Helper()
		h.add(s, e)
		applied, err := c.Position(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Apply(ctx, h.facts[applied:]); err != nil {
			t.Fatal(err)
		}
		change(&want)
		want.Revision, want.Position = h.revisions[s], events.Position(len(h.facts))
		got, err := c.ProviderKey(ctx, acme, events.ProviderAzureOpenAI)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, got, want)
	}
	step(events.ProviderKeyAdded{Provider: events.ProviderAzureOpenAI, Version: 1, Name: sealedText, BaseURL: "https://a.example", Sealed: sealedSecret(1)},
		func(k *catalog.ProviderKey) {
			*k = catalog.ProviderKey{
				Org: acme, Provider: events.ProviderAzureOpenAI, Version: 1, Name: sealedText, BaseURL: "https://a.example", Sealed: shown(1),
				State: catalog.ProviderKeyUntested, CreatedAt: at(2), CreatedBy: system,
			}
		})
	first := catalog.ProviderKeyTest{Version: 1, At: t0, Result: events.ProviderMissingModels, MissingModels: []string{"gpt-5", "o4-mini"}, Status: 200}
	step(events.ProviderKeyTested{Version: 1, At: t0, Result: first.Result, MissingModels: first.MissingModels, Status: 200},
		func(k *catalog.ProviderKey) { k.LastTest, k.State = first, catalog.ProviderKeyFailing })
	step(events.ProviderKeyRenamed{Name: events.ClearText("Research")}, func(k *catalog.ProviderKey) { k.Name = events.ClearText("Research") })
	step(events.ProviderKeyReplaced{Version: 2, BaseURL: "https://b.example", Sealed: sealedSecret(2), Replaces: dataKey(1)},
		func(k *catalog.ProviderKey) {
			k.Version, k.BaseURL, k.Sealed, k.State, k.ReplacedAt = 2, "https://b.example", shown(2), catalog.ProviderKeyUntested, at(5)
			k.LastTest = catalog.ProviderKeyTest{}
		})
	// A test that ran while the secret was replaced is of the one before.
	step(events.ProviderKeyTested{Version: 1, At: t0 + day, Result: events.ProviderWorks}, func(*catalog.ProviderKey) {})
	step(events.ProviderKeyTested{Version: 2, At: t0 + 2*day, Result: events.ProviderWorks, Status: 200}, func(k *catalog.ProviderKey) {
		k.LastTest = catalog.ProviderKeyTest{Version: 2, At: t0 + 2*day, Result: events.ProviderWorks, Status: 200}
		k.State = catalog.ProviderKeyConnected
	})
	for _, e := range []events.Event{
		events.ProviderKeyNewSource{At: t0, Source: "00"}, events.ProviderKeyResolvesSpike{From: t0}, events.ProviderKeyFailing{Since: t0},
	} {
		step(e, func(*catalog.ProviderKey) {})
	}
	step(events.ProviderKeyRemoved{DataKey: dataKey(2)}, func(k *catalog.ProviderKey) {
		k.Sealed, k.RemovedAt = events.SealedSecret{}, at(11)
	})
	if list, err := c.ProviderKeys(ctx, acme); err != nil || len(list) != 0 {
		t.Errorf("after its removal it is listed: %v, %v", list, err)
	}
	// Versions go on; whatever was known of the others is not of this one.
	step(events.ProviderKeyAdded{Provider: events.ProviderAzureOpenAI, Version: 3, BaseURL: "https://c.example", Sealed: sealedSecret(3)},
		func(k *catalog.ProviderKey) {
			*k = catalog.ProviderKey{
				Org: acme, Provider: events.ProviderAzureOpenAI, Version: 3, BaseURL: "https://c.example", Sealed: shown(3),
				State: catalog.ProviderKeyUntested, CreatedAt: at(12), CreatedBy: system,
			}
		})
	for _, missing := range []struct {
		org events.OrgID
		id  events.ProviderID
	}{{acme, events.ProviderOpenAI}, {"other", events.ProviderAzureOpenAI}} {
		if _, err := c.ProviderKey(ctx, missing.org, missing.id); !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("%s of %s: %v", missing.id, missing.org, err)
		}
	}
}

// What tests come to, one after the other, and the state that they leave.
func TestProviderKeyState(t *testing.T) {
	works, limited, unreachable, invalid := events.ProviderWorks, events.ProviderRateLimited, events.ProviderUnreachable, events.ProviderInvalid
	for _, tt := range []struct {
		results []events.ProviderResult
		want    catalog.ProviderKeyState
	}{
		{nil, catalog.ProviderKeyUntested},
		{[]events.ProviderResult{works}, catalog.ProviderKeyConnected},
		{[]events.ProviderResult{works, limited, unreachable}, catalog.ProviderKeyConnected},
		{[]events.ProviderResult{limited}, catalog.ProviderKeyFailing},
		{[]events.ProviderResult{unreachable}, catalog.ProviderKeyFailing},
		{[]events.ProviderResult{works, invalid}, catalog.ProviderKeyFailing},
		{[]events.ProviderResult{works, invalid, limited}, catalog.ProviderKeyFailing},
		{[]events.ProviderResult{invalid, works}, catalog.ProviderKeyConnected},
	} {
		h := newHistory()
		h.add(events.OrganizationSubject(acme), events.OrganizationCreated{ID: acme, Plan: events.PlanEnterprise})
		s := events.ProviderKeySubject(acme, events.ProviderOpenAI)
		h.add(s, events.ProviderKeyAdded{Provider: events.ProviderOpenAI, Version: 1, Sealed: sealedSecret(1)})
		for _, r := range tt.results {
			h.add(s, events.ProviderKeyTested{Version: 1, At: t0, Result: r})
		}
		k, err := h.opened(t).ProviderKey(t.Context(), acme, events.ProviderOpenAI)
		if err != nil || k.State != tt.want {
			t.Errorf("%v: %s, want %s (%v)", tt.results, k.State, tt.want, err)
		}
	}
}

// A plan that takes no provider keys suspends them, and one that does brings back
// what they were.
func TestProviderKeysSuspended(t *testing.T) {
	h := newHistory()
	org := events.OrganizationSubject(acme)
	h.add(org, events.OrganizationCreated{ID: acme, Plan: events.PlanGrowth})
	for n, p := range []events.ProviderID{events.ProviderCohere, events.ProviderOpenAI, events.ProviderGoogle} {
		h.add(events.ProviderKeySubject(acme, p), events.ProviderKeyAdded{Provider: p, Version: 1, Sealed: sealedSecret(n)})
	}
	h.add(events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyTested{Version: 1, At: t0, Result: events.ProviderWorks})
	h.add(events.ProviderKeySubject("other", events.ProviderOpenAI), events.ProviderKeyAdded{Provider: events.ProviderOpenAI, Version: 1, Sealed: sealedSecret(9)})
	states := func() string {
		t.Helper()
		list, err := h.opened(t).ProviderKeys(t.Context(), acme)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, k := range list {
			out = append(out, fmt.Sprintf("%s %s %s", k.Provider, k.State, k.Sealed.LastFour))
		}
		return strings.Join(out, ", ")
	}
	for _, tt := range []struct {
		plan events.Plan
		want string
	}{
		{events.PlanEnterprise, "openai connected four 1, google untested four 2, cohere untested four 0"},
		{events.PlanStarter, "openai suspended four 1, google suspended four 2, cohere suspended four 0"},
		{events.PlanGrowth, "openai connected four 1, google untested four 2, cohere untested four 0"},
	} {
		h.add(org, events.OrganizationPlanChanged{Plan: tt.plan})
		if got := states(); got != tt.want {
			t.Errorf("plan %s: %s, want %s", tt.plan, got, tt.want)
		}
	}
}

// naiveProvider is the fold that nobody could get wrong.
func (h *history) naiveProvider(s events.Subject) (k catalog.ProviderKey) {
	k.State = catalog.ProviderKeySuspended // there is no such organization, and so no plan
	for _, f := range h.facts {
		if f.Subject != s {
			continue
		}
		k.Revision, k.Position = f.Meta.Revision, f.Position
		switch e := f.Event.(type) {
		case events.ProviderKeyAdded:
			k = catalog.ProviderKey{
				Org: s.Org, Provider: e.Provider, State: k.State, Revision: k.Revision, Position: k.Position, Version: e.Version, Sealed: e.Sealed,
				CreatedAt: f.Meta.Time, CreatedBy: f.Meta.Actor,
			}
		case events.ProviderKeyReplaced:
			k.Version, k.Sealed, k.ReplacedAt, k.LastTest = e.Version, e.Sealed, f.Meta.Time, catalog.ProviderKeyTest{}
		case events.ProviderKeyRemoved:
			k.Sealed, k.RemovedAt = events.SealedSecret{}, f.Meta.Time
		case events.ProviderKeyTested:
			if e.Version == k.Version {
				k.LastTest = catalog.ProviderKeyTest{Version: e.Version, At: e.At, Result: e.Result, MissingModels: e.MissingModels, Status: e.Status}
			}
		}
		k.Sealed.Secret = ""
	}
	return k
}

// drawProviders draws facts on provider keys as commands append them: what is
// connected can be replaced, tested and removed, until the organization ends.
func drawProviders(t *rapid.T) *history {
	h := newHistory()
	connected, versions, ended := map[events.Subject]bool{}, map[events.Subject]uint64{}, map[events.OrgID]bool{}
	for n := range rapid.IntRange(1, 60).Draw(t, "facts") {
		org := rapid.SampledFrom([]events.OrgID{acme, "other"}).Draw(t, "org")
		provider := rapid.SampledFrom([]events.ProviderID{events.ProviderOpenAI, events.ProviderGoogle, events.ProviderOpenAICompatible}).Draw(t, "provider")
		s := events.ProviderKeySubject(org, provider)
		what := rapid.IntRange(0, 15).Draw(t, "what")
		switch {
		case ended[org]:
		case what == 15:
			h.add(events.EndSubject(org), events.OrganizationDeleted{})
			ended[org] = true
		case !connected[s]:
			versions[s]++
			h.add(s, events.ProviderKeyAdded{Provider: provider, Version: versions[s], Sealed: sealedSecret(n)})
			connected[s] = true
		case what < 4:
			versions[s]++
			h.add(s, events.ProviderKeyReplaced{Version: versions[s], Sealed: sealedSecret(n)})
		case what < 8:
			h.add(s, events.ProviderKeyRemoved{})
			connected[s] = false
		case what < 12:
			version := max(1, versions[s]-uint64(what%2))
			h.add(s, events.ProviderKeyTested{Version: version, At: t0, Result: rapid.SampledFrom(events.ProviderResults()).Draw(t, "result")})
		case what < 14:
			h.add(s, events.Unknown{Name: "provider_key.later.v1"})
		default:
			h.add(s, events.ProviderKeyNewSource{At: t0, Source: "00"})
		}
	}
	return h
}

func TestAnyHistoryOfProviderKeys(t *testing.T) {
	empty := fewHistories(t)
	rapid.Check(t, func(rt *rapid.T) {
		ctx := context.Background()
		h := drawProviders(rt)
		c := empty(rt)
		defer c.Close()
		h.show(rt, c)
		for _, org := range []events.OrgID{acme, "other"} {
			var connected []events.ProviderID
			for _, p := range events.Providers() {
				want := h.naiveProvider(events.ProviderKeySubject(org, p))
				got, err := c.ProviderKey(ctx, org, p)
				switch {
				case want.Revision == 0:
					if !errors.Is(err, catalog.ErrNotFound) {
						rt.Fatalf("%s was never connected: %v", p, err)
					}
					continue
				case err != nil:
					rt.Fatal(err)
				}
				if d := cmp.Diff(want, got, ignoreHidden, cmpopts.EquateEmpty()); d != "" {
					rt.Fatalf("want (-), got (+):\n%s", d)
				}
				if want.RemovedAt == 0 {
					connected = append(connected, p)
				}
			}
			list, err := c.ProviderKeys(ctx, org)
			if err != nil {
				rt.Fatal(err)
			}
			var listed []events.ProviderID
			for _, k := range list {
				listed = append(listed, k.Provider)
			}
			if !slices.Equal(listed, connected) {
				rt.Fatalf("listed are %v, want %v", listed, connected)
			}
		}
	})
}

// What nobody is shown is not in the file: the ciphertext of secrets.
func TestNoCiphertextInTheCatalog(t *testing.T) {
	h := newHistory()
	s := events.ProviderKeySubject(acme, events.ProviderOpenAI)
	h.add(s, events.ProviderKeyAdded{Provider: events.ProviderOpenAI, Version: 1, Sealed: sealedSecret(1)})
	h.add(s, events.ProviderKeyReplaced{Version: 2, Sealed: sealedSecret(2)})
	path := dbPath(t)
	c := open(t, path)
	h.applyTo(t, c, 10)
	var all []byte
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	if !bytes.Contains(all, []byte("four 2")) {
		t.Error("nothing was found that must be there")
	}
	if bytes.Contains(all, []byte(sealedSecret(1).Secret)) || bytes.Contains(all, []byte(sealedSecret(2).Secret)) {
		t.Error("a secret's ciphertext was found")
	}
}
