package verify

import (
	"context"
	"sync/atomic"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
)

// source is the ledger as the credential shows it.
type source struct {
	reader   *jetstream.Reader
	narrowed bool
	// from is where reading begins, and handed counts what came.
	from   events.Position
	handed atomic.Uint64
}

// Follow hands over what the credential shows after a position.
func (s *source) Follow(ctx context.Context, after events.Position, apply func([]events.Recorded) error) error {
	if !s.narrowed {
		return s.reader.Follow(ctx, after, apply)
	}
	return s.reader.Follow(ctx, after, func(facts []events.Recorded) error {
		if err := apply(facts); err != nil {
			return err
		}
		s.handed.Add(uint64(len(facts)))
		return nil
	})
}

// Last is how far it goes. Of a part of the ledger its reader is told that it goes at
// least so far, which may be less than what was read at an earlier start.
func (s *source) Last(ctx context.Context) (events.Position, error) {
	last, err := s.reader.Last(ctx)
	if s.narrowed {
		last = max(last, s.from)
	}
	return last, err
}

// caughtUp reports whether a reader of a part has come to where it ended when reading
// began. By positions alone he could not tell. A reader of everything can.
func (s *source) caughtUp() bool {
	if !s.narrowed {
		return true
	}
	ahead, begun := s.reader.Ahead()
	return begun && s.handed.Load() >= ahead
}
