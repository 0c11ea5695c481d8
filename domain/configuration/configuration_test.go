package configuration

import (
	"testing"

	"github.com/keyledger/keyledger/events"
)

const org = events.OrgID("acme")

type at struct {
	subject events.Subject
	event   events.Event
}

func fold(s State, facts ...at) State {
	for _, f := range facts {
		s = Evolve(s, f.subject, f.event)
	}
	return s
}

var name = events.ClearText("N")

func TestFoldsEachByItsSubject(t *testing.T) {
	s := fold(
		State{},
		at{events.OrganizationSubject(org), events.OrganizationCreated{ID: org, Name: name, Plan: events.PlanGrowth}},
		at{events.WorkspaceSubject(org, "a"), events.WorkspaceCreated{ID: "a", Name: name}},
		at{events.WorkspaceSubject(org, "b"), events.WorkspaceCreated{ID: "b", Name: name}},
		at{events.WorkspaceSubject(org, "a"), events.WorkspaceDeleted{}},
		at{events.ProfileSubject(org, "p"), events.ProfileCreated{ID: "p", Name: name, Settings: events.Document("{}")}},
		at{events.CatalogSubject(org), events.CatalogReplaced{Permissions: []events.CatalogPermission{{Name: "a:b", Access: events.AccessRead}}}},
		at{events.KeySubject(org, events.KeyID{1}), events.KeyDisabled{}},
		at{events.RevokedSubject(org, events.KeyID{1}), events.KeyRevoked{}},
	)
	switch {
	case !s.Organization.Live() || s.Doubtful:
		t.Errorf("%+v", s.Organization)
	case s.Workspaces["a"].Live() || !s.Workspaces["b"].Live() || s.Workspaces["c"].Live():
		t.Errorf("%+v", s.Workspaces)
	case !s.Profiles["p"].Live() || s.Profiles["q"].Live():
		t.Errorf("%+v", s.Profiles)
	case s.Catalog.Access("a:b") != events.AccessRead:
		t.Errorf("%+v", s.Catalog)
	}
	if s = fold(s, at{events.EndSubject(org), events.OrganizationDeleted{}}); s.Organization.Live() {
		t.Error("the organization outlives its end")
	}
}

// A state that was handed out is read by others and never changes.
func TestEvolveLeavesWhatItWasGiven(t *testing.T) {
	before := fold(State{}, at{events.WorkspaceSubject(org, "a"), events.WorkspaceCreated{ID: "a", Name: name}},
		at{events.ProfileSubject(org, "p"), events.ProfileCreated{ID: "p", Name: name}})
	fold(before, at{events.WorkspaceSubject(org, "a"), events.WorkspaceDeleted{}}, at{events.WorkspaceSubject(org, "b"), events.WorkspaceCreated{ID: "b", Name: name}},
		at{events.ProfileSubject(org, "p"), events.ProfileDeleted{}})
	if len(before.Workspaces) != 1 || !before.Workspaces["a"].Live() || !before.Profiles["p"].Live() {
		t.Errorf("%+v", before)
	}
}

func TestWhatIsNotUnderstoodMakesItDoubtful(t *testing.T) {
	for what, c := range map[string]struct {
		fact at
		want bool
	}{
		"unknown":          {at{events.CatalogSubject(org), events.Unknown{Name: "catalog.narrowed.v1", Bears: true}}, true},
		"unknown, idle":    {at{events.CatalogSubject(org), events.Unknown{Name: "catalog.painted.v1"}}, false},
		"malformed":        {at{events.WorkspaceSubject(org, "a"), events.Malformed{}}, true},
		"malformed end":    {at{events.EndSubject(org), events.Malformed{}}, true},
		"unknown of a key": {at{events.KeySubject(org, events.KeyID{1}), events.Unknown{Name: "key.bound.v1", Bears: true}}, false},
		"malformed key":    {at{events.RevokedSubject(org, events.KeyID{1}), events.Malformed{}}, false},
		"another thing":    {at{events.Subject{Org: org, Aggregate: "webhook", ID: "w"}, events.Unknown{Name: "webhook.created.v1", Bears: true}}, false},
	} {
		if got := fold(State{}, c.fact).Doubtful; got != c.want {
			t.Errorf("%s: doubtful is %t, want %t", what, got, c.want)
		}
	}
}
