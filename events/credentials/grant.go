package credentials

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/jetstream"
	"github.com/keyledger/keyledger/events/presence"
	"github.com/keyledger/keyledger/events/snapshots"
)

// Grant says what a credential is for, as the fact that issued it does.
type Grant struct {
	// Name is the account's name, the consumer's, and the verifier's.
	Name events.CredentialName
	For  events.CredentialKind
	// Organizations are the only ones it reaches; none means all.
	Organizations []events.OrgID
	// Scope is the label under which ticks count what it reads, if they do.
	Scope events.ScopeLabel
	// MaxStaleness is a verifier's bound, 0 for the default.
	MaxStaleness time.Duration
	// Mirror is the mirror that a verifier reads by, if it reads by one.
	Mirror events.MirrorName
	// Leaf is the leaf node that a verifier is at, if it is at one.
	Leaf events.CredentialName
}

// GrantOf is what an issued credential may do.
func GrantOf(e events.CredentialIssued) Grant {
	return Grant{
		Name: e.Name, For: e.For, Organizations: e.Organizations, Scope: e.Scope, Mirror: e.Mirror, Leaf: e.Leaf,
		MaxStaleness: time.Duration(e.MaxStaleness) * time.Second,
	}
}

// Validate reports every fault at once.
func (g Grant) Validate() error {
	var faults []error
	if _, err := events.ParseCredentialName(string(g.Name)); err != nil {
		faults = append(faults, fmt.Errorf("credentials: name: %w", err))
	}
	if !slices.Contains(kinds, g.For) {
		faults = append(faults, errors.New("credentials: a credential is for a verifier, a subscriber, an auditor or a leaf node"))
	}
	if g.Mirror != "" {
		if _, err := events.ParseMirrorName(string(g.Mirror)); err != nil || g.For != events.CredentialVerifier {
			faults = append(faults, errors.New("credentials: a mirror has a name, and is for verifiers"))
		}
	}
	if g.Leaf != "" {
		if _, err := events.ParseCredentialName(string(g.Leaf)); err != nil || g.For != events.CredentialVerifier || g.Mirror != "" {
			faults = append(faults, errors.New("credentials: a leaf node has a name, is for verifiers, and has no mirrors"))
		}
	}
	if len(g.Organizations) > events.MaxCredentialOrganizations {
		faults = append(faults, fmt.Errorf("credentials: %d organizations, more than %d", len(g.Organizations), events.MaxCredentialOrganizations))
	}
	for i, org := range g.Organizations {
		_, err := events.ParseOrgID(string(org))
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("credentials: organization %d: %w", i+1, err))
		case org == events.System:
			faults = append(faults, errors.New("credentials: the installation's own organization is nobody's to read alone"))
		case slices.Contains(g.Organizations[:i], org):
			faults = append(faults, fmt.Errorf("credentials: organization %s is named twice", org))
		}
	}
	return errors.Join(faults...)
}

// kinds are what credentials are for. Nothing writes to it.
var kinds = []events.CredentialKind{events.CredentialVerifier, events.CredentialSubscriber, events.CredentialAuditor, events.CredentialLeaf}

// Readers are the consumers that the broker keeps for a credential. They are the
// walls between organizations: what a consumer does not let through, nobody gets
// through it.
func (g Grant) Readers(ledger events.LedgerID) []jetstream.ReaderSpec {
	of := func(stream string, subjects ...string) jetstream.ReaderSpec {
		return jetstream.ReaderSpec{
			Ledger: ledger, Stream: stream, Name: string(g.Name), Subjects: subjects, Scope: string(g.Scope),
			Acknowledged: g.For == events.CredentialSubscriber,
		}
	}
	switch g.For {
	case events.CredentialSubscriber:
		return []jetstream.ReaderSpec{of(jetstream.StreamLedger, g.revocations()...)}
	case events.CredentialAuditor:
		uses := of(jetstream.StreamUses, g.each("uses.%04d.%s.>")...)
		// Ticks count what there is of the ledger, not of the uses.
		uses.Scope = ""
		accesses := of(jetstream.StreamAccess, g.each("access.%04d.%s.>")...)
		accesses.Scope = ""
		return []jetstream.ReaderSpec{of(jetstream.StreamLedger, g.facts()...), uses, accesses}
	case events.CredentialVerifier:
		own := of(g.ledger(), g.facts()...)
		own.MaxStaleness = g.MaxStaleness
		return []jetstream.ReaderSpec{own}
	case events.CredentialLeaf:
		copied := of(jetstream.StreamLedger)
		copied.Deliver = jetstream.LeafSubject(g.Name)
		return []jetstream.ReaderSpec{copied}
	default:
		return nil
	}
}

