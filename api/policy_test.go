package api_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
)

// A policy is patched member by member, and read as it was set.
func TestPolicyIsPatched(t *testing.T) {
	s := apitest.Start(t)
	a := s.Must(201, s.Owner, "POST", "/v1/organizations", `{"id":"acme","name":"Acme","policy":{
		"max_key_lifetime":"1y","expiry_required":true,"expiry_choices":["1y","30d","30d"],"default_expires_in":"30d","name_required":true,
		"signals":{"new_source":"off","denials_per_minute":50,"resolves_per_minute":100}}}`)
	want := wire.Policy{
		MaxKeyLifetime: "1y", ExpiryRequired: true, ExpiryChoices: []string{"30d", "1y"}, DefaultExpiresIn: "30d", NameRequired: true,
		Signals: wire.Signals{NewSource: "off", DenialsPerMinute: 50, ResolvesPerMinute: 100},
	}
	if diff := cmp.Diff(want, as[wire.Organization](t, a).Policy); diff != "" {
		t.Fatal(diff)
	}
	for _, step := range []struct {
		patch string
		then  func()
	}{
		{`{"name_required":false}`, func() { want.NameRequired = false }},
		{`{"signals":{"denials_spike":"off"}}`, func() { want.Signals.DenialsSpike = "off" }},
		{`{"signals":{"resolves_per_minute":1000000}}`, func() { want.Signals.ResolvesPerMinute = 1_000_000 }},
		{`{"signals":{"new_source":null,"denials_per_minute":null}}`, func() { want.Signals = wire.Signals{DenialsSpike: "off", ResolvesPerMinute: 1_000_000} }},
		{`{"signals":{"resolves_per_minute":null}}`, func() { want.Signals.ResolvesPerMinute = 0 }},
		{`{"expiry_choices":["60d","30d"]}`, func() { want.ExpiryChoices = []string{"30d", "60d"} }},
		{`{"expiry_choices":null,"expiry_required":null}`, func() { want.ExpiryChoices, want.ExpiryRequired = nil, false }},
		{`{"signals":null}`, func() { want.Signals = wire.Signals{} }},
		{`{"max_key_lifetime":null,"name_required":true}`, func() { want.MaxKeyLifetime, want.NameRequired = "", true }},
		{`null`, func() { want = wire.Policy{} }},
	} {
		a := s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme", `{"policy":`+step.patch+`}`)
		step.then()
		if diff := cmp.Diff(want, as[wire.Organization](t, a).Policy); diff != "" {
			t.Fatalf("%s: %s", step.patch, diff)
		}
	}
	if got := as[wire.Organization](t, s.Must(200, s.Owner, "GET", "/v1/organizations/acme", "")); !cmp.Equal(got.Policy, want) {
		t.Errorf("read as %+v", got.Policy)
	}
}

