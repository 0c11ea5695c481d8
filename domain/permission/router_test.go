package permission_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/domain/permission"
)

// rules makes rules of "METHOD /path name" lines.
func rules(t testing.TB, lines ...string) (out []permission.Rule) {
	t.Helper()
	for _, line := range lines {
		cut := strings.LastIndexByte(line, ' ')
		route, err := permission.ParseRoute(line[:cut])
		if err != nil {
			t.Fatal(err)
		}
		name, err := permission.ParseName(line[cut+1:])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, permission.Rule{Route: route, Name: name})
	}
	return out
}

var table = []string{
	"GET / root:read",
	"GET /api/v1/interviews interview:list",
	"POST /api/v1/interviews interview:create",
	"GET /api/v1/interviews/{id} interview:read",
	"ANY /api/v1/interviews/{id} interview:any",
	"POST /api/v1/interviews/start interview:start",
	"GET /api/v1/interviews/export interview:export",
	"HEAD /api/v1/interviews/export interview:probe",
	"POST /api/v1/interviews/{id}/complete interview:complete",
	"GET /api/v1/interviews/{id}/{part} interview:part",
	"GET /api/v1/{resource}/{id}/audit audit:read",
	"ANY /files/{path...} file:any",
	"GET /files/{name} file:read",
	"GET /files/public/{path...} file:public",
	"GET /x/y/z deep:exact",
	"GET /x/{a...} deep:rest",
}

func TestMatch(t *testing.T) {
	table := slices.DeleteFunc(slices.Clone(table), func(line string) bool {
		return strings.Contains(line, "/audit") // crosses /interviews/{id}/{part}
	})
	router, err := permission.NewRouter(rules(t, table...))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ method, path, want string }{
		{"GET", "/", "root:read"},
		{"HEAD", "/", "root:read"},
		{"POST", "/", ""},
		{"GET", "/api/v1/interviews", "interview:list"},
		{"POST", "/api/v1/interviews", "interview:create"},
		{"DELETE", "/api/v1/interviews", ""},
		{"GET", "/api/v1", ""},
		{"GET", "/api/v1/interviews/42", "interview:read"},
		{"HEAD", "/api/v1/interviews/42", "interview:read"},
		{"DELETE", "/api/v1/interviews/42", "interview:any"},
		{"ANY", "/api/v1/interviews/42", "interview:any"},
		{"POST", "/api/v1/interviews/start", "interview:start"},
		{"PUT", "/api/v1/interviews/start", "interview:any"},
		{"GET", "/api/v1/interviews/start", "interview:read"},
		{"GET", "/api/v1/interviews/export", "interview:export"},
		{"HEAD", "/api/v1/interviews/export", "interview:probe"},
		{"POST", "/api/v1/interviews/42/complete", "interview:complete"},
		{"GET", "/api/v1/interviews/42/complete", "interview:part"},
		{"GET", "/api/v1/interviews/export/x", "interview:part"},
		{"GET", "/files", ""},
		{"GET", "/files/a", "file:read"},
		{"PUT", "/files/a", "file:any"},
		{"GET", "/files/a/b/c", "file:any"},
		{"GET", "/files/public", ""}, // the stem of a rest
		{"GET", "/files/public/a", "file:public"},
		{"GET", "/files/public/a/b", "file:public"},
		{"PUT", "/files/public/a", "file:any"},
		{"GET", "/x/y/z", "deep:exact"},
		{"GET", "/x/y", "deep:rest"},
		{"GET", "/x/y/z/w", "deep:rest"},
		// Parameters take what is escaped harmlessly.
		{"GET", "/api/v1/interviews/a%20b", "interview:read"},
		{"GET", "/api/v1/interviews/m%C3%BCller%40example.com", "interview:read"},
		{"GET", "/api/v1/interviews/a:b@c*", "interview:read"},
		{"GET", "/api/v1/interviews/...", "interview:read"},
		{"GET", "/api/v1/interviews/.hidden", "interview:read"},
		// Methods nobody agrees about.
		{"", "/files/a", ""},
		{"get", "/files/a", ""},
		{"GET ", "/files/a", ""},
		{"GET\n", "/files/a", ""},
		{"PÖST", "/files/a", ""},
	} {
		got, ok := router.Match(c.method, c.path)
		if string(got) != c.want || ok != (c.want != "") {
			t.Errorf("%s %s: %q, %v, want %q", c.method, c.path, got, ok, c.want)
		}
	}
}

