package verify_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

// model is the same semantics in the most naive way there is: it keeps what the
// facts said and works out everything when asked.
type model struct {
	position events.Position
	orgs     map[events.OrgID]*modelOrg
	keys     map[events.Subject]*modelKey
	digests  map[events.Digest]*modelKey
}

type modelOrg struct {
	exists, ended, closed bool
	revision, catalogRev  events.Revision
	catalog               []events.CatalogPermission
	workspaces, profiles  map[string]events.Revision
	live                  map[events.WorkspaceID]bool
	settings              map[events.ProfileID]string
}

type modelKey struct {
	org                                events.OrgID
	created, lost                      bool
	revision                           events.Revision
	closed, revoked, expired, disabled bool
	said                               events.KeyCreated
	grace                              events.Time
}

func newModel() *model {
	m := &model{orgs: map[events.OrgID]*modelOrg{}, keys: map[events.Subject]*modelKey{}, digests: map[events.Digest]*modelKey{}}
	m.org(events.System).exists = true
	return m
}

func (m *model) org(id events.OrgID) *modelOrg {
	if m.orgs[id] == nil {
		m.orgs[id] = &modelOrg{
			workspaces: map[string]events.Revision{}, profiles: map[string]events.Revision{},
			live: map[events.WorkspaceID]bool{}, settings: map[events.ProfileID]string{},
		}
	}
	return m.orgs[id]
}

func (m *model) key(org events.OrgID, id string) *modelKey {
	s := events.Subject{Org: org, Aggregate: events.AggregateKey, ID: id}
	if m.keys[s] == nil {
		m.keys[s] = &modelKey{org: org}
	}
	return m.keys[s]
}

func (m *model) apply(r events.Recorded) {
	m.position = r.Position
	o := m.org(r.Subject.Org)
	switch r.Subject.Aggregate {
	case events.AggregateKey:
		m.applyKey(m.key(r.Subject.Org, r.Subject.ID), r)
	case events.AggregateRevoked:
		switch {
		case r.Subject.ID == events.RevokedAll && r.Event == events.Event(events.OrganizationDeleted{}):
			o.ended = true
		case r.Subject.ID == events.RevokedAll:
			o.closed = o.closed || events.Bears(r.Event)
		case r.Event == events.Event(events.KeyRevoked{}):
			m.key(r.Subject.Org, r.Subject.ID).revoked = true
		default:
			k := m.key(r.Subject.Org, r.Subject.ID)
			k.closed = k.closed || events.Bears(r.Event)
		}
	case events.AggregateQuota:
		u, unknown := r.Event.(events.Unknown)
		o.closed = o.closed || unknown && u.Bears
	default:
		o.apply(r)
	}
}

func (m *model) applyKey(k *modelKey, r events.Recorded) {
	if _, bad := r.Event.(events.Malformed); bad {
		k.closed = true
		return
	}
	e, creates := r.Event.(events.KeyCreated)
	if k.lost {
		return
	}
	if !k.created {
		if !creates {
			k.closed = true
			return
		}
		k.created, k.said, k.revision = true, e, r.Meta.Revision
		k.closed = k.closed || r.Meta.Revision != 1
		if m.digests[e.Digest] != nil {
			k.lost = true
		} else {
			m.digests[e.Digest] = k
		}
		return
	}
	switch {
	case r.Meta.Revision <= k.revision || k.closed:
		return
	case r.Meta.Revision > k.revision+1:
		k.closed = true
		return
	}
	k.revision++
	switch e := r.Event.(type) {
	case events.KeyPermissionsChanged:
		k.said.Permissions = e.Permissions
	case events.KeyScopeChanged:
		k.said.Scope = e.Scope
	case events.KeyProfileChanged:
		k.said.Profile = e.Profile
	case events.KeyDisabled:
		k.disabled = true
	case events.KeyEnabled:
		k.disabled = false
	case events.KeyExpiryChanged:
		k.said.ExpiresAt = e.ExpiresAt
	case events.KeyRotated:
		k.grace = e.GraceEndsAt
	case events.KeyGraceChanged:
		k.grace = e.GraceEndsAt
	case events.KeyExpired:
		k.expired = true
	case events.KeyRenamed, events.KeyMetadataChanged:
	default:
		k.closed = k.closed || events.Bears(e)
	}
}

