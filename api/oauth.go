package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

// oauth serves what OAuth's clients ask with a form.
func (s *Server) oauth(e *endpoint, handle func(context.Context, *call, gate.Form) (reply, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t := trackOf(w)
		c := &call{w: w, r: r, requestID: t.requestID, endpoint: e}
		ctx, cancel := context.WithTimeout(r.Context(), commandTimeout)
		defer cancel()
		b := s.buffers.Get()
		defer s.buffers.Put(b)
		form, err := c.form(b)
		var out reply
		if err == nil {
			out, err = handle(ctx, c, form)
		}
		s.accessed(c, err)
		switch {
		case err != nil:
			t.fail(sendProblem(w, err, gate.InOAuthsWords(problemOf(err, t.requestID))), err)
		case out.body == nil:
			w.Header()["Cache-Control"] = noStore
			w.WriteHeader(http.StatusOK)
		default:
			s.write(c, out)
		}
	})
}

// form reads the form of a request, whose texts may lie in the buffer.
func (c *call) form(b *gate.Buffers) (gate.Form, error) {
	if err := c.refuseSecrets(); err != nil {
		return gate.Form{}, err
	}
	if err := c.checkQuery(); err != nil {
		return gate.Form{}, err
	}
	if err := readInto(b, c.r, gate.MaxFormBytes); err != nil {
		return gate.Form{}, err
	}
	// OAuth's clients say who they are as they were taught to: a name, which means
	// nothing here, and a secret.
	if _, secret, ok := c.r.BasicAuth(); ok {
		c.r.Header.Set("Authorization", "Bearer "+secret)
	}
	return gate.ReadForm(c.r.Header.Get("Content-Type"), c.r.Header.Get("Content-Encoding"), b.In)
}

// introspect answers what a token is good for.
func (s *Server) introspect(ctx context.Context, c *call, form gate.Form) (reply, error) {
	var caller verify.Decision
	if err := s.admitAsker(trackOf(c.w), c.r, &caller); err != nil {
		return reply{}, err
	}
	q, err := s.gate.Question(form, useOf(c.r, c.requestID))
	if err != nil {
		return reply{}, err
	}
	if err := mayAsk(&caller, q.Workspace); err != nil {
		return reply{}, err
	}
	q.Within = within(&caller)
	body, err := s.gate.Introspect(ctx, &q, nil)
	trackOf(c.w).quiet = err == nil
	return reply{body: jsontext.Value(body)}, err
}

// revokeToken ends a key for whoever holds it, and shows so by sending it. With a
// management key it is that one's doing.
func (s *Server) revokeToken(ctx context.Context, c *call, form gate.Form) (reply, error) {
	by := bearer(c.r.Header)
	if by != "" && by != form.Token {
		var err error
		if c.principal, err = s.authenticate(ctx, c.r, c.requestID); err != nil {
			return reply{}, err
		}
		trackOf(c.w).actor = c.principal.Actor
		c.still = func() error { return s.stillAdmits(c.r, c.principal) }
	}
	d := s.ownVerdict(ctx, c, form.Token)
	switch {
	case !d.Key.IsZero():
		// Whatever the verdict, the token is that key's.
	case d.Code == events.CodeStale || d.Code == events.CodeUnavailable:
		return reply{}, refuse(events.ErrUnavailable, "", "this server cannot tell right now which key that is; try again")
	default:
		// What is no token needs no end (RFC 7009, 2.2).
		if dry, err := c.flag("dry_run"); err != nil || dry {
			return preview(nil)
		}
		return reply{}, nil
	}
	// The token itself is not to be a part of anything that is kept.
	c.body = []byte(d.Key.String())
	if c.principal.Actor.Key.IsZero() {
		c.actAs(&d)
	}
	w, err := c.wish("")
	if err != nil {
		return reply{}, err
	}
	var out commands.KeyOutcome
	if c.principal.Actor.Key == d.Key {
		out, err = s.cfg.Commands.RevokeSelf(ctx, w)
	} else {
		out, err = s.cfg.Commands.RevokeKey(ctx, w, d.Org, d.Key, false)
	}
	switch {
	case errors.Is(err, domain.ErrNotFound):
		// It is there, and to say otherwise would pass for its end.
		return reply{}, domain.Refuse(domain.ErrForbidden, "", "this management key may not revoke the token; whoever holds the token may, without Authorization")
	case err != nil:
		return reply{}, err
	}
	if w.DryRun {
		return preview(out.Facts)
	}
	return reply{}, s.applied(out.Outcome)
}

func (s *Server) introspectEndpoint() endpoint {
	e := endpoint{
		method: "POST", path: "/oauth2/introspect", id: "introspect", tag: "Verification", summary: "What is a token good for? (RFC 7662)",
		description: "For programs that speak OAuth: a key is the token. The use is recorded. Whatever keeps a token from being good for what is asked, the answer is {\"active\":false} and nothing else; so it is for a management key, which is a token for this API alone. What cannot be told right now is 503, and no token is said to be inactive over it. permission and workspace are this API's own. Problems carry RFC 6749's error too.",
		who:         "A management key of any role, as Bearer or as the password of Basic, whose name is passed over. One of an organization sees its tokens active and no others; one that is limited to workspaces must ask about a workspace among them. On a sidecar: anybody who reaches it.",
		takes:       wire.IntrospectRequest{}, form: true, answers: wire.Introspection{}, status: 200, codes: []string{"unavailable"},
		example: wire.IntrospectRequest{Token: "kl_live_…", Permission: "interview:start"},
	}
	e.raw = s.oauth(&e, s.introspect)
	return e
}

func (s *Server) revokeTokenEndpoint() endpoint {
	e := endpoint{
		method: "POST", path: "/oauth2/revoke", id: "revoke-token", tag: "Verification", summary: "Revoke a token (RFC 7009)",
		description: "For programs that speak OAuth: a key is the token. It ends for ever, and from the next verdict on. 200, with nothing in it, also for what is no token, or has ended before. Keyledger-Reason is recorded. A management key of role owner does not end itself so. Problems carry RFC 6749's error too. A sidecar answers 501: it changes nothing.",
		who:         "Whoever has the token, of any kind, without Authorization: the event then says that the key did it. Or a management key that may revoke it, as Bearer or as the password of Basic, whose name is passed over.",
		takes:       wire.RevokeRequest{}, form: true, change: true, status: 200, open: true,
		codes:   []string{"unauthenticated", "forbidden", "unavailable", "last_owner"},
		example: wire.RevokeRequest{Token: "kl_live_…"},
	}
	e.raw = s.oauth(&e, s.revokeToken)
	return e
}
