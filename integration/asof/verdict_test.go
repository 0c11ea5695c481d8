package asof

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/asof"
)

const second = events.Time(1_000_000)

// t0 is when the histories begin.
const t0 = events.Time(1_795_240_000_000_000)

func uuid(kind byte, n int) (id [16]byte) {
	id[0], id[6], id[8] = kind, 0x70, 0x80
	binary.BigEndian.PutUint32(id[12:], uint32(n))
	return id
}

func keyID(n int) events.KeyID { return uuid(1, n) }

// past is a history, as a reader of the ledger has it and as bodies.
type past struct {
	*rapid.T
	facts     []events.Recorded
	stored    []stored
	revisions map[events.Subject]events.Revision
}

func (p *past) now() events.Time { return t0 + events.Time(len(p.facts))*10*second }

type placed struct {
	subject events.Subject
	event   events.Event
	// as takes the place of the kind, which makes it an unknown one.
	as string
	// again is how many revisions back an old event is appended anew.
	again events.Revision
}

// append appends events as one.
func (p *past) append(all ...placed) {
	now := p.now()
	for i, f := range all {
		position := events.Position(len(p.facts) + 1)
		p.revisions[f.subject]++
		m := events.Meta{
			ID: uuid(3, int(position)), Ledger: events.LedgerID(uuid(2, 1)), Time: now, RecordedTime: now, Revision: p.revisions[f.subject],
			Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: uuid(4, int(position)),
		}
		if f.again > 0 {
			p.revisions[f.subject]--
			m.Revision = max(1, p.revisions[f.subject]+1-f.again)
		}
		if len(all) > 1 {
			m.BatchIndex, m.BatchSize = i+1, len(all)
		}
		raw, err := events.Encode(f.subject, f.event, m)
		if err != nil {
			p.Fatal(err)
		}
		if f.as != "" {
			raw = []byte(strings.Replace(string(raw), string(f.event.Kind()), f.as, 1))
		}
		r := events.Recorded{Position: position, Subject: f.subject, Stored: now, Raw: raw}
		if r.Meta, r.Event, err = events.Decode(f.subject, raw); err != nil {
			p.Fatal(err)
		}
		p.facts = append(p.facts, r)
		p.stored = append(p.stored, parse(uint64(position), now.Std(), raw))
	}
}

func one[T any](t *rapid.T, label string, of ...T) T { return rapid.SampledFrom(of).Draw(t, label) }

func (p *past) org() events.OrgID {
	return one[events.OrgID](p.T, "org", "acme", "acme", "acme", "other")
}

func (p *past) rarely(label string) bool { return rapid.IntRange(0, 14).Draw(p.T, label) == 14 }

func (p *past) time() events.Time {
	return one(p.T, "time", 0, 0, p.now()+50*second, p.now()+150*second, p.now()+300*second)
}

func (p *past) permissions() events.Permissions {
	g := events.Permissions{Level: one(p.T, "level", events.LevelAll, events.LevelReadOnly, events.LevelRestricted, events.LevelRestricted)}
	if g.Level == events.LevelRestricted {
		g.Grants = []string{one(p.T, "grant", "doc:read", "doc:write", "doc:*", "user:*")}
	}
	return g
}

func (p *past) scope() events.Scope {
	if rapid.Bool().Draw(p.T, "all workspaces") {
		return events.Scope{AllWorkspaces: true}
	}
	return events.Scope{Workspaces: []events.WorkspaceID{one[events.WorkspaceID](p.T, "workspace", "w1", "w2")}}
}

func (p *past) catalog(org events.OrgID) placed {
	c := events.CatalogReplaced{Permissions: []events.CatalogPermission{}}
	for _, name := range []string{"doc:read", "doc:write", "user:read"} {
		if a := one[events.Access](p.T, name, events.AccessRead, events.AccessRead, "", events.AccessWrite); a != "" {
			c.Permissions = append(c.Permissions, events.CatalogPermission{Name: name, Access: a})
		}
	}
	return placed{subject: events.CatalogSubject(org), event: c}
}