// next is the rule for revisions of everything that belongs to an organization.
func (o *modelOrg) next(r events.Recorded, have *events.Revision) bool {
	_, bad := r.Event.(events.Malformed)
	u, unknown := r.Event.(events.Unknown)
	switch {
	case bad, unknown && u.Bears && r.Meta.Revision > *have, r.Meta.Revision > *have+1:
		o.closed = true
		return false
	case r.Meta.Revision <= *have:
		return false
	}
	*have = r.Meta.Revision
	return true
}

func (o *modelOrg) apply(r events.Recorded) {
	rev := events.Revision(0)
	switch r.Subject.Aggregate {
	case events.AggregateOrganization:
		if o.next(r, &o.revision) {
			_, creates := r.Event.(events.OrganizationCreated)
			o.closed = o.closed || creates && o.revision != 1 || !creates && !o.exists
			o.exists = o.exists || creates
		}
	case events.AggregateCatalog:
		if o.next(r, &o.catalogRev) {
			if e, ok := r.Event.(events.CatalogReplaced); ok {
				o.catalog = e.Permissions
			}
		}
	case events.AggregateWorkspace:
		rev = o.workspaces[r.Subject.ID]
		if o.next(r, &rev) {
			_, creates := r.Event.(events.WorkspaceCreated)
			_, deletes := r.Event.(events.WorkspaceDeleted)
			id := events.WorkspaceID(r.Subject.ID)
			o.closed = o.closed || creates != (rev == 1) || !creates && !o.live[id]
			o.live[id] = (o.live[id] || creates && rev == 1) && !deletes
		}
		o.workspaces[r.Subject.ID] = rev
	case events.AggregateProfile:
		rev = o.profiles[r.Subject.ID]
		if o.next(r, &rev) {
			id := events.ProfileID(r.Subject.ID)
			_, live := o.settings[id]
			switch e := r.Event.(type) {
			case events.ProfileCreated:
				if o.closed = o.closed || rev != 1; rev == 1 {
					o.settings[id] = string(e.Settings)
				}
			case events.ProfileSettingsChanged:
				if o.closed = o.closed || !live; live {
					o.settings[id] = string(e.Settings)
				}
			case events.ProfileDeleted:
				o.closed = o.closed || !live
				delete(o.settings, id)
			default:
				o.closed = o.closed || !live
			}
		}
		o.profiles[r.Subject.ID] = rev
	default:
	}
}

func (k *modelKey) ends() events.Time {
	if k.grace != 0 && (k.said.ExpiresAt == 0 || k.grace < k.said.ExpiresAt) {
		return k.grace
	}
	return k.said.ExpiresAt
}

// verdict is the answer in one line a reason.
func (m *model) verdict(q verify.Question, now events.Time) (events.Code, *modelKey) {
	k := m.digests[events.Digest{Alg: events.SHA256, Value: keystring.Digest(q.Secret)}]
	if parts := strings.Split(q.Secret, "_"); k == nil && len(parts) > 2 && parts[len(parts)-1] != "" {
		k = m.digests[events.Digest{Alg: events.PrefixShortLong, Value: keystring.Digest(parts[len(parts)-1])}]
	}
	if k == nil || q.Within != "" && k.org != q.Within {
		switch {
		case q.AtLeast > m.position:
			return events.CodeStale, nil
		case keystring.WellFormed(q.Secret):
			return events.CodeNotFound, nil
		}
		return events.CodeMalformed, nil
	}
	o := m.orgs[k.org]
	kind := q.Kind
	if kind == "" {
		kind = events.KindAPI
	}
	inScope := func(w events.WorkspaceID) bool {
		return o.live[w] && (k.said.Scope.AllWorkspaces || slices.Contains(k.said.Scope.Workspaces, w))
	}
	switch {
	case k.revoked || o.ended:
		return events.CodeRevoked, k
	case q.AtLeast > m.position:
		return events.CodeStale, k
	case k.closed || o.closed || !o.exists:
		return events.CodeUnavailable, k
	case k.expired || k.ends() != 0 && now >= k.ends():
		return events.CodeExpired, k
	case k.disabled:
		return events.CodeInactive, k
	case k.said.KeyKind != kind:
		return events.CodeInsufficientPermissions, k
	case q.Permission != "" && !o.answers(k.said.Permissions, q.Permission):
		return events.CodeInsufficientPermissions, k
	case q.Workspace != "" && !inScope(q.Workspace):
		return events.CodeOutOfScope, k
	case !k.said.Scope.AllWorkspaces && !slices.ContainsFunc(k.said.Scope.Workspaces, inScope):
		return events.CodeOutOfScope, k
	}
	return events.CodeValid, k
}

