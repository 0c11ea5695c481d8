package gate

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// Denial is how a verdict is answered to a gateway: as to anybody else, with a
// document of its own.
type Denial struct{ verify.Denial }

// Denied is what a code is answered with.
func Denied(code events.Code) Denial { return Denial{verify.DenialOf(code)} }

// Challenge is what RFC 6750 says to answer in WWW-Authenticate, empty for
// nothing. The permission is what was asked for.
func (d Denial) Challenge(permission string) string { return d.Denial.Challenge(realm, permission) }

// Problem is the document of a denial. fold answers 403 in the place of 429 and
// 503, for gateways to which only 401 and 403 are denials.
func (d Denial) Problem(fold bool, requestID string) wire.Problem {
	p := wire.Problem{Type: ProblemType(d.Code), Title: d.Title, Status: d.Status, Code: d.Code, Detail: d.Detail, RequestID: requestID}
	if fold && (p.Status == 503 || p.Status == 429) {
		p.Status = 403
	}
	return p
}

// Request is what a gateway asks. Where several values are told of a header, they
// are all of those that came, and the others are the first of theirs.
type Request struct {
	RequestID, Method, UserAgent string
	// Query is the raw query of the URL.
	Query                 string
	Authorization, APIKey string
	// Permission and Workspace are X-Keyledger-Permission and -Workspace.
	Permission, Workspace []string
	// The rest is what gateways forward: X-Forwarded-Method, X-Original-Method,
	// X-Forwarded-Uri, X-Original-Uri, X-Forwarded-For and X-Real-Ip.
	ForwardedMethod, OriginalMethod, ForwardedURI, OriginalURI, ForwardedFor, RealIP []string
}

// Asks makes the verifier's question of a gateway's request. fold says that
// denials are to be folded, see [Denial.Problem].
func (g *Gate) Asks(r *Request) (q verify.Question, fold bool, err error) {
	query, fold, err := queryOf(r.Query)
	if err != nil {
		return q, false, err
	}
	q.Secret = Bearer(r.Authorization)
	if q.Secret == "" {
		q.Secret = r.APIKey
	}
	if q.Secret == "" {
		return q, false, Unauthenticated(Realm, "send a key as Authorization: Bearer <key> or as X-Api-Key")
	}
	q.From = r.saidToComeFrom()
	q.Permission = oneOf(r.Permission, query["permission"])
	q.Workspace = events.WorkspaceID(oneOf(r.Workspace, query["workspace"]))
	method, path := r.forwarded()
	if q.Permission == "" {
		// Never without a method: a catalog with routes then denies what does
		// not say which route it is for.
		q.Method, q.Path = method, path
		if q.Method == "" {
			q.Method, q.Path = r.Method, ""
		}
	}
	clientIP := ""
	if g.cfg.RecordClientIP {
		clientIP = AddressIn(q.From)
	}
	q.Context = g.contextOf(recording.Context{
		RequestID: r.RequestID, Method: method, Path: path, UserAgent: r.UserAgent, ClientIP: clientIP,
	})
	return q, fold, nil
}

// saidToComeFrom is the text that should be the address that a gateway says a
// request came from: what it added to X-Forwarded-For, which is the last of it,
// else X-Real-Ip. Everything before that may be the client's own, and so may
// X-Real-Ip where a gateway speaks in the other.
func (r *Request) saidToComeFrom() string {
	for _, values := range [2][]string{r.ForwardedFor, r.RealIP} {
		if len(values) == 0 || values[len(values)-1] == "" {
			continue
		}
		last := values[len(values)-1]
		return last[strings.LastIndexByte(last, ',')+1:]
	}
	return ""
}

// AddressIn is the address that a text is, empty when it is none. One address has
// one text.
func AddressIn(text string) string {
	addr, err := netip.ParseAddr(strings.TrimSpace(text))
	if err != nil {
		return ""
	}
	return addr.Unmap().WithZone("").String()
}

// queryOf reads the query, ?deny=403 among it, and refuses every parameter but
// that and those that the request asks for something with.
func queryOf(raw string) (query url.Values, fold bool, err error) {
	if raw == "" {
		return nil, false, nil
	}
	if query, err = url.ParseQuery(raw); err != nil {
		// Whatever could not be read may have been the question.
		return nil, false, Refuse(ErrRequest, "query", "cannot be read")
	}
	for name, values := range query {
		switch name {
		case "permission", "workspace":
			if len(values) != 1 {
				return nil, false, Refuse(ErrRequest, name, "is given %d times", len(values))
			}
		case "deny":
			if len(values) != 1 || values[0] != "403" {
				return nil, false, Refuse(ErrRequest, "deny", "must be 403")
			}
			fold = true
		default:
			return nil, false, Refuse(ErrRequest, FieldName(name), "there is no such parameter here")
		}
	}
	return query, fold, nil
}

