package key

import (
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/configuration"
	"github.com/keyledger/keyledger/domain/period"
	"github.com/keyledger/keyledger/events"
)

// Command is a wish about a key: [Create], [Update], [Rotate], [Revoke],
// [Notify] or [Expire]. The time, the random bytes (as a digest) and the configuration
// arrive inside it.
type Command interface{ command() }

// Expiry is when a new key ends: at an instant, after a period, or, when
// neither is set, as the organization's policy says.
type Expiry struct {
	At events.Time
	In events.Period
}

// Issued is what is known of the secret that was drawn for a new key.
type Issued struct {
	ID       events.KeyID
	Prefix   string
	LastFour string
	Digest   events.Digest
}

// Create begins a key.
type Create struct {
	Now         events.Time
	Config      configuration.State
	Issued      Issued
	Kind        events.KeyKind
	Role        events.Role
	Name        events.Text
	Permissions events.Permissions
	Scope       events.Scope
	Profile     events.ProfileID
	Expiry      Expiry
	Metadata    events.Metadata
	ExternalID  events.Text
	// DataSubject is whom the key's texts tell of, for all of its life and that of
	// its successors; left out, it is the key's own id.
	DataSubject events.DataSubject
	// Imported says that the key comes from another system: its prefix and last
	// four are what is told of it. CreatedAt, of an imported key alone, is when it
	// began there, Now unless given. Status is ACTIVE unless it is INACTIVE.
	Imported  bool
	CreatedAt events.Time
	Status    events.Status
	// Sovereign says that neither limits nor policy bind the key: whoever runs the
	// installation lets themself in, whatever somebody has set.
	Sovereign bool
}

// Update changes what is set. Metadata is merged here, on the state that the
// decision is made on.
type Update struct {
	Now         events.Time
	Config      configuration.State
	Name        domain.Optional[events.Text]
	Permissions domain.Optional[events.Permissions]
	Scope       domain.Optional[events.Scope]
	Profile     domain.Optional[events.ProfileID]
	// Status is ACTIVE or INACTIVE.
	Status domain.Optional[events.Status]
	// Expiry without an instant or a period is never.
	Expiry domain.Optional[Expiry]
	// Metadata are the members to set; an empty text removes one. ClearMetadata
	// removes all there are, before that.
	Metadata      domain.Optional[events.Metadata]
	ClearMetadata bool
	// Grace cuts the grace of a rotated key to this long from now.
	Grace domain.Optional[time.Duration]
	// Insist gives a fact for whatever is set, though it is so already: a wish
	// that shall be met again has to be recorded.
	Insist bool
}

// Rotate gives a key a successor and a grace to live beside it.
type Rotate struct {
	Now    events.Time
	Config configuration.State
	Issued Issued
	Grace  time.Duration
	// Expiry of the successor; left out, it gets its predecessor's lifetime.
	Expiry Expiry
}

// Revoke ends a key for ever.
type Revoke struct{}

// Notify gives notice of a key's end, if the organization's policy wants one that
// has come: the nearest alone when several have. A notice whose moment lay
// before the end was set is not given: whoever gives a key an hour to live under
// a policy of 14 days and of one knows.
type Notify struct {
	Now    events.Time
	Config configuration.State
	// Since is when the key's end was set, or notice of it was last given.
	Since events.Time
}

// Expire records that a key's time has come.
type Expire struct {
	Now    events.Time
	Config configuration.State
}

func (Create) command() {}
func (Update) command() {}
func (Rotate) command() {}
func (Revoke) command() {}
func (Notify) command() {}
func (Expire) command() {}

// Decide turns a wish into facts. [events.KeyRevoked] belongs on the revocation
// subject; of a rotation the first fact belongs on the key's own subject and all
// that follow on the successor's; all others belong on the key's own. A wish
// that changes nothing gives no fact, unless it insists.
func Decide(s State, c Command) ([]events.Event, error) {
	switch c := c.(type) {
	case Create:
		return create(s, c)
	case Update:
		return update(s, c)
	case Rotate:
		return rotate(s, c)
	case Revoke:
		if !s.Exists && !s.Doubtful {
			return nil, domain.Refuse(domain.ErrNotFound, "", "there is no such key")
		}
		if s.Revoked {
			return nil, nil
		}
		return []events.Event{events.KeyRevoked{}}, nil
	case Notify:
		return notify(s, c)
	case Expire:
		return expire(s, c)
	case NoteRotation:
		return noteRotation(s, c)
	case NoteSource:
		return noteSource(s, c), nil
	case NoteSpike:
		return noteSpike(s, c), nil
	default:
		return nil, domain.Refuse(domain.ErrInvalid, "", "unknown command")
	}
}