// What breaks a policy is refused with the rule that it breaks and the member
// that breaks it, whichever call it comes by.
func TestPolicyBindsEveryCall(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	const keys = "/v1/organizations/acme/keys"
	const grant = `"permissions":{"level":"all"},"scope":{"all_workspaces":true}`
	free := as[wire.Created](t, s.Must(201, s.Owner, "POST", keys, `{`+grant+`}`))
	s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme",
		`{"policy":{"expiry_required":true,"expiry_choices":["30d","90d"],"name_required":true}}`)
	one := keys + "/" + free.Key.ID
	for what, c := range map[string]struct{ method, path, body, rule, field string }{
		"create without a name":      {"POST", keys, `{"expires_in":"30d",` + grant + `}`, "name_required", "name"},
		"create without an expiry":   {"POST", keys, `{"name":"a",` + grant + `}`, "expiry_choices", "expires_in"},
		"create for ever":            {"POST", keys, `{"name":"a","expires_in":"never",` + grant + `}`, "expiry_required", "expires_in"},
		"create with another":        {"POST", keys, `{"name":"a","expires_in":"31d",` + grant + `}`, "expiry_choices", "expires_in"},
		"create with an instant":     {"POST", keys, `{"name":"a","expires_at":"2031-01-01T00:00:00Z",` + grant + `}`, "expiry_choices", "expires_at"},
		"create a management key":    {"POST", keys, `{"name":"a","expires_in":"1y","kind":"management","role":"member","scope":{"all_workspaces":true}}`, "expiry_choices", "expires_in"},
		"change to another":          {"PATCH", one, `{"expires_in":"7d"}`, "expiry_choices", "expires_in"},
		"change to an instant":       {"PATCH", one, `{"expires_at":"2031-01-01T00:00:00Z"}`, "expiry_choices", "expires_at"},
		"rotate to an instant":       {"POST", one + "/rotate", `{"grace":"0","expires_at":"2031-01-01T00:00:00Z"}`, "expiry_choices", "expires_at"},
		"rotate for ever":            {"POST", one + "/rotate", `{"grace":"0","expires_in":"never"}`, "expiry_required", "expires_in"},
		"rehearse a create for ever": {"POST", keys + "?dry_run=true", `{"name":"a","expires_in":"never",` + grant + `}`, "expiry_required", "expires_in"},
	} {
		p := problem(t, s.Must(422, s.Owner, c.method, c.path, c.body))
		if p.Code != "policy_violation" || p.Field != c.field || !strings.HasPrefix(p.Detail, "policy."+c.rule+": ") {
			t.Errorf("%s: %+v", what, p)
		}
	}
	// What the key has is not judged by an edit that leaves it.
	s.Must(200, s.Owner, "PATCH", one, `{"expires_at":null,"metadata":{"team":"a"}}`)
	rotated := as[wire.Rotated](t, s.Must(201, s.Owner, "POST", one+"/rotate", `{"grace":"0"}`))
	if at := rotated.Key.ExpiresAt; at == nil || at.Sub(rotated.Key.CreatedAt).Hours() < 90*24-1 || at.Sub(rotated.Key.CreatedAt).Hours() > 90*24 {
		t.Errorf("the successor of an endless key ends at %v", at)
	}
	made := as[wire.Created](t, s.Must(201, s.Owner, "POST", keys, `{"name":"a","expires_in":"90d",`+grant+`}`))
	for _, body := range []string{`{"name":null}`, `{"expires_at":null}`} {
		if p := problem(t, s.Must(422, s.Owner, "PATCH", keys+"/"+made.Key.ID, body)); p.Code != "policy_violation" {
			t.Errorf("%s: %+v", body, p)
		}
	}
	// The installation's limit is told as such, and before the policy.
	s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme", `{"limits":{"max_key_lifetime":"60d"}}`)
	if p := problem(t, s.Must(422, s.Owner, "POST", keys, `{"name":"a","expires_in":"90d",`+grant+`}`)); p.Code != "lifetime_too_long" || p.Field != "expires_in" {
		t.Errorf("%+v", p)
	}
}

