package verify

import (
	"errors"
	"fmt"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/verify/recording"
)

// Status tells how a client is doing: everything that readiness, metrics and
// announcements are made of. What it says of errors is for the log, and not for
// strangers: see [Status.Failing].
type Status struct {
	// Verifier is the name under which uses are recorded, Kind and Version are what
	// it runs in, and StartedAt is when it was opened.
	Verifier  events.VerifierID
	Kind      presence.Kind
	Version   string
	StartedAt time.Time
	// Opened says that it is known what there is to read; without it all that
	// follows is zero but Err, Asked and what the options say.
	Opened bool
	// Failed says that it never will be, and Err why: a person has to mend that.
	Failed bool
	Ledger events.LedgerID
	Boot   uses.BootID
	// Scope and Organizations are those of a narrowed credential.
	Scope         events.ScopeLabel
	Organizations []events.OrgID

	// Ready says that Ready was closed: it has caught up once.
	Ready bool
	// Closed says that it does not answer any more.
	Closed bool
	// Connected says that the broker is there, as far as the connection knows.
	Connected bool
	// Shared says that another program uses the same credential now.
	Shared bool

	// State is what the index is at, Applied the last position that verdicts rest
	// on, and Goal where the replay ends.
	State         projections.State
	Applied, Goal events.Position
	// Seen is how far an earlier run with the same folder has come: nothing is fresh
	// before that.
	Seen events.Position
	// Announced says that the run has been announced: nothing is fresh before.
	Announced bool
	// Keys is how many keys a digest leads to.
	Keys int
	// Err is why the index has stopped for good, or why there is none yet; Problems
	// are events that could not be applied, whose keys are UNAVAILABLE; Ticks is why
	// the last tick was not agreed with, and TickFaults counts those.
	Err, Problems, Ticks error
	TickFaults           uint64

	// Stale says that verdicts are stale now, Staleness how long ago the client was
	// known to hold everything, -1 for never, and MaxStaleness the bound that holds.
	Stale                   bool
	Staleness, MaxStaleness time.Duration
	// WhenStale is what becomes of questions meanwhile.
	WhenStale WhenStale
	// Clock is how far this machine's clock and the broker's are apart.
	Clock Clock

	// Recording says that uses can be recorded, and Uses counts them. Every use of
	// an earlier time than StoredThrough is stored.
	Recording     bool
	Uses          recording.Stats
	StoredThrough events.Time
	// Source is what the client began with, at the position From.
	Source Source
	From   events.Position
	// Offline says that the client gives verdicts from a snapshot, without having
	// been fresh in this run.
	Offline bool
	// SnapshotAt and SnapshotPosition are of the last snapshot that was saved in this
	// run, SnapshotErr is why the last attempt came to nothing, and SnapshotFailures
	// counts those.
	SnapshotAt       time.Time
	SnapshotPosition events.Position
	SnapshotErr      error
	SnapshotFailures uint64
	// Asked counts what was asked of the server.
	Asked Asked
	// Misses are verdicts that a secret is no key, which are recorded nowhere else.
	Misses uint64
}

// Asked counts questions that went to the server.
type Asked struct{ Asked, Answered, Failed uint64 }

// Clock compares two clocks, as far as events show it.
type Clock struct {
	// Ahead is how far the broker's clock was ahead at the last event. Past
	// [projections.ClockMargin] nothing makes the client fresh.
	Ahead time.Duration
	// Late is how old events have been for some time when they came, by this machine's
	// clock, 0 while they come in time: they are on their way for so long, or this
	// clock is ahead.
	Late time.Duration
}

// Wrong says that one of the clocks must be wrong, or events take very long.
func (c Clock) Wrong() bool {
	return c.Ahead > projections.ClockMargin || c.Late > projections.ClockMargin
}

// Status tells how the client is doing.
func (c *Client) Status() Status { return c.status(c.engine.Load()) }

