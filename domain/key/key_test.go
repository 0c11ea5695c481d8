package key

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyledger/keyledger/domain"
	"github.com/keyledger/keyledger/domain/catalog"
	"github.com/keyledger/keyledger/domain/configuration"
	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/domain/organization"
	"github.com/keyledger/keyledger/domain/profile"
	"github.com/keyledger/keyledger/domain/workspace"
	"github.com/keyledger/keyledger/events"
)

// noon is when most tests play.
var noon = events.TimeOf(time.Date(2026, 6, 15, 12, 0, 0, 500_000_000, time.UTC))

func config(t testing.TB) configuration.State {
	t.Helper()
	facts, err := catalog.Decide(catalog.State{}, catalog.Replace{Permissions: []events.CatalogPermission{
		{Name: "interview:start", Access: events.AccessWrite},
		{Name: "interview:read", Access: events.AccessRead},
		{Name: "report:read", Access: events.AccessRead},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return configuration.State{
		Organization: organization.State{Exists: true, ID: "acme", Plan: events.PlanGrowth},
		Catalog:      catalog.Evolve(catalog.State{}, facts[0]),
		Workspaces: map[events.WorkspaceID]workspace.State{
			"a": {Exists: true, ID: "a"}, "b": {Exists: true, ID: "b"}, "gone": {Exists: true, ID: "gone", Ended: true},
		},
		Profiles: map[events.ProfileID]profile.State{"p": {Exists: true, ID: "p"}, "gone": {Exists: true, ID: "gone", Ended: true}},
	}
}

func issued(n int) Issued {
	return Issued{
		ID: events.KeyID{15: byte(n), 14: byte(n >> 8)}, Prefix: "kl_live", LastFour: "a1B2",
		Digest: events.Digest{Alg: events.SHA256, Value: events.DigestValue{byte(n), byte(n >> 8), 1}},
	}
}

// simple is a wish that nothing is wrong with.
func simple(t testing.TB) Create {
	return Create{
		Now: noon, Config: config(t), Issued: issued(1), Permissions: events.Permissions{Level: events.LevelAll},
		Scope: events.Scope{AllWorkspaces: true},
	}
}

func created(t testing.TB, c Create) State {
	t.Helper()
	facts, err := Decide(State{}, c)
	if err != nil || len(facts) != 1 {
		t.Fatalf("%v, %v", facts, err)
	}
	return Evolve(State{}, facts[0])
}

func evolve(s State, facts ...events.Event) State {
	for _, e := range facts {
		s = Evolve(s, e)
	}
	return s
}

func refused(t *testing.T, facts []events.Event, err, is error, field string) {
	t.Helper()
	var refusal *domain.Refusal
	if !errors.As(err, &refusal) || !errors.Is(err, is) || refusal.Field != field || refusal.Detail == "" || len(facts) != 0 {
		t.Errorf("%v, %v, want %v of %q", facts, err, is, field)
	}
}

func TestCreate(t *testing.T) {
	c := simple(t)
	c.Name, c.ExternalID, c.Profile = events.ClearText("CI"), events.ClearText("urn:x:1"), "p"
	c.Permissions = events.Permissions{Level: events.LevelRestricted, Grants: []string{"report:read", "interview:*", "report:read"}}
	c.Scope = events.Scope{Workspaces: []events.WorkspaceID{"b", "a", "b"}}
	c.Metadata = events.Metadata{"team": events.ClearText("x\ny"), "none": {}}
	c.Expiry.In = "1mo"
	got := created(t, c)
	want := State{
		Exists: true, ID: c.Issued.ID, Kind: events.KindAPI, Name: c.Name, Prefix: "kl_live", LastFour: "a1B2", Digest: c.Issued.Digest,
		Permissions: events.Permissions{Level: events.LevelRestricted, Grants: []string{"interview:*", "report:read"}},
		Scope:       events.Scope{Workspaces: []events.WorkspaceID{"a", "b"}}, Profile: "p", CreatedAt: noon,
		ExpiresAt: events.TimeOf(time.Date(2026, 7, 15, 12, 0, 0, 0, time.UTC)),
		Metadata:  events.Metadata{"team": events.ClearText("x\ny")}, ExternalID: c.ExternalID, DataSubject: events.DataSubject(c.Issued.ID.String()),
	}
	if diff := cmp.Diff(want, got); diff != "" || !got.Equal(want) {
		t.Error(diff)
	}
	if got.Status(noon) != events.StatusActive || !got.HoldsPlace(noon) {
		t.Error("it is not active from the start")
	}
	if diff := cmp.Diff([]events.WorkspaceID{"b", "a", "b"}, c.Scope.Workspaces); diff != "" {
		t.Error("the wish was changed", diff)
	}
}

func TestCreateRefuses(t *testing.T) {
	secret, err := keystring.New("kl_live", [24]byte{7})
	if err != nil {
		t.Fatal(err)
	}
	pasted := secret.Reveal()
	many := events.Metadata{}
	for i := range events.MaxMetadataEntries + 1 {
		many[string(rune('a'+i%26))+string(rune('a'+i/26))] = events.ClearText("v")
	}
	grants := func(g ...string) events.Permissions {
		return events.Permissions{Level: events.LevelRestricted, Grants: g}
	}
	scope := func(w ...events.WorkspaceID) events.Scope { return events.Scope{Workspaces: w} }
	for what, c := range map[string]struct {
		change func(*Create)
		is     error
		field  string
	}{
		"no organization":         {func(c *Create) { c.Config.Organization = organization.State{} }, domain.ErrNotFound, ""},
		"ended organization":      {func(c *Create) { c.Config.Organization.Ended = true }, domain.ErrEnded, ""},
		"doubtful configuration":  {func(c *Create) { c.Config.Doubtful = true }, domain.ErrConflict, ""},
		"foreign kind":            {func(c *Create) { c.Kind = "root" }, domain.ErrInvalid, "kind"},
		"role on an api key":      {func(c *Create) { c.Role = events.RoleAdmin }, domain.ErrInvalid, "role"},
		"management, no role":     {func(c *Create) { c.Kind, c.Permissions = events.KindManagement, events.Permissions{} }, domain.ErrInvalid, "role"},
		"management, permissions": {func(c *Create) { c.Kind, c.Role = events.KindManagement, events.RoleAdmin }, domain.ErrInvalid, "permissions"},
		"management, profile": {func(c *Create) {
			c.Kind, c.Role, c.Permissions, c.Profile = events.KindManagement, events.RoleAdmin, events.Permissions{}, "p"
		}, domain.ErrInvalid, "profile"},
		"api key of the system": {func(c *Create) { c.Config.Organization.ID = events.System }, domain.ErrInvalid, "kind"},
		"prefix":                {func(c *Create) { c.Issued.Prefix = "KL-" }, domain.ErrInvalid, "prefix"},
		"long name":             {func(c *Create) { c.Name = events.ClearText(strings.Repeat("é", 101)) }, domain.ErrInvalid, "name"},
		"no level":              {func(c *Create) { c.Permissions = events.Permissions{} }, domain.ErrInvalid, "permissions.level"},
		"foreign level":         {func(c *Create) { c.Permissions.Level = "root" }, domain.ErrInvalid, "permissions.level"},
		"grants with all":       {func(c *Create) { c.Permissions.Grants = []string{"report:read"} }, domain.ErrInvalid, "permissions.grants"},
		"no grants":             {func(c *Create) { c.Permissions = grants() }, domain.ErrInvalid, "permissions.grants"},
		"unknown grant":         {func(c *Create) { c.Permissions = grants("report:raed") }, domain.ErrUnknownPermission, "permissions.grants"},
		"pasted grant":          {func(c *Create) { c.Permissions = grants(pasted) }, domain.ErrInvalid, "permissions.grants"},
		"no scope":              {func(c *Create) { c.Scope = events.Scope{} }, domain.ErrInvalid, "scope"},
		"both scopes":           {func(c *Create) { c.Scope.Workspaces = []events.WorkspaceID{"a"} }, domain.ErrInvalid, "scope"},
		"unknown workspace":     {func(c *Create) { c.Scope = scope("a", "zz") }, domain.ErrUnknownWorkspace, "scope.workspaces"},
		"ended workspace":       {func(c *Create) { c.Scope = scope("gone") }, domain.ErrUnknownWorkspace, "scope.workspaces"},
		"pasted workspace":      {func(c *Create) { c.Scope = scope(events.WorkspaceID(pasted)) }, domain.ErrInvalid, "scope.workspaces"},
		"many workspaces":       {func(c *Create) { c.Scope = scope(make([]events.WorkspaceID, 401)...) }, domain.ErrInvalid, "scope.workspaces"},
		"unknown profile":       {func(c *Create) { c.Profile = "zz" }, domain.ErrUnknownProfile, "profile"},
		"ended profile":         {func(c *Create) { c.Profile = "gone" }, domain.ErrUnknownProfile, "profile"},
		"pasted profile":        {func(c *Create) { c.Profile = events.ProfileID(pasted) }, domain.ErrInvalid, "profile"},
		"much metadata":         {func(c *Create) { c.Metadata = many }, domain.ErrInvalid, "metadata"},
		"metadata, empty key":   {func(c *Create) { c.Metadata = events.Metadata{"": events.ClearText("v")} }, domain.ErrInvalid, "metadata"},
		"metadata, long value":  {func(c *Create) { c.Metadata = events.Metadata{"a": events.ClearText(strings.Repeat("v", 501))} }, domain.ErrInvalid, "metadata"},
		"metadata, no UTF-8":    {func(c *Create) { c.Metadata = events.Metadata{"a": events.ClearText("\xff")} }, domain.ErrInvalid, "metadata"},
		"metadata, control":     {func(c *Create) { c.Metadata = events.Metadata{"a": events.ClearText("\x1b[2J")} }, domain.ErrInvalid, "metadata"},
		"long external id":      {func(c *Create) { c.ExternalID = events.ClearText(strings.Repeat("x", 201)) }, domain.ErrInvalid, "external_id"},
		"both expiries":         {func(c *Create) { c.Expiry = Expiry{At: noon.Add(time.Hour), In: "1d"} }, domain.ErrInvalid, "expires_in"},
		"no period":             {func(c *Create) { c.Expiry.In = events.Period(pasted) }, domain.ErrInvalid, "expires_in"},
		"past":                  {func(c *Create) { c.Expiry.At = noon.Add(-time.Hour) }, domain.ErrPastExpiry, "expires_at"},
		"now":                   {func(c *Create) { c.Expiry.At = noon }, domain.ErrPastExpiry, "expires_at"},
		"far":                   {func(c *Create) { c.Expiry.At = noon.Add(events.MaxPeriod + time.Second) }, domain.ErrInvalid, "expires_at"},
		"too long, in": {func(c *Create) {
			c.Config.Organization.Limits.MaxKeyLifetime, c.Expiry.In = "90d", "91d"
		}, domain.ErrLifetimeTooLong, "expires_in"},
		"too long, at": {func(c *Create) {
			c.Config.Organization.Limits.MaxKeyLifetime, c.Expiry.At = "90d", noon.Add(91*24*time.Hour)
		}, domain.ErrLifetimeTooLong, "expires_at"},
		"never under a limit": {func(c *Create) { c.Config.Organization.Limits.MaxKeyLifetime, c.Expiry.In = "90d", "never" }, domain.ErrLifetimeTooLong, "expires_in"},
	} {
		t.Run(what, func(t *testing.T) {
			wish := simple(t)
			c.change(&wish)
			facts, err := Decide(State{}, wish)
			refused(t, facts, err, c.is, c.field)
			if err != nil && strings.Contains(err.Error(), pasted) {
				t.Error("the refusal repeats a secret")
			}
		})
	}
	taken := created(t, simple(t))
	for what, s := range map[string]State{"taken": taken, "revoked": {Revoked: true}, "doubtful": {Doubtful: true}} {
		facts, err := Decide(s, simple(t))
		t.Run(what, func(t *testing.T) { refused(t, facts, err, domain.ErrExists, "") })
	}
}

func TestExpiryOfNewKeys(t *testing.T) {
	day := func(n int) events.Time { return noon.Add(time.Duration(n) * 24 * time.Hour).WholeSecond() }
	for what, c := range map[string]struct {
		limit, policy events.Period
		wish          Expiry
		want          events.Time
	}{
		"nothing set":                  {"", "", Expiry{}, 0},
		"the default":                  {"", "30d", Expiry{}, day(30)},
		"the default is never":         {"", "never", Expiry{}, 0},
		"a wish beats the default":     {"", "30d", Expiry{In: "7d"}, day(7)},
		"never beats the default":      {"", "30d", Expiry{In: "never"}, 0},
		"the limit where none is set":  {"90d", "", Expiry{}, day(90)},
		"a default within the limit":   {"90d", "30d", Expiry{}, day(30)},
		"a default yields to a limit":  {"90d", "180d", Expiry{}, day(90)},
		"a default never yields too":   {"90d", "never", Expiry{}, day(90)},
		"a wish as long as the limit":  {"90d", "", Expiry{In: "90d"}, day(90)},
		"an instant, cut to a second":  {"", "", Expiry{At: noon.Add(time.Hour)}, noon.Add(time.Hour).WholeSecond()},
		"a limit of never bounds none": {"never", "", Expiry{In: "never"}, 0},
	} {
		t.Run(what, func(t *testing.T) {
			wish := simple(t)
			wish.Config.Organization.Limits.MaxKeyLifetime = c.limit
			wish.Config.Organization.Policy.DefaultExpiresIn = c.policy
			wish.Expiry = c.wish
			if got := created(t, wish).ExpiresAt; got != c.want {
				t.Errorf("expires at %s, want %s", got, c.want)
			}
		})
	}
}

func TestUpdate(t *testing.T) {
	wish := simple(t)
	wish.Metadata = events.Metadata{"keep": events.ClearText("1"), "drop": events.ClearText("2")}
	wish.Scope = events.Scope{Workspaces: []events.WorkspaceID{"a"}}
	s := created(t, wish)
	update := Update{
		Now: noon, Config: config(t), Name: domain.Some(events.ClearText("new")),
		Permissions: domain.Some(events.Permissions{Level: events.LevelRestricted, Grants: []string{"report:read"}}),
		Scope:       domain.Some(events.Scope{Workspaces: []events.WorkspaceID{"b", "a"}}),
		Profile:     domain.Some(events.ProfileID("p")), Status: domain.Some(events.StatusInactive),
		Expiry:   domain.Some(Expiry{In: "7d"}),
		Metadata: domain.Some(events.Metadata{"drop": {}, "add": events.ClearText("3"), "never-was": {}}),
	}
	facts, err := Decide(s, update)
	if err != nil || len(facts) != 7 {
		t.Fatalf("%v, %v", facts, err)
	}
	want := s
	want.Name, want.Profile, want.Disabled = events.ClearText("new"), "p", true
	want.Permissions = update.Permissions.Value
	want.Scope = events.Scope{Workspaces: []events.WorkspaceID{"a", "b"}}
	want.ExpiresAt = noon.Add(7 * 24 * time.Hour).WholeSecond()
	want.Metadata = events.Metadata{"keep": events.ClearText("1"), "add": events.ClearText("3")}
	got := evolve(s, facts...)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	if facts, err := Decide(got, update); err != nil || len(facts) != 0 {
		t.Errorf("the same again gave %v, %v", facts, err)
	}
	clear := Update{
		Now: noon, Config: config(t), Name: domain.Some(events.Text{}), Profile: domain.Some(events.ProfileID("")),
		Status: domain.Some(events.StatusActive), Expiry: domain.Some(Expiry{}),
		Metadata: domain.Some(events.Metadata{"keep": {}, "add": {}}),
	}
	if facts, err = Decide(got, clear); err != nil || len(facts) != 5 {
		t.Fatalf("%v, %v", facts, err)
	}
	got = evolve(got, facts...)
	if got.Name != (events.Text{}) || got.Profile != "" || got.Disabled || got.ExpiresAt != 0 || len(got.Metadata) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestUpdateRefuses(t *testing.T) {
	s := created(t, simple(t))
	rotated := evolve(s, events.KeyRotated{Successor: events.KeyID{9}, GraceEndsAt: noon.Add(time.Hour)})
	management := simple(t)
	management.Kind, management.Role, management.Permissions = events.KindManagement, events.RoleAdmin, events.Permissions{}
	for what, c := range map[string]struct {
		state  State
		change func(*Update)
		is     error
		field  string
	}{
		"none":         {State{}, func(*Update) {}, domain.ErrNotFound, ""},
		"revoked":      {evolve(s, events.KeyRevoked{}), func(*Update) {}, domain.ErrEnded, ""},
		"expired":      {evolve(s, events.KeyExpired{}), func(*Update) {}, domain.ErrEnded, ""},
		"out of grace": {rotated, func(u *Update) { u.Now = noon.Add(time.Hour) }, domain.ErrEnded, ""},
		"doubtful":     {evolve(s, events.Malformed{}), func(*Update) {}, domain.ErrConflict, ""},
		"organization": {s, func(u *Update) { u.Config.Organization.Ended = true }, domain.ErrEnded, ""},
		"to revoked":   {s, func(u *Update) { u.Status = domain.Some(events.StatusRevoked) }, domain.ErrInvalid, "status"},
		"to expired":   {s, func(u *Update) { u.Status = domain.Some(events.StatusExpired) }, domain.ErrInvalid, "status"},
		"no status":    {s, func(u *Update) { u.Status = domain.Some(events.Status("")) }, domain.ErrInvalid, "status"},
		"name":         {s, func(u *Update) { u.Name = domain.Some(events.ClearText("a\nb")) }, domain.ErrInvalid, "name"},
		"level":        {s, func(u *Update) { u.Permissions = domain.Some(events.Permissions{}) }, domain.ErrInvalid, "permissions.level"},
		"nowhere":      {s, func(u *Update) { u.Scope = domain.Some(events.Scope{}) }, domain.ErrInvalid, "scope"},
		"workspace":    {s, func(u *Update) { u.Scope = domain.Some(events.Scope{Workspaces: []events.WorkspaceID{"gone"}}) }, domain.ErrUnknownWorkspace, "scope.workspaces"},
		"profile":      {s, func(u *Update) { u.Profile = domain.Some(events.ProfileID("gone")) }, domain.ErrUnknownProfile, "profile"},
		"metadata":     {s, func(u *Update) { u.Metadata = domain.Some(events.Metadata{"": events.ClearText("x")}) }, domain.ErrInvalid, "metadata"},
		"past":         {s, func(u *Update) { u.Expiry = domain.Some(Expiry{At: noon.Add(-time.Hour)}) }, domain.ErrPastExpiry, "expires_at"},
		"both":         {s, func(u *Update) { u.Expiry = domain.Some(Expiry{At: noon.Add(time.Hour), In: "1d"}) }, domain.ErrInvalid, "expires_in"},
		"lifetime": {s, func(u *Update) {
			u.Config.Organization.Limits.MaxKeyLifetime = "1d"
			u.Expiry = domain.Some(Expiry{In: "2d"})
		}, domain.ErrLifetimeTooLong, "expires_in"},
		"never, limit":   {evolve(s, events.KeyExpiryChanged{ExpiresAt: noon.Add(time.Hour)}), func(u *Update) { u.Config.Organization.Limits.MaxKeyLifetime = "1d"; u.Expiry = domain.Some(Expiry{}) }, domain.ErrLifetimeTooLong, "expires_at"},
		"grace of none":  {s, func(u *Update) { u.Grace = domain.Some(time.Minute) }, domain.ErrConflict, "grace"},
		"longer grace":   {rotated, func(u *Update) { u.Grace = domain.Some(2 * time.Hour) }, domain.ErrInvalid, "grace"},
		"negative grace": {rotated, func(u *Update) { u.Grace = domain.Some(-time.Minute) }, domain.ErrInvalid, "grace"},
		"role's profile": {created(t, management), func(u *Update) { u.Profile = domain.Some(events.ProfileID("p")) }, domain.ErrInvalid, "profile"},
		"role's grants":  {created(t, management), func(u *Update) { u.Permissions = domain.Some(events.Permissions{Level: events.LevelAll}) }, domain.ErrInvalid, "permissions"},
		"no profile id":  {s, func(u *Update) { u.Profile = domain.Some(events.ProfileID("A B")) }, domain.ErrInvalid, "profile"},
	} {
		t.Run(what, func(t *testing.T) {
			update := Update{Now: noon, Config: config(t)}
			c.change(&update)
			facts, err := Decide(c.state, update)
			refused(t, facts, err, c.is, c.field)
		})
	}
}

// A workspace that has gone does not stand in the way of what does not touch it.
func TestScopeKeepsWhatHasGone(t *testing.T) {
	s := created(t, simple(t))
	s.Scope = events.Scope{Workspaces: []events.WorkspaceID{"gone"}}
	facts, err := Decide(s, Update{Now: noon, Config: config(t), Scope: domain.Some(events.Scope{Workspaces: []events.WorkspaceID{"a", "gone"}})})
	if err != nil || len(facts) != 1 {
		t.Fatalf("%v, %v", facts, err)
	}
}

func TestRotate(t *testing.T) {
	wish := simple(t)
	wish.Name, wish.Profile, wish.Expiry.In = events.ClearText("CI"), "p", "30d"
	wish.Metadata = events.Metadata{"a": events.ClearText("b")}
	s := created(t, wish)
	later := noon.Add(10 * 24 * time.Hour)
	facts, err := Decide(s, Rotate{Now: later, Config: config(t), Issued: issued(2), Grace: time.Hour})
	if err != nil || len(facts) != 2 {
		t.Fatalf("%v, %v", facts, err)
	}
	old, next := evolve(s, facts[0]), evolve(State{}, facts[1:]...)
	want := s
	want.ID, want.Digest, want.RotatedFrom, want.CreatedAt = issued(2).ID, issued(2).Digest, s.ID, later
	want.ExpiresAt = (s.ExpiresAt + (later - noon)).WholeSecond()
	if diff := cmp.Diff(want, next); diff != "" {
		t.Error(diff)
	}
	if old.RotatedTo != next.ID || old.GraceEndsAt != later.Add(time.Hour).WholeSecond() || old.HoldsPlace(later) || !next.HoldsPlace(later) {
		t.Errorf("%+v", old)
	}
	if old.Status(later) != events.StatusActive || old.Status(later.Add(time.Hour)) != events.StatusExpired {
		t.Error("the predecessor does not live for its grace")
	}
	facts, err = Decide(old, Rotate{Now: later, Config: config(t), Issued: issued(3)})
	refused(t, facts, err, domain.ErrAlreadyRotated, "")
	facts, err = Decide(s, Rotate{Now: later, Config: config(t), Issued: issued(3), Grace: events.MaxGrace + 1})
	refused(t, facts, err, domain.ErrInvalid, "grace")
	facts, err = Decide(s, Rotate{Now: later, Config: config(t), Issued: issued(3), Grace: -1})
	refused(t, facts, err, domain.ErrInvalid, "grace")
	facts, err = Decide(s, Rotate{Now: s.ExpiresAt, Config: config(t), Issued: issued(3)})
	refused(t, facts, err, domain.ErrEnded, "")
}

func TestRotateKeepsTheExpiryWithinLimits(t *testing.T) {
	rotate := func(t *testing.T, s State, limit events.Period, at events.Time, wish Expiry) events.Time {
		t.Helper()
		c := config(t)
		c.Organization.Limits.MaxKeyLifetime = limit
		facts, err := Decide(s, Rotate{Now: at, Config: c, Issued: issued(2), Expiry: wish})
		if err != nil {
			t.Fatal(err)
		}
		return facts[1].(events.KeyCreated).ExpiresAt
	}
	day := func(n int) events.Time { return noon.Add(time.Duration(n) * 24 * time.Hour).WholeSecond() }
	endless := created(t, simple(t))
	if got := rotate(t, endless, "", noon, Expiry{}); got != 0 {
		t.Errorf("an endless key was given an end at %s", got)
	}
	if got := rotate(t, endless, "30d", noon, Expiry{}); got != day(30) {
		t.Errorf("an endless key under a limit ends at %s", got)
	}
	bounded := evolve(endless, events.KeyExpiryChanged{ExpiresAt: day(60)})
	if got := rotate(t, bounded, "30d", noon, Expiry{}); got != day(30) {
		t.Errorf("a lifetime beyond a new limit ends at %s", got)
	}
	if got := rotate(t, bounded, "", noon, Expiry{In: "7d"}); got != day(7) {
		t.Errorf("a wish for 7 days ends at %s", got)
	}
	short := evolve(endless, events.KeyExpiryChanged{ExpiresAt: noon.Add(time.Second).WholeSecond()})
	if got := rotate(t, short, "", noon+1, Expiry{}); got <= noon+1 {
		t.Errorf("a lifetime of half a second ends before it begins, at %s", got)
	}
}

// A rotation changes the secret and nothing else.
func TestRotateLeavesASwitchedOffKeyOff(t *testing.T) {
	s := evolve(created(t, simple(t)), events.KeyDisabled{})
	facts, err := Decide(s, Rotate{Now: noon, Config: config(t), Issued: issued(2)})
	if err != nil {
		t.Fatal(err)
	}
	if got := evolve(State{}, facts[1:]...).Status(noon); got != events.StatusInactive {
		t.Errorf("the successor is %s", got)
	}
}

func TestExpire(t *testing.T) {
	s := evolve(created(t, simple(t)), events.KeyExpiryChanged{ExpiresAt: noon.Add(time.Hour)})
	for what, c := range map[string]struct {
		state State
		now   events.Time
		facts int
	}{
		"before its time": {s, noon.Add(time.Hour) - 1, 0},
		"at its time":     {s, noon.Add(time.Hour), 1},
		"twice":           {evolve(s, events.KeyExpired{}), noon.Add(2 * time.Hour), 0},
		"revoked":         {evolve(s, events.KeyRevoked{}), noon.Add(2 * time.Hour), 0},
		"endless":         {created(t, simple(t)), noon.Add(events.MaxPeriod), 0},
	} {
		facts, err := Decide(c.state, Expire{Now: c.now})
		if err != nil || len(facts) != c.facts {
			t.Errorf("%s: %v, %v, want %d facts", what, facts, err, c.facts)
		}
		for _, e := range facts {
			if e != (events.KeyExpired{ExpiredAt: s.ExpiresAt}) {
				t.Errorf("%s: %+v", what, e)
			}
		}
	}
	facts, err := Decide(evolve(s, events.Unknown{Bears: true}), Expire{Now: noon.Add(2 * time.Hour)})
	refused(t, facts, err, domain.ErrConflict, "")
	facts, err = Decide(State{}, Expire{Now: noon})
	refused(t, facts, err, domain.ErrNotFound, "")
}

func TestNotify(t *testing.T) {
	const day = 24 * time.Hour
	at := func(d time.Duration) events.Time { return noon.Add(d).WholeSecond() }
	policy := func(notices ...events.Period) configuration.State {
		c := config(t)
		c.Organization.Policy.ExpiryNotices = notices
		return c
	}
	both := policy("14d", "1d")
	s := evolve(created(t, simple(t)), events.KeyExpiryChanged{ExpiresAt: at(30 * day)})
	noticed := func(p events.Period) State { return evolve(s, events.KeyExpiring{ExpiresAt: at(30 * day), Notice: p}) }
	ended := both
	ended.Organization.Ended = true
	for what, c := range map[string]struct {
		state  State
		config configuration.State
		since  events.Time
		now    events.Time
		want   events.Period
	}{
		"before the first":                    {s, both, noon, at(16*day) - 1, ""},
		"the first":                           {s, both, noon, at(16 * day), "14d"},
		"the first, late":                     {s, both, noon, at(20 * day), "14d"},
		"the first again":                     {noticed("14d"), both, at(16 * day), at(20 * day), ""},
		"the first again, nobody knows when":  {noticed("14d"), both, 0, at(20 * day), ""},
		"the second":                          {noticed("14d"), both, at(16 * day), at(29 * day), "1d"},
		"the nearest when several have come":  {s, both, noon, at(29 * day), "1d"},
		"none when the nearest was given":     {noticed("1d"), both, 0, at(29*day + 1), ""},
		"none after the end":                  {s, both, noon, at(30 * day), ""},
		"none that came before the end was":   {s, both, at(17 * day), at(18 * day), ""},
		"the second, the first came before":   {s, both, at(17 * day), at(29 * day), "1d"},
		"none that came when the end was set": {s, both, at(16 * day), at(16 * day), ""},
		"none without a policy":               {s, policy(), noon, at(29 * day), ""},
		"one that the policy got later":       {noticed("14d"), policy("14d", "7d", "1d"), at(16 * day), at(24 * day), "7d"},
		"by the calendar":                     {s, policy("1mo"), noon.Add(-10 * day), noon, "1mo"},
		"revoked":                             {evolve(s, events.KeyRevoked{}), both, noon, at(29 * day), ""},
		"expired":                             {evolve(s, events.KeyExpired{}), both, noon, at(29 * day), ""},
		"switched off":                        {evolve(s, events.KeyDisabled{}), both, noon, at(29 * day), "1d"},
		"endless":                             {created(t, simple(t)), both, noon, at(29 * day), ""},
		"of an organization that has ended":   {s, ended, noon, at(29 * day), ""},
		"moved back and forth":                {evolve(noticed("14d"), events.KeyExpiryChanged{}, events.KeyExpiryChanged{ExpiresAt: at(30 * day)}), both, noon, at(20 * day), "14d"},
		"renamed since":                       {evolve(noticed("14d"), events.KeyRenamed{}, events.KeyRotated{GraceEndsAt: at(40 * day)}), both, noon, at(20 * day), ""},
	} {
		facts, err := Decide(c.state, Notify{Now: c.now, Config: c.config, Since: c.since})
		var want []events.Event
		if c.want != "" {
			want = []events.Event{events.KeyExpiring{ExpiresAt: at(30 * day), Notice: c.want}}
		}
		if diff := cmp.Diff(want, facts); err != nil || diff != "" {
			t.Errorf("%s: %v, %s", what, err, diff)
		}
	}

	// A rotated key ends with its grace, and that is what notice is given of.
	rotated := evolve(noticed("14d"), events.KeyRotated{Successor: issued(2).ID, GraceEndsAt: at(20 * day)})
	if facts, err := Decide(rotated, Notify{Now: at(18 * day), Config: both, Since: at(17 * day)}); err != nil || len(facts) != 0 {
		t.Errorf("before: %v, %v", facts, err)
	}
	facts, err := Decide(rotated, Notify{Now: at(19 * day), Config: both, Since: at(17 * day)})
	if diff := cmp.Diff([]events.Event{events.KeyExpiring{ExpiresAt: at(20 * day), Notice: "1d"}}, facts); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if facts, err := Decide(rotated, Expire{Now: at(20 * day)}); err != nil || len(facts) != 1 || facts[0] != (events.KeyExpired{ExpiredAt: at(20 * day)}) {
		t.Errorf("%v, %v", facts, err)
	}

	doubtful := both
	doubtful.Doubtful = true
	facts, err = Decide(s, Notify{Now: at(29 * day), Config: doubtful, Since: noon})
	refused(t, facts, err, domain.ErrConflict, "")
	facts, err = Decide(evolve(s, events.Unknown{Bears: true}), Notify{Now: at(29 * day), Config: both, Since: noon})
	refused(t, facts, err, domain.ErrConflict, "")
	facts, err = Decide(State{}, Notify{Now: noon, Config: both})
	refused(t, facts, err, domain.ErrNotFound, "")
}

func TestRevoke(t *testing.T) {
	s := created(t, simple(t))
	for what, c := range map[string]struct {
		state State
		facts int
	}{
		"active": {s, 1}, "inactive": {evolve(s, events.KeyDisabled{}), 1}, "expired": {evolve(s, events.KeyExpired{}), 1},
		"doubtful": {evolve(s, events.Malformed{}), 1}, "nothing but doubt": {State{Doubtful: true}, 1}, "revoked": {evolve(s, events.KeyRevoked{}), 0},
	} {
		if facts, err := Decide(c.state, Revoke{}); err != nil || len(facts) != c.facts {
			t.Errorf("%s: %v, %v, want %d facts", what, facts, err, c.facts)
		}
	}
	facts, err := Decide(State{}, Revoke{})
	refused(t, facts, err, domain.ErrNotFound, "")
	facts, err = Decide(s, nil)
	refused(t, facts, err, domain.ErrInvalid, "")
}
