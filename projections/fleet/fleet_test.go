package fleet_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/fleet"
)

var ledger = events.LedgerID{1}

// world feeds a view, in a time of its own.
type world struct {
	t        testing.TB
	view     *fleet.View
	position events.Position // of the ledger
	heard    events.Position // of the stream of announcements
	numbers  map[uses.BootID]uint64
	// wrong is how far the broker's clock is ahead of this machine's.
	wrong time.Duration
}

func begin(t testing.TB) *world {
	t.Helper()
	v, err := fleet.New(fleet.Config{Ledger: ledger, MaxStaleness: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, view: v, numbers: map[uses.BootID]uint64{}}
}

// now is the broker's time.
func (w *world) now() events.Time { return events.TimeOf(time.Now().Add(w.wrong)) }

// fact appends a fact and returns its position.
func (w *world) fact(s events.Subject, e events.Event) events.Position {
	w.t.Helper()
	w.position++
	if err := w.view.Apply(w.t.Context(), []events.Recorded{{Position: w.position, Subject: s, Stored: w.now(), Event: e}}); err != nil {
		w.t.Fatal(err)
	}
	return w.position
}

func (w *world) issue(name events.CredentialName, max time.Duration, orgs ...events.OrgID) {
	w.fact(events.CredentialSubject(name), events.CredentialIssued{
		Name: name, For: events.CredentialVerifier, Organizations: orgs, MaxStaleness: int(max / time.Second),
	})
}

func (w *world) revoke(org events.OrgID) fleet.Revocation {
	pos := w.fact(events.RevokedSubject(org, events.KeyID{byte(w.position + 1)}), events.KeyRevoked{})
	return fleet.Revocation{Org: org, Position: pos, At: w.now()}
}

// say announces a verifier.
func (w *world) say(name events.VerifierID, boot byte, change func(*presence.Announcement)) {
	w.t.Helper()
	id := uses.BootID{boot}
	w.numbers[id]++
	a := presence.Announcement{
		Ledger: ledger, Verifier: name, Boot: id, Number: w.numbers[id], Kind: presence.Sidecar, At: w.now(), StartedAt: w.now(),
		Applied: w.position, MaxStaleness: 30_000, Lease: presence.DefaultLease.Milliseconds(), Ready: true,
	}
	if change != nil {
		change(&a)
	}
	m, err := presence.Encode(&a)
	if err != nil {
		w.t.Fatal(err)
	}
	w.hear(m)
}

func (w *world) hear(m presence.Message) {
	w.heard++
	m.Position, m.Stored = w.heard, w.now()
	w.view.Hear([]presence.Message{m})
}

func (w *world) row(name events.VerifierID) fleet.Row {
	w.t.Helper()
	rows := w.view.Rows(time.Now())
	i := slices.IndexFunc(rows, func(r fleet.Row) bool { return r.Name == name })
	if i < 0 {
		w.t.Fatalf("no %s among %+v", name, rows)
	}
	return rows[i]
}

func (w *world) is(name events.VerifierID, want fleet.State) {
	w.t.Helper()
	if got := w.row(name).State; got != want {
		w.t.Errorf("%s is %s, not %s", name, got, want)
	}
}

func (w *world) standings(r fleet.Revocation) []fleet.Standing {
	return w.view.Standings(r, time.Now())
}

func (w *world) standing(r fleet.Revocation, name events.VerifierID) fleet.Standing {
	w.t.Helper()
	var found []fleet.Standing
	for _, s := range w.standings(r) {
		if s.Verifier == name {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		w.t.Fatalf("%d of %s", len(found), name)
	}
	return found[0]
}

// in runs a test in a time of its own.
func in(t *testing.T, test func(*testing.T, *world)) {
	synctest.Test(t, func(t *testing.T) { test(t, begin(t)) })
}

func TestAVerifierIsSilentLiveLostAndEnded(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.issue("edge", 0)
		w.is("edge", fleet.Silent)
		if got := w.row("edge"); got.MaxStaleness != 30*time.Second || got.IssuedAt != w.now() {
			t.Errorf("%+v", got)
		}
		w.say("edge", 1, nil)
		w.is("edge", fleet.Live)
		time.Sleep(presence.DefaultLease)
		w.is("edge", fleet.Live)
		time.Sleep(time.Millisecond)
		w.is("edge", fleet.Lost)
		w.say("edge", 1, nil)
		w.is("edge", fleet.Live)
		w.say("edge", 1, func(a *presence.Announcement) { a.Ended = true })
		w.is("edge", fleet.Ended)
		// What nobody has heard of for long may as well never have been.
		time.Sleep(fleet.Remembered + time.Second)
		w.is("edge", fleet.Silent)
		w.fact(events.CredentialSubject("edge"), events.CredentialRevoked{})
		if rows := w.view.Rows(time.Now()); len(rows) != 0 {
			t.Errorf("%+v", rows)
		}
	})
}

