package catalog_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
		switch rapid.IntRange(0, 14).Draw(t, "what") {
		case 0, 1, 2:
			if h.revisions[key] == 0 {
				h.create(org, int(id[15]), func(e *events.KeyCreated) {
					e.ExpiresAt = rapid.SampledFrom([]events.Time{0, at}).Draw(t, "expires")
					e.CreatedAt = rapid.SampledFrom([]events.Time{e.CreatedAt, at, at - 5*day}).Draw(t, "created")
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
		case 5, 6:
			h.policy(org, events.Policy{
				ExpiryNotices:    rapid.SliceOfNDistinct(rapid.SampledFrom([]events.Period{"1d", "2d", "4d", "7d"}), 0, 3, rapid.ID).Draw(t, "notices"),
				RotationDueAfter: rapid.SampledFrom([]events.Period{"", "2d", "4d", "7d", "never"}).Draw(t, "age"),
			})
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
			events.KeyExpiryChanged{},
			events.KeyExpiring{ExpiresAt: at, Notice: "1d"},
			events.KeyExpired{ExpiredAt: at},
			events.KeyRotationDue{DueAt: at, After: "2d"},
			h.rotationDue(org, id),
			events.KeyGraceChanged{GraceEndsAt: at},
			events.KeyRotated{Successor: keyID(9), GraceEndsAt: at},
			events.Unknown{Name: "key.later.v1"},
		}).Draw(t, "change"))
	}
	return h
}

// rotationDue tells of a key's rotation as it stands.
func (h *history) rotationDue(org events.OrgID, id events.KeyID) events.KeyRotationDue {
	return events.KeyRotationDue{DueAt: h.fold(org, id).rotationDue()}
}

// policy sets what an organization wants of its keys.
func (h *history) policy(org events.OrgID, p events.Policy) {
	s := events.OrganizationSubject(org)
	if h.revisions[s] == 0 {
		h.add(s, events.OrganizationCreated{ID: org, Policy: p})
		return
	}
	h.add(s, events.OrganizationPolicyChanged{Policy: p})
}

// naive is the fold that nobody could get wrong, of what the list shows.
type naive struct {
	created, revoked, disabled, expired, rotated bool
	// ended is when the organization did, born and told are what its keys' age
	// begins with and what was told of it last.
	ended, born, told events.Time
	age               events.Period
	by                string
	kind              events.KeyKind
	name              string
	expires, grace    events.Time
	revision          events.Revision
	// noticed is when the end was set, or notice of it given; notices are what
	// the organization wants.
	noticed events.Time
	notices []events.Period
}

func (n naive) end() events.Time {
	if n.grace != 0 && (n.expires == 0 || n.grace < n.expires) {
		return n.grace
	}
	return n.expires
}

// due is when the next fact is due of the key's end.
func (n naive) due() events.Time {
	end := n.end()
	if !n.created || n.revoked {
		return 0
	}
	if n.ended != 0 {
		return n.ended
	}
	if n.expired {
		return 0
	}
	var all []events.Time
	if at := n.rotationDue(); at > n.told {
		all = append(all, at)
	}
	if end != 0 {
		all = append(all, end)
	}
	for _, p := range n.notices {
		days, err := strconv.Atoi(strings.TrimSuffix(string(p), "d"))
		if err != nil {
			panic(err)
		}
		if at := end - events.Time(days)*day; at > n.noticed && at < end {
			all = append(all, at)
		}
	}
	if len(all) == 0 {
		return 0
	}
	return slices.Min(all)
}

// rotationDue is when the key should be rotated.
func (n naive) rotationDue() events.Time {
	if !n.created || n.revoked || n.ended != 0 || n.expired || n.rotated || n.age == "never" {
		return 0
	}
	days, err := strconv.Atoi(strings.TrimSuffix(string(cmp.Or(n.age, "90d")), "d"))
	if err != nil {
		panic(err)
	}
	return n.born.WholeSecond() + events.Time(days)*day
}

// asks is what the next fact is about.
func (n naive) asks(now events.Time) catalog.Ask {
	switch {
	case n.ended != 0:
		return catalog.AskRevocation
	case n.end().Passed(now):
		return catalog.AskExpiry
	case n.rotationDue() > n.told && n.rotationDue() == n.due():
		return catalog.AskRotationDue
	}
	return catalog.AskNotice
}