func expire(s State, c Expire) ([]events.Event, error) {
	if over, err := s.over(c.Config); over || err != nil || !s.EndsAt().Passed(c.Now) {
		return nil, err
	}
	return []events.Event{events.KeyExpired{ExpiredAt: s.EndsAt()}}, nil
}

func notify(s State, c Notify) ([]events.Event, error) {
	if over, err := s.over(c.Config); over || err != nil {
		return nil, err
	}
	end := s.EndsAt()
	if end == 0 || end.Passed(c.Now) {
		return nil, nil
	}
	if err := refuseConfig(c.Config); err != nil {
		return nil, err
	}
	var nearest events.Period
	known := max(c.Since, period.Before(end, s.Noticed))
	for _, notice := range c.Config.Organization.Policy.ExpiryNotices {
		if at := period.Before(end, notice); at > known && at.Passed(c.Now) {
			nearest, known = notice, at
		}
	}
	if nearest == "" {
		return nil, nil
	}
	return []events.Event{events.KeyExpiring{ExpiresAt: end, Notice: nearest}}, nil
}

// over reports whether there is nothing to tell any more of a key's end.
func (s State) over(config configuration.State) (bool, error) {
	switch {
	case !s.Exists:
		return false, domain.Refuse(domain.ErrNotFound, "", "there is no such key")
	case s.Revoked || s.Expired || config.Organization.Ended:
		return true, nil
	case s.Doubtful:
		// What is not understood may have moved the key's time.
		return false, s.refuseDoubtful()
	default:
		return false, nil
	}
}

func create(s State, c Create) ([]events.Event, error) {
	if s.Exists || s.Revoked || s.Doubtful {
		return nil, domain.Refuse(domain.ErrExists, "", "there is a key of this id")
	}
	if err := refuseConfig(c.Config); err != nil {
		return nil, err
	}
	if c.Kind == "" {
		c.Kind = events.KindAPI
	}
	if err := checkKind(c.Config, c.Kind, c.Role); err != nil {
		return nil, err
	}
	if err := checkIssued(c); err != nil {
		return nil, err
	}
	if c.Sovereign {
		c.Config.Organization.Limits, c.Config.Organization.Policy = events.Limits{}, events.Policy{}
	}
	if err := checkName(c.Config, c.Name); err != nil {
		return nil, err
	}
	permissions, err := checkPermissions(c.Config, c.Kind, c.Permissions)
	if err != nil {
		return nil, err
	}
	scope, err := checkScope(c.Config, c.Scope, nil)
	if err != nil {
		return nil, err
	}
	if err := checkProfile(c.Config, c.Kind, c.Profile); err != nil {
		return nil, err
	}
	metadata := merge(nil, c.Metadata)
	if err := checkMetadata(metadata); err != nil {
		return nil, err
	}
	if c.ExternalID.Sealed.IsZero() {
		if err := domain.CheckText("external_id", c.ExternalID.Clear, events.MaxExternalIDLength); err != nil {
			return nil, err
		}
	}
	if err := checkSubject(c.DataSubject); err != nil {
		return nil, err
	}
	expires, err := resolve(c.Now, c.Config, c.Expiry)
	if err != nil {
		return nil, err
	}
	created := events.KeyCreated{
		ID: c.Issued.ID, KeyKind: c.Kind, Role: c.Role, Name: c.Name, Prefix: c.Issued.Prefix, LastFour: c.Issued.LastFour,
		Digest: c.Issued.Digest, Permissions: permissions, Scope: scope, Profile: c.Profile, CreatedAt: c.began(),
		ExpiresAt: expires, Metadata: metadata, ExternalID: c.ExternalID, Imported: c.Imported,
		DataSubject: c.DataSubject,
	}
	if err := refuseHuge(c.Config, State{}, Evolve(State{}, created)); err != nil {
		return nil, err
	}
	if c.Status == events.StatusInactive {
		return []events.Event{created, events.KeyDisabled{}}, nil
	}
	return []events.Event{created}, nil
}

// refuseHuge refuses what makes a key longer than a successor could be begun
// with: it could never be rotated. Whatever leaves it shorter is let through.
func refuseHuge(config configuration.State, had, next State) error {
	if config.Organization.Policy.Sealing == events.SwitchOn {
		had, next = had.sealed(), next.sealed()
	}
	n := size(next)
	if n <= events.MaxKeyBytes || n <= size(had) {
		return nil
	}
	return domain.Refuse(domain.ErrInvalid, "",
		"the key would be %d bytes long with its permissions, scope and metadata, at most %d are possible, so that it can be rotated; grant a whole resource with resource:*, or keep less metadata", n, events.MaxKeyBytes)
}

