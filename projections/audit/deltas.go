package audit

import (
	"maps"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/events"
)

// The fields that more than one kind of event is about.
const (
	fieldStatus  = "status"
	fieldScope   = "scope"
	fieldDeleted = "deleted"
)

// saying gathers a delta, and the first error of what cannot be written.
type saying struct {
	delta
	err error
}

func (s *saying) set(field string, v jsontext.Value) { s.sets = append(s.sets, entry{field, v}) }

// text sets a text; an empty one is none.
func (s *saying) text(field, v string) { s.set(field, s.quoted(v)) }

func (s *saying) quoted(v string) jsontext.Value {
	if v == "" {
		return nil
	}
	b, err := jsontext.AppendQuote(nil, v)
	s.fail(err)
	return b
}

// personal sets a text that may be sealed.
func (s *saying) personal(field string, t events.Text) {
	if t.Sealed.IsZero() {
		s.text(field, t.Clear)
		return
	}
	s.value(field, t)
}

func (s *saying) time(field string, t events.Time) { s.set(field, s.instant(t)) }

func (s *saying) instant(t events.Time) jsontext.Value {
	if t.IsZero() {
		return nil
	}
	b, err := t.MarshalText()
	s.fail(err)
	return append(append(jsontext.Value{'"'}, b...), '"')
}

func (s *saying) id(field string, id events.KeyID) {
	if id.IsZero() {
		s.set(field, nil)
		return
	}
	s.text(field, id.String())
}

// yes sets a flag that is left out when it is not.
func (s *saying) yes(field string, on bool) {
	if !on {
		s.set(field, nil)
		return
	}
	s.set(field, jsontext.Value("true"))
}

func (s *saying) number(field string, n int) {
	if n == 0 {
		s.set(field, nil)
		return
	}
	s.set(field, strconv.AppendInt(nil, int64(n), 10))
}

func (s *saying) value(field string, v any) { s.set(field, s.encoded(v)) }

func (s *saying) encoded(v any) jsontext.Value {
	b, err := json.Marshal(v, json.Deterministic(true), jsontext.EscapeForHTML(false))
	s.fail(err)
	return b
}

// note tells what is no part of the thing itself.
func (s *saying) note(field string, v jsontext.Value) {
	if v != nil {
		s.notes = append(s.notes, Change{field, null, v})
	}
}

func (s *saying) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// list sets a list; an empty one is none.
func list[T any](s *saying, field string, v []T) {
	if len(v) == 0 {
		s.set(field, nil)
		return
	}
	s.value(field, v)
}

// says returns what an event says of the thing it happened to. What a secret
// could be found by, a key's digest, is in none of it.
func says(e events.Event, before document) (delta, error) {
	var s saying
	switch e := e.(type) {
	case events.InstallationCreated:
		s.text("ledger", e.Ledger.String())
		s.number("epoch", int(e.Epoch))
	case events.InstallationSignerAdded:
		s.text("signers."+e.Name, e.VerifierKey)
	case events.CredentialIssued:
		s.text("for", string(e.For))
		list(&s, "organizations", e.Organizations)
		s.text("account", e.Account)
		s.number("max_staleness", e.MaxStaleness)
		s.text("mirror", string(e.Mirror))
		s.text("leaf", string(e.Leaf))
	case events.CredentialRevoked:
		s.yes("revoked", true)
	case events.WorkspaceCreated:
		s.personal("name", e.Name)
	case events.WorkspaceRenamed:
		s.personal("name", e.Name)
	case events.ProfileCreated:
		s.personal("name", e.Name)
		s.settings(e.Settings)
	case events.ProfileRenamed:
		s.personal("name", e.Name)
	case events.ProfileSettingsChanged:
		s.settings(e.Settings)
	case events.OrganizationDeleted, events.WorkspaceDeleted, events.ProfileDeleted:
		s.yes(fieldDeleted, true)
	case events.CatalogReplaced:
		s.catalog(e)
	case events.QuotaChanged:
		s.quota(e, before)
	case events.SubjectErased:
		s.note("keys", s.encoded(e.Keys))
	case events.UsesDropped:
		s.dropped(e)
	default:
		if !s.organization(e) && !s.providerKey(e) {
			s.key(e, before)
		}
	}
	return s.delta, s.err
}