// Leases are of the broker's time. What the clock of this machine says of it changes
// nothing.
func TestAClockThatIsWrongLosesNobody(t *testing.T) {
	for _, wrong := range []time.Duration{-time.Hour, 0, time.Hour} {
		in(t, func(t *testing.T, w *world) {
			w.wrong = wrong
			w.say("lost", 1, nil)
			w.is("lost", fleet.Live)
			time.Sleep(10 * time.Second)
			w.say("edge", 2, nil)
			w.is("lost", fleet.Live)
			time.Sleep(6 * time.Second)
			w.is("lost", fleet.Lost)
			w.is("edge", fleet.Live)
			time.Sleep(10 * time.Second)
			w.is("edge", fleet.Lost)
			// What comes late was not said just now.
			w.wrong -= 20 * time.Second
			w.say("late", 3, nil)
			w.is("late", fleet.Lost)
			w.wrong = wrong
			w.say("edge", 2, nil)
			w.is("late", fleet.Lost)
			w.is("edge", fleet.Live)
			w.wrong -= 20 * time.Second
			for range 2 {
				w.say("late", 3, nil)
				w.is("late", fleet.Lost)
				time.Sleep(21 * time.Second)
			}
		})
	}
}

// Who is shut out at the broker denies by its bound, and is no news from then on.
func TestShutOut(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		for i, name := range []events.CredentialName{"edge", "stale"} {
			w.issue(name, 0)
			w.say(events.VerifierID(name), byte(i+1), func(a *presence.Announcement) { a.ServesStale = name == "stale" })
			w.fact(events.CredentialSubject(name), events.CredentialRevoked{})
		}
		time.Sleep(35 * time.Second)
		w.is("edge", fleet.Lost)
		time.Sleep(time.Second)
		w.is("stale", fleet.Lost)
		if rows := w.view.Rows(time.Now()); len(rows) != 1 || rows[0].RevokedAt == 0 {
			t.Errorf("%+v", rows)
		}
		if s := w.standings(w.revoke("acme")); len(s) != 1 || s[0].DeniesBy != 0 {
			t.Errorf("%+v", s)
		}
		// Who may start without the broker does not hear that it is shut out.
		w.issue("offline", 0)
		w.say("offline", 3, func(a *presence.Announcement) { a.OfflineStart, a.Ended = time.Minute.Milliseconds(), true })
		w.fact(events.CredentialSubject("offline"), events.CredentialRevoked{})
		time.Sleep(time.Minute)
		w.is("offline", fleet.Ended)
		time.Sleep(6 * time.Second)
		if rows := w.view.Rows(time.Now()); len(rows) != 1 {
			t.Errorf("%+v", rows)
		}
	})
}

func TestNobodySpeaksForAnother(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.issue("edge-1", 0)
		w.issue("edge-2", 0)
		a := presence.Announcement{
			Ledger: ledger, Verifier: "edge-1", Boot: uses.BootID{9}, Number: 1, Kind: presence.SDK, StartedAt: w.now(), Applied: 1 << 40,
			MaxStaleness: 30_000, Lease: presence.DefaultLease.Milliseconds(),
		}
		m, err := presence.Encode(&a)
		if err != nil {
			t.Fatal(err)
		}
		m.Subject = presence.Subject("edge-2")
		w.hear(m)
		w.hear(presence.Message{Subject: presence.Subject("edge-2"), Body: []byte("{")})
		w.is("edge-1", fleet.Silent)
		w.is("edge-2", fleet.Silent)
		if n := w.view.Faults(); n != 2 {
			t.Errorf("%d faults", n)
		}
	})
}

