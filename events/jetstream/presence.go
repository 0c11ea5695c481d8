package jetstream

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/presence"
)

// The bounds of the stream of announcements.
const (
	// presencePerSubject is what is kept of each verifier: some minutes, so that two
	// who announce themselves under one name show beside each other. One who writes
	// as much as it may fills 1 MiB.
	presencePerSubject = 64
	// presenceAge is after how long nobody asks any more where a verifier went.
	presenceAge = presence.Remembered
	// presenceBytes is room for a thousand verifiers with all that is kept of them.
	presenceBytes = 64 << 20
)

// presenceConfig is how the stream of announcements differs from the others.
func presenceConfig(config *natsjs.StreamConfig) {
	config.Subjects, config.Discard = []string{"presence.>"}, natsjs.DiscardOld
	config.MaxAge, config.MaxBytes, config.MaxMsgsPerSubject = presenceAge, presenceBytes, presencePerSubject
	config.MaxMsgSize = presence.MaxBytes + headerRoom
	// Each stands alone, and who may announce himself must not be able to leave
	// batches open.
	config.AllowAtomicPublish = false
}

// PublishPresence stores an announcement. It is retried, with the same id, after
// [events.ErrUnavailable] and [events.ErrOutcomeUnknown], or left to the next one.
func (l *Ledger) PublishPresence(ctx context.Context, m presence.Message) error {
	if len(m.Body) > presence.MaxBytes {
		return fmt.Errorf("%w: an announcement of %d bytes, at most %d are possible", events.ErrTooLarge, len(m.Body), presence.MaxBytes)
	}
	return l.publishAlone(ctx, StreamPresence, []*nats.Msg{identified(m.Subject, m.ID, m.Body)})
}

// LastPresence returns the position of the last announcement, 0 if there is none.
func (l *Ledger) LastPresence(ctx context.Context) (events.Position, error) {
	return l.lastOf(ctx, StreamPresence)
}

// FollowPresence hands every announcement after a position to apply, in order, in
// slices of what has arrived. Older ones of each verifier end, so that positions are
// missing anywhere. Errors are those of [Ledger.Follow].
func (l *Ledger) FollowPresence(ctx context.Context, after events.Position, apply func([]presence.Message) error) error {
	return followAs(ctx, l.tail(StreamPresence, after), apply, func(m message) presence.Message {
		return presence.Message{Position: events.Position(m.seq), Subject: m.subject, Body: m.body, Stored: m.stored}
	})
}
