package audit_test

import (
	"flag"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/audit"
)

// wants is what a filter says, looked up nowhere: of all events, one by one.
func wants(f audit.Filter, e audit.Event, clock events.Time) bool {
	id, isKey := e.Subject.Key()
	listed := func(w events.WorkspaceID) bool { return slices.Contains(e.Workspaces, w) }
	within := f.Within == nil || len(e.Workspaces) > 0
	for _, w := range e.Workspaces {
		within = within && (f.Within == nil || slices.Contains(f.Within, w))
	}
	kind := len(f.Kinds) == 0
	for _, k := range f.Kinds {
		kind = kind || k == e.Kind || strings.TrimSuffix(string(e.Kind), ".v1") == string(k)
	}
	return (f.AllOrganizations || e.Subject.Org == f.Org) && within && kind &&
		(f.Key.IsZero() || isKey && id == f.Key) && (f.Actor == events.Actor{} || e.Actor == f.Actor) &&
		(f.Workspace == "" || listed(f.Workspace)) && (f.Ticket == "" || e.Ticket == f.Ticket) &&
		(f.From == 0 || clock >= f.From) && (f.To == 0 || clock < f.To) &&
		e.Position > f.After && (f.Until == 0 || e.Position <= f.Until) && (f.Query == "" || found(f.Query, e))
}

// found looks for a text where people would.
func found(text string, e audit.Event) bool {
	text = strings.ToLower(text)
	in := []string{e.Reason.Clear, e.Ticket, e.RequestID, e.Subject.ID[max(0, len(e.Subject.ID)-12):], e.Actor.String()[max(0, len(e.Actor.String())-12):]}
	for _, c := range e.Changes {
		if c.Field == "name" {
			in = append(in, string(c.Before), string(c.After))
		}
	}
	for _, s := range in {
		if strings.Contains(strings.ToLower(strings.Trim(s, `"`)), text) {
			return true
		}
	}
	return e.Subject.ID == text || strings.HasSuffix(e.Actor.String(), "/"+text)
}

// Whatever is asked for comes back, in pages of any length and either order, and
// nothing else does.
func TestEveryFilterAgainstLookingAtAll(t *testing.T) {
	h := newBusy(4)
	facts := h.slice(t, 700)
	for i := range facts {
		// A clock that steps back now and then, and tickets here and there.
		facts[i].Stored -= events.Time(i % 37 / 30 * 20_000)
		if i%9 == 0 {
			facts[i].Meta.Ticket = []string{"SEC-1", "SEC-2", "OPS-11"}[i/9%3]
		}
	}
	l := open(t, filepath.Join(t.TempDir(), "audit.db"))
	if err := l.Apply(t.Context(), facts); err != nil {
		t.Fatal(err)
	}
	all, _, err := everything(t, l)
	if err != nil || len(all) != len(facts) {
		t.Fatal(len(all), err)
	}
	clocks := make([]events.Time, len(all))
	last := events.Time(0)
	for i, e := range all {
		last = max(last, e.Stored)
		clocks[i] = last
	}
	fewFilters(t)
	rapid.Check(t, func(t *rapid.T) {
		f := drawFilter(t, all)
		var want, got []events.Position
		for i, e := range all {
			if wants(f, e, clocks[i]) {
				want = append(want, e.Position)
			}
			timeless := f
			timeless.From, timeless.To, timeless.After, timeless.Until = 0, 0, 0, 0
			if e := e; timeless.Wants(&e) != wants(timeless, e, clocks[i]) {
				t.Fatalf("a follower of %+v wants %d: %t", f, e.Position, timeless.Wants(&e))
			}
		}
		if !f.OldestFirst {
			slices.Reverse(want)
		}
		for p := f; ; {
			page, next, err := l.Events(t.Context(), p)
			if err != nil || len(page) > p.Limit {
				t.Fatal(len(page), err)
			}
			for _, e := range page {
				got = append(got, e.Position)
			}
			if next == "" {
				break
			}
			p.Cursor = next
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%+v\ngot  %v\nwant %v", f, got, want)
		}
	})
}

