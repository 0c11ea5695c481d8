package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/snapshots"
	"github.com/keyledger/keyledger/projections/continuity"
	"github.com/keyledger/keyledger/projections/index"
	"github.com/keyledger/keyledger/projections/snapshot"
)

// fewEvents is how many events are replayed faster than a snapshot is fetched: a
// tenth of a second's worth.
const fewEvents = 50_000

// Source is what a client began with.
type Source string

// The sources. Where one has nothing to go on from, the next is tried.
const (
	// FromFolder is a snapshot of the client's own folder.
	FromFolder Source = "folder"
	// FromBroker is a snapshot that a server has stored at the broker.
	FromBroker Source = "broker"
	// FromReplay is the ledger, from its beginning on.
	FromReplay Source = "replay"
)

// beginning is what a client goes on from.
type beginning struct {
	source     Source
	index      *index.Index
	continuity *continuity.View
	position   events.Position
	// stored is the broker's time up to which it held everything.
	stored events.Time
}

// reader says who wants to go on from a snapshot.
func (o *options) reader(info jetstream.ReaderInfo, orgs []events.OrgID) snapshot.Reader {
	return snapshot.Reader{
		Ledger: info.Ledger, Scope: events.ScopeLabel(info.Scope), Organizations: orgs, VerifierKeys: o.keys, Logger: o.log,
	}
}

// begin finds what to go on from: the folder's newest snapshot, else the broker's,
// else nothing. A snapshot that will not do is no reason not to start: the ledger
// holds everything.
func (c *Client) beginning(ctx context.Context, r *jetstream.Reader, who snapshot.Reader) (*beginning, error) {
	if c.folder != nil {
		if found := c.fromFolder(ctx, who); found != nil {
			return found, nil
		}
	}
	if r != nil {
		found, err := c.fromBroker(ctx, r, who)
		if found != nil {
			return found, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("verify: %w", context.Cause(ctx))
		}
		if !errors.Is(err, jetstream.ErrNoSnapshot) {
			c.o.log.WarnContext(ctx, "no snapshot of the broker's is used", "error", err)
		}
	}
	count, err := continuity.New(continuity.Config{
		Ledger: who.Ledger, Scope: who.Scope, Organizations: who.Organizations, VerifierKeys: who.VerifierKeys, Logger: who.Logger,
	})
	if err != nil {
		return nil, err
	}
	x, err := index.New(index.Config{Logger: who.Logger})
	if err != nil {
		return nil, err
	}
	return &beginning{source: FromReplay, index: x, continuity: count}, nil
}

// fromFolder loads the newest snapshot of the folder, nil if there is none that will
// do.
func (c *Client) fromFolder(ctx context.Context, who snapshot.Reader) *beginning {
	loaded, skipped, err := c.folder.Newest(who)
	for _, s := range skipped {
		c.o.log.WarnContext(ctx, "snapshot is not used", "file", s.Name, "error", s.Err)
	}
	switch {
	case errors.Is(err, snapshot.ErrNone):
		return nil
	case err != nil:
		c.o.log.ErrorContext(ctx, "no snapshot of the folder is used", "folder", c.o.folder, "error", err)
		return nil
	}
	return begins(FromFolder, loaded)
}

func begins(from Source, l *snapshot.Loaded) *beginning {
	return &beginning{source: from, index: l.Index, continuity: l.Continuity, position: l.Position, stored: l.Stored}
}

// errFew says that a snapshot would not save any time.
var errFew = fmt.Errorf("%w that would save time", jetstream.ErrNoSnapshot)

// fromBroker fetches the snapshot that a server has stored.
func (c *Client) fromBroker(ctx context.Context, r *jetstream.Reader, who snapshot.Reader) (*beginning, error) {
	if last, err := r.Last(ctx); err != nil || uint64(last) < c.o.few {
		return nil, errors.Join(errFew, err)
	}
	// So that not all who were started as one come as one.
	if c.o.jitter > 0 {
		select {
		case <-time.After(rand.N(c.o.jitter)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	folder := c.folder
	if folder == nil {
		dir, err := os.MkdirTemp("", "keyledger-snapshot-")
		if err != nil {
			return nil, fmt.Errorf("verify: room for a snapshot: %w", err)
		}
		defer os.RemoveAll(dir)
		if folder, err = snapshot.OpenFolder(dir); err != nil {
			return nil, err
		}
		defer folder.Close()
	}
	file, err := folder.Create()
	if err != nil {
		return nil, err
	}
	defer file.Discard()
	m, err := r.Snapshot(ctx, func(m snapshots.Manifest) (io.WriteCloser, error) {
		if err := c.admits(folder, m, who); err != nil {
			return nil, err
		}
		return spooled{file}, file.Reset()
	})
	if err != nil {
		return nil, err
	}
	return c.judged(m, file, who)
}

// admits tells whether a snapshot could be gone on from, before it is fetched: whether
// it is for this reader, no older than what was seen, and signed.
func (c *Client) admits(folder *snapshot.Folder, m snapshots.Manifest, who snapshot.Reader) error {
	if err := errors.Join(who.Admits(&m), folder.Admits(snapshot.HeaderOf(&m))); err != nil {
		return err
	}
	// Keys that are not known yet are in the snapshot itself.
	if keys := c.trusted(); len(keys) > 0 {
		return snapshot.CheckSignature(&m, keys)
	}
	return nil
}

// trusted are the keys that a snapshot must be signed with: those of the options, else
// those that the ledger named at an earlier start.
func (c *Client) trusted() []string {
	if len(c.o.keys) > 0 || c.folder == nil {
		return c.o.keys
	}
	if seen, known, err := c.folder.Seen(); err == nil && known {
		return seen.Signers
	}
	return nil
}

// judged loads a snapshot that was fetched, if it is what its manifest says. Where no
// key was known before, those in it must have signed it, which shows no more than the
// ledger does that names its own signers.
func (c *Client) judged(m snapshots.Manifest, file *snapshot.File, who snapshot.Reader) (*beginning, error) {
	loaded, err := file.Load(who)
	if err != nil {
		return nil, err
	}
	if loaded.Digest != m.Digest || loaded.Size != m.Size || loaded.Position != m.Position || loaded.Stored != m.Stored {
		return nil, fmt.Errorf("%w: it is not what its manifest says", snapshot.ErrDamaged)
	}
	if len(c.trusted()) == 0 {
		if err := snapshot.CheckSignature(&m, loaded.Continuity.Signers()); err != nil {
			return nil, err
		}
	}
	if err := file.Keep(loaded); err != nil {
		return nil, err
	}
	return begins(FromBroker, loaded), nil
}

// spooled is a file that is left open when what comes has come.
type spooled struct{ *snapshot.File }

// Close leaves the file open, to be loaded.
func (spooled) Close() error { return nil }
