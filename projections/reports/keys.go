package reports

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/keyledger/keyledger/domain/keystring"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/catalog"
)

// ownerMember is the member of a key's metadata that says whose it is.
const ownerMember = "owner"

// keys reads the reports that have a row for a key.
func (v *reading) keys(ctx context.Context, after events.Position) error {
	review := catalog.Review{Org: v.q.Org, Within: v.q.Within}
	switch v.q.Report {
	case Dormant:
		review.UnusedSince = v.q.since()
	case NeverExpires:
		review.NeverEnds = true
	case RotationAge:
		review.CreatedUntil = v.q.since()
	case OverWide:
		review.Kind, review.CreatedUntil = events.KindAPI, v.q.since()
	default:
	}
	var granted *permissions
	if v.q.Report == OverWide {
		var err error
		if granted, err = v.permissions(ctx); err != nil {
			return err
		}
	}
	for {
		list, err := catalog.Living(ctx, v.tx, review, v.q.Now, after, v.bound.most())
		if err != nil || len(list) == 0 {
			return err
		}
		seen, err := v.lastSeen(ctx, list)
		if err != nil {
			return err
		}
		if granted != nil {
			if err := granted.load(ctx, v, list); err != nil {
				return err
			}
		}
		for i := range list {
			k := &list[i]
			// There is one key more, this one, behind a page that is full.
			if v.bound.full() {
				v.stop(after)
				return nil
			}
			row, err := v.keyRow(ctx, k, seen[k.ID], granted)
			if err != nil {
				return err
			}
			after = k.Place()
			found := 0
			if row != nil {
				found = 1
				if err := v.each(row); err != nil {
					return err
				}
			}
			v.bound.count(found)
		}
	}
}

// lastSeen is what the usage view tells of a key's last use and attempt.
type lastSeen struct {
	permission string
	at         events.Time
	code       events.Code
}

// idsOf writes the ids of keys as a list for json_each.
func idsOf(list []catalog.Key) (string, error) {
	ids := make([]events.KeyID, len(list))
	for i := range list {
		ids[i] = list[i].ID
	}
	b, err := json.Marshal(ids)
	return string(b), err
}

func (v *reading) lastSeen(ctx context.Context, list []catalog.Key) (map[events.KeyID]lastSeen, error) {
	ids, err := idsOf(list)
	if err != nil {
		return nil, fmt.Errorf("reports: %w", err)
	}
	rows, err := v.tx.QueryContext(ctx, `SELECT key, permission, seen_at, seen_code FROM usage.last_used
		WHERE org = ? AND key IN (SELECT value FROM json_each(?))`, string(v.q.Org), ids)
	if err != nil {
		return nil, fmt.Errorf("reports: last uses: %w", err)
	}
	defer rows.Close()
	out := make(map[events.KeyID]lastSeen, len(list))
	for rows.Next() {
		var key string
		var l lastSeen
		if err := rows.Scan(&key, &l.permission, &l.at, &l.code); err != nil {
			return nil, fmt.Errorf("reports: last uses: %w", err)
		}
		id, err := events.ParseKeyID(key)
		if err != nil {
			return nil, fmt.Errorf("reports: last uses: %w", err)
		}
		out[id] = l
	}
	return out, rows.Err()
}

// keyRow makes the row of a key, none when the report does not show it.
func (v *reading) keyRow(ctx context.Context, k *catalog.Key, seen lastSeen, granted *permissions) (Row, error) {
	now := v.q.Now
	createdByName, err := v.nameOf(ctx, k.CreatedBy)
	if err != nil {
		return nil, err
	}
	owner := k.Metadata[ownerMember]
	masked := keystring.Masked(k.Prefix, k.LastFour)
	lastCode := ""
	if seen.at != 0 {
		lastCode = seen.code.String()
	}
	common := Row{k.ID.String(), k.Name, string(k.Kind), string(k.Role), masked, owner, k.CreatedBy.String(), createdByName, string(k.Status)}
	age := daysBetween(k.CreatedAt, now)
	switch v.q.Report {
	case AccessReview:
		return append(common, string(k.Permissions.Level), k.Permissions.Grants, workspacesOf(k.Scope), string(k.Profile),
			k.CreatedAt, age, k.EndsAt(), k.LastUsedAt, seen.permission, k.RotationDueAt, k.ExternalID, mayResolve(k)), nil
	case Dormant:
		return append(common, string(k.Permissions.Level), workspacesOf(k.Scope), k.CreatedAt, k.LastUsedAt,
			daysBetween(max(k.LastUsedAt, k.CreatedAt), now), seen.at, lastCode, k.EndsAt()), nil
	case NeverExpires:
		return append(common, string(k.Permissions.Level), k.Permissions.Grants, workspacesOf(k.Scope), k.CreatedAt, age,
			k.LastUsedAt, k.RotationDueAt), nil
	case RotationAge:
		overdue := int64(0)
		if k.RotationDueAt != 0 {
			overdue = daysBetween(k.RotationDueAt, now)
		}
		return append(common, k.CreatedAt, age, k.Imported, keyText(k.RotatedFrom), keyText(k.RotatedTo), k.RotationDueAt, overdue,
			k.EndsAt(), k.LastUsedAt), nil
	default:
		all, used, unused := granted.of(k)
		if len(unused) == 0 {
			return nil, nil
		}
		return Row{
			k.ID.String(), k.Name, masked, owner, k.CreatedBy.String(), createdByName, string(k.Status), string(k.Permissions.Level),
			k.Permissions.Grants, workspacesOf(k.Scope), k.CreatedAt, k.LastUsedAt, int64(all), used, unused,
		}, nil
	}
}

// mayResolve reports whether provider keys are handed out to a key.
func mayResolve(k *catalog.Key) bool {
	return k.Kind == events.KindManagement && (k.Role == events.RoleResolver || k.Role == events.RoleOwner) && k.Scope.AllWorkspaces
}

// allWorkspaces stands for all of them, as in the scope of an actor.
const allWorkspaces = "*"

func workspacesOf(s events.Scope) []string {
	if s.AllWorkspaces {
		return []string{allWorkspaces}
	}
	out := make([]string, len(s.Workspaces))
	for i, w := range s.Workspaces {
		out[i] = string(w)
	}
	return out
}

func keyText(id events.KeyID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}
