package catalog_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/catalog"
)

var (
	_ projections.View = (*catalog.Catalog)(nil)

	ignoreHidden = cmpopts.IgnoreUnexported(catalog.Key{}, catalog.ProviderKey{}, catalog.Organization{}, catalog.Workspace{}, catalog.Profile{})
	sealedText   = events.Text{Sealed: events.Sealed{Subject: "s-1", Key: "k-1", Box: "Ym94"}}
	system       = events.Actor{Type: events.ActorSystem, Name: "test"}
)

func equal(t *testing.T, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, ignoreHidden, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("want (-), got (+):\n%s", d)
	}
}

func TestOrganizationWithAllItHolds(t *testing.T) {
	ctx := t.Context()
	h := newHistory()
	h.add(events.InstallationSubject(), events.InstallationCreated{})
	org := events.OrganizationSubject(acme)
	h.add(org, events.OrganizationCreated{ID: acme, Name: events.ClearText("Acme"), Plan: events.PlanGrowth})
	h.add(org, events.OrganizationRenamed{Name: sealedText})
	h.add(org, events.OrganizationPlanChanged{Plan: events.PlanEnterprise})
	h.add(org, events.OrganizationLimitsChanged{Limits: events.Limits{MaxActiveKeys: 3, MaxKeyLifetime: "1y"}})
	h.add(org, events.OrganizationPolicyChanged{Policy: events.Policy{DefaultPrefix: "acme"}})
	h.add(events.WorkspaceSubject(acme, "hiring"), events.WorkspaceCreated{ID: "hiring", Name: events.ClearText("Hiring")})
	h.add(events.WorkspaceSubject(acme, "sales"), events.WorkspaceCreated{ID: "sales", Name: events.ClearText("Sales")})
	h.add(events.WorkspaceSubject(acme, "hiring"), events.WorkspaceRenamed{Name: events.ClearText("People")})
	h.add(events.WorkspaceSubject(acme, "sales"), events.WorkspaceDeleted{})
	permissions := []events.CatalogPermission{{Name: "interview:start", Access: events.AccessWrite, Routes: []string{"POST /interviews"}}}
	h.add(events.CatalogSubject(acme), events.CatalogReplaced{})
	h.add(events.CatalogSubject(acme), events.CatalogReplaced{Permissions: permissions})
	h.add(events.ProfileSubject(acme, "strict"), events.ProfileCreated{ID: "strict", Name: events.ClearText("Strict"), Settings: events.Document(`{"a":1}`)})
	h.add(events.ProfileSubject(acme, "strict"), events.ProfileRenamed{Name: events.ClearText("Stricter")})
	h.add(events.ProfileSubject(acme, "strict"), events.ProfileSettingsChanged{Settings: events.Document(`{"a":2}`)})
	h.add(events.ProfileSubject(acme, "old"), events.ProfileCreated{ID: "old", Settings: events.Document(`{}`)})
	h.add(events.ProfileSubject(acme, "old"), events.ProfileDeleted{})
	h.add(events.QuotaSubject(acme), events.QuotaChanged{Limit: 3})
	c := h.opened(t)

	at := func(pos int) events.Time { return h.facts[pos-1].Meta.Time }
	wantOrg := catalog.Organization{
		ID: acme, Name: sealedText, Plan: events.PlanEnterprise, Limits: events.Limits{MaxActiveKeys: 3, MaxKeyLifetime: "1y"},
		Policy: events.Policy{DefaultPrefix: "acme"}, CreatedAt: at(2), UpdatedAt: at(6), Revision: 5, Position: 6,
	}
	gotOrg, err := c.Organization(ctx, acme)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, gotOrg, wantOrg)
	orgs, next, err := c.Organizations(ctx, catalog.Page{})
	if err != nil || next != "" {
		t.Fatal(next, err)
	}
	equal(t, orgs, []catalog.Organization{wantOrg})

	hiring := catalog.Workspace{Org: acme, ID: "hiring", Name: events.ClearText("People"), CreatedAt: at(7), UpdatedAt: at(9), Revision: 2, Position: 9}
	workspaces, _, err := c.Workspaces(ctx, acme, everywhere, catalog.Page{})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, workspaces, []catalog.Workspace{hiring})
	sales, err := c.Workspace(ctx, acme, "sales")
	if err != nil || sales.DeletedAt != at(10) {
		t.Fatal(sales, err)
	}
	if _, err := c.Workspace(ctx, "other", "hiring"); !errors.Is(err, catalog.ErrNotFound) {
		t.Fatal(err)
	}

	gotPermissions, err := c.Permissions(ctx, acme)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, gotPermissions, catalog.Permissions{Org: acme, Permissions: permissions, UpdatedAt: at(12), Revision: 2, Position: 12})
	if p, err := c.Permissions(ctx, "other"); err != nil || p.Revision != 0 {
		t.Fatal(p, err)
	}

	strict := catalog.Profile{
		Org: acme, ID: "strict", Name: events.ClearText("Stricter"), Settings: events.Document(`{"a":2}`),
		CreatedAt: at(13), UpdatedAt: at(15), Revision: 3, Position: 15,
	}
	profiles, _, err := c.Profiles(ctx, acme, catalog.Page{})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, profiles, []catalog.Profile{strict})
	if old, err := c.Profile(ctx, acme, "old"); err != nil || old.DeletedAt == 0 {
		t.Fatal(old, err)
	}
}