// modelQueries are queries, and what they mean. Those without a meaning are none.
var modelQueries = map[string]func(may, all func(string) bool) bool{
	"doc:*":                  func(_, all func(string) bool) bool { return all("doc") },
	"other:*":                func(_, all func(string) bool) bool { return all("other") },
	"doc:read OR user:read":  func(may, _ func(string) bool) bool { return may("doc:read") || may("user:read") },
	"doc:read and doc:write": func(may, _ func(string) bool) bool { return may("doc:read") && may("doc:write") },
	"(user:* OR doc:read) AND (doc:write OR user:read)": func(may, all func(string) bool) bool {
		return (all("user") || may("doc:read")) && (may("doc:write") || may("user:read"))
	},
	"user:write OR doc:write AND user:*": func(may, all func(string) bool) bool { return may("user:write") || may("doc:write") && all("user") },
	"doc:read OR":                        nil,
	"doc:read, doc:write":                nil,
	"(empty)":                            nil,
}

// answers answers what may be asked of a key's permissions.
func (o *modelOrg) answers(p events.Permissions, question string) bool {
	query, ok := modelQueries[question]
	switch {
	case !ok:
		return o.may(p, question)
	case query == nil:
		return false
	}
	return query(func(name string) bool { return o.may(p, name) }, func(resource string) bool {
		n := 0
		for _, c := range o.catalog {
			if strings.HasPrefix(c.Name, resource+":") {
				if n++; !o.may(p, c.Name) {
					return false
				}
			}
		}
		return n > 0
	})
}

func (o *modelOrg) may(p events.Permissions, name string) bool {
	for _, c := range o.catalog {
		if c.Name != name {
			continue
		}
		resource, _, _ := strings.Cut(name, ":")
		return p.Level == events.LevelAll || p.Level == events.LevelReadOnly && c.Access == events.AccessRead ||
			p.Level == events.LevelRestricted && (slices.Contains(p.Grants, name) || slices.Contains(p.Grants, resource+":*"))
	}
	return false
}

// draw draws facts and questions about a small world, in which everything
// meets everything.
type draw struct {
	*rapid.T
	now     events.Time
	secrets []string
}

func one[T any](d draw, label string, of ...T) T { return rapid.SampledFrom(of).Draw(d.T, label) }

func (d draw) org() events.OrgID { return one(d, "org", acme, acme, acme, other, events.System) }

func (d draw) time() events.Time {
	return one(d, "time", 0, 0, d.now-3600*second, d.now+3600*second, d.now+7200*second)
}

func (d draw) workspace() events.WorkspaceID {
	return one[events.WorkspaceID](d, "workspace", "w1", "w2", "w3")
}

func (d draw) permissions() events.Permissions {
	p := events.Permissions{Level: one(d, "level", events.LevelAll, events.LevelAll, events.LevelReadOnly, events.LevelRestricted, events.LevelRestricted, "")}
	if p.Level == events.LevelRestricted {
		p.Grants = rapid.SliceOfN(rapid.SampledFrom([]string{"doc:read", "doc:write", "user:read", "doc:*", "user:*", "other:*"}), 0, 3).Draw(d.T, "grants")
	}
	return p
}

func (d draw) scope() events.Scope {
	if rapid.Bool().Draw(d.T, "all workspaces") {
		return events.Scope{AllWorkspaces: true}
	}
	return events.Scope{Workspaces: rapid.SliceOfN(rapid.SampledFrom([]events.WorkspaceID{"w1", "w2", "w3"}), 0, 3).Draw(d.T, "workspaces")}
}

func (d draw) profile() events.ProfileID { return one[events.ProfileID](d, "profile", "", "p1", "p2") }

func (d draw) settings() events.Document {
	return events.Document(fmt.Sprintf(`{"n":%d}`, rapid.IntRange(0, 9).Draw(d.T, "n")))
}

