package integration

import (
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
)

// readOn hands over the facts of a ledger behind a position, and returns that of the
// last one.
func readOn(t *testing.T, ledger *jetstream.Ledger, after events.Position, each func(events.Recorded)) events.Position {
	t.Helper()
	last, err := ledger.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for ; after < last; after++ {
		f, err := ledger.At(t.Context(), after+1)
		if err != nil {
			t.Fatal(err)
		}
		each(f)
	}
	return after
}

// revocations are how often each key was revoked by the end of its organization.
type revocations struct {
	times map[string]int
	// end is the organization's, which is their cause.
	end  events.EventID
	read events.Position
}

// readOn adds what the ledger holds by now.
func (r *revocations) readOn(t *testing.T, ledger *jetstream.Ledger) {
	t.Helper()
	r.read = readOn(t, ledger, r.read, func(f events.Recorded) {
		switch f.Event.(type) {
		case events.OrganizationDeleted:
			r.end = f.Meta.ID
		case events.KeyRevoked:
			id, _ := f.Subject.Key()
			r.times[id.String()]++
			if f.Meta.Actor.String() != "system/expiry" || f.Meta.Causation != r.end || f.Meta.Reason.Clear != "the organization was deleted" {
				t.Errorf("%+v", f.Meta)
			}
		}
	})
}

// When an organization has ended each of its keys is revoked once, also where the
// servers are killed in the middle of it and another goes on.
//
// Breaking it: an append without its expectation revokes some twice; a keeper that
// takes up only what comes due after its start leaves the rest out.
func TestRevocationsAfterAnEnd(t *testing.T) {
	t.Parallel()
	const keys = 700
	c := startCluster(t)
	begun := c.begin()
	owner := ownerIn(t, begun)
	one, two := c.serve(begun), c.join(begun)
	ledger := c.ledger()
	one.organization(owner, "acme", "")
	one.create(owner, "acme", 64, time.Minute, "", keys-1)
	last := one.must(201, owner, "POST", "/v1/organizations/acme/keys", `{"permissions":{"level":"all"},"scope":{"all_workspaces":true}}`).Text("key.id")
	one.must(200, owner, "DELETE", "/v1/organizations/acme", "")

	for deadline := time.Now().Add(time.Minute); one.recorded("revoked")+two.recorded("revoked") < keys/10; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is recorded")
		}
	}
	one.Kill()
	two.Kill()
	revoked := &revocations{times: map[string]int{}}
	revoked.readOn(t, ledger)
	if n := len(revoked.times); n < keys/10 || n >= keys {
		t.Fatalf("%d of %d were recorded when the servers were killed", n, keys)
	}
	t.Logf("%d of %d were recorded when the servers were killed", len(revoked.times), keys)

	one = c.serve(begun)
	for deadline := time.Now().Add(time.Minute); len(revoked.times) < keys; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d are recorded", len(revoked.times), keys)
		}
		revoked.readOn(t, ledger)
	}
	one.toldOf(owner, last, "key.created", "key.revoked")
	// Whatever came twice is there by now.
	revoked.readOn(t, ledger)
	for id, n := range revoked.times {
		if n != 1 {
			t.Errorf("%s was revoked %d times", id, n)
		}
	}
}
