package api

import (
	"net/http"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/events"
)

// authorize answers /v1/authorize: forward authentication for gateways.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	t := trackOf(w)
	h := r.Header
	q, fold, err := s.gate.Asks(&gate.Request{
		RequestID: t.requestID, Method: r.Method, UserAgent: r.UserAgent(), Query: r.URL.RawQuery,
		Authorization: h.Get("Authorization"), APIKey: h.Get("X-Api-Key"),
		Permission: h["X-Keyledger-Permission"], Workspace: h["X-Keyledger-Workspace"],
		ForwardedMethod: h["X-Forwarded-Method"], OriginalMethod: h["X-Original-Method"],
		ForwardedURI: h["X-Forwarded-Uri"], OriginalURI: h["X-Original-Uri"],
		ForwardedFor: h["X-Forwarded-For"], RealIP: h["X-Real-Ip"],
	})
	if err != nil {
		t.fail(writeProblem(w, err, t.requestID), err)
		return
	}
	d := s.gate.Judge(r.Context(), gate.DoorAuthorize, &q)
	t.quiet = true
	if !d.Key.IsZero() {
		t.actor = events.Actor{Type: events.ActorKey, Org: d.Org, Key: d.Key}
	}
	status, problem := s.gate.Reply(&d, fold, t.requestID, t.Header())
	t.WriteHeader(status)
	if problem != nil {
		t.fail(*problem, nil)
		// The client may have gone; there is nobody to tell.
		_, _ = t.Write(gate.AppendProblem(nil, *problem))
	}
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
