// Package snapshot saves what a verifier knows (the verification index and the count
// that shows it complete) at one position, and loads it again, so that a start takes
// seconds where a replay of the whole ledger takes minutes.
//
// # What one holds
//
// Digests, grants, catalogs, profiles: what verdicts are made from. Never a secret.
// One of a narrowed verifier holds its organizations and nothing else. It proves
// nothing about now: who has loaded one answers nothing before a fact or a tick has
// come from the ledger itself.
//
// # Making one
//
// A [Barrier] around the view that a [projections.Runner] feeds leaves room between
// two slices. There, [Freeze] begins a picture in a moment, and [Picture.Write]
// writes it while verdicts and the ledger go on.
//
// # Loading one
//
// Nothing in it is believed. It ends with the SHA-256 of all that came before, and
// is refused for another ledger, another scope, another [Projection], or any byte
// that is not as it was written. A [Folder] keeps snapshots, and refuses any that is
// older than the newest it has seen.
//
// [projections.Runner]: https://pkg.go.dev/github.com/keyledger/keyledger/projections#Runner
package snapshot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/continuity"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/projections/section"
)

// Projection is the version of what is saved and of what it means. It is raised
// whenever a fact comes to mean something else to the index or the count, or they
// are written in another way: what an earlier program has saved is then replayed
// instead.
const Projection = 1

var (
	// ErrDamaged says that a snapshot is not what was written.
	ErrDamaged = errors.New("snapshot: it is damaged")
	// ErrVersion says that a snapshot is another program's: of a version that means
	// something else by it.
	ErrVersion = errors.New("snapshot: it is of another version of the program")
	// ErrForeign says that a snapshot is of another ledger, or for another reader.
	ErrForeign = errors.New("snapshot: it is of another ledger or for another reader")
	// ErrOlder says that a newer one was seen before.
	ErrOlder = errors.New("snapshot: it is older than one that was seen")
	// ErrProblems says that there is nothing to save that could be relied on.
	ErrProblems = errors.New("snapshot: what would be saved has problems")
)

// magic begins every snapshot. It changes when the header does.
const magic = "keyledger snapshot 1\n"

// maxHeader bounds a header: the organizations of a credential, and the rest.
const maxHeader = 32 * 1024

// least is the size of what is no snapshot for sure.
const least = len(magic) + sha256.Size

// Header says what a snapshot is.
type Header struct {
	Ledger events.LedgerID `json:"ledger"`
	// Scope and Organizations are those of the narrowed reader that it is for, both
	// empty for who reads everything.
	Scope         events.ScopeLabel `json:"scope,omitzero"`
	Organizations []events.OrgID    `json:"organizations,omitempty"`
	// Position is where its reader goes on.
	Position events.Position `json:"position"`
	// Stored is the broker's time up to which it was shown to hold everything.
	Stored events.Time `json:"stored"`
	// Projection is what it was written by: see [Projection].
	Projection int `json:"projection"`
	// CreatedAt is when it was made, by the clock of who made it.
	CreatedAt events.Time `json:"created_at"`
}

// Written is a snapshot that was written.
type Written struct {
	Header
	// Size is how many bytes it has, and Digest is their SHA-256.
	Size   int64
	Digest events.DigestValue
}

// Reader says who wants to go on from a snapshot.
type Reader struct {
	// Ledger is the one that is read. Required.
	Ledger events.LedgerID
	// Scope and Organizations are those of a narrowed reader, as its credential says.
	Scope         events.ScopeLabel
	Organizations []events.OrgID
	// VerifierKeys are those that ticks may be signed with, if not those that the
	// ledger names.
	VerifierKeys []string
	// Logger is that of what is loaded.
	Logger *slog.Logger
}

// Loaded is what a snapshot held.
type Loaded struct {
	Written
	Index      *index.Index
	Continuity *continuity.View
}

// Picture is what is saved, of one position.
type Picture struct {
	ledger     events.LedgerID
	index      *index.Frozen
	continuity *continuity.Frozen
}

// Freeze begins a picture of an index and of the count that goes with it, between
// two slices: see [Barrier]. It is done in moments. The caller writes it, once, and
// releases it.
func Freeze(x *index.Index, count *continuity.View) (*Picture, error) {
	counted, err := count.Freeze()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProblems, err)
	}
	frozen, err := x.Freeze()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProblems, err)
	}
	p := &Picture{ledger: count.Ledger(), index: frozen, continuity: counted}
	if frozen.Position() != counted.Position() {
		p.Release()
		return nil, fmt.Errorf("%w: the index is at %d, the count at %d", ErrProblems, frozen.Position(), counted.Position())
	}
	return p, nil
}

// Release ends the picture.
func (p *Picture) Release() { p.index.Release() }

// Count is what the picture holds of the count of facts.
func (p *Picture) Count() *continuity.Frozen { return p.continuity }

