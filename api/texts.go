package api

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/seals"
	"github.com/keyledger/keyledger/events/uses"
)

// What stands in the place of a text that is not shown.
const (
	// markSealed: the caller may not see it, or what opens it cannot be had now.
	markSealed = "(sealed)"
	// markErased: its data subject was erased, and nobody will see it again.
	markErased = "(erased)"
	// markLeftOut: it could not be sealed in time when the use was recorded.
	markLeftOut = "(left out)"
)

const (
	// openWait bounds how long a text is waited for that is sealed.
	openWait = 2 * time.Second

	// opensAgain is how long texts are shown as sealed after what opens them could
	// not be had: an answer with many of them must not wait for each.
	opensAgain = time.Second
)

// openers remembers that sealed texts could not be opened.
type openers struct{ again atomic.Int64 }

// seesSealed reports whether a caller sees what is sealed. A member may look at
// keys, and not at what they tell of persons.
func seesSealed(p commands.Principal, org events.OrgID) bool {
	switch p.Role {
	case events.RoleOwner, events.RoleAdmin, events.RoleAuditor:
		return p.Reaches(org)
	default:
		return false
	}
}

// text shows a text of an organization to a caller: in clear, or a mark in the
// place of one that is sealed and not for them, or erased.
func (s *Server) text(ctx context.Context, p commands.Principal, org events.OrgID, t events.Text) string {
	if t.Sealed.IsZero() {
		return t.Clear
	}
	return s.opened(ctx, p, org, t.Sealed, seals.TextOfFact)
}

// useText does so with a text that came with a use.
func (s *Server) useText(ctx context.Context, p commands.Principal, org events.OrgID, t string) string {
	if t == uses.SealedNone {
		return markLeftOut
	}
	if sealed, ok := uses.ParseSealed(t); ok {
		return s.opened(ctx, p, org, sealed, seals.TextOfUse)
	}
	return t
}

// metadata shows a key's metadata to a caller.
func (s *Server) metadata(ctx context.Context, p commands.Principal, org events.OrgID, m events.Metadata) map[string]string {
	out := make(map[string]string, len(m))
	for name, value := range m {
		out[name] = s.text(ctx, p, org, value)
	}
	return out
}

func (s *Server) opened(ctx context.Context, p commands.Principal, org events.OrgID, sealed events.Sealed, what string) string {
	if s.cfg.Unseal == nil || !seesSealed(p, org) || time.Now().UnixNano() < s.openers.again.Load() {
		return markSealed
	}
	waiting, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()
	text, err := s.cfg.Unseal(waiting, org, sealed, what)
	switch {
	case err == nil:
		return text
	case errors.Is(err, seals.ErrErased):
		return markErased
	case ctx.Err() == nil && (waiting.Err() != nil || errors.Is(err, events.ErrUnavailable)):
		s.openers.again.Store(time.Now().Add(opensAgain).UnixNano())
	}
	return markSealed
}