func (p *past) workspace(org events.OrgID) placed {
	w := one[events.WorkspaceID](p.T, "workspace", "w1", "w2")
	s := events.WorkspaceSubject(org, w)
	switch p.revisions[s] {
	case 0:
		return placed{subject: s, event: events.WorkspaceCreated{ID: w, Name: events.ClearText("W")}}
	case 1:
		return placed{subject: s, event: one[events.Event](p.T, "event", events.WorkspaceRenamed{Name: events.ClearText("V")}, events.WorkspaceDeleted{})}
	}
	return p.catalog(org)
}

func (p *past) create(org events.OrgID, n int) placed {
	digest := n
	if p.rarely("another's digest") {
		digest = rapid.IntRange(1, 4).Draw(p.T, "digest")
	}
	kind := events.KindAPI
	e := events.KeyCreated{
		ID: keyID(n), KeyKind: kind, Prefix: "kl_live", LastFour: "a1B2", CreatedAt: p.now(),
		Digest:      events.Digest{Alg: events.SHA256, Value: sha256.Sum256([]byte{byte(digest)})},
		Permissions: p.permissions(), Scope: p.scope(), ExpiresAt: p.time(),
	}
	if p.rarely("management") {
		e.KeyKind, e.Role, e.Permissions = events.KindManagement, events.RoleMember, events.Permissions{}
	}
	return placed{subject: events.KeySubject(org, keyID(n)), event: e}
}

// next draws what happens next, mostly to a key.
func (p *past) next() {
	org, n := p.org(), rapid.IntRange(1, 4).Draw(p.T, "key")
	home := events.OrgID("acme")
	if n == 4 {
		home = "other"
	}
	s := events.KeySubject(home, keyID(n))
	switch what := rapid.IntRange(0, 24).Draw(p.T, "what"); {
	case what < 3:
		p.append(p.workspace(org))
		return
	case what == 3:
		p.append(p.catalog(org))
		return
	case what == 4 && p.rarely("end"):
		if end := events.EndSubject(org); p.revisions[end] == 0 {
			p.append(placed{subject: end, event: events.OrganizationDeleted{}})
			return
		}
	case what == 5 && p.rarely("revoked"):
		if end := events.RevokedSubject(home, keyID(n)); p.revisions[end] == 0 {
			p.append(placed{subject: end, event: events.KeyRevoked{}})
			return
		}
	case what == 6:
		p.append(placed{subject: events.OrganizationSubject(org), event: events.OrganizationRenamed{Name: events.ClearText("O")}})
		return
	case what == 7 && p.rarely("unknown"):
		if p.revisions[s] > 0 {
			p.append(placed{subject: s, event: one[events.Event](p.T, "bears", events.KeyDisabled{}, events.KeyRenamed{}), as: "key.frozen.v9"})
			return
		}
	case what == 8 && p.rarely("again"):
		if p.revisions[s] > 0 {
			p.append(placed{subject: s, event: p.change(), again: 1})
			return
		}
	}
	switch {
	case p.revisions[s] == 0:
		p.append(p.create(home, n))
	case rapid.IntRange(0, 3).Draw(p.T, "as one") == 0:
		p.append(placed{subject: s, event: p.change()}, placed{subject: s, event: p.change()})
	default:
		p.append(placed{subject: s, event: p.change()})
	}
}

func (p *past) change() events.Event {
	if p.rarely("expired") {
		return events.KeyExpired{ExpiredAt: p.now()}
	}
	return one[events.Event](p.T, "event",
		events.KeyPermissionsChanged{Permissions: p.permissions()}, events.KeyScopeChanged{Scope: p.scope()}, events.KeyDisabled{},
		events.KeyEnabled{}, events.KeyEnabled{}, events.KeyExpiryChanged{ExpiresAt: p.time()}, events.KeyRenamed{Name: events.ClearText("k")},
		events.KeyGraceChanged{GraceEndsAt: p.now() + 100*second},
		events.KeyRotated{Successor: keyID(9), GraceEndsAt: p.now() + 200*second})
}

// of are the events of an organization up to a position.
func (p *past) of(org events.OrgID, until int) func(func(events.Recorded, error) bool) {
	return func(yield func(events.Recorded, error) bool) {
		for _, r := range p.facts[:until] {
			if r.Subject.Org == org && !yield(r, nil) {
				return
			}
		}
	}
}

