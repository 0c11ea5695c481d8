// Package access gathers access records on a server and has them stored: who read
// the audit log, who could not log in, what was refused, what strangers tried.
// Telling it something costs a request well under a microsecond and never waits for
// the broker.
//
// It counts by rows of a minute (see events/access). A row is written within a
// second of when it begins, once more some seconds later if it grows, and when its
// minute is over: whoever asks every second all year long fills two or three
// records a minute, and not sixty. A crash takes along what was not written. What
// cannot be stored is tried again until it is; meanwhile minutes are gathered into
// one when there are too many, and no count is lost.
//
// It is bounded in all that a caller can choose: within a minute a server has at
// most [MaxRows] rows, of each kind and organization so many, and what comes beyond
// is counted in one row for each kind and organization, told of as "others". Where
// that goes on, less is told apart from minute to minute: a short flood is seen in
// detail, and a long one pushes little out of the stream.
//
// What must be recorded before it is done, one by one, is told with
// [Gatherer.Record], which waits until it is stored.
package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
)

// The bounds of what is told apart within a minute on one server.
const (
	// MaxRows bounds all rows, beside one for the others of each kind and
	// organization.
	MaxRows = 1000
	// MaxStrangers bounds those of them that strangers cause, so that they leave
	// room for what is known.
	MaxStrangers = 300
	// MaxOfKind bounds the rows of a kind and an organization, and
	// MaxStrangersOfKind those of strangers: nobody takes another's room.
	MaxOfKind          = 200
	MaxStrangersOfKind = 30
	// MaxOfOrg bounds the rows of an organization's known actors, of all kinds: some
	// of that room is left for the others'.
	MaxOfOrg = (MaxRows - MaxStrangers) / 2
	// MaxHeld bounds the rows of minutes that are over and not stored: some
	// 10 MB. When it is reached the minute goes on until there is room.
	MaxHeld = 10_000
)

const (
	// maxAddress is more than an address takes.
	maxAddress = 64
	// DefaultFlushEvery is how often what is new is written.
	DefaultFlushEvery = time.Second
	// again is when a row that grows is written for the second time.
	again = 5 * time.Second
	// maxStrain is how often the room of a flood is halved.
	maxStrain = 5
	// tryFor bounds one attempt to store.
	tryFor = 10 * time.Second
)

// ErrUnstored says that a gatherer was closed before all it had taken was stored.
var ErrUnstored = errors.New("access: access records are not stored")

// Sink stores records.
type Sink interface {
	// PublishAccess stores all records, in their order, and returns nil when they
	// are durable. After an error some may be stored: the same are published
	// again, with the same ids. It returns soon after its context ends.
	PublishAccess(ctx context.Context, records []access.Message) error
}

// Config says for whom a gatherer gathers, and where to.
type Config struct {
	// Ledger is the installation's. Required.
	Ledger events.LedgerID
	// Server is this server's name. Required.
	Server events.VerifierID
	// Sink stores the records. Required.
	Sink Sink
	// Tell is what stands in a record for a source, on a day written as
	// 2026-01-31: nothing that is stored says in clear where from. It is called
	// by one goroutine at a time, which waits for it. Required.
	Tell func(ctx context.Context, day, source string) (string, access.SourceKind)
	// FlushEvery is how often what is new is written. 0 is [DefaultFlushEvery].
	FlushEvery time.Duration
	// Logger takes failures of the sink. Nothing is logged without one.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, errors.New("access: "+text))
		}
	}
	fault(c.Ledger.IsZero(), "no ledger")
	fault(c.Sink == nil, "no sink")
	fault(c.Tell == nil, "nothing tells sources")
	fault(c.FlushEvery < 0, "FlushEvery is negative")
	if _, err := events.ParseVerifierID(string(c.Server)); err != nil {
		faults = append(faults, fmt.Errorf("access: server: %w", err))
	}
	return errors.Join(faults...)
}

// Entry is something that happened. Its texts are only read: their bytes may be used for something else afterwards.
type Entry struct {
	Kind access.Kind
	// Org is whose it is to know. It must be an organization that exists, or
	// [events.System]: each has room of its own.
	Org   events.OrgID
	Actor events.Actor
	Role  events.Role
	// What is a route, or another word of a small set.
	What string
	Code string
	// Answer and Version are what was handed out, as far as that is recorded one by
	// one: what is gathered does not tell it.
	Answer  string
	Version uint64
	// Source is the address it came from, in clear; empty when it is not known.
	Source    string
	RequestID string
}

// Gatherer gathers. It is safe for concurrent use.
type Gatherer struct {
	cfg  Config
	log  *slog.Logger
	boot access.BootID

	mu     sync.Mutex
	minute events.Time
	rows   map[name]*row
	lanes  map[laneName]*lane
	known  int // rows of known actors, and of strangers
	alien  int
	ofOrg  map[events.OrgID]int // rows of known actors of each
	over   []*row               // of minutes that are over
	stats  Stats

	// The flushing goroutine's own.
	number  uint64
	unsaved []access.Message
	failing bool

	singles *singles
	telling sync.Mutex

	stop context.CancelFunc
	done sync.WaitGroup
}