func (n naive) status(now events.Time) events.Status {
	switch {
	case n.revoked || n.ended != 0:
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
		switch e := f.Event.(type) {
		case events.OrganizationDeleted:
			if f.Subject.Org == org {
				n.ended = f.Meta.Time
				n.by = cmp.Or(n.by, f.Meta.Reason.Clear)
			}
		case events.OrganizationCreated:
			if f.Subject.Org == org {
				n.notices, n.age = e.Policy.ExpiryNotices, e.Policy.RotationDueAfter
			}
		case events.OrganizationPolicyChanged:
			if f.Subject.Org == org {
				n.notices, n.age = e.Policy.ExpiryNotices, e.Policy.RotationDueAfter
			}
		}
		if got, ok := f.Subject.Key(); !ok || f.Subject.Org != org || got != id {
			continue
		}
		n.revision++
		before := n.end()
		switch e := f.Event.(type) {
		case events.KeyCreated:
			n.created, n.expires, n.kind, n.name, n.born = true, e.ExpiresAt, e.KeyKind, e.Name.Clear, e.CreatedAt
		case events.KeyRenamed:
			n.name = e.Name.Clear
		case events.KeyDisabled:
			n.disabled = true
		case events.KeyEnabled:
			n.disabled = false
		case events.KeyExpiryChanged:
			n.expires = e.ExpiresAt
		case events.KeyExpiring:
			n.noticed = f.Meta.Time
		case events.KeyExpired:
			n.expired = true
		case events.KeyRotationDue:
			n.told = e.DueAt
		case events.KeyRotated:
			n.rotated, n.grace = true, e.GraceEndsAt
		case events.KeyGraceChanged:
			n.grace = e.GraceEndsAt
		case events.KeyRevoked:
			n.revoked = true
			n.by = cmp.Or(n.by, f.Meta.Reason.Clear)
		}
		if n.end() != before {
			n.noticed = f.Meta.Time
		}
	}
	return n
}

// fewHistories has rapid draw 60 histories unless it is told another number
// (-rapid.checks), and returns what opens an empty catalog for each of them: to make
// the tables a hundred times took longer than all the rest.
func fewHistories(t *testing.T) func(*rapid.T) *catalog.Catalog {
	t.Helper()
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		must(checks.Value.Set("60"))
		t.Cleanup(func() { must(checks.Value.Set(checks.DefValue)) })
	}
	dir := t.TempDir()
	path := func(n int) string { return filepath.Join(dir, fmt.Sprint(n, ".db")) }
	c := open(t, path(0))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	tables, err := os.ReadFile(path(0))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	return func(rt *rapid.T) *catalog.Catalog {
		n++
		err := os.WriteFile(path(n), tables, 0o600)
		if err != nil {
			rt.Fatal(err)
		}
		c, err := catalog.Open(context.Background(), catalog.Config{Path: path(n)})
		if err != nil {
			rt.Fatal(err)
		}
		return c
	}
}

