package permission_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/domain/permission"
)

var (
	nameForm  = regexp.MustCompile(`\A[a-z0-9][a-z0-9_.-]{0,62}:[a-z0-9][a-z0-9_.-]{0,62}\z`)
	grantForm = regexp.MustCompile(`\A[a-z0-9][a-z0-9_.-]{0,62}:([a-z0-9][a-z0-9_.-]{0,62}|\*)\z`)

	part63 = strings.Repeat("a", 63)
	part64 = strings.Repeat("a", 64)
)

var names = []struct {
	text, fault string
}{
	{"interview:start", ""},
	{"a:b", ""},
	{"0:9", ""},
	{"provider_key.v2:read-only", ""},
	{part63 + ":" + part63, ""},
	{"", "no ':'"},
	{"interview", "no ':'"},
	{":start", "resource is empty"},
	{"interview:", "action is empty"},
	{":", "resource is empty"},
	{"a:b:c", "action has a character, number 2"},
	{"interview:*", "action does not start"},
	{"*:start", "resource does not start"},
	{"Interview:start", "resource does not start"},
	{"interView:start", "resource has a character, number 6"},
	{"interview:start ", "action has a character, number 6"},
	{"interview:st\x00art", "action has a character, number 3"},
	{"interview:stärt", "action has a character, number 3"},
	{"_a:b", "resource does not start"},
	{"a:.b", "action does not start"},
	{part64 + ":b", "resource has 64 characters"},
	{"a:" + part64, "action has 64 characters"},
}

func TestParseName(t *testing.T) {
	for _, c := range names {
		n, err := permission.ParseName(c.text)
		if c.fault != "" {
			if !errors.Is(err, permission.ErrName) || !strings.Contains(err.Error(), c.fault) || n != "" {
				t.Errorf("%q: %q, %v, want an error about %q", c.text, n, err, c.fault)
			}
			continue
		}
		if err != nil || string(n) != c.text || n.Resource()+":"+n.Action() != c.text {
			t.Errorf("%q: %q (%q, %q), %v", c.text, n, n.Resource(), n.Action(), err)
		}
	}
}

func TestParseGrant(t *testing.T) {
	for _, c := range names {
		if _, err := permission.ParseGrant(c.text); (err == nil) != (c.fault == "" || c.text == "interview:*") {
			t.Errorf("%q: %v", c.text, err)
		}
	}
	g, err := permission.ParseGrant("interview:*")
	if err != nil || !g.Wildcard() || g.Resource() != "interview" {
		t.Errorf("interview:*: %q, %v", g, err)
	}
	for text, fault := range map[string]string{
		"*":             "no ':'",
		"*:*":           "resource does not start",
		":*":            "resource is empty",
		"a:**":          "action does not start",
		"a:b*":          "action has a character, number 2",
		"a:b:*":         "resource has a character, number 2",
		part64 + ":*":   "resource has 64",
		"interview:* ":  "action does not start",
		"interview.*":   "no ':'",
		"INTERVIEW:*":   "resource does not start",
		"interview :*":  "resource has a character",
		"interview:\n*": "action does not start",
	} {
		if g, err := permission.ParseGrant(text); !errors.Is(err, permission.ErrGrant) || !strings.Contains(err.Error(), fault) || g != "" {
			t.Errorf("%q: %q, %v, want an error about %q", text, g, err, fault)
		}
	}
}