// Stats tells how a gatherer does.
type Stats struct {
	// Taken is how much it was told, Others what of it was not told apart.
	Taken, Others uint64
	// Singles is how much of it was recorded one by one.
	Singles uint64
	// Stored is how many records are stored.
	Stored uint64
	// Held is how many rows are not all stored.
	Held int
}

// name is what tells rows apart.
type name struct {
	kind       access.Kind
	org        events.OrgID
	actor      events.Actor
	role       events.Role
	what, code string
	source     string
}

// laneName is what has room of its own.
type laneName struct {
	kind     access.Kind
	org      events.OrgID
	stranger bool
}

// lane is how that room is used.
type lane struct {
	rows int
	// full says that it was not enough within this minute. strain is how often it
	// is halved: once for each minute of late in which it was full.
	full   bool
	strain int
}

// row is what was counted and is not written.
type row struct {
	name
	minute      events.Time
	in          *lane
	count       uint64
	first, last events.Time
	requestID   string
	// written is how often it was, next when it may be again.
	written int
	next    events.Time
}

// New returns a gatherer that takes entries. Nothing is stored before Start.
func New(c Config) (*Gatherer, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.FlushEvery == 0 {
		c.FlushEvery = DefaultFlushEvery
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	boot, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("access: draw the run's id: %w", err)
	}
	singles, err := newSingles()
	if err != nil {
		return nil, fmt.Errorf("access: draw the run's id: %w", err)
	}
	return &Gatherer{
		cfg: c, log: c.Logger, boot: access.BootID(boot), singles: singles, rows: make(map[name]*row), lanes: make(map[laneName]*lane), ofOrg: make(map[events.OrgID]int),
		stop: func() {},
	}, nil
}

// Add counts an entry.
func (g *Gatherer) Add(e Entry) {
	at := events.TimeOf(time.Now())
	n := name{
		kind: e.Kind, org: e.Org, actor: e.Actor, role: e.Role,
		what: fit(e.What, access.MaxWhat), code: fit(e.Code, access.MaxCode), source: fit(e.Source, maxAddress),
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.turn(at)
	g.stats.Taken++
	r := g.rows[n]
	if r == nil {
		r = g.begin(n)
	}
	if r.count++; r.count == 1 {
		r.first, r.requestID = at, strings.Clone(fit(e.RequestID, events.MaxRequestIDLength))
	}
	// Clocks step back.
	r.first, r.last = min(r.first, at), max(r.last, at)
}

// begin makes a row, or finds that of the others when there is no room.
func (g *Gatherer) begin(n name) *row {
	stranger := n.actor == events.Actor{}
	most, all, room := MaxOfKind, &g.known, MaxRows-MaxStrangers
	if stranger {
		most, all, room = MaxStrangersOfKind, &g.alien, MaxStrangers
	}
	in := g.lanes[laneName{n.kind, n.org, stranger}]
	if in == nil {
		in = &lane{}
		g.lanes[laneName{n.kind, n.org, stranger}] = in
	}
	if in.rows >= max(1, most>>in.strain) || *all >= room || !stranger && g.ofOrg[n.org] >= MaxOfOrg {
		g.stats.Others++
		in.full = true
		n = name{kind: n.kind, org: n.org, what: access.Others}
		if r := g.rows[n]; r != nil {
			return r
		}
	} else {
		in.rows++
		*all++
		if !stranger {
			g.ofOrg[n.org]++
		}
		n.what, n.code, n.source = strings.Clone(n.what), strings.Clone(n.code), strings.Clone(n.source)
	}
	r := &row{name: n, minute: g.minute, in: in}
	g.rows[n] = r
	return r
}

// fit is a text, or as much of it as there is room for. It copies nothing that fits.
func fit(text string, most int) string {
	return strings.ToValidUTF8(text[:min(len(text), most)], "?")
}

// turn begins a minute, unless too many are not stored.
func (g *Gatherer) turn(at events.Time) {
	minute := access.Minute(at)
	if minute <= g.minute || len(g.over) >= MaxHeld {
		return
	}
	for _, r := range g.rows {
		if r.count > 0 {
			g.over = append(g.over, r)
		}
	}
	g.minute, g.known, g.alien = minute, 0, 0
	clear(g.rows)
	clear(g.ofOrg)
	for name, l := range g.lanes {
		switch {
		case l.full:
			l.strain = min(l.strain+1, maxStrain)
		case l.strain > 0:
			l.strain--
		default:
			delete(g.lanes, name)
		}
		l.rows, l.full = 0, false
	}
}

// Stats tells how it does.
func (g *Gatherer) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.stats
	s.Held = len(g.over) + len(g.rows)
	return s
}
