package api

import (
	"context"
	"net/http"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

// whoami answers what the key of the request is, of whatever kind.
func (s *Server) whoami(w http.ResponseWriter, r *http.Request) {
	s.answerHolder(w, r, &endpoint{status: http.StatusOK}, s.self)
}

// answerHolder answers who holds a key of any kind.
func (s *Server) answerHolder(w http.ResponseWriter, r *http.Request, e *endpoint, handle func(context.Context, *call) (reply, error)) {
	t := trackOf(w)
	c := &call{w: w, r: r, requestID: t.requestID, endpoint: e}
	ctx, cancel := context.WithTimeout(r.Context(), commandTimeout)
	defer cancel()
	out, err := handle(ctx, c)
	if err != nil {
		t.fail(writeProblem(w, err, t.requestID), err)
		return
	}
	s.write(c, out)
}

func (s *Server) self(ctx context.Context, c *call) (reply, error) {
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
	who, err := s.gate.Whoami(&d)
	if err != nil {
		return reply{}, err
	}
	trackOf(c.w).actor = events.Actor{Type: events.ActorKey, Org: d.Org, Key: d.Key}
	return reply{body: who}, nil
}

// ownVerdict judges a key that a request is about, of whatever kind. The use is
// recorded.
func (s *Server) ownVerdict(ctx context.Context, c *call, secret string) verify.Decision {
	d, kind := s.gate.Own(ctx, secret, useOf(c.r, c.requestID))
	// Of a secret that nobody has the verifier tells, unless it was to be a login.
	if kind == events.KindManagement && (d.Code == events.CodeMalformed || d.Code == events.CodeNotFound) {
		s.loginFailed(c.r, c.requestID, d.Code.String(), &d)
	}
	return d
}

func (s *Server) whoamiEndpoint() endpoint {
	return endpoint{
		method: "GET", path: "/v1/whoami", id: "whoami", tag: "Verification", summary: "What is the key of this request?",
		description: "For a key of any kind.", who: "Whoever has the key, as long as it would be accepted somewhere.",
		answers: wire.Whoami{}, status: 200, raw: http.HandlerFunc(s.whoami),
	}
}