func TestTwoProgramsUnderOneName(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.say("edge", 1, nil)
		w.say("edge", 2, nil)
		if w.row("edge").Duplicate {
			t.Error("one took the place of the other, and is said to work beside it")
		}
		// It is waited for no more, and its bound is told.
		before := w.revoke("acme")
		w.say("edge", 2, nil)
		if s := w.standings(before); len(s) != 2 || s[0].State != fleet.Lost || s[0].DeniesBy == 0 || s[1].State != fleet.Live || !s[1].Applied {
			t.Errorf("%+v", s)
		}
		w.say("edge", 1, nil)
		if !w.row("edge").Duplicate {
			t.Error("two programs announce themselves by turns, and nobody says so")
		}
		// Both must have a revocation.
		r := w.revoke("acme")
		w.say("edge", 2, nil)
		applied := 0
		for _, s := range w.standings(r) {
			if s.State != fleet.Live {
				t.Errorf("%+v", s)
			}
			if s.Applied {
				applied++
			}
		}
		if applied != 1 || len(w.standings(r)) != 2 {
			t.Errorf("%+v", w.standings(r))
		}
		w.say("edge", 1, func(a *presence.Announcement) { a.Ended = true })
		if w.row("edge").Duplicate {
			t.Error("one has ended")
		}
		w.say("edge", 3, nil)
		w.say("edge", 2, nil)
		w.say("edge", 3, func(a *presence.Announcement) { a.Ended = true })
		if w.row("edge").Duplicate {
			t.Error("the younger one has ended")
		}
		w.is("edge", fleet.Live)
	})
}

func TestARevocationIsAppliedByWhoSaysSo(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.say("edge", 1, nil)
		r := w.revoke("acme")
		if s := w.standing(r, "edge"); s.Applied || s.DeniesBy != r.At.Add(30*time.Second+projections.ClockMargin) {
			t.Errorf("%+v", s)
		}
		time.Sleep(7 * time.Millisecond)
		w.say("edge", 1, nil)
		known := w.now()
		time.Sleep(time.Second)
		w.revoke("acme")
		w.say("edge", 1, nil)
		if s := w.standing(r, "edge"); !s.Applied || s.AppliedAt != known || s.AppliedBy != known || s.DeniesBy != 0 || s.UsesStored {
			t.Errorf("%+v, known at %s", s, known)
		}
		// What was accepted before is stored once the verifier says so of a time after
		// the one at which it said that it has the revocation.
		w.say("edge", 1, func(a *presence.Announcement) { a.StoredThrough = known })
		if s := w.standing(r, "edge"); s.UsesStored {
			t.Error("uses of that very time may be missing")
		}
		w.say("edge", 1, func(a *presence.Announcement) { a.StoredThrough = known + 1 })
		if s := w.standing(r, "edge"); !s.UsesStored {
			t.Errorf("%+v", s)
		}
		// Since when it had it is its own word, by no clock but the broker's.
		third := w.revoke("acme")
		applied := w.now()
		time.Sleep(40 * time.Millisecond)
		w.say("edge", 1, func(a *presence.Announcement) { a.At, a.Revoked, a.RevokedAgo = 1, third.Position, 40 })
		if s := w.standing(third, "edge"); s.AppliedAt != applied || s.AppliedBy != applied {
			t.Errorf("%+v, applied at %s", s, applied)
		}
		// Nobody had it before it was there.
		fourth := w.revoke("acme")
		w.say("boast", 3, func(a *presence.Announcement) { a.Revoked, a.RevokedAgo = fourth.Position, time.Hour.Milliseconds() })
		if s := w.standing(fourth, "boast"); s.AppliedAt != fourth.At || s.AppliedBy != fourth.At {
			t.Errorf("%+v of %+v", s, fourth)
		}
		// By when one had it that tells of a later one.
		if s := w.standing(third, "boast"); s.AppliedAt != 0 || s.AppliedBy != third.At {
			t.Errorf("%+v of %+v", s, third)
		}
		// Who comes later has it, and nobody knows since when.
		w.say("late", 2, nil)
		if s := w.standing(r, "late"); !s.Applied || s.AppliedAt != 0 || s.AppliedBy != w.now() {
			t.Errorf("%+v", s)
		}
	})
}

