package recording

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
)

const (
	// A sink that failed is tried again after a random part of a pause that
	// doubles from the first to the last of these: soon enough for a broker
	// that elects a leader, rarely enough for one that is down.
	firstPause = 10 * time.Millisecond
	lastPause  = 2 * time.Second
	// tellEvery is how often the log says so: a broker may be down for a night.
	tellEvery = 10 * time.Second
)

// series are the uses of one organization in this boot.
type series struct {
	last  uint64 // the last number given
	count int    // in the flush under way, and
	at    int    // where the next of them goes
}

// flusher turns chunks into blocks. It keeps its memory from flush to flush.
type flusher struct {
	enc    *uses.Encoder
	series map[events.OrgID]*series
	chunks []*chunk
	texts  []string
	orgs   []events.OrgID // of this flush, in the order in which they are met
	rows   []*series      // of every use
	refs   []ref          // by organization
	sealed []uses.Use     // those whose texts are being sealed
	err    error          // why the recorder did not end well
}

// ref is where a use lies: a sixth of it, to be sorted by time.
type ref struct {
	at         events.Time
	chunk, row uint32
}

// run stores what is recorded until the recorder is closed, or ctx ends; before
// anything else the boot mark, if there is one yet to store.
func (r *Recorder) run(ctx context.Context, mark *uses.Message) {
	defer close(r.done)
	if mark != nil {
		if err := r.publish(ctx, []uses.Message{*mark}); err != nil {
			r.end(ctx, fmt.Errorf("boot mark: %w", err))
			return
		}
		r.begun()
	}
	for open := true; open; {
		select {
		case <-r.wake:
			open = r.gather()
		case <-r.stop:
			open = false
		}
		if err := r.flush(ctx); err != nil {
			r.end(ctx, err)
			return
		}
	}
	// The one flush after closing took all: no buffer takes anything since.
	r.end(ctx, r.marks(ctx))
}

// end notes why the recorder ended. Should it end by itself, nothing is
// recorded any more, which the verifier's callers see.
func (r *Recorder) end(ctx context.Context, err error) {
	r.open.Store(false)
	r.flusher.err = err
	if err != nil {
		r.abandon()
		r.cfg.Logger.LogAttrs(ctx, slog.LevelError, "recorder of uses ended before everything was stored",
			slog.String("verifier", string(r.cfg.Verifier)), slog.String("boot", r.boot.String()), slog.Any("error", err))
	}
}

// gather waits until a flush is worth it, and reports whether the recorder is
// still open.
func (r *Recorder) gather() bool {
	if r.cfg.Durable {
		return r.gatherGroup()
	}
	timer := time.NewTimer(r.cfg.FlushEvery)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.hurry:
	case <-r.stop:
		return false
	}
	return true
}

// flush stores everything that waits. There is one publish at a time, so that
// what comes in meanwhile goes out together.
func (r *Recorder) flush(ctx context.Context) error {
	f := &r.flusher
	f.chunks = f.chunks[:0]
	r.through.storing.Store(true)
	through := r.through.begin()
	r.nextGroup()
	for _, b := range r.buffers {
		f.chunks = b.take(f.chunks, r.group)
	}
	if len(f.chunks) == 0 {
		r.stored(through)
		return nil
	}
	n := f.collect()
	sealing := sealing{sealer: r.cfg.Sealer}
	defer sealing.end()
	messages, err := f.encode(ctx, uses.Header{Ledger: r.cfg.Ledger, Verifier: r.cfg.Verifier, Boot: r.boot}, &sealing)
	if err != nil {
		return err
	}
	if err := r.publish(ctx, messages); err != nil {
		return err
	}
	r.flushed.Add(uint64(n))
	r.blocks.Add(uint64(len(messages)))
	r.stored(through)
	// Only now: until here the uses count as buffered.
	r.free.give(f.chunks)
	return nil
}

// collect brings the uses of the chunks in order by organization, and says how
// many there are.
func (f *flusher) collect() int {
	f.texts, f.orgs, f.rows = f.texts[:0], f.orgs[:0], f.rows[:0]
	var last *series
	var lastOrg events.OrgID
	for _, c := range f.chunks {
		text := string(c.text)
		f.texts = append(f.texts, text)
		for i := range c.rows {
			w := &c.rows[i]
			if org := events.OrgID(text[w.text:][:w.org]); last == nil || org != lastOrg {
				last, lastOrg = f.of(org), org
			}
			if last.count == 0 {
				f.orgs = append(f.orgs, lastOrg)
			}
			last.count++
			f.rows = append(f.rows, last)
		}
	}
	at := 0
	for _, org := range f.orgs {
		s := f.series[org]
		s.at = at
		at += s.count
	}
	f.refs = slices.Grow(f.refs[:0], at)[:at]
	i := 0
	for n, c := range f.chunks {
		for j := range c.rows {
			s := f.rows[i]
			f.refs[s.at] = ref{c.rows[j].at, uint32(n), uint32(j)}
			s.at++
			i++
		}
	}
	return at
}

