package continuity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/events"
)

var (
	// ErrRefused says that a tick is none: unsigned, or not in its place. Nothing
	// rests on it.
	ErrRefused = fmt.Errorf("continuity: tick is refused: %w", events.ErrCorrupt)

	// ErrDisagrees says that a tick of the installation tells of other facts than
	// the reader has seen: some were kept from him, or are not the ledger's.
	ErrDisagrees = fmt.Errorf("continuity: tick disagrees with what was read: %w", events.ErrCorrupt)
)

// recent is how old a tick may be for its signature to be checked although the
// tick tells of no scope. An idle ledger has three million such ticks a year, and a
// signature takes as long as twenty facts: those of old ones, on which no freshness
// rests, are left to an audit. What is told of a scope is what later ticks leave
// out, so that everybody has to have taken the same ones for true.
const recent = time.Hour

// Config says who reads.
type Config struct {
	// Ledger is the ledger that ticks must be of. Required.
	Ledger events.LedgerID
	// Scope is the label of a reader that is narrowed to Organizations, as its
	// credential says. Both are empty for a reader of the whole ledger.
	Scope         events.ScopeLabel
	Organizations []events.OrgID
	// VerifierKeys are the keys that ticks may be signed with, in the form of C2SP
	// signed-note. Without any, those that the ledger itself names.
	VerifierKeys []string
	// Logger takes what does not agree. Nothing is logged without one.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	if c.Ledger.IsZero() {
		faults = append(faults, errors.New("continuity: no ledger"))
	}
	if (c.Scope == "") != (len(c.Organizations) == 0) {
		faults = append(faults, errors.New("continuity: a scope and its organizations go together"))
	}
	for _, key := range c.VerifierKeys {
		if _, err := note.NewVerifier(key); err != nil {
			faults = append(faults, fmt.Errorf("continuity: verifier key: %w", err))
		}
	}
	return errors.Join(faults...)
}

// View is a reader's own count. One goroutine feeds it, as a
// [projections.Runner] does; all else may be called by any.
type View struct {
	ledger events.LedgerID
	log    *slog.Logger
	// label and own are those of a narrowed reader.
	label events.ScopeLabel
	own   []events.OrgID
	// pinned says that the ledger's word on who signs does not count.
	pinned bool

	mu      sync.Mutex // guards the following
	signers []note.Verifier
	// named are the keys of those that the ledger itself names.
	named  []string
	chains chains
	// installation is where the last fact of the installation itself stands.
	installation events.Position
	epoch        uint32
	scopes       map[events.ScopeLabel]*scope
	allowed      map[events.CredentialName]time.Duration // the verifiers' max_staleness, 0 for the default and for others
	ticks        ticks
	// proven is the broker's time up to which the reader is shown to hold
	// everything; doubt says that nothing shows it any more.
	proven events.Time
	doubt  bool
	err    error
	faults uint64
}

// scope is one that ticks tell of.
type scope struct {
	name events.CredentialName
	orgs []events.OrgID
	// verifies says that it is a verifier's.
	verifies bool
	// told is what the last tick said, and at is where that tick stands, 0 for
	// none.
	told events.TickScope
	at   events.Position
	// ended says that its credential was revoked: ticks leave it out.
	ended bool
}

// ticks is what is known of the ticks so far.
type ticks struct {
	// position is that of whatever stands last on their subject.
	position events.Position
	// revision is that of the last one that was the next; accepted is where the
	// last one stands that agreed, and stored is when it was.
	revision events.Revision
	accepted events.Position
	stored   events.Time
}

// New returns a view at the ledger's beginning.
func New(c Config) (*View, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	v := &View{
		ledger: c.Ledger, log: c.Logger, label: c.Scope, own: slices.Clone(c.Organizations), pinned: len(c.VerifierKeys) > 0,
		chains: newChains(), scopes: make(map[events.ScopeLabel]*scope), allowed: make(map[events.CredentialName]time.Duration),
	}
	slices.Sort(v.own)
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	for _, key := range c.VerifierKeys {
		v.signer(key)
	}
	if v.label != "" {
		v.scopes[v.label] = &scope{orgs: v.own}
	}
	return v, nil
}

// Name names the view in logs and metrics.
func (v *View) Name() string { return "continuity" }

// Position returns the last position applied.
func (v *View) Position(context.Context) (events.Position, error) { return v.Applied(), nil }

// Applied is Position, without its error.
func (v *View) Applied() events.Position {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.chains.through
}

