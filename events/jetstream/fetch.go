package jetstream

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/snapshots"
)

// ErrNoSnapshot says that no snapshot is stored of what a credential shows.
var ErrNoSnapshot = errors.New("jetstream: no snapshot is stored")

const (
	// fetchWindow is how many chunks are on their way at most: 8 MiB, which keeps
	// 20 ms at 400 MB/s busy, and is far below where the broker calls a client slow.
	fetchWindow = 64
	// fetchAttempts is how often reading is begun again when the snapshot was
	// replaced meanwhile, or a node went.
	fetchAttempts = 4
)

// Snapshot reads the newest snapshot of what the credential shows. Its manifest goes
// to spool, which refuses it by an error, before anything else is read, or returns
// where the bytes go; that is closed in the end. When Snapshot returns without an
// error they are what the digest of the manifest says. Its signature and its age are
// for spool to judge. It is called again, for the manifest there is then, when the
// snapshot was replaced while it was read.
//
// [ErrNoSnapshot] says that there is none. Other errors are spool's, and
// [events.ErrUnavailable].
func (r *Reader) Snapshot(ctx context.Context, spool func(snapshots.Manifest) (io.WriteCloser, error)) (snapshots.Manifest, error) {
	var last error
	for attempt := range fetchAttempts {
		if attempt > 0 {
			select {
			case <-ctx.Done():
				return snapshots.Manifest{}, errors.Join(last, ctx.Err())
			case <-time.After(time.Duration(attempt) * time.Second / 2):
			}
		}
		m, err := r.fetch(ctx, spool)
		if !errors.Is(err, errAgain) {
			return m, err
		}
		last = fmt.Errorf("%w: snapshot: %w", events.ErrUnavailable, err)
	}
	return snapshots.Manifest{}, last
}

func (r *Reader) fetch(ctx context.Context, spool func(snapshots.Manifest) (io.WriteCloser, error)) (snapshots.Manifest, error) {
	scope := events.ScopeLabel(r.info.Scope)
	var m snapshots.Manifest
	err := r.direct(ctx, 1, func(int) string { return snapshots.ManifestSubject(scope) }, func(body []byte) error {
		var err error
		m, err = snapshots.Decode(r.ledger.id, scope, body)
		return err
	})
	switch {
	case errors.Is(err, errNoMessage):
		return snapshots.Manifest{}, ErrNoSnapshot
	case errors.Is(err, snapshots.ErrMalformed):
		return snapshots.Manifest{}, fmt.Errorf("%w: %w", ErrNoSnapshot, err)
	case err != nil:
		return snapshots.Manifest{}, err
	}
	to, err := spool(m)
	if err != nil {
		return snapshots.Manifest{}, err
	}
	digest, size := sha256.New(), int64(0)
	err = r.direct(ctx, m.Chunks, func(n int) string { return snapshots.ChunkSubject(scope, m.Side, n) }, func(body []byte) error {
		_, _ = digest.Write(body)
		if size += int64(len(body)); size > m.Size {
			return fmt.Errorf("%w: its chunks are too long", errAgain)
		}
		if _, err := to.Write(body); err != nil {
			return fmt.Errorf("jetstream: keep snapshot: %w", err)
		}
		return nil
	})
	if errors.Is(err, errNoMessage) {
		err = fmt.Errorf("%w: it was replaced", errAgain)
	}
	if err == nil && (size != m.Size || events.DigestValue(digest.Sum(nil)) != m.Digest) {
		err = fmt.Errorf("%w: it is not what its manifest says", errAgain)
	}
	if closed := to.Close(); closed != nil && err == nil {
		err = fmt.Errorf("jetstream: keep snapshot: %w", closed)
	}
	if err != nil {
		return snapshots.Manifest{}, err
	}
	return m, nil
}

// direct asks for messages of the stream of snapshots by their subjects, and takes
// them in their order, several being on their way. One that is not there is
// [errNoMessage]. Any replica answers: one that is behind is as if nothing was there,
// or what was before.
func (r *Reader) direct(ctx context.Context, count int, subject func(int) string, take func([]byte) error) error {
	conn := r.ledger.conn
	inbox, arrived := conn.NewInbox(), make(chan *nats.Msg, 2*fetchWindow)
	sub, err := conn.ChanSubscribe(inbox+".*", arrived)
	if err != nil {
		return fmt.Errorf("%w: %w", errAgain, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	early := map[int]*nats.Msg{}
	silence := time.NewTimer(r.ledger.config.LoadTimeout)
	defer silence.Stop()
	for asked, next := 0, 0; next < count; {
		for ; asked < min(count, next+fetchWindow); asked++ {
			if err := conn.PublishRequest("$JS.API.DIRECT.GET."+StreamSnapshots+"."+subject(asked), inbox+"."+strconv.Itoa(asked), nil); err != nil {
				return fmt.Errorf("%w: %w", errAgain, err)
			}
		}
		select {
		case m := <-arrived:
			silence.Reset(r.ledger.config.LoadTimeout)
			if n, err := strconv.Atoi(strings.TrimPrefix(m.Subject, inbox+".")); err == nil && n >= next && n < asked {
				early[n] = m
			}
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", events.ErrUnavailable, ctx.Err())
		case <-silence.C:
			return fmt.Errorf("%w: the broker was silent", errAgain)
		}
		for m := early[next]; m != nil; m = early[next] {
			delete(early, next)
			switch status := m.Header.Get("Status"); {
			case status == "404":
				return errNoMessage
			case status != "" || m.Header.Get("Nats-Subject") != subject(next):
				return fmt.Errorf("%w: the broker says %s %s", errAgain, status, m.Header.Get("Description"))
			}
			if err := take(m.Data); err != nil {
				return err
			}
			next++
		}
	}
	return nil
}
