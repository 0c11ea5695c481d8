package gate

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
)

// What only a door refuses. Sentinels of the rooms below have their own place in
// the table.
var (
	ErrUnauthenticated = errors.New("gate: unauthenticated")
	ErrRequest         = errors.New("gate: request cannot be read")
	ErrTooLarge        = errors.New("gate: body too large")
	ErrMediaType       = errors.New("gate: unsupported media type")
	ErrMethod          = errors.New("gate: method not allowed")
	ErrInternal        = errors.New("gate: internal error")
)

// Kind is a kind of problem: what it is called and answered with.
type Kind struct {
	Err    error
	Status int
	Code   string
	Title  string
	// Help says what to do, on the page that the problem's type leads to.
	Help string
	// Detail is what is said of it where nobody below said more.
	Detail string
}

// Table leads from what went wrong to what is answered. The first match counts, so
// that members of a family stand before it. The last is for what no other is.
type Table []Kind

// unavailable is said when nothing was done.
const unavailable = "nothing was changed; try again after the seconds of Retry-After"

// Problems is the table of what every door may answer. A door that can say more
// puts its own before it.
func Problems() Table {
	return Table{
		{
			domain.ErrSecretInField, 422, "secret_in_field", "A field holds a secret",
			"A key was found where none belongs. If it was sent by mistake, treat it as leaked and revoke it.", "",
		},
		{
			domain.ErrInvalid, 422, "invalid_value", "Invalid value",
			"The request can be read, and a value in it makes no sense. The field says where.", "",
		},
		{
			domain.ErrNotFound, 404, "not_found", "Not found",
			"There is nothing here, or nothing that the key may see.", NotFound,
		},
		{
			domain.ErrForbidden, 403, "forbidden", "Forbidden",
			"The key may not do this. The detail says who may.", "",
		},
		{
			ErrUnauthenticated, 401, "unauthenticated", "Unauthenticated",
			"Send a management key as Authorization: Bearer.", "",
		},
		{
			ErrRequest, 400, "invalid_request", "Invalid request",
			"The request cannot be read. The field or the detail says where.", "",
		},
		{
			events.ErrInvalidPosition, 400, "invalid_position", "Invalid position",
			"This is no position of this ledger. Copy one from an answer of this server.", "",
		},
		{
			ErrTooLarge, 413, "body_too_large", "Body too large",
			"The body is longer than this route takes.", "",
		},
		{
			ErrMediaType, 415, "unsupported_media_type", "Unsupported media type",
			"Bodies are application/json, in UTF-8 and not compressed.", "",
		},
		{
			ErrMethod, 405, "method_not_allowed", "Method not allowed",
			"The path does not take this method; Allow names those that it does.", "",
		},
		{
			events.ErrUnavailable, 503, "unavailable", "Unavailable",
			"Nothing was changed. Try again after the seconds of Retry-After.", unavailable,
		},
		{context.Canceled, 503, "unavailable", "Unavailable", "", unavailable},
		{context.DeadlineExceeded, 503, "unavailable", "Unavailable", "", unavailable},
		{
			ErrInternal, 500, "internal", "Internal error",
			"A fault of the server. Its log tells more under the request id.",
			"this is a fault of the server; its log tells more under the request id",
		},
	}
}

// NotFound is what is said of what is not there, or not for the caller.
const NotFound = "there is nothing here, or nothing that this key may see"

// Of finds what is answered to an error; whatever the table does not know is our
// fault and tells nothing.
func (t Table) Of(err error) Kind {
	for _, k := range t {
		if errors.Is(err, k.Err) {
			return k
		}
	}
	return t[len(t)-1]
}

// Refusal is an error with what the caller needs to mend it.
type Refusal struct {
	Err    error
	Field  string
	Detail string
	Faults []wire.Fault
	// Headers go with the answer. Their names are canonical.
	Headers map[string][]string
}

func (r *Refusal) Error() string { return r.Err.Error() + ": " + r.Detail }
func (r *Refusal) Unwrap() error { return r.Err }

// Refuse says what is wrong with a field of a request, empty for all of it.
func Refuse(err error, field, format string, args ...any) error {
	return &Refusal{Err: err, Field: field, Detail: fmt.Sprintf(format, args...)}
}

// SecretIn refuses a key that stands in a field where none belongs.
func SecretIn(field string) error {
	if field == "" {
		field = "body"
	}
	return domain.Refuse(domain.ErrSecretInField, field, "holds what looks like an API key; a secret belongs in no field of this request. If it was sent by mistake, treat it as leaked and revoke it")
}

// Realm is the challenge that every refused key is answered with, as RFC 6750
// says, before what is said of the key.
const Realm = `Bearer realm="` + realm + `"`

// realm is the space that keys are good in.
const realm = "keyledger"

// Unauthenticated refuses a request over the key that it came with, or without.
func Unauthenticated(challenge, detail string) error {
	return &Refusal{
		Err: ErrUnauthenticated, Field: "Authorization", Detail: detail,
		Headers: map[string][]string{"Www-Authenticate": {challenge}},
	}
}

// problemsPage is where the codes are explained, each under its name: on the
// server that answered, so that it is of the same version.
const problemsPage = "/docs#"

// ProblemType is where a code is explained.
func ProblemType(code string) string { return problemsPage + code }

// Problem builds the document for an error.
func (t Table) Problem(err error, requestID string) wire.Problem {
	k := t.Of(err)
	p := wire.Problem{Type: ProblemType(k.Code), Title: k.Title, Status: k.Status, Code: k.Code, RequestID: requestID}
	var ours *Refusal
	var theirs *domain.Refusal
	switch {
	case faultsOf(err) != nil:
		p.Errors = faultsOf(err)
		p.Field, p.Detail = p.Errors[0].Field, p.Errors[0].Detail
		if len(p.Errors) == 1 {
			p.Errors = nil
		}
	case errors.As(err, &ours):
		p.Detail, p.Field, p.Errors = ours.Detail, ours.Field, ours.Faults
	case errors.As(err, &theirs):
		p.Detail, p.Field = theirs.Detail, theirs.Field
	default:
		p.Detail = PlainDetail(err, k)
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

// PlainDetail says what to do where nobody below did.
func PlainDetail(err error, k Kind) string {
	if errors.Is(k.Err, events.ErrInvalidPosition) {
		// The texts of events never repeat the position.
		return strings.TrimPrefix(err.Error(), events.ErrInvalidPosition.Error()+": ")
	}
	return k.Detail
}

// AppendProblem writes a problem document.
func AppendProblem(b []byte, p wire.Problem) []byte {
	body, err := json.Marshal(p)
	if err != nil {
		// The texts are valid UTF-8 or were replaced; nothing else can fail.
		return append(b, `{"status":500,"code":"internal"}`...)
	}
	return append(b, body...)
}
