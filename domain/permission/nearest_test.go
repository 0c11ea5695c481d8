package permission_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/domain/permission"
)

func TestNearest(t *testing.T) {
	catalog := []string{"interview:stop", "interview:start", "interview:list", "report:export", "report:list", "key:list", "a:b"}
	for _, c := range []struct{ want, nearest string }{
		{"interview:start", "interview:start"},
		{"interview:strt", "interview:start"},
		{"interviews:start", "interview:start"},
		{"interview.start", "interview:start"},
		{"Interview:Start", "interview:start"},
		{"INTERVIEW:START", "interview:start"},
		{"intervew:strt", "interview:start"},
		{"reprot:exprot", "report:export"},
		{"keys:list", "key:list"},
		{"a:c", "a:b"},
		{"", ""},
		{"invoice:pay", ""},
		{"x:y", ""},
		{"export", ""},
		{strings.Repeat("interview:start", 100), ""},
	} {
		got, ok := permission.Nearest(c.want, catalog)
		if got != c.nearest || ok != (c.nearest != "") {
			t.Errorf("Nearest(%q) = %q, %v, want %q", c.want, got, ok, c.nearest)
		}
	}
	if got, ok := permission.Nearest("a:b", nil); ok || got != "" {
		t.Errorf("of nothing: %q", got)
	}
	if got, _ := permission.Nearest("ab:list", []string{"ad:list", "ac:list", "ae:list"}); got != "ac:list" {
		t.Errorf("of equals %q, want the first in the alphabet", got)
	}
}

// editDistance is the textbook table, in full.
func editDistance(a, b string) int {
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		for j := range d[i] {
			switch {
			case i == 0:
				d[i][j] = j
			case j == 0:
				d[i][j] = i
			default:
				cost := 1
				if a[i-1] == b[j-1] {
					cost = 0
				}
				d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
				if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
					d[i][j] = min(d[i][j], d[i-2][j-2]+1)
				}
			}
		}
	}
	return d[len(a)][len(b)]
}

func TestNearestAgreesWithTheTextbook(t *testing.T) {
	word := rapid.StringMatching(`[abAB:]{0,20}`)
	rapid.Check(t, func(t *rapid.T) {
		want := word.Draw(t, "want")
		have := rapid.SliceOfN(word, 0, 6).Draw(t, "have")
		limit, best, found := min(1+len(want)/6, 3), "", false
		nearest := limit + 1
		for _, h := range have {
			d := editDistance(strings.ToLower(want), strings.ToLower(h))
			if want != "" && d <= limit && (d < nearest || d == nearest && h < best) {
				best, nearest, found = h, d, true
			}
		}
		if got, ok := permission.Nearest(want, have); ok != found || got != best {
			t.Fatalf("Nearest(%q, %q) = %q, %v, by the textbook %q", want, have, got, ok, best)
		}
	})
}

func BenchmarkNearest(b *testing.B) {
	have := make([]string, 1000)
	for i := range have {
		have[i] = strings.Repeat("r", 10+i%20) + ":action"
	}
	want := strings.Repeat("r", 20) + ":acton"
	for b.Loop() {
		if _, ok := permission.Nearest(want, have); !ok {
			b.Fatal("none")
		}
	}
}
