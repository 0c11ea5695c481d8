package audit_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/audit"
)

const (
	acme = events.OrgID("acme")
	t0   = events.Time(1_795_240_000_000_000)
)

var _ projections.View = (*audit.Log)(nil)

func uuid(kind byte, n int) (id [16]byte) {
	id[0], id[6], id[8] = kind, 0x70, 0x80
	binary.BigEndian.PutUint32(id[12:], uint32(n))
	return id
}

func keyID(n int) events.KeyID { return uuid(1, n) }

var ledgerID = events.LedgerID(uuid(2, 1))

// script appends facts to a ledger as commands would.
type script struct {
	t         *testing.T
	ledger    *memory.Ledger
	revisions map[events.Subject]events.Revision
	n         int
}

func newScript(t *testing.T) *script {
	return &script{t: t, ledger: memory.New(ledgerID), revisions: map[events.Subject]events.Revision{}}
}

func (s *script) add(subject events.Subject, e events.Event, change ...func(*events.Meta)) {
	s.t.Helper()
	s.n++
	s.revisions[subject]++
	m := events.Meta{
		ID: uuid(3, s.n), Ledger: ledgerID, Time: t0 + events.Time(s.n)*1_000_000, Revision: s.revisions[subject],
		Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: uuid(4, s.n), RequestID: fmt.Sprintf("req-%d", s.n),
	}
	for _, f := range change {
		f(&m)
	}
	if _, err := s.ledger.Append(s.t.Context(), []events.Entry{{Subject: subject, Event: e, Meta: m}}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) create(org events.OrgID, n int, change ...func(*events.Meta)) {
	s.t.Helper()
	s.add(events.KeySubject(org, keyID(n)), events.KeyCreated{
		ID: keyID(n), KeyKind: events.KindAPI, Prefix: "kl_live", LastFour: "a1B2", CreatedAt: t0,
		Digest: events.Digest{Alg: events.SHA256, Value: events.DigestValue{byte(n), 1}}, Permissions: events.Permissions{Level: events.LevelAll},
		Scope: events.Scope{AllWorkspaces: true},
	}, change...)
}

func open(t testing.TB, path string) *audit.Log {
	t.Helper()
	l, err := audit.Open(context.Background(), audit.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// follow runs the view over the ledger until it holds all of it, or stops.
func (s *script) follow(l *audit.Log) error {
	s.t.Helper()
	r, err := projections.NewRunner(projections.Config{Source: s.ledger, View: l})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	last, err := s.ledger.Last(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = r.WaitFor(ctx, last)
	cancel()
	return <-done
}

func (s *script) opened() *audit.Log {
	s.t.Helper()
	l := open(s.t, filepath.Join(s.t.TempDir(), "audit.db"))
	if err := s.follow(l); err != nil {
		s.t.Fatal(err)
	}
	return l
}

func positions(t *testing.T, l *audit.Log, f audit.Filter) []events.Position {
	t.Helper()
	var all []events.Position
	for {
		found, next, err := l.Events(context.Background(), f)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range found {
			all = append(all, e.Position)
		}
		if next == "" {
			return all
		}
		f.Cursor = next
	}
}

func TestEventsAreKeptAsRecorded(t *testing.T) {
	s := newScript(t)
	sealed := events.Text{Sealed: events.Sealed{Subject: "s-1", Key: "k-1", Box: "Ym94"}}
	s.create(acme, 1, func(m *events.Meta) {
		m.Actor = events.Actor{Type: events.ActorKey, Org: events.System, Key: keyID(9)}
		m.Role, m.Scope, m.Reason, m.Ticket = events.RoleAdmin, "hiring", sealed, "SEC-42"
		m.Causation, m.ConfigPosition = uuid(5, 1), 7
	})
	s.add(events.RevokedSubject(acme, keyID(1)), events.KeyRevoked{}, func(m *events.Meta) {
		m.Reason, m.Causation = events.ClearText("leaked"), uuid(5, 2)
	})
	l := s.opened()
	got, next, err := l.Events(t.Context(), audit.Filter{Org: acme, OldestFirst: true})
	if err != nil || next != "" || len(got) != 2 {
		t.Fatal(got, next, err)
	}
	for i, e := range got {
		want, err := s.ledger.At(t.Context(), events.Position(i+1))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(audit.Event{
			Position: want.Position, Subject: want.Subject, Stored: want.Stored, Recorded: want.Meta.RecordedTime, Time: want.Meta.Time,
			Revision: want.Meta.Revision, Kind: want.Event.Kind(), Actor: want.Meta.Actor, Role: want.Meta.Role, Scope: want.Meta.Scope,
			Reason: want.Meta.Reason, Ticket: want.Meta.Ticket, RequestID: want.Meta.RequestID, Command: want.Meta.Command,
			Causation: want.Meta.Causation.String(), ConfigPosition: want.Meta.ConfigPosition, Raw: want.Raw,
		}, e, cmpopts.IgnoreFields(audit.Event{}, "Changes", "Text", "Workspaces")); d != "" {
			t.Fatal(d)
		}
		if meta, event, err := e.Decode(); err != nil || event.Kind() != e.Kind || meta.Revision != e.Revision {
			t.Fatal(event, err)
		}
	}
}

func TestFilters(t *testing.T) {
	s := newScript(t)
	by := func(n int) func(*events.Meta) {
		return func(m *events.Meta) { m.Actor = events.Actor{Type: events.ActorKey, Org: acme, Key: keyID(n)} }
	}
	s.create(acme, 1, by(90))                                                                        // 1
	s.create(acme, 2, by(91))                                                                        // 2
	s.create("other", 1)                                                                             // 3
	s.add(events.KeySubject(acme, keyID(1)), events.KeyDisabled{})                                   // 4
	s.add(events.RevokedSubject(acme, keyID(1)), events.KeyRevoked{}, by(91), func(m *events.Meta) { // 5
		m.Reason = events.ClearText("Leaked on 100% of_sites")
	})
	s.add(events.OrganizationSubject(acme), events.OrganizationCreated{ID: acme, Plan: events.PlanGrowth}) // 6
	s.add(events.EndSubject(acme), events.OrganizationDeleted{})                                           // 7
	l := s.opened()
	for name, tt := range map[string]struct {
		filter audit.Filter
		want   []events.Position
	}{
		"the zero value":        {audit.Filter{}, nil},
		"one organization":      {audit.Filter{Org: "other"}, []events.Position{3}},
		"all organizations":     {audit.Filter{AllOrganizations: true}, []events.Position{7, 6, 5, 4, 3, 2, 1}},
		"oldest first":          {audit.Filter{Org: acme, OldestFirst: true}, []events.Position{1, 2, 4, 5, 6, 7}},
		"a key":                 {audit.Filter{Org: acme, Key: keyID(1)}, []events.Position{5, 4, 1}},
		"an actor":              {audit.Filter{Org: acme, Actor: events.Actor{Type: events.ActorKey, Org: acme, Key: keyID(91)}}, []events.Position{5, 2}},
		"a kind":                {audit.Filter{Org: acme, Kinds: []events.Kind{events.KindKeyCreated}}, []events.Position{2, 1}},
		"a kind of any version": {audit.Filter{Org: acme, Kinds: []events.Kind{"key.created"}}, []events.Position{2, 1}},
		"no such kind":          {audit.Filter{Org: acme, Kinds: []events.Kind{"key.create"}}, nil},
		"after":                 {audit.Filter{Org: acme, After: 4}, []events.Position{7, 6, 5}},
		"until":                 {audit.Filter{Org: acme, Until: 2}, []events.Position{2, 1}},
		"reason":                {audit.Filter{Org: acme, Query: "leaked on 100%"}, []events.Position{5}},
		"wildcards are text":    {audit.Filter{Org: acme, Query: "l_aked"}, nil},
		"request":               {audit.Filter{Org: acme, Query: "REQ-2"}, []events.Position{2}},
		"longer than anything":  {audit.Filter{Org: acme, Query: strings.Repeat("x", 5000)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, limit := range []int{0, 1, 2} {
				tt.filter.Limit = limit
				if got := positions(t, l, tt.filter); !slices.Equal(got, tt.want) {
					t.Fatalf("by pages of %d: %v, want %v", limit, got, tt.want)
				}
			}
		})
	}
	for name, tt := range map[string]struct {
		subject events.Subject
		want    []events.Position
	}{
		"key":          {events.KeySubject(acme, keyID(1)), []events.Position{5, 4, 1}},
		"organization": {events.OrganizationSubject(acme), []events.Position{7, 6}},
		"nothing":      {events.WorkspaceSubject(acme, "w"), nil},
	} {
		var got []events.Position
		p := audit.Page{Limit: 1}
		for {
			found, next, err := l.History(t.Context(), tt.subject, p)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range found {
				got = append(got, e.Position)
			}
			if p.Cursor = next; next == "" {
				break
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Fatalf("history of %s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestCursorsOfOtherListsAreRefused(t *testing.T) {
	s := newScript(t)
	s.create(acme, 1)
	s.create(acme, 2)
	l := s.opened()
	f := audit.Filter{Org: acme, Page: audit.Page{Limit: 1}}
	_, cursor, err := l.Events(t.Context(), f)
	if err != nil || cursor == "" {
		t.Fatal(cursor, err)
	}
	f.Cursor, f.OldestFirst = cursor, true
	if _, _, err := l.Events(t.Context(), f); !errors.Is(err, audit.ErrBadCursor) {
		t.Fatal(err)
	}
	if _, _, err := l.History(t.Context(), events.KeySubject(acme, keyID(1)), audit.Page{Cursor: cursor}); !errors.Is(err, audit.ErrBadCursor) {
		t.Fatal(err)
	}
}

func TestFactsThatStopTheLog(t *testing.T) {
	t.Run("malformed", func(t *testing.T) {
		s := newScript(t)
		s.create(acme, 1)
		s.ledger.Plant(events.KeySubject(acme, keyID(1)).String(), []byte(`{"no":"fact"}`))
		l := open(t, filepath.Join(t.TempDir(), "audit.db"))
		if err := s.follow(l); !errors.Is(err, events.ErrMalformed) {
			t.Fatal(err)
		}
		wantPosition(t, l, 1)
	})
	t.Run("an old fact again", func(t *testing.T) {
		s := newScript(t)
		s.create(acme, 1)
		s.add(events.KeySubject(acme, keyID(1)), events.KeyDisabled{})
		old, err := s.ledger.At(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		s.ledger.Plant(old.Subject.String(), old.Raw)
		l := open(t, filepath.Join(t.TempDir(), "audit.db"))
		err = s.follow(l)
		var where *projections.FactError
		if !errors.Is(err, audit.ErrRevision) || !errors.Is(err, events.ErrCorrupt) || !errors.As(err, &where) || where.Position != 3 {
			t.Fatal(err)
		}
		wantPosition(t, l, 2)
	})
	t.Run("a fact that skips one", func(t *testing.T) {
		s := newScript(t)
		s.create(acme, 1)
		s.revisions[events.KeySubject(acme, keyID(1))]++
		s.add(events.KeySubject(acme, keyID(1)), events.KeyDisabled{})
		if err := s.follow(open(t, filepath.Join(t.TempDir(), "audit.db"))); !errors.Is(err, audit.ErrRevision) {
			t.Fatal(err)
		}
	})
}

func wantPosition(t *testing.T, l *audit.Log, want events.Position) {
	t.Helper()
	if pos, err := l.Position(context.Background()); err != nil || pos != want {
		t.Fatalf("position %d, want %d: %v", pos, want, err)
	}
}

// Facts of a later version are evidence like any other, also those that bear on
// verdicts.
func TestUnknownKindsAreKept(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "audit.db"))
	raw := []byte(`{"later":"than us"}`)
	if err := l.Apply(t.Context(), []events.Recorded{{
		Position: 1, Subject: events.KeySubject(acme, keyID(1)), Raw: raw, Event: events.Unknown{Name: "key.locked.v1", Bears: true},
		Meta: events.Meta{Revision: 1},
	}}); err != nil {
		t.Fatal(err)
	}
	found, _, err := l.Events(t.Context(), audit.Filter{Org: acme, Kinds: []events.Kind{"key.locked"}})
	if err != nil || len(found) != 1 || string(found[0].Raw) != string(raw) {
		t.Fatal(found, err)
	}
}

// Ticks are no changes: they move the position and are in no list.
func TestTicksAreNoChanges(t *testing.T) {
	s := newScript(t)
	s.create(acme, 1)
	for n := range 3 {
		s.add(events.TickSubject(), events.Tick{At: t0, Through: events.Position(n + 1), Signature: "x"})
	}
	s.add(events.KeySubject(acme, keyID(1)), events.KeyDisabled{})
	s.add(events.TickSubject(), events.Tick{At: t0, Through: 5, Signature: "x"})
	l := s.opened()
	wantPosition(t, l, 6)
	if got := positions(t, l, audit.Filter{AllOrganizations: true}); !slices.Equal(got, []events.Position{5, 1}) {
		t.Errorf("listed: %v", got)
	}
	if got, _, err := l.History(t.Context(), events.TickSubject(), audit.Page{}); err != nil || len(got) != 0 {
		t.Errorf("history of %d lines, %v", len(got), err)
	}
}

func TestRebuiltRowsAreTheSame(t *testing.T) {
	s := newScript(t)
	for n := 1; n <= 40; n++ {
		s.create(acme, n)
		s.add(events.KeySubject(acme, keyID(n)), events.KeyDisabled{})
	}
	path := filepath.Join(t.TempDir(), "audit.db")
	var want [32]byte
	for try := range 2 {
		l := open(t, path)
		if err := s.follow(l); err != nil {
			t.Fatal(err)
		}
		pos, got, err := l.Digest(t.Context())
		if err != nil || pos != 80 {
			t.Fatal(pos, err)
		}
		if try == 0 {
			want = got
		} else if got != want {
			t.Fatal("rebuilt rows are others")
		}
		if err := errors.Join(l.Close(), os.Remove(path)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPositionAtAnInstant(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "audit.db"))
	var facts []events.Recorded
	for i, stored := range []events.Time{10, 20, 15, 30} { // a clock that stepped back
		facts = append(facts, events.Recorded{
			Position: events.Position(i + 1), Subject: events.KeySubject(acme, keyID(i)), Stored: stored, Event: events.KeyCreated{},
			Meta: events.Meta{Revision: 1},
		})
	}
	if err := l.Apply(t.Context(), facts); err != nil {
		t.Fatal(err)
	}
	// What was stored while the clock was back counts from the time it had reached.
	for at, want := range map[events.Time]events.Position{9: 0, 10: 1, 14: 1, 15: 1, 20: 3, 29: 3, 30: 4, 99: 4} {
		if pos, err := l.At(t.Context(), at); err != nil || pos != want {
			t.Fatalf("at %d: %d, want %d: %v", at, pos, want, err)
		}
	}
	for _, tt := range []struct {
		from, to events.Time
		want     []events.Position
	}{
		{0, 0, []events.Position{4, 3, 2, 1}},
		{1, 10, nil},
		{10, 0, []events.Position{4, 3, 2, 1}},
		{11, 0, []events.Position{4, 3, 2}},
		{20, 21, []events.Position{3, 2}},
		{0, 20, []events.Position{1}},
		{0, 30, []events.Position{3, 2, 1}},
		{15, 20, nil},
		{31, 0, nil},
		{30, 10, nil},
	} {
		for _, limit := range []int{0, 1} {
			f := audit.Filter{Org: acme, From: tt.from, To: tt.to, Page: audit.Page{Limit: limit}}
			if got := positions(t, l, f); !slices.Equal(got, tt.want) {
				t.Errorf("from %d to %d by pages of %d: %v, want %v", tt.from, tt.to, limit, got, tt.want)
			}
			f.OldestFirst = true
			slices.Reverse(tt.want)
			if got := positions(t, l, f); !slices.Equal(got, tt.want) {
				t.Errorf("the oldest first from %d to %d: %v, want %v", tt.from, tt.to, got, tt.want)
			}
			slices.Reverse(tt.want)
		}
	}
}
