// Package erasure sees to it that what was erased is gone: it follows the ledger,
// and of every erasure that it meets it destroys the keys that sealed what was
// erased, wherever they are still there.
//
// The fact that a data subject is erased is recorded before its keys are destroyed,
// and whoever records it may not come to that. So every server runs a [Keeper],
// which begins with the ledger's first fact at every start: the last server that
// was there finishes what it began. They need no leader among themselves, since a
// key is destroyed once and a key that is drawn later is another.
package erasure

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/events"
)

const (
	// patience bounds one try.
	patience = 10 * time.Second

	// firstBackoff and longestBackoff are the waits after one that failed.
	firstBackoff, longestBackoff = 250 * time.Millisecond, 15 * time.Second
)

// Config says what a keeper works with. All of it is required.
type Config struct {
	// Forget takes keys of a data subject for erased in this process, at once.
	Forget func(org events.OrgID, subject events.DataSubject, keys []string)
	// Destroy destroys them, where they are still there, and reports whether any
	// was. Whatever it fails with is tried again.
	Destroy func(ctx context.Context, org events.OrgID, subject events.DataSubject, keys []string) (bool, error)
	// Logger takes what operators should know.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	for what, missing := range map[string]bool{"Forget": c.Forget == nil, "Destroy": c.Destroy == nil, "Logger": c.Logger == nil} {
		if missing {
			faults = append(faults, errors.New("erasure: no "+what))
		}
	}
	return errors.Join(faults...)
}

// Stats tell how a keeper is doing.
type Stats struct {
	// Pending are the data subjects whose keys may still be there. Destroyed were
	// destroyed by this keeper, and Failed tries failed.
	Pending, Destroyed, Failed uint64
}

// Keeper finishes erasures. It is a [projections.View] of the ledger, and remembers
// nothing after a crash.
type Keeper struct {
	cfg  Config
	news chan struct{}

	mu      sync.Mutex
	at      events.Position
	pending map[owner][]string

	destroyed, failed atomic.Uint64
}

// owner is whose keys they are.
type owner struct {
	org     events.OrgID
	subject events.DataSubject
}

// New returns a keeper. It does nothing before Run.
func New(cfg Config) (*Keeper, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Keeper{cfg: cfg, news: make(chan struct{}, 1), pending: map[owner][]string{}}, nil
}

// Name names the view.
func (k *Keeper) Name() string { return "erasures" }

// Position returns the last position applied.
func (k *Keeper) Position(context.Context) (events.Position, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.at, nil
}

// Apply takes in what was erased. It destroys nothing itself: that takes the broker.
func (k *Keeper) Apply(_ context.Context, facts []events.Recorded) error {
	for _, f := range facts {
		e, ok := f.Event.(events.SubjectErased)
		if !ok || len(e.Keys) == 0 {
			continue
		}
		of := owner{f.Subject.Org, events.DataSubject(f.Subject.ID)}
		k.cfg.Forget(of.org, of.subject, e.Keys)
		k.add(of, e.Keys)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.at = facts[len(facts)-1].Position
	return nil
}

func (k *Keeper) add(of owner, keys []string) {
	k.mu.Lock()
	k.pending[of] = append(k.pending[of], keys...)
	k.mu.Unlock()
	select {
	case k.news <- struct{}{}:
	default: // it is awake already
	}
}

// Run destroys keys until the context ends.
func (k *Keeper) Run(ctx context.Context) {
	backoff := firstBackoff
	for ctx.Err() == nil {
		of, keys, there := k.next()
		if !there {
			select {
			case <-k.news:
			case <-ctx.Done():
			}
			continue
		}
		if k.destroy(ctx, of, keys) {
			backoff = firstBackoff
			continue
		}
		k.add(of, keys)
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
		}
		backoff = min(2*backoff, longestBackoff)
	}
}

// next takes what is to be destroyed next.
func (k *Keeper) next() (of owner, keys []string, there bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for of, keys = range k.pending {
		delete(k.pending, of)
		return of, keys, true
	}
	return of, nil, false
}

// destroy reports whether keys are not there any more.
func (k *Keeper) destroy(ctx context.Context, of owner, keys []string) bool {
	trying, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	done, err := k.cfg.Destroy(trying, of.org, of.subject, keys)
	switch {
	case err == nil && done:
		k.destroyed.Add(1)
	case err != nil && ctx.Err() == nil:
		k.failed.Add(1)
		k.cfg.Logger.WarnContext(ctx, "what opens an erased data subject's texts is not destroyed yet; it is tried again", "organization", string(of.org), "error", err)
	}
	return err == nil
}

// Stats tells how the keeper is doing.
func (k *Keeper) Stats() Stats {
	k.mu.Lock()
	pending := uint64(len(k.pending))
	k.mu.Unlock()
	return Stats{Pending: pending, Destroyed: k.destroyed.Load(), Failed: k.failed.Load()}
}
