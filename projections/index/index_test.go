package index_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/index"
)

var _ projections.View = (*index.Index)(nil)

const acme = events.OrgID("acme")

// book writes facts into an index as a ledger would: each at the next position,
// each with its subject's next revision.
type book struct {
	t         testing.TB
	index     *index.Index
	position  events.Position
	revisions map[events.Subject]events.Revision
	// only are the organizations that the index is shown, nil for all.
	only []events.OrgID
	// each, if there is one, is told every fact.
	each func(events.Recorded)
}

func newBook(t testing.TB) *book {
	t.Helper()
	x, err := index.New(index.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return &book{t: t, index: x, revisions: map[events.Subject]events.Revision{}}
}

// add appends the next fact of a subject.
func (b *book) add(s events.Subject, e events.Event) {
	b.t.Helper()
	b.revisions[s]++
	b.at(s, b.revisions[s], e)
}

// at appends a fact with any revision.
func (b *book) at(s events.Subject, rev events.Revision, e events.Event) {
	b.t.Helper()
	b.position++
	if b.only != nil && !slices.Contains(b.only, s.Org) {
		return
	}
	r := events.Recorded{Position: b.position, Subject: s, Event: e, Meta: events.Meta{Revision: rev}}
	if b.each != nil {
		b.each(r)
	}
	if err := b.index.Apply(context.Background(), []events.Recorded{r}); err != nil {
		b.t.Fatal(err)
	}
	if got := b.index.Applied(); got != b.position {
		b.t.Fatalf("applied %d, want %d", got, b.position)
	}
}

// begin makes an organization with a catalog and two workspaces.
func (b *book) begin(org events.OrgID) {
	b.t.Helper()
	b.add(events.OrganizationSubject(org), events.OrganizationCreated{ID: org})
	b.add(events.CatalogSubject(org), catalog("doc:read", "doc:write!", "user:read"))
	b.add(events.WorkspaceSubject(org, "w1"), events.WorkspaceCreated{ID: "w1"})
	b.add(events.WorkspaceSubject(org, "w2"), events.WorkspaceCreated{ID: "w2"})
}

// catalog makes a catalog; a permission with ! writes.
func catalog(names ...string) events.CatalogReplaced {
	var c events.CatalogReplaced
	for _, n := range names {
		p := events.CatalogPermission{Name: n, Access: events.AccessRead}
		if n[len(n)-1] == '!' {
			p.Name, p.Access = n[:len(n)-1], events.AccessWrite
		}
		c.Permissions = append(c.Permissions, p)
	}
	return c
}

func keyID(n int) (id events.KeyID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	id[6] = 0x70
	return id
}

func digestOf(n int) (v events.DigestValue) {
	binary.LittleEndian.PutUint64(v[:], uint64(n)*0x9e3779b97f4a7c15)
	binary.LittleEndian.PutUint64(v[24:], uint64(n))
	return v
}

// key is an ordinary key number n.
func key(n int) events.KeyCreated {
	return events.KeyCreated{
		ID: keyID(n), KeyKind: events.KindAPI, Digest: events.Digest{Alg: events.SHA256, Value: digestOf(n)},
		Permissions: events.Permissions{Level: events.LevelAll}, Scope: events.Scope{AllWorkspaces: true},
	}
}

func (b *book) create(org events.OrgID, e events.KeyCreated) {
	b.t.Helper()
	b.add(events.KeySubject(org, e.ID), e)
}

// look returns what is known of key number n.
func (b *book) look(n int) *index.Hit {
	b.t.Helper()
	d, hit := digestOf(n), new(index.Hit)
	if !b.index.Lookup(&d, hit) {
		b.t.Fatalf("key %d is not there", n)
	}
	if hit.Key() != keyID(n) {
		b.t.Fatalf("key %d leads to %s", n, hit.Key())
	}
	return hit
}

func (b *book) has(n int) bool {
	d, hit := digestOf(n), new(index.Hit)
	return b.index.Lookup(&d, hit)
}

func (b *book) troubles(want map[index.Trouble]uint64) {
	b.t.Helper()
	got := b.index.Stats().Troubles
	if fmt.Sprint(got) != fmt.Sprint(want) {
		b.t.Errorf("troubles %v, want %v", got, want)
	}
	if (b.index.Err() == nil) != (len(want) == 0) {
		b.t.Errorf("Err() = %v", b.index.Err())
	}
	total := 0
	for _, n := range want {
		total += int(n)
	}
	if n := len(b.index.Problems()); n != min(total, 256) {
		b.t.Errorf("%d problems, want %d", n, total)
	}
}

func TestZeroHitDenies(t *testing.T) {
	var h index.Hit
	if !h.Closed() || !h.Expired(1) || h.Allows("a:b") || h.AllowsAll("a:*") || h.Somewhere() || h.Covers("w") {
		t.Error("the zero hit lets something through")
	}
	if h.Profile() != nil || h.Org() != "" || h.Kind() != "" || h.Role() != "" || h.Permissions().Level != "" || h.Scope().AllWorkspaces {
		t.Error("the zero hit tells something")
	}
	if name, routed := h.Route("GET", "/"); name != "" || !routed {
		t.Error("the zero hit routes")
	}
}

func TestPermissionsAndScope(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	all, read, some, listed := key(1), key(2), key(3), key(4)
	read.Permissions = events.Permissions{Level: events.LevelReadOnly}
	some.Permissions = events.Permissions{Level: events.LevelRestricted, Grants: []string{"doc:*", "user:write"}}
	listed.Scope = events.Scope{Workspaces: []events.WorkspaceID{"w2"}}
	for _, k := range []events.KeyCreated{all, read, some, listed} {
		b.create(acme, k)
	}
	allows := func(n int, want string) {
		t.Helper()
		got := ""
		for _, p := range []string{"doc:read", "doc:write", "user:read", "user:write", "other:read", ""} {
			if b.look(n).Allows(p) {
				got += p + " "
			}
		}
		if got != want {
			t.Errorf("key %d may %q, want %q", n, got, want)
		}
	}
	allows(1, "doc:read doc:write user:read ")
	allows(2, "doc:read user:read ")
	allows(3, "doc:read doc:write ")

	b.add(events.CatalogSubject(acme), catalog("doc:read!", "user:write!", "user:read"))
	allows(1, "doc:read user:read user:write ")
	allows(2, "user:read ")
	allows(3, "doc:read user:write ")

	b.add(events.KeySubject(acme, keyID(3)), events.KeyPermissionsChanged{Permissions: events.Permissions{Level: events.LevelReadOnly}})
	allows(3, "user:read ")

	if h := b.look(1); !h.Covers("w1") || h.Covers("w3") || !h.Somewhere() {
		t.Error("a key for all workspaces is for those that exist")
	}
	if h := b.look(4); h.Covers("w1") || !h.Covers("w2") || !h.Somewhere() {
		t.Error("a key for a list is for that list")
	}
	b.add(events.WorkspaceSubject(acme, "w2"), events.WorkspaceDeleted{})
	if h := b.look(1); !h.Covers("w1") || h.Covers("w2") || !h.Somewhere() {
		t.Error("a workspace that has gone counts for a key for all")
	}
	if h := b.look(4); h.Covers("w2") || h.Somewhere() {
		t.Error("a key whose last workspace has gone is of use somewhere")
	}
	b.add(events.KeySubject(acme, keyID(4)), events.KeyScopeChanged{Scope: events.Scope{Workspaces: []events.WorkspaceID{"w1", "w2"}}})
	if h := b.look(4); !h.Covers("w1") || h.Covers("w2") {
		t.Error("scope was not changed")
	}
	b.troubles(nil)
}

// resource:* is what the catalog has of a resource at the time, neither more nor
// less, however a key came to be allowed it.
func TestAllOfAResource(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	grants := map[int]events.Permissions{
		1: {Level: events.LevelAll}, 2: {Level: events.LevelReadOnly},
		3: {Level: events.LevelRestricted, Grants: []string{"doc:*"}},
		4: {Level: events.LevelRestricted, Grants: []string{"doc:read", "doc:write"}},
		5: {Level: events.LevelRestricted, Grants: []string{"doc:read", "none:*"}},
		6: {},
	}
	for n, p := range grants {
		k := key(n)
		k.Permissions = p
		b.create(acme, k)
	}
	check := func(when string, want map[int]string) {
		t.Helper()
		for n := range grants {
			got := ""
			for _, r := range []string{"doc:*", "user:*", "none:*", "doc:read", "doc:", "doc", "*", ""} {
				if b.look(n).AllowsAll(r) {
					got += r + " "
				}
			}
			if got != want[n] {
				t.Errorf("%s: key %d is allowed all of %q, want %q", when, n, got, want[n])
			}
			if h := b.look(n); h.Allows("doc:*") || h.Allows("user:*") {
				t.Errorf("%s: key %d: resource:* is taken for a permission", when, n)
			}
		}
	}
	check("doc reads and writes, user reads", map[int]string{1: "doc:* user:* ", 2: "user:* ", 3: "doc:* ", 4: "doc:* "})
	b.add(events.CatalogSubject(acme), catalog("doc:read", "doc:write!", "doc:share", "user:read"))
	check("doc is shared, too", map[int]string{1: "doc:* user:* ", 2: "user:* ", 3: "doc:* "})
	b.add(events.CatalogSubject(acme), catalog("doc:read"))
	check("doc reads alone", map[int]string{1: "doc:* ", 2: "doc:* ", 3: "doc:* ", 4: "doc:* ", 5: "doc:* "})
	b.add(events.CatalogSubject(acme), catalog("none:read", "user:write!"))
	check("doc has gone", map[int]string{1: "user:* none:* ", 2: "none:* ", 5: "none:* "})
	b.add(events.CatalogSubject(acme), catalog())
	check("the catalog is empty", nil)

	// Many resources lie in a table of their own.
	var many []string
	for n := range 40 {
		many = append(many, fmt.Sprintf("r%02d:read", n), fmt.Sprintf("r%02d:write!", n))
	}
	b.add(events.CatalogSubject(acme), catalog(many[:79]...))
	for n := range 40 {
		r := fmt.Sprintf("r%02d:*", n)
		if !b.look(1).AllowsAll(r) || b.look(2).AllowsAll(r) != (n == 39) || b.look(3).AllowsAll(r) {
			t.Error(r)
		}
	}
	// Another organization's resources are its own.
	b.begin("other")
	k := key(7)
	b.create("other", k)
	if !b.look(7).AllowsAll("doc:*") || b.look(7).AllowsAll("r01:*") {
		t.Error("resources of one catalog are those of another")
	}
	b.troubles(nil)
}

func TestProfile(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	s := events.ProfileSubject(acme, "strict")
	b.add(s, events.ProfileCreated{ID: "strict", Name: events.ClearText("Strict"), Settings: events.Document(`{"a":1}`)})
	k := key(1)
	k.Profile = "strict"
	b.create(acme, k)
	b.add(s, events.ProfileRenamed{Name: events.ClearText("Very strict")})
	b.add(s, events.ProfileSettingsChanged{Settings: events.Document(`{"a":2}`)})
	p := b.look(1).Profile()
	if p == nil || p.ID != "strict" || p.Name.Clear != "Very strict" || string(p.Settings) != `{"a":2}` || p.Gone {
		t.Errorf("profile %+v", p)
	}
	b.add(s, events.ProfileDeleted{})
	if p := b.look(1).Profile(); p == nil || !p.Gone || p.Settings != nil {
		t.Errorf("deleted profile %+v", p)
	}
	b.add(events.KeySubject(acme, k.ID), events.KeyProfileChanged{})
	if p := b.look(1).Profile(); p != nil {
		t.Errorf("detached profile %+v", p)
	}
	b.troubles(nil)
}

func TestEnds(t *testing.T) {
	const second = events.Time(1_000_000)
	b := newBook(t)
	b.begin(acme)
	k := key(1)
	k.ExpiresAt = 1000 * second
	b.create(acme, k)
	s := events.KeySubject(acme, k.ID)
	expires := func(at events.Time) {
		t.Helper()
		h := b.look(1)
		if h.ExpiresAt() != at*second {
			t.Errorf("expires at %d, want %d", h.ExpiresAt()/second, at)
		}
		if at != 0 && (h.Expired(at*second-1) || !h.Expired(at*second)) {
			t.Errorf("not expired exactly at %d", at)
		}
	}
	expires(1000)
	b.add(s, events.KeyRotated{Successor: keyID(2), GraceEndsAt: 500 * second})
	expires(500)
	b.add(s, events.KeyGraceChanged{GraceEndsAt: 1500 * second})
	expires(1000)
	b.add(s, events.KeyExpiryChanged{ExpiresAt: 2000 * second})
	expires(1500)
	b.add(s, events.KeyExpiryChanged{})
	expires(1500)
	b.add(s, events.KeyGraceChanged{GraceEndsAt: 100*second + 999_999})
	expires(100)
	b.add(s, events.KeyExpired{})
	b.add(s, events.KeyExpiryChanged{ExpiresAt: 9000 * second})
	if !b.look(1).Expired(1) {
		t.Error("what was recorded as expired came back")
	}
	first := key(3)
	first.ExpiresAt = 1 // less than a second after 1970: not never
	b.create(acme, first)
	if !b.look(3).Expired(second) {
		t.Error("an expiry within the first second was taken for none")
	}
	b.troubles(nil)
}

func TestRevokedIsAbsorbing(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	for n := 1; n <= 2; n++ {
		if n == 1 {
			b.add(events.RevokedSubject(acme, keyID(n)), events.KeyRevoked{})
		}
		b.create(acme, key(n))
		if n == 2 {
			b.add(events.RevokedSubject(acme, keyID(n)), events.KeyRevoked{})
		}
		for _, e := range []events.Event{
			events.KeyDisabled{},
			events.KeyEnabled{},
			events.KeyExpiryChanged{},
			events.KeyPermissionsChanged{Permissions: events.Permissions{Level: events.LevelAll}},
		} {
			b.add(events.KeySubject(acme, keyID(n)), e)
			if !b.look(n).Revoked() {
				t.Errorf("key %d came back by %T", n, e)
			}
		}
	}
	b.troubles(nil)
	// The same id in another organization is another key.
	b.begin("other")
	b.add(events.RevokedSubject("other", keyID(3)), events.KeyRevoked{})
	b.create(acme, key(3))
	if b.look(3).Revoked() {
		t.Error("another organization's revocation reached a key")
	}
}

// TestEndsAreReplayed: what ended once has ended, and a second end is one that
// was appended again.
func TestEndsAreReplayed(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	b.create(acme, key(1))
	again := key(3)
	again.Digest = key(1).Digest
	b.create(acme, again) // out of reach, like the key that is still to come
	for n := 1; n <= 3; n++ {
		b.at(events.RevokedSubject(acme, keyID(n)), 1, events.KeyRevoked{})
	}
	b.at(events.EndSubject(acme), 1, events.OrganizationDeleted{})
	b.troubles(nil)
	for n := 1; n <= 3; n++ {
		b.at(events.RevokedSubject(acme, keyID(n)), 1, events.KeyRevoked{})
	}
	b.create(acme, key(2))
	b.at(events.RevokedSubject(acme, keyID(2)), 1, events.KeyRevoked{})
	if !b.look(1).Revoked() || !b.look(2).Revoked() {
		t.Error("a revocation that was appended again took the first one back")
	}
	b.at(events.EndSubject(acme), 1, events.OrganizationDeleted{})
	b.troubles(map[index.Trouble]uint64{index.TroubleReplayed: 5})
	if !errors.Is(b.index.Err(), events.ErrCorrupt) {
		t.Errorf("Err() = %v", b.index.Err())
	}
}

func TestEndOfOrganization(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	b.begin("other")
	b.create(acme, key(1))
	b.create("other", key(2))
	b.add(events.EndSubject(acme), events.OrganizationDeleted{})
	b.create(acme, key(3))
	if !b.look(1).Revoked() || !b.look(3).Revoked() || b.look(2).Revoked() {
		t.Error("the end of an organization is that of its keys, and of no others")
	}
	if o, ok := b.index.Organization(acme); !ok || !o.Ended {
		t.Errorf("organization %+v", o)
	}
	if _, ok := b.index.Organization("nobody"); ok {
		t.Error("an organization nobody made")
	}
}

func TestUnknownOrganizationIsClosed(t *testing.T) {
	b := newBook(t)
	b.create("ghost", key(1))
	b.add(events.OrganizationSubject(events.System), events.OrganizationCreated{ID: events.System})
	b.create(events.System, key(2))
	if !b.look(1).Closed() {
		t.Error("a key without an organization is open")
	}
	if b.look(2).Closed() {
		t.Error("a key of the installation is closed")
	}
}

func TestDigestBelongsToItsFirstPosition(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	b.begin("other")
	b.create(acme, key(1))
	second := key(2)
	second.Digest = key(1).Digest
	b.create("other", second)
	b.add(events.RevokedSubject("other", second.ID), events.KeyRevoked{})
	b.add(events.KeySubject("other", second.ID), events.KeyDisabled{})
	if h := b.look(1); h.Org() != acme || h.Revoked() || h.Disabled() {
		t.Error("the second importer reached the first's key")
	}
	if got := b.index.Stats().Unreachable; got != 1 {
		t.Errorf("%d unreachable keys", got)
	}
	b.troubles(nil)

	// The bytes of a bare hash, said to be an HMAC, are another digest.
	third := key(3)
	third.Digest = events.Digest{Alg: events.HMACSHA256, PepperID: "p", Value: digestOf(3)}
	b.create(acme, third)
	if b.has(3) {
		t.Error("a peppered digest is found as a bare one")
	}
	v, hit := index.DigestOf(third.Digest), index.Hit{}
	if !b.index.Lookup(&v, &hit) || hit.Key() != third.ID {
		t.Error("a peppered digest is not found")
	}
}

func TestReplayedFactsChangeNothing(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	b.create(acme, key(1))
	s := events.KeySubject(acme, keyID(1))
	b.add(s, events.KeyDisabled{})
	b.at(s, 1, key(1))
	b.at(s, 2, events.KeyEnabled{})
	b.at(s, 0, events.KeyEnabled{})
	b.at(events.CatalogSubject(acme), 1, catalog())
	b.at(events.WorkspaceSubject(acme, "w1"), 1, events.WorkspaceDeleted{})
	b.at(events.OrganizationSubject(acme), 1, events.OrganizationCreated{ID: acme})
	h := b.look(1)
	if !h.Disabled() || h.Closed() || !h.Allows("doc:read") || !h.Covers("w1") {
		t.Error("an old fact appended again changed something")
	}
	b.troubles(map[index.Trouble]uint64{index.TroubleReplayed: 6})
	if !errors.Is(b.index.Err(), events.ErrCorrupt) || !errors.Is(b.index.Err(), index.ErrNotApplied) {
		t.Errorf("Err() = %v", b.index.Err())
	}

	// The same position twice is a redelivery.
	again := []events.Recorded{{Position: b.position, Subject: s, Event: events.KeyEnabled{}, Meta: events.Meta{Revision: 3}}}
	if err := b.index.Apply(context.Background(), again); err != nil || !b.look(1).Disabled() {
		t.Error("a redelivered position was applied")
	}
}

func TestWhatCannotBeAppliedCloses(t *testing.T) {
	s := events.KeySubject(acme, keyID(1))
	later := events.Unknown{Name: "key.fenced.v1", Bears: true}
	for _, c := range []struct {
		name    string
		do      func(b *book)
		trouble index.Trouble
		all     bool // all keys of the organization
	}{
		{"gap", func(b *book) { b.at(s, 3, events.KeyRenamed{}) }, index.TroubleGap, false},
		{"malformed", func(b *book) { b.at(s, 0, events.Malformed{}) }, index.TroubleMalformed, false},
		{"nothing at all", func(b *book) { b.at(s, 2, nil) }, index.TroubleMalformed, false},
		{"unknown", func(b *book) { b.add(s, later) }, index.TroubleUnknown, false},
		{"second creation", func(b *book) { b.add(s, key(1)) }, index.TroubleMisplaced, false},
		{"foreign fact", func(b *book) { b.add(s, events.KeyRevoked{}) }, index.TroubleMisplaced, false},
		{"malformed revocation", func(b *book) { b.at(events.RevokedSubject(acme, keyID(1)), 0, events.Malformed{}) }, index.TroubleMalformed, false},
		{"unknown on revoked", func(b *book) { b.add(events.RevokedSubject(acme, keyID(1)), later) }, index.TroubleUnknown, false},

		{"malformed organization", func(b *book) { b.at(events.OrganizationSubject(acme), 0, events.Malformed{}) }, index.TroubleMalformed, true},
		{"organization created again", func(b *book) { b.add(events.OrganizationSubject(acme), events.OrganizationCreated{ID: acme}) }, index.TroubleMisplaced, true},
		{"gap in the catalog", func(b *book) { b.at(events.CatalogSubject(acme), 3, catalog()) }, index.TroubleGap, true},
		{"malformed catalog", func(b *book) { b.at(events.CatalogSubject(acme), 2, events.Malformed{}) }, index.TroubleMalformed, true},
		{"unknown on a workspace", func(b *book) { b.add(events.WorkspaceSubject(acme, "w1"), later) }, index.TroubleUnknown, true},
		{"workspace used again", func(b *book) { b.add(events.WorkspaceSubject(acme, "w1"), events.WorkspaceCreated{ID: "w1"}) }, index.TroubleMisplaced, true},
		{"workspace from nowhere", func(b *book) { b.add(events.WorkspaceSubject(acme, "w9"), events.WorkspaceDeleted{}) }, index.TroubleMisplaced, true},
		{"profile from nowhere", func(b *book) { b.add(events.ProfileSubject(acme, "p"), events.ProfileRenamed{}) }, index.TroubleMisplaced, true},
		{"malformed end", func(b *book) { b.at(events.EndSubject(acme), 1, events.Malformed{}) }, index.TroubleMalformed, true},
		{"unknown aggregate", func(b *book) {
			b.add(events.Subject{Org: acme, Aggregate: "fence", ID: "x"}, later)
		}, index.TroubleUnknown, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBook(t)
			b.begin(acme)
			b.begin("other")
			b.create(acme, key(1))
			b.create(acme, key(2))
			b.create("other", key(3))
			c.do(b)
			if !b.look(1).Closed() || b.look(2).Closed() != c.all || b.look(3).Closed() {
				t.Errorf("closed: %v %v %v", b.look(1).Closed(), b.look(2).Closed(), b.look(3).Closed())
			}
			b.troubles(map[index.Trouble]uint64{c.trouble: 1})
			// What is closed stays closed, and can still be revoked.
			b.at(s, 2, events.KeyEnabled{})
			b.add(events.RevokedSubject(acme, keyID(2)), events.KeyRevoked{})
			b.add(events.RevokedSubject(acme, keyID(1)), events.KeyRevoked{})
			if !b.look(1).Closed() || !b.look(1).Revoked() || !b.look(2).Revoked() {
				t.Error("a closed key was opened or could not be revoked")
			}
		})
	}
}

