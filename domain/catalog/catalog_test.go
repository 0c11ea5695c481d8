package catalog

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
)

func entry(name string, access events.Access, routes ...string) events.CatalogPermission {
	return events.CatalogPermission{Name: name, Access: access, Routes: routes}
}

func of(t *testing.T, entries ...events.CatalogPermission) State {
	t.Helper()
	facts, err := Decide(State{}, Replace{Permissions: entries})
	if err != nil || len(facts) != 1 {
		t.Fatalf("%v, %v", facts, err)
	}
	return Evolve(State{}, facts[0])
}

func TestReplace(t *testing.T) {
	s := of(t, entry("report:read", events.AccessRead), entry("interview:start", events.AccessWrite, "POST /interviews/{id}"))
	if want := []string{"interview:start", "report:read"}; !slices.Equal(s.Names(), want) {
		t.Errorf("names %v, want %v", s.Names(), want)
	}
	if s.Access("report:read") != events.AccessRead || s.Access("report:write") != "" {
		t.Error("access is not what the catalog says")
	}
	again := Replace{Permissions: []events.CatalogPermission{
		entry("interview:start", events.AccessWrite, "POST /interviews/{id}"), {Name: "report:read", Access: events.AccessRead, Routes: []string{}},
	}}
	if facts, err := Decide(s, again); err != nil || len(facts) != 0 {
		t.Errorf("the same in another order gave %v, %v", facts, err)
	}
	if facts, err := Decide(s, Replace{}); err != nil || len(facts) != 1 {
		t.Errorf("emptying it gave %v, %v", facts, err)
	}
	if facts, err := Decide(State{}, Replace{}); err != nil || len(facts) != 0 {
		t.Errorf("emptying what is empty gave %v, %v", facts, err)
	}
}

func TestReplaceRefuses(t *testing.T) {
	many := make([]events.CatalogPermission, events.MaxCatalogPermissions+1)
	for i := range many {
		many[i] = entry("a:b"+strconv.Itoa(i), events.AccessRead)
	}
	routes := make([]string, events.MaxPermissionRoutes+1)
	for i := range routes {
		routes[i] = "GET /" + strconv.Itoa(i)
	}
	secret := secretText(t)
	for name, c := range map[string]struct {
		entries []events.CatalogPermission
		field   string
		says    string
	}{
		"no name":        {[]events.CatalogPermission{entry("", events.AccessRead)}, "permissions[0].name", ""},
		"no action":      {[]events.CatalogPermission{entry("a:b", events.AccessRead), entry("interview", events.AccessRead)}, "permissions[1].name", ""},
		"a wildcard":     {[]events.CatalogPermission{entry("interview:*", events.AccessRead)}, "permissions[0].name", ""},
		"a secret":       {[]events.CatalogPermission{entry(secret, events.AccessRead)}, "permissions[0].name", ""},
		"no access":      {[]events.CatalogPermission{entry("a:b", "")}, "permissions[0].access", ""},
		"foreign access": {[]events.CatalogPermission{entry("a:b", "delete")}, "permissions[0].access", ""},
		"twice":          {[]events.CatalogPermission{entry("a:b", events.AccessRead), entry("c:d", events.AccessRead), entry("a:b", events.AccessWrite)}, "permissions", `"a:b"`},
		"too many":       {many, "permissions", "512"},
		"bad route":      {[]events.CatalogPermission{entry("a:b", events.AccessRead, "GET /ok", "/no/method")}, "permissions[0].routes[1]", ""},
		"many routes":    {[]events.CatalogPermission{entry("a:b", events.AccessRead, routes...)}, "permissions[0].routes", "32"},
		"route conflict": {[]events.CatalogPermission{entry("a:b", events.AccessRead, "GET /x/{id}"), entry("c:d", events.AccessRead, "GET /x/{name}")}, "permissions", "/x/"},
		"secret route":   {[]events.CatalogPermission{entry("a:b", events.AccessRead, "GET /"+secret), entry("c:d", events.AccessRead, "GET /"+secret)}, "permissions", ""},
		"description": {
			[]events.CatalogPermission{{Name: "a:b", Access: events.AccessRead, Description: strings.Repeat("x", events.MaxDescriptionLength+1)}},
			"permissions[0].description", "",
		},
		"control": {[]events.CatalogPermission{{Name: "a:b", Access: events.AccessRead, Description: "a\x00b"}}, "permissions[0].description", ""},
	} {
		t.Run(name, func(t *testing.T) {
			facts, err := Decide(State{}, Replace{Permissions: c.entries})
			var refusal *domain.Refusal
			if !errors.As(err, &refusal) || !errors.Is(err, domain.ErrInvalid) || len(facts) != 0 {
				t.Fatalf("%v, %v", facts, err)
			}
			if refusal.Field != c.field || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want field %q and %q", err, c.field, c.says)
			}
			if strings.Contains(err.Error(), secret) {
				t.Error("the refusal repeats a secret")
			}
		})
	}
}

func TestCheckGrants(t *testing.T) {
	s := of(t, entry("interview:start", events.AccessWrite), entry("interview:read", events.AccessRead), entry("report:read", events.AccessRead))
	got, err := s.CheckGrants("grants", []string{"report:read", "interview:*", "report:read"})
	if want := []string{"interview:*", "report:read"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	secret := secretText(t)
	for name, c := range map[string]struct {
		grants []string
		is     error
		says   string
	}{
		"none":           {nil, domain.ErrInvalid, "at least one"},
		"too many":       {make([]string, events.MaxGrants+1), domain.ErrInvalid, "200"},
		"no grant":       {[]string{"interview"}, domain.ErrInvalid, ""},
		"everything":     {[]string{"*"}, domain.ErrInvalid, ""},
		"a secret":       {[]string{secret}, domain.ErrInvalid, ""},
		"a typo":         {[]string{"interview:strt"}, domain.ErrUnknownPermission, `did you mean "interview:start"?`},
		"another":        {[]string{"billing:refund"}, domain.ErrUnknownPermission, `"billing:refund" is not in`},
		"empty resource": {[]string{"billing:*"}, domain.ErrUnknownPermission, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.CheckGrants("grants", c.grants)
			var refusal *domain.Refusal
			if !errors.As(err, &refusal) || !errors.Is(err, c.is) || refusal.Field != "grants" || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %v and %q", err, c.is, c.says)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Error("the refusal repeats a secret")
			}
		})
	}
	if _, err := (State{}).CheckGrants("grants", []string{"a:b"}); !errors.Is(err, domain.ErrUnknownPermission) || !strings.Contains(err.Error(), "empty") {
		t.Errorf("%v", err)
	}
}

func secretText(t *testing.T) string {
	t.Helper()
	s, err := keystring.New("kl_live", [24]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	return s.Reveal()
}