// No trick with the path reaches a route, not even one that takes everything.
func TestDoubtfulPathsMatchNothing(t *testing.T) {
	router, err := permission.NewRouter(rules(t,
		"ANY /{all...} weak:all",
		"ANY /{a}/{b} weak:two",
		"ANY /admin/{x} admin:any",
		"GET /admin/users@all admin:users",
		"GET /static/{x...} weak:two", // crosses, for one permission
	))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"", "a", "admin/x", "*", "http://example.com/a",
		"//", "/a//b", "//a", "/a/", "/a/b/", "/admin//x",
		"/.", "/..", "/a/.", "/a/..", "/a/../admin/x", "/./admin/x", "/a/b/../../admin/x",
		"/%2e", "/a/%2e%2e/admin", "/a/.%2E/admin/x", "/%2E%2e/a", "/a/%2e",
		"/a%2fb", "/a%2Fb", "/admin%2fx", "/a/..%2fadmin", "/a%5cb", "/a/..%5Cadmin", `/a\b`, `/a/..\admin`,
		"/admin;x/y", "/a/..;/admin/x", "/a;b", "/a%3bb", "/a/..%3B/x",
		"/a%00", "/a%0a", "/a%0D%0Ab", "/a%7f", "/a%1Fb", "/a\x00", "/a\nb", "/a b", "/a\x7f",
		"/a%", "/a%2", "/a%zz", "/a%2g", "/%", "/a%%20",
		"/a%252fb", "/a%25", "/%252e%252e/admin",
		"/a%ff", "/a%c0%ae", "/%c0%af", "/a%ed%a0%80", "/a\xff", "/ä", "/a%C3",
		"/a?b=c", "/a#b", "/a?", `/a"b`, "/a<b>", "/a[b]", "/a{b}", "/a|b", "/a^b", "/a`b",
		"/Admin/x", "/ADMIN/x", "/%61dmin/x", "/%41dmin/x", "/admi%6e/x", "/admin/users%40all", "/admin/Users@all", "/admin/%75SERS%40ALL",
		"/static",
		"/" + strings.Repeat("a", permission.MaxPathLen),
	} {
		if name, ok := router.Match("GET", path); ok {
			t.Errorf("%q matched %s", path, name)
		}
	}
	for path, want := range map[string]permission.Name{
		"/admin/x":          "admin:any",
		"/admin/users@all":  "admin:users",
		"/admin/users@some": "admin:any",
		"/admin":            "weak:all",
		"/admins/x":         "weak:two",
		"/admin%20/x":       "weak:two",
		"/x/admin":          "weak:two",
		"/" + strings.Repeat("a", permission.MaxPathLen-1):     "weak:all",
		"/" + strings.Repeat("%20", permission.MaxPathLen/3-1): "weak:all",
	} {
		if name, _ := router.Match("GET", path); name != want {
			t.Errorf("%q matched %q, want %q", path, name, want)
		}
	}
}

func TestNewRouterRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		rules []string
		wants []string // "" for a table that is fine
	}{
		{"nothing", nil, nil},
		{"the same twice", []string{"GET /a a:b", "GET /a a:b"}, []string{`"GET /a" and "GET /a" match the same`}},
		{"other parameter names", []string{"GET /a/{x} a:b", "GET /a/{y} c:d"}, []string{`"GET /a/{x}" and "GET /a/{y}" match the same`}},
		{"the same rest", []string{"GET /a/{x...} a:b", "GET /a/{y...} c:d"}, []string{`"GET /a/{x...}" and "GET /a/{y...}"`}},
		{"another method", []string{"GET /a a:b", "POST /a c:d", "ANY /a e:f", "HEAD /a g:h"}, nil},
		{"crossed", []string{"GET /a/{x} a:b", "GET /{y}/b c:d"}, []string{`"GET /a/{x}" and "GET /{y}/b" both match /a/b and neither`}},
		{"crossed the other way", []string{"GET /{y}/b c:d", "GET /a/{x} a:b"}, []string{`"GET /{y}/b" and "GET /a/{x}" both match /a/b and neither`}},
		{"crossed for one permission", []string{"GET /a/{x} a:b", "GET /{y}/b a:b"}, nil},
		{"crossed for other methods", []string{"GET /a/{x} a:b", "POST /{y}/b c:d"}, nil},
		{"crossed by ANY", []string{"GET /a/{x} a:b", "ANY /{y}/b c:d"}, []string{"both match /a/b"}},
		{"crossed by HEAD", []string{"GET /a/{x} a:b", "HEAD /{y}/b c:d"}, []string{"both match /a/b"}},
		{"apart in the end", []string{"GET /a/{x}/c a:b", "GET /{y}/b/d c:d"}, nil},
		{"apart in length", []string{"GET /a/{x} a:b", "GET /{y}/b/c c:d"}, nil},
		{"crossed by a rest", []string{"GET /a/{x...} a:b", "GET /{y}/b/c c:d"}, []string{"both match /a/b/c"}},
		{"crossed rests", []string{"GET /{y}/b/{z...} c:d", "GET /a/{x...} a:b"}, []string{"both match /a/b/x"}},
		{"nested rests", []string{"GET /{x...} a:b", "GET /a/{y...} c:d", "GET /a/b/{z...} e:f", "GET /{p}/{q...} g:h"}, nil},
		{"rest beside its stem", []string{"GET /a a:b", "GET /a/{x...} c:d", "GET /a/{y} e:f"}, nil},
		{"path before method", []string{"GET /{x} a:b", "ANY /a c:d"}, nil},
		{"other case", []string{"GET /Me a:b", "POST /me/x a:b"}, []string{`"GET /Me" and "POST /me/x" spell`}},
		{"two faults", []string{"GET /a a:b", "GET /a c:d", "GET /b a:b", "GET /b c:d"}, []string{`"GET /a" and`, `"GET /b" and`}},
	} {
		router, err := permission.NewRouter(rules(t, c.rules...))
		if len(c.wants) == 0 {
			if err != nil || router == nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if router != nil || !errors.Is(err, permission.ErrRouteConflict) {
			t.Errorf("%s: %v, want a conflict", c.name, err)
			continue
		}
		for _, want := range c.wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", c.name, err, want)
			}
		}
	}
}

func TestNewRouterTakesOnlyParsedRules(t *testing.T) {
	good := rules(t, "GET /a a:b")[0]
	for _, c := range []struct {
		rule permission.Rule
		want error
	}{
		{permission.Rule{Name: "a:b"}, permission.ErrRoute},
		{permission.Rule{Route: good.Route}, permission.ErrName},
		{permission.Rule{Route: good.Route, Name: "a:*"}, permission.ErrName},
	} {
		if _, err := permission.NewRouter([]permission.Rule{c.rule}); !errors.Is(err, c.want) {
			t.Errorf("%v: %v, want %v", c.rule, err, c.want)
		}
	}
	many := make([]permission.Rule, permission.MaxRoutes+1)
	if _, err := permission.NewRouter(many); !errors.Is(err, permission.ErrRoute) {
		t.Errorf("too many: %v", err)
	}
}

func TestConflictsAreNamedInOrderAndBounded(t *testing.T) {
	var lines []string
	for i := range 40 {
		lines = append(lines, fmt.Sprintf("GET /lit%02d/{x} a:b", i))
	}
	lines = append(lines, "GET /{y}/b c:d")
	first := ""
	for range 5 {
		_, err := permission.NewRouter(rules(t, lines...))
		if err == nil || strings.Count(err.Error(), "\n") != 9 || !strings.Contains(err.Error(), "/lit00/") {
			t.Fatalf("not the first ten conflicts: %v", err)
		}
		if first == "" {
			first = err.Error()
		}
		if err.Error() != first {
			t.Fatal("the same table gave two errors")
		}
	}
}

