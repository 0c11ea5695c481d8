// Package snapshots keeps snapshots beside the ledger, from which verifiers start
// without reading all of it: one of everything, and one for every scope that a
// verifier is narrowed to.
//
// Every server runs a [Keeper]. They need no leader among themselves: each looks at
// what is stored before it makes another, and whoever comes second with the same is
// told so by the broker. A snapshot is signed with the installation's key, and is
// nothing that cannot be made again.
package snapshots

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/snapshots"
	"github.com/keyledger/keyledger/projections/continuity"
	"github.com/keyledger/keyledger/projections/snapshot"
	"github.com/keyledger/keyledger/relay"
)

const (
	// newer and newerPart are how many facts a snapshot has to be behind before
	// another is made: so many, and a part of all there are. It costs as much as
	// there is, and saves reading what is new; so making them costs each fact as
	// little as reading a few dozen, however large the ledger.
	newer     = 100
	newerPart = 50

	// oldest is when another is made for a single fact: who starts from it has to
	// read every tick since.
	oldest = 24 * time.Hour

	// firstWait bounds the random wait before the first round, so that servers that
	// are started as one do not all begin with the same.
	firstWait = 5 * time.Second
)

// Store is where snapshots lie.
type Store interface {
	// SnapshotManifest returns the manifest of a scope's snapshot, and whether there
	// is one.
	SnapshotManifest(ctx context.Context, scope events.ScopeLabel) (snapshots.Manifest, bool, error)
	// PublishSnapshot stores a snapshot in the place of the last. It fails with
	// [events.ErrConflict] where another has been stored meanwhile.
	PublishSnapshot(ctx context.Context, m snapshots.Manifest, r io.Reader) error
}

// Config says what a keeper works with. All of it is required.
type Config struct {
	// Freeze takes a picture of what this server knows.
	Freeze func() (*snapshot.Picture, error)
	// Count is the count of that alone, which costs less.
	Count func() (*continuity.Frozen, error)
	// Ready is closed once this server knows what the ledger held when it started.
	Ready <-chan struct{}
	// Store is where snapshots lie.
	Store Store
	// Signer signs for the installation.
	Signer note.Signer
	// Every is how often it is looked whether snapshots are to be made.
	Every time.Duration
	// Folder takes a snapshot while it is being made; it is large, and gone again as
	// soon as it is stored.
	Folder string
	// Now is the clock.
	Now func() time.Time
	// Logger takes what operators should know.
	Logger *slog.Logger
}

// Validate reports every fault of the configuration at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, errors.New("snapshots: "+text))
		}
	}
	fault(c.Freeze == nil || c.Count == nil, "nothing to make snapshots of")
	fault(c.Ready == nil, "no Ready")
	fault(c.Store == nil, "no Store")
	fault(c.Signer == nil, "no Signer")
	fault(c.Every <= 0, "Every must be positive")
	fault(c.Folder == "", "no Folder")
	fault(c.Now == nil, "no Now")
	fault(c.Logger == nil, "no Logger")
	return errors.Join(faults...)
}

// Stats tell how a keeper is doing.
type Stats struct {
	// Stored are the snapshots that it stored, Lost those that another server was
	// faster with, Failed how often one could not be made or stored.
	Stored, Lost, Failed uint64
	// Of the snapshot of everything, whoever made it, as it was seen last: where it
	// is, up to when it holds everything, and its size. Zero for none.
	Position events.Position
	At       events.Time
	Size     int64
}

// Keeper makes snapshots.
type Keeper struct {
	cfg Config
	// facts is how many facts of a scope there were in the snapshot that is stored,
	// as far as this keeper has seen; only Run's goroutine uses it.
	facts map[events.ScopeLabel]known

	stored, lost, failed atomic.Uint64
	everything           atomic.Pointer[snapshots.Manifest]
}

// known is what is known of a stored snapshot.
type known struct {
	position events.Position
	facts    uint64
}

// New returns a keeper that waits for its Run.
func New(c Config) (*Keeper, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Keeper{cfg: c, facts: map[events.ScopeLabel]known{}}, nil
}

// Stats tells how the keeper is doing.
func (k *Keeper) Stats() Stats {
	s := Stats{Stored: k.stored.Load(), Lost: k.lost.Load(), Failed: k.failed.Load()}
	if m := k.everything.Load(); m != nil {
		s.Position, s.At, s.Size = m.Position, m.Stored, m.Size
	}
	return s
}

// Run makes snapshots until the context ends.
func (k *Keeper) Run(ctx context.Context) {
	select {
	case <-k.cfg.Ready:
	case <-ctx.Done():
		return
	}
	wait := rand.N(min(firstWait, k.cfg.Every))
	for relay.Pause(ctx, wait) {
		if err := k.round(ctx); err != nil && ctx.Err() == nil {
			k.failed.Add(1)
			k.cfg.Logger.WarnContext(ctx, "no snapshot can be made now; verifiers start from an older one, or read the whole ledger", "error", err)
		}
		wait = k.cfg.Every - rand.N(k.cfg.Every/8+1)
	}
}

