// Package commands turns wishes into facts: it loads an aggregate, folds it,
// lets the domain decide, appends what was decided under the expected position,
// and tries again when somebody else was faster.
//
// # One wish, one outcome
//
// Every wish has a command id, drawn at random or derived from the caller's
// idempotency key. Each fact carries it, and it names the broker's message.
// Whoever meets a conflict first looks through the aggregate for its own
// command; a repeated wish thus meets its own first outcome on the aggregate's
// own subject, with no view asked, after a restart as after a lost answer.
//
// # Who may
//
// Every wish comes with a [Principal]. The rules stand in authorize.go; they
// are checked before anything is loaded and again for the aggregate found.
//
// # Provider keys
//
// A provider's secret is encrypted with a data key of its own, which lies outside the
// ledger and can be destroyed. It is stored before the fact that names it, and
// destroyed after the fact that ends it: whatever stops in between leaves a key that
// works, and at most a data key that nobody needs, which followers of the ledger
// destroy. Resolving reads the ledger's leader and is confirmed like a refusal is, so
// that nothing is handed out that was taken away before.
//
// # What it never does
//
// A decision is made on the aggregate's own facts, never on a view. The one
// thing that is followed and not loaded is [Configuration], and each fact
// records the position it stood at. No refusal rests on one that lags: before it
// leaves, the server catches up with the ledger and decides again on what is new.
package commands

import (
	"context"
	"time"

	"github.com/keyledger/keyledger/events"
)

// Log is the ledger as commands need it.
type Log interface {
	Reader
	Appender
}

// Reader reads one aggregate for a decision. It asks the leader: a follower's
// answer may be older than what this program has appended itself.
type Reader interface {
	// Load returns the facts of one subject after a position, in order.
	Load(ctx context.Context, subject events.Subject, after events.Position) ([]events.Recorded, error)

	// Latest returns the last fact of a subject, and whether there is one.
	Latest(ctx context.Context, subject events.Subject) (events.Recorded, bool, error)

	// Confirm returns without an error when all that was read since an instant was
	// read from a leader that nobody had replaced: one that is cut off from the
	// others goes on answering for a while, and what it says there is, was. The
	// position is where the ledger ends: no fact that anybody was told to be stored
	// before the call stands behind it. Errors:
	//   - [events.ErrConflict]: it was perhaps read from the leader before; read
	//     again, and confirm that.
	//   - [events.ErrUnavailable]: it cannot be confirmed now.
	Confirm(ctx context.Context, began time.Time) (events.Position, error)
}

// Appender appends facts.
type Appender interface {
	// Append stores all facts as one, adjacent and in order, or none of them.
	// When it returns them they are on disk. Errors:
	//   - [events.ErrConflict]: nothing stored by this call; an expectation did
	//     not hold, or a message of this command was stored before.
	//   - [events.ErrUnavailable]: nothing stored; safe to retry.
	//   - [events.ErrOutcomeUnknown]: all stored or none; only a retry under
	//     the same command id can tell.
	//   - [events.ErrTooLarge]: never to be stored.
	Append(ctx context.Context, entries []events.Entry) ([]events.Recorded, error)

	// AppendEach stores facts of one organization that stand alone, each the
	// only one of its command and subject: all of them or none, at the price of
	// one. Errors are those of Append; a conflict does not tell which of them
	// met it.
	AppendEach(ctx context.Context, entries []events.Entry) ([]events.Recorded, error)
}
