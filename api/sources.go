package api

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/keyledger/keyledger/events"
)

const (
	// maxKnownSources bounds the sources of resolves that a server remembers, some
	// 200 bytes each: more than a platform has machines that resolve.
	maxKnownSources = 1 << 13

	// notersAtOnce is how many new ones are noted at a time, and maxToNote how many
	// may wait. One that is let go is noted when it comes again.
	notersAtOnce = 4
	maxToNote    = 256

	// noteFor bounds one try to note a source.
	noteFor = 10 * time.Second
)

// seen is where a provider key was resolved from.
type seen struct {
	sourceName
	by events.KeyID
	at events.Time
}

// sourceName tells sources apart.
type sourceName struct {
	org      events.OrgID
	provider events.ProviderID
	source   string
}

// sources notes where provider keys are resolved from that they never were before.
// Nobody waits for it: the answer was given.
type sources struct {
	tell func(context.Context, seen) error
	log  *slog.Logger
	// noting ends with cancel.
	noting context.Context
	cancel context.CancelFunc

	mu     sync.Mutex // guards all of the following
	known  map[sourceName]bool
	todo   []seen
	noters int
	closed bool

	done sync.WaitGroup
}

func newSources(tell func(context.Context, seen) error, log *slog.Logger) *sources {
	s := &sources{tell: tell, log: log, known: map[sourceName]bool{}}
	s.noting, s.cancel = context.WithCancel(context.Background())
	return s
}

// note takes a source, which may have been noted before.
func (s *sources) note(one seen) {
	if one.source == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.known[one.sourceName] || len(s.todo) >= maxToNote {
		return
	}
	if len(s.known) >= maxKnownSources {
		// The ledger knows what was noted: to ask it again does no harm.
		clear(s.known)
	}
	s.known[one.sourceName] = true
	s.todo = append(s.todo, one)
	if s.noters < notersAtOnce {
		s.noters++
		s.done.Go(s.work)
	}
}

// work notes what there is to note, and ends.
func (s *sources) work() {
	for {
		s.mu.Lock()
		if len(s.todo) == 0 || s.noting.Err() != nil {
			s.noters--
			s.mu.Unlock()
			return
		}
		one := s.todo[0]
		s.todo = s.todo[1:]
		s.mu.Unlock()
		ctx, cancel := context.WithTimeout(s.noting, noteFor)
		err := s.tell(ctx, one)
		cancel()
		if err == nil {
			continue
		}
		s.mu.Lock()
		delete(s.known, one.sourceName)
		s.mu.Unlock()
		s.log.LogAttrs(ctx, slog.LevelWarn, "a new source of a provider key is not noted yet: it will be when it comes again",
			slog.String("organization", string(one.org)), slog.String("provider", string(one.provider)), slog.Any("error", err))
	}
}

// close takes no more, and waits for what was taken until the context ends. What is
// not noted by then will be when it comes again.
func (s *sources) close(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	defer s.cancel()
	defer context.AfterFunc(ctx, s.cancel)()
	s.done.Wait()
}
