package access

import (
	"context"
	"fmt"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
)

// Start begins to store, until Close.
func (g *Gatherer) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	g.stop = cancel
	g.done.Go(func() { g.recordSingles(ctx) })
	g.done.Go(func() {
		t := time.NewTicker(g.cfg.FlushEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				g.flush(ctx, false)
			}
		}
	})
}

// Close stores what is left, until the context ends. It is called when nobody adds
// any more. Its error wraps [ErrUnstored].
func (g *Gatherer) Close(ctx context.Context) error {
	g.stop()
	g.done.Wait()
	for {
		err := g.flush(ctx, true)
		left := g.Stats().Held + len(g.unsaved)
		if err == nil || left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %d rows: %w", ErrUnstored, left, err)
		case <-time.After(g.cfg.FlushEvery / 4):
		}
	}
}

// flush stores what is due, or everything. What could not be stored is first.
func (g *Gatherer) flush(ctx context.Context, all bool) error {
	if err := g.store(ctx); err != nil {
		return err
	}
	g.encode(ctx, g.take(events.TimeOf(time.Now()), all))
	return g.store(ctx)
}

// store publishes the records that are made.
func (g *Gatherer) store(ctx context.Context) error {
	if len(g.unsaved) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	err := g.cfg.Sink.PublishAccess(ctx, g.unsaved)
	if err != nil {
		if !g.failing {
			g.log.Warn("access records cannot be stored; they are kept and tried again", "error", err)
		}
		g.failing = true
		return err
	}
	if g.failing {
		g.log.Info("access records are stored again")
	}
	g.failing = false
	g.mu.Lock()
	g.stats.Stored += uint64(len(g.unsaved))
	g.mu.Unlock()
	g.unsaved = nil
	return nil
}

// take returns copies of the rows that are due, and begins to count them anew.
func (g *Gatherer) take(now events.Time, all bool) []row {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.turn(now)
	due := make([]row, 0, len(g.over))
	for _, r := range g.over {
		due = append(due, *r)
	}
	g.over = nil
	for n, r := range g.rows {
		if r.count > 0 && (all || r.due(now)) {
			due = append(due, *r)
			*r = row{name: r.name, minute: r.minute, in: r.in, written: r.written + 1, next: now + events.Time(again/time.Microsecond)}
		}
		if all {
			delete(g.rows, n)
		}
	}
	return due
}

// due reports whether a row may be written before its minute is over.
func (r *row) due(now events.Time) bool {
	return r.written == 0 || r.written == 1 && now >= r.next && r.in.strain == 0
}

// encode makes records of rows.
func (g *Gatherer) encode(ctx context.Context, due []row) {
	for i := range due {
		r := &due[i]
		g.number++
		record := access.Record{
			Ledger: g.cfg.Ledger, Server: g.cfg.Server, Boot: g.boot, Number: g.number,
			Row:   access.Row{Minute: r.minute, Kind: r.kind, Org: r.org, Actor: r.actor, Role: r.role, What: r.what, Code: r.code},
			Count: r.count, FirstAt: r.first, LastAt: r.last, RequestID: r.requestID,
		}
		if r.source != "" {
			record.Source, record.SourceKind = g.tell(ctx, r.first, r.source)
		}
		m, err := access.Encode(&record)
		if err != nil {
			// A fault of whoever told it: nothing else makes such a record.
			g.log.Error("an access record cannot be written", "kind", string(r.kind), "error", err)
			continue
		}
		g.unsaved = append(g.unsaved, m)
	}
}

// tell tells where from, one at a time.
func (g *Gatherer) tell(ctx context.Context, at events.Time, source string) (string, access.SourceKind) {
	g.telling.Lock()
	defer g.telling.Unlock()
	return g.cfg.Tell(ctx, at.Std().Format(time.DateOnly), source)
}
