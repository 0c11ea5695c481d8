package commands_test

import (
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/profile"
	"github.com/keyledger/keyledger/domain/workspace"
	"github.com/keyledger/keyledger/events"
)

func manyWorkspaces(n int, id func(int) events.WorkspaceID) []events.Recorded {
	facts := make([]events.Recorded, 0, n)
	for i := range n {
		facts = append(facts, events.Recorded{
			Position: events.Position(i + 1), Subject: events.WorkspaceSubject(acme, id(i)), Meta: events.Meta{Revision: 1},
			Event: events.WorkspaceCreated{ID: id(i), Name: events.ClearText("W")},
		})
	}
	return facts
}

func numbered(i int) events.WorkspaceID { return events.WorkspaceID(fmt.Sprint("w", i)) }

// A replay costs each fact the same, however many came before it.
func TestReplayDoesNotCopy(t *testing.T) {
	spent := func(n int) uint64 {
		facts := manyWorkspaces(n, numbered)
		c := commands.NewConfiguration()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i := range facts {
			if err := c.Apply(t.Context(), facts[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		if state, _ := c.Of(acme); len(state.Workspaces) != n {
			t.Fatal(len(state.Workspaces))
		}
		return after.TotalAlloc - before.TotalAlloc
	}
	// Copying would make it sixteen times as much.
	if small, large := spent(1000), spent(4000); large > 8*small {
		t.Errorf("%d bytes for 1000 workspaces, %d for 4000", small, large)
	}
}

// What a reader holds does not change under it.
func TestWhatWasHandedOutStaysAsItIs(t *testing.T) {
	c := commands.NewConfiguration()
	facts := manyWorkspaces(3, numbered)
	apply := func(facts ...events.Recorded) {
		t.Helper()
		if err := c.Apply(t.Context(), facts); err != nil {
			t.Fatal(err)
		}
	}
	apply(facts[0])
	first, _ := c.Of(acme)
	apply(facts[1])
	second, _ := c.Of(acme)
	again, _ := c.Of(acme)
	apply(events.Recorded{Position: 4, Subject: facts[0].Subject, Meta: events.Meta{Revision: 2}, Event: events.WorkspaceDeleted{}})
	apply(facts[2])
	last, _ := c.Of(acme)
	for i, want := range []struct{ got, want int }{{len(first.Workspaces), 1}, {len(second.Workspaces), 2}, {len(again.Workspaces), 2}, {len(last.Workspaces), 2}} {
		if want.got != want.want {
			t.Errorf("%d: %d workspaces, want %d", i, want.got, want.want)
		}
	}
	if !second.Workspaces["w0"].Live() || last.Workspaces["w0"].Live() || !last.Workspaces["w2"].Live() {
		t.Errorf("%+v, %+v", second, last)
	}
	// Nothing brings back what has ended.
	apply(events.Recorded{Position: 5, Subject: facts[0].Subject, Meta: events.Meta{Revision: 3}, Event: facts[0].Event})
	if state, _ := c.Of(acme); state.Workspaces["w0"].Live() || c.Faults() != 1 {
		t.Errorf("%d faults, %+v", c.Faults(), state)
	}
}

func TestWorkspacesAndProfilesAreBounded(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	w.acme(s, events.Limits{})
	// As if all of them were in the ledger.
	facts := manyWorkspaces(events.MaxWorkspaces-2, numbered)
	for i := range facts {
		facts[i].Position = w.last()
	}
	if err := s.configuration.Apply(w.ctx, facts); err != nil {
		t.Fatal(err)
	}
	create := func(wish commands.Wish, id events.WorkspaceID) error {
		_, err := s.CreateWorkspace(w.ctx, wish, acme, workspace.Create{ID: id, Name: events.ClearText("W")})
		return err
	}
	if err := create(w.by(w.owner), "more"); !errors.Is(err, domain.ErrLimitReached) {
		t.Fatal(err)
	}
	if err := create(w.by(w.owner), "a"); !errors.Is(err, domain.ErrExists) {
		t.Error("what is wrong with the wish itself is told first:", err)
	}
	if _, err := s.DeleteWorkspace(w.ctx, w.by(w.owner), acme, "a"); err != nil {
		t.Fatal(err)
	}
	wish := w.repeatable(w.owner, "k", "more")
	for range 2 {
		// Its repetition meets its outcome, though it is full by then.
		if err := create(wish, "more"); err != nil {
			t.Fatal(err)
		}
	}
	for i := range events.MaxProfiles + 1 {
		_, err := s.CreateProfile(w.ctx, w.by(w.owner), acme, profile.Create{ID: events.ProfileID(fmt.Sprint("p", i)), Name: events.ClearText("P")})
		if full := i == events.MaxProfiles; errors.Is(err, domain.ErrLimitReached) != full || !full && err != nil {
			t.Fatal(i, err)
		}
	}
}
