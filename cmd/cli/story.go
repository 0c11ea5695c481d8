package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/events"
)

// story is an event as a person reads it.
type story struct {
	at   time.Time
	org  string
	on   string // what it is about: "key …5d6d7e", "workspace hiring"
	what string
	who  string
	why  string
}

// tell reads a stored event. One that this program does not know is told by its
// kind.
func tell(e wire.Event) story {
	var document struct {
		Subject string `json:"subject"`
	}
	if err := json.Unmarshal(e.Event, &document); err != nil {
		return story{what: e.Kind}
	}
	subject, err := events.ParseSubject(document.Subject)
	if err != nil {
		return story{what: e.Kind, on: document.Subject}
	}
	// What cannot be decoded still comes back as something to show.
	meta, event, err := events.Decode(subject, e.Event)
	if err != nil {
		event = events.Unknown{Name: events.Kind(e.Kind)}
	}
	return story{
		at: meta.Time.Std(), org: string(subject.Org), on: about(subject),
		what: happened(event), who: actorText(meta.Actor.String()), why: meta.Reason.String(),
	}
}

func about(s events.Subject) string {
	switch s.Aggregate {
	case events.AggregateKey, events.AggregateRevoked:
		if s.ID == events.RevokedAll {
			return "organization " + string(s.Org)
		}
		return "key " + shortID(s.ID)
	case events.AggregateOrganization:
		return "organization " + s.ID
	case events.AggregateCatalog:
		return "permissions"
	case events.AggregateQuota:
		return "key limit"
	case events.AggregateInstallation:
		return "installation"
	case events.AggregateProviderKey:
		return "provider key " + s.ID
	default:
		return string(s.Aggregate) + " " + s.ID
	}
}

// happened says in a few words what an event did.
func happened(e events.Event) string {
	switch e := e.(type) {
	case events.InstallationCreated:
		return "the ledger began"
	case events.InstallationSignerAdded:
		return "a key that signs for it made known"
	case events.CredentialIssued:
		text := "let in as " + string(e.For)
		if len(e.Organizations) > 0 {
			text += " of " + joinIDs(e.Organizations, ", ")
		}
		if e.Mirror != "" {
			text += " by mirror " + string(e.Mirror)
		}
		if e.Leaf != "" {
			text += " at leaf node " + string(e.Leaf)
		}
		return text
	case events.CredentialRevoked:
		return "shut out"
	case events.OrganizationCreated:
		return "created, plan " + string(e.Plan)
	case events.OrganizationRenamed:
		return "renamed " + e.Name.String()
	case events.OrganizationPlanChanged:
		return "plan " + string(e.Plan)
	case events.OrganizationLimitsChanged:
		return limitsText(e.Limits)
	case events.OrganizationPolicyChanged:
		return "policy changed"
	case events.WorkspaceCreated, events.ProfileCreated:
		return "created"
	case events.WorkspaceRenamed:
		return "renamed " + e.Name.String()
	case events.ProfileRenamed:
		return "renamed " + e.Name.String()
	case events.OrganizationDeleted, events.WorkspaceDeleted, events.ProfileDeleted:
		return "deleted"
	case events.CatalogReplaced:
		return "catalog of " + plural(len(e.Permissions), "permission")
	case events.ProfileSettingsChanged:
		return "settings changed"
	case events.QuotaChanged:
		return plural(len(e.Holders), "place") + " taken"
	case events.ProviderKeyAdded, events.ProviderKeyReplaced, events.ProviderKeyRenamed, events.ProviderKeyTested, events.ProviderKeyRemoved,
		events.ProviderKeyNewSource, events.ProviderKeyResolvesSpike, events.ProviderKeyFailing:
		return happenedToProviderKey(e)
	default:
		return happenedToKey(e)
	}
}

func happenedToKey(e events.Event) string {
	switch e := e.(type) {
	case events.KeyCreated:
		text := "created"
		switch {
		case e.Imported:
			text = "imported"
		case !e.RotatedFrom.IsZero():
			return "created to succeed key " + shortID(e.RotatedFrom.String()) + untilText(e.ExpiresAt)
		}
		return text + ", " + grantOf(e) + " in " + scopeOf(e.Scope) + untilText(e.ExpiresAt)
	case events.KeyRenamed:
		return "renamed " + e.Name.String()
	case events.KeyPermissionsChanged:
		return "may now " + grantText(&wire.Grant{Level: string(e.Permissions.Level), Grants: e.Permissions.Grants})
	case events.KeyScopeChanged:
		return "now in " + scopeOf(e.Scope)
	case events.KeyProfileChanged:
		if e.Profile == "" {
			return "profile detached"
		}
		return "profile " + string(e.Profile)
	case events.KeyMetadataChanged:
		return metadataText(e.Metadata)
	case events.KeyDisabled:
		return "switched off"
	case events.KeyEnabled:
		return "switched on"
	case events.KeyExpiryChanged:
		if e.ExpiresAt.IsZero() {
			return "never expires"
		}
		return "expires " + at(e.ExpiresAt.Std())
	case events.KeyRotated:
		return "rotated, succeeded by key " + shortID(e.Successor.String()) + untilText(e.GraceEndsAt)
	case events.KeyGraceChanged:
		return "grace ends " + at(e.GraceEndsAt.Std())
	case events.KeyExpiring:
		return "will expire " + at(e.ExpiresAt.Std()) + ", told " + string(e.Notice) + " ahead"
	case events.KeyRotationDue:
		return "should be rotated: it is " + string(e.After) + " old since " + at(e.DueAt.Std())
	case events.KeyNewSource:
		return fmt.Sprintf("used from a new %s, answered %s", sourceText(e.By), e.Code)
	case events.KeyDenialsSpike:
		return fmt.Sprintf("denied %d times within a minute from %s on", e.Denials, at(e.From.Std()))
	case events.KeyExpired:
		return "expired"
	case events.KeyRevoked:
		return "revoked"
	default:
		return string(e.Kind())
	}
}

// sourceText is what a use's source is told by, in words.
func sourceText(by events.SourceKind) string {
	switch by {
	case events.SourceClientIP:
		return "IP address"
	case events.SourceUserAgent:
		return "user agent"
	default:
		return string(by)
	}
}

// metadataText says what a key's metadata became.
func metadataText(m events.Metadata) string {
	if len(m) == 0 {
		return "metadata removed"
	}
	pairs := make([]string, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, name+"="+m[name].String())
	}
	return "metadata now " + strings.Join(pairs, ", ")
}

// grantOf says what a new key was given.
func grantOf(e events.KeyCreated) string {
	may := mayText(string(e.Role), &wire.Grant{Level: string(e.Permissions.Level), Grants: e.Permissions.Grants})
	if e.Role != "" {
		return "with " + may
	}
	return "may " + may
}

func scopeOf(s events.Scope) string {
	out := wire.Scope{AllWorkspaces: s.AllWorkspaces}
	for _, w := range s.Workspaces {
		out.Workspaces = append(out.Workspaces, string(w))
	}
	return scopeText(out)
}

func limitsText(l events.Limits) string {
	keys := "any number of keys"
	if l.MaxActiveKeys > 0 {
		keys = "at most " + plural(l.MaxActiveKeys, "key")
	}
	if l.MaxKeyLifetime == "" {
		return keys
	}
	return fmt.Sprintf("%s, each for at most %s", keys, l.MaxKeyLifetime)
}

func untilText(t events.Time) string {
	if t.IsZero() {
		return ""
	}
	return ", until " + at(t.Std())
}
