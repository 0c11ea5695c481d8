package reports_test

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	"github.com/keyledger/keyledger/events/uses"
	viewaccess "github.com/keyledger/keyledger/projections/access"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/reports"
	"github.com/keyledger/keyledger/projections/sqlview"
	"github.com/keyledger/keyledger/projections/usage"
)

const (
	acme   = events.OrgID("acme")
	other  = events.OrgID("other")
	second = events.Time(1_000_000)
	minute = 60 * second
	day    = 24 * 60 * minute

	// now is the instant at which all reports are asked: 2026-11-21T00:00:00Z.
	now = events.Time(1_795_219_200_000_000)
)

var (
	of         = events.Positions{Ledger: events.LedgerID(id(9, 1)), Epoch: 1}
	everywhere = events.Scope{AllWorkspaces: true}
	system     = events.Actor{Type: events.ActorSystem, Name: "test"}
	sealed     = events.Text{Sealed: events.Sealed{Subject: "s-1", Key: "00112233445566778899aabbccddeeff", Box: "Ym94"}}
)

func id(kind byte, n int) (v [16]byte) {
	v[0], v[6], v[8] = kind, 0x70, 0x80
	binary.BigEndian.PutUint32(v[12:], uint32(n))
	return v
}

func keyID(n int) events.KeyID { return id(1, n) }

// ago is an instant a number of days and an hour back, so that whole days are as
// many as that.
func ago(days int) events.Time { return now - events.Time(days)*day - 60*minute }

