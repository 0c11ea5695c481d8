package audit_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyledger/keyledger/events"
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
		subject = events.KeySubject(org, keyID(h.born))
		e = events.KeyCreated{
			ID: keyID(h.born), KeyKind: events.KindAPI, Name: events.ClearText(fmt.Sprintf("%s %d", h.phrase(1, 2), h.born)), Prefix: "kl_live", LastFour: "a1B2",
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
		if s := events.KeySubject(org, keyID(n)); h.revisions[s] > 0 {
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

// BenchmarkApply is how fast the log takes what is appended, in slices as a
// replay gives them.
func BenchmarkApply(b *testing.B) {
	const each = 1000
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
