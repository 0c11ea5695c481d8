package usage

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/keyledger/keyledger/events"
	"github.com/keyledger/keyledger/projections/sqlview"
)

// Dropped says what retention has dropped.
type Dropped struct {
	// Before are the times before which an organization's single uses, and its
	// counts by minute, are not told any more.
	Before map[events.OrgID]events.Time
	// Through is the position up to which the stream of uses has no blocks any more.
	Through events.Position
}

// Drop forgets what retention has dropped, in one transaction. Counts by hour and
// day, last uses, sources and findings stay. It may be called beside Apply, and
// again; what it names and the file does not have is passed over. An organization
// of which no use is known yet is one of those: drop again when there is.
func (v *View) Drop(ctx context.Context, d Dropped) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.load(ctx); err != nil {
		return err
	}
	err := v.db.Update(ctx, v.at, v.at, func(tx *sqlview.Tx) error {
		for _, org := range slices.Sorted(maps.Keys(d.Before)) {
			if err := v.drop(tx, org, d.Before[org]); err != nil {
				return err
			}
		}
		return dropThrough(tx, min(d.Through, v.at))
	})
	// The rows of keys have changed under what is remembered of them.
	v.seen = nil
	if err != nil {
		return fmt.Errorf("usage: drop: %w", err)
	}
	return nil
}

func (v *View) drop(tx *sqlview.Tx, org events.OrgID, before events.Time) error {
	no, ok := v.known.orgs[org]
	if !ok {
		return nil
	}
	// The minute that it lies in stays; its uses are told from then on.
	whole := int64(before / minute)
	for _, change := range []struct {
		query string
		args  []any
	}{
		{`UPDATE orgs SET dropped_before = max(dropped_before, ?) WHERE no = ?`, []any{int64(before), no}},
		{`DELETE FROM org_blocks WHERE no = ? AND minute < ?`, []any{no, whole}},
		{`DELETE FROM org_minutes WHERE no = ? AND minute < ?`, []any{no, whole}},
		{`DELETE FROM key_blocks WHERE no IN (SELECT no FROM last_used WHERE org = ?) AND minute < ?`, []any{string(org), whole}},
		{`UPDATE last_used SET bits = 0, count = 0 WHERE org = ? AND minute < ? AND count > 0`, []any{string(org), whole}},
	} {
		if _, err := tx.Exec(change.query, change.args...); err != nil {
			return err
		}
	}
	return nil
}

// dropThrough forgets blocks. What named them is dropped with the organizations'
// minutes, or passed over when they are not found.
func dropThrough(tx *sqlview.Tx, through events.Position) error {
	_, err := tx.Exec(`DELETE FROM blocks WHERE position <= ?`, int64(through))
	return err
}

// DroppedBefore is the time before which an organization's single uses are not told
// any more, 0 when all are.
func (v *View) DroppedBefore(ctx context.Context, org events.OrgID) (events.Time, error) {
	found, err := sqlview.All(ctx, v.db, func(row sqlview.Scanner) (at events.Time, err error) { return at, row.Scan(&at) },
		`SELECT dropped_before FROM orgs WHERE org = ?`, string(org))
	if err != nil || len(found) == 0 {
		return 0, err
	}
	return found[0], nil
}
