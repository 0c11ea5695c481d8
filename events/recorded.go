package events

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
)

// Revision counts the facts of one subject: 1, 2, 3, … A reader refuses a fact
// that is not the next, so that an old one appended again changes nothing.
type Revision uint32

// ActorType tells who may act.
type ActorType string

// Who may act.
const (
	ActorKey      ActorType = "key"
	ActorSystem   ActorType = "system"
	ActorVerifier ActorType = "verifier"
)

// Actor is who did it. In a fact it is written `key/<org>/<id>`,
// `system/<part>` or `verifier/<id>`.
type Actor struct {
	Type ActorType
	// Org and Key are set for a management key.
	Org OrgID
	Key KeyID
	// Name is the part of the system, or the verifier.
	Name string
}

func (a Actor) String() string {
	switch a.Type {
	case ActorKey:
		return "key/" + string(a.Org) + "/" + a.Key.String()
	case ActorSystem, ActorVerifier:
		return string(a.Type) + "/" + a.Name
	default:
		return ""
	}
}

// MarshalText writes what String returns.
func (a Actor) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (a *Actor) UnmarshalText(b []byte) error {
	kind, rest, _ := bytes.Cut(b, []byte{'/'})
	var v Actor
	switch string(kind) {
	case string(ActorKey):
		org, key, _ := bytes.Cut(rest, []byte{'/'})
		id, err := parseUUID[KeyID]("key", key)
		if err != nil {
			return fmt.Errorf("%w: actor: %w", ErrMalformed, err)
		}
		v = Actor{Type: ActorKey, Org: OrgID(org), Key: id}
	case string(ActorSystem):
		v = Actor{Type: ActorSystem, Name: string(rest)}
	case string(ActorVerifier):
		v = Actor{Type: ActorVerifier, Name: string(rest)}
	default:
	}
	if err := v.check(); err != nil {
		return err
	}
	*a = v
	return nil
}

// check tells an actor that can be written and read again from any other.
func (a Actor) check() error {
	switch a.Type {
	case ActorKey:
		if _, err := ParseOrgID(string(a.Org)); err != nil {
			return fmt.Errorf("%w: actor: %w", ErrMalformed, err)
		}
	case ActorSystem, ActorVerifier:
		if !slug(a.Name) {
			return fmt.Errorf("%w: actor has no valid name", ErrMalformed)
		}
	default:
		return fmt.Errorf("%w: actor of unknown type", ErrMalformed)
	}
	return nil
}

// CommandDigest tells a repeated wish from another one under the same
// idempotency key. It is keyed by that key, which the ledger never stores, so
// that nobody can guess a short name from it.
type CommandDigest [32]byte

// IsZero reports whether there is no digest.
func (d CommandDigest) IsZero() bool { return d == CommandDigest{} }

func (d CommandDigest) MarshalText() ([]byte, error)  { return hex.AppendEncode(nil, d[:]), nil }
func (d *CommandDigest) UnmarshalText(b []byte) error { return setHex(d[:], b) }
func (v DigestValue) MarshalText() ([]byte, error)    { return hex.AppendEncode(nil, v[:]), nil }
func (v *DigestValue) UnmarshalText(b []byte) error   { return setHex(v[:], b) }
func (v DigestValue) String() string                  { return hex.EncodeToString(v[:]) }

// setHex takes lower case of the exact length alone: one value, one text.
func setHex(dst, src []byte) error {
	if !unhex(dst, src) {
		return fmt.Errorf("%w: digest is not %d lower-case hex digits", ErrMalformed, hex.EncodedLen(len(dst)))
	}
	return nil
}