// A key pasted into a permission must not come back in the error.
func TestErrorsDoNotRepeatTheInput(t *testing.T) {
	const pasted = "kl_live_S3cretS3cretS3cret"
	var errs []error
	for _, text := range []string{pasted, "a:" + pasted, pasted + ":*", pasted + ":b", "GET " + pasted, pasted + " /", "GET /" + pasted + "*", "GET /{" + pasted + "-}"} {
		_, err1 := permission.ParseName(text)
		_, err2 := permission.ParseGrant(text)
		_, err3 := permission.ParseRoute(text)
		_, err4 := permission.ParseLevel(text)
		_, err5 := permission.ParseAccess(text)
		errs = append(errs, err1, err2, err3, err4, err5)
	}
	for _, err := range errs {
		if err == nil || strings.Contains(err.Error(), "S3cret") {
			t.Error("no error, or one that repeats its input")
		}
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		grant permission.Grant
		name  permission.Name
		want  bool
	}{
		{"interview:start", "interview:start", true},
		{"interview:*", "interview:start", true},
		{"interview:*", "interview:a.b-c", true},
		{"interview:start", "interview:stop", false},
		{"interview:start", "interview:start2", false},
		{"interview:*", "interviews:start", false},
		{"interview:*", "view:start", false},
		{"interviews:*", "interview:start", false},
		// Never parsed, so neither grants nor is granted.
		{"", "", false},
		{"", "a:b", false},
		{"*", "*", false},
		{"*", "a:b", false},
		{"*:*", "a:b", false},
		{":*", ":b", false},
		{"a:*", "", false},
		{"a:*", "a:", false},
		{"a:*", "a:*", false},
		{"a:b:*", "a:b:c", false},
		{"a*", "a:b", false},
		{"a:b*", "a:bc", false},
		{"A:b", "A:b", false},
		{"a", "a", false},
	} {
		if got := c.grant.Matches(c.name); got != c.want {
			t.Errorf("Grant(%q).Matches(%q) = %v", c.grant, c.name, got)
		}
	}
}

// What matches, valid or not by its looks, consists of a valid grant and a valid
// name, and only a grant that says so spans actions.
func TestOnlyValidGrantsMatch(t *testing.T) {
	piece := rapid.SampledFrom([]string{"a", "b", ":", "*", ".", "A", "", "ab", ":*", " "})
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) string {
			return strings.Join(rapid.SliceOfN(piece, 0, 5).Draw(t, label), "")
		}
		g, n := permission.Grant(draw("grant")), permission.Name(draw("name"))
		want := grantForm.MatchString(string(g)) && nameForm.MatchString(string(n)) &&
			(string(g) == string(n) || string(g) == n.Resource()+":*")
		if got := g.Matches(n); got != want {
			t.Fatalf("Grant(%q).Matches(%q) = %v", g, n, got)
		}
		if got := permission.Allowed(permission.LevelRestricted, []permission.Grant{g}, n, permission.AccessWrite); got != want {
			t.Fatalf("Allowed differs from Matches for %q and %q", g, n)
		}
	})
}

func TestAllowed(t *testing.T) {
	grants := []permission.Grant{"interview:start", "report:*"}
	const read, write = permission.AccessRead, permission.AccessWrite
	for _, c := range []struct {
		level  permission.Level
		grants []permission.Grant
		name   permission.Name
		access permission.Access
		want   bool
	}{
		{permission.LevelAll, nil, "interview:start", write, true},
		{permission.LevelAll, nil, "interview:list", read, true},
		{permission.LevelAll, nil, "interview:start", "", false},
		{permission.LevelAll, nil, "interview:start", "admin", false},
		{permission.LevelAll, nil, "", read, false},
		{permission.LevelAll, nil, "interview:*", read, false},
		{permission.LevelReadOnly, nil, "interview:list", read, true},
		{permission.LevelReadOnly, nil, "interview:start", write, false},
		{permission.LevelReadOnly, grants, "interview:start", write, false},
		{permission.LevelReadOnly, nil, "interview:start", "", false},
		{permission.LevelReadOnly, nil, "", read, false},
		{permission.LevelRestricted, grants, "interview:start", write, true},
		{permission.LevelRestricted, grants, "interview:stop", write, false},
		{permission.LevelRestricted, grants, "report:export", read, true},
		{permission.LevelRestricted, grants, "report:export", "", false},
		{permission.LevelRestricted, nil, "interview:start", write, false},
		{"", grants, "interview:start", write, false},
		{"ALL", grants, "interview:start", write, false},
		{"owner", grants, "interview:start", write, false},
	} {
		if got := permission.Allowed(c.level, c.grants, c.name, c.access); got != c.want {
			t.Errorf("Allowed(%q, %v, %q, %q) = %v", c.level, c.grants, c.name, c.access, got)
		}
	}
}

