package permission_test

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/domain/permission"
)

// allowed makes the answers of a key out of the names that it is allowed.
func allowed(names ...string) func(permission.Grant) bool {
	return func(g permission.Grant) bool { return slices.Contains(names, string(g)) }
}

func TestQueryHolds(t *testing.T) {
	for _, c := range []struct {
		query string
		// yes and no are sets of names under which it holds and does not.
		yes, no []string
	}{
		{"a:x", []string{"a:x", "a:x b:x"}, []string{"", "b:x"}},
		{"a:*", []string{"a:*"}, []string{"a:x", ""}},
		{"a:x AND b:x", []string{"a:x b:x"}, []string{"", "a:x", "b:x"}},
		{"a:x or b:x", []string{"a:x", "b:x", "a:x b:x"}, []string{"", "c:x"}},
		{"a:x OR b:x AND c:x", []string{"a:x", "b:x c:x"}, []string{"b:x", "c:x"}},
		{"a:x AND b:x OR c:x", []string{"a:x b:x", "c:x"}, []string{"a:x", "b:x"}},
		{"a:x AND (b:x OR c:x)", []string{"a:x b:x", "a:x c:x"}, []string{"a:x", "b:x c:x"}},
		{"(a:x OR b:x) AND (c:x OR d:x)", []string{"a:x c:x", "b:x d:x"}, []string{"a:x b:x", "c:x d:x"}},
		{"a:x And b:x aND c:x oR d:x", []string{"a:x b:x c:x", "d:x"}, []string{"a:x b:x"}},
		{" \t(\n((a:x))\r\n) ", []string{"a:x"}, []string{""}},
		{"a:x AND(b:x)OR(c:x)", []string{"a:x b:x", "c:x"}, []string{"b:x"}},
		{"and:or OR or:and", []string{"and:or", "or:and"}, []string{"and:and"}},
		{"a:x AND a:x", []string{"a:x"}, []string{""}},
	} {
		q, err := permission.ParseQuery(c.query)
		if err != nil || q.Text() != c.query {
			t.Errorf("%q: %v", c.query, err)
			continue
		}
		for _, set := range c.yes {
			if !q.Holds(allowed(strings.Fields(set)...)) {
				t.Errorf("%q does not hold of %q", c.query, set)
			}
		}
		for _, set := range c.no {
			if q.Holds(allowed(strings.Fields(set)...)) {
				t.Errorf("%q holds of %q", c.query, set)
			}
		}
	}
	var zero permission.Query
	if zero.Holds(func(permission.Grant) bool { return true }) {
		t.Error("a query that was never parsed holds")
	}
}

// nested is a name within so many parentheses.
func nested(depth int) string {
	return strings.Repeat("(", depth) + "a:b" + strings.Repeat(")", depth)
}

// joined is a query of n names.
func joined(n int) string { return strings.TrimSuffix(strings.Repeat("a:b AND ", n), " AND ") }

