package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
)

// remember notes a position that this server has answered with.
func (s *Server) remember(pos events.Position) {
	for {
		seen := s.answered.Load()
		if uint64(pos) <= seen || s.answered.CompareAndSwap(seen, uint64(pos)) {
			return
		}
	}
}

// settle waits until the catalog has applied what this server answered before,
// so that whoever writes reads it. A view that does not come in time is read as
// it is: an old answer to a read is better than none.
func (s *Server) settle(ctx context.Context) { s.settleOn(ctx, "catalog", s.cfg.WaitForCatalog) }

// settleAudit is settle for the view of all events.
func (s *Server) settleAudit(ctx context.Context) { s.settleOn(ctx, "audit", s.cfg.WaitForAudit) }

func (s *Server) settleOn(ctx context.Context, view string, wait func(context.Context, events.Position) error) {
	pos := events.Position(s.answered.Load())
	if pos == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readWait)
	defer cancel()
	if err := wait(ctx, pos); err != nil {
		s.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "a read is answered by a view that lags", slog.String("view", view), slog.String("error", err.Error()))
	}
}

// notApplied answers a change that is recorded and that this server has not
// applied: it must not look like success to who takes a key away.
func (s *Server) notApplied(pos events.Position, cause error) error {
	return &refusal{
		Err: errors.Join(errNotApplied, cause),
		Detail: fmt.Sprintf("the change is recorded at position %s, and this server has not applied it yet: its own verdicts are not to be relied on until it has; repeat the request with the same Idempotency-Key",
			s.position(pos)),
	}
}

// applied refuses to answer a change with success that takes something away and
// that this server has not applied. What it may answer all the same carries a
// header that says so.
func (s *Server) applied(out commands.Outcome) error {
	s.remember(out.Position)
	if !out.Applied && out.Narrows() {
		return s.notApplied(out.Position, nil)
	}
	return nil
}

// shown waits until the catalog shows a change that is to be answered with what
// the catalog shows of it.
func (s *Server) shown(ctx context.Context, out commands.Outcome) error {
	if err := s.applied(out); err != nil {
		return err
	}
	if err := s.cfg.WaitForCatalog(ctx, out.Position); err != nil {
		return s.notApplied(out.Position, err)
	}
	return nil
}

// preview answers a change that was only to be tried.
func preview(facts []events.Recorded) (reply, error) { return previewOf(facts, nil) }

func previewOf(facts []events.Recorded, warnings []wire.Warning) (reply, error) {
	out := wire.DryRun{DryRun: true, Events: []wire.Preview{}, Warnings: warnings}
	for _, f := range facts {
		data, err := json.Marshal(f.Event, json.Deterministic(true))
		if err != nil {
			return reply{}, errors.Join(errInternal, err)
		}
		out.Events = append(out.Events, wire.Preview{Type: f.Event.Kind().Type(), Subject: f.Subject.String(), Data: jsontext.Value(data)})
	}
	return reply{status: 200, body: out}, nil
}

// deleted answers an end.
func (s *Server) deleted(w commands.Wish, out commands.Outcome, err error) (reply, error) {
	if err != nil {
		return reply{}, err
	}
	if w.DryRun {
		return preview(out.Facts)
	}
	if err := s.applied(out); err != nil {
		return reply{}, err
	}
	return reply{body: wire.Deleted{Position: s.position(out.Position)}, replayed: out.Replayed, lags: !out.Applied}, nil
}

// changed answers a change of what the catalog shows.
func changed[T any](ctx context.Context, s *Server, w commands.Wish, out commands.Outcome, err error, location string,
	show func() (T, events.Revision, error),
) (reply, error) {
	if err != nil {
		return reply{}, err
	}
	if w.DryRun {
		return preview(out.Facts)
	}
	if err := s.shown(ctx, out); err != nil {
		return reply{}, err
	}
	body, revision, err := show()
	return reply{body: body, revision: revision, location: location, replayed: out.Replayed, lags: !out.Applied}, err
}
