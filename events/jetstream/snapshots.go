package jetstream

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/snapshots"
)

// snapshotsConfig is how the stream of snapshots differs from the others. How much
// it may hold is for an operator to say: what is pushed out can be made again.
func snapshotsConfig(config *natsjs.StreamConfig) {
	config.Subjects, config.Discard, config.MaxMsgsPerSubject = []string{"snapshots.>"}, natsjs.DiscardOld, 1
	config.MaxMsgSize = snapshots.ChunkBytes + headerRoom
	// Those that others have taken the place of go by purging their chunks.
	config.DenyPurge, config.AllowAtomicPublish = false, false
	// A verifier asks for its own by its subject, and needs no consumer for it, of
	// which there can only be so many. A replica that lags costs it another attempt.
	config.AllowDirect = true
}

// chunkAttempts is how often a chunk is published before its snapshot is given up:
// a stream without a leader finds one within some 10 s.
const chunkAttempts = 5

// ErrNotTheBytes says that a snapshot is not what its manifest says.
var ErrNotTheBytes = errors.New("jetstream: the snapshot is not what its manifest says")

// PublishSnapshot stores a snapshot in the place of the last one of its scope. It
// lies on a side of its own, which is drawn here, and is there for nobody until its
// manifest is. It is [events.ErrConflict] if another was stored since this call
// began, and [ErrNotTheBytes] if the reader does not give what the manifest says; the
// other errors are those of [Ledger.Append], and after each of them the last snapshot
// is there, or this one.
func (l *Ledger) PublishSnapshot(ctx context.Context, m snapshots.Manifest, r io.Reader) error {
	m.Side = nuid.Next()
	body, err := snapshots.Encode(&m)
	if err != nil {
		return err
	}
	// Sides that are there now hold the last snapshot, what crashes have left, and
	// what others are storing, whose manifest will come too late.
	before, err := l.sides(ctx, m.Scope)
	if err != nil {
		return err
	}
	last, err := l.get(ctx, StreamSnapshots, getRequest{Last: snapshots.ManifestSubject(m.Scope)})
	if err != nil && !errors.Is(err, errNoMessage) {
		return err
	}
	if err := l.storeSnapshot(ctx, m, body, last.seq, r); err != nil {
		if !errors.Is(err, events.ErrOutcomeUnknown) {
			l.dropSides(ctx, m.Scope, m.Side)
		}
		return err
	}
	l.dropSides(ctx, m.Scope, before...)
	return nil
}

// storeSnapshot stores chunks and then the manifest, which takes the place of that at
// a position, 0 for none.
func (l *Ledger) storeSnapshot(ctx context.Context, m snapshots.Manifest, body []byte, last uint64, r io.Reader) error {
	digest, chunk := sha256.New(), make([]byte, snapshots.ChunkBytes)
	for n := range m.Chunks {
		part := chunk[:min(m.Size-int64(n)*snapshots.ChunkBytes, snapshots.ChunkBytes)]
		if _, err := io.ReadFull(r, part); err != nil {
			return fmt.Errorf("%w: chunk %d of %d: %w", ErrNotTheBytes, n, m.Chunks, err)
		}
		_, _ = digest.Write(part)
		if err := l.storeChunk(ctx, snapshots.ChunkSubject(m.Scope, m.Side, n), part); err != nil {
			return err
		}
	}
	if n, err := r.Read(chunk[:1]); n > 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it goes on after %d bytes", ErrNotTheBytes, m.Size)
	}
	if events.DigestValue(digest.Sum(nil)) != m.Digest {
		return fmt.Errorf("%w: its digest is another", ErrNotTheBytes)
	}
	manifest := nats.NewMsg(snapshots.ManifestSubject(m.Scope))
	manifest.Data = body
	set(manifest, headerExpected, strconv.FormatUint(last, 10))
	set(manifest, headerExpectedOn, manifest.Subject)
	_, err := l.publish(ctx, StreamSnapshots, []*nats.Msg{manifest})
	if err == nil || errors.Is(err, events.ErrUnavailable) {
		return err
	}
	// What has no answer, or an attempt below that was repeated, may be there.
	now, there, looked := l.SnapshotManifest(ctx, m.Scope)
	switch {
	case looked != nil:
		return errors.Join(err, looked)
	case there && now.Side == m.Side:
		return nil
	default:
		return err
	}
}

// storeChunk stores a chunk, whose subject is nobody else's: stored twice, it is the
// same.
func (l *Ledger) storeChunk(ctx context.Context, subject string, part []byte) error {
	for attempt := 1; ; attempt++ {
		m := nats.NewMsg(subject)
		m.Data = part
		_, err := l.publish(ctx, StreamSnapshots, []*nats.Msg{m})
		switch {
		case err == nil:
			return nil
		case errors.Is(err, events.ErrOutcomeUnknown):
			// A chunk is no snapshot: nothing of it is there for anybody.
			err = fmt.Errorf("%w: %s", events.ErrUnavailable, err.Error())
		case !errors.Is(err, events.ErrUnavailable):
			return err
		}
		if attempt == chunkAttempts {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(time.Duration(attempt) * time.Second / 2):
		}
	}
}

// sides are those of a scope that hold anything.
func (l *Ledger) sides(ctx context.Context, scope events.ScopeLabel) ([]string, error) {
	// Every side begins with its first chunk.
	first, err := l.subjects(ctx, StreamSnapshots, snapshots.ChunkSubject(scope, "*", 0))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, subject := range first {
		if side, _, ok := snapshots.ParseChunk(scope, subject); ok {
			out = append(out, side)
		}
	}
	return out, nil
}

// dropSides removes what lies on sides. What is left because that failed, the next
// snapshot removes.
func (l *Ledger) dropSides(ctx context.Context, scope events.ScopeLabel, sides ...string) {
	for _, side := range sides {
		// Also when the caller has been told to end.
		err := l.purge(context.WithoutCancel(ctx), StreamSnapshots, struct {
			Filter string `json:"filter"`
		}{snapshots.SideSubjects(scope, side)})
		if err != nil {
			l.log.WarnContext(ctx, "an old snapshot was not removed", "scope", snapshots.ScopeToken(scope), "cause", err)
			return
		}
	}
}

// SnapshotManifest returns the manifest of a scope's snapshot, and whether there is
// one. What stands in its place and is none counts as none: the next one replaces it.
func (l *Ledger) SnapshotManifest(ctx context.Context, scope events.ScopeLabel) (snapshots.Manifest, bool, error) {
	m, err := l.get(ctx, StreamSnapshots, getRequest{Last: snapshots.ManifestSubject(scope)})
	if errors.Is(err, errNoMessage) {
		return snapshots.Manifest{}, false, nil
	}
	if err != nil {
		return snapshots.Manifest{}, false, err
	}
	manifest, err := snapshots.Decode(l.id, scope, m.body)
	if err != nil {
		l.log.WarnContext(ctx, "what stands in a snapshot's place is none", "scope", snapshots.ScopeToken(scope), "cause", err)
		return snapshots.Manifest{}, false, nil
	}
	return manifest, true, nil
}