// fieldHolders is a field of a quota's document and of none of its changes, which
// tell who came and went.
const fieldHolders = "holders"

func (s *saying) quota(e events.QuotaChanged, before document) {
	s.number("limit", e.Limit)
	var was []events.KeyID
	if held := before[fieldHolders]; held != nil {
		s.fail(json.Unmarshal(held, &was))
	}
	if came := without(e.Holders, was); len(came) > 0 {
		s.note("holders.added", s.encoded(came))
	}
	if went := without(was, e.Holders); len(went) > 0 {
		s.notes = append(s.notes, Change{"holders.released", s.encoded(went), null})
	}
}

// without are the ids of a list that are not in another.
func without(list, other []events.KeyID) []events.KeyID {
	in := make(map[events.KeyID]bool, len(other))
	for _, id := range other {
		in[id] = true
	}
	return slices.DeleteFunc(slices.Clone(list), func(id events.KeyID) bool { return in[id] })
}

func (s *saying) settings(doc events.Document) {
	var members map[string]jsontext.Value
	s.fail(json.Unmarshal(doc, &members))
	for _, name := range slices.Sorted(maps.Keys(members)) {
		// A null is told like none.
		if v := members[name]; v.Kind() != 'n' {
			s.set("settings."+name, v)
		}
	}
	s.whole = append(s.whole, "settings.")
}

func (s *saying) catalog(e events.CatalogReplaced) {
	for _, p := range e.Permissions {
		s.value("permissions."+p.Name, catalogEntry{p.Access, p.Description, p.Routes})
	}
	s.whole = append(s.whole, "permissions.")
}

// catalogEntry is an entry of a catalog beside its name.
type catalogEntry struct {
	Access      events.Access `json:"access"`
	Description string        `json:"description,omitzero"`
	Routes      []string      `json:"routes,omitempty"`
}

func (s *saying) dropped(e events.UsesDropped) {
	s.note("before", s.instant(e.Before))
	s.note("through", strconv.AppendUint(nil, uint64(e.Through), 10))
	if e.Blocks != 0 {
		s.note("blocks", strconv.AppendUint(nil, e.Blocks, 10))
	}
	if len(e.Days) > 0 {
		s.note("days", s.encoded(e.Days))
	}
}

// organization reports whether it was about an organization.
func (s *saying) organization(e events.Event) bool {
	switch e := e.(type) {
	case events.OrganizationCreated:
		s.personal("name", e.Name)
		s.text("plan", string(e.Plan))
		s.limits(e.Limits)
		s.policy(e.Policy)
	case events.OrganizationRenamed:
		s.personal("name", e.Name)
	case events.OrganizationPlanChanged:
		s.text("plan", string(e.Plan))
	case events.OrganizationLimitsChanged:
		s.limits(e.Limits)
	case events.OrganizationPolicyChanged:
		s.policy(e.Policy)
	default:
		return false
	}
	return true
}

func (s *saying) limits(l events.Limits) {
	s.number("limits.max_active_keys", l.MaxActiveKeys)
	s.text("limits.max_key_lifetime", string(l.MaxKeyLifetime))
}

func (s *saying) policy(p events.Policy) {
	s.text("policy.default_prefix", p.DefaultPrefix)
	s.text("policy.default_expires_in", string(p.DefaultExpiresIn))
	s.text("policy.rotation_due_after", string(p.RotationDueAfter))
	list(s, "policy.expiry_notices", p.ExpiryNotices)
	s.text("policy.max_key_lifetime", string(p.MaxKeyLifetime))
	s.yes("policy.expiry_required", p.ExpiryRequired)
	list(s, "policy.expiry_choices", p.ExpiryChoices)
	s.yes("policy.name_required", p.NameRequired)
	s.text("policy.signals.new_source", string(p.Signals.NewSource))
	s.text("policy.signals.denials_spike", string(p.Signals.DenialsSpike))
	s.number("policy.signals.denials_per_minute", p.Signals.DenialsPerMinute)
	s.number("policy.signals.resolves_per_minute", p.Signals.ResolvesPerMinute)
	s.text("policy.sealing", string(p.Sealing))
	s.text("policy.uses_retention", string(p.UsesRetention))
}

