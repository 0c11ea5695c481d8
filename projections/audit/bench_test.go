package audit_test

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/audit"
)

// words are what reasons and names are made of.
var words = strings.Fields(`leaked rotation offboarding quarterly review zapier interview service production staging key customer
	asked for removal of access to reports partner migration cleanup load monthly audit incident response billing export`)

// history makes facts as a busy product appends them, one after another: of ten,
// six keys are created, one of those before is given other permissions, another scope
// and another name, and one is revoked. They are encoded as they are stored.
type history struct {
	n         int
	born      int
	orgs      int
	revisions map[events.Subject]events.Revision
}

// busyID is a key's id with a random end, as they have it.
func busyID(n int) events.KeyID {
	id := keyID(n)
	binary.BigEndian.PutUint64(id[8:], uint64(n+1)*0x9e3779b97f4a7c15)
	id[8] = id[8]&0x3f | 0x80
	return id
}

func (h *history) phrase(salt, length int) string {
	out := make([]string, length)
	for i := range out {
		out[i] = words[(h.n*7+salt*13+i*5+h.n/11)%len(words)]
	}
	return strings.Join(out, " ")
}

func (h *history) next(tb testing.TB) events.Recorded {
	tb.Helper()
	n := h.n
	h.n++
	org := events.OrgID(fmt.Sprintf("org-%d", n/10%h.orgs))
	// A key that the same organization was given some rounds ago.
	old := max(0, h.born-60*h.orgs)
	var subject events.Subject
	var e events.Event
	switch n % 10 {
	default:
		subject = events.KeySubject(org, busyID(h.born))
		e = events.KeyCreated{
			ID: busyID(h.born), KeyKind: events.KindAPI, Name: events.ClearText(fmt.Sprintf("%s %d", h.phrase(1, 2), h.born)), Prefix: "kl_live", LastFour: "a1B2",
			Digest: events.Digest{Alg: events.SHA256, Value: events.DigestValue{byte(n), byte(n >> 8), byte(n >> 16), 1}}, CreatedAt: t0 + events.Time(n),
			Permissions: events.Permissions{Level: events.LevelRestricted, Grants: []string{"interview:read", "interview:start"}},
			Scope:       events.Scope{Workspaces: []events.WorkspaceID{events.WorkspaceID(fmt.Sprintf("w-%d", n/10%40))}}, ExpiresAt: t0 + 90*86_400_000_000,
		}
		h.born++
	case 6:
		subject, e = h.of(org, old), events.KeyPermissionsChanged{Permissions: events.Permissions{Level: events.LevelReadOnly}}
	case 7:
		subject, e = h.of(org, old), events.KeyScopeChanged{Scope: events.Scope{AllWorkspaces: true}}
		if n/10%3 > 0 {
			e = events.KeyScopeChanged{Scope: events.Scope{Workspaces: []events.WorkspaceID{"w-1", "w-2", events.WorkspaceID(fmt.Sprintf("w-%d", 3+n/10%40))}}}
		}
	case 8:
		subject, e = h.of(org, old), events.KeyRenamed{Name: events.ClearText(h.phrase(3, 3))}
	case 9:
		subject, e = h.of(org, old+3), events.KeyRevoked{}
		subject.Aggregate = events.AggregateRevoked
		if h.revisions[subject] > 0 {
			subject, e = h.of(org, old+3), events.KeyDisabled{}
		}
	}
	h.revisions[subject]++
	m := events.Meta{
		ID: uuid(3, n), Ledger: ledgerID, Time: t0 + events.Time(n)*1000, RecordedTime: t0 + events.Time(n)*1000 + 200, Revision: h.revisions[subject],
		Actor: events.Actor{Type: events.ActorKey, Org: org, Key: uuid(9, n/10%h.orgs*4+n%4)}, Role: events.RoleAdmin, Scope: "*",
		Reason: events.ClearText(h.phrase(0, 4)), RequestID: fmt.Sprintf("req-%08x", n*2654435761), Command: uuid(4, n), ConfigPosition: 3,
	}
	body, err := events.Encode(subject, e, m)
	if err != nil {
		tb.Fatal(err)
	}
	return events.Recorded{Position: events.Position(n + 1), Subject: subject, Stored: m.Time + 900, Meta: m, Event: e, Raw: body}
}

// of is a key that was created in an organization: they are drawn in turn, ten
// facts each.
func (h *history) of(org events.OrgID, n int) events.Subject {
	for ; n < h.born; n++ {
		if s := events.KeySubject(org, busyID(n)); h.revisions[s] > 0 {
			return s
		}
	}
	panic("no key")
}

func (h *history) slice(tb testing.TB, n int) []events.Recorded {
	tb.Helper()
	out := make([]events.Recorded, n)
	for i := range out {
		out[i] = h.next(tb)
	}
	return out
}

func newBusy(orgs int) *history {
	return &history{orgs: orgs, revisions: map[events.Subject]events.Revision{}}
}

// BenchmarkApply is how fast the log takes what is appended: in slices as a replay
// gives them, and one by one as it comes where little happens.
func BenchmarkApply(b *testing.B) {
	b.Run("replayed", func(b *testing.B) { benchmarkApply(b, 1000) })
	b.Run("one_by_one", func(b *testing.B) { benchmarkApply(b, 1) })
}