func TestQueryBounds(t *testing.T) {
	long := strings.Repeat(" ", permission.MaxQueryLen-3) + "a:b"
	for _, good := range []string{nested(permission.MaxQueryDepth), joined(permission.MaxQueryNames), long, strings.Repeat("(a:b) AND ", 10) + "a:b"} {
		if _, err := permission.ParseQuery(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

func TestQueryFaults(t *testing.T) {
	for _, c := range []struct {
		query string
		at    int
		fault string
	}{
		{"", 1, "a permission is missing here"},
		{"  ", 3, "a permission is missing here"},
		{"()", 2, "a permission is missing before this"},
		{"AND", 1, "a permission is missing before this"},
		{"a:b AND", 8, "a permission is missing here"},
		{"a:b OR OR c:d", 8, "a permission is missing before this"},
		{"a:b c:d", 5, "AND or OR is missing"},
		{"a:b (c:d)", 5, "AND or OR is missing"},
		{"(a:b c:d)", 6, "AND or OR is missing"},
		{"(a:b)(c:d)", 6, "AND or OR is missing"},
		{"a:b)", 4, "closes nothing"},
		{"a:b AND (c:d OR e:f", 9, "never closed"},
		{"((a:b)", 1, "never closed"},
		{"a:b && c:d", 5, "AND or OR is missing"},
		{"a:b AND && c:d", 9, "joined by AND and OR"},
		{"a:b,c:d AND e:f", 1, "joined by AND and OR"},
		{"a:b AND NOT c:d", 9, "there is no NOT"},
		{"!a:b OR c:d", 1, "there is no NOT"},
		{"*", 1, "all actions of one resource"},
		{"*:*", 1, "all actions of one resource"},
		{"a:b* OR c:d", 1, "all actions of one resource"},
		{"*:b", 1, "all actions of one resource"},
		{"a:b OR interview", 8, "resource:action"},
		{"a:b OR Interview:read", 8, "the resource does not start"},
		{"a:b OR :read", 8, "the resource is empty"},
		{"a:b OR a:", 8, "the action is empty"},
		{"a:b OR a:b:c", 8, "the action has a character, number 2"},
		{"a:b OR ä:b", 8, "the resource does not start"},
		{"a:b OR " + part64 + ":b", 8, "the resource has 64 characters"},
		{nested(permission.MaxQueryDepth + 1), permission.MaxQueryDepth + 1, "nest deeper"},
		{joined(permission.MaxQueryNames + 1), 8*permission.MaxQueryNames + 1, "at most 32 permissions"},
		{strings.Repeat(" ", permission.MaxQueryLen-2) + "a:b", permission.MaxQueryLen + 1, "at most 512 bytes, and this has 513"},
	} {
		q, err := permission.ParseQuery(c.query)
		var fault *permission.QueryError
		if !errors.As(err, &fault) || !errors.Is(err, permission.ErrQuery) {
			t.Errorf("%q: %v", c.query, err)
			continue
		}
		if fault.At != c.at || !strings.Contains(fault.Fault, c.fault) || !strings.Contains(err.Error(), fmt.Sprint("at byte ", c.at)) {
			t.Errorf("%q: %v, want %q at byte %d", c.query, err, c.fault, c.at)
		}
		if q.Holds(func(permission.Grant) bool { return true }) {
			t.Errorf("%q does not parse and holds", c.query)
		}
	}
}

// What is shown of a fault must not be what was given: it may be a key.
func TestQueryFaultsRepeatNothing(t *testing.T) {
	for _, text := range []string{"kl_live_SECRET x", "a:b OR SECRET", "a:SECRET OR b:c", "a:b(SECRET)", "SECRET&&SECRET "} {
		if _, err := permission.ParseQuery(text); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%v", err)
		}
	}
}

func TestMayBeQuery(t *testing.T) {
	for _, c := range names {
		if c.fault == "" && permission.MayBeQuery(c.text) {
			t.Errorf("%q is a name", c.text)
		}
	}
	for _, text := range []string{"a:b OR c:d", "(a:b)", "a:*", "a:b\tOR\tc:d", "a:b\n", "a:b\r"} {
		if !permission.MayBeQuery(text) {
			t.Errorf("%q is a query", text)
		}
	}
}

func TestQueriesAllocateNothing(t *testing.T) {
	const text = "(interview:read OR report:*) AND (interview:start OR interview:complete OR admin:all)"
	q, err := permission.ParseQuery(text)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if again, err := permission.ParseQuery(text); err != nil || again.Text() != text {
			t.Fatal("not parsed")
		}
	}); n != 0 {
		t.Errorf("parsing: %v allocations", n)
	}
	want := "admin:all"
	if n := testing.AllocsPerRun(100, func() {
		if q.Holds(func(g permission.Grant) bool { return string(g) == want }) {
			t.Fatal("holds")
		}
	}); n != 0 {
		t.Errorf("evaluating: %v allocations", n)
	}
}

// naive answers a query in the most different way: it cuts the text at every OR
// outside of parentheses, the parts at every AND, and goes on inside of each. It
// asks about everything, and knows no bounds.
func naive(text string, allows func(permission.Grant) bool) (holds, ok bool) {
	words := strings.FieldsFunc(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(text), func(r rune) bool { return strings.ContainsRune(" \t\r\n", r) })
	return naiveWords(words, allows)
}

func naiveWords(words []string, allows func(permission.Grant) bool) (holds, ok bool) {
	either, matched := cutAt(words, "or")
	both, _ := cutAt(words, "and")
	switch n := len(words); {
	case !matched:
		return false, false
	case len(either) > 1:
		ok = true
		for _, part := range either {
			h, good := naiveWords(part, allows)
			holds, ok = holds || h, ok && good
		}
		return holds, ok
	case len(both) > 1:
		holds, ok = true, true
		for _, part := range both {
			h, good := naiveWords(part, allows)
			holds, ok = holds && h, ok && good
		}
		return holds, ok
	case n == 1:
		g, err := permission.ParseGrant(words[0])
		return err == nil && allows(g), err == nil
	case n > 2 && words[0] == "(" && words[n-1] == ")":
		return naiveWords(words[1:n-1], allows)
	default:
		return false, false
	}
}

