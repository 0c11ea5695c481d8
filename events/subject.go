package events

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
)

// Partitions is how many partitions organizations are spread over. It never
// changes: the partition is part of every subject ever written.
const Partitions = 1024

// Aggregate names what a subject's facts are about.
type Aggregate string

// The aggregates. A key's revocation stands apart from the key, so that it can
// be filtered on the server and never conflicts with an edit.
const (
	AggregateInstallation Aggregate = "installation"
	AggregateCredential   Aggregate = "credential"
	AggregateTick         Aggregate = "tick"
	AggregateOrganization Aggregate = "organization"
	AggregateWorkspace    Aggregate = "workspace"
	AggregateCatalog      Aggregate = "catalog"
	AggregateProfile      Aggregate = "profile"
	AggregateQuota        Aggregate = "quota"
	AggregateKey          Aggregate = "key"
	AggregateRevoked      Aggregate = "revoked"
	AggregateSubject      Aggregate = "subject"
	AggregateRetention    Aggregate = "retention"
	AggregateProviderKey  Aggregate = "provider_key"
)

// The ids of aggregates of which there is one.
const (
	// InstallationSelf is the installation's own aggregate.
	InstallationSelf = "self"
	// TickSelf is where all ticks stand.
	TickSelf = "self"
	// CatalogPermissions is an organization's one permission catalog.
	CatalogPermissions = "permissions"
	// QuotaKeys is the guard of an organization's limit on active keys.
	QuotaKeys = "keys"
	// RetentionUses is the retention of an organization's uses, RetentionStream
	// that of the whole stream of them, which is the installation's.
	RetentionUses   = "uses"
	RetentionStream = "stream"
	// RevokedAll on the revoked aggregate is the end of the organization, and
	// with it of all its keys.
	RevokedAll = "_all"
)

// Subject is what a fact is appended under: ledger.<partition>.<org>.<aggregate>.<id>.
// It is comparable; its zero value is no subject.
type Subject struct {
	Org       OrgID
	Aggregate Aggregate
	ID        string
}

// Partition returns the partition of an organization: the first eight bytes,
// big-endian, of the SHA-256 of its id, modulo [Partitions].
func Partition(org OrgID) uint16 {
	sum := sha256.Sum256([]byte(org))
	return uint16(binary.BigEndian.Uint64(sum[:8]) % Partitions)
}

// InstallationSubject is where the installation begins.
func InstallationSubject() Subject {
	return Subject{Org: System, Aggregate: AggregateInstallation, ID: InstallationSelf}
}

// CredentialSubject is the subject of a broker credential.
func CredentialSubject(name CredentialName) Subject {
	return Subject{Org: System, Aggregate: AggregateCredential, ID: string(name)}
}

// TickSubject is where ticks stand.
func TickSubject() Subject {
	return Subject{Org: System, Aggregate: AggregateTick, ID: TickSelf}
}

// OrganizationSubject is the subject of an organization's own facts.
func OrganizationSubject(org OrgID) Subject {
	return Subject{Org: org, Aggregate: AggregateOrganization, ID: string(org)}
}

// WorkspaceSubject is the subject of a workspace.
func WorkspaceSubject(org OrgID, id WorkspaceID) Subject {
	return Subject{Org: org, Aggregate: AggregateWorkspace, ID: string(id)}
}

// CatalogSubject is the subject of an organization's permission catalog.
func CatalogSubject(org OrgID) Subject {
	return Subject{Org: org, Aggregate: AggregateCatalog, ID: CatalogPermissions}
}

// ProviderKeySubject is the subject of what an organization has of a provider.
func ProviderKeySubject(org OrgID, provider ProviderID) Subject {
	return Subject{Org: org, Aggregate: AggregateProviderKey, ID: string(provider)}
}

// ProfileSubject is the subject of a profile.
func ProfileSubject(org OrgID, id ProfileID) Subject {
	return Subject{Org: org, Aggregate: AggregateProfile, ID: string(id)}
}

// QuotaSubject is the guard that creates under a limit are appended with.
func QuotaSubject(org OrgID) Subject {
	return Subject{Org: org, Aggregate: AggregateQuota, ID: QuotaKeys}
}

// KeySubject is the subject of a key.
func KeySubject(org OrgID, id KeyID) Subject {
	return Subject{Org: org, Aggregate: AggregateKey, ID: id.String()}
}

// RevokedSubject is the subject of a key's revocation.
func RevokedSubject(org OrgID, id KeyID) Subject {
	return Subject{Org: org, Aggregate: AggregateRevoked, ID: id.String()}
}

// ErasureSubject is the subject of what becomes of a data subject's texts.
func ErasureSubject(org OrgID, id DataSubject) Subject {
	return Subject{Org: org, Aggregate: AggregateSubject, ID: string(id)}
}

