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
	errNotApplied      = errors.New("api: recorded and not applied")
	errUnauthenticated = errors.New("api: unauthenticated")
	errRequest         = errors.New("api: request cannot be read")
	errTooLarge        = errors.New("api: body too large")
	errMediaType       = errors.New("api: unsupported media type")
	errMethod          = errors.New("api: method not allowed")
	errTooMany         = errors.New("api: too many streams")
	errSlow            = errors.New("api: reader is too slow")
	errCursor          = errors.New("api: invalid cursor")
	errInternal        = errors.New("api: internal error")
)

// kind is a kind of problem: what it is called and answered with.
type kind struct {
	err    error
	status int
	code   string
	title  string
	// help says what to do, on the page that the problem's type leads to.
	help string
}

// kinds is the one table from what went wrong to what is answered. The first
// match counts, so that members of a family stand before it.
var kinds = []kind{
	{
		domain.ErrUnknownPermission, 422, "unknown_permission", "Unknown permission",
		"A grant is not in the organization's permission catalog. The detail names the nearest one that is.",
	},
	{
		domain.ErrUnknownWorkspace, 422, "unknown_workspace", "Unknown workspace",
		"The organization has no such workspace, or not any more.",
	},
	{
		domain.ErrUnknownProfile, 422, "unknown_profile", "Unknown profile",
		"The organization has no such profile, or not any more.",
	},
	{
		domain.ErrPastExpiry, 422, "past_expiry", "Expiry lies in the past",
		"The expiry must lie in the future.",
	},
	{
		domain.ErrLifetimeTooLong, 422, "lifetime_too_long", "Lifetime exceeds the limit",
		"The organization limits how long keys live; the detail says until when this one may.",
	},
	{
		domain.ErrPolicy, 422, "policy_violation", "Against the organization's policy",
		"The organization's policy does not allow it. The detail begins with the member of the policy that is broken, and says what it allows; the field says where in the request.",
	},
	{
		domain.ErrSecretInField, 422, "secret_in_field", "A field holds a secret",
		"A key was found where none belongs. If it was sent by mistake, treat it as leaked and revoke it.",
	},
	{
		commands.ErrIdempotencyKeyReused, 422, "idempotency_key_reused", "Idempotency key reused",
		"The Idempotency-Key came with another request before. Use a new one for each new request, and the old one only to repeat it.",
	},
	{
		domain.ErrExists, 409, "already_exists", "Id is taken",
		"The id is, or was, in use. Ids are never used again.",
	},
	{
		domain.ErrEnded, 409, "ended", "Has ended",
		"A REVOKED or EXPIRED key, and an organization, workspace or profile that was deleted, do not change any more.",
	},
	{
		domain.ErrInUse, 409, "in_use", "In use",
		"Keys have the profile. Detach it from them, or ask with force=true.",
	},
	{
		domain.ErrKeyLimitReached, 409, "key_limit_reached", "Key limit reached",
		"The organization has as many active keys as it may. Revoke one, or raise the limit.",
	},
	{
		domain.ErrLimitReached, 409, "limit_reached", "Limit reached",
		"The organization has as many workspaces or profiles as one may have. Delete one that is not needed any more.",
	},
	{
		domain.ErrAlreadyRotated, 409, "already_rotated", "Already rotated",
		"The key has a successor. Rotate that one.",
	},
	{
		domain.ErrDigestTaken, 409, "digest_taken", "Digest is taken",
		"The digest is that of another key of this installation, or stands in the request before. One secret cannot be two keys.",
	},
	{
		domain.ErrLastOwner, 409, "last_owner", "Last owner",
		"Without this key nobody could manage the organization any more.",
	},
	{
		domain.ErrInvalid, 422, "invalid_value", "Invalid value",
		"The request can be read, and a value in it makes no sense. The field says where.",
	},
	{
		domain.ErrNotFound, 404, "not_found", "Not found",
		"There is nothing here, or nothing that the key may see.",
	},
	{catalog.ErrNotFound, 404, "not_found", "Not found", ""},
	{
		domain.ErrConflict, 409, "conflict", "Conflict",
		"The request makes sense, but not in the present state. The detail says why.",
	},
	{
		domain.ErrForbidden, 403, "forbidden", "Forbidden",
		"The key may not do this. The detail says who may.",
	},
	{
		domain.ErrStale, 412, "stale_revision", "Stale revision",
		"The object has changed since the revision that If-Match names. Read it again and decide anew.",
	},
	{
		errUnauthenticated, 401, "unauthenticated", "Unauthenticated",
		"Send a management key as Authorization: Bearer.",
	},
	{
		errRequest, 400, "invalid_request", "Invalid request",
		"The request cannot be read. The field or the detail says where.",
	},
	{
		errCursor, 400, "invalid_cursor", "Invalid cursor",
		"The cursor is not one of this list with these filters. Begin again without it.",
	},
	{sqlview.ErrBadCursor, 400, "invalid_cursor", "Invalid cursor", ""},
	{
		events.ErrInvalidPosition, 400, "invalid_position", "Invalid position",
		"This is no position of this ledger. Copy one from an answer of this server.",
	},
	{
		errTooLarge, 413, "body_too_large", "Body too large",
		"The body is longer than this route takes.",
	},
	{
		events.ErrTooLarge, 422, "too_large", "Too large for the ledger",
		"What would be recorded does not fit one event. Say it in fewer words.",
	},
	{
		errMediaType, 415, "unsupported_media_type", "Unsupported media type",
		"Bodies are application/json, in UTF-8 and not compressed.",
	},
	{
		errMethod, 405, "method_not_allowed", "Method not allowed",
		"The path does not take this method; Allow names those that it does.",
	},
	{
		errTooMany, 429, "too_many_streams", "Too many streams",
		"The key has as many streams of events open as it may. Close one, or share one.",
	},
	{
		errSlow, 408, "slow_reader", "Reader too slow",
		"The last event of a stream that was cut off, because what it was sent was not taken in time. Nothing is lost: come again with Last-Event-ID.",
	},
	{
		events.ErrOutcomeUnknown, 504, "outcome_unknown", "Outcome unknown",
		"The change was sent and no answer came. Repeat the request with the same Idempotency-Key to learn what became of it.",
	},
	{
		errNotApplied, 503, "recorded_not_applied", "Recorded, not applied yet",
		"The change is in the ledger for good, and this server has not applied it: its verdicts may still rest on what was before, and are STALE once it is too far behind. Verifiers that follow the ledger apply it all the same. Repeat the request with the same Idempotency-Key until it is answered with success.",
	},
	{
		events.ErrConflict, 503, "unavailable", "Unavailable",
		"Nothing was changed. Try again after the seconds of Retry-After.",
	},
	{events.ErrUnavailable, 503, "unavailable", "Unavailable", ""},
	{projections.ErrStopped, 503, "unavailable", "Unavailable", ""},
	{context.Canceled, 503, "unavailable", "Unavailable", ""},
	{context.DeadlineExceeded, 503, "unavailable", "Unavailable", ""},
	{
		errInternal, 500, "internal", "Internal error",
		"A fault of the server. Its log tells more under the request id.",
	},
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

// problemsPage is where the codes are explained, each under its name: on the
// server that answered, so that it is of the same version.
const problemsPage = "/docs#"

// problemOf builds the document for an error.
func problemOf(err error, requestID string) wire.Problem {
	k := kindOf(err)
	p := wire.Problem{Type: problemsPage + k.code, Title: k.title, Status: k.status, Code: k.code, RequestID: requestID}
	var ours *refusal
	var theirs *domain.Refusal
	switch {
	case faultsOf(err) != nil:
		p.Errors = faultsOf(err)
		p.Field, p.Detail = p.Errors[0].Field, p.Errors[0].Detail
		if len(p.Errors) == 1 {
			p.Errors = nil
		}
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

// faultsOf lists the faults of an error that joins several.
func faultsOf(err error) []wire.Fault {
	joined, ok := err.(interface{ Unwrap() []error }) //nolint:errorlint // Only what was joined here counts, not what it wraps.
	if !ok {
		return nil
	}
	var out []wire.Fault
	for _, e := range joined.Unwrap() {
		var r *domain.Refusal
		if errors.As(e, &r) {
			out = append(out, wire.Fault{Field: r.Field, Detail: r.Detail})
		}
	}
	return out
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
