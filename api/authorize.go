package api

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
	"github.com/keyledger/keyledger/verify/recording"
)

// denial is how a verdict is answered to a gateway.
type denial struct {
	status int
	code   string
	title  string
	detail string
}

// denials are what every code but VALID is answered with.
var denials = map[events.Code]denial{
	events.CodeMalformed:               {401, "key_malformed", "Malformed key", "this is not a key"},
	events.CodeNotFound:                {401, "key_not_found", "Unknown key", "there is no such key"},
	events.CodeRevoked:                 {401, "key_revoked", "Revoked key", "the key was revoked"},
	events.CodeExpired:                 {401, "key_expired", "Expired key", "the key has expired"},
	events.CodeInactive:                {401, "key_inactive", "Inactive key", "the key is switched off"},
	events.CodeInsufficientPermissions: {403, "insufficient_permissions", "Insufficient permissions", "the key may not do this"},
	events.CodeOutOfScope:              {403, "out_of_scope", "Out of scope", "the key may not be used here"},
	events.CodeStale:                   {503, "stale", "Stale", "this verifier does not know the latest changes; try again"},
	events.CodeUnavailable:             {503, "unavailable", "Unavailable", "there is no verdict right now; try again"},
}

// authorize answers /v1/authorize: forward authentication for gateways.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	t := trackOf(w)
	fold, err := foldOf(r)
	if err != nil {
		t.fail(writeProblem(w, err, t.requestID), err)
		return
	}
	secret := bearer(r.Header)
	if secret == "" {
		secret = r.Header.Get("X-Api-Key")
	}
	if secret == "" {
		err := unauthenticated(realm, "send a key as Authorization: Bearer <key> or as X-Api-Key")
		t.fail(writeProblem(w, err, t.requestID), err)
		return
	}
	q := verify.Question{Secret: secret, From: saidToComeFrom(r.Header)}
	q.Permission, q.Workspace = asksFor(r)
	forwarded := forwardedOf(r.Header)
	if q.Permission == "" {
		// Never without a method: a catalog with routes then denies what does
		// not say which route it is for.
		q.Method, q.Path = forwarded.method, forwarded.path
		if q.Method == "" {
			q.Method, q.Path = r.Method, ""
		}
	}
	q.Context = s.contextOf(recording.Context{
		RequestID: t.requestID, Method: forwarded.method, Path: forwarded.path, UserAgent: r.UserAgent(), ClientIP: s.clientIPOf(r.Header),
	})
	begin := time.Now()
	d := s.cfg.Verifier.Verify(r.Context(), &q)
	s.metrics.verdict(doorAuthorize, d.Code, time.Since(begin))
	s.answerGateway(t, &d, fold)
}

// clientIPOf is the address that a gateway says a request came from: what it added
// to X-Forwarded-For, which is the last of it, else X-Real-Ip. Everything before
// that may be the client's own, and so may X-Real-Ip where a gateway speaks in the
// other. Nothing that is no address is recorded as one, and one address has one
// text.
func (s *Server) clientIPOf(h http.Header) string {
	if !s.cfg.RecordClientIP {
		return ""
	}
	return addressIn(saidToComeFrom(h))
}

// saidToComeFrom is the text that should be that address.
func saidToComeFrom(h http.Header) string {
	for _, values := range [][]string{h["X-Forwarded-For"], h["X-Real-Ip"]} {
		if len(values) == 0 || values[len(values)-1] == "" {
			continue
		}
		last := values[len(values)-1]
		return last[strings.LastIndexByte(last, ',')+1:]
	}
	return ""
}

// foldOf reads ?deny=403, and refuses every other parameter but those that the
// request asks for something with.
func foldOf(r *http.Request) (bool, error) {
	if r.URL.RawQuery == "" {
		return false, nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		// Whatever could not be read may have been the question.
		return false, refuse(errRequest, "query", "cannot be read")
	}
	fold := false
	for name, values := range query {
		switch name {
		case "permission", "workspace":
			if len(values) != 1 {
				return false, refuse(errRequest, name, "is given %d times", len(values))
			}
		case "deny":
			if len(values) != 1 || values[0] != "403" {
				return false, refuse(errRequest, "deny", "must be 403")
			}
			fold = true
		default:
			return false, refuse(errRequest, fieldName(name), "there is no such parameter here")
		}
	}
	return fold, nil
}

// asksFor returns the permission and workspace that a gateway asks for.
func asksFor(r *http.Request) (string, events.WorkspaceID) {
	var query url.Values
	if r.URL.RawQuery != "" {
		query = r.URL.Query()
	}
	return oneOf(r.Header["X-Keyledger-Permission"], query["permission"]),
		events.WorkspaceID(oneOf(r.Header["X-Keyledger-Workspace"], query["workspace"]))
}

// oneOf returns what all agree on, empty when nothing was sent. A gateway fixes
// the question in a header or in the query, and the other may be the client's
// own: where they differ, or one is there and says nothing, the answer is a text
// that is no name, which nobody has and which denies. A text that holds a key is
// recorded masked.
func oneOf(lists ...[]string) string {
	var first string
	found, same := false, true
	for _, values := range lists {
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
		return keystring.Redact(strings.Join(slices.Concat(lists...), ","))
	case first == "":
		return nothingAsked
	default:
		return keystring.Redact(first)
	}
}

// nothingAsked stands in the use for a question that was there and empty.
const nothingAsked = "(empty)"

