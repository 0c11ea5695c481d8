// Package access is the vocabulary of access records: who read or took away some of
// the audit log, whose provider key was handed out or tried, who could not log in or was
// refused a change, and how often strangers tried secrets that nobody has. They are
// no events of the ledger: strangers cause most of them, and what strangers cause
// must not be kept for ever. They lie in a stream of their own with an end.
//
// A record counts what happened alike within a minute, on one server; what is told
// one by one counts one. What a server
// says of one row within a minute may stand in several records: their counts add up.
package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
)

// Kind is what happened.
type Kind string

// The kinds of access records. They stand in subjects and never change.
const (
	// AuditRead is reading the audit log, or reports made of it.
	AuditRead Kind = "audit.read"
	// AuditExported is taking a copy of it away.
	AuditExported Kind = "audit.exported"
	// ProviderKeyResolved is handing out the secret of a provider key.
	ProviderKeyResolved Kind = "provider_key.resolved"
	// ProviderKeyTested is asking a provider whether a key works, where no fact tells of
	// it: the key is not saved, or what the test came to was not to be.
	ProviderKeyTested Kind = "provider_key.tested"
	// LoginFailed is a request that needs a management key and came without one
	// that is good.
	LoginFailed Kind = "login.failed"
	// CommandDenied is a change that was asked for and refused.
	CommandDenied Kind = "command.denied"
	// SecretUnknown is a verdict on a secret that is no key of this ledger.
	SecretUnknown Kind = "secret.unknown"
)

// Kinds returns all kinds, in the order in which they are explained.
func Kinds() []Kind {
	return []Kind{AuditRead, AuditExported, ProviderKeyResolved, ProviderKeyTested, LoginFailed, CommandDenied, SecretUnknown}
}

// ParseKind reads a kind.
func ParseKind(s string) (Kind, error) {
	if k := Kind(s); slices.Contains(Kinds(), k) {
		return k, nil
	}
	return "", fmt.Errorf("%w: it has no kind of access record", ErrMalformed)
}

// SourceKind is how a source is told.
type SourceKind string

// How sources are told.
const (
	// SourceIP is an address in clear. No record that is stored has it.
	SourceIP SourceKind = "client_ip"
	// SourceLabel is the first half of an HMAC of the address and the day, in hex:
	// it tells the sources of a day apart, and not who they are.
	SourceLabel SourceKind = "label"
	// SourceSealed is an address under a key that can be destroyed.
	SourceSealed SourceKind = "sealed"
)

// Others is what a record tells of that gathers what there was no room for.
const Others = "others"

// What is handed out where a provider's key is asked for.
const (
	// AnswerCustomer is the organization's own key.
	AnswerCustomer = "customer"
	// AnswerBuiltIn is that the platform's own allocation serves.
	AnswerBuiltIn = "built_in"
)

// Bounds of a record's texts: they come from routes, codes and request ids, and
// nothing longer does.
const (
	MaxWhat   = 128
	MaxCode   = 64
	MaxSource = 512
	MaxAnswer = 32
	MaxSingle = 36
)

// ErrMalformed says that a body is no access record.
var ErrMalformed = errors.New("access: this is no access record")

// Record is what happened alike within a minute, so often.
type Record struct {
	Ledger events.LedgerID `json:"ledger"`
	// Server wrote it, in the run Boot, as its Number-th record, from 1 on. A
	// number that comes again was stored twice.
	Server events.VerifierID `json:"server"`
	Boot   BootID            `json:"boot"`
	Number uint64            `json:"number"`
	Row
	// Count is how often it happened, beside what other records tell of the row.
	Count uint64 `json:"count"`
	// FirstAt and LastAt are of those counted here.
	FirstAt events.Time `json:"first_at"`
	LastAt  events.Time `json:"last_at"`
	// RequestID is that of the first of them, if it has one.
	RequestID string `json:"request_id,omitzero"`
}

// Row is what is told apart.
type Row struct {
	// Minute is when: the beginning of a minute.
	Minute events.Time  `json:"minute"`
	Kind   Kind         `json:"kind"`
	Org    events.OrgID `json:"org"`
	// Actor is the management key, as far as it is known. Role is what it had.
	Actor events.Actor `json:"actor,omitzero"`
	Role  events.Role  `json:"role,omitzero"`
	// What is the route or report, or [Others].
	What string `json:"what"`
	// Code is why it was refused; empty when it was not.
	Code string `json:"code,omitzero"`
	// Answer is what was handed out, where that is told: of a provider key
	// [AnswerCustomer] or [AnswerBuiltIn]. Version is that of the customer's.
	Answer  string `json:"answer,omitzero"`
	Version uint64 `json:"version,omitzero"`
	// Single tells what is recorded one by one apart: it is drawn for each.
	Single string `json:"single,omitzero"`
	// Source is where from, told as SourceKind says; empty when it is not known.
	Source     string     `json:"source,omitzero"`
	SourceKind SourceKind `json:"source_kind,omitzero"`
}

// BootID names one run of a server.
type BootID uuid.UUID

func (id BootID) String() string { return uuid.UUID(id).String() }

// IsZero reports whether there is no id.
func (id BootID) IsZero() bool { return id == BootID{} }

// MarshalText writes the id.
func (id BootID) MarshalText() ([]byte, error) { return uuid.UUID(id).MarshalText() }

// UnmarshalText reads an id.
func (id *BootID) UnmarshalText(b []byte) error {
	u, err := uuid.ParseBytes(b)
	*id = BootID(u)
	return err
}

// ID names the record for ever: published again, it is the same.
func (r *Record) ID() string { return fmt.Sprintf("%s-%d", r.Boot, r.Number) }

// Subject is where records of a kind and an organization stand.
func Subject(org events.OrgID, kind Kind) string {
	return fmt.Sprintf("access.%04d.%s.%s", events.Partition(org), org, kind)
}

// Stranger reports whether nobody that is known caused it.
func (r *Row) Stranger() bool { return r.Actor == (events.Actor{}) }

// Check reports what no record may be.
func (r *Record) Check() error {
	var faults []string
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, text)
		}
	}
	_, noOrg := events.ParseOrgID(string(r.Org))
	_, noServer := events.ParseVerifierID(string(r.Server))
	fault(r.Ledger.IsZero(), "ledger")
	fault(noServer != nil, "server")
	fault(r.Boot.IsZero() || r.Number == 0, "number")
	fault(!slices.Contains(Kinds(), r.Kind), "kind")
	fault(noOrg != nil, "org")
	fault(r.Minute != Minute(r.Minute) || r.Minute == 0, "minute")
	fault(r.Count == 0, "count")
	fault(r.LastAt < r.FirstAt, "first_at")
	fault(r.What == "" || len(r.What) > MaxWhat, "what")
	fault(len(r.Code) > MaxCode, "code")
	fault(len(r.Answer) > MaxAnswer, "answer")
	fault(len(r.Single) > MaxSingle || r.Single != "" && r.Count != 1, "single")
	fault(len(r.Source) > MaxSource || (r.Source == "") != (r.SourceKind == ""), "source")
	fault(r.Source != "" && r.SourceKind != SourceLabel && r.SourceKind != SourceSealed, "source_kind")
	fault(len(r.RequestID) > events.MaxRequestIDLength, "request_id")
	if faults == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrMalformed, strings.Join(faults, ", "))
}

// Minute is the beginning of the minute that a time lies in.
func Minute(t events.Time) events.Time {
	const minute = 60_000_000
	return t - (t%minute+minute)%minute
}
