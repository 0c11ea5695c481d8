package permission_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/domain/permission"
)

var routes = []struct{ text, fault string }{
	{"POST /api/v1/interviews/{id}/complete", ""},
	{"GET /", ""},
	{"ANY /{rest...}", ""},
	{"M-SEARCH /a", ""},
	{"GET /a/{b_1}/c@d:e+f,(g)'!$&=~._-", ""},
	{"GET /" + strings.Repeat("a/", 31) + "a", ""},
	{"GET /.well-known/{x}", ""},
	{"GET /...", ""},
	{"", "no space"},
	{"GET", "no space"},
	{"/a", "no space"},
	{" /a", "method"},
	{"get /a", "method"},
	{"* /a", "method"},
	{"-GET /a", "method"},
	{"GET,POST /a", "method"},
	{strings.Repeat("A", 21) + " /a", "method"},
	{"GET  /a", "start with '/'"},
	{"GET a", "start with '/'"},
	{"GET https://example.com/a", "start with '/'"},
	{"GET ", "start with '/'"},
	{"GET /a/", "segment 2 of the path is empty"},
	{"GET //a", "segment 1 of the path is empty"},
	{"GET /a/../b", "segment 2 of the path is '.' or '..'"},
	{"GET /.", "'.' or '..'"},
	{"GET /a*", "has a '*'"},
	{"GET /*", "has a '*'"},
	{"GET /a%20b", "has an escape"},
	{"GET /a?b=c", "number 2, that cannot stand"},
	{"GET /a b", "number 2, that cannot stand"},
	{"GET /a;b", "number 2, that cannot stand"},
	{"GET /ä", "number 1, that cannot stand"},
	{"GET /a#b", "number 2, that cannot stand"},
	{"GET /:id", "a parameter is written {name}"},
	{"GET /{}", "names its parameter"},
	{"GET /{...}", "names its parameter"},
	{"GET /{1}", "names its parameter"},
	{"GET /{a-b}", "names its parameter"},
	{"GET /{$}", "names its parameter"},
	{"GET /{" + part64 + "}", "names its parameter"},
	{"GET /{a...}/b", "not the last"},
	{"GET /{a}/{a}", "repeats the name"},
	{"GET /{a}/{a...}", "repeats the name"},
	{"GET /x{a}", "in part"},
	{"GET /{a}x", "in part"},
	{"GET /{a", "in part"},
	{"GET /a}", "in part"},
	{"GET /{a}:cancel", "in part"},
	{"GET /" + strings.Repeat("a", 129), "has 129 characters"},
	{"GET /" + strings.Repeat("a/", 32) + "a", "33 segments"},
	{"GET /" + strings.Repeat("a", 512), "517 characters"},
}

func TestParseRoute(t *testing.T) {
	for _, c := range routes {
		r, err := permission.ParseRoute(c.text)
		if c.fault != "" {
			if !errors.Is(err, permission.ErrRoute) || !strings.Contains(err.Error(), c.fault) || r != (permission.Route{}) {
				t.Errorf("%q: %v, want an error about %q", c.text, err, c.fault)
			}
			continue
		}
		if err != nil || r.String() != c.text || r.Method()+" "+r.Path() != c.text {
			t.Errorf("%q: %q, %v", c.text, r, err)
		}
	}
	if s := (permission.Route{}).String(); s != "" {
		t.Errorf("the zero route prints %q", s)
	}
}

var routeForm = regexp.MustCompile(`\A[A-Z][A-Z-]{0,19} (/|(/([A-Za-z0-9._~!$&'()+,=@-][A-Za-z0-9._~!$&'()+,=@:-]*|\{[A-Za-z_][A-Za-z0-9_]*\}))*(/\{[A-Za-z_][A-Za-z0-9_]*\.\.\.\})?)\z`)

func FuzzParseRoute(f *testing.F) {
	for _, c := range routes {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := permission.ParseRoute(s)
		if err != nil {
			if r != (permission.Route{}) || !errors.Is(err, permission.ErrRoute) {
				t.Fatalf("%q: %q, %v", s, r, err)
			}
			return
		}
		if r.String() != s || !routeForm.MatchString(s) || len(s) > permission.MaxRouteLen {
			t.Fatalf("%q was taken as %q", s, r)
		}
		router, err := permission.NewRouter([]permission.Rule{{Route: r, Name: "a:b"}})
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		// A route matches the path it is itself an example of.
		path := regexp.MustCompile(`\{\w+\.\.\.\}`).ReplaceAllString(r.Path(), "x/y")
		path = regexp.MustCompile(`\{\w+\}`).ReplaceAllString(path, "x")
		if n, ok := router.Match(r.Method(), path); !ok || n != "a:b" {
			t.Fatalf("%q does not match its own example %q", s, path)
		}
	})
}
