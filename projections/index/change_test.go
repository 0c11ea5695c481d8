package index

import (
	"context"
	"encoding/binary"
	"log/slog"
	"testing"

	"github.com/keyledger/keyledger/events"
)

const acme = events.OrgID("acme")

// meanwhile is a log that calls back in the midst of a slice, which is when the
// index tells of a fact that it cannot apply.
type meanwhile struct {
	slog.Handler
	look func()
}

func (m *meanwhile) Enabled(context.Context, slog.Level) bool { return true }

func (m *meanwhile) Handle(context.Context, slog.Record) error {
	m.look()
	return nil
}

// script appends facts to an index, each with its subject's next revision.
type script struct {
	t         *testing.T
	index     *Index
	position  events.Position
	revisions map[events.Subject]events.Revision
}

func newScript(t *testing.T, c Config) *script {
	t.Helper()
	x, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{t: t, index: x, revisions: map[events.Subject]events.Revision{}}
	s.add(events.OrganizationSubject(acme), events.OrganizationCreated{ID: acme})
	return s
}

func (s *script) fact(subject events.Subject, e events.Event) events.Recorded {
	s.revisions[subject]++
	s.position++
	return events.Recorded{Position: s.position, Subject: subject, Event: e, Meta: events.Meta{Revision: s.revisions[subject]}}
}

func (s *script) apply(facts []events.Recorded) {
	s.t.Helper()
	if err := s.index.Apply(context.Background(), facts); err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) add(subject events.Subject, e events.Event) {
	s.t.Helper()
	s.apply([]events.Recorded{s.fact(subject, e)})
}

// asOne appends facts as one.
func asOne(facts ...events.Recorded) []events.Recorded {
	for i := range facts {
		facts[i].Meta.BatchIndex, facts[i].Meta.BatchSize = i+1, len(facts)
	}
	return facts
}

func (s *script) look(k events.KeyCreated) (hit Hit, found bool) {
	value := k.Digest.Value
	return hit, s.index.Lookup(&value, &hit)
}

func created(n uint64, level events.Level) events.KeyCreated {
	k := events.KeyCreated{
		KeyKind: events.KindAPI, Digest: events.Digest{Alg: events.SHA256},
		Permissions: events.Permissions{Level: level}, Scope: events.Scope{AllWorkspaces: true},
	}
	k.ID[6] = 0x70
	binary.BigEndian.PutUint64(k.ID[8:], n)
	binary.BigEndian.PutUint64(k.Digest.Value[:], n)
	return k
}

// TestChangeIsSeenAsOne looks between two facts that were appended as one: no
// key was ever as only the first of them says.
func TestChangeIsSeenAsOne(t *testing.T) {
	log := &meanwhile{Handler: slog.DiscardHandler, look: func() {}}
	s := newScript(t, Config{Logger: slog.New(log)})
	s.add(events.WorkspaceSubject(acme, "w1"), events.WorkspaceCreated{ID: "w1"})
	s.add(events.WorkspaceSubject(acme, "w2"), events.WorkspaceCreated{ID: "w2"})
	s.add(events.CatalogSubject(acme), events.CatalogReplaced{Permissions: []events.CatalogPermission{{Name: "doc:write", Access: events.AccessWrite}}})
	k := created(1, events.LevelReadOnly)
	subject := events.KeySubject(acme, k.ID)
	s.add(subject, k)
	s.add(subject, events.KeyDisabled{})

	facts := []events.Recorded{
		s.fact(subject, events.KeyPermissionsChanged{Permissions: events.Permissions{Level: events.LevelAll}}),
		s.fact(subject, events.KeyEnabled{}),
		s.fact(subject, events.KeyExpiryChanged{ExpiresAt: 5_000_000}),
		s.fact(subject, k), // told about, and passed over
		s.fact(subject, events.KeyScopeChanged{Scope: events.Scope{Workspaces: []events.WorkspaceID{"w1"}}}),
	}
	facts[3].Meta.Revision, facts[4].Meta.Revision = 1, facts[4].Meta.Revision-1
	looked := 0
	log.look = func() {
		looked++
		h, found := s.look(k)
		if !found || h.Allows("doc:write") || !h.Disabled() || h.ExpiresAt() != 0 || !h.Covers("w2") {
			t.Error("a key is seen as one of several facts says")
		}
	}
	s.apply(asOne(facts...))
	if looked != 1 {
		t.Fatalf("looked %d times", looked)
	}
	h, _ := s.look(k)
	if !h.Allows("doc:write") || h.Disabled() || h.ExpiresAt() != 5_000_000 || !h.Covers("w1") || h.Covers("w2") {
		t.Error("not all facts were applied")
	}
	if got := s.index.Stats().Grants; got != 1 {
		t.Errorf("%d grants", got)
	}
}

