package erasure_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/memory"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/relay/erasure"
)

const (
	acme   = events.OrgID("acme")
	person = events.DataSubject("user-4711")
)

var _ projections.View = (*erasure.Keeper)(nil)

// world is a ledger with its seals, and any number of servers on it.
type world struct {
	testing.TB
	log  *memory.Ledger
	keys *seals.Keys
	next events.Position
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{TB: t, log: memory.New(events.LedgerID{1})}
	text, err := seals.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := seals.ParseKey(text)
	if err == nil {
		w.keys, err = seals.Make(t.Context(), w.log, key, events.LedgerID{1})
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) subjects() *seals.Subjects {
	return seals.NewSubjects(w.keys, w.log, events.LedgerID{1})
}

// sealed is a text of a subject.
func (w *world) sealed(subject events.DataSubject) events.Sealed {
	w.Helper()
	out, err := w.subjects().Seal(w.Context(), acme, subject, seals.TextOfFact, "Alice")
	if err != nil {
		w.Fatal(err)
	}
	return out
}

// fact is an erasure that was recorded.
func (w *world) fact(subject events.DataSubject, keys ...string) events.Recorded {
	w.next++
	return events.Recorded{Position: w.next, Subject: events.ErasureSubject(acme, subject), Event: events.SubjectErased{Keys: keys}}
}

// server follows what it is told.
type server struct {
	*erasure.Keeper
	subjects *seals.Subjects
}

func (w *world) server(destroy func(context.Context, events.OrgID, events.DataSubject, []string) (bool, error)) *server {
	w.Helper()
	s := &server{subjects: w.subjects()}
	if destroy == nil {
		destroy = s.subjects.Destroy
	}
	var err error
	s.Keeper, err = erasure.New(erasure.Config{Forget: s.subjects.Forget, Destroy: destroy, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// run runs a server until the test ends.
func (s *server) run(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { s.Run(ctx) })
	t.Cleanup(func() { stop(); done.Wait() })
}

func (s *server) hears(t testing.TB, facts ...events.Recorded) {
	t.Helper()
	if err := s.Apply(t.Context(), facts); err != nil {
		t.Fatal(err)
	}
}

func (w *world) held(subject events.DataSubject) string {
	w.Helper()
	id, err := w.subjects().Held(w.Context(), acme, subject)
	if err != nil {
		w.Fatal(err)
	}
	return id
}

// Whoever recorded an erasure is gone: a server that starts meets the fact and
// finishes it, and whatever it has in memory is forgotten before the position counts
// as applied.
func TestErasuresAreFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		mine, other := w.sealed(person), w.sealed("user-2")
		s := w.server(nil)
		if text, err := s.subjects.Open(t.Context(), acme, mine, seals.TextOfFact); err != nil || text != "Alice" {
			t.Fatal(text, err)
		}
		erased := w.fact(person, mine.Key)
		s.hears(t, events.Recorded{Position: 0, Subject: events.OrganizationSubject(acme), Event: events.OrganizationCreated{}}, erased)
		if _, err := s.subjects.Open(t.Context(), acme, mine, seals.TextOfFact); !errors.Is(err, seals.ErrErased) {
			t.Error(err)
		}
		if pos, err := s.Position(t.Context()); err != nil || pos != erased.Position || s.Stats().Pending != 1 {
			t.Error(pos, err, s.Stats())
		}
		s.run(t)
		synctest.Wait()
		if w.held(person) != "" || w.held("user-2") != other.Key {
			t.Error("it is not destroyed, or too much is")
		}
		if got := s.Stats(); got != (erasure.Stats{Destroyed: 1}) {
			t.Errorf("%+v", got)
		}
		// What is sealed since is not touched, however often it is told.
		next := w.sealed(person)
		again := w.server(nil)
		again.run(t)
		again.hears(t, erased, w.fact(person), w.fact(person, mine.Key))
		synctest.Wait()
		if w.held(person) != next.Key {
			t.Error("what was sealed since is destroyed")
		}
		if got := again.Stats(); got != (erasure.Stats{}) {
			t.Errorf("%+v", got)
		}
	})
}

// A broker that does not answer, or whose answer is lost, is asked again until it is
// done; and the others' erasures do not wait for one that cannot be done.
func TestFailedTriesAreMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		mine, other := w.sealed(person), w.sealed("user-2")
		tries := map[events.DataSubject]int{}
		var s *server
		s = w.server(func(ctx context.Context, org events.OrgID, subject events.DataSubject, keys []string) (bool, error) {
			tries[subject]++
			switch {
			case subject == person && tries[subject] <= 5:
				return false, events.ErrUnavailable
			case subject == person && tries[subject] == 6:
				_, err := s.subjects.Destroy(ctx, org, subject, keys)
				return false, errors.Join(err, fmt.Errorf("%w: the answer is lost", events.ErrUnavailable))
			}
			return s.subjects.Destroy(ctx, org, subject, keys)
		})
		s.hears(t, w.fact(person, mine.Key), w.fact("user-2", other.Key))
		s.run(t)
		time.Sleep(time.Minute)
		if w.held(person) != "" || w.held("user-2") != "" || tries[person] != 7 || tries["user-2"] != 1 {
			t.Errorf("it was tried %v", tries)
		}
		if got := s.Stats(); got.Pending != 0 || got.Failed != 6 {
			t.Errorf("%+v", got)
		}
	})
}

// Two servers that hear of it at once destroy it once.
func TestServersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var facts []events.Recorded
		var subjects []events.DataSubject
		for i := range 50 {
			subjects = append(subjects, events.DataSubject(fmt.Sprintf("user-%d", i)))
			facts = append(facts, w.fact(subjects[i], w.sealed(subjects[i]).Key))
		}
		one, two := w.server(nil), w.server(nil)
		for _, s := range []*server{one, two} {
			s.run(t)
			s.hears(t, facts...)
		}
		synctest.Wait()
		for _, subject := range subjects {
			if w.held(subject) != "" {
				t.Errorf("%s is still there", subject)
			}
		}
		if n := one.Stats().Destroyed + two.Stats().Destroyed; n != 50 {
			t.Errorf("%d were destroyed", n)
		}
	})
}

func TestConfig(t *testing.T) {
	if _, err := erasure.New(erasure.Config{}); err == nil {
		t.Error("nothing was missed")
	}
}