func (f *flusher) of(org events.OrgID) *series {
	s := f.series[org]
	if s == nil {
		s = &series{}
		// The text would keep a whole chunk's texts alive.
		f.series[events.OrgID([]byte(org))] = s
	}
	return s
}

// encode numbers the uses that were collected and packs them into blocks.
func (f *flusher) encode(ctx context.Context, h uses.Header, sealing *sealing) ([]uses.Message, error) {
	var out []uses.Message
	rest := f.refs
	for _, org := range f.orgs {
		s := f.series[org]
		h.Org, h.First = org, s.last+1
		list := rest[:s.count]
		slices.SortStableFunc(list, func(a, b ref) int { return cmp.Compare(a.at, b.at) })
		blocks, err := f.pack(ctx, h, list, sealing)
		if err != nil {
			return nil, fmt.Errorf("recording: %w", err)
		}
		out = append(out, blocks...)
		s.last += uint64(s.count)
		rest = rest[s.count:]
		s.count = 0
	}
	return out, nil
}

// pack packs uses of one organization into blocks, with their texts sealed if that
// is wanted.
func (f *flusher) pack(ctx context.Context, h uses.Header, list []ref, sealing *sealing) ([]uses.Message, error) {
	if !sealing.wanted(h.Org) {
		return f.enc.EncodeSorted(h, len(list), func(i int, u *uses.Use) { f.read(list[i], u) })
	}
	var out []uses.Message
	for part := range slices.Chunk(list, sealAtOnce) {
		f.sealed = slices.Grow(f.sealed[:0], len(part))[:len(part)]
		for i, r := range part {
			f.read(r, &f.sealed[i])
		}
		sealing.seal(ctx, h.Org, f.sealed)
		blocks, err := f.enc.EncodeSorted(h, len(part), func(i int, u *uses.Use) { *u = f.sealed[i] })
		if err != nil {
			return nil, err
		}
		out = append(out, blocks...)
		h.First += uint64(len(part))
	}
	// What was in clear must not stay in memory for longer than it has to.
	clear(f.sealed[:cap(f.sealed)])
	return out, nil
}

// read reads a use as it is written in clear.
func (f *flusher) read(r ref, u *uses.Use) {
	f.chunks[r.chunk].rows[r.row].use(f.texts[r.chunk], u)
	u.RequestID, u.Path = uses.Plain(u.RequestID), uses.Plain(u.Path)
	u.ClientIP, u.UserAgent = uses.Plain(u.ClientIP), uses.Plain(u.UserAgent)
}

// marks ends the boot: a mark for every organization, and when these are stored
// the one that ends all.
func (r *Recorder) marks(ctx context.Context) error {
	f := &r.flusher
	h := uses.Header{
		Kind: uses.KindEnd, Ledger: r.cfg.Ledger, Verifier: r.cfg.Verifier, Boot: r.boot,
		From: events.TimeOf(time.Now()),
	}
	all := h
	all.Org = events.System
	var out []uses.Message
	for org, s := range f.series {
		all.Total += s.last
		all.Organizations++
		if org == events.System {
			all.Last = s.last
			continue
		}
		h.Org, h.Last = org, s.last
		m, err := f.enc.Mark(h)
		if err != nil {
			return fmt.Errorf("recording: end mark: %w", err)
		}
		out = append(out, m)
	}
	last, err := f.enc.Mark(all)
	if err != nil {
		return fmt.Errorf("recording: end mark: %w", err)
	}
	if len(out) > 0 {
		if err := r.publish(ctx, out); err != nil {
			return err
		}
	}
	return r.publish(ctx, []uses.Message{last})
}

// publish has the same messages stored again and again until they are, or ctx
// ends.
func (r *Recorder) publish(ctx context.Context, messages []uses.Message) error {
	var told time.Time
	for pause, attempts := firstPause, 1; ; pause, attempts = min(2*pause, lastPause), attempts+1 {
		err := r.cfg.Sink.PublishUses(ctx, messages)
		if err == nil {
			return nil
		}
		r.failures.Add(1)
		if time.Since(told) >= tellEvery {
			told = time.Now()
			r.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "uses are not stored, trying again", slog.String("verifier", string(r.cfg.Verifier)),
				slog.Int("blocks", len(messages)), slog.Int("attempts", attempts), slog.Any("error", err))
		}
		timer := time.NewTimer(rand.N(pause) + 1)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w, after: %w", context.Cause(ctx), err)
		}
	}
}
