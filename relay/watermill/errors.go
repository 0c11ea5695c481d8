package watermill

import "errors"

var (
	// ErrClosed says that the publisher or subscriber was closed.
	ErrClosed = errors.New("watermill: closed")

	// ErrReadOnly refuses to publish to the ledger, or to make it a topic: it is
	// changed by commands alone.
	ErrReadOnly = errors.New("watermill: the ledger is read-only here")

	// ErrInvalidTopic refuses a name that no stream can have, or that a follower
	// was not told about.
	ErrInvalidTopic = errors.New("watermill: invalid topic")

	// ErrInvalidMessage refuses a message that could not be read back as it is.
	ErrInvalidMessage = errors.New("watermill: invalid message")

	// ErrNoStream says that no stream takes a topic's messages; nothing was
	// stored. SubscribeInitialize creates it.
	ErrNoStream = errors.New("watermill: topic has no stream")

	// ErrRefused says that the broker, or the client on its behalf, refused a
	// message and nothing was stored.
	ErrRefused = errors.New("watermill: message was refused")

	// ErrOutcomeUnknown says that a message was sent and no answer came. Publish
	// it again with the same UUID: within the duplicate window it is stored once.
	ErrOutcomeUnknown = errors.New("watermill: it is unknown whether the message was stored")

	// ErrGroupTaken says that another subscriber uses this group for something
	// else: its consumer exists, and reads other subjects or belongs to another
	// ledger.
	ErrGroupTaken = errors.New("watermill: group is taken by another consumer")

	// ErrNoConsumer says that the consumer which a follower was told to use is not
	// there: it was never made, or its credential was revoked.
	ErrNoConsumer = errors.New("watermill: no such consumer")

	// ErrMalformed says that a message could not be read in full, or that a fact
	// was made for another ledger.
	ErrMalformed = errors.New("watermill: malformed message")
)