func TestWhatDoesNotBearIsPassedOver(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	b.create(acme, key(1))
	note := events.Unknown{Name: "key.noted.v1"}
	for _, s := range []events.Subject{
		events.KeySubject(acme, keyID(1)), events.OrganizationSubject(acme), events.CatalogSubject(acme),
		events.WorkspaceSubject(acme, "w1"), events.RevokedSubject(acme, keyID(1)), events.QuotaSubject(acme),
		events.InstallationSubject(),
		{Org: acme, Aggregate: "fence", ID: "x"},
	} {
		b.add(s, note)
	}
	b.add(events.QuotaSubject(acme), events.QuotaChanged{})
	b.add(events.KeySubject(acme, keyID(1)), events.KeyDisabled{})
	if h := b.look(1); h.Closed() || h.Revoked() || !h.Disabled() {
		t.Error("a fact that bears on nothing closed the key")
	}
	b.troubles(nil)
}

// TestEveryKindHasItsPlace: a kind added to the vocabulary alone would close
// keys in production.
func TestEveryKindHasItsPlace(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	b.begin(events.System)
	w, p, k := events.WorkspaceSubject(acme, "w1"), events.ProfileSubject(acme, "p"), events.KeySubject(acme, keyID(1))
	org, credential := events.OrganizationSubject(acme), events.CredentialSubject("edge")
	seen := []events.Kind{
		events.KindOrganizationCreated, events.KindCatalogReplaced, events.KindWorkspaceCreated, // by begin
	}
	for _, f := range []struct {
		s events.Subject
		e events.Event
	}{
		{events.InstallationSubject(), events.InstallationCreated{}},
		{events.InstallationSubject(), events.InstallationSignerAdded{}},
		{credential, events.CredentialIssued{}},
		{credential, events.CredentialRevoked{}},
		{events.TickSubject(), events.Tick{}},
		{org, events.OrganizationRenamed{}},
		{org, events.OrganizationPlanChanged{}},
		{org, events.OrganizationLimitsChanged{}},
		{org, events.OrganizationPolicyChanged{}},
		{w, events.WorkspaceRenamed{}},
		{w, events.WorkspaceDeleted{}},
		{p, events.ProfileCreated{ID: "p"}},
		{p, events.ProfileRenamed{}},
		{p, events.ProfileSettingsChanged{}},
		{p, events.ProfileDeleted{}},
		{events.QuotaSubject(acme), events.QuotaChanged{}},
		{k, key(1)},
		{k, events.KeyRenamed{}},
		{k, events.KeyPermissionsChanged{}},
		{k, events.KeyScopeChanged{}},
		{k, events.KeyProfileChanged{}},
		{k, events.KeyMetadataChanged{}},
		{k, events.KeyDisabled{}},
		{k, events.KeyEnabled{}},
		{k, events.KeyExpiryChanged{}},
		{k, events.KeyRotated{}},
		{k, events.KeyGraceChanged{}},
		{k, events.KeyExpiring{}},
		{k, events.KeyRotationDue{}},
		{k, events.KeyNewSource{}},
		{k, events.KeyDenialsSpike{}},
		{k, events.KeyExpired{}},
		{events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyAdded{}},
		{events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyReplaced{}},
		{events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyRenamed{}},
		{events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyTested{}},
		{events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyRemoved{}},
		{events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyNewSource{}},
		{events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyResolvesSpike{}},
		{events.ProviderKeySubject(acme, events.ProviderOpenAI), events.ProviderKeyFailing{}},
		{events.RevokedSubject(acme, keyID(1)), events.KeyRevoked{}},
		{events.ErasureSubject(acme, "someone"), events.SubjectErased{}},
		{events.RetentionSubject(acme), events.UsesDropped{}},
		{events.EndSubject(acme), events.OrganizationDeleted{}},
	} {
		b.add(f.s, f.e)
		seen = append(seen, f.e.Kind())
	}
	all := events.Kinds()
	slices.Sort(all)
	slices.Sort(seen)
	if !slices.Equal(seen, all) {
		t.Errorf("tried %v\nof %v", seen, all)
	}
	if b.look(1).Closed() {
		t.Error("the key is closed")
	}
	b.troubles(nil)
}

