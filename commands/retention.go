package commands

import (
	"context"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/period"
	"github.com/keyledger/keyledger/domain/retention"
	"github.com/keyledger/keyledger/events"
)

// DropUses records that single uses of an organization are dropped, if there are any
// that were not dropped before. It is this program's own wish: any number of servers
// may try, and one of them records it. Days are as in [retention.DropUses].
func (s *Service) DropUses(ctx context.Context, org events.OrgID, before events.Time, through events.Position, days []events.UsesDay) (Outcome, error) {
	return s.drop(ctx, events.RetentionSubject(org), retention.DropUses{Before: before, Through: through, Days: days})
}

// DropBlocks records that the stream of uses is going to begin behind a position,
// if it was not recorded before. Only then they may be removed. Stored, blocks and
// days are as in [retention.DropBlocks].
func (s *Service) DropBlocks(ctx context.Context, stored events.Time, through events.Position, blocks uint64, days []events.UsesDay) (Outcome, error) {
	return s.drop(ctx, events.StreamRetentionSubject(), retention.DropBlocks{Stored: stored, Through: through, Blocks: blocks, Days: days})
}

func (s *Service) drop(ctx context.Context, at events.Subject, command retention.Command) (Outcome, error) {
	o, err := s.order(Wish{Principal: Principal{Actor: events.Actor{Type: events.ActorSystem, Name: "retention"}}}, "")
	if err != nil {
		return Outcome{}, err
	}
	return s.settle(ctx, o, func(ctx context.Context) (attempt, error) {
		state, h, err := load(ctx, s, at, retention.State{}, retention.Evolve)
		if err != nil {
			return attempt{}, err
		}
		a := attempt{histories: map[events.Subject]history{at: h}, revision: h.revision(), position: h.last()}
		// Where the answer was lost, it may be recorded.
		if a.done, err = h.own(o); err != nil || len(a.done) > 0 {
			return a, err
		}
		facts, err := retention.Decide(state, command)
		for _, e := range facts {
			a.facts = append(a.facts, placed{subject: at, event: e})
		}
		_, a.config = s.cfg.Configuration.Of(at.Org)
		return a, err
	})
}

// DroppedUses tells what was dropped of an organization's uses, and counts it.
func (s *Service) DroppedUses(ctx context.Context, org events.OrgID) (retention.State, error) {
	state, _, err := load(ctx, s, events.RetentionSubject(org), retention.State{}, retention.Evolve)
	return state, err
}

// retain refuses a retention that is longer than the installation's.
func (s *Service) retain(wanted events.Period) error {
	most := s.cfg.UsesRetention
	if wanted == "" || period.Check("", wanted) != nil || most == "" || most == period.Never || period.Compare(wanted, most) <= 0 {
		return nil
	}
	return domain.Refuse(domain.ErrInvalid, "policy.uses_retention", "is %s, and this installation keeps single uses for %s at most", wanted, most)
}
