package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// What only HTTP refuses. Sentinels of the rooms below have their own place in
// the table.
var (
	errUnauthenticated = errors.New("api: unauthenticated")
	errRequest         = errors.New("api: request cannot be read")
	errTooLarge        = errors.New("api: body too large")
	errMediaType       = errors.New("api: unsupported media type")
	errMethod          = errors.New("api: method not allowed")
	errCursor          = errors.New("api: invalid cursor")
	errInternal        = errors.New("api: internal error")
)

// kind is a kind of problem: what it is called and answered with.
type kind struct {
	err    error
	status int
	code   string
	title  string
}

// kinds is the one table from what went wrong to what is answered. The first
// match counts, so that members of a family stand before it.
var kinds = []kind{
	{domain.ErrUnknownPermission, 422, "unknown_permission", "Unknown permission"},
	{domain.ErrUnknownWorkspace, 422, "unknown_workspace", "Unknown workspace"},
	{domain.ErrUnknownProfile, 422, "unknown_profile", "Unknown profile"},
	{domain.ErrPastExpiry, 422, "past_expiry", "Expiry lies in the past"},
	{domain.ErrLifetimeTooLong, 422, "lifetime_too_long", "Lifetime exceeds the limit"},
	{domain.ErrSecretInField, 422, "secret_in_field", "A field holds a secret"},
	{commands.ErrIdempotencyKeyReused, 422, "idempotency_key_reused", "Idempotency key reused"},
	{domain.ErrExists, 409, "already_exists", "Id is taken"},
	{domain.ErrEnded, 409, "ended", "Has ended"},
	{domain.ErrInUse, 409, "in_use", "In use"},
	{domain.ErrKeyLimitReached, 409, "key_limit_reached", "Key limit reached"},
	{domain.ErrAlreadyRotated, 409, "already_rotated", "Already rotated"},
	{domain.ErrLastOwner, 409, "last_owner", "Last owner"},
	{domain.ErrInvalid, 422, "invalid_value", "Invalid value"},
	{domain.ErrNotFound, 404, "not_found", "Not found"},
	{catalog.ErrNotFound, 404, "not_found", "Not found"},
	{domain.ErrConflict, 409, "conflict", "Conflict"},
	{domain.ErrForbidden, 403, "forbidden", "Forbidden"},
	{domain.ErrStale, 412, "stale_revision", "Stale revision"},
	{errUnauthenticated, 401, "unauthenticated", "Unauthenticated"},
	{errRequest, 400, "invalid_request", "Invalid request"},
	{errCursor, 400, "invalid_cursor", "Invalid cursor"},
	{sqlview.ErrBadCursor, 400, "invalid_cursor", "Invalid cursor"},
	{events.ErrInvalidPosition, 400, "invalid_position", "Invalid position"},
	{errTooLarge, 413, "body_too_large", "Body too large"},
	{events.ErrTooLarge, 422, "too_large", "Too large for the ledger"},
	{errMediaType, 415, "unsupported_media_type", "Unsupported media type"},
	{errMethod, 405, "method_not_allowed", "Method not allowed"},
	{events.ErrOutcomeUnknown, 504, "outcome_unknown", "Outcome unknown"},
	{events.ErrConflict, 503, "unavailable", "Unavailable"},
	{events.ErrUnavailable, 503, "unavailable", "Unavailable"},
	{projections.ErrStopped, 503, "unavailable", "Unavailable"},
	{context.Canceled, 503, "unavailable", "Unavailable"},
	{context.DeadlineExceeded, 503, "unavailable", "Unavailable"},
	{errInternal, 500, "internal", "Internal error"},
}

// kindOf finds what is answered to an error; whatever the table does not know
// is our fault and tells nothing.
func kindOf(err error) kind {
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k
		}
	}
	return kinds[len(kinds)-1]
}

// refusal is an error of this package with what the caller needs to mend it.
type refusal struct {
	err    error
	field  string
	detail string
	faults []wire.Fault
	// headers go with the answer.
	headers http.Header
}

func (r *refusal) Error() string { return r.err.Error() + ": " + r.detail }
func (r *refusal) Unwrap() error { return r.err }

func refuse(err error, field, format string, args ...any) error {
	return &refusal{err: err, field: field, detail: fmt.Sprintf(format, args...)}
}

// problemsPage is where the codes are explained, each under its name.
const problemsPage = "https://github.com/keyledger/keyledger/blob/main/docs/errors.md#"

// problemOf builds the document for an error.
func problemOf(err error, requestID string) wire.Problem {
	k := kindOf(err)
	p := wire.Problem{Type: problemsPage + k.code, Title: k.title, Status: k.status, Code: k.code, RequestID: requestID}
	var ours *refusal
	var theirs *domain.Refusal
	switch {
	case errors.As(err, &ours):
		p.Detail, p.Field, p.Errors = ours.detail, ours.field, ours.faults
	case errors.As(err, &theirs):
		p.Detail, p.Field = theirs.Detail, theirs.Field
	default:
		p.Detail = plainDetail(err, k)
	}
	p.Detail, p.Field = keystring.Redact(p.Detail), keystring.Redact(p.Field)
	for i, f := range p.Errors {
		p.Errors[i] = wire.Fault{Field: keystring.Redact(f.Field), Detail: keystring.Redact(f.Detail)}
	}
	return p
}

// plainDetail says what to do where nobody below did.
func plainDetail(err error, k kind) string {
	switch k.code {
	case "unavailable":
		return "nothing was changed; try again after the seconds of Retry-After"
	case "outcome_unknown":
		return "the change was sent and no answer came: repeat the request with the same Idempotency-Key to learn what became of it"
	case "internal":
		return "this is a fault of the server; its log tells more under the request id"
	case "invalid_position":
		// The texts of events never repeat the position.
		return strings.TrimPrefix(err.Error(), events.ErrInvalidPosition.Error()+": ")
	case "invalid_cursor":
		return "the cursor is not one of this list with these filters; begin again without it"
	case "not_found":
		return "there is nothing here, or nothing that this key may see"
	case "too_large":
		return fmt.Sprintf("an event holds at most %d bytes", events.MaxFactBytes)
	default:
		return ""
	}
}

// writeProblem answers with a problem document.
func writeProblem(w http.ResponseWriter, err error, requestID string) wire.Problem {
	p := problemOf(err, requestID)
	body, encodeErr := json.Marshal(p)
	if encodeErr != nil {
		// The texts are valid UTF-8 or were replaced; nothing else can fail.
		body = []byte(`{"status":500,"code":"internal"}`)
	}
	var ours *refusal
	h := w.Header()
	if errors.As(err, &ours) {
		for name, values := range ours.headers {
			h[name] = values
		}
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Del("Etag")
	if p.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", retryAfter)
	}
	w.WriteHeader(p.Status)
	// The client may have gone; there is nobody to tell.
	_, _ = w.Write(body)
	return p
}
