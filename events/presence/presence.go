// Package presence is the vocabulary of announcements: what verifiers say of
// themselves, every few seconds, so that everybody knows who answers for keys, how
// far each has come, and who is not heard of any more. They are no events of the
// ledger: what counts is the last one, and old ones end.
//
// A verifier announces itself alone, under a subject that its credential names. What
// it says of itself is its own word.
package presence

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
)

// Kind is what a verifier runs in.
type Kind string

// The kinds of verifiers. They stand in announcements and never change.
const (
	// Server is a server of the installation.
	Server Kind = "server"
	// Sidecar is the program beside an application.
	Sidecar Kind = "sidecar"
	// SDK is the library in an application.
	SDK Kind = "sdk"
)

// kinds are all of them. Nothing writes to it.
var kinds = []Kind{Server, Sidecar, SDK}

// DefaultLease is how long an announcement holds: who is not heard of for longer is
// lost. Every third of it the next one comes.
const DefaultLease = 15 * time.Second

// Remembered is how long announcements are kept, and so how long receipts count with a
// verifier that is not heard of any more.
const Remembered = 7 * 24 * time.Hour

// The bounds of an announcement.
const (
	// MinLease and MaxLease bound a lease: a shorter one costs the broker more than
	// it tells, a longer one tells too late.
	MinLease = 3 * time.Second
	MaxLease = 10 * time.Minute
	// MaxVersionLength holds any version of a program, with its commit.
	MaxVersionLength = 64
	// MaxBytes bounds a body: the organizations of a credential, and the rest.
	MaxBytes = 16 * 1024
)

// ErrMalformed says that a body is no announcement.
var ErrMalformed = errors.New("presence: this is no announcement")

// Announcement is what a verifier says of itself.
type Announcement struct {
	Ledger events.LedgerID `json:"ledger"`
	// Verifier is the name that its uses are recorded under, in the run Boot; this
	// is its Number-th announcement, from 1 on.
	Verifier events.VerifierID `json:"verifier"`
	Boot     uses.BootID       `json:"boot"`
	Number   uint64            `json:"number"`
	// At is when it was said, by the verifier's own clock.
	At   events.Time `json:"at,omitzero"`
	Kind Kind        `json:"kind"`
	// Version is the program's; it may be empty.
	Version string `json:"version,omitzero"`
	// Organizations are the only ones whose keys it answers for, sorted; none means
	// all.
	Organizations []events.OrgID `json:"organizations,omitempty"`
	StartedAt     events.Time    `json:"started_at"`
	// Applied is the last position that its verdicts rest on.
	Applied events.Position `json:"applied"`
	// Revoked is the last revocation that it has seen come, and RevokedAgo for how long
	// before At its verdicts have rested on it, in milliseconds.
	Revoked    events.Position `json:"revoked,omitzero"`
	RevokedAgo int64           `json:"revoked_ago_ms,omitzero"`
	// Staleness is how long ago it was last known to hold everything, in
	// milliseconds, -1 if that is not known. Past MaxStaleness it denies, unless it
	// ServesStale: then nothing bounds how long it accepts a revoked key.
	Staleness    int64 `json:"staleness_ms"`
	MaxStaleness int64 `json:"max_staleness_ms"`
	ServesStale  bool  `json:"serves_stale,omitzero"`
	// OfflineStart is how old, in milliseconds, what it holds may be for it to answer
	// after a start without the broker, when it can announce nothing; 0 is never.
	OfflineStart int64 `json:"offline_start_ms,omitzero"`
	// Ready says that it answers, and nothing it knows of is wrong.
	Ready bool `json:"ready"`
	// Recorded is how many uses it took in this run, Backlog how many of them are
	// not stored yet. Every use of a time before StoredThrough is.
	Recorded      uint64      `json:"recorded"`
	Backlog       uint64      `json:"backlog"`
	StoredThrough events.Time `json:"stored_through,omitzero"`
	// Misses is how often it was asked about secrets that are no key.
	Misses uint64 `json:"misses"`
	// Lease is how long to wait for the next announcement, in milliseconds.
	Lease int64 `json:"lease_ms"`
	// Ended is said by the last one of a run that ends cleanly: it answers no more.
	Ended bool `json:"ended,omitzero"`
}

