package gate

import (
	"context"
	"strings"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// Bearer returns the key of an Authorization header, empty when there is none. The
// scheme is matched in any case, as RFC 9110 says.
func Bearer(authorization string) string {
	const scheme = "bearer "
	if len(authorization) <= len(scheme) || !strings.EqualFold(authorization[:len(scheme)], scheme) {
		return ""
	}
	return strings.TrimSpace(authorization[len(scheme):])
}

// Own judges the key of a request, of whatever kind, and returns the kind that it
// was taken for. The use is recorded.
func (g *Gate) Own(ctx context.Context, secret string, c recording.Context) (verify.Decision, events.KeyKind) {
	// A verdict is asked of one kind; the prefix tells which is likely. A key
	// of the other kind is asked again, so that its use is recorded as good.
	q := verify.Question{Secret: secret, Kind: events.KindAPI, Context: c}
	if keystring.Prefix(secret) == keystring.ManagementPrefix {
		q.Kind = events.KindManagement
	}
	d := g.cfg.Verifier.Verify(ctx, &q)
	if d.Code == events.CodeInsufficientPermissions && d.Kind != q.Kind {
		q.Kind = d.Kind
		d = g.cfg.Verifier.Verify(ctx, &q)
	}
	return d, q.Kind
}

// NoKey refuses a request that comes without the key which it is about.
func NoKey() error {
	return Unauthenticated(Realm, "send a key as Authorization: Bearer <key>")
}

// Whoami tells what a key is by the verdict of [Gate.Own].
func (g *Gate) Whoami(d *verify.Decision) (wire.Whoami, error) {
	switch d.Code {
	case events.CodeValid:
	case events.CodeOutOfScope, events.CodeInsufficientPermissions:
		return wire.Whoami{}, domain.Refuse(domain.ErrForbidden, "", "none of the workspaces that this key was for is there any more")
	case events.CodeStale, events.CodeUnavailable:
		return wire.Whoami{}, Refuse(events.ErrUnavailable, "", "this server cannot tell right now whether the key is good; try again")
	default:
		return wire.Whoami{}, Unauthenticated(Realm+`, error="invalid_token"`, "the key is not accepted")
	}
	return wire.Whoami{
		KeyID: d.Key.String(), Organization: string(d.Org), Kind: string(d.Kind), Role: string(d.Role),
		Permissions: GrantOf(d.Kind, d.Permissions), Scope: ScopeOf(d.Scope), ExpiresAt: Instant(d.ExpiresAt), Position: g.Position(d.Position),
	}, nil
}
