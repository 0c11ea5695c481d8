package catalog_test

import (
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
)

// Notices come by the calendar in UTC, clamped to the month's end.
func TestNoticesComeByTheCalendar(t *testing.T) {
	at := func(s string) events.Time {
		std, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return events.TimeOf(std)
	}
	for _, c := range []struct {
		end    string
		notice events.Period
		want   string
	}{
		{"2027-03-31T10:00:00Z", "1mo", "2027-02-28T10:00:00Z"},
		{"2028-03-31T10:00:00Z", "1mo", "2028-02-29T10:00:00Z"},
		{"2029-02-28T23:59:59Z", "24mo", "2027-02-28T23:59:59Z"},
		{"2028-02-29T10:00:00Z", "1y", "2027-02-28T10:00:00Z"},
		{"2027-03-29T00:59:59Z", "1d", "2027-03-28T00:59:59Z"},
		{"2027-12-31T23:59:59Z", "30d", "2027-12-01T23:59:59Z"},
		// What is no period is none.
		{"2027-03-31T10:00:00Z", "never", "2027-03-31T10:00:00Z"},
		{"2027-03-31T10:00:00Z", "d", "2027-03-31T10:00:00Z"},
	} {
		h := newHistory()
		h.policy(acme, events.Policy{ExpiryNotices: []events.Period{c.notice}, RotationDueAfter: "never"})
		h.create(acme, 1, func(e *events.KeyCreated) { e.ExpiresAt = at(c.end) })
		view := h.opened(t)
		if got, err := view.Next(t.Context()); err != nil || got != at(c.want) {
			t.Errorf("%s before %s is %s, want %s: %v", c.notice, c.end, got, c.want, err)
		}
	}
	// So does the age at which keys should be rotated.
	for _, c := range []struct {
		created string
		age     events.Period
		want    string
	}{
		{"2026-11-21T10:00:00.999999Z", "", "2027-02-19T10:00:00Z"},
		{"2026-11-21T10:00:00.999999Z", "90d", "2027-02-19T10:00:00Z"},
		{"2027-01-31T10:00:00Z", "1mo", "2027-02-28T10:00:00Z"},
		{"2028-01-31T10:00:00Z", "1mo", "2028-02-29T10:00:00Z"},
		{"2027-02-28T23:59:59Z", "24mo", "2029-02-28T23:59:59Z"},
		{"2028-02-29T10:00:00Z", "1y", "2029-02-28T10:00:00Z"},
		{"2027-03-28T00:59:59Z", "1d", "2027-03-29T00:59:59Z"},
		{"1970-01-01T00:00:00.000001Z", "100y", "2070-01-01T00:00:00Z"},
		{"2027-03-31T10:00:00Z", "never", ""},
		{"2027-03-31T10:00:00Z", "d", ""},
		{"2027-03-31T10:00:00Z", "0d", ""},
	} {
		h := newHistory()
		h.policy(acme, events.Policy{RotationDueAfter: c.age})
		id := h.create(acme, 1, func(e *events.KeyCreated) { e.CreatedAt = at(c.created) })
		view := h.opened(t)
		want := events.Time(0)
		if c.want != "" {
			want = at(c.want)
		}
		k, err := view.Key(t.Context(), acme, id, t0)
		if got, nextErr := view.Next(t.Context()); err != nil || nextErr != nil || got != want || k.RotationDueAt != want {
			t.Errorf("%s after %s is %s and %s, want %s: %v %v", c.age, c.created, got, k.RotationDueAt, want, err, nextErr)
		}
	}
	if got, err := newHistory().opened(t).Next(t.Context()); err != nil || got != 0 {
		t.Errorf("something is due of nothing, at %s: %v", got, err)
	}
}
