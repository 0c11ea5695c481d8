package api_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/api"
	"github.com/keyledger/keyledger/api/apitest"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/catalog"
)

// A merge patch is merged into what the facts tell. A view that has not caught
// up, as after its file was deleted, takes nothing away.
func TestPatchesAreNotMergedIntoAView(t *testing.T) {
	s := apitest.Start(t, func(c *api.Config) {
		empty, err := catalog.Open(context.Background(), catalog.Config{Path: filepath.Join(t.TempDir(), "empty.db"), Of: c.Positions})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = empty.Close() })
		c.Catalog, c.WaitForCatalog = empty, func(context.Context, events.Position) error { return nil }
	})
	s.Do(s.Owner, "POST", "/v1/organizations", `{"id":"acme","name":"A","limits":{"max_active_keys":50},"policy":{"default_prefix":"acme","expiry_notices":["1d","14d"]}}`)
	s.Do(s.Owner, "POST", "/v1/organizations/acme/profiles", `{"id":"gold","name":"G","settings":{"a":1,"b":{"c":2,"d":3}}}`)
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys",
		`{"permissions":{"level":"all"},"scope":{"all_workspaces":true},"metadata":{"a":"1","b":"2"}}`)).Key
	for _, c := range []struct{ path, body, want string }{
		{"", `{"limits":{"max_key_lifetime":"1y"}}`, `"data":{"limits":{"max_active_keys":50,"max_key_lifetime":"1y"}}`},
		{"", `{"limits":null}`, `"data":{"limits":{}}`},
		{"", `{"limits":{"max_active_keys":null}}`, `"data":{"limits":{}}`},
		{"", `{"policy":{"default_expires_in":"90d"}}`, `"data":{"policy":{"default_prefix":"acme","default_expires_in":"90d","expiry_notices":["14d","1d"]}}`},
		{"", `{"policy":{"expiry_notices":["1mo"]}}`, `"data":{"policy":{"default_prefix":"acme","expiry_notices":["1mo"]}}`},
		{"", `{"policy":{"expiry_notices":null}}`, `"data":{"policy":{"default_prefix":"acme"}}`},
		{"", `{"policy":{"expiry_notices":[]}}`, `"data":{"policy":{"default_prefix":"acme"}}`},
		{"", `{"policy":null}`, `"data":{"policy":{}}`},
		{"/profiles/gold", `{"settings":{"b":{"c":null},"e":4}}`, `"data":{"settings":{"a":1,"b":{"d":3},"e":4}}`},
		{"/profiles/gold", `{"settings":null}`, `"data":{"settings":{}}`},
		{"/keys/" + key.ID, `{"metadata":{"b":null,"c":"3"}}`, `"data":{"metadata":{"a":"1","c":"3"}}`},
		{"/keys/" + key.ID, `{"metadata":null}`, `"data":{"metadata":{}}`},
	} {
		a := s.Must(200, s.Owner, "PATCH", "/v1/organizations/acme"+c.path+"?dry_run=true", c.body)
		if !strings.Contains(a.Body, c.want) {
			t.Errorf("%s %s: %s, want %s", c.path, c.body, a.Body, c.want)
		}
	}
}

// Notices of expiry are checked, and shown in the order in which they come.
func TestExpiryNotices(t *testing.T) {
	s := apitest.Start(t)
	made := as[wire.Organization](t, s.Must(201, s.Owner, "POST", "/v1/organizations", `{"id":"acme","name":"A","policy":{"expiry_notices":["1d","1mo","1d"]}}`))
	if got := strings.Join(made.Policy.ExpiryNotices, " "); got != "1mo 1d" {
		t.Errorf("made with %s", got)
	}
	for _, list := range []string{`["never"]`, `["15m"]`, `[""]`, `["1d","2d","3d","4d","5d","6d"]`} {
		p := problem(t, s.Must(422, s.Owner, "PATCH", "/v1/organizations/acme", `{"policy":{"expiry_notices":`+list+`}}`))
		if p.Code != "invalid_value" || p.Field != "policy.expiry_notices" || p.Detail == "" {
			t.Errorf("%s: %+v", list, p)
		}
	}
	s.Must(400, s.Owner, "PATCH", "/v1/organizations/acme", `{"policy":{"expiry_notices":"1d"}}`)
	got := as[wire.Organization](t, s.Must(200, s.Owner, "GET", "/v1/organizations/acme", ""))
	if list := strings.Join(got.Policy.ExpiryNotices, " "); list != "1mo 1d" {
		t.Errorf("it has %s", list)
	}
}

// What null and an empty text could mean is not guessed.
func TestPatchesThatCouldMeanTwoThingsAreRefused(t *testing.T) {
	s := apitest.Start(t)
	furnish(s, "acme")
	key := as[wire.Created](t, s.Must(201, s.Owner, "POST", "/v1/organizations/acme/keys", keyBody)).Key
	for body, field := range map[string]string{
		`{"metadata":{"a":""}}`: "metadata",
		`{"grace":null}`:        "grace",
		`{"grace":""}`:          "grace",
		`{"expires_in":null}`:   "expires_in",
		`{"expires_in":""}`:     "expires_in",
	} {
		p := problem(t, s.Must(422, s.Owner, "PATCH", "/v1/organizations/acme/keys/"+key.ID, body))
		if p.Code != "invalid_value" || p.Field != field || p.Detail == "" {
			t.Errorf("%s: %+v", body, p)
		}
	}
}