func (d draw) catalog() events.CatalogReplaced {
	var c events.CatalogReplaced
	for _, name := range []string{"doc:read", "doc:write", "user:read", "user:write"} {
		if a := one[events.Access](d, name, events.AccessRead, events.AccessRead, "", events.AccessRead, events.AccessWrite); a != "" {
			c.Permissions = append(c.Permissions, events.CatalogPermission{Name: name, Access: a})
		}
	}
	return c
}

func (d draw) create(id events.KeyID, secret string) events.KeyCreated {
	if d.rarely("another's secret") {
		secret = one(d, "secret", d.secrets...)
	}
	digest := events.Digest{Alg: events.SHA256, Value: keystring.Digest(secret)}
	if last := strings.LastIndexByte(secret, '_'); rapid.IntRange(0, 3).Draw(d.T, "form") == 0 {
		digest = events.Digest{Alg: events.PrefixShortLong, Value: keystring.Digest(secret[last+1:])}
	}
	return events.KeyCreated{
		ID: id, KeyKind: one(d, "kind", events.KindAPI, events.KindAPI, events.KindAPI, events.KindManagement),
		Digest:      digest,
		Permissions: d.permissions(), Scope: d.scope(), Profile: d.profile(), ExpiresAt: d.time(),
	}
}

// fact draws a fact and where it stands: mostly one that may follow there.
func (d draw) fact(l *ledger) (events.Subject, events.Event) {
	org, n := d.org(), rapid.IntRange(1, 4).Draw(d.T, "key")
	id := keyID(n)
	begins := func(s events.Subject) bool { return (l.revisions[s] == 0) != d.rarely("out of turn") }
	switch kind := rapid.IntRange(0, 19).Draw(d.T, "fact"); {
	case kind == 0:
		s := events.OrganizationSubject(org)
		if begins(s) {
			return s, events.OrganizationCreated{ID: org}
		}
		return s, events.OrganizationRenamed{}
	case kind == 1:
		return events.CatalogSubject(org), d.catalog()
	case kind <= 3:
		w := d.workspace()
		s := events.WorkspaceSubject(org, w)
		switch {
		case begins(s):
			return s, events.WorkspaceCreated{ID: w}
		case l.revisions[s] == 1:
			return s, one[events.Event](d, "event", events.WorkspaceRenamed{}, events.WorkspaceDeleted{})
		}
		return events.CatalogSubject(org), d.catalog()
	case kind == 4:
		p := one[events.ProfileID](d, "profile", "p1", "p2")
		s := events.ProfileSubject(org, p)
		if begins(s) {
			return s, events.ProfileCreated{ID: p, Settings: d.settings()}
		}
		if d.rarely("deleted") {
			return s, events.ProfileDeleted{}
		}
		return s, one[events.Event](d, "event", events.ProfileSettingsChanged{Settings: d.settings()}, events.ProfileRenamed{})
	case kind == 5 && d.rarely("revoked"):
		return events.RevokedSubject(org, id), events.KeyRevoked{}
	case kind == 6 && d.rarely("end"):
		return events.EndSubject(org), events.OrganizationDeleted{}
	case kind <= 6:
		return events.QuotaSubject(org), events.QuotaChanged{}
	}
	s := events.KeySubject(org, id)
	if begins(s) {
		return s, d.create(id, d.secrets[n-1])
	}
	if d.rarely("expired") {
		return s, events.KeyExpired{}
	}
	return s, one[events.Event](d, "event",
		events.KeyPermissionsChanged{Permissions: d.permissions()}, events.KeyScopeChanged{Scope: d.scope()},
		events.KeyProfileChanged{Profile: d.profile()}, events.KeyDisabled{}, events.KeyEnabled{}, events.KeyEnabled{},
		events.KeyExpiryChanged{ExpiresAt: d.time()}, events.KeyRotated{GraceEndsAt: d.time()},
		events.KeyGraceChanged{GraceEndsAt: d.time()}, events.KeyRenamed{})
}

func (d draw) rarely(label string) bool { return rapid.IntRange(0, 19).Draw(d.T, label) == 19 }

