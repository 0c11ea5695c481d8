package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keyledger/keyledger/api/wire"
	"github.com/keyledger/keyledger/events"
)

// grantText says what a key may do.
func grantText(g *wire.Grant) string {
	switch {
	case g == nil:
		return ""
	case g.Level == "restricted":
		return strings.Join(g.Grants, ", ")
	case g.Level == "read_only":
		return "everything that reads"
	case g.Level == "all":
		return "everything"
	default:
		return g.Level
	}
}

// mayText says what a key may do. Of a management key, which is for the ledger
// itself and grants no permission, that is its role.
func mayText(role string, g *wire.Grant) string {
	if role != "" {
		return "role " + role
	}
	return grantText(g)
}

func scopeText(s wire.Scope) string {
	switch {
	case s.AllWorkspaces:
		return "all workspaces"
	case len(s.Workspaces) == 0:
		return "nowhere"
	default:
		return strings.Join(s.Workspaces, ", ")
	}
}

// inText says where a key may be used, and what of that is there no more: the key
// is denied in it like everywhere else.
func inText(k wire.Key) string {
	if len(k.GoneWorkspaces) == 0 {
		return scopeText(k.Scope)
	}
	var in []string
	for _, w := range k.Scope.Workspaces {
		if slices.Contains(k.GoneWorkspaces, w) {
			w += " (deleted)"
		}
		in = append(in, w)
	}
	if len(k.GoneWorkspaces) == len(in) {
		return "nowhere: " + strings.Join(in, ", ")
	}
	return strings.Join(in, ", ")
}

// expiryText says when a key ends.
func expiryText(t *time.Time, now time.Time) string {
	if t == nil {
		return "never"
	}
	return at(*t) + ", " + distance(*t, now)
}

// titled is an id with the name beside it, where that says more.
func titled(id, name string) string {
	if name == id {
		return id
	}
	return fmt.Sprintf("%s (%s)", id, plain(name))
}

// ends is when a key's time is over: its expiry, or the end of its grace.
func ends(k wire.Key) *time.Time {
	if k.GraceEndsAt != nil && (k.ExpiresAt == nil || k.GraceEndsAt.Before(*k.ExpiresAt)) {
		return k.GraceEndsAt
	}
	return k.ExpiresAt
}

// keyFields shows a key in full.
func (a *app) keyFields(k wire.Key, revision string) []field {
	return a.keyFieldsAt(k, time.Now(), revision)
}

// keyFieldsAt tells times as they look at an instant.
func (a *app) keyFieldsAt(k wire.Key, now time.Time, revision string) []field {
	status := k.Status
	if k.RevokedAt != nil {
		status += " " + at(*k.RevokedAt)
	}
	fields := []field{
		{"id", k.ID},
		{"name", deref(k.Name)},
		{"key", k.Masked},
		{"kind", k.Kind},
		{"status", status},
		{"revoked because", k.RevocationReason},
		{"may", mayText(k.Role, k.Permissions)},
		{"in", inText(k)},
		{"profile", deref(k.Profile)},
		{"expires", expiryText(ends(k), now)},
		{"last used", usedText(k.LastUsedAt, now)},
		{"created", createdText(k)},
		{"rotation due", rotationText(k, now)},
		{"rotated from", k.RotatedFrom},
		{"rotated to", k.RotatedTo},
	}
	if k.GraceEndsAt != nil {
		fields = append(fields, field{"grace ends", expiryText(k.GraceEndsAt, now)})
	}
	if k.DataSubject != k.ID {
		fields = append(fields, field{"data subject", k.DataSubject})
	}
	fields = append(fields, field{"external id", k.ExternalID})
	for _, name := range slices.Sorted(maps.Keys(k.Metadata)) {
		fields = append(fields, field{"metadata", name + "=" + k.Metadata[name]})
	}
	return append(fields, field{"revision", revision})
}

func createdText(k wire.Key) string {
	by := " by "
	if k.Imported {
		by = ", imported by "
	}
	return at(k.CreatedAt) + by + actorText(k.CreatedBy)
}

// rotationText says when a key is to be rotated. Whether it is overdue is what
// matters, and how long that is.
func rotationText(k wire.Key, now time.Time) string {
	if k.RotationDueAt == nil {
		return ""
	}
	return at(*k.RotationDueAt) + ", " + distance(*k.RotationDueAt, now)
}

func usedText(t *time.Time, now time.Time) string {
	if t == nil {
		return "never"
	}
	return at(*t) + ", " + distance(*t, now)
}

