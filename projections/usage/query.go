package usage

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/events/uses"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// LastUse is what is known of a key's last use.
type LastUse struct {
	Key events.KeyID
	// At is the time of the last VALID use, zero if there was none, and
	// Permission and Workspace what it asked for.
	At         events.Time
	Permission string
	Workspace  string
	// SeenAt is the time of the last attempt, and SeenCode its verdict.
	SeenAt   events.Time
	SeenCode events.Code
}

// LastUsed returns the last uses of those of the keys that were ever seen.
func (v *View) LastUsed(ctx context.Context, org events.OrgID, keys []events.KeyID) (map[events.KeyID]LastUse, error) {
	list, err := json.Marshal(keys)
	if err != nil {
		return nil, fmt.Errorf("usage: last used: %w", err)
	}
	rows, err := v.db.Query(ctx, `SELECT key, ifnull(at, 0), permission, workspace, seen_at, seen_code
		FROM last_used WHERE org = ? AND key IN (SELECT value FROM json_each(?))`, string(org), string(list))
	if err != nil {
		return nil, fmt.Errorf("usage: last used: %w", err)
	}
	defer rows.Close()
	found := make(map[events.KeyID]LastUse, len(keys))
	for rows.Next() {
		var key string
		var l LastUse
		if err := rows.Scan(&key, &l.At, &l.Permission, &l.Workspace, &l.SeenAt, &l.SeenCode); err != nil {
			return nil, fmt.Errorf("usage: last used: %w", err)
		}
		if l.Key, err = events.ParseKeyID(key); err != nil {
			return nil, fmt.Errorf("usage: last used: %w", err)
		}
		found[l.Key] = l
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("usage: last used: %w", err)
	}
	return found, nil
}

// Finding is a finding and the position of the block it was found at.
type Finding struct {
	Position events.Position
	uses.Finding
	// Explained says that retention dropped what was not there to be read, after its
	// uses were counted.
	Explained bool
}

// Findings returns what was found after a position, in order, at no more than
// limit positions. Boots without an end are not among them: see Unended.
func (v *View) Findings(ctx context.Context, after events.Position, limit int) ([]Finding, error) {
	rows, err := v.db.Query(ctx, `SELECT position, kind, verifier, boot, org, first, last, count, from_at, to_at
		FROM findings WHERE position IN (SELECT DISTINCT position FROM findings WHERE position > ? ORDER BY position LIMIT ?)
		ORDER BY position, n`, int64(after), limit)
	if err != nil {
		return nil, fmt.Errorf("usage: findings: %w", err)
	}
	defer rows.Close()
	var list []Finding
	for rows.Next() {
		var f Finding
		var boot string
		err := rows.Scan(&f.Position, &f.Kind, &f.Verifier, &boot, &f.Org, &f.First, &f.Last, &f.Count, &f.From, &f.To)
		if err == nil {
			f.Boot, err = bootID(boot)
		}
		if err != nil {
			return nil, fmt.Errorf("usage: findings: %w", err)
		}
		list = append(list, f)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("usage: findings: %w", err)
	}
	return list, nil
}

// Unended returns a finding for every boot that has no end mark, oldest first.
// Those that are not superseded may well be running.
func (v *View) Unended(ctx context.Context) ([]uses.Finding, error) {
	rows, err := v.db.Query(ctx, `SELECT verifier, boot, bound, began, seen, superseded FROM unended ORDER BY began, verifier, boot`)
	if err != nil {
		return nil, fmt.Errorf("usage: unended boots: %w", err)
	}
	defer rows.Close()
	var list []uses.Finding
	for rows.Next() {
		f := uses.Finding{Kind: uses.FindingUnended, Org: events.System}
		var boot string
		err := rows.Scan(&f.Verifier, &boot, &f.Count, &f.From, &f.To, &f.Superseded)
		if err == nil {
			f.Boot, err = bootID(boot)
		}
		if err != nil {
			return nil, fmt.Errorf("usage: unended boots: %w", err)
		}
		list = append(list, f)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("usage: unended boots: %w", err)
	}
	return list, nil
}

// FindingFilter says which findings are wanted.
type FindingFilter struct {
	// Org wants those that may concern an organization: its own, positions that were
	// missing, and what is missing, or has no end, of verifiers that ever recorded a
	// use of it, since what a boot lost tells nobody whose it was. All are wanted
	// unless it is set.
	Org events.OrgID
	sqlview.Page
}

// Incomplete lists what an auditor must hear of, with boots that have no end mark
// among it, in the order of the stream, and returns the cursor of the next page. A
// boot stands where its first block does.
func (v *View) Incomplete(ctx context.Context, f FindingFilter) ([]Finding, string, error) {
	list := sqlview.ListOf("findings", string(f.Org))
	var after place
	if f.Cursor != "" {
		var err error
		if after, err = placeOf(list, f.Cursor); err != nil {
			return nil, "", err
		}
	}
	var places []place
	found, err := sqlview.All(ctx, v.db, func(row sqlview.Scanner) (Finding, error) {
		var f Finding
		var p place
		var boot string
		err := row.Scan(&f.Position, &p.n, &f.Kind, &f.Verifier, &boot, &f.Org, &f.First, &f.Last, &f.Count, &f.From, &f.To, &f.Superseded, &f.Explained)
		if err != nil {
			return f, err
		}
		p.position = f.Position
		places = append(places, p)
		f.Boot, err = bootID(boot)
		return f, err
	}, `SELECT position, n, kind, verifier, boot, org, first, last, count, from_at, to_at, 0,
			kind = 'gap' AND last <= ifnull((SELECT through FROM dropped WHERE org = ''), 0) FROM findings
			WHERE (position, n) > (?2, ?3) AND (?1 IN ('', org) OR org = '_system' AND (kind = 'gap' OR
				kind IN ('total', 'unmarked') AND verifier IN (SELECT verifier FROM served WHERE org = ?1)))
		UNION ALL SELECT b.place, 0, 'unended', b.verifier, b.boot, '_system', 0, 0, b.bound, b.began, b.seen, u.superseded, 0
			FROM boots AS b JOIN unended AS u USING (verifier, boot)
			WHERE b.place > ?2 AND (?1 IN ('', '_system') OR b.verifier IN (SELECT verifier FROM served WHERE org = ?1))
		ORDER BY 1, 2 LIMIT ?4`, string(f.Org), int64(after.position), int64(after.n), f.Rows()+1)
	if err != nil {
		return nil, "", fmt.Errorf("usage: findings: %w", err)
	}
	if n := f.Rows(); len(found) > n {
		return found[:n], places[n-1].cursor(list), nil
	}
	return found, "", nil
}

func bootID(text string) (uses.BootID, error) {
	if text == "" {
		return uses.BootID{}, nil
	}
	id, err := uuid.Parse(text)
	return uses.BootID(id), err
}
