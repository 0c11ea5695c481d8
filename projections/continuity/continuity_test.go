package continuity_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"
	"pgregory.net/rapid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/projections/continuity"
)

// world is a ledger, and its maker of ticks.
type world struct {
	t      testing.TB
	id     events.LedgerID
	ledger *memory.Ledger
	facts  []events.Recorded
	maker  *continuity.View
	signer note.Signer
	key    string
	count  int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	id := events.LedgerID(newID(t))
	w := &world{t: t, id: id, ledger: memory.New(id)}
	w.signer, w.key = newSigner(t, "keyledger")
	w.maker = w.view(continuity.Config{})
	w.append(events.InstallationSubject(), events.InstallationCreated{Ledger: id, Epoch: 1}, 1)
	w.append(events.InstallationSubject(), events.InstallationSignerAdded{Name: "keyledger", VerifierKey: w.key}, 2)
	return w
}

func newID(t testing.TB) uuid.UUID {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newSigner(t testing.TB, name string) (note.Signer, string) {
	t.Helper()
	secret, public, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	return s, public
}

func (w *world) view(c continuity.Config) *continuity.View {
	w.t.Helper()
	c.Ledger = w.id
	v, err := continuity.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// narrowed returns a reader of a scope that has read everything so far.
func (w *world) narrowed(label events.ScopeLabel, orgs ...events.OrgID) *reader {
	r := &reader{View: w.view(continuity.Config{Scope: label, Organizations: orgs}), orgs: orgs}
	r.read(w.t, w.facts...)
	return r
}

func (w *world) append(subject events.Subject, e events.Event, revision events.Revision) events.Recorded {
	w.t.Helper()
	facts, err := w.ledger.Append(w.t.Context(), []events.Entry{{Subject: subject, Event: e, Meta: events.Meta{
		ID: events.EventID(newID(w.t)), Ledger: w.id, Time: events.TimeOf(time.Now()), Revision: revision,
		Actor: events.Actor{Type: events.ActorSystem, Name: "test"}, Command: events.CommandID(newID(w.t)),
	}}})
	if err != nil {
		w.t.Fatal(err)
	}
	facts[0].Stored = events.TimeOf(time.Now()) // which only readers are told
	w.facts = append(w.facts, facts[0])
	if err := w.maker.Apply(w.t.Context(), facts); err != nil {
		w.t.Fatal(err)
	}
	return facts[0]
}

// add appends a fact of an organization.
func (w *world) add(org events.OrgID) events.Recorded {
	w.t.Helper()
	w.count++
	id := events.WorkspaceID(fmt.Sprintf("w%d", w.count))
	return w.append(events.WorkspaceSubject(org, id), events.WorkspaceCreated{ID: id, Name: events.ClearText("w")}, 1)
}

// issue lets a verifier in.
func (w *world) issue(name events.CredentialName, label events.ScopeLabel, staleness int, orgs ...events.OrgID) {
	w.t.Helper()
	w.append(events.CredentialSubject(name), events.CredentialIssued{
		Name: name, For: events.CredentialVerifier, Organizations: orgs, Account: "A", Scope: label, MaxStaleness: staleness,
	}, 1)
}

// draft makes a tick and signs it.
func (w *world) draft() continuity.Draft {
	w.t.Helper()
	d, ok := w.maker.Next(events.TimeOf(time.Now()))
	if !ok {
		w.t.Fatal("no draft")
	}
	d.Tick.Signature = sign(w.t, w.signer, d.Tick.Text(w.id))
	return d
}

func sign(t testing.TB, signer note.Signer, text string) string {
	t.Helper()
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(strings.TrimPrefix(string(signed), text+"\n"), "\n")
}

// tick appends a tick, and returns it.
func (w *world) tick() events.Recorded {
	w.t.Helper()
	return w.put(w.draft())
}

func (w *world) put(d continuity.Draft) events.Recorded {
	w.t.Helper()
	return w.append(events.TickSubject(), d.Tick, d.Revision)
}

// reader is a narrowed reader, who is fed what a filter on the broker lets
// through.
type reader struct {
	*continuity.View
	orgs []events.OrgID
}

func (r *reader) read(t testing.TB, facts ...events.Recorded) {
	t.Helper()
	for _, f := range facts {
		if slices.Contains(r.orgs, f.Subject.Org) || f.Subject == events.TickSubject() || f.Subject == events.InstallationSubject() {
			if err := r.Apply(t.Context(), []events.Recorded{f}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// shows holds a view to what it should show: up to when it is complete.
func shows(t testing.TB, v interface {
	Proven() (events.Time, bool)
	Err() error
}, want events.Time,
) {
	t.Helper()
	if at, holds := v.Proven(); at != want || !holds || v.Err() != nil {
		t.Fatalf("proven up to %s, want %s; holds: %t; %v", at, want, holds, v.Err())
	}
}

// TestDigestsAreWhatTheFactSays computes a tick by hand.
func TestDigestsAreWhatTheFactSays(t *testing.T) {
	w := newWorld(t)
	w.issue("edge-1", "s1", 0, "acme", "globex")
	for _, org := range []events.OrgID{"acme", "globex", "acme", "initech"} {
		w.add(org)
	}
	var ledger, acme, globex [32]byte
	for _, f := range w.facts {
		sum := sha256.Sum256(f.Raw)
		link := func(d *[32]byte) {
			b := append([]byte(nil), d[:]...)
			b = binary.BigEndian.AppendUint64(b, uint64(f.Position))
			*d = sha256.Sum256(append(b, sum[:]...))
		}
		link(&ledger)
		switch f.Subject.Org {
		case "acme":
			link(&acme)
		case "globex":
			link(&globex)
		default:
		}
	}
	d := w.draft()
	if d.Tick.Through != 7 || d.Tick.Digest != ledger || d.Revision != 1 || d.Before != 0 {
		t.Errorf("%+v", d)
	}
	want := events.TickScope{Scope: "s1", Count: 3, Digest: sha256.Sum256(append(acme[:], globex[:]...))}
	if len(d.Tick.Scopes) != 1 || d.Tick.Scopes[0] != want {
		t.Errorf("%+v, want %+v", d.Tick.Scopes, want)
	}
}

func TestWhoSeesEverythingIsAsFreshAsTheLastFact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		time.Sleep(time.Hour)
		f := w.add("acme")
		shows(t, w.maker, f.Stored)
		time.Sleep(time.Hour)
		shows(t, w.maker, w.tick().Stored)
	})
}

func TestNarrowedReaderIsAsFreshAsTheTickSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.add("acme")
		// Issued late: its organizations' facts count from the first.
		w.issue("edge-1", "s1", 0, "globex", "acme")
		w.add("globex")
		r := w.narrowed("s1", "acme", "globex")
		shows(t, r, 0)
		step := func(f events.Recorded) events.Recorded {
			t.Helper()
			r.read(t, f)
			time.Sleep(10 * time.Second)
			return f
		}
		first := step(w.tick())
		shows(t, r, first.Stored)
		// Facts prove nothing to who cannot see those in between.
		step(w.add("acme"))
		step(w.add("initech"))
		shows(t, r, first.Stored)
		second := step(w.tick())
		if got := w.facts[second.Position-1].Event.(events.Tick).Scopes; len(got) != 1 || got[0].Count != 3 {
			t.Fatalf("scopes: %+v", got)
		}
		shows(t, r, second.Stored)
		// A tick that leaves the scope out says that it has not changed.
		step(w.add("initech"))
		third := step(w.tick())
		if len(third.Event.(events.Tick).Scopes) != 0 {
			t.Fatal("tells of a scope that has not changed")
		}
		shows(t, r, third.Stored)
	})
}