// actorText shortens who did something: "key/_system/0197…" becomes the key's
// organization and the end of its id.
func actorText(actor string) string {
	parts := strings.Split(actor, "/")
	if len(parts) == 3 && parts[0] == "key" {
		return parts[1] + " " + shortID(parts[2])
	}
	return strings.ReplaceAll(actor, "/", " ")
}

// shortID is the end of an id. The beginning of a UUIDv7 is the time, which keys
// that were made together share.
func shortID(id string) string {
	if len(id) <= 8 {
		return id
	}
	return "…" + id[len(id)-8:]
}

func (a *app) keyGrid(keys []wire.Key, none string) grid {
	now := time.Now()
	g := grid{
		head: []string{"ID", "NAME", "KEY", "STATUS", "MAY", "IN", "PROFILE", "CREATED", "EXPIRES", "LAST USED"},
		none: none,
		// A key that is cut short loses the four characters it is known by.
		whole: map[string]bool{"ID": true, "STATUS": true, "KEY": true, "CREATED": true},
		spare: []string{"CREATED", "PROFILE", "IN", "KEY", "LAST USED", "EXPIRES"},
	}
	for _, k := range keys {
		expires, used := "never", "never"
		if end := ends(k); end != nil {
			expires = distance(*end, now)
		}
		if k.LastUsedAt != nil {
			used = distance(*k.LastUsedAt, now)
		}
		g.add(k.ID, k.ID, deref(k.Name), k.Masked, k.Status, mayText(k.Role, k.Permissions), inText(k), deref(k.Profile),
			day(k.CreatedAt), expires, used)
	}
	if !slices.ContainsFunc(keys, func(k wire.Key) bool { return k.Profile != nil }) {
		g = g.without(slices.Index(g.head, "PROFILE"))
	}
	return g
}

func (a *app) orgFields(o wire.Organization, revision string) []field {
	limit := "none"
	if o.Limits.MaxActiveKeys > 0 {
		limit = plural(o.Limits.MaxActiveKeys, "active key")
	}
	return []field{
		{"id", o.ID},
		{"name", o.Name},
		{"plan", o.Plan},
		{"limit", limit},
		{"longest lifetime", o.Limits.MaxKeyLifetime},
		{"default prefix", o.Policy.DefaultPrefix},
		{"default expiry", o.Policy.DefaultExpiresIn},
		{"policy", policyText(o.Policy)},
		{"rotation due after", cmp.Or(o.Policy.RotationDueAfter, string(events.DefaultRotationDueAfter))},
		{"notices of expiry", strings.Join(o.Policy.ExpiryNotices, ", ")},
		{"signals", signalsText(o.Policy.Signals)},
		{"sealing", o.Policy.Sealing},
		{"uses kept for", o.Policy.UsesRetention},
		{"created", at(o.CreatedAt)},
		{"changed", changedText(o.CreatedAt, o.UpdatedAt)},
		{"revision", revision},
	}
}

// policyText says what a policy demands, a rule a line.
func policyText(p wire.Policy) string {
	var rules []string
	if p.MaxKeyLifetime != "" {
		rules = append(rules, "keys live "+p.MaxKeyLifetime+" at most")
	}
	if p.ExpiryRequired {
		rules = append(rules, "keys must expire")
	}
	if len(p.ExpiryChoices) > 0 {
		rules = append(rules, "keys expire after one of "+strings.Join(p.ExpiryChoices, ", "))
	}
	if p.NameRequired {
		rules = append(rules, "keys have a name")
	}
	return strings.Join(rules, "\n")
}

// signalsText says which signals are told, and when denials are a spike. That there
// are too many resolves of a provider key is always told; when, where it was set.
func signalsText(s wire.Signals) string {
	var told []string
	if s.NewSource != string(events.SwitchOff) {
		told = append(told, "new source")
	}
	if s.DenialsSpike != string(events.SwitchOff) {
		n := cmp.Or(s.DenialsPerMinute, events.DefaultDenialsPerMinute)
		told = append(told, fmt.Sprintf("denials spike (%d a minute)", n))
	}
	if s.ResolvesPerMinute != 0 {
		told = append(told, fmt.Sprintf("resolves spike (%d a minute)", s.ResolvesPerMinute))
	}
	if len(told) == 0 {
		return "none"
	}
	return strings.Join(told, ", ")
}

func changedText(created, updated time.Time) string {
	if !updated.After(created) {
		return ""
	}
	return at(updated)
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
