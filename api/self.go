package api

import (
	"context"
	"net/http"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

func (s *Server) revokeSelfEndpoint() endpoint {
	e := endpoint{
		method: "POST", path: "/v1/whoami/revoke", id: "revoke-self", tag: "Verification", summary: "Revoke the key of this request",
		description: "For ever, and from the next verdict on. The request proves that its sender holds the key, and so ends a key that its holder has given away by mistake. It need not be good: an INACTIVE or EXPIRED key is ended as well, and one that is REVOKED is answered the same again. A management key of role owner is not ended so.",
		who:         "Whoever has the key, of any kind.",
		takes:       wire.RevokeSelf{}, bare: true, maxBody: MaxVerifyBytes, example: wire.RevokeSelf{Reason: "pushed to a public repository"},
		change: true, answers: wire.RevokedSelf{}, status: http.StatusOK, codes: []string{"last_owner"},
	}
	e.raw = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.answerHolder(w, r, &e, s.revokeSelf) })
	return e
}

func (s *Server) revokeSelf(ctx context.Context, c *call) (reply, error) {
	if err := c.refuseSecrets(); err != nil {
		return reply{}, err
	}
	if err := c.checkQuery(); err != nil {
		return reply{}, err
	}
	secret := bearer(c.r.Header)
	if secret == "" {
		return reply{}, gate.NoKey()
	}
	d := s.ownVerdict(ctx, c, secret)
	switch {
	case !d.Key.IsZero():
		// Whatever the verdict, the secret is that key's.
	case d.Code == events.CodeStale || d.Code == events.CodeUnavailable:
		return reply{}, refuse(events.ErrUnavailable, "", "this server cannot tell right now which key that is; try again")
	default:
		return reply{}, unauthenticated(gate.Realm+`, error="invalid_token"`, "there is no such key")
	}
	c.actAs(&d)
	var err error
	if c.body, err = readBody(c.w, c.r, c.endpoint.bound()); err != nil {
		return reply{}, err
	}
	_, w, err := wished(c, func(b wire.RevokeSelf) string { return b.Reason })
	if err != nil {
		return reply{}, err
	}
	out, err := s.cfg.Commands.RevokeSelf(ctx, w)
	if err != nil {
		return reply{}, err
	}
	if w.DryRun {
		return preview(out.Facts)
	}
	if err := s.applied(out.Outcome); err != nil {
		return reply{}, err
	}
	return reply{
		body:     wire.RevokedSelf{KeyID: d.Key.String(), Organization: string(d.Org), Status: string(events.StatusRevoked), Position: s.position(out.Position)},
		replayed: out.Replayed, lags: !out.Applied,
	}, nil
}

// actAs lets a request act as the key that it came with.
func (c *call) actAs(d *verify.Decision) {
	actor := events.Actor{Type: events.ActorKey, Org: d.Org, Key: d.Key}
	trackOf(c.w).actor = actor
	c.principal = commands.Principal{Actor: actor, Org: d.Org}
	if d.Kind == events.KindManagement {
		c.principal.Role, c.principal.Scope = d.Role, d.Scope
	}
}
