package api

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/events"
)

// An organization that has all of its places waits for one of them, and for none of
// the others'.
func TestPlacesOfOrganizations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSeats(2, "lists are made")
		sit := func(org events.OrgID) (func(), error) { return s.sit(t.Context(), org) }
		first, err := sit("acme")
		if err != nil {
			t.Fatal(err)
		}
		second, err := sit("acme")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sit("acme"); !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("a third place: %v", err)
		}
		other, err := sit("globex")
		if err != nil {
			t.Fatalf("another organization: %v", err)
		}
		time.AfterFunc(time.Second, first)
		third, err := sit("acme")
		if err != nil {
			t.Fatalf("after one got free: %v", err)
		}
		second()
		third()
		other()
		if len(s.taken) != 0 {
			t.Errorf("%v are taken", s.taken)
		}
	})
}