func TestZeroRouterMatchesNothing(t *testing.T) {
	var nilRouter *permission.Router
	if _, ok := nilRouter.Match("GET", "/"); ok {
		t.Error("nil")
	}
	if _, ok := new(permission.Router).Match("GET", "/"); ok {
		t.Error("zero")
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	router, err := permission.NewRouter(rules(t, table[:9]...))
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		router.Match("GET", "/api/v1/interviews/0191b6a2-7c1e-7d4c-9a55-3b8f7a0c2f11")
		router.Match("POST", "/api/v1/interviews/m%C3%BCller/complete")
		router.Match("GET", "/api/v1/nothing/here")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// drawTable draws routes that meet often.
func drawTable(t *rapid.T) (out []permission.Rule) {
	segment := rapid.SampledFrom([]string{"a", "b", "admin", "{p}", "{q}"})
	for i := range rapid.IntRange(1, 8).Draw(t, "rules") {
		segments := rapid.SliceOfNDistinct(segment, 0, 3, rapid.ID[string]).Draw(t, "segments")
		if rapid.IntRange(0, 4).Draw(t, "rest") == 0 {
			segments = append(segments, "{rest...}")
		}
		method := rapid.SampledFrom([]string{"GET", "POST", "HEAD", "ANY"}).Draw(t, "method")
		route, err := permission.ParseRoute(method + " /" + strings.Join(segments, "/"))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, permission.Rule{Route: route, Name: permission.Name(fmt.Sprintf("rule:%d", i))})
	}
	return out
}

var (
	methodGen = rapid.SampledFrom([]string{"GET", "POST", "HEAD", "PUT"})
	pathGen   = rapid.Custom(func(t *rapid.T) string {
		piece := rapid.SampledFrom([]string{"a", "b", "admin", "x", "A", "Admin", "%61", "%2F", "..", ".", "", "%2e", "%20", ";", "//", "\\", "%C3%BC", "%c0"})
		return "/" + strings.Join(rapid.SliceOfN(piece, 0, 4).Draw(t, "path"), "/")
	})
)

// matches says, without a tree, whether a route matches a path that is already
// unescaped, and whether one route is at least as precise as another everywhere.
func matches(r permission.Route, method, path string) bool {
	if m := r.Method(); m != method && m != "ANY" && (m != "GET" || method != "HEAD") {
		return false
	}
	if r.Path() == "/" || path == "/" {
		return r.Path() == path
	}
	want, got := strings.Split(r.Path(), "/")[1:], strings.Split(path, "/")[1:]
	for i, w := range want {
		switch {
		case i >= len(got):
			return false
		case strings.HasSuffix(w, "...}"):
			return true
		case w[0] != '{' && w != got[i]:
			return false
		}
	}
	return len(want) == len(got)
}

func atLeastAsPrecise(a, b permission.Route, method string) bool {
	rank := func(r permission.Route) (out []int) {
		for _, s := range strings.Split(r.Path(), "/")[1:] {
			switch {
			case strings.HasSuffix(s, "...}"):
				return append(out, 2)
			case s != "" && s[0] == '{':
				out = append(out, 1)
			default:
				out = append(out, 0)
			}
		}
		return out
	}
	ra, rb := rank(a), rank(b)
	for i := range min(len(ra), len(rb)) {
		if ra[i] > rb[i] {
			return false
		}
	}
	if slices.Equal(ra, rb) { // as both match, the same path
		order := []string{method, "GET", "ANY"}
		return slices.Index(order, a.Method()) <= slices.Index(order, b.Method())
	}
	return true
}

// The tree decides as one would by hand, both when it takes the path as it
// stands and when it is read by a server that unescapes and ignores case.
func TestMatchAgreesWithThePrecedenceRule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := drawTable(t)
		router, err := permission.NewRouter(table)
		if err != nil {
			if !errors.Is(err, permission.ErrRouteConflict) {
				t.Fatal(err)
			}
			return
		}
		method, path := methodGen.Draw(t, "method"), pathGen.Draw(t, "path")
		got, ok := router.Match(method, path)
		unescaped, err := url.PathUnescape(path)
		if !ok {
			if lettersOnly(path) && !stemOfRest(t, table, method, path) &&
				slices.ContainsFunc(table, func(r permission.Rule) bool { return matches(r.Route, method, path) }) {
				t.Fatalf("%s %s matched nothing", method, path)
			}
			return
		}
		if err != nil {
			t.Fatalf("%s %s matched with an invalid escape", method, path)
		}
		for _, read := range []string{path, unescaped, strings.ToLower(unescaped)} {
			var best permission.Rule
			for _, r := range table {
				if matches(r.Route, method, read) && (best.Name == "" || atLeastAsPrecise(r.Route, best.Route, method)) {
					best = r
				}
			}
			if best.Name != got {
				t.Fatalf("%s %s matched %s, read as %q it is %s (%s)", method, path, got, read, best.Name, best.Route)
			}
		}
	})
}

// stemOfRest reports whether a path ends where the {rest...} of a route begins.
func stemOfRest(t *rapid.T, table []permission.Rule, method, path string) bool {
	return slices.ContainsFunc(table, func(r permission.Rule) bool {
		stem, ok := strings.CutSuffix(r.Route.String(), "/{rest...}")
		if !ok || strings.HasSuffix(stem, " ") {
			return ok && path == "/"
		}
		route, err := permission.ParseRoute(stem)
		if err != nil {
			t.Fatal(err)
		}
		return matches(route, method, path)
	})
}

