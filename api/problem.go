package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/keyledger/keyledger/api/gate"
	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/commands"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/provider"
	"github.com/keyledger/keyledger/domain/providerkey"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections"
	"github.com/keyledger/keyledger/projections/catalog"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// What only this API refuses; what every door does, package gate names.
var (
	errNotApplied = errors.New("api: recorded and not applied")
	errTooMany    = errors.New("api: too many streams")
	errSlow       = errors.New("api: reader is too slow")
	errCursor     = errors.New("api: invalid cursor")
	// errTestsLimited and errSecretCopied are of provider keys.
	errTestsLimited = errors.New("api: too many tests of provider keys")
	errSecretCopied = fmt.Errorf("%w: a provider's secret stands where none belongs", domain.ErrSecretInField)
	errRequest      = gate.ErrRequest
	errTooLarge     = gate.ErrTooLarge
	errMethod       = gate.ErrMethod
	errInternal     = gate.ErrInternal
)

// kinds is the one table from what went wrong to what is answered, with what only
// this API says before what every door does.
var kinds = slices.Concat(gate.Table{
	{
		Err: domain.ErrPlanRequired, Status: 403, Code: "plan_required", Title: "A higher plan is needed",
		Help: "The organization's plan has no provider keys; the detail names the plan that has. What is saved is kept, and serves again with that plan.",
	},
	{
		Err: domain.ErrUnknownProvider, Status: 422, Code: "provider_unknown", Title: "Unknown provider",
		Help: "There is no such AI provider. GET /v1/providers lists them; the detail names the nearest.",
	},
	{
		Err: domain.ErrProviderKeyExists, Status: 409, Code: "provider_key_exists", Title: "Provider is connected",
		Help: "The organization has a key of this provider. PATCH replaces its secret without a moment in which neither works.",
	},
	{
		Err: domain.ErrProviderKeyMalformed, Status: 422, Code: "provider_key_malformed", Title: "Not a key of this provider",
		Help: "The secret cannot be one of this provider's, mostly since something was lost or caught when it was copied: problem says what, and looks_like whose key it is instead. It was not saved, and not sent anywhere. What only looks unusual is saved with force.",
	},
	{
		Err: provider.ErrBaseURLRequired, Status: 422, Code: "base_url_required", Title: "An address is needed",
		Help: "The provider has another address for each customer: give it as base_url.",
	},
	{
		Err: provider.ErrBaseURLForbidden, Status: 422, Code: "base_url_forbidden", Title: "Address not allowed",
		Help: "A base_url is an https address of the public internet, without user, query and fragment, or one that the server's operator allows.",
	},
	{
		Err: commands.ErrNoKEK, Status: 503, Code: "kek_missing", Title: "No key-encryption key",
		Help:   "This server was started without the key-encryption key that provider keys take. Its operator gives it one (--kek).",
		Detail: "this server has no key-encryption key, so that it can neither keep nor open provider keys; its operator starts it with --kek",
	},
	{
		Err: errTestsLimited, Status: 429, Code: "rate_limited", Title: "Too many tests",
		Help: "The organization has had as many provider keys tested, or addresses looked at, as it may. Ask again after the seconds of Retry-After.",
	},
	{
		Err: domain.ErrUnknownPermission, Status: 422, Code: "unknown_permission", Title: "Unknown permission",
		Help: "A grant is not in the organization's permission catalog. The detail names the nearest one that is.",
	},
	{
		Err: domain.ErrUnknownWorkspace, Status: 422, Code: "unknown_workspace", Title: "Unknown workspace",
		Help: "The organization has no such workspace, or not any more.",
	},
	{
		Err: domain.ErrUnknownProfile, Status: 422, Code: "unknown_profile", Title: "Unknown profile",
		Help: "The organization has no such profile, or not any more.",
	},
	{
		Err: domain.ErrPastExpiry, Status: 422, Code: "past_expiry", Title: "Expiry lies in the past",
		Help: "The expiry must lie in the future.",
	},
	{
		Err: domain.ErrLifetimeTooLong, Status: 422, Code: "lifetime_too_long", Title: "Lifetime exceeds the limit",
		Help: "The organization limits how long keys live; the detail says until when this one may.",
	},
	{
		Err: domain.ErrPolicy, Status: 422, Code: "policy_violation", Title: "Against the organization's policy",
		Help: "The organization's policy does not allow it. The detail begins with the member of the policy that is broken, and says what it allows; the field says where in the request.",
	},
	{
		Err: commands.ErrIdempotencyKeyReused, Status: 422, Code: "idempotency_key_reused", Title: "Idempotency key reused",
		Help: "The Idempotency-Key came with another request before. Use a new one for each new request, and the old one only to repeat it.",
	},
	{
		Err: domain.ErrExists, Status: 409, Code: "already_exists", Title: "Id is taken",
		Help: "The id is, or was, in use. Ids are never used again.",
	},
	{
		Err: domain.ErrEnded, Status: 409, Code: "ended", Title: "Has ended",
		Help: "A REVOKED or EXPIRED key, and an organization, workspace or profile that was deleted, do not change any more.",
	},
	{
		Err: domain.ErrInUse, Status: 409, Code: "in_use", Title: "In use",
		Help: "Keys have the profile. Detach it from them, or ask with force=true.",
	},
	{
		Err: domain.ErrKeyLimitReached, Status: 409, Code: "key_limit_reached", Title: "Key limit reached",
		Help: "The organization has as many active keys as it may. Revoke one, or raise the limit.",
	},
	{
		Err: domain.ErrLimitReached, Status: 409, Code: "limit_reached", Title: "Limit reached",
		Help: "The organization has as many workspaces or profiles as one may have. Delete one that is not needed any more.",
	},
	{
		Err: domain.ErrAlreadyRotated, Status: 409, Code: "already_rotated", Title: "Already rotated",
		Help: "The key has a successor. Rotate that one.",
	},
	{
		Err: domain.ErrDigestTaken, Status: 409, Code: "digest_taken", Title: "Digest is taken",
		Help: "The digest is that of another key of this installation, or stands in the request before. One secret cannot be two keys.",
	},
	{
		Err: domain.ErrLastOwner, Status: 409, Code: "last_owner", Title: "Last owner",
		Help: "Without this key nobody could manage the organization any more.",
	},
	{
		Err: catalog.ErrNotFound, Status: 404, Code: "not_found", Title: "Not found",
		Detail: gate.NotFound,
	},
	{
		Err: errNotRevoked, Status: 409, Code: "not_revoked", Title: "Not revoked",
		Help: "A receipt tells what became of a revocation, and the key was not revoked.",
	},
	{
		Err: domain.ErrConflict, Status: 409, Code: "conflict", Title: "Conflict",
		Help: "The request makes sense, but not in the present state. The detail says why.",
	},
	{
		Err: domain.ErrStale, Status: 412, Code: "stale_revision", Title: "Stale revision",
		Help: "The object has changed since the revision that If-Match names. Read it again and decide anew.",
	},
	{
		Err: errCursor, Status: 400, Code: "invalid_cursor", Title: "Invalid cursor",
		Help:   "The cursor is not one of this list with these filters. Begin again without it.",
		Detail: badCursor,
	},
	{
		Err: sqlview.ErrBadCursor, Status: 400, Code: "invalid_cursor", Title: "Invalid cursor",
		Detail: badCursor,
	},
	{
		Err: events.ErrTooLarge, Status: 422, Code: "too_large", Title: "Too large for the ledger",
		Help:   "What would be recorded does not fit one event. Say it in fewer words.",
		Detail: fmt.Sprintf("an event holds at most %d bytes", events.MaxFactBytes),
	},
	{
		Err: errTooMany, Status: 429, Code: "too_many_streams", Title: "Too many streams",
		Help: "The key has as many streams of events open as it may. Close one, or share one.",
	},
	{
		Err: errSlow, Status: 408, Code: "slow_reader", Title: "Reader too slow",
		Help: "The last event of a stream that was cut off, because what it was sent was not taken in time. Nothing is lost: come again with Last-Event-ID.",
	},
	{
		Err: errNotApplied, Status: 503, Code: "recorded_not_applied", Title: "Recorded, not applied yet",
		Help: "The change is in the ledger for good, and this server has not applied it: its verdicts may still rest on what was before, and are STALE once it is too far behind. Verifiers that follow the ledger apply it all the same. Repeat the request with the same Idempotency-Key until it is answered with success.",
	},
	{
		Err: events.ErrOutcomeUnknown, Status: 504, Code: "outcome_unknown", Title: "Outcome unknown",
		Help:   "The change was sent and no answer came. Repeat the request with the same Idempotency-Key to learn what became of it.",
		Detail: "the change was sent and no answer came: repeat the request with the same Idempotency-Key to learn what became of it",
	},
	{
		Err: events.ErrConflict, Status: 503, Code: "unavailable", Title: "Unavailable",
		Detail: unavailable,
	},
	{
		Err: projections.ErrStopped, Status: 503, Code: "unavailable", Title: "Unavailable",
		Detail: unavailable,
	},
}, gate.Problems())