func benchmarkApply(b *testing.B, each int) {
	h := newBusy(20)
	l := open(b, filepath.Join(b.TempDir(), "audit.db"))
	for b.Loop() {
		b.StopTimer()
		facts := h.slice(b, each)
		b.StartTimer()
		if err := l.Apply(b.Context(), facts); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*each), "ns/fact")
}

// logged is how many events the log has that BenchmarkQueries asks.
var logged = flag.Int("events", 100_000, "events in the log of BenchmarkQueries")

// BenchmarkQueries asks a large log what people ask, each time about something
// else, for the first page of 50 and from somewhere in it. It tells the median and
// the 99th percentile.
func BenchmarkQueries(b *testing.B) {
	h := newBusy(20)
	l := open(b, filepath.Join(b.TempDir(), "audit.db"))
	began := time.Now()
	for h.n < *logged {
		if err := l.Apply(b.Context(), h.slice(b, 1000)); err != nil {
			b.Fatal(err)
		}
	}
	b.Logf("%d events in %s", h.n, time.Since(began).Round(time.Second))
	org := func(r *rand.Rand) events.OrgID { return events.OrgID(fmt.Sprintf("org-%d", r.IntN(20))) }
	keyOf := func(r *rand.Rand) events.Subject { return h.of(org(r), r.IntN(h.born*9/10)) }
	at := func(r *rand.Rand) events.Time { return t0 + events.Time(r.IntN(h.n))*1000 }
	actor := func(r *rand.Rand) events.Actor {
		o := r.IntN(20)
		return events.Actor{Type: events.ActorKey, Org: events.OrgID(fmt.Sprintf("org-%d", o)), Key: uuid(9, o*4+r.IntN(4))}
	}
	for _, ask := range []struct {
		name   string
		filter func(r *rand.Rand) audit.Filter
	}{
		{"all", func(*rand.Rand) audit.Filter { return audit.Filter{AllOrganizations: true} }},
		{"organization", func(r *rand.Rand) audit.Filter { return audit.Filter{Org: org(r)} }},
		{"key", func(r *rand.Rand) audit.Filter {
			s := keyOf(r)
			id, _ := s.Key()
			return audit.Filter{Org: s.Org, Key: id}
		}},
		{"key/of_all", func(r *rand.Rand) audit.Filter {
			id, _ := keyOf(r).Key()
			return audit.Filter{AllOrganizations: true, Key: id}
		}},
		{"time", func(r *rand.Rand) audit.Filter {
			from := at(r)
			return audit.Filter{Org: org(r), From: from, To: from + 60_000_000}
		}},
		{"actor", func(r *rand.Rand) audit.Filter {
			a := actor(r)
			return audit.Filter{Org: a.Org, Actor: a}
		}},
		{"actor/and_type", func(r *rand.Rand) audit.Filter {
			a := actor(r)
			return audit.Filter{Org: a.Org, Actor: a, Kinds: []events.Kind{"key.revoked"}}
		}},
		{"actor/of_another", func(r *rand.Rand) audit.Filter {
			return audit.Filter{Org: "org-3", Actor: actor(r), Kinds: []events.Kind{"key.revoked"}}
		}},
		{"type", func(r *rand.Rand) audit.Filter { return audit.Filter{Org: org(r), Kinds: []events.Kind{"key.revoked"}} }},
		{"type/of_all", func(*rand.Rand) audit.Filter {
			return audit.Filter{AllOrganizations: true, Kinds: []events.Kind{"key.revoked", "key.renamed"}}
		}},
		{"workspace", func(r *rand.Rand) audit.Filter {
			return audit.Filter{Org: org(r), Workspace: events.WorkspaceID(fmt.Sprintf("w-%d", r.IntN(40)))}
		}},
		{"text/common", func(r *rand.Rand) audit.Filter { return audit.Filter{Org: org(r), Query: words[r.IntN(len(words))]} }},
		{"text/rare", func(r *rand.Rand) audit.Filter {
			return audit.Filter{AllOrganizations: true, Query: fmt.Sprintf("req-%08x", r.IntN(h.n)*2654435761)}
		}},
		{"text/none", func(r *rand.Rand) audit.Filter {
			return audit.Filter{Org: org(r), Query: fmt.Sprintf("nowhere %d", r.Int())}
		}},
		{"text/of_nobody_here", func(r *rand.Rand) audit.Filter { return audit.Filter{Org: "nobody", Query: words[r.IntN(len(words))]} }},
		{"text/and_type", func(r *rand.Rand) audit.Filter {
			return audit.Filter{Org: org(r), Query: "leaked", Kinds: []events.Kind{"key.revoked"}}
		}},
	} {
		b.Run(ask.name, func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, 2))
			took := make([]time.Duration, 0, 1000)
			for b.Loop() {
				f := ask.filter(r)
				if r.IntN(2) == 0 && f.From == 0 {
					f.Until = events.Position(1 + r.IntN(h.n))
				}
				began := time.Now()
				if _, _, err := l.Events(b.Context(), f); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
	b.Run("position_at_a_time", func(b *testing.B) {
		r := rand.New(rand.NewPCG(1, 2))
		for b.Loop() {
			if _, err := l.At(b.Context(), at(r)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