// TestFactsMeetATickOnItsWay: what comes between the last counted fact and the
// tick is not counted, and nothing is shown about it.
func TestFactsMeetATickOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.issue("edge-1", "s1", 0, "acme")
		last := w.add("acme")
		time.Sleep(time.Second)
		w.add("initech")
		d := w.draft()
		for _, org := range []events.OrgID{"acme", "initech", "acme"} {
			time.Sleep(time.Second)
			w.add(org)
		}
		tick := w.put(d)
		r := w.narrowed("s1", "acme")
		shows(t, r, last.Stored)
		shows(t, w.maker, tick.Stored)
		next := w.tick()
		r.read(t, next)
		shows(t, r, next.Stored)
	})
}

func TestMissingFactIsToldByCountAndChangedOneByDigest(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(f events.Recorded) []events.Recorded
		says  string
	}{
		"missing": {func(events.Recorded) []events.Recorded { return nil }, "3 facts were counted of a scope of 1 organizations, and 2 were read"},
		"twice":   {func(f events.Recorded) []events.Recorded { return []events.Recorded{f, f} }, "and 4 were read"},
		"changed": {func(f events.Recorded) []events.Recorded {
			f.Raw = append([]byte(nil), f.Raw...)
			f.Raw[40] ^= 1
			return []events.Recorded{f}
		}, "and not the same ones"},
		"moved": {func(f events.Recorded) []events.Recorded { f.Position--; return []events.Recorded{f} }, "and not the same ones"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.issue("edge-1", "s1", 0, "acme")
				r := w.narrowed("s1", "acme")
				r.read(t, w.add("acme"), w.add("initech"))
				r.read(t, c.spoil(w.add("acme"))...)
				r.read(t, w.add("acme"), w.tick())
				if at, holds := r.Proven(); at != 0 || holds {
					t.Errorf("proven up to %s, holds: %t", at, holds)
				}
				if err := r.Err(); !errors.Is(err, continuity.ErrDisagrees) || !errors.Is(err, events.ErrCorrupt) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("got %v", err)
				}
				// It stays so: a hole does not close, whatever comes after it.
				time.Sleep(10 * time.Second)
				r.read(t, w.tick())
				if _, holds := r.Proven(); holds || r.Faults() != 2 {
					t.Errorf("%d faults, holds: %t", r.Faults(), holds)
				}
			})
		})
	}
}

