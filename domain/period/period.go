// Package period reads the lengths of time that people write for keys, and adds
// them to an instant as a calendar does.
//
// A period is `<n>d`, `<n>mo`, `<n>y` or `never`; months and years are those of
// the calendar in UTC, clamped to the month's end, so that a month after
// 31 January is the last day of February. A grace is `0`, `<n>m`, `<n>h` or
// `<n>d`, where `m` is always minutes.
package period

import (
	"cmp"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

// Never is the period that does not end.
const Never events.Period = "never"

// Choices are the periods offered to people.
var Choices = [...]events.Period{"7d", "14d", "30d", "60d", "90d", "180d", "1mo", "3mo", "6mo", "1y", Never}

type unit string

const (
	days   unit = "d"
	months unit = "mo"
	years  unit = "y"
)

// Check refuses what is no period. Empty is one: it says that none was set.
func Check(field string, p events.Period) error {
	if p == "" || p == Never {
		return nil
	}
	if _, _, ok := split(p); !ok {
		return domain.Refuse(domain.ErrInvalid, field, "must be <n>d, <n>mo, <n>y or never, such as 90d or 1y")
	}
	return nil
}

// Add returns the instant that lies a period after another, cut down to the
// whole second, and no instant for Never, empty, or what is no period.
func Add(now events.Time, p events.Period) events.Time {
	n, u, ok := split(p)
	if !ok {
		return 0
	}
	t := now.Std()
	switch u {
	case days:
		t = t.AddDate(0, 0, n)
	case months:
		t = addMonths(t, n)
	case years:
		t = addMonths(t, 12*n)
	}
	return events.TimeOf(t).WholeSecond()
}

// Before returns the instant that lies a period before another, cut down to the
// whole second, and no instant for Never, empty, or what is no period.
func Before(at events.Time, p events.Period) events.Time {
	n, u, ok := split(p)
	if !ok {
		return 0
	}
	t := at.Std()
	switch u {
	case days:
		t = t.AddDate(0, 0, -n)
	case months:
		t = addMonths(t, -n)
	case years:
		t = addMonths(t, -12*n)
	}
	return events.TimeOf(t).WholeSecond()
}

// Compare orders periods by their length, months and years by their mean, and
// those that are none last. Of the same length are those alone that mean the
// same.
func Compare(a, b events.Period) int { return cmp.Compare(length(a), length(b)) }

// length is how long a period is, in a 4,800th part of a day: 146,097 days, which
// are 400 years, have 4,800 months.
func length(p events.Period) int {
	n, u, ok := split(p)
	switch {
	case !ok:
		return math.MaxInt
	case u == days:
		return n * 4800
	case u == months:
		return n * 146_097
	default:
		return n * 12 * 146_097
	}
}

// split reads `<n><unit>`, bounded by [events.MaxPeriod].
func split(p events.Period) (int, unit, bool) {
	s := string(p)
	i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if i <= 0 || i > 5 || s[0] == '0' {
		return 0, "", false
	}
	n, err := strconv.Atoi(s[:i])
	if err != nil {
		return 0, "", false
	}
	limit := int(events.MaxPeriod / (24 * time.Hour))
	switch u := unit(s[i:]); u {
	case days:
		return n, u, n <= limit
	case months:
		return n, u, n <= limit/31
	case years:
		return n, u, n <= limit/366
	default:
		return 0, "", false
	}
}

func addMonths(t time.Time, n int) time.Time {
	y, m, d := t.Date()
	first := time.Date(y, m+time.Month(n), 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
	last := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(d, last)-1)
}

// Grace reads how long a rotated key lives beside its successor.
func Grace(field, s string) (time.Duration, error) {
	refuse := func() (time.Duration, error) {
		return 0, domain.Refuse(domain.ErrInvalid, field, "must be 0, <n>m, <n>h or <n>d, at most 366d, such as 24h")
	}
	if s == "0" {
		return 0, nil
	}
	if len(s) < 2 || len(s) > 8 || s[0] < '1' || s[0] > '9' {
		return refuse()
	}
	n, err := strconv.Atoi(s[:len(s)-1])
	if err != nil {
		return refuse()
	}
	var each time.Duration
	switch s[len(s)-1] {
	case 'm':
		each = time.Minute
	case 'h':
		each = time.Hour
	case 'd':
		each = 24 * time.Hour
	default:
		return refuse()
	}
	if n > int(events.MaxGrace/each) {
		return refuse()
	}
	return time.Duration(n) * each, nil
}