func TestAnyHistoryGivesWhatANaiveFoldGives(t *testing.T) {
	empty := fewHistories(t)
	rapid.Check(t, func(rt *rapid.T) {
		ctx := context.Background()
		h := drawHistory(rt)
		c := empty(rt)
		defer c.Close()
		h.show(rt, c)
		now := t0 + events.Time(rapid.IntRange(0, 10).Draw(rt, "now"))*day
		for _, org := range []events.OrgID{acme, "other"} {
			byStatus, holders, rotations := map[events.Status]int{}, 0, 0
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
				rotate := events.Time(0)
				if status == events.StatusActive || status == events.StatusInactive {
					rotate = want.rotationDue()
				}
				if got.RotationDueAt != rotate || got.RevocationReason.Clear != want.by {
					rt.Fatalf("key %d: to be rotated at %s, want %s; revoked since %q, want %q", i, got.RotationDueAt, rotate, got.RevocationReason.Clear, want.by)
				}
				if rotate.Passed(now) {
					rotations++
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
			for _, status := range []events.Status{"", catalog.StatusAny} {
				keys, _, err := c.Keys(ctx, catalog.Filter{Org: org, Within: everywhere, Status: status, RotationDue: true}, now)
				if err != nil || len(keys) != rotations {
					rt.Fatalf("%d keys are to be rotated, want %d: %v", len(keys), rotations, err)
				}
			}
			if ids, err := c.Holders(ctx, org, now); err != nil || len(ids) != holders {
				rt.Fatalf("%d hold a place, want %d: %v", len(ids), holders, err)
			}
		}
		h.checkDue(rt, c, now)
	})
}

// checkDue holds what is due to the fold, read by pages and as a whole.
func (h *history) checkDue(t *rapid.T, c *catalog.Catalog, now events.Time) {
	ctx := context.Background()
	next := events.Time(0)
	var want []string
	for _, org := range []events.OrgID{acme, "other"} {
		for i := 1; i <= 5; i++ {
			n := h.fold(org, keyID(i))
			at := n.due()
			if at != 0 && (next == 0 || at < next) {
				next = at
			}
			if at.Passed(now) {
				want = append(want, fmt.Sprint(org, i, n.end(), at, n.asks(now)))
			}
		}
	}
	var got []string
	var last catalog.Due
	for {
		page, err := c.Due(ctx, now, last, rapid.IntRange(1, 4).Draw(t, "page"))
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, d := range page {
			if d.At < last.At {
				t.Fatalf("due at %s after one of %s", d.At, last.At)
			}
			last = d
			got = append(got, fmt.Sprint(d.Org, d.Key[15], d.EndsAt, d.At, d.Ask(now)))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("due at %s:\n%v, want\n%v", now, got, want)
	}
	if n, err := c.Overdue(ctx, now, 100); err != nil || n != len(want) {
		t.Fatalf("%d are overdue, want %d: %v", n, len(want), err)
	}
	if at, err := c.Next(ctx); err != nil || at != next {
		t.Fatalf("the next is due at %s, want %s: %v", at, next, err)
	}
}

// long is a history with some of everything.
func long(t *testing.T, keys int) *history {
	t.Helper()
	h := newHistory()
	h.add(events.OrganizationSubject(acme), events.OrganizationCreated{ID: acme, Name: sealedText})
	for n := 1; n <= keys; n++ {
		id := h.create(acme, n, func(e *events.KeyCreated) { e.Metadata = events.Metadata{"b": sealedText, "a": events.ClearText("x")} })
		switch {
		case n%3 == 0:
			h.add(events.KeySubject(acme, id), events.KeyDisabled{})
		case n%5 == 0:
			h.add(events.RevokedSubject(acme, id), events.KeyRevoked{})
		case n%7 == 0:
			h.add(events.QuotaSubject(acme), events.QuotaChanged{Limit: n})
		case n == 1:
			h.add(events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyAdded{Provider: events.ProviderOpenAI, Version: 1, Sealed: sealedSecret(n)})
		case n%11 == 0:
			h.add(events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyReplaced{Version: uint64(n), Sealed: sealedSecret(n)})
			h.add(events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyTested{Version: uint64(n), At: h.time(), Result: events.ProviderWorks})
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
	h := long(t, 300)
	path := dbPath(t)
	c := open(t, path)
	h.applyTo(t, c, 50)
	want := digest(t, c)
	for _, per := range []int{1, 7, 1000} {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		c = open(t, path)
		h.applyTo(t, c, per)
		if got := digest(t, c); got != want {
			t.Fatalf("rebuilt in slices of %d: %s, want %s", per, got, want)
		}
	}
	// And the digest tells another history, as long as this one.
	for s, names := range map[events.Subject][2]events.Event{
		events.KeySubject(acme, keyID(1)):                      {events.KeyRenamed{Name: events.ClearText("y")}, events.KeyRenamed{Name: events.ClearText("z")}},
		events.ProviderKeySubject(acme, events.ProviderOpenAI): {events.ProviderKeyRenamed{Name: events.ClearText("y")}, events.ProviderKeyRenamed{Name: events.ClearText("z")}},
	} {
		var digests [2]string
		for i, e := range names {
			h := long(t, 20)
			h.add(s, e)
			digests[i] = digest(t, h.opened(t))
		}
		if digests[0] == digests[1] {
			t.Errorf("another history of %s has the same digest", s)
		}
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

// BenchmarkNotices is what a policy costs that changes what is due of every key
// of an organization.
func BenchmarkNotices(b *testing.B) {
	h := newHistory()
	h.policy(acme, events.Policy{})
	for n := 1; n <= 100_000; n++ {
		h.create(acme, n, func(e *events.KeyCreated) { e.ExpiresAt = t0 + 400*day + events.Time(n) })
	}
	c := open(b, dbPath(b))
	h.applyTo(b, c, 500)
	at := len(h.facts)
	notices := []events.Period{"14d", "1mo", "1y", "1d", "2d"}
	for n := 0; b.Loop(); n++ {
		h.policy(acme, events.Policy{ExpiryNotices: notices[:1+n%5]})
		if err := c.Apply(b.Context(), h.facts[at:]); err != nil {
			b.Fatal(err)
		}
		at = len(h.facts)
	}
}