// TestHoleAfterWhatATickCounts is found by the next one, and nothing is shown
// about it meanwhile.
func TestHoleAfterWhatATickCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.issue("edge-1", "s1", 0, "acme")
		first := w.tick()
		r := w.narrowed("s1", "acme")
		time.Sleep(10 * time.Second)
		d := w.draft()
		w.add("acme") // on its way to nowhere
		r.read(t, w.put(d))
		shows(t, r, first.Stored)
		time.Sleep(10 * time.Second)
		r.read(t, w.tick())
		if _, holds := r.Proven(); holds {
			t.Error("a hole was not found")
		}
	})
}

func TestOtherHistoryOfTheWholeLedgerTakesFreshnessAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		v := w.view(continuity.Config{})
		f := w.add("acme")
		f.Raw = append([]byte(nil), f.Raw...)
		f.Raw[0] = ' '
		feed(t, v, w.facts[0], w.facts[1], f, w.tick())
		if _, holds := v.Proven(); holds || !errors.Is(v.Err(), continuity.ErrDisagrees) {
			t.Fatalf("holds: %t; %v", holds, v.Err())
		}
		// Facts do not bring it back.
		feed(t, v, w.add("acme"))
		if _, holds := v.Proven(); holds {
			t.Fatal("fresh by a fact although the history is another")
		}
		// A tick that agrees does: this reader's own, here.
		d, _ := v.Next(events.TimeOf(time.Now()))
		d.Tick.Signature = sign(t, w.signer, d.Tick.Text(w.id))
		own := w.put(d)
		feed(t, v, own)
		shows(t, v, own.Stored)
		if _, holds := w.maker.Proven(); holds {
			t.Fatal("the other one should doubt it now")
		}
	})
}

func feed(t testing.TB, v *continuity.View, facts ...events.Recorded) {
	t.Helper()
	if err := v.Apply(t.Context(), facts); err != nil {
		t.Fatal(err)
	}
}