// leads is what the index that follows the ledger tells of digests.
func (p *past) leads() func(events.Digest) (events.OrgID, events.KeyID, bool) {
	x, err := index.New(index.Config{})
	if err != nil {
		p.Fatal(err)
	}
	if err := x.Apply(p.Context(), p.facts); err != nil {
		p.Fatal(err)
	}
	return x.Taken
}

func TestVerdictsOfThePastAgreeWithASecondImplementation(t *testing.T) {
	given := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		p := &past{T: rt, revisions: map[events.Subject]events.Revision{}}
		for _, org := range []events.OrgID{"acme", "other"} {
			if p.rarely("no beginning") {
				continue
			}
			p.append(placed{subject: events.OrganizationSubject(org), event: events.OrganizationCreated{ID: org, Name: events.ClearText("O"), Plan: events.PlanGrowth}})
			p.append(p.catalog(org))
			p.append(p.workspace(org))
		}
		for range rapid.IntRange(1, 25).Draw(rt, "events") {
			p.next()
		}
		leads, fold := p.leads(), folds()
		permission := one(rt, "permission", "", "doc:read", "doc:write", "user:read", "other:read")
		workspace := one(rt, "workspace", "", "", "w1", "w2", "w3")
		at := t0 + events.Time(rapid.IntRange(0, 500).Draw(rt, "at"))*second
		ask := asof.Ask{
			Question: verify.Question{Permission: permission, Workspace: events.WorkspaceID(workspace)}, At: at, Leads: leads,
		}
		compare(p, fold, ask, given)
	})
	for _, code := range []string{"VALID", "REVOKED", "EXPIRED", "INACTIVE", "INSUFFICIENT_PERMISSIONS", "OUT_OF_SCOPE", "NOT_FOUND", "UNAVAILABLE"} {
		if given[code] == 0 {
			t.Errorf("no answer was %s: the histories are too poor", code)
		}
	}
}

// compare asks both at every position.
func compare(p *past, fold func([]stored) *world, ask asof.Ask, given map[string]int) {
	naive := map[string]func([]stored) string{}
	for n := 1; n <= 4; n++ {
		id := keyID(n).String()
		naive[id] = remembered(func(past []stored) string {
			return fold(past).verdict(id, ask.Question.Permission, string(ask.Question.Workspace), ask.At.Std())
		})
	}
	for until := 0; until <= len(p.facts); until++ {
		world, seen := fold(p.stored[:until]), 0
		for _, org := range []events.OrgID{"acme", "other"} {
			answers, err := ask.Of(p.of(org, until))
			if err != nil {
				p.Fatal(err)
			}
			for _, a := range answers {
				seen++
				id := a.ID.String()
				if world.keys[id] == nil {
					p.Fatalf("at %d key %s answers before it is there", until, id)
				}
				want := naive[id](p.stored[:until])
				if a.Code.String() != want {
					p.Fatalf("at %d, %s: %s, by the second implementation %s", until, ask.At, a.Code, want)
				}
				by := made(p.stored[:until], naive[id])
				if want == "NOT_FOUND" {
					// It was there and led nowhere from its first event on.
					by = world.keys[id].created
				}
				if uint64(a.MadeBy) != by {
					p.Fatalf("at %d, %s: %s was made so by %d, by the second implementation %d\n%s", until, ask.At, want, a.MadeBy, by, p.show(until))
				}
				given[want]++
			}
		}
		if seen != len(world.keys) {
			p.Fatalf("at %d there are %d answers, by the second implementation %d keys", until, seen, len(world.keys))
		}
	}
}

// remembered answers each length of one past once.
func remembered(answer func([]stored) string) func([]stored) string {
	known := map[int]string{}
	return func(past []stored) string {
		if _, ok := known[len(past)]; !ok {
			known[len(past)] = answer(past)
		}
		return known[len(past)]
	}
}

func (p *past) show(until int) string {
	var b strings.Builder
	for _, s := range p.stored[:until] {
		fmt.Fprintln(&b, s.position, s.at.Format(time.RFC3339), text(s.body, "subject"), s.kind(), s.body["batchindex"], s.body["data"])
	}
	return b.String()
}
