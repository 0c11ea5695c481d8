package period

import (
	"cmp"
	"errors"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

func at(t *testing.T, s string) events.Time {
	t.Helper()
	std, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return events.TimeOf(std)
}

func TestAddIsTheCalendars(t *testing.T) {
	for _, c := range []struct {
		now    string
		period events.Period
		want   string
	}{
		{"2026-01-31T10:00:00Z", "1mo", "2026-02-28T10:00:00Z"},
		{"2028-01-31T10:00:00Z", "1mo", "2028-02-29T10:00:00Z"},
		{"2026-01-30T10:00:00Z", "1mo", "2026-02-28T10:00:00Z"},
		{"2026-01-31T10:00:00Z", "3mo", "2026-04-30T10:00:00Z"},
		{"2026-08-31T10:00:00Z", "6mo", "2027-02-28T10:00:00Z"},
		{"2026-12-31T23:59:59Z", "1mo", "2027-01-31T23:59:59Z"},
		{"2026-11-30T00:00:00Z", "3mo", "2027-02-28T00:00:00Z"},
		{"2028-02-29T00:00:00Z", "1y", "2029-02-28T00:00:00Z"},
		{"2028-02-29T00:00:00Z", "4y", "2032-02-29T00:00:00Z"},
		{"2096-02-29T00:00:00Z", "4y", "2100-02-28T00:00:00Z"},
		{"2026-02-28T00:00:00Z", "1d", "2026-03-01T00:00:00Z"},
		{"2028-02-28T00:00:00Z", "1d", "2028-02-29T00:00:00Z"},
		{"2026-03-29T00:59:59Z", "1d", "2026-03-30T00:59:59Z"}, // no summer time in UTC
		{"2026-06-15T12:00:00.999999Z", "7d", "2026-06-22T12:00:00Z"},
		{"2026-06-15T12:00:00.999999Z", "1mo", "2026-07-15T12:00:00Z"},
		{"2026-06-15T12:00:00Z", "100y", "2126-06-15T12:00:00Z"},
		{"2026-06-15T12:00:00Z", "12mo", "2027-06-15T12:00:00Z"},
	} {
		if got, want := Add(at(t, c.now), c.period), at(t, c.want); got != want {
			t.Errorf("%s + %s = %s, want %s", c.now, c.period, got, want)
		}
	}
	for _, p := range []events.Period{Never, "", "1w", "0d", "-1d"} {
		if got := Add(at(t, "2026-01-31T10:00:00Z"), p); got != 0 {
			t.Errorf("+ %q = %s, want no instant", p, got)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, p := range append(Choices[:], "", "1d", "36600d", "1180mo", "100y") {
		if err := Check("expires_in", p); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	for _, p := range []events.Period{
		"0", "0d", "01d", "d", "mo", "30", "30m", "30M", "1h", "1 d", "+1d", "-1d", "1.5y", "1dd", "1mod", "NEVER", "٣d",
		"36601d", "1181mo", "101y", "99999d", "999999999999d", " 1d", "1d ",
	} {
		var refusal *domain.Refusal
		if err := Check("expires_in", p); !errors.As(err, &refusal) || !errors.Is(err, domain.ErrInvalid) || refusal.Field != "expires_in" {
			t.Errorf("%q: %v, want a refusal of expires_in", p, err)
		}
	}
}

// A period is never shorter than its days, months of 28 days or years of 365,
// never longer than they can be, and never before a shorter one of its unit.
func TestAddIsMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := events.Time(rapid.Int64Range(1_000_000, 4_000_000_000_000_000).Draw(t, "now"))
		unit := rapid.SampledFrom([]string{"d", "mo", "y"}).Draw(t, "unit")
		n := rapid.IntRange(1, 99).Draw(t, "n")
		least := map[string]int{"d": 1, "mo": 28, "y": 365}[unit] * n
		most := map[string]int{"d": 1, "mo": 31, "y": 366}[unit] * n
		got := Add(now, events.Period(strconv.Itoa(n)+unit))
		if days := got.Std().Sub(now.WholeSecond().Std()).Hours() / 24; days < float64(least) || days > float64(most) {
			t.Fatalf("%s + %d%s = %s", now, n, unit, got)
		}
		if longer := Add(now, events.Period(strconv.Itoa(n+1)+unit)); longer <= got {
			t.Fatalf("%s + %d%s = %s, but one more is %s", now, n, unit, got, longer)
		}
		if got != got.WholeSecond() {
			t.Fatalf("%s is no whole second", got)
		}
	})
}

func TestBeforeIsTheCalendars(t *testing.T) {
	for _, c := range []struct {
		at     string
		period events.Period
		want   string
	}{
		{"2026-03-31T10:00:00Z", "1mo", "2026-02-28T10:00:00Z"},
		{"2028-03-31T10:00:00Z", "1mo", "2028-02-29T10:00:00Z"},
		{"2026-01-31T10:00:00Z", "1mo", "2025-12-31T10:00:00Z"},
		{"2026-01-15T10:00:00Z", "13mo", "2024-12-15T10:00:00Z"},
		{"2028-02-29T00:00:00Z", "1y", "2027-02-28T00:00:00Z"},
		{"2028-02-29T00:00:00Z", "4y", "2024-02-29T00:00:00Z"},
		{"2028-03-01T00:00:00Z", "1d", "2028-02-29T00:00:00Z"},
		{"2026-03-29T12:00:00.999999Z", "14d", "2026-03-15T12:00:00Z"},
	} {
		if got, want := Before(at(t, c.at), c.period), at(t, c.want); got != want {
			t.Errorf("%s - %s = %s, want %s", c.at, c.period, got, want)
		}
	}
	for _, p := range []events.Period{Never, "", "1w", "0d"} {
		if got := Before(at(t, "2026-01-31T10:00:00Z"), p); got != 0 {
			t.Errorf("- %q = %s, want no instant", p, got)
		}
	}
}

// What is longer by its own unit is longer, and lies further before.
func TestCompare(t *testing.T) {
	order := []events.Period{"1d", "30d", "1mo", "31d", "60d", "2mo", "11mo", "365d", "1y", "366d", "1461d", "48mo", "1462d", "5y", "36600d", "nonsense"}
	for i, a := range order {
		for j, b := range order {
			if got, want := Compare(a, b), cmp.Compare(i, j); got != want && !(a == "1461d" && b == "48mo" || a == "48mo" && b == "1461d") {
				t.Errorf("%s against %s is %d, want %d", a, b, got, want)
			}
		}
	}
	if Compare("12mo", "1y") != 0 || Compare(Never, "") != 0 {
		t.Error("what means the same is not of the same length")
	}
	rapid.Check(t, func(t *rapid.T) {
		now := events.Time(rapid.Int64Range(2_000_000_000_000_000, 4_000_000_000_000_000).Draw(t, "now"))
		unit := rapid.SampledFrom([]string{"d", "mo", "y"}).Draw(t, "unit")
		n, m := rapid.IntRange(1, 50).Draw(t, "n"), rapid.IntRange(1, 50).Draw(t, "m")
		a, b := events.Period(strconv.Itoa(n)+unit), events.Period(strconv.Itoa(m)+unit)
		if got, want := cmp.Compare(Before(now, b), Before(now, a)), Compare(a, b); got != want {
			t.Fatalf("%s before %s is %s, %s before it is %s", a, now, Before(now, a), b, Before(now, b))
		}
	})
}

func TestGrace(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"0": 0, "1m": time.Minute, "15m": 15 * time.Minute, "1h": time.Hour, "24h": 24 * time.Hour,
		"7d": 7 * 24 * time.Hour, "366d": events.MaxGrace, "8784h": events.MaxGrace, "527040m": events.MaxGrace,
	} {
		if got, err := Grace("grace", s); err != nil || got != want {
			t.Errorf("%q = %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", "00", "0m", "01m", "15", "m", "15s", "1mo", "1y", "-1h", "+1h", "1 h", "1.5h", "never", "367d", "8785h", "527041m",
		"9999999d", "99999999d", "1_0m", "1+0m", "٣h",
	} {
		var refusal *domain.Refusal
		if got, err := Grace("grace", s); !errors.As(err, &refusal) || !errors.Is(err, domain.ErrInvalid) || refusal.Field != "grace" || got != 0 {
			t.Errorf("%q = %v, %v, want a refusal of grace", s, got, err)
		}
	}
}