// forwarded is the request that a gateway asks about.
type forwarded struct{ method, path string }

// forwardedOf reads the request from the headers of Traefik and Caddy, or from
// those of nginx. Where both came and do not agree, one of them is the client's
// own: then nothing is known.
func forwardedOf(h http.Header) forwarded {
	method, ok1 := agreed(h["X-Forwarded-Method"], h["X-Original-Method"])
	path, ok2 := agreed(h["X-Forwarded-Uri"], h["X-Original-Uri"])
	if !ok1 || !ok2 {
		return forwarded{}
	}
	path, _, _ = strings.Cut(path, "?")
	return forwarded{method, path}
}

func agreed(lists ...[]string) (string, bool) {
	found := ""
	for _, values := range lists {
		for _, v := range values {
			if found != "" && found != v {
				return "", false
			}
			found = v
		}
	}
	return found, true
}

// answerGateway writes a verdict as a gateway understands it.
func (s *Server) answerGateway(t *track, d *verify.Decision, fold bool) {
	t.quiet = true
	h := t.Header()
	h["Cache-Control"] = noStore
	h["X-Keyledger-Code"] = []string{d.Code.String()}
	h["X-Keyledger-Position"] = []string{s.position(d.Position)}
	if !d.Key.IsZero() {
		t.actor = events.Actor{Type: events.ActorKey, Org: d.Org, Key: d.Key}
		h["X-Keyledger-Key-Id"] = []string{d.Key.String()}
		h["X-Keyledger-Organization"] = []string{string(d.Org)}
	}
	if d.Permission != "" && validName(d.Permission) {
		h["X-Keyledger-Permission"] = []string{d.Permission}
	}
	if d.Valid() {
		h["X-Keyledger-Permissions"] = []string{permissionsHeader(d.Permissions)}
		h["X-Keyledger-Scope-Checked"] = []string{boolText(d.ScopeChecked)}
		if d.Profile != nil && !d.Profile.Gone {
			h["X-Keyledger-Profile"] = []string{string(d.Profile.ID)}
		}
		t.WriteHeader(http.StatusOK)
		return
	}
	denied, ok := denials[d.Code]
	if !ok {
		denied = denials[events.CodeUnavailable]
	}
	status := denied.status
	if fold && (status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests) {
		status = http.StatusForbidden
	}
	switch denied.status {
	case http.StatusUnauthorized:
		h["Www-Authenticate"] = []string{realm + `, error="invalid_token", error_description="` + denied.detail + `"`}
	case http.StatusForbidden:
		challenge := realm + `, error="insufficient_scope"`
		if validName(d.Permission) {
			challenge += `, scope="` + d.Permission + `"`
		}
		h["Www-Authenticate"] = []string{challenge}
	}
	writeDenial(t, denied, status)
}

// writeDenial answers a gateway with a problem document that names the verdict.
func writeDenial(t *track, d denial, status int) {
	p := wire.Problem{Type: problemsPage + d.code, Title: d.title, Status: status, Code: d.code, Detail: d.detail, RequestID: t.requestID}
	body, err := json.Marshal(p)
	if err != nil {
		body = nil
	}
	h := t.Header()
	h.Set("Content-Type", "application/problem+json")
	if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", retryAfter)
	}
	t.WriteHeader(status)
	t.fail(p, nil)
	_, _ = t.Write(body)
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

// maxPermissionsHeader bounds what is answered of a key's grants: gateways take
// 4 KiB of headers in all.
const maxPermissionsHeader = 2 << 10

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

func (s *Server) authorizeEndpoint() endpoint {
	return endpoint{
		method: "GET", path: "/v1/authorize", id: "authorize", tag: "Verification", summary: "Judge a request for a gateway (forward auth)", any: true, open: true,
		description: "Takes every method. The caller's own key comes as Authorization: Bearer or X-Api-Key. The permission asked for, one or a query as for /v1/verify, is X-Keyledger-Permission or ?permission=, else what the organization's catalog says of the forwarded method and path (X-Forwarded-Method and X-Forwarded-Uri, or X-Original-Method and X-Original-URI); a catalog with routes denies what none of them matches. The workspace is X-Keyledger-Workspace or ?workspace=. Where header and query are both there and differ, or one is there and empty, the request is denied: with INSUFFICIENT_PERMISSIONS for the permission, OUT_OF_SCOPE for the workspace; so is a query that cannot be read. So a question that the gateway fixes in the URL is not the client's to change. What the URL leaves open is: a gateway must set or strip X-Keyledger-Permission, X-Keyledger-Workspace and the forwarded headers itself. 200 lets pass; 401 for a key that is MALFORMED, NOT_FOUND, REVOKED, EXPIRED or INACTIVE; 403 for INSUFFICIENT_PERMISSIONS and OUT_OF_SCOPE, and for a management key; 503 for STALE and UNAVAILABLE. The verdict stands in X-Keyledger-Code, -Key-Id, -Organization, -Profile, -Permissions, -Scope-Checked and -Position.",
		who:         "Anybody; the key that is judged is the caller's.",
		query: []parameter{
			{name: "permission", description: "The permission asked for.", of: "", example: "interview:start"},
			{name: "workspace", description: "The workspace asked for.", of: "", example: "support"},
			{name: "deny", description: "403 answers 403 in the place of 429 and 503, for nginx.", of: "", example: "403"},
		},
		status: 200, raw: http.HandlerFunc(s.authorize),
	}
}
