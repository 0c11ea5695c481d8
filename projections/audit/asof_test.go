package audit_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/audit"
)

func bearing(t *testing.T, l *audit.Log, org events.OrgID, until events.Position, keys ...int) []events.Position {
	t.Helper()
	var ids []events.KeyID
	for _, n := range keys {
		ids = append(ids, keyID(n))
	}
	var found []events.Position
	for r, err := range l.Bearing(t.Context(), org, ids, until) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Event == nil || r.Meta.Revision == 0 || r.Subject.Org != org || r.Stored == 0 || len(r.Raw) == 0 {
			t.Fatalf("event %d is not whole", r.Position)
		}
		found = append(found, r.Position)
	}
	return found
}

func TestWhatBearsOnKeys(t *testing.T) {
	s := newScript(t)
	s.add(events.OrganizationSubject(acme), events.OrganizationCreated{ID: acme, Name: events.ClearText("Acme"), Plan: events.PlanGrowth}) // 1
	s.add(events.WorkspaceSubject(acme, "hiring"), events.WorkspaceCreated{ID: "hiring", Name: events.ClearText("Hiring")})                // 2
	s.create(acme, 1)                                                                                                                      // 3
	s.add(events.QuotaSubject(acme), events.QuotaChanged{Limit: 5, Holders: []events.KeyID{keyID(1)}})                                     // 4
	s.create(acme, 2)                                                                                                                      // 5
	s.create("other", 3)                                                                                                                   // 6
	s.add(events.CatalogSubject(acme), events.CatalogReplaced{Permissions: []events.CatalogPermission{}})                                  // 7
	s.add(events.RevokedSubject(acme, keyID(1)), events.KeyRevoked{})                                                                      // 8
	s.add(events.RevokedSubject(acme, keyID(2)), events.KeyRevoked{})                                                                      // 9
	s.add(events.EndSubject(acme), events.OrganizationDeleted{})                                                                           // 10
	l := s.opened()
	for _, tt := range []struct {
		until events.Position
		keys  []int
		want  []events.Position
	}{
		{10, []int{1}, []events.Position{1, 2, 3, 7, 8, 10}},
		{10, []int{2, 1}, []events.Position{1, 2, 3, 5, 7, 8, 9, 10}},
		{10, nil, []events.Position{1, 2, 7, 10}},
		{10, []int{3}, []events.Position{1, 2, 7, 10}},
		{8, []int{1, 2}, []events.Position{1, 2, 3, 5, 7, 8}},
		{2, []int{1}, []events.Position{1, 2}},
		{0, []int{1}, nil},
	} {
		if got := bearing(t, l, acme, tt.until, tt.keys...); !slices.Equal(got, tt.want) {
			t.Errorf("up to %d on %v: %v, not %v", tt.until, tt.keys, got, tt.want)
		}
	}
	if got := bearing(t, l, "nobody", 10, 1); got != nil {
		t.Error(got)
	}
}

func TestWhatBearsEndsWithItsContext(t *testing.T) {
	s := newScript(t)
	s.create(acme, 1)
	l := s.opened()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range l.Bearing(ctx, acme, []events.KeyID{keyID(1)}, 1) {
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	// A reader that goes early leaves nothing open.
	for range 3 * 10 {
		for range l.Bearing(t.Context(), acme, []events.KeyID{keyID(1)}, 1) {
			break
		}
	}
}

func TestKeysInOrderOfCreation(t *testing.T) {
	s := newScript(t)
	s.create(acme, 3)    // 1
	s.create("other", 1) // 2
	s.create(acme, 1)    // 3
	s.create(acme, 2)    // 4
	l := s.opened()
	for _, tt := range []struct {
		after, until events.Position
		most         int
		want         []events.Position
	}{{0, 4, 10, []events.Position{1, 3, 4}}, {1, 4, 1, []events.Position{3}}, {1, 3, 10, []events.Position{3}}, {4, 4, 10, nil}} {
		found, err := l.Created(t.Context(), acme, tt.after, tt.until, tt.most)
		if err != nil {
			t.Fatal(err)
		}
		var got []events.Position
		for _, k := range found {
			got = append(got, k.Position)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v, not %v", got, tt.want)
		}
		if len(found) > 0 && tt.after == 0 && found[0].ID != keyID(3) {
			t.Error(found[0].ID)
		}
	}
}

func TestTheClockOfAPosition(t *testing.T) {
	s := newScript(t)
	s.create(acme, 1)
	s.create(acme, 2)
	l := s.opened()
	for pos := events.Position(0); pos <= 3; pos++ {
		var want events.Time
		if pos > 0 {
			r, err := s.ledger.At(t.Context(), min(pos, 2))
			if err != nil {
				t.Fatal(err)
			}
			want = r.Stored
		}
		got, err := l.Clock(t.Context(), pos)
		if err != nil || got != want {
			t.Errorf("%d: %s, not %s: %v", pos, got, want, err)
		}
		// There and back: at most what was stored at the same instant is beyond.
		if at, err := l.At(t.Context(), got); err != nil || at < min(pos, 2) {
			t.Errorf("%d: at %s it is %d: %v", pos, got, at, err)
		} else if again, err := l.Clock(t.Context(), at); err != nil || again != got {
			t.Errorf("%d: %s, not %s: %v", at, again, got, err)
		}
		if e, found, err := l.Event(t.Context(), pos); err != nil || found != (pos == 1 || pos == 2) || found && e.Position != pos {
			t.Errorf("%d: %v %v", pos, found, err)
		}
	}
}