func TestClosedBeforeItWasCreated(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	b.at(events.KeySubject(acme, keyID(1)), 1, events.Malformed{})
	b.at(events.KeySubject(acme, keyID(1)), 1, key(1))
	b.at(events.KeySubject(acme, keyID(2)), 2, events.KeyEnabled{})
	b.at(events.KeySubject(acme, keyID(2)), 1, key(2))
	b.at(events.KeySubject(acme, keyID(3)), 2, key(3))
	for n := 1; n <= 3; n++ {
		if !b.look(n).Closed() {
			t.Errorf("key %d is open", n)
		}
	}
	wrong := key(4)
	wrong.ID = keyID(5)
	b.at(events.KeySubject(acme, keyID(4)), 1, wrong)
	if b.has(4) || b.has(5) {
		t.Error("a fact under a foreign subject made a key")
	}
}

func TestGrowthKeepsEveryKey(t *testing.T) {
	const n = 25_000
	b := newBook(t)
	b.begin(acme)
	for i := range n {
		k := key(i)
		if i%3 == 0 {
			k.Permissions = events.Permissions{Level: events.LevelReadOnly}
		}
		k.ExpiresAt = events.Time(i+1) * 1_000_000
		b.create(acme, k)
		if i%5 == 0 {
			b.add(events.RevokedSubject(acme, keyID(i/2)), events.KeyRevoked{})
		}
		if i%7 == 0 {
			b.add(events.KeySubject(acme, keyID(i/3)), events.KeyDisabled{})
		}
	}
	if b.index.Len() != n {
		t.Fatalf("%d keys", b.index.Len())
	}
	revoked, disabled := map[int]bool{}, map[int]bool{}
	for i := range n {
		revoked[i/2] = revoked[i/2] || i%5 == 0
		disabled[i/3] = disabled[i/3] || i%7 == 0
	}
	for i := range n {
		h := b.look(i)
		if h.Revoked() != revoked[i] || h.Disabled() != disabled[i] || h.ExpiresAt() != events.Time(i+1)*1_000_000 || h.Allows("doc:write") != (i%3 != 0) {
			t.Fatalf("key %d is not as it was left", i)
		}
	}
	if b.has(n) {
		t.Error("a key that was never made")
	}
	stats := b.index.Stats()
	if load := float64(stats.Keys) / float64(stats.Slots); load < 0.6 || load > 0.82 {
		t.Errorf("%.2f of the slots are taken", load)
	}
	if stats.Grants != 2 {
		t.Errorf("%d grants", stats.Grants)
	}
	b.troubles(nil)
}

