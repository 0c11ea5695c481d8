package jetstream

import (
	"context"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
)

// The bounds of the stream of access records. Strangers cause many of them, so it
// holds a bounded amount, and what one cause fills pushes only its own out: each
// kind of each organization keeps its latest accessPerSubject records.
const (
	// DefaultAccessRetention is how long access records are kept: a year, which is
	// what PCI DSS asks for, and some weeks for whoever looks at it.
	DefaultAccessRetention = 400 * 24 * time.Hour
	// accessBytes bounds the stream as a whole.
	accessBytes = 1 << 30
	// accessPerSubject is some 175 MB at 350 bytes a record, and more than 80 days
	// of what a server writes of a flood that never ends. Six can fill theirs before
	// anybody else's oldest go.
	accessPerSubject = 500_000
)

// accessConfig is how the stream of access records differs from the others.
func accessConfig(config *natsjs.StreamConfig) {
	config.Subjects, config.Discard = []string{"access.>"}, natsjs.DiscardOld
	config.MaxAge, config.MaxBytes, config.MaxMsgsPerSubject = DefaultAccessRetention, accessBytes, accessPerSubject
}

// PublishAccess stores access records, in order. It is as [Ledger.PublishUses]:
// each stands alone, after an error some may be stored, and they are retried under
// their ids.
func (l *Ledger) PublishAccess(ctx context.Context, records []access.Message) error {
	for part := range slices.Chunk(records, events.MaxBatch) {
		msgs := make([]*nats.Msg, len(part))
		for i, r := range part {
			msgs[i] = identified(r.Subject, r.ID, r.Body)
		}
		if err := l.publishAlone(ctx, StreamAccess, msgs); err != nil {
			return err
		}
	}
	return nil
}

// LastAccess returns the position of the last access record, 0 if there is none.
func (l *Ledger) LastAccess(ctx context.Context) (events.Position, error) {
	return l.lastOf(ctx, StreamAccess)
}

// FollowAccess hands every access record after a position to apply, in order, in
// slices of what has arrived. Records end, so that positions are missing anywhere,
// and nothing tells why. Errors are those of [Ledger.Follow].
func (l *Ledger) FollowAccess(ctx context.Context, after events.Position, apply func([]access.Message) error) error {
	return followAccess(ctx, l.tail(StreamAccess, after), apply)
}

func followAccess(ctx context.Context, t *tail, apply func([]access.Message) error) error {
	return followAs(ctx, t, apply, func(m message) access.Message {
		return access.Message{Position: events.Position(m.seq), Subject: m.subject, Body: m.body, Stored: m.stored}
	})
}

// SetAccessRetention has access records kept for a time from now on, over a
// connection that may change streams. Where that is so already it changes nothing.
func SetAccessRetention(ctx context.Context, conn *nats.Conn, keep time.Duration) error {
	js, err := natsjs.New(conn)
	if err != nil {
		return fmt.Errorf("jetstream: access records' retention: %w", err)
	}
	stream, err := js.Stream(ctx, StreamAccess)
	if err != nil {
		return fmt.Errorf("%w: access records' retention: %w", events.ErrUnavailable, err)
	}
	config := stream.CachedInfo().Config
	if config.MaxAge == keep {
		return nil
	}
	config.MaxAge = keep
	if _, err := js.UpdateStream(ctx, config); err != nil {
		return fmt.Errorf("%w: access records' retention: %w", events.ErrUnavailable, err)
	}
	return nil
}

// AccessRetention returns how long access records are kept, 0 for ever.
func (l *Ledger) AccessRetention(ctx context.Context) (time.Duration, error) {
	info, err := l.info(ctx, StreamAccess)
	if err != nil {
		return 0, err
	}
	var keep time.Duration
	if text, ok := info.Config["max_age"]; ok {
		if err := stdjson.Unmarshal(text, (*int64)(&keep)); err != nil {
			return 0, errors.Join(events.ErrUnavailable, fmt.Errorf("jetstream: max_age of %s: %w", StreamAccess, err))
		}
	}
	return keep, nil
}