func TestKeyThroughItsLife(t *testing.T) {
	ctx := t.Context()
	h := newHistory()
	creator := events.Actor{Type: events.ActorKey, Org: events.System, Key: keyID(900)}
	id := h.create(acme, 1, func(e *events.KeyCreated) {
		e.Name, e.Role, e.ExternalID = sealedText, events.RoleMember, events.ClearText("ext-1")
		e.Permissions = events.Permissions{Level: events.LevelRestricted, Grants: []string{"a:b", "c:*"}}
		e.Scope = events.Scope{Workspaces: []events.WorkspaceID{"hiring", "sales"}}
		e.Profile, e.ExpiresAt, e.RotatedFrom = "strict", t0+30*day, keyID(77)
		e.Metadata = events.Metadata{"team": events.ClearText("platform"), "owner": sealedText}
		e.DataSubject = "person-7"
	})
	h.facts[0].Meta.Actor = creator
	subject := events.KeySubject(acme, id)
	c := h.opened(t)
	want := catalog.Key{
		Org: acme, ID: id, Kind: events.KindAPI, Role: events.RoleMember, Name: sealedText, Prefix: "kl_live", LastFour: "a1B2",
		Permissions: events.Permissions{Level: events.LevelRestricted, Grants: []string{"a:b", "c:*"}},
		Scope:       events.Scope{Workspaces: []events.WorkspaceID{"hiring", "sales"}}, Profile: "strict",
		ExternalID: events.ClearText("ext-1"), Metadata: events.Metadata{"team": events.ClearText("platform"), "owner": sealedText},
		DataSubject: "person-7",
		CreatedAt:   h.facts[0].Meta.Time, CreatedBy: creator, RotatedFrom: keyID(77), Status: events.StatusActive,
		ExpiresAt: t0 + 30*day, RotationDueAt: h.facts[0].Meta.Time.WholeSecond() + 90*day, Revision: 1, Position: 1,
	}
	check := func(now events.Time) {
		t.Helper()
		got, err := c.Key(ctx, acme, id, now)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, got, want)
		if got.StatusAt(now) != got.Status {
			t.Fatalf("in SQL %s, in Go %s", got.Status, got.StatusAt(now))
		}
	}
	check(t0 + day)
	step := func(s events.Subject, e events.Event, change func()) {
		t.Helper()
		f := h.add(s, e)
		if err := c.Apply(ctx, []events.Recorded{*f}); err != nil {
			t.Fatal(err)
		}
		want.Revision, want.Position = want.Revision+1, f.Position
		change()
		check(t0 + day)
	}
	step(subject, events.KeyRenamed{Name: events.ClearText("plain")}, func() { want.Name = events.ClearText("plain") })
	step(subject, events.KeyPermissionsChanged{Permissions: events.Permissions{Level: events.LevelReadOnly}}, func() {
		want.Permissions = events.Permissions{Level: events.LevelReadOnly}
	})
	step(subject, events.KeyScopeChanged{Scope: events.Scope{AllWorkspaces: true}}, func() { want.Scope = events.Scope{AllWorkspaces: true} })
	step(subject, events.KeyProfileChanged{}, func() { want.Profile = "" })
	step(subject, events.KeyMetadataChanged{}, func() { want.Metadata = nil })
	step(subject, events.KeyDisabled{}, func() { want.Disabled, want.Status = true, events.StatusInactive })
	step(subject, events.KeyEnabled{}, func() { want.Disabled, want.Status = false, events.StatusActive })
	step(subject, events.Unknown{Name: "key.tinted.v1"}, func() {})
	step(subject, events.KeyExpiryChanged{}, func() { want.ExpiresAt = 0 })
	step(subject, events.KeyRotated{Successor: keyID(2), GraceEndsAt: t0 + 3*day}, func() {
		want.RotatedTo, want.GraceEndsAt, want.RotationDueAt = keyID(2), t0+3*day, 0
	})
	want.Status = events.StatusExpired
	check(t0 + 3*day)
	want.Status = events.StatusActive
	step(subject, events.KeyGraceChanged{GraceEndsAt: t0 + 2*day}, func() { want.GraceEndsAt = t0 + 2*day })
	step(subject, events.KeyExpired{ExpiredAt: t0 + day/2}, func() { want.ExpiredAt, want.Status = t0+day/2, events.StatusExpired })
	// Recorded expiry is absorbing.
	step(subject, events.KeyExpiryChanged{ExpiresAt: t0 + 90*day}, func() { want.ExpiresAt = t0 + 90*day })
	step(events.RevokedSubject(acme, id), events.KeyRevoked{}, func() {
		want.Status, want.RevokedAt, want.RevokedBy = events.StatusRevoked, h.facts[len(h.facts)-1].Meta.Time, system
		want.RevocationReason = h.facts[len(h.facts)-1].Meta.Reason
	})
	// Revoked is, too: an edit that was decided before and comes after.
	step(subject, events.KeyEnabled{}, func() {})

	if _, err := c.Key(ctx, "other", id, t0); !errors.Is(err, catalog.ErrNotFound) {
		t.Fatal("a key of another organization:", err)
	}
}

