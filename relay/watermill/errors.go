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
	// else: its consumer exists and reads other subjects.
	ErrGroupTaken = errors.New("watermill: group is taken by another consumer")

	// ErrMalformed says that a message could not be read in full.
	ErrMalformed = errors.New("watermill: malformed message")
)
