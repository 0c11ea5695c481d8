package reports_test

import (
	"fmt"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/reports"
)

func TestOverWide(t *testing.T) {
	w := newWorld(t)
	entry := func(name string, access events.Access) events.CatalogPermission {
		return events.CatalogPermission{Name: name, Access: access}
	}
	w.add(ago(500), events.CatalogSubject(acme), events.CatalogReplaced{Permissions: []events.CatalogPermission{
		entry("interview:read", events.AccessRead), entry("interview:start", events.AccessWrite),
		entry("report:read", events.AccessRead), entry("report:write", events.AccessWrite),
	}})
	restricted := func(grants ...string) func(*events.KeyCreated) {
		return func(e *events.KeyCreated) {
			e.Permissions = events.Permissions{Level: events.LevelRestricted, Grants: grants}
		}
	}
	level := func(l events.Level) func(*events.KeyCreated) {
		return func(e *events.KeyCreated) { e.Permissions = events.Permissions{Level: l} }
	}
	use := func(n, days int, code events.Code, permission string) {
		w.use(acme, uses.Use{At: ago(days), Key: keyID(n), Code: code, Permission: permission})
	}
	w.create(acme, 1, 200, level(events.LevelAll))                   // uses one of four
	w.create(acme, 2, 200, level(events.LevelReadOnly))              // uses both by a query
	w.create(acme, 3, 200, restricted("report:*", "interview:read")) // asks for all of report
	w.create(acme, 4, 200, restricted("report:read"))                // used it too long ago
	w.create(acme, 5, 200, restricted("report:read"))                // was only ever denied
	w.create(acme, 6, 80, level(events.LevelAll))                    // is too young
	w.create(acme, 7, 200, restricted("gone:read"))                  // may nothing that there is
	w.create(acme, 8, 200, func(e *events.KeyCreated) {
		e.KeyKind, e.Role, e.Permissions = events.KindManagement, events.RoleAdmin, events.Permissions{}
	})
	w.create(acme, 9, 200, restricted("report:read")) // revoked
	w.add(ago(1), events.RevokedSubject(acme, keyID(9)), events.KeyRevoked{})
	use(1, 3, events.CodeValid, "interview:start")
	use(1, 95, events.CodeValid, "report:read")
	use(2, 3, events.CodeValid, "interview:read AND report:read")
	use(3, 3, events.CodeValid, "report:*")
	use(4, 95, events.CodeValid, "report:read")
	use(5, 3, events.CodeOutOfScope, "report:read")
	w.apply()

	name := func(n int) events.Text { return events.ClearText(fmt.Sprintf("key %d", n)) }
	line := func(n int, level string, grants []string, last events.Time, granted int64, used, unused []string) reports.Row {
		return row(keyID(n).String(), name(n), "kl_live_…a1B2", events.Text{}, byTest, "ACTIVE", level, grants, []string{"*"},
			ago(200), last, granted, used, unused)
	}
	w.equal(w.ask(reports.Question{Report: reports.OverWide, Days: 90}),
		line(1, "all", nil, ago(3), 4, []string{"interview:start"}, []string{"interview:read", "report:read", "report:write"}),
		line(3, "restricted", []string{"report:*", "interview:read"}, ago(3), 3, []string{"report:read", "report:write"}, []string{"interview:read"}),
		line(4, "restricted", []string{"report:read"}, ago(95), 1, nil, []string{"report:read"}),
		line(5, "restricted", []string{"report:read"}, 0, 1, nil, []string{"report:read"}),
	)
	rows := w.ask(reports.Question{Report: reports.OverWide, Days: 100})
	if len(rows) != 3 {
		t.Errorf("within 100 days: %v", rows)
	}
}

