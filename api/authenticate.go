package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// bearer returns the key of a request, empty when there is none.
func bearer(h http.Header) string { return gate.Bearer(h.Get("Authorization")) }

// authenticate finds out who asks. The use of the key is recorded like every
// other use.
func (s *Server) authenticate(ctx context.Context, r *http.Request, requestID string) (commands.Principal, error) {
	var d verify.Decision
	if err := s.admit(ctx, r, requestID, &d); err != nil {
		return commands.Principal{}, err
	}
	return commands.Principal{
		Actor: events.Actor{Type: events.ActorKey, Org: d.Org, Key: d.Key},
		Org:   d.Org, Role: d.Role, Scope: d.Scope,
	}, nil
}

// admit asks for the verdict on the management key of a request.
func (s *Server) admit(ctx context.Context, r *http.Request, requestID string, d *verify.Decision) error {
	secret := bearer(r.Header)
	if secret == "" {
		s.loginFailed(r, requestID, codeMissing, d)
		return unauthenticated(gate.Realm, "send a management key as Authorization: Bearer <key>")
	}
	q := verify.Question{Secret: secret, Kind: events.KindManagement, Context: useOf(r, requestID)}
	*d = s.cfg.Verifier.Verify(ctx, &q)
	err := refusalOf(d)
	// Of a verifier that cannot tell, nobody knows whether the key is good.
	if err != nil && d.Code != events.CodeStale && d.Code != events.CodeUnavailable {
		s.loginFailed(r, requestID, d.Code.String(), d)
	}
	return err
}

// readmit judges the management key of an admitted request anew, before what
// the request asked for is done or told: the key may have been revoked while
// its body came or while it waited. The use of the key was recorded by admit.
func (s *Server) readmit(r *http.Request, d *verify.Decision) error {
	*d = s.cfg.Verifier.Recheck(&verify.Question{Secret: bearer(r.Header), Kind: events.KindManagement})
	return refusalOf(d)
}

// refusalOf is what a verdict on a management key is answered with, nil when
// the key is good.
func refusalOf(d *verify.Decision) error {
	switch d.Code {
	case events.CodeValid:
		return nil
	case events.CodeStale, events.CodeUnavailable:
		return refuse(events.ErrUnavailable, "", "this server cannot tell right now whether the key is good; try again")
	case events.CodeInsufficientPermissions:
		return domain.Refuse(domain.ErrForbidden, "", "this is a key of kind %s; the ledger is managed with keys of kind management", d.Kind)
	case events.CodeOutOfScope:
		return domain.Refuse(domain.ErrForbidden, "", "none of the workspaces that this key was for is there any more")
	default:
		return unauthenticated(gate.Realm+`, error="invalid_token"`, "the key is not accepted")
	}
}

func unauthenticated(challenge, detail string) error { return gate.Unauthenticated(challenge, detail) }

// useOf is what is recorded of a request to this server itself. The path is
// that of the route: what stands in its place may be anything.
func useOf(r *http.Request, requestID string) recording.Context {
	return recording.Context{
		RequestID: requestID, Method: r.Method, Path: routeOf(r), UserAgent: provider.Redact(keystring.Redact(r.UserAgent())),
	}
}

// routeOf is the pattern that a request matched, without its method.
func routeOf(r *http.Request) string {
	if r.Pattern == "" {
		return "(none)"
	}
	if _, path, ok := strings.Cut(r.Pattern, " "); ok {
		return path
	}
	return r.Pattern
}