// TestSuccessorIsBornAsOne: a key that is rotated while it is switched off has a
// successor that is switched off, from the beginning.
func TestSuccessorIsBornAsOne(t *testing.T) {
	log := &meanwhile{Handler: slog.DiscardHandler, look: func() {}}
	s := newScript(t, Config{Logger: slog.New(log)})
	k := created(1, events.LevelAll)
	subject := events.KeySubject(acme, k.ID)
	facts := asOne(s.fact(subject, k), s.fact(subject, k), s.fact(subject, events.KeyDisabled{}))
	facts[1].Meta.Revision, facts[2].Meta.Revision = 1, 2
	log.look = func() {
		if _, found := s.look(k); found {
			t.Error("a key is there before all of its beginning")
		}
	}
	s.apply(facts)
	log.look = func() {}
	if h, found := s.look(k); !found || !h.Disabled() || h.Closed() || h.Revoked() {
		t.Error("not all facts were applied")
	}
	s.add(subject, events.KeyEnabled{}) // revision 4 after 2
	if h, _ := s.look(k); !h.Closed() {
		t.Error("the last revision of a beginning is not known")
	}
}

// TestGrantOfAChangeIsMadeOnce: what lies between takes no room.
func TestGrantOfAChangeIsMadeOnce(t *testing.T) {
	s := newScript(t, Config{})
	s.index.LimitGrants(1)
	k := created(1, events.LevelAll)
	subject := events.KeySubject(acme, k.ID)
	s.add(subject, k)
	s.apply(asOne(
		s.fact(subject, events.KeyPermissionsChanged{Permissions: events.Permissions{Level: events.LevelReadOnly}}),
		s.fact(subject, events.KeyPermissionsChanged{Permissions: k.Permissions}),
	))
	if err := s.index.Err(); err != nil {
		t.Error(err)
	}
	facts := asOne(
		s.fact(subject, events.KeyScopeChanged{}),
		s.fact(subject, events.KeyDisabled{}),
	)
	s.apply(facts)
	if h, _ := s.look(k); !h.Closed() || !h.Scope().AllWorkspaces {
		t.Error("a change without room for its grant did not close the key as it was")
	}
	if p := s.index.Problems(); len(p) != 1 || p[0].Trouble != TroubleFull || p[0].Position != facts[0].Position {
		t.Errorf("%+v", p)
	}
}

// TestRoutesAreThoseOfThePermissions stops the writer between the two steps of
// a new catalog: a key is judged by the old one, or by the new one.
func TestRoutesAreThoseOfThePermissions(t *testing.T) {
	s := newScript(t, Config{})
	catalog := func(x, y events.CatalogPermission) events.CatalogReplaced {
		x.Name, y.Name = "p:x", "p:y"
		return events.CatalogReplaced{Permissions: []events.CatalogPermission{x, y}}
	}
	routed := func(a events.Access) events.CatalogPermission {
		return events.CatalogPermission{Access: a, Routes: []string{"GET /r"}}
	}
	before := catalog(events.CatalogPermission{Access: events.AccessRead}, routed(events.AccessWrite))
	after := catalog(routed(events.AccessWrite), events.CatalogPermission{Access: events.AccessWrite})
	s.add(events.CatalogSubject(acme), before)
	k := created(1, events.LevelReadOnly)
	s.add(events.KeySubject(acme, k.ID), k)

	org := s.index.orgs[acme]
	grants := org.grants
	for _, step := range []struct {
		name   string
		grants map[*grant]struct{}
		route  string
	}{{"between", nil, "p:y"}, {"after", grants, "p:x"}} {
		org.grants = step.grants
		org.replaceCatalog(after.Permissions)
		h, _ := s.look(k)
		if name, ok := h.Route("GET", "/r"); !ok || name != step.route || h.Allows(name) {
			t.Errorf("%s: the route needs %q, allowed: %t", step.name, name, h.Allows(name))
		}
	}
}
