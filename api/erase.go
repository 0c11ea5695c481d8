package api

import (
	"context"
	"errors"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
)

func (s *Server) eraseEndpoint() endpoint {
	return endpoint{
		method: "POST", path: "/v1/organizations/{org}/audit/erase", id: "erase-data-subject", tag: "Audit", summary: "Erase a data subject",
		description: "Destroys the key that sealed what is stored of a data subject: every name, external id, metadata value and reason of its keys, and what came with their uses. From then on it reads (erased) everywhere, after a rebuild and in later exports too; events, verdicts and proofs stay as they are. It cannot be undone. What was stored in clear before the organization had its texts sealed stays. It can be done in an organization that has ended.",
		who:         "Role owner or admin, of the whole organization.",
		takes:       wire.Erase{}, example: wire.Erase{Subject: "user-4711", Reason: "request of 2026-11-03"},
		change: true, answers: wire.Erased{}, status: 200, handle: s.eraseSubject,
	}
}

func (s *Server) eraseSubject(ctx context.Context, c *call) (reply, error) {
	org, err := c.org()
	if err != nil {
		return reply{}, err
	}
	body, w, err := wished(c, func(b wire.Erase) string { return b.Reason })
	if err != nil {
		return reply{}, err
	}
	if body.Subject == "" {
		return reply{}, domain.Refuse(domain.ErrInvalid, "subject", "is needed")
	}
	subject, err := parseID("subject", body.Subject, events.ParseDataSubject)
	if err != nil {
		return reply{}, err
	}
	done, err := s.cfg.Commands.EraseSubject(ctx, w, org, subject)
	switch {
	case errors.Is(err, commands.ErrNotDestroyed):
		s.remember(done.Position)
		return reply{}, &refusal{
			Err:    errors.Join(errNotApplied, err),
			Detail: "the erasure is recorded, and what opens the texts is not destroyed yet: the servers go on trying; repeat the request to learn that it is done",
		}
	case err != nil:
		return reply{}, err
	case w.DryRun:
		return preview(done.Facts)
	}
	s.remember(done.Position)
	return reply{
		body:     wire.Erased{Subject: string(subject), KeysDestroyed: len(done.Keys), Position: s.position(done.Position)},
		replayed: done.Replayed, lags: !done.Applied,
	}, nil
}
