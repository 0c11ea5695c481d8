package catalog_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// ids lists a filter's keys by their numbers, newest first, page by page.
func ids(t *testing.T, c *catalog.Catalog, f catalog.Filter, now events.Time) []int {
	t.Helper()
	var all []int
	for {
		keys, next, err := c.Keys(context.Background(), f, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			all = append(all, int(k.ID[14])<<8|int(k.ID[15]))
		}
		if next == "" {
			return all
		}
		f.Cursor = next
	}
}

func TestFilters(t *testing.T) {
	h := newHistory()
	scope := func(w ...events.WorkspaceID) func(*events.KeyCreated) {
		return func(e *events.KeyCreated) { e.Scope = events.Scope{Workspaces: w} }
	}
	h.create(acme, 1, func(e *events.KeyCreated) { e.Name = events.ClearText("Interview service") })
	h.create(acme, 2, scope("hiring"), func(e *events.KeyCreated) { e.LastFour = "Zz9_" })
	h.create(acme, 3, scope("hiring", "sales"), func(e *events.KeyCreated) { e.ExternalID = events.ClearText("urn:x:100%") })
	h.create(acme, 4, scope("hiring-eu"), func(e *events.KeyCreated) { e.Name = sealedText })
	h.create(acme, 5, func(e *events.KeyCreated) { e.KeyKind, e.Role = events.KindManagement, events.RoleAdmin })
	h.create(acme, 6, func(e *events.KeyCreated) { e.ExpiresAt = t0 + day })
	h.create(acme, 7, scope())
	h.create("other", 8, scope("hiring"))
	h.create(acme, 9)
	h.add(events.KeySubject(acme, keyID(9)), events.KeyDisabled{})
	h.create(acme, 10)
	h.add(events.RevokedSubject(acme, keyID(10)), events.KeyRevoked{})
	h.create(acme, 11, func(e *events.KeyCreated) { e.Prefix = "staging" })
	h.add(events.KeySubject(acme, keyID(11)), events.KeyRotated{Successor: keyID(12), GraceEndsAt: t0 + day})
	h.create(acme, 12, func(e *events.KeyCreated) { e.RotatedFrom = keyID(11) })
	c := h.opened(t)

	in := func(w ...events.WorkspaceID) events.Scope { return events.Scope{Workspaces: w} }
	for name, tt := range map[string]struct {
		filter catalog.Filter
		now    events.Time
		want   []int
	}{
		"the zero value":            {catalog.Filter{}, t0, nil},
		"of one organization":       {catalog.Filter{Org: "other", Within: everywhere}, t0, []int{8}},
		"revoked are hidden":        {catalog.Filter{Within: everywhere}, t0, []int{12, 11, 9, 7, 6, 5, 4, 3, 2, 1}},
		"all":                       {catalog.Filter{Within: everywhere, Status: catalog.StatusAny}, t0, []int{12, 11, 10, 9, 7, 6, 5, 4, 3, 2, 1}},
		"active":                    {catalog.Filter{Within: everywhere, Status: events.StatusActive}, t0, []int{12, 11, 7, 6, 5, 4, 3, 2, 1}},
		"active a day later":        {catalog.Filter{Within: everywhere, Status: events.StatusActive}, t0 + day, []int{12, 7, 5, 4, 3, 2, 1}},
		"expired before":            {catalog.Filter{Within: everywhere, Status: events.StatusExpired}, t0 + day - 1, nil},
		"expired":                   {catalog.Filter{Within: everywhere, Status: events.StatusExpired}, t0 + day, []int{11, 6}},
		"inactive":                  {catalog.Filter{Within: everywhere, Status: events.StatusInactive}, t0, []int{9}},
		"revoked":                   {catalog.Filter{Within: everywhere, Status: events.StatusRevoked}, t0, []int{10}},
		"usable in a workspace":     {catalog.Filter{Within: everywhere, Workspace: "hiring"}, t0, []int{12, 11, 9, 6, 5, 3, 2, 1}},
		"within a workspace":        {catalog.Filter{Within: in("hiring")}, t0, []int{2}},
		"within two":                {catalog.Filter{Within: in("sales", "hiring")}, t0, []int{3, 2}},
		"within another":            {catalog.Filter{Within: in("eu")}, t0, nil},
		"within two, usable in one": {catalog.Filter{Within: in("sales", "hiring"), Workspace: "sales"}, t0, []int{3}},
		"by name, any case":         {catalog.Filter{Within: everywhere, Query: "INTERVIEW s"}, t0, []int{1}},
		"by prefix":                 {catalog.Filter{Within: everywhere, Query: "stag"}, t0, []int{11}},
		"by last four":              {catalog.Filter{Within: everywhere, Query: "Zz9_"}, t0, []int{2}},
		"by id":                     {catalog.Filter{Within: everywhere, Query: keyID(3).String()}, t0, []int{3}},
		"by external id":            {catalog.Filter{Within: everywhere, Query: "100%"}, t0, []int{3}},
		"wildcards are plain text":  {catalog.Filter{Within: everywhere, Query: "%"}, t0, []int{3}},
		"underscores too":           {catalog.Filter{Within: everywhere, Query: "9_"}, t0, []int{2}},
		"quotes are plain text":     {catalog.Filter{Within: everywhere, Query: `'"; --`}, t0, nil},
		"more than fits anywhere":   {catalog.Filter{Within: everywhere, Query: strings.Repeat("k", 10_000)}, t0, nil},
		"exact external id":         {catalog.Filter{Within: everywhere, ExternalID: "urn:x:100%"}, t0, []int{3}},
		"part of an external id":    {catalog.Filter{Within: everywhere, ExternalID: "urn:x:"}, t0, nil},
		"management keys":           {catalog.Filter{Within: everywhere, Kind: events.KindManagement}, t0, []int{5}},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.filter.Org == "" && name != "the zero value" {
				tt.filter.Org = acme
			}
			equal(t, ids(t, c, tt.filter, tt.now), tt.want)
			if f := tt.filter; f.Org == acme {
				everything := f
				everything.Within = everywhere
				keys, _, err := c.Keys(t.Context(), everything, tt.now)
				if err != nil {
					t.Fatal(err)
				}
				n := 0
				for _, k := range keys {
					if k.Within(f.Within) {
						n++
					}
				}
				if n != len(tt.want) {
					t.Fatalf("in SQL %d keys lie within, in Go %d", len(tt.want), n)
				}
			}
		})
	}

	one, err := c.Key(t.Context(), acme, keyID(1), t0)
	if err != nil || one.DataSubject != events.DataSubject(keyID(1).String()) {
		t.Fatal(one.DataSubject, err)
	}

	holders, err := c.Holders(t.Context(), acme, t0+day)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, holders, []events.KeyID{keyID(1), keyID(2), keyID(3), keyID(4), keyID(7), keyID(9), keyID(12)})
	users, err := c.KeysUsingWorkspace(t.Context(), acme, "hiring", t0)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, users, catalog.Users{Count: 2, First: []events.KeyID{keyID(3), keyID(2)}})
}