// size is how long the event is that begins a successor.
func size(s State) int {
	body, err := json.Marshal(successor(s, Issued{ID: s.ID, Prefix: s.Prefix, LastFour: s.LastFour, Digest: s.Digest}, longest, longest))
	if err != nil {
		// What cannot be written is refused where it is written.
		return 0
	}
	return len(body)
}

// longest is an instant that is written out in full.
const longest events.Time = 1_000_001

// successor is the event that begins a key in the place of another.
func successor(s State, issued Issued, now, expires events.Time) events.KeyCreated {
	return events.KeyCreated{
		ID: issued.ID, KeyKind: s.Kind, Role: s.Role, Name: s.Name, Prefix: issued.Prefix, LastFour: issued.LastFour,
		Digest: issued.Digest, Permissions: s.Permissions, Scope: s.Scope, Profile: s.Profile, CreatedAt: now,
		ExpiresAt: expires, Metadata: s.Metadata, ExternalID: s.ExternalID, RotatedFrom: s.ID,
		DataSubject: s.DataSubject,
	}
}

func update(s State, c Update) ([]events.Event, error) {
	if err := s.refuseEnded(c.Now); err != nil {
		return nil, err
	}
	if err := refuseConfig(c.Config); err != nil {
		return nil, err
	}
	var out []events.Event
	for _, part := range []func(State, Update) (events.Event, error){
		updateName, updatePermissions, updateScope, updateProfile, updateMetadata, updateStatus, updateExpiry, updateGrace,
	} {
		e, err := part(s, c)
		if err != nil {
			return nil, err
		}
		if e != nil {
			out = append(out, e)
		}
	}
	next := s
	for _, e := range out {
		next = Evolve(next, e)
	}
	if err := refuseHuge(c.Config, s, next); err != nil {
		return nil, err
	}
	return out, nil
}

func updateName(s State, c Update) (events.Event, error) {
	if !c.Name.Set || c.Name.Value == s.Name && !c.Insist {
		return nil, nil
	}
	if c.Name.Value != s.Name {
		if err := checkName(c.Config, c.Name.Value); err != nil {
			return nil, err
		}
	}
	return events.KeyRenamed{Name: c.Name.Value}, nil
}

// updatePermissions does not judge again what the key has: a permission that
// left the catalog since blocks no edit that leaves it where it is.
func updatePermissions(s State, c Update) (events.Event, error) {
	if !c.Permissions.Set {
		return nil, nil
	}
	p := s.Permissions
	if !samePermissions(c.Permissions.Value, p) {
		var err error
		if p, err = checkPermissions(c.Config, s.Kind, c.Permissions.Value); err != nil {
			return nil, err
		}
	}
	if samePermissions(p, s.Permissions) && (!c.Insist || s.Kind == events.KindManagement) {
		return nil, nil
	}
	return events.KeyPermissionsChanged{Permissions: p}, nil
}

func updateScope(s State, c Update) (events.Event, error) {
	if !c.Scope.Set {
		return nil, nil
	}
	scope := s.Scope
	if !sameScope(c.Scope.Value, scope) {
		var err error
		if scope, err = checkScope(c.Config, c.Scope.Value, s.Scope.Workspaces); err != nil {
			return nil, err
		}
	}
	if sameScope(scope, s.Scope) && !c.Insist {
		return nil, nil
	}
	return events.KeyScopeChanged{Scope: scope}, nil
}

func updateProfile(s State, c Update) (events.Event, error) {
	switch {
	case !c.Profile.Set:
		return nil, nil
	case c.Profile.Value != s.Profile:
		return events.KeyProfileChanged{Profile: c.Profile.Value}, checkProfile(c.Config, s.Kind, c.Profile.Value)
	case c.Insist:
		return events.KeyProfileChanged{Profile: s.Profile}, nil
	default:
		return nil, nil
	}
}

func updateMetadata(s State, c Update) (events.Event, error) {
	if !c.Metadata.Set && !c.ClearMetadata {
		return nil, nil
	}
	had := s.Metadata
	if c.ClearMetadata {
		had = nil
	}
	next := merge(had, c.Metadata.Value)
	if maps.Equal(next, s.Metadata) && !c.Insist {
		return nil, nil
	}
	return events.KeyMetadataChanged{Metadata: next}, checkMetadata(next)
}