// fewFilters has rapid draw 50 filters unless it is told another number
// (-rapid.checks): each is listed to its end.
func fewFilters(t *testing.T) {
	t.Helper()
	checks := flag.Lookup("rapid.checks")
	if checks.Value.String() != checks.DefValue {
		return
	}
	set := func(n string) {
		if err := checks.Value.Set(n); err != nil {
			t.Error(err)
		}
	}
	set("50")
	t.Cleanup(func() { set(checks.DefValue) })
}

// everything lists all events, the oldest first.
func everything(t *testing.T, l *audit.Log) (all []audit.Event, next string, err error) {
	f := audit.Filter{AllOrganizations: true, OldestFirst: true, Page: audit.Page{Limit: 200}}
	for {
		page, next, err := l.Events(t.Context(), f)
		if all = append(all, page...); err != nil || next == "" {
			return all, next, err
		}
		f.Cursor = next
	}
}

// drawFilter draws a filter about events that there are, mostly.
func drawFilter(t *rapid.T, all []audit.Event) audit.Filter {
	one := func(label string) audit.Event { return rapid.SampledFrom(all).Draw(t, label) }
	maybe := func(label string) bool { return rapid.IntRange(0, 3).Draw(t, label) == 0 }
	f := audit.Filter{Org: one("org").Subject.Org, OldestFirst: rapid.Bool().Draw(t, "oldest first")}
	f.Limit = rapid.IntRange(1, 60).Draw(t, "limit")
	f.AllOrganizations = maybe("all")
	if maybe("key") {
		f.Key, _ = one("key of").Subject.Key()
	}
	if maybe("actor") {
		f.Actor = one("actor of").Actor
	}
	for range rapid.IntRange(0, 5).Draw(t, "kinds") / 3 {
		kind := one("kind of").Kind
		if rapid.Bool().Draw(t, "without its version") {
			kind = events.Kind(kind.Name())
		}
		f.Kinds = append(f.Kinds, kind)
	}
	workspaces := []events.WorkspaceID{"w-0", "w-1", "w-2", "w-7", "w-13", "none"}
	if !f.AllOrganizations && maybe("workspace") {
		f.Workspace = rapid.SampledFrom(workspaces).Draw(t, "workspace of")
	}
	if !f.AllOrganizations && maybe("within") {
		f.Within = rapid.SliceOfNDistinct(rapid.SampledFrom(workspaces), 1, 4, rapid.ID).Draw(t, "bounds")
	}
	if maybe("ticket") {
		f.Ticket = rapid.SampledFrom([]string{"SEC-1", "OPS-11", "SEC"}).Draw(t, "ticket of")
	}
	if maybe("from") {
		f.From = one("from of").Stored + events.Time(rapid.IntRange(-1, 1).Draw(t, "about"))
	}
	if maybe("to") {
		f.To = one("to of").Stored + events.Time(rapid.IntRange(-1, 1).Draw(t, "before"))
	}
	if maybe("after") {
		f.After = one("after of").Position
	}
	if maybe("until") {
		f.Until = one("until of").Position
	}
	if maybe("text") {
		f.Query = drawQuery(t, one("text of"))
	}
	return f
}

// drawQuery draws a part of a text that an event has, or one that it may not have.
func drawQuery(t *rapid.T, e audit.Event) string {
	tail := e.Subject.ID[len(e.Subject.ID)-12:]
	text := rapid.SampledFrom([]string{e.Reason.Clear, e.RequestID, tail, e.Subject.ID, "Zapier", "BILLING export", "no such text", "%_\"'"}).Draw(t, "text")
	if text == e.Subject.ID || len(text) <= audit.MinQuery {
		return text
	}
	from := rapid.IntRange(0, len(text)-audit.MinQuery).Draw(t, "begins")
	return text[from:rapid.IntRange(from+audit.MinQuery, len(text)).Draw(t, "ends")]
}