// round makes the snapshots that are due.
func (k *Keeper) round(ctx context.Context) error {
	count, err := k.cfg.Count()
	if err != nil {
		return err
	}
	scopes := append([]continuity.Scope{{Facts: count.Facts(""), Last: count.Position()}}, count.Scopes()...)
	live := make(map[events.ScopeLabel]known, len(scopes))
	var faults []error
	for _, s := range scopes {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		err := k.keep(ctx, s)
		if had, ok := k.facts[s.Label]; ok {
			live[s.Label] = had
		}
		if relay.Outage(err) || errors.Is(err, snapshot.ErrProblems) {
			return errors.Join(append(faults, err)...)
		}
		faults = append(faults, err)
	}
	// Those of scopes that have ended are forgotten.
	k.facts = live
	return errors.Join(faults...)
}

// keep makes a scope's snapshot if one is due.
func (k *Keeper) keep(ctx context.Context, s continuity.Scope) error {
	stored, there, err := k.cfg.Store.SnapshotManifest(ctx, s.Label)
	if err != nil {
		return fmt.Errorf("snapshots: look for the last one: %w", err)
	}
	if there && s.Label == "" {
		k.everything.Store(&stored)
	}
	if there && !k.due(s, &stored) {
		return nil
	}
	m, facts, err := k.make(ctx, s.Label)
	switch {
	case err == nil:
		k.stored.Add(1)
		k.facts[s.Label] = known{position: m.Position, facts: facts}
		if s.Label == "" {
			k.everything.Store(&m)
		}
		k.cfg.Logger.InfoContext(ctx, "snapshot stored", "scope", snapshots.ScopeToken(s.Label), "position", uint64(m.Position), "bytes", m.Size)
		return nil
	case errors.Is(err, events.ErrConflict):
		k.lost.Add(1)
		return nil
	default:
		return err
	}
}

// due reports whether another snapshot is to take the place of the one that is stored.
func (k *Keeper) due(s continuity.Scope, stored *snapshots.Manifest) bool {
	now := events.TimeOf(k.cfg.Now())
	old := stored.Stored.Add(oldest) < now
	switch {
	case stored.Projection < snapshot.Projection:
		return true
	case stored.Projection > snapshot.Projection:
		// It is left to later programs, as long as there are any.
		return old
	case s.Last <= stored.Position:
		k.facts[s.Label] = known{position: stored.Position, facts: s.Facts}
		return false
	}
	if at := stored.CreatedAt; at <= now && at.Add(k.cfg.Every*3/4) > now {
		return false // another server has just made it
	}
	// What this keeper has not seen stored may hold any number of facts.
	had := k.facts[s.Label]
	return old || had.position != stored.Position || s.Facts-min(had.facts, s.Facts) >= newer+s.Facts/newerPart
}

// make makes a scope's snapshot and stores it.
func (k *Keeper) make(ctx context.Context, scope events.ScopeLabel) (m snapshots.Manifest, facts uint64, err error) {
	file, err := os.CreateTemp(k.cfg.Folder, "snapshot-*")
	if err != nil {
		return m, 0, fmt.Errorf("snapshots: %w", err)
	}
	defer file.Close()
	// Nobody else has to find it, and nothing is left of it after a crash.
	if err := os.Remove(file.Name()); err != nil {
		return m, 0, fmt.Errorf("snapshots: %w", err)
	}
	written, facts, err := k.write(ctx, file, scope)
	if err != nil {
		return m, 0, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return m, 0, fmt.Errorf("snapshots: %w", err)
	}
	m = written.Manifest()
	if m.Signature, err = relay.SignatureLine(k.cfg.Signer, m.Text()); err != nil {
		return m, 0, err
	}
	return m, facts, k.cfg.Store.PublishSnapshot(ctx, m, file)
}

// write writes a picture for a scope, and returns how many facts of the scope it
// holds.
func (k *Keeper) write(ctx context.Context, file *os.File, scope events.ScopeLabel) (snapshot.Written, uint64, error) {
	picture, err := k.cfg.Freeze()
	if err != nil {
		return snapshot.Written{}, 0, err
	}
	defer picture.Release()
	written, err := picture.Write(&until{ctx: ctx, w: file}, scope, events.TimeOf(k.cfg.Now()))
	if err != nil {
		return snapshot.Written{}, 0, err
	}
	return written, picture.Count().Facts(scope), nil
}

// until writes until its context ends: a picture takes its time.
type until struct {
	ctx context.Context
	w   io.Writer
}

func (u *until) Write(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.w.Write(b)
}