// cutAt cuts words at a keyword outside of parentheses; not ok where these do
// not match.
func cutAt(words []string, keyword string) (parts [][]string, ok bool) {
	depth, begin := 0, 0
	for i, w := range words {
		switch {
		case w == "(":
			depth++
		case w == ")":
			if depth--; depth < 0 {
				return nil, false
			}
		case depth == 0 && strings.ToLower(w) == keyword:
			parts, begin = append(parts, words[begin:i]), i+1
		}
	}
	return append(parts, words[begin:]), depth == 0
}

// written draws a query, and no more parentheses than may nest.
func written(t *rapid.T, depth int) string {
	one := func(t *rapid.T) string {
		if depth > 0 && rapid.IntRange(0, 3).Draw(t, "group") == 0 {
			return "(" + written(t, depth-1) + ")"
		}
		return rapid.SampledFrom([]string{"a:x", "a:y", "b:x", "b:*", "c.d:e_f", "and:or"}).Draw(t, "name")
	}
	var b strings.Builder
	for n := rapid.IntRange(1, 3).Draw(t, "parts"); ; n-- {
		b.WriteString(rapid.SampledFrom([]string{"", " ", "\n"}).Draw(t, "before") + one(t) + rapid.SampledFrom([]string{"", " ", "\t "}).Draw(t, "behind"))
		if n == 1 {
			return b.String()
		}
		b.WriteString(rapid.SampledFrom([]string{" AND ", " OR ", " and\n", "\tor "}).Draw(t, "joined"))
	}
}

func TestQueriesAgreeWithTheNaive(t *testing.T) {
	parsed := 0
	rapid.Check(t, func(t *rapid.T) {
		text := written(t, 3)
		q, err := permission.ParseQuery(text)
		if err != nil {
			if len(text) <= permission.MaxQueryLen && strings.Count(text, ":") <= permission.MaxQueryNames {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		parsed++
		for range 8 {
			have := allowed(rapid.SliceOf(rapid.SampledFrom([]string{"a:x", "a:y", "b:x", "b:*", "c.d:e_f", "and:or"})).Draw(t, "allowed")...)
			want, ok := naive(text, have)
			if got := q.Holds(have); !ok || got != want {
				t.Fatalf("%q holds: %v, want %v (%v)", text, got, want, ok)
			}
		}
	})
	if parsed == 0 {
		t.Error("no query was drawn that parses")
	}
}

// FuzzParseQuery holds the parser to the naive one: what one takes the other
// takes, but for its bounds, and they answer the same.
func FuzzParseQuery(f *testing.F) {
	for _, seed := range []string{
		"a:b", "a:*", "a:b AND (c:d OR e:*)", " ( a:b ) ", "a:b or c:d and e:f", "a:b,c:d", "(empty)", "))((", "a:b OR", "kl_live_x", "a:b\x00c:d", "AND:or",
		nested(8), nested(9), joined(32), joined(33), "a:b OR 𝐀ND c:d", "a:ſ OR b:c",
	} {
		f.Add(seed)
	}
	seed := maphash.MakeSeed()
	f.Fuzz(func(t *testing.T, text string) {
		q, err := permission.ParseQuery(text)
		for salt := range 4 {
			have := func(g permission.Grant) bool { return maphash.String(seed, fmt.Sprint(salt, g))&1 == 0 }
			want, ok := naive(text, have)
			if err != nil {
				if ok && len(text) <= permission.MaxQueryLen && strings.Count(text, ":") <= permission.MaxQueryNames && strings.Count(text, "(") <= permission.MaxQueryDepth {
					t.Fatalf("%q: %v", text, err)
				}
				continue
			}
			if got := q.Holds(have); !ok || got != want {
				t.Fatalf("%q holds: %v, by the naive %v (%v)", text, got, want, ok)
			}
		}
		if err != nil {
			var fault *permission.QueryError
			if !errors.As(err, &fault) || fault.At < 1 || fault.At > len(text)+1 {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if len(text) > permission.MaxQueryLen || strings.Trim(text, "abcdefghijklmnopqrstuvwxyzANDOR0123456789_.-:* ()\t\r\n") != "" {
			t.Fatalf("%q is a query", text)
		}
		if _, err := permission.ParseName(text); permission.MayBeQuery(text) == (err == nil) {
			t.Fatalf("%q: a query %v, a name %v", text, permission.MayBeQuery(text), err)
		}
	})
}