func TestKeysUsingAProfile(t *testing.T) {
	h := newHistory()
	for n := 1; n <= 14; n++ {
		h.create(acme, n, func(e *events.KeyCreated) { e.Profile = "strict" })
	}
	h.create("other", 15, func(e *events.KeyCreated) { e.Profile = "strict" })
	h.add(events.RevokedSubject(acme, keyID(14)), events.KeyRevoked{})
	h.add(events.KeySubject(acme, keyID(13)), events.KeyProfileChanged{Profile: "other"})
	c := h.opened(t)
	users, err := c.KeysUsingProfile(t.Context(), acme, "strict", t0)
	if err != nil {
		t.Fatal(err)
	}
	first := []events.KeyID{}
	for n := 12; n > 2; n-- {
		first = append(first, keyID(n))
	}
	equal(t, users, catalog.Users{Count: 12, First: first})
	if users, err := c.KeysUsingProfile(t.Context(), acme, "", t0); err != nil || users.Count != 0 {
		t.Fatal(users, err)
	}
}

func TestPagesAreCompleteUnderInserts(t *testing.T) {
	ctx := t.Context()
	h := newHistory()
	const first = 500
	for n := 1; n <= first; n++ {
		h.create(acme, n)
		h.create("other", n)
	}
	c := h.opened(t)
	f := catalog.Filter{Org: acme, Within: everywhere, Page: catalog.Page{Limit: 7}}
	var all []events.KeyID
	for n := first; ; n++ {
		keys, next, err := c.Keys(ctx, f, t0)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			all = append(all, k.ID)
		}
		if next == "" {
			break
		}
		f.Cursor = next
		h.create(acme, n+1)
		if err := c.Apply(ctx, h.facts[len(h.facts)-1:]); err != nil {
			t.Fatal(err)
		}
	}
	var want []events.KeyID
	for n := first; n > 0; n-- {
		want = append(want, keyID(n))
	}
	equal(t, all, want)
}

