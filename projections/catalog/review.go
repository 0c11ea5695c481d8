package catalog

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// Review says which of an organization's living keys are reviewed: those that are
// ACTIVE or INACTIVE. Its zero value wants those of no organization that lie
// nowhere.
type Review struct {
	Org events.OrgID
	// Within bounds what the asker may see, see [Key.Within].
	Within events.Scope
	// Kind wants keys of a kind.
	Kind events.KeyKind
	// NeverEnds wants keys that have neither an expiry nor a grace that ends.
	NeverEnds bool
	// CreatedUntil wants keys that existed then.
	CreatedUntil events.Time
	// UnusedSince wants keys that existed then and of which no VALID use is known
	// since.
	UnusedSince events.Time
}

// Living reads the keys of a review that come after a place, the oldest first, at
// most so many: all of them are read part by part, in memory that does not grow
// with them. It reads in a transaction over the catalog's file with the usage
// view's beside it as usage (see [sqlview.Join]).
func Living(ctx context.Context, tx *sql.Tx, r Review, now events.Time, after events.Position, most int) ([]Key, error) {
	var w sqlview.Where
	w.Bind(int64(now)) // ?1
	w.AndBind(`k.org = `, string(r.Org))
	w.AndBind(`k.created_position > `, int64(after))
	w.And(livingSQL)
	f := Filter{Status: StatusAny, Within: r.Within, Kind: r.Kind, UnusedSince: r.UnusedSince}
	if err := f.conditions(&w); err != nil {
		return nil, err
	}
	if r.NeverEnds {
		w.And(`k.expires_at = 0 AND k.grace_ends_at = 0`)
	}
	if r.CreatedUntil != 0 {
		w.AndBind(`k.created_at <= `, int64(r.CreatedUntil))
	}
	return keysOf(ctx, tx, keyColumns+w.String()+` ORDER BY k.created_position LIMIT `+w.Bind(most), w.Args()...)
}

// Some reads those of some keys that the catalog knows, whatever their status, in
// such a transaction.
func Some(ctx context.Context, tx *sql.Tx, org events.OrgID, ids []events.KeyID, now events.Time) ([]Key, error) {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
	}
	list, err := encodeList(texts)
	if err != nil {
		return nil, err
	}
	return keysOf(ctx, tx, keyColumns+`WHERE k.org = ?2 AND k.id IN (SELECT value FROM json_each(?3))`, int64(now), string(org), list)
}

func keysOf(ctx context.Context, tx *sql.Tx, query string, args ...any) ([]Key, error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	defer rows.Close()
	var out []Key
	for rows.Next() {
		k, err := scanKey(rows)
		if err != nil {
			return nil, fmt.Errorf("catalog: %w", err)
		}
		out = append(out, k)
	}
	return out, rows.Err()
}

// Place is where a key stands among all keys, by when they came.
func (k Key) Place() events.Position { return k.created }