// Meta is what a fact's envelope tells beside the fact.
type Meta struct {
	// ID is the CloudEvents id.
	ID EventID
	// Ledger is the ledger that the fact was made for.
	Ledger LedgerID
	// Time is when the actor's wish arrived and was decided.
	Time Time
	// RecordedTime is when the ledger was asked to store it. The broker's own
	// time is [Recorded.Stored].
	RecordedTime Time
	// Revision is the aggregate's, after this fact.
	Revision Revision
	// Actor did it, with Role and in Scope (workspaces, comma-separated, or `*`).
	Actor Actor
	Role  Role
	Scope string
	// Reason is why, in the actor's words. Like Ticket and RequestID it stands in the
	// envelope, where CloudEvents allows no control characters.
	Reason Text
	// Ticket names what asked for it elsewhere: a ticket, a change, an incident.
	Ticket string
	// RequestID is the caller's id of the request.
	RequestID string
	// Command is the wish that this fact fulfils, Digest what it said.
	Command CommandID
	Digest  CommandDigest
	// Causation is the fact that made the system act.
	Causation EventID
	// ConfigPosition is the position of the configuration it was decided under.
	ConfigPosition Position
	// BatchIndex and BatchSize tell facts that were appended as one: 1 of 3,
	// 2 of 3, 3 of 3, at adjacent positions. Both are 0 for a fact alone.
	BatchIndex int
	BatchSize  int
}

// check holds a fact's envelope to what every reader may rely on. It is asked
// before a fact is written and when one is read, so that nothing is written
// that would be malformed later.
func (m *Meta) check() error {
	switch {
	case m.ID.IsZero() || m.Ledger.IsZero() || m.Command.IsZero():
		return errors.New("no id, ledger or command id")
	case m.Time.IsZero() || m.RecordedTime.IsZero():
		return errors.New("no time or recorded time")
	case m.Revision == 0 || m.Revision > math.MaxInt32:
		// A CloudEvents integer has 32 bits with a sign.
		return errors.New("no revision, or an impossible one")
	case m.BatchIndex < 0 || m.BatchIndex > m.BatchSize || m.BatchSize > MaxBatch,
		(m.BatchIndex == 0) != (m.BatchSize == 0) || m.BatchSize == 1:
		return errors.New("impossible place in a batch")
	}
	for _, s := range [...]string{string(m.Role), m.Scope, m.Reason.Clear, m.Ticket, m.RequestID} {
		if !attribute(s) {
			return errors.New("character that no CloudEvents attribute may hold")
		}
	}
	return m.Actor.check()
}

// attribute reports whether a text may be an attribute of a CloudEvent: no
// control characters and no noncharacters.
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#type-system
func attribute(s string) bool {
	for _, r := range s {
		if r < ' ' || (r >= 0x7f && r <= 0x9f) || r&0xfffe == 0xfffe || (r >= 0xfdd0 && r <= 0xfdef) {
			return false
		}
	}
	return true
}

// Recorded is a fact in its place in the ledger.
type Recorded struct {
	Position Position
	Subject  Subject
	// Stored is the broker's time, decoration like every other.
	Stored Time
	Meta   Meta
	Event  Event
	// Raw is the stored body: what is hashed, shown and exported.
	Raw []byte
}

// Last reports whether the fact ends what was appended as one.
func (r Recorded) Last() bool { return r.Meta.BatchIndex == r.Meta.BatchSize }

// Expectation is a condition on the last position of one literal subject.
// Wildcards are not serializable on three nodes, and there is no way to write
// one here. Its zero value expects nothing.
type Expectation struct {
	Subject Subject
	Last    Position
}

// Expect says that the subject's last fact stands at that position; 0 is none.
func Expect(s Subject, last Position) Expectation { return Expectation{Subject: s, Last: last} }

// Entry is a fact to be appended.
type Entry struct {
	Subject Subject
	Event   Event
	// Meta needs its ID, Ledger, Time, Revision, Actor and Command. The ledger
	// fills RecordedTime, BatchIndex and BatchSize.
	Meta Meta
	// Expect is checked before anything of the batch is stored. Only the first
	// entry of a subject may expect something of it.
	Expect Expectation
}
