// Package ledgertest holds every ledger to one contract: Run is the suite that
// the ledger in memory and the one on JetStream both pass, on one node or more.
// It is exported so that a ledger on something else can be held to it too.
package ledgertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
)

// Writer appends facts.
type Writer interface {
	Append(ctx context.Context, entries []events.Entry) ([]events.Recorded, error)
	AppendEach(ctx context.Context, entries []events.Entry) ([]events.Recorded, error)
}

// Reader reads facts one by one.
type Reader interface {
	Load(ctx context.Context, subject events.Subject, after events.Position) ([]events.Recorded, error)
	Latest(ctx context.Context, subject events.Subject) (events.Recorded, bool, error)
	Confirm(ctx context.Context, began time.Time) (events.Position, error)
	Last(ctx context.Context) (events.Position, error)
	At(ctx context.Context, pos events.Position) (events.Recorded, error)
}

// Follower reads all facts.
type Follower interface {
	Follow(ctx context.Context, after events.Position, apply func([]events.Recorded) error) error
}

// Uses are the blocks of uses beside the facts.
type Uses interface {
	PublishUses(ctx context.Context, blocks []events.UsesMessage) error
	FollowUses(ctx context.Context, after events.Position, apply func([]events.UsesMessage) error) error
	LastUses(ctx context.Context) (events.Position, error)
	UsesAt(ctx context.Context, pos events.Position) (events.UsesMessage, error)
	FirstUses(ctx context.Context) (events.Position, error)
	DropUses(ctx context.Context, through events.Position) error
}

// Seals are wrapped keys beside the facts, which can be destroyed.
type Seals interface {
	Sealed(ctx context.Context, name string) ([]byte, bool, error)
	Seal(ctx context.Context, name string, body []byte) error
	Destroy(ctx context.Context, name string, meant func(body []byte) bool) (bool, error)
	EachSeal(ctx context.Context, prefix string, take func(name string, body []byte, stored events.Time) error) error
}

// Ledger is what the suite holds to the contract.
type Ledger interface {
	Writer
	Reader
	Follower
	Uses
	Seals
}

// Bench is an empty ledger to be tested.
type Bench struct {
	Ledger Ledger
	// ID is the ledger that its facts are made for.
	ID events.LedgerID
	// Plant stores a body under a subject as someone could who goes around the
	// ledger.
	Plant func(t testing.TB, subject string, body []byte)
}

// patience bounds what a test waits for. It is no measurement: a ledger that
// keeps its promise never comes near it.
const patience = 60 * time.Second

// Part is what a test of the suite rests on.
type Part uint8

const (
	// Follows is that it follows the ledger.
	Follows Part = 1 << iota
	// Stored is that it rests on how facts get stored and come out again, and not only
	// on what a ledger refuses to send, or makes of what it is given.
	Stored
)

// Run runs the suite, or those tests of it that rest on all of some parts. Each test
// opens an empty ledger of its own.
func Run(t *testing.T, open func(t *testing.T) Bench, parts ...Part) {
	var all Part
	for _, p := range parts {
		all |= p
	}
	for _, c := range suite() {
		if c.parts&all != all {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			b := open(t)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			t.Cleanup(cancel)
			c.run(t, &bench{Bench: b, ctx: ctx})
		})
	}
}

type test struct {
	name  string
	run   func(*testing.T, *bench)
	parts Part
}

// suite are all tests.
func suite() []test {
	return []test{
		{"positions run from 1", positions, Follows | Stored},
		{"an expectation holds or nothing is stored", expectations, Stored},
		{"a batch is stored as one", batches, Follows | Stored},
		{"a batch is refused as one", batchConflict, Stored},
		{"a message id is stored once", repeatedID, Stored},
		{"a message id is stored once in a batch", repeatedIDInBatch, Stored},
		{"what is never appended is refused", refused, 0},
		{"what is too large is refused", tooLarge, 0},
		{"a cancelled append stores nothing", cancelled, 0},
		{"racing writers of one subject: one wins", race, Stored},
		{"a guard keeps a limit exact", guard, Stored},
		{"no successor after a revocation", rotateRevoke, Stored},
		{"facts that stand alone go out together", each, Follows | Stored},
		{"facts that stand alone are refused together", eachRefused, Stored},
		{"load reads one subject", load, Stored},
		{"latest reads the last of one subject", latest, Stored},
		{"what was read is confirmed", confirmedRead, Stored},
		{"load reads a long history up to now", loadLong, Stored},
		{"load refuses a doubtful history", loadDoubtful, 0},
		{"load refuses a long history that is doubtful", loadLongDoubtful, 0},
		{"follow begins after a position", followFrom, Follows | Stored},
		{"follow keeps up with many writers", followRacing, Follows | Stored},
		{"follow hands the largest batch over as one", followLargest, Follows | Stored},
		{"follow ends when it is told to", followEnds, Follows},
		{"follow refuses a ledger that ends too soon", followBeyond, Follows | Stored},
		{"a batch is held back until it is whole", heldBack, Follows | Stored},
		{"a torn batch is corruption", torn, Follows},
		{"an unknown kind comes back as it is", unknownKind, Follows},
		{"a foreign body is malformed", foreignBody, Follows},
		{"a foreign subject is malformed", foreignSubject, Follows},
		{"a fact of another ledger is malformed", foreignLedger, Follows},
		{"uses are stored in order", usesOrder, Follows | Stored},
		{"uses are stored once", usesOnce, Follows | Stored},
		{"uses that are none are refused", usesRefused, 0},
		{"the oldest uses are dropped", usesDropped, Follows | Stored},
		{"a seal is stored once and destroyed", sealsDestroyed, Stored},
		{"of many who destroy a seal and store the next", sealsRacing, Stored},
		{"seals are listed in their order", sealsListed, Stored},
		{"a seal that is moved is listed", sealsMoved, Stored},
	}
}