// merge sets members and removes those of an empty text. Nothing left is nil,
// as it is when it is read again.
func merge(had, set events.Metadata) events.Metadata {
	next := events.Metadata{}
	maps.Copy(next, had)
	for k, v := range set {
		if v.IsZero() {
			delete(next, k)
			continue
		}
		next[k] = v
	}
	if len(next) == 0 {
		return nil
	}
	return next
}

func updateStatus(s State, c Update) (events.Event, error) {
	if !c.Status.Set {
		return nil, nil
	}
	switch c.Status.Value {
	case events.StatusActive:
		if s.Disabled || c.Insist {
			return events.KeyEnabled{}, nil
		}
	case events.StatusInactive:
		if !s.Disabled || c.Insist {
			return events.KeyDisabled{}, nil
		}
	default:
		return nil, domain.Refuse(domain.ErrInvalid, "status", "can be set to ACTIVE or INACTIVE; to end a key for ever, revoke it")
	}
	return nil, nil
}

func updateExpiry(s State, c Update) (events.Event, error) {
	if !c.Expiry.Set {
		return nil, nil
	}
	at := s.ExpiresAt
	if !s.keepsExpiry(c.Expiry.Value) {
		var err error
		if at, err = wished(c.Now, c.Config, c.Expiry.Value); err != nil {
			return nil, err
		}
	}
	if at == s.ExpiresAt && !c.Insist {
		return nil, nil
	}
	return events.KeyExpiryChanged{ExpiresAt: at}, nil
}

func updateGrace(s State, c Update) (events.Event, error) {
	if !c.Grace.Set {
		return nil, nil
	}
	if s.RotatedTo.IsZero() {
		return nil, domain.Refuse(domain.ErrConflict, "grace", "the key was not rotated, it has no grace to cut short")
	}
	if c.Grace.Value < 0 {
		return nil, domain.Refuse(domain.ErrInvalid, "grace", "must not be negative")
	}
	at := c.Now.Add(c.Grace.Value).WholeSecond()
	if at > s.GraceEndsAt {
		return nil, domain.Refuse(domain.ErrInvalid, "grace", "can only be cut short; it ends at %s already", s.GraceEndsAt)
	}
	if at == s.GraceEndsAt && !c.Insist {
		return nil, nil
	}
	return events.KeyGraceChanged{GraceEndsAt: at}, nil
}

func rotate(s State, c Rotate) ([]events.Event, error) {
	if err := s.refuseEnded(c.Now); err != nil {
		return nil, err
	}
	if err := refuseConfig(c.Config); err != nil {
		return nil, err
	}
	if !s.RotatedTo.IsZero() {
		return nil, domain.Refuse(domain.ErrAlreadyRotated, "", "the key was rotated to %s; rotate that one", s.RotatedTo)
	}
	if c.Grace < 0 || c.Grace > events.MaxGrace {
		return nil, domain.Refuse(domain.ErrInvalid, "grace", "must be 0 to 366d")
	}
	expires, err := successorExpiry(s, c)
	if err != nil {
		return nil, err
	}
	out := []events.Event{
		events.KeyRotated{Successor: c.Issued.ID, GraceEndsAt: c.Now.Add(c.Grace).WholeSecond()},
		successor(s, c.Issued, c.Now, expires),
	}
	if s.Disabled {
		// A rotation changes the secret and nothing else: what is switched off
		// stays so.
		out = append(out, events.KeyDisabled{})
	}
	return out, nil
}

func refuseConfig(config configuration.State) error {
	switch {
	case config.Doubtful:
		return domain.Refuse(domain.ErrConflict, "", "the organization's configuration holds a fact that this version does not understand; update the server")
	case !config.Organization.Exists:
		return domain.Refuse(domain.ErrNotFound, "", "there is no such organization")
	case config.Organization.Ended:
		return domain.Refuse(domain.ErrEnded, "", "the organization has ended")
	default:
		return nil
	}
}

func checkKind(config configuration.State, kind events.KeyKind, role events.Role) error {
	switch kind {
	case events.KindAPI:
		if role != "" {
			return domain.Refuse(domain.ErrInvalid, "role", "belongs to keys of kind management")
		}
		if config.Organization.ID == events.System {
			return domain.Refuse(domain.ErrInvalid, "kind", "the installation's own organization has management keys only")
		}
	case events.KindManagement:
		switch role {
		case events.RoleOwner, events.RoleAdmin, events.RoleMember, events.RoleAuditor, events.RoleVerifier, events.RoleResolver:
		default:
			return domain.Refuse(domain.ErrInvalid, "role", "must be owner, admin, member, auditor, verifier or resolver")
		}
	default:
		return domain.Refuse(domain.ErrInvalid, "kind", "must be api or management")
	}
	return nil
}

