package integration

import (
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
)

// revocations counts those that a ledger holds by key, and tells the organization's
// end. Those that follow from it name it as their cause.
func revocations(t testing.TB, ledger *jetstream.Ledger) (times map[string]int, end events.EventID) {
	t.Helper()
	last, err := ledger.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	times = map[string]int{}
	for pos := events.Position(1); pos <= last; pos++ {
		f, err := ledger.At(t.Context(), pos)
		if err != nil {
			t.Fatal(err)
		}
		switch f.Event.(type) {
		case events.OrganizationDeleted:
			end = f.Meta.ID
		case events.KeyRevoked:
			id, _ := f.Subject.Key()
			times[id.String()]++
			if f.Meta.Actor.String() != "system/expiry" || f.Meta.Causation != end || f.Meta.Reason.Clear != "the organization was deleted" {
				t.Errorf("%+v", f.Meta)
			}
		}
	}
	return times, end
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
	times, _ := revocations(t, ledger)
	if len(times) < keys/10 || len(times) >= keys {
		t.Fatalf("%d of %d were recorded when the servers were killed", len(times), keys)
	}
	t.Logf("%d of %d were recorded when the servers were killed", len(times), keys)

	one = c.serve(begun)
	for deadline := time.Now().Add(time.Minute); len(times) < keys; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d are recorded", len(times), keys)
		}
		times, _ = revocations(t, ledger)
	}
	for id, n := range times {
		if n != 1 {
			t.Errorf("%s was revoked %d times", id, n)
		}
	}
	one.toldOf(owner, last, "key.created", "key.revoked")
}