func (s *saying) key(e events.Event, before document) {
	switch e := e.(type) {
	case events.KeyCreated:
		s.created(e)
		s.status(before, events.StatusActive)
	case events.KeyRenamed:
		s.personal("name", e.Name)
	case events.KeyPermissionsChanged:
		s.value("permissions", e.Permissions)
	case events.KeyScopeChanged:
		s.value(fieldScope, e.Scope)
	case events.KeyProfileChanged:
		s.text("profile", string(e.Profile))
	case events.KeyMetadataChanged:
		s.metadata(e.Metadata)
	case events.KeyDisabled:
		s.status(before, events.StatusInactive)
	case events.KeyEnabled:
		s.status(before, events.StatusActive)
	case events.KeyExpiryChanged:
		s.time("expires_at", e.ExpiresAt)
	case events.KeyRotated:
		s.id("rotated_to", e.Successor)
		s.time("grace_ends_at", e.GraceEndsAt)
	case events.KeyGraceChanged:
		s.time("grace_ends_at", e.GraceEndsAt)
	case events.KeyExpiring, events.KeyRotationDue, events.KeyNewSource, events.KeyDenialsSpike:
		s.signal(e)
	case events.KeyExpired:
		s.time("expired_at", e.ExpiredAt)
		s.status(before, events.StatusExpired)
	case events.KeyRevoked:
		s.status(before, events.StatusRevoked)
	default:
		// What this program does not know says nothing to it.
	}
}

func (s *saying) created(e events.KeyCreated) {
	s.text("kind", string(e.KeyKind))
	s.text("role", string(e.Role))
	s.personal("name", e.Name)
	s.text("prefix", e.Prefix)
	s.text("last_four", e.LastFour)
	if !e.Permissions.IsZero() {
		s.value("permissions", e.Permissions)
	}
	s.value(fieldScope, e.Scope)
	s.text("profile", string(e.Profile))
	s.time("created_at", e.CreatedAt)
	s.time("expires_at", e.ExpiresAt)
	s.metadata(e.Metadata)
	s.personal("external_id", e.ExternalID)
	s.id("rotated_from", e.RotatedFrom)
	s.yes("imported", e.Imported)
	s.text("data_subject", string(e.DataSubject))
}

func (s *saying) metadata(m events.Metadata) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		s.personal("metadata."+name, m[name])
	}
	s.whole = append(s.whole, "metadata.")
}

// signal tells what happened around a key and is no part of it.
func (s *saying) signal(e events.Event) {
	switch e := e.(type) {
	case events.KeyExpiring:
		s.note("notice", s.quoted(string(e.Notice)))
		s.note("ends_at", s.instant(e.ExpiresAt))
	case events.KeyRotationDue:
		s.note("rotation_due_at", s.instant(e.DueAt))
		s.note("rotation_due_after", s.quoted(string(e.After)))
	case events.KeyNewSource:
		s.note("used_at", s.instant(e.At))
		s.note("code", s.quoted(e.Code.String()))
		s.note("verifier", s.quoted(string(e.Verifier)))
		s.note("by", s.quoted(string(e.By)))
		s.note("source", s.quoted(string(e.Source)))
	case events.KeyDenialsSpike:
		s.note("from", s.instant(e.From))
		s.note("denials", strconv.AppendInt(nil, int64(e.Denials), 10))
		s.note("threshold", strconv.AppendInt(nil, int64(e.Threshold), 10))
	default:
	}
}

// status sets where in its life the recorded events leave a key. What is REVOKED
// stays so, and what is EXPIRED can only be revoked.
func (s *saying) status(before document, to events.Status) {
	switch was := string(before[fieldStatus]); {
	case was == `"REVOKED"`, was == `"EXPIRED"` && to != events.StatusRevoked:
		return
	}
	s.text(fieldStatus, string(to))
}
