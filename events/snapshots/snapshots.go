// Package snapshots is the vocabulary of stored snapshots: what the verification
// index was at a position, kept beside the ledger so that a verifier need not replay
// all of it. A snapshot lies in chunks on a side of its own, and its [Manifest] comes
// last: what has no manifest is not there.
//
// Snapshots hold digests and settings of keys, and never a secret. They are nothing
// that cannot be made again: the ledger is the truth.
package snapshots

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/events"
)

const (
	// ChunkBytes is how long a chunk is; the last one may be shorter. It is half of
	// what deploy/nats lets brokers take in one message.
	ChunkBytes = 128 * 1024

	// MaxBytes bounds a snapshot: some hundred million keys.
	MaxBytes = 16 << 30

	// MaxManifestBytes bounds a manifest: the organizations of a credential, and
	// the rest.
	MaxManifestBytes = 32 * 1024
)

// maxSideLength holds a random name of 22 characters, and more.
const maxSideLength = 32

// everything stands in subjects for the scope of who reads all.
const everything = "all"

// ErrMalformed says that a body is no manifest.
var ErrMalformed = errors.New("snapshots: this is no manifest")

// Manifest says what a stored snapshot is.
type Manifest struct {
	Ledger events.LedgerID `json:"ledger"`
	// Scope is the label of the organizations that it holds, as in ticks, and
	// Organizations are those, sorted. Both are empty for everything.
	Scope         events.ScopeLabel `json:"scope,omitzero"`
	Organizations []events.OrgID    `json:"organizations,omitempty"`
	// Position is where it was made, and Stored is the broker's time of the fact
	// there.
	Position events.Position `json:"position"`
	Stored   events.Time     `json:"stored"`
	// Projection is the version of what it holds: another version reads another.
	Projection int `json:"projection"`
	// Size is how many bytes it has, in so many Chunks on a Side, and Digest is
	// their SHA-256. A side is drawn by who stores a snapshot, for that one alone:
	// two who store at a time never write over each other's.
	Size   int64              `json:"size"`
	Digest events.DigestValue `json:"digest"`
	Chunks int                `json:"chunks"`
	Side   string             `json:"side"`
	// CreatedAt is when it was made, by the clock of who made it.
	CreatedAt events.Time `json:"created_at"`
	// Signature is the signature line of a signed note (C2SP) whose text is
	// [Manifest.Text].
	Signature string `json:"signature"`
}

// Text is what the signature is over: every member but the signature, a line each.
// The side is left out: it is where the snapshot lies, and not what it is.
func (m *Manifest) Text() string {
	b := fmt.Appendf(nil, "keyledger snapshot v1\n%s\n%s\n%d\n%d\n%d\n%d\n%s\n%d\n%d\n",
		m.Ledger, ScopeToken(m.Scope), m.Position, m.Stored, m.Projection, m.Size, m.Digest, m.Chunks, m.CreatedAt)
	for _, org := range m.Organizations {
		b = fmt.Appendf(b, "%s\n", org)
	}
	return string(b)
}

// ScopeToken is how a scope is called in subjects.
func ScopeToken(scope events.ScopeLabel) string {
	if scope == "" {
		return everything
	}
	return string(scope)
}

// Subjects are those of everything that is stored of a scope.
func Subjects(scope events.ScopeLabel) string { return "snapshots." + ScopeToken(scope) + ".>" }

// ManifestSubject is where the manifest of a scope's snapshot stands.
func ManifestSubject(scope events.ScopeLabel) string {
	return "snapshots." + ScopeToken(scope) + ".manifest"
}

// SideSubjects are those of all chunks of one side.
func SideSubjects(scope events.ScopeLabel, side string) string {
	return "snapshots." + ScopeToken(scope) + "." + side + ".>"
}

// ChunkSubject is where the n-th chunk of a side stands, from 0 on.
func ChunkSubject(scope events.ScopeLabel, side string, n int) string {
	return "snapshots." + ScopeToken(scope) + "." + side + "." + strconv.Itoa(n)
}

// Side reports whether a text can be the name of a side. It is fit to be part of a
// file's name.
func Side(text string) bool {
	return text != "" && len(text) <= maxSideLength && !strings.ContainsFunc(text, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// ParseChunk reads the side and the number out of a chunk's subject.
func ParseChunk(scope events.ScopeLabel, subject string) (side string, n int, ok bool) {
	rest, ok := strings.CutPrefix(subject, "snapshots."+ScopeToken(scope)+".")
	if !ok {
		return "", 0, false
	}
	side, digits, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(digits)
	if err != nil || !Side(side) || n < 0 || n >= MaxBytes/ChunkBytes || ChunkSubject(scope, side, n) != subject {
		return "", 0, false
	}
	return side, n, true
}

// Check reports what no manifest may be.
func (m *Manifest) Check() error {
	var faults []string
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, text)
		}
	}
	fault(m.Ledger.IsZero(), "ledger")
	fault((m.Scope == "") != (len(m.Organizations) == 0), "scope")
	fault(strings.ContainsFunc(string(m.Scope), func(r rune) bool { return !strings.ContainsRune("0123456789abcdef", r) }), "scope")
	fault(len(m.Organizations) > events.MaxCredentialOrganizations || !slices.IsSorted(m.Organizations), "organizations")
	for _, org := range m.Organizations {
		_, err := events.ParseOrgID(string(org))
		fault(err != nil, "organizations")
	}
	fault(m.Position == 0, "position")
	fault(m.Stored.IsZero(), "stored")
	fault(m.Projection <= 0, "projection")
	fault(m.Size <= 0 || m.Size > MaxBytes, "size")
	fault(int64(m.Chunks) != (m.Size+ChunkBytes-1)/ChunkBytes, "chunks")
	fault(!Side(m.Side), "side")
	fault(m.CreatedAt.IsZero(), "created_at")
	if faults == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrMalformed, strings.Join(slices.Compact(faults), ", "))
}

// Encode writes a manifest.
func Encode(m *Manifest) ([]byte, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(m, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("snapshots: encode: %w", err)
	}
	return body, nil
}

// Decode reads a manifest of a ledger and a scope. What is none, or another's, is
// [ErrMalformed]. The signature is not judged.
func Decode(ledger events.LedgerID, scope events.ScopeLabel, body []byte) (Manifest, error) {
	var m Manifest
	if len(body) > MaxManifestBytes {
		return m, fmt.Errorf("%w: it is too long", ErrMalformed)
	}
	if err := json.Unmarshal(body, &m); err != nil {
		// The error may repeat what was sent.
		return Manifest{}, fmt.Errorf("%w: it cannot be read", ErrMalformed)
	}
	if err := m.Check(); err != nil {
		return Manifest{}, err
	}
	if m.Ledger != ledger || m.Scope != scope {
		return Manifest{}, fmt.Errorf("%w of this ledger and scope", ErrMalformed)
	}
	return m, nil
}
