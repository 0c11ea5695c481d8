package index_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/index"
)

// TestReadersUnderAWriter has readers watch a few keys whose grants change all
// the time, under few ids that are used again at once, while the shards grow
// under them. Every grant names its key and its generation, so that a reader
// sees what was never granted, what was taken back, and what came too late.
func TestReadersUnderAWriter(t *testing.T) {
	const watched, rounds, readers = 8, 4000, 3
	b := newBook(t)
	b.begin(acme)
	var granted [watched]atomic.Int64 // the generation that has been applied
	var revoked [watched]atomic.Bool
	grants := func(n, generation int) events.Permissions {
		return events.Permissions{Level: events.LevelRestricted, Grants: []string{fmt.Sprintf("key:%d.%d", n, generation)}}
	}
	for n := range watched {
		k := key(n)
		k.Permissions = grants(n, 0)
		b.create(acme, k)
	}
	done := make(chan struct{})
	var group sync.WaitGroup
	for range readers {
		group.Go(func() {
			var last [watched]int64
			for {
				select {
				case <-done:
					return
				default:
				}
				for n := range watched {
					watch(t, b.index, n, granted[n].Load(), revoked[n].Load(), &last[n])
				}
			}
		})
	}
	for round := 1; round <= rounds; round++ {
		n := round % watched
		b.add(events.KeySubject(acme, keyID(n)), events.KeyPermissionsChanged{Permissions: grants(n, round)})
		granted[n].Store(int64(round))
		b.create(acme, key(1000+round)) // grows shards now and then
		switch {
		case round > rounds*3/4 && round%17 == 0 && !revoked[n].Load():
			b.add(events.RevokedSubject(acme, keyID(n)), events.KeyRevoked{})
			revoked[n].Store(true)
		case round%50 == 0:
			b.add(events.CatalogSubject(acme), catalog(fmt.Sprintf("key:%d", round)))
		case round%3 == 0:
			b.add(events.KeySubject(acme, keyID(n)), events.KeyDisabled{})
			b.add(events.KeySubject(acme, keyID(n)), events.KeyEnabled{})
		}
	}
	close(done)
	group.Wait()
	b.troubles(nil)
}

func watch(t *testing.T, x *index.Index, n int, atLeast int64, revoked bool, last *int64) {
	before := x.Applied()
	d, hit := digestOf(n), index.Hit{}
	if !x.Lookup(&d, &hit) {
		t.Errorf("key %d has gone", n)
		return
	}
	if x.Applied() < before {
		t.Error("the position went back")
	}
	if hit.Key() != keyID(n) || hit.Org() != acme || hit.Closed() {
		t.Errorf("key %d is another", n)
	}
	var of int
	var generation int64
	if _, err := fmt.Sscanf(strings.Join(hit.Permissions().Grants, " "), "key:%d.%d", &of, &generation); err != nil || of != n {
		t.Errorf("key %d holds the grant of key %d (%v)", n, of, err)
	}
	if generation < atLeast || generation < *last {
		t.Errorf("key %d: grant %d after %d and %d", n, generation, atLeast, *last)
	}
	if revoked && !hit.Revoked() {
		t.Errorf("key %d is no longer revoked", n)
	}
	*last = generation
}

// TestGrantIDsGoRound drives one key between grants whose ids are used again at
// once by another, the case that rereading the state alone would miss.
func TestGrantIDsGoRound(t *testing.T) {
	b := newBook(t)
	b.index.LimitGrants(3)
	b.begin(acme)
	restricted := func(name string) events.Permissions {
		return events.Permissions{Level: events.LevelRestricted, Grants: []string{name}}
	}
	for n := range 2 {
		k := key(n)
		k.Permissions = restricted(fmt.Sprintf("key:%d", n))
		b.create(acme, k)
	}
	var stop atomic.Bool
	var group sync.WaitGroup
	for n := range 2 {
		group.Go(func() {
			d, hit := digestOf(n), index.Hit{}
			for !stop.Load() {
				b.index.Lookup(&d, &hit)
				if got, want := hit.Permissions().Grants[0], fmt.Sprintf("key:%d", n); got != want && got != want+".x" {
					t.Errorf("key %d holds %s", n, got)
					return
				}
			}
		})
	}
	for i := range 12_000 {
		n := i % 2
		name := fmt.Sprintf("key:%d", n)
		if i%4 < 2 {
			name += ".x"
		}
		b.add(events.KeySubject(acme, keyID(n)), events.KeyPermissionsChanged{Permissions: restricted(name)})
	}
	stop.Store(true)
	group.Wait()
	b.troubles(nil)
}

