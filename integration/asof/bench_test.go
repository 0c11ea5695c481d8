package asof

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/asof"
)

// large is an audit log of one organization with many keys of six events each,
// among them configuration, and of a tenth as much of another one.
type large struct {
	log  *audit.Log
	keys int
	last events.Position
	at   events.Time
}

func newLarge(b *testing.B, keys int) *large {
	b.Helper()
	log, err := audit.Open(context.Background(), audit.Config{Path: filepath.Join(b.TempDir(), "audit.db")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := log.Close(); err != nil {
			b.Error(err)
		}
	})
	l := &large{log: log, keys: keys, at: t0}
	revisions := map[events.Subject]events.Revision{}
	var batch []events.Recorded
	flush := func() {
		if err := log.Apply(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
		batch = batch[:0]
	}
	add := func(s events.Subject, e events.Event) {
		l.last++
		l.at += 1000
		revisions[s]++
		m := events.Meta{
			ID: uuid(3, int(l.last)), Ledger: uuid(2, 1), Time: l.at, RecordedTime: l.at, Revision: revisions[s],
			Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: uuid(4, int(l.last)),
		}
		raw, err := events.Encode(s, e, m)
		if err != nil {
			b.Fatal(err)
		}
		if batch = append(batch, events.Recorded{Position: l.last, Subject: s, Stored: l.at, Meta: m, Event: e, Raw: raw}); len(batch) == 1000 {
			flush()
		}
	}
	for _, org := range []events.OrgID{"acme", "other"} {
		add(events.OrganizationSubject(org), events.OrganizationCreated{ID: org, Name: events.ClearText("O"), Plan: events.PlanGrowth})
		add(events.WorkspaceSubject(org, "w1"), events.WorkspaceCreated{ID: "w1", Name: events.ClearText("W")})
	}
	catalog := events.CatalogReplaced{Permissions: []events.CatalogPermission{{Name: "doc:read", Access: events.AccessRead}, {Name: "doc:write", Access: events.AccessWrite}}}
	for n := range keys {
		org := events.OrgID("acme")
		if n%10 == 9 {
			org = "other"
		}
		if n%(keys/100) == 0 {
			add(events.CatalogSubject(org), catalog)
		}
		s := events.KeySubject(org, keyID(n))
		var digest [32]byte
		binary.BigEndian.PutUint64(digest[:], uint64(n))
		add(s, events.KeyCreated{
			ID: keyID(n), KeyKind: events.KindAPI, Prefix: "kl_live", LastFour: "a1B2", CreatedAt: l.at, Digest: events.Digest{Alg: events.SHA256, Value: sha256.Sum256(digest[:])},
			Permissions: events.Permissions{Level: events.LevelReadOnly}, Scope: events.Scope{AllWorkspaces: true},
		})
		add(s, events.KeyRenamed{Name: events.ClearText("service")})
		add(s, events.KeyDisabled{})
		add(s, events.KeyEnabled{})
		add(s, events.KeyScopeChanged{Scope: events.Scope{Workspaces: []events.WorkspaceID{"w1"}}})
		if n%2 == 0 {
			add(events.RevokedSubject(org, keyID(n)), events.KeyRevoked{})
		}
	}
	flush()
	return l
}

// BenchmarkAsOf measures answers about the past of a large organization: where a
// time stands, the verdict on one key then, and who of many could. Run it as
//
//	go test -run '^$' -bench AsOf -benchtime 2s ./integration/asof
func BenchmarkAsOf(b *testing.B) {
	l := newLarge(b, 100_000)
	b.Logf("%d events", l.last)
	random := rand.New(rand.NewPCG(1, 2))
	when := func() events.Time { return t0 + events.Time(random.Int64N(int64(l.at-t0))) }
	ask := func(at events.Time) asof.Ask {
		return asof.Ask{Question: verify.Question{Permission: "doc:read", Workspace: "w1"}, At: at}
	}
	b.Run("position of a time", func(b *testing.B) {
		for b.Loop() {
			if _, err := l.log.At(b.Context(), when()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("time of a position", func(b *testing.B) {
		for b.Loop() {
			if _, err := l.log.Clock(b.Context(), events.Position(random.Int64N(int64(l.last)))); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("a key", func(b *testing.B) {
		for b.Loop() {
			id := keyID(random.IntN(l.keys) / 10 * 10)
			got, err := ask(l.at).Of(l.log.Bearing(b.Context(), "acme", []events.KeyID{id}, l.last))
			if err != nil || len(got) != 1 || got[0].Code != events.CodeRevoked {
				b.Fatal(got, err)
			}
		}
	})
	const most = 500
	b.Run("who could, of 500 keys", func(b *testing.B) {
		for b.Loop() {
			keys, err := l.log.Created(b.Context(), "acme", events.Position(random.Int64N(int64(l.last)/2)), l.last, most)
			if err != nil || len(keys) != most {
				b.Fatal(len(keys), err)
			}
			ids := make([]events.KeyID, len(keys))
			for i, k := range keys {
				ids[i] = k.ID
			}
			if got, err := ask(l.at).Of(l.log.Bearing(b.Context(), "acme", ids, l.last)); err != nil || len(got) != most {
				b.Fatal(len(got), err)
			}
		}
	})
}
