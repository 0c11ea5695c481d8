package cli

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/api/wire"
)

// tellChange is a change as a person reads it.
func tellChange(c wire.Change) story {
	s := story{at: c.ClaimedAt, org: c.Organization, on: aboutChange(c), what: headline(c), who: whoDid(c), why: c.Reason}
	if c.Ticket != "" {
		s.why = strings.TrimSpace(s.why + " [" + c.Ticket + "]")
	}
	return s
}

// changeLine prints a change on one line, from what to what included.
func (a *app) changeLine(c wire.Change) error {
	t := tellChange(c)
	if moved := movedText(c); moved != "" {
		t.what += " (" + moved + ")"
	}
	return a.storyLine(t)
}

// aboutChange says what a change is about.
func aboutChange(c wire.Change) string {
	switch c.Aggregate {
	case "key":
		return "key " + shortID(c.ID)
	case "revoked":
		if c.ID == "_all" {
			return "organization " + c.Organization
		}
		return "key " + shortID(c.ID)
	case "catalog":
		return "permissions"
	case "quota":
		return "key limit"
	case "installation":
		return "installation"
	case "provider_key":
		return "provider key " + c.ID
	case "retention":
		return "recorded uses"
	case "subject":
		return "data subject " + c.ID
	default:
		return c.Aggregate + " " + c.ID
	}
}

// whoDid says who did it, by name where it has one.
func whoDid(c wire.Change) string {
	if c.ActorName != "" {
		return c.ActorName + " (" + actorText(c.Actor) + ")"
	}
	return actorText(c.Actor)
}

// values are what fields of a change were, or are.
type values map[string]any

func became(c wire.Change) values {
	v := make(values, len(c.Changes))
	for _, f := range c.Changes {
		v[f.Field] = f.After
	}
	return v
}

func (v values) text(field string) string { return valueText(field, v[field]) }

// until says when what is told ends, nothing when it does not.
func (v values) until(field string) string {
	if v[field] == nil {
		return ""
	}
	return ", until " + v.text(field)
}

// headline says in a few words what happened.
func headline(c wire.Change) string {
	v := became(c)
	switch c.Type {
	case "key.created":
		return v.bornText()
	case "key.permissions_changed":
		return "may now " + v.text("permissions")
	case "key.scope_changed":
		return "now in " + v.text("scope")
	case "key.profile_changed":
		if v["profile"] == nil {
			return "profile detached"
		}
		return "profile " + v.text("profile")
	case "key.disabled":
		return "switched off"
	case "key.enabled":
		return "switched on"
	case "key.expiry_changed":
		if v["expires_at"] == nil {
			return "never expires"
		}
		return "expires " + v.text("expires_at")
	case "key.rotated":
		return "rotated, succeeded by key " + shortID(v.text("rotated_to")) + v.until("grace_ends_at")
	case "key.grace_changed":
		return "grace ends " + v.text("grace_ends_at")
	case "key.expiring":
		return "will expire " + v.text("ends_at") + ", told " + v.text("notice") + " ahead"
	case "key.rotation_due":
		return "should be rotated: it is " + v.text("rotation_due_after") + " old since " + v.text("rotation_due_at")
	case "key.new_source":
		return "used from a new " + strings.ReplaceAll(strings.Replace(v.text("by"), "client_ip", "IP address", 1), "_", " ") + ", answered " + v.text("code")
	case "key.denials_spike":
		return "denied " + v.text("denials") + " times within a minute from " + v.text("from") + " on"
	default:
		return v.plainHeadline(c)
	}
}

func (v values) bornText() string {
	may := mayText(v.plain("role"), grantIn(v["permissions"]))
	switch {
	case v["rotated_from"] != nil:
		return "created to succeed key " + shortID(v.text("rotated_from")) + v.until("expires_at")
	case v["role"] != nil:
		may = "with " + may
	default:
		may = "may " + may
	}
	born := "created, "
	if v["imported"] != nil {
		born = "imported, "
	}
	return born + may + " in " + v.text("scope") + v.until("expires_at")
}

// plain is a text, empty for none.
func (v values) plain(field string) string {
	s, _ := v[field].(string)
	return s
}