// ledger is the stream that it reads the ledger from.
func (g Grant) ledger() string {
	if g.Mirror != "" {
		return jetstream.MirrorStream(g.Mirror)
	}
	return jetstream.StreamLedger
}

// target is the subject of LEDGER that an import leads to. Who reads by a mirror asks
// as if he read the ledger itself, and need not know.
func (g Grant) target(subject string) string {
	if g.Leaf != "" && strings.HasPrefix(subject, stored) {
		// Snapshots lie at the broker that the leaf node hangs on.
		return hubStored + strings.TrimPrefix(subject, stored)
	}
	for _, verb := range []string{"MSG.NEXT", "INFO", "RESET"} {
		if subject == consumerAPI(verb, jetstream.StreamLedger, g.Name) {
			return consumerAPI(verb, g.ledger(), g.Name)
		}
	}
	return subject
}

func consumerAPI(verb, stream string, name events.CredentialName) string {
	return "$JS.API.CONSUMER." + verb + "." + stream + "." + string(name)
}

func (g Grant) each(pattern string) []string {
	var out []string
	for _, org := range g.Organizations {
		out = append(out, fmt.Sprintf(pattern, events.Partition(org), org))
	}
	return out
}

// facts are those of its organizations, and beside them how the ledger began and
// who signs for it, and the ticks, by which it knows that it has them all.
func (g Grant) facts() []string {
	if len(g.Organizations) == 0 {
		return nil
	}
	return append(g.each("ledger.%04d.%s.>"), events.TickSubject().String(), events.InstallationSubject().String())
}

func (g Grant) revocations() []string {
	if len(g.Organizations) == 0 {
		return []string{"ledger.*.*.revoked.>"}
	}
	return g.each("ledger.%04d.%s.revoked.>")
}

// imports are the subjects of LEDGER that a credential's account reaches: what is
// not here, nobody in it can ask for, wherever he wants the answer.
func (g Grant) imports() []string {
	var out []string
	ask := func(stream string, verbs ...string) {
		for _, verb := range verbs {
			out = append(out, consumerAPI(verb, stream, g.Name))
		}
	}
	switch g.For {
	case events.CredentialSubscriber:
		ask(jetstream.StreamLedger, "MSG.NEXT", "INFO")
		out = append(out, acks(g.Name))
	case events.CredentialAuditor:
		ask(jetstream.StreamLedger, "MSG.NEXT", "INFO", "RESET")
		ask(jetstream.StreamUses, "MSG.NEXT", "INFO", "RESET")
		ask(jetstream.StreamAccess, "MSG.NEXT", "INFO", "RESET")
	case events.CredentialVerifier:
		ask(jetstream.StreamLedger, "MSG.NEXT", "INFO", "RESET")
		out = append(out, presence.Subject(events.VerifierID(g.Name)), stored+snapshots.Subjects(g.Scope))
		if len(g.Organizations) == 0 {
			out = append(out, uses(g.Name))
			break
		}
		// Where its runs begin and end is recorded under the installation's own
		// organization.
		for _, org := range append(slices.Clone(g.Organizations), events.System) {
			out = append(out, events.UsesSubject(org, events.VerifierID(g.Name)))
		}
	case events.CredentialLeaf:
		// What crosses follows from who is behind it: see [Authority.Account].
	}
	return out
}

// publishes are the subjects that a credential's user may publish to. They name no
// organization, of which there may be many: the account's imports do, and the
// broker takes no more than 4 KiB from a client that says who it is.
func (g Grant) publishes() []string {
	out := slices.DeleteFunc(g.imports(), func(s string) bool { return s[0] == 'u' || strings.HasPrefix(s, stored) })
	if g.For == events.CredentialVerifier {
		// Whose scope is drawn when it is recorded, after the credential.
		out = append(out, uses(g.Name), stored+"snapshots.>")
	}
	return out
}

// stored begins the requests for a snapshot by its subject.
const stored = "$JS.API.DIRECT.GET." + jetstream.StreamSnapshots + "."

// hubStored begins them at a leaf node.
const hubStored = jetstream.HubPrefix + ".DIRECT.GET." + jetstream.StreamSnapshots + "."

func acks(name events.CredentialName) string {
	return "$JS.ACK." + jetstream.StreamLedger + "." + string(name) + ".>"
}

func uses(name events.CredentialName) string { return "uses.*.*." + string(name) }
