package usage

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
)

// BlockReader reads single blocks of uses.
type BlockReader interface {
	// UsesAt returns the block at a position. It wraps [events.ErrInvalidPosition]
	// when the stream begins behind it.
	UsesAt(ctx context.Context, pos events.Position) (events.UsesMessage, error)
}

// fetching bounds how many blocks are fetched and decoded at a time, for everybody
// who asks: as many as wait for the broker with few processors.
const fetching = 8

// maxKept bounds the uses of decoded blocks that are kept, at some 160 bytes each
// (20 MiB), and as much again around their texts. Who turns pages, or looks at one
// key after the other, meets the same blocks again.
const maxKept = 1 << 17

// storedBlock is a block of uses and where it stands.
type storedBlock struct {
	uses.Block
	position events.Position
	stored   events.Time
}

// blocks fetches blocks, and keeps those that were asked for last.
type blocks struct {
	source   BlockReader
	of       events.LedgerID
	decoders chan *uses.Decoder // as many as fetch at a time, nil for one to be made

	mu    sync.Mutex
	kept  map[events.Position]*list.Element
	order list.List // of *storedBlock, the last one asked for in front
	size  int
}

func newBlocks(source BlockReader, of events.LedgerID) *blocks {
	b := &blocks{source: source, of: of, decoders: make(chan *uses.Decoder, fetching), kept: make(map[events.Position]*list.Element)}
	for range fetching {
		b.decoders <- nil
	}
	return b
}

// get returns blocks, nil for those that the stream has dropped, and how many had
// to be fetched.
func (b *blocks) get(ctx context.Context, wanted []closedBlock) ([]*storedBlock, int, error) {
	found := make([]*storedBlock, len(wanted))
	errs := make([]error, len(wanted))
	fetched := 0
	var wait sync.WaitGroup
	for i, w := range wanted {
		if found[i] = b.look(w.position); found[i] != nil {
			continue
		}
		fetched++
		wait.Go(func() { found[i], errs[i] = b.fetch(ctx, w.position) })
	}
	wait.Wait()
	return found, fetched, errors.Join(errs...)
}

func (b *blocks) look(pos events.Position) *storedBlock {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.kept[pos]
	if e == nil {
		return nil
	}
	b.order.MoveToFront(e)
	return e.Value.(*storedBlock)
}

func (b *blocks) fetch(ctx context.Context, pos events.Position) (*storedBlock, error) {
	var dec *uses.Decoder
	select {
	case dec = <-b.decoders:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", events.ErrUnavailable, ctx.Err())
	}
	defer func() { b.decoders <- dec }()
	m, err := b.source.UsesAt(ctx, pos)
	if errors.Is(err, events.ErrInvalidPosition) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if dec == nil {
		if dec, err = uses.NewDecoder(); err != nil {
			return nil, err
		}
	}
	block, err := dec.Decode(m.Subject, m.Body)
	if err == nil && block.Ledger != b.of {
		err = errors.New("it is of another ledger")
	}
	if err != nil {
		// The view has read it once.
		return nil, fmt.Errorf("%w: block of uses %d: %w", events.ErrCorrupt, pos, err)
	}
	s := &storedBlock{Block: block, position: pos, stored: m.Stored}
	b.keep(s)
	return s, nil
}

func (b *blocks) keep(s *storedBlock) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.kept[s.position]; ok {
		return
	}
	b.kept[s.position] = b.order.PushFront(s)
	b.size += len(s.Uses)
	for b.size > maxKept && b.order.Len() > 1 {
		last := b.order.Remove(b.order.Back()).(*storedBlock)
		delete(b.kept, last.position)
		b.size -= len(last.Uses)
	}
}