// RetentionSubject is the subject of what retention drops of an organization's
// uses.
func RetentionSubject(org OrgID) Subject {
	return Subject{Org: org, Aggregate: AggregateRetention, ID: RetentionUses}
}

// StreamRetentionSubject is the subject of what it drops of the stream itself.
func StreamRetentionSubject() Subject {
	return Subject{Org: System, Aggregate: AggregateRetention, ID: RetentionStream}
}

// EndSubject is the subject of an organization's end.
func EndSubject(org OrgID) Subject {
	return Subject{Org: org, Aggregate: AggregateRevoked, ID: RevokedAll}
}

// IsZero reports whether there is no subject.
func (s Subject) IsZero() bool { return s == Subject{} }

// Key returns the id of the key that the subject is about, if it is about one.
func (s Subject) Key() (KeyID, bool) {
	if s.Aggregate != AggregateKey && s.Aggregate != AggregateRevoked {
		return KeyID{}, false
	}
	id, err := ParseKeyID(s.ID)
	return id, err == nil
}

func (s Subject) String() string {
	if s.IsZero() {
		return ""
	}
	return "ledger." + partitionText(s.Org) + "." + string(s.Org) + "." + string(s.Aggregate) + "." + s.ID
}

// UsesSubject is the subject of the blocks of uses that a verifier records for
// an organization.
func UsesSubject(org OrgID, verifier VerifierID) string {
	return "uses." + partitionText(org) + "." + string(org) + "." + string(verifier)
}

func partitionText(org OrgID) string {
	d := partitionDigits(org)
	return string(d[:])
}

func partitionDigits(org OrgID) [4]byte {
	p := Partition(org)
	return [4]byte{'0' + byte(p/1000), '0' + byte(p/100%10), '0' + byte(p/10%10), '0' + byte(p%10)}
}

// ParseSubject reads a subject and checks that it is one the ledger writes: a
// known aggregate or one that a later version could add, well-formed ids, and
// the organization's own partition.
func ParseSubject(text string) (Subject, error) {
	parts := strings.Split(text, ".")
	if len(parts) != 5 || parts[0] != "ledger" {
		return Subject{}, fmt.Errorf("%w: subject is not of the form ledger.<partition>.<org>.<aggregate>.<id>", ErrMalformed)
	}
	s := Subject{Org: OrgID(parts[2]), Aggregate: Aggregate(parts[3]), ID: parts[4]}
	if err := s.check(); err != nil {
		return Subject{}, err
	}
	if d := partitionDigits(s.Org); parts[1] != string(d[:]) {
		return Subject{}, fmt.Errorf("%w: subject names a partition that is not its organization's", ErrMalformed)
	}
	return s, nil
}

// check tells a subject that the ledger could write from any other.
func (s Subject) check() error {
	if _, err := ParseOrgID(string(s.Org)); err != nil {
		return fmt.Errorf("%w: subject: %w", ErrMalformed, err)
	}
	return s.checkID()
}

func (s Subject) checkID() error {
	ok := false
	switch s.Aggregate {
	case AggregateInstallation:
		ok = s.Org == System && s.ID == InstallationSelf
	case AggregateCredential:
		ok = s.Org == System && slug(s.ID)
	case AggregateTick:
		ok = s.Org == System && s.ID == TickSelf
	case AggregateOrganization:
		ok = s.ID == string(s.Org)
	case AggregateWorkspace, AggregateProfile, AggregateSubject, AggregateProviderKey:
		ok = slug(s.ID)
	case AggregateCatalog:
		ok = s.ID == CatalogPermissions
	case AggregateQuota:
		ok = s.ID == QuotaKeys
	case AggregateRetention:
		ok = s.ID == RetentionUses || s.ID == RetentionStream && s.Org == System
	case AggregateKey:
		_, err := ParseKeyID(s.ID)
		ok = err == nil
	case AggregateRevoked:
		_, err := ParseKeyID(s.ID)
		ok = err == nil || s.ID == RevokedAll
	default:
		// An aggregate that a later version added: its facts are unknown, not
		// corrupt, as long as it keeps to the grammar of all ids. One of which
		// there is one begins its id with '_', where no id of anyone's does.
		ok = s.Aggregate.wellFormed() && slug(strings.TrimPrefix(s.ID, "_"))
	}
	if !ok {
		return fmt.Errorf("%w: subject has no valid id for its aggregate", ErrMalformed)
	}
	return nil
}

// wellFormed reports whether an aggregate of another version could be called so:
// `[a-z][a-z0-9_]{0,31}`.
func (a Aggregate) wellFormed() bool {
	for i := range len(a) {
		if c := a[i]; (c < 'a' || c > 'z') && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return len(a) > 0 && len(a) <= MaxAggregateLength
}

// MarshalText writes the subject as the broker sees it.
func (s Subject) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (s *Subject) UnmarshalText(b []byte) error {
	v, err := ParseSubject(string(b))
	if err == nil {
		*s = v
	}
	return err
}