// bench is a Bench with the words that the tests are written in.
type bench struct {
	Bench
	ctx context.Context
}

const org events.OrgID = "acme"

// meta is the envelope of a wish of its own.
func (b *bench) meta(revision events.Revision) events.Meta {
	return events.Meta{
		ID: events.EventID(uuid.Must(uuid.NewV7())), Ledger: b.ID, Time: events.TimeOf(time.Now()),
		Revision: revision, Actor: events.Actor{Type: events.ActorSystem, Name: "ledgertest"},
		Command: events.CommandID(uuid.New()),
	}
}

func (b *bench) entry(subject events.Subject, event events.Event, revision events.Revision) events.Entry {
	return events.Entry{Subject: subject, Event: event, Meta: b.meta(revision)}
}

// workspace is the fact that begins a workspace, without an expectation.
func (b *bench) workspace(id events.WorkspaceID) events.Entry {
	return b.entry(events.WorkspaceSubject(org, id), events.WorkspaceCreated{ID: id, Name: events.ClearText("w")}, 1)
}

func (b *bench) rename(id events.WorkspaceID, revision events.Revision) events.Entry {
	return b.entry(events.WorkspaceSubject(org, id), events.WorkspaceRenamed{Name: events.ClearText("renamed")}, revision)
}

func newKey() events.KeyID { return events.KeyID(uuid.Must(uuid.NewV7())) }

func (b *bench) key(id events.KeyID) events.Entry {
	return b.entry(events.KeySubject(org, id), events.KeyCreated{
		ID: id, KeyKind: events.KindAPI, Prefix: "kl_live", LastFour: "a1B2",
		Digest:      events.Digest{Alg: events.SHA256, Value: events.DigestValue(append(id[:], id[:]...))},
		Permissions: events.Permissions{Level: events.LevelAll}, Scope: events.Scope{AllWorkspaces: true},
		CreatedAt: events.TimeOf(time.Now()),
	}, 1)
}

func expecting(e events.Entry, last events.Position) events.Entry {
	e.Expect = events.Expect(e.Subject, last)
	return e
}

// append stores entries and fails the test if it cannot.
func (b *bench) append(t *testing.T, entries ...events.Entry) []events.Recorded {
	t.Helper()
	facts, err := b.Ledger.Append(b.ctx, entries)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	if len(facts) != len(entries) {
		t.Fatalf("append returned %d facts for %d entries", len(facts), len(entries))
	}
	return facts
}

// refuse appends what must be refused, and checks that nothing was stored.
func (b *bench) refuse(t *testing.T, want error, entries ...events.Entry) {
	t.Helper()
	before := b.last(t)
	facts, err := b.Ledger.Append(b.ctx, entries)
	if !errors.Is(err, want) {
		t.Fatalf("append: error %v, want %v", err, want)
	}
	if facts != nil {
		t.Fatalf("append returned facts with an error")
	}
	if after := b.last(t); after != before {
		t.Fatalf("something was stored: last position was %d and is %d", before, after)
	}
}

func (b *bench) last(t *testing.T) events.Position {
	t.Helper()
	last, err := b.Ledger.Last(b.ctx)
	if err != nil {
		t.Fatalf("last: %v", err)
	}
	return last
}

func (b *bench) load(t *testing.T, subject events.Subject, after events.Position) []events.Recorded {
	t.Helper()
	facts, err := b.Ledger.Load(b.ctx, subject, after)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return facts
}

var errEnough = errors.New("ledgertest: enough")

// follow returns the slices that are handed over up to a position.
func (b *bench) follow(t *testing.T, after, until events.Position) [][]events.Recorded {
	t.Helper()
	var slices [][]events.Recorded
	err := b.Ledger.Follow(b.ctx, after, func(facts []events.Recorded) error {
		slices = append(slices, facts)
		if facts[len(facts)-1].Position >= until {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("follow: %v, after %d slices", err, len(slices))
	}
	return slices
}

// corrupt follows until the ledger says that it is corrupt, and returns what was
// handed over before.
func (b *bench) corrupt(t *testing.T, after events.Position) []events.Recorded {
	t.Helper()
	var facts []events.Recorded
	err := b.Ledger.Follow(b.ctx, after, func(slice []events.Recorded) error {
		facts = append(facts, slice...)
		return nil
	})
	if !errors.Is(err, events.ErrCorrupt) {
		t.Fatalf("follow: %v, want %v", err, events.ErrCorrupt)
	}
	return facts
}

// body encodes an entry as if it were part of a batch.
func body(t *testing.T, e events.Entry, index, size int) []byte {
	t.Helper()
	e.Meta.RecordedTime, e.Meta.BatchIndex, e.Meta.BatchSize = e.Meta.Time, index, size
	raw, err := events.Encode(e.Subject, e.Event, e.Meta)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