// plainHeadline is of what says the most by its kind.
func (v values) plainHeadline(c wire.Change) string {
	_, what, _ := strings.Cut(c.Type, ".")
	switch {
	case c.Aggregate == "provider_key":
		return v.providerHeadline(what)
	case what == "renamed":
		return "renamed " + v.text("name")
	case c.Type == "organization.created":
		return "created, plan " + v.text("plan")
	case c.Type == "organization.plan_changed":
		return "plan " + v.text("plan")
	case c.Type == "catalog.replaced":
		return plural(len(c.Changes), "permission") + " changed"
	case c.Type == "credential.issued":
		return "let in as " + v.text("for")
	case c.Type == "credential.revoked":
		return "shut out"
	case c.Type == "subject.erased":
		if len(stringsIn(v["keys"])) == 0 {
			return "asked to be erased again, nothing was sealed since"
		}
		return "erased"
	default:
		return words(cmp.Or(what, c.Type))
	}
}

// eternal says that the field is a time, and none is for ever.
func eternal(field string) bool { return field == "expires_at" }

func fieldText(field string) string { return words(field) }

// valueText shows a value as people write it.
func valueText(field string, v any) string {
	switch v := v.(type) {
	case nil:
		if eternal(field) {
			return "never"
		}
		return "none"
	case string:
		if t, err := time.Parse(time.RFC3339, v); err == nil && (strings.HasSuffix(field, "_at") || strings.HasSuffix(field, ".at") || field == "from" || field == "before" || field == "since") {
			return at(t)
		}
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case []any:
		texts := make([]string, len(v))
		for i, item := range v {
			texts[i] = valueText("", item)
		}
		return strings.Join(texts, ", ")
	case map[string]any:
		switch field {
		case "permissions":
			return grantText(grantIn(v))
		case "scope":
			return scopeText(scopeIn(v))
		}
		if access, ok := v["access"].(string); ok && strings.HasPrefix(field, "permissions.") {
			return strings.Join(append([]string{access}, stringsIn(v["routes"])...), ", ")
		}
		b, err := json.Marshal(v, json.Deterministic(true))
		if err != nil {
			return fmt.Sprint(v)
		}
		return string(b)
	default:
		return fmt.Sprint(v)
	}
}

// grantIn reads what a key may do out of a change.
func grantIn(v any) *wire.Grant {
	m, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	g := &wire.Grant{Grants: stringsIn(m["grants"])}
	g.Level, _ = m["level"].(string)
	return g
}

func scopeIn(m map[string]any) wire.Scope {
	all, _ := m["all_workspaces"].(bool)
	return wire.Scope{AllWorkspaces: all, Workspaces: stringsIn(m["workspaces"])}
}

func stringsIn(v any) []string {
	list, _ := v.([]any)
	out := make([]string, 0, len(list))
	for _, item := range list {
		if s, ok := item.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// changeColumns are the columns of changes as CSV.
var changeColumns = [...]string{
	"position", "type", "organization", "aggregate", "id", "revision", "claimed_at", "recorded_at", "stored_at", "actor", "actor_name",
	"role", "scope", "reason", "ticket", "request_id", "command_id", "causation_id", "config_position", "workspaces", "changes",
}

// changeRow is a change as CSV. What changed stands in one cell, as JSON.
func changeRow(c wire.Change) ([]string, error) {
	changes, err := json.Marshal(c.Changes, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	instant := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
	return []string{
		c.Position, c.Type, c.Organization, c.Aggregate, c.ID, fmt.Sprint(c.Revision), instant(c.ClaimedAt), instant(c.RecordedAt), instant(c.StoredAt),
		c.Actor, c.ActorName, c.Role, c.Scope, c.Reason, c.Ticket, c.RequestID, c.CommandID, c.CausationID, c.ConfigPosition,
		strings.Join(c.Workspaces, " "), string(changes),
	}, nil
}

func changeRows(changes []wire.Change) ([][]string, error) {
	rows := make([][]string, 0, len(changes))
	for _, c := range changes {
		row, err := changeRow(c)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}
