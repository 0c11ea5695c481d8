package index_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/index"
)

// TestForetold: what is known to end later has ended at once, and its end changes
// nothing when it comes; of an index that waits for that there is no picture.
func TestForetold(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	b.begin("globex")
	b.create(acme, key(1))
	b.create("globex", key(2))
	x := b.index
	x.Foretell(acme, keyID(1).String())
	x.Foretell(acme, keyID(3).String()) // is still to come
	x.Foretell("globex", events.RevokedAll)
	x.Foretell("initech", events.RevokedAll) // is not known yet
	x.Foretell(acme, "neither")
	if !b.look(1).Revoked() || !b.look(2).Revoked() {
		t.Error("what was foretold has not ended")
	}
	if _, err := x.Freeze(); !errors.Is(err, index.ErrForetold) {
		t.Errorf("a picture of no position: %v", err)
	}
	b.create(acme, key(3))
	if !b.look(3).Revoked() {
		t.Error("what comes after it was foretold has not ended")
	}
	b.add(events.OrganizationSubject("initech"), events.OrganizationCreated{ID: "initech"})
	ends := func(b *book) {
		b.add(events.RevokedSubject(acme, keyID(1)), events.KeyRevoked{})
		b.add(events.RevokedSubject(acme, keyID(3)), events.KeyRevoked{})
		b.add(events.EndSubject("globex"), events.OrganizationDeleted{})
		b.add(events.EndSubject("initech"), events.OrganizationDeleted{})
	}
	ends(b)
	if err := x.Err(); err != nil {
		t.Errorf("an end that was foretold is a problem: %v", err)
	}
	frozen(t, x).Release()
	// It is as if nothing had been foretold.
	plain := newBook(t)
	plain.begin(acme)
	plain.begin("globex")
	plain.create(acme, key(1))
	plain.create("globex", key(2))
	plain.create(acme, key(3))
	plain.add(events.OrganizationSubject("initech"), events.OrganizationCreated{ID: "initech"})
	ends(plain)
	if d := cmp.Diff(plain.index.Dump(), x.Dump()); d != "" {
		t.Error(d)
	}
	// Once.
	b.at(events.RevokedSubject(acme, keyID(1)), 1, events.KeyRevoked{})
	b.troubles(map[index.Trouble]uint64{index.TroubleReplayed: 1})
	// Nor is it foretold what is known.
	x.Foretell(acme, keyID(3).String())
	x.Foretell("globex", events.RevokedAll)
	b.at(events.RevokedSubject(acme, keyID(3)), 1, events.KeyRevoked{})
	b.at(events.EndSubject("globex"), 1, events.OrganizationDeleted{})
	b.troubles(map[index.Trouble]uint64{index.TroubleReplayed: 3})
}
