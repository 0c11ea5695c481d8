package reports

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/keyledger/keyledger/domain/permission"
	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/catalog"
)

// permissions compare what keys may do with what they did.
type permissions struct {
	entries []events.CatalogPermission
	// used are the permissions that VALID uses of keys asked for, of the keys that
	// are looked at right now.
	used map[events.KeyID]map[string]struct{}
}

// permissions reads the organization's permission catalog.
func (v *reading) permissions(ctx context.Context) (*permissions, error) {
	var text string
	err := v.tx.QueryRowContext(ctx, `SELECT permissions FROM main.permissions WHERE org = ?`, string(v.q.Org)).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return &permissions{}, nil
	}
	p := &permissions{}
	if err == nil {
		err = json.Unmarshal([]byte(text), &p.entries)
	}
	if err != nil {
		return nil, fmt.Errorf("reports: permission catalog: %w", err)
	}
	return p, nil
}

// load reads what keys asked for within the days of the question.
func (p *permissions) load(ctx context.Context, v *reading, list []catalog.Key) error {
	ids, err := idsOf(list)
	if err != nil {
		return fmt.Errorf("reports: %w", err)
	}
	rows, err := v.tx.QueryContext(ctx, permissionsUsed, string(v.q.Org), ids, int64(wholeHour(v.q.since())))
	if err != nil {
		return fmt.Errorf("reports: permissions used: %w", err)
	}
	defer rows.Close()
	p.used = make(map[events.KeyID]map[string]struct{}, len(list))
	for rows.Next() {
		var key, name string
		if err := rows.Scan(&key, &name); err != nil {
			return fmt.Errorf("reports: permissions used: %w", err)
		}
		id, err := events.ParseKeyID(key)
		if err != nil {
			return fmt.Errorf("reports: permissions used: %w", err)
		}
		if p.used[id] == nil {
			p.used[id] = map[string]struct{}{}
		}
		p.used[id][name] = struct{}{}
	}
	return rows.Err()
}

// of tells how many permissions of the catalog a key has, and which of them were
// used and which were not, in the catalog's order.
func (p *permissions) of(k *catalog.Key) (granted int, used, unused []string) {
	grants := make([]permission.Grant, len(k.Permissions.Grants))
	for i, g := range k.Permissions.Grants {
		grants[i] = permission.Grant(g)
	}
	for _, e := range p.entries {
		if !permission.Allowed(permission.Level(k.Permissions.Level), grants, permission.Name(e.Name), permission.Access(e.Access)) {
			continue
		}
		granted++
		if p.asked(k.ID, permission.Name(e.Name)) {
			used = append(used, e.Name)
		} else {
			unused = append(unused, e.Name)
		}
	}
	return granted, used, unused
}

// asked reports whether a key asked for a permission, by its name or with all of its
// resource.
func (p *permissions) asked(key events.KeyID, name permission.Name) bool {
	_, one := p.used[key][string(name)]
	_, all := p.used[key][name.Resource()+":*"]
	return one || all
}

// wholeHour is the beginning of an hour: by hours the usage view knows when a
// permission was asked for last.
func wholeHour(t events.Time) events.Time { return t - t%(3600*1_000_000) }

// permissionsUsed are the permissions that keys' VALID uses asked for since an
// instant.
const permissionsUsed = `SELECT key, permission FROM usage.permission_use
	WHERE org = ?1 AND key IN (SELECT value FROM json_each(?2)) AND at >= ?3`
