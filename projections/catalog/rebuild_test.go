package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/catalog"
)

// drawHistory draws facts over a few organizations and keys, as commands that
// race might append them: changes after the end, revocations before the
// beginning, ends of organizations at any time.
func drawHistory(t *rapid.T) *history {
	h := newHistory()
	orgs := []events.OrgID{acme, "other"}
	n := rapid.IntRange(1, 60).Draw(t, "facts")
	for range n {
		org := rapid.SampledFrom(orgs).Draw(t, "org")
		id := keyID(rapid.IntRange(1, 5).Draw(t, "key"))
		key, revoked := events.KeySubject(org, id), events.RevokedSubject(org, id)
		at := t0 + events.Time(rapid.IntRange(0, 10).Draw(t, "at"))*day
		switch rapid.IntRange(0, 12).Draw(t, "what") {
		case 0, 1, 2:
			if h.revisions[key] == 0 {
				h.create(org, int(id[15]), func(e *events.KeyCreated) {
					e.ExpiresAt = rapid.SampledFrom([]events.Time{0, at}).Draw(t, "expires")
					e.KeyKind = rapid.SampledFrom([]events.KeyKind{events.KindAPI, events.KindManagement}).Draw(t, "kind")
				})
			}
			continue
		case 3:
			if h.revisions[revoked] == 0 {
				h.add(revoked, events.KeyRevoked{})
			}
			continue
		case 4:
			if end := events.EndSubject(org); h.revisions[end] == 0 && rapid.IntRange(0, 3).Draw(t, "end") == 0 {
				h.add(end, events.OrganizationDeleted{})
			}
			continue
		}
		if h.revisions[key] == 0 {
			continue
		}
		h.add(key, rapid.SampledFrom([]events.Event{
			events.KeyRenamed{Name: events.ClearText(fmt.Sprint("name ", at))},
			events.KeyDisabled{},
			events.KeyEnabled{},
			events.KeyExpiryChanged{ExpiresAt: at},
			events.KeyExpired{ExpiredAt: at},
			events.KeyGraceChanged{GraceEndsAt: at},
			events.KeyRotated{Successor: keyID(9), GraceEndsAt: at},
			events.Unknown{Name: "key.later.v1"},
		}).Draw(t, "change"))
	}
	return h
}

// naive is the fold that nobody could get wrong, of what the list shows.
type naive struct {
	created, revoked, ended, disabled, expired, rotated bool
	kind                                                events.KeyKind
	name                                                string
	expires, grace                                      events.Time
	revision                                            events.Revision
}

func (n naive) status(now events.Time) events.Status {
	switch {
	case n.revoked || n.ended:
		return events.StatusRevoked
	case n.expired || n.expires != 0 && n.expires <= now || n.grace != 0 && n.grace <= now:
		return events.StatusExpired
	case n.disabled:
		return events.StatusInactive
	}
	return events.StatusActive
}

func (h *history) fold(org events.OrgID, id events.KeyID) naive {
	var n naive
	for _, f := range h.facts {
		if f.Subject == events.EndSubject(org) {
			n.ended = true
		}
		if got, ok := f.Subject.Key(); !ok || f.Subject.Org != org || got != id {
			continue
		}
		n.revision++
		switch e := f.Event.(type) {
		case events.KeyCreated:
			n.created, n.expires, n.kind, n.name = true, e.ExpiresAt, e.KeyKind, e.Name.Clear
		case events.KeyRenamed:
			n.name = e.Name.Clear
		case events.KeyDisabled:
			n.disabled = true
		case events.KeyEnabled:
			n.disabled = false
		case events.KeyExpiryChanged:
			n.expires = e.ExpiresAt
		case events.KeyExpired:
			n.expired = true
		case events.KeyRotated:
			n.rotated, n.grace = true, e.GraceEndsAt
		case events.KeyGraceChanged:
			n.grace = e.GraceEndsAt
		case events.KeyRevoked:
			n.revoked = true
		}
	}
	return n
}