// lettersOnly reports whether a path consists of lower-case letters, so that nothing is in doubt.
func lettersOnly(path string) bool {
	if path == "/" {
		return true
	}
	for _, s := range strings.Split(path, "/")[1:] {
		if s == "" || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz") != "" {
			return false
		}
	}
	return true
}

// An upstream with the same routes, here the standard library's, serves a request
// by the route whose permission was asked for.
func TestUpstreamSeesTheSameRoute(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := drawTable(t)
		router, err := permission.NewRouter(table)
		if err != nil {
			return
		}
		mux := http.NewServeMux()
		byPattern := map[string]permission.Name{}
		for _, r := range table {
			pattern := r.Route.String()
			pattern = strings.TrimPrefix(pattern, "ANY ")
			if strings.HasSuffix(pattern, "/") {
				pattern += "{$}"
			}
			byPattern[pattern] = r.Name
			if !register(mux, pattern) {
				return // it refuses more tables than we do
			}
		}
		for range 20 {
			method, path := methodGen.Draw(t, "method"), pathGen.Draw(t, "path")
			got, ok := router.Match(method, path)
			if !ok {
				continue
			}
			u, err := url.ParseRequestURI(path)
			if err != nil {
				t.Fatalf("%s %s matched, and is no request URI: %v", method, path, err)
			}
			_, pattern := mux.Handler(&http.Request{Method: method, URL: u, Host: "example.com"})
			if byPattern[pattern] != got {
				t.Fatalf("%s %s matched %s, the upstream serves it by %q (%s)", method, path, got, pattern, byPattern[pattern])
			}
		}
	})
}

func register(mux *http.ServeMux, pattern string) (ok bool) {
	defer func() { ok = recover() == nil }()
	mux.HandleFunc(pattern, http.NotFound)
	return true
}

func FuzzMatch(f *testing.F) {
	lines := slices.DeleteFunc(slices.Clone(table), func(line string) bool { return strings.Contains(line, "/audit") })
	table := rules(f, lines...)
	router, err := permission.NewRouter(table)
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range []string{"/", "/api/v1/interviews/42", "/api/v1/interviews/%73tart", "/files/..%2fx", "/files/a;b", "/x/Y/z", "/files/%c3%bc", "/files/public/a/b"} {
		f.Add("GET", path)
		f.Add("HEAD", path)
		f.Add("POST", path)
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		got, ok := router.Match(method, path)
		if !ok {
			if got != "" {
				t.Fatal("a name without a match")
			}
			return
		}
		unescaped, err := url.PathUnescape(path)
		if err != nil || strings.Count(unescaped, "/") != strings.Count(path, "/") {
			t.Fatalf("%q matched", path)
		}
		// What a request with this path arrives as is what was matched.
		request := httptest.NewRequest(http.MethodGet, path, nil)
		if request.URL.Path != unescaped || request.URL.RawQuery != "" || request.URL.Host != "" {
			t.Fatalf("%q arrives as %v", path, request.URL)
		}
		for _, read := range []string{path, unescaped, strings.ToLower(unescaped)} {
			var best permission.Rule
			for _, r := range table {
				if matches(r.Route, method, read) && (best.Name == "" || atLeastAsPrecise(r.Route, best.Route, method)) {
					best = r
				}
			}
			if best.Name != got {
				t.Fatalf("%s %q matched %s, read as %q it is %s", method, path, got, read, best.Name)
			}
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	router, err := permission.NewRouter(rules(b, table[:9]...))
	if err != nil {
		b.Fatal(err)
	}
	for name, path := range map[string]string{
		"plain":   "/api/v1/interviews/0191b6a2-7c1e-7d4c-9a55-3b8f7a0c2f11/complete",
		"escaped": "/api/v1/interviews/m%C3%BCller/complete",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := router.Match("POST", path); !ok {
					b.Fatal("no match")
				}
			}
		})
	}
}

func BenchmarkNewRouter(b *testing.B) {
	// The worst the limits allow: every route overlaps every other.
	worst := make([]string, 0, permission.MaxRoutes)
	for i := range permission.MaxRoutes {
		literals := make([]string, 11)
		for j := range literals {
			literals[j] = "{p" + fmt.Sprint(j) + "}"
			if i>>j&1 == 1 {
				literals[j] = "a"
			}
		}
		worst = append(worst, "GET /"+strings.Join(literals, "/")+" a:b")
	}
	table := rules(b, worst...)
	b.ResetTimer()
	for b.Loop() {
		if _, err := permission.NewRouter(table); err != nil {
			b.Fatal(err)
		}
	}
}
