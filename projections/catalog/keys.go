package catalog

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// Key is a key as the catalog shows it.
type Key struct {
	Org         events.OrgID
	ID          events.KeyID
	Kind        events.KeyKind
	Role        events.Role
	Name        events.Text
	Prefix      string
	LastFour    string
	Permissions events.Permissions
	Scope       events.Scope
	Profile     events.ProfileID
	ExternalID  events.Text
	Metadata    events.Metadata
	// DataSubject is the pseudonym of whom the key's texts tell of, and those of
	// its uses: the key's own id unless another was given.
	DataSubject events.DataSubject
	CreatedAt   events.Time
	CreatedBy   events.Actor
	RotatedFrom events.KeyID
	RotatedTo   events.KeyID

	// Status is where in its life the key is, at the time that was asked for.
	// The rest of this group is what it follows from.
	Status    events.Status
	Disabled  bool
	ExpiresAt events.Time
	// ExpiredAt is set once the expiry was recorded, which is for ever.
	ExpiredAt events.Time
	// GraceEndsAt is when a rotated key ends.
	GraceEndsAt events.Time
	// RotationDueAt is when the key has the age at which its organization wants it
	// rotated, be that to come or gone. Those have none that need not be: where no
	// age is set, and what was rotated or has ended.
	RotationDueAt events.Time
	// Imported says that the key came from another system.
	Imported bool
	// RevokedAt, RevokedBy and RevocationReason tell the key's revocation, or
	// the end of its organization when that came first.
	RevokedAt        events.Time
	RevokedBy        events.Actor
	RevocationReason events.Text

	// LastUsedAt is 0 when no use is known.
	LastUsedAt events.Time
	// Revision is the key's ETag: it counts the facts of the key and of its
	// revocation.
	Revision events.Revision
	// Position is that of the last fact on what is shown here.
	Position events.Position

	created events.Position
}

// EndsAt is when the key's time comes: its expiry or the end of its grace,
// whichever is first. 0 is never.
func (k Key) EndsAt() events.Time {
	if k.GraceEndsAt != 0 && (k.ExpiresAt == 0 || k.GraceEndsAt < k.ExpiresAt) {
		return k.GraceEndsAt
	}
	return k.ExpiresAt
}

// StatusAt returns where in its life the key is at an instant, as far as the
// facts shown here tell.
func (k Key) StatusAt(now events.Time) events.Status {
	switch {
	case k.RevokedAt != 0:
		return events.StatusRevoked
	case k.ExpiredAt != 0 || k.EndsAt().Passed(now):
		return events.StatusExpired
	case k.Disabled:
		return events.StatusInactive
	default:
		return events.StatusActive
	}
}

// Within reports whether the key's scope lies within bounds: what an admin of
// some workspaces may see and change. A key that may be used nowhere lies
// within all workspaces alone.
func (k Key) Within(bounds events.Scope) bool {
	switch {
	case bounds.AllWorkspaces:
		return true
	case k.Scope.AllWorkspaces || len(k.Scope.Workspaces) == 0:
		return false
	}
	return !slices.ContainsFunc(k.Scope.Workspaces, func(w events.WorkspaceID) bool {
		return !slices.Contains(bounds.Workspaces, w)
	})
}

// Filter says which keys are wanted. Its zero value wants those of no
// organization that lie nowhere.
type Filter struct {
	Org events.OrgID
	// Within bounds what the asker may see, see [Key.Within].
	Within events.Scope
	// Status is one status, StatusAny for all, or empty for all but REVOKED.
	Status events.Status
	// Workspace wants keys that may be used in it: those that list it and those
	// of all workspaces.
	Workspace events.WorkspaceID
	// Query wants keys with this text in name, prefix, last four, id or
	// external id; ASCII letters match in either case. Sealed texts are not
	// searched.
	Query string
	// UnusedSince wants keys that existed then and of which no use is known
	// since.
	UnusedSince events.Time
	// ExternalID wants keys of exactly this external id.
	ExternalID string
	// Kind wants keys of a kind.
	Kind events.KeyKind
	// RotationDue wants keys whose RotationDueAt has come.
	RotationDue bool
	// Metadata wants keys that have each of these members. Sealed values are not
	// searched.
	Metadata []Labelled
	Page
}