func TestRevokedBeforeItIsCreated(t *testing.T) {
	h := newHistory()
	h.add(events.RevokedSubject(acme, keyID(1)), events.KeyRevoked{})
	h.create(acme, 1)
	c := h.opened(t)
	k, err := c.Key(t.Context(), acme, keyID(1), t0)
	if err != nil || k.Status != events.StatusRevoked || k.Revision != 2 || k.Position != 2 {
		t.Fatal(k, err)
	}
	if keys, _, err := c.Keys(t.Context(), catalog.Filter{Org: acme, Within: everywhere}, t0); err != nil || len(keys) != 0 {
		t.Fatal(keys, err)
	}
}

func TestEndOfAnOrganizationEndsItsKeys(t *testing.T) {
	ctx := t.Context()
	h := newHistory()
	h.add(events.OrganizationSubject(acme), events.OrganizationCreated{ID: acme, Plan: events.PlanGrowth})
	h.create(acme, 1)
	h.create("other", 2)
	end := h.add(events.EndSubject(acme), events.OrganizationDeleted{})
	h.create(acme, 3) // decided before the end, appended after
	c := h.opened(t)
	check := func(revisions ...events.Revision) {
		t.Helper()
		for i, n := range []int{1, 3} {
			k, err := c.Key(ctx, acme, keyID(n), t0)
			if err != nil || k.Status != events.StatusRevoked || k.RevokedAt != end.Meta.Time || k.RevocationReason != end.Meta.Reason ||
				k.StatusAt(t0) != k.Status || k.Revision != revisions[i] || k.RotationDueAt != 0 {
				t.Fatal(k, err)
			}
		}
	}
	check(1, 1)
	// Their own revocations follow. They tell no other time and reason.
	for _, n := range []int{1, 3} {
		if err := c.Apply(ctx, []events.Recorded{*h.add(events.RevokedSubject(acme, keyID(n)), events.KeyRevoked{})}); err != nil {
			t.Fatal(err)
		}
	}
	check(2, 2)
	if k, err := c.Key(ctx, "other", keyID(2), t0); err != nil || k.Status != events.StatusActive {
		t.Fatal(k, err)
	}
	if keys, _, err := c.Keys(ctx, catalog.Filter{Org: acme, Within: everywhere}, t0); err != nil || len(keys) != 0 {
		t.Fatal(keys, err)
	}
	if keys, _, err := c.Keys(ctx, catalog.Filter{Org: acme, Within: everywhere, Status: events.StatusRevoked}, t0); err != nil || len(keys) != 2 {
		t.Fatal(keys, err)
	}
	if ids, err := c.Holders(ctx, acme, t0); err != nil || len(ids) != 0 {
		t.Fatal(ids, err)
	}
	o, err := c.Organization(ctx, acme)
	if err != nil || o.EndedAt != end.Meta.Time || o.Revision != 2 || o.Position != end.Position {
		t.Fatal(o, err)
	}
	if orgs, _, err := c.Organizations(ctx, catalog.Page{}); err != nil || len(orgs) != 0 {
		t.Fatal(orgs, err)
	}
}

