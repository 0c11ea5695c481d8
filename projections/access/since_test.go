package access

import (
	"testing"

	"github.com/keyledger/keyledger/events"
)

// What stands behind the position are all records of that time or later, also those
// that came among older ones, and little else.
func TestSince(t *testing.T) {
	s := newStream(t)
	v := open(t, file(t))
	since := func(at events.Time) events.Position {
		t.Helper()
		pos, err := v.Since(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		return pos
	}
	if pos := since(0); pos != 0 {
		t.Errorf("%d of an empty view", pos)
	}
	s.put(1, 10*minute, 1, denied("acme", 1)) // position 1
	s.put(1, 12*minute, 1, denied("acme", 1)) // 2
	s.put(2, 11*minute, 1, denied("acme", 1)) // 3
	s.put(2, 13*minute, 1, denied("acme", 1)) // 4
	s.put(1, 12*minute, 1, denied("acme", 1)) // adds to the row of 2
	apply(t, v, s.list)
	for at, want := range map[events.Time]events.Position{
		0: 0, 10*minute + 59_999_999: 0, 11 * minute: 1, 12 * minute: 1, 13 * minute: 3, 13*minute + 5: 3, 14 * minute: 5,
	} {
		if pos := since(at); pos != want {
			t.Errorf("since %d: %d, want %d", at, pos, want)
		}
	}
}
