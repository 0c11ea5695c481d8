package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
)

func TestDistance(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0:                                    "in 0 seconds",
		time.Second:                          "in 1 second",
		-45 * time.Second:                    "45 seconds ago",
		15 * time.Minute:                     "in 15 minutes",
		time.Hour:                            "in 60 minutes",
		-24 * time.Hour:                      "24 hours ago",
		90*24*time.Hour - time.Millisecond:   "in 90 days",
		182 * 24 * time.Hour:                 "in 6 months",
		-2 * 365 * 24 * time.Hour:            "2 years ago",
		10*365*24*time.Hour + 48*time.Hour:   "in 10 years",
		100*365*24*time.Hour + 600*time.Hour: "in 100 years",
	} {
		if got := distance(now.Add(d), now); got != want {
			t.Errorf("%s: got %q, want %q", d, got, want)
		}
	}
}

// TestGridFits holds a table to the width of the terminal: spare columns go
// first, then the widest are cut, and an id never is.
func TestGridFits(t *testing.T) {
	const id = "0198c0de-0000-7000-8000-000000000001"
	g := grid{
		head:  []string{"ID", "NAME", "STATUS", "MAY", "LAST USED"},
		whole: map[string]bool{"ID": true, "STATUS": true}, spare: []string{"LAST USED"},
	}
	g.add(id, id, strings.Repeat("ü", 60), "ACTIVE", "interview:start, interview:read", "3 minutes ago")
	for _, tt := range []struct {
		width int
		head  string
	}{
		{0, "LAST USED"}, {200, "LAST USED"}, {90, "LAST USED"}, {85, "MAY"}, {80, "MAY"}, {70, "MAY"},
	} {
		var out bytes.Buffer
		p := &printer{out: &out, width: tt.width, colour: true}
		if err := p.grid("", g); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		for _, line := range lines {
			if w := text.StringWidthWithoutEscSequences(line); tt.width > 0 && w > tt.width {
				t.Errorf("width %d: a line of %d columns: %s", tt.width, w, line)
			}
		}
		// What is left out is said below.
		if tt.head == "MAY" && (len(lines) != 4 || !strings.Contains(lines[3], "No room for: last used.")) {
			t.Errorf("width %d:\n%s", tt.width, out.String())
		}
		if tt.head != "MAY" && len(lines) != 2 || !strings.HasSuffix(text.StripEscape(lines[0]), tt.head) || !strings.HasPrefix(lines[1], id+"  ") || !strings.Contains(lines[1], "ACTIVE") {
			t.Errorf("width %d:\n%s", tt.width, out.String())
		}
	}
}

// TestHostileText shows that a name from elsewhere cannot drive the terminal.
func TestHostileText(t *testing.T) {
	var out bytes.Buffer
	p := &printer{out: &out, colour: true}
	g := grid{head: []string{"NAME"}}
	g.add("1", "a\x1b[2Jb\rc\nd")
	if err := p.list(nil, g); err != nil {
		t.Fatal(err)
	}
	if err := p.fields("", []field{{"name", "a\x1b[2Jb\rc"}}); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); strings.Contains(s, "\x1b[2J") || strings.Contains(s, "\r") || !strings.Contains(s, "c d") {
		t.Errorf("%q", s)
	}
}