// Who has not applied a revocation denies by its bound, whatever became of it.
func TestWhoIsNotHeardOfDeniesByItsBound(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.issue("silent", 90*time.Second)
		w.issue("gone", 0)
		w.fact(events.CredentialSubject("gone"), events.CredentialRevoked{})
		w.issue("other", 0, "globex")
		w.issue("liar", 0, "acme")
		w.say("lost", 1, func(a *presence.Announcement) { a.MaxStaleness = 10_000 })
		w.say("stale", 2, func(a *presence.Announcement) { a.ServesStale = true })
		w.say("ended", 3, func(a *presence.Announcement) { a.Ended = true })
		w.say("replaced", 4, nil)
		w.say("offline", 7, func(a *presence.Announcement) { a.OfflineStart = time.Hour.Milliseconds() })
		if row := w.row("offline"); row.MaxStaleness != 30*time.Second {
			t.Errorf("%+v", row)
		}
		// It serves what its credential says, and not what it says.
		w.say("liar", 6, func(a *presence.Announcement) { a.Organizations = []events.OrgID{"globex"} })
		heard := w.now()
		time.Sleep(20 * time.Second)
		r := w.revoke("acme")
		w.say("replaced", 5, nil)
		var names []string
		for _, s := range w.standings(r) {
			names = append(names, string(s.Verifier)+" "+string(s.State))
			want := map[events.VerifierID]time.Duration{"lost": 10 * time.Second, "silent": 90 * time.Second, "replaced": 30 * time.Second, "liar": 30 * time.Second, "offline": time.Hour}
			switch bound := want[s.Verifier]; {
			case s.Applied:
				if s.DeniesBy != 0 {
					t.Errorf("%+v", s)
				}
			case bound == 0 && s.DeniesBy != 0, bound != 0 && s.DeniesBy != r.At.Add(bound+projections.ClockMargin):
				t.Errorf("%+v", s)
			}
			if s.State == fleet.Lost && s.Since != heard {
				t.Errorf("%+v, heard at %s", s, heard)
			}
		}
		want := []string{"liar lost", "lost lost", "offline lost", "replaced lost", "replaced live", "silent silent", "stale lost"}
		if !slices.Equal(names, want) {
			t.Errorf("%v, want %v", names, want)
		}
		// A run that broke off long before cannot have been fresh.
		time.Sleep(time.Hour)
		w.say("replaced", 5, nil)
		if later := w.revoke("acme"); len(slices.DeleteFunc(w.standings(later), func(s fleet.Standing) bool { return s.Verifier != "replaced" })) != 1 {
			t.Errorf("%+v", w.standings(later))
		}
	})
}

// Who has ended may be started again while the broker is away, and answer by what it
// held, which nobody hears of. What it has applied it does not take back.
func TestWhoEndedMayAnswerWithoutTheBroker(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		before := w.revoke("acme")
		w.say("offline", 1, func(a *presence.Announcement) {
			a.OfflineStart, a.Ended = time.Hour.Milliseconds(), true
		})
		w.say("ended", 2, func(a *presence.Announcement) { a.Ended = true })
		if s := w.standings(before); len(s) != 0 {
			t.Errorf("they have applied it: %+v", s)
		}
		ended := w.now()
		time.Sleep(time.Second)
		r := w.revoke("acme")
		s := w.standing(r, "offline")
		if s.State != fleet.Ended || s.Applied || s.Since != ended || s.DeniesBy != r.At.Add(time.Hour+projections.ClockMargin) {
			t.Errorf("%+v", s)
		}
		if all := w.standings(r); len(all) != 1 {
			t.Errorf("%+v", all)
		}
		// Once it is heard of again it is what it says.
		w.say("offline", 3, nil)
		if s := w.standing(r, "offline"); s.State != fleet.Live || !s.Applied {
			t.Errorf("%+v", s)
		}
	})
}

