package events

import (
	"fmt"
	"math"
	"time"
)

// Time is an instant in UTC with microseconds, the only precision that facts
// know. Its zero value says that there is none: no expiry, not yet revoked.
type Time int64

const timeLayout = "2006-01-02T15:04:05.000000Z"

// TimeOf cuts an instant down to microseconds. The zero time stays zero.
func TimeOf(t time.Time) Time {
	if t.IsZero() {
		return 0
	}
	return Time(t.UnixMicro())
}

// Std returns the instant for package time, in UTC.
func (t Time) Std() time.Time {
	if t == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(t)).UTC()
}

// IsZero reports whether there is no instant.
func (t Time) IsZero() bool { return t == 0 }

// Passed reports whether an instant is set and has come at now.
func (t Time) Passed(now Time) bool { return t != 0 && now >= t }

// Add moves an instant by a duration.
func (t Time) Add(d time.Duration) Time { return t + Time(d.Microseconds()) }

// WholeSecond cuts an instant down to its second: expiries are kept by the
// second in the verification index, and a fact must not promise more.
func (t Time) WholeSecond() Time { return t - t%1_000_000 }

// Seconds returns whole seconds since 1970, saturated to 32 bits (the year
// 2106). Fractions are dropped: an index that keeps seconds denies too early
// rather than too late.
func (t Time) Seconds() uint32 {
	s := int64(t) / 1_000_000
	switch {
	case s < 0:
		return 0
	case s > math.MaxUint32:
		return math.MaxUint32
	}
	return uint32(s)
}

func (t Time) String() string {
	if t == 0 {
		return ""
	}
	return t.Std().Format(timeLayout)
}

// MarshalText writes RFC 3339 with six digits of a second and `Z`.
func (t Time) MarshalText() ([]byte, error) {
	if t == 0 {
		return nil, nil
	}
	return t.append(make([]byte, 0, len(timeLayout)))
}

func (t Time) append(dst []byte) ([]byte, error) {
	std := t.Std()
	if y := std.Year(); y < 1970 || y > 9999 {
		return dst, fmt.Errorf("events: time outside the years 1970 to 9999")
	}
	return std.AppendFormat(dst, timeLayout), nil
}

// UnmarshalText reads exactly what MarshalText writes: a fact's bytes have one
// meaning and its meaning one text.
func (t *Time) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*t = 0
		return nil
	}
	v, ok := parseTime(b)
	if !ok {
		return fmt.Errorf("%w: time is not RFC 3339 in UTC with microseconds", ErrMalformed)
	}
	*t = v
	return nil
}

// parseTime reads timeLayout and nothing else. The very first instant of 1970
// is refused, because as a Time it means that there is none.
func parseTime(b []byte) (Time, bool) {
	if len(b) != len(timeLayout) || b[4] != '-' || b[7] != '-' || b[10] != 'T' ||
		b[13] != ':' || b[16] != ':' || b[19] != '.' || b[26] != 'Z' {
		return 0, false
	}
	ok := true
	number := func(from, to int) (n int) {
		for _, c := range b[from:to] {
			ok = ok && c >= '0' && c <= '9'
			n = n*10 + int(c-'0')
		}
		return n
	}
	year, month, day := number(0, 4), number(5, 7), number(8, 10)
	hour, minute, second, micro := number(11, 13), number(14, 16), number(17, 19), number(20, 26)
	if !ok || year < 1970 || hour > 23 || minute > 59 || second > 59 {
		return 0, false
	}
	std := time.Date(year, time.Month(month), day, hour, minute, second, micro*1000, time.UTC)
	if int(std.Month()) != month || std.Day() != day {
		return 0, false
	}
	t := Time(std.UnixMicro())
	return t, t != 0
}