func checkPermissions(config configuration.State, kind events.KeyKind, p events.Permissions) (events.Permissions, error) {
	if kind == events.KindManagement {
		if p.Level != "" || len(p.Grants) != 0 {
			return p, domain.Refuse(domain.ErrInvalid, "permissions", "belong to keys of kind api; a management key has a role")
		}
		return events.Permissions{}, nil
	}
	switch p.Level {
	case events.LevelAll, events.LevelReadOnly:
		if len(p.Grants) != 0 {
			return p, domain.Refuse(domain.ErrInvalid, "permissions.grants", "are listed with level restricted only")
		}
		return events.Permissions{Level: p.Level}, nil
	case events.LevelRestricted:
		grants, err := config.Catalog.CheckGrants("permissions.grants", p.Grants)
		return events.Permissions{Level: p.Level, Grants: grants}, err
	default:
		return p, domain.Refuse(domain.ErrInvalid, "permissions.level", "must be all, read_only or restricted")
	}
}

// checkScope lets workspaces stay that the key already had, gone or not: an
// edit must not be blocked by what it does not touch.
func checkScope(config configuration.State, s events.Scope, had []events.WorkspaceID) (events.Scope, error) {
	if s.AllWorkspaces {
		if len(s.Workspaces) != 0 {
			return s, domain.Refuse(domain.ErrInvalid, "scope", "takes all_workspaces or workspaces, not both")
		}
		return s, nil
	}
	if len(s.Workspaces) == 0 {
		return s, domain.Refuse(domain.ErrInvalid, "scope", "needs all_workspaces: true, or at least one of workspaces")
	}
	if len(s.Workspaces) > events.MaxScopeWorkspaces {
		return s, domain.Refuse(domain.ErrInvalid, "scope.workspaces", "holds %d workspaces, at most %d are allowed", len(s.Workspaces), events.MaxScopeWorkspaces)
	}
	for _, id := range s.Workspaces {
		if _, err := events.ParseWorkspaceID(string(id)); err != nil {
			return s, domain.Refuse(domain.ErrInvalid, "scope.workspaces", "holds what is no workspace id")
		}
		if !config.Workspaces[id].Live() && !slices.Contains(had, id) {
			return s, domain.Refuse(domain.ErrUnknownWorkspace, "scope.workspaces", "the organization has no workspace %q", id)
		}
	}
	out := slices.Clone(s.Workspaces)
	slices.Sort(out)
	return events.Scope{Workspaces: slices.Compact(out)}, nil
}

func checkProfile(config configuration.State, kind events.KeyKind, id events.ProfileID) error {
	if id == "" {
		return nil
	}
	if kind == events.KindManagement {
		return domain.Refuse(domain.ErrInvalid, "profile", "belongs to keys of kind api")
	}
	if _, err := events.ParseProfileID(string(id)); err != nil {
		return domain.Refuse(domain.ErrInvalid, "profile", "is no profile id")
	}
	if !config.Profiles[id].Live() {
		return domain.Refuse(domain.ErrUnknownProfile, "profile", "the organization has no profile %q", id)
	}
	return nil
}

func checkMetadata(m events.Metadata) error {
	if len(m) > events.MaxMetadataEntries {
		return domain.Refuse(domain.ErrInvalid, "metadata", "holds %d entries, at most %d are allowed", len(m), events.MaxMetadataEntries)
	}
	for k, v := range m {
		if k == "" {
			return domain.Refuse(domain.ErrInvalid, "metadata", "must not have an empty key")
		}
		if err := domain.CheckText("metadata", k, events.MaxMetadataKeyLength); err != nil {
			return err
		}
		if err := checkMetadataValue(v.Clear); err != nil {
			return err
		}
	}
	return nil
}

// checkMetadataValue lets lines and tabs through, which names must not have.
func checkMetadataValue(v string) error {
	switch {
	case len(v) > events.MaxMetadataValueLength:
		return domain.Refuse(domain.ErrInvalid, "metadata", "a value is %d bytes long, at most %d are allowed", len(v), events.MaxMetadataValueLength)
	case !utf8.ValidString(v):
		return domain.Refuse(domain.ErrInvalid, "metadata", "a value must be valid UTF-8")
	case strings.ContainsFunc(v, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }):
		return domain.Refuse(domain.ErrInvalid, "metadata", "a value must not hold control characters other than line feed and tab")
	default:
		return nil
	}
}
