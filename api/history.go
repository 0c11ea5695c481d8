package api

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/audit"
)

func (s *Server) showEvent(e audit.Event) wire.Event {
	return wire.Event{Position: s.position(e.Position), Kind: e.Kind.Name(), Event: jsontext.Value(e.Raw)}
}

func (s *Server) keyHistory(ctx context.Context, c *call) (reply, error) {
	k, err := s.seen(ctx, c)
	if err != nil {
		return reply{}, err
	}
	limit, err := c.limit()
	if err != nil {
		return reply{}, err
	}
	s.settleAudit(ctx)
	rows, next, err := s.cfg.Audit.History(ctx, events.KeySubject(k.Org, k.ID), audit.Page{Cursor: c.query("cursor"), Limit: limit})
	return reply{body: list(rows, next, s.showEvent)}, err
}
