package index_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/events"
)

// anyWorld writes any facts that can follow on each other.
type anyWorld struct {
	*book
	orgs       []events.OrgID
	keys       map[int]events.OrgID
	workspaces map[events.Subject]bool
	profiles   map[events.Subject]bool
}

func (w *anyWorld) step(t *rapid.T) {
	draw := func(n int, of string) int { return rapid.IntRange(0, n-1).Draw(t, of) }
	org := w.orgs[draw(len(w.orgs), "organization")]
	n := draw(12, "key")
	owner, there := w.keys[n]
	subject := events.KeySubject(owner, keyID(n))
	permissions := []events.Permissions{
		{Level: events.LevelAll},
		{Level: events.LevelReadOnly},
		{Level: events.LevelRestricted, Grants: []string{"doc:*"}},
		{Level: events.LevelRestricted, Grants: []string{"doc:read", "user:read"}},
	}[draw(4, "permissions")]
	scope := []events.Scope{{AllWorkspaces: true}, {Workspaces: []events.WorkspaceID{"w0", "w1"}}, {Workspaces: []events.WorkspaceID{"w2"}}}[draw(3, "scope")]
	profile := events.ProfileID([]string{"", "p0", "p1"}[draw(3, "profile")])
	at := events.Time(1_900_000_000_000_000 + draw(3, "time")*1_000_000)
	switch what := draw(16, "what"); {
	case what < 4 && !there:
		k := key(n)
		k.Permissions, k.Scope, k.Profile = permissions, scope, profile
		if what == 0 {
			k.Digest.Alg, k.ExpiresAt = events.PrefixShortLong, at
		}
		if what == 1 && draw(3, "twin") == 0 {
			k.Digest.Value = digestOf(draw(12, "of"))
		}
		w.keys[n] = org
		w.create(org, k)
	case what < 11 && there:
		w.add(subject, []events.Event{
			events.KeyPermissionsChanged{Permissions: permissions},
			events.KeyScopeChanged{Scope: scope},
			events.KeyProfileChanged{Profile: profile},
			events.KeyDisabled{},
			events.KeyEnabled{},
			events.KeyExpiryChanged{ExpiresAt: at},
			events.KeyRotated{GraceEndsAt: at},
			events.KeyGraceChanged{GraceEndsAt: at + 1_000_000},
			events.KeyExpired{},
			events.KeyRenamed{},
		}[draw(10, "change")])
	case what == 11:
		// Also of a key that there is not yet.
		if !there {
			owner, w.keys[n] = org, org
			w.add(events.RevokedSubject(org, keyID(n)), events.KeyRevoked{})
			k := key(n)
			w.create(org, k)
			return
		}
		if w.revisions[events.RevokedSubject(owner, keyID(n))] == 0 {
			w.add(events.RevokedSubject(owner, keyID(n)), events.KeyRevoked{})
		}
	case what == 12:
		id := events.WorkspaceID(fmt.Sprintf("w%d", draw(3, "workspace")))
		w.life(w.workspaces, events.WorkspaceSubject(org, id), events.WorkspaceCreated{ID: id}, events.WorkspaceRenamed{}, events.WorkspaceDeleted{}, draw(2, "ends"))
	case what == 13:
		id := events.ProfileID(fmt.Sprintf("p%d", draw(2, "profile")))
		w.life(w.profiles, events.ProfileSubject(org, id), events.ProfileCreated{ID: id, Settings: events.Document(`{"a":1}`)},
			events.ProfileSettingsChanged{Settings: events.Document(`{"b":2}`)}, events.ProfileDeleted{}, draw(2, "ends"))
	case what == 14:
		w.add(events.CatalogSubject(org), []events.CatalogReplaced{
			catalog("doc:read"), catalog("doc:read", "doc:write!", "user:read"),
			{},
			{Permissions: []events.CatalogPermission{{Name: "doc:read", Access: events.AccessRead, Routes: []string{"GET /docs"}}}},
		}[draw(4, "catalog")])
	default:
		w.add(events.OrganizationSubject(org), events.OrganizationPolicyChanged{
			Policy: events.Policy{Sealing: []events.Switch{"", events.SwitchOn}[draw(2, "sealing")]},
		})
	}
}

// life begins what is not there, and changes or ends what is; nothing begins twice.
func (w *anyWorld) life(lives map[events.Subject]bool, s events.Subject, begin, change, end events.Event, ends int) {
	switch {
	case w.revisions[s] == 0:
		lives[s] = true
		w.add(s, begin)
	case lives[s] && ends == 1:
		lives[s] = false
		w.add(s, end)
	case lives[s]:
		w.add(s, change)
	}
}

// TestAnyHistory: whatever happened, what is loaded is what was saved, of everything
// and of a part; and whatever happens then happens to it, too.
func TestAnyHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := &anyWorld{
			book: newBook(t), orgs: []events.OrgID{acme, "globex", "initech"}, keys: map[int]events.OrgID{},
			workspaces: map[events.Subject]bool{}, profiles: map[events.Subject]bool{},
		}
		var facts []events.Recorded
		w.each = func(r events.Recorded) { facts = append(facts, r) }
		for _, org := range w.orgs {
			w.add(events.OrganizationSubject(org), events.OrganizationCreated{ID: org})
		}
		for range rapid.IntRange(0, 60).Draw(rt, "before") {
			w.step(rt)
		}
		whole := w.index
		if err := whole.Err(); err != nil {
			rt.Fatal(err)
		}
		only := slices.Clone(w.orgs[:rapid.IntRange(1, 2).Draw(rt, "part")])
		f := frozen(t, whole)
		defer f.Release()
		loaded := load(t, saved(t, f))
		if d := cmp.Diff(whole.Dump(), loaded.Dump()); d != "" {
			rt.Fatal(d)
		}
		p := frozen(t, loaded)
		part := load(t, saved(t, p, only...))
		p.Release()
		after := len(facts)
		for range rapid.IntRange(0, 60).Draw(rt, "after") {
			w.step(rt)
		}
		for _, r := range facts[after:] {
			if err := loaded.Apply(t.Context(), []events.Recorded{r}); err != nil {
				rt.Fatal(err)
			}
			if slices.Contains(only, r.Subject.Org) {
				if err := part.Apply(t.Context(), []events.Recorded{r}); err != nil {
					rt.Fatal(err)
				}
			}
		}
		if d := cmp.Diff(whole.Dump(), loaded.Dump()); d != "" {
			rt.Fatal(d)
		}
		if part.Err() != nil {
			rt.Fatal(part.Err())
		}
	})
}