// TestTickThatIsNoneMakesNothingFresh: and changes nothing else.
func TestTickThatIsNoneMakesNothingFresh(t *testing.T) {
	other, _ := newSigner(t, "keyledger")
	for name, forge := range map[string]func(w *world, last events.Recorded) events.Recorded{
		"an old one again": func(w *world, last events.Recorded) events.Recorded {
			return w.append(events.TickSubject(), last.Event, last.Meta.Revision)
		},
		"an old one in a new envelope": func(w *world, last events.Recorded) events.Recorded {
			return w.append(events.TickSubject(), last.Event, last.Meta.Revision+1)
		},
		"one of the far future": func(w *world, last events.Recorded) events.Recorded {
			d := w.draft()
			d.Revision += 100
			return w.put(d)
		},
		"without a signature": func(w *world, _ events.Recorded) events.Recorded {
			d := w.draft()
			d.Tick.Signature = ""
			return w.put(d)
		},
		"signed by somebody": func(w *world, _ events.Recorded) events.Recorded {
			d := w.draft()
			d.Tick.Signature = sign(w.t, other, d.Tick.Text(w.id))
			return w.put(d)
		},
		"signed for another ledger": func(w *world, _ events.Recorded) events.Recorded {
			d := w.draft()
			d.Tick.Signature = sign(w.t, w.signer, d.Tick.Text(events.LedgerID{1}))
			return w.put(d)
		},
		"with a signature over something else": func(w *world, _ events.Recorded) events.Recorded {
			d := w.draft()
			d.Tick.At++
			return w.put(d)
		},
		"with a text of its own": func(w *world, _ events.Recorded) events.Recorded {
			d := w.draft()
			text := "anything\n"
			d.Tick.Signature = text + "\n" + sign(w.t, w.signer, d.Tick.Text(w.id)+"\n"+text)
			return w.put(d)
		},
		"counting what is to come": func(w *world, _ events.Recorded) events.Recorded {
			d := w.draft()
			d.Tick.Through++
			d.Tick.Signature = sign(w.t, w.signer, d.Tick.Text(w.id))
			return w.put(d)
		},
		"telling of too many": func(w *world, _ events.Recorded) events.Recorded {
			d := w.draft()
			for i := range events.MaxTickScopes + 1 {
				d.Tick.Scopes = append(d.Tick.Scopes, events.TickScope{Scope: events.ScopeLabel(fmt.Sprintf("x%03d", i))})
			}
			d.Tick.Signature = sign(w.t, w.signer, d.Tick.Text(w.id))
			return w.put(d)
		},
		"of a kind of later": func(w *world, last events.Recorded) events.Recorded {
			f := last
			f.Event = events.Unknown{Name: "tick.v9"}
			f.Position++
			f.Stored = events.TimeOf(time.Now())
			w.facts = append(w.facts, f)
			feed(w.t, w.maker, f)
			return f
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.issue("edge-1", "s1", 0, "acme")
				w.add("acme")
				good := w.tick()
				r := w.narrowed("s1", "acme")
				shows(t, r, good.Stored)
				time.Sleep(10 * time.Second)
				bad := forge(w, good)
				r.read(t, bad)
				for who, v := range map[string]*continuity.View{"narrowed": r.View, "whole": w.maker} {
					if at, holds := v.Proven(); at != good.Stored || !holds {
						t.Errorf("%s: proven up to %s, want %s; holds: %t", who, at, good.Stored, holds)
					}
					if !errors.Is(v.Err(), continuity.ErrRefused) || v.Faults() != 1 {
						t.Errorf("%s: %d faults, %v", who, v.Faults(), v.Err())
					}
				}
				if _, awaited := w.maker.Ticked(); !awaited {
					t.Error("nobody waits for the next")
				}
				if name == "of a kind of later" {
					return // it stands in no ledger
				}
				time.Sleep(10 * time.Second)
				again := w.tick()
				r.read(t, again)
				shows(t, r, again.Stored)
				shows(t, w.maker, again.Stored)
			})
		})
	}
}

// TestNothingRestsOnTheMakersClock: a tick is as young as the broker says.
func TestNothingRestsOnTheMakersClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.issue("edge-1", "s1", 0, "acme")
		r := w.narrowed("s1", "acme")
		d, _ := w.maker.Next(events.TimeOf(time.Now().AddDate(10, 0, 0)))
		d.Tick.Signature = sign(t, w.signer, d.Tick.Text(w.id))
		tick := w.put(d)
		r.read(t, tick)
		shows(t, r, tick.Stored)
		shows(t, w.maker, tick.Stored)
	})
}

func TestMoreScopesThanOneTickHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const n = 2*events.MaxTickScopes + 50
		org := func(i int) events.OrgID { return events.OrgID(fmt.Sprintf("org%04d", i)) }
		label := func(i int) events.ScopeLabel { return events.ScopeLabel(fmt.Sprintf("%032x", i)) }
		for i := range n {
			w.issue(events.CredentialName(fmt.Sprintf("v%d", i)), label(i), 0, org(i))
		}
		w.add(org(n - 1))
		first, last := w.narrowed(label(0), org(0)), w.narrowed(label(n-1), org(n-1))
		var ticks []events.Recorded
		for range 3 {
			d := w.draft()
			ticks = append(ticks, w.put(d))
			first.read(t, ticks[len(ticks)-1])
			last.read(t, ticks[len(ticks)-1])
			if want := len(ticks) < 3; d.Continued() != want {
				t.Fatalf("tick %d is continued: %t", len(ticks), d.Continued())
			}
			time.Sleep(time.Second)
			if len(ticks) == 2 {
				// The first was told of, the last not yet: both know that no more.
				shows(t, first, ticks[0].Stored)
				shows(t, last, 0)
			}
		}
		shows(t, last, ticks[2].Stored)
		shows(t, first, ticks[2].Stored)
		// What was not told of for longest goes first.
		for i := range n {
			w.add(org(i))
		}
		if d := w.draft(); !d.Continued() || d.Tick.Scopes[0].Scope != label(0) {
			t.Fatalf("begins with %s", d.Tick.Scopes[0].Scope)
		}
		// One that it leaves out has not the less changed.
		last.read(t, w.facts[ticks[2].Position:]...)
		known, _ := last.Proven()
		last.read(t, w.tick())
		shows(t, last, known)
		w.add(org(0))
		if d := w.draft(); !d.Continued() || d.Tick.Scopes[0].Scope != label(events.MaxTickScopes) {
			t.Fatalf("goes on with %s", d.Tick.Scopes[0].Scope)
		}
	})
}

func TestCredentialsBoundTheInterval(t *testing.T) {
	w := newWorld(t)
	if d := w.maker.MaxStaleness(); d != 0 {
		t.Fatal(d)
	}
	if _, awaited := w.maker.Ticked(); awaited {
		t.Fatal("nobody is narrowed")
	}
	w.issue("wide", "", 60)
	w.issue("plain", "", 0)
	if d := w.maker.MaxStaleness(); d != time.Minute {
		t.Fatal(d)
	}
	if _, awaited := w.maker.Ticked(); awaited {
		t.Fatal("nobody is narrowed")
	}
	w.issue("edge-1", "s1", 9, "acme")
	if d := w.maker.MaxStaleness(); d != 9*time.Second {
		t.Fatal(d)
	}
	if _, awaited := w.maker.Ticked(); !awaited {
		t.Fatal("a narrowed reader does not wait")
	}
	w.append(events.CredentialSubject("edge-1"), events.CredentialRevoked{}, 2)
	w.append(events.CredentialSubject("edge-1"), events.CredentialIssued{
		Name: "edge-1", For: events.CredentialVerifier, Organizations: []events.OrgID{"acme"}, Account: "A", Scope: "s2", MaxStaleness: 1,
	}, 3)
	w.append(events.CredentialSubject("sub"), events.CredentialIssued{Name: "sub", For: events.CredentialSubscriber, Account: "A", Scope: "s3", Organizations: []events.OrgID{"acme"}}, 1)
	if d := w.maker.MaxStaleness(); d != time.Minute {
		t.Fatalf("a revoked credential, or one after it, bounds it by %s", d)
	}
	if _, awaited := w.maker.Ticked(); awaited {
		t.Fatal("a revoked credential waits")
	}
	if d := w.draft(); len(d.Tick.Scopes) != 0 {
		t.Fatalf("tells of %+v", d.Tick.Scopes)
	}
	// An auditor who reads a part of the ledger has it counted, and no bound.
	w.append(events.CredentialSubject("audit"), events.CredentialIssued{
		Name: "audit", For: events.CredentialAuditor, Organizations: []events.OrgID{"acme"}, Account: "A", Scope: "s4", MaxStaleness: 1,
	}, 1)
	if d := w.draft(); len(d.Tick.Scopes) != 1 || d.Tick.Scopes[0].Scope != "s4" || w.maker.MaxStaleness() != time.Minute {
		t.Fatalf("tells of %+v; bound %s", d.Tick.Scopes, w.maker.MaxStaleness())
	}
}

func TestTickThatWasOvertakenByTooMuchShowsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		v := w.view(continuity.Config{})
		d := w.draft()
		f := w.facts[1]
		many := make([]events.Recorded, 40_000)
		for i := range many {
			f.Position++
			f.Subject, f.Event = events.OrganizationSubject("acme"), events.OrganizationRenamed{}
			many[i] = f
		}
		feed(t, v, w.facts...)
		feed(t, v, many...)
		time.Sleep(time.Second)
		tick := w.put(d)
		tick.Position = f.Position + 1
		feed(t, v, tick)
		shows(t, v, f.Stored)
		if v.Faults() != 0 {
			t.Fatalf("%d faults", v.Faults())
		}
	})
}

func TestPinnedKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		signer, key := newSigner(t, "mine")
		v := w.view(continuity.Config{VerifierKeys: []string{key}})
		feed(t, v, w.facts...)
		known, _ := v.Proven()
		time.Sleep(time.Second)
		feed(t, v, w.tick())
		if at, _ := v.Proven(); at != known || !errors.Is(v.Err(), continuity.ErrRefused) {
			t.Fatalf("proven up to %s by a key that was not given: %v", at, v.Err())
		}
		d := w.draft()
		d.Tick.Signature = sign(t, signer, d.Tick.Text(w.id))
		tick := w.put(d)
		feed(t, v, tick)
		shows(t, v, tick.Stored)
	})
}

// TestSignatureOfAnOldTickIsLeftToAudits, unless it tells of a scope: what the next
// tick leaves out rests on that.
func TestSignatureOfAnOldTickIsLeftToAudits(t *testing.T) {
	for what, scoped := range map[string]bool{"it tells of no scope": false, "it tells of one": true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.issue("edge-1", "s1", 0, "acme")
			w.tick()
			if scoped {
				w.add("acme")
			}
			d := w.draft()
			d.Tick.Signature = "x"
			w.put(d)
			time.Sleep(2 * time.Hour)
			// A server that was started since, and a reader.
			v, r := w.view(continuity.Config{}), w.narrowed("s1", "acme")
			feed(t, v, w.facts...)
			for who, err := range map[string]error{"whole": v.Err(), "narrowed": r.Err()} {
				if refused := errors.Is(err, continuity.ErrRefused); refused != scoped {
					t.Errorf("%s, %s: %v", what, who, err)
				}
			}
			next, _ := v.Next(events.TimeOf(time.Now()))
			next.Tick.Signature = sign(t, w.signer, next.Tick.Text(w.id))
			tick := w.put(next)
			r.read(t, tick)
			shows(t, r, tick.Stored)
		})
	}
}

func TestConfigTellsEveryFault(t *testing.T) {
	_, err := continuity.New(continuity.Config{Scope: "s1", VerifierKeys: []string{"nonsense"}})
	if joined, ok := err.(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) != 3 {
		t.Fatalf("got %v", err)
	}
}

// TestEveryHoleIsFound: readers that see all of their facts agree with every tick,
// however late it comes; one from whom any single fact was kept never again agrees
// with a tick that counts it.
func TestEveryHoleIsFound(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		orgs := []events.OrgID{"acme", "globex", "initech"}
		w.issue("edge-1", "s1", 0, "acme", "globex")
		whole, good := w.view(continuity.Config{}), w.narrowed("s1", "acme", "globex")
		feed(t, whole, w.facts...)
		begun := len(w.facts)
		var drafts []continuity.Draft
		for _, do := range rapid.SliceOfN(rapid.IntRange(0, 5), 5, 40).Draw(rt, "do") {
			switch do {
			case 0, 1, 2:
				w.add(orgs[do])
			case 3:
				w.tick()
				drafts = nil
			case 4:
				drafts = append(drafts, w.draft())
			case 5:
				if len(drafts) > 0 {
					w.put(drafts[0])
					drafts = nil
				}
			}
		}
		w.add("acme")
		w.tick()
		feed(t, whole, w.facts[begun:]...)
		good.read(t, w.facts[begun:]...)
		if whole.Faults() != 0 || good.Faults() != 0 {
			rt.Fatalf("who sees everything disagrees: %v, %v", whole.Err(), good.Err())
		}
		var own []int
		for i, f := range w.facts {
			if f.Subject.Org == "acme" || f.Subject.Org == "globex" {
				own = append(own, i)
			}
		}
		hole := rapid.SampledFrom(own).Draw(rt, "hole")
		bad := &reader{View: w.view(continuity.Config{Scope: "s1", Organizations: good.orgs}), orgs: good.orgs}
		for i, f := range w.facts {
			if i == hole {
				continue
			}
			was, _ := bad.Proven()
			bad.read(t, f)
			tick, ok := f.Event.(events.Tick)
			if at, holds := bad.Proven(); ok && tick.Through > w.facts[hole].Position && holds && at != was {
				rt.Fatalf("agrees at %d with what counts %d", f.Position, w.facts[hole].Position)
			}
		}
		if _, holds := bad.Proven(); holds {
			rt.Fatal("a hole was never found")
		}
	})
}