func TestPageSizes(t *testing.T) {
	h := newHistory()
	for n := 1; n <= catalog.MaxLimit; n++ {
		h.create(acme, n)
	}
	c := h.opened(t)
	f := catalog.Filter{Org: acme, Within: everywhere}
	for limit, want := range map[int]int{-1: catalog.DefaultLimit, 0: catalog.DefaultLimit, 1: 1, 10_000: catalog.MaxLimit} {
		f.Limit = limit
		keys, next, err := c.Keys(t.Context(), f, t0)
		if err != nil || len(keys) != want {
			t.Fatalf("limit %d gives %d: %v", limit, len(keys), err)
		}
		if (next == "") != (want == catalog.MaxLimit) {
			t.Fatalf("limit %d: next page %q", limit, next)
		}
	}
}

func TestCursorsOfOtherListsAreRefused(t *testing.T) {
	ctx := t.Context()
	h := newHistory()
	for n := 1; n <= 3; n++ {
		h.create(acme, n)
		h.create("other", n)
		w := events.WorkspaceID(fmt.Sprintf("w%d", n))
		h.add(events.WorkspaceSubject(acme, w), events.WorkspaceCreated{ID: w})
	}
	c := h.opened(t)
	good := catalog.Filter{Org: acme, Within: everywhere, Page: catalog.Page{Limit: 1}}
	_, cursor, err := c.Keys(ctx, good, t0)
	if err != nil || cursor == "" {
		t.Fatal(cursor, err)
	}
	for name, change := range map[string]func(*catalog.Filter){
		"organization": func(f *catalog.Filter) { f.Org = "other" },
		"status":       func(f *catalog.Filter) { f.Status = catalog.StatusAny },
		"workspace":    func(f *catalog.Filter) { f.Workspace = "w1" },
		"bounds":       func(f *catalog.Filter) { f.Within = events.Scope{Workspaces: []events.WorkspaceID{"w1"}} },
		"query":        func(f *catalog.Filter) { f.Query = "key" },
		"unused since": func(f *catalog.Filter) { f.UnusedSince = t0 },
		"external id":  func(f *catalog.Filter) { f.ExternalID = "x" },
		"kind":         func(f *catalog.Filter) { f.Kind = events.KindAPI },
	} {
		f := good
		f.Cursor = cursor
		if _, _, err := c.Keys(ctx, f, t0); err != nil {
			t.Fatal(err)
		}
		change(&f)
		if _, _, err := c.Keys(ctx, f, t0); !errors.Is(err, catalog.ErrBadCursor) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := c.Workspaces(ctx, acme, everywhere, catalog.Page{Cursor: cursor}); !errors.Is(err, catalog.ErrBadCursor) {
		t.Errorf("cursor of keys for workspaces: %v", err)
	}
	// Another size of page is the same list.
	f := good
	f.Cursor, f.Limit = cursor, 2
	if keys, _, err := c.Keys(ctx, f, t0); err != nil || len(keys) != 2 {
		t.Fatal(keys, err)
	}
	for _, bad := range []string{"x", cursor + "A", cursor[1:], cursor[:len(cursor)-1], strings.ToUpper(cursor), cursor + "\n", strings.Repeat("A", 1000)} {
		f.Cursor = bad
		if _, _, err := c.Keys(ctx, f, t0); !errors.Is(err, catalog.ErrBadCursor) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	workspaces, next, err := c.Workspaces(ctx, acme, everywhere, catalog.Page{Limit: 2})
	if err != nil || len(workspaces) != 2 {
		t.Fatal(workspaces, err)
	}
	if workspaces, next, err = c.Workspaces(ctx, acme, everywhere, catalog.Page{Cursor: next}); err != nil || len(workspaces) != 1 || next != "" || workspaces[0].ID != "w1" {
		t.Fatal(workspaces, next, err)
	}
}

// The list holds what lies within the asker's scope and nothing tells of the
// rest, not even the lengths of pages.
func TestWorkspacesWithinAScope(t *testing.T) {
	h := newHistory()
	for _, id := range []events.WorkspaceID{"w1", "w2", "w3", "w4"} {
		h.add(events.WorkspaceSubject(acme, id), events.WorkspaceCreated{ID: id})
	}
	c := h.opened(t)
	ctx, within := t.Context(), events.Scope{Workspaces: []events.WorkspaceID{"w1", "w3", "elsewhere"}}
	first, next, err := c.Workspaces(ctx, acme, within, catalog.Page{Limit: 1})
	if err != nil || len(first) != 1 || first[0].ID != "w3" || next == "" {
		t.Fatal(first, next, err)
	}
	if _, _, err := c.Workspaces(ctx, acme, events.Scope{Workspaces: []events.WorkspaceID{"w1"}}, catalog.Page{Cursor: next}); !errors.Is(err, catalog.ErrBadCursor) {
		t.Errorf("the cursor of another scope: %v", err)
	}
	rest, next, err := c.Workspaces(ctx, acme, within, catalog.Page{Cursor: next, Limit: 1})
	if err != nil || len(rest) != 1 || rest[0].ID != "w1" || next != "" {
		t.Fatal(rest, next, err)
	}
	if none, next, err := c.Workspaces(ctx, acme, events.Scope{}, catalog.Page{}); err != nil || len(none) != 0 || next != "" {
		t.Error(none, next, err)
	}
}

// writeUsage does what the usage view does: it puts its file in place.
func writeUsage(t *testing.T, path string, lastUsed map[int]events.Time) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?_pragma=journal_mode(WAL)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`CREATE TABLE last_used (org TEXT NOT NULL, key TEXT NOT NULL, at INTEGER NOT NULL, seen_at INTEGER NOT NULL, PRIMARY KEY (org, key)) WITHOUT ROWID`); err != nil {
		t.Fatal(err)
	}
	for n, at := range lastUsed {
		if _, err := db.Exec(`INSERT INTO last_used VALUES (?, ?, ?, ?)`, acme, keyID(n).String(), int64(at), int64(at)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLastUse(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	usage := filepath.Join(dir, "usage 'x' #1?.db")
	h := newHistory()
	for n := 1; n <= 4; n++ {
		h.create(acme, n)
	}
	reopen := func() *catalog.Catalog {
		c, err := catalog.Open(ctx, catalog.Config{Path: filepath.Join(dir, "catalog.db"), UsagePath: usage})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	c := reopen()
	h.applyTo(t, c, 10)
	unused := catalog.Filter{Org: acme, Within: everywhere, UnusedSince: t0 + 10*day}
	equal(t, ids(t, c, unused, t0), []int{4, 3, 2, 1})
	writeUsage(t, usage, map[int]events.Time{1: t0 + 5*day, 2: t0 + 10*day, 3: t0 + 20*day})
	c = reopen()
	equal(t, ids(t, c, unused, t0), []int{4, 1})
	if k, err := c.Key(ctx, acme, keyID(3), t0); err != nil || k.LastUsedAt != t0+20*day {
		t.Fatal(k, err)
	}
	// Keys that did not exist then are not dormant.
	unused.UnusedSince = t0
	if got := ids(t, c, unused, t0); len(got) != 0 {
		t.Fatal(got)
	}
	keys, _, err := c.Keys(ctx, catalog.Filter{Org: acme, Within: everywhere}, t0)
	if err != nil {
		t.Fatal(err)
	}
	if used := slices.Collect(func(yield func(events.Time) bool) {
		for _, k := range keys {
			if !yield(k.LastUsedAt) {
				return
			}
		}
	}); !slices.Equal(used, []events.Time{0, t0 + 20*day, t0 + 10*day, t0 + 5*day}) {
		t.Fatal(used)
	}
}

// A key is found by the metadata that it has, and no longer by what it had.
func TestKeysAreFoundByTheirMetadata(t *testing.T) {
	h := newHistory()
	text := func(pairs ...string) events.Metadata {
		m := events.Metadata{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = events.ClearText(pairs[i+1])
		}
		return m
	}
	has := func(m events.Metadata) func(*events.KeyCreated) {
		return func(e *events.KeyCreated) { e.Metadata = m }
	}
	set := func(org events.OrgID, n int, m events.Metadata) {
		h.add(events.KeySubject(org, keyID(n)), events.KeyMetadataChanged{Metadata: m})
	}
	h.create(acme, 1, has(text("team", "platform", "env", "prod")))
	h.create(acme, 2, has(text("team", "platform", "env", "test")))
	h.create(acme, 3, has(text("team", "billing")))
	h.create(acme, 4, has(nil))
	h.create(acme, 5, has(text("team", "platform")))
	h.create("other", 6, has(text("team", "platform")))
	h.create(acme, 7, has(events.Metadata{"team": sealedText, "env": events.ClearText("prod")}))
	h.create(acme, 8, has(text("team", "platform", "note", "platform")))
	set(acme, 3, text("team", "platform", "env", "prod"))
	set(acme, 4, text("team", "platform"))
	set(acme, 5, nil)
	set(acme, 2, events.Metadata{"team": events.ClearText("platform"), "env": sealedText})
	h.add(events.RevokedSubject(acme, keyID(8)), events.KeyRevoked{})
	h.add(events.KeySubject(acme, keyID(3)), events.KeyDisabled{})
	c := h.opened(t)
	one := func(pairs ...string) []catalog.Labelled {
		var list []catalog.Labelled
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, catalog.Labelled{Name: pairs[i], Value: pairs[i+1]})
		}
		return list
	}
	for what, tt := range map[string]struct {
		filter catalog.Filter
		want   []int
	}{
		"one":                {catalog.Filter{Metadata: one("team", "platform")}, []int{4, 3, 2, 1}},
		"revoked as well":    {catalog.Filter{Metadata: one("team", "platform"), Status: catalog.StatusAny}, []int{8, 4, 3, 2, 1}},
		"two":                {catalog.Filter{Metadata: one("team", "platform", "env", "prod")}, []int{3, 1}},
		"two, the other way": {catalog.Filter{Metadata: one("env", "prod", "team", "platform")}, []int{3, 1}},
		"one twice":          {catalog.Filter{Metadata: one("env", "prod", "env", "prod")}, []int{7, 3, 1}},
		"what cannot be":     {catalog.Filter{Metadata: one("env", "prod", "env", "test")}, nil},
		"what was":           {catalog.Filter{Metadata: one("team", "billing")}, nil},
		"what was sealed":    {catalog.Filter{Metadata: one("env", "test")}, nil},
		"nothing like it":    {catalog.Filter{Metadata: one("team", "plat")}, nil},
		"another's value":    {catalog.Filter{Metadata: one("env", "platform")}, nil},
		"with a status":      {catalog.Filter{Metadata: one("team", "platform"), Status: events.StatusInactive}, []int{3}},
		"with a text":        {catalog.Filter{Metadata: one("team", "platform"), Query: keyID(2).String()}, []int{2}},
		"due to be rotated":  {catalog.Filter{Metadata: one("team", "platform"), RotationDue: true}, nil},
		"elsewhere":          {catalog.Filter{Metadata: one("team", "platform"), Org: "other"}, []int{6}},
	} {
		if tt.filter.Org == "" {
			tt.filter.Org = acme
		}
		tt.filter.Within = events.Scope{AllWorkspaces: true}
		for _, limit := range []int{0, 1} {
			tt.filter.Limit = limit
			if got := ids(t, c, tt.filter, t0); !slices.Equal(got, tt.want) {
				t.Errorf("%s, by %d: %v, want %v", what, limit, got, tt.want)
			}
		}
	}

	// A cursor belongs to its filter, in whatever order that is written.
	f := catalog.Filter{Org: acme, Within: events.Scope{AllWorkspaces: true}, Metadata: one("team", "platform", "env", "prod")}
	f.Limit = 1
	_, next, err := c.Keys(t.Context(), f, t0)
	if err != nil || next == "" {
		t.Fatal(next, err)
	}
	f.Cursor, f.Metadata = next, one("env", "prod", "team", "platform")
	if got := ids(t, c, f, t0); !slices.Equal(got, []int{1}) {
		t.Errorf("the next page: %v", got)
	}
	f.Metadata = one("team", "platform")
	if _, _, err := c.Keys(t.Context(), f, t0); !errors.Is(err, sqlview.ErrBadCursor) {
		t.Errorf("a cursor of another filter: %v", err)
	}
}