func (d draw) question(position events.Position) verify.Question {
	permission := one(d, "permission", "", "", "doc:read", "doc:read", "doc:write", "user:read", "user:write", "other:read")
	if rapid.IntRange(0, 2).Draw(d.T, "query") == 0 {
		permission = one(d, "query", slices.Sorted(maps.Keys(modelQueries))...)
	}
	return verify.Question{
		Secret:     one(d, "secret", append(d.secrets[:4:4], d.secrets...)...),
		Permission: permission,
		Workspace:  one[events.WorkspaceID](d, "workspace", "", "", "w1", "w2", "w3", "w4"),
		Kind:       one(d, "kind", "", "", events.KindAPI, events.KindAPI, events.KindManagement),
		Within:     one(d, "within", "", "", "", acme, acme, other),
		AtLeast:    one(d, "at least", 0, 0, 0, position, position+1),
	}
}

func TestVerdictsAgreeWithTheModel(t *testing.T) {
	secrets := []string{
		secret(t, 1), secret(t, 2), "app_BRTRKFsL_long", "sk-imported", secret(t, 5), "nobody's",
		"app_other_long", "long", "app_long", "app_BRTRKFsL_",
	}
	rec := newRecorder(t, drain{}, sized(1<<12))
	given, queried := map[events.Code]int{}, 0
	rapid.Check(t, func(rt *rapid.T) {
		d := draw{T: rt, now: events.TimeOf(time.Now()).WholeSecond(), secrets: secrets}
		x, m := newIndex(t, 0), newModel()
		v := newVerifier(t, verify.Config{Index: x, Recorder: rec})
		defer v.Close()
		l := newLedger(x)
		l.seen = m.apply
		if rapid.IntRange(0, 4).Draw(rt, "begun") > 0 {
			l.begin(acme)
			for n := 1; n <= 4; n++ {
				l.add(events.KeySubject(acme, keyID(n)), d.create(keyID(n), secrets[n-1]))
			}
		}
		for range rapid.IntRange(1, 80).Draw(rt, "facts") {
			s, e := d.fact(l)
			switch rapid.IntRange(0, 99).Draw(rt, "oddity") {
			case 1:
				l.at(s, l.revisions[s], e)
			case 2:
				l.at(s, l.revisions[s]+2, e)
			case 3:
				l.at(s, events.Revision(rapid.IntRange(0, 2).Draw(rt, "revision")), events.Malformed{})
			case 4, 5, 6:
				l.add(s, events.Unknown{Name: "x.y.v1", Bears: rapid.Bool().Draw(rt, "bears")})
			default:
				l.add(s, e)
			}
			for range 3 {
				q := d.question(l.position)
				got := v.Verify(rt.Context(), &q)
				compare(rt, m, q, got)
				given[got.Code]++
				if got.Valid() && modelQueries[q.Permission] != nil {
					queried++
				}
			}
		}
	})
	if given[events.CodeValid] == 0 || queried == 0 {
		t.Error("no verdict was VALID, or none on a query: the histories are too poor")
	}
}

func compare(t *rapid.T, m *model, q verify.Question, got verify.Decision) {
	code, k := m.verdict(q, got.At)
	if got.Code != code {
		t.Fatalf("%s, by the model %s", got.Code, code)
	}
	if k == nil {
		if !got.Key.IsZero() || got.Org != "" || got.Profile != nil {
			t.Fatal("a key that is not there tells something")
		}
		return
	}
	if got.Key != k.said.ID || got.Org != k.org || got.Kind != k.said.KeyKind {
		t.Fatalf("key %s of %s", got.Key, got.Org)
	}
	if k.closed {
		return // what is closed is not kept up
	}
	if got.ExpiresAt != k.ends() && !k.expired && !k.revoked {
		t.Fatalf("expires at %s, by the model %s", got.ExpiresAt, k.ends())
	}
	if got.Permissions.Level != k.said.Permissions.Level || !slices.Equal(got.Permissions.Grants, k.said.Permissions.Grants) ||
		got.Scope.AllWorkspaces != k.said.Scope.AllWorkspaces || !slices.Equal(got.Scope.Workspaces, k.said.Scope.Workspaces) {
		t.Fatalf("granted %v in %v", got.Permissions, got.Scope)
	}
	settings, live := m.orgs[k.org].settings[k.said.Profile]
	switch {
	case k.said.Profile == "":
		if got.Profile != nil {
			t.Fatal("a profile from nowhere")
		}
	case got.Profile == nil || got.Profile.ID != k.said.Profile || got.Profile.Gone == live || string(got.Profile.Settings) != settings:
		t.Fatalf("profile %+v, by the model %q", got.Profile, settings)
	}
}
