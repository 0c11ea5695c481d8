package reports

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/audit"
	"github.com/keyledger/keyledger/projections/sqlview"
)

var (
	// ErrUnknown says that there is no such report.
	ErrUnknown = errors.New("reports: there is no such report")

	// ErrBadCursor says that a text is no cursor of this very report.
	ErrBadCursor = sqlview.ErrBadCursor
)

// DefaultReaders is how many reports are read beside each other: each keeps a
// snapshot, which the views' files grow around while it is read.
const DefaultReaders = 8

// part is how many things are read at a time: enough to make little of what a
// query costs, and a few MiB of keys with all that they may hold.
const part = 500

// scanned bounds how many keys one page looks at, where most of them may have no
// row: such a page has fewer rows, and goes on behind them.
const scanned = 20 * part

// Config says which views' files are read. They must be open.
type Config struct {
	// CatalogPath, UsagePath and AuditPath are the files of those views. Required.
	CatalogPath, UsagePath, AuditPath string
	// AccessPath is the file of the access records. Without one nothing is known of
	// secrets that match no key, nor of when provider keys were handed out.
	AccessPath string
	// Audit is the audit log of AuditPath, which reads its own rows. Required.
	Audit *audit.Log
	// Readers bounds the reports that are read beside each other. 0 is
	// [DefaultReaders].
	Readers int
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	for _, f := range []struct{ name, path string }{{"catalog", c.CatalogPath}, {"usage", c.UsagePath}, {"audit", c.AuditPath}} {
		if f.path == "" {
			faults = append(faults, fmt.Errorf("reports: no path of the %s", f.name))
		}
	}
	if c.Audit == nil {
		faults = append(faults, errors.New("reports: no audit log"))
	}
	if c.Readers < 0 {
		faults = append(faults, fmt.Errorf("reports: %d readers", c.Readers))
	}
	return errors.Join(faults...)
}

// Reports answers reports. It may be asked by many goroutines.
type Reports struct {
	db    *sqlview.Joined
	audit *audit.Log
	// strangers says that there are access records.
	strangers bool
}

// Open opens the views' files for reading.
func Open(ctx context.Context, c Config) (*Reports, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Readers == 0 {
		c.Readers = DefaultReaders
	}
	beside := []sqlview.Beside{{Schema: "usage", Path: c.UsagePath}, {Schema: "audit", Path: c.AuditPath}}
	if c.AccessPath != "" {
		beside = append(beside, sqlview.Beside{Schema: "access", Path: c.AccessPath})
	}
	db, err := sqlview.Join(ctx, c.CatalogPath, c.Readers, beside...)
	if err != nil {
		return nil, fmt.Errorf("reports: %w", err)
	}
	return &Reports{db: db, audit: c.Audit, strangers: c.AccessPath != ""}, nil
}

// Close closes the files. Stop asking first.
func (r *Reports) Close() error { return r.db.Close() }

// Question asks for a report. Its zero value asks for none, of no organization.
type Question struct {
	Report Name
	Org    events.OrgID
	// Within bounds what the asker may see: keys whose scope lies within.
	Within events.Scope
	// Now is the instant at which keys are looked at.
	Now events.Time
	// Days is how long a key was not used, or how old it is at least, where the
	// report takes it.
	Days int
	// From and To bound what happened to [From, To), where the report takes a
	// period. Without a beginning it is Days long, and with neither it is open.
	From, To events.Time
}

// Period is what happened that the question asks about; 0 is open.
func (q Question) Period() (from, to events.Time) {
	if q.From != 0 || q.Days == 0 {
		return q.From, q.To
	}
	end := q.To
	if end == 0 {
		end = q.Now
	}
	return max(1, end-events.Time(q.Days)*day), q.To
}

// list names the report with all that shapes it but for the present time.
func (q Question) list() sqlview.List {
	number := func(t events.Time) string { return strconv.FormatInt(int64(t), 10) }
	parts := []string{"report", string(q.Report), string(q.Org), strconv.Itoa(q.Days), number(q.From), number(q.To), strconv.FormatBool(q.Within.AllWorkspaces)}
	for _, w := range q.Within.Workspaces {
		parts = append(parts, string(w))
	}
	return sqlview.ListOf(parts...)
}

// since is the instant that lies the question's days back.
func (q Question) since() events.Time { return q.Now - events.Time(q.Days)*day }

const day = events.Time(24 * 3600 * 1_000_000)

// daysBetween counts whole days.
func daysBetween(from, to events.Time) int64 {
	if from == 0 || to <= from {
		return 0
	}
	return int64((to - from) / day)
}

// Head is where a report stands.
type Head struct {
	// Position is how much of the ledger it is made of, UsesPosition how much of
	// the stream of uses, 0 where it is made of none.
	Position, UsesPosition events.Position
}

