package commands

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/erasure"
	"github.com/keyledger/keyledger/events"
)

// ErrNotDestroyed says that an erasure is recorded, or that a provider's secret is
// replaced or removed, and that what opens it is not known to be destroyed. Whoever
// follows the ledger goes on with it.
var ErrNotDestroyed = errors.New("commands: what is erased is recorded and not known to be destroyed")

// Erased tells what became of a wish to erase a data subject.
type Erased struct {
	Outcome
	// Keys are the sealing keys that are destroyed by it.
	Keys []string
}

// EraseSubject erases what was sealed of a data subject: the fact that it is erased
// is recorded, and then the key destroyed that opens it. Whoever follows the ledger
// does so too, should this server not come to it; see [Service.FinishErasure]. What
// was stored in clear before the organization had its texts sealed stays.
//
// It can be done in an organization that has ended. With [ErrNotDestroyed] the fact
// is recorded; to repeat the wish finishes it, or tells that it is finished.
func (s *Service) EraseSubject(ctx context.Context, w Wish, org events.OrgID, subject events.DataSubject) (Erased, error) {
	if err := w.Principal.authorizeOrg(org); err != nil {
		return Erased{}, err
	}
	if _, err := events.ParseDataSubject(string(subject)); err != nil {
		return Erased{}, domain.RefuseID("subject")
	}
	if s.cfg.Subjects == nil {
		return Erased{}, errNoSubjects
	}
	at := events.ErasureSubject(org, subject)
	o, err := s.order(w, at.String())
	if err != nil {
		return Erased{}, err
	}
	var destroy []string
	out, err := s.settle(ctx, o, func(ctx context.Context) (attempt, error) {
		// What is held comes first: of a key that somebody destroys meanwhile the
		// facts tell by then.
		held, err := s.cfg.Subjects.Held(ctx, org, subject)
		if err != nil {
			return attempt{}, err
		}
		state, h, err := load(ctx, s, at, erasure.State{}, erasure.Evolve)
		if err != nil {
			return attempt{}, err
		}
		a := attempt{histories: map[events.Subject]history{at: h}, revision: h.revision(), position: h.last()}
		if a.done, err = h.own(o); err != nil {
			return a, err
		}
		if len(a.done) > 0 {
			destroy = namedBy(a.done)
			return a, nil
		}
		wish := erasure.Erase{Insist: w.insists()}
		if destroy = nil; held != "" {
			wish.Held, destroy = []string{held}, []string{held}
		}
		facts, err := erasure.Decide(state, wish)
		for _, e := range facts {
			a.facts = append(a.facts, placed{subject: at, event: e})
		}
		a.config = s.cfg.Configuration.position()
		return a, err
	})
	if err != nil || w.DryRun {
		return Erased{Outcome: out, Keys: destroy}, err
	}
	if _, err := s.FinishErasure(ctx, org, subject, destroy); err != nil {
		return Erased{Outcome: out}, fmt.Errorf("%w: %w", ErrNotDestroyed, err)
	}
	return Erased{Outcome: s.answer(ctx, o, out), Keys: destroy}, nil
}

// namedBy are the keys that facts say are erased.
func namedBy(facts []events.Recorded) []string {
	var out []string
	for _, f := range facts {
		if e, ok := f.Event.(events.SubjectErased); ok {
			out = append(out, e.Keys...)
		}
	}
	return out
}

// FinishErasure destroys the keys that a fact says are erased, and reports whether
// any of them was still there. Any number of servers may do it, at any time.
func (s *Service) FinishErasure(ctx context.Context, org events.OrgID, subject events.DataSubject, keys []string) (bool, error) {
	if len(keys) == 0 {
		return false, nil
	}
	if s.cfg.Subjects == nil {
		return false, errNoSubjects
	}
	return s.cfg.Subjects.Destroy(ctx, org, subject, keys)
}