// Message is an announcement as the broker holds it.
type Message struct {
	// Position is its sequence in the stream; the broker assigns it.
	Position events.Position
	Subject  string
	// ID names the announcement, so that it is stored once. A reader does not get
	// it back.
	ID   string
	Body []byte
	// Stored is the broker's time.
	Stored events.Time
}

// Subject is where a verifier announces itself.
func Subject(verifier events.VerifierID) string { return "presence." + string(verifier) }

// Check reports what no announcement may be.
func (a *Announcement) Check() error {
	var faults []string
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, text)
		}
	}
	_, noVerifier := events.ParseVerifierID(string(a.Verifier))
	fault(a.Ledger.IsZero(), "ledger")
	fault(noVerifier != nil, "verifier")
	fault(a.Boot.IsZero() || a.Number == 0, "number")
	fault(!slices.Contains(kinds, a.Kind), "kind")
	fault(len(a.Version) > MaxVersionLength || strings.ContainsFunc(a.Version, unprintable), "version")
	fault(len(a.Organizations) > events.MaxCredentialOrganizations, "organizations")
	for i, org := range a.Organizations {
		_, err := events.ParseOrgID(string(org))
		fault(err != nil || i > 0 && a.Organizations[i-1] >= org, "organizations")
	}
	fault(a.StartedAt.IsZero(), "started_at")
	fault(a.Revoked > a.Applied, "revoked")
	fault(a.RevokedAgo < 0 || a.Revoked == 0 && a.RevokedAgo != 0, "revoked_ago_ms")
	fault(a.Staleness < -1, "staleness_ms")
	fault(a.MaxStaleness <= 0, "max_staleness_ms")
	fault(a.OfflineStart < 0, "offline_start_ms")
	fault(a.Backlog > a.Recorded, "backlog")
	fault(a.Lease < MinLease.Milliseconds() || a.Lease > MaxLease.Milliseconds(), "lease_ms")
	if faults == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrMalformed, strings.Join(slices.Compact(faults), ", "))
}

func unprintable(r rune) bool { return r <= ' ' || r > '~' }

// Encode writes an announcement as a message.
func Encode(a *Announcement) (Message, error) {
	if err := a.Check(); err != nil {
		return Message{}, err
	}
	body, err := json.Marshal(a, json.Deterministic(true))
	if err != nil {
		return Message{}, fmt.Errorf("presence: encode: %w", err)
	}
	return Message{Subject: Subject(a.Verifier), ID: fmt.Sprintf("%s.presence.%d", a.Boot, a.Number), Body: body}, nil
}

// Decode reads an announcement of a ledger's verifier out of a message. What is
// none, or stands under another's subject, is [ErrMalformed].
func Decode(ledger events.LedgerID, m Message) (Announcement, error) {
	var a Announcement
	if len(m.Body) > MaxBytes {
		return a, fmt.Errorf("%w: it is too long", ErrMalformed)
	}
	if err := json.Unmarshal(m.Body, &a); err != nil {
		// The error may repeat what was sent.
		return Announcement{}, fmt.Errorf("%w: it cannot be read", ErrMalformed)
	}
	if err := a.Check(); err != nil {
		return Announcement{}, err
	}
	switch {
	case a.Ledger != ledger:
		return Announcement{}, fmt.Errorf("%w of this ledger", ErrMalformed)
	case m.Subject != Subject(a.Verifier):
		return Announcement{}, fmt.Errorf("%w of the subject that it stands on", ErrMalformed)
	}
	return a, nil
}
