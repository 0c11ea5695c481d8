package audit_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/audit"
)

// told writes changes as a test reads them: a field a line, from → to.
func told(changes []audit.Change) []string {
	out := []string{}
	for _, c := range changes {
		out = append(out, fmt.Sprintf("%s %s → %s", c.Field, c.Before, c.After))
	}
	return out
}

var sealedName = events.Text{Sealed: events.Sealed{Subject: "s-1", Key: "k-1", Box: "Ym94"}}

// providerSecret is a provider key's secret as it is stored.
func providerSecret(n byte) events.SealedSecret {
	return events.SealedSecret{DataKey: events.DataKeyID{0xab, 0xcd, 15: n}, Secret: "ciphertext", LastFour: "ciphertext of four"}
}

func TestWhatEachEventChanged(t *testing.T) {
	provider := events.ProviderKeySubject(acme, events.ProviderAzureOpenAI)
	connected := events.ProviderKeyAdded{
		Provider: events.ProviderAzureOpenAI, Version: 1, Name: events.ClearText("Research"), BaseURL: "https://a.example", Sealed: providerSecret(1),
	}
	key, revoked := events.KeySubject(acme, keyID(1)), events.RevokedSubject(acme, keyID(1))
	id2 := `"` + keyID(2).String() + `"`
	for name, tt := range map[string]struct {
		first []events.Event // on the same thing, before
		on    events.Subject
		event events.Event
		want  []string
	}{
		"a key": {
			nil, key,
			events.KeyCreated{
				ID: keyID(1), KeyKind: events.KindAPI, Name: events.ClearText("Zapier"), Prefix: "kl_live", LastFour: "a1B2", CreatedAt: t0,
				Digest:      events.Digest{Alg: events.SHA256, Value: events.DigestValue{1, 1}},
				Permissions: events.Permissions{Level: events.LevelRestricted, Grants: []string{"interview:read"}},
				Scope:       events.Scope{Workspaces: []events.WorkspaceID{"hiring"}}, Profile: "gold", ExpiresAt: t0 + 1_000_000,
				Metadata: events.Metadata{"team": events.ClearText("platform"), "cost": events.ClearText("7")}, ExternalID: sealedName, DataSubject: "user-1",
			},
			[]string{
				`kind null → "api"`, `name null → "Zapier"`, `prefix null → "kl_live"`, `last_four null → "a1B2"`,
				`permissions null → {"level":"restricted","grants":["interview:read"]}`, `scope null → {"workspaces":["hiring"]}`, `profile null → "gold"`,
				`created_at null → "2026-11-21T05:46:40.000000Z"`, `expires_at null → "2026-11-21T05:46:41.000000Z"`,
				`metadata.cost null → "7"`, `metadata.team null → "platform"`,
				`external_id null → {"sealed":{"subject":"s-1","key":"k-1","box":"Ym94"}}`, `data_subject null → "user-1"`, `status null → "ACTIVE"`,
			},
		},
		"another name":   {nil, key, events.KeyRenamed{Name: events.ClearText(`"quoted"`)}, []string{`name "Zapier" → "\"quoted\""`}},
		"no name":        {nil, key, events.KeyRenamed{}, []string{`name "Zapier" → null`}},
		"a sealed name":  {nil, key, events.KeyRenamed{Name: sealedName}, []string{`name "Zapier" → {"sealed":{"subject":"s-1","key":"k-1","box":"Ym94"}}`}},
		"the same again": {nil, key, events.KeyRenamed{Name: events.ClearText("Zapier")}, []string{}},
		"permissions": {
			nil, key,
			events.KeyPermissionsChanged{Permissions: events.Permissions{Level: events.LevelReadOnly}},
			[]string{`permissions {"level":"all"} → {"level":"read_only"}`},
		},
		"scope": {
			nil, key,
			events.KeyScopeChanged{Scope: events.Scope{Workspaces: []events.WorkspaceID{"b", "c"}}},
			[]string{`scope {"workspaces":["a"]} → {"workspaces":["b","c"]}`},
		},
		"a profile":         {nil, key, events.KeyProfileChanged{Profile: "gold"}, []string{`profile null → "gold"`}},
		"no profile":        {[]events.Event{events.KeyProfileChanged{Profile: "gold"}}, key, events.KeyProfileChanged{}, []string{`profile "gold" → null`}},
		"switched off":      {nil, key, events.KeyDisabled{}, []string{`status "ACTIVE" → "INACTIVE"`}},
		"switched on":       {[]events.Event{events.KeyDisabled{}}, key, events.KeyEnabled{}, []string{`status "INACTIVE" → "ACTIVE"`}},
		"an expiry":         {nil, key, events.KeyExpiryChanged{ExpiresAt: t0}, []string{`expires_at null → "2026-11-21T05:46:40.000000Z"`}},
		"never expires":     {[]events.Event{events.KeyExpiryChanged{ExpiresAt: t0}}, key, events.KeyExpiryChanged{}, []string{`expires_at "2026-11-21T05:46:40.000000Z" → null`}},
		"expired":           {[]events.Event{events.KeyDisabled{}}, key, events.KeyExpired{ExpiredAt: t0}, []string{`expired_at null → "2026-11-21T05:46:40.000000Z"`, `status "INACTIVE" → "EXPIRED"`}},
		"on, but expired":   {[]events.Event{events.KeyDisabled{}, events.KeyExpired{ExpiredAt: t0}}, key, events.KeyEnabled{}, []string{}},
		"rotated":           {nil, key, events.KeyRotated{Successor: keyID(2), GraceEndsAt: t0}, []string{`rotated_to null → ` + id2, `grace_ends_at null → "2026-11-21T05:46:40.000000Z"`}},
		"revoked":           {nil, revoked, events.KeyRevoked{}, []string{`status "ACTIVE" → "REVOKED"`}},
		"off, then revoked": {[]events.Event{events.KeyDisabled{}}, revoked, events.KeyRevoked{}, []string{`status "INACTIVE" → "REVOKED"`}},
		"metadata": {
			[]events.Event{events.KeyMetadataChanged{Metadata: events.Metadata{"a": events.ClearText("1"), "b": events.ClearText("2"), "c": events.ClearText("3")}}},
			key,
			events.KeyMetadataChanged{Metadata: events.Metadata{"b": events.ClearText("2"), "c": events.ClearText("4"), "d": sealedName}},
			[]string{`metadata.c "3" → "4"`, `metadata.d null → {"sealed":{"subject":"s-1","key":"k-1","box":"Ym94"}}`, `metadata.a "1" → null`},
		},
		"a notice": {nil, key, events.KeyExpiring{ExpiresAt: t0, Notice: "7d"}, []string{`notice null → "7d"`, `ends_at null → "2026-11-21T05:46:40.000000Z"`}},
		"a source": {
			nil, key,
			events.KeyNewSource{At: t0, Code: events.CodeValid, Verifier: "edge", By: events.SourceClientIP, Source: "0123456789abcdef0123456789abcdef"},
			[]string{
				`used_at null → "2026-11-21T05:46:40.000000Z"`, `code null → "VALID"`, `verifier null → "edge"`, `by null → "client_ip"`,
				`source null → "0123456789abcdef0123456789abcdef"`,
			},
		},
		"an organization": {
			nil, events.OrganizationSubject("new"),
			events.OrganizationCreated{
				ID: "new", Name: events.ClearText("New"), Plan: events.PlanGrowth, Limits: events.Limits{MaxActiveKeys: 7},
				Policy: events.Policy{Sealing: events.SwitchOn, ExpiryNotices: []events.Period{"7d", "1d"}, Signals: events.Signals{NewSource: events.SwitchOff}},
			},
			[]string{
				`name null → "New"`, `plan null → "growth"`, `limits.max_active_keys null → 7`, `policy.expiry_notices null → ["7d","1d"]`,
				`policy.signals.new_source null → "off"`, `policy.sealing null → "on"`,
			},
		},
		"a policy": {
			[]events.Event{events.OrganizationPolicyChanged{Policy: events.Policy{NameRequired: true, DefaultPrefix: "a"}}},
			events.OrganizationSubject(acme),
			events.OrganizationPolicyChanged{Policy: events.Policy{DefaultPrefix: "b", UsesRetention: "90d"}},
			[]string{`policy.default_prefix "a" → "b"`, `policy.name_required true → null`, `policy.uses_retention null → "90d"`},
		},
		"an organization's end": {nil, events.EndSubject(acme), events.OrganizationDeleted{}, []string{`deleted null → true`}},
		"a workspace's end":     {nil, events.WorkspaceSubject(acme, "a"), events.WorkspaceDeleted{}, []string{`deleted null → true`}},
		"settings": {
			[]events.Event{events.ProfileSettingsChanged{Settings: []byte(`{"rps":10,"theme":{"dark":true},"x":null}`)}},
			events.ProfileSubject(acme, "gold"),
			events.ProfileSettingsChanged{Settings: []byte(`{"rps":20,"theme":{"dark":true}}`)},
			[]string{`settings.rps 10 → 20`},
		},
		"a catalog": {
			[]events.Event{events.CatalogReplaced{}, events.CatalogReplaced{Permissions: []events.CatalogPermission{{Name: "a:read", Access: events.AccessRead}, {Name: "a:write", Access: events.AccessWrite}}}},
			events.CatalogSubject(acme),
			events.CatalogReplaced{Permissions: []events.CatalogPermission{{Name: "a:read", Access: events.AccessWrite, Routes: []string{"GET /a"}}, {Name: "b:read", Access: events.AccessRead}}},
			[]string{
				`permissions.a:read {"access":"read"} → {"access":"write","routes":["GET /a"]}`, `permissions.b:read null → {"access":"read"}`,
				`permissions.a:write {"access":"write"} → null`,
			},
		},
		"places": {
			[]events.Event{events.QuotaChanged{Limit: 5, Holders: []events.KeyID{keyID(1), keyID(3)}}},
			events.QuotaSubject(acme),
			events.QuotaChanged{Limit: 6, Holders: []events.KeyID{keyID(3), keyID(2)}},
			[]string{`limit 5 → 6`, `holders.added null → [` + id2 + `]`, `holders.released ["` + keyID(1).String() + `"] → null`},
		},
		"a provider": {
			nil, provider,
			events.ProviderKeyAdded{
				Provider: events.ProviderAzureOpenAI, Version: 1, Name: events.ClearText("Research"), BaseURL: "https://a.example", Sealed: providerSecret(1),
			},
			[]string{
				`provider null → "azure-openai"`, `version null → 1`, `name null → "Research"`, `base_url null → "https://a.example"`,
				`secret null → "(sealed)"`,
			},
		},
		"a provider's other secret": {
			[]events.Event{connected},
			provider,
			events.ProviderKeyReplaced{Version: 2, BaseURL: "https://b.example", Sealed: providerSecret(2), Replaces: providerSecret(1).DataKey},
			[]string{`version 1 → 2`, `base_url "https://a.example" → "https://b.example"`, `secret "(sealed)" → "(sealed)"`},
		},
		"a secret after one that was tested": {
			[]events.Event{connected, events.ProviderKeyTested{Version: 1, At: t0, Result: events.ProviderWorks}},
			provider,
			events.ProviderKeyReplaced{Version: 2, BaseURL: "https://a.example", Sealed: providerSecret(2), Replaces: providerSecret(1).DataKey},
			[]string{
				`version 1 → 2`, `last_test.at "2026-11-21T05:46:40.000000Z" → null`, `last_test.result "works" → null`, `last_test.version 1 → null`,
				`secret "(sealed)" → "(sealed)"`,
			},
		},
		"a provider key's name": {
			[]events.Event{connected},
			provider,
			events.ProviderKeyRenamed{Name: sealedName},
			[]string{`name "Research" → {"sealed":{"subject":"s-1","key":"k-1","box":"Ym94"}}`},
		},
		"a test that fails": {
			[]events.Event{connected, events.ProviderKeyTested{Version: 1, At: t0, Result: events.ProviderWorks, Status: 200}},
			provider,
			events.ProviderKeyTested{Version: 1, At: t0 + 1, Result: events.ProviderMissingModels, MissingModels: []string{"gpt-5"}, Status: 200},
			[]string{
				`last_test.result "works" → "missing_models"`, `last_test.at "2026-11-21T05:46:40.000000Z" → "2026-11-21T05:46:40.000001Z"`,
				`last_test.missing_models null → ["gpt-5"]`,
			},
		},
		"a provider that goes": {
			[]events.Event{connected},
			provider,
			events.ProviderKeyRemoved{DataKey: providerSecret(1).DataKey},
			[]string{`secret "(sealed)" → null`, `deleted null → true`},
		},
		"a provider that comes again": {
			[]events.Event{connected, events.ProviderKeyTested{Version: 1, At: t0, Result: events.ProviderWorks, Status: 200}, events.ProviderKeyRemoved{DataKey: providerSecret(1).DataKey}},
			provider,
			events.ProviderKeyAdded{Provider: events.ProviderAzureOpenAI, Version: 2, Sealed: providerSecret(2)},
			[]string{
				`version 1 → 2`, `name "Research" → null`, `base_url "https://a.example" → null`, `secret null → "(sealed)"`, `deleted true → null`,
				`last_test.at "2026-11-21T05:46:40.000000Z" → null`, `last_test.result "works" → null`, `last_test.status 200 → null`, `last_test.version 1 → null`,
			},
		},
		"a provider key's source": {
			[]events.Event{connected},
			provider,
			events.ProviderKeyNewSource{At: t0, By: keyID(2), Source: "0123456789abcdef0123456789abcdef", First: true},
			[]string{
				`resolved_at null → "2026-11-21T05:46:40.000000Z"`, `by null → ` + id2, `source null → "0123456789abcdef0123456789abcdef"`, `first null → true`,
			},
		},
		"a burst of resolves": {
			[]events.Event{connected},
			provider,
			events.ProviderKeyResolvesSpike{From: t0, Resolves: 612, Threshold: 600},
			[]string{`from null → "2026-11-21T05:46:40.000000Z"`, `resolves null → 612`, `threshold null → 600`},
		},
		"failures in a row": {
			[]events.Event{connected},
			provider,
			events.ProviderKeyFailing{Of: events.FailingTests, Since: t0, Failures: 3, Code: "invalid"},
			[]string{`of null → "tests"`, `since null → "2026-11-21T05:46:40.000000Z"`, `failures null → 3`, `code null → "invalid"`},
		},
		"an erasure": {nil, events.ErasureSubject(acme, "user-1"), events.SubjectErased{Keys: []string{"ab"}}, []string{`keys null → ["ab"]`}},
		"what retention dropped": {
			nil, events.RetentionSubject(acme),
			events.UsesDropped{Before: t0, Through: 9, Days: []events.UsesDay{{Day: t0, Code: "VALID", Uses: 3}}},
			[]string{
				`before null → "2026-11-21T05:46:40.000000Z"`, `through null → 9`,
				`days null → [{"day":"2026-11-21T05:46:40.000000Z","code":"VALID","uses":3}]`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t)
			if name != "a key" {
				s.add(key, events.KeyCreated{
					ID: keyID(1), KeyKind: events.KindAPI, Name: events.ClearText("Zapier"), Prefix: "kl_live", LastFour: "a1B2", CreatedAt: t0,
					Digest: events.Digest{Alg: events.SHA256, Value: events.DigestValue{1, 1}}, Permissions: events.Permissions{Level: events.LevelAll},
					Scope: events.Scope{Workspaces: []events.WorkspaceID{"a"}},
				})
			}
			s.add(events.OrganizationSubject(acme), events.OrganizationCreated{ID: acme, Plan: events.PlanGrowth})
			s.add(events.WorkspaceSubject(acme, "a"), events.WorkspaceCreated{ID: "a"})
			s.add(events.ProfileSubject(acme, "gold"), events.ProfileCreated{ID: "gold", Settings: []byte(`{}`)})
			for _, e := range tt.first {
				on := tt.on
				if on == revoked {
					on = key
				}
				s.add(on, e)
			}
			s.add(tt.on, tt.event)
			l := s.opened()
			got, _, err := l.Events(t.Context(), audit.Filter{AllOrganizations: true, Page: audit.Page{Limit: 1}})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, told(got[0].Changes)); d != "" {
				t.Error(d)
			}
			// As whoever opens the file sees it, too.
			b, err := json.Marshal(got[0].Changes)
			if err != nil || strings.Contains(string(b), fmt.Sprintf("%x", events.DigestValue{1, 1})) ||
				strings.Contains(string(b), "ciphertext") || strings.Contains(string(b), providerSecret(1).DataKey.String()) {
				t.Errorf("%s: %v", b, err)
			}
		})
	}
}