// TestChosenDigests imports what an attacker would: digests that differ in a
// few bits of one word.
func TestChosenDigests(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	for i := range 20_000 {
		k := key(i)
		k.Digest.Value = events.DigestValue{}
		binary.LittleEndian.PutUint64(k.Digest.Value[8*(i%4):], uint64(i)<<(i%40))
		b.create(acme, k)
	}
	for i, probes := range b.index.LongestProbe() {
		if probes > 200 {
			t.Errorf("shard %d: a run of %d slots", i, probes)
		}
	}
}

func TestGrantsAreGivenBack(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	b.create(acme, key(1))
	for i := range 10_000 {
		b.add(events.KeySubject(acme, keyID(1)), events.KeyScopeChanged{
			Scope: events.Scope{Workspaces: []events.WorkspaceID{"w1", events.WorkspaceID(fmt.Sprint("x", i))}},
		})
	}
	if got := b.index.Stats().Grants; got != 1 {
		t.Errorf("%d grants for one key", got)
	}
}

func TestNoAllocation(t *testing.T) {
	b := newBook(t)
	b.begin(acme)
	b.create(acme, key(1))
	hitting, missing := digestOf(1), digestOf(2)
	if n := testing.AllocsPerRun(1000, func() {
		var h index.Hit
		if !b.index.Lookup(&hitting, &h) || !h.Allows("doc:read") || !h.AllowsAll("doc:*") || !h.Covers("w1") || b.index.Lookup(&missing, &h) {
			t.Fatal("wrong answer")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestBytesPerKey(t *testing.T) {
	const n = 200_000
	b := newBook(t)
	b.begin(acme)
	b.revisions = nil
	before := live()
	for i := range n {
		b.at(events.KeySubject(acme, keyID(i)), 1, key(i))
	}
	// Shards take turns in growing, so that it is the same at every number.
	if per := float64(live()-before) / n; per > 110 {
		t.Errorf("%.1f bytes a key, at most 110 are promised", per)
	} else {
		t.Logf("%.1f bytes a key", per)
	}
	runtime.KeepAlive(b)
}

func live() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
