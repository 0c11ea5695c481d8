package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/access"
	accessview "github.com/keyledger/keyledger/projections/access"
	gather "github.com/keyledger/keyledger/relay/access"
)

const (
	// sourceRefused is what metrics say when nothing was answered.
	sourceRefused = "refused"

	// codeNotOpened is what access records say of a secret that does not open.
	codeNotOpened = "not_opened"
)

func (s *Server) resolveEndpoint() endpoint {
	return endpoint{
		method: "POST", path: providerKeysPath + "/resolve", id: "resolve-provider-key", tag: providerTag, summary: "Get what to call a provider with",
		description: "The customer's own secret, or source built_in where there is none or the organization's plan has none: then the platform's own allocation serves. " +
			"It is decided by what the ledger says at this moment. Each answer is recorded before it is given, with who asked and from where. " +
			"Where the ledger cannot tell, or a secret that is there cannot be opened, the answer is 503 and never built_in.",
		who:   "Role resolver or owner of the whole organization.",
		takes: wire.ResolveProviderKey{}, example: wire.ResolveProviderKey{Provider: "openai"},
		answers: wire.ResolvedProviderKey{}, status: 200, codes: []string{"provider_unknown", "invalid_value", "kek_missing"}, handle: s.resolveProviderKey,
	}
}

func (s *Server) resolvesEndpoint() endpoint {
	return endpoint{
		method: "GET", path: providerKeyPath + "/resolves", id: "list-provider-key-resolves", tag: providerTag, summary: "List who asked for a provider key",
		description: "From the newest on: each time that it was handed out, with the version, or that built_in was answered; and what was refused. It is listed for as long as access records are kept, also after the key was removed.",
		who:         "Role owner or admin of the whole organization.", query: pageParameters(),
		answers: wire.List[wire.ProviderKeyResolve]{}, status: 200, codes: []string{"invalid_cursor", "invalid_value"}, reads: access.AuditRead, handle: s.listResolves,
	}
}

func (s *Server) resolveProviderKey(ctx context.Context, c *call) (reply, error) {
	org, err := c.org()
	if err != nil {
		return reply{}, err
	}
	body, err := read[wire.ResolveProviderKey](c)
	if err != nil {
		return reply{}, err
	}
	id, err := providerNamed(body.Provider)
	if err != nil {
		return reply{}, err
	}
	out, err := s.resolve(ctx, c, org, id)
	if err != nil {
		s.notResolved(c, org, id, err)
		return reply{}, unresolved(err)
	}
	s.metrics.providerResolve(id, string(out.Source))
	answer := wire.ResolvedProviderKey{Provider: string(id), Source: string(out.Source), Reason: string(out.Reason)}
	if out.Source == commands.SourceCustomer {
		answer.Version, answer.Secret, answer.BaseURL = out.Version, wire.ProviderSecret(out.Secret.Reveal()), out.BaseURL
		answer.LastTest = lastTest(out.Tested)
		s.sources.note(seen{sourceName{org, id, peerOf(c.r)}, c.principal.Actor.Key, events.TimeOf(time.Now())})
	}
	return reply{body: answer}, nil
}

// unresolved says of what is not available for a moment what that means here: who
// goes on with a key of their own sends the customer's data through their account.
func unresolved(err error) error {
	if k := kindOf(err); k.Status != http.StatusServiceUnavailable || k.Code != "unavailable" {
		return err
	}
	return &refusal{Err: err, Detail: "it is not known whose key to use, so use none: try again after the seconds of Retry-After"}
}

// resolve finds out what is answered, and has it recorded before anybody knows it.
func (s *Server) resolve(ctx context.Context, c *call, org events.OrgID, id events.ProviderID) (commands.Resolved, error) {
	out, err := s.cfg.Commands.ResolveProviderKey(ctx, c.principal, org, id)
	if err != nil {
		return out, err
	}
	if err := s.cfg.Accesses.Record(ctx, gather.Entry{
		Kind: access.ProviderKeyResolved, Org: org, Actor: c.principal.Actor, Role: c.principal.Role, What: string(id),
		Answer: string(out.Source), Version: out.Version, Source: peerOf(c.r), RequestID: c.requestID,
	}); err != nil {
		return commands.Resolved{}, err
	}
	// To be recorded took a moment, in which the key of the request may have ended.
	return out, c.still()
}

// notResolved records that somebody asked for a provider key and got none: that it was
// refused, or that the secret does not open.
func (s *Server) notResolved(c *call, org events.OrgID, id events.ProviderID, err error) {
	k, code := kindOf(err), ""
	s.metrics.providerResolve(id, sourceRefused)
	switch {
	case errors.Is(err, commands.ErrNotOpened):
		// The caller is told no more than that it is not available.
		code = codeNotOpened
	case k.Status < http.StatusInternalServerError:
		code = k.Code
	default:
		// An outage tells nothing of the provider key, and would be told of every one.
		return
	}
	switch {
	case k.Status == http.StatusUnauthorized:
		// The key of the request ended meanwhile: that is told with its next one.
	case s.whose(c) == org:
		s.record(c, access.ProviderKeyResolved, org, string(id), code)
	default:
		// Of what others have nobody is told apart what it was.
		s.record(c, access.CommandDenied, s.whose(c), c.endpoint.id, code)
	}
}

func (s *Server) listResolves(ctx context.Context, c *call) (reply, error) {
	org, id, err := c.provider()
	if err != nil {
		return reply{}, err
	}
	if err := s.cfg.Commands.MaySeeProviderKeys(c.principal, org); err != nil {
		return reply{}, err
	}
	f := accessview.Filter{Org: org, Kind: access.ProviderKeyResolved, What: string(id)}
	f.Cursor = c.query("cursor")
	if f.Limit, err = c.limit(); err != nil {
		return reply{}, err
	}
	rows, next, err := s.cfg.AccessLog.Rows(ctx, f)
	if err != nil {
		return reply{}, err
	}
	names := s.changes(ctx, c.principal, false)
	return reply{body: list(rows, next, func(r accessview.Row) wire.ProviderKeyResolve {
		out := wire.ProviderKeyResolve{
			At: r.LastAt.Std(), Provider: r.What, Actor: r.Actor.String(), ActorName: names.nameOf(r.Actor), Role: string(r.Role),
			Answer: r.Answer, Version: r.Version, Code: r.Code, Server: string(r.Server), Count: r.Count, RequestID: r.RequestID,
		}
		out.Source, out.SourceKind = s.whence(ctx, c.principal, r)
		return out
	})}, nil
}