// A revocation wins whatever the order, also in what a birth came to.
func TestRevokedBeforeItWasBorn(t *testing.T) {
	s := newScript(t)
	s.add(events.RevokedSubject(acme, keyID(1)), events.KeyRevoked{})
	s.create(acme, 1)
	s.add(events.KeySubject(acme, keyID(1)), events.KeyDisabled{})
	got, _, err := s.opened().History(t.Context(), events.KeySubject(acme, keyID(1)), audit.Page{})
	if err != nil || len(got) != 3 {
		t.Fatal(got, err)
	}
	if d := cmp.Diff([]string{`status null → "REVOKED"`}, told(got[2].Changes)); d != "" {
		t.Error(d)
	}
	if strings.Contains(strings.Join(told(got[1].Changes), "\n"), "status") || len(got[0].Changes) != 0 {
		t.Errorf("born: %v, then: %v", told(got[1].Changes), told(got[0].Changes))
	}
}

// What is sealed is told as it is sealed, and found by nothing.
func TestSealedTextsAreNotSearched(t *testing.T) {
	s := newScript(t)
	box := events.Text{Sealed: events.Sealed{Subject: "subject-pseudonym", Key: "0123456789abcdef", Box: "c2VhbGVkLWJveA=="}}
	s.add(events.KeySubject(acme, keyID(1)), events.KeyCreated{
		ID: keyID(1), KeyKind: events.KindAPI, Name: box, ExternalID: box, Metadata: events.Metadata{"team": box}, Prefix: "kl_live", LastFour: "a1B2", CreatedAt: t0,
		Digest: events.Digest{Alg: events.SHA256, Value: events.DigestValue{1, 1}}, Permissions: events.Permissions{Level: events.LevelAll},
	}, func(m *events.Meta) { m.Reason = box })
	l := s.opened()
	for _, q := range []string{"subject-pseudonym", "0123456789abcdef", "c2VhbGVkLWJveA==", "sealed"} {
		if got := positions(t, l, audit.Filter{Org: acme, Query: q}); len(got) != 0 {
			t.Errorf("%q is found at %v", q, got)
		}
	}
	got, _, err := l.Events(t.Context(), audit.Filter{Org: acme})
	if err != nil || got[0].Reason != box || strings.Contains(got[0].Text, "sealed") {
		t.Fatal(got, err)
	}
}