// RefuseQuery refuses every parameter of a request that takes none.
func RefuseQuery(raw string) error {
	if raw == "" {
		return nil
	}
	query, err := url.ParseQuery(raw)
	for name, values := range query {
		if keystring.Contains(name) {
			return SecretIn("query")
		}
		for _, v := range values {
			if keystring.Contains(v) {
				return SecretIn(FieldName(name))
			}
		}
	}
	for name := range query {
		return Refuse(ErrRequest, FieldName(name), "there is no such parameter here")
	}
	if err != nil {
		return Refuse(ErrRequest, "query", "cannot be read")
	}
	return nil
}

// oneOf returns what all agree on, empty when nothing was sent. A gateway fixes
// the question in a header or in the query, and the other may be the client's
// own: where they differ, or one is there and says nothing, the answer is a text
// that is no name, which nobody has and which denies. A text that holds a key is
// recorded masked.
func oneOf(header, query []string) string {
	var first string
	found, same := false, true
	for _, values := range [2][]string{header, query} {
		for _, v := range values {
			if !found {
				first, found = v, true
			}
			same = same && v == first
		}
	}
	switch {
	case !found:
		return ""
	case !same:
		return keystring.Redact(strings.Join(slices.Concat(header, query), ","))
	case first == "":
		return nothingAsked
	default:
		return keystring.Redact(first)
	}
}

// nothingAsked stands in the use for a question that was there and empty.
const nothingAsked = "(empty)"

// forwarded is the request that a gateway asks about, from the headers of Traefik
// and Caddy, or from those of nginx. Where both came and do not agree, one of them
// is the client's own: then nothing is known.
func (r *Request) forwarded() (method, path string) {
	method, ok1 := agreed(r.ForwardedMethod, r.OriginalMethod)
	path, ok2 := agreed(r.ForwardedURI, r.OriginalURI)
	if !ok1 || !ok2 {
		return "", ""
	}
	path, _, _ = strings.Cut(path, "?")
	return method, path
}

func agreed(one, other []string) (string, bool) {
	found := ""
	for _, values := range [2][]string{one, other} {
		for _, v := range values {
			if found != "" && found != v {
				return "", false
			}
			found = v
		}
	}
	return found, true
}

// Headers takes the headers of an answer. Names are canonical.
type Headers interface{ Set(name, value string) }

// Reply writes the headers of a verdict as a gateway understands it, and returns
// the status. When that is not 200, problem is the document to answer with.
func (g *Gate) Reply(d *verify.Decision, fold bool, requestID string, h Headers) (status int, problem *wire.Problem) {
	h.Set("Cache-Control", "no-store")
	h.Set("X-Keyledger-Code", d.Code.String())
	h.Set("X-Keyledger-Position", g.Position(d.Position))
	if d.Stale {
		h.Set("X-Keyledger-Stale", "true")
	}
	if d.Asked {
		h.Set("X-Keyledger-Asked", "true")
	}
	if !d.Key.IsZero() {
		h.Set("X-Keyledger-Key-Id", d.Key.String())
		h.Set("X-Keyledger-Organization", string(d.Org))
	}
	if d.Permission != "" && validName(d.Permission) {
		h.Set("X-Keyledger-Permission", d.Permission)
	}
	if d.Valid() {
		h.Set("X-Keyledger-Permissions", permissionsHeader(d.Permissions))
		h.Set("X-Keyledger-Scope-Checked", boolText(d.ScopeChecked))
		if d.Profile != nil && !d.Profile.Gone {
			h.Set("X-Keyledger-Profile", string(d.Profile.ID))
		}
		return 200, nil
	}
	denied := Denied(d.Code)
	if challenge := denied.Challenge(d.Permission); challenge != "" {
		h.Set("Www-Authenticate", challenge)
	}
	p := denied.Problem(fold, requestID)
	h.Set("Content-Type", "application/problem+json")
	if p.Status == 503 {
		h.Set("Retry-After", RetryAfter)
	}
	return p.Status, &p
}

func boolText(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// validName reports whether a permission is of the catalog's grammar: only then
// may it stand in a header.
func validName(name string) bool {
	_, err := permission.ParseName(name)
	return err == nil
}

// permissionsHeader names the level, or the grants of a restricted key when
// they are not too many to tell.
func permissionsHeader(p events.Permissions) string {
	if p.Level != events.LevelRestricted {
		return string(p.Level)
	}
	text := strings.Join(p.Grants, ",")
	if len(text) > maxPermissionsHeader {
		return string(p.Level)
	}
	return text
}