func TestFactsThatStopTheView(t *testing.T) {
	subject := events.KeySubject(acme, keyID(1))
	revoked := events.RevokedSubject(acme, keyID(1))
	created := events.KeyCreated{ID: keyID(1), KeyKind: events.KindAPI, CreatedAt: t0}
	for name, c := range map[string]struct {
		subject  events.Subject
		event    events.Event
		revision events.Revision
		want     error
	}{
		"an old fact again":          {subject, events.KeyRenamed{}, 2, catalog.ErrRevision},
		"a fact that skips one":      {subject, events.KeyRenamed{}, 4, catalog.ErrRevision},
		"created twice":              {subject, created, 1, catalog.ErrRevision},
		"created late":               {events.KeySubject(acme, keyID(9)), created, 2, catalog.ErrRevision},
		"changed before created":     {events.KeySubject(acme, keyID(9)), events.KeyRenamed{}, 1, catalog.ErrRevision},
		"revoked twice":              {revoked, events.KeyRevoked{}, 1, catalog.ErrRevision},
		"quota of old":               {events.QuotaSubject(acme), events.QuotaChanged{}, 2, catalog.ErrRevision},
		"unknown that bears":         {subject, events.Unknown{Name: "key.locked.v1", Bears: true}, 3, catalog.ErrUnknown},
		"malformed":                  {subject, events.Malformed{Reason: "no"}, 3, events.ErrMalformed},
		"unknown of a new aggregate": {events.Subject{Org: acme, Aggregate: "new", ID: "x"}, events.Unknown{Name: "new.x.v1"}, 2, catalog.ErrRevision},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory()
			h.add(subject, created)
			h.add(subject, events.KeyRenamed{Name: events.ClearText("now")})
			h.add(revoked, events.KeyRevoked{})
			h.add(events.WorkspaceSubject(acme, "w"), events.WorkspaceCreated{ID: "w"})
			_, before, err := h.opened(t).Digest(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			bad := h.add(c.subject, c.event)
			bad.Meta.Revision = c.revision
			view := open(t, dbPath(t))
			err = view.Apply(t.Context(), h.facts)
			var where *projections.FactError
			if !errors.Is(err, c.want) || !errors.As(err, &where) || where.Position != bad.Position || where.Subject != c.subject {
				t.Fatalf("got %v", err)
			}
			pos, after, err := view.Digest(t.Context())
			if err != nil || pos != 4 || after != before {
				t.Fatalf("not what came before the fact: position %d, %v", pos, err)
			}
		})
	}
}

