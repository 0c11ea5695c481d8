package gate

import (
	"context"
	"net/url"
	"strconv"
	"strings"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// Inactive is all that is answered of a token that is not good for what was asked,
// whatever the reason, as RFC 7662 says.
const Inactive = `{"active":false}`

// Form is what /oauth2 is asked with.
type Form struct {
	// Token is the key.
	Token string
	// Permission and Workspace are ours: what the token must be good for.
	Permission, Workspace string
}

// ReadForm reads the form of RFC 7662 and RFC 7009. Parameters that are not known
// are passed over, and none may come twice, as RFC 6749 says.
func ReadForm(contentType, encoding string, body []byte) (Form, error) {
	if t, ok := mediaTypeOf(contentType, encoding); !ok || t != TypeForm {
		return Form{}, Refuse(ErrMediaType, "Content-Type", "the body must be %s, in UTF-8 and not compressed", TypeForm)
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return Form{}, Refuse(ErrRequest, "", "the body is no form that can be read")
	}
	for name, list := range values {
		if len(list) > 1 {
			return Form{}, Refuse(ErrRequest, FieldName(name), "is given %d times", len(list))
		}
	}
	f := Form{Token: values.Get("token"), Permission: values.Get("permission"), Workspace: values.Get("workspace")}
	if f.Token == "" {
		return Form{}, Refuse(ErrRequest, "token", "is needed: the key that it is about")
	}
	for _, p := range []struct{ name, value string }{{"permission", f.Permission}, {"workspace", f.Workspace}} {
		switch {
		case values.Has(p.name) && p.value == "":
			// A variable that was never set must not ask for less.
			return Form{}, Refuse(ErrRequest, p.name, "is empty; leave it out to ask for none")
		case keystring.Contains(p.value):
			return Form{}, Refuse(ErrRequest, p.name, "holds what looks like an API key; a secret belongs in token alone")
		}
	}
	return f, nil
}

// Question makes the verifier's question of a form. A management key is a token of
// this ledger's own and active nowhere else.
func (g *Gate) Question(f Form, c recording.Context) (verify.Question, error) {
	q := verify.Question{Secret: f.Token, Permission: f.Permission, Workspace: events.WorkspaceID(f.Workspace), Context: c}
	if err := g.cfg.Verifier.Check(&q); err != nil {
		return q, Refuse(ErrRequest, "permission", "%s", noQuery(err))
	}
	return q, nil
}

// Introspect answers a question as RFC 7662 says. What cannot be told is an error,
// and never said to be inactive: that would be taken for the end of the token.
func (g *Gate) Introspect(ctx context.Context, q *verify.Question, b []byte) ([]byte, error) {
	d := g.Judge(ctx, DoorIntrospect, q)
	switch d.Code {
	case events.CodeValid:
		return g.appendToken(b, &d), nil
	case events.CodeStale, events.CodeUnavailable:
		return b, Refuse(events.ErrUnavailable, "", "it cannot be told right now whether the token is good; try again")
	default:
		return append(b, Inactive...), nil
	}
}

// appendToken writes a token that is good as [wire.Introspection] says.
func (g *Gate) appendToken(b []byte, d *verify.Decision) []byte {
	b = append(b, `{"active":true`...)
	if scope, ok := g.scopeOf(d); ok {
		b = append(b, `,"scope":"`...)
		b = append(b, scope...)
		b = append(b, '"')
	}
	b = append(b, `,"client_id":"`...)
	b = d.Key.Append(b)
	b = append(b, `","token_type":"Bearer"`...)
	if !d.ExpiresAt.IsZero() {
		b = append(b, `,"exp":`...)
		b = strconv.AppendInt(b, d.ExpiresAt.Std().Unix(), 10)
	}
	b = append(b, `,"sub":"`...)
	b = d.Key.Append(b)
	b = append(b, `","iss":"`...)
	b = append(b, g.issuer()...)
	b = append(b, `","keyledger":`...)
	return append(g.AppendVerdict(b, d), '}')
}

// scopeOf is what a token may do in the words of OAuth: the permissions of today's
// catalog that the key has, or else its grants if they are listed.
func (g *Gate) scopeOf(d *verify.Decision) (string, bool) {
	if g.cfg.Effective != nil {
		if list := g.cfg.Effective(d.Org, d.Permissions); list != nil {
			return strings.Join(list, " "), true
		}
	}
	return strings.Join(d.Permissions.Grants, " "), d.Permissions.Level == events.LevelRestricted
}

// issuer names the installation as a URI.
func (g *Gate) issuer() string { return "urn:uuid:" + g.cfg.Positions().Ledger.String() }

// InOAuthsWords adds the error code of RFC 6749 to a problem of /oauth2, for
// clients that read that and nothing else.
func InOAuthsWords(p wire.Problem) wire.Problem {
	switch p.Status {
	case 401:
		p.Error = "invalid_client"
	case 403:
		p.Error = "unauthorized_client"
	case 500:
		p.Error = "server_error"
	case 503, 504:
		p.Error = "temporarily_unavailable"
	default:
		p.Error = "invalid_request"
	}
	return p
}
