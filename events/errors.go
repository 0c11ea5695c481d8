package events

import "errors"

// What a ledger answers. Callers tell them apart with [errors.Is]; a ledger
// wraps the broker's own words behind them.
var (
	// ErrConflict says that an expectation did not hold, or that this very
	// message was stored before. Nothing was appended by this call. Whoever
	// sees it reads the aggregate again and first looks for its own command.
	ErrConflict = errors.New("events: conflict with a fact appended in the meantime")

	// ErrUnavailable says that nothing was appended and that a retry is safe.
	ErrUnavailable = errors.New("events: ledger is not available")

	// ErrOutcomeUnknown says that the facts were sent and no answer came: they
	// are all stored or none is. Only a retry under the same command id can tell.
	ErrOutcomeUnknown = errors.New("events: outcome is unknown")

	// ErrTooLarge says that a fact exceeds [MaxFactBytes] or a batch [MaxBatch].
	ErrTooLarge = errors.New("events: too large for the ledger")

	// ErrCorrupt says that the ledger holds, or misses, what it must not: a gap
	// between positions, a fact under a foreign subject, a torn batch, a stream
	// that was changed or has gone. It is never repaired by going on.
	ErrCorrupt = errors.New("events: ledger is corrupt")

	// ErrMalformed says that a stored body is no fact of this ledger.
	ErrMalformed = errors.New("events: malformed fact")

	// ErrInvalidID says that a text is no id of the kind it is used as.
	ErrInvalidID = errors.New("events: invalid id")

	// ErrInvalidPosition says that a text is no position of this ledger.
	ErrInvalidPosition = errors.New("events: invalid position")
)