func TestFailedVerifications(t *testing.T) {
	w := newWorld(t)
	w.create(acme, 1, 200)
	w.create(acme, 2, 200, func(e *events.KeyCreated) { e.Scope = events.Scope{Workspaces: []events.WorkspaceID{"hiring"}} })
	w.create(other, 3, 200)
	deny := func(org events.OrgID, n, days int, code events.Code, ip string) {
		u := uses.Use{At: ago(days), Key: keyID(n), Code: code}
		if ip != "" {
			u.Context.ClientIP = ip
		}
		w.use(org, u)
	}
	deny(acme, 1, 40, events.CodeExpired, "10.0.0.1")
	deny(acme, 1, 9, events.CodeInactive, "10.0.0.1")
	deny(acme, 1, 7, events.CodeInactive, "10.0.0.1")
	deny(acme, 1, 7, events.CodeInactive, "10.0.0.2")
	deny(acme, 1, 7, events.CodeValid, "10.0.0.2")
	deny(acme, 1, 2, events.CodeRevoked, "")
	deny(acme, 2, 2, events.CodeOutOfScope, "")
	deny(other, 3, 2, events.CodeExpired, "")
	// Uses of keys that there are not, from a verifier that was taken over.
	deny(acme, 77, 2, events.CodeExpired, "")
	unknown := access.Row{Kind: access.SecretUnknown, Org: events.System, What: "verify", Code: "NOT_FOUND", Source: "c0ffee", SourceKind: access.SourceLabel}
	w.record(unknown, 7, ago(3))
	w.record(unknown, 5, ago(40))
	w.record(access.Row{Kind: access.LoginFailed, Org: events.System, What: "list-keys", Code: "unauthenticated"}, 2, ago(2))
	w.record(access.Row{Kind: access.AuditRead, Org: events.System, What: "get-report", Actor: system}, 1, ago(2))
	asked := unknown
	asked.Org, asked.Code = acme, "MALFORMED"
	w.record(asked, 1, ago(1))
	w.apply()

	start := func(days int) events.Time { return ago(days) - ago(days)%day }
	line := func(n int, code, kind, source string, count int64, first, last int) reports.Row {
		return reports.Row{
			"key", keyID(n).String(), events.ClearText(fmt.Sprintf("key %d", n)), "kl_live_…a1B2", code, kind,
			reports.Source{Org: acme, Text: source},
			count, start(first), start(last),
		}
	}
	stranger := func(what, code, kind, source string, count int64, days int) reports.Row {
		return reports.Row{what, "", events.Text{}, "", code, kind, reports.Source{Org: events.System, Text: source}, count, ago(days), ago(days) + second}
	}
	w.equal(w.ask(reports.Question{Report: reports.FailedVerifications, Days: 30}),
		line(1, "REVOKED", "", "", 1, 2, 2),
		line(1, "INACTIVE", "client_ip", "10.0.0.1", 2, 9, 7),
		line(1, "INACTIVE", "client_ip", "10.0.0.2", 1, 7, 7),
		line(2, "OUT_OF_SCOPE", "", "", 1, 2, 2),
		stranger("unknown secret", "MALFORMED", "label", "c0ffee", 1, 1),
	)
	w.equal(w.ask(reports.Question{Report: reports.FailedVerifications, From: ago(8), To: ago(6)}),
		line(1, "INACTIVE", "client_ip", "10.0.0.1", 1, 7, 7), line(1, "INACTIVE", "client_ip", "10.0.0.2", 1, 7, 7))
	if rows := w.ask(reports.Question{Report: reports.FailedVerifications}); len(rows) != 6 {
		t.Errorf("of all times: %v", rows)
	}
	w.equal(w.ask(reports.Question{Report: reports.FailedVerifications, Days: 30, Within: events.Scope{Workspaces: []events.WorkspaceID{"hiring"}}}),
		line(2, "OUT_OF_SCOPE", "", "", 1, 2, 2))
	w.equal(w.ask(reports.Question{Report: reports.FailedVerifications, Days: 30, Org: events.System}),
		stranger("unknown secret", "NOT_FOUND", "label", "c0ffee", 7, 3), stranger("login", "unauthenticated", "", "", 2, 2))
}