// StatusAny is the status of a filter that wants every key.
const StatusAny events.Status = "all"

// maxQuery bounds a searched text: the longest text it could be found in.
const maxQuery = max(events.MaxNameLength, events.MaxExternalIDLength)

// list names the list that a filter makes.
func (f Filter) list() sqlview.List {
	parts := []string{
		"keys", string(f.Org), string(f.Status), string(f.Workspace), f.Query, strconv.FormatInt(int64(f.UnusedSince), 10),
		f.ExternalID, string(f.Kind), strconv.FormatBool(f.Within.AllWorkspaces),
	}
	if f.RotationDue {
		parts = append(parts, "rotation_due")
	}
	for _, l := range f.labels() {
		// No workspace is called so, and none follows a name without its value.
		parts = append(parts, "metadata:", l.Name, l.Value)
	}
	for _, w := range f.Within.Workspaces {
		parts = append(parts, string(w))
	}
	return sqlview.ListOf(parts...)
}

const (
	// statusSQL is Key.StatusAt; its parameter is the time.
	statusSQL = `CASE
		WHEN coalesce(r.revoked_at, e.revoked_at) IS NOT NULL THEN 'REVOKED'
		WHEN k.expired_at <> 0 OR (k.expires_at <> 0 AND k.expires_at <= ?1) OR (k.grace_ends_at <> 0 AND k.grace_ends_at <= ?1) THEN 'EXPIRED'
		WHEN k.disabled THEN 'INACTIVE'
		ELSE 'ACTIVE' END`

	// fromKey joins a key with its revocation, its organization's end and its
	// last use.
	fromKey = ` FROM key k
		LEFT JOIN revocation r ON r.org = k.org AND r.id = k.id
		LEFT JOIN revocation e ON e.org = k.org AND e.id = '` + events.RevokedAll + `'
		LEFT JOIN usage.last_used u ON u.org = k.org AND u.key = k.id `

	// endFirst is when the organization ended before the key was revoked, which
	// then only followed.
	endFirst = `CASE WHEN e.position < r.position THEN `

	keyColumns = `SELECT k.org, k.id, k.kind, k.role, k.name, k.name_sealed, k.prefix, k.last_four, k.level, k.grants, k.all_workspaces,
		k.workspaces, k.profile, k.external_id, k.external_id_sealed, k.metadata, k.data_subject, k.created_at, k.created_by, k.rotated_from, k.rotated_to,
		` + statusSQL + `, k.disabled, k.expires_at, k.expired_at, k.grace_ends_at, k.rotation_due_at, k.imported,
		` + endFirst + `e.revoked_at ELSE coalesce(r.revoked_at, e.revoked_at, 0) END,
		` + endFirst + `e.revoked_by ELSE coalesce(r.revoked_by, e.revoked_by, '') END,
		` + endFirst + `e.reason ELSE coalesce(r.reason, e.reason, '') END,
		` + endFirst + `e.reason_sealed ELSE coalesce(r.reason_sealed, e.reason_sealed, '') END, coalesce(u.at, 0), k.revision + coalesce(r.revision, 0),
		max(k.position, coalesce(r.position, 0), coalesce(e.position, 0)), k.created_position` + fromKey
)