func TestFullGrants(t *testing.T) {
	b := newBook(t)
	b.index.LimitGrants(1)
	b.begin(acme)
	b.create(acme, key(1))
	other := key(2)
	other.Permissions = events.Permissions{Level: events.LevelReadOnly}
	b.create(acme, other)
	if b.has(2) || b.look(1).Closed() {
		t.Error("a key without room for its grant is there, or closed another")
	}
	b.create(acme, key(3))
	b.create(acme, key(4))
	b.add(events.KeySubject(acme, keyID(3)), events.KeyScopeChanged{})
	if !b.look(3).Closed() || b.look(4).Closed() {
		t.Error("a change without room did not close its key, or closed another")
	}
	b.troubles(map[index.Trouble]uint64{index.TroubleFull: 2})
}

// FuzzApply applies whatever it is told to. Nothing may panic, and whatever
// happens, what was revoked stays revoked.
func FuzzApply(f *testing.F) {
	f.Add([]byte{0, 0, 1, 1, 1, 0, 1, 1, 2, 3, 4, 5})
	f.Add([]byte{3, 7, 9, 2, 2, 2, 80, 81, 82, 83, 200, 201, 202, 0, 1, 2})
	f.Fuzz(func(t *testing.T, script []byte) {
		x, err := index.New(index.Config{})
		if err != nil {
			t.Fatal(err)
		}
		s := &scripted{bytes: script}
		var facts []events.Recorded
		revoked := map[int]bool{}
		for len(s.bytes) > 0 && len(facts) < 500 {
			r := s.fact(events.Position(len(facts) + 1))
			facts = append(facts, r)
			if err := x.Apply(context.Background(), facts[len(facts)-1:]); err != nil {
				t.Fatal(err)
			}
			if x.Applied() != r.Position {
				t.Fatal("the position does not move")
			}
			if _, ok := r.Event.(events.KeyRevoked); ok && r.Subject.Org == acme && r.Subject.Aggregate == events.AggregateRevoked {
				for n := range 4 {
					revoked[n] = revoked[n] || r.Subject.ID == keyID(n).String()
				}
			}
			for n := range 4 {
				d, hit := digestOf(n), index.Hit{}
				if x.Lookup(&d, &hit) && hit.Org() == acme && hit.Key() == keyID(n) && revoked[n] && !hit.Revoked() {
					t.Fatal("a revoked key came back")
				}
			}
		}
		// Applied at once they leave the same.
		y, _ := index.New(index.Config{})
		if err := y.Apply(context.Background(), facts); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(x.Stats().Troubles, x.Problems(), x.Len()) != fmt.Sprint(y.Stats().Troubles, y.Problems(), y.Len()) {
			t.Fatal("a slice is not the sum of its facts")
		}
		// So they do when they were appended as one.
		z, _ := index.New(index.Config{})
		for batch := range slices.Chunk(facts, 5) {
			for i := range batch {
				batch[i].Meta.BatchIndex, batch[i].Meta.BatchSize = i+1, len(batch)
			}
			if err := z.Apply(context.Background(), batch); err != nil {
				t.Fatal(err)
			}
		}
		if fmt.Sprint(x.Stats(), x.Problems()) != fmt.Sprint(z.Stats(), z.Problems()) {
			t.Fatal("a batch is not the sum of its facts")
		}
		for n := range 4 {
			if one, all := picture(x, n), picture(z, n); one != all {
				t.Fatalf("key %d after a batch is %s, one by one %s", n, all, one)
			}
		}
	})
}

