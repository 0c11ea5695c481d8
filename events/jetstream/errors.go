package jetstream

import (
	"errors"
	"fmt"

	"github.com/keyledger/keyledger/events"
)

var (
	// ErrStreamMissing says that a stream is not there. After an installation's
	// beginning that is an alarm: a wrong at-rest key looks the same, and a new
	// stream in its place would bury the old one.
	ErrStreamMissing = fmt.Errorf("%w: jetstream: stream is missing", events.ErrCorrupt)

	// ErrStreamChanged says that a stream is not configured as the ledger needs
	// it to be.
	ErrStreamChanged = fmt.Errorf("%w: jetstream: stream was changed", events.ErrCorrupt)

	errStreamNotFound = errors.New("jetstream: stream not found")
)

// The broker's error codes that mean something here (its errors.json).
const (
	codeNoMessage             = 10037
	codeStreamNotFound        = 10059
	codeStreamNameInUse       = 10058
	codeConsumerNotFound      = 10014
	codeReadersFull           = 10026
	codeConsumerExists        = 10148 // and is configured otherwise
	codeWrongLastSequence     = 10071 // the expectation did not hold
	codeWrongLastSequenceBusy = 10164 // something on that subject is on its way to a quorum
	codeDuplicateInFlight     = 10158 // this message id is on its way to a quorum
	codeBatchDuplicate        = 10201 // a message id of the batch was stored before
	codeMessageTooLarge       = 10054
	codeBatchTooLarge         = 10199
	codeBatchIncomplete       = 10176 // also when it was never opened
	codeBatchesTooMany        = 10210
)

// refusedUnstored are refusals that the broker gives before it stores or
// proposes anything (stream.go and jetstream_batching.go of nats-server 2.15).
// The list is closed on purpose: 10077 (the store failed) is not in it, because
// bytes of a failed write may be found again after a restart; 10023 and its kin
// (resources) are not, because on a cluster they are also given by a server that
// applies what the quorum has accepted already; and a code that nobody here has
// read about leaves the outcome unknown.
var refusedUnstored = map[int]bool{
	10008:               true, // the cluster has no leader
	10009:               true, // not the leader
	10035:               true, // no account
	10039:               true, // not enabled for the account
	10059:               true, // stream not found
	10060:               true, // expected stream does not match
	10076:               true, // not enabled
	10109:               true, // stream is sealed
	10118:               true, // stream is offline
	10167:               true, // too many requests
	10174:               true, // atomic publish is disabled
	10175:               true, // batch sequence is missing
	codeBatchIncomplete: true,
	10177:               true, // unsupported header in a batch
	10179:               true, // batch id is invalid
	10185:               true, // api level
	10193:               true, // expectation without a sequence
	10194:               true, // stream is offline, with a reason
	10195:               true, // consumer is offline, with a reason
	10200:               true, // batch commit is invalid
	codeBatchesTooMany:  true,
}

// apiError is the broker's refusal.
type apiError struct {
	Status      int    `json:"code"`
	Code        int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string {
	return fmt.Sprintf("jetstream: %s (%d)", e.Description, e.Code)
}

// append tells what the refusal of an append means for its outcome.
func (e *apiError) append() error {
	switch e.Code {
	case codeWrongLastSequence, codeWrongLastSequenceBusy, codeDuplicateInFlight, codeBatchDuplicate:
		return fmt.Errorf("%w: %w", events.ErrConflict, e)
	case codeMessageTooLarge, codeBatchTooLarge:
		return fmt.Errorf("%w: %w", events.ErrTooLarge, e)
	}
	if refusedUnstored[e.Code] {
		return fmt.Errorf("%w: %w", events.ErrUnavailable, e)
	}
	return fmt.Errorf("%w: %w", events.ErrOutcomeUnknown, e)
}

// read tells what the refusal of a read means.
func (e *apiError) read(stream string) error {
	if e.Code == codeStreamNotFound {
		return fmt.Errorf("%w: %s", errors.Join(ErrStreamMissing, errStreamNotFound), stream)
	}
	return fmt.Errorf("%w: %w", events.ErrUnavailable, e)
}