const (
	badCursor   = "the cursor is not one of this list with these filters; begin again without it"
	unavailable = "nothing was changed; try again after the seconds of Retry-After"
)

// kindOf finds what is answered to an error.
func kindOf(err error) gate.Kind { return kinds.Of(err) }

// refusal is an error with what the caller needs to mend it.
type refusal = gate.Refusal

func refuse(err error, field, format string, args ...any) error {
	return gate.Refuse(err, field, format, args...)
}

// problemOf builds the document for an error.
func problemOf(err error, requestID string) wire.Problem {
	p := kinds.Problem(err, requestID)
	var malformed *providerkey.Malformed
	if errors.As(err, &malformed) {
		p.Problem, p.LooksLike = string(malformed.Problem), malformed.LooksLike
	}
	return p
}

// writeProblem answers with a problem document.
func writeProblem(w http.ResponseWriter, err error, requestID string) wire.Problem {
	return sendProblem(w, err, problemOf(err, requestID))
}

// sendProblem answers with a document that was made of an error.
func sendProblem(w http.ResponseWriter, err error, p wire.Problem) wire.Problem {
	var ours *refusal
	h := w.Header()
	if errors.As(err, &ours) {
		for name, values := range ours.Headers {
			h[name] = values
		}
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Del("Etag")
	if p.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", gate.RetryAfter)
	}
	w.WriteHeader(p.Status)
	// The client may have gone; there is nobody to tell.
	_, _ = w.Write(gate.AppendProblem(nil, p))
	return p
}