// picture tells everything that is known of key number n.
func picture(x *index.Index, n int) string {
	d, hit := digestOf(n), index.Hit{}
	if !x.Lookup(&d, &hit) {
		return "not there"
	}
	return fmt.Sprint(hit.Key(), hit.Org(), hit.Kind(), hit.Permissions(), hit.Scope(), hit.Profile(), hit.ExpiresAt(), hit.Revoked(),
		hit.Closed(), hit.Expired(1), hit.Disabled(), hit.Allows("doc:read"), hit.Somewhere(), hit.Covers("w1"))
}

// scripted makes facts of bytes.
type scripted struct{ bytes []byte }

func (s *scripted) next(n int) int {
	if len(s.bytes) == 0 {
		return 0
	}
	b := int(s.bytes[0])
	s.bytes = s.bytes[1:]
	return b % n
}

func (s *scripted) fact(pos events.Position) events.Recorded {
	orgs := []events.OrgID{acme, acme, "other", events.System, "", "\xff."}
	n := s.next(4)
	org := orgs[s.next(len(orgs))]
	subjects := []events.Subject{
		events.KeySubject(org, keyID(n)), events.RevokedSubject(org, keyID(n)), events.EndSubject(org),
		events.OrganizationSubject(org), events.CatalogSubject(org), events.WorkspaceSubject(org, "w1"),
		events.ProfileSubject(org, "p1"), events.QuotaSubject(org), events.InstallationSubject(),
		{},
		{Org: org, Aggregate: events.AggregateKey, ID: "x"},
		{Org: org, Aggregate: events.AggregateRevoked, ID: "x"},
		{Org: org, Aggregate: events.AggregateCatalog, ID: "x"},
		{Org: org, Aggregate: "later", ID: "x"},
	}
	subject := subjects[s.next(len(subjects))]
	return events.Recorded{
		Position: pos, Subject: subject, Event: s.event(n, org),
		Meta: events.Meta{Revision: events.Revision(s.next(6))},
	}
}

func (s *scripted) event(n int, org events.OrgID) events.Event {
	at := events.Time(s.next(256)-128) * 1_000_000_000_000_000
	k := key(n)
	k.ExpiresAt, k.Profile = at, "p1"
	permissions := events.Permissions{Level: events.LevelRestricted, Grants: []string{"doc:*", "", ":", "*"}[:s.next(5)]}
	scope := events.Scope{Workspaces: []events.WorkspaceID{"w1", "w1", ""}[:s.next(4)]}
	all := []events.Event{
		nil, k, k, k,
		events.KeyRenamed{},
		events.KeyPermissionsChanged{Permissions: permissions},
		events.KeyScopeChanged{Scope: scope},
		events.KeyProfileChanged{Profile: "p1"},
		events.KeyMetadataChanged{},
		events.KeyDisabled{},
		events.KeyEnabled{},
		events.KeyExpiryChanged{ExpiresAt: at},
		events.KeyRotated{GraceEndsAt: at},
		events.KeyGraceChanged{GraceEndsAt: at},
		events.KeyExpired{},
		events.KeyRevoked{},
		events.KeyRevoked{},
		events.OrganizationCreated{ID: org},
		events.OrganizationRenamed{},
		events.OrganizationDeleted{},
		events.WorkspaceCreated{ID: "w1"},
		events.WorkspaceDeleted{},
		events.WorkspaceRenamed{},
		events.ProfileCreated{ID: "p1"},
		events.ProfileSettingsChanged{Settings: events.Document("{}")},
		events.ProfileDeleted{},
		events.ProfileRenamed{},
		events.QuotaChanged{},
		events.InstallationCreated{},
		events.Unknown{Bears: true},
		events.Unknown{},
		events.Malformed{},
		catalog("doc:read", "doc:read!", ":", "x"),
		events.CatalogReplaced{Permissions: []events.CatalogPermission{{Name: "doc:read", Access: "read", Routes: []string{"GET /{", "GET /a", "GET /a"}}}},
		events.CatalogReplaced{Permissions: []events.CatalogPermission{{Name: "doc:read", Access: "read", Routes: []string{"GET /a"}}, {Name: "doc:write", Routes: []string{"GET /a"}}}},
	}
	return all[s.next(len(all))]
}
