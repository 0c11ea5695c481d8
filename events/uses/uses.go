package uses

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
)

var (
	// ErrMalformed says that a body is no block of uses, or a damaged one.
	ErrMalformed = fmt.Errorf("uses: malformed block: %w", events.ErrMalformed)

	// ErrForeign says that a sound block was found under a subject that is not
	// its own: somebody moved it.
	ErrForeign = fmt.Errorf("uses: block stands under a foreign subject: %w", events.ErrCorrupt)

	// ErrInvalid says that a header cannot be written.
	ErrInvalid = errors.New("uses: invalid header")
)

// Use is one verification of a key of an organization, with its verdict. Texts
// are cut at this package's limits when they are written, and what is not UTF-8
// in them becomes a question mark.
type Use struct {
	// At is when the verdict was given.
	At  events.Time
	Key events.KeyID
	// Code is the verdict.
	Code events.Code
	// Permission and Workspace are what was asked for, empty for nothing.
	Permission string
	Workspace  string
	Context
}

// Context is what the caller of a verification adds for the audit log.
type Context struct {
	RequestID string
	Method    string
	Path      string
	// ClientIP is set only where recording it is configured.
	ClientIP  string
	UserAgent string
}

// BootID names one run of a verifier, a UUIDv7.
type BootID uuid.UUID

func (id BootID) String() string { return uuid.UUID(id).String() }

// IsZero reports whether there is no id.
func (id BootID) IsZero() bool { return id == BootID{} }

// Kind tells blocks apart. Its numbers stand in the blocks and never change.
type Kind uint8

// The kinds of blocks.
const (
	// KindUses is a block that holds uses.
	KindUses Kind = 1
	// KindBoot marks the beginning of a boot, in the organization _system.
	KindBoot Kind = 2
	// KindEnd marks the clean end of a boot in one organization, and in
	// _system the end of all.
	KindEnd Kind = 3
)

// Header says whose uses a block holds and which. Its members beside the first
// five belong to one kind each and are zero in others.
type Header struct {
	Kind     Kind
	Ledger   events.LedgerID
	Org      events.OrgID
	Verifier events.VerifierID
	Boot     BootID

	// From and To are the times of the first and the last use, or of the mark.
	From, To events.Time

	// First is the number of the first use (KindUses).
	First uint64
	// Last is the number of the last use, also in an end mark, where it is 0
	// when there was none.
	Last uint64

	// Bound is how many uses may be missing when no end mark comes (KindBoot).
	Bound uint64

	// Total is how many uses the boot recorded in all organizations, and
	// Organizations in how many (KindEnd in _system).
	Total         uint64
	Organizations uint64
}

// Count is how many uses a block of that header holds.
func (h Header) Count() uint64 {
	if h.Kind != KindUses {
		return 0
	}
	return h.Last - h.First + 1
}

// Subject is where the block belongs.
func (h Header) Subject() string { return events.UsesSubject(h.Org, h.Verifier) }

// id is the block's message id: the same for the same block of the same boot,
// so that a publish repeated after an unknown outcome is stored once.
func (h Header) id() string {
	switch h.Kind {
	case KindBoot:
		return fmt.Sprintf("%s.%s.boot", h.Boot, h.Org)
	case KindEnd:
		return fmt.Sprintf("%s.%s.end", h.Boot, h.Org)
	default:
		return fmt.Sprintf("%s.%s.%d", h.Boot, h.Org, h.First)
	}
}

// Block is a block as it was read.
type Block struct {
	Header
	Uses []Use
}

// Message is a block as the broker holds it. An [Encoder] fills its Subject, ID
// and Body.
type Message = events.UsesMessage