// Write writes the picture for the readers of a scope, empty for the picture's own:
// everything, or what the view was narrowed to itself. It can be called once.
func (p *Picture) Write(w io.Writer, scope events.ScopeLabel, createdAt events.Time) (Written, error) {
	if scope == "" {
		scope = p.continuity.Label()
	}
	position, own, err := p.continuity.For(scope)
	if err != nil {
		return Written{}, err
	}
	out := Written{Header: Header{
		Ledger: p.ledger, Scope: scope, Organizations: own, Position: position, Stored: p.continuity.Proven(),
		Projection: Projection, CreatedAt: createdAt,
	}}
	header, err := json.Marshal(out.Header, json.Deterministic(true))
	if err != nil {
		return Written{}, fmt.Errorf("snapshot: encode header: %w", err)
	}
	sum := &summing{w: w, hash: sha256.New()}
	s := section.NewWriter(sum)
	s.Raw([]byte(magic))
	section.Text(s, header)
	if err := p.continuity.Save(s, scope); err != nil {
		return Written{}, err
	}
	if err := p.index.Save(s, position, own); err != nil {
		return Written{}, err
	}
	if err := s.Flush(); err != nil {
		return Written{}, fmt.Errorf("snapshot: write: %w", err)
	}
	if _, err := sum.Write(sum.hash.Sum(nil)); err != nil {
		return Written{}, fmt.Errorf("snapshot: write: %w", err)
	}
	out.Size, out.Digest = sum.size, events.DigestValue(sum.hash.Sum(nil))
	return out, nil
}

// summing counts and hashes what passes through.
type summing struct {
	w    io.Writer
	hash hash.Hash
	size int64
}

func (s *summing) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.hash.Write(b[:n])
	s.size += int64(n)
	return n, err
}

// Read loads a snapshot of so many bytes for a reader. Whatever is wrong with it,
// nothing is loaded: the error is [ErrDamaged], [ErrVersion] or [ErrForeign], or
// that of r.
func Read(r io.Reader, size int64, who Reader) (*Loaded, error) {
	if size < int64(least) {
		return nil, fmt.Errorf("%w: it was cut", ErrDamaged)
	}
	hashed := sha256.New()
	body := io.TeeReader(io.LimitReader(r, size-sha256.Size), hashed)
	out, err := who.read(section.NewReader(body, size-sha256.Size))
	if err != nil {
		return nil, refused(err)
	}
	var told [sha256.Size]byte
	if _, err := io.ReadFull(r, told[:]); err != nil {
		return nil, fmt.Errorf("%w: it was cut", ErrDamaged)
	}
	if [sha256.Size]byte(hashed.Sum(nil)) != told {
		return nil, fmt.Errorf("%w: its digest is another", ErrDamaged)
	}
	hashed.Write(told[:])
	out.Size, out.Digest = size, events.DigestValue(hashed.Sum(nil))
	return out, nil
}

// refused says in this package's words what was wrong.
func refused(err error) error {
	if errors.Is(err, section.ErrDamaged) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

func (who Reader) read(r *section.Reader) (*Loaded, error) {
	out := &Loaded{}
	if err := readHeader(r, &out.Header); err != nil {
		return nil, err
	}
	if err := who.fits(out.Header); err != nil {
		return nil, err
	}
	var err error
	out.Continuity, err = continuity.Load(continuity.Config{
		Ledger: who.Ledger, Scope: who.Scope, Organizations: who.Organizations, VerifierKeys: who.VerifierKeys, Logger: who.Logger,
	}, r)
	if err != nil {
		return nil, err
	}
	if out.Index, err = index.Load(index.Config{Logger: who.Logger}, r); err != nil {
		return nil, err
	}
	if r.Left() != 0 {
		return nil, fmt.Errorf("%w: something comes after it", ErrDamaged)
	}
	if out.Index.Applied() != out.Position || out.Continuity.Applied() != out.Position {
		return nil, fmt.Errorf("%w: its parts are of different positions", ErrDamaged)
	}
	return out, nil
}

func readHeader(r *section.Reader, h *Header) error {
	if string(r.Peek(len(magic))) != magic {
		return fmt.Errorf("%w: it is no snapshot", ErrDamaged)
	}
	r.Skip(len(magic))
	text := section.ReadText[[]byte](r, maxHeader)
	if err := r.Err(); err != nil {
		return err
	}
	if err := json.Unmarshal(text, h, json.RejectUnknownMembers(false)); err != nil {
		// The error may repeat what stands there.
		return fmt.Errorf("%w: its header cannot be read", ErrDamaged)
	}
	return nil
}

// fits tells whether a snapshot is for a reader.
func (who Reader) fits(h Header) error {
	own := slices.Sorted(slices.Values(who.Organizations))
	switch {
	case h.Projection != Projection:
		return fmt.Errorf("%w: %d instead of %d", ErrVersion, h.Projection, Projection)
	case h.Ledger != who.Ledger:
		return fmt.Errorf("%w: it is of ledger %s", ErrForeign, h.Ledger)
	case h.Scope != who.Scope || !slices.Equal(h.Organizations, own):
		return fmt.Errorf("%w: it holds other organizations", ErrForeign)
	case h.Position == 0 || h.Stored.IsZero():
		return fmt.Errorf("%w: it is of no position", ErrDamaged)
	default:
		return nil
	}
}