// Rows do not depend on how the facts were sliced, nor what is found.
func TestSlicesChangeNothing(t *testing.T) {
	h := newBusy(3)
	facts := h.slice(t, 300)
	var want [32]byte
	var found string
	for _, size := range []int{300, 1, 7} {
		l := open(t, filepath.Join(t.TempDir(), "audit.db"))
		for from := 0; from < len(facts); from += size {
			if err := l.Apply(t.Context(), facts[from:min(from+size, len(facts))]); err != nil {
				t.Fatal(err)
			}
		}
		pos, got, err := l.Digest(t.Context())
		if err != nil || pos != 300 {
			t.Fatal(pos, err)
		}
		list := fmt.Sprint(positions(t, l, audit.Filter{Org: "org-1", Query: "zapier"}))
		if size == 300 {
			want, found = got, list
			if list == "[]" {
				t.Fatal("nothing is found")
			}
		} else if got != want || list != found {
			t.Errorf("in slices of %d: other rows, or %s found and not %s", size, list, found)
		}
	}
}

// An event concerns the workspaces that a key leaves as well as those it comes to,
// and is seen by who sees all of them; once.
func TestWorkspacesThatAnEventConcerns(t *testing.T) {
	s := newScript(t)
	in := func(list ...events.WorkspaceID) events.Scope { return events.Scope{Workspaces: list} }
	s.add(events.KeySubject(acme, keyID(1)), events.KeyCreated{ // 1
		ID: keyID(1), KeyKind: events.KindAPI, Prefix: "kl_live", LastFour: "a1B2", CreatedAt: t0, Scope: in("a", "b"),
		Digest: events.Digest{Alg: events.SHA256, Value: events.DigestValue{1, 1}}, Permissions: events.Permissions{Level: events.LevelAll},
	})
	s.add(events.KeySubject(acme, keyID(1)), events.KeyScopeChanged{Scope: in("b", "c")})                          // 2
	s.add(events.KeySubject(acme, keyID(1)), events.KeyDisabled{})                                                 // 3
	s.add(events.KeySubject(acme, keyID(1)), events.KeyScopeChanged{Scope: events.Scope{AllWorkspaces: true}})     // 4
	s.add(events.RevokedSubject(acme, keyID(1)), events.KeyRevoked{})                                              // 5
	s.add(events.WorkspaceSubject(acme, "a"), events.WorkspaceCreated{ID: "a", Name: events.ClearText("A")})       // 6
	s.add(events.WorkspaceSubject("other", "a"), events.WorkspaceCreated{ID: "a", Name: events.ClearText("Else")}) // 7
	l := s.opened()
	for workspace, want := range map[events.WorkspaceID]string{"a": "[6 2 1]", "b": "[4 3 2 1]", "c": "[4 3 2]", "d": "[]"} {
		if got := fmt.Sprint(positions(t, l, audit.Filter{Org: acme, Workspace: workspace})); got != want {
			t.Errorf("%s: %s, want %s", workspace, got, want)
		}
	}
	for _, tt := range []struct {
		within []events.WorkspaceID
		want   string
	}{
		{[]events.WorkspaceID{}, "[]"},
		{[]events.WorkspaceID{"a"}, "[6]"},
		{[]events.WorkspaceID{"a", "b"}, "[6 1]"},
		{[]events.WorkspaceID{"c", "b", "a"}, "[6 4 3 2 1]"},
	} {
		for limit := range 3 {
			if got := fmt.Sprint(positions(t, l, audit.Filter{Org: acme, Within: tt.within, Page: audit.Page{Limit: limit}})); got != tt.want {
				t.Errorf("within %v by pages of %d: %s, want %s", tt.within, limit, got, tt.want)
			}
		}
	}
}