// A policy that nobody could keep is refused, and the one before stays.
func TestPolicyMustNotContradictItself(t *testing.T) {
	s := apitest.Start(t)
	s.Must(201, s.Owner, "POST", "/v1/organizations", `{"id":"acme","name":"Acme"}`)
	for patch, field := range map[string]string{
		`{"expiry_choices":["30d","never"],"expiry_required":true}`: "policy.expiry_choices",
		`{"expiry_choices":["30d","1y"],"max_key_lifetime":"90d"}`:  "policy.expiry_choices",
		`{"expiry_choices":["30d"],"default_expires_in":"90d"}`:     "policy.default_expires_in",
		`{"default_expires_in":"never","expiry_required":true}`:     "policy.default_expires_in",
		`{"default_expires_in":"1y","max_key_lifetime":"90d"}`:      "policy.default_expires_in",
		`{"expiry_choices":["soon"]}`:                               "policy.expiry_choices",
		`{"max_key_lifetime":"1w"}`:                                 "policy.max_key_lifetime",
		`{"signals":{"new_source":"maybe"}}`:                        "policy.signals.new_source",
		`{"signals":{"denials_spike":"ON"}}`:                        "policy.signals.denials_spike",
		`{"signals":{"denials_per_minute":1}}`:                      "policy.signals.denials_per_minute",
		`{"signals":{"denials_per_minute":-1}}`:                     "policy.signals.denials_per_minute",
		`{"signals":{"resolves_per_minute":1}}`:                     "policy.signals.resolves_per_minute",
		`{"signals":{"resolves_per_minute":1000001}}`:               "policy.signals.resolves_per_minute",
		`{"expiry_choices":["1d","2d","3d","4d","5d","6d","7d","8d","9d","10d","11d","12d","13d","14d","15d","16d","17d","18d","19d","20d","21d"]}`: "policy.expiry_choices",
	} {
		if p := problem(t, s.Must(422, s.Owner, "PATCH", "/v1/organizations/acme", `{"policy":`+patch+`}`)); p.Code != "invalid_value" || p.Field != field {
			t.Errorf("%s: %+v", patch, p)
		}
	}
	if got := as[wire.Organization](t, s.Must(200, s.Owner, "GET", "/v1/organizations/acme", "")); !cmp.Equal(got.Policy, wire.Policy{}) {
		t.Errorf("%+v", got.Policy)
	}
}

// Whoever ends a key that was rotated is told that nobody has changed over yet,
// by either call, and by a dry run first.
func TestRevokingWarnsOfASuccessorThatIsNotUsed(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	const keys = "/v1/organizations/acme/keys"
	pair := func(grace string) (old, next string) {
		made := as[wire.Created](t, s.Must(201, s.Owner, "POST", keys, keyBody))
		r := as[wire.Rotated](t, s.Must(201, s.Owner, "POST", keys+"/"+made.Key.ID+"/rotate", `{"grace":"`+grace+`"}`))
		return keys + "/" + made.Key.ID, r.Key.ID
	}
	warned := func(what string, got []wire.Warning, next string) {
		t.Helper()
		if len(got) != 1 || got[0].Code != "successor_unused" || !strings.Contains(got[0].Detail, next) {
			t.Errorf("%s: %+v", what, got)
		}
	}
	old, next := pair("1h")
	warned("rehearsed", as[wire.DryRun](t, s.Must(200, s.Owner, "POST", old+"/revoke?dry_run=true", "")).Warnings, next)
	warned("rehearsed by DELETE", as[wire.DryRun](t, s.Must(200, s.Owner, "DELETE", old+"?dry_run=true", "")).Warnings, next)
	if got := as[wire.DryRun](t, s.Must(200, s.Owner, "POST", old+"/revoke?dry_run=true", `{"cascade":true}`)); len(got.Warnings) != 0 || len(got.Events) != 2 {
		t.Errorf("with cascade: %+v", got)
	}
	warned("revoked", as[wire.Changed](t, s.Must(200, s.Owner, "POST", old+"/revoke", "")).Warnings, next)
	if got := as[wire.Changed](t, s.Must(200, s.Owner, "POST", old+"/revoke", "")); len(got.Warnings) != 0 {
		t.Errorf("of a key that had ended: %+v", got.Warnings)
	}
	old, next = pair("1h")
	warned("deleted", as[wire.Changed](t, s.Must(200, s.Owner, "DELETE", old, "")).Warnings, next)
	for what, path := range map[string]string{
		"a key that was not rotated": keys + "/" + next,
		"a grace that is over":       func() string { old, _ := pair("0"); return old }(),
		"a successor that has ended": func() string {
			old, next := pair("1h")
			s.Must(200, s.Owner, "DELETE", keys+"/"+next, "")
			return old
		}(),
	} {
		if a := s.Must(200, s.Owner, "DELETE", path, ""); strings.Contains(a.Body, "warnings") {
			t.Errorf("%s: %s", what, a.Body)
		}
	}
}
