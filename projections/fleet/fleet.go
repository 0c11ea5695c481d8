// Package fleet tells which verifiers there are, which of them are heard of, how far
// each has come, and by whom a revocation is applied: a view in memory of what
// verifiers announce of themselves and of the credentials that were issued to them.
//
// Two streams feed it: the ledger, as any view ([View.Apply]), and announcements
// ([View.Hear]). An announcement is its verifier's own word, and nobody else's: the
// broker takes it under the verifier's own name alone. Which organizations a verifier
// serves is the ledger's word, where it has a credential.
//
// Times are the broker's. That a verifier holds a position is known from its first
// announcement that says so, which tells also how long ago the last revocation was
// applied: it had it by then, or some milliseconds earlier. What is known of that is kept for revocations, since nobody asks about other positions, and
// goes when the server does; the stream of announcements brings back its last minutes.
package fleet

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/presence"
)

// Name is the view's name.
const Name = "fleet"

// The bounds of the view.
const (
	// MaxVerifiers bounds the names that are known: more than a broker has
	// connections for. Further ones are faults.
	MaxVerifiers = 1 << 16

	// maxRuns is how many runs are known of a verifier: the one that answers, those
	// that may answer beside it by mistake, and those that just broke off.
	maxRuns = 4

	// maxSteps is how many of the moments are known at which a run had come to hold a
	// revocation that it had not before: some 25 KiB.
	maxSteps = 1024

	// maxRevocations is how many positions of revocations are known: 512 KiB.
	maxRevocations = 1 << 16

	// maxTimed is how many revocations are timed at once, see [View.Propagated].
	maxTimed = 16

	// Remembered is how long a verifier is told of that is not heard of any more. The
	// stream of announcements keeps them as long.
	Remembered = presence.Remembered
)

// Config says whose verifiers.
type Config struct {
	// Ledger is the installation's. Required.
	Ledger events.LedgerID
	// MaxStaleness is the bound of a verifier whose credential names none. Required.
	MaxStaleness time.Duration
	// Logger takes announcements that are none. Nothing is logged without one.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	if c.Ledger.IsZero() {
		faults = append(faults, errors.New("fleet: no ledger"))
	}
	if c.MaxStaleness <= 0 {
		faults = append(faults, errors.New("fleet: no MaxStaleness"))
	}
	return errors.Join(faults...)
}

// View is the view. Apply is called by one goroutine at a time, all else by any.
type View struct {
	cfg Config
	log *slog.Logger

	mu          sync.RWMutex // guards the following
	applied     events.Position
	credentials map[events.VerifierID]credential
	verifiers   map[events.VerifierID]*verifier
	names       []events.VerifierID // of both, in order
	revocations []events.Position
	timed       []timed
	clock       clock
	changed     chan struct{}
	faults      uint64
	complained  time.Time
}

// credential is what the ledger says of a verifier.
type credential struct {
	issued, revoked events.Time
	organizations   []events.OrgID
	maxStaleness    time.Duration
}

// New returns a view at both streams' beginnings.
func New(c Config) (*View, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	v := &View{
		cfg: c, log: c.Logger, clock: clock{began: time.Now()}, changed: make(chan struct{}),
		credentials: make(map[events.VerifierID]credential), verifiers: make(map[events.VerifierID]*verifier),
	}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	return v, nil
}

// Name names the view in logs and metrics.
func (v *View) Name() string { return Name }

// Position returns the last position of the ledger that was applied.
func (v *View) Position(context.Context) (events.Position, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.applied, nil
}

// Apply takes in credentials and revocations. It never fails.
func (v *View) Apply(_ context.Context, facts []events.Recorded) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range facts {
		f := &facts[i]
		switch e := f.Event.(type) {
		case events.CredentialIssued:
			v.issued(f, e)
		case events.CredentialRevoked:
			name := events.VerifierID(f.Subject.ID)
			if c, ok := v.credentials[name]; ok && c.revoked == 0 {
				c.revoked = f.Stored
				v.credentials[name] = c
			}
		}
		if f.Subject.Aggregate == events.AggregateRevoked {
			v.revoked(f)
		}
		v.applied = f.Position
	}
	return nil
}

func (v *View) issued(f *events.Recorded, e events.CredentialIssued) {
	name := events.VerifierID(e.Name)
	if _, known := v.credentials[name]; known || e.For != events.CredentialVerifier {
		return
	}
	c := credential{issued: f.Stored, organizations: slices.Clone(e.Organizations), maxStaleness: time.Duration(e.MaxStaleness) * time.Second}
	if c.maxStaleness == 0 {
		c.maxStaleness = v.cfg.MaxStaleness
	}
	v.credentials[name] = c
	v.name(name)
}

func (v *View) revoked(f *events.Recorded) {
	if len(v.revocations) == 2*maxRevocations {
		v.revocations = slices.Clone(v.revocations[maxRevocations:])
	}
	v.revocations = append(v.revocations, f.Position)
	// Those of a replay are over.
	if now := time.Now(); len(v.timed) < maxTimed && now.Sub(f.Stored.Std()) < timedFor {
		v.timed = append(v.timed, timed{Revocation{f.Subject.Org, f.Position, f.Stored}, now})
	}
}

// asks reports whether anybody may ask about a position within (after, through].
// Where the ledger is not applied that far, nobody knows.
func (v *View) asks(after, through events.Position) bool {
	if through > v.applied {
		return true
	}
	i, found := slices.BinarySearch(v.revocations, after)
	if found {
		i++
	}
	return i < len(v.revocations) && v.revocations[i] <= through
}

// Changed returns a channel that is closed when the next announcement comes.
func (v *View) Changed() <-chan struct{} {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.changed
}

// Faults counts announcements that were none.
func (v *View) Faults() uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.faults
}

// name takes the name of a verifier in.
func (v *View) name(name events.VerifierID) {
	if i, known := slices.BinarySearch(v.names, name); !known {
		v.names = slices.Insert(v.names, i, name)
	}
}
