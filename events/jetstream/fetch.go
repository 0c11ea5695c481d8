package jetstream

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/snapshots"
)

// ErrNoSnapshot says that no whole snapshot is stored of what a credential shows.
var ErrNoSnapshot = errors.New("jetstream: no whole snapshot is stored")

const (
	// fetchWindow is how many chunks are on their way at most: 8 MiB, which keeps
	// 20 ms at 400 MB/s busy, and is far below where the broker calls a client slow.
	fetchWindow = 16
	// fetchAttempts is how often reading is begun again when the snapshot was
	// replaced meanwhile, or a node went.
	fetchAttempts = 4
	// maxSides bounds the sides that are taken in at a time: one that is whole, one
	// that replaces it, one of each server, and what crashes have left.
	maxSides = 16
)

// Snapshot reads the newest whole snapshot of what the credential shows, as the
// broker has it. What comes of each side goes to a writer that spool returns, which
// is closed in the end; several may come, and the manifest that is returned says
// which one is whole. It has been checked against its digest, and neither its
// signature nor its age have been judged.
//
// [ErrNoSnapshot] says that there is none, or that it was replaced too often while it
// was read. Other errors are spool's and [events.ErrUnavailable].
func (r *Reader) Snapshot(ctx context.Context, spool func(side string) (io.WriteCloser, error)) (snapshots.Manifest, error) {
	var last error
	for attempt := range fetchAttempts {
		if attempt > 0 {
			select {
			case <-ctx.Done():
				return snapshots.Manifest{}, errors.Join(last, ctx.Err())
			case <-time.After(time.Duration(attempt) * time.Second / 2):
			}
		}
		f := &fetch{reader: r, scope: events.ScopeLabel(r.info.Scope), spool: spool, sides: map[string]*side{}}
		m, err := f.run(ctx)
		if err = errors.Join(err, f.close()); err == nil {
			return *m, nil
		}
		if !errors.Is(err, errAgain) && !errors.Is(err, events.ErrUnavailable) || errors.Is(err, errNoConsumer) {
			return snapshots.Manifest{}, err
		}
		last = fmt.Errorf("%w: snapshot: %w", events.ErrUnavailable, err)
		if errors.Is(err, ErrNoSnapshot) {
			last = err
		}
	}
	return snapshots.Manifest{}, last
}

// fetch is one attempt to read a snapshot, from the stream's beginning on.
type fetch struct {
	reader *Reader
	scope  events.ScopeLabel
	spool  func(string) (io.WriteCloser, error)
	sides  map[string]*side
	// delivery is the last delivery's number, ahead how many are behind it.
	delivery, ahead uint64
	// came says that anything did.
	came bool
}

// side is what has come of one.
type side struct {
	to     io.WriteCloser
	digest hash.Hash
	next   int   // the chunk that comes next
	size   int64 // what has come
	seen   uint64
}

func (f *fetch) run(ctx context.Context) (*snapshots.Manifest, error) {
	if err := f.begin(ctx); err != nil {
		return nil, err
	}
	conn := f.reader.ledger.conn
	inbox, arrived := conn.NewInbox(), make(chan *nats.Msg, 4*fetchWindow)
	sub, err := conn.ChanSubscribe(inbox+".*", arrived)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	for pull := 1; f.ahead > 0; pull++ {
		m, err := f.pull(ctx, inbox+"."+strconv.Itoa(pull), arrived)
		if err != nil || m != nil {
			return m, err
		}
	}
	if f.came {
		// It is being stored or replaced; and while messages are removed the broker may
		// be wrong about how many are ahead.
		return nil, fmt.Errorf("%w: %w", errAgain, ErrNoSnapshot)
	}
	return nil, ErrNoSnapshot
}

// begin has the consumer begin at the stream's beginning.
func (f *fetch) begin(ctx context.Context) error {
	l, name := f.reader.ledger, f.reader.name
	if _, err := l.consumerInfo(ctx, StreamSnapshots, name); err != nil {
		return err
	}
	var info consumerInfo
	if err := l.askRaw(ctx, "$JS.API.CONSUMER.RESET."+StreamSnapshots+"."+name, []byte(`{"seq":1}`), &info); err != nil {
		return err
	}
	if err := info.refused(StreamSnapshots, name); err != nil {
		return err
	}
	f.delivery, f.ahead = info.Delivered.Consumer, info.Pending
	return nil
}

