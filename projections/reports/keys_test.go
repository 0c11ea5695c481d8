package reports_test

import (
	"errors"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/reports"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// review is a world with one key of each sort.
func review(t *testing.T) *world {
	w := newWorld(t)
	w.add(ago(500), events.OrganizationSubject(acme), events.OrganizationCreated{ID: acme, Name: events.ClearText("Acme"), Plan: events.PlanGrowth})
	// 1: the owner's management key, which makes the others.
	w.create(acme, 1, 400, func(e *events.KeyCreated) {
		e.KeyKind, e.Role, e.Permissions, e.Name = events.KindManagement, events.RoleOwner, events.Permissions{}, events.ClearText("ops")
	})
	ops := events.Actor{Type: events.ActorKey, Org: acme, Key: keyID(1)}
	// 2: used yesterday, ends in 10 days, confined to two workspaces.
	w.createBy(ops, acme, 2, 100, func(e *events.KeyCreated) {
		e.Permissions = events.Permissions{Level: events.LevelRestricted, Grants: []string{"interview:read", "report:*"}}
		e.Scope = events.Scope{Workspaces: []events.WorkspaceID{"hiring", "sales"}}
		e.ExpiresAt, e.ExternalID, e.Profile = now+10*day, events.ClearText("crm-7"), "gold"
		e.Metadata = events.Metadata{"owner": events.ClearText("team-a"), "tier": events.ClearText("1")}
	})
	// 3: never used, with a sealed name, in one workspace, switched off.
	w.createBy(ops, acme, 3, 91, func(e *events.KeyCreated) {
		e.Name, e.Scope = sealed, events.Scope{Workspaces: []events.WorkspaceID{"hiring"}}
	})
	w.add(ago(50), events.KeySubject(acme, keyID(3)), events.KeyDisabled{})
	// 4: revoked. 5: expired. 6: of another organization.
	w.create(acme, 4, 300)
	w.add(ago(20), events.RevokedSubject(acme, keyID(4)), events.KeyRevoked{})
	w.create(acme, 5, 300, func(e *events.KeyCreated) { e.ExpiresAt = ago(1) })
	w.create(other, 6, 300)
	// 7: young, denied today, rotated from 8, which lives on in its grace.
	w.create(acme, 8, 200)
	w.add(ago(5), events.KeySubject(acme, keyID(8)), events.KeyRotated{Successor: keyID(7), GraceEndsAt: now + 2*day})
	w.create(acme, 7, 5, func(e *events.KeyCreated) { e.RotatedFrom = keyID(8) })

	w.use(acme, uses.Use{At: ago(1), Key: keyID(2), Code: events.CodeValid, Permission: "interview:read", Workspace: "hiring"})
	w.use(acme, uses.Use{At: ago(95), Key: keyID(8), Code: events.CodeValid, Permission: "report:read"})
	w.use(acme, uses.Use{At: ago(0), Key: keyID(7), Code: events.CodeInsufficientPermissions, Permission: "report:write"})
	w.use(acme, uses.Use{At: ago(2), Key: keyID(3), Code: events.CodeInactive})
	w.apply()
	return w
}

var (
	byTest = []any{"system/test", reports.KeyName{}}
	byOps  = []any{"key/acme/" + keyID(1).String(), reports.KeyName{Org: acme, Scope: everywhere, Text: events.ClearText("ops")}}
)

// row joins cells and lists of cells.
func row(parts ...any) reports.Row {
	var out reports.Row
	for _, p := range parts {
		if list, ok := p.([]any); ok {
			out = append(out, list...)
		} else {
			out = append(out, p)
		}
	}
	return out
}

// who are the cells that every report of keys begins with.
func who(n int, name events.Text, kind, role string, owner string, by []any, status string) []any {
	return row(keyID(n).String(), name, kind, role, "kl_live_…a1B2", events.ClearText(owner), by, status)
}

// due is when a key of the default policy should be rotated.
func due(days int) events.Time { return ago(days) + 90*day }

func TestAccessReview(t *testing.T) {
	w := review(t)
	var none []string
	w.equal(w.ask(reports.Question{Report: reports.AccessReview}),
		row(who(1, events.ClearText("ops"), "management", "owner", "", byTest, "ACTIVE"), "", none, []string{"*"}, "",
			ago(400), int64(400), events.Time(0), events.Time(0), "", due(400), events.Text{}, true),
		row(who(2, events.ClearText("key 2"), "api", "", "team-a", byOps, "ACTIVE"), "restricted", []string{"interview:read", "report:*"},
			[]string{"hiring", "sales"}, "gold", ago(100), int64(100), now+10*day, ago(1), "interview:read", due(100), events.ClearText("crm-7"), false),
		row(who(3, sealed, "api", "", "", byOps, "INACTIVE"), "all", none, []string{"hiring"}, "",
			ago(91), int64(91), events.Time(0), events.Time(0), "", due(91), events.Text{}, false),
		row(who(8, events.ClearText("key 8"), "api", "", "", byTest, "ACTIVE"), "all", none, []string{"*"}, "",
			ago(200), int64(200), now+2*day, ago(95), "report:read", events.Time(0), events.Text{}, false),
		row(who(7, events.ClearText("key 7"), "api", "", "", byTest, "ACTIVE"), "all", none, []string{"*"}, "",
			ago(5), int64(5), events.Time(0), events.Time(0), "", due(5), events.Text{}, false),
	)
}

func TestDormant(t *testing.T) {
	w := review(t)
	rows := w.ask(reports.Question{Report: reports.Dormant, Days: 90})
	w.equal(rows,
		row(who(1, events.ClearText("ops"), "management", "owner", "", byTest, "ACTIVE"), "", []string{"*"},
			ago(400), events.Time(0), int64(400), events.Time(0), "", events.Time(0)),
		// An attempt that was denied is no use.
		row(who(3, sealed, "api", "", "", byOps, "INACTIVE"), "all", []string{"hiring"},
			ago(91), events.Time(0), int64(91), ago(2), "INACTIVE", events.Time(0)),
		row(who(8, events.ClearText("key 8"), "api", "", "", byTest, "ACTIVE"), "all", []string{"*"},
			ago(200), ago(95), int64(95), ago(95), "VALID", now+2*day),
	)
	// 95 days and an hour are not 96, and 91 are more than 91.
	if rows := w.ask(reports.Question{Report: reports.Dormant, Days: 96}); len(rows) != 1 {
		t.Errorf("unused for 96 days: %v", rows)
	}
	if rows := w.ask(reports.Question{Report: reports.Dormant, Days: 91}); len(rows) != 3 {
		t.Errorf("unused for 91 days: %v", rows)
	}
}

func TestNeverExpires(t *testing.T) {
	w := review(t)
	var none []string
	w.equal(w.ask(reports.Question{Report: reports.NeverExpires}),
		row(who(1, events.ClearText("ops"), "management", "owner", "", byTest, "ACTIVE"), "", none, []string{"*"},
			ago(400), int64(400), events.Time(0), due(400)),
		row(who(3, sealed, "api", "", "", byOps, "INACTIVE"), "all", none, []string{"hiring"}, ago(91), int64(91), events.Time(0), due(91)),
		row(who(7, events.ClearText("key 7"), "api", "", "", byTest, "ACTIVE"), "all", none, []string{"*"}, ago(5), int64(5), events.Time(0), due(5)),
	)
}

func TestRotationAge(t *testing.T) {
	w := review(t)
	old := []reports.Row{
		row(who(1, events.ClearText("ops"), "management", "owner", "", byTest, "ACTIVE"),
			ago(400), int64(400), false, "", "", due(400), int64(310), events.Time(0), events.Time(0)),
		row(who(2, events.ClearText("key 2"), "api", "", "team-a", byOps, "ACTIVE"),
			ago(100), int64(100), false, "", "", due(100), int64(10), now+10*day, ago(1)),
		row(who(3, sealed, "api", "", "", byOps, "INACTIVE"),
			ago(91), int64(91), false, "", "", due(91), int64(1), events.Time(0), events.Time(0)),
		row(who(8, events.ClearText("key 8"), "api", "", "", byTest, "ACTIVE"),
			ago(200), int64(200), false, "", keyID(7).String(), events.Time(0), int64(0), now+2*day, ago(95)),
	}
	young := row(who(7, events.ClearText("key 7"), "api", "", "", byTest, "ACTIVE"),
		ago(5), int64(5), false, keyID(8).String(), "", due(5), int64(0), events.Time(0), events.Time(0))
	w.equal(w.ask(reports.Question{Report: reports.RotationAge, Days: 90}), old...)
	w.equal(w.ask(reports.Question{Report: reports.RotationAge}), append(old, young)...)
}

// TestWithin keeps who sees some workspaces to the keys that lie within.
func TestWithin(t *testing.T) {
	w := review(t)
	seen := func(workspaces ...events.WorkspaceID) (ids []string) {
		for _, r := range w.ask(reports.Question{Report: reports.AccessReview, Within: events.Scope{Workspaces: workspaces}}) {
			ids = append(ids, r[0].(string))
		}
		return ids
	}
	if ids := seen("hiring"); len(ids) != 1 || ids[0] != keyID(3).String() {
		t.Errorf("in hiring alone: %v", ids)
	}
	if ids := seen("hiring", "sales"); len(ids) != 2 || ids[0] != keyID(2).String() {
		t.Errorf("in hiring and sales: %v", ids)
	}
	if ids := seen("elsewhere"); len(ids) != 0 {
		t.Errorf("elsewhere: %v", ids)
	}
}

// TestEndedOrganization has no living key, before their ends are recorded too.
func TestEndedOrganization(t *testing.T) {
	w := review(t)
	w.add(ago(0), events.EndSubject(acme), events.OrganizationDeleted{})
	w.apply()
	for _, d := range []reports.Name{reports.AccessReview, reports.Dormant, reports.NeverExpires, reports.RotationAge} {
		if rows := w.ask(reports.Question{Report: d}); len(rows) != 0 {
			t.Errorf("%s of an ended organization: %v", d, rows)
		}
	}
}

func TestCursorsAreOfOneReport(t *testing.T) {
	w := review(t)
	q := reports.Question{Report: reports.AccessReview, Org: acme, Within: everywhere, Now: now}
	first, err := w.reports.Page(t.Context(), q, sqlview.Page{Limit: 2})
	w.must(err)
	if len(first.Rows) != 2 || first.Next == "" {
		t.Fatalf("%d rows, next %q", len(first.Rows), first.Next)
	}
	for name, change := range map[string]func(*reports.Question){
		"report":       func(q *reports.Question) { q.Report = reports.NeverExpires },
		"days":         func(q *reports.Question) { q.Days = 7 },
		"organization": func(q *reports.Question) { q.Org = other },
		"scope":        func(q *reports.Question) { q.Within = events.Scope{Workspaces: []events.WorkspaceID{"hiring"}} },
	} {
		changed := q
		change(&changed)
		if _, err := w.reports.Page(t.Context(), changed, sqlview.Page{Cursor: first.Next}); !errors.Is(err, reports.ErrBadCursor) {
			t.Errorf("another %s takes the cursor: %v", name, err)
		}
	}
	// It holds at a later time.
	q.Now += day
	if second, err := w.reports.Page(t.Context(), q, sqlview.Page{Cursor: first.Next}); err != nil || len(second.Rows) != 3 {
		t.Errorf("%d rows, %v", len(second.Rows), err)
	}
}

func TestUnknownReport(t *testing.T) {
	w := newWorld(t)
	if _, err := w.reports.Page(t.Context(), reports.Question{Report: "everything"}, sqlview.Page{}); !errors.Is(err, reports.ErrUnknown) {
		t.Error(err)
	}
}

// TestColumnsFit holds every row to the columns of its report.
func TestColumnsFit(t *testing.T) {
	w := review(t)
	for _, d := range reports.Definitions() {
		if d.Name == reports.Changes || d.Name == reports.ManagementChanges {
			// Who shows them lays them out.
			continue
		}
		for _, r := range w.ask(reports.Question{Report: d.Name}) {
			if len(r) != len(d.Columns) {
				t.Fatalf("%s: %d cells under %d columns: %v", d.Name, len(r), len(d.Columns), r)
			}
		}
	}
}