func scanKey(row sqlview.Scanner) (Key, error) {
	var k Key
	var name, external, reason sqlview.Text
	var id, grants, workspaces, metadata, createdBy, rotatedFrom, rotatedTo, revokedBy string
	err := row.Scan(&k.Org, &id, &k.Kind, &k.Role, &name.Clear, &name.Sealed, &k.Prefix, &k.LastFour, &k.Permissions.Level, &grants,
		&k.Scope.AllWorkspaces, &workspaces, &k.Profile, &external.Clear, &external.Sealed, &metadata, &k.DataSubject, &k.CreatedAt, &createdBy,
		&rotatedFrom, &rotatedTo, &k.Status, &k.Disabled, &k.ExpiresAt, &k.ExpiredAt, &k.GraceEndsAt, &k.RotationDueAt, &k.Imported,
		&k.RevokedAt, &revokedBy, &reason.Clear, &reason.Sealed, &k.LastUsedAt, &k.Revision, &k.Position, &k.created)
	if err != nil {
		return k, err
	}
	if k.Status == events.StatusExpired {
		// It may not be recorded yet.
		k.RotationDueAt = 0
	}
	var errs [11]error
	k.ID, errs[0] = events.ParseKeyID(id)
	k.DataSubject = cmp.Or(k.DataSubject, events.DataSubject(id))
	k.Name, errs[1] = name.Text()
	k.Permissions.Grants, errs[2] = decodeList[string](grants)
	k.Scope.Workspaces, errs[3] = decodeList[events.WorkspaceID](workspaces)
	k.ExternalID, errs[4] = external.Text()
	k.Metadata, errs[5] = decodeMetadata(metadata)
	k.CreatedBy, errs[6] = decodeActor(createdBy)
	k.RotatedFrom, errs[7] = decodeKeyID(rotatedFrom)
	k.RotatedTo, errs[8] = decodeKeyID(rotatedTo)
	k.RevokedBy, errs[9] = decodeActor(revokedBy)
	k.RevocationReason, errs[10] = reason.Text()
	return k, errors.Join(errs[:]...)
}

// Key returns a key with its status at an instant, whatever the status is.
func (c *Catalog) Key(ctx context.Context, org events.OrgID, id events.KeyID, now events.Time) (Key, error) {
	return one(scanKey, c.db.QueryRow(ctx, keyColumns+`WHERE k.org = ?2 AND k.id = ?3`, int64(now), string(org), id.String()))
}

// Keys lists keys from the newest on, and returns the cursor of the next page.
// A list that is read page by page is complete and repeats nothing, as far as
// keys keep matching; keys created meanwhile are not in it.
func (c *Catalog) Keys(ctx context.Context, f Filter, now events.Time) ([]Key, string, error) {
	if len(f.Query) > maxQuery {
		return nil, "", nil
	}
	query, args, err := f.query(now)
	if err != nil {
		return nil, "", err
	}
	found, err := sqlview.All(ctx, c.db, scanKey, query, args...)
	if err != nil {
		return nil, "", err
	}
	found, next := sqlview.Cut(f.list(), f.Page, found, func(k Key) events.Position { return k.created })
	return found, next, nil
}

// query writes the filter as SQL.
func (f Filter) query(now events.Time) (string, []any, error) {
	before, err := f.list().Before(f.Cursor)
	if err != nil {
		return "", nil, err
	}
	var w sqlview.Where
	w.Bind(int64(now)) // ?1
	w.AndBind(`k.org = `, string(f.Org))
	w.AndBind(`k.created_position < `, before)
	if err := f.conditions(&w); err != nil {
		return "", nil, err
	}
	columns, order := keyColumns, `k`
	switch {
	case len(f.Metadata) > 0:
		columns, order = strings.Replace(keyColumns, ` FROM key k`, fromLabelled, 1), `m`
		labelled(&w, f, before)
	case f.RotationDue:
		// Left to itself SQLite takes an index that does not leave out by itself
		// those whose time is to come, which most are.
		columns = strings.Replace(keyColumns, ` FROM key k`, ` FROM key k INDEXED BY key_rotation`, 1)
	}
	query := columns + w.String() + ` ORDER BY ` + order + `.created_position DESC LIMIT ` + w.Bind(f.Rows()+1)
	return query, w.Args(), nil
}