func (c *Client) status(e *engine) Status {
	s := Status{
		Verifier: c.o.name, Kind: c.o.kind, Version: c.o.version, StartedAt: c.started,
		Closed: c.closed.Load(), Connected: c.conn.IsConnected(), Stale: true, Staleness: -1,
		MaxStaleness: c.o.maxStaleness, WhenStale: c.o.whenStale,
	}
	select {
	case <-c.ready:
		s.Ready = true
	default:
	}
	if a := c.o.server; a != nil {
		s.Asked = Asked{a.asked.Load(), a.answered.Load(), a.failed.Load()}
	}
	if e != nil {
		e.status(&s)
		return s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Err, s.Failed = c.err, c.failed
	return s
}

func (e *engine) status(s *Status) {
	s.Opened, s.Ledger, s.Boot = true, e.info.Ledger, e.recorder.Boot()
	s.Scope, s.Organizations = events.ScopeLabel(e.info.Scope), e.orgs
	s.Shared = e.reader.Shared()
	r := e.runner.Status()
	s.State, s.Applied, s.Goal, s.Err = r.State, e.index.Applied(), r.Goal, r.Err
	s.Seen, s.Announced = e.seen, e.announced()
	s.Keys, s.Problems = e.index.Len(), e.index.Err()
	s.Ticks, s.TickFaults = e.continuity.Err(), e.continuity.Faults()
	s.Stale, s.MaxStaleness = e.verifier.Stale(), e.verifier.Limit()
	if d := e.verifier.Staleness(); d != never {
		s.Staleness = d
	}
	s.Clock = Clock{Ahead: r.ClockAhead, Late: e.punctual.lateness()}
	select {
	case <-e.recording:
		s.Recording = true
	default:
	}
	s.Uses, s.StoredThrough = e.recorder.Stats(), e.recorder.StoredThrough()
	s.Source, s.From = e.beginning.source, e.position
	s.Offline = !e.proved.Load() && e.offline.serves(time.Now())
	e.saved.mu.Lock()
	s.SnapshotAt, s.SnapshotPosition, s.SnapshotErr, s.SnapshotFailures = e.saved.at, e.saved.position, e.saved.err, e.saved.failures
	e.saved.mu.Unlock()
	s.Misses = e.verifier.Unrecorded(events.CodeMalformed) + e.verifier.Unrecorded(events.CodeNotFound)
}

// Failing is a reason not to be ready.
type Failing struct {
	// Check names what fails: broker, fresh, ticks, problems, clock, uses or shared.
	Check string
	// Reason may be told to everybody.
	Reason string
	// Err is for the log; it may be nil.
	Err error
}

// Failing are all reasons not to be ready, none if the client is.
func (s Status) Failing() []Failing {
	var out []Failing
	add := func(fails bool, check, reason string, err error) {
		if fails {
			out = append(out, Failing{check, reason, err})
		}
	}
	switch {
	case s.Closed:
		add(true, "open", "the verifier has stopped", nil)
	case !s.Opened:
		add(true, "broker", "the broker has not said yet what there is to read", s.Err)
	default:
		add(!s.Connected, "broker", "no broker is connected", nil)
	}
	add(s.Opened && s.Err != nil, "index", "the index has stopped: verdicts are STALE", s.Err)
	if s.Stale {
		reason := "the index is not proven fresh"
		switch {
		case s.Opened && s.Applied < s.Seen && s.State == projections.StateLive:
			reason = "the ledger ends before what an earlier run has seen of it"
		case s.State == projections.StateReplaying && s.Goal > 0:
			reason = fmt.Sprintf("the ledger is being replayed, %d %% done", min(s.Applied, s.Goal)*100/s.Goal)
		case s.Opened && s.Connected && !s.Announced:
			reason = "the broker has not taken yet that this verifier is there"
		}
		add(true, "fresh", reason, nil)
	}
	add(s.Ticks != nil, "ticks", "the last tick does not agree with what was read", s.Ticks)
	add(s.Problems != nil, "problems", "events could not be applied; their keys are UNAVAILABLE", s.Problems)
	add(s.Clock.Wrong(), "clock", "this machine's clock and the broker's are too far apart, or events are on their way for very long", nil)
	add(s.Opened && !s.Closed && !s.Recording, "uses", "uses cannot be recorded", nil)
	add(s.Shared, "shared", "another program uses the same credential", nil)
	return out
}

// Unready is [Status.Failing] as one error, nil if nothing fails.
func (s Status) Unready() error {
	var faults []error
	for _, f := range s.Failing() {
		faults = append(faults, errors.New("verify: "+f.Check+": "+f.Reason))
	}
	return errors.Join(faults...)
}
