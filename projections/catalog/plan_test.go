package catalog

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
	"github.com/keyledger/keyledger/projections/usage"
)

// Lists run along an index from the newest key on: they read as many rows as
// they show, and never sort an organization.
func TestListsRunAlongAnIndex(t *testing.T) {
	c, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "catalog.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, tt := range map[string]struct {
		filter Filter
		index  string
	}{
		"default": {Filter{}, "key_unrevoked"},
		"active":  {Filter{Status: events.StatusActive, Query: "x", Workspace: "w", UnusedSince: 1}, "key_unrevoked"},
		"all":     {Filter{Status: StatusAny}, "key_newest"},
		"revoked": {Filter{Status: events.StatusRevoked}, "key_newest"},
		// Of these all but those of which it has come are left out by the index alone.
		"to be rotated":        {Filter{RotationDue: true}, "key_rotation"},
		"to be rotated, off":   {Filter{RotationDue: true, Status: events.StatusInactive}, "key_rotation"},
		"to be rotated of all": {Filter{RotationDue: true, Status: StatusAny}, "key_rotation"},
		// Of these those alone are read that have the first member.
		"labelled":                {Filter{Metadata: []Labelled{{"team", "a"}}}, "m USING PRIMARY KEY (org=? AND name=? AND value=? AND created_position<?)\nSEARCH k USING INTEGER PRIMARY KEY"},
		"labelled, to be rotated": {Filter{Metadata: []Labelled{{"team", "a"}}, RotationDue: true}, "m USING PRIMARY KEY (org=? AND name=? AND value=? AND created_position<?)\nSEARCH k USING INTEGER PRIMARY KEY"},
		"labelled twice":          {Filter{Metadata: []Labelled{{"team", "a"}, {"env", "b"}}, Status: StatusAny}, "x EXISTS USING PRIMARY KEY (org=? AND name=? AND value=? AND"},
	} {
		tt.filter.Org, tt.filter.Within = "acme", events.Scope{AllWorkspaces: true}
		query, args, err := tt.filter.query(1)
		if err != nil {
			t.Fatal(err)
		}
		text := c.plan(t, query, args...)
		if strings.Contains(text, "TEMP B-TREE") || !strings.Contains(text, tt.index+" ") || strings.Contains(text, "SCAN k") {
			t.Errorf("%s:\n%s", name, text)
		}
	}
}

// plan is how SQLite goes about a query.
func (c *Catalog) plan(t *testing.T, query string, args ...any) string {
	t.Helper()
	plan, err := sqlview.All(t.Context(), c.db, func(row sqlview.Scanner) (string, error) {
		var id, parent, unused int
		var detail string
		err := row.Scan(&id, &parent, &unused, &detail)
		return detail, err
	}, `EXPLAIN QUERY PLAN `+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(plan, "\n")
}

// What is due is found at the front of its index, whatever else there is, and
// what an organization's policy or end changes among its own keys.
func TestDueRunsAlongItsIndex(t *testing.T) {
	c, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "catalog.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, tt := range map[string]struct {
		query string
		args  []any
		want  string
	}{
		"due":     {dueQuery, []any{2, 1, 1, 10}, "SEARCH key USING INDEX key_due (due_at>? AND due_at<?)"},
		"next":    {nextQuery, nil, "SEARCH key USING COVERING INDEX key_due"},
		"overdue": {overdueQuery, []any{1, 10}, "SEARCH key USING COVERING INDEX key_due (due_at"},
		"notices": {`UPDATE key SET due_at = 0 WHERE ` + dueOfOrg, []any{"acme"}, "SEARCH key USING INDEX key_unrevoked (org=?)"},
		"policy":  {`UPDATE key SET due_at = ` + dueSQL + ` WHERE ` + unrevoked, []any{"acme"}, "SEARCH key USING INDEX key_unrevoked (org=?)"},
		"age":     {`UPDATE key SET rotation_due_at = ` + rotationSQL + ` WHERE ` + unrevoked, []any{"acme"}, "SEARCH key USING INDEX key_unrevoked (org=?)"},
	} {
		text := c.plan(t, tt.query, tt.args...)
		if strings.Contains(text, "TEMP B-TREE") || !strings.Contains(text, tt.want) || strings.Contains(text, "SCAN key") {
			t.Errorf("%s:\n%s", name, text)
		}
	}
}

// The usage view's own file is what the catalog attaches.
func TestUsageViewIsAttached(t *testing.T) {
	dir := t.TempDir()
	u, err := usage.Open(t.Context(), usage.Config{
		Path: filepath.Join(dir, "usage.db"), Of: events.Positions{Ledger: events.LedgerID{1}, Epoch: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	c, err := Open(t.Context(), Config{Path: filepath.Join(dir, "catalog.db"), UsagePath: filepath.Join(dir, "usage.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// A table that the stand-in does not have.
	var n int
	if err := c.db.QueryRow(t.Context(), `SELECT count(*) FROM usage.findings`).Scan(&n); err != nil {
		t.Fatal(err)
	}
}