func TestAllowedDoesNotAllocate(t *testing.T) {
	grants := []permission.Grant{"a:b", "c:d", "interview:*"}
	if n := testing.AllocsPerRun(100, func() {
		_ = permission.Allowed(permission.LevelRestricted, grants, "interview:start", permission.AccessWrite)
		_ = permission.Allowed(permission.LevelAll, grants, "interview:start", permission.AccessWrite)
		_ = permission.Allowed(permission.LevelRestricted, grants, "not valid", permission.AccessWrite)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestParseLevelAndAccess(t *testing.T) {
	for _, s := range []string{"all", "read_only", "restricted"} {
		if l, err := permission.ParseLevel(s); err != nil || string(l) != s {
			t.Errorf("%q: %q, %v", s, l, err)
		}
	}
	for _, s := range []string{"read", "write"} {
		if a, err := permission.ParseAccess(s); err != nil || string(a) != s {
			t.Errorf("%q: %q, %v", s, a, err)
		}
	}
	for _, s := range []string{"", "ALL", "All", "readonly", "none", " all"} {
		if l, err := permission.ParseLevel(s); !errors.Is(err, permission.ErrLevel) || l != "" {
			t.Errorf("level %q: %q, %v", s, l, err)
		}
		if a, err := permission.ParseAccess(s); !errors.Is(err, permission.ErrAccess) || a != "" {
			t.Errorf("access %q: %q, %v", s, a, err)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, c := range names {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := permission.ParseName(s)
		if (err == nil) != nameForm.MatchString(s) {
			t.Fatalf("%q: %v", s, err)
		}
		if err == nil && (string(n) != s || len(s) > permission.MaxNameLen) || err != nil && n != "" {
			t.Fatalf("%q gave %q", s, n)
		}
		if got := permission.Allowed(permission.LevelAll, nil, permission.Name(s), permission.AccessRead); got != (err == nil) {
			t.Fatalf("%q: parsed %v, allowed %v", s, err, got)
		}
	})
}

func FuzzParseGrant(f *testing.F) {
	for _, c := range names {
		f.Add(c.text, "a:b")
		f.Add("a:*", c.text)
	}
	f.Fuzz(func(t *testing.T, grant, name string) {
		g, err := permission.ParseGrant(grant)
		if (err == nil) != grantForm.MatchString(grant) {
			t.Fatalf("%q: %v", grant, err)
		}
		if err == nil && string(g) != grant || err != nil && g != "" {
			t.Fatalf("%q gave %q", grant, g)
		}
		if raw := permission.Grant(grant); raw.Wildcard() != (err == nil && strings.HasSuffix(grant, "*")) {
			t.Fatalf("%q: Wildcard = %v", grant, raw.Wildcard())
		}
		want := err == nil && nameForm.MatchString(name) && (grant == name || strings.HasSuffix(grant, ":*") && strings.HasPrefix(name, grant[:len(grant)-1]))
		if got := permission.Grant(grant).Matches(permission.Name(name)); got != want {
			t.Fatalf("Grant(%q).Matches(%q) = %v", grant, name, got)
		}
	})
}

func BenchmarkAllowed(b *testing.B) {
	grants := []permission.Grant{"report:export", "interview:list", "interview:*"}
	b.ReportAllocs()
	for b.Loop() {
		if !permission.Allowed(permission.LevelRestricted, grants, "interview:start", permission.AccessWrite) {
			b.Fatal("denied")
		}
	}
}