func TestAnyHistoryGivesWhatANaiveFoldGives(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		ctx := context.Background()
		h := drawHistory(rt)
		c, err := catalog.Open(ctx, catalog.Config{Path: filepath.Join(dir, fmt.Sprint(run, ".db"))})
		if err != nil {
			rt.Fatal(err)
		}
		defer c.Close()
		for _, s := range h.slices(rapid.IntRange(1, 20).Draw(rt, "slice")) {
			if err := c.Apply(ctx, s); err != nil {
				rt.Fatal(err)
			}
		}
		now := t0 + events.Time(rapid.IntRange(0, 10).Draw(rt, "now"))*day
		for _, org := range []events.OrgID{acme, "other"} {
			byStatus, holders := map[events.Status]int{}, 0
			for i := 1; i <= 5; i++ {
				want := h.fold(org, keyID(i))
				got, err := c.Key(ctx, org, keyID(i), now)
				if !want.created {
					if !errors.Is(err, catalog.ErrNotFound) {
						rt.Fatalf("key %d was never created: %v", i, err)
					}
					continue
				}
				status := want.status(now)
				if err != nil || got.Status != status || got.StatusAt(now) != status || got.Revision != want.revision || got.Name.Clear != want.name {
					rt.Fatalf("key %d: want %s of %+v, got %+v: %v", i, status, want, got, err)
				}
				byStatus[status]++
				if want.kind == events.KindAPI && !want.rotated && (status == events.StatusActive || status == events.StatusInactive) {
					holders++
				}
			}
			for _, status := range []events.Status{events.StatusActive, events.StatusInactive, events.StatusExpired, events.StatusRevoked} {
				keys, _, err := c.Keys(ctx, catalog.Filter{Org: org, Within: everywhere, Status: status}, now)
				if err != nil || len(keys) != byStatus[status] {
					rt.Fatalf("%d keys are %s, want %d: %v", len(keys), status, byStatus[status], err)
				}
			}
			if ids, err := c.Holders(ctx, org, now); err != nil || len(ids) != holders {
				rt.Fatalf("%d hold a place, want %d: %v", len(ids), holders, err)
			}
		}
	})
}

// long is a history with some of everything.
func long(t *testing.T) *history {
	t.Helper()
	h := newHistory()
	h.add(events.OrganizationSubject(acme), events.OrganizationCreated{ID: acme, Name: sealedText})
	for n := 1; n <= 300; n++ {
		id := h.create(acme, n, func(e *events.KeyCreated) { e.Metadata = events.Metadata{"b": sealedText, "a": events.ClearText("x")} })
		switch {
		case n%3 == 0:
			h.add(events.KeySubject(acme, id), events.KeyDisabled{})
		case n%5 == 0:
			h.add(events.RevokedSubject(acme, id), events.KeyRevoked{})
		case n%7 == 0:
			h.add(events.QuotaSubject(acme), events.QuotaChanged{Limit: n})
		}
	}
	return h
}

func digest(t *testing.T, c *catalog.Catalog) string {
	t.Helper()
	pos, sum, err := c.Digest(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %x", pos, sum)
}

func TestRebuiltRowsAreTheSame(t *testing.T) {
	h := long(t)
	want := ""
	for _, per := range []int{1, 7, 1000} {
		path := dbPath(t)
		c := open(t, path)
		h.applyTo(t, c, per)
		if want == "" {
			want = digest(t, c)
		}
		if got := digest(t, c); got != want {
			t.Fatalf("in slices of %d: %s, want %s", per, got, want)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		c = open(t, path)
		h.applyTo(t, c, 50)
		if got := digest(t, c); got != want {
			t.Fatalf("rebuilt: %s, want %s", got, want)
		}
	}
	// And the digest tells another history.
	h.add(events.KeySubject(acme, keyID(1)), events.KeyRenamed{Name: events.ClearText("y")})
	if digest(t, h.opened(t)) == want {
		t.Fatal("another history has the same digest")
	}
}

func BenchmarkApply(b *testing.B) {
	for _, per := range []int{1, 500} {
		b.Run(fmt.Sprint(per), func(b *testing.B) {
			h := newHistory()
			for n := 1; n <= b.N; n++ {
				h.create(acme, n)
			}
			c := open(b, dbPath(b))
			b.ResetTimer()
			h.applyTo(b, c, per)
		})
	}
}

func BenchmarkList(b *testing.B) {
	h := newHistory()
	for n := 1; n <= 20_000; n++ {
		h.create(acme, n)
	}
	c := open(b, dbPath(b))
	h.applyTo(b, c, 500)
	for name, f := range map[string]catalog.Filter{
		"newest":  {Org: acme, Within: everywhere},
		"nothing": {Org: acme, Within: everywhere, Query: "no key has this"},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := c.Keys(b.Context(), f, t0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