func (f Filter) conditions(w *sqlview.Where) error {
	switch f.Status {
	case StatusAny:
	case "":
		w.And(`k.revoked = 0 AND e.org IS NULL`)
	case events.StatusRevoked:
		w.And(`(k.revoked = 1 OR e.org IS NOT NULL)`)
	default:
		w.And(`k.revoked = 0`)
		w.AndBind(statusSQL+` = `, string(f.Status))
	}
	if f.Workspace != "" {
		w.And(`(k.all_workspaces OR instr(k.workspaces, ` + w.Bind(`"`+string(f.Workspace)+`"`) + `))`)
	}
	if !f.Within.AllWorkspaces {
		bounds, err := encodeList(f.Within.Workspaces)
		if err != nil {
			return err
		}
		w.And(`k.all_workspaces = 0 AND k.workspaces <> '[]' AND NOT EXISTS (SELECT 1 FROM json_each(k.workspaces) s
			WHERE s.value NOT IN (SELECT b.value FROM json_each(` + w.Bind(bounds) + `) b))`)
	}
	if f.Query != "" {
		w.AndContains(f.Query, `k.name`, `k.prefix`, `k.last_four`, `k.id`, `k.external_id`)
	}
	if f.UnusedSince != 0 {
		p := w.Bind(int64(f.UnusedSince))
		w.And(`k.created_at < ` + p + ` AND coalesce(u.at, 0) < ` + p)
	}
	if f.ExternalID != "" {
		w.AndBind(`k.external_id = `, f.ExternalID)
	}
	if f.RotationDue {
		w.And(`k.rotation_due_at <> 0 AND k.rotation_due_at <= ?1 AND ` + livingSQL)
	}
	if f.Kind != "" {
		w.AndBind(`k.kind = `, string(f.Kind))
	}
	return nil
}

// livingSQL are the keys that are ACTIVE or INACTIVE; ?1 is the time.
const livingSQL = `k.revoked = 0 AND ` + statusSQL + ` IN ('ACTIVE', 'INACTIVE')`

// Holders returns who holds a place under the organization's limit at an
// instant, in order of arrival: customers' keys that are ACTIVE or INACTIVE,
// but for rotated ones in their grace.
func (c *Catalog) Holders(ctx context.Context, org events.OrgID, now events.Time) ([]events.KeyID, error) {
	return sqlview.All(ctx, c.db, scanKeyID, `SELECT k.id`+fromKey+`WHERE k.org = ?2 AND k.kind = '`+string(events.KindAPI)+
		`' AND k.rotated_to = '' AND `+livingSQL+` ORDER BY k.created_position`, int64(now), string(org))
}

func scanKeyID(row sqlview.Scanner) (events.KeyID, error) {
	var id string
	if err := row.Scan(&id); err != nil {
		return events.KeyID{}, err
	}
	return events.ParseKeyID(id)
}

// Users tells which living keys use something.
type Users struct {
	Count int
	// First are the ids of the newest, a few.
	First []events.KeyID
}

// firstUsers is how many ids a refusal can name before it gets unreadable.
const firstUsers = 10

// KeysUsingProfile tells which keys that are ACTIVE or INACTIVE have a profile.
func (c *Catalog) KeysUsingProfile(ctx context.Context, org events.OrgID, id events.ProfileID, now events.Time) (Users, error) {
	return c.users(ctx, org, now, hasProfile, string(id))
}

// KeysWithProfile returns all keys that are ACTIVE or INACTIVE and have a
// profile, from the newest on.
func (c *Catalog) KeysWithProfile(ctx context.Context, org events.OrgID, id events.ProfileID, now events.Time) ([]events.KeyID, error) {
	return c.using(ctx, org, now, hasProfile, string(id))
}

// hasProfile is the condition on a key with the profile of ?3.
const hasProfile = `k.profile <> '' AND k.profile = ?3`

// KeysUsingWorkspace tells which keys that are ACTIVE or INACTIVE list a
// workspace in their scope.
func (c *Catalog) KeysUsingWorkspace(ctx context.Context, org events.OrgID, id events.WorkspaceID, now events.Time) (Users, error) {
	return c.users(ctx, org, now, `instr(k.workspaces, ?3)`, `"`+string(id)+`"`)
}

func (c *Catalog) users(ctx context.Context, org events.OrgID, now events.Time, condition, arg string) (Users, error) {
	ids, err := c.using(ctx, org, now, condition, arg)
	return Users{Count: len(ids), First: ids[:min(len(ids), firstUsers)]}, err
}

func (c *Catalog) using(ctx context.Context, org events.OrgID, now events.Time, condition, arg string) ([]events.KeyID, error) {
	return sqlview.All(ctx, c.db, scanKeyID, `SELECT k.id`+fromKey+`WHERE k.org = ?2 AND `+condition+` AND `+livingSQL+
		` ORDER BY k.created_position DESC`, int64(now), string(org), arg)
}