// Row is a row's cells, in the order of the report's columns. A cell is a string,
// an [events.Text], a [KeyName], a [Source], an [events.Time] (0 is none), an int64,
// a bool, or a []string.
//
// A row of [Changes] is an [audit.Event] and nothing else, one of
// [ManagementChanges] an [audit.Event] and the [catalog.Key] that it is about: how an
// event is told is the affair of who shows the audit log.
type Row []any

// Source is where uses came from, in clear or sealed as it stands in their blocks,
// and of which organization they were.
type Source struct {
	Org  events.OrgID
	Text string
}

// Answer is a page of a report.
type Answer struct {
	Head
	Rows []Row
	// Next is the cursor of the next page, empty on the last.
	Next string
}

// Page answers a part of a report. A page may have fewer rows than were asked for,
// and even none, with more to come.
func (r *Reports) Page(ctx context.Context, q Question, p sqlview.Page) (Answer, error) {
	list := q.list()
	after, err := list.After(p.Cursor)
	if err != nil {
		return Answer{}, err
	}
	var out Answer
	err = r.walk(ctx, q, events.Position(after), &bound{rows: p.Rows(), scanned: scanned},
		func(h Head) error { out.Head = h; return nil },
		func(row Row) error { out.Rows = append(out.Rows, row); return nil },
		func(last events.Position) { out.Next = list.Cursor(last) })
	return out, err
}

// Whole answers all of a report: where it stands, and then its rows, each of which
// is the callee's to keep. An error of either function ends it.
func (r *Reports) Whole(ctx context.Context, q Question, begin func(Head) error, each func(Row) error) error {
	return r.walk(ctx, q, 0, nil, begin, each, nil)
}

// bound ends a page: rows are how many are wanted yet, scanned how many things may
// be looked at yet.
type bound struct{ rows, scanned int }

// full reports whether that is enough. Without a bound it never is.
func (b *bound) full() bool { return b != nil && (b.rows <= 0 || b.scanned <= 0) }

// count counts a thing that was looked at, and the rows it had.
func (b *bound) count(rows int) {
	if b != nil {
		b.scanned--
		b.rows -= rows
	}
}

// most is how many things are read at a time. One more than the rows of a page
// tells whether there is another.
func (b *bound) most() int {
	if b == nil {
		return part
	}
	return min(part, max(b.rows, 0)+1)
}

// reading is a report while it is read.
type reading struct {
	of   *Reports
	tx   *sql.Tx
	q    Question
	head Head
	// log is where the audit log stands.
	log   events.Position
	bound *bound
	names map[events.Actor]KeyName
	each  func(Row) error
	// stop is told the place after which the next page begins.
	stop func(events.Position)
}

func (r *Reports) walk(ctx context.Context, q Question, after events.Position, b *bound,
	begin func(Head) error, each func(Row) error, stop func(events.Position),
) error {
	if _, ok := Find(q.Report); !ok {
		return ErrUnknown
	}
	return r.db.Snapshot(ctx, func(tx *sql.Tx) error {
		v := &reading{of: r, tx: tx, q: q, bound: b, each: each, stop: stop, names: map[events.Actor]KeyName{}}
		if err := v.stand(ctx); err != nil {
			return err
		}
		if err := begin(v.head); err != nil {
			return err
		}
		return v.read(ctx, after)
	})
}

// stand fixes the snapshot of every file.
func (v *reading) stand(ctx context.Context) error {
	catalog, err := sqlview.PositionIn(ctx, v.tx, "main")
	if err != nil {
		return err
	}
	log, err := sqlview.PositionIn(ctx, v.tx, "audit")
	if err != nil {
		return err
	}
	if v.head.UsesPosition, err = sqlview.PositionIn(ctx, v.tx, "usage"); err != nil {
		return err
	}
	v.log = log
	switch v.q.Report {
	case Changes:
		v.head.Position, v.head.UsesPosition = log, 0
	case ManagementChanges:
		v.head.Position, v.head.UsesPosition = min(log, catalog), 0
	case ProviderKeys:
		v.head.Position, v.head.UsesPosition = catalog, 0
	default:
		v.head.Position = catalog
	}
	return nil
}

func (v *reading) read(ctx context.Context, after events.Position) error {
	switch v.q.Report {
	case AccessReview, Dormant, NeverExpires, RotationAge, OverWide:
		return v.keys(ctx, after)
	case FailedVerifications:
		return v.failures(ctx, after)
	case Changes, ManagementChanges:
		return v.changes(ctx, after)
	case ProviderKeys:
		return v.providerKeys(ctx, after)
	default:
		return ErrUnknown
	}
}