// What is thrown away of the past is what nobody asks about.
func TestStepsAreKeptForRevocations(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := begin(t)
		type told struct {
			applied events.Position
			at      events.Time
		}
		var (
			said        []told
			revocations []fleet.Revocation
			clock       = w.now()
		)
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			clock += 1000
			switch rapid.IntRange(0, 4).Draw(rt, "what") {
			case 0:
				w.position++
				pos := w.position
				f := events.Recorded{Position: pos, Subject: events.RevokedSubject("acme", events.KeyID{1}), Stored: clock, Event: events.KeyRevoked{}}
				if err := w.view.Apply(t.Context(), []events.Recorded{f}); err != nil {
					rt.Fatal(err)
				}
				revocations = append(revocations, fleet.Revocation{Org: "acme", Position: pos, At: clock})
			case 1:
				w.fact(events.OrganizationSubject("acme"), events.OrganizationRenamed{})
			default:
				// It may be ahead of the view, and never goes back.
				applied := w.position + events.Position(rapid.IntRange(0, 3).Draw(rt, "ahead"))
				if n := len(said); n > 0 {
					applied = max(applied, said[n-1].applied)
				}
				id := uses.BootID{1}
				w.numbers[id]++
				m, err := presence.Encode(&presence.Announcement{
					Ledger: ledger, Verifier: "edge", Boot: id, Number: w.numbers[id], Kind: presence.SDK, At: clock, StartedAt: 1,
					Applied: applied, MaxStaleness: 1, Lease: presence.DefaultLease.Milliseconds(),
				})
				if err != nil {
					rt.Fatal(err)
				}
				w.heard++
				m.Position, m.Stored = w.heard, clock
				w.view.Hear([]presence.Message{m})
				said = append(said, told{applied, clock})
			}
		}
		if len(said) == 0 {
			return
		}
		for _, r := range revocations {
			i := slices.IndexFunc(said, func(s told) bool { return s.applied >= r.Position })
			s := w.standing(r, "edge")
			switch {
			case i < 0 && s.Applied, i >= 0 && (!s.Applied || s.AppliedBy != said[i].at), i > 0 && s.AppliedAt != said[i].at, i == 0 && s.AppliedAt != 0:
				rt.Fatalf("revoked at %d: %+v; said %+v", r.Position, s, said)
			}
		}
	})
}

func TestHowLongARevocationTook(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.say("edge-1", 1, nil)
		w.say("edge-2", 2, nil)
		w.say("other", 3, func(a *presence.Announcement) { a.Organizations = []events.OrgID{"globex"} })
		w.revoke("acme")
		w.say("edge-1", 1, nil)
		time.Sleep(30 * time.Millisecond)
		if took := w.view.Propagated(time.Now()); len(took) != 0 {
			t.Errorf("edge-2 has not said so, and it took %v", took)
		}
		w.say("edge-2", 2, nil)
		time.Sleep(time.Second)
		if took := w.view.Propagated(time.Now()); !slices.Equal(took, []time.Duration{30 * time.Millisecond}) {
			t.Errorf("%v", took)
		}
		if took := w.view.Propagated(time.Now()); len(took) != 0 {
			t.Errorf("told twice: %v", took)
		}
	})
}

func TestCount(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.issue("silent", 0)
		w.say("lost", 1, func(a *presence.Announcement) { a.Staleness = 900_000 })
		time.Sleep(16 * time.Second)
		w.say("edge-1", 2, func(a *presence.Announcement) { a.Staleness = 2_000 })
		w.say("edge-2", 3, nil)
		time.Sleep(time.Second)
		counts, stalest := w.view.Count(time.Now())
		if counts[fleet.Live] != 2 || counts[fleet.Lost] != 1 || counts[fleet.Silent] != 1 || stalest != 3*time.Second {
			t.Errorf("%v, %s", counts, stalest)
		}
		// One that never was fresh is as stale as it is old.
		w.say("edge-1", 2, func(a *presence.Announcement) { a.Ended = true })
		w.say("edge-2", 3, func(a *presence.Announcement) { a.Ended = true })
		w.say("edge-3", 4, func(a *presence.Announcement) { a.Staleness = -1 })
		time.Sleep(10 * time.Second)
		if _, stalest := w.view.Count(time.Now()); stalest != 10*time.Second {
			t.Errorf("%s", stalest)
		}
	})
}