// told are the events of rows, and the keys that they are about.
func told(rows []reports.Row) (positions []events.Position, names []string) {
	for _, r := range rows {
		positions = append(positions, r[0].(audit.Event).Position)
		if len(r) > 1 {
			names = append(names, r[1].(catalog.Key).Name.String())
		}
	}
	return positions, names
}

func TestChanges(t *testing.T) {
	w := newWorld(t)
	w.add(ago(60), events.OrganizationSubject(acme), events.OrganizationCreated{ID: acme, Plan: events.PlanGrowth})          // 1
	w.create(acme, 1, 50)                                                                                                    // 2
	w.create(other, 2, 20)                                                                                                   // 3
	w.create(acme, 3, 20, func(e *events.KeyCreated) { e.Scope = events.Scope{Workspaces: []events.WorkspaceID{"hiring"}} }) // 4
	w.add(ago(10), events.KeySubject(acme, keyID(1)), events.KeyDisabled{})                                                  // 5
	w.apply()
	check := func(q reports.Question, want ...events.Position) {
		t.Helper()
		q.Report = reports.Changes
		got, _ := told(w.ask(q))
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%+v: %v, want %v", q, got, want)
		}
	}
	check(reports.Question{Days: 30}, 4, 5)
	check(reports.Question{}, 1, 2, 4, 5)
	check(reports.Question{From: ago(55), To: ago(10)}, 2, 4)
	check(reports.Question{From: ago(10) + second}, 5)
	check(reports.Question{Days: 30, Org: other}, 3)
	check(reports.Question{Within: events.Scope{Workspaces: []events.WorkspaceID{"hiring"}}}, 4)
	if rows := w.ask(reports.Question{Report: reports.Changes, Days: 30}); len(rows) == 2 {
		e := rows[1][0].(audit.Event)
		if len(e.Changes) != 1 || e.Changes[0].Field != "status" || string(e.Changes[0].Before) != `"ACTIVE"` || string(e.Changes[0].After) != `"INACTIVE"` {
			t.Errorf("%+v", e.Changes)
		}
	}
}

func TestManagementChanges(t *testing.T) {
	w := newWorld(t)
	management := func(role events.Role) func(*events.KeyCreated) {
		return func(e *events.KeyCreated) {
			e.KeyKind, e.Role, e.Permissions = events.KindManagement, role, events.Permissions{}
		}
	}
	w.create(acme, 1, 60, management(events.RoleOwner)) // 1
	w.create(acme, 2, 60)                               // 2
	w.create(acme, 3, 40, management(events.RoleAdmin)) // 3
	w.create(other, 4, 40, management(events.RoleOwner))
	w.add(ago(30), events.KeySubject(acme, keyID(2)), events.KeyDisabled{})
	w.add(ago(20), events.KeySubject(acme, keyID(3)), events.KeyRenamed{Name: events.ClearText("deploys")}) // 6
	w.add(ago(10), events.RevokedSubject(acme, keyID(3)), events.KeyRevoked{})                              // 7
	w.add(ago(5), events.KeySubject(acme, keyID(1)), events.KeyScopeChanged{Scope: everywhere})             // 8
	w.apply()
	positions, names := told(w.ask(reports.Question{Report: reports.ManagementChanges}))
	if fmt.Sprint(positions, names) != "[1 3 6 7 8] [key 1 deploys deploys deploys key 1]" {
		t.Errorf("%v %v", positions, names)
	}
	if positions, _ := told(w.ask(reports.Question{Report: reports.ManagementChanges, From: ago(20), To: ago(5)})); fmt.Sprint(positions) != "[6 7]" {
		t.Errorf("in a period: %v", positions)
	}
	if positions, _ := told(w.ask(reports.Question{Report: reports.ManagementChanges, Within: events.Scope{Workspaces: []events.WorkspaceID{"hiring"}}})); len(positions) != 0 {
		t.Errorf("for who sees a workspace: %v", positions)
	}
}