// world holds the views that reports are made of, and what they were told.
type world struct {
	t     testing.TB
	dir   string
	facts []events.Recorded
	// from is how many facts were there before these, and are kept by the views
	// alone.
	from      events.Position
	revisions map[events.Subject]events.Revision
	catalog   *catalog.Catalog
	audit     *audit.Log
	usage     *usage.View
	blocks    []uses.Message
	number    map[events.OrgID]uint64
	access    *viewaccess.View
	records   []access.Message
	reports   *reports.Reports
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), revisions: map[events.Subject]events.Revision{}, number: map[events.OrgID]uint64{}}
	ctx := t.Context()
	var err error
	w.catalog, err = catalog.Open(ctx, catalog.Config{Path: w.path("catalog"), Of: of})
	w.must(err)
	w.audit, err = audit.Open(ctx, audit.Config{Path: w.path("audit"), Of: of})
	w.must(err)
	w.usage, err = usage.Open(ctx, usage.Config{Path: w.path("usage"), Of: of})
	w.must(err)
	w.access, err = viewaccess.Open(ctx, viewaccess.Config{Path: w.path("access"), Of: of})
	w.must(err)
	w.reports, err = reports.Open(ctx, reports.Config{
		CatalogPath: w.path("catalog"), UsagePath: w.path("usage"), AuditPath: w.path("audit"), AccessPath: w.path("access"), Audit: w.audit,
	})
	w.must(err)
	t.Cleanup(func() {
		for _, c := range []interface{ Close() error }{w.reports, w.catalog, w.audit, w.usage, w.access} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

func (w *world) path(view string) string { return filepath.Join(w.dir, view+".db") }

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// add makes a fact of an instant, stored a second later.
func (w *world) add(at events.Time, s events.Subject, e events.Event, change ...func(*events.Meta)) {
	w.t.Helper()
	w.revisions[s]++
	n := int(w.from) + len(w.facts) + 1
	m := events.Meta{
		ID: id(3, n), Ledger: of.Ledger, Time: at, RecordedTime: at, Revision: w.revisions[s], Actor: system, Command: id(4, n), RequestID: fmt.Sprintf("req-%d", n),
	}
	for _, f := range change {
		f(&m)
	}
	raw, err := events.Encode(s, e, m)
	w.must(err)
	w.facts = append(w.facts, events.Recorded{Position: events.Position(n), Subject: s, Stored: at + second, Event: e, Meta: m, Raw: raw})
}

// create adds a key of a number of days ago, with everything by default.
func (w *world) create(org events.OrgID, n, days int, change ...func(*events.KeyCreated)) events.KeyID {
	w.t.Helper()
	return w.createBy(system, org, n, days, change...)
}

func (w *world) createBy(actor events.Actor, org events.OrgID, n, days int, change ...func(*events.KeyCreated)) events.KeyID {
	w.t.Helper()
	e := events.KeyCreated{
		ID: keyID(n), KeyKind: events.KindAPI, Name: events.ClearText(fmt.Sprintf("key %d", n)), Prefix: "kl_live", LastFour: "a1B2",
		Digest:      events.Digest{Alg: events.SHA256, Value: events.DigestValue{byte(n), byte(n >> 8), byte(n >> 16), 1}},
		Permissions: events.Permissions{Level: events.LevelAll}, Scope: everywhere, CreatedAt: ago(days),
	}
	for _, f := range change {
		f(&e)
	}
	w.add(ago(days), events.KeySubject(org, e.ID), e, func(m *events.Meta) { m.Actor = actor })
	return e.ID
}

// use records a use of a key.
func (w *world) use(org events.OrgID, u uses.Use) {
	w.t.Helper()
	enc, err := uses.NewEncoder()
	w.must(err)
	w.number[org]++
	blocks, err := enc.Encode(uses.Header{
		Ledger: of.Ledger, Org: org, Verifier: "edge-1", Boot: uses.BootID(id(5, 1)), First: w.number[org],
	}, []uses.Use{u})
	w.must(err)
	for _, b := range blocks {
		b.Position, b.Stored = events.Position(len(w.blocks)+1), u.At+second
		w.blocks = append(w.blocks, b)
	}
}

// record records what strangers did.
func (w *world) record(row access.Row, count uint64, at events.Time) {
	w.t.Helper()
	n := len(w.records) + 1
	row.Minute = at - at%minute
	m, err := access.Encode(&access.Record{
		Ledger: of.Ledger, Server: "server-1", Boot: access.BootID(id(6, 1)), Number: uint64(n), Row: row, Count: count, FirstAt: at, LastAt: at + second,
	})
	w.must(err)
	m.Position, m.Stored = events.Position(n), at+2*second
	w.records = append(w.records, m)
}

// apply tells the views all that they were not told.
func (w *world) apply() {
	w.t.Helper()
	ctx := w.t.Context()
	at, err := w.catalog.Position(ctx)
	w.must(err)
	w.must(w.catalog.Apply(ctx, w.facts[at:]))
	w.must(w.audit.Apply(ctx, w.facts[at:]))
	w.must(w.usage.Apply(ctx, w.blocks))
	w.must(w.access.Apply(ctx, w.records))
}

// ask asks for the whole of a report, and checks that its pages hold the same.
func (w *world) ask(q reports.Question) []reports.Row {
	w.t.Helper()
	q.Now = now
	if q.Org == "" {
		q.Org = acme
	}
	if len(q.Within.Workspaces) == 0 {
		q.Within = everywhere
	}
	ctx := w.t.Context()
	var whole []reports.Row
	w.must(w.reports.Whole(ctx, q,
		func(h reports.Head) error {
			if want := events.Position(len(w.facts)); h.Position != want {
				w.t.Errorf("%s stands at %d, want %d", q.Report, h.Position, want)
			}
			want := events.Position(len(w.blocks))
			if q.Report == reports.Changes || q.Report == reports.ManagementChanges || q.Report == reports.ProviderKeys {
				want = 0
			}
			if h.UsesPosition != want {
				w.t.Errorf("%s stands at %d of the uses, want %d", q.Report, h.UsesPosition, want)
			}
			return nil
		},
		func(r reports.Row) error { whole = append(whole, r); return nil }))
	var paged []reports.Row
	for p := (sqlview.Page{Limit: 1}); ; {
		got, err := w.reports.Page(ctx, q, p)
		w.must(err)
		// A page of failures ends with a key.
		for _, r := range got.Rows[min(1, len(got.Rows)):] {
			if q.Report != reports.FailedVerifications || r[0] != got.Rows[0][0] || r[1] != got.Rows[0][1] || r[1] == "" {
				w.t.Errorf("%s: a page of 1 has %d rows", q.Report, len(got.Rows))
			}
		}
		paged = append(paged, got.Rows...)
		if p.Cursor = got.Next; p.Cursor == "" {
			break
		}
	}
	if d := cmp.Diff(whole, paged, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(catalog.Key{})); d != "" {
		w.t.Errorf("%s: whole (-), page by page (+):\n%s", q.Report, d)
	}
	return whole
}

// equal compares rows with those worked out by hand.
func (w *world) equal(got []reports.Row, want ...reports.Row) {
	w.t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		w.t.Errorf("want (-), got (+):\n%s", d)
	}
}