// Every kind that there is finds its rows: a kind added to the vocabulary alone
// would stop the view in production.
func TestEveryKindIsApplied(t *testing.T) {
	h := newHistory()
	org := events.OrganizationSubject(acme)
	w, p, k := events.WorkspaceSubject(acme, "w"), events.ProfileSubject(acme, "p"), events.KeySubject(acme, keyID(1))
	for _, f := range []struct {
		s events.Subject
		e events.Event
	}{
		{events.InstallationSubject(), events.InstallationCreated{}},
		{events.InstallationSubject(), events.InstallationSignerAdded{}},
		{events.CredentialSubject("edge"), events.CredentialIssued{}},
		{events.CredentialSubject("edge"), events.CredentialRevoked{}},
		{events.TickSubject(), events.Tick{}},
		{org, events.OrganizationCreated{}},
		{org, events.OrganizationRenamed{}},
		{org, events.OrganizationPlanChanged{}},
		{org, events.OrganizationLimitsChanged{}},
		{org, events.OrganizationPolicyChanged{}},
		{events.ErasureSubject(acme, "someone"), events.SubjectErased{}},
		{events.RetentionSubject(acme), events.UsesDropped{}},
		{events.EndSubject(acme), events.OrganizationDeleted{}},
		{w, events.WorkspaceCreated{}},
		{w, events.WorkspaceRenamed{}},
		{w, events.WorkspaceDeleted{}},
		{events.CatalogSubject(acme), events.CatalogReplaced{}},
		{p, events.ProfileCreated{Settings: events.Document(`{}`)}},
		{p, events.ProfileRenamed{}},
		{p, events.ProfileSettingsChanged{Settings: events.Document(`{}`)}},
		{p, events.ProfileDeleted{}},
		{events.QuotaSubject(acme), events.QuotaChanged{}},
		{k, events.KeyCreated{}},
		{k, events.KeyRenamed{}},
		{k, events.KeyPermissionsChanged{}},
		{k, events.KeyScopeChanged{}},
		{k, events.KeyProfileChanged{}},
		{k, events.KeyMetadataChanged{}},
		{k, events.KeyDisabled{}},
		{k, events.KeyEnabled{}},
		{k, events.KeyExpiryChanged{}},
		{k, events.KeyRotated{}},
		{k, events.KeyGraceChanged{}},
		{k, events.KeyExpiring{}},
		{k, events.KeyRotationDue{}},
		{k, events.KeyNewSource{}},
		{k, events.KeyDenialsSpike{}},
		{k, events.KeyExpired{}},
		{events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyAdded{}},
		{events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyReplaced{}},
		{events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyRenamed{}},
		{events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyTested{}},
		{events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyRemoved{}},
		{events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyNewSource{}},
		{events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyResolvesSpike{}},
		{events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyFailing{}},
		{events.RevokedSubject(acme, keyID(1)), events.KeyRevoked{}},
	} {
		h.add(f.s, f.e)
	}
	var seen []events.Kind
	for _, f := range h.facts {
		seen = append(seen, f.Event.Kind())
	}
	all := events.Kinds()
	slices.Sort(all)
	slices.Sort(seen)
	equal(t, seen, all)
	// And what is unknown and does not bear is counted wherever it stands.
	subjects := map[events.Subject]bool{}
	for _, f := range h.facts {
		subjects[f.Subject] = true
	}
	for s := range subjects {
		h.add(s, events.Unknown{Name: "later.v1"})
	}
	for range 2 {
		h.add(events.Subject{Org: acme, Aggregate: "later", ID: "x"}, events.Unknown{Name: "later.v1"})
	}
	h.opened(t)
}

var everywhere = events.Scope{AllWorkspaces: true}

func TestConfigTellsEveryFault(t *testing.T) {
	if err := (catalog.Config{Readers: -1}).Validate(); err == nil {
		t.Fatal("nothing was wrong")
	}
	if _, err := catalog.Open(context.Background(), catalog.Config{}); err == nil {
		t.Fatal("opened nothing")
	}
}
