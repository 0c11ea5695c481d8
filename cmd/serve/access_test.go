package serve

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/events"
	records "github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/uses"
)

// A source is sealed under the key of its day; one address of a day is one text, and
// the label that stands in for it when the key cannot be had tells no address either.
func TestSourcesAreNeverInClear(t *testing.T) {
	subjects := newSealing(t).subjects
	label := func(parts ...string) (l [seals.LabelBytes]byte, err error) {
		copy(l[:], strings.Join(parts, "|"))
		return l, nil
	}
	var said bytes.Buffer
	fail := false
	teller := &sourceTeller{label: label, log: slog.New(slog.NewTextHandler(&said, nil))}
	tell := func(day, source string) (string, records.SourceKind) { return teller.tell(t.Context(), day, source) }
	if text, kind := tell("2026-11-21", "192.0.2.1"); kind != records.SourceLabel || len(text) != seals.LabelBytes {
		t.Errorf("without recording addresses: %s %s", kind, text)
	}
	teller.sealer = func(ctx context.Context, org events.OrgID, subject events.DataSubject) (seals.Sealer, error) {
		if fail {
			return seals.Sealer{}, events.ErrUnavailable
		}
		return subjects.RecentSealer(ctx, org, subject)
	}
	first, kind := tell("2026-11-21", "192.0.2.1")
	sealed, ok := uses.ParseSealed(first)
	if kind != records.SourceSealed || !ok || sealed.Subject != "attempts-2026-11-21" || len(first) > records.MaxSource {
		t.Fatalf("%s %s", kind, first)
	}
	if clear, err := subjects.Open(t.Context(), events.System, sealed, seals.TextOfUse); err != nil || clear != "192.0.2.1" {
		t.Errorf("%q, %v", clear, err)
	}
	again, _ := tell("2026-11-21", "192.0.2.1")
	other, _ := tell("2026-11-21", "192.0.2.2")
	later, _ := tell("2026-11-22", "192.0.2.1")
	if again != first || other == first || later == first || strings.Contains(first+later, "192.0.2") {
		t.Errorf("%q, %q, %q, %q", first, again, other, later)
	}
	synctest.Test(t, func(t *testing.T) {
		fail = true
		for range 5 {
			if _, kind := teller.tell(t.Context(), "2026-11-21", "192.0.2.1"); kind != records.SourceLabel {
				t.Errorf("without the key: %s", kind)
			}
		}
		// The key is not asked for again for every source.
		if n := strings.Count(said.String(), "cannot be sealed"); n != 1 {
			t.Errorf("it was said %d times", n)
		}
		fail = false
		time.Sleep(sealAgain)
		if text, kind := teller.tell(t.Context(), "2026-11-21", "192.0.2.1"); kind != records.SourceSealed || text != first {
			t.Errorf("%s %q", kind, text)
		}
	})
}

func TestAccessRetention(t *testing.T) {
	for p, want := range map[events.Period]time.Duration{"90d": 90 * 24 * time.Hour, "1y": 365 * 24 * time.Hour, "never": 0} {
		if got := retention(p); got != want || checkRetention(p) != nil {
			t.Errorf("%s: %v", p, got)
		}
	}
	for _, p := range []events.Period{"90", "0d", "x", "-1d", "90h"} {
		if err := checkRetention(p); err == nil || !strings.Contains(err.Error(), "--access-retention") {
			t.Errorf("%s: %v", p, err)
		}
	}
}