// pull asks for a few messages and takes them in until the snapshot is whole.
func (f *fetch) pull(ctx context.Context, reply string, arrived <-chan *nats.Msg) (*snapshots.Manifest, error) {
	l := f.reader.ledger
	n := min(f.ahead, fetchWindow)
	request, err := json.Marshal(struct {
		Batch     uint64 `json:"batch"`
		Expires   int64  `json:"expires"`
		Heartbeat int64  `json:"idle_heartbeat"`
	}{n, readerPull.Nanoseconds(), l.config.Heartbeat.Nanoseconds()})
	if err != nil {
		return nil, fmt.Errorf("jetstream: encode request: %w", err)
	}
	if err := l.conn.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+StreamSnapshots+"."+f.reader.name, reply, request); err != nil {
		return nil, fmt.Errorf("%w: %w", errAgain, err)
	}
	patience := 2*l.config.Heartbeat + l.config.Heartbeat/2
	silence := time.NewTimer(patience)
	defer silence.Stop()
	for got := uint64(0); got < n && f.ahead > 0; {
		var m *nats.Msg
		select {
		case m = <-arrived:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-silence.C:
			return nil, fmt.Errorf("%w: the broker was silent", errAgain)
		}
		silence.Reset(patience)
		at, ok := placeOf(m.Reply)
		if !ok {
			if m.Header.Get("Status") == "100" {
				// What was ahead may have been removed.
				info, err := l.consumerInfo(ctx, StreamSnapshots, f.reader.name)
				if err != nil {
					return nil, err
				}
				if f.ahead = info.Pending; info.Delivered.Consumer != f.delivery {
					f.ahead++
				}
				continue
			}
			return nil, fmt.Errorf("%w: the broker says %s %s", errAgain, m.Header.Get("Status"), m.Header.Get("Description"))
		}
		if f.delivery++; at.delivery != f.delivery {
			return nil, fmt.Errorf("%w: delivery %d came when %d was next", errTorn, at.delivery, f.delivery)
		}
		got, f.ahead, f.came = got+1, at.pending, true
		if manifest, err := f.take(m, at.seq); err != nil || manifest != nil {
			return manifest, err
		}
	}
	return nil, nil
}

// take takes in a message, and returns the manifest once its side is whole.
func (f *fetch) take(m *nats.Msg, seq uint64) (*snapshots.Manifest, error) {
	if m.Subject == snapshots.ManifestSubject(f.scope) {
		manifest, err := snapshots.Decode(f.reader.ledger.id, f.scope, m.Data)
		if err != nil {
			return nil, nil //nolint:nilerr // What is no manifest announces no snapshot.
		}
		s := f.sides[manifest.Side]
		if s == nil || s.next != manifest.Chunks || s.size != manifest.Size || events.DigestValue(s.digest.Sum(nil)) != manifest.Digest {
			return nil, nil
		}
		return &manifest, nil
	}
	name, n, ok := snapshots.ParseChunk(f.scope, m.Subject)
	if !ok {
		return nil, nil
	}
	s := f.sides[name]
	if s == nil {
		if n > 0 {
			// Its beginning is gone: it was replaced.
			return nil, nil
		}
		var err error
		if s, err = f.open(name); err != nil {
			return nil, err
		}
	}
	if n != s.next || len(m.Data) > snapshots.ChunkBytes {
		return nil, f.drop(name)
	}
	if _, err := s.to.Write(m.Data); err != nil {
		return nil, fmt.Errorf("jetstream: keep snapshot: %w", err)
	}
	_, _ = s.digest.Write(m.Data)
	s.next, s.size, s.seen = n+1, s.size+int64(len(m.Data)), seq
	return nil, nil
}

// open begins a side, in the place of the one that came last the longest ago if there
// are many.
func (f *fetch) open(name string) (*side, error) {
	if len(f.sides) >= maxSides {
		oldest := ""
		for other, s := range f.sides {
			if oldest == "" || s.seen < f.sides[oldest].seen {
				oldest = other
			}
		}
		if err := f.drop(oldest); err != nil {
			return nil, err
		}
	}
	to, err := f.spool(name)
	if err != nil {
		return nil, fmt.Errorf("jetstream: keep snapshot: %w", err)
	}
	s := &side{to: to, digest: sha256.New()}
	f.sides[name] = s
	return s, nil
}

func (f *fetch) drop(name string) error {
	s := f.sides[name]
	delete(f.sides, name)
	return s.to.Close()
}

func (f *fetch) close() error {
	var faults []error
	for name := range f.sides {
		faults = append(faults, f.drop(name))
	}
	return errors.Join(faults...)
}
