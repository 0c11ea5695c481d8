package api

import (
	"context"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
)

// text shows a text of an organization to a caller: in clear, or a mark in the
// place of one that is sealed.
func (s *Server) text(_ context.Context, _ commands.Principal, _ events.OrgID, t events.Text) string {
	return t.String()
}

// useText does so with a text that came with a use.
func (s *Server) useText(_ context.Context, _ commands.Principal, _ events.OrgID, t string) string {
	return t
}
