package extauthz

import (
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/verify"
)

const (
	realm      = `Bearer realm="keyledger"`
	retryAfter = "2"
)

// refusal is how a request is answered that may not pass.
type refusal struct {
	status                     int
	code, title, detail, field string
	challenge                  string
}

var denials = map[events.Code]refusal{
	events.CodeMalformed:               {status: 401, code: "key_malformed", title: "Malformed key", detail: "this is not a key"},
	events.CodeNotFound:                {status: 401, code: "key_not_found", title: "Unknown key", detail: "there is no such key"},
	events.CodeRevoked:                 {status: 401, code: "key_revoked", title: "Revoked key", detail: "the key was revoked"},
	events.CodeExpired:                 {status: 401, code: "key_expired", title: "Expired key", detail: "the key has expired"},
	events.CodeInactive:                {status: 401, code: "key_inactive", title: "Inactive key", detail: "the key is switched off"},
	events.CodeInsufficientPermissions: {status: 403, code: "insufficient_permissions", title: "Insufficient permissions", detail: "the key may not do this"},
	events.CodeOutOfScope:              {status: 403, code: "out_of_scope", title: "Out of scope", detail: "the key may not be used here"},
	events.CodeStale:                   {status: 503, code: "stale", title: "Stale", detail: "this verifier does not know the latest changes; try again"},
	events.CodeUnavailable:             {status: 503, code: "unavailable", title: "Unavailable", detail: "there is no verdict right now; try again"},
}

var (
	noKey = refusal{
		status: 401, code: "unauthenticated", title: "Unauthenticated", field: "Authorization", challenge: realm,
		detail: "send a key as Authorization: Bearer <key> or as X-Api-Key",
	}
	strayExtension = refusal{
		status: 400, code: "invalid_request", title: "Invalid request", field: "context_extensions",
		detail: "the gateway's context extensions may be permission and workspace",
	}
)

// refusalOf is what a verdict that denies is answered with.
func refusalOf(d *verify.Decision) refusal {
	r, ok := denials[d.Code]
	if !ok {
		r = denials[events.CodeUnavailable]
	}
	switch r.status {
	case 401:
		r.challenge = realm + `, error="invalid_token", error_description="` + r.detail + `"`
	case 403:
		r.challenge = realm + `, error="insufficient_scope"`
		if validName(d.Permission) {
			r.challenge += `, scope="` + d.Permission + `"`
		}
	}
	return r
}

// appendProblem writes the problem document.
func (r *refusal) appendProblem(b []byte, requestID string) []byte {
	b = append(b, `{"type":"/docs#`...)
	b = append(b, r.code...)
	b = append(b, `","title":"`...)
	b = append(b, r.title...)
	b = append(b, `","status":`...)
	b = strconv.AppendInt(b, int64(r.status), 10)
	b = append(b, `,"detail":`...)
	b, _ = jsontext.AppendQuote(b, r.detail)
	b = append(b, `,"code":"`...)
	b = append(b, r.code...)
	if r.field != "" {
		b = append(b, `","field":"`...)
		b = append(b, r.field...)
	}
	b = append(b, `","request_id":"`...)
	b = append(b, requestID...)
	return append(b, `"}`...)
}

// broken is answered when giving the answer itself went wrong.
var broken = refusal{status: 500, code: "internal", title: "Internal error", detail: "this is a fault of the server; its log tells more under the request id"}