// Apply counts facts, and checks ticks. It never fails: what does not agree is
// told by [View.Err] and denied by [View.Proven].
func (v *View) Apply(ctx context.Context, facts []events.Recorded) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	whole := v.label == ""
	for i := range facts {
		f := &facts[i]
		agreed := true
		if f.Subject.Org == events.System {
			agreed = v.system(ctx, f)
		}
		own := whole && f.Subject.Org != "" || !whole && slices.Contains(v.own, f.Subject.Org)
		v.chains.add(f, whole, own)
		if whole && agreed {
			v.proven = f.Stored
		}
	}
	return nil
}

// system minds the installation's own facts. It reports whether there is nothing
// wrong with a tick.
func (v *View) system(ctx context.Context, f *events.Recorded) (agreed bool) {
	switch f.Subject {
	case events.TickSubject():
		defer func() { v.ticks.position = f.Position }()
	case events.InstallationSubject():
		v.installation = f.Position
	}
	switch e := f.Event.(type) {
	case events.InstallationCreated:
		v.epoch = max(v.epoch, e.Epoch)
	case events.InstallationSignerAdded:
		v.name(e.VerifierKey)
		if !v.pinned {
			v.signer(e.VerifierKey)
		}
	case events.CredentialIssued:
		v.issued(e)
	case events.CredentialRevoked:
		v.revoked(events.CredentialName(f.Subject.ID))
	case events.Tick:
		return v.tick(ctx, f, e)
	default:
		if f.Subject == events.TickSubject() {
			return v.judged(ctx, f, fmt.Errorf("%w: it cannot be read", ErrRefused))
		}
	}
	return true
}

// name keeps a key that the ledger names.
func (v *View) name(key string) {
	if _, err := note.NewVerifier(key); err == nil && !slices.Contains(v.named, key) {
		v.named = append(v.named, strings.Clone(key))
	}
}

// signer takes a key in. One that cannot be read signs nothing, and one that is
// there already would make its own signatures ambiguous.
func (v *View) signer(key string) {
	s, err := note.NewVerifier(key)
	if err != nil || slices.ContainsFunc(v.signers, func(o note.Verifier) bool {
		return o.Name() == s.Name() && o.KeyHash() == s.KeyHash()
	}) {
		return
	}
	v.signers = append(v.signers, s)
}

// issued takes in the scope of whoever reads a part of the ledger, and a verifier's
// bound. A name is issued once, a label drawn once: whatever comes later under one
// changes nothing.
func (v *View) issued(e events.CredentialIssued) {
	if e.For == events.CredentialSubscriber || e.For == events.CredentialLeaf || v.label != "" {
		return
	}
	if _, known := v.allowed[e.Name]; known {
		return
	}
	v.allowed[e.Name] = 0
	if e.For == events.CredentialVerifier {
		v.allowed[e.Name] = time.Duration(e.MaxStaleness) * time.Second
	}
	if _, known := v.scopes[e.Scope]; e.Scope == "" || len(e.Organizations) == 0 || known {
		return
	}
	orgs := slices.Clone(e.Organizations)
	slices.Sort(orgs)
	v.scopes[e.Scope] = &scope{name: e.Name, orgs: orgs, verifies: e.For == events.CredentialVerifier}
}

func (v *View) revoked(name events.CredentialName) {
	if _, known := v.allowed[name]; !known {
		return
	}
	// It stays known, so that the name is not taken again, and bounds nothing.
	v.allowed[name] = 0
	for _, s := range v.scopes {
		if s.name == name {
			s.ended = true
		}
	}
}

// Proven returns the broker's time up to which the reader is shown to hold
// everything there was, zero if nothing shows that yet; and whether what was
// shown before still holds. It is what a [projections.Runner] takes its
// freshness from.
func (v *View) Proven() (at events.Time, holds bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.proven, !v.doubt
}

// Err returns why the last tick was not agreed with, nil if it was.
func (v *View) Err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

// Faults counts the ticks that were refused or disagreed.
func (v *View) Faults() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.faults
}

// Signers returns the keys that the ledger names as those that sign for it.
func (v *View) Signers() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.named)
}

// Epoch returns the ledger's epoch, 0 before it was read.
func (v *View) Epoch() uint32 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.epoch
}

// Allowed returns the bound that a verifier was let in with, 0 for the default and
// for what is not known: a narrowed reader knows its own from a server's snapshot
// alone.
func (v *View) Allowed(name events.CredentialName) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.allowed[name]
}

// Ledger returns the ledger that is read.
func (v *View) Ledger() events.LedgerID { return v.ledger }

// MaxStaleness returns the smallest bound that a verifier was let in with, 0 if
// none has one of its own.
func (v *View) MaxStaleness() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	var smallest time.Duration
	for _, d := range v.allowed {
		if d > 0 && (smallest == 0 || d < smallest) {
			smallest = d
		}
	}
	return smallest
}
