package sqlview

import (
	"errors"
	"math"
	"testing"

	"github.com/keyledger/keyledger/events"
)

func TestListsAreToldApartByEveryPart(t *testing.T) {
	seen := map[List]bool{}
	for _, parts := range [][]string{nil, {""}, {"", ""}, {"a"}, {"a", ""}, {"", "a"}, {"a", "b"}, {"ab"}, {"b", "a"}} {
		l := ListOf(parts...)
		if seen[l] {
			t.Errorf("%q is another list too", parts)
		}
		seen[l] = true
	}
}

// FuzzCursor holds that a text is refused, or is the one text of its place.
func FuzzCursor(f *testing.F) {
	l := ListOf("keys", "acme")
	for _, pos := range []events.Position{1, 127, 128, 1 << 40, math.MaxInt64} {
		f.Add(l.cursor(pos))
	}
	f.Add("")
	f.Add("AQ")
	f.Add(ListOf("others").cursor(1))
	f.Fuzz(func(t *testing.T, text string) {
		pos, err := l.After(text)
		switch {
		case err != nil:
			if !errors.Is(err, ErrBadCursor) {
				t.Fatal(err)
			}
		case text == "":
			if pos != 0 {
				t.Fatal("a beginning that is none")
			}
		case pos <= 0 || l.cursor(events.Position(pos)) != text:
			t.Fatalf("%q is read as %d, which is written %q", text, pos, l.cursor(events.Position(pos)))
		}
	})
}
